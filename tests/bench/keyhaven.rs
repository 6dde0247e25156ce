//! Our own hub and agent as processes, with the settings that every row is measured with.
//!
//! Invariant: all figures are taken with the same settings; a row that needs a setup of its
//! own changes addresses, never tuning.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::daemons::RunningHub;
use keyhaven_tests::process;
use keyhaven_tests::process::Process;
use tempfile::TempDir;

use crate::street::Part;
use crate::street::Peer;
use crate::street::until_it_answers;
use crate::upstream::Addresses;

/// The vendor's key that nginx and the agent put in; made up.
pub(crate) const VENDOR_KEY: &str = "sk-bench-0123456789abcdef0123456789abcdef";

/// How long a part may take until it serves.
pub(crate) const START_TIME_MAX: Duration = Duration::from_secs(20);

/// Calls under way at once through one agent: more than any row makes.
const CONCURRENT_MAX: u32 = 4000;

/// A hub and what stands before and behind it; ends when dropped.
pub(crate) struct Keyhaven {
    /// As consumers call it.
    pub(crate) peer: Peer,
    /// How its hub is started.
    pub(crate) site: HubSite,
    /// Its hub.
    pub(crate) hub: RunningHub,
    /// Its agent.
    pub(crate) agent: Process,
    /// How its agent is started once more.
    again: AgentCommand,
    _dir: TempDir,
}

#[derive(Clone)]
struct AgentCommand {
    dir: PathBuf,
    upstream: Addresses,
    log_level: String,
}

impl Keyhaven {
    /// Starts both; the agent dials what `path` makes of the hub's tunnel address.
    pub(crate) async fn start(
        upstream: &Addresses,
        log_level: &str,
        path: impl FnOnce(SocketAddr) -> Result<SocketAddr>,
    ) -> Result<Self> {
        let dir = data_dir()?;
        let site = site(&dir.path().join("hub"), log_level)?;
        site.json(&["init"]).await?;
        let key = site.api_key().await?;
        let hub = site.start().await?;
        let address = path(hub.tunnel)?.to_string();
        let invitation = site.json(&["agent", "invite", "--address", &address]).await?;
        let token = invitation["token"].as_str().context("no join token was made")?;
        let agent_dir = dir.path().join("agent");
        let again = AgentCommand { dir: agent_dir, upstream: upstream.clone(), log_level: log_level.to_owned() };
        let agent = Process::start(again.first(token)?)?;
        let peer = Peer { name: "keyhaven", addr: hub.consumer, key, parts: Vec::new() };
        until_it_answers(&peer).await?;
        let parts = vec![Part::of("hub", hub.process.pid()), Part::of("agent", agent.pid())];
        Ok(Self { peer: Peer { parts, ..peer }, site, hub, agent, again, _dir: dir })
    }

    /// Starts the agent again, after it has ended.
    pub(crate) fn start_agent_again(&mut self) -> Result<()> {
        self.agent = Process::start(self.again.command()?)?;
        Ok(())
    }
}

impl AgentCommand {
    fn first(&self, token: &str) -> Result<Command> {
        let mut command = self.command()?;
        command.env("KIT_JOIN_TOKEN", token).env("KIT_KEYS", format!("openai={VENDOR_KEY}"));
        Ok(command)
    }

    fn command(&self) -> Result<Command> {
        let mut command = process::command("loopback_agent")?;
        command.arg("--data-dir").arg(&self.dir);
        command.arg("--upstream-map").arg(format!("api.openai.com={}", self.upstream.tls));
        command.arg("--upstream-ca").arg(&self.upstream.ca_pem);
        command.arg("--log-level").arg(&self.log_level);
        command.env("KEYHAVEN_AGENT_CALLS_CONCURRENT_MAX", CONCURRENT_MAX.to_string());
        Ok(command)
    }
}

/// A hub that has its ports for good, so that it can be started again.
pub(crate) fn site(dir: &Path, log_level: &str) -> Result<HubSite> {
    let site = HubSite::new(dir).on_fixed_ports()?;
    Ok(site.set("log.level", log_level).set("consumer.connections_max", "12000"))
}

/// A directory in memory if there is such a file system: disks are not what is measured.
pub(crate) fn data_dir() -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("keyhaven-bench-");
    let memory = Path::new("/dev/shm");
    Ok(if memory.is_dir() { builder.tempdir_in(memory)? } else { builder.tempdir()? })
}

/// An address that nobody has.
pub(crate) fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?.local_addr()?)
}
