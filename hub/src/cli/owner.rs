//! `owner`: what owners earned, and what they are paid.
//!
//! Invariant: amounts in lists for other programs are whole nano-dollars.

use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::id::PayoutId;
use keyhaven_protocol::money::NanoUsd;
use serde::Serialize;

use super::agent;
use super::confirm::Consent;
use super::text;
use crate::config::Config;
use crate::registry::Registry;
use crate::settlement::pay_out;
use crate::store::StoreError;
use crate::store::ledger::Side;
use crate::store::payouts::PayoutRow;

/// An hour, in milliseconds.
const HOUR_MS: u64 = 60 * 60 * 1000;

#[derive(Debug, Subcommand)]
pub(super) enum OwnerCommand {
    /// Show what an agent's owner earned, gave back and was paid.
    Statement {
        /// The agent's name or id.
        #[arg(long)]
        agent: String,
        /// One line for each movement, separated by commas.
        #[arg(long)]
        csv: bool,
    },
    /// Make a batch of payouts of all that is due, and print it for whoever carries it out.
    Payout {
        /// What tells this batch from all others; the same one again prints the same batch.
        #[arg(long)]
        reference: String,
        /// One line for each owner, separated by commas.
        #[arg(long)]
        csv: bool,
        #[command(flatten)]
        consent: Consent,
    },
}

pub(super) async fn run(output: Output, config: &Config, command: OwnerCommand) -> anyhow::Result<()> {
    let registry = super::open(config).await?;
    let done = match command {
        OwnerCommand::Statement { agent, csv } => statement(output, &registry, &agent, csv).await,
        OwnerCommand::Payout { reference, csv, consent } => {
            let wait_ms = config.owners.payout_wait_h.saturating_mul(HOUR_MS);
            payout(output, &registry, &reference, wait_ms, csv, consent).await
        }
    };
    registry.store.close().await;
    done
}

async fn statement(output: Output, registry: &Registry, wanted: &str, csv: bool) -> anyhow::Result<()> {
    let agent = agent::find(registry, wanted).await?;
    let statement = gather(registry, agent.id, agent.name).await.map_err(super::failure)?;
    output.emit("owner-statement", &statement, || if csv { statement.to_csv() } else { statement.to_text() })?;
    Ok(())
}

async fn gather(registry: &Registry, agent: AgentId, name: String) -> Result<Statement, StoreError> {
    let store = &registry.store;
    let mut movements: Vec<Movement> = Vec::new();
    for credit in store.credits_to(agent).await? {
        movements.push(Movement {
            at_unix_ms: credit.at_unix_ms,
            what: "credit",
            call: Some(credit.call),
            attempt: Some(credit.attempt),
            reason: credit.reason.name().to_owned(),
            leaf: Some(credit.number),
            list_nano_usd: Some(credit.list),
            owner_nano_usd: credit.credit,
        });
    }
    for lowering in store.lowerings_by(agent).await? {
        movements.push(Movement {
            at_unix_ms: lowering.at_unix_ms,
            what: "lowering",
            call: Some(lowering.call),
            attempt: Some(lowering.attempt),
            reason: "lowered".to_owned(),
            leaf: Some(lowering.number),
            list_nano_usd: Some(lowering.list),
            owner_nano_usd: lowering.owner,
        });
    }
    for dispute in store.disputes(true).await?.into_iter().filter(|dispute| dispute.agent == agent) {
        let Some((outcome, at_unix_ms)) = dispute.ended.filter(|(outcome, _)| outcome == "owner") else { continue };
        movements.push(Movement {
            at_unix_ms,
            what: "resolution",
            call: Some(dispute.call),
            attempt: Some(dispute.attempt),
            reason: outcome,
            leaf: None,
            list_nano_usd: None,
            owner_nano_usd: dispute.amount,
        });
    }
    for payout in store.payouts_to(agent).await? {
        movements.push(Movement {
            at_unix_ms: payout.at_unix_ms,
            what: "payout",
            call: None,
            attempt: None,
            reason: payout.reference,
            leaf: None,
            list_nano_usd: None,
            owner_nano_usd: NanoUsd(payout.amount.0.saturating_neg()),
        });
    }
    movements.sort_by_key(|movement| movement.at_unix_ms);
    let balance_nano_usd = store.balance(Side::Owner(agent)).await?;
    Ok(Statement { agent_id: agent, agent_name: name, balance_nano_usd, movements })
}

async fn payout(
    output: Output,
    registry: &Registry,
    reference: &str,
    wait_ms: u64,
    csv: bool,
    consent: Consent,
) -> anyhow::Result<()> {
    let store = &registry.store;
    let told = |error: crate::settlement::PayoutError| Failure::new(error.code(), error.to_string());
    let planned = pay_out(store, reference, wait_ms, unix_ms_now(), false).await.map_err(told)?;
    let is_new = store.payouts_to(planned[0].agent).await.map_err(super::failure)?;
    let is_new = !is_new.iter().any(|row| row.reference == reference);
    let mut made = planned;
    if is_new && !consent.dry_run {
        let sum = NanoUsd(made.iter().fold(0, |sum: i64, row| sum.saturating_add(row.amount.0)));
        consent.ask(&format!("Book {sum} as paid to {} owners?", made.len()))?;
        made = pay_out(store, reference, wait_ms, unix_ms_now(), true).await.map_err(told)?;
    }
    let views: Vec<PayoutView<'_>> = made.iter().map(PayoutView::of).collect();
    output.emit("payouts", &views, || {
        let rows: Vec<Vec<String>> = views.iter().map(PayoutView::cells).collect();
        let heads = ["PAYOUT", "AGENT", "EPOCH", "LEAVES", "NANO_USD", "REFERENCE"];
        if csv { to_csv(&heads, &rows) } else { table(&heads, rows) }
    })?;
    Ok(())
}

#[derive(Serialize)]
struct Statement {
    agent_id: AgentId,
    agent_name: String,
    /// What the owner has now.
    balance_nano_usd: NanoUsd,
    movements: Vec<Movement>,
}

#[derive(Serialize)]
struct Movement {
    at_unix_ms: u64,
    what: &'static str,
    call: Option<CallId>,
    attempt: Option<u8>,
    reason: String,
    leaf: Option<u64>,
    list_nano_usd: Option<NanoUsd>,
    owner_nano_usd: NanoUsd,
}

#[derive(Serialize)]
struct PayoutView<'a> {
    payout: PayoutId,
    agent_id: AgentId,
    epoch: u32,
    leaves: u64,
    amount_nano_usd: NanoUsd,
    reference: &'a str,
    at_unix_ms: u64,
}

impl Statement {
    fn rows(&self) -> Vec<Vec<String>> {
        let rows = self.movements.iter().map(|movement| {
            vec![
                text::time(movement.at_unix_ms),
                movement.what.to_owned(),
                movement.call.map_or_else(String::new, |call| call.to_string()),
                movement.attempt.map_or_else(String::new, |attempt| attempt.to_string()),
                movement.reason.clone(),
                movement.leaf.map_or_else(String::new, |leaf| leaf.to_string()),
                movement.list_nano_usd.map_or_else(String::new, |list| list.0.to_string()),
                movement.owner_nano_usd.0.to_string(),
            ]
        });
        rows.collect()
    }

    fn to_csv(&self) -> String {
        to_csv(&["TIME", "WHAT", "CALL", "ATTEMPT", "REASON", "LEAF", "LIST_NANO_USD", "OWNER_NANO_USD"], &self.rows())
    }

    fn to_text(&self) -> String {
        let heads = ["TIME", "WHAT", "CALL", "ATTEMPT", "REASON", "LEAF", "LIST nUSD", "OWNER nUSD"];
        format!("{}\n\n{} has {}", table(&heads, self.rows()), self.agent_name, self.balance_nano_usd)
    }
}

impl<'a> PayoutView<'a> {
    fn of(row: &'a PayoutRow) -> Self {
        Self {
            payout: row.id,
            agent_id: row.agent,
            epoch: row.epoch,
            leaves: row.leaves,
            amount_nano_usd: row.amount,
            reference: &row.reference,
            at_unix_ms: row.at_unix_ms,
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.payout.to_string(),
            self.agent_id.to_string(),
            self.epoch.to_string(),
            self.leaves.to_string(),
            self.amount_nano_usd.0.to_string(),
            self.reference.to_owned(),
        ]
    }
}

/// Lines of cells, as RFC 4180 has them. A cell that a spreadsheet would take for a formula is
/// shown as text.
fn to_csv(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads: Vec<String> = heads.iter().map(|head| head.to_lowercase()).collect();
    let lines = std::iter::once(&heads)
        .chain(rows)
        .map(|cells| cells.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(","));
    lines.collect::<Vec<_>>().join("\r\n")
}

fn quoted(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '@', '\t']) || (cell.starts_with('-') && cell.parse::<i64>().is_err());
    let cell = if is_formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be_and_none_is_a_formula() {
        let rows =
            [vec!["a,b".to_owned(), "say \"x\"".to_owned(), "-5".to_owned(), "=1+1".to_owned(), "-x".to_owned()]];

        let csv = to_csv(&["ONE", "TWO"], &rows);

        assert_eq!(csv, "one,two\r\n\"a,b\",\"say \"\"x\"\"\",-5,'=1+1,'-x");
    }
}
