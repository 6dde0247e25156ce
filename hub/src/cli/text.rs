//! Times, durations and lists as people read and type them.
//!
//! Invariant: every time on the screen is UTC and says so.

use std::time::Duration;

/// `2026-11-20T10:00:00Z`.
pub(super) fn time(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).ok();
    match seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()) {
        Some(time) => time.to_string(),
        None => format!("{unix_ms} ms after 1970"),
    }
}

/// A time, or a dash where there is none.
pub(super) fn maybe_time(unix_ms: Option<u64>) -> String {
    unix_ms.map_or_else(|| "-".to_owned(), time)
}

/// Reads `90s`, `15m`, `12h` or `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number and s, m, h or d, such as 15m".to_owned();
    let unit = text.chars().next_back().ok_or_else(expected)?;
    let seconds_per_unit = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(expected()),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(expected());
    }
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(seconds_per_unit))
        .map(Duration::from_secs)
        .ok_or_else(|| "that is longer than anybody can wait".to_owned())
}

/// The parts with commas between them.
pub(super) fn joined<T: ToString>(parts: &[T]) -> String {
    let parts: Vec<String> = parts.iter().map(T::to_string).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_number_and_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("12h"), Ok(Duration::from_secs(43_200)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        for bad in ["", "m", "15", "-1m", "+1m", "1.5h", "1 h", "1w", "1é", "99999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_utc_whatever_comes() {
        assert_eq!(time(1_795_168_800_999), "2026-11-20T10:00:00Z");
        assert_eq!(maybe_time(None), "-");
        assert!(time(u64::MAX).contains("after 1970"));
    }
}
