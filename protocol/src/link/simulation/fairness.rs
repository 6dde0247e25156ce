//! What somebody who waits for small pieces feels of those who saturate the same link.
//!
//! Invariant: bounds are in virtual time and include nothing but what the link adds.

use super::*;

/// An event stream of 40-byte pieces, one each 5 ms, beside `bulks` answers that never end.
struct Measured {
    /// Beyond the path's own delay, sorted.
    added_micros: Vec<u64>,
    bulk_bytes: usize,
    micros: u64,
}

fn event_stream_beside(bulks: usize, stalled: usize, path: Path) -> Measured {
    let mut world = World::new(path, &Limits::default());
    let events = world.answered_call();
    let bulks: Vec<StreamId> = (0..bulks).map(|_| world.answered_call()).collect();
    let stalled: Vec<StreamId> = (0..stalled).map(|_| world.answered_call()).collect();
    let piece = Bytes::from(vec![0; 16 * 1024]);
    // What stalls has stalled by then.
    for id in &stalled {
        let now = world.now;
        world.agent.saturate(*id, &piece, now);
    }
    world.run_until(world.now.plus(2 * SECOND), |world| {
        let now = world.now;
        for id in &bulks {
            world.agent.saturate(*id, &piece, now);
        }
        for id in &bulks {
            world.hub.read(*id, now);
        }
    });
    let began = world.now;
    let mut sent: std::collections::VecDeque<Micros> = std::collections::VecDeque::new();
    let mut measured = Measured { added_micros: Vec::new(), bulk_bytes: 0, micros: 4 * SECOND };
    let mut due = began;
    world.run_until(began.plus(4 * SECOND), |world| {
        let now = world.now;
        for id in &bulks {
            world.agent.saturate(*id, &piece, now);
        }
        if now >= due {
            world.agent.link.send_data(events, Bytes::from_static(&[b'e'; 40]), now).unwrap();
            sent.push_back(now);
            due = now.plus(5 * MS);
        }
        world.timer = Some(due);
        measured.bulk_bytes += bulks.iter().map(|id| world.hub.read(*id, now)).sum::<usize>();
        for _ in 0..world.hub.read(events, now) / 40 {
            let sent_at = sent.pop_front().unwrap();
            measured.added_micros.push(now.since(sent_at) - path.delay_micros);
        }
    });
    measured.added_micros.sort_unstable();
    measured
}

#[test]
fn an_event_stream_beside_four_saturating_ones_waits_for_no_more_than_a_few_turns() {
    let path = Path { bytes_per_second: 1_000_000_000, delay_micros: 20, unsent_bytes_max: 64 * 1024 };

    let measured = event_stream_beside(4, 0, path);

    let added = &measured.added_micros;
    assert!(added.len() > 750, "{}", added.len());
    assert!(percentile(added, 99) <= 300, "{}", percentile(added, 99));
}

#[test]
fn on_a_slow_path_turns_are_short_and_the_link_stays_full() {
    let path = Path { bytes_per_second: 10_000_000, delay_micros: 15 * MS, unsent_bytes_max: 16 * 1024 };

    let measured = event_stream_beside(2, 0, path);

    let added = &measured.added_micros;
    let used = measured.bulk_bytes as u64 * 100 / (path.bytes_per_second * measured.micros / SECOND);
    assert!(percentile(added, 50) <= 4 * MS, "{}", percentile(added, 50));
    assert!(percentile(added, 99) <= 8 * MS, "{}", percentile(added, 99));
    assert!(used >= 95, "{used} %");
}

#[test]
fn a_thousand_stalled_readers_change_nothing_for_the_one_that_reads() {
    let path = Path { bytes_per_second: 100_000_000, delay_micros: MS, unsent_bytes_max: 64 * 1024 };

    let alone = event_stream_beside(1, 0, path);
    let beside = event_stream_beside(1, 1_000, path);

    let (alone, beside) = (percentile(&alone.added_micros, 99), percentile(&beside.added_micros, 99));
    assert!(beside <= alone * 12 / 10 + 100, "{alone} -> {beside}");
}
