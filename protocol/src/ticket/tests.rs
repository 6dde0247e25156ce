//! Forged, foreign, repeated and damaged tickets are refused, and by name.
//!
//! Invariant: every case changes one thing of a ticket that is taken.

use super::*;
use crate::key_list::samples::hub_key;
use crate::key_list::samples::list;
use crate::leaf::samples::hex_of;
use crate::ticket::samples::AGENT;
use crate::ticket::samples::archive_key;
use crate::ticket::samples::payer;
use crate::ticket::samples::signed;
use crate::ticket::samples::ticket;

#[test]
fn the_ticket_of_the_vectors_is_written_as_it_was_frozen() {
    let frozen = include_str!("../../vectors/ticket.hex");
    let lines: Vec<&str> = frozen.lines().filter(|line| !line.starts_with('#')).collect();

    let bytes = signed(ticket()).bytes().to_vec();
    assert_eq!([hex_of(&bytes), signed(ticket()).hash().to_string()], lines[..], "the ticket and its hash");
    assert_eq!(SignedTicket::read(&bytes), Ok(signed(ticket())));
}

#[test]
fn an_agent_takes_its_order_once() {
    let (gate, mut seen) = (gate(), Seen::default());

    assert_eq!(admit(&gate, &mut seen, &ticket()), Ok(()));
    assert_eq!(admit(&gate, &mut seen, &ticket()), Err(Refusal::Seen));
    assert_eq!(admit(&gate, &mut seen, &Ticket { attempt: 2, ..ticket() }), Ok(()));
}

#[test]
fn a_ticket_of_another_key_list_or_with_a_changed_field_is_forged() {
    let stranger = SigningKey::from_bytes(&[66; 32]);
    let forged = ticket().sign(&stranger);
    assert_eq!(gate().examine(forged.bytes(), order(), |_, _| true), Err(Refusal::Ticket(TicketError::Signature)));

    // The ceiling is raised under the old signature.
    let honest = signed(ticket());
    let (_, signature) = Domain::Ticket.split(honest.bytes(), 900).unwrap();
    let raised = Ticket { ceiling: NanoUsd(9_000_000), ..ticket() };
    let raised = Domain::Ticket.record(&raised.body(), &signature);
    assert_eq!(gate().examine(&raised, order(), |_, _| true), Err(Refusal::Ticket(TicketError::Signature)));
}

#[test]
fn every_refusal_has_its_name() {
    let with = |change: fn(&mut Ticket)| {
        let mut ticket = ticket();
        change(&mut ticket);
        admit(&gate(), &mut Seen::default(), &ticket)
    };
    assert_eq!(with(|ticket| ticket.fleet = FleetId([9; 16])), Err(Refusal::Ticket(TicketError::Fleet)));
    assert_eq!(with(|ticket| ticket.signing_key = 7), Err(Refusal::Ticket(TicketError::UnknownKey(7))));
    assert_eq!(with(|ticket| ticket.agent = AgentId([9; 16])), Err(Refusal::Agent));
    assert_eq!(with(|ticket| ticket.call = CallId([9; 16])), Err(Refusal::Differs("call")));
    assert_eq!(with(|ticket| ticket.vendor_key = VendorKeyId([9; 16])), Err(Refusal::Differs("vendor key")));
    assert_eq!(with(|ticket| ticket.endpoint = 105), Err(Refusal::Differs("endpoint")));
    assert_eq!(with(|ticket| ticket.meter_rules = 2), Err(Refusal::MeterRules));
    assert_eq!(with(|ticket| ticket.price_version = 8), Err(Refusal::Prices), "not held");
    assert_eq!(with(|ticket| ticket.price_hash = Hex([9; 32])), Err(Refusal::Prices), "held with another hash");
    let below = Refusal::Tier { found: Ppm(700_000), floor: Ppm(750_000) };
    assert_eq!(with(|ticket| ticket.tier = Ppm(700_000)), Err(below));
    let field = |field| Err(Refusal::Ticket(TicketError::Unreadable(CborError::Field(field))));
    assert_eq!(with(|ticket| ticket.attempt = 0), field("attempt"));
    assert_eq!(with(|ticket| ticket.attempt = 4), field("attempt"));
    assert_eq!(with(|ticket| ticket.deadline_ms = 0), field("deadline"));
    assert_eq!(with(|ticket| ticket.deadline_ms = DEADLINE_MS_MAX + 1), field("deadline"));
    assert_eq!(with(|ticket| ticket.ceiling = NanoUsd(-1)), field("ceiling"));
    assert_eq!(with(|ticket| ticket.model = "m".repeat(257)), field("model"));
}

#[test]
fn what_was_refused_may_be_ordered_again() {
    let (gate, mut seen) = (gate(), Seen::default());
    assert_eq!(gate.examine(signed(ticket()).bytes(), order(), |_, _| false), Err(Refusal::Prices));

    assert_eq!(admit(&gate, &mut seen, &ticket()), Ok(()));
}

#[test]
fn an_order_runs_out_by_the_time_since_it_came_whatever_the_clocks_say() {
    let ticket = ticket();

    assert!(!ticket.is_over(0) && !ticket.is_over(599_999));
    assert!(ticket.is_over(600_000) && ticket.is_over(u64::MAX));
}

#[test]
fn a_key_that_was_replaced_orders_nothing_any_more() {
    let (gate, mut seen) = (Gate { oldest_key: 1, ..gate() }, Seen::default());
    assert_eq!(admit(&gate, &mut seen, &ticket()), Err(Refusal::OldKey(0)));

    assert_eq!(admit(&gate, &mut seen, &Ticket { signing_key: 1, ..ticket() }), Ok(()));
}

#[test]
fn an_attempt_stays_seen_when_memory_is_full() {
    let mut seen = Seen::of_at_most(2);
    let call = |number| CallId([number; 16]);

    assert!(seen.insert(call(3), 1) && seen.insert(call(5), 1) && seen.insert(call(4), 1));
    for number in 0..=5 {
        assert!(!seen.insert(call(number), 1), "call {number}: seen, or older than what is remembered");
    }
    assert!(seen.insert(call(6), 1));
    assert!(!seen.insert(call(4), 2), "forgotten in its turn");
}

#[test]
fn no_bit_of_a_ticket_can_be_changed() {
    let (honest, gate) = (signed(ticket()), gate());

    for bit in 0..honest.bytes().len() * 8 {
        let mut changed = honest.bytes().to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(gate.examine(&changed, order(), |_, _| true).is_err(), "bit {bit}");
    }
    for length in 0..honest.bytes().len() {
        assert!(SignedTicket::read(&honest.bytes()[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn a_hub_without_a_database_learns_from_a_ticket_who_pays() {
    let ticket = ticket();

    assert_eq!(archive_key().open_payer(&ticket.payer, ticket.sealed_for()), Ok(payer()));
    let other = Ticket { attempt: 2, ..ticket };
    assert!(archive_key().open_payer(&other.payer, other.sealed_for()).is_err(), "moved to another ticket");
}

#[test]
fn any_bytes_are_refused_without_a_panic_and_a_body_is_written_as_it_was_read() {
    let gate = gate();
    bolero::check!().with_iterations(5_000).for_each(|bytes: &[u8]| {
        assert!(gate.examine(bytes, order(), |_, _| true).is_err());
        if let Ok(ticket) = Ticket::read(bytes) {
            assert_eq!(ticket.body(), bytes);
        }
    });
    let body = ticket().body();
    for at in 0..body.len() {
        for value in [0, 1, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x3b, 0x58, 0x7f, 0xf6, 0xff] {
            let mut changed = body.clone();
            changed[at] = value;
            if let Ok(ticket) = Ticket::read(&changed) {
                assert_eq!(ticket.body(), changed, "byte {at} as {value}");
            }
        }
    }
}

fn admit(gate: &Gate, seen: &mut Seen, ticket: &Ticket) -> Result<(), Refusal> {
    let held = |version: u32, hash: &Hash| version == 7 && *hash == Hex([8; 32]);
    let signed = gate.examine(signed(ticket.clone()).bytes(), order(), held)?;
    seen.admit(signed.ticket())
}

fn gate() -> Gate {
    let keys = std::sync::Arc::new(list(2));
    let tier_floor = Ppm(750_000);
    Gate { agent: AGENT, keys, oldest_key: 0, meter_rules: 1, tier_floor }
}

fn order() -> Order {
    Order { call: CallId([4; 16]), vendor_key: VendorKeyId([6; 16]), endpoint: 101 }
}

/// What an order costs both sides is printed by `--nocapture`; the bound is for builds that are not optimised.
#[test]
fn a_ticket_costs_little_to_sign_and_to_verify() {
    const ROUNDS: u32 = 200;
    let (gate, key, archive) = (gate(), hub_key(0), archive_key());
    let began = std::time::Instant::now();
    for _ in 0..ROUNDS {
        let ticket = ticket();
        let payer = archive.seal_payer(&payer(), ticket.sealed_for(), [9; 24]);
        std::hint::black_box(Ticket { payer, ..ticket }.sign(&key));
    }
    let signing = began.elapsed() / ROUNDS;
    let signed = signed(ticket());
    let began = std::time::Instant::now();
    for _ in 0..ROUNDS {
        assert!(std::hint::black_box(gate.examine(signed.bytes(), order(), |_, _| true)).is_ok());
    }
    let verifying = began.elapsed() / ROUNDS;

    println!("a ticket of {} bytes: {signing:?} to seal and sign, {verifying:?} to verify", signed.bytes().len());
    assert!(signing.as_millis() < 50 && verifying.as_millis() < 50);
}
