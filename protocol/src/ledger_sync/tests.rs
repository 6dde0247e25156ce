//! Each half by itself, and what a hub or an agent that misbehaves can make it do.
//!
//! Invariant: no sequence of messages makes a half send what is not durable or acknowledge what
//! is not committed.

use proptest::prelude::*;

use super::*;
use crate::hex::Hex;
use crate::leaf::Head;
use crate::signing::Hash;

const LIMITS: AgentLimits = AgentLimits { leaves_per_claim: 10, in_flight_max: 40, unacked_max: 100 };

#[test]
fn leaves_go_up_in_order_as_far_as_the_window() {
    let mut agent = AgentHalf::new(LIMITS, 95);
    assert_eq!(agent.next_claim(), None, "no link");
    agent.welcome(5).unwrap();

    assert_eq!(claims(&mut agent), [5..15, 15..25, 25..35, 35..45]);
    agent.ack(25).unwrap();
    assert_eq!(claims(&mut agent), [45..55, 55..65]);
    agent.link_down();
    assert_eq!(claims(&mut agent), []);
    agent.welcome(45).unwrap();
    assert_eq!(claims(&mut agent), [45..55, 55..65, 65..75, 75..85]);
}

#[test]
fn a_database_that_lost_its_last_minutes_gets_them_again() {
    let mut agent = AgentHalf::new(LIMITS, 30);
    agent.welcome(0).unwrap();
    claims(&mut agent);
    agent.ack(30).unwrap();

    agent.need(12).unwrap();
    assert_eq!(agent.acked(), 12);
    assert_eq!(claims(&mut agent), [12..22, 22..30]);
}

#[test]
fn a_hub_that_has_more_than_there_is_meets_an_older_copy() {
    let mut agent = AgentHalf::new(LIMITS, 30);

    assert_eq!(agent.welcome(31), Err(HubAhead { hub: 31, here: 30 }));
    assert_eq!(agent.next_claim(), None, "nothing is sent into another history");
    assert_eq!(agent.ack(31), Err(HubAhead { hub: 31, here: 30 }));
    assert_eq!(agent.need(31), Err(HubAhead { hub: 31, here: 30 }));
}

#[test]
fn a_hub_that_says_welcome_0_for_ever_gets_one_claim_at_a_time_and_its_fill_once_it_commits() {
    let mut agent = AgentHalf::new(LIMITS, 1_000);
    let sent = |agent: &mut AgentHalf| claims(agent).iter().map(|leaves| leaves.end - leaves.start).sum::<u64>();
    agent.welcome(0).unwrap();
    let first = sent(&mut agent);
    for _ in 0..100 {
        agent.link_down();
        agent.welcome(0).unwrap();
        let again = sent(&mut agent);
        assert!((10..=first).contains(&again));
    }
    agent.need(0).unwrap();
    assert_eq!(sent(&mut agent), 10);

    agent.ack(10).unwrap();
    assert_eq!(sent(&mut agent), 40, "it commits, so it is trusted again");
}

#[test]
fn an_agent_with_too_much_that_is_not_acknowledged_takes_no_calls() {
    let mut agent = AgentHalf::new(LIMITS, 99);
    assert!(agent.may_open());
    agent.durable(100);
    assert!(!agent.may_open());
    agent.welcome(1).unwrap();
    assert!(agent.may_open());
}

#[test]
fn a_gap_is_asked_for_once() {
    let mut hub = HubHalf::new(5, 1_000);

    assert_eq!(hub.claim(7..9), Taken::Need { next: 5 });
    assert_eq!(hub.claim(9..11), Taken::Skip);
    assert_eq!(hub.claim(5..8), Taken::Settle(5..8));
    assert_eq!(hub.claim(9..11), Taken::Need { next: 8 });
}

#[test]
fn what_is_known_is_acknowledged_again_and_what_overlaps_is_taken_once() {
    let mut hub = HubHalf::new(5, 1_000);
    assert_eq!(hub.claim(0..5), Taken::Ack { next: 5 });
    assert_eq!(hub.claim(3..8), Taken::Settle(5..8));
    assert_eq!(hub.claim(5..8), Taken::Wait, "not committed yet");
    assert_eq!(hub.committed(8), Some(8));
    assert_eq!(hub.committed(8), None);
    assert_eq!(hub.claim(5..8), Taken::Ack { next: 8 });
}

#[test]
fn what_the_books_lost_is_asked_for() {
    let mut hub = HubHalf::new(5, 1_000);
    hub.claim(5..9);
    hub.committed(9);
    hub.claim(9..12);

    assert_eq!(hub.lost(3), 3);
    assert_eq!(hub.claim(12..15), Taken::Skip, "sent before NEED arrived");
    assert_eq!(hub.claim(3..12), Taken::Settle(3..12));
}

#[test]
fn an_agent_that_sends_without_end_is_cut_off() {
    let mut hub = HubHalf::new(0, 20);

    assert_eq!(hub.claim(0..20), Taken::Settle(0..20));
    assert_eq!(hub.claim(20..21), Taken::TooMuch);
}

#[test]
fn older_copies_and_other_histories_are_seen_at_the_greeting() {
    let greet = |size, hash| super::greet(Head { size, hash }, 9, |size| (size <= 9).then(|| self::hash(size)));

    assert_eq!(greet(9, hash(9)), Greeting::Welcome { next: 9 });
    assert_eq!(greet(12, hash(99)), Greeting::Welcome { next: 9 });
    assert_eq!(greet(7, hash(7)), Greeting::Behind { next: 9 });
    assert_eq!(greet(7, hash(99)), Greeting::Fork { size: 7 });
    assert_eq!(greet(0, Head::EMPTY.hash), Greeting::Behind { next: 9 });
}

#[test]
fn the_first_close_stands() {
    let mut release = Release::opened(4);
    assert!(!release.may_leave(Leaving::Bytes, 4) && release.may_leave(Leaving::Bytes, 5));
    assert!(!release.may_leave(Leaving::End, 100));

    assert!(release.closed(7));
    assert!(!release.closed(5), "an abort that lost the race");
    assert!(!release.may_leave(Leaving::End, 7) && release.may_leave(Leaving::End, 8));
}

proptest! {
    #[test]
    fn whatever_is_said_only_durable_leaves_are_sent_in_order(steps in proptest::collection::vec((0_u8..6, 0_u64..60), 0..200)) {
        let mut agent = AgentHalf::new(LIMITS, 0);
        let (mut durable, mut expected) = (0, None);
        for (what, number) in steps {
            match what {
                0 => { durable = durable.max(number); agent.durable(number); }
                1 => if agent.welcome(number).is_ok() { expected = Some(number); },
                2 => if agent.need(number).is_ok() && expected.is_some() { expected = Some(number); },
                3 => if agent.ack(number).is_ok() { expected = expected.map(|next: u64| next.max(number)); },
                4 => { agent.link_down(); expected = None; }
                _ => if let Some(leaves) = agent.next_claim() {
                    prop_assert_eq!(Some(leaves.start), expected);
                    prop_assert!(leaves.start < leaves.end && leaves.end <= durable);
                    expected = Some(leaves.end);
                }
            }
        }
    }

    #[test]
    fn whatever_comes_is_taken_without_gaps_and_acknowledged_only_when_committed(
        steps in proptest::collection::vec((0_u8..4, 0_u64..60, 1_u64..10), 0..200),
    ) {
        let mut hub = HubHalf::new(0, 1_000);
        let (mut books, mut taken) = (0, 0);
        for (what, number, count) in steps {
            match what {
                0 => { books = number.min(books); taken = books; prop_assert_eq!(hub.lost(books), books); }
                1 => { books = taken.min(books + count); if let Some(next) = hub.committed(books) { prop_assert!(next <= books); } }
                _ => match hub.claim(number..number + count) {
                    Taken::Settle(leaves) => { prop_assert_eq!(leaves.start, taken); taken = leaves.end; }
                    Taken::Ack { next } => prop_assert!(next <= books),
                    Taken::Need { next } => prop_assert_eq!(next, taken),
                    Taken::Wait | Taken::Skip | Taken::TooMuch => {}
                }
            }
        }
    }
}

fn hash(size: u64) -> Hash {
    Hex([u8::try_from(size).unwrap(); 32])
}

fn claims(agent: &mut AgentHalf) -> Vec<std::ops::Range<u64>> {
    std::iter::from_fn(|| agent.next_claim()).collect()
}
