//! Daemons that are replaced while consumers call: no call may fail.
//!
//! Invariant: callers use connections as SDKs do: again and again, and a new one where the
//! last answer said that this one closes; nothing is tried twice.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use keyhaven_daemon::cli::Output;
use tokio::task::JoinSet;

use crate::clock::monotonic_ns;
use crate::figures::Figures;
use crate::keyhaven::Keyhaven;
use crate::keyhaven::START_TIME_MAX;
use crate::model::Model;
use crate::plan::Plan;
use crate::street::Peer;
use crate::street::start_upstream;
use crate::wire::Call;

/// Callers at once.
const CALLERS: u64 = 16;

/// How often the agent is replaced during all the calls.
const TIMES: u64 = 5;

const LOOK_AGAIN: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Tally {
    made: AtomicU64,
    failed: AtomicU64,
    slowest_ns: AtomicU64,
}

/// An agent that ends as on an upgrade and is started again, several times.
pub(crate) async fn agents(plan: &Plan, log_level: &str, output: Output, figures: &mut Figures) -> Result<()> {
    output.note(&format!("{} calls while the agent is replaced {TIMES} times", plan.drain_calls));
    let (_process, upstream) = start_upstream().await?;
    let mut keyhaven = Keyhaven::start(&upstream, log_level, Ok).await?;
    let tally = Arc::new(Tally::default());
    let mut callers = gather(&keyhaven.peer, &tally, plan.drain_calls);
    for time in 1..=TIMES {
        let due = plan.drain_calls * time / (TIMES + 1);
        while tally.made.load(Ordering::SeqCst) < due {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        keyhaven.agent.terminate()?;
        keyhaven.agent.wait(START_TIME_MAX).await?;
        keyhaven.start_agent_again()?;
    }
    while let Some(ended) = callers.join_next().await {
        ended?;
    }
    let (name, failed) = (keyhaven.peer.name, tally.failed.load(Ordering::SeqCst));
    figures.note("drain_agent_calls", name, plan.drain_calls);
    figures.note("drain_agent_times", name, TIMES);
    figures.note("drain_agent_failed", name, failed);
    figures.note("drain_agent_slowest_ns", name, tally.slowest_ns.load(Ordering::SeqCst));
    figures.note_errors("calls while the agent was replaced", failed);
    Ok(())
}

fn gather(peer: &Peer, tally: &Arc<Tally>, calls: u64) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (peer, tally) = (peer.clone(), Arc::clone(tally));
        callers.spawn(async move {
            let mut connection = None;
            while tally.made.fetch_add(1, Ordering::SeqCst) < calls {
                let began = monotonic_ns();
                match call(&peer, connection.take()).await {
                    Ok(next) => connection = next,
                    Err(_) => {
                        tally.failed.fetch_add(1, Ordering::SeqCst);
                    }
                }
                tally.slowest_ns.fetch_max(monotonic_ns() - began, Ordering::SeqCst);
            }
        });
    }
    callers
}

/// One call; the connection, if it may be used again.
async fn call(peer: &Peer, connection: Option<Call>) -> Result<Option<Call>> {
    let mut call = match connection {
        Some(call) => call,
        None => Call::connect(peer, Model::Json).await?,
    };
    call.timed().await?;
    Ok(call.stays().then_some(call))
}
