//! Money that goes out to owners, in batches that the operator makes and carries out.
//!
//! Invariant: an owner is paid once under a reference, never more than was credited and has waited,
//! and nothing while a proof of two histories stands against the agent.

use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::PayoutId;
use keyhaven_protocol::money::NanoUsd;

use super::deposit::is_reference;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::agents::Agent;
use crate::store::ledger::Batch;
use crate::store::ledger::Entry;
use crate::store::ledger::EntryId;
use crate::store::ledger::EntryKind;
use crate::store::ledger::Side;
use crate::store::payouts::PayoutRow;

/// Why nobody is paid.
#[derive(Debug, thiserror::Error)]
pub enum PayoutError {
    /// Not a reference that people can read and type.
    #[error("a reference has 1 to 128 characters, none of them a control character, no white space at the ends")]
    Reference,
    /// There is nothing to pay, and no batch of this reference.
    #[error("nothing is due: what was credited is paid, or has not waited long enough")]
    NothingDue,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PayoutError {
    /// What a person is told.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Reference => ErrorCode::UsageInvalid,
            Self::NothingDue => ErrorCode::PayoutRefused,
            Self::Store(_) => ErrorCode::StoreFailed,
        }
    }
}

/// The batch of payouts with this reference: made now, of all that was credited so long ago, or as
/// it was made before. Without `is_booked` it is only said what it would be.
///
/// # Errors
/// [`PayoutError`].
pub async fn pay_out(
    store: &Store,
    reference: &str,
    wait_ms: u64,
    now_unix_ms: u64,
    is_booked: bool,
) -> Result<Vec<PayoutRow>, PayoutError> {
    if !is_reference(reference) {
        return Err(PayoutError::Reference);
    }
    let agents = store.agents().await?;
    let made = store.replay(|| async {
        let mut batch = store.begin_batch(None, now_unix_ms).await?;
        let before = batch.payouts(reference).await?;
        if !before.is_empty() {
            return Ok(before);
        }
        let mut made = Vec::new();
        for agent in &agents {
            made.extend(due(&mut batch, agent, reference, wait_ms, now_unix_ms).await?);
        }
        if !is_booked || made.is_empty() {
            return Ok(made);
        }
        let entries: Vec<Entry> = made.iter().map(entry_of).collect();
        batch.insert_entries(&entries).await?;
        let mut by = std::collections::BTreeMap::new();
        for (side, amount) in entries.iter().flat_map(|entry| &entry.postings) {
            *by.entry(*side).or_insert(0_i64) += amount.0;
        }
        batch.fold_balances(&by).await?;
        batch.insert_payouts(&made).await?;
        batch.commit(None, now_unix_ms).await?;
        Ok(made)
    });
    let made = made.await?;
    if made.is_empty() { Err(PayoutError::NothingDue) } else { Ok(made) }
}

async fn due(
    batch: &mut Batch,
    agent: &Agent,
    reference: &str,
    wait_ms: u64,
    now_unix_ms: u64,
) -> Result<Option<PayoutRow>, StoreError> {
    let earned = batch.earned_until(agent.id, now_unix_ms.saturating_sub(wait_ms)).await?;
    let amount = NanoUsd(earned.0.saturating_add(batch.taken_from(agent.id).await?.0));
    if amount <= NanoUsd::ZERO || batch.has_forked(agent.id).await? {
        return Ok(None);
    }
    // All that is credited is under the newest cosigned head of its chain.
    let Some(chain) = batch.newest_chain(agent.id).await? else { return Ok(None) };
    Ok(Some(PayoutRow {
        id: PayoutId(EntryId::new().0),
        reference: reference.to_owned(),
        agent: agent.id,
        epoch: chain.epoch,
        leaves: chain.head.size,
        amount,
        entry: EntryId::new(),
        at_unix_ms: now_unix_ms,
    }))
}

fn entry_of(payout: &PayoutRow) -> Entry {
    Entry {
        id: payout.entry,
        kind: EntryKind::Payout,
        call: None,
        attempt: 0,
        at_unix_ms: payout.at_unix_ms,
        postings: vec![(Side::Owner(payout.agent), NanoUsd(-payout.amount.0)), (Side::Payouts, payout.amount)],
    }
}
