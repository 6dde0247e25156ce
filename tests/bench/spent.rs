//! CPU time of a measurement: of a peer's parts, and of programs that do not belong to it.
//!
//! Invariant: everything this process started counts as ours, whether it still lives or not.

use crate::clock::monotonic_ns;
use crate::cpu;
use crate::cpu::Ticks;
use crate::street::Peer;

/// CPU time at the beginning of a measurement.
pub(crate) struct Used {
    at_ns: u64,
    machine: Ticks,
    ours: Ticks,
    parts: Vec<Ticks>,
}

/// CPU time of a measurement.
pub(crate) struct Spent {
    wall_ns: u64,
    others_ns: u64,
    /// By each of the peer's parts.
    pub(crate) parts_ns: Vec<u64>,
}

impl Used {
    /// Reads all clocks.
    pub(crate) fn now(peer: &Peer) -> Self {
        Self {
            at_ns: monotonic_ns(),
            machine: Ticks::of_machine(),
            ours: Ticks::of_all(&cpu::descendants(std::process::id())),
            parts: peer.parts.iter().map(|part| Ticks::of_all(&part.pids)).collect(),
        }
    }

    /// What was spent since.
    pub(crate) fn until_now(&self, peer: &Peer) -> Spent {
        let now = Self::now(peer);
        Spent {
            wall_ns: now.at_ns - self.at_ns,
            others_ns: now.machine.ns_since(self.machine).saturating_sub(now.ours.ns_since(self.ours)),
            parts_ns: now.parts.iter().zip(&self.parts).map(|(now, then)| now.ns_since(*then)).collect(),
        }
    }
}

impl Spent {
    /// What others used, as a share of one core, in percent.
    pub(crate) fn others_percent(&self) -> u64 {
        self.others_ns.saturating_mul(100) / self.wall_ns.max(1)
    }
}
