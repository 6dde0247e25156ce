//! Schedules of faults, drawn from a seed: both ends of the shipped state machine with
//! connections that break at any byte, go silent, come twice or crawl; with tasks in any order,
//! clocks that jump, readers that stall, windows of a few bytes and budgets that are used up.
//!
//! `KEYHAVEN_SCHEDULES=1000000 cargo test --release -p keyhaven-protocol fault_schedules`
//!
//! Invariant: after every schedule no stream hangs or is left, no credit is lost or made, what
//! was delivered is a prefix of what was sent, and every stream ended once on either side.

mod check;
mod connection;
mod mutant;
mod task;
mod world;

use mutant::Mutant;
use world::World;

/// Schedules of one test run, about 20 s of one core without optimisation, unless `KEYHAVEN_SCHEDULES` was set when it was compiled.
const SCHEDULES: u64 = 25_000;

/// Schedules within which a mutant must be found out.
const SCHEDULES_PER_MUTANT: u64 = 3_000;

#[test]
fn fault_schedules_leave_nothing_behind() {
    let schedules = option_env!("KEYHAVEN_SCHEDULES").map_or(SCHEDULES, |text| text.parse().unwrap());
    let mut seen = world::Seen::default();
    for seed in 0..schedules {
        match World::run(seed, None) {
            Ok(of_this) => seen.add(&of_this),
            Err(fault) => panic!("schedule {seed}: {fault}"),
        }
    }
    // A simulator that never gets anywhere would find nothing either.
    let each = |count: u64| count / schedules.max(1);
    assert!(each(seen.calls) >= 3 && each(seen.data_bytes) >= 200, "{seen:?}");
    assert!(seen.is_varied(schedules), "{seen:?}");
}

#[test]
fn fault_schedules_find_every_mutant() {
    for mutant in Mutant::ALL {
        let found = (0..SCHEDULES_PER_MUTANT).find_map(|seed| Some((seed, World::run(seed, Some(mutant)).err()?)));
        let Some((seed, fault)) = found else { panic!("{mutant:?} lives") };

        // The same schedule without the mutant finds nothing: it is the mutant that was found.
        assert!(World::run(seed, None).is_ok(), "{mutant:?}, schedule {seed}: {fault}");
    }
}
