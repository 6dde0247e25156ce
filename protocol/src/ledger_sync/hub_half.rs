//! The hub's half: which leaves of a link to take, and what to say of them.
//!
//! Invariant: leaves are taken in order and each once on a link; an acknowledgement is made from
//! what was committed and from nothing else.

use std::ops::Range;

use crate::leaf::Head;
use crate::signing::Hash;

/// What the hub knows of one chain on one link.
#[derive(Debug, Clone)]
pub struct HubHalf {
    /// The books have so many.
    committed: u64,
    /// Those and what was taken on this link.
    taken: u64,
    /// NEED was said, and what was asked for has not come.
    has_asked: bool,
    queue_max: u64,
}

/// What to do with a CLAIM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// Verify these of its leaves and give them to the writer; those before them are known.
    Settle(Range<u64>),
    /// All are in the books: acknowledge again.
    Ack {
        /// The first leaf that is not.
        next: u64,
    },
    /// All were taken: the acknowledgement comes when they are committed.
    Wait,
    /// Some are missing before them: ask.
    Need {
        /// The first that is missing.
        next: u64,
    },
    /// Some are missing, and were asked for.
    Skip,
    /// More than was agreed on: end the link.
    TooMuch,
}

/// What to say to an agent that says where its chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// The books have so many of its leaves: it goes on from there.
    Welcome {
        /// The first that they do not have.
        next: u64,
    },
    /// It has fewer leaves than the books: an older copy of itself.
    Behind {
        /// How many the books have.
        next: u64,
    },
    /// It has another history than the books: the leaves up to here are not the same.
    Fork {
        /// After so many.
        size: u64,
    },
}

/// What to say to an agent whose chain stands here. `known` is the hash after so many leaves, as
/// the books have them, and `size` is how many those are. A history that parts only after
/// `size` is seen when its leaves come.
pub fn greet(agent: Head, size: u64, known: impl FnOnce(u64) -> Option<Hash>) -> Greeting {
    if agent.size > size {
        return Greeting::Welcome { next: size };
    }
    if known(agent.size) != Some(agent.hash) {
        return Greeting::Fork { size: agent.size };
    }
    if agent.size < size { Greeting::Behind { next: size } } else { Greeting::Welcome { next: size } }
}

impl HubHalf {
    /// A link is up, and WELCOME said that the books have so many leaves. At most so many may
    /// wait to be committed.
    pub const fn new(committed: u64, queue_max: u64) -> Self {
        Self { committed, taken: committed, has_asked: false, queue_max }
    }

    /// A CLAIM of leaves with these numbers came.
    pub fn claim(&mut self, leaves: Range<u64>) -> Taken {
        if leaves.start > self.taken {
            let first_time = !std::mem::replace(&mut self.has_asked, true);
            return if first_time { Taken::Need { next: self.taken } } else { Taken::Skip };
        }
        if leaves.end <= self.committed {
            return Taken::Ack { next: self.committed };
        }
        if leaves.end <= self.taken {
            return Taken::Wait;
        }
        if leaves.end.saturating_sub(self.committed) > self.queue_max {
            return Taken::TooMuch;
        }
        self.has_asked = false;
        let new = self.taken..leaves.end;
        self.taken = leaves.end;
        Taken::Settle(new)
    }

    /// The books have so many: the ACK to send, if that is news. Others may have committed
    /// leaves that came on other links.
    pub fn committed(&mut self, next: u64) -> Option<u64> {
        if next <= self.committed {
            return None;
        }
        self.committed = next;
        self.taken = self.taken.max(next);
        Some(next)
    }

    /// The books have only so many, or a batch failed and was dropped: the NEED to send. Leaves
    /// that were taken beyond are forgotten.
    pub const fn lost(&mut self, next: u64) -> u64 {
        self.committed = next;
        self.taken = next;
        self.has_asked = true;
        next
    }
}
