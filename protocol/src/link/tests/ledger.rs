//! Frames of ledgers: which side they come from, how large they may be, how many may come.
//!
//! Invariant: what is inside is nobody's business here.

use crate::frame::Frame;
use crate::frame::FrameKind;
use crate::frame::StreamId;
use crate::link::Event;
use crate::link::Limits;
use crate::link::Link;
use crate::link::LinkFault;
use crate::link::Side;

use super::NOW;

const FROM_AGENTS: [FrameKind; 1] = [FrameKind::Claim];
const FROM_HUBS: [FrameKind; 3] = [FrameKind::Ack, FrameKind::Need, FrameKind::Keys];

#[test]
fn frames_of_ledgers_come_from_their_own_side_on_stream_0() {
    for (side, own, other) in [(Side::Hub, &FROM_AGENTS[..], &FROM_HUBS[..]), (Side::Agent, &FROM_HUBS, &FROM_AGENTS)] {
        for kind in own {
            let mut link = Link::new(side, Limits::default(), NOW);
            assert_eq!(link.receive(frame(*kind, 0, 3), NOW), Ok(()));
            assert!(matches!(link.next_event(), Some(Event::Control(frame)) if frame.kind == kind.number()));
            assert_eq!(link.receive(frame(*kind, 1, 3), NOW), Err(LinkFault::Misplaced(*kind)));
        }
        for kind in other {
            let mut link = Link::new(side, Limits::default(), NOW);
            assert_eq!(link.receive(frame(*kind, 0, 3), NOW), Err(LinkFault::Misplaced(*kind)));
        }
    }
}

#[test]
fn a_frame_of_a_ledger_beyond_its_bound_ends_the_link() {
    for kind in FROM_AGENTS.iter().chain(&FROM_HUBS) {
        let side = if FROM_HUBS.contains(kind) { Side::Agent } else { Side::Hub };
        let mut link = Link::new(side, Limits::default(), NOW);
        let most = kind.payload_bytes_max();

        assert_eq!(link.receive(frame(*kind, 0, most), NOW), Ok(()));
        let too_large = LinkFault::TooLarge { kind: *kind, bytes: most + 1 };
        assert_eq!(link.receive(frame(*kind, 0, most + 1), NOW), Err(too_large));
    }
}

#[test]
fn claims_and_their_answers_are_no_flood_and_keys_are() {
    let limits = || Limits { control_per_second: 1, ..Limits::default() };
    let (mut hub, mut agent) = (Link::new(Side::Hub, limits(), NOW), Link::new(Side::Agent, limits(), NOW));

    for _ in 0..1_000 {
        assert_eq!(hub.receive(frame(FrameKind::Claim, 0, 3), NOW), Ok(()));
        assert_eq!(agent.receive(frame(FrameKind::Ack, 0, 3), NOW), Ok(()));
    }
    let flood = (0..1_000).any(|_| agent.receive(frame(FrameKind::Keys, 0, 3), NOW) == Err(LinkFault::Flood));
    assert!(flood);
}

fn frame(kind: FrameKind, stream: StreamId, bytes: usize) -> Frame {
    Frame { kind: kind.number(), flags: 0, stream, payload: vec![0; bytes].into() }
}
