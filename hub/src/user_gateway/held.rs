//! Bytes of requests' bodies that all calls together keep in memory: held back for the
//! scan, or kept for another attempt.
//!
//! Invariant: copies for another attempt never take more than half, so that the scans of
//! new calls always find room.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// The hub-wide budget.
#[derive(Clone)]
pub(super) struct HeldBytes {
    most: u64,
    left: Arc<AtomicU64>,
}

/// A share of [`HeldBytes`], given back when dropped.
pub(super) struct HeldShare {
    from: HeldBytes,
    bytes: u64,
}

impl HeldBytes {
    pub(super) fn new(most: u64) -> Self {
        Self { most, left: Arc::new(AtomicU64::new(most)) }
    }

    pub(super) fn share(&self) -> HeldShare {
        HeldShare { from: self.clone(), bytes: 0 }
    }
}

impl HeldShare {
    /// Takes more; false when the hub keeps as much as it may.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        self.grow_leaving(0, bytes)
    }

    /// Takes more for copies; false when these would crowd out the scans.
    pub(super) fn grow_for_copies(&mut self, bytes: u64) -> bool {
        self.grow_leaving(self.from.most / 2, bytes)
    }

    /// Gives back what is no longer kept.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let returned = bytes.min(self.bytes);
        self.bytes -= returned;
        self.from.left.fetch_add(returned, Ordering::Relaxed);
    }

    fn grow_leaving(&mut self, rest: u64, bytes: u64) -> bool {
        let take = |left: u64| left.checked_sub(bytes).filter(|left| *left >= rest);
        let took = self.from.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if took {
            self.bytes += bytes;
        }
        took
    }
}

impl Drop for HeldShare {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_leave_half_to_the_scans_and_all_of_it_comes_back() {
        let held = HeldBytes::new(100);
        let (mut copies, mut scans) = (held.share(), held.share());

        assert!(copies.grow_for_copies(50));
        assert!(!copies.grow_for_copies(1));
        assert!(scans.grow(50));
        assert!(!scans.grow(1));
        copies.shrink(20);
        assert!(scans.grow(20) && !copies.grow_for_copies(1));

        drop((copies, scans));
        assert!(held.share().grow(100));
    }
}
