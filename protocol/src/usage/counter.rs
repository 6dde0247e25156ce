//! The numbers in vendors' usage objects, as they are named there.
//!
//! Invariant: a number that was not stated is `None` and never 0.

/// A number that some vendor states. What it means for the bill differs by form; see
/// [`Meters::of`](super::Meters::of).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Counter {
    /// All input, or with Anthropic what no cache had a part in.
    Input,
    /// All output, hidden reasoning included.
    Output,
    /// Input and output.
    Total,
    /// Input read from a cache.
    Cached,
    /// Input written to a cache.
    CacheWrite,
    /// Of it for five minutes.
    CacheWrite5m,
    /// Of it for one hour.
    CacheWrite1h,
    /// DeepSeek: input that was not in its cache.
    CacheMiss,
    /// Of the output: reasoning.
    Reasoning,
    /// Of the input: text.
    InputText,
    /// Of the input: audio.
    InputAudio,
    /// Of the input: images.
    InputImage,
    /// Of the cached input: text.
    CachedText,
    /// Of the cached input: audio.
    CachedAudio,
    /// Of the cached input: images.
    CachedImage,
    /// Of the output: text.
    OutputText,
    /// Of the output: audio.
    OutputAudio,
    /// Of the output: images.
    OutputImage,
    /// Milliseconds of audio that were read.
    AudioMillis,
    /// Searches of the web by the vendor.
    WebSearches,
    /// Pages of the web fetched by the vendor.
    WebFetches,
}

impl Counter {
    const LAST: Self = Self::WebFetches;
    const COUNT: usize = Self::LAST as usize + 1;
}

/// Every [`Counter`], stated or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    values: [Option<u64>; Counter::COUNT],
}

impl Counters {
    /// The number, if it was stated.
    pub fn get(&self, counter: Counter) -> Option<u64> {
        self.values.get(counter as usize).copied().flatten()
    }

    /// The number, 0 if it was not stated.
    pub fn or_zero(&self, counter: Counter) -> u64 {
        self.get(counter).unwrap_or(0)
    }

    /// Whether nothing was stated.
    pub fn is_empty(&self) -> bool {
        self.values.iter().all(Option::is_none)
    }

    /// States a number; the last one counts.
    pub(super) fn set(&mut self, counter: Counter, value: u64) {
        if let Some(slot) = self.values.get_mut(counter as usize) {
            *slot = Some(value);
        }
    }

    /// Takes over what another object states; what it does not state stays.
    pub(super) fn replace(&mut self, other: &Self) {
        for (value, newer) in self.values.iter_mut().zip(other.values) {
            *value = newer.or(*value);
        }
    }

    /// Adds what another object states: a realtime session's answers.
    pub(super) fn add(&mut self, other: &Self) {
        for (sum, value) in self.values.iter_mut().zip(other.values) {
            *sum = match (*sum, value) {
                (None, value) => value,
                (sum, None) => sum,
                (Some(sum), Some(value)) => Some(sum.saturating_add(value)),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_that_was_stated_is_not_absent() {
        let mut counters = Counters::default();
        assert!(counters.is_empty());

        counters.set(Counter::Cached, 0);

        assert_eq!((counters.get(Counter::Cached), counters.get(Counter::Input)), (Some(0), None));
        assert!(!counters.is_empty());
    }

    #[test]
    fn sums_do_not_wrap() {
        let mut sum = Counters::default();
        sum.set(Counter::Output, u64::MAX);
        let other = sum;
        sum.add(&other);

        assert_eq!(sum.get(Counter::Output), Some(u64::MAX));
        assert_eq!(sum.get(Counter::WebFetches), None);
    }
}
