//! How fast a long chain is verified, and that damage anywhere in it is found.
//!
//! The run in every test is small. The long one:
//! `KEYHAVEN_LEAVES=1000000 cargo test --release -p keyhaven-protocol long_chain -- --nocapture`
//!
//! Invariant: rates are printed and never judged.

use std::time::Duration;
use std::time::Instant;

use super::damage::flip;
use super::*;
use crate::id::CallId;
use crate::key_list::samples::list;
use crate::leaf::Close;
use crate::ticket::Ticket;

const GROUP: usize = 64;

#[test]
fn damage_anywhere_in_a_long_chain_is_found() {
    let leaves: usize = std::env::var("KEYHAVEN_LEAVES").map_or(6_400, |leaves| leaves.parse().unwrap());
    let (log, head) = log(leaves, GROUP);
    let from = Instant::now();
    assert_eq!(read(Verifier::new(ID, key().verifying_key()).through(head), &log), Ok(head));
    report("chain and one signature per 64 leaves", leaves, from.elapsed());

    // Every group's head is trusted in turn, and the group after it is damaged.
    let trusted = heads(&log);
    let (mut random, mut tried) = (0x9e37_79b9_7f4a_7c15_u64, 0);
    for (at, head) in trusted.iter().enumerate().take(trusted.len() - 1) {
        let begin = at * (GROUP + 1) + GROUP + 1;
        let group = &log[begin..(begin + GROUP + 1).min(log.len())];
        for kind in 0..4 {
            let mut next = |below: usize| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                usize::try_from(random % u64::try_from(below).unwrap()).unwrap()
            };
            let (one, other) = (next(group.len() - 1), next(group.len() - 1));
            let mut damaged = group.to_vec();
            match kind {
                0 => {
                    let Record::Leaf(bytes) = &group[one] else { unreachable!() };
                    flip(&mut damaged[one], next(bytes.len() * 8));
                }
                1 => drop(damaged.remove(one)),
                2 => damaged.insert(other, group[one].clone()),
                _ if one == other => drop(damaged.pop()),
                _ => damaged.swap(one, other),
            }
            let verdict = read(Verifier::resume(ID, *head, key().verifying_key()), &damaged);
            assert!(verdict != read(Verifier::resume(ID, *head, key().verifying_key()), group), "{at} {kind}");
            tried += 1;
        }
    }
    println!("{tried} damages in {leaves} leaves, all found");
}

#[test]
fn a_long_chain_of_tickets_is_audited() {
    let leaves: usize = std::env::var("KEYHAVEN_LEAVES").map_or(2_000, |leaves| leaves.parse().unwrap());
    let mut chain = Chain::new(ID);
    let mut log = vec![chain.append(0, Event::Epoch(start())).unwrap()];
    for number in 0..leaves / 2 {
        let mut call = [0; 16];
        call[8..].copy_from_slice(&u64::try_from(number).unwrap().to_be_bytes());
        let order = signed(Ticket { call: CallId(call), ..ticket() });
        let end = Close { call: CallId(call), ticket: order.hash(), ..close() };
        log.push(chain.append(0, Event::Open(order)).unwrap());
        log.push(chain.append(0, Event::Close(end)).unwrap());
    }
    let signature = ID.sign_group(&key(), chain.head());

    let from = Instant::now();
    let mut verifier = Verifier::new(ID, key().verifying_key());
    let mut audit = Audit::new(ID, list(1));
    for bytes in &log {
        let leaf = verifier.leaf(bytes).unwrap();
        audit.take(&leaf.event, verifier.head().hash).unwrap();
    }
    assert_eq!(verifier.group(&signature), Ok(chain.head()));
    report("chain and every ticket", log.len(), from.elapsed());
    assert_eq!(audit.open_attempts().count(), 0);
}

/// The head of every group.
fn heads(log: &[Record]) -> Vec<Head> {
    let mut verifier = Verifier::new(ID, key().verifying_key());
    let mut heads = Vec::new();
    for record in log {
        take(&mut verifier, record).unwrap();
        if matches!(record, Record::Group(_)) {
            heads.push(verifier.signed());
        }
    }
    heads
}

fn report(what: &str, leaves: usize, took: Duration) {
    let per_second = u128::try_from(leaves).unwrap() * 1_000_000 / took.as_micros().max(1);
    println!("{leaves} leaves verified ({what}) in {took:?}: {per_second} per second");
}
