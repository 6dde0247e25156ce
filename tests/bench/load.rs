//! Load by wrk: the same chat completion over and over on so many connections.
//!
//! Invariant: a single failed call is counted and fails the benchmark.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use keyhaven_tests::process::Process;
use tempfile::TempDir;

use crate::model::Model;
use crate::street::Peer;

/// wrk itself needs a moment to end.
const GRACE: Duration = Duration::from_secs(20);

/// What wrk measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) calls: u64,
    pub(crate) micros: u64,
    pub(crate) errors: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
}

/// A script for wrk, in a private directory because it holds the API key.
pub(crate) struct Script {
    file: PathBuf,
    _dir: TempDir,
}

impl Script {
    /// Writes the script for one peer.
    pub(crate) fn for_peer(peer: &Peer) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("keyhaven-bench-wrk-").tempdir()?;
        let file = dir.path().join("call.lua");
        let (key, body) = (&peer.key, Model::Json.request_body());
        let script = format!(
            "wrk.method = \"POST\"
wrk.path = \"/v1/chat/completions\"
wrk.headers[\"authorization\"] = \"Bearer {key}\"
wrk.headers[\"content-type\"] = \"application/json\"
wrk.body = [[{body}]]
done = function(summary, latency)
    local e = summary.errors
    io.write(string.format(\"measured %d %d %d %d %d\\n\", summary.requests, summary.duration,
        e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"
        );
        std::fs::write(&file, script)?;
        Ok(Self { file, _dir: dir })
    }

    /// Calls the peer on `connections` connections for about `duration`.
    pub(crate) async fn run(&self, peer: &Peer, connections: u32, duration: Duration) -> Result<Measured> {
        let mut command = Command::new("wrk");
        command.arg("--threads").arg("1").arg("--connections").arg(connections.to_string());
        command.arg("--duration").arg(format!("{}s", duration.as_secs().max(1)));
        command.arg("--timeout").arg("10s").arg("--script").arg(&self.file);
        command.arg(format!("http://{}", peer.addr));
        let run = Process::run(command, "", duration + GRACE).await;
        let done = run.context("wrk is needed: run tests/install.sh")?;
        let line = done.stdout.lines().find_map(|line| line.strip_prefix("measured "));
        let Some(line) = line.filter(|_| done.code == Some(0)) else {
            bail!("wrk failed:\n{}{}", done.stdout, done.stderr);
        };
        let figures: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [calls, micros, errors, p50_us, p99_us] = figures[..] else { bail!("wrk printed {line:?}") };
        Ok(Measured { calls, micros, errors, p50_ns: p50_us * 1000, p99_ns: p99_us * 1000 })
    }
}
