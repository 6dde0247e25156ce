//! Whether the leaves of a chain may say what they say, one after another.
//!
//! The chain proves that leaves were not changed; this proves that each is what the hub ordered:
//! an attempt is opened once by a ticket of the fleet for this agent, closed once, and never
//! dearer than its ceiling.
//!
//! Invariant: a leaf that is refused changes nothing here.

use std::collections::HashMap;

use super::ChainId;
use crate::id::CallId;
use crate::key_list::KeyList;
use crate::key_list::KeyListError;
use crate::leaf::Adjust;
use crate::leaf::Close;
use crate::leaf::Event;
use crate::leaf::Part;
use crate::leaf::Purpose;
use crate::money::NanoUsd;
use crate::signing::Hash;
use crate::ticket::SignedTicket;
use crate::ticket::TicketError;

/// What is known of the chain's attempts so far.
#[derive(Debug, Clone)]
pub struct Audit {
    chain: ChainId,
    keys: KeyList,
    oldest_key: u32,
    attempts: HashMap<(CallId, u8), Attempt>,
}

/// What the leaves of a chain said of one attempt. A plain value: whoever keeps a chain's attempts
/// elsewhere than in [`Audit`] asks it the same questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The hash of the ticket that it was opened with.
    pub ticket: Hash,
    /// The most that it may cost, at list prices.
    pub ceiling: NanoUsd,
    /// How many parts there are.
    pub parts: u32,
    /// What the newest part said.
    pub so_far: NanoUsd,
    /// The leaf that says what it cost, and that; none before CLOSE.
    pub closed: Option<(Hash, NanoUsd)>,
}

/// Why a leaf may not say what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The ticket is not the fleet's.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The ticket is signed with a key that HUBKEY retired.
    #[error("the ticket is signed with the key {0}, which was replaced before")]
    OldKey(u32),
    /// The ticket orders another agent.
    #[error("the ticket orders another agent")]
    Agent,
    /// Not in a chain about this.
    #[error("calls do not belong in a chain of another purpose")]
    Purpose,
    /// The attempt was opened before.
    #[error("the attempt was opened before")]
    OpenedTwice,
    /// The attempt was never opened.
    #[error("the attempt was not opened")]
    NotOpened,
    /// The attempt was closed before.
    #[error("the attempt was closed before")]
    ClosedTwice,
    /// The attempt is not closed.
    #[error("the attempt is not closed yet")]
    NotClosed,
    /// It names another ticket than OPEN.
    #[error("it names another ticket than the one it was opened with")]
    OtherTicket,
    /// More than the ticket allows.
    #[error("{found} is over the ticket's ceiling of {ceiling}")]
    OverCeiling {
        /// What the leaf says.
        found: NanoUsd,
        /// The most that it may.
        ceiling: NanoUsd,
    },
    /// Parts are not counted up.
    #[error("part {found} stands where {expected} belongs")]
    Part {
        /// What belongs there.
        expected: u32,
        /// What stands there.
        found: u32,
    },
    /// A part says less than the one before.
    #[error("a part says less than the one before")]
    PartFell,
    /// It corrects another leaf than the one that stands.
    #[error("it corrects another leaf than the one that stands")]
    OtherLeaf,
    /// It does not lower what it corrects.
    #[error("it does not lower what stands")]
    NotLower,
    /// The key is not in the fleet's list, or not the same.
    #[error(transparent)]
    HubKey(#[from] KeyListError),
    /// The list has a newer key than this.
    #[error("the hub's key {0} was recorded before, or a newer one")]
    HubKeyFell(u32),
}

impl Audit {
    /// Nothing yet.
    pub fn new(chain: ChainId, keys: KeyList) -> Self {
        Self { chain, keys, oldest_key: 0, attempts: HashMap::new() }
    }

    /// Takes the next leaf's event; the hash is the leaf's.
    ///
    /// # Errors
    /// When it may not follow what was taken.
    pub fn take(&mut self, event: &Event, leaf: Hash) -> Result<(), AuditError> {
        match event {
            Event::Open(ticket) => self.open(ticket),
            Event::Close(close) => self.close(close, leaf),
            Event::Part(part) => self.part(part),
            Event::Adjust(adjust) => self.adjust(adjust, leaf),
            Event::HubKey(entry) => self.hub_key(entry),
            Event::Payout(_) | Event::KeyRotation(_) | Event::Epoch(_) => Ok(()),
        }
    }

    /// The number of the oldest of the hub's keys that may still sign.
    pub const fn oldest_key(&self) -> u32 {
        self.oldest_key
    }

    /// Attempts that were opened and are not closed.
    pub fn open_attempts(&self) -> impl Iterator<Item = (CallId, u8)> {
        self.attempts.iter().filter(|(_, attempt)| attempt.closed.is_none()).map(|(attempt, _)| *attempt)
    }

    /// What an attempt cost at list prices by the newest leaf about it; none before CLOSE.
    pub fn list(&self, call: CallId, attempt: u8) -> Option<NanoUsd> {
        self.attempts.get(&(call, attempt))?.closed.map(|(_, list)| list)
    }

    fn open(&mut self, signed: &SignedTicket) -> Result<(), AuditError> {
        if self.chain.purpose != Purpose::Calls {
            return Err(AuditError::Purpose);
        }
        signed.verify(&self.keys)?;
        let ticket = signed.ticket();
        if ticket.signing_key < self.oldest_key {
            return Err(AuditError::OldKey(ticket.signing_key));
        }
        if ticket.agent != self.chain.agent {
            return Err(AuditError::Agent);
        }
        let attempt = (ticket.call, ticket.attempt);
        if self.attempts.contains_key(&attempt) {
            return Err(AuditError::OpenedTwice);
        }
        let opened = Attempt::opened(signed.hash(), ticket.ceiling);
        self.attempts.insert(attempt, opened);
        Ok(())
    }

    fn close(&mut self, close: &Close, leaf: Hash) -> Result<(), AuditError> {
        self.opened(close.call, close.attempt)?.close(close, leaf)
    }

    fn part(&mut self, part: &Part) -> Result<(), AuditError> {
        self.opened(part.call, part.attempt)?.part(part)
    }

    fn adjust(&mut self, adjust: &Adjust, leaf: Hash) -> Result<(), AuditError> {
        self.opened(adjust.call, adjust.attempt)?.adjust(adjust, leaf)
    }

    /// Records that a key of the list is in force. The list may know it already.
    fn hub_key(&mut self, entry: &[u8]) -> Result<(), AuditError> {
        let mut keys = self.keys.clone();
        let number = keys.take(entry)?;
        if number <= self.oldest_key && self.oldest_key > 0 {
            return Err(AuditError::HubKeyFell(number));
        }
        self.keys = keys;
        self.oldest_key = number;
        Ok(())
    }

    fn opened(&mut self, call: CallId, attempt: u8) -> Result<&mut Attempt, AuditError> {
        self.attempts.get_mut(&(call, attempt)).ok_or(AuditError::NotOpened)
    }
}

impl Attempt {
    /// OPEN, with a ticket of this hash and ceiling.
    pub const fn opened(ticket: Hash, ceiling: NanoUsd) -> Self {
        Self { ticket, ceiling, parts: 0, so_far: NanoUsd::ZERO, closed: None }
    }

    /// CLOSE, in the leaf of this hash; without a figure it costs what its parts said.
    ///
    /// # Errors
    /// When it was closed, has another ticket, or is over the ceiling.
    pub fn close(&mut self, close: &Close, leaf: Hash) -> Result<(), AuditError> {
        self.check_open(&close.ticket)?;
        let list = close.metered.as_ref().map_or(self.so_far, |metered| metered.list);
        self.check_ceiling(list)?;
        self.closed = Some((leaf, list));
        Ok(())
    }

    /// PART.
    ///
    /// # Errors
    /// When it is closed, has another ticket, or the part is not the next, says less than the one
    /// before, or is over the ceiling.
    pub fn part(&mut self, part: &Part) -> Result<(), AuditError> {
        self.check_open(&part.ticket)?;
        let expected = self.parts.saturating_add(1);
        if part.part != expected {
            return Err(AuditError::Part { expected, found: part.part });
        }
        self.check_ceiling(part.metered.list)?;
        if part.metered.list < self.so_far {
            return Err(AuditError::PartFell);
        }
        self.parts = expected;
        self.so_far = part.metered.list;
        Ok(())
    }

    /// ADJUST, in the leaf of this hash.
    ///
    /// # Errors
    /// When it is not closed, another leaf stands, or it does not say less.
    pub fn adjust(&mut self, adjust: &Adjust, leaf: Hash) -> Result<(), AuditError> {
        let (stands, list) = self.closed.ok_or(AuditError::NotClosed)?;
        if adjust.corrects != stands {
            return Err(AuditError::OtherLeaf);
        }
        if adjust.list >= list {
            return Err(AuditError::NotLower);
        }
        self.closed = Some((leaf, adjust.list));
        Ok(())
    }

    fn check_open(&self, ticket: &Hash) -> Result<(), AuditError> {
        if self.closed.is_some() {
            return Err(AuditError::ClosedTwice);
        }
        if self.ticket == *ticket { Ok(()) } else { Err(AuditError::OtherTicket) }
    }

    fn check_ceiling(&self, found: NanoUsd) -> Result<(), AuditError> {
        let ceiling = self.ceiling;
        if found > ceiling { Err(AuditError::OverCeiling { found, ceiling }) } else { Ok(()) }
    }
}
