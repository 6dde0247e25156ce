//! Bounds of a link.
//!
//! Invariant: what is over a limit is answered within its stream; the link goes on.

use super::Budget;

/// Bounds of a link. Clones share the budget.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Streams at once.
    pub streams_max: usize,
    /// New streams a second, on average; beyond it, ABORT `busy`.
    pub opens_per_second: u32,
    /// Streams aborted a second, on average; beyond it, new ones get ABORT `busy`.
    pub resets_per_second: u32,
    /// Frames of the link itself a second, on average; beyond it, PINGs go unanswered.
    pub control_per_second: u32,
    /// Credit a stream begins with, both ways. A constant of the protocol, not a choice.
    pub window_bytes: u32,
    /// The most credit a fast reader's stream grows to.
    pub window_bytes_max: u32,
    /// Granted or unread bytes of all streams of this link above which no stream's credit grows,
    /// and new streams begin with the small window.
    pub budget_bytes: usize,
    /// Granted or unread bytes of all links that share it; above it, credit shrinks.
    pub budget: Budget,
}

/// The small window, where it is smaller than the usual one.
const WINDOW_NARROW_BYTES: u32 = 16 * 1024;

impl Limits {
    /// Credit that a stream begins with, both ways, whose OPEN says `narrow`.
    pub(super) fn window_narrow_bytes(&self) -> u32 {
        WINDOW_NARROW_BYTES.min(self.window_bytes)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_max: 4096,
            opens_per_second: 50_000,
            resets_per_second: 5_000,
            control_per_second: 512,
            window_bytes: 64 * 1024,
            window_bytes_max: 4 * 1024 * 1024,
            budget_bytes: 32 * 1024 * 1024,
            budget: Budget::default(),
        }
    }
}
