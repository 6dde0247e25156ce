//! A ledger at work: groups, limits, a slow disk, a full one, two processes, an older copy.
//!
//! Invariant: no test waits for time to pass.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::chain::GROUP_LEAVES_MAX;
use keyhaven_protocol::chain::Group;
use keyhaven_protocol::id::PayoutId;
use keyhaven_protocol::leaf::EpochReason;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Leaf;
use keyhaven_protocol::leaf::Payout;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::statement::Reason;

use super::platter::Fault;
use super::platter::Platter;
use super::scene::Hub;
use super::scene::closed;
use super::scene::key_entry;
use super::scene::open;
use super::scene::opened;
use super::scene::owner;
use super::scene::part;
use super::scene::small_segments;
use super::scene::write_all;
use super::scene::written;
use crate::ledger::ClaimClass;
use crate::ledger::LedgerError;
use crate::ledger::Limits;
use crate::ledger::Opened;
use crate::ledger::Settings;
use crate::ledger::View;

#[test]
fn what_waits_becomes_durable_together_within_the_bounds_of_a_group() {
    let mut agent = open(Arc::new(Platter::default()), None, Settings::default()).unwrap();
    write_all(&mut agent).unwrap();
    let mut pending: Vec<_> = (0..300).map(|call| agent.ledger.append(opened(call)).unwrap()).collect();
    assert!(pending.iter_mut().all(|pending| pending.is_durable().unwrap().is_none()), "nothing is written yet");
    write_all(&mut agent).unwrap();
    for (at, pending) in pending.iter_mut().enumerate() {
        assert_eq!(pending.is_durable().unwrap().unwrap().number, at as u64 + 1);
    }

    let mut next = 1;
    let mut sizes = Vec::new();
    while let Some(group) = agent.ledger.group_at(next).unwrap() {
        let group = Group::decode(&group).unwrap();
        assert_eq!(group.first(), next);
        sizes.push(group.leaves().len());
        next = group.end();
    }
    assert_eq!((next, sizes.iter().sum::<usize>()), (301, 300));
    assert_eq!(sizes.len(), 3, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= GROUP_LEAVES_MAX));
}

#[test]
fn the_end_of_an_attempt_is_taken_once_and_only_of_one_that_is_open() {
    let mut agent = open(Arc::new(Platter::default()), None, Settings::default()).unwrap();
    written(&mut agent, opened(1)).unwrap();

    assert!(matches!(agent.ledger.append(opened(1)), Err(LedgerError::OpenedTwice(..))));
    assert!(matches!(agent.ledger.append(closed(2, 1)), Err(LedgerError::NotOpen(..))));
    assert!(matches!(agent.ledger.append(part(2, 1)), Err(LedgerError::NotOpen(..))));
    written(&mut agent, closed(1, 1)).unwrap();
    assert!(matches!(agent.ledger.append(closed(1, 1)), Err(LedgerError::NotOpen(..))), "the first one stands");
    assert!(matches!(agent.ledger.append(part(1, 1)), Err(LedgerError::NotOpen(..))));
    assert!(matches!(agent.ledger.append(opened(1)), Err(LedgerError::OpenedTwice(..))), "not acknowledged yet");
}

#[test]
fn a_disk_that_does_not_come_back_takes_no_calls_and_every_end() {
    let disk = Arc::new(Platter::default());
    let limits = Limits { stall_max: Duration::ZERO, ..Limits::default() };
    let mut agent = open(disk.clone(), None, Settings { limits, ..small_segments() }).unwrap();
    written(&mut agent, opened(1)).unwrap();
    let Opened { ledger, writer, .. } = agent;

    disk.hold();
    let mut first = ledger.append(opened(2)).unwrap();
    std::thread::scope(|threads| {
        let running = threads.spawn(|| writer.run());
        disk.wait_for_sync();
        assert!(first.is_durable().unwrap().is_none());
        let refused = ledger.append(opened(3)).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::LedgerStalled);
        let mut end = ledger.append(closed(1, 5)).unwrap();
        disk.let_go();
        ledger.close();
        running.join().unwrap();
        assert!(first.is_durable().unwrap().is_some() && end.is_durable().unwrap().is_some());
    });
    assert!(matches!(ledger.append(opened(4)), Err(LedgerError::Closed)));
}

#[test]
fn a_queue_that_is_full_takes_no_calls_and_every_end() {
    let limits = Limits { waiting_max: 3, ..Limits::default() };
    let mut agent = open(Arc::new(Platter::default()), None, Settings { limits, ..small_segments() }).unwrap();
    write_all(&mut agent).unwrap();
    for call in 0..3 {
        agent.ledger.append(opened(call)).unwrap();
    }
    assert_eq!(agent.ledger.append(opened(3)).unwrap_err().code(), ErrorCode::LedgerStalled);
    for call in 0..3 {
        agent.ledger.append(closed(call, 1)).unwrap();
    }
    write_all(&mut agent).unwrap();
    agent.ledger.append(opened(3)).unwrap();
}

#[test]
fn after_the_first_error_of_the_disk_nothing_is_written_or_told_and_the_cause_is_named() {
    for (kind, cause) in [
        (io::ErrorKind::StorageFull, "the disk is full"),
        (io::ErrorKind::ReadOnlyFilesystem, "the disk is read-only"),
        (io::ErrorKind::PermissionDenied, "not this user's"),
        (io::ErrorKind::Other, "other error"),
    ] {
        let fine = Arc::new(Platter::default());
        write_all(&mut open(fine.clone(), None, small_segments()).unwrap()).unwrap();
        let steps = fine.steps();
        for step in steps..steps + 2 {
            let disk = Arc::new(Platter::default().with_fault(step, Fault::Fail(kind)));
            let mut agent = open(disk.clone(), None, small_segments()).unwrap();
            write_all(&mut agent).unwrap();
            let failed = agent.ledger.failed();
            let mut pending = agent.ledger.append(opened(1)).unwrap();
            let mut other = agent.ledger.append(opened(2)).unwrap();

            let error = write_all(&mut agent).unwrap_err();

            assert_eq!(error.code(), ErrorCode::LedgerFailed);
            assert!(error.to_string().contains(cause), "{error}");
            assert!(failed.borrow().as_ref().is_some_and(|why| why.contains(cause)));
            for pending in [&mut pending, &mut other] {
                assert_eq!(pending.is_durable().unwrap_err().code(), ErrorCode::LedgerFailed);
            }
            for refused in [agent.ledger.append(opened(3)).err(), agent.ledger.append(closed(1, 1)).err()] {
                assert_eq!(refused.unwrap().code(), ErrorCode::LedgerFailed);
            }
            assert!(agent.ledger.take_keys(&[key_entry()]).is_err());
            let steps = disk.steps();
            assert!(!agent.writer.step().unwrap(), "nothing waits any more");
            assert_eq!(disk.steps(), steps, "nothing is tried again");
        }
    }
}

#[test]
fn a_disk_that_fails_wakes_whoever_waits() {
    let fine = Arc::new(Platter::default());
    write_all(&mut open(fine.clone(), None, small_segments()).unwrap()).unwrap();
    let disk = Arc::new(Platter::default().with_fault(fine.steps(), Fault::Fail(io::ErrorKind::StorageFull)));
    let Opened { ledger, writer, follower, .. } = open(disk, None, small_segments()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();

    std::thread::scope(|threads| {
        let (writing, following) = (threads.spawn(|| writer.run()), threads.spawn(|| follower.run()));
        let mut durable = ledger.durable();
        runtime.block_on(durable.wait_for(|durable| durable.size == 1)).unwrap();
        let mut failed = ledger.failed();
        let pending = ledger.append(opened(1)).unwrap();
        let told = runtime.block_on(pending.durable());
        assert_eq!(told.unwrap_err().code(), ErrorCode::LedgerFailed);
        runtime.block_on(failed.wait_for(Option::is_some)).unwrap();
        writing.join().unwrap();
        following.join().unwrap();
    });
}

#[test]
fn a_writer_that_is_gone_leaves_nobody_waiting() {
    let Opened { ledger, writer, .. } = open(Arc::new(Platter::default()), None, small_segments()).unwrap();
    let mut pending = ledger.append(opened(1)).unwrap();
    drop(writer);

    assert_eq!(pending.is_durable().unwrap_err().code(), ErrorCode::LedgerFailed);
    assert_eq!(ledger.append(opened(2)).unwrap_err().code(), ErrorCode::LedgerFailed);
    assert!(ledger.failed().borrow().is_some());
}

#[test]
fn an_owner_who_is_owed_too_much_takes_no_calls() {
    let limits = Limits { unacked_max: 6, unpaid_max: Some(NanoUsd(799)), ..Limits::default() };
    let mut agent = open(Arc::new(Platter::default()), None, Settings { limits, ..small_segments() }).unwrap();
    write_all(&mut agent).unwrap();
    agent.ledger.take_keys(&[key_entry()]).unwrap();
    for call in 0..2 {
        agent.ledger.append(opened(call)).unwrap();
        agent.ledger.append(closed(call, 499)).unwrap();
    }
    let refused = agent.ledger.append(opened(2)).unwrap_err();
    assert!(matches!(refused, LedgerError::Unacked { unacked: 6, max: 6 }), "{refused}");
    assert_eq!(refused.code(), ErrorCode::LedgerLimit);

    write_all(&mut agent).unwrap();
    let mut hub = Hub::new();
    hub.take_all(&agent.ledger).unwrap();
    assert_eq!(agent.ledger.unpaid(), NanoUsd(798));
    written(&mut agent, opened(2)).unwrap();
    written(&mut agent, closed(2, 10)).unwrap();
    hub.take_all(&agent.ledger).unwrap();
    let refused = agent.ledger.append(opened(3)).unwrap_err();
    assert!(matches!(refused, LedgerError::Unpaid { unpaid: NanoUsd(806), .. }), "{refused}");
    assert_eq!(refused.code(), ErrorCode::LedgerLimit);

    let payout = Payout {
        payout: PayoutId([3; 16]),
        leaves_before: 6,
        amount: NanoUsd(500),
        method: "csv".to_owned(),
        reference: "transfer 1".to_owned(),
    };
    written(&mut agent, Event::Payout(payout)).unwrap();
    assert!(agent.ledger.may_open().is_ok());
    agent.follower.step().unwrap();
    let earned = agent.follower.index().reading().earnings().unwrap();
    assert_eq!((earned.attempts, earned.paid_out), (3, NanoUsd(500)));
    assert_eq!(earned.unpaid, agent.ledger.unpaid());
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = Opened::in_dir(dir.path(), owner(), Settings::default()).unwrap();

    let second = Opened::in_dir(dir.path(), owner(), Settings::default()).err().unwrap();

    assert_eq!(second.code(), ErrorCode::AlreadyRunning);
    drop(first);
    Opened::in_dir(dir.path(), owner(), Settings::default()).unwrap();
}

#[test]
fn the_ledger_of_another_agent_or_key_is_not_gone_on_with() {
    let disk = Arc::new(Platter::default());
    write_all(&mut open(disk.clone(), None, small_segments()).unwrap()).unwrap();
    let other_key = crate::ledger::Owner { key: ed25519_dalek::SigningKey::from_bytes(&[66; 32]), ..owner() };
    let other_agent = crate::ledger::Owner { agent: keyhaven_protocol::id::AgentId([6; 16]), ..owner() };

    for (other, why) in [(other_key, "another key"), (other_agent, "another agent")] {
        let error = Opened::on_disk(disk.clone(), None, None, other, small_segments()).err().unwrap();
        assert_eq!(error.code(), ErrorCode::LedgerDamaged);
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn an_older_copy_begins_a_new_chain_and_says_again_what_the_hub_never_heard() {
    let disk = Arc::new(Platter::default());
    let mut agent = open(disk.clone(), None, small_segments()).unwrap();
    write_all(&mut agent).unwrap();
    agent.ledger.take_keys(&[key_entry()]).unwrap();
    let mut hub = Hub::new();
    for call in 0..3 {
        written(&mut agent, opened(call)).unwrap();
    }
    written(&mut agent, closed(0, 100)).unwrap();
    hub.take_all(&agent.ledger).unwrap();
    write_all(&mut agent).unwrap();
    drop(agent);

    // The twin goes on from the copy; the hub hears of the first one only.
    let mut twin = open(Arc::new(disk.copy()), None, small_segments()).unwrap();
    write_all(&mut twin).unwrap();
    let mut first = open(disk, None, small_segments()).unwrap();
    write_all(&mut first).unwrap();
    written(&mut first, opened(10)).unwrap();
    hub.take_all(&first.ledger).unwrap();
    written(&mut twin, opened(20)).unwrap();
    written(&mut twin, closed(20, 700)).unwrap();
    written(&mut twin, opened(21)).unwrap();
    let (statement, cosigned) = hub.said.last().cloned().unwrap();
    assert!(twin.ledger.take_ack(&statement, Some(&cosigned)).is_err(), "it is about leaves of the other");
    let before = twin.ledger.head();

    let mut pending = twin.ledger.begin_epoch(EpochReason::Restored, 4).unwrap();
    let mut end = twin.ledger.append(closed(21, 300)).unwrap();
    write_all(&mut twin).unwrap();

    assert_eq!(pending.is_durable().unwrap().unwrap().epoch, 4);
    assert_eq!(end.is_durable().unwrap().unwrap().epoch, 4);
    let mut said = Vec::new();
    let mut next = 0;
    while let Some(group) = twin.ledger.group_at(next).unwrap() {
        let group = Group::decode(&group).unwrap();
        said.extend(group.leaves().iter().map(|leaf| Leaf::decode(leaf).unwrap()));
        next = group.end();
    }
    let Event::Epoch(start) = &said[0].event else { panic!("{said:?}") };
    assert_eq!((start.reason, start.previous), (EpochReason::Restored, Some((0, before.1))));
    let calls: Vec<_> =
        said[1..].iter().map(|leaf| (leaf.event.kind().name(), leaf.event.attempt().unwrap().0)).collect();
    let call = super::scene::call_id;
    // 1 and 2 died with the process that was copied: their ends were never stated either.
    let expected = [
        ("OPEN", 1),
        ("CLOSE", 1),
        ("OPEN", 2),
        ("CLOSE", 2),
        ("OPEN", 20),
        ("CLOSE", 20),
        ("OPEN", 21),
        ("CLOSE", 21),
    ];
    assert_eq!(calls, expected.map(|(kind, number)| (kind, call(number))));

    let mut books = Hub::new();
    books.take_all(&twin.ledger).unwrap();
    write_all(&mut twin).unwrap();
    assert_eq!(twin.ledger.unacked(), 0);
    assert_eq!(twin.ledger.unpaid(), NanoUsd(80 + 560 + 240));
}

#[test]
fn claims_are_listed_with_both_figures_and_their_class() {
    let disk = Arc::new(Platter::default());
    let mut agent = open(disk.clone(), None, small_segments()).unwrap();
    write_all(&mut agent).unwrap();
    agent.ledger.take_keys(&[key_entry()]).unwrap();
    let mut hub = Hub::new();
    let reasons = [Reason::Agreed, Reason::AgentAbove, Reason::Unobserved, Reason::Short, Reason::Open];
    for (call, reason) in (0..).zip(reasons) {
        hub.reason = reason;
        written(&mut agent, opened(call)).unwrap();
        written(&mut agent, closed(call, 1_000)).unwrap();
        hub.take_all(&agent.ledger).unwrap();
    }
    written(&mut agent, opened(5)).unwrap();
    written(&mut agent, closed(5, 9)).unwrap();
    written(&mut agent, opened(6)).unwrap();

    let view = View::on_disk(disk, None);
    let claims = view.claims(100, |_| {}).unwrap();
    let found: Vec<_> = claims.iter().map(|claim| (claim.call, claim.class, claim.reason)).collect();
    let call = super::scene::call_id;
    assert_eq!(
        found,
        [
            (call(1), ClaimClass::Disputed, Some("agent_above")),
            (call(2), ClaimClass::Unpaid, Some("unobserved")),
            (call(3), ClaimClass::Short, Some("short")),
            (call(4), ClaimClass::Unacknowledged, Some("open")),
            (call(5), ClaimClass::Unacknowledged, None),
            (call(6), ClaimClass::Open, None),
        ]
    );
    let earned = view.earnings(|_| {}).unwrap();
    assert_eq!((earned.attempts, earned.list), (6, NanoUsd(5_009)));
    assert_eq!((earned.waiting_attempts, earned.waiting_list), (2, NanoUsd(1_009)));
    assert_eq!(earned.credited, NanoUsd(3 * 800));
    assert_eq!(earned.disputed_attempts, 1);
    assert_eq!(view.newest(3).unwrap().len(), 3);
}
