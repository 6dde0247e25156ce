//! rathole, a tunnel that makes one TCP connection for each visitor: server and client.
//!
//! Invariant: the version is fixed, and it is built from the public registry at most once.

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use keyhaven_daemon::cli::Output;
use keyhaven_tests::process::Process;

use crate::keyhaven::free_port;

const VERSION: &str = "0.5.0";

/// The program, built before or now.
#[derive(Debug, Clone)]
pub(crate) struct Program(PathBuf);

impl Program {
    /// The program as an earlier run left it beside the benchmark.
    fn found() -> Result<Option<Self>> {
        let file = root()?.join("bin/rathole");
        Ok(file.is_file().then_some(Self(file)))
    }

    /// The program, built with `cargo install` if it is not there.
    pub(crate) fn found_or_built(output: Output) -> Result<Self> {
        if let Some(program) = Self::found()? {
            return Ok(program);
        }
        output.note(&format!("building rathole {VERSION}, once; this takes some minutes"));
        let root = root()?;
        let mut command = Command::new("cargo");
        // Not with its own lock file: crates of then do not build with the compiler of now.
        command.args(["install", "rathole", "--version", VERSION, "--root"]).arg(&root);
        // Its TLS, Noise and WebSocket need OpenSSL's headers and are not measured here.
        command.args(["--no-default-features", "--features", "server,client"]);
        let status = command.stdout(Stdio::null()).status().context("run cargo")?;
        match Self::found()? {
            Some(program) if status.success() => Ok(program),
            _ => bail!("rathole could not be built; its own output is above. Without it: --without-rathole"),
        }
    }
}

/// Both ends; they end when dropped.
pub(crate) struct Rathole {
    server: Process,
    client: Process,
}

/// One way through rathole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Service {
    /// Where visitors come in.
    pub(crate) listen: SocketAddr,
    /// Where they come out.
    pub(crate) to: SocketAddr,
}

impl Service {
    /// A way from a free port.
    pub(crate) fn to(to: SocketAddr) -> Result<Self> {
        Ok(Self { listen: free_port()?, to })
    }
}

impl Rathole {
    /// Starts server and client with these services over plain TCP; the client dials what
    /// `path` makes of the server's address.
    pub(crate) fn start(
        program: &Program,
        dir: &Path,
        services: &[Service],
        path: impl FnOnce(SocketAddr) -> Result<SocketAddr>,
    ) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let bind = free_port()?;
        let token = "default_token = \"bench\"";
        let mut server = format!("[server]\nbind_addr = \"{bind}\"\n{token}\n");
        let mut client = format!("[client]\nremote_addr = \"{}\"\n{token}\n", path(bind)?);
        for (at, Service { listen, to }) in services.iter().enumerate() {
            server += &format!("[server.services.way{at}]\nbind_addr = \"{listen}\"\n");
            client += &format!("[client.services.way{at}]\nlocal_addr = \"{to}\"\n");
        }
        Ok(Self {
            server: program.start("--server", &dir.join("server.toml"), &server)?,
            client: program.start("--client", &dir.join("client.toml"), &client)?,
        })
    }

    /// Server and client.
    pub(crate) fn pids(&self) -> (u32, u32) {
        (self.server.pid(), self.client.pid())
    }
}

impl Program {
    fn start(&self, role: &str, file: &Path, text: &str) -> Result<Process> {
        std::fs::write(file, text)?;
        let mut command = Command::new(&self.0);
        command.arg(role).arg(file).env("RUST_LOG", "warn");
        Process::start(command)
    }
}

/// Beside the profile's directory, so that debug and release share it.
fn root() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let target = this.ancestors().nth(2).context("the benchmark is not in a target directory")?;
    Ok(target.join("tools"))
}
