//! The agent's half: which leaves to send now.
//!
//! Invariant: only durable leaves are sent, in order and without gaps; a hub that asks for the
//! same again and again, and never commits, gets less and less at a time.

use std::ops::Range;

/// Bounds of what is sent.
#[derive(Debug, Clone, Copy)]
pub struct AgentLimits {
    /// Leaves in one CLAIM.
    pub leaves_per_claim: u64,
    /// Leaves that were sent and not acknowledged.
    pub in_flight_max: u64,
    /// Leaves that are not acknowledged, sent or not: with more, no new call is taken.
    pub unacked_max: u64,
}

/// The hub has leaves that this agent does not have: it is an older copy of itself, and must
/// begin a new epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hub has {hub} leaves of this ledger, and here are {here}: it is an older copy")]
pub struct HubAhead {
    /// How many the hub has.
    pub hub: u64,
    /// How many are durable here.
    pub here: u64,
}

/// What the agent knows of one chain's way into the books.
#[derive(Debug, Clone)]
pub struct AgentHalf {
    limits: AgentLimits,
    durable: u64,
    /// The hub's books have so many, as far as is known.
    acked: u64,
    /// Where to go on, while a link is up.
    next: Option<u64>,
    /// What was sent since the hub last said where to go on.
    sent: u64,
    /// Where that was.
    rewound_to: u64,
    /// How often it had leaves sent again without committing any of them.
    rewinds: u32,
}

impl AgentHalf {
    /// After a start, with so many leaves in the log.
    pub const fn new(limits: AgentLimits, durable: u64) -> Self {
        Self { limits, durable, acked: 0, next: None, sent: 0, rewound_to: 0, rewinds: 0 }
    }

    /// So many leaves are durable now.
    pub fn durable(&mut self, size: u64) {
        self.durable = self.durable.max(size);
    }

    /// A link is up, and WELCOME said what the books have. Less than was acknowledged is no
    /// fault: a database went back in time, and gets the leaves again.
    ///
    /// # Errors
    /// When the hub has more than there is.
    pub fn welcome(&mut self, next: u64) -> Result<(), HubAhead> {
        self.check(next)?;
        self.go_back(next);
        Ok(())
    }

    /// The hub asks for the leaves from here on.
    ///
    /// # Errors
    /// When it has more than there is.
    pub fn need(&mut self, next: u64) -> Result<(), HubAhead> {
        self.check(next)?;
        if self.next.is_some() {
            self.go_back(next);
        }
        Ok(())
    }

    /// The books have so many.
    ///
    /// # Errors
    /// When they have more than there is.
    pub fn ack(&mut self, next: u64) -> Result<(), HubAhead> {
        self.check(next)?;
        if next > self.rewound_to {
            self.rewinds = 0;
        }
        self.acked = self.acked.max(next);
        self.next = self.next.map(|sent| sent.max(next));
        Ok(())
    }

    /// The link is gone.
    pub const fn link_down(&mut self) {
        self.next = None;
    }

    /// The numbers of the leaves to send now, if any. Asked again until there are none.
    pub fn next_claim(&mut self) -> Option<Range<u64>> {
        let from = self.next?;
        let window = self.limits.in_flight_max >> self.rewinds.min(63);
        let window_end = self.acked.saturating_add(window.max(self.limits.leaves_per_claim));
        let end = self.durable.min(window_end).min(from.saturating_add(self.limits.leaves_per_claim));
        if from >= end {
            return None;
        }
        self.next = Some(end);
        self.sent = end;
        Some(from..end)
    }

    /// Whether a new call may be taken: not while too much is not acknowledged.
    pub const fn may_open(&self) -> bool {
        self.durable.saturating_sub(self.acked) < self.limits.unacked_max
    }

    /// How many leaves the books have, as far as is known.
    pub const fn acked(&self) -> u64 {
        self.acked
    }

    const fn check(&self, hub: u64) -> Result<(), HubAhead> {
        if hub > self.durable { Err(HubAhead { hub, here: self.durable }) } else { Ok(()) }
    }

    fn go_back(&mut self, next: u64) {
        if next > self.rewound_to {
            self.rewinds = 0;
        } else if next < self.sent {
            self.rewinds = self.rewinds.saturating_add(1);
        }
        self.rewound_to = next;
        self.sent = next;
        self.acked = next;
        self.next = Some(next);
    }
}
