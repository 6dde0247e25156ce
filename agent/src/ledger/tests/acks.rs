//! What the hub says, taken or refused.
//!
//! Invariant: nothing of the hub comes into the log that its key did not sign about this chain.

use std::sync::Arc;

use keyhaven_protocol::leaf::Event;

use super::platter::Platter;
use super::scene::Hub;
use super::scene::closed;
use super::scene::key_entry;
use super::scene::open;
use super::scene::opened;
use super::scene::small_segments;
use super::scene::write_all;
use super::scene::written;
use crate::ledger::LedgerError;
use crate::ledger::Opened;
use crate::ledger::Owner;
use crate::ledger::Taken;
use crate::ledger::View;

#[test]
fn statements_are_taken_once_in_order_and_survive_a_start() {
    let disk = Arc::new(Platter::default());
    let mut agent = open(disk.clone(), None, small_segments()).unwrap();
    written(&mut agent, opened(1)).unwrap();
    written(&mut agent, closed(1, 1_000)).unwrap();
    let mut hub = Hub::new();
    let (statement, cosigned) = hub.take(&agent.ledger).unwrap();
    assert!(matches!(agent.ledger.take_ack(&statement, Some(&cosigned)), Err(LedgerError::NoKeys)));
    agent.ledger.take_keys(&[key_entry()]).unwrap();
    write_all(&mut agent).unwrap();

    assert!(matches!(agent.ledger.take_ack(&statement, Some(&cosigned)), Ok(Taken::New(_))));
    assert!(matches!(agent.ledger.take_ack(&statement, Some(&cosigned)), Ok(Taken::Known)));
    let second = hub.take(&agent.ledger).unwrap();
    let third = hub.take(&agent.ledger).unwrap();
    assert!(agent.ledger.take_ack(&third.0, Some(&third.1)).is_err(), "one is missing");
    agent.ledger.take_ack(&second.0, Some(&second.1)).unwrap();
    agent.ledger.take_ack(&third.0, None).unwrap();
    write_all(&mut agent).unwrap();
    let (head, unpaid) = (agent.ledger.head(), agent.ledger.unpaid());
    assert_eq!(head.2.map(|cosigned| cosigned.head.size), Some(2), "the third came without its head");
    drop(agent);

    let agent = open(disk, None, small_segments()).unwrap();
    assert_eq!((agent.ledger.head(), agent.ledger.unpaid()), (head, unpaid));
    assert_eq!(agent.ledger.keys().map(|keys| keys.newest()), Some(0));
    assert_eq!(agent.ledger.seen(10).unwrap(), [], "without an index in a file it is not asked");
}

#[test]
fn what_is_not_the_hubs_word_on_this_chain_is_refused_and_changes_nothing() {
    let mut agent = open(Arc::new(Platter::default()), None, small_segments()).unwrap();
    let mut other = open(Arc::new(Platter::default()), None, small_segments()).unwrap();
    for (agent, call) in [(&mut agent, 1), (&mut other, 2)] {
        written(agent, opened(call)).unwrap();
        agent.ledger.take_keys(&[key_entry()]).unwrap();
        write_all(agent).unwrap();
    }
    let (mut hub, mut its) = (Hub::new(), Hub::new());
    let right = hub.take(&agent.ledger).unwrap();
    agent.ledger.take_ack(&right.0, Some(&right.1)).unwrap();
    its.take(&other.ledger).unwrap();
    let right = hub.take(&agent.ledger).unwrap();
    let wrong = its.take(&other.ledger).unwrap();

    assert!(agent.ledger.take_ack(&wrong.0, Some(&right.1)).is_err(), "a statement about other leaves");
    assert!(agent.ledger.take_ack(&right.0, Some(&wrong.1)).is_err(), "a head of another history");
    for bit in (0..right.0.len() * 8).step_by(7) {
        let mut flipped = right.0.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(agent.ledger.take_ack(&flipped, Some(&right.1)).is_err(), "bit {bit}");
    }
    for bit in 0..right.1.len() * 8 {
        let mut flipped = right.1.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(agent.ledger.take_ack(&right.0, Some(&flipped)).is_err(), "bit {bit}");
    }
    assert!(matches!(agent.ledger.take_ack(&right.0, Some(&right.1)), Ok(Taken::New(_))));
}

#[test]
fn a_head_that_cannot_be_compared_any_more_does_not_come_into_the_log() {
    let (disk, mut heads) = (Arc::new(Platter::default()), Vec::new());
    let mut agent = open(disk.clone(), None, small_segments()).unwrap();
    let mut other = open(Arc::new(Platter::default()), None, small_segments()).unwrap();
    for (agent, call) in [(&mut agent, 1), (&mut other, 2)] {
        written(agent, opened(call)).unwrap();
        written(agent, closed(call, 5)).unwrap();
        agent.ledger.take_keys(&[key_entry()]).unwrap();
        write_all(agent).unwrap();
    }
    let (mut hub, mut its) = (Hub::new(), Hub::new());
    while let Some((statement, cosigned)) = hub.take(&agent.ledger) {
        agent.ledger.take_ack(&statement, None).unwrap();
        heads.push((cosigned, its.take(&other.ledger).unwrap().1));
    }
    let statement = &hub.said[0].0;
    assert_eq!(heads.len(), 4);
    for (_, wrong) in &heads[1..3] {
        agent.ledger.take_ack(statement, Some(wrong)).unwrap();
    }
    assert!(agent.ledger.take_ack(statement, Some(&heads[3].1)).is_err(), "the newest one is compared");
    assert_eq!(agent.ledger.head().2, None);
    agent.ledger.take_ack(statement, Some(&heads[3].0)).unwrap();
    write_all(&mut agent).unwrap();
    drop(agent);

    let agent = open(disk, None, small_segments()).unwrap();
    assert_eq!(agent.ledger.head().2.map(|cosigned| cosigned.head), Some(hub.head()));
}

#[test]
fn keys_that_do_not_lead_to_the_join_tokens_are_refused() {
    let stranger = Owner { hub_key: [7; 32], ..super::scene::owner() };
    let disk = Arc::new(Platter::default());
    let mut agent = Opened::on_disk(disk, None, None, stranger, small_segments()).unwrap();
    write_all(&mut agent).unwrap();

    assert!(matches!(agent.ledger.take_keys(&[key_entry()]), Err(LedgerError::Keys(_))));
    assert!(agent.ledger.keys().is_none());
    assert!(!agent.writer.step().unwrap(), "no leaf of it");
}

#[test]
fn every_group_is_found_again_however_far_the_hub_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Platter::default());
    let mut agent = open(disk.clone(), Some(dir.path().join("index")), small_segments()).unwrap();
    write_all(&mut agent).unwrap();
    agent.ledger.take_keys(&[key_entry()]).unwrap();
    let mut hub = Hub::new();
    for call in 0..20 {
        written(&mut agent, opened(call)).unwrap();
        written(&mut agent, closed(call, 10)).unwrap();
        if call == 8 {
            agent.follower.step().unwrap();
        }
        hub.take_all(&agent.ledger).unwrap();
    }
    write_all(&mut agent).unwrap();
    // By memory, by the index, and where the index has not been yet by the log.
    let found = |leaf| keyhaven_protocol::chain::Group::decode(&agent.ledger.group_at(leaf).unwrap().unwrap()).unwrap();
    for leaf in 0..hub.leaves() {
        let group = found(leaf);
        assert!((group.first()..group.end()).contains(&leaf));
    }
    assert_eq!(agent.ledger.group_at(hub.leaves()).unwrap(), None);
    agent.follower.step().unwrap();
    let seen = agent.ledger.seen(100).unwrap();
    assert_eq!(seen.len(), 20, "{seen:?}");
    let mut again = Hub::new();
    while again.take(&agent.ledger).is_some() {}
    assert_eq!(again.head(), hub.head(), "a wiped hub gets the same chain");
}

#[test]
fn an_order_that_the_fleet_never_signed_is_found_by_a_verification() {
    let disk = Arc::new(Platter::default());
    let mut agent = open(disk.clone(), None, small_segments()).unwrap();
    write_all(&mut agent).unwrap();
    agent.ledger.take_keys(&[key_entry()]).unwrap();
    written(&mut agent, opened(1)).unwrap();
    written(&mut agent, closed(1, 2_000_000)).unwrap();
    let view = View::on_disk(disk, None);
    assert_eq!(view.verify(|_| {}).unwrap().hub_keys, 1);

    let ticket = super::scene::ticket(2).ticket().clone();
    let forged = ticket.sign(&ed25519_dalek::SigningKey::from_bytes(&[99; 32]));
    written(&mut agent, Event::Open(forged)).unwrap();
    let found = view.verify(|_| {}).unwrap_err();
    assert_eq!(found.code(), keyhaven_protocol::ErrorCode::LedgerDamaged);
    assert!(found.to_string().contains("its signature does not hold"), "{found}");
}

#[test]
fn a_figure_over_the_ceiling_is_found_by_a_verification() {
    let disk = Arc::new(Platter::default());
    let mut agent = open(disk.clone(), None, small_segments()).unwrap();
    write_all(&mut agent).unwrap();
    agent.ledger.take_keys(&[key_entry()]).unwrap();
    written(&mut agent, opened(1)).unwrap();
    written(&mut agent, closed(1, 2_000_001)).unwrap();

    let found = View::on_disk(disk, None).verify(|_| {}).unwrap_err();
    assert!(found.to_string().contains("over the ticket's ceiling"), "{found}");
}
