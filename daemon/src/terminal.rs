//! What may reach the person at the terminal.
//!
//! Invariant: control characters from elsewhere never do.

use std::io;
use std::io::IsTerminal;

/// Text from elsewhere must not move the cursor, set titles or hide itself.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Whether colour on standard error is welcome: a terminal that shows colours,
/// and a person who did not decline (<https://no-color.org>).
pub(crate) fn stderr_takes_colour() -> bool {
    let declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");

    io::stderr().is_terminal() && !declined && !dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_marked_and_lines_stay() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc"), "a\u{fffd}[2Jb\u{fffd}\nc");
    }
}
