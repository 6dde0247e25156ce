//! Wall-clock time as the wire and the files have it.
//!
//! Invariant: code that decides never calls this; it is handed the time.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// Milliseconds since 1970, UTC. A clock set before 1970 reads as 0.
pub fn unix_ms_now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();

    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_in_milliseconds_and_not_before_this_was_written() {
        let year_2024_ms = 1_704_067_200_000;
        let year_2200_ms = 7_258_118_400_000;

        assert!((year_2024_ms..year_2200_ms).contains(&unix_ms_now()));
    }
}
