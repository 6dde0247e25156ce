//! Both halves in a world of faults, drawn from a seed: agents that die before and after their
//! log is durable, hubs that die with leaves in hand, links cut with messages on them, two hubs
//! that commit for one agent, and a database that goes back in time or is wiped.
//!
//! `KEYHAVEN_WORLDS=100000 cargo test --release -p keyhaven-protocol ledger_worlds -- --nocapture`
//!
//! Invariant: when the faults end, the books have every durable leaf once and no other, every
//! attempt is closed, and every consumer who got an answer is charged for it once.

mod mutant;
mod world;

use mutant::Mutant;
use world::Seen;
use world::World;

/// Worlds of one test run.
const WORLDS: u64 = 3_000;

/// Worlds within which a mutant must be found out.
const WORLDS_PER_MUTANT: u64 = 2_000;

#[test]
fn ledger_worlds_end_with_equal_books() {
    let worlds = std::env::var("KEYHAVEN_WORLDS").map_or(WORLDS, |worlds| worlds.parse().unwrap());
    let mut seen = Seen::default();
    for seed in 0..worlds {
        match World::run(seed, None) {
            Ok(of_this) => seen.add(&of_this),
            Err(fault) => panic!("world {seed}: {fault}"),
        }
    }
    println!("{worlds} worlds: {seen:?}");
    // Worlds in which nothing happens would prove nothing.
    assert!(seen.is_varied(worlds), "{seen:?}");
}

#[test]
fn a_world_runs_the_same_twice() {
    for seed in 0..50 {
        assert_eq!(World::run(seed, None), World::run(seed, None));
    }
}

#[test]
fn ledger_worlds_find_every_mutant() {
    for mutant in Mutant::ALL {
        let found = (0..WORLDS_PER_MUTANT).find_map(|seed| Some((seed, World::run(seed, Some(mutant)).err()?)));
        let Some((seed, fault)) = found else { panic!("{mutant:?} lives") };
        println!("{mutant:?}: world {seed}, {fault}");

        // The same world without the mutant ends well: it is the mutant that was found.
        assert!(World::run(seed, None).is_ok(), "{mutant:?}, world {seed}: {fault}");
    }
}
