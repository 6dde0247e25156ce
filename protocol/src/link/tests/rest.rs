//! What a link remembers of what it did, in bytes.
//!
//! Invariant: a link without streams can let go of all of it, and serves the next call as ever.

use bytes::Bytes;

use crate::frame::AbortReason;

use super::NOW;
use super::Pair;

#[test]
fn a_link_that_was_busy_holds_no_memory_once_it_rests() {
    let mut pair = Pair::new();
    let open = |pair: &mut Pair| pair.hub.open(Bytes::from_static(b"open"), NOW).unwrap();
    let streams: Vec<_> = (0..100).map(|_| open(&mut pair)).collect();
    pair.hub.ping(NOW);
    pair.exchange();
    while pair.hub.next_event().or(pair.agent.next_event()).is_some() {}
    pair.hub.rest();
    let busy = pair.hub.stream_count();
    for id in streams {
        pair.hub.release(id, AbortReason::ConsumerGone, NOW);
        pair.exchange();
        pair.agent.release(id, AbortReason::Unspecified, NOW);
    }
    pair.exchange();
    while pair.hub.next_event().or(pair.agent.next_event()).is_some() {}
    let before = [pair.hub.queues_bytes(), pair.agent.queues_bytes()];

    pair.hub.rest();
    pair.agent.rest();

    assert_eq!(busy, 100);
    assert!(before.iter().all(|bytes| *bytes > 10_000), "{before:?}");
    assert_eq!([pair.hub.queues_bytes(), pair.agent.queues_bytes()], [0, 0]);
    let next = open(&mut pair);
    pair.exchange();
    assert!(pair.agent.take_head(next).is_some());
}
