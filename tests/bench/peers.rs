//! The ways to the upstream that are compared: directly, through nginx, through Keyhaven.
//!
//! Invariant: every part of every way is a process of its own on 127.0.0.1, and all of them
//! lead to the same upstream.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use keyhaven_tests::process;
use keyhaven_tests::process::Process;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::cpu;
use crate::model::Model;
use crate::wire::Call;

/// How long a part may take until it serves.
const START_TIME_MAX: Duration = Duration::from_secs(20);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The vendor's key that nginx and the agent put in; made up.
const VENDOR_KEY: &str = "sk-bench-0123456789abcdef0123456789abcdef";

/// One way to the upstream.
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

/// A part of a peer.
pub(crate) struct Part {
    /// As the tables call it.
    pub(crate) name: &'static str,
    /// Its processes.
    pub(crate) pids: Vec<u32>,
}

/// Everything that runs for a benchmark; ends when dropped.
pub(crate) struct Street {
    /// Directly, nginx, Keyhaven: in this order.
    pub(crate) peers: Vec<Peer>,
    /// The upstream's plain address.
    pub(crate) upstream: SocketAddr,
    /// The upstream's process.
    pub(crate) upstream_pid: u32,
    // Fields are dropped in this order: callers before those they call.
    _hub: Process,
    _agent: Process,
    _nginx: Nginx,
    _upstream: Process,
    _dir: TempDir,
}

/// Where the upstream is, as it says itself.
struct Upstream {
    plain: SocketAddr,
    tls: SocketAddr,
    ca_pem: PathBuf,
}

impl Street {
    /// Starts everything and waits until every way leads to an answer.
    pub(crate) async fn build(log_level: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("keyhaven-bench-").tempdir()?;
        let mut upstream_process = start_upstream()?;
        let upstream = Upstream::of(&upstream_process.json_line(START_TIME_MAX).await?)?;
        let nginx = Nginx::start(&dir.path().join("nginx"), &upstream)?;
        let hub = Hub::prepare(&dir.path().join("hub"), log_level).await?;
        let hub_process = hub.start()?;
        let agent_process = start_agent(&dir.path().join("agent"), &hub, &upstream, log_level)?;

        let direct = Peer { name: "direct", addr: upstream.plain, key: VENDOR_KEY.to_owned(), parts: Vec::new() };
        let mut peers = vec![direct];
        for (name, addr, key, parts) in [
            ("nginx", nginx.listen, VENDOR_KEY.to_owned(), vec![("nginx", nginx.master.pid())]),
            ("keyhaven", hub.consumer, hub.api_key, vec![("hub", hub_process.pid()), ("agent", agent_process.pid())]),
        ] {
            let peer = Peer { name, addr, key, parts: Vec::new() };
            until_it_answers(&peer).await?;
            // Only now has nginx made its workers.
            let parts = parts.into_iter().map(|(name, pid)| Part { name, pids: cpu::family(pid) }).collect();
            peers.push(Peer { parts, ..peer });
        }
        Ok(Self {
            peers,
            upstream: upstream.plain,
            upstream_pid: upstream_process.pid(),
            _hub: hub_process,
            _agent: agent_process,
            _nginx: nginx,
            _upstream: upstream_process,
            _dir: dir,
        })
    }

    /// All processes that take part, this one included.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let parts = self.peers.iter().flat_map(|peer| &peer.parts).flat_map(|part| part.pids.iter().copied());
        parts.chain([self.upstream_pid, std::process::id()]).collect()
    }
}

impl Upstream {
    fn of(line: &Value) -> Result<Self> {
        let text = |name: &str| line[name].as_str().with_context(|| format!("the upstream's {name}"));
        Ok(Self { plain: text("plain")?.parse()?, tls: text("tls")?.parse()?, ca_pem: text("ca_pem")?.into() })
    }
}

fn start_upstream() -> Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("upstream");
    Process::start(command)
}

/// A hub's data directory with an API key and a join token in it.
struct Hub {
    dir: PathBuf,
    consumer: SocketAddr,
    tunnel: SocketAddr,
    admin: SocketAddr,
    log_level: String,
    api_key: String,
    join_token: String,
}

impl Hub {
    async fn prepare(dir: &Path, log_level: &str) -> Result<Self> {
        let (consumer, tunnel, admin) = (free_port()?, free_port()?, free_port()?);
        let mut hub = Self {
            dir: dir.to_owned(),
            consumer,
            tunnel,
            admin,
            log_level: log_level.to_owned(),
            api_key: String::new(),
            join_token: String::new(),
        };
        hub.ask(&["init"]).await?;
        let key = hub.ask(&["key", "create", "--name", "bench"]).await?;
        let invitation = hub.ask(&["agent", "invite"]).await?;
        hub.api_key = key["key"].as_str().context("no API key was made")?.to_owned();
        hub.join_token = invitation["token"].as_str().context("no join token was made")?.to_owned();
        Ok(hub)
    }

    fn start(&self) -> Result<Process> {
        let mut command = self.command()?;
        command.arg("serve");
        Process::start(command)
    }

    async fn ask(&self, words: &[&str]) -> Result<Value> {
        let mut command = self.command()?;
        command.arg("--json").args(words);
        let done = Process::run(command, "", START_TIME_MAX).await?;
        if done.code != Some(0) {
            bail!("keyhaven-hub {words:?} failed:\n{}{}", done.stdout, done.stderr);
        }
        Ok(serde_json::from_str(&done.stdout)?)
    }

    fn command(&self) -> Result<Command> {
        let mut command = process::command("keyhaven-hub")?;
        command.arg("--data-dir").arg(&self.dir);
        let settings = [
            format!("consumer.listen={}", self.consumer),
            format!("tunnel.listen={}", self.tunnel),
            format!("admin.listen={}", self.admin),
            format!("log.level={}", self.log_level),
        ];
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        Ok(command)
    }
}

fn start_agent(dir: &Path, hub: &Hub, upstream: &Upstream, log_level: &str) -> Result<Process> {
    let mut command = process::command("loopback_agent")?;
    command.arg("--data-dir").arg(dir);
    command.arg("--upstream-map").arg(format!("api.openai.com={}", upstream.tls));
    command.arg("--upstream-ca").arg(&upstream.ca_pem);
    command.arg("--log-level").arg(log_level);
    command.env("KIT_JOIN_TOKEN", &hub.join_token);
    command.env("KIT_KEYS", format!("openai={VENDOR_KEY}"));
    Process::start(command)
}

/// nginx with a prefix of its own, as the current user, in the foreground.
struct Nginx {
    master: Process,
    listen: SocketAddr,
}

impl Nginx {
    fn start(dir: &Path, upstream: &Upstream) -> Result<Self> {
        std::fs::create_dir_all(dir.join("temp"))?;
        let listen = free_port()?;
        std::fs::write(dir.join("nginx.conf"), nginx_conf(listen, upstream)?)?;
        let mut command = Command::new(nginx_program()?);
        command.arg("-p").arg(dir).arg("-c").arg("nginx.conf").arg("-e").arg("error.log");
        Ok(Self { master: Process::start(command)?, listen })
    }
}

impl Drop for Nginx {
    /// A master that is killed leaves its workers behind; while it lives it makes new ones.
    fn drop(&mut self) {
        let master = self.master.pid();
        let workers = cpu::family(master).into_iter().filter(|pid| *pid != master);
        let workers: Vec<Pid> = workers.filter_map(|pid| i32::try_from(pid).ok()).filter_map(Pid::from_raw).collect();
        // Both fail only for those that have ended already.
        let _ = self.master.kill_9();
        for worker in workers {
            let _ = kill_process(worker, Signal::KILL);
        }
    }
}

fn nginx_program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    places.map(|place| place.join("nginx")).find(|file| file.is_file()).context("no nginx: run tests/install.sh")
}

fn nginx_conf(listen: SocketAddr, upstream: &Upstream) -> Result<String> {
    let name = |flag: &str| -> Result<String> {
        let output = Command::new("id").arg(flag).output().context("ask `id` for the current user")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // Without this, a master that is root would make workers that cannot read the prefix.
    let user = if rustix::process::getuid().is_root() {
        format!("user {} {};", name("-un")?, name("-gn")?)
    } else {
        String::new()
    };
    let (tls, ca) = (upstream.tls, upstream.ca_pem.display());
    Ok(format!(
        "{user}
daemon off;
worker_processes 2;
pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;
    client_max_body_size 64m;
    keepalive_requests 100000000;
    upstream vendor {{
        server {tls};
        keepalive 512;
        keepalive_requests 100000000;
    }}
    server {{
        listen {listen} backlog=4096;
        location / {{
            proxy_pass https://vendor;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host api.openai.com;
            proxy_set_header Authorization \"Bearer {VENDOR_KEY}\";
            proxy_ssl_name api.openai.com;
            proxy_ssl_server_name on;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {ca};
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"
    ))
}

async fn until_it_answers(peer: &Peer) -> Result<()> {
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

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?.local_addr()?)
}
