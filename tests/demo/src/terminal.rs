//! What the demo says to the person in front of it.
//!
//! Invariant: control characters from elsewhere never reach the terminal.

use std::io::Write;

/// Writes to standard output at once. A reader that went away is told nothing more.
pub(crate) fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // Nobody can be told that nobody can be told.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// The text with a mark in place of what a terminal would obey, lines excepted.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|one| if one.is_control() && one != '\n' { '\u{fffd}' } else { one }).collect()
}

/// Microseconds as milliseconds with one decimal.
pub(crate) fn milliseconds(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_marked() {
        assert_eq!(plain("a\u{1b}[2Jb\r\nc"), "a\u{fffd}[2Jb\u{fffd}\nc");
    }

    #[test]
    fn milliseconds_have_one_decimal() {
        assert_eq!(milliseconds(0), "0.0 ms");
        assert_eq!(milliseconds(12_399), "12.3 ms");
    }
}
