//! Names of calls: UUIDs of version 7 (RFC 9562), in order of time, without a system call.
//!
//! Invariant: no id is given twice, by this process or by another one of the fleet.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use keyhaven_protocol::id::CallId;
use uuid::Builder;
use uuid::Uuid;

/// Gives ids. What tells processes apart is random; what tells calls apart is counted.
pub(super) struct CallIds {
    process: [u8; 5],
    last: AtomicU64,
}

impl CallIds {
    pub(super) fn new() -> Self {
        let [.., a, b, c, d, e] = Uuid::new_v4().into_bytes();
        Self { process: [a, b, c, d, e], last: AtomicU64::new(0) }
    }

    pub(super) fn next(&self, unix_ms: u64) -> CallId {
        let count = self.last.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let [a, b, c, d, e] = self.process;
        // Version and variant take six of these bits: the first four and two of the third byte.
        let counted_and_random = [0, count[3], 0, count[4], count[5], count[6], count[7], a, b, c];
        let mut id = Builder::from_unix_timestamp_millis(unix_ms, &counted_and_random).into_uuid().into_bytes();
        id[6] |= d & 0x0f;
        id[8] |= e & 0x3f;
        CallId(id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_of_one_moment_differ_and_are_of_version_7() {
        let (ids, others) = (CallIds::new(), CallIds::new());

        let given: HashSet<[u8; 16]> = (0..70_000).flat_map(|_| [ids.next(1), others.next(1)]).map(|id| id.0).collect();

        assert_eq!(given.len(), 140_000);
        let id = Uuid::from_bytes(ids.next(0x0123_4567_89ab).0);
        assert_eq!(id.get_version_num(), 7);
        assert!(id.to_string().starts_with("01234567-89ab-7"), "{id}");
    }

    #[test]
    fn later_ids_are_larger() {
        let ids = CallIds::new();

        assert!(ids.next(1).0 < ids.next(2).0);
    }
}
