//! When a receipt leaves, and what a stream says of what has left.
//!
//! Invariant: a receipt that was left with the end of a body leaves with it or not at all.

use bytes::Bytes;

use crate::frame::Abort;
use crate::frame::AbortReason;
use crate::frame::Frame;
use crate::frame::FrameKind;
use crate::frame::StreamId;
use crate::link::Event;
use crate::link::Limits;
use crate::link::Link;
use crate::link::LinkFault;
use crate::link::Sent;
use crate::link::Side;

use super::NOW;
use super::Pair;
use super::WINDOW;
use super::frames;

#[test]
fn a_receipt_leaves_right_before_the_end_of_its_answer() {
    let (mut pair, id) = asked();
    pair.agent.send_head(id, Bytes::from_static(b"head")).unwrap();
    pair.agent.send_data(id, Bytes::from_static(b"answer"), NOW).unwrap();
    pair.agent.leave_receipt(id, Bytes::from_static(b"receipt"));
    assert_eq!(pair.agent.sent(id), Sent::default());
    pair.agent.finish(id, Bytes::new(), NOW).unwrap();
    while pair.agent.next_event().is_some() {}

    let kinds = kinds(&mut pair.agent);

    assert_eq!(kinds, [FrameKind::Head, FrameKind::Data, FrameKind::Receipt, FrameKind::End]);
    assert_eq!(pair.agent.sent(id), Sent { head: true, body_bytes: 6, end: true, receipt: true });
    assert_eq!(pair.agent.next_event(), Some(Event::Writable(id)), "whoever waits for this is told");
    assert_eq!(pair.agent.counters().receipts_sent, 1);
}

#[test]
fn a_receipt_leaves_before_the_abort_of_an_answer_that_broke_off() {
    let (mut pair, id) = asked();
    pair.agent.send_head(id, Bytes::from_static(b"head")).unwrap();
    pair.agent.send_data(id, Bytes::from_static(b"ans"), NOW).unwrap();
    pair.agent.leave_receipt(id, Bytes::from_static(b"receipt"));
    pair.agent.fail(id, Abort::new(AbortReason::VendorBroke), NOW);

    let kinds = kinds(&mut pair.agent);

    assert_eq!(kinds, [FrameKind::Head, FrameKind::Data, FrameKind::Receipt, FrameKind::Abort]);
    assert_eq!(pair.agent.sent(id), Sent { head: true, body_bytes: 3, end: false, receipt: true });
}

#[test]
fn of_an_answer_that_was_aborted_first_only_what_left_counts() {
    let (mut pair, id) = asked();
    pair.agent.send_head(id, Bytes::from_static(b"head")).unwrap();
    pair.agent.send_data(id, Bytes::from(vec![b'x'; WINDOW + 5]), NOW).unwrap();
    pair.agent.leave_receipt(id, Bytes::from_static(b"receipt"));
    pair.agent.finish(id, Bytes::new(), NOW).unwrap();
    pair.exchange();
    pair.hub.abort(id, Abort::new(AbortReason::ConsumerGone), NOW);
    pair.exchange();

    let sent = pair.agent.sent(id);

    assert_eq!(sent, Sent { head: true, body_bytes: WINDOW as u64, end: false, receipt: false });
    assert!(pair.agent.has_sent_all(id));
    assert_eq!(pair.hub.counters().receipts_received, 0);
    pair.agent.send_receipt(Bytes::from_static(b"receipt"));
    pair.exchange();
    assert_eq!(pair.hub.counters().receipts_received, 1);
}

#[test]
fn a_head_that_did_not_leave_is_not_said_to_have_left() {
    let (mut pair, id) = asked();
    pair.agent.send_head(id, Bytes::from_static(b"head")).unwrap();
    pair.hub.abort(id, Abort::new(AbortReason::ConsumerGone), NOW);
    for frame in frames(&mut pair.hub) {
        pair.agent.receive(frame, NOW).unwrap();
    }

    assert_eq!(kinds(&mut pair.agent), [FrameKind::Abort]);
    assert_eq!(pair.agent.sent(id), Sent::default());
}

#[test]
fn receipts_are_as_many_as_calls_and_come_from_agents() {
    let receipt = || Frame {
        kind: FrameKind::Receipt.number(),
        flags: 0,
        stream: 0,
        payload: Bytes::from_static(b"not looked at here"),
    };
    let (mut pair, _) = asked();

    assert_eq!(pair.hub.receive(receipt(), NOW), Ok(()));
    assert_eq!(pair.hub.receive(receipt(), NOW), Err(LinkFault::Flood));
    assert_eq!(pair.agent.receive(receipt(), NOW), Err(LinkFault::Misplaced(FrameKind::Receipt)));
}

#[test]
fn a_thousand_receipts_in_no_time_are_no_flood() {
    let limits = Limits { control_per_second: 1, ..Limits::default() };
    let mut hub = Link::new(Side::Hub, limits, NOW);
    for _ in 0..1_000 {
        hub.open(Bytes::new(), NOW).unwrap();
        let frame = Frame { kind: FrameKind::Receipt.number(), flags: 0, stream: 0, payload: Bytes::new() };
        assert_eq!(hub.receive(frame, NOW), Ok(()));
    }
}

fn asked() -> (Pair, StreamId) {
    let mut pair = Pair::new();
    let id = pair.hub.open(Bytes::from_static(b"open"), NOW).unwrap();
    pair.hub.finish(id, Bytes::new(), NOW).unwrap();
    pair.exchange();
    (pair, id)
}

fn kinds(link: &mut Link) -> Vec<FrameKind> {
    frames(link).iter().filter_map(|frame| FrameKind::from_number(frame.kind)).collect()
}
