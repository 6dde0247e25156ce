//! `reconcile`: whether the books add up, and what differs.
//!
//! Invariant: a difference is never shown with the exit code of success.

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

#[derive(Debug, Subcommand)]
pub(super) enum ReconcileCommand {
    /// Compare all figures that are kept twice, and keep the report.
    Run,
    /// Show the last report.
    Show,
}

/// The whole answer.
#[derive(Serialize)]
struct Answer<'a> {
    /// The books against themselves; none where nobody has asked yet.
    books: Option<&'a Reconciled>,
}

pub(super) async fn run(output: Output, config: &Config, command: ReconcileCommand) -> anyhow::Result<()> {
    let registry = super::open(config).await?;
    let reconciled = match command {
        ReconcileCommand::Run => reconcile(&registry.store).await.map(Some),
        ReconcileCommand::Show => registry.store.reconciled().await,
    };
    registry.store.close().await;
    let reconciled = reconciled.map_err(super::failure)?;
    output.emit("reconcile", &Answer { books: reconciled.as_ref() }, || to_text(reconciled.as_ref()))?;
    match reconciled {
        Some(Reconciled { found: 1.., findings, .. }) => {
            let first = findings.first().map(ToString::to_string).unwrap_or_default();
            Err(Failure::new(ErrorCode::BooksDiffer, first).into())
        }
        Some(_) | None => Ok(()),
    }
}

async fn reconcile(store: &Store) -> Result<Reconciled, StoreError> {
    let reconciled = store.reconcile(unix_ms_now()).await?;
    store.put_reconciled(&reconciled).await?;
    Ok(reconciled)
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
