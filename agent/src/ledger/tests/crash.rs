//! Every step at which the agent or its machine can end, and what is there afterwards.
//!
//! Invariant: every step of a life with all the ledger does is ended at, each in every way.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use keyhaven_protocol::leaf::EpochReason;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Leaf;

use super::platter::Fault;
use super::platter::Platter;
use super::scene::Hub;
use super::scene::closed;
use super::scene::key_entry;
use super::scene::open;
use super::scene::opened;
use super::scene::part;
use super::scene::small_segments;
use super::scene::write_all;
use crate::ledger::Disk;
use crate::ledger::LeafId;
use crate::ledger::LedgerError;
use crate::ledger::Opened;
use crate::ledger::View;
use crate::ledger::index::Index;
use crate::ledger::view::Line;

/// What was said to be durable before the end.
#[derive(Default, Clone)]
struct Told {
    leaves: Vec<(LeafId, Event)>,
    hub: Option<Hub>,
}

#[test]
fn whatever_step_a_life_ends_at_what_was_told_is_there_and_the_books_follow() {
    let life = Arc::new(Platter::default());
    let dir = tempfile::tempdir().unwrap();
    let mut told = Told::default();
    live(&life, Some(&dir.path().join("index")), &mut told).unwrap();
    assert!(told.leaves.len() > 15, "{}", told.leaves.len());
    let kinds: Vec<_> = life.kinds().into_iter().collect();
    assert_eq!(kinds, ["append", "create", "cut", "remove", "sync", "sync names"], "a life has every step");

    let faults = [Fault::KillBefore, Fault::KillWithin, Fault::KillAfter, Fault::Fail(io::ErrorKind::StorageFull)];
    let mut ends = 0;
    for step in 0..life.steps() {
        for fault in faults {
            let dir = tempfile::tempdir().unwrap();
            let index = dir.path().join("index");
            let disk = Arc::new(Platter::default().with_fault(step, fault));
            let mut told = Told::default();
            let ended = live(&disk, Some(&index), &mut told);
            assert!(ended.is_err(), "step {step} {fault:?} was reached");

            let context = |after: &str| format!("step {step}, {fault:?}, {after}");
            // The index is the one of that moment, an older one, or none.
            for seed in 0..2 {
                let after = Arc::new(disk.after_power_cut(seed));
                is_legal(&after, None, &told, &context(&format!("power cut {seed}")));
            }
            is_legal(&Arc::new(disk.after_kill()), Some(&index), &told, &context("killed"));
            ends += 1;
        }
    }
    println!("{ends} ends, each after a kill and after 2 power cuts");
}

#[test]
fn a_start_that_is_killed_at_any_step_is_made_good_by_the_next() {
    let disk = Arc::new(Platter::default());
    let mut told = Told::default();
    live(&disk, None, &mut told).unwrap();
    let last = disk.files().pop().unwrap();
    disk.tamper(&last, |bytes| bytes.extend_from_slice(b"KHLE\0\0"));

    for step in 0..20 {
        for fault in [Fault::KillBefore, Fault::KillWithin, Fault::KillAfter] {
            let disk = Arc::new(disk.copy().with_fault(step, fault));
            if let Ok(mut started) = open(disk.clone(), None, small_segments()) {
                let _ = write_all(&mut started);
            }
            is_legal(&Arc::new(disk.after_power_cut(step)), None, &told, &format!("step {step} {fault:?}"));
        }
    }
}

#[test]
fn an_index_of_any_older_moment_catches_up() {
    let disk = Arc::new(Platter::default());
    let (dir, older) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = dir.path().join("index");
    let mut moments = 0;
    let mut started = open(disk.clone(), Some(file.clone()), small_segments()).unwrap();
    write_all(&mut started).unwrap();
    started.ledger.take_keys(&[key_entry()]).unwrap();
    let mut hub = Hub::new();
    for call in 0..12 {
        started.ledger.append(opened(call)).unwrap();
        write_all(&mut started).unwrap();
        if call % 3 > 0 {
            started.ledger.append(closed(call, 1_000)).unwrap();
        }
        write_all(&mut started).unwrap();
        if call % 4 == 0 {
            hub.take_all(&started.ledger).unwrap();
            write_all(&mut started).unwrap();
        }
        started.follower.step().unwrap();
        // As a copy of a running agent's folder is made: the log file of SQLite belongs to it.
        for suffix in ["", "-wal"] {
            let from = dir.path().join(format!("index{suffix}"));
            if from.exists() {
                std::fs::copy(from, older.path().join(format!("{moments}{suffix}"))).unwrap();
            }
        }
        moments += 1;
    }
    drop(started);

    let told = Told { leaves: Vec::new(), hub: Some(hub) };
    for moment in 0..moments {
        is_legal(&Arc::new(disk.copy()), Some(&older.path().join(moment.to_string())), &told, &format!("{moment}"));
    }
    // A file that is no index, and one that is cut.
    for (name, bytes) in [("rubbish", vec![7; 5_000]), ("cut", std::fs::read(&file).unwrap()[..4_096].to_vec())] {
        let file = older.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        is_legal(&Arc::new(disk.copy()), Some(&file), &told, name);
    }
}

/// A life: calls, statements, segments, an unfinished write, a crash, a new epoch.
fn live(disk: &Arc<Platter>, index: Option<&Path>, told: &mut Told) -> Result<(), LedgerError> {
    let index = || index.map(Path::to_owned);
    let mut agent = open(disk.clone(), index(), small_segments())?;
    write_all(&mut agent)?;
    agent.ledger.take_keys(&[key_entry()])?;
    write_all(&mut agent)?;
    told.hub = Some(Hub::new());
    say(&mut agent, told, vec![opened(1), opened(2), opened(3)])?;
    say(&mut agent, told, vec![part(2, 10), closed(1, 1_000)])?;
    acknowledge(&mut agent, told)?;
    agent.follower.step()?;
    say(&mut agent, told, vec![part(2, 20)])?;
    say(&mut agent, told, vec![closed(2, 30), opened(4), opened(5)])?;
    acknowledge(&mut agent, told)?;
    say(&mut agent, told, vec![closed(5, 7)])?;
    agent.follower.step()?;
    drop(agent);

    // The machine ended in the middle of a write, and two attempts died.
    let last = disk.files().pop().expect("there is a segment");
    disk.tamper(&last, |bytes| bytes.extend_from_slice(b"KHLE\0\0\x01\0half of it"));
    let mut agent = open(disk.clone(), index(), small_segments())?;
    assert_eq!(agent.died, 2, "3 and 4 were open");
    assert!(agent.cut_off.is_some());
    write_all(&mut agent)?;
    acknowledge(&mut agent, told)?;
    say(&mut agent, told, vec![opened(6), opened(7), closed(6, 5)])?;
    drop(agent);

    // The same in the header of a segment.
    let first = crate::ledger::segment::SegmentId { epoch: 0, first: 99 };
    disk.create(&first.name()).map_err(LedgerError::folder("create"))?;
    disk.tamper(&first.name(), |bytes| bytes.extend_from_slice(b"KHLEDGR1 and then"));
    let mut agent = open(disk.clone(), index(), small_segments())?;
    write_all(&mut agent)?;
    say(&mut agent, told, vec![opened(8), opened(9), closed(8, 9)])?;

    // The hub knows another history.
    let mut pending = agent.ledger.begin_epoch(EpochReason::Restored, 5)?;
    write_all(&mut agent)?;
    assert_eq!(pending.is_durable()?, Some(LeafId { epoch: 5, number: 0 }));
    told.hub = Some(Hub::new());
    say(&mut agent, told, vec![closed(9, 11), opened(10)])?;
    acknowledge(&mut agent, told)?;
    say(&mut agent, told, vec![closed(10, 12)])?;
    agent.follower.step()
}

fn say(agent: &mut Opened, told: &mut Told, events: Vec<Event>) -> Result<(), LedgerError> {
    let mut pending = Vec::new();
    for event in events {
        pending.push((agent.ledger.append(event.clone())?, event));
    }
    let written = write_all(agent);
    for (mut pending, event) in pending {
        if let Ok(Some(leaf)) = pending.is_durable() {
            told.leaves.push((leaf, event));
        }
    }
    written
}

fn acknowledge(agent: &mut Opened, told: &mut Told) -> Result<(), LedgerError> {
    if let Some(hub) = &mut told.hub {
        hub.take_all(&agent.ledger)?;
    }
    write_all(agent)
}

/// What must hold of every disk that a life leaves behind.
fn is_legal(disk: &Arc<Platter>, index: Option<&Path>, told: &Told, context: &str) {
    let opened = open(disk.clone(), index.map(Path::to_owned), small_segments());
    let mut agent = opened.unwrap_or_else(|error| panic!("{context}: {error}"));
    write_all(&mut agent).unwrap();
    let (chain, head, _) = agent.ledger.head();
    let mut hub = Hub::new();
    if let Some(known) = told.hub.as_ref().filter(|hub| hub.chain() == Some(chain)) {
        assert!(known.head().size <= head.size, "{context}: the hub has what the log lost");
        hub = known.clone();
        hub.say_again(&agent.ledger).unwrap_or_else(|error| panic!("{context}: {error}"));
    } else if let Some(stated) = agent.follower.index().cursor().filter(|cursor| cursor.stated.statements > 0) {
        panic!("{context}: statements of a hub that was never asked: {stated:?}");
    }
    agent.ledger.take_keys(&[key_entry()]).unwrap();
    write_all(&mut agent).unwrap();
    hub.take_all(&agent.ledger).unwrap_or_else(|error| panic!("{context}: {error}"));
    write_all(&mut agent).unwrap();
    assert_eq!(agent.ledger.unacked(), 0, "{context}");
    agent.follower.step().unwrap();

    let leaves = leaves_of(disk);
    for (id, event) in &told.leaves {
        let found = leaves.get(&(id.epoch, id.number)).unwrap_or_else(|| panic!("{context}: {id:?} was told"));
        match (event, &found.event) {
            // Parts are numbered by the ledger.
            (Event::Part(told), Event::Part(found)) => assert_eq!(told.metered, found.metered, "{context}"),
            (told, found) => assert_eq!(told, found, "{context}: {id:?}"),
        }
    }
    let verified =
        View::on_disk(disk.clone(), None).verify(|_| {}).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!((verified.open, verified.unfinished_bytes), (0, 0), "{context}");
    assert_eq!(verified.leaves, leaves.len() as u64, "{context}");
    let mut fresh = Index::open(None, &**disk).unwrap();
    fresh.follow(&**disk, None, |_| {}).unwrap();
    assert_eq!(agent.follower.index().rows(), fresh.rows(), "{context}");
    let paid = fresh.reading().credited_and_paid_out().unwrap();
    assert_eq!(agent.ledger.unpaid().0, paid.0.0 - paid.1.0, "{context}");
}

fn leaves_of(disk: &Arc<Platter>) -> BTreeMap<(u32, u64), Leaf> {
    let mut leaves = BTreeMap::new();
    View::on_disk(disk.clone(), None)
        .lines(|line| {
            if let Line::Leaf { epoch, number, bytes, .. } = line {
                assert!(leaves.insert((epoch, number), Leaf::decode(&bytes.0).unwrap()).is_none());
            }
            Ok::<_, LedgerError>(())
        })
        .unwrap();
    leaves
}
