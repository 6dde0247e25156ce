//! What processes left behind that died: their calls end with what was last written of them,
//! and what they had leased goes back.
//!
//! Invariant: a process that lives, and was seen to, is never swept.

use std::time::Duration;

use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::settle::Settled;
use metrics::counter;
use tracing::error;
use tracing::info;

use super::Shared;
use super::record::CallOutcome;
use super::record::CallRecord;
use super::record::Metering;
use super::record::Sale;
use super::writer::post;
use crate::store::StoreError;
use crate::store::amnesia::Amnesia;
use crate::store::amnesia::AmnesiaCause;
use crate::store::leases::Boot;

/// A call is written down within moments of its first byte to an agent; before that it may wait for
/// an agent and for its own body.
const UNWRITTEN_MS_MAX: u64 = 60_000;

/// Calls that are ended in one batch.
const BATCH_CALLS_MAX: u32 = 256;

impl Shared {
    /// Ends the boots that gave no sign of life for so long.
    pub(super) async fn sweep(&self, dead: Duration) -> Result<(), StoreError> {
        let mine = *self.turn.lock().await;
        let unseen_since = unix_ms_now().saturating_sub(u64::try_from(dead.as_millis()).unwrap_or(u64::MAX));
        for boot in self.store.boots().await? {
            if boot.id != mine && boot.seen_unix_ms <= unseen_since {
                self.store.replay(|| self.sweep_boot(&boot, unseen_since)).await?;
            }
        }
        Ok(())
    }

    async fn sweep_boot(&self, boot: &Boot, unseen_since_unix_ms: u64) -> Result<(), StoreError> {
        let mut swept = 0;
        loop {
            let now_unix_ms = unix_ms_now();
            let mut batch = self.store.begin_batch(None, now_unix_ms).await?;
            let ended = batch.end_boot(boot.id, unseen_since_unix_ms, now_unix_ms).await?;
            if !ended && !batch.has_ended(boot.id).await? {
                return Ok(());
            }
            let holds = batch.holds_of(boot.id, BATCH_CALLS_MAX).await?;
            let calls: Vec<CallId> = holds.iter().map(|held| held.call).collect();
            let known = batch.calls_among(&calls).await?;
            let mut records = Vec::new();
            for held in holds.iter().filter(|held| !known.contains(&held.call)) {
                match serde_json::from_str::<Sale>(&held.json) {
                    Ok(sale) => records.push(abandoned(&sale, held.observed, held.seen_unix_ms)),
                    Err(error) => {
                        error!(call.id = %held.call, %error, "call {} cannot be ended: {error}", held.call);
                    }
                }
            }
            post(&mut batch, &records.iter().collect::<Vec<_>>()).await?;
            batch.delete_holds(&calls).await?;
            if ended {
                batch.insert_amnesia(&unclean_stop(boot, now_unix_ms)).await?;
            }
            swept += records.len();
            let is_last = holds.len() < BATCH_CALLS_MAX as usize;
            if is_last {
                batch.end_leases(boot.id).await?;
            }
            batch.commit(None, now_unix_ms).await?;
            counter!("keyhaven_settlement_swept_calls_total").increment(records.len() as u64);
            if is_last {
                info!(calls = swept, "{} had died; {swept} of its calls cost what was last seen of them", boot.id);
                return Ok(());
            }
        }
    }
}

/// What a process that did not end properly may have taken with it: calls that it had not written
/// down. Those that began longer before its last batch had been.
fn unclean_stop(boot: &Boot, now_unix_ms: u64) -> Amnesia {
    let from_unix_ms = boot.seen_unix_ms.saturating_sub(UNWRITTEN_MS_MAX);
    let (boot, why) = (Some(boot.id), AmnesiaCause::UncleanStop);
    Amnesia { boot, why, from_unix_ms, to_unix_ms: now_unix_ms, noted_unix_ms: now_unix_ms }
}

/// The record of a call that nobody ended, with what was seen of it.
pub(super) fn abandoned(sale: &Sale, observed: NanoUsd, seen_unix_ms: u64) -> CallRecord {
    let ended_unix_ms = seen_unix_ms.max(sale.began_unix_ms);
    let seen = CallRecord::settled(sale.clone(), 0, ended_unix_ms, Metering::observed(observed), None);
    // What was seen was held, so it is within bounds; otherwise it costs nothing.
    seen.unwrap_or_else(|_| CallRecord {
        sale: sale.clone(),
        outcome: CallOutcome::HubLost,
        status: 0,
        ended_unix_ms,
        hub_metered: Metering::observed(NanoUsd::ZERO),
        agent_metered: None,
        settled: Settled::NOTHING,
    })
}
