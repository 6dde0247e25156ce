//! When agents were last heard of: noted in memory, written down together.
//!
//! Invariant: ten thousand agents that come back at once cost the database a few
//! transactions, and what cannot be written is kept for the next time.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use keyhaven_protocol::id::AgentId;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::store::Store;
use crate::store::StoreError;

/// How often they are written down.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Rows of one transaction: other writers wait for it.
const ROWS_MAX: usize = 1000;

/// Agents heard of since the last writing.
#[derive(Default)]
pub(super) struct Sightings {
    seen: Mutex<HashMap<AgentId, u64>>,
}

impl Sightings {
    pub(super) fn note(&self, agent: AgentId, now_unix_ms: u64) {
        let mut seen = self.lock();
        let last = seen.entry(agent).or_default();
        *last = now_unix_ms.max(*last);
    }

    /// Writes until told to stop, and then once more.
    pub(super) async fn write_down(&self, store: &Store, stop: CancellationToken) {
        let mut failed = false;
        loop {
            let stopped = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = tokio::time::sleep(WRITE_EVERY) => false,
            };
            let written = self.write_once(store).await;
            if let (Err(error), false) = (&written, failed) {
                warn!(%error, "when agents were last seen is not written down for now: {error}");
            }
            failed = written.is_err();
            if stopped {
                return;
            }
        }
    }

    async fn write_once(&self, store: &Store) -> Result<(), StoreError> {
        let taken: Vec<(AgentId, u64)> = std::mem::take(&mut *self.lock()).into_iter().collect();
        let mut result = Ok(());
        for rows in taken.chunks(ROWS_MAX) {
            if result.is_ok() {
                result = store.agents_seen(rows).await;
            }
            if result.is_err() {
                // A later sighting may have come meanwhile: the newest stays.
                rows.iter().for_each(|(agent, seen_unix_ms)| self.note(*agent, *seen_unix_ms));
            }
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, u64>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::id::TokenId;

    use super::*;
    use crate::store::join_tokens::NewToken;

    const AGENT: AgentId = AgentId([1; 16]);

    #[tokio::test]
    async fn the_newest_sighting_is_written_down_by_the_time_the_hub_has_stopped() {
        let (_dir, store) = store().await;
        let sightings = Sightings::default();
        sightings.note(AGENT, 2000);
        sightings.note(AGENT, 1000);
        let stop = CancellationToken::new();
        stop.cancel();

        sightings.write_down(&store, stop).await;

        assert_eq!(store.agent(AGENT).await.unwrap().unwrap().last_seen_unix_ms, Some(2000));
        assert!(sightings.lock().is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_written_down_is_kept_for_the_next_time() {
        let (_dir, store) = store().await;
        let sightings = Sightings::default();
        sightings.note(AGENT, 1000);
        // No database takes such a time.
        sightings.note(AgentId([2; 16]), u64::MAX);

        assert!(sightings.write_once(&store).await.is_err());

        assert_eq!(store.agent(AGENT).await.unwrap().unwrap().last_seen_unix_ms, None);
        sightings.lock().remove(&AgentId([2; 16]));
        sightings.write_once(&store).await.unwrap();
        assert_eq!(store.agent(AGENT).await.unwrap().unwrap().last_seen_unix_ms, Some(1000));
    }

    async fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let token = NewToken {
            id: TokenId([1; 16]),
            agent: AGENT,
            secret_hash: [0; 32],
            created_unix_ms: 1,
            expires_unix_ms: 2,
        };
        store.invite_agent("office", &token).await.unwrap();
        (dir, store)
    }
}
