//! Two histories under one key are proved, and nothing else is.
//!
//! Invariant: each proof is checked with nothing but the agent's key.

use super::*;

#[test]
fn a_backup_that_went_on_is_proved_by_two_signed_heads_and_what_leads_to_them() {
    let proof = proof();

    assert_eq!(proof.verify(&key().verifying_key()), Ok(()));
    let turned = ForkProof { branches: [proof.branches[1].clone(), proof.branches[0].clone()], ..proof };
    assert_eq!(turned.verify(&key().verifying_key()), Ok(()));
}

#[test]
fn two_signed_heads_of_one_size_need_no_leaves() {
    let proof = proof();
    let alone = |branch: &Branch| {
        let head = Head { size: proof.at, hash: Leaf::decode(&branch.leaves[0]).unwrap().before };
        Branch { leaves: Vec::new(), head, signature: ID.sign_group(&key(), head) }
    };
    let short = ForkProof { branches: [alone(&proof.branches[0]), alone(&proof.branches[1])], ..proof.clone() };

    assert_eq!(short.verify(&key().verifying_key()), Ok(()));
}

#[test]
fn one_history_proves_nothing_against_an_honest_agent() {
    let proof = proof();
    let twice = ForkProof { branches: [proof.branches[0].clone(), proof.branches[0].clone()], ..proof.clone() };
    assert_eq!(twice.verify(&key().verifying_key()), Err(ForkError::Same));

    // The same history, told from two signed heads of it.
    let longer = &proof.branches[0];
    let first = Head { size: proof.at, hash: Leaf::decode(&longer.leaves[0]).unwrap().before }.after(&longer.leaves[0]);
    let shorter =
        Branch { leaves: vec![longer.leaves[0].clone()], head: first, signature: ID.sign_group(&key(), first) };
    let same = ForkProof { branches: [longer.clone(), shorter], ..proof };
    assert_eq!(same.verify(&key().verifying_key()), Err(ForkError::Same));
}

#[test]
fn nobody_but_the_agent_can_make_a_proof() {
    let proof = proof();
    let stranger = SigningKey::from_bytes(&[66; 32]);
    assert_eq!(proof.verify(&stranger.verifying_key()), Err(ForkError::Signature));

    let mut forged = proof.clone();
    forged.branches[1].signature = ID.sign_group(&stranger, forged.branches[1].head);
    assert_eq!(forged.verify(&key().verifying_key()), Err(ForkError::Signature));

    let mut longer = proof.clone();
    longer.branches[1].leaves.pop();
    assert_eq!(longer.verify(&key().verifying_key()), Err(ForkError::OtherHead));

    let other_epoch = ForkProof { chain: ChainId { epoch: 9, ..ID }, ..proof };
    assert_eq!(other_epoch.verify(&key().verifying_key()), Err(ForkError::Chain(ChainError::OtherChain(3))));
}

#[test]
fn no_bit_of_a_proof_can_be_changed() {
    let proof = proof();

    for leaf in 0..proof.branches[1].leaves.len() {
        for bit in 0..proof.branches[1].leaves[leaf].len() * 8 {
            let mut changed = proof.clone();
            changed.branches[1].leaves[leaf][bit / 8] ^= 1 << (bit % 8);
            let is_proof = changed.verify(&key().verifying_key()).is_ok();
            assert!(!is_proof, "leaf {leaf}, bit {bit}");
        }
    }
}

/// A common beginning of two leaves, then two histories of three and two.
fn proof() -> ForkProof {
    let mut chain = Chain::new(ID);
    chain.append(0, Event::Epoch(start())).unwrap();
    chain.append(0, Event::Close(close())).unwrap();
    let mut backup = chain.clone();
    // The leaf after which the two differ is the first that either wrote alone.
    chain.append(1, Event::Close(close())).unwrap();
    backup.append(2, Event::Close(close())).unwrap();
    let branch = |chain: &mut Chain, leaves: usize| {
        let leaves = (0..leaves).map(|_| chain.append(3, Event::Close(close())).unwrap()).collect();
        Branch { leaves, head: chain.head(), signature: ID.sign_group(&key(), chain.head()) }
    };
    ForkProof { chain: ID, at: 3, branches: [branch(&mut chain, 2), branch(&mut backup, 1)] }
}
