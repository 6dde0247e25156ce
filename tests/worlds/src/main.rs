//! Two ledgers in worlds of faults: the shipped machines of both sides, driven by a seed.
//!
//! ```text
//! cargo run --release -p keyhaven-worlds                                what the tests run: all of it, a minute or so
//! cargo run --release -p keyhaven-worlds -- --requests 1000000000       as long as you like
//! cargo run --release -p keyhaven-worlds -- --seed 15395 --cheats both  one world again
//! ```
//!
//! Invariant: a seed says everything that happens; a run that proves nothing fails.

mod agent;
mod books;
mod calls;
mod cheats;
mod check;
mod credits;
mod hub;
mod links;
mod mutant;
mod random;
mod real;
mod records;
mod rest;
mod suite;
mod troubles;
mod truth;
mod world;
mod writer;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

use crate::world::Cheats;

/// Runs the ledgers of agents and hub in simulated worlds of faults and cheats.
#[derive(Parser)]
struct Arguments {
    /// Requests of all worlds together, half of them in worlds where everybody is honest.
    #[arg(long, default_value_t = 20_000_000)]
    requests: u64,
    /// Requests of worlds with real hashes, signatures and records.
    #[arg(long, default_value_t = 100_000)]
    real: u64,
    /// The first world's seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Runs this world alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Who cheats in it.
    #[arg(long, value_enum, default_value_t = Cheats::Nobody, requires = "seed")]
    cheats: Cheats,
    /// It has real records.
    #[arg(long, requires = "seed")]
    with_records: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ran = match arguments.seed {
        Some(seed) => suite::one(seed, arguments.cheats, arguments.with_records),
        None => suite::all(arguments.first, arguments.requests, arguments.real),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            say(&format!("FAILED: {fault}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line.
fn say(line: &str) {
    // Who closed the output hears nothing more; the exit code says it.
    let _ = writeln!(std::io::stdout(), "{line}");
}
