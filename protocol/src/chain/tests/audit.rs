//! Leaves that the chain would take and that say what they may not.
//!
//! Invariant: a refused leaf leaves the audit as it was.

use super::*;
use crate::id::CallId;
use crate::id::PayoutId;
use crate::key_list::samples::hub_key;
use crate::key_list::samples::list;
use crate::leaf::Adjust;
use crate::leaf::AdjustReason;
use crate::leaf::Close;
use crate::leaf::Metered;
use crate::leaf::Part;
use crate::leaf::Payout;
use crate::leaf::samples::metered;
use crate::money::NanoUsd;
use crate::signing::Hash;
use crate::ticket::Ticket;
use crate::ticket::TicketError;

const CALL: CallId = CallId([4; 16]);

#[test]
fn an_attempt_is_opened_closed_and_lowered() {
    let mut audit = audit();

    assert_eq!(take(&mut audit, open(), 1), Ok(()));
    assert_eq!(audit.open_attempts().collect::<Vec<_>>(), [(CALL, 1)]);
    assert_eq!(take(&mut audit, part(1, 100), 2), Ok(()));
    assert_eq!(take(&mut audit, closed(1_250_600), 3), Ok(()));
    assert_eq!(take(&mut audit, lowered(3, 1_000), 4), Ok(()));
    assert_eq!(take(&mut audit, lowered(4, 0), 5), Ok(()));
    assert_eq!(audit.list(CALL, 1), Some(NanoUsd::ZERO));
    assert_eq!(audit.open_attempts().count(), 0);
}

#[test]
fn an_attempt_that_died_with_its_agent_costs_what_its_parts_said() {
    let mut audit = audit();
    take(&mut audit, open(), 1).unwrap();
    take(&mut audit, part(1, 77), 2).unwrap();
    assert_eq!(audit.list(CALL, 1), None);

    assert_eq!(take(&mut audit, Event::Close(Close { metered: None, ..close() }), 3), Ok(()));
    assert_eq!(audit.list(CALL, 1), Some(NanoUsd(77)));
}

#[test]
fn tickets_are_the_fleets_for_this_agent_and_opened_once() {
    let with = |change: fn(&mut Ticket)| {
        let mut ticket = ticket();
        change(&mut ticket);
        take(&mut audit(), Event::Open(signed(ticket)), 1)
    };
    assert_eq!(with(|ticket| ticket.fleet = FleetId([9; 16])), Err(AuditError::Ticket(TicketError::Fleet)));
    assert_eq!(with(|ticket| ticket.agent = AgentId([9; 16])), Err(AuditError::Agent));
    assert_eq!(with(|ticket| ticket.signing_key = 5), Err(AuditError::Ticket(TicketError::UnknownKey(5))));
    let forged = ticket().sign(&SigningKey::from_bytes(&[66; 32]));
    assert_eq!(take(&mut audit(), Event::Open(forged), 1), Err(AuditError::Ticket(TicketError::Signature)));

    let mut audit = audit();
    take(&mut audit, open(), 1).unwrap();
    let other = Event::Open(signed(Ticket { ceiling: NanoUsd(9_000_000), ..ticket() }));
    assert_eq!(take(&mut audit, other, 2), Err(AuditError::OpenedTwice));
    assert_eq!(take(&mut audit, Event::Open(signed(Ticket { attempt: 2, ..ticket() })), 3), Ok(()));
}

#[test]
fn nothing_costs_more_than_its_ceiling() {
    let over = Err(AuditError::OverCeiling { found: NanoUsd(2_000_001), ceiling: NanoUsd(2_000_000) });
    let mut audit = audit();
    take(&mut audit, open(), 1).unwrap();

    assert_eq!(take(&mut audit, part(1, 2_000_001), 2), over);
    assert_eq!(take(&mut audit, closed(2_000_001), 2), over);
    assert_eq!(take(&mut audit, closed(2_000_000), 2), Ok(()));
}

#[test]
fn leaves_out_of_order_are_named() {
    let mut audit = audit();
    assert_eq!(take(&mut audit, closed(1), 1), Err(AuditError::NotOpened));
    assert_eq!(take(&mut audit, part(1, 1), 1), Err(AuditError::NotOpened));
    assert_eq!(take(&mut audit, lowered(1, 1), 1), Err(AuditError::NotOpened));
    take(&mut audit, open(), 1).unwrap();
    assert_eq!(take(&mut audit, lowered(1, 1), 2), Err(AuditError::NotClosed));
    assert_eq!(take(&mut audit, part(2, 1), 2), Err(AuditError::Part { expected: 1, found: 2 }));
    take(&mut audit, part(1, 50), 2).unwrap();
    assert_eq!(take(&mut audit, part(2, 49), 3), Err(AuditError::PartFell));
    let other = Event::Close(Close { ticket: Hex([9; 32]), ..close() });
    assert_eq!(take(&mut audit, other, 3), Err(AuditError::OtherTicket));
    take(&mut audit, closed(100), 3).unwrap();
    assert_eq!(take(&mut audit, closed(100), 4), Err(AuditError::ClosedTwice));
    assert_eq!(take(&mut audit, part(2, 100), 4), Err(AuditError::ClosedTwice));
    assert_eq!(take(&mut audit, lowered(1, 50), 4), Err(AuditError::OtherLeaf));
    assert_eq!(take(&mut audit, lowered(3, 100), 4), Err(AuditError::NotLower));
}

#[test]
fn a_key_that_hubkey_replaced_orders_nothing_beyond_it() {
    let entries: Vec<Vec<u8>> = list(3).entries().map(<[u8]>::to_vec).collect();
    let mut audit = audit();
    assert_eq!(take(&mut audit, Event::HubKey(entries[1].clone()), 1), Ok(()));

    assert_eq!(take(&mut audit, open(), 2), Err(AuditError::OldKey(0)));
    assert_eq!(take(&mut audit, Event::Open(signed(Ticket { signing_key: 1, ..ticket() })), 2), Ok(()));
    assert_eq!(take(&mut audit, Event::HubKey(entries[1].clone()), 3), Err(AuditError::HubKeyFell(1)));
    assert_eq!(take(&mut audit, Event::HubKey(entries[0].clone()), 3), Err(AuditError::HubKeyFell(0)));
    assert_eq!(take(&mut audit, Event::HubKey(entries[2].clone()), 3), Ok(()), "a key that was not known before");
    let newest = Ticket { signing_key: 2, attempt: 2, ..ticket() };
    assert_eq!(take(&mut audit, Event::Open(newest.sign(&hub_key(2))), 4), Ok(()));
    assert!(take(&mut audit, Event::HubKey(vec![1, 2, 3]), 5).is_err());
    assert_eq!(audit.oldest_key(), 2);
}

#[test]
fn calls_belong_in_chains_about_calls() {
    let mut audit = Audit::new(ChainId { purpose: Purpose::Trading, ..ID }, list(1));

    assert_eq!(take(&mut audit, open(), 1), Err(AuditError::Purpose));
    let payout = Payout {
        payout: PayoutId([1; 16]),
        leaves_before: 1,
        amount: NanoUsd(1),
        method: String::new(),
        reference: String::new(),
    };
    assert_eq!(take(&mut audit, Event::Payout(payout), 1), Ok(()));
}

fn take(audit: &mut Audit, event: Event, leaf: u8) -> Result<(), AuditError> {
    audit.take(&event, hash(leaf))
}

fn hash(leaf: u8) -> Hash {
    Hex([leaf; 32])
}

fn audit() -> Audit {
    Audit::new(ID, list(2))
}

fn open() -> Event {
    Event::Open(signed(ticket()))
}

fn closed(list: i64) -> Event {
    Event::Close(Close { metered: Some(Metered { list: NanoUsd(list), ..metered() }), ..close() })
}

fn part(part: u32, list: i64) -> Event {
    let metered = Metered { list: NanoUsd(list), ..metered() };
    Event::Part(Part { call: CALL, attempt: 1, ticket: signed(ticket()).hash(), part, metered })
}

fn lowered(corrects: u8, list: i64) -> Event {
    let (corrects, list) = (hash(corrects), NanoUsd(list));
    Event::Adjust(Adjust { call: CALL, attempt: 1, corrects, list, reason: AdjustReason::OwnError })
}
