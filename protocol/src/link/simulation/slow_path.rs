//! Whether a peer behind a slow or dead path is told from a dead peer.
//!
//! Invariant: a path on which bytes still move is never given up; one on which nothing moves is,
//! within five seconds or three round trips.

use super::*;

/// Many uploads over a path that takes seconds for what the kernel holds.
fn crowded(bytes_per_second: u64) -> (World, Vec<StreamId>, Bytes) {
    let path = Path { bytes_per_second, delay_micros: 100 * MS, unsent_bytes_max: 64 * 1024 };
    let mut world = World::new(path, &Limits::default());
    let ids = (0..32).map(|_| world.answered_call()).collect();
    (world, ids, Bytes::from(vec![0; 16 * 1024]))
}

fn run(world: &mut World, ids: &[StreamId], piece: &Bytes, micros: u64) {
    world.run_until(world.now.plus(micros), |world| {
        let now = world.now;
        for id in ids {
            world.agent.saturate(*id, piece, now);
            world.hub.read(*id, now);
        }
    });
}

#[test]
fn a_ping_behind_a_full_socket_is_no_death() {
    for bytes_per_second in [8_000, 20_000, 100_000, 1_000_000] {
        let (mut world, ids, piece) = crowded(bytes_per_second);
        run(&mut world, &ids, &piece, 120 * SECOND);

        assert_eq!((world.agent.silent, world.hub.silent), (None, None), "{bytes_per_second} bytes a second");
    }
}

#[test]
fn a_path_that_dies_under_load_is_noticed_within_five_seconds_at_both_ends() {
    for bytes_per_second in [300_000, 1_000_000, 100_000_000] {
        let (mut world, ids, piece) = crowded(bytes_per_second);
        run(&mut world, &ids, &piece, 30 * SECOND);
        assert_eq!((world.agent.silent, world.hub.silent), (None, None));
        let died = world.now;
        // A path whose round trip takes more than a second is given longer.
        let round_trip = world.agent.link.rtt_micros().max(world.hub.link.rtt_micros()).unwrap();
        let patience = (2 * SECOND + 3 * round_trip).max(5 * SECOND);
        world.agent.out.die();
        world.hub.out.die();
        run(&mut world, &ids, &piece, 20 * SECOND);

        for (end, silent) in [("agent", world.agent.silent), ("hub", world.hub.silent)] {
            let (at, _) = silent.unwrap_or_else(|| panic!("the {end} never noticed"));
            assert!(at.since(died) <= patience, "{end}: {} us at {bytes_per_second}", at.since(died));
        }
    }
}
