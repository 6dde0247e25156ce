//! A hub's process: what it sold, what ended and is not written, what waits to be committed.
//!
//! Invariant: all of it is memory, and gone when the process is.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::books::CONSUMERS;
use crate::records::Leaf;
use crate::records::Ticket;

pub(crate) const HUBS: usize = 2;

/// A call under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sold {
    pub(crate) ticket: Ticket,
    /// What is held of the consumer's money.
    pub(crate) held: i64,
    /// List price of a unit, as the hub meters it.
    pub(crate) unit: i64,
    /// Units that came over the link.
    pub(crate) units: u32,
    /// What is written down of it.
    pub(crate) written: i64,
    pub(crate) is_in_holds: bool,
    /// The consumer left, and the echo of ABORT is awaited.
    pub(crate) is_left: bool,
    /// Mutant: what attempts before cost.
    pub(crate) before: i64,
}

/// A call that is over and not written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) ticket: Ticket,
    pub(crate) held: i64,
    /// None: no attempt was answered, and the hold was given back.
    pub(crate) list: Option<i64>,
    pub(crate) bytes: u32,
}

/// Leaves that were taken from a link and are not committed. They outlive the link.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) agent: usize,
    /// Of which link.
    pub(crate) link: u64,
    pub(crate) epoch: u32,
    pub(crate) first: u64,
    pub(crate) leaves: Vec<Leaf>,
    /// Of the head after them.
    pub(crate) signature: u64,
    /// The same as a record.
    pub(crate) group: Option<Rc<Vec<u8>>>,
}

#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) is_up: bool,
    /// It is up, and does nothing for so long that it is taken for dead.
    pub(crate) is_stalled: bool,
    pub(crate) boot: u16,
    /// Names it had since it started.
    pub(crate) names: Vec<u16>,
    pub(crate) sold: Vec<Sold>,
    pub(crate) ended: VecDeque<Ended>,
    pub(crate) batches: VecDeque<Batch>,
    /// What it leased, and what of it is held by calls that are not written.
    pub(crate) leased: [i64; CONSUMERS],
    pub(crate) held: [i64; CONSUMERS],
    /// The newest transaction that it saw.
    pub(crate) saw: (usize, u64),
    /// Most leaves that it remembers to be committed, by agent.
    pub(crate) remembers: [u64; crate::books::AGENTS],
}

impl Hub {
    pub(crate) fn new(boot: u16) -> Self {
        Self {
            is_up: true,
            is_stalled: false,
            boot,
            names: vec![boot],
            sold: Vec::new(),
            ended: VecDeque::new(),
            batches: VecDeque::new(),
            leased: [0; CONSUMERS],
            held: [0; CONSUMERS],
            saw: (0, 0),
            remembers: [0; crate::books::AGENTS],
        }
    }

    pub(crate) const fn works(&self) -> bool {
        self.is_up && !self.is_stalled
    }

    /// Whether this process still has the call.
    pub(crate) fn has(&self, call: u32) -> bool {
        self.sold.iter().any(|sold| sold.ticket.call == call)
            || self.ended.iter().any(|ended| ended.ticket.call == call)
    }
}
