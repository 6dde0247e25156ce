//! How many bytes the peers of all links together may still send or have sent unread.
//!
//! Invariant: what links commit they give back, at the latest when they are dropped; being
//! over the budget makes new grants small and never takes credit back.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// A bound that links share. Clones are the same budget.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    committed: AtomicUsize,
}

/// What one process spends on its links unless it is told otherwise.
const BYTES_MAX_DEFAULT: usize = 512 * 1024 * 1024;

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { shared: Arc::new(Shared { bytes_max, committed: AtomicUsize::new(0) }) }
    }

    /// Bytes granted or unread now, over all links that share it.
    pub fn committed_bytes(&self) -> usize {
        self.shared.committed.load(Ordering::Relaxed)
    }

    /// The bound.
    pub fn bytes_max(&self) -> usize {
        self.shared.bytes_max
    }

    /// Whether new grants should be small.
    pub fn is_tight(&self) -> bool {
        self.committed_bytes() >= self.shared.bytes_max
    }

    pub(super) fn commit(&self, bytes: usize) {
        self.shared.committed.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn release(&self, bytes: usize) {
        self.shared.committed.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(BYTES_MAX_DEFAULT)
    }
}
