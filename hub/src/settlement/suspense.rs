//! What leaves suspense: back to the consumer after 30 days, or where the operator decides.
//!
//! Invariant: what an entry put into suspense leaves it once and as a whole, and never for the hub.

use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::settle::SUSPENSE_MS;
use keyhaven_protocol::settle::give_back;

use super::Shared;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::disputes::Dispute;
use crate::store::disputes::DisputeEnd;
use crate::store::ledger::Batch;
use crate::store::ledger::Entry;
use crate::store::ledger::EntryId;
use crate::store::ledger::EntryKind;
use crate::store::ledger::Side;

/// Disputes that are ended in one batch.
const BATCH_DISPUTES_MAX: u32 = 256;

/// Characters of a note.
const NOTE_CHARS_MAX: usize = 500;

/// Who gets what is disputed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Winner {
    /// Who paid it.
    Consumer,
    /// The owner of the agent that said less.
    Owner,
}

/// Why a dispute is not resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is none, or it is over.
    #[error("nothing is disputed about {0} any more, or ever was")]
    NotDisputed(CallId),
    /// Not a note that people can read.
    #[error("a note has 1 to {NOTE_CHARS_MAX} characters, none of them a control character")]
    Note,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ResolveError {
    /// What a person is told.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotDisputed(_) => ErrorCode::DisputeUnknown,
            Self::Note => ErrorCode::UsageInvalid,
            Self::Store(_) => ErrorCode::StoreFailed,
        }
    }
}

impl Shared {
    /// Gives back what has been disputed for 30 days.
    pub(super) async fn return_disputed(&self, now_unix_ms: u64) -> Result<(), StoreError> {
        loop {
            let boot = *self.turn.lock().await;
            let ended = self.store.replay(|| async {
                let mut batch = self.store.begin_batch(Some(boot), now_unix_ms).await?;
                let until = now_unix_ms.saturating_sub(SUSPENSE_MS);
                let due = batch.disputes_until(until, BATCH_DISPUTES_MAX).await?;
                let mut ended = 0;
                for dispute in &due {
                    let moves = give_back(dispute.amount, dispute.since_unix_ms, now_unix_ms, false);
                    if let Ok(Some(_)) = moves {
                        let kind = EntryKind::Return;
                        end(&mut batch, dispute, Side::Consumer(dispute.account), kind, "returned", "", now_unix_ms)
                            .await?;
                        ended += 1;
                    }
                }
                if ended > 0 {
                    batch.commit(Some(boot), now_unix_ms).await?;
                }
                Ok(ended)
            });
            let ended = ended.await?;
            metrics::counter!("keyhaven_settlement_disputes_returned_total").increment(ended);
            if ended < u64::from(BATCH_DISPUTES_MAX) {
                return Ok(());
            }
        }
    }
}

/// Ends what is disputed about a call, all of it: it goes to this side.
///
/// # Errors
/// [`ResolveError`].
pub async fn resolve(
    store: &Store,
    call: CallId,
    winner: Winner,
    note: &str,
    now_unix_ms: u64,
) -> Result<NanoUsd, ResolveError> {
    let length = note.chars().count();
    if note.trim().is_empty() || length > NOTE_CHARS_MAX || note.chars().any(char::is_control) {
        return Err(ResolveError::Note);
    }
    let resolved = store.replay(|| async {
        let mut batch = store.begin_batch(None, now_unix_ms).await?;
        let open: Vec<Dispute> =
            batch.disputes_of(call).await?.into_iter().filter(|dispute| dispute.ended.is_none()).collect();
        let mut amount = 0_i64;
        for dispute in &open {
            let (to, outcome) = match winner {
                Winner::Consumer => (Side::Consumer(dispute.account), "consumer"),
                Winner::Owner => (Side::Owner(dispute.agent), "owner"),
            };
            end(&mut batch, dispute, to, EntryKind::Resolution, outcome, note, now_unix_ms).await?;
            amount = amount.saturating_add(dispute.amount.0);
        }
        if !open.is_empty() {
            batch.commit(None, now_unix_ms).await?;
        }
        Ok((!open.is_empty()).then_some(NanoUsd(amount)))
    });
    resolved.await?.ok_or(ResolveError::NotDisputed(call))
}

async fn end(
    batch: &mut Batch,
    dispute: &Dispute,
    to: Side,
    kind: EntryKind,
    outcome: &'static str,
    note: &str,
    at_unix_ms: u64,
) -> Result<(), StoreError> {
    // Named by the entry that put it there: of one attempt there may be several.
    let postings = vec![(Side::Suspense, NanoUsd(-dispute.amount.0)), (to, dispute.amount)];
    let entry = Entry { id: EntryId::new(), kind, call: None, attempt: dispute.attempt.into(), at_unix_ms, postings };
    batch.insert_entries(std::slice::from_ref(&entry)).await?;
    batch.fold_balances(&entry.postings.iter().map(|(side, amount)| (*side, amount.0)).collect()).await?;
    let end = DisputeEnd { entry: dispute.entry, by: entry.id, outcome, note: note.to_owned(), at_unix_ms };
    batch.end_dispute(&end).await
}
