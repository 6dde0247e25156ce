//! Keeps the index behind the log.
//!
//! Invariant: it reads only what is durable, and whatever becomes of it no call waits for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Duration;

use tracing::warn;

use super::Shared;
use super::disk::Disk;
use super::error::LedgerError;
use super::index::Index;

/// How long the index is behind the log at the most, while it keeps up: what comes meanwhile is
/// written together.
const INTERVAL: Duration = Duration::from_millis(250);

/// What writes the index. Its owner runs it in a thread of its own.
pub struct Follower {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    index: Index,
    file: Option<PathBuf>,
}

impl Follower {
    pub(super) const fn new(shared: Arc<Shared>, disk: Arc<dyn Disk>, index: Index, file: Option<PathBuf>) -> Self {
        Self { shared, disk, index, file }
    }

    /// Follows the log until the ledger is closed. If the index cannot be written it is made anew
    /// once; after that it stays behind until the next start.
    pub fn run(mut self) {
        while self.wait() {
            let Err(error) = self.step() else { continue };
            warn!("the ledger's index is made anew: {error}");
            let again = Index::open(self.file.as_deref(), &*self.disk).and_then(|index| {
                self.index = index;
                self.step()
            });
            if let Err(error) = again {
                warn!("the ledger's index stays behind until the agent starts again: {error}");
                return;
            }
        }
        // What became durable last.
        if let Err(error) = self.step() {
            warn!("the ledger's index is behind: {error}");
        }
    }

    /// Reads what is durable now.
    ///
    /// # Errors
    /// The index cannot be written, or the log not be read.
    pub fn step(&mut self) -> Result<(), LedgerError> {
        let end = self.shared.lock().end;
        self.index.follow(&*self.disk, Some(end), |_| {})
    }

    #[cfg(test)]
    pub(super) const fn index(&self) -> &Index {
        &self.index
    }

    /// Waits until there is more, and a while; not once the ledger is closed.
    fn wait(&self) -> bool {
        let known = self.index.cursor().map(|cursor| cursor.place);
        let mut live = self.shared.lock();
        while Some(live.end) == known && !live.is_closing {
            live = self.shared.written.wait(live).unwrap_or_else(PoisonError::into_inner);
        }
        let is_closing = |live: &mut super::live::Live| !live.is_closing;
        let waited = self.shared.written.wait_timeout_while(live, INTERVAL, is_closing);
        let (live, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !live.is_closing
    }
}
