//! The agent's check of a ticket, before the vendor hears anything.
//!
//! Invariant: an attempt is let in once, for ever, in bounded memory; whatever is refused costs
//! the attempt nothing, so that the hub may order it elsewhere. What takes time needs no lock.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::SignedTicket;
use super::Ticket;
use super::TicketError;
use crate::cbor::CborError;
use crate::id::AgentId;
use crate::id::CallId;
use crate::id::VendorKeyId;
use crate::key_list::KeyList;
use crate::money::Ppm;
use crate::signing::Hash;

/// Attempts that are remembered one by one.
const SEEN_MAX: usize = 65_536;

/// What came beside a ticket and must agree with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The call.
    pub call: CallId,
    /// The vendor key.
    pub vendor_key: VendorKeyId,
    /// The endpoint's number.
    pub endpoint: u16,
}

/// What an agent takes orders by.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Who it is.
    pub agent: AgentId,
    /// Its fleet's keys.
    pub keys: Arc<KeyList>,
    /// The number of the oldest key that may still sign: that of the ledger's newest HUBKEY.
    pub oldest_key: u32,
    /// The newest version of the meter rules that it knows; all before are known too.
    pub meter_rules: u16,
    /// The least that its owner takes of the list price.
    pub tier_floor: Ppm,
}

/// Attempts that were let in. Beyond a bound the oldest call is forgotten, and from then on every
/// call that is not newer is taken as seen: ids of calls sort by time.
#[derive(Debug, Clone)]
pub struct Seen {
    attempts: BTreeSet<(CallId, u8)>,
    forgotten: Option<CallId>,
    attempts_max: usize,
}

/// Why a ticket is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not the fleet's order.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// Signed with a key that the hub has replaced.
    #[error("it is signed with the key {0}, which was replaced")]
    OldKey(u32),
    /// For another agent.
    #[error("it orders another agent")]
    Agent,
    /// Not the order that it came with.
    #[error("it says another {0} than what it came with")]
    Differs(&'static str),
    /// By prices that this agent does not hold.
    #[error("it is sold by a price table that is not held")]
    Prices,
    /// By rules that this agent does not know.
    #[error("it is metered by rules of a newer version")]
    MeterRules,
    /// The owner wants more.
    #[error("it gives {found} of the list price, and the owner takes no less than {floor}")]
    Tier {
        /// What the ticket gives.
        found: Ppm,
        /// What the owner takes.
        floor: Ppm,
    },
    /// It was let in before, or is of a call older than what is remembered.
    #[error("the attempt was ordered before")]
    Seen,
}

impl From<CborError> for Refusal {
    fn from(error: CborError) -> Self {
        Self::Ticket(TicketError::Unreadable(error))
    }
}

impl Gate {
    /// Whether the ticket may be served, if its attempt was not seen: [`Seen::admit`] says.
    ///
    /// # Errors
    /// Why it is not served.
    pub fn examine(
        &self,
        ticket: &[u8],
        order: Order,
        holds_prices: impl FnOnce(u32, &Hash) -> bool,
    ) -> Result<SignedTicket, Refusal> {
        let signed = SignedTicket::read(ticket)?;
        signed.verify(&self.keys)?;
        let ticket = signed.ticket();
        if ticket.signing_key < self.oldest_key {
            return Err(Refusal::OldKey(ticket.signing_key));
        }
        if ticket.agent != self.agent {
            return Err(Refusal::Agent);
        }
        order.agrees(ticket)?;
        if !holds_prices(ticket.price_version, &ticket.price_hash) {
            return Err(Refusal::Prices);
        }
        if ticket.meter_rules > self.meter_rules {
            return Err(Refusal::MeterRules);
        }
        if ticket.tier < self.tier_floor {
            return Err(Refusal::Tier { found: ticket.tier, floor: self.tier_floor });
        }
        Ok(signed)
    }
}

impl Order {
    fn agrees(self, ticket: &Ticket) -> Result<(), Refusal> {
        if ticket.call != self.call {
            return Err(Refusal::Differs("call"));
        }
        if ticket.vendor_key != self.vendor_key {
            return Err(Refusal::Differs("vendor key"));
        }
        if ticket.endpoint != self.endpoint {
            return Err(Refusal::Differs("endpoint"));
        }
        Ok(())
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self::of_at_most(SEEN_MAX)
    }
}

impl Seen {
    /// Remembers so many attempts one by one.
    pub const fn of_at_most(attempts_max: usize) -> Self {
        Self { attempts: BTreeSet::new(), forgotten: None, attempts_max }
    }

    /// Lets in a ticket that was examined, and remembers that.
    ///
    /// # Errors
    /// [`Refusal::Seen`].
    pub fn admit(&mut self, ticket: &Ticket) -> Result<(), Refusal> {
        if self.insert(ticket.call, ticket.attempt) { Ok(()) } else { Err(Refusal::Seen) }
    }

    /// Adds an attempt; whether it was new.
    pub fn insert(&mut self, call: CallId, attempt: u8) -> bool {
        if self.forgotten.is_some_and(|forgotten| call <= forgotten) || !self.attempts.insert((call, attempt)) {
            return false;
        }
        while self.attempts.len() > self.attempts_max {
            self.forgotten = self.attempts.pop_first().map(|(call, _)| call).or(self.forgotten);
        }
        true
    }
}
