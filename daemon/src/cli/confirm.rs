//! The question before something that needs a person's word.
//!
//! Invariant: silence means no.

use std::io;
use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Write;

/// Whether a question reaches a person, and the answer us.
pub fn somebody_answers() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a question that `y` or `yes` affirms. Ask only where
/// [`somebody_answers`].
///
/// # Errors
/// The question cannot be asked or the answer cannot be read.
pub fn confirm(question: &str) -> io::Result<bool> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    affirms(io::stdin().lock())
}

fn affirms(mut answers: impl BufRead) -> io::Result<bool> {
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_affirms() {
        for yes in ["y\n", "Y\r\n", " yes \n", "YES"] {
            assert!(affirms(yes.as_bytes()).unwrap(), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "yeah\n", "no\ny\n"] {
            assert!(!affirms(no.as_bytes()).unwrap(), "{no:?}");
        }
    }
}
