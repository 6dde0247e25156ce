//! Daemons that are replaced while consumers call: no call may fail.
//!
//! Invariant: callers use connections as SDKs do: again and again, and a new one where the
//! last answer said that this one closes; nothing is tried twice.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;
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

/// How often a daemon is replaced during all the calls.
const TIMES: u64 = 5;

const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Those who call meanwhile.
struct Crowd {
    tally: Arc<Tally>,
    callers: JoinSet<()>,
    calls: u64,
}

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
    let crowd = Crowd::gather(&keyhaven.peer, plan.drain_calls);
    for time in 1..=TIMES {
        crowd.until(time).await;
        keyhaven.agent.terminate()?;
        keyhaven.agent.wait(START_TIME_MAX).await?;
        keyhaven.start_agent_again()?;
    }
    crowd.end("agent", keyhaven.peer.name, figures).await
}

/// A hub in whose place another one is started, several times.
pub(crate) async fn hubs(plan: &Plan, log_level: &str, output: Output, figures: &mut Figures) -> Result<()> {
    output.note(&format!("{} calls while the hub is replaced {TIMES} times", plan.drain_calls));
    let (_process, upstream) = start_upstream().await?;
    let mut keyhaven = Keyhaven::start(&upstream, log_level, Ok).await?;
    let crowd = Crowd::gather(&keyhaven.peer, plan.drain_calls);
    for time in 1..=TIMES {
        crowd.until(time).await;
        let next = keyhaven.site.start_as(keyhaven.site.command(&["serve", "--replace"])?).await?;
        let mut last = std::mem::replace(&mut keyhaven.hub, next);
        let ended = last.process.wait(START_TIME_MAX).await?;
        ensure!(ended.success(), "a hub that was replaced ended with {ended}: {}", last.process.stderr());
    }
    crowd.end("hub", keyhaven.peer.name, figures).await
}

impl Crowd {
    fn gather(peer: &Peer, calls: u64) -> Self {
        let tally = Arc::<Tally>::default();
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            callers.spawn(call_on(peer.clone(), Arc::clone(&tally), calls));
        }
        Self { tally, callers, calls }
    }

    /// Waits until it is the time-th daemon's turn.
    async fn until(&self, time: u64) {
        let due = self.calls * time / (TIMES + 1);
        while self.tally.made.load(Ordering::SeqCst) < due {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits for the last call.
    async fn end(mut self, daemon: &str, peer: &'static str, figures: &mut Figures) -> Result<()> {
        while let Some(ended) = self.callers.join_next().await {
            ended?;
        }
        let failed = self.tally.failed.load(Ordering::SeqCst);
        figures.note(format!("drain_{daemon}_calls"), peer, self.calls);
        figures.note(format!("drain_{daemon}_times"), peer, TIMES);
        figures.note(format!("drain_{daemon}_failed"), peer, failed);
        figures.note(format!("drain_{daemon}_slowest_ns"), peer, self.tally.slowest_ns.load(Ordering::SeqCst));
        figures.note_errors(format!("calls while the {daemon} was replaced"), failed);
        Ok(())
    }
}

async fn call_on(peer: Peer, tally: Arc<Tally>, calls: u64) {
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
