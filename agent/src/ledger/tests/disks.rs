//! The same on the real file system: folders, a full disk, one that may not be written.
//!
//! Invariant: whatever was mounted is unmounted again.

use std::path::Path;
use std::process::Command;

use keyhaven_protocol::ErrorCode;

use super::scene::Hub;
use super::scene::closed;
use super::scene::key_entry;
use super::scene::opened;
use super::scene::owner;
use super::scene::small_segments;
use super::scene::write_all;
use super::scene::written;
use crate::ledger::Opened;
use crate::ledger::View;

#[test]
fn a_ledger_in_a_folder_goes_on_where_it_was_and_a_command_reads_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut hub = Hub::new();
    let mut leaves = 0;
    for start in 0..3 {
        let mut agent = Opened::in_dir(dir.path(), owner(), small_segments()).unwrap();
        write_all(&mut agent).unwrap();
        agent.ledger.take_keys(&[key_entry()]).unwrap();
        for call in start * 10..start * 10 + 5 {
            written(&mut agent, opened(call)).unwrap();
            written(&mut agent, closed(call, 1_000)).unwrap();
        }
        hub.take_all(&agent.ledger).unwrap();
        write_all(&mut agent).unwrap();
        agent.follower.step().unwrap();
        assert!(agent.ledger.head().1.size > leaves);
        leaves = agent.ledger.head().1.size;

        let names = View::names(dir.path()).unwrap();
        assert_eq!(names, [format!("{}-calls", super::scene::FLEET)]);
        let view = View::open(dir.path(), &names[0]);
        let verified = view.verify(|_| {}).unwrap();
        assert_eq!((verified.leaves, verified.cosigned, verified.hub_keys), (leaves, leaves, 1));
        let earned = view.earnings(|_| {}).unwrap();
        assert_eq!(earned.credited, hub.credited);
        assert_eq!(earned.attempts, (start + 1) * 5);
    }
    assert!(View::names(&dir.path().join("nowhere")).unwrap().is_empty());
}

#[test]
fn a_full_disk_fails_the_ledger_by_name_and_a_start_after_it_has_what_was_told() {
    let Some(mounted) = Mounted::with_bytes(512 * 1024) else { return };
    let mut told = 0;
    {
        let mut agent = Opened::in_dir(mounted.path(), owner(), small_segments()).unwrap();
        write_all(&mut agent).unwrap();
        let error = (0..10_000)
            .find_map(|call| match written(&mut agent, opened(call)) {
                Ok(leaf) => {
                    told = leaf.number + 1;
                    None
                }
                Err(error) => Some(error),
            })
            .expect("the disk is full in the end");
        assert_eq!(error.code(), ErrorCode::LedgerFailed);
        assert!(error.to_string().contains("the disk is full"), "{error}");
        assert!(agent.ledger.may_open().is_err());
    }
    std::fs::remove_file(mounted.path().join("ballast")).unwrap();
    let mut agent = Opened::in_dir(mounted.path(), owner(), small_segments()).unwrap();
    assert!(agent.ledger.head().1.size >= told);
    drop(agent.writer.step());
    let name = View::names(mounted.path()).unwrap().remove(0);
    assert!(View::open(mounted.path(), &name).verify(|_| {}).unwrap().leaves >= told);
}

#[test]
fn a_read_only_disk_fails_the_ledger_by_name() {
    let Some(mounted) = Mounted::with_bytes(1024 * 1024) else { return };
    let mut agent = Opened::in_dir(mounted.path(), owner(), small_segments()).unwrap();
    for call in 0..10 {
        written(&mut agent, opened(call)).unwrap();
    }
    // A file that is open keeps a file system from being remounted: the agent is stopped first.
    drop(agent);
    mounted.remount_read_only();
    let refused = Opened::in_dir(mounted.path(), owner(), small_segments()).err().unwrap();
    assert_eq!(refused.code(), ErrorCode::DataDirUnusable);
    let name = View::names(mounted.path()).unwrap().remove(0);
    assert_eq!(View::open(mounted.path(), &name).verify(|_| {}).unwrap().leaves, 11, "reading needs no writing");
}

/// A small file system of its own, where this user may mount one.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn with_bytes(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        let done = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        if !done.is_ok_and(|done| done.status.success()) {
            println!("no file system can be mounted here: the fake disk has the same tests");
            return None;
        }
        let mounted = Self(dir);
        std::fs::write(mounted.path().join("ballast"), vec![0; 100 * 1024]).unwrap();
        Some(mounted)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount_read_only(&self) {
        let done = Command::new("mount").args(["-o", "remount,ro"]).arg(self.path()).status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}
