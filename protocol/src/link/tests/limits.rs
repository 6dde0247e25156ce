//! What a link does with more than is sensible.
//!
//! Invariant: what is too much is refused within its stream; only a flood ends the link.

use bytes::Bytes;
use bytes::BytesMut;

use crate::frame::Abort;
use crate::frame::AbortReason;
use crate::frame::BATCH_FRAMES_MAX;
use crate::frame::FLAG_OPTIONAL;
use crate::frame::Frame;
use crate::frame::FrameKind;
use crate::frame::put_frame;
use crate::link::Limits;
use crate::link::Link;
use crate::link::LinkFault;
use crate::link::Micros;
use crate::link::Side;

use super::NOW;
use super::Pair;
use super::frames;
use super::read_all;

#[test]
fn a_peer_that_asks_without_ever_reading_the_answers_is_a_flood() {
    let mut hub = Link::new(Side::Hub, Limits::default(), NOW);
    let ping = Frame { kind: FrameKind::Ping.number(), flags: 0, stream: 0, payload: Bytes::from_static(&[0; 8]) };

    let verdict = (0..10_000).try_for_each(|_| hub.receive(ping.clone(), NOW));

    assert_eq!(verdict, Err(LinkFault::Flood));
}

#[test]
fn streams_opened_faster_than_the_limit_are_refused_one_by_one_and_the_link_goes_on() {
    let limits = Limits { opens_per_second: 10, ..Limits::default() };
    let mut pair = Pair::with(&Limits::default(), &limits);
    for _ in 0..100 {
        let id = pair.hub.open(Bytes::from_static(b"open"), NOW).unwrap();
        pair.exchange();
        pair.hub.release(id, AbortReason::ConsumerGone, NOW);
        pair.exchange();
    }

    assert_eq!(pair.agent.counters().opens_refused, 80);
    assert_eq!(pair.hub.counters().aborts_received.of(AbortReason::Busy), 80);
    let id = pair.hub.open(Bytes::from_static(b"open"), NOW).unwrap();
    for frame in frames(&mut pair.hub) {
        pair.agent.receive(frame, Micros(1_000_000)).unwrap();
    }
    assert!(pair.agent.take_head(id).is_some(), "a second later there is room again");
}

#[test]
fn a_hub_that_opens_and_resets_at_once_is_refused_and_then_a_flood() {
    let limits = Limits { resets_per_second: 10, ..Limits::default() };
    let mut agent = Link::new(Side::Agent, limits, NOW);
    let mut served = 0;
    let mut verdict = Ok(());
    let reset = Abort::new(AbortReason::ConsumerGone).encode();
    for id in 1..1_000 {
        let open = Frame { kind: FrameKind::Open.number(), flags: 0, stream: id, payload: Bytes::new() };
        let abort = Frame { kind: FrameKind::Abort.number(), flags: 0, stream: id, payload: reset.clone() };
        verdict = agent.receive(open, NOW).and_then(|()| agent.receive(abort, NOW));
        if verdict.is_err() {
            break;
        }
        served += u32::from(agent.take_head(id).is_some());
        agent.release(id, AbortReason::Unspecified, NOW);
        frames(&mut agent);
    }
    assert_eq!((served, verdict), (20, Ok(())), "what is refused has nothing to reset");

    let mut agent = Link::new(Side::Agent, Limits { resets_per_second: 10, ..Limits::default() }, NOW);
    let mut receive = |kind: FrameKind, id, payload: &Bytes| {
        agent.receive(Frame { kind: kind.number(), flags: 0, stream: id, payload: payload.clone() }, NOW)
    };
    (1..1_000).try_for_each(|id| receive(FrameKind::Open, id, &Bytes::new())).unwrap();
    let verdict = (1..1_000).try_for_each(|id| receive(FrameKind::Abort, id, &reset));
    assert_eq!(verdict, Err(LinkFault::Flood), "streams opened first and reset together");
}

#[test]
fn a_hub_opens_nothing_on_a_link_whose_streams_are_aborted_too_fast() {
    let limits = Limits { resets_per_second: 10, ..Limits::default() };
    let mut pair = Pair::with(&limits, &Limits::default());
    let mut opened = 0;
    while let Ok(id) = pair.hub.open(Bytes::from_static(b"open"), NOW) {
        pair.exchange();
        pair.agent.abort(id, Abort::new(AbortReason::OwnerRateLimited), NOW);
        pair.exchange();
        pair.hub.release(id, AbortReason::Unspecified, NOW);
        opened += 1;
    }

    assert_eq!(opened, 20);
    assert!(pair.hub.open(Bytes::from_static(b"open"), Micros(1_000_000)).is_ok());
}

#[test]
fn frames_of_the_link_in_numbers_are_unanswered_first_and_then_a_flood() {
    let mut hub = Link::new(Side::Hub, Limits { control_per_second: 10, ..Limits::default() }, NOW);
    let ping = Frame { kind: FrameKind::Ping.number(), flags: 0, stream: 0, payload: Bytes::from_static(&[0; 8]) };
    for _ in 0..100 {
        hub.receive(ping.clone(), NOW).unwrap();
    }
    assert_eq!(frames(&mut hub).len(), 20);

    let offer = Frame { kind: FrameKind::Offer.number(), payload: Bytes::from_static(b"{}"), ..ping.clone() };
    let nothing = Frame { kind: FrameKind::Data.number(), stream: 7, payload: Bytes::new(), ..ping.clone() };
    let skipped = Frame { kind: 0x7f, flags: FLAG_OPTIONAL, ..ping };
    for flood in [offer, nothing, skipped] {
        let mut hub = Link::new(Side::Hub, Limits { control_per_second: 10, ..Limits::default() }, NOW);
        let passed = (0..1_000).take_while(|_| hub.receive(flood.clone(), NOW).is_ok()).count();
        assert_eq!(passed, 160, "{flood:?}");
    }
}

#[test]
fn a_message_of_too_many_frames_is_a_fault_and_ours_never_are() {
    let mut message = BytesMut::new();
    for _ in 0..=BATCH_FRAMES_MAX {
        put_frame(&mut message, FrameKind::Credit, 1, &[0, 0, 0, 1]);
    }
    let mut hub = Link::new(Side::Hub, Limits::default(), NOW);
    assert_eq!(hub.receive_batch(message.freeze(), NOW), Err(LinkFault::Crowded));

    let mut pair = Pair::new();
    for _ in 0..4_000 {
        let id = pair.hub.open(Bytes::new(), NOW).unwrap();
        pair.hub.finish(id, Bytes::new(), NOW).unwrap();
    }
    while pair.hub.has_frames() {
        let mut batch = BytesMut::new();
        pair.hub.next_batch(&mut batch, NOW);
        pair.agent.receive_batch(batch.freeze(), NOW).unwrap();
    }
    assert_eq!(pair.agent.stream_count(), 4_000);
}

#[test]
fn a_part_of_a_message_does_not_keep_the_whole_message_in_memory() {
    let mut pair = Pair::new();
    let id = pair.answered_call();
    let mut message = BytesMut::new();
    put_frame(&mut message, FrameKind::Data, id, &[1; 20_000]);
    put_frame(&mut message, FrameKind::Data, 999, &[2; 60_000]);
    let message = message.freeze();
    pair.hub.receive_batch(message.clone(), NOW).unwrap();

    assert!(message.is_unique(), "nothing refers to it any more");
    assert_eq!(read_all(&mut pair.hub, id).0, [1; 20_000]);
}

#[test]
fn whatever_a_peer_sends_nothing_panics_and_memory_stays_within_credit() {
    let frames = bolero::check!().with_iterations(3_000).with_type::<(bool, Vec<(u8, u8, u16)>)>();
    frames.for_each(|(at_hub, frames)| {
        let side = if *at_hub { Side::Hub } else { Side::Agent };
        let mut link = Link::new(side, Limits::default(), NOW);
        for _ in 0..if *at_hub { 3 } else { 0 } {
            link.open(Bytes::new(), NOW).unwrap();
        }
        for (kind, stream, length) in frames {
            let kinds = FrameKind::ALL;
            let kind = kinds[usize::from(*kind) % kinds.len()];
            let payload = Bytes::from(vec![*stream; usize::from(*length)]);
            let mut message = BytesMut::new();
            put_frame(&mut message, FrameKind::Ping, 0, &[0; 8]);
            let stream = if kind.is_of_stream() { u32::from(stream % 5) } else { 0 };
            message.extend_from_slice(&[kind.number(), stream.to_be_bytes()[3] & FLAG_OPTIONAL, 0]);
            message.extend_from_slice(&length.to_be_bytes());
            message.extend_from_slice(&stream.to_be_bytes());
            message.extend_from_slice(&payload);
            if link.receive_batch(message.freeze(), NOW).is_err() {
                break;
            }
            assert!(link.committed_bytes() <= link.stream_count() * Limits::default().window_bytes as usize);
        }
        link.lose();
        (0..5).for_each(|id| link.release(id, AbortReason::Unspecified, NOW));
        assert_eq!((link.stream_count(), link.committed_bytes()), (0, 0));
    });
}

#[test]
fn any_bytes_are_a_message_or_a_fault() {
    bolero::check!().with_iterations(3_000).for_each(|bytes: &[u8]| {
        let mut link = Link::new(Side::Agent, Limits::default(), NOW);
        let _ = link.receive_batch(Bytes::copy_from_slice(bytes), NOW);
        while link.next_event().is_some() {}
        frames(&mut link);
    });
}
