//! How often a peer may do what costs us more than it costs the peer.
//!
//! Invariant: a peer within its rate is never refused, and one that floods is told apart from
//! one that is only eager.

use super::Micros;

const SECOND: u64 = 1_000_000;

/// So many times its rate is a flood.
const FLOOD_FACTOR: u64 = 8;

/// What a rate says to one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Within the rate.
    Within,
    /// Too many: refuse what is asked, and go on.
    Over,
    /// So many that even refusing them is a burden.
    Flood,
}

/// A rate with two bounds: up to two seconds' worth may come at once, eight times of either is
/// a flood.
#[derive(Debug)]
pub(super) struct Rate {
    eager: Bucket,
    flood: Bucket,
}

/// Tokens, in millionths, so that a microsecond adds a whole number of them.
#[derive(Debug)]
struct Bucket {
    per_second: u64,
    level: u64,
    filled_at: Micros,
}

impl Rate {
    pub(super) fn new(per_second: u32, now: Micros) -> Self {
        let per_second = u64::from(per_second);
        Self { eager: Bucket::new(per_second, now), flood: Bucket::new(per_second * FLOOD_FACTOR, now) }
    }

    /// Counts one more.
    pub(super) fn count(&mut self, now: Micros) -> Verdict {
        let flood = !self.flood.take(now);
        let over = !self.eager.take(now);
        match (flood, over) {
            (true, _) => Verdict::Flood,
            (false, true) => Verdict::Over,
            (false, false) => Verdict::Within,
        }
    }

    /// Whether one more would be too many.
    pub(super) fn is_used_up(&mut self, now: Micros) -> bool {
        self.eager.fill(now);
        self.eager.level < SECOND
    }
}

impl Bucket {
    fn new(per_second: u64, now: Micros) -> Self {
        Self { per_second, level: Self::full(per_second), filled_at: now }
    }

    fn full(per_second: u64) -> u64 {
        per_second.saturating_mul(2 * SECOND)
    }

    fn fill(&mut self, now: Micros) {
        let earned = now.since(self.filled_at).saturating_mul(self.per_second);
        self.level = self.level.saturating_add(earned).min(Self::full(self.per_second));
        self.filled_at = self.filled_at.max(now);
    }

    fn take(&mut self, now: Micros) -> bool {
        self.fill(now);
        let enough = self.level >= SECOND;
        if enough {
            self.level -= SECOND;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_never_refused_and_twice_of_it_is() {
        let mut rate = Rate::new(1_000, Micros(0));

        assert!((0..100_000).all(|n| rate.count(Micros(n * 1_000)) == Verdict::Within));
        let refused = (0..100_000).filter(|n| rate.count(Micros(100 * SECOND + n * 500)) == Verdict::Over).count();
        assert!((45_000..50_001).contains(&refused), "{refused}");
    }

    #[test]
    fn a_burst_of_two_seconds_worth_passes_and_sixteen_are_a_flood() {
        let mut rate = Rate::new(100, Micros(0));
        let verdicts: Vec<Verdict> = (0..2_000).map(|_| rate.count(Micros(0))).collect();

        let count = |verdict| verdicts.iter().filter(|counted| **counted == verdict).count();
        assert_eq!((count(Verdict::Within), count(Verdict::Over), count(Verdict::Flood)), (200, 1_400, 400));
        assert!(rate.is_used_up(Micros(0)) && !rate.is_used_up(Micros(SECOND)));
    }

    #[test]
    fn a_clock_that_jumps_fills_it_once() {
        let mut rate = Rate::new(10, Micros(0));
        (0..20).for_each(|_| assert_eq!(rate.count(Micros(0)), Verdict::Within));
        assert!(rate.is_used_up(Micros(0)));

        let passed = (0..100).filter(|_| rate.count(Micros(u64::MAX)) == Verdict::Within).count();
        assert_eq!(passed, 20);
    }
}
