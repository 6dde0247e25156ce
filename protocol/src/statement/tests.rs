//! Statements that were forged, taken back, reordered or about other leaves; heads that race.
//!
//! Invariant: every case changes one thing of statements that are taken.

use zeroize::Zeroizing;

use super::*;
use crate::id::AccountId;
use crate::id::CallId;
use crate::key_list::samples::hub_key;
use crate::key_list::samples::list;
use crate::leaf::Head;
use crate::leaf::samples::hex_of;
use crate::money::NanoUsd;
use crate::sealed::ArchiveKey;
use crate::sealed::Charge;
use crate::sealed::Sealed;
use crate::sealed::SealedFor;
use crate::signing::BadSignature;
use crate::usage::Meter;
use crate::usage::Meters;

const CHAIN: ChainId = ChainId { fleet: FleetId([1; 16]), purpose: Purpose::Calls, agent: AgentId([5; 16]), epoch: 3 };

#[test]
fn statements_and_cosignatures_are_written_as_they_were_frozen() {
    let head = Head { size: 13, hash: Hex([20; 32]) };
    let cosigned = Cosign::stored(CHAIN, head).sign(0, &hub_key(0));
    let entries = list(2);
    let entries: Vec<String> = entries.entries().map(hex_of).collect();
    let made = [
        entries[0].clone(),
        entries[1].clone(),
        hex_of(&CHAIN.head_body(head)),
        hex_of(&cosigned.encode()),
        hex_of(&signed(&first())),
        hex_of(&signed(&second())),
    ];
    let frozen = include_str!("../../vectors/statements.hex");
    let frozen: Vec<&str> = frozen.lines().filter(|line| !line.starts_with('#')).collect();

    assert_eq!(made.iter().map(String::as_str).collect::<Vec<_>>(), frozen, "written:\n{}", made.join("\n"));
    assert_eq!(Statement::decode(&signed(&first())), Ok(first()));
    assert_eq!(Statement::decode(&signed(&second())), Ok(second()));
    assert_eq!(Cosigned::decode(&cosigned.encode()), Ok(cosigned));
    assert_eq!(ChainId::read_head_body(&CHAIN.head_body(head)), Ok((CHAIN, head)));
}

#[test]
fn statements_follow_one_another_without_leaving_a_leaf_out() {
    let mut stated = Stated::NOTHING;
    let (one, two) = (signed(&first()), signed(&second()));

    assert_eq!(take(&mut stated, &one), Ok(first()));
    let open = BTreeSet::from([3]);
    assert_eq!(stated, Stated { statements: 1, hash: hash_of(&one), leaves: 4, open });
    assert_eq!(take(&mut stated, &two), Ok(second()));
    assert_eq!((stated.statements, stated.leaves, stated.open.len()), (2, 5, 0));
}

#[test]
fn an_open_leaf_has_one_more_line_and_no_other_leaf_has() {
    let mut stated = Stated::NOTHING;
    take(&mut stated, &signed(&first())).unwrap();
    let earlier = |number: u64| EarlierLine { number, line: Line { leaf: leaf(number).unwrap(), ..unobserved() } };
    let said = |stated: &Stated, earlier: Vec<EarlierLine>| {
        let statement = Statement {
            number: stated.statements,
            before: stated.hash,
            first_leaf: stated.leaves,
            earlier,
            lines: Vec::new(),
            ..first()
        };
        statement.sign(&hub_key(0))
    };

    let of_a_settled_one = said(&stated, vec![earlier(2)]).unwrap();
    assert_eq!(take(&mut stated, &of_a_settled_one), Err(StatementError::NotOpen(2)));
    let mut other = earlier(3);
    other.line.leaf = Hex([99; 32]);
    let of_another_leaf = said(&stated, vec![other]).unwrap();
    assert_eq!(take(&mut stated, &of_another_leaf), Err(StatementError::OtherLeaf(3)));
    assert_eq!(stated.open, BTreeSet::from([3]), "nothing was taken");

    let no_line_at_all = said(&stated, vec![earlier(3)]).unwrap();
    take(&mut stated, &no_line_at_all).unwrap();
    assert_eq!((stated.statements, stated.leaves, stated.open.len()), (2, 4, 0));
    let again = said(&stated, vec![earlier(3)]).unwrap();
    assert_eq!(take(&mut stated, &again), Err(StatementError::NotOpen(3)), "settled twice");

    let field = Err(CborError::Field("earlier lines"));
    assert_eq!(said(&stated, vec![earlier(3), earlier(3)]), field);
    assert_eq!(said(&stated, vec![earlier(3), earlier(2)]), field);
    assert_eq!(said(&stated, vec![earlier(4)]), field, "it is not earlier");
    let mut open_again = earlier(3);
    open_again.line = Line { reason: Reason::Open, settled: None, ..open_again.line };
    assert_eq!(said(&stated, vec![open_again]), field);
    let mut paid = first();
    paid.lines[3].settled = unobserved().settled;
    assert_eq!(paid.sign(&hub_key(0)), Err(CborError::Field("settled")), "open, and money moves");
}

#[test]
fn not_more_leaves_are_open_than_may_be() {
    let open = (0..u64::try_from(OPEN_LEAVES_MAX).unwrap()).collect();
    let mut stated = Stated { open, leaves: 100_000, ..Stated::NOTHING };
    let lines = vec![Line { leaf: Hex([1; 32]), reason: Reason::Open, settled: None }];
    let statement = Statement { first_leaf: 100_000, lines, ..first() };

    let verdict = stated.take(&signed(&statement), &CHAIN, &list(2), 0, |_| None);
    assert_eq!(verdict, Err(StatementError::TooManyOpen));
}

#[test]
fn what_is_not_the_hubs_next_word_is_named_and_changes_nothing() {
    let mut stated = Stated::NOTHING;
    take(&mut stated, &signed(&first())).unwrap();
    let refused = |statement: Statement| {
        let mut after = stated.clone();
        let verdict = take(&mut after, &signed(&statement));
        assert_eq!(after, stated);
        verdict.err()
    };

    let gap = Some(StatementError::Gap { expected: 1, found: 0 });
    assert_eq!(refused(first()), gap, "the same again");
    let gap = Some(StatementError::Gap { expected: 1, found: 2 });
    assert_eq!(refused(Statement { number: 2, ..second() }), gap);
    assert_eq!(refused(Statement { before: Hex([9; 32]), ..second() }), Some(StatementError::Broken), "taken back");
    let leaves = Some(StatementError::Leaves { expected: 4, found: 5 });
    assert_eq!(refused(Statement { first_leaf: 5, ..second() }), leaves, "a leaf left out");
    let other = ChainId { epoch: 4, ..CHAIN };
    assert_eq!(refused(Statement { chain: other, ..second() }), Some(StatementError::OtherChain));
    assert_eq!(refused(Statement { signing_key: 7, ..second() }), Some(StatementError::Key(7)));
    let mut changed = second();
    changed.lines[0].leaf = Hex([99; 32]);
    assert_eq!(refused(changed), Some(StatementError::OtherLeaf(4)));

    let forged = second().sign(&hub_key(1)).unwrap();
    assert_eq!(take(&mut stated.clone(), &forged).err(), Some(StatementError::Signature));
    let old = stated.take(&signed(&second()), &CHAIN, &list(2), 1, leaf);
    assert_eq!(old.err(), Some(StatementError::Key(0)), "replaced");
}

#[test]
fn a_rebuilt_agent_believes_statements_about_leaves_that_it_lost() {
    let mut stated = Stated::NOTHING;

    assert_eq!(stated.take(&signed(&first()), &CHAIN, &list(2), 0, |_| None), Ok(first()));
}

#[test]
fn no_bit_of_a_statement_can_be_changed() {
    let (bytes, keys) = (signed(&first()), list(2));

    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let mut stated = Stated::NOTHING;
        let verdict = stated.take(&changed, &CHAIN, &keys, 0, |_| None);
        assert!(verdict.is_err(), "bit {bit}");
    }
}

#[test]
fn the_longest_statement_is_within_its_bound() {
    let mut full = Meters::default();
    for meter in Meter::ALL {
        full.set(*meter, u64::MAX);
    }
    let most = NanoUsd(i64::MAX);
    let hub = Some(HubMetered { meters: full, heard: full, response_bytes: u64::MAX, list: most });
    let settled = Some(Settled { hub, list: most, credit: most, charge: charge() });
    let line = Line { leaf: Hex([1; 32]), reason: Reason::Agreed, settled };
    let earlier = |number: usize| EarlierLine { number: u64::MAX - 200 + number as u64, line: line.clone() };
    let statement = Statement { first_leaf: u64::MAX, lines: vec![line.clone()], ..first() };
    let statement = Statement { earlier: (1..LINES_MAX).map(earlier).collect(), ..statement };

    assert!(signed(&statement).len() <= STATEMENT_BYTES_MAX, "{}", signed(&statement).len());
    assert_eq!(Statement::decode(&signed(&statement)), Ok(statement.clone()));
    let beyond = Statement { lines: vec![statement.lines[0].clone(); 2], ..statement };
    assert!(beyond.sign(&hub_key(0)).is_err());
    assert!(Statement { lines: Vec::new(), ..first() }.sign(&hub_key(0)).is_err());
}

#[test]
fn a_credit_above_its_list_cost_is_no_statement() {
    let mut statement = first();
    let settled = statement.lines[2].settled.as_mut().unwrap();
    settled.credit = NanoUsd(settled.list.0 + 1);

    assert_eq!(Statement::decode(&signed(&statement)), Err(CborError::Field("credit")));
}

#[test]
fn any_bytes_are_refused_without_a_panic_and_a_body_is_written_as_it_was_read() {
    let (body, keys) = (first().body(), list(2));

    bolero::check!().with_iterations(5_000).with_type::<(u16, Vec<u8>)>().for_each(|(at, bytes)| {
        let mut stated = Stated::NOTHING;
        assert!(stated.take(bytes, &CHAIN, &keys, 0, |_| None).is_err());
        let mut grafted = body.clone();
        let at = usize::from(*at) % grafted.len();
        let end = (at + bytes.len()).min(grafted.len());
        grafted[at..end].copy_from_slice(&bytes[..end - at]);
        if let Ok(statement) = Statement::read(&grafted) {
            assert_eq!(statement.body(), grafted);
        }
        if let Ok(cosigned) = Cosigned::decode(bytes) {
            assert_eq!(&cosigned.encode(), bytes);
        }
    });
}

#[test]
fn the_same_head_gives_the_same_cosignature_and_another_none() {
    let head = |size, hash| Head { size, hash: Hex([hash; 32]) };
    let cosign = Cosign::new(CHAIN).swap(Head::EMPTY, head(5, 1)).unwrap();
    let cosigned = cosign.sign(0, &hub_key(0));

    assert_eq!(cosigned.verify(&hub_key(0).verifying_key()), Ok(()));
    assert_eq!(cosigned.verify(&hub_key(1).verifying_key()), Err(BadSignature));
    let other = Cosigned { head: head(5, 2), ..cosigned };
    assert_eq!(other.verify(&hub_key(0).verifying_key()), Err(BadSignature));
    let again = cosign.swap(Head::EMPTY, head(5, 1)).unwrap();
    assert_eq!(again.sign(0, &hub_key(0)), cosigned, "an ACK that was lost");
    assert_eq!(cosign.swap(Head::EMPTY, head(5, 2)), Err(CosignError::Fork(5)));
    assert_eq!(cosign.swap(Head::EMPTY, head(4, 1)), Err(CosignError::Behind { newest: 5, found: 4 }));
    assert_eq!(cosign.swap(head(5, 2), head(6, 1)), Err(CosignError::Fork(5)), "goes on from another history");
    assert_eq!(cosign.swap(head(3, 1), head(6, 1)), Err(CosignError::Moved), "verified from before");
    assert_eq!(cosign.swap(head(5, 1), head(6, 1)).map(|cosign| cosign.newest()), Ok(head(6, 1)));
}

#[test]
fn of_two_hubs_that_race_one_writes_and_the_other_looks_again() {
    let head = |size, hash| Head { size, hash: Hex([hash; 32]) };
    let mut stored = Cosign::new(CHAIN);
    let (seen_by_a, seen_by_b) = (stored, stored);
    let swap = |stored: &mut Cosign, seen: Cosign, to: Head| {
        let next = seen.swap(seen.newest(), to)?;
        if *stored != seen {
            return Err(CosignError::Moved);
        }
        *stored = next;
        Ok(())
    };

    assert_eq!(swap(&mut stored, seen_by_a, head(3, 1)), Ok(()));
    assert_eq!(swap(&mut stored, seen_by_b, head(3, 2)), Err(CosignError::Moved), "a fork, at another hub");
    let looked_again = stored;
    assert_eq!(swap(&mut stored, looked_again, head(3, 2)), Err(CosignError::Fork(3)));
}

fn take(stated: &mut Stated, bytes: &[u8]) -> Result<Statement, StatementError> {
    stated.take(bytes, &CHAIN, &list(2), 0, leaf)
}

fn signed(statement: &Statement) -> Vec<u8> {
    statement.sign(&hub_key(0)).unwrap()
}

/// The hash of the agent's leaf of a number.
fn leaf(number: u64) -> Option<Hash> {
    u8::try_from(number).ok().map(|number| Hex([number + 1; 32]))
}

fn first() -> Statement {
    let mut meters = Meters::default();
    meters.set(Meter::Input, 1_000);
    meters.set(Meter::Output, 500);
    let hub = Some(HubMetered { meters, heard: Meters::default(), response_bytes: 4_000, list: NanoUsd(1_250_600) });
    let settled = Settled { hub, list: NanoUsd(1_250_600), credit: NanoUsd(1_000_480), charge: charge() };
    let line = |number, reason, settled| Line { leaf: leaf(number).unwrap(), reason, settled };
    let lines = vec![
        line(0, Reason::Noted, None),
        line(1, Reason::Noted, None),
        line(2, Reason::Agreed, Some(settled)),
        line(3, Reason::Open, None),
    ];
    let (at_unix_ms, earlier) = (1_800_000_000_000, Vec::new());
    Statement {
        chain: CHAIN,
        number: 0,
        before: Hex([0; 32]),
        first_leaf: 0,
        at_unix_ms,
        signing_key: 0,
        lines,
        earlier,
    }
}

/// What became of leaf 3.
fn unobserved() -> Line {
    let nothing = Settled { hub: None, list: NanoUsd::ZERO, credit: NanoUsd::ZERO, charge: None };
    Line { leaf: leaf(3).unwrap(), reason: Reason::Unobserved, settled: Some(nothing) }
}

fn second() -> Statement {
    let lines = vec![Line { leaf: leaf(4).unwrap(), reason: Reason::Noted, settled: None }];
    let earlier = vec![EarlierLine { number: 3, line: unobserved() }];
    Statement { number: 1, before: hash_of(&signed(&first())), first_leaf: 4, lines, earlier, ..first() }
}

fn charge() -> Option<Sealed> {
    let at = SealedFor { fleet: CHAIN.fleet, call: CallId([4; 16]), attempt: 1 };
    let charge = Charge { account: AccountId([12; 16]), amount: NanoUsd(1_438_190) };
    Some(ArchiveKey::new(1, Zeroizing::new([11; 32])).seal_charge(&charge, at, [9; 24]))
}
