//! What the link promises, one promise a test.
//!
//! Invariant: only the public face is used, and time is made up.

use bytes::Bytes;
use bytes::BytesMut;

use crate::frame::Abort;
use crate::frame::AbortReason;
use crate::frame::Drain;
use crate::frame::FLAG_OPTIONAL;
use crate::frame::Frame;
use crate::frame::FrameKind;
use crate::frame::HEADER_BYTES;
use crate::frame::StreamId;
use crate::frame::next_frame;
use crate::frame::to_json;

use super::Budget;
use super::Event;
use super::Incoming;
use super::Limits;
use super::Link;
use super::LinkFault;
use super::Micros;
use super::OpenRefused;
use super::Side;

mod ledger;
mod limits;
mod receipts;
mod rest;

const NOW: Micros = Micros(1);
const WINDOW: usize = 64 * 1024;
const NARROW: usize = 16 * 1024;

#[test]
fn a_call_goes_there_and_back() {
    let mut pair = Pair::new();
    let id = pair.hub.open(Bytes::from_static(b"open"), NOW).unwrap();
    pair.hub.send_data(id, Bytes::from_static(b"question"), NOW).unwrap();
    pair.hub.finish(id, Bytes::new(), NOW).unwrap();
    pair.exchange();

    assert_eq!(pair.agent.next_event(), Some(Event::Opened(id)));
    assert_eq!(pair.agent.take_head(id), Some(Bytes::from_static(b"open")));
    assert_eq!(read_all(&mut pair.agent, id), (b"question".to_vec(), Incoming::End(Bytes::new())));

    pair.agent.send_head(id, Bytes::from_static(b"head")).unwrap();
    pair.agent.send_data(id, Bytes::from_static(b"answer"), NOW).unwrap();
    pair.agent.finish(id, Bytes::from_static(b"trailers"), NOW).unwrap();
    pair.agent.release(id, AbortReason::Unspecified, NOW);
    pair.exchange();

    assert_eq!(pair.hub.take_head(id), Some(Bytes::from_static(b"head")));
    assert_eq!(read_all(&mut pair.hub, id), (b"answer".to_vec(), Incoming::End(Bytes::from_static(b"trailers"))));
    pair.hub.release(id, AbortReason::Unspecified, NOW);
    pair.exchange();
    assert_eq!((pair.hub.stream_count(), pair.agent.stream_count()), (0, 0));
    assert_eq!((pair.hub.committed_bytes(), pair.agent.committed_bytes()), (0, 0));
}

#[test]
fn a_small_call_travels_in_one_message_each_way() {
    let mut pair = Pair::new();
    let id = pair.hub.open(Bytes::from_static(b"open"), NOW).unwrap();
    pair.hub.send_data(id, Bytes::from_static(b"question"), NOW).unwrap();
    pair.hub.finish(id, Bytes::new(), NOW).unwrap();
    let mut batch = BytesMut::new();
    pair.hub.next_batch(&mut batch, NOW);

    assert_eq!(kinds(batch.freeze()), [FrameKind::Open, FrameKind::Data, FrameKind::End]);
    assert!(!pair.hub.has_frames() || drained(&mut pair.hub), "nothing is left but an empty turn");
}

#[test]
fn a_sender_stops_at_its_credit_and_goes_on_when_the_reader_reads() {
    let mut pair = Pair::new();
    let id = pair.answered_call();
    for _ in 0..4 {
        pair.agent.send_data(id, Bytes::from(vec![1; WINDOW / 2]), NOW).unwrap();
    }
    pair.exchange();
    assert_eq!(pair.hub.counters().data_received_bytes, WINDOW as u64);

    let mut read = 0;
    while let Ok(Incoming::Data(data)) = pair.hub.take_data(id, NOW) {
        read += data.len();
        pair.exchange();
    }
    assert_eq!(read, 2 * WINDOW);
}

#[test]
fn a_stalled_reader_does_not_hold_up_another_stream() {
    let mut pair = Pair::new();
    let stalled = pair.answered_call();
    let other = pair.answered_call();
    for _ in 0..100 {
        pair.agent.send_data(stalled, Bytes::from(vec![0; 4096]), NOW).unwrap();
    }
    pair.agent.send_data(other, Bytes::from_static(b"hello"), NOW).unwrap();
    pair.exchange();

    assert_eq!(pair.hub.take_data(other, NOW), Ok(Incoming::Data(Bytes::from_static(b"hello"))));
    assert_eq!(pair.hub.counters().data_received_bytes, WINDOW as u64 + 5);
}

#[test]
fn a_quiet_stream_goes_before_saturating_ones() {
    let mut pair = Pair::new();
    let busy: Vec<StreamId> = (0..4).map(|_| pair.answered_call()).collect();
    let quiet = pair.answered_call();
    for id in &busy {
        pair.agent.send_data(*id, Bytes::from(vec![0; WINDOW]), NOW).unwrap();
    }
    let mut batch = BytesMut::new();
    for _ in 0..4 {
        pair.agent.next_batch(&mut batch, NOW);
        batch.clear();
    }
    pair.agent.send_data(quiet, Bytes::from_static(b"token"), NOW).unwrap();
    pair.agent.next_batch(&mut batch, NOW);

    let first = next_frame(&mut batch.freeze()).unwrap().unwrap();
    assert_eq!(first.stream, quiet);
}

#[test]
fn busy_streams_share_evenly() {
    let mut pair = Pair::new();
    let busy: Vec<StreamId> = (0..4).map(|_| pair.answered_call()).collect();
    for id in &busy {
        pair.agent.send_data(*id, Bytes::from(vec![0; WINDOW]), NOW).unwrap();
    }
    let mut sent = std::collections::HashMap::<StreamId, usize>::new();
    for _ in 0..8 {
        let mut batch = BytesMut::new();
        pair.agent.next_batch(&mut batch, NOW);
        let mut batch = batch.freeze();
        while let Some(frame) = next_frame(&mut batch).unwrap() {
            *sent.entry(frame.stream).or_default() += frame.payload.len();
        }
    }

    let most = sent.values().max().unwrap();
    let least = busy.iter().map(|id| sent.get(id).copied().unwrap_or(0)).min().unwrap();
    assert!(most - least <= 16 * 1024, "{sent:?}");
}

#[test]
fn an_abort_overtakes_data_and_is_echoed_once() {
    let mut pair = Pair::new();
    let id = pair.answered_call();
    pair.agent.send_data(id, Bytes::from(vec![0; 1000]), NOW).unwrap();
    pair.exchange();
    pair.hub.abort(id, Abort::new(AbortReason::ConsumerGone), NOW);
    pair.hub.abort(id, Abort::new(AbortReason::Protocol), NOW);
    pair.agent.send_data(id, Bytes::from(vec![0; WINDOW]), NOW).unwrap();

    let to_agent = frames(&mut pair.hub);
    assert_eq!(to_agent.iter().filter(|frame| frame.kind == FrameKind::Abort.number()).count(), 1);
    deliver(&mut pair.agent, to_agent);
    assert_eq!(
        pair.agent.aborted(id).map(|abort| (abort.reason, abort.received_bytes)),
        Some((AbortReason::ConsumerGone, 1000))
    );
    let to_hub = frames(&mut pair.agent);
    assert_eq!(
        to_hub.iter().map(|frame| frame.kind).collect::<Vec<_>>(),
        [FrameKind::Abort.number()],
        "the queued data is dropped"
    );
    deliver(&mut pair.hub, to_hub);
    pair.agent.release(id, AbortReason::Unspecified, NOW);
    pair.hub.release(id, AbortReason::Unspecified, NOW);
    pair.exchange();
    assert_eq!((pair.hub.stream_count(), pair.agent.stream_count()), (0, 0));
}

#[test]
fn a_consumer_that_leaves_after_its_request_was_sent_still_aborts_the_call() {
    let mut pair = Pair::new();
    let id = pair.answered_call();
    pair.hub.release(id, AbortReason::ConsumerGone, NOW);
    pair.exchange();

    assert_eq!(pair.agent.aborted(id).map(|abort| abort.reason), Some(AbortReason::ConsumerGone));
}

#[test]
fn what_came_before_a_failure_is_read_before_the_failure() {
    let mut pair = Pair::new();
    let id = pair.answered_call();
    pair.agent.send_data(id, Bytes::from_static(b"half an ans"), NOW).unwrap();
    pair.agent.fail(id, Abort::new(AbortReason::VendorBroke), NOW);
    pair.agent.release(id, AbortReason::Unspecified, NOW);
    pair.exchange();

    let (data, end) = read_all(&mut pair.hub, id);
    assert_eq!(data, b"half an ans");
    assert!(matches!(end, Incoming::Aborted(abort) if abort.reason == AbortReason::VendorBroke));
}

#[test]
fn an_answer_may_end_before_the_request_does() {
    let mut pair = Pair::new();
    let id = pair.hub.open(Bytes::from_static(b"open"), NOW).unwrap();
    pair.hub.send_data(id, Bytes::from(vec![0; 3 * WINDOW]), NOW).unwrap();
    pair.exchange();
    pair.agent.send_head(id, Bytes::from_static(b"too large")).unwrap();
    pair.agent.finish(id, Bytes::new(), NOW).unwrap();
    pair.agent.release(id, AbortReason::Unspecified, NOW);
    pair.exchange();

    assert_eq!(pair.hub.take_data(id, NOW), Ok(Incoming::End(Bytes::new())));
    pair.hub.release(id, AbortReason::Finished, NOW);
    pair.exchange();
    assert_eq!((pair.hub.stream_count(), pair.agent.stream_count()), (0, 0));
}

#[test]
fn more_data_than_credit_ends_the_stream_and_not_the_link() {
    let mut pair = Pair::new();
    let id = pair.answered_call();
    let other = pair.answered_call();
    for _ in 0..2 {
        let frame =
            Frame { kind: FrameKind::Data.number(), flags: 0, stream: id, payload: Bytes::from(vec![0; WINDOW]) };
        pair.hub.receive(frame, NOW).unwrap();
    }

    assert_eq!(pair.hub.aborted(id).map(|abort| abort.reason), Some(AbortReason::FlowControl));
    assert_eq!(pair.hub.aborted(other), None);
}

#[test]
fn a_frame_too_large_or_out_of_place_in_a_stream_ends_that_stream_only() {
    let too_large =
        |id| Frame { kind: FrameKind::Data.number(), flags: 0, stream: id, payload: Bytes::from(vec![0; 70_000]) };
    let second_head = |id| Frame { kind: FrameKind::Head.number(), flags: 0, stream: id, payload: Bytes::new() };
    let unknown = |id| Frame { kind: 0x7f, flags: 0, stream: id, payload: Bytes::new() };
    let short_credit = |id| Frame { kind: FrameKind::Credit.number(), flags: 0, stream: id, payload: Bytes::new() };
    let faults: [&dyn Fn(StreamId) -> Frame; 4] = [&too_large, &second_head, &unknown, &short_credit];
    for fault in faults {
        let mut pair = Pair::new();
        let id = pair.answered_call();
        let other = pair.answered_call();
        pair.hub.receive(fault(id), NOW).unwrap();

        assert_eq!(pair.hub.aborted(id).map(|abort| abort.reason), Some(AbortReason::Protocol));
        pair.agent.send_data(other, Bytes::from_static(b"alive"), NOW).unwrap();
        pair.exchange();
        assert_eq!(pair.hub.take_data(other, NOW), Ok(Incoming::Data(Bytes::from_static(b"alive"))));
    }
}

#[test]
fn an_optional_frame_of_an_unknown_kind_is_skipped() {
    let mut pair = Pair::new();
    let id = pair.answered_call();
    for stream in [0, id] {
        pair.hub.receive(Frame { kind: 0x7f, flags: FLAG_OPTIONAL, stream, payload: Bytes::new() }, NOW).unwrap();
    }

    assert_eq!(pair.hub.aborted(id), None);
}

#[test]
fn faults_of_the_link_itself_are_named() {
    let mut hub = Link::new(Side::Hub, Limits::default(), NOW);
    let frame = |kind: FrameKind, stream, length| Frame {
        kind: kind.number(),
        flags: 0,
        stream,
        payload: Bytes::from(vec![b' '; length]),
    };

    assert_eq!(
        hub.receive(Frame { kind: 0x7f, ..frame(FrameKind::Ping, 0, 0) }, NOW),
        Err(LinkFault::UnknownKind(0x7f))
    );
    assert_eq!(
        hub.receive(frame(FrameKind::Offer, 0, 100_000), NOW),
        Err(LinkFault::TooLarge { kind: FrameKind::Offer, bytes: 100_000 })
    );
    assert_eq!(hub.receive(frame(FrameKind::Data, 0, 1), NOW), Err(LinkFault::Misplaced(FrameKind::Data)));
    assert_eq!(hub.receive(frame(FrameKind::Ping, 3, 8), NOW), Err(LinkFault::Misplaced(FrameKind::Ping)));
    assert_eq!(hub.receive(frame(FrameKind::Open, 3, 8), NOW), Err(LinkFault::Misplaced(FrameKind::Open)));
    assert_eq!(hub.receive(frame(FrameKind::Auth, 0, 8), NOW), Err(LinkFault::Misplaced(FrameKind::Auth)));
    assert_eq!(hub.receive(frame(FrameKind::Ping, 0, 7), NOW), Err(LinkFault::Malformed(FrameKind::Ping)));
    assert_eq!(hub.receive(frame(FrameKind::Drain, 0, 7), NOW), Err(LinkFault::Malformed(FrameKind::Drain)));
}

#[test]
fn late_frames_for_a_stream_that_is_over_are_no_fault() {
    let mut pair = Pair::new();
    for kind in [FrameKind::Data, FrameKind::End, FrameKind::Abort, FrameKind::Credit, FrameKind::Head] {
        pair.hub
            .receive(Frame { kind: kind.number(), flags: 0, stream: 99, payload: Bytes::from_static(&[0; 4]) }, NOW)
            .unwrap();
    }

    assert!(!pair.hub.has_frames());
}

#[test]
fn a_draining_link_finishes_its_streams_and_opens_none() {
    let mut pair = Pair::new();
    let id = pair.answered_call();
    pair.hub.drain(&Drain { deadline_ms: 1000 }, NOW);
    pair.exchange();

    assert_eq!(pair.hub.open(Bytes::new(), NOW), Err(OpenRefused::Draining));
    assert!(pair.agent.is_draining());
    pair.agent.send_data(id, Bytes::from_static(b"last words"), NOW).unwrap();
    pair.exchange();
    assert_eq!(pair.hub.take_data(id, NOW), Ok(Incoming::Data(Bytes::from_static(b"last words"))));
}

#[test]
fn a_hub_that_says_drain_and_stays_is_served_until_it_closes() {
    let mut pair = Pair::new();
    pair.hub.send_control(FrameKind::Drain, &to_json(&Drain { deadline_ms: 1000 }));
    pair.exchange();

    let late = pair.hub.open(Bytes::from_static(b"open"), NOW).unwrap();
    pair.exchange();

    assert!(pair.agent.is_draining(), "it dials another hub");
    assert_eq!(pair.agent.take_head(late), Some(Bytes::from_static(b"open")));
    assert_eq!(pair.hub.aborted(late), None);
}

#[test]
fn an_agent_that_is_full_refuses_the_stream_and_keeps_the_link() {
    let mut hub = Link::new(Side::Hub, Limits::default(), NOW);
    let mut agent = Link::new(Side::Agent, Limits { streams_max: 1, ..Limits::default() }, NOW);
    let first = hub.open(Bytes::new(), NOW).unwrap();
    let second = hub.open(Bytes::new(), NOW).unwrap();
    let opened = frames(&mut hub);
    deliver(&mut agent, opened);
    let answers = frames(&mut agent);
    deliver(&mut hub, answers);

    assert_eq!(hub.aborted(first), None);
    assert_eq!(hub.aborted(second).map(|abort| abort.reason), Some(AbortReason::Busy));
}

#[test]
fn the_loss_of_the_link_aborts_what_was_not_finished() {
    let mut pair = Pair::new();
    let id = pair.answered_call();
    pair.hub.lose();

    assert_eq!(pair.hub.aborted(id).map(|abort| abort.reason), Some(AbortReason::LinkLost));
    assert_eq!(pair.hub.open(Bytes::new(), NOW), Err(OpenRefused::Over));
}

#[test]
fn the_loss_of_the_link_reaches_a_call_whose_request_was_complete() {
    let mut pair = Pair::new();
    let id = pair.answered_call();
    pair.agent.lose();

    assert_eq!(pair.agent.aborted(id).map(|abort| abort.reason), Some(AbortReason::LinkLost));
}

#[test]
fn an_agent_that_drains_takes_what_was_opened_before_the_hub_knew() {
    let mut pair = Pair::new();
    let under_way = pair.hub.open(Bytes::from_static(b"open"), NOW).unwrap();
    pair.agent.drain(&Drain { deadline_ms: 1000 }, NOW);
    assert!(!pair.agent.is_idle());
    let opened = frames(&mut pair.hub);
    deliver(&mut pair.agent, opened);
    pair.exchange();

    assert_eq!(pair.hub.aborted(under_way), None);
    assert_eq!(pair.agent.take_head(under_way), Some(Bytes::from_static(b"open")));
    assert_eq!(pair.hub.open(Bytes::new(), NOW), Err(OpenRefused::Draining));
}

#[test]
fn credit_grows_for_a_fast_reader_on_a_long_path() {
    let mut pair = Pair::new();
    let id = pair.answered_call();
    pair.set_hub_round_trip(100_000);
    let mut now = Micros(200_000);
    for _ in 0..200 {
        while pair.agent.send_capacity(id).unwrap() > 0 {
            pair.agent.send_data(id, Bytes::from(vec![0; 16 * 1024]), NOW).unwrap();
        }
        pair.exchange();
        while let Ok(Incoming::Data(_)) = pair.hub.take_data(id, now) {}
        pair.exchange();
        now = now.plus(10_000);
    }

    assert!(pair.hub.committed_bytes() >= 2 * 1024 * 1024, "{}", pair.hub.committed_bytes());
}

#[test]
fn the_budget_keeps_credit_from_growing() {
    let limits = Limits { budget_bytes: 50_000, ..Limits::default() };
    let mut pair = Pair::with(&limits, &limits);
    let ids: Vec<StreamId> = (0..2).map(|_| pair.answered_call()).collect();
    for _ in 0..100 {
        for id in &ids {
            pair.agent.send_data(*id, Bytes::from(vec![0; 16 * 1024]), NOW).unwrap();
            pair.exchange();
            while let Ok(Incoming::Data(_)) = pair.hub.take_data(*id, NOW) {}
        }
    }

    assert!(pair.hub.committed_bytes() <= 2 * WINDOW, "{}", pair.hub.committed_bytes());
}

#[test]
fn on_a_crowded_link_a_stream_begins_with_the_small_window_and_earns_the_usual_one() {
    let limits = Limits { budget_bytes: 2 * WINDOW, ..Limits::default() };
    let mut pair = Pair::with(&limits, &limits);
    let stalled: Vec<StreamId> = (0..100).map(|_| pair.answered_call()).collect();
    for id in &stalled {
        while pair.agent.send_capacity(*id).unwrap() > 0 {
            pair.agent.send_data(*id, Bytes::from(vec![0; 4 * 1024]), NOW).unwrap();
            pair.exchange();
        }
    }
    let granted_bytes = pair.hub.committed_bytes();
    assert_eq!(granted_bytes, 2 * WINDOW + 98 * NARROW);
    assert_eq!(pair.hub.counters().data_received_bytes, granted_bytes as u64, "both sides know which stream is narrow");

    let reader = pair.answered_call();
    for _ in 0..50 {
        pair.agent.send_data(reader, Bytes::from(vec![0; 16 * 1024]), NOW).unwrap();
        pair.exchange();
        while let Ok(Incoming::Data(_)) = pair.hub.take_data(reader, NOW) {}
        pair.exchange();
    }
    assert_eq!(
        pair.hub.counters().data_received_bytes,
        (granted_bytes + 50 * 16 * 1024) as u64,
        "it moves beside them"
    );
    assert_eq!(pair.hub.committed_bytes(), granted_bytes + WINDOW);

    for id in stalled.into_iter().chain([reader]) {
        pair.hub.release(id, AbortReason::ConsumerGone, NOW);
        pair.agent.release(id, AbortReason::Unspecified, NOW);
    }
    pair.exchange();
    assert_eq!((pair.hub.committed_bytes(), pair.agent.committed_bytes()), (0, 0));
}

#[test]
fn a_stream_without_credit_queues_little_and_goes_on_when_it_has_some() {
    let mut pair = Pair::new();
    let id = pair.answered_call();
    let mut sent = 0;
    while pair.agent.send_capacity(id).unwrap() > 0 {
        pair.agent.send_data(id, Bytes::from(vec![0; 1024]), NOW).unwrap();
        sent += 1024;
        pair.exchange();
    }
    assert_eq!(sent, WINDOW + 16 * 1024);
    while pair.agent.next_event().is_some() {}

    while let Ok(Incoming::Data(_)) = pair.hub.take_data(id, NOW) {}
    pair.exchange();

    let events: Vec<Event> = std::iter::from_fn(|| pair.agent.next_event()).collect();
    assert!(events.contains(&Event::Writable(id)), "{events:?}");
    assert_eq!(pair.agent.send_capacity(id), Ok(WINDOW - 16 * 1024), "as much as may leave");
}

#[test]
fn a_budget_that_all_links_use_up_together_makes_grants_small_and_stops_no_stream() {
    let budget = Budget::new(3 * WINDOW);
    let limits = Limits { budget: budget.clone(), ..Limits::default() };
    let mut pairs: Vec<Pair> = (0..4).map(|_| Pair::with(&limits, &Limits::default())).collect();
    let ids: Vec<StreamId> = pairs.iter_mut().map(Pair::answered_call).collect();
    assert!(budget.is_tight());
    for (pair, id) in pairs.iter_mut().zip(&ids) {
        for _ in 0..50 {
            pair.agent.send_data(*id, Bytes::from(vec![0; 16 * 1024]), NOW).unwrap();
            pair.exchange();
            while let Ok(Incoming::Data(_)) = pair.hub.take_data(*id, NOW) {}
        }
        pair.exchange();
        while let Ok(Incoming::Data(_)) = pair.hub.take_data(*id, NOW) {}
        assert_eq!(pair.hub.counters().data_received_bytes, 50 * 16 * 1024, "the stream still moves");
    }

    assert!(budget.committed_bytes() <= budget.bytes_max() + WINDOW, "{}", budget.committed_bytes());
    drop(pairs);
    assert_eq!(budget.committed_bytes(), 0);
}

#[test]
fn the_wait_for_a_turn_is_measured_from_when_data_could_go() {
    let mut pair = Pair::new();
    let id = pair.answered_call();
    pair.agent.send_data(id, Bytes::from_static(b"late"), Micros(1_000)).unwrap();
    let mut batch = BytesMut::new();
    pair.agent.next_batch(&mut batch, Micros(1_700));

    let delay = pair.agent.counters().queue_delay;
    assert_eq!((delay.last_micros, delay.max_micros), (700, 700));
}

/// Both ends of a link with nothing in between.
pub(super) struct Pair {
    pub(super) hub: Link,
    pub(super) agent: Link,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(&Limits::default(), &Limits::default())
    }

    fn with(hub: &Limits, agent: &Limits) -> Self {
        Self { hub: Link::new(Side::Hub, hub.clone(), NOW), agent: Link::new(Side::Agent, agent.clone(), NOW) }
    }

    /// Delivers frames both ways until none are left.
    pub(super) fn exchange(&mut self) {
        while self.hub.has_frames() || self.agent.has_frames() {
            let to_agent = frames(&mut self.hub);
            deliver(&mut self.agent, to_agent);
            let to_hub = frames(&mut self.agent);
            deliver(&mut self.hub, to_hub);
        }
    }

    /// A stream whose request is complete and whose answer has begun.
    fn answered_call(&mut self) -> StreamId {
        let id = self.hub.open(Bytes::from_static(b"open"), NOW).unwrap();
        self.hub.finish(id, Bytes::new(), NOW).unwrap();
        self.exchange();
        self.agent.take_head(id).unwrap();
        self.agent.send_head(id, Bytes::from_static(b"head")).unwrap();
        self.exchange();
        id
    }

    fn set_hub_round_trip(&mut self, micros: u64) {
        self.hub.ping(NOW);
        let ping = frames(&mut self.hub);
        deliver(&mut self.agent, ping);
        for frame in frames(&mut self.agent) {
            self.hub.receive(frame, NOW.plus(micros)).unwrap();
        }
    }
}

fn frames(link: &mut Link) -> Vec<Frame> {
    let mut frames = Vec::new();
    while link.has_frames() {
        let mut batch = BytesMut::new();
        link.next_batch(&mut batch, NOW);
        let mut batch = batch.freeze();
        while let Some(frame) = next_frame(&mut batch).unwrap() {
            frames.push(frame);
        }
    }
    frames
}

fn deliver(link: &mut Link, frames: Vec<Frame>) {
    for frame in frames {
        link.receive(frame, NOW).unwrap();
    }
}

fn kinds(mut batch: Bytes) -> Vec<FrameKind> {
    assert!(batch.len() > HEADER_BYTES);
    let mut kinds = Vec::new();
    while let Some(frame) = next_frame(&mut batch).unwrap() {
        kinds.push(FrameKind::from_number(frame.kind).unwrap());
    }
    kinds
}

fn drained(link: &mut Link) -> bool {
    frames(link).is_empty()
}

fn read_all(link: &mut Link, id: StreamId) -> (Vec<u8>, Incoming) {
    let mut read = Vec::new();
    loop {
        match link.take_data(id, NOW).unwrap() {
            Incoming::Data(data) => read.extend_from_slice(&data),
            end @ (Incoming::Pending | Incoming::End(_) | Incoming::Aborted(_)) => return (read, end),
        }
    }
}
