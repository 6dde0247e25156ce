//! Chains that were touched are found out, whatever was touched.
//!
//! Invariant: every damage is done to a chain that verifies.

mod audit;
mod damage;
mod fork;
mod group;
mod rate;

use super::*;
use crate::leaf::EpochReason;
use crate::leaf::samples::close;
use crate::ticket::samples::AGENT;
use crate::ticket::samples::signed;
use crate::ticket::samples::ticket;

const ID: ChainId = ChainId { fleet: FleetId([1; 16]), purpose: Purpose::Calls, agent: AGENT, epoch: 3 };

/// What a log holds, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Record {
    Leaf(Vec<u8>),
    Group(Hex<64>),
}

#[test]
fn a_chain_reads_back_from_its_first_leaf_and_from_every_trusted_head() {
    let (log, head) = log(8, 3);
    assert_eq!(read(Verifier::new(ID, key().verifying_key()).through(head), &log), Ok(head));

    let mut verifier = Verifier::new(ID, key().verifying_key());
    for (at, record) in log.iter().enumerate() {
        if let Record::Group(signature) = record {
            let trusted = verifier.group(signature).unwrap();
            let rest = Verifier::resume(ID, trusted, key().verifying_key()).through(head);
            assert_eq!(read(rest, &log[at + 1..]), Ok(head));
        } else {
            take(&mut verifier, record).unwrap();
        }
    }
}

#[test]
fn a_trusted_head_that_is_not_the_known_one_is_found_without_any_leaf() {
    let (_, head) = log(8, 3);
    let other = Head { hash: Hex([9; 32]), ..head };
    let verifier = Verifier::resume(ID, other, key().verifying_key()).through(head);

    assert_eq!(verifier.finish(), Err(ChainError::Differs(8)));
}

#[test]
fn leaves_after_the_last_signature_do_not_count() {
    let (mut log, head) = log(8, 3);
    let last = log.pop();
    assert!(matches!(last, Some(Record::Group(_))));

    let signed = read(Verifier::new(ID, key().verifying_key()), &log).unwrap();
    assert!(signed.size < head.size);
    let known = Verifier::new(ID, key().verifying_key()).through(head);
    assert_eq!(read(known, &log), Err(ChainError::Cut { known: head.size, found: signed.size }));
}

#[test]
fn a_chain_of_another_agent_epoch_fleet_or_purpose_is_another_chain() {
    let (log, _) = log(3, 3);

    for other in [
        ChainId { agent: AgentId([9; 16]), ..ID },
        ChainId { epoch: 4, ..ID },
        ChainId { fleet: FleetId([9; 16]), ..ID },
        ChainId { purpose: Purpose::Trading, ..ID },
    ] {
        assert_eq!(read(Verifier::new(other, key().verifying_key()), &log), Err(ChainError::OtherChain(0)));
    }
    let stranger = SigningKey::from_bytes(&[66; 32]).verifying_key();
    assert_eq!(read(Verifier::new(ID, stranger), &log), Err(ChainError::KeyNotProved(0)));
}

#[test]
fn a_chain_begins_with_epoch_and_has_no_other() {
    let mut chain = Chain::new(ID);
    assert_eq!(chain.append(0, Event::Close(close())), Err(ChainError::Misplaced(0)));
    assert_eq!(chain.head(), Head::EMPTY, "nothing was added");
    let foreign = EpochStart { fleet: FleetId([9; 16]), ..start() };
    assert_eq!(chain.append(0, Event::Epoch(foreign)), Err(ChainError::OtherChain(0)));
    chain.append(0, Event::Epoch(start())).unwrap();
    assert_eq!(chain.append(0, Event::Epoch(start())), Err(ChainError::Misplaced(1)));
    assert_eq!(chain.append(0, Event::Close(close())).map(|_| chain.head().size), Ok(2));
}

#[test]
fn from_keyrot_on_the_new_key_signs_and_the_old_one_does_not() {
    let (old, new) = (key(), SigningKey::from_bytes(&[34; 32]));
    let mut chain = Chain::new(ID);
    let mut leaves = vec![chain.append(0, Event::Epoch(start())).unwrap()];
    leaves.push(chain.append(0, chain.rotation(&new)).unwrap());
    let rotated = chain.head();
    let by_old = ID.sign_group(&old, rotated);
    let after = chain.append(0, Event::Close(close())).unwrap();

    let mut verifier = Verifier::new(ID, old.verifying_key());
    leaves.iter().for_each(|leaf| drop(verifier.leaf(leaf).unwrap()));
    assert_eq!(verifier.clone().group(&ID.sign_group(&new, rotated)), Err(ChainError::Signature(2)), "not yet");
    verifier.group(&by_old).unwrap();
    assert_eq!(verifier.key(), &new.verifying_key());
    verifier.leaf(&after).unwrap();
    assert_eq!(verifier.clone().group(&ID.sign_group(&old, chain.head())), Err(ChainError::Signature(3)));
    assert_eq!(verifier.group(&ID.sign_group(&new, chain.head())), Ok(chain.head()));
}

#[test]
fn nobody_enters_a_key_that_is_not_theirs() {
    let new = SigningKey::from_bytes(&[34; 32]);
    let mut chain = Chain::new(ID);
    let first = chain.append(0, Event::Epoch(start())).unwrap();
    let elsewhere = Chain::resume(ID, Head { size: 7, ..chain.head() }).rotation(&new);
    let moved = chain.append(0, elsewhere).unwrap();

    let mut verifier = Verifier::new(ID, key().verifying_key());
    verifier.leaf(&first).unwrap();
    assert_eq!(verifier.leaf(&moved), Err(ChainError::KeyNotProved(1)));
}

/// A log of so many leaves, and its head: EPOCH, then OPEN and CLOSE in turn, a signature after
/// every few. The attempts are all the same one, which is the audit's to refuse.
fn log(leaves: usize, group: usize) -> (Vec<Record>, Head) {
    let (key, open) = (key(), signed(ticket()));
    let mut chain = Chain::new(ID);
    let mut log = Vec::new();
    for at in 0..leaves {
        let event = match at {
            0 => Event::Epoch(start()),
            at if at % 2 == 1 => Event::Open(open.clone()),
            _ => Event::Close(close()),
        };
        log.push(Record::Leaf(chain.append(1_800_000_000_000, event).unwrap()));
        if (at + 1) % group == 0 || at + 1 == leaves {
            log.push(Record::Group(ID.sign_group(&key, chain.head())));
        }
    }
    (log, chain.head())
}

fn read(mut verifier: Verifier, log: &[Record]) -> Result<Head, ChainError> {
    log.iter().try_for_each(|record| take(&mut verifier, record))?;
    verifier.finish()
}

fn take(verifier: &mut Verifier, record: &Record) -> Result<(), ChainError> {
    match record {
        Record::Leaf(bytes) => verifier.leaf(bytes).map(drop),
        Record::Group(signature) => verifier.group(signature).map(drop),
    }
}

fn start() -> EpochStart {
    let key = Hex(key().verifying_key().to_bytes());
    EpochStart { fleet: ID.fleet, purpose: ID.purpose, key, reason: EpochReason::First, previous: None }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[33; 32])
}
