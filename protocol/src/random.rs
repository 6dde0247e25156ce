//! Numbers drawn from a seed, for tests that make worlds of them.
//!
//! Invariant: the same seed gives the same numbers on every machine.

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    /// The seed is mixed first: streams that begin a step apart would be one stream, begun
    /// later, and their worlds soon the same.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Self(seed).next())
    }

    /// The next of 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end as u64)).expect("below a usize")
    }

    /// Once in so many times.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.next().is_multiple_of(times)
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}
