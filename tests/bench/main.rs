//! The benchmark: direct, nginx and Keyhaven in one run, in turn, on this machine.
//!
//! Invariant: traffic stays on 127.0.0.1, and a run with a failed call fails.

mod clock;
mod cpu;
mod figures;
mod load;
mod model;
mod peers;
mod probes;
mod report;
mod rounds;
mod upstream;
mod wire;

use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::finish;

use crate::peers::Street;
use crate::rounds::Plan;

/// Compares calls made directly, through nginx and through Keyhaven.
#[derive(Parser)]
struct Arguments {
    /// Print one JSON object with every round's figures instead of tables.
    #[arg(long)]
    json: bool,
    /// One short round, to see that everything runs; its figures mean little.
    #[arg(long)]
    quick: bool,
    /// Rounds, of which the medians are shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How much hub and agent log: every call, at info.
    #[arg(long, default_value = "info")]
    log_level: String,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// The upstream alone; the benchmark starts it by itself.
    Upstream,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::new(arguments.json);
    finish(output, run(&arguments, output))
}

fn run(arguments: &Arguments, output: Output) -> anyhow::Result<()> {
    match arguments.part {
        Some(Part::Upstream) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(upstream::serve())
        }
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(measure(arguments, output))
        }
    }
}

async fn measure(arguments: &Arguments, output: Output) -> anyhow::Result<()> {
    let plan = if arguments.quick { Plan::quick() } else { Plan::full(arguments.rounds) };
    if cfg!(debug_assertions) {
        output.note("warning: this is a debug build; its figures mean nothing");
    }
    let street = Street::build(&arguments.log_level).await?;
    let figures = rounds::run(&street, &plan, output).await?;
    output.emit("bench", &figures, || report::to_text(&figures, plan.rounds))?;
    let failed = figures.failed();
    anyhow::ensure!(failed.is_empty(), "calls failed: {}", failed.join(", "));
    Ok(())
}
