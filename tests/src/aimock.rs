//! The third-party upstream `@copilotkit/aimock`, as `tests/install.sh` installed it.
//!
//! Invariant: runs the installed copy and nothing else, on a free loopback port, and ends with its
//! handle.

use crate::clients;
use crate::process::Process;
use anyhow::Context;
use anyhow::Result;
use serde_json::Value;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const START_MAX: Duration = Duration::from_secs(20);
const LISTENING: &str = "listening on http://";

/// The running upstream.
#[derive(Debug)]
pub struct Aimock {
    process: Process,
    addr: SocketAddr,
    _dir: TempDir,
}

impl Aimock {
    /// Starts it with fixtures in its own format: `{"fixtures":[...]}`.
    ///
    /// # Errors
    /// When it is not installed or does not start; the message says what it printed.
    pub async fn start(fixtures: &Value) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("keyhaven-aimock-").tempdir()?;
        let file = dir.path().join("fixtures.json");
        std::fs::write(&file, fixtures.to_string())?;
        let mut command = Command::new(clients::tool("bin/node")?);
        command
            .arg(clients::tool("node_modules/@copilotkit/aimock/dist/cli.js")?)
            .args(["--port", "0", "--host", "127.0.0.1"])
            .args(["--metrics", "--validate-on-load", "--strict"])
            .arg("--fixtures")
            .arg(file);
        let mut process = Process::start(command)?;
        process.says(LISTENING, START_MAX).await?;
        let said = format!("{}\n{}", process.stdout(), process.stderr());
        let addr = said
            .split_once(LISTENING)
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .context("aimock names no address")?;
        let addr = addr.parse().with_context(|| format!("parse {addr:?}"))?;
        Ok(Self { process, addr, _dir: dir })
    }

    /// Its plain HTTP port.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it printed.
    #[must_use]
    pub fn output(&self) -> String {
        format!("{}\n{}", self.process.stdout(), self.process.stderr())
    }
}
