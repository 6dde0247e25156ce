//! The hub's program: read the command line, do it, say how it went.
//!
//! Invariant: memory that may hold keys never reaches a core dump.

use std::process::ExitCode;

use keyhaven_daemon::cli::finish;
use keyhaven_daemon::cli::parse;
use keyhaven_daemon::hardening::forbid_core_dumps;
use keyhaven_hub::cli::Cli;

fn main() -> ExitCode {
    let cli: Cli = match parse() {
        Ok(cli) => cli,
        Err(ended) => return ended,
    };
    let output = cli.output();
    if let Err(error) = forbid_core_dumps() {
        output.note(&format!("warning: core dumps cannot be forbidden: {error}"));
    }
    finish(output, cli.run())
}
