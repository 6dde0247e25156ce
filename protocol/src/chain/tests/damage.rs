//! Flips, cuts, swaps and duplicates: all of a small chain, some of a large one.
//!
//! Invariant: the newest head is known, as a hub's cosignature makes it known.

use proptest::prelude::*;

use super::*;

#[test]
fn every_flipped_bit_of_a_small_chain_is_found() {
    let (log, head) = log(3, 2);
    let mut flips = 0;

    for at in 0..log.len() {
        let bits = match &log[at] {
            Record::Leaf(bytes) => bytes.len() * 8,
            Record::Group(signature) => signature.0.len() * 8,
        };
        for bit in 0..bits {
            let mut damaged = log.clone();
            flip(&mut damaged[at], bit);
            assert!(is_found(&damaged, head), "record {at}, bit {bit}");
            flips += 1;
        }
    }
    assert!(flips > 5_000, "{flips}");
}

#[test]
fn every_cut_swap_and_duplicate_of_a_small_chain_is_found() {
    let (log, head) = log(9, 3);
    assert!(!is_found(&log, head));

    for from in 0..log.len() {
        for to in from + 1..=log.len() {
            let mut cut = log.clone();
            cut.drain(from..to);
            // A signature that a later one covers is no loss: the hashes are signed again.
            let is_covered = to == from + 1 && to < log.len() && matches!(log[from], Record::Group(_));
            assert_eq!(is_found(&cut, head), !is_covered, "without {from}..{to}");
            let mut doubled = log.clone();
            doubled.splice(to..to, log[from..to].to_vec());
            let is_harmless = to == from + 1 && matches!(log[from], Record::Group(_));
            assert_eq!(is_found(&doubled, head), !is_harmless, "{from}..{to} twice");
        }
        for other in from + 1..log.len() {
            let mut swapped = log.clone();
            swapped.swap(from, other);
            assert!(is_found(&swapped, head), "{from} and {other} swapped");
        }
    }
}

#[test]
fn a_rewritten_tail_is_found_by_the_head_that_is_known() {
    let (log, head) = log(9, 3);
    // The agent itself writes another history and signs it.
    let mut chain = Chain::new(ID);
    let mut rewritten = vec![Record::Leaf(chain.append(7, Event::Epoch(start())).unwrap())];
    for _ in 1..12 {
        rewritten.push(Record::Leaf(chain.append(7, Event::Close(close())).unwrap()));
    }
    rewritten.push(Record::Group(ID.sign_group(&key(), chain.head())));

    assert_eq!(read(verifier(head), &rewritten), Err(ChainError::Differs(9)));
    assert_eq!(read(verifier(head), &log), Ok(head));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_damage_to_a_large_chain_is_found(
        at in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(), bit in any::<prop::sample::Index>(), kind in 0_u8..4,
    ) {
        let (log, head) = log(400, 16);
        let leaves: Vec<usize> = (0..log.len()).filter(|at| matches!(log[*at], Record::Leaf(_))).collect();
        let (at, other) = (leaves[at.index(leaves.len())], leaves[other.index(leaves.len())]);
        let mut damaged = log.clone();
        match kind {
            0 => {
                let Record::Leaf(bytes) = &log[at] else { unreachable!() };
                flip(&mut damaged[at], bit.index(bytes.len() * 8));
            }
            1 => drop(damaged.remove(at)),
            2 => damaged.insert(other, log[at].clone()),
            _ if at == other => drop(damaged.drain(at..)),
            _ => damaged.swap(at, other),
        }
        prop_assert!(is_found(&damaged, head), "kind {} at {} and {}", kind, at, other);
    }
}

fn is_found(log: &[Record], head: Head) -> bool {
    read(verifier(head), log) != Ok(head)
}

fn verifier(head: Head) -> Verifier {
    Verifier::new(ID, key().verifying_key()).through(head)
}

pub(super) fn flip(record: &mut Record, bit: usize) {
    let bytes = match record {
        Record::Leaf(bytes) => bytes.as_mut_slice(),
        Record::Group(signature) => signature.0.as_mut_slice(),
    };
    bytes[bit / 8] ^= 1 << (bit % 8);
}
