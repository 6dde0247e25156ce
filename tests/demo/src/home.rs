//! Where hub and agent keep their things: a directory that is given, or one that ends with the demo.
//!
//! Invariant: a directory that was given is never removed.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::files::make_private_dir;
use keyhaven_protocol::ErrorCode;
use tempfile::TempDir;

/// The demo's data directory.
pub(crate) struct Home {
    dir: PathBuf,
    temporary: Option<TempDir>,
}

impl Home {
    /// The given directory, which is made if need be, or a temporary one.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn open(given: Option<&Path>) -> anyhow::Result<Self> {
        let Some(given) = given else {
            let temporary = tempfile::Builder::new().prefix("keyhaven-demo-").tempdir();
            let temporary = temporary.context("make a temporary directory")?;
            return Ok(Self { dir: temporary.path().to_owned(), temporary: Some(temporary) });
        };
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::new(ErrorCode::DataDirUnusable, error.to_string()).at("--data-dir")
        };
        let dir = std::path::absolute(given).map_err(|error| unusable(&error))?;
        make_private_dir(&dir).map_err(|error| unusable(&error))?;
        Ok(Self { dir, temporary: None })
    }

    /// All of it.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The hub's part.
    pub(crate) fn hub(&self) -> PathBuf {
        self.dir.join("hub")
    }

    /// The agent's part.
    pub(crate) fn agent(&self) -> PathBuf {
        self.dir.join("agent")
    }

    /// Whether it stays when the demo ends.
    pub(crate) const fn is_kept(&self) -> bool {
        self.temporary.is_none()
    }

    /// Removes it, if it is temporary.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn close(self) -> anyhow::Result<()> {
        let shown = self.dir.display().to_string();
        self.temporary.map_or(Ok(()), TempDir::close).with_context(|| format!("remove {shown}"))
    }
}
