//! Who pays and who earns what for a call, from what each side metered of it.
//!
//! Two entries settle a call, each booked once: the *charge* of the call, from the hub's figure
//! alone, when the call ends; and the *credit* of each attempt, from both figures, when the
//! CLOSE leaf of the attempt comes. Which comes first does not matter: a leaf of a call that has
//! not ended waits. A *lowering* follows an ADJUST leaf, and a *return* gives back what was in
//! suspense for 30 days.
//!
//! | entry | key | consumer | owed | owner | suspense | margin |
//! |---|---|---|---|---|---|---|
//! | charge | call | - | + | | | + |
//! | credit | call, attempt | | - | + | + | + or - |
//! | credit out of the orphan budget | call, attempt | | | + | | - |
//! | lowering | ADJUST leaf | | | - | + | + or - |
//! | return | the entry that put it there | + | | | - | |
//!
//! Invariant: every entry sums to zero; what a consumer was charged never rises; an owner gets
//! no more than by the lower of both figures.

mod credit;
mod moves;
mod suspense;

pub use credit::Charged;
pub use credit::Claim;
pub use credit::Credited;
pub use credit::Lowered;
pub use credit::Observed;
pub use credit::PaidBy;
pub use credit::Remedy;
pub use credit::Stands;
pub use credit::Terms;
pub use credit::credit;
pub use credit::lower;
pub use moves::Moves;
pub use moves::charge;
pub use suspense::SUSPENSE_MS;
pub use suspense::give_back;

use std::cmp::Ordering;

use serde::Deserialize;
use serde::Serialize;

use crate::money::NanoUsd;
use crate::money::Ppm;
use crate::money::TooMuch;

/// What one side metered of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metered {
    /// At list prices; below 0 counts as 0.
    pub list: NanoUsd,
    /// How much of the answer it saw.
    pub response_bytes: u64,
}

/// What a consumer pays and what an owner gets of the list price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// The consumer's zone.
    pub zone: Ppm,
    /// The owner's tier.
    pub tier: Ppm,
}

/// How the two figures of a call compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// They are the same.
    Agreed,
    /// The agent's is higher, because the hub saw less of the answer. Nobody is at fault.
    Short,
    /// The agent's is higher, of no more bytes than the hub saw. Counts against the agent.
    AgentAbove,
    /// The hub's is higher: what the consumer paid beyond the agent's figure is in suspense.
    AgentBelow,
    /// There is none of the agent yet.
    Open,
}

impl Verdict {
    /// How the hub's figure and the agent's compare.
    pub fn of(hub: Metered, agent: Metered) -> Self {
        match agent.list.max(NanoUsd::ZERO).cmp(&hub.list.max(NanoUsd::ZERO)) {
            Ordering::Equal => Self::Agreed,
            Ordering::Less => Self::AgentBelow,
            Ordering::Greater if hub.response_bytes < agent.response_bytes => Self::Short,
            Ordering::Greater => Self::AgentAbove,
        }
    }

    /// As records, metrics and documents name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agreed => "agreed",
            Self::Short => "short",
            Self::AgentAbove => "agent_above",
            Self::AgentBelow => "agent_below",
            Self::Open => "open",
        }
    }

    /// Whether the two sides contradict each other.
    pub const fn is_disputed(self) -> bool {
        match self {
            Self::AgentAbove | Self::AgentBelow => true,
            Self::Agreed | Self::Short | Self::Open => false,
        }
    }
}

/// What a call moves between accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// From the consumer.
    pub charge: NanoUsd,
    /// To the owner, now.
    pub credit: NanoUsd,
    /// For the owner as soon as the agent's figure is known.
    pub open: NanoUsd,
    /// What the two sides do not agree on.
    pub suspense: NanoUsd,
    /// To the hub; below 0 where it subsidises the call.
    pub margin: NanoUsd,
    /// How the figures compare.
    pub verdict: Verdict,
}

impl Settled {
    /// Nothing moves.
    pub const NOTHING: Self = Self {
        charge: NanoUsd::ZERO,
        credit: NanoUsd::ZERO,
        open: NanoUsd::ZERO,
        suspense: NanoUsd::ZERO,
        margin: NanoUsd::ZERO,
        verdict: Verdict::Open,
    };
}

/// Settles a call at once, of which the agent's figure is known when it ends or never: the charge
/// is the hub's figure by the zone, rounded up, and the credit the lower of the two figures by
/// the tier, rounded down. It moves what [`charge`] and [`credit`] move together.
///
/// # Errors
/// When an amount is beyond 64 bits.
pub fn settle(hub: Metered, agent: Option<Metered>, shares: Shares) -> Result<Settled, TooMuch> {
    let charged = charge(hub.list, shares)?;
    let negative_charge = charged.consumer.0.checked_neg().map(NanoUsd).ok_or(TooMuch)?;
    let Some(agent) = agent else {
        let (open, margin) = (charged.owed, charged.margin);
        return Ok(Settled { charge: negative_charge, open, margin, ..Settled::NOTHING });
    };
    let ends = moves::ends(hub.list, agent.list, shares)?;
    Ok(Settled {
        charge: negative_charge,
        credit: ends.owner,
        open: NanoUsd::ZERO,
        suspense: ends.suspense,
        margin: ends.margin,
        verdict: Verdict::of(hub, agent),
    })
}

#[cfg(test)]
mod tests;
