//! Second lines: what becomes of CLOSE leaves whose calls had not ended when they came.
//!
//! Invariant: a leaf that waits gets exactly one more line, once its call is over, whoever ended it.

use std::collections::BTreeMap;
use std::collections::HashSet;

use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::statement::EarlierLine;
use keyhaven_protocol::statement::LINES_MAX;
use keyhaven_protocol::statement::Reason;

use super::super::Shared;
use super::commit::Done;
use super::commit::Said;
use super::credit::Bookings;
use super::credit::Closing;
use crate::store::StoreError;
use crate::store::attempts::OpenLeaf;
use crate::store::chains::ChainRow;
use crate::store::ledger::Batch;

/// Leaves that are looked at again in one batch.
const LOOK_AGAIN_MAX: u32 = 1024;

impl Shared {
    /// Settles what waits for the end of these calls, as far as they are over.
    pub(in crate::settlement) async fn settle_open(
        &self,
        batch: &mut Batch,
        calls: &[CallId],
        done: &mut Done,
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        let mut chains: BTreeMap<(AgentId, u32), Vec<OpenLeaf>> = BTreeMap::new();
        for leaf in batch.open_leaves_of(calls).await? {
            chains.entry((leaf.agent, leaf.epoch)).or_default().push(leaf);
        }
        for ((agent, epoch), leaves) in chains {
            for leaves in leaves.chunks(LINES_MAX) {
                self.settle_some(batch, (agent, epoch), leaves, done, now_unix_ms).await?;
            }
        }
        Ok(())
    }

    async fn settle_some(
        &self,
        batch: &mut Batch,
        (agent, epoch): (AgentId, u32),
        leaves: &[OpenLeaf],
        done: &mut Done,
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        let Some(row) = batch.chain(agent, epoch).await? else { return Ok(()) };
        let mut calls: Vec<CallId> = leaves.iter().map(|leaf| leaf.call).collect();
        calls.sort_unstable();
        calls.dedup();
        let attempts = batch.attempts(agent, epoch, &calls).await?;
        let boots: HashSet<BootId> = attempts.values().map(|row| row.boot).collect();
        let mut known = self.known(batch, &calls, &boots).await?;
        let (mut bookings, mut earlier) = (Bookings::default(), Vec::new());
        for leaf in leaves {
            let OpenLeaf { number, hash, call, attempt, .. } = *leaf;
            let Some(said) = attempts.get(&(call, attempt)) else { continue };
            let closing = Closing { agent, epoch, number, leaf: hash, call, attempt };
            let line = self.close(batch, &mut known, &closing, said, &mut bookings, now_unix_ms).await?;
            if line.reason != Reason::Open {
                batch.delete_open_leaf(leaf).await?;
                done.reasons.push(line.reason);
                earlier.push(EarlierLine { number, line });
            }
        }
        if earlier.is_empty() {
            return Ok(());
        }
        bookings.write(batch).await?;
        let open_leaves = row.open_leaves.saturating_sub(earlier.len() as u64);
        let after = ChainRow { open_leaves, ..row.clone() };
        let said = Said { first_leaf: row.head.size, lines: Vec::new(), earlier };
        self.state(batch, Some(&row), after, said, done, now_unix_ms).await
    }

    /// Looks again at all that waits: calls of other processes, and of those that died, end without
    /// a word to this one.
    pub(in crate::settlement) async fn look_again(&self) -> Result<(), StoreError> {
        let leaves = self.store.open_leaves(LOOK_AGAIN_MAX).await?;
        if leaves.is_empty() {
            return Ok(());
        }
        let mut calls: Vec<CallId> = leaves.iter().map(|leaf| leaf.call).collect();
        calls.sort_unstable();
        calls.dedup();
        let boot = *self.turn.lock().await;
        for calls in calls.chunks(LINES_MAX) {
            let done = self.store.replay(|| async {
                let (mut done, now_unix_ms) = (Done::default(), keyhaven_daemon::clock::unix_ms_now());
                let mut batch = self.store.begin_batch(Some(boot), now_unix_ms).await?;
                self.settle_open(&mut batch, calls, &mut done, now_unix_ms).await?;
                if done.answers.is_empty() {
                    return Ok(done);
                }
                batch.commit(Some(boot), now_unix_ms).await?;
                Ok(done)
            });
            self.say(done.await?);
        }
        Ok(())
    }

    /// Says what was committed.
    pub(in crate::settlement) fn say(&self, done: Done) {
        for reason in &done.reasons {
            metrics::counter!("keyhaven_settlement_leaves_total", "reason" => reason.name()).increment(1);
        }
        for ((agent, epoch), answer) in done.answers {
            self.answer(agent, epoch, answer);
        }
    }
}
