//! Groups: what is written reads back, and what was touched is refused and changes nothing.
//!
//! Invariant: every damage is done to a group that verifies.

use super::*;
use crate::cbor::CborError;
use crate::chain::GROUP_BYTES_MAX;
use crate::chain::GROUP_LEAVES_BYTES_MAX;
use crate::chain::GROUP_LEAVES_MAX;
use crate::chain::Group;

#[test]
fn groups_are_taken_one_after_another() {
    let [one, two] = groups();
    let mut verifier = fresh();

    assert_eq!((one.first(), one.end(), two.first(), two.end()), (0, 3, 3, 5));
    let leaves = one.verify(&mut verifier).unwrap();
    assert_eq!(leaves.iter().map(|leaf| leaf.number).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(verifier.signed().size, 3);
    assert_eq!(two.verify(&mut verifier).unwrap().len(), 2);
    assert_eq!(verifier.finish().unwrap().size, 5);
    for group in [one, two] {
        let parts = (group.first(), group.leaves().to_vec(), group.record().to_vec());
        assert_eq!(Group::of_parts(parts.0, parts.1, parts.2), Ok(group.clone()));
        assert_eq!(Group::decode(&group.encode()), Ok(group));
    }
}

#[test]
fn a_group_is_taken_whole_and_in_its_place_or_the_verifier_stands_where_it_stood() {
    let [one, two] = groups();
    let mut verifier = fresh();

    assert_eq!(two.verify(&mut verifier), Err(ChainError::Gap { expected: 0, found: 3 }));
    assert_eq!(verifier.head(), Head::EMPTY);
    one.verify(&mut verifier).unwrap();
    let stood = verifier.head();
    assert_eq!(one.verify(&mut verifier), Err(ChainError::Gap { expected: 3, found: 0 }), "the same again");

    let by_another = SigningKey::from_bytes(&[66; 32]);
    let head = Head { size: 5, hash: Leaf::hash(&two.leaves()[1]) };
    let forged = Group::sign(&ID, &by_another, two.leaves().to_vec(), head).unwrap();
    assert_eq!(forged.verify(&mut verifier), Err(ChainError::Signature(5)));
    let other = ChainId { epoch: 4, ..ID };
    let of_another_chain = Group::sign(&other, &key(), two.leaves().to_vec(), head).unwrap();
    assert_eq!(of_another_chain.verify(&mut verifier), Err(ChainError::Signature(5)));
    assert_eq!((verifier.head(), verifier.signed()), (stood, stood));
    assert!(two.verify(&mut verifier).is_ok());
}

#[test]
fn no_bit_of_a_group_can_be_changed() {
    let [one, _] = groups();
    let bytes = one.encode();

    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let mut verifier = fresh();
        let taken = Group::decode(&changed).is_ok_and(|group| group.verify(&mut verifier).is_ok());
        assert!(!taken, "bit {bit}");
        assert_eq!(verifier.head(), Head::EMPTY, "bit {bit}");
    }
}

#[test]
fn a_group_has_leaves_and_not_too_many() {
    let sign = |leaves: Vec<Vec<u8>>, size| Group::sign(&ID, &key(), leaves, Head { size, hash: Hex([9; 32]) });
    let full = sign(vec![vec![0; GROUP_LEAVES_BYTES_MAX / GROUP_LEAVES_MAX]; GROUP_LEAVES_MAX], u64::MAX).unwrap();

    assert!(full.encode().len() <= GROUP_BYTES_MAX);
    assert_eq!(Group::decode(&full.encode()), Ok(full));
    let refused = Err(CborError::Field("leaves"));
    assert_eq!(sign(Vec::new(), 5), refused);
    assert_eq!(sign(vec![vec![0; 9]; GROUP_LEAVES_MAX + 1], 500), refused);
    assert_eq!(sign(vec![vec![0; 1024]; 61], 500), refused, "too long together");
    assert_eq!(sign(vec![vec![0; 2049]], 500), refused, "one is too long");
    assert_eq!(sign(vec![vec![0; 9]; 3], 2), refused, "more than the chain has");
}

#[test]
fn any_bytes_are_refused_without_a_panic_and_a_group_is_written_as_it_was_read() {
    let bytes = groups()[0].encode();

    bolero::check!().with_iterations(5_000).with_type::<(u16, Vec<u8>)>().for_each(|(at, bolted)| {
        let _ = Group::decode(bolted);
        let mut grafted = bytes.clone();
        let at = usize::from(*at) % grafted.len();
        let end = (at + bolted.len()).min(grafted.len());
        grafted[at..end].copy_from_slice(&bolted[..end - at]);
        if let Ok(group) = Group::decode(&grafted) {
            assert_eq!(group.encode(), grafted);
        }
    });
}

/// The first five leaves of a chain, in two groups.
fn groups() -> [Group; 2] {
    let (log, _) = log(5, 3);
    let mut head = Head::EMPTY;
    let mut leaves = Vec::new();
    let mut groups = Vec::new();
    for record in log {
        match record {
            Record::Leaf(leaf) => {
                head = head.after(&leaf);
                leaves.push(leaf);
            }
            Record::Group(_) => groups.push(Group::sign(&ID, &key(), std::mem::take(&mut leaves), head).unwrap()),
        }
    }
    groups.try_into().unwrap()
}

fn fresh() -> Verifier {
    Verifier::new(ID, key().verifying_key())
}
