//! What entries move between accounts, and the entry that charges a call.
//!
//! Invariant: every [`Moves`] made here sums to zero.

use serde::Deserialize;
use serde::Serialize;

use super::Shares;
use crate::money::NanoUsd;
use crate::money::TooMuch;

/// What one entry moves: above 0 into an account, below 0 out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Moves {
    /// The consumer's account.
    pub consumer: NanoUsd,
    /// What owners earned and were not credited yet.
    pub owed: NanoUsd,
    /// The owner's account.
    pub owner: NanoUsd,
    /// What the two sides do not agree on.
    pub suspense: NanoUsd,
    /// The hub's account.
    pub margin: NanoUsd,
}

impl Moves {
    /// Nothing moves; such an entry is not written.
    pub const NOTHING: Self = Self {
        consumer: NanoUsd::ZERO,
        owed: NanoUsd::ZERO,
        owner: NanoUsd::ZERO,
        suspense: NanoUsd::ZERO,
        margin: NanoUsd::ZERO,
    };

    /// Both, one after the other.
    ///
    /// # Errors
    /// When an amount is beyond 64 bits.
    pub fn plus(self, other: Self) -> Result<Self, TooMuch> {
        Ok(Self {
            consumer: self.consumer.plus(other.consumer)?,
            owed: self.owed.plus(other.owed)?,
            owner: self.owner.plus(other.owner)?,
            suspense: self.suspense.plus(other.suspense)?,
            margin: self.margin.plus(other.margin)?,
        })
    }

    /// What takes it back.
    ///
    /// # Errors
    /// When an amount is beyond 64 bits.
    pub fn reversed(self) -> Result<Self, TooMuch> {
        Ok(Self {
            consumer: negative(self.consumer)?,
            owed: negative(self.owed)?,
            owner: negative(self.owner)?,
            suspense: negative(self.suspense)?,
            margin: negative(self.margin)?,
        })
    }

    /// The sum of all accounts: 0 of everything that is booked.
    pub fn sum(&self) -> i128 {
        let all = [self.consumer, self.owed, self.owner, self.suspense, self.margin];
        all.iter().map(|amount| i128::from(amount.0)).sum()
    }
}

/// The entry `charge`, one for each call, booked when the call ends: the consumer pays the hub's
/// figure by the zone, rounded up; the owner's part by the tier, rounded down, is owed until the
/// leaf comes; the rest is the hub's. A figure that is only what was durably seen before the hub
/// died is charged the same way (rules 10, 18 and 19).
///
/// # Errors
/// When an amount is beyond 64 bits.
pub fn charge(hub_list: NanoUsd, shares: Shares) -> Result<Moves, TooMuch> {
    let list = hub_list.max(NanoUsd::ZERO);
    let paid = list.share_rounded_up(shares.zone)?;
    let owed = list.share_rounded_down(shares.tier)?;
    let moves = Moves { consumer: negative(paid)?, owed, margin: minus(paid, owed)?, ..Moves::NOTHING };
    Ok(moves)
}

/// What all entries of a call together have moved, when the consumer was charged by the hub's
/// figure and the owner is paid by the lower one.
pub(super) fn ends(hub_list: NanoUsd, agent_list: NanoUsd, shares: Shares) -> Result<Moves, TooMuch> {
    let hub_list = hub_list.max(NanoUsd::ZERO);
    let settled = hub_list.min(agent_list.max(NanoUsd::ZERO));
    let paid = hub_list.share_rounded_up(shares.zone)?;
    let undisputed = settled.share_rounded_up(shares.zone)?;
    let owner = settled.share_rounded_down(shares.tier)?;
    Ok(Moves {
        consumer: negative(paid)?,
        owed: NanoUsd::ZERO,
        owner,
        suspense: minus(paid, undisputed)?,
        margin: minus(undisputed, owner)?,
    })
}

pub(super) fn negative(amount: NanoUsd) -> Result<NanoUsd, TooMuch> {
    amount.0.checked_neg().map(NanoUsd).ok_or(TooMuch)
}

pub(super) fn minus(amount: NanoUsd, other: NanoUsd) -> Result<NanoUsd, TooMuch> {
    amount.0.checked_sub(other.0).map(NanoUsd).ok_or(TooMuch)
}
