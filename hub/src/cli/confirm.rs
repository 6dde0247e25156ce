//! The question before something that cannot be undone.
//!
//! Invariant: nobody is asked where nobody can answer; there, silence means no.

use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Write;

use clap::Args;
use keyhaven_daemon::cli::Failure;
use keyhaven_protocol::ErrorCode;

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Consent {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Consent {
    /// Goes on if the person agrees to this, or has agreed by --yes.
    pub(super) fn ask(self, question: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            let refused = Failure::new(ErrorCode::UsageInvalid, "nobody is there to confirm it");
            return Err(refused.fix("give --yes if you are sure"));
        }
        let answer = answer_to(question).unwrap_or_default();
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            Ok(())
        } else {
            let declined = Failure::new(ErrorCode::UsageInvalid, "not confirmed; nothing was done");
            Err(declined.fix("answer y, or give --yes"))
        }
    }
}

fn answer_to(question: &str) -> std::io::Result<String> {
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_asks_nobody() {
        let consent = Consent { yes: true, dry_run: false };

        assert!(consent.ask("Sure?").is_ok());
    }
}
