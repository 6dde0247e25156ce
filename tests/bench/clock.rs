//! The clock that all processes of a machine share.
//!
//! Invariant: stamps of two processes can be subtracted.

use rustix::time::ClockId;
use rustix::time::clock_gettime;

/// CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Both are never negative for this clock.
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds * 1_000_000_000 + nanoseconds
}
