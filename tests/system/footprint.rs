//! How much memory hub and agent take, and how many sockets a test may open.
//!
//! Invariant: what is measured is the processes' own memory; pages of files do not count.

use crate::scene::Scene;
use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::consumer::get;
use keyhaven_tests::daemons::PATIENCE;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;
use std::io::Write;
use std::time::Duration;
use std::time::Instant;

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Own memory of a scene's processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Footprint {
    pub(crate) hub_bytes: u64,
    pub(crate) agent_bytes: u64,
}

impl Footprint {
    /// As it is now.
    pub(crate) fn of(scene: &Scene) -> Result<Self> {
        let hub_bytes = own_bytes(scene.hub.process.pid())?;
        Ok(Self { hub_bytes, agent_bytes: own_bytes(scene.agent_process.pid())? })
    }

    /// How much larger it is than it was.
    pub(crate) fn grown_since(self, before: Self) -> Self {
        Self {
            hub_bytes: self.hub_bytes.saturating_sub(before.hub_bytes),
            agent_bytes: self.agent_bytes.saturating_sub(before.agent_bytes),
        }
    }
}

/// Lets this process, and those that it starts, have so many sockets at once.
pub(crate) fn allow_sockets(most: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < most) {
        ensure!(limit.maximum.is_none_or(|maximum| maximum >= most), "{most} open files are not allowed here");
        setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum })?;
    }
    Ok(())
}

/// Streams on the good agent's link, and bytes that the hub has granted or not yet handed on.
pub(crate) async fn committed(scene: &Scene) -> Result<(u64, u64)> {
    let links = scene.site.links().await?;
    let streams = links.iter().filter_map(|link| link["streams"].as_u64()).sum();
    let metrics = get(scene.hub.admin, "/metrics").await?.text();
    let line = metrics.lines().find_map(|line| line.strip_prefix("keyhaven_agent_gateway_committed_bytes "));
    Ok((streams, line.context("no such metric")?.parse()?))
}

/// Waits until neither hub nor agent has a stream left, nor the hub a byte of its budget in use.
pub(crate) async fn nothing_is_left(scene: &Scene) -> Result<()> {
    let began = Instant::now();
    loop {
        let (streams, bytes) = committed(scene).await?;
        let status = scene.agent.json(&["status"], "").await?;
        let at_agent = status["status"]["link"]["streams"].as_u64().context("no link")?;
        if (streams, bytes, at_agent) == (0, 0, 0) {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{streams} streams and {bytes} bytes are left, at the agent {at_agent}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Figures are for whoever reads the log of a run that passed, too.
pub(crate) fn print(line: &str) {
    // A closed stderr is no fault of the test's.
    let _ = writeln!(std::io::stderr(), "{line}");
}

pub(crate) fn own_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
