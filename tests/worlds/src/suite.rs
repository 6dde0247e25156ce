//! What is run, and what a run must have seen to prove anything.
//!
//! Invariant: a world that fails is named by its seed, and every mutant is found in a world that
//! ends well without it.

use std::time::Instant;

use crate::mutant::Mutant;
use crate::say;
use crate::world::Cheats;
use crate::world::Outcome;
use crate::world::Seen;
use crate::world::Setting;
use crate::world::World;

/// Requests of one world.
const REQUESTS: u32 = 200;

/// Worlds within which a mutant must be found out.
const WORLDS_PER_MUTANT: u64 = 3_000;

/// One world in so many is run again.
const AGAIN: u64 = 500;

/// The mutants, then worlds until so many requests were sold, honest ones beside the others.
pub(crate) fn all(first: u64, requests: u64, real: u64) -> Result<(), String> {
    let began = Instant::now();
    say(&format!("worlds from seed {first}"));
    mutants(first)?;
    let few = real / 4;
    std::thread::scope(|scope| {
        let honest = scope.spawn(|| {
            run(first, requests / 2, Cheats::Nobody, false)?;
            run(first, few, Cheats::Nobody, true)?;
            run(first, few, Cheats::Consumers, true)
        });
        run(first, requests / 5, Cheats::Owners, false)?;
        run(first, requests / 10, Cheats::Consumers, false)?;
        run(first, requests / 5, Cheats::Both, false)?;
        run(first, few, Cheats::Owners, true)?;
        run(first, few, Cheats::Both, true)?;
        honest.join().unwrap_or_else(|_| Err("the honest worlds panicked".to_owned()))
    })?;
    say(&format!("all in {:.1} s", began.elapsed().as_secs_f32()));
    Ok(())
}

/// One world, to look at.
pub(crate) fn one(seed: u64, cheats: Cheats, is_real: bool) -> Result<(), String> {
    let outcome = World::run(seed, Setting { cheats, mutant: None, requests: REQUESTS }, is_real)?;
    say(&describe(&outcome.seen));
    say(&format!("fingerprint {:016x}", outcome.fingerprint));
    Ok(())
}

/// Worlds until so many requests were sold in them.
pub(crate) fn run(first: u64, requests: u64, cheats: Cheats, is_real: bool) -> Result<(), String> {
    let (began, mut seen, mut sum) = (Instant::now(), Seen::default(), 0_u64);
    let setting = Setting { cheats, mutant: None, requests: REQUESTS };
    let mut seed = first;
    while seen.requests < requests {
        let outcome = world(seed, setting, is_real)?;
        if seed.is_multiple_of(AGAIN) && world(seed, setting, is_real)? != outcome {
            return Err(format!("world {seed}, {}: runs otherwise the second time", cheats.name()));
        }
        if is_real && world(seed, setting, false)? != outcome {
            return Err(format!("world {seed}, {}: runs otherwise with stubs", cheats.name()));
        }
        seen.add(&outcome.seen);
        sum = crate::random::mix(sum ^ outcome.fingerprint);
        seed += 1;
    }
    let took = began.elapsed().as_secs_f64();
    let records = if is_real { ", real records" } else { "" };
    let worlds = seed - first;
    say(&format!(
        "{}{records}: {} requests in {worlds} worlds, {took:.1} s, sum {sum:016x}",
        cheats.name(),
        seen.requests
    ));
    say(&describe(&seen));
    is_varied(&seen, cheats, worlds)
}

fn world(seed: u64, setting: Setting, is_real: bool) -> Result<Outcome, String> {
    let run = || World::run(seed, setting, is_real);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let outcome = caught.unwrap_or_else(|_| Err("it panicked".to_owned()));
    outcome.map_err(|fault| format!("world {seed}, {}: {fault}", setting.cheats.name()))
}

/// Each mistake alone is found.
pub(crate) fn mutants(first: u64) -> Result<(), String> {
    let began = Instant::now();
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let lives: Vec<String> = Mutant::ALL.iter().filter_map(|mutant| find(*mutant, first).err()).collect();
    std::panic::set_hook(quiet);
    if !lives.is_empty() {
        return Err(lives.join("; "));
    }
    say(&format!("{} mutants found in {:.1} s", Mutant::ALL.len(), began.elapsed().as_secs_f32()));
    Ok(())
}

fn find(mutant: Mutant, first: u64) -> Result<(), String> {
    for seed in first..first + WORLDS_PER_MUTANT {
        for cheats in Cheats::ALL {
            let setting = Setting { cheats, mutant: Some(mutant), requests: REQUESTS };
            let Err(fault) = world(seed, setting, false) else { continue };
            let fault: String = fault.chars().take(110).collect();
            say(&format!("{mutant:?}: {fault}"));
            // Without the mutant the same world ends well: it is the mutant that was found.
            world(seed, Setting { mutant: None, ..setting }, false)?;
            return Ok(());
        }
    }
    Err(format!("{mutant:?} lives"))
}

fn describe(seen: &Seen) -> String {
    let each: Vec<String> =
        seen.each().iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    format!("  {}", each.join(", "))
}

/// Worlds in which nothing happens would prove nothing.
fn is_varied(seen: &Seen, cheats: Cheats, worlds: u64) -> Result<(), String> {
    let of_cheats = ["cheats", "agent_above", "refused"];
    let owners_cheat = matches!(cheats, Cheats::Owners | Cheats::Both);
    let missing = seen.each().into_iter().find(|(name, count)| {
        let is_expected = owners_cheat || !of_cheats.contains(name);
        is_expected && *count < worlds / 200
    });
    missing.map_or(Ok(()), |(name, count)| Err(format!("{name} was seen {count} times in {worlds} worlds")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_are_equal_at_the_end_of_every_world() {
        for cheats in Cheats::ALL {
            run(1_000_000, 8_000, cheats, false).unwrap();
        }
    }

    #[test]
    fn books_are_equal_with_real_records() {
        for cheats in Cheats::ALL {
            run(2_000_000, 400, cheats, true).unwrap();
        }
    }

    #[test]
    fn a_world_runs_the_same_twice_and_no_two_worlds_are_one() {
        let setting = Setting { cheats: Cheats::Both, mutant: None, requests: REQUESTS };
        let run = |seed| World::run(seed, setting, false).unwrap();

        for seed in 0..20 {
            assert_eq!(run(seed), run(seed));
            assert_ne!(run(seed).fingerprint, run(seed + 1).fingerprint);
        }
    }
}
