//! In which units prices are shown, as vendors state them.
//!
//! Invariant: every meter has one.

use keyhaven_protocol::usage::Meter;

/// How many priced units make one that people compare, and what that is called. Audio in
/// milliseconds is priced by the second.
pub const fn sold_by(meter: Meter) -> (u64, &'static str) {
    match meter {
        Meter::AudioMillis => (60, "minute"),
        Meter::WebSearch => (1_000, "1,000 searches"),
        Meter::Characters => (1_000_000, "1M characters"),
        Meter::Input
        | Meter::CachedInput
        | Meter::CacheWrite
        | Meter::CacheWrite1h
        | Meter::Output
        | Meter::AudioInput
        | Meter::CachedAudioInput
        | Meter::AudioOutput
        | Meter::ImageInput
        | Meter::CachedImageInput
        | Meter::ImageOutput => (1_000_000, "1M tokens"),
    }
}
