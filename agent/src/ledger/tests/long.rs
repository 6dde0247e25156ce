//! Damage anywhere in a long log is found where it is.
//!
//! The run in every test is small. The long one:
//! `KEYHAVEN_LEAVES=1000000 cargo test --release -p keyhaven-agent long_log -- --nocapture`
//!
//! Invariant: every entry is damaged, and read behind the head that led to it.

use std::sync::Arc;
use std::time::Instant;

use super::platter::Platter;
use super::scene::Hub;
use super::scene::closed;
use super::scene::key_entry;
use super::scene::open;
use super::scene::opened;
use super::scene::small_segments;
use super::scene::write_all;
use crate::ledger::Disk as _;
use crate::ledger::Place;
use crate::ledger::Settings;
use crate::ledger::check::Check;
use crate::ledger::entry;
use crate::ledger::entry::Found;
use crate::ledger::entry::Kind;
use crate::ledger::scan::Entry;
use crate::ledger::scan::Scan;
use crate::ledger::scan::Step;
use crate::ledger::scan::segments;

/// Leaves that wait at once.
const WAITING: u64 = 64;

#[test]
fn damage_anywhere_in_a_long_log_is_found() {
    let leaves: u64 = std::env::var("KEYHAVEN_LEAVES").map_or(1_200, |leaves| leaves.parse().unwrap());
    let disk = log(leaves);
    let (from, mut count) = (Instant::now(), 0);
    let (mut check, mut windows) = (None::<Check>, Vec::<(Check, Vec<u8>)>::new());
    let mut scan = Scan::new(&*disk, segments(&*disk).unwrap());
    let mut spent = std::time::Duration::ZERO;
    let (mut random, mut tried) = (0x9e37_79b9_7f4a_7c15_u64, 0);
    loop {
        match scan.step().unwrap() {
            Step::Segment(header) => match &mut check {
                Some(check) => check.next_segment(&header).unwrap(),
                None => check = Some(Check::segment(&header)),
            },
            Step::Entry(entry) => {
                let check = check.as_mut().unwrap();
                let (name, bytes) = (entry.place.segment.name(), entry.end - entry.place.offset);
                windows.push((check.clone(), disk.read(&name, entry.place.offset, bytes.try_into().unwrap()).unwrap()));
                let before = Instant::now();
                count += check.entry(&entry).unwrap().leaves.len();
                spent += before.elapsed();
                if let [one, other] = windows.as_slice() {
                    tried += damages(&one.0, [&one.1, &other.1], &mut random);
                    windows.remove(0);
                }
            }
            Step::End(None) => break,
            Step::End(Some(rest)) => panic!("{rest:?}"),
        }
    }
    let each = spent / u32::try_from(count).unwrap();
    println!("{count} leaves verified, {each:?} each; {tried} damages, all found, in {:?}", from.elapsed());
    assert!(count as u64 >= leaves);
}

/// Damages two entries that follow what was checked: how often.
fn damages(before: &Check, entries: [&[u8]; 2], random: &mut u64) -> u64 {
    let mut next = |below: usize| {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        usize::try_from(*random % u64::try_from(below).unwrap()).unwrap()
    };
    let [one, other] = entries;
    assert!(holds(before, &[one, other].concat()));
    let mut flipped = [one, other].concat();
    flipped[next(one.len())] ^= 1 << next(8);
    let mut cut = [one, other].concat();
    let at = next(one.len());
    cut.drain(at..at + 1 + next(one.len() - at - 1).min(one.len() - at - 1));
    let mut damaged = vec![flipped, cut, [one, one, other].concat()];
    if has_leaves(one) && has_leaves(other) {
        // Where the hub's word stands between groups is not in the chain; that it is there is told
        // by the next one and by the segment's length.
        damaged.extend([[other, one].concat(), other.to_vec()]);
    }
    for (kind, bytes) in damaged.iter().enumerate() {
        assert!(!holds(before, bytes), "damage {kind} behind {:?}", before.head());
    }
    damaged.len() as u64
}

fn has_leaves(entry: &[u8]) -> bool {
    let Found::Entry { items, .. } = entry::read(entry) else { unreachable!("it was read before") };
    items.iter().any(|(kind, _)| *kind == Kind::Group)
}

/// Whether all of these bytes follow what was checked.
fn holds(before: &Check, mut bytes: &[u8]) -> bool {
    let mut check = before.clone();
    let segment = crate::ledger::segment::SegmentId { epoch: 0, first: 0 };
    while !bytes.is_empty() {
        let Found::Entry { items, bytes: count } = entry::read(bytes) else { return false };
        let items = items.into_iter().map(|(kind, bytes)| (kind, bytes.to_vec())).collect();
        if check.entry(&Entry { place: Place { segment, offset: 0 }, end: 0, items }).is_err() {
            return false;
        }
        bytes = &bytes[count..];
    }
    true
}

fn log(leaves: u64) -> Arc<Platter> {
    let disk = Arc::new(Platter::default());
    let settings = Settings { segment_bytes_max: 1 << 20, ..small_segments() };
    let mut agent = open(disk.clone(), None, settings).unwrap();
    write_all(&mut agent).unwrap();
    agent.ledger.take_keys(&[key_entry()]).unwrap();
    write_all(&mut agent).unwrap();
    let mut hub = Hub::new();
    for call in 0..leaves.div_ceil(2) {
        agent.ledger.append(opened(call)).unwrap();
        agent.ledger.append(closed(call, 1_000)).unwrap();
        if (call * 2).is_multiple_of(WAITING) {
            write_all(&mut agent).unwrap();
            hub.take_all(&agent.ledger).unwrap();
        }
    }
    write_all(&mut agent).unwrap();
    disk
}
