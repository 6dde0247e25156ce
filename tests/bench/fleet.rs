//! Rows of a hub with thousands of agents: memory of an idle one and after a burst, and the
//! return of all of them after the hub was killed.
//!
//! Invariant: the agents live in another process, so that the hub's memory is the hub's alone.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use anyhow::bail;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_hub::registry::INVITATION_TTL_MAX;
use keyhaven_hub::registry::Registry;
use keyhaven_tests::process::Process;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::clock::monotonic_ns;
use crate::cpu;
use crate::cpu::Ticks;
use crate::figures::Figures;
use crate::fleet_agents::FleetAddress;
use crate::fleet_agents::FleetStatus;
use crate::keyhaven::START_TIME_MAX;
use crate::keyhaven::data_dir;
use crate::keyhaven::site;
use crate::model::Model;
use crate::plan::Plan;
use crate::probes;
use crate::street::Peer;
use crate::wire::Call;

const NAME: &str = "keyhaven";

/// Calls of the burst, and how many of them at once.
const BURST_CALLS_MAX: usize = 1000;
const BURST_AT_ONCE: usize = 8;
const BURST_BYTES: u64 = 10_000_000;

/// How long a link may take to give the burst's memory back.
const SHRINKING: Duration = Duration::from_secs(30);

/// Memory of handshakes is given back within this.
const SETTLING: Duration = Duration::from_secs(10);

/// How long a fleet may take to come up before the row gives up.
const UP_TIME_MAX: Duration = Duration::from_secs(180);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Measures all of them with one fleet.
pub(crate) async fn measure(plan: &Plan, output: Output, figures: &mut Figures) -> Result<()> {
    let count = plan.agents;
    raise_open_files(count as u64 + 1000)?;
    let dir = data_dir()?;
    let site = site(&dir.path().join("hub"), "warn")?;
    site.json(&["init"]).await?;
    let key = site.api_key().await?;
    let mut hub = site.start().await?;
    output.note(&format!("inviting {count} agents"));
    let tokens = dir.path().join("tokens");
    invite(site.dir(), hub.tunnel, count, &tokens).await?;

    let (resident_before, kernel_before) = (cpu::resident_kib(&[hub.process.pid()]), cpu::kernel_kib());
    let used_before = Ticks::of(hub.process.pid());
    output.note(&format!("{count} agents link for the first time"));
    let (_agents, fleet) = start_agents(&tokens).await?;
    until_linked(fleet, count, 0).await?;
    let used = Ticks::of(hub.process.pid()).ns_since(used_before);
    tokio::time::sleep(SETTLING).await;
    let (resident, kernel) = (cpu::resident_kib(&[hub.process.pid()]), cpu::kernel_kib());
    let per_agent = |now: u64, before: u64| now.saturating_sub(before) * 1024 / count.max(1) as u64;
    let idle = per_agent(resident, resident_before);
    figures.note("fleet_agents", NAME, count as u64);
    figures.note("fleet_idle_bytes", NAME, idle);
    // The kernel holds the fleet's ends of the connections, too.
    figures.note("fleet_idle_kernel_bytes", NAME, idle + per_agent(kernel, kernel_before) / 2);
    figures.note("fleet_link_cpu_ns", NAME, used / count.max(1) as u64);

    let peer = Peer { name: NAME, addr: hub.consumer, key, parts: Vec::new() };

    output.note("a burst through some of them");
    let served = burst(&peer, fleet, count.min(BURST_CALLS_MAX)).await?;
    tokio::time::sleep(SHRINKING).await;
    let grown = cpu::resident_kib(&[hub.process.pid()]).saturating_sub(resident) * 1024;
    figures.note("fleet_burst_agents", NAME, served);
    figures.note("fleet_burst_bytes", NAME, idle + grown / served.max(1));
    figures.note_latencies("fleet_first_byte", NAME, probes::first_bytes(&peer, plan.serial_calls).await?);

    output.note("the hub is killed and started again");
    let refused_before = ask(fleet, 0).await?.refused;
    hub.process.kill_9()?;
    let killed_at = monotonic_ns();
    let again = site.start().await?;
    let answered = until_answered(&peer).await?;
    let up = until_linked(fleet, count, killed_at).await?;
    let used = Ticks::of(again.process.pid()).ns_since(Ticks::ZERO);
    note_return(&up, killed_at, figures);
    figures.note("reconnect_cpu_ns", NAME, used / count.max(1) as u64);
    figures.note("reconnect_service_ns", NAME, answered.saturating_sub(killed_at));
    let refused = up.refused - refused_before;
    if refused > 0 {
        output.note(&format!("{refused} attempts were refused, the last one with {}", up.refusal));
    }
    figures.note("reconnect_refused", NAME, refused as u64);
    Ok(())
}

fn note_return(status: &FleetStatus, killed_at: u64, figures: &mut Figures) {
    let after: Vec<u64> = status.came_up_ns.iter().map(|at| at.saturating_sub(killed_at)).collect();
    let half = after.get(after.len() / 2).copied().unwrap_or_default();
    figures.note("reconnect_p50_ns", NAME, half);
    figures.note("reconnect_all_ns", NAME, after.last().copied().unwrap_or_default());
}

/// Thousands of commands would take minutes; the registry that they use takes seconds.
async fn invite(hub_dir: &Path, tunnel: SocketAddr, count: usize, tokens: &Path) -> Result<()> {
    let registry = Registry::open(hub_dir, None).await?;
    let address = tunnel.to_string();
    let mut lines = String::new();
    for _ in 0..count {
        let invited = registry.invite(None, &address, INVITATION_TTL_MAX, unix_ms_now()).await?;
        lines += &invited.token.encode();
        lines.push('\n');
    }
    registry.store.close().await;
    Ok(std::fs::write(tokens, lines)?)
}

async fn start_agents(tokens: &Path) -> Result<(Process, SocketAddr)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("fleet").arg("--tokens").arg(tokens);
    let mut process = Process::start(command)?;
    let address: FleetAddress = serde_json::from_value(process.json_line(START_TIME_MAX).await?)?;
    Ok((process, address.status))
}

async fn ask(fleet: SocketAddr, since_ns: u64) -> Result<FleetStatus> {
    let mut socket = TcpStream::connect(fleet).await?;
    socket.write_all(format!("{since_ns}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// Waits until all are linked, each of them after that time.
async fn until_linked(fleet: SocketAddr, count: usize, since_ns: u64) -> Result<FleetStatus> {
    let began = Instant::now();
    loop {
        let status = ask(fleet, since_ns).await?;
        if status.linked == count && status.came_up_ns.len() >= count {
            return Ok(status);
        }
        if began.elapsed() > UP_TIME_MAX {
            bail!("only {} of {count} agents are linked; the last refusal: {}", status.linked, status.refusal);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// When the first call is answered again.
async fn until_answered(peer: &Peer) -> Result<u64> {
    let began = Instant::now();
    loop {
        if let Ok(mut call) = Call::connect(peer, Model::Json).await
            && call.timed().await.is_ok()
        {
            return Ok(monotonic_ns());
        }
        if began.elapsed() > UP_TIME_MAX {
            bail!("no call is answered after the hub's return");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Large answers through many agents; how many of them served one.
async fn burst(peer: &Peer, fleet: SocketAddr, calls: usize) -> Result<u64> {
    let mut under_way = JoinSet::new();
    for _ in 0..calls {
        if under_way.len() >= BURST_AT_ONCE
            && let Some(done) = under_way.join_next().await
        {
            done??;
        }
        let peer = peer.clone();
        under_way.spawn(async move { probes::download(&peer, BURST_BYTES).await });
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    Ok(ask(fleet, 0).await?.served as u64)
}

/// Hub and fleet need a file for each link, and inherit the bound from here.
fn raise_open_files(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        if limit.maximum.is_some_and(|maximum| maximum < wanted) {
            bail!("this row needs {wanted} open files a process: raise the hard limit (ulimit -H -n)");
        }
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(())
}
