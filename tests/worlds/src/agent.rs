//! An agent: its log, what runs, what it holds of the hub's word.
//!
//! Invariant: the shipped halves decide what is served, what leaves and what is sent; the agent
//! carries that out, and its owner may cheat only where a log can be written by hand.

use std::rc::Rc;

use keyhaven_protocol::ledger_sync::AgentHalf;
use keyhaven_protocol::ledger_sync::AgentLimits;
use keyhaven_protocol::ledger_sync::Leaving;
use keyhaven_protocol::ledger_sync::Release;
use keyhaven_protocol::statement::Reason;
use keyhaven_protocol::statement::Stated;
use keyhaven_protocol::statement::Statement;
use keyhaven_protocol::statement::StatementError;
use keyhaven_protocol::ticket::Seen;

use crate::records::Figure;
use crate::records::Leaf;
use crate::records::Said;
use crate::records::Ticket;
use crate::records::call_id;
use crate::records::index;
use crate::records::wide;

const LIMITS: AgentLimits = AgentLimits { leaves_per_claim: 8, in_flight_max: 32, unacked_max: 64 };

/// Attempts that are remembered one by one; few, so that older ones are forgotten.
const SEEN_MAX: usize = 128;

/// An attempt that runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running {
    pub(crate) ticket: Ticket,
    pub(crate) open: u64,
    pub(crate) release: Release,
    /// The hub that asked, while the link stands on which it did.
    pub(crate) hub: Option<usize>,
    /// Units that the vendor will send, has sent, and that left.
    pub(crate) total: u32,
    pub(crate) made: u32,
    pub(crate) sent: u32,
    /// What one costs.
    pub(crate) unit: i64,
    /// The vendor answered that it does not serve it.
    pub(crate) is_refused: bool,
    pub(crate) is_aborted: bool,
    /// CLOSE is this leaf.
    pub(crate) close: Option<u64>,
}

/// What may go out of an attempt now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Out {
    Bytes(u32),
    End,
    Echo,
    Refused,
}

/// The newest line about an attempt or a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) reason: Reason,
    /// What the owner has of the attempt now, where the line says it.
    pub(crate) credit: Option<i64>,
}

pub(crate) struct Agent {
    pub(crate) epoch: u32,
    pub(crate) log: Vec<Leaf>,
    pub(crate) durable: u64,
    pub(crate) half: AgentHalf,
    pub(crate) seen: Seen,
    pub(crate) running: Vec<Running>,
    /// Leaves of the newest head that a hub cosigned.
    pub(crate) cosigned: u64,
    pub(crate) stated: Stated,
    /// Where the statements stood after each of them.
    pub(crate) history: Vec<Stated>,
    /// By number of leaf.
    pub(crate) told: Vec<Option<Told>>,
    /// Chains before this one.
    pub(crate) past: Vec<Vec<Leaf>>,
    pub(crate) cheats: bool,
    /// Its disk does not answer.
    pub(crate) is_stalled: bool,
    /// How often a hub said something other than before.
    pub(crate) restated: u32,
}

impl Agent {
    pub(crate) fn new(number: u64, cheats: bool) -> Self {
        let mut agent = Self {
            epoch: 0,
            log: Vec::new(),
            durable: 0,
            half: AgentHalf::new(LIMITS, 0),
            seen: Seen::of_at_most(SEEN_MAX),
            running: Vec::new(),
            cosigned: 0,
            stated: Stated::NOTHING,
            history: Vec::new(),
            told: Vec::new(),
            past: Vec::new(),
            cheats,
            is_stalled: false,
            restated: 0,
        };
        agent.append(number, Said::Epoch);
        agent
    }

    pub(crate) fn append(&mut self, at: u64, said: Said) -> u64 {
        let before = self.log.last().map_or(0, |leaf| leaf.hash);
        self.log.push(Leaf::after(before, at, said));
        self.log.len() as u64 - 1
    }

    /// Everything that was written is durable now.
    pub(crate) fn sync(&mut self) {
        self.durable = self.log.len() as u64;
        self.half.durable(self.durable);
    }

    /// What may leave of a running attempt. After [`Out::End`], [`Out::Echo`] and
    /// [`Out::Refused`] it is over.
    pub(crate) fn out(running: &Running, durable: u64) -> Option<Out> {
        if running.close.is_some() && running.sent == running.made_for_consumer() {
            let may_end = running.release.may_leave(Leaving::End, durable);
            return may_end.then_some(match (running.is_refused, running.is_aborted) {
                (true, _) => Out::Refused,
                (false, true) => Out::Echo,
                (false, false) => Out::End,
            });
        }
        let has_more = running.made_for_consumer() > running.sent;
        (has_more && running.release.may_leave(Leaving::Bytes, durable))
            .then(|| Out::Bytes(running.made_for_consumer()))
    }

    /// Writes CLOSE, once.
    pub(crate) fn close(&mut self, at: u64, which: usize, figure: Option<Figure>) {
        let next = self.log.len() as u64;
        let running = &mut self.running[which];
        if running.release.closed(next) {
            running.close = Some(next);
            let Ticket { call, attempt, .. } = running.ticket;
            let ticket = running.ticket.hash();
            self.append(at, Said::Close { call, attempt, ticket, figure });
        }
    }

    /// The process died, and starts again with what is durable. Attempts that were open are
    /// closed without a figure.
    pub(crate) fn restart(&mut self, at: u64, closes: bool) {
        self.log.truncate(index(self.durable));
        self.running.clear();
        self.seen = Seen::of_at_most(SEEN_MAX);
        let mut open: Vec<Ticket> = Vec::new();
        for leaf in &self.log {
            match leaf.said {
                Said::Open(ticket) => {
                    self.seen.insert(call_id(ticket.call), ticket.attempt);
                    open.push(ticket);
                }
                Said::Close { call, attempt, .. } => {
                    open.retain(|ticket| (ticket.call, ticket.attempt) != (call, attempt));
                }
                Said::Epoch | Said::Adjust { .. } => {}
            }
        }
        if closes {
            for ticket in open {
                let Ticket { call, attempt, .. } = ticket;
                self.append(at, Said::Close { call, attempt, ticket: ticket.hash(), figure: None });
            }
        }
        self.durable = self.log.len() as u64;
        self.half = AgentHalf::new(LIMITS, self.durable);
    }

    /// It is an older copy of itself: what it has ends here, and a new chain begins. It says again
    /// what the hub has not stated: OPEN and CLOSE of attempts that are not settled.
    pub(crate) fn begin_epoch(&mut self, at: u64) {
        let mut again: Vec<(Ticket, Option<Figure>, bool)> = Vec::new();
        for (number, leaf) in self.log.iter().enumerate() {
            match leaf.said {
                Said::Open(ticket) => again.push((ticket, None, false)),
                Said::Close { call, attempt, figure, .. } => {
                    let told = self.told.get(number).copied().flatten();
                    let is_settled = told.is_some_and(|told| told.reason != Reason::Open);
                    let same =
                        |open: &&mut (Ticket, Option<Figure>, bool)| (open.0.call, open.0.attempt) == (call, attempt);
                    if let Some(open) = again.iter_mut().find(same) {
                        (open.1, open.2) = (figure, is_settled);
                    }
                }
                Said::Epoch | Said::Adjust { .. } => {}
            }
        }
        self.past.push(std::mem::take(&mut self.log));
        self.epoch += 1;
        self.running.clear();
        self.stated = Stated::NOTHING;
        self.history.clear();
        self.told.clear();
        self.cosigned = 0;
        self.append(at, Said::Epoch);
        for (ticket, figure, _) in again.into_iter().filter(|(_, _, is_settled)| !is_settled) {
            let Ticket { call, attempt, .. } = ticket;
            self.append(at, Said::Open(ticket));
            self.append(at, Said::Close { call, attempt, ticket: ticket.hash(), figure });
        }
        self.durable = self.log.len() as u64;
        self.half = AgentHalf::new(LIMITS, self.durable);
    }

    /// Takes a statement. False: it does not follow from what was said, and all must be said
    /// again.
    pub(crate) fn take(&mut self, statement: &Rc<Statement>, hash: u64) -> Result<bool, StatementError> {
        let log = &self.log;
        let leaf = |number: u64| log.get(index(number)).map(|leaf| wide(leaf.hash));
        match self.stated.follow(statement, wide(hash), leaf) {
            Ok(()) => {}
            Err(StatementError::Gap { expected, found }) if found < expected => {
                // Said before, and sent again; or a database lost what it had said.
                if self.history[index(found)].hash == wide(hash) {
                    return Ok(true);
                }
                let before = index(found).checked_sub(1).map_or(Stated::NOTHING, |before| self.history[before].clone());
                if before.hash != statement.before {
                    return Ok(false);
                }
                self.restated += 1;
                self.stated = before;
                self.history.truncate(index(found));
                self.stated.follow(statement, wide(hash), leaf)?;
            }
            Err(StatementError::Broken) => return Ok(false),
            Err(error) => return Err(error),
        }
        self.history.push(self.stated.clone());
        self.told.resize(self.told.len().max(self.log.len()), None);
        let earlier = statement.earlier.iter().map(|earlier| (earlier.number, &earlier.line));
        for (number, line) in (statement.first_leaf..).zip(&statement.lines).chain(earlier) {
            let credit = line.settled.as_ref().map(|settled| settled.credit.0);
            if let Some(told) = self.told.get_mut(index(number)) {
                *told = Some(Told { reason: line.reason, credit });
            }
        }
        Ok(true)
    }

    /// All that was said is to be said again.
    pub(crate) fn forget_statements(&mut self) {
        self.restated += 1;
        self.stated = Stated::NOTHING;
        self.history.clear();
    }
}

impl Running {
    /// What the consumer may get: all that came; after an abort only what had left.
    const fn made_for_consumer(&self) -> u32 {
        if self.is_aborted || self.is_refused { self.sent } else { self.made }
    }

    /// What the agent meters when it is over.
    pub(crate) fn figure(&self) -> Figure {
        let units = self.made_for_consumer();
        Figure { list: (self.unit * i64::from(units)).min(self.ticket.ceiling), bytes: units }
    }
}
