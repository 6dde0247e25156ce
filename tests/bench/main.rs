//! The benchmark: peers and Keyhaven in one run, in turn, on this machine.
//!
//! Invariant: traffic stays on 127.0.0.1, and a run with a failed call fails.

mod alone;
mod answer;
mod bare;
mod cancels;
mod clock;
mod cpu;
mod drain;
mod figures;
mod fleet;
mod fleet_agents;
mod goals;
mod keyhaven;
mod load;
mod model;
mod nginx;
mod paths;
mod plan;
mod probes;
mod rathole;
mod report;
mod rounds;
mod saturate;
mod seen;
mod settlement;
mod spent;
mod street;
mod tap;
mod upstream;
mod wire;

use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::finish;
use keyhaven_daemon::tasks::Tasks;

use crate::figures::Figures;
use crate::plan::Plan;
use crate::plan::Row;
use crate::rathole::Program;
use crate::street::Street;

/// Compares calls made directly, through other people's proxies and tunnels, and through Keyhaven.
#[derive(Parser)]
struct Arguments {
    /// Print one JSON object with every round's figures instead of tables.
    #[arg(long)]
    json: bool,
    /// One short round, to see that everything runs and nothing is lost; its figures mean little.
    #[arg(long, conflicts_with = "long")]
    quick: bool,
    /// 10,000 cancels a phase and 100,000 calls under replacement.
    #[arg(long)]
    long: bool,
    /// Only these rows, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Row>,
    /// Rounds, of which the medians are shown.
    #[arg(long)]
    rounds: Option<usize>,
    /// Leave rathole out; it is built once, from crates.io, which takes minutes.
    #[arg(long)]
    without_rathole: bool,
    /// How much hub and agent log: every call, at info.
    #[arg(long, default_value = "info")]
    log_level: String,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What stands by itself, and what the benchmark starts.
#[derive(Subcommand)]
enum Part {
    /// Calls settled in a second on SQLite and MariaDB.
    Settlement(settlement::Orders),
    /// The upstream.
    Upstream,
    /// The bare tunnel's end at the hub.
    BareHub,
    /// The bare tunnel's end at the agent.
    BareAgent(bare::AgentEnd),
    /// Thousands of agents.
    Fleet(fleet_agents::FleetOrders),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::new(arguments.json);
    finish(output, run(arguments, output))
}

fn run(mut arguments: Arguments, output: Output) -> anyhow::Result<()> {
    let parallel = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match arguments.part.take() {
        Some(Part::Settlement(orders)) => parallel()?.block_on(settlement::measure(&orders, output)),
        Some(Part::Upstream) => parallel()?.block_on(upstream::serve()),
        Some(Part::BareHub) => parallel()?.block_on(bare::serve_hub(Tasks::new())),
        Some(Part::BareAgent(end)) => parallel()?.block_on(bare::serve_agent(end, Tasks::new())),
        Some(Part::Fleet(orders)) => parallel()?.block_on(fleet_agents::serve(orders, Tasks::new())),
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(measure(&arguments, output))
        }
    }
}

async fn measure(arguments: &Arguments, output: Output) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        output.note("warning: this is a debug build; its figures mean nothing");
    }
    let plan = plan_of(arguments);
    let mut figures = Figures::default();
    let rathole = rathole_for(arguments, &plan, output)?;
    let level = &arguments.log_level;
    if plan.compares() {
        let street = Street::build(level, rathole.as_ref()).await?;
        rounds::compare(&street, &plan, output, &mut figures).await?;
    }
    if plan.has(Row::Tap) {
        tap::measure(&mut figures)?;
    }
    if plan.has(Row::SlowPath) || plan.has(Row::FarPath) {
        paths::measure(&plan, rathole.as_ref(), level, output, &mut figures).await?;
    }
    if plan.has(Row::IdleAgent) {
        alone::idle(&plan, level, output, &mut figures).await?;
    }
    if plan.has(Row::Stalls) {
        alone::stalls(&plan, level, output, &mut figures).await?;
    }
    if plan.has(Row::Drain) {
        drain::agents(&plan, level, output, &mut figures).await?;
        drain::hubs(&plan, level, output, &mut figures).await?;
    }
    if plan.has(Row::DeadPeer) {
        alone::dead_peer(level, output, &mut figures).await?;
    }
    if plan.has(Row::Fleet) {
        fleet::measure(&plan, output, &mut figures).await?;
    }
    output.emit("bench", &figures, || report::to_text(&figures, plan.rounds))?;
    let failed = figures.failed();
    anyhow::ensure!(failed.is_empty(), "calls failed: {}", failed.join(", "));
    Ok(())
}

fn plan_of(arguments: &Arguments) -> Plan {
    let mut plan = match arguments {
        Arguments { quick: true, .. } => Plan::quick(),
        Arguments { long: true, .. } => Plan::long(),
        Arguments { .. } => Plan::full(),
    };
    if !arguments.only.is_empty() {
        plan.rows.clone_from(&arguments.only);
    }
    if let Some(rounds) = arguments.rounds {
        plan.rounds = rounds.max(1);
    }
    plan
}

/// Building it takes minutes, which the quick run does not have.
fn rathole_for(arguments: &Arguments, plan: &Plan, output: Output) -> anyhow::Result<Option<Program>> {
    let of_use = plan.compares() || plan.has(Row::SlowPath) || plan.has(Row::FarPath);
    let wanted = of_use && !arguments.quick && !arguments.without_rathole;
    wanted.then(|| Program::found_or_built(output)).transpose()
}
