//! How much a peer may send before its bytes are read: a window for each stream that follows
//! what its reader takes in a round trip.
//!
//! Invariant: credit is granted for what was read and never taken back, and a stream whose
//! reader reads never runs dry, however tight the budget is.

use crate::frame::StreamId;

use super::Link;
use super::Micros;
use super::Receiving;
use super::stream::Stream;

/// Assumed before the first PONG: a local network.
const ROUND_TRIP_UNKNOWN_MICROS: u64 = 1_000;

/// So much is granted at once however large the window is: larger grants would leave the
/// sender of a long path without credit while they travel.
const GRANT_BYTES_MAX: u32 = 128 * 1024;

/// Over so long is judged whether a reader has become slow.
const SLOW_MICROS: u64 = 1_000_000;

/// Whoever has read so much does read: more than a system keeps for a consumer that does not.
const READ_BYTES_PROVEN: u64 = 512 * 1024;

/// What was read since a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drained {
    since: Micros,
    bytes: u64,
}

impl Drained {
    pub(super) fn new(now: Micros) -> Self {
        Self { since: now, bytes: 0 }
    }

    /// Bytes in each round trip, once so much time has passed; then it begins again.
    fn per_round_trip(&mut self, at_least: u64, round_trip: u64, now: Micros) -> Option<u64> {
        let elapsed = now.since(self.since).max(1);
        if elapsed < at_least {
            return None;
        }
        let bytes = self.bytes.saturating_mul(round_trip) / elapsed;
        *self = Self::new(now);
        Some(bytes)
    }
}

/// What the whole link, and all links, leave for one stream.
struct Bounds {
    round_trip: u64,
    window: u32,
    window_narrow: u32,
    window_max: u32,
    /// The budget of this link is used up.
    crowded: bool,
    /// The budget of all links is used up.
    tight: bool,
}

impl Link {
    /// New credit for what the application has read, once it is worth a frame.
    pub(super) fn grant_credit(&mut self, id: StreamId, read_bytes: usize, now: Micros) {
        let bounds = Bounds {
            round_trip: self.liveness.rtt_micros().unwrap_or(ROUND_TRIP_UNKNOWN_MICROS),
            window: self.limits.window_bytes,
            window_narrow: self.limits.window_narrow_bytes(),
            window_max: self.limits.window_bytes_max,
            crowded: self.committed_bytes >= self.limits.budget_bytes,
            tight: self.limits.budget.is_tight(),
        };
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.receiving == Receiving::Open) else {
            return;
        };
        let grant = stream.grant(read_bytes, &bounds, now);
        if grant > 0 {
            self.commit(grant as usize);
            self.wake_urgent(id);
        }
    }

    /// Whether so many more bytes are more than this link, or all of them, should grant.
    pub(super) fn is_crowded_with(&self, more_bytes: usize) -> bool {
        self.committed_bytes.saturating_add(more_bytes) > self.limits.budget_bytes || self.limits.budget.is_tight()
    }
}

impl Stream {
    fn grant(&mut self, read_bytes: usize, bounds: &Bounds, now: Micros) -> u32 {
        self.consumed = self.consumed.saturating_add(u32::try_from(read_bytes).unwrap_or(u32::MAX));
        self.tune_window(read_bytes, bounds, now);
        let dry = self.allowance == 0 && self.inbox.bytes() == 0;
        if self.consumed < (self.window / 2).min(GRANT_BYTES_MAX) && !dry {
            return 0;
        }
        let unread = u32::try_from(self.inbox.bytes()).unwrap_or(u32::MAX);
        let grant = self.window.saturating_sub(unread).saturating_sub(self.allowance);
        if grant > 0 {
            self.consumed = 0;
            self.allowance += grant;
            self.credit_due = self.credit_due.saturating_add(grant);
        }
        grant
    }

    /// A reader that takes half a window in a round trip is held up by its window: twice as
    /// much. One that takes less than a quarter over a second does not need it.
    fn tune_window(&mut self, read_bytes: usize, bounds: &Bounds, now: Micros) {
        for drained in [&mut self.drained, &mut self.drained_long] {
            drained.bytes = drained.bytes.saturating_add(read_bytes as u64);
        }
        let short = self.drained.per_round_trip(bounds.round_trip, bounds.round_trip, now);
        let long = self.drained_long.per_round_trip(bounds.round_trip.max(SLOW_MICROS), bounds.round_trip, now);
        if bounds.tight {
            self.window = bounds.window_narrow;
            return;
        }
        let read_bytes_all = self.received_bytes.saturating_sub(self.inbox.bytes() as u64);
        if !bounds.crowded || read_bytes_all >= READ_BYTES_PROVEN {
            self.window = self.window.max(bounds.window);
        }
        if short.is_some_and(|bytes| bytes.saturating_mul(2) >= self.window.into()) {
            if !bounds.crowded {
                self.window = self.window.saturating_mul(2).min(bounds.window_max);
            }
        } else if let Some(bytes) = long {
            let needed = u32::try_from(bytes.saturating_mul(4)).unwrap_or(u32::MAX);
            self.window = self.window.min(needed.max(bounds.window));
        }
    }
}
