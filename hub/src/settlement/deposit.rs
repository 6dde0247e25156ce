//! Money that comes in.
//!
//! Invariant: a payment is booked once, however often it is asked for.

use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::money::NanoUsd;

use super::booking;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::accounts::Deposit;

/// Characters of a reference.
const REFERENCE_CHARS_MAX: usize = 128;

/// What became of a deposit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Booked {
    /// It was booked.
    Now,
    /// It had been booked before, and nothing was done.
    Before,
}

/// Why a deposit is not booked.
#[derive(Debug, thiserror::Error)]
pub enum DepositError {
    /// Nothing, or less.
    #[error("a deposit is more than $0")]
    Amount,
    /// Not a reference that people can read and type.
    #[error(
        "a reference has 1 to {REFERENCE_CHARS_MAX} characters, none of them a control character, no white space at the ends"
    )]
    Reference,
    /// The reference stands for another payment.
    #[error("{reference:?} is a deposit of {amount} already, or another account's")]
    Differs {
        /// The reference.
        reference: String,
        /// How much was booked under it.
        amount: NanoUsd,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DepositError {
    /// What a person is told.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Amount | Self::Reference => ErrorCode::UsageInvalid,
            Self::Differs { .. } => ErrorCode::DepositDiffers,
            Self::Store(_) => ErrorCode::StoreFailed,
        }
    }
}

/// Whether people can read and type it, and every database keeps it as it is: servers take no notice
/// of spaces at the end.
pub(super) fn is_reference(text: &str) -> bool {
    let count = text.chars().count();
    (1..=REFERENCE_CHARS_MAX).contains(&count) && text.trim() == text && !text.chars().any(char::is_control)
}

/// Books a deposit into an account that exists.
///
/// # Errors
/// [`DepositError`].
pub async fn deposit(store: &Store, deposit: &Deposit) -> Result<Booked, DepositError> {
    if deposit.amount <= NanoUsd::ZERO {
        return Err(DepositError::Amount);
    }
    if !is_reference(&deposit.reference) {
        return Err(DepositError::Reference);
    }
    let mut tries = 0;
    let before = store.replay(|| {
        tries += 1;
        book(store, deposit, tries > 1)
    });
    match before.await? {
        None => Ok(Booked::Now),
        Some(before) if (before.account, before.amount) == (deposit.account, deposit.amount) => Ok(Booked::Before),
        Some(before) => Err(DepositError::Differs { reference: deposit.reference.clone(), amount: before.amount }),
    }
}

/// Books it, or returns what was booked under its reference before.
async fn book(store: &Store, deposit: &Deposit, is_again: bool) -> Result<Option<Deposit>, StoreError> {
    let mut batch = store.begin_batch(None, deposit.at_unix_ms).await?;
    if let Some(before) = batch.deposit(&deposit.reference).await? {
        // The try before this one was written after all, and only the answer was lost.
        let is_this_one = is_again && before == *deposit;
        return Ok((!is_this_one).then_some(before));
    }
    let entry = booking::of_deposit(deposit.account, deposit.amount, deposit.at_unix_ms);
    batch.insert_entries(std::slice::from_ref(&entry)).await?;
    batch.fold_balances(&entry.postings.iter().map(|(side, amount)| (*side, amount.0)).collect()).await?;
    batch.insert_deposit(deposit, entry.id).await?;
    batch.commit(None, deposit.at_unix_ms).await?;
    Ok(None)
}
