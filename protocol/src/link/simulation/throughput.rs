//! What one stream gets of a long path, and what its window costs.
//!
//! Invariant: bounds are shares of the path's own bandwidth.

use super::*;

/// The world after one answer was read, as it comes or every so often, for five seconds; and the
/// bytes read in the last three.
fn single_stream(path: Path, read_every: u64) -> (World, usize) {
    let mut world = World::new(path, &Limits::default());
    let id = world.answered_call();
    let piece = Bytes::from(vec![0; 64 * 1024]);
    let began = world.now;
    let mut due = began;
    let mut read = 0;
    world.run_until(began.plus(5 * SECOND), |world| {
        let now = world.now;
        world.agent.saturate(id, &piece, now);
        if now < due {
            return;
        }
        if read_every > 0 {
            due = now.plus(read_every);
            world.timer = Some(due);
        }
        let bytes = match world.hub.link.take_data(id, now) {
            Ok(Incoming::Data(data)) => data.len(),
            _ => 0,
        };
        let bytes = if read_every > 0 { bytes } else { bytes + world.hub.read(id, now) };
        read += if now.since(began) > 2 * SECOND { bytes } else { 0 };
    });
    (world, read)
}

#[test]
fn one_stream_fills_a_long_fat_path() {
    let path = Path { bytes_per_second: 40_000_000, delay_micros: 50 * MS, unsent_bytes_max: 64 * 1024 };

    let (_, bytes) = single_stream(path, 0);

    let share = bytes as u64 * 100 / (3 * path.bytes_per_second);
    assert!(share >= 90, "{share} %");
}

#[test]
fn a_slow_reader_on_the_same_path_keeps_little_waiting() {
    let path = Path { bytes_per_second: 40_000_000, delay_micros: 50 * MS, unsent_bytes_max: 64 * 1024 };

    let (world, bytes) = single_stream(path, 100 * MS);

    assert!(bytes > 0);
    assert!(world.hub.link.committed_bytes() <= 512 * 1024, "{}", world.hub.link.committed_bytes());
}

#[test]
fn a_window_that_grew_shrinks_when_its_reader_stops() {
    let path = Path { bytes_per_second: 40_000_000, delay_micros: 50 * MS, unsent_bytes_max: 64 * 1024 };
    let (mut world, _) = single_stream(path, 0);
    let grown = world.hub.link.committed_bytes();
    let piece = Bytes::from(vec![0; 64 * 1024]);
    let end = world.now.plus(20 * SECOND);
    let mut due = world.now;
    world.run_until(end, |world| {
        let now = world.now;
        world.agent.saturate(1, &piece, now);
        if now >= due {
            due = now.plus(20 * MS);
            let _ = world.hub.link.take_data(1, now);
        }
        world.timer = Some(due);
    });

    assert!(grown >= 2 * 1024 * 1024, "{grown}");
    let shrunk = world.hub.link.committed_bytes();
    assert!(shrunk <= grown / 2, "{grown} -> {shrunk}");
}
