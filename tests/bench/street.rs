//! The ways to the upstream that are compared, from the direct one to Keyhaven.
//!
//! Invariant: every part of every way is a process of its own on 127.0.0.1, and all of them
//! lead to the same upstream.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use anyhow::bail;
use keyhaven_tests::process::Process;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::bare::Bare;
use crate::cpu;
use crate::keyhaven::Keyhaven;
use crate::keyhaven::START_TIME_MAX;
use crate::keyhaven::VENDOR_KEY;
use crate::model::Model;
use crate::nginx::Nginx;
use crate::nginx::Way;
use crate::rathole::Program;
use crate::rathole::Rathole;
use crate::rathole::Service;
use crate::upstream::Addresses;
use crate::wire::Call;

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The names of all peers, in the order of the tables.
pub(crate) const NAMES: [&str; 7] =
    ["direct", "nginx", "rathole", "nginx+rathole", "nginx+rathole+TLS", "bare tunnel", "keyhaven"];

/// One way to the upstream.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// As the tables call it.
    pub(crate) name: &'static str,
    /// Where it is called.
    pub(crate) addr: SocketAddr,
    /// What the caller shows.
    pub(crate) key: String,
    /// Its own processes, by part.
    pub(crate) parts: Vec<Part>,
}

impl Peer {
    /// Whether a call that fails there is our fault.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.name, "bare tunnel" | "keyhaven")
    }
}

/// A part of a peer.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// As the tables call it.
    pub(crate) name: &'static str,
    /// Its processes.
    pub(crate) pids: Vec<u32>,
}

impl Part {
    /// A process with the children it has now.
    pub(crate) fn of(name: &'static str, pid: u32) -> Self {
        Self { name, pids: cpu::family(pid) }
    }
}

/// Everything that runs for a comparison; ends when dropped.
pub(crate) struct Street {
    /// In the order of [`NAMES`]; those without their program are left out.
    pub(crate) peers: Vec<Peer>,
    /// The upstream.
    pub(crate) upstream: Addresses,
    // Fields are dropped in this order: callers before those they call.
    _keyhaven: Keyhaven,
    _bare: Bare,
    _nginx: Nginx,
    _rathole: Option<Rathole>,
    _upstream: Process,
    _dir: TempDir,
}

impl Street {
    /// Starts everything and waits until every way leads to an answer.
    pub(crate) async fn build(log_level: &str, rathole: Option<&Program>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("keyhaven-bench-").tempdir()?;
        let (upstream_process, upstream) = start_upstream().await?;
        let mut ways = vec![Way::to(upstream.tls, true)?];
        let mut services = Vec::new();
        if rathole.is_some() {
            services = vec![Service::to(upstream.plain)?, Service::to(upstream.tls)?];
            ways.extend([Way::to(services[0].listen, false)?, Way::to(services[1].listen, true)?]);
        }
        let start = |program: &Program| Rathole::start(program, &dir.path().join("rathole"), &services, Ok);
        let rathole = rathole.map(start).transpose()?;
        let nginx = Nginx::start(&dir.path().join("nginx"), &ways, &upstream.ca_pem)?;
        let bare = Bare::start(upstream.plain).await?;
        let keyhaven = Keyhaven::start(&upstream, log_level, Ok).await?;

        let mut peers = vec![open("direct", upstream.plain, &[]).await?];
        let front = ("nginx", nginx.pid());
        peers.push(open("nginx", ways[0].listen, &[front]).await?);
        if let Some(rathole) = &rathole {
            let (server, client) = rathole.pids();
            let ends = [("server", server), ("client", client)];
            let chain = [front, ends[0], ends[1]];
            peers.push(open("rathole", services[0].listen, &ends).await?);
            peers.push(open("nginx+rathole", ways[1].listen, &chain).await?);
            peers.push(open("nginx+rathole+TLS", ways[2].listen, &chain).await?);
        }
        peers.push(open("bare tunnel", bare.listen, &bare.parts()).await?);
        peers.push(keyhaven.peer.clone());
        Ok(Self {
            peers,
            upstream,
            _keyhaven: keyhaven,
            _bare: bare,
            _nginx: nginx,
            _rathole: rathole,
            _upstream: upstream_process,
            _dir: dir,
        })
    }

    /// Our own.
    pub(crate) fn keyhaven(&self) -> &Peer {
        &self._keyhaven.peer
    }
}

/// Starts an upstream of its own.
pub(crate) async fn start_upstream() -> Result<(Process, Addresses)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("upstream");
    let mut process = Process::start(command)?;
    let addresses = serde_json::from_value(process.json_line(START_TIME_MAX).await?)?;
    Ok((process, addresses))
}

/// A way that takes the vendor's key, once it answers.
async fn open(name: &'static str, addr: SocketAddr, parts: &[(&'static str, u32)]) -> Result<Peer> {
    let peer = Peer { name, addr, key: VENDOR_KEY.to_owned(), parts: Vec::new() };
    until_it_answers(&peer).await?;
    // Only now has nginx made its workers.
    let parts = parts.iter().map(|(name, pid)| Part::of(name, *pid)).collect();
    Ok(Peer { parts, ..peer })
}

/// Waits until a call is answered.
pub(crate) async fn until_it_answers(peer: &Peer) -> Result<()> {
    let began = Instant::now();
    loop {
        let status = match TcpStream::connect(peer.addr).await {
            Ok(socket) => Call::new(socket, peer, Model::Json).status_alone().await.ok(),
            Err(_) => None,
        };
        if status == Some(200) {
            return Ok(());
        }
        if began.elapsed() > START_TIME_MAX {
            bail!("{} does not answer; its last status was {status:?}", peer.name);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
