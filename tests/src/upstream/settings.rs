//! What a test may set before the upstream starts.
//!
//! Invariant: the keys are made up, and each vendor has another one, so that a key sent to the
//! wrong vendor is refused.

use super::vendor::Vendor;
use std::collections::BTreeMap;

/// The keys the upstream accepts.
#[derive(Debug, Clone)]
pub struct Keys {
    by_vendor: BTreeMap<&'static str, String>,
}

impl Default for Keys {
    fn default() -> Self {
        let made_up = [
            (Vendor::OpenAi, "sk-kit-openai-key-0001"),
            (Vendor::Azure, "kit-azure-key-0002"),
            (Vendor::Anthropic, "sk-ant-kit-key-0003"),
            (Vendor::DeepSeek, "sk-kit-deepseek-key-0004"),
        ];
        Self { by_vendor: made_up.map(|(vendor, key)| (vendor.word(), key.to_owned())).into() }
    }
}

impl Keys {
    /// Accepts this key for a vendor instead of the made-up one.
    #[must_use]
    pub fn with(mut self, vendor: Vendor, key: &str) -> Self {
        self.by_vendor.insert(vendor.word(), key.to_owned());
        self
    }

    /// The key a vendor accepts.
    #[must_use]
    pub fn of(&self, vendor: Vendor) -> &str {
        self.by_vendor.get(vendor.word()).map_or("", String::as_str)
    }

    pub(super) fn accepts(&self, vendor: Vendor, key: &str) -> bool {
        self.of(vendor) == key
    }
}

/// How an upstream is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The keys it accepts.
    pub keys: Keys,
    /// Whether exchanges are kept; off for benchmarks. Violations are always kept.
    pub record: bool,
    /// How many bytes of each body and of each answer are kept. Hashes and counts are always of
    /// everything, and a request's JSON can be answered only if it fits.
    pub keep_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { keys: Keys::default(), record: true, keep_bytes_max: 64 << 20 }
    }
}
