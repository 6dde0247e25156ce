//! `dispute`: what the two sides of a call do not agree on.
//!
//! Invariant: what is resolved here is on record with a reason, and never becomes the hub's.

use clap::Subcommand;
use clap::ValueEnum;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::settle::SUSPENSE_MS;
use serde::Serialize;

use super::confirm::Consent;
use super::text;
use crate::config::Config;
use crate::settlement::Winner;
use crate::settlement::resolve;
use crate::store::Store;
use crate::store::disputes::Dispute;

#[derive(Debug, Subcommand)]
pub(super) enum DisputeCommand {
    /// List amounts in suspense, and when they go back to the consumer.
    List {
        /// Those too that are over.
        #[arg(long)]
        all: bool,
    },
    /// Give what is disputed about a call to one of the two, now.
    Resolve {
        /// The call.
        call: CallId,
        /// Who gets it.
        #[arg(long)]
        to: To,
        /// Why; it is kept.
        #[arg(long)]
        note: String,
        #[command(flatten)]
        consent: Consent,
    },
}

/// Who gets what is disputed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum To {
    /// Who paid it.
    Consumer,
    /// The owner of the agent.
    Owner,
}

pub(super) async fn run(output: Output, config: &Config, command: DisputeCommand) -> anyhow::Result<()> {
    let registry = super::open(config).await?;
    let store = &registry.store;
    let done = match command {
        DisputeCommand::List { all } => list(output, store, all).await,
        DisputeCommand::Resolve { call, to, note, consent } => end(output, store, call, to, &note, consent).await,
    };
    registry.store.close().await;
    done
}

async fn list(output: Output, store: &Store, all: bool) -> anyhow::Result<()> {
    let disputes = store.disputes(all).await.map_err(super::failure)?;
    let views: Vec<DisputeView> = disputes.iter().map(DisputeView::of).collect();
    output.emit("disputes", &views, || {
        if views.is_empty() {
            return "nothing is disputed".to_owned();
        }
        let rows = views.iter().map(|view| {
            vec![
                view.call.to_string(),
                view.agent_id.to_string(),
                view.amount_nano_usd.to_string(),
                text::time(view.since_unix_ms),
                match &view.outcome {
                    Some(outcome) => format!("{outcome}, {}", text::maybe_time(view.ended_unix_ms)),
                    None => format!("goes back {}", text::time(view.returns_unix_ms)),
                },
            ]
        });
        table(&["CALL", "AGENT", "AMOUNT", "SINCE", "STATE"], rows.collect())
    })?;
    Ok(())
}

async fn end(output: Output, store: &Store, call: CallId, to: To, note: &str, consent: Consent) -> anyhow::Result<()> {
    let open = store.disputes(false).await.map_err(super::failure)?;
    let amount = open
        .iter()
        .filter(|dispute| dispute.call == call)
        .fold(0_i64, |sum, dispute| sum.saturating_add(dispute.amount.0));
    let (winner, name) = match to {
        To::Consumer => (Winner::Consumer, "consumer"),
        To::Owner => (Winner::Owner, "owner"),
    };
    let mut resolved = Resolved { call, to: name, amount_nano_usd: NanoUsd(amount), is_done: false };
    if amount > 0 && !consent.dry_run {
        consent.ask(&format!("Give {} to the {name}? It cannot be undone.", NanoUsd(amount)))?;
    }
    if !consent.dry_run {
        let done = resolve(store, call, winner, note, unix_ms_now()).await;
        resolved.amount_nano_usd = done.map_err(|error| Failure::new(error.code(), error.to_string()))?;
        resolved.is_done = true;
    }
    output.emit("dispute-resolved", &resolved, || {
        let verb = if resolved.is_done { "went" } else { "would go" };
        format!("{} {verb} to the {name} of {call}", resolved.amount_nano_usd)
    })?;
    Ok(())
}

#[derive(Serialize)]
struct DisputeView {
    call: CallId,
    attempt: u8,
    agent_id: AgentId,
    account_id: AccountId,
    amount_nano_usd: NanoUsd,
    since_unix_ms: u64,
    returns_unix_ms: u64,
    outcome: Option<String>,
    ended_unix_ms: Option<u64>,
}

#[derive(Serialize)]
struct Resolved {
    call: CallId,
    to: &'static str,
    amount_nano_usd: NanoUsd,
    is_done: bool,
}

impl DisputeView {
    fn of(dispute: &Dispute) -> Self {
        let (outcome, ended_unix_ms) = dispute.ended.clone().unzip();
        Self {
            call: dispute.call,
            attempt: dispute.attempt,
            agent_id: dispute.agent,
            account_id: dispute.account,
            amount_nano_usd: dispute.amount,
            since_unix_ms: dispute.since_unix_ms,
            returns_unix_ms: dispute.since_unix_ms.saturating_add(SUSPENSE_MS),
            outcome,
            ended_unix_ms,
        }
    }
}
