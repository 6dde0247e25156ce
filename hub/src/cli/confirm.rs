//! The question before something that cannot be undone.
//!
//! Invariant: nobody is asked where nobody can answer; there, silence means no.

use clap::Args;
use keyhaven_daemon::cli::confirm;
use keyhaven_daemon::cli::somebody_answers;
use keyhaven_daemon::failure::Failure;
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
        if !somebody_answers() {
            let refused = Failure::new(ErrorCode::UsageInvalid, "nobody is there to confirm it");
            return Err(refused.fix("give --yes if you are sure"));
        }
        // An answer that cannot be read is none.
        if confirm(question).unwrap_or(false) {
            Ok(())
        } else {
            let declined = Failure::new(ErrorCode::UsageInvalid, "not confirmed; nothing was done");
            Err(declined.fix("answer y, or give --yes"))
        }
    }
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
