//! Real binaries as child processes, with their output in files.
//!
//! Invariant: a started process is ended, by its own id, at the latest when its handle is dropped.

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;
use tempfile::TempDir;

const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The path of one of the workspace's binaries, beside the running test.
///
/// # Errors
/// When it has not been built; the message names the command.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("find the running test's own path")?;
    let places = test.ancestors().skip(1).take(2);
    let found = places.map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let release = test.components().any(|part| part.as_os_str() == "release");
        let flag = if release { " --release" } else { "" };
        anyhow!("{name} is not beside {}: run `cargo build --workspace{flag}` first", test.display())
    })
}

/// A command for one of the workspace's binaries that sees no `KEYHAVEN_*` of the caller's.
///
/// # Errors
/// When it has not been built.
pub fn command(name: &str) -> Result<Command> {
    let mut command = Command::new(binary(name)?);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("KEYHAVEN_") {
            command.env_remove(variable);
        }
    }
    Ok(command)
}

/// A running (or ended) child process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    dir: TempDir,
    name: String,
}

/// How a process ended and what it printed.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Everything from stdout.
    pub stdout: String,
    /// Everything from stderr.
    pub stderr: String,
}

impl Process {
    /// Starts a command with nothing on stdin.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: Command) -> Result<Self> {
        Self::start_with_input(command, "")
    }

    /// Starts a command and gives it this on stdin (a pipe's worth at most).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with_input(mut command: Command, input: &str) -> Result<Self> {
        let program = Path::new(command.get_program());
        let name = program.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let dir = tempfile::Builder::new().prefix(&format!("{name}-output-")).tempdir()?;
        let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
        let mut child = command
            // What a child that is killed leaves behind goes with its handle.
            .env("TMPDIR", dir.path())
            .stdin(stdin)
            .stdout(File::create(dir.path().join("stdout"))?)
            .stderr(File::create(dir.path().join("stderr"))?)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        if let Some(mut pipe) = child.stdin.take() {
            // A process that does not read its input says so by its exit code.
            let _ = pipe.write_all(input.as_bytes());
        }
        Ok(Self { child, dir, name })
    }

    /// Starts a command and waits for its end.
    ///
    /// # Errors
    /// When it cannot be started, or has not ended in time (it is then killed).
    pub async fn run(command: Command, input: &str, time: Duration) -> Result<Finished> {
        let mut process = Self::start_with_input(command, input)?;
        let status = process.wait(time).await?;
        Ok(Finished { code: status.code(), stdout: process.stdout(), stderr: process.stderr() })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file its stdout goes to; it and its directory live as long as this handle.
    #[must_use]
    pub fn stdout_path(&self) -> PathBuf {
        self.dir.path().join("stdout")
    }

    /// The file its stderr goes to.
    #[must_use]
    pub fn stderr_path(&self) -> PathBuf {
        self.dir.path().join("stderr")
    }

    /// Everything it printed to stdout so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.stdout_path())
    }

    /// Everything it printed to stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read(&self.stderr_path())
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until stdout has a line that is a JSON object, and returns the first.
    ///
    /// # Errors
    /// When it ends or the time passes before; the message has its stderr.
    pub async fn json_line(&mut self, time: Duration) -> Result<Value> {
        let object = |line: &str| serde_json::from_str::<Value>(line).ok();
        self.until(time, "a JSON line on stdout", |process| {
            let text = process.stdout();
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            whole.lines().filter_map(object).find(Value::is_object)
        })
        .await
    }

    /// Waits until stdout or stderr has this text.
    ///
    /// # Errors
    /// When it ends or the time passes before.
    pub async fn says(&mut self, text: &str, time: Duration) -> Result<()> {
        self.until(time, text, |process| {
            let said = process.stdout().contains(text) || process.stderr().contains(text);
            said.then_some(())
        })
        .await
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not ended in time; it goes on.
    pub async fn wait(&mut self, time: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + time;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} has not ended within {time:?}{}", self.name, self.tail());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Ends it at once, as a power cut would (SIGKILL), and waits for that.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill_9(&mut self) -> Result<()> {
        self.child.kill().context("send SIGKILL")?;
        self.child.wait().context("wait for a killed process")?;
        Ok(())
    }

    /// Asks it to end (SIGTERM); [`Self::wait`] tells when it has.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn terminate(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has already ended: {status}", self.name);
        }
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM).context("send SIGTERM")
    }

    async fn until<T>(&mut self, time: Duration, what: &str, look: impl Fn(&Self) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + time;
        loop {
            // Looking after asking, so that the last words of an ended process are heard.
            let running = self.is_running();
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if !running {
                bail!("{} ended without {what:?}{}", self.name, self.tail());
            }
            if Instant::now() > deadline {
                bail!("{} had no {what:?} within {time:?}{}", self.name, self.tail());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn tail(&self) -> String {
        let stderr = self.stderr();
        let lines: Vec<_> = stderr.lines().collect();
        let from = lines.len().saturating_sub(20);
        format!("; its stderr ends:\n{}", lines[from..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
