//! The released agent: it reaches the vendors' official hosts and no others.
//!
//! Invariant: the egress is constructed here, and nothing that is read at run
//! time can change it.

use std::process::ExitCode;

use keyhaven_agent::cli::Arguments;
use keyhaven_agent::provider::Egress;
use keyhaven_daemon::cli::parse;
use keyhaven_daemon::hardening;

fn main() -> ExitCode {
    // Before anything secret is read.
    let hardened = hardening::forbid_core_dumps();
    let arguments: Arguments = match parse() {
        Ok(arguments) => arguments,
        Err(ended) => return ended,
    };
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        unreachable!("main alone installs a crypto provider");
    }
    keyhaven_agent::cli::run(arguments, Egress::official(), hardened)
}
