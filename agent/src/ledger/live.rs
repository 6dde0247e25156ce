//! What a running ledger holds in memory: what waits, what is open, what the hub has said.
//!
//! Invariant: a leaf that is taken may follow those before it, and every attempt that is open has
//! a place for its end, whatever else is refused.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use keyhaven_protocol::chain::ChainError;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::key_list::KeyList;
use keyhaven_protocol::leaf::EpochReason;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::signing::Hash;
use keyhaven_protocol::statement::Cosigned;
use keyhaven_protocol::statement::Line;
use keyhaven_protocol::statement::Reason;
use keyhaven_protocol::statement::Stated;
use keyhaven_protocol::statement::Statement;
use tokio::sync::oneshot;

use super::LeafId;
use super::Limits;
use super::entry::Kind;
use super::error::LedgerError;
use super::error::Place;
use super::index::Unstated;

/// Something for the writer.
pub(super) struct Waiting {
    pub(super) what: What,
    /// Who wants to know when it is durable.
    pub(super) told: Option<oneshot::Sender<Result<LeafId, LedgerError>>>,
}

pub(super) enum What {
    Leaf(Box<Event>),
    Note(Kind, Vec<u8>),
    /// A new chain, with at least this number.
    Epoch(EpochReason, u32),
}

/// An attempt whose end is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) ticket: Hash,
    /// How many PARTs it has.
    pub(super) parts: u32,
    pub(super) is_closed: bool,
    /// The number of its OPEN and the entry that holds it, once that is durable.
    pub(super) opened: Option<(u64, Place)>,
}

/// All of it, behind one lock.
pub(super) struct Live {
    pub(super) chain: ChainId,
    /// Durable.
    pub(super) head: Head,
    /// Where the log ends.
    pub(super) end: Place,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) leaves_waiting: usize,
    pub(super) attempts: HashMap<(CallId, u8), Attempt>,
    /// Leaves without their last line.
    pub(super) unstated: BTreeMap<u64, Unstated>,
    /// The entries of groups with such leaves, by the number of their first leaf.
    pub(super) groups: BTreeMap<u64, Place>,
    pub(super) stated: Stated,
    pub(super) cosigned: Option<Cosigned>,
    pub(super) keys: Option<KeyList>,
    pub(super) credited: NanoUsd,
    pub(super) paid_out: NanoUsd,
    /// Since when the writer is at the disk.
    pub(super) writing_since: Option<Instant>,
    pub(super) failed: Option<Arc<str>>,
    pub(super) is_closing: bool,
}

impl Live {
    /// Takes a leaf, or says why not.
    pub(super) fn take(&mut self, mut event: Event, limits: &Limits) -> Result<Event, LedgerError> {
        self.check_works()?;
        match &mut event {
            Event::Open(ticket) => {
                self.may_open(limits)?;
                let key = (ticket.ticket().call, ticket.ticket().attempt);
                if self.attempts.contains_key(&key) {
                    return Err(LedgerError::OpenedTwice(key.0, key.1));
                }
                let attempt = Attempt { ticket: ticket.hash(), parts: 0, is_closed: false, opened: None };
                self.attempts.insert(key, attempt);
            }
            Event::Close(close) => self.open(close.call, close.attempt, &close.ticket)?.is_closed = true,
            Event::Part(part) => {
                let attempt = self.open(part.call, part.attempt, &part.ticket)?;
                attempt.parts = attempt.parts.saturating_add(1);
                part.part = attempt.parts;
            }
            Event::Payout(payout) => {
                self.paid_out = NanoUsd(self.paid_out.0.saturating_add(payout.amount.0));
            }
            Event::Adjust(_) | Event::HubKey(_) => {}
            Event::Epoch(_) => return Err(ChainError::Misplaced(self.head.size).into()),
            Event::KeyRotation(_) => return Err(ChainError::KeyNotProved(self.head.size).into()),
        }
        Ok(event)
    }

    /// Whether a new attempt may be opened.
    pub(super) fn may_open(&self, limits: &Limits) -> Result<(), LedgerError> {
        self.check_works()?;
        let writing = self.writing_since.map_or(Duration::ZERO, |since| since.elapsed());
        if self.writing_since.is_some() && writing >= limits.stall_max {
            return Err(LedgerError::Stalled(u64::try_from(writing.as_millis()).unwrap_or(u64::MAX)));
        }
        if self.leaves_waiting >= limits.waiting_max {
            return Err(LedgerError::Full(self.leaves_waiting));
        }
        let unacked = self.unacked();
        if unacked >= limits.unacked_max {
            return Err(LedgerError::Unacked { unacked, max: limits.unacked_max });
        }
        let unpaid = self.unpaid();
        match limits.unpaid_max {
            Some(max) if unpaid > max => Err(LedgerError::Unpaid { unpaid, max }),
            Some(_) | None => Ok(()),
        }
    }

    /// Leaves that the hub has said nothing about, durable or not.
    pub(super) fn unacked(&self) -> u64 {
        self.head.size.saturating_add(self.leaves_waiting as u64).saturating_sub(self.stated.leaves)
    }

    /// What was credited and not paid out.
    pub(super) const fn unpaid(&self) -> NanoUsd {
        NanoUsd(self.credited.0.saturating_sub(self.paid_out.0))
    }

    pub(super) fn check_works(&self) -> Result<(), LedgerError> {
        match &self.failed {
            Some(why) => Err(LedgerError::Failed(why.clone())),
            None if self.is_closing => Err(LedgerError::Closed),
            None => Ok(()),
        }
    }

    /// Verifies a statement as the hub's next one, and counts what it credits.
    pub(super) fn state(&mut self, bytes: &[u8]) -> Result<Statement, LedgerError> {
        let keys = self.keys.as_ref().ok_or(LedgerError::NoKeys)?;
        let unstated = &self.unstated;
        let hash = |number| unstated.get(&number).map(|leaf| leaf.hash);
        let durable = self.head.size;
        let mut stated = self.stated.clone();
        let statement = stated.take(bytes, &self.chain, keys, keys.newest(), hash)?;
        if stated.leaves > durable {
            return Err(LedgerError::Cosigned("a statement is about leaves that were never written"));
        }
        let numbered = (statement.first_leaf..).zip(&statement.lines);
        let earlier = statement.earlier.iter().map(|earlier| (earlier.number, &earlier.line));
        for (number, line) in earlier.chain(numbered) {
            self.line(number, line);
        }
        self.stated = stated;
        self.forget_stated();
        Ok(statement)
    }

    fn line(&mut self, number: u64, line: &Line) {
        if let Some(settled) = &line.settled {
            self.credited = NanoUsd(self.credited.0.saturating_add(settled.credit.0));
        }
        let about = self.unstated.get(&number).and_then(|leaf| leaf.about);
        if let Some(attempt) = about.filter(|_| line.reason != Reason::Open) {
            self.attempts.remove(&attempt);
        }
    }

    /// Lets go of leaves that have their last line, and of groups without others.
    fn forget_stated(&mut self) {
        // The newest of them is kept: its head may still be cosigned.
        let later = self.unstated.split_off(&self.stated.leaves.saturating_sub(1));
        let stated = std::mem::replace(&mut self.unstated, later);
        let open = &self.stated.open;
        self.unstated.extend(stated.into_iter().filter(|(number, _)| open.contains(number)));
        let group_of = |leaf: &u64| self.groups.range(..=*leaf).next_back().map(|(first, place)| (*first, *place));
        let kept: Vec<(u64, Place)> = open.iter().chain([&self.stated.leaves]).filter_map(group_of).collect();
        self.groups = self.groups.split_off(&self.stated.leaves);
        self.groups.extend(kept);
    }

    /// Verifies a cosigned head of this chain; whether it is newer than the one before and for the log.
    pub(super) fn cosign(&mut self, cosigned: Cosigned) -> Result<bool, LedgerError> {
        let keys = self.keys.as_ref().ok_or(LedgerError::NoKeys)?;
        if cosigned.chain != self.chain {
            return Err(LedgerError::Cosigned("it is of another chain"));
        }
        let key = keys.key(cosigned.signing_key).filter(|_| cosigned.signing_key >= keys.newest());
        cosigned.verify(key.ok_or(LedgerError::Cosigned("its key may not sign"))?)?;
        let size = cosigned.head.size;
        if self.cosigned.is_some_and(|newest| newest.head.size >= size) {
            return Ok(false);
        }
        if size > self.head.size {
            return Err(LedgerError::Cosigned("it is ahead of this log"));
        }
        // What can no longer be compared does not come into the log: a start would find it wrong.
        match size.checked_sub(1).and_then(|last| self.unstated.get(&last)).map(|leaf| leaf.hash) {
            Some(known) if known == cosigned.head.hash => {}
            Some(_) => return Err(LedgerError::Cosigned("the hub cosigned another history")),
            None => return Ok(false),
        }
        self.cosigned = Some(cosigned);
        Ok(true)
    }

    fn open(&mut self, call: CallId, attempt: u8, ticket: &Hash) -> Result<&mut Attempt, LedgerError> {
        let open = self.attempts.get_mut(&(call, attempt));
        open.filter(|open| !open.is_closed && open.ticket == *ticket).ok_or(LedgerError::NotOpen(call, attempt))
    }
}
