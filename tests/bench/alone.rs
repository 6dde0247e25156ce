//! Rows of one hub with one agent: an idle pair, stalled consumers, a silent agent.
//!
//! Invariant: each row has a pair of its own, so that none inherits another's memory.

use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use keyhaven_daemon::cli::Output;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::clock::monotonic_ns;
use crate::cpu;
use crate::cpu::Ticks;
use crate::figures::Figures;
use crate::figures::Latencies;
use crate::keyhaven::Keyhaven;
use crate::model::Model;
use crate::plan::Plan;
use crate::seen::After;
use crate::street::Peer;
use crate::street::start_upstream;
use crate::wire;
use crate::wire::Call;
use crate::wire::Observer;

/// Memory and timers of a start settle within this.
const SETTLING: Duration = Duration::from_secs(5);

/// Callers beside the stalled ones, and the calls of each.
const CALLERS: usize = 4;
const CALLS: usize = 400;

/// A consumer that does not read holds back as little as the kernel allows.
const STALLED_RECEIVE_BYTES: u32 = 4096;

/// How long a silent peer may stay unnoticed before the row gives up.
const UNNOTICED_MAX: Duration = Duration::from_secs(90);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Memory and wake-ups of a pair that does nothing.
pub(crate) async fn idle(plan: &Plan, log_level: &str, output: Output, figures: &mut Figures) -> Result<()> {
    output.note(&format!("an idle agent, for {} s", plan.idle.as_secs()));
    let (_process, upstream) = start_upstream().await?;
    let keyhaven = Keyhaven::start(&upstream, log_level, Ok).await?;
    tokio::time::sleep(SETTLING).await;
    let name = keyhaven.peer.name;
    let agent = keyhaven.agent.pid();
    let (before, used_before) = (cpu::wakeups(agent), Ticks::of(agent));
    tokio::time::sleep(plan.idle).await;
    let (after, used) = (cpu::wakeups(agent), Ticks::of(agent).ns_since(used_before));
    let seconds = plan.idle.as_secs().max(1);
    figures.note("idle_agent_kib", name, cpu::resident_kib(&[agent]));
    figures.note("idle_agent_wakeups_hundredths", name, after.saturating_sub(before) * 100 / seconds);
    figures.note("idle_agent_cpu_ns", name, used * 60 / seconds);
    figures.note("idle_hub_kib", name, cpu::resident_kib(&[keyhaven.hub.process.pid()]));
    Ok(())
}

/// Consumers that send a request and never read, first of large answers, then of small pieces.
pub(crate) async fn stalls(plan: &Plan, log_level: &str, output: Output, figures: &mut Figures) -> Result<()> {
    for (model, metric) in [(Model::Bulk { bytes: 1 << 40 }, "stall_large"), (Model::Crumbs, "stall_crumbs")] {
        output.note(&format!("{} consumers stall: {metric}", plan.stalled));
        let (process, upstream) = start_upstream().await?;
        let keyhaven = Keyhaven::start(&upstream, log_level, Ok).await?;
        let (peer, hub) = (&keyhaven.peer, keyhaven.hub.process.pid());
        let links_before = link_numbers(&keyhaven).await?;
        // The first calls make connections and memory that stay.
        others(peer).await?;
        let before = others(peer).await?;
        let resident_before = cpu::resident_kib(&[hub]);
        let stalled = stall(peer, upstream.plain, model, plan.stalled).await?;
        until_quiet(&[process.pid(), hub, keyhaven.agent.pid()]).await;
        let beside = others(peer).await?;
        let resident = cpu::resident_kib(&[hub]).saturating_sub(resident_before);
        let links = link_numbers(&keyhaven).await?;
        let lost = links_before.iter().filter(|link| !links.contains(link)).count();
        drop(stalled);
        let count = plan.stalled as u64;
        figures.note("stalled", peer.name, count);
        figures.note("stall_before_p99_ns", peer.name, before.p99_ns);
        figures.note(format!("{metric}_p99_ns"), peer.name, beside.p99_ns);
        figures.note(format!("{metric}_p99_ns"), "before", before.p99_ns);
        figures.note(format!("{metric}_bytes"), peer.name, resident * 1024 / count.max(1));
        figures.note("stall_links_lost", peer.name, lost as u64);
        figures.note_errors(format!("links lost by {metric}"), lost as u64);
    }
    Ok(())
}

/// An agent that is stopped like a machine that was unplugged: with a stream open, and idle.
pub(crate) async fn dead_peer(log_level: &str, output: Output, figures: &mut Figures) -> Result<()> {
    output.note("an agent falls silent, with a stream open and idle");
    let (_process, upstream) = start_upstream().await?;
    let busy = Keyhaven::start(&upstream, log_level, Ok).await?;
    let mut call = Call::connect(&busy.peer, Model::Events { count: 100_000, every_us: 5_000 }).await?;
    call.first_event().await?;
    let silent_at = freeze(busy.agent.pid())?;
    call.until_cut_off().await?;
    figures.note("dead_busy_ns", busy.peer.name, monotonic_ns() - silent_at);
    drop(busy);

    let idle = Keyhaven::start(&upstream, log_level, Ok).await?;
    tokio::time::sleep(SETTLING).await;
    let silent_at = freeze(idle.agent.pid())?;
    let began = Instant::now();
    while !link_numbers(&idle).await?.is_empty() {
        if began.elapsed() > UNNOTICED_MAX {
            bail!("nobody noticed that the agent fell silent");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    figures.note("dead_idle_ns", idle.peer.name, monotonic_ns() - silent_at);
    Ok(())
}

/// Stops a process where it is; it is killed, which a stopped one can be, when it is dropped.
fn freeze(pid: u32) -> Result<u64> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process id")?;
    kill_process(pid, Signal::STOP)?;
    Ok(monotonic_ns())
}

async fn link_numbers(keyhaven: &Keyhaven) -> Result<Vec<String>> {
    let links = keyhaven.site.links().await?;
    Ok(links.iter().map(|link| link["link_id"].to_string()).collect())
}

/// Calls of those who read, some at once: how long each took.
async fn others(peer: &Peer) -> Result<Latencies> {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let mut call = Call::connect(peer, Model::Json).await?;
        callers.spawn(async move {
            let mut taken = Vec::with_capacity(CALLS);
            for _ in 0..CALLS {
                taken.push(call.timed().await?.1);
            }
            anyhow::Ok(taken)
        });
    }
    let mut taken = Vec::new();
    while let Some(done) = callers.join_next().await {
        taken.extend(done??);
    }
    Ok(Latencies::of(taken))
}

/// Consumers that have sent their request, once all of them have reached the upstream.
async fn stall(peer: &Peer, upstream: SocketAddr, model: Model, count: usize) -> Result<Vec<TcpStream>> {
    let mut observer = Observer::connect(upstream).await?;
    let before = observer.seen().await?.calls;
    let request = wire::request(peer, &model.request_body());
    let mut stalled = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(STALLED_RECEIVE_BYTES)?;
        let mut socket = socket.connect(peer.addr).await?;
        socket.write_all(&request).await?;
        stalled.push(socket);
    }
    for _ in 0..12 {
        if observer.seen_after(After::Calls(before + count as u64 - 1)).await?.is_some() {
            return Ok(stalled);
        }
    }
    bail!("not all of {count} stalled calls reached the upstream")
}

/// Waits until these processes have next to nothing to do any more, two minutes at most.
async fn until_quiet(pids: &[u32]) {
    for _ in 0..120 {
        let before = Ticks::of_all(pids);
        tokio::time::sleep(Duration::from_secs(1)).await;
        if Ticks::of_all(pids).ns_since(before) < 50_000_000 {
            return;
        }
    }
}
