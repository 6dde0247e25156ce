//! How many receipts become durable in a second, with the disk's own distribution beside it.
//!
//! The run in every test is small. The long one, on the disk that is asked about:
//! `KEYHAVEN_LEDGER_PAIRS=20000 KEYHAVEN_LEDGER_DIR=/var/tmp cargo test --release -p keyhaven-agent ledger_rate -- --nocapture`
//!
//! Invariant: rates are printed and never judged.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use keyhaven_protocol::leaf::Event;

use super::scene::closed;
use super::scene::key_entry;
use super::scene::opened;
use super::scene::owner;
use crate::ledger::Ledger;
use crate::ledger::Opened;
use crate::ledger::Pending;
use crate::ledger::Settings;
use crate::ledger::View;

#[test]
fn ledger_rate_of_one_at_a_time_and_of_many() {
    let pairs: u64 = std::env::var("KEYHAVEN_LEDGER_PAIRS").map_or(40, |pairs| pairs.parse().unwrap());
    let within = std::env::var("KEYHAVEN_LEDGER_DIR").map_or_else(|_| std::env::temp_dir(), PathBuf::from);
    let dir = tempfile::tempdir_in(within).unwrap();
    let made = events(0..pairs * 3);
    distribution("fdatasync of 1 KiB at a file's end", &mut syncs(dir.path(), pairs));

    let Opened { ledger, writer, follower, .. } = Opened::in_dir(dir.path(), owner(), Settings::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| writer.run());
        threads.spawn(|| follower.run());
        ledger.take_keys(&[key_entry()]).unwrap();
        let mut made = made.into_iter();
        let mut next = |count: u64| made.by_ref().take(usize::try_from(count * 2).unwrap()).collect::<Vec<_>>();

        let alone = next(pairs);
        let mut waits = Vec::new();
        let cpu = cpu_time();
        let from = Instant::now();
        for event in alone {
            let before = Instant::now();
            runtime.block_on(ledger.append(event).unwrap().durable()).unwrap();
            waits.push(before.elapsed());
        }
        report("one leaf at a time", pairs * 2, from.elapsed(), cpu_time() - cpu);
        distribution("append to durable, one at a time", &mut waits);

        for waiting in [16, 256] {
            let many = next(pairs);
            let cpu = cpu_time();
            let from = Instant::now();
            let mut waits = Vec::new();
            for events in chunks(many, waiting) {
                let taken: Vec<_> = events.into_iter().map(|event| (Instant::now(), append(&ledger, event))).collect();
                for (before, pending) in taken {
                    runtime.block_on(pending.durable()).unwrap();
                    waits.push(before.elapsed());
                }
            }
            report(&format!("{waiting} leaves at a time"), pairs * 2, from.elapsed(), cpu_time() - cpu);
            distribution("append to durable", &mut waits);
        }
        ledger.close();
    });
    let from = Instant::now();
    let name = View::names(dir.path()).unwrap().remove(0);
    let verified = View::open(dir.path(), &name).verify(|_| {}).unwrap();
    let per_leaf = from.elapsed() / u32::try_from(verified.leaves).unwrap();
    println!("{} leaves in {} groups verified, {per_leaf:?} each, tickets too", verified.leaves, verified.groups);
    assert_eq!((verified.leaves, verified.open), (pairs * 6 + 2, 0));
}

fn append(ledger: &Ledger, event: Event) -> Pending {
    ledger.append(event).unwrap()
}

/// OPEN and CLOSE of so many calls, in turn. Signing their tickets is the hub's work.
fn events(calls: std::ops::Range<u64>) -> Vec<Event> {
    calls.flat_map(|call| [opened(call), closed(call, 1_000)]).collect()
}

fn chunks(events: Vec<Event>, of: usize) -> Vec<Vec<Event>> {
    events.chunks(of).map(<[Event]>::to_vec).collect()
}

fn syncs(dir: &Path, count: u64) -> Vec<Duration> {
    let mut file = OpenOptions::new().create(true).append(true).open(dir.join("syncs")).unwrap();
    let one = |_| {
        file.write_all(&[7; 1024]).unwrap();
        let before = Instant::now();
        file.sync_data().unwrap();
        before.elapsed()
    };
    (0..count).map(one).collect()
}

/// What this process has spent.
fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(spent.tv_sec).unwrap(), u32::try_from(spent.tv_nsec).unwrap())
}

fn report(what: &str, leaves: u64, took: Duration, cpu: Duration) {
    let per_second = u128::from(leaves) * 1_000_000 / took.as_micros().max(1);
    let pairs = u32::try_from(leaves / 2).unwrap().max(1);
    println!(
        "{what}: {leaves} leaves in {took:?}: {per_second} durable leaves per second, {:?} CPU per pair",
        cpu / pairs
    );
}

fn distribution(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 1_000];
    println!("  {what}: p50 {:?}, p90 {:?}, p99 {:?}, p99.9 {:?}", at(500), at(900), at(990), at(999));
}
