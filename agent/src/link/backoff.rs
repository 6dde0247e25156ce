//! How long to wait before the next attempt: full jitter under a doubling bound.
//!
//! Invariant: the bound goes back to its first value only after a link that proved good,
//! so that a hub that accepts and drops is not hammered.

use std::time::Duration;

/// The waits between attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// The wait before the next attempt; `random` is uniform over all of `u64`.
    pub(super) fn next(&mut self, random: u64) -> Duration {
        let bound = self.first.saturating_mul(1 << self.failures.min(20)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        let bound_micros = bound.as_micros();
        let micros = (u128::from(random) * bound_micros) >> 64;
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// A link was good.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(30);

    #[test]
    fn waits_are_spread_over_a_bound_that_doubles_to_its_most() {
        let mut backoff = Backoff::new(FIRST, MOST);
        let bounds: Vec<Duration> = (0..12).map(|_| backoff.next(u64::MAX)).collect();

        assert!(bounds[0] < FIRST && bounds[0] > FIRST * 9 / 10);
        assert!(bounds[1] > FIRST && bounds[1] < FIRST * 2);
        assert!(bounds[11] < MOST && bounds[11] > MOST * 9 / 10);
        assert_eq!(Backoff::new(FIRST, MOST).next(0), Duration::ZERO);
    }

    #[test]
    fn a_good_link_starts_over() {
        let mut backoff = Backoff::new(FIRST, MOST);
        for _ in 0..10 {
            backoff.next(u64::MAX);
        }
        backoff.reset();

        assert!(backoff.next(u64::MAX) < FIRST);
    }

    #[test]
    fn thousands_of_failures_do_not_overflow() {
        let mut backoff = Backoff::new(MOST, Duration::MAX);

        assert!((0..10_000).all(|_| backoff.next(u64::MAX) <= Duration::MAX));
    }
}
