//! `reconcile`: whether the books add up, and what differs.
//!
//! Invariant: what must be the same and is not is never shown with the exit code of success.

use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use serde::Serialize;

use super::text;
use crate::config::Config;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::reconcile::Reconciled;
use crate::store::reconcile_chains::ChainDifference;
use crate::store::reconcile_chains::ChainsReconciled;

#[derive(Debug, Subcommand)]
pub(super) enum ReconcileCommand {
    /// Compare all figures that are kept twice, and the books with agents' chains; keep the report.
    Run,
    /// Show the last report.
    Show,
}

/// The whole answer.
#[derive(Serialize)]
struct Answer<'a> {
    /// The books against themselves; none where nobody has asked yet.
    books: Option<&'a Reconciled>,
    /// The books against agents' chains.
    chains: Option<&'a ChainsReconciled>,
}

pub(super) async fn run(output: Output, config: &Config, command: ReconcileCommand) -> anyhow::Result<()> {
    let registry = super::open(config).await?;
    let compared = match command {
        ReconcileCommand::Run => reconcile(&registry.store).await,
        ReconcileCommand::Show => last(&registry.store).await,
    };
    registry.store.close().await;
    let (reconciled, chains) = compared.map_err(super::failure)?;
    let answer = Answer { books: reconciled.as_ref(), chains: chains.as_ref() };
    output.emit("reconcile", &answer, || {
        let chains = chains.as_ref().map(|chains| format!("\n\n{}", chains_to_text(chains)));
        to_text(reconciled.as_ref()) + &chains.unwrap_or_default()
    })?;
    if let Some(ChainsReconciled { broken: 1.., findings, .. }) = &chains {
        let broken = findings.iter().find(|finding| finding.what == ChainDifference::Broken);
        let detail = broken.map(|finding| format!("{}: {}", finding.what.words(), finding.which));
        return Err(Failure::new(ErrorCode::BooksDiffer, detail.unwrap_or_default()).into());
    }
    match reconciled {
        Some(Reconciled { found: 1.., findings, .. }) => {
            let first = findings.first().map(ToString::to_string).unwrap_or_default();
            Err(Failure::new(ErrorCode::BooksDiffer, first).into())
        }
        Some(_) | None => Ok(()),
    }
}

type Compared = (Option<Reconciled>, Option<ChainsReconciled>);

async fn reconcile(store: &Store) -> Result<Compared, StoreError> {
    let reconciled = store.reconcile(unix_ms_now()).await?;
    store.put_reconciled(&reconciled).await?;
    let chains = store.reconcile_chains(unix_ms_now()).await?;
    store.put_reconciled_chains(&chains).await?;
    Ok((Some(reconciled), Some(chains)))
}

async fn last(store: &Store) -> Result<Compared, StoreError> {
    Ok((store.reconciled().await?, store.reconciled_chains().await?))
}

fn chains_to_text(chains: &ChainsReconciled) -> String {
    let ChainsReconciled { leaves, credited, waiting, missing, extra, differing, broken, findings, .. } = chains;
    let count = chains.chains;
    let head = format!(
        "{count} chains with {leaves} leaves: {credited} attempts credited, {waiting} wait; {missing} missing, \
         {extra} extra, {differing} differing, {broken} broken"
    );
    if findings.is_empty() {
        return head;
    }
    let figure = |nano_usd: Option<i64>| nano_usd.map_or_else(|| "-".to_owned(), |amount| amount.to_string());
    let rows = findings.iter().map(|finding| {
        vec![
            finding.what.words().to_owned(),
            finding.which.clone(),
            finding.agent.map_or_else(|| "-".to_owned(), |agent| agent.to_string()),
            finding.class.clone(),
            figure(finding.hub_nano_usd),
            figure(finding.agent_nano_usd),
        ]
    });
    let heads = ["DIFFERENCE", "WHERE", "AGENT", "CLASS", "HUB nUSD", "AGENT nUSD"];
    format!("{head}\n{}", table(&heads, rows.collect()))
}

fn to_text(reconciled: Option<&Reconciled>) -> String {
    let Some(reconciled) = reconciled else {
        return "nothing was compared yet; `keyhaven-hub reconcile run` does it".to_owned();
    };
    let Reconciled { batch, entries, postings, calls, found, findings, .. } = reconciled;
    let at = text::time(reconciled.at_unix_ms);
    let head = format!("{at}, up to batch {batch}: {calls} calls, {entries} entries, {postings} postings");
    if *found == 0 {
        return format!("{head}\nthe books add up");
    }
    let rows = findings.iter().map(|finding| {
        let figures = [finding.expected_nano_usd, finding.found_nano_usd].map(|amount| amount.to_string());
        let [expected, kept] = figures;
        vec![finding.what.words().to_owned(), finding.which.clone(), expected, kept]
    });
    let shown = table(&["DIFFERENCE", "WHERE", "EXPECTED nUSD", "FOUND nUSD"], rows.collect());
    format!("{head}\n{found} differences\n{shown}")
}
