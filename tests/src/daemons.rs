//! Hub and agents as real processes with directories of their own, spoken to by their own
//! command lines.
//!
//! Invariant: what a test asks of a daemon goes through its binary, its files or its ports.

use crate::prices;
use crate::process;
use crate::process::Finished;
use crate::process::Process;
use crate::upstream::Upstream;
use crate::upstream::vendor::Vendor;
use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use keyhaven_hub::config::Database;
use keyhaven_hub::keys::HubKeys;
use keyhaven_hub::listening::Listening;
use serde_json::Value;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// How long a daemon or a command may take for one thing on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Below what systems hand out by themselves, so that a port stays free while nobody has it.
const FIXED_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A hub's data directory, and how the hub in it is started.
#[derive(Debug, Clone)]
pub struct HubSite {
    dir: PathBuf,
    settings: Vec<String>,
    database: Option<String>,
}

/// A running hub and where it listens.
#[derive(Debug)]
pub struct RunningHub {
    /// Its process.
    pub process: Process,
    /// Where consumers are served.
    pub consumer: SocketAddr,
    /// Where agents are served.
    pub tunnel: SocketAddr,
    /// Where health, metrics and status are.
    pub admin: SocketAddr,
}

impl HubSite {
    /// A hub in this directory, on free ports that the system chooses at each start.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let site = Self { dir: dir.to_owned(), settings: Vec::new(), database: None };
        let free = "127.0.0.1:0";
        site.set("consumer.listen", free).set("tunnel.listen", free).set("admin.listen", free)
    }

    /// The same on ports that stay the same over restarts.
    ///
    /// # Errors
    /// When no three ports are free.
    pub fn on_fixed_ports(self) -> Result<Self> {
        let [consumer, tunnel, admin] = [fixed_port()?, fixed_port()?, fixed_port()?];
        let at = |port: u16| format!("127.0.0.1:{port}");
        Ok(self.set("consumer.listen", &at(consumer)).set("tunnel.listen", &at(tunnel)).set("admin.listen", &at(admin)))
    }

    /// The same with one field of the configuration set; a later value wins.
    #[must_use]
    pub fn set(mut self, field: &str, value: &str) -> Self {
        self.settings.retain(|setting| !setting.starts_with(&format!("{field}=")));
        self.settings.push(format!("{field}={value}"));
        self
    }

    /// The same with its database on a server.
    #[must_use]
    pub fn on_database(self, url: &str) -> Self {
        Self { database: Some(url.to_owned()), ..self }
    }

    /// The data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `keyhaven-hub` with these words, this directory and these settings.
    ///
    /// # Errors
    /// When the binary has not been built.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = process::command("keyhaven-hub")?;
        command.arg("--data-dir").arg(&self.dir);
        command.envs(self.database.iter().map(|url| ("KEYHAVEN_HUB_DATABASE_URL", url)));
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command.args(words);
        Ok(command)
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub async fn run(&self, words: &[&str]) -> Result<Finished> {
        Process::run(self.command(words)?, "", PATIENCE).await
    }

    /// Runs a command with `--json` and returns its answer.
    ///
    /// # Errors
    /// When it fails, or answers something else than one JSON object with a schema.
    pub async fn json(&self, words: &[&str]) -> Result<Value> {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        answer_of(&words, &self.run(&words).await?)
    }

    /// Starts the hub and waits until it listens.
    ///
    /// # Errors
    /// When it does not come to that.
    pub async fn start(&self) -> Result<RunningHub> {
        self.start_as(self.command(&["serve"])?).await
    }

    /// The same with a command that a test has changed.
    ///
    /// # Errors
    /// When it does not come to that.
    pub async fn start_as(&self, command: Command) -> Result<RunningHub> {
        if HubKeys::exist_in(&self.dir)? {
            self.stock().await?;
        }
        let mut process = Process::start(command)?;
        let began = Instant::now();
        loop {
            let listening = Listening::read(&self.dir).unwrap_or_default();
            if let Some(listening) = listening.filter(|listening| listening.pid == process.pid()) {
                let Listening { consumer, tunnel, admin, .. } = listening;
                return Ok(RunningHub { process, consumer, tunnel, admin });
            }
            if !process.is_running() || began.elapsed() > PATIENCE {
                bail!("the hub does not listen; its stderr:\n{}", process.stderr());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// An API key for a consumer, and prices for what it asks.
    ///
    /// # Errors
    /// When the command or the database fails.
    pub async fn api_key(&self) -> Result<String> {
        self.stock().await?;
        text_in(&self.json(&["key", "create", "--name", "consumer"]).await?, "key")
    }

    async fn stock(&self) -> Result<()> {
        let database = Database { url: self.database.clone().map(Into::into) };
        prices::stock_on(&self.dir, &database).await
    }

    /// A join token for a new agent of this name.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn invite(&self, name: &str) -> Result<String> {
        text_in(&self.json(&["agent", "invite", "--name", name]).await?, "token")
    }

    /// The same for an agent that is to dial this address.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn invite_to(&self, name: &str, address: SocketAddr) -> Result<String> {
        let address = address.to_string();
        text_in(&self.json(&["agent", "invite", "--name", name, "--address", &address]).await?, "token")
    }

    /// The links of the running hub, as its status shows them.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn links(&self) -> Result<Vec<Value>> {
        let status = self.json(&["status"]).await?;
        Ok(status["links"].as_array().context("no links in the status")?.clone())
    }
}

/// An agent's data directory, and how the agent in it is started.
#[derive(Debug, Clone)]
pub struct AgentSite {
    dir: PathBuf,
    variables: Vec<(String, String)>,
}

impl AgentSite {
    /// An agent in this directory.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), variables: Vec::new() }
    }

    /// The same with an environment variable set.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `keyhaven-agent` with these words and this directory.
    ///
    /// # Errors
    /// When the binary has not been built.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        self.with_variables("keyhaven-agent", words)
    }

    /// Runs a command to its end, with this on stdin.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub async fn run(&self, words: &[&str], input: &str) -> Result<Finished> {
        Process::run(self.command(words)?, input, PATIENCE).await
    }

    /// Runs a command with `--json` and returns its answer.
    ///
    /// # Errors
    /// When it fails, or answers something else than one JSON object with a schema.
    pub async fn json(&self, words: &[&str], input: &str) -> Result<Value> {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        answer_of(&words, &self.run(&words, input).await?)
    }

    /// Joins with a token, given on standard input.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn join(&self, token: &str) -> Result<Value> {
        self.json(&["join", "-"], token).await
    }

    /// Adds the upstream's key of every vendor.
    ///
    /// # Errors
    /// When a command fails.
    pub async fn add_keys(&self, upstream: &Upstream) -> Result<()> {
        for vendor in Vendor::ALL {
            let mut words = vec!["key", "add", vendor.word(), "--attest"];
            if vendor == Vendor::Azure {
                words.extend(["--resource", "kit"]);
            }
            self.json(&words, upstream.keys().of(vendor)).await?;
        }
        Ok(())
    }

    /// Starts the released agent.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, words: &[&str]) -> Result<Process> {
        Process::start(self.command(words)?)
    }

    /// The agent's library in front of the upstream; the released agent cannot be pointed there.
    ///
    /// # Errors
    /// When the binary has not been built.
    pub fn loopback_command(&self, upstream: &Upstream, log_level: &str) -> Result<Command> {
        let mut command = self.with_variables("loopback_agent", &["--log-level", log_level])?;
        command.arg("--upstream-ca").arg(upstream.ca_pem());
        for route in upstream.upstream_map() {
            command.args(["--upstream-map", &route]);
        }
        Ok(command)
    }

    /// Starts that one.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_before(&self, upstream: &Upstream) -> Result<Process> {
        Process::start(self.loopback_command(upstream, "info")?)
    }

    fn with_variables(&self, binary: &str, words: &[&str]) -> Result<Command> {
        let mut command = process::command(binary)?;
        command.arg("--data-dir").arg(&self.dir).args(words);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }
}

/// The JSON object that a command printed.
///
/// # Errors
/// When it failed or printed anything else.
pub fn answer_of(words: &[&str], finished: &Finished) -> Result<Value> {
    if finished.code != Some(0) {
        bail!("{words:?} ended with {:?}:\n{}", finished.code, finished.stderr);
    }
    let answer: Value = serde_json::from_str(finished.stdout.trim())
        .with_context(|| format!("{words:?} printed no JSON:\n{}", finished.stdout))?;
    if !answer["schema"].as_str().is_some_and(|schema| schema.starts_with("keyhaven/")) {
        bail!("{words:?} names no schema: {answer}");
    }
    Ok(answer)
}

/// The code in the failure that a command with `--json` printed.
#[must_use]
pub fn failure_code(finished: &Finished) -> Option<String> {
    let last = finished.stderr.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok())?;
    Some(last["code"].as_str()?.to_owned())
}

/// Waits until something that is looked for again and again is there.
///
/// # Errors
/// When it does not come; the message says what was waited for.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let began = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if began.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}: {what}");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A port that nobody has and that the system will not hand out by itself.
///
/// # Errors
/// When there is none.
pub fn fixed_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = FIXED_PORTS.end - FIXED_PORTS.start;
    // Test processes that run at the same time begin at different places.
    let first = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(count))?;
    for _ in 0..count {
        let at = (u32::from(first) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(count);
        let port = FIXED_PORTS.start + u16::try_from(at)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {FIXED_PORTS:?} is free")
}

fn text_in(answer: &Value, field: &str) -> Result<String> {
    let text = answer[field].as_str();
    text.map(str::to_owned).with_context(|| format!("no {field} in {answer}"))
}
