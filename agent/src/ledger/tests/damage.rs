//! A log that was touched: every bit, every cut, every entry doubled, left out or moved.
//!
//! Invariant: damage is done to a log that holds, and is found at the start or by `ledger verify`.

use std::sync::Arc;

use keyhaven_protocol::ErrorCode;

use super::platter::Platter;
use super::scene::Hub;
use super::scene::closed;
use super::scene::key_entry;
use super::scene::open;
use super::scene::opened;
use super::scene::small_segments;
use super::scene::write_all;
use super::scene::written;
use crate::ledger::View;
use crate::ledger::entry;
use crate::ledger::entry::Found;
use crate::ledger::segment::HEADER_BYTES;

/// A log of several segments with statements, and the bounds of each entry by file.
fn log() -> (Arc<Platter>, Vec<(String, Vec<usize>)>) {
    let disk = Arc::new(Platter::default());
    let mut agent = open(disk.clone(), None, small_segments()).unwrap();
    write_all(&mut agent).unwrap();
    agent.ledger.take_keys(&[key_entry()]).unwrap();
    let mut hub = Hub::new();
    for call in 0..4 {
        written(&mut agent, opened(call)).unwrap();
        written(&mut agent, closed(call, 10)).unwrap();
        if call % 2 == 0 {
            hub.take_all(&agent.ledger).unwrap();
            write_all(&mut agent).unwrap();
        }
    }
    drop(agent);
    let bounds = |name: &String| {
        let bytes = disk.bytes(name);
        let mut bounds = vec![HEADER_BYTES];
        while let Found::Entry { bytes: count, .. } = entry::read(&bytes[*bounds.last().unwrap()..]) {
            bounds.push(bounds.last().unwrap() + count);
        }
        assert_eq!(*bounds.last().unwrap(), bytes.len());
        bounds
    };
    let files: Vec<(String, Vec<usize>)> = disk.files().iter().map(|name| (name.clone(), bounds(name))).collect();
    assert!(files.len() > 2, "{files:?}");
    (disk, files)
}

/// Whether the whole log holds, and with how many leaves.
fn verified(disk: Platter) -> Result<(u64, u64), ErrorCode> {
    let verified = View::on_disk(Arc::new(disk), None).verify(|_| {}).map_err(|error| error.code())?;
    Ok((verified.leaves, verified.unfinished_bytes))
}

#[test]
fn every_flipped_bit_is_found() {
    let (disk, files) = log();
    let whole = verified(disk.copy()).unwrap();
    assert_eq!(whole.1, 0);
    let last = files.last().unwrap().0.clone();
    for (name, bounds) in &files {
        // One bit of every other byte; all bits of an entry and of a header are tried where those are.
        for bit in (0..disk.bytes(name).len()).step_by(2).map(|byte| byte * 8 + byte / 2 % 8) {
            let damaged = disk.copy();
            damaged.tamper(name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let newest = *name == last && bit / 8 >= bounds[bounds.len() - 2];
            match verified(damaged) {
                Err(code) => assert_eq!(code, ErrorCode::LedgerDamaged, "{name} bit {bit}"),
                // The last write cannot be told from one that was never finished; the hub can tell.
                Ok((leaves, unfinished)) => assert!(newest && unfinished > 0 && leaves <= whole.0, "{name} bit {bit}"),
            }
        }
    }
}

#[test]
fn every_cut_is_found_or_is_an_end_that_was() {
    let (disk, files) = log();
    let (last, bounds) = files.last().unwrap();
    for (name, bounds) in &files[..files.len() - 1] {
        for end in (0..disk.bytes(name).len()).step_by(7).chain(bounds[..bounds.len() - 1].iter().copied()) {
            let damaged = disk.copy();
            damaged.tamper(name, |bytes| bytes.truncate(end));
            assert_eq!(verified(damaged), Err(ErrorCode::LedgerDamaged), "{name} at {end}");
        }
    }
    for end in (0..disk.bytes(last).len()).step_by(3).chain(bounds[..bounds.len() - 1].iter().copied()) {
        let cut = disk.copy();
        cut.tamper(last, |bytes| bytes.truncate(end));
        let started = open(Arc::new(cut), None, small_segments()).unwrap();
        assert_eq!(started.cut_off.is_some(), !bounds.contains(&end), "at {end}");
    }
}

#[test]
fn an_index_that_has_seen_more_than_there_is_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index");
    let (disk, files) = log();
    let mut agent = open(disk.clone(), Some(file.clone()), small_segments()).unwrap();
    agent.follower.step().unwrap();
    drop(agent);
    let (last, bounds) = files.last().unwrap();

    for end in [bounds[bounds.len() - 2], bounds[bounds.len() - 1] - 1, HEADER_BYTES, HEADER_BYTES - 1, 0] {
        let lost = disk.copy();
        lost.tamper(last, |bytes| bytes.truncate(end));
        let refused = open(Arc::new(lost), Some(file.clone()), small_segments()).err();
        assert_eq!(refused.map(|error| error.code()), Some(ErrorCode::LedgerDamaged), "cut at {end}");
    }
    for byte in (bounds[bounds.len() - 2]..bounds[bounds.len() - 1]).step_by(5) {
        let rotten = disk.copy();
        rotten.tamper(last, |bytes| bytes[byte] ^= 1);
        let refused = open(Arc::new(rotten), Some(file.clone()), small_segments()).err();
        assert_eq!(refused.map(|error| error.code()), Some(ErrorCode::LedgerDamaged), "byte {byte}");
    }
    open(disk, Some(file), small_segments()).unwrap();
}

#[test]
fn entries_that_were_doubled_left_out_or_moved_are_found() {
    let (disk, files) = log();
    let mut tried = 0;
    for (at, (name, bounds)) in files.iter().enumerate() {
        let entries: Vec<Vec<u8>> = {
            let bytes = disk.bytes(name);
            bounds.windows(2).map(|bounds| bytes[bounds[0]..bounds[1]].to_vec()).collect()
        };
        let is_last = |one: usize| at + 1 == files.len() && one + 1 == entries.len();
        let with = |changed: Vec<Vec<u8>>| {
            let damaged = disk.copy();
            damaged.tamper(name, |bytes| {
                bytes.truncate(HEADER_BYTES);
                bytes.extend(changed.into_iter().flatten());
            });
            verified(damaged)
        };
        for one in 0..entries.len() {
            let mut doubled = entries.clone();
            doubled.insert(one, entries[one].clone());
            assert_eq!(with(doubled), Err(ErrorCode::LedgerDamaged), "{name} entry {one} twice");
            if !is_last(one) {
                let mut missing = entries.clone();
                missing.remove(one);
                assert_eq!(with(missing), Err(ErrorCode::LedgerDamaged), "{name} entry {one} missing");
            }
            for other in one + 1..entries.len() {
                let mut swapped = entries.clone();
                swapped.swap(one, other);
                assert_eq!(with(swapped), Err(ErrorCode::LedgerDamaged), "{name} entries {one} and {other}");
                tried += 1;
            }
        }
    }
    assert!(tried > 10);
    // Whole segments.
    for (name, _) in &files[..files.len() - 1] {
        let damaged = disk.copy();
        crate::ledger::Disk::remove(&damaged, name).unwrap();
        assert_eq!(verified(damaged), Err(ErrorCode::LedgerDamaged), "{name} missing");
    }
    for (one, other) in [(0, 1), (1, 2)] {
        let damaged = disk.copy();
        let (one, other) = (&files[one].0, &files[other].0);
        let bytes = disk.bytes(other);
        damaged.tamper(one, |place| *place = bytes);
        assert_eq!(verified(damaged), Err(ErrorCode::LedgerDamaged), "{other} in the place of {one}");
    }
}

#[test]
fn damage_in_the_middle_stops_the_start_where_an_unfinished_write_does_not() {
    let (disk, files) = log();
    let (last, bounds) = files.last().unwrap();
    assert!(bounds.len() > 2, "the last segment has entries before its last");
    for byte in (bounds[0]..bounds[bounds.len() - 2]).step_by(11) {
        let damaged = disk.copy();
        damaged.tamper(last, |bytes| bytes[byte] ^= 0x40);
        let refused = open(Arc::new(damaged), None, small_segments()).err();
        assert_eq!(refused.map(|error| error.code()), Some(ErrorCode::LedgerDamaged), "byte {byte}");
    }
    let unfinished = disk.copy();
    unfinished.tamper(last, |bytes| bytes.extend_from_slice(&[0; 4_096]));
    let started = open(Arc::new(unfinished), None, small_segments()).unwrap();
    assert_eq!(started.cut_off.map(|cut| cut.bytes), Some(4_096));
}

#[test]
fn whatever_stands_in_a_segment_is_read_without_harm() {
    let (disk, files) = log();
    let (last, bounds) = files.last().unwrap();
    bolero::check!().with_iterations(200).for_each(|bytes: &[u8]| {
        let strange = disk.copy();
        strange.tamper(last, |place| {
            place.truncate(bounds[1]);
            place.extend_from_slice(bytes);
        });
        assert!(verified(strange.copy()).is_ok_and(|(_, unfinished)| unfinished == bytes.len() as u64));
        let strange = Arc::new(strange);
        let mut started = open(strange.clone(), None, small_segments()).unwrap();
        written(&mut started, opened(77)).unwrap();
        drop(started);
        open(strange, None, small_segments()).unwrap();
    });
}
