//! The roster from outside: links, offers, fences, and the index against a plain list.
//!
//! Invariant: nothing here looks inside the index.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;

use keyhaven_daemon::link::LinkHandle;
use keyhaven_protocol::frame::Egress;
use keyhaven_protocol::frame::Offer;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::link::Limits;
use keyhaven_protocol::link::Side;

use super::*;
use crate::agent_gateway::Fit;
use crate::agent_gateway::SeatOutcome;
use crate::agent_gateway::absences::EXPECTED_FOR;

#[test]
fn a_newer_link_fences_the_older_and_its_offers() {
    let roster = Roster::new();
    let older = enter(&roster, 1).unwrap();
    offer_all(&roster, &older, offer(1));
    let newer = enter(&roster, 2).unwrap();
    offer_all(&roster, &newer, offer(1));

    assert!(!older.is_open());
    assert!(newer.is_open() && newer.number > older.number);
    assert_eq!(roster.seats(Provider::OpenAi).len(), 1);

    roster.remove(&older);
    assert_eq!(roster.links().len(), 1, "the end of the older one does not take the newer one out");
    assert_eq!(roster.seats(Provider::OpenAi).len(), 1);
}

#[test]
fn two_copies_that_fight_over_the_link_are_both_put_out() {
    let roster = Roster::new();
    for now in 0..4 {
        enter(&roster, now).unwrap();
    }

    let fought = enter(&roster, 4).err();

    assert_eq!(fought, Some(FoughtOver { until_unix_ms: 4 + FENCES_WINDOW_MS }));
    assert!(roster.links().is_empty());
}

#[test]
fn one_process_that_loses_its_link_again_and_again_is_no_fight() {
    let roster = Roster::new();

    for now in 0..20 {
        enter_as(&roster, 1, now).unwrap();
    }
}

#[test]
fn a_fenced_link_offers_nothing_any_more() {
    let roster = Roster::new();
    let older = enter(&roster, 1).unwrap();
    enter(&roster, 2).unwrap();
    offer_all(&roster, &older, offer(1));

    assert!(roster.seats(Provider::OpenAi).is_empty());
}

#[test]
fn a_link_whose_task_ends_in_any_way_gives_up_its_place() {
    let roster = Roster::new();
    let held = roster.hold(enter(&roster, 1).unwrap());
    drop(held);

    assert!(roster.links().is_empty());
}

#[test]
fn takeovers_far_apart_are_no_fight() {
    let roster = Roster::new();

    for now in 0..20 {
        enter(&roster, now * FENCES_WINDOW_MS / 2).unwrap();
    }
}

#[test]
fn an_offer_replaces_the_one_for_the_same_key_and_can_be_withdrawn() {
    let roster = Roster::new();
    let link = enter(&roster, 1).unwrap();
    offer_all(&roster, &link, offer(1));
    offer_all(&roster, &link, Offer { models: vec![model(r#"{"id":"gpt-9"}"#)], ..offer(1) });
    offer_all(&roster, &link, offer(2));

    let seats = roster.seats(Provider::OpenAi);
    assert_eq!(seats.len(), 2);
    assert!(roster.lists(Provider::OpenAi, "gpt-9"));
    roster.withdraw(&link, VendorKeyId([1; 16]));
    assert_eq!(roster.seats(Provider::OpenAi).len(), 1);
}

#[test]
fn who_waits_for_a_seat_is_told_of_every_offer_that_comes_or_goes() {
    let roster = Roster::new();
    let link = enter(&roster, 1).unwrap();
    let mut changed = roster.changed();
    let mut told = || {
        let told = changed.has_changed().unwrap();
        changed.mark_unchanged();
        told
    };
    assert!(!told());

    offer_all(&roster, &link, offer(1));
    assert!(told());
    roster.withdraw(&link, VendorKeyId([1; 16]));
    assert!(told());
    offer_all(&roster, &link, offer(1));
    assert!(told());
    roster.remove(&link);
    assert!(told());
}

#[test]
fn what_is_no_offer_is_an_error() {
    let roster = Roster::new();
    let link = enter(&roster, 1).unwrap();
    let named = r#""vendor_key":"vk_01010101010101010101010101010101","provider":"openai""#;

    assert!(roster.offer(&link, format!("{{{named}}}").as_bytes()).is_ok());
    for payload in ["", "7", "{}", &format!(r#"{{{named},"models":7}}"#)] {
        assert!(roster.offer(&link, payload.as_bytes()).is_err(), "{payload}");
    }
    assert_eq!(roster.seats(Provider::OpenAi).len(), 1);
}

#[test]
fn seats_of_a_link_that_drains_are_out_at_once_and_its_later_offers_stay_out() {
    let roster = Roster::new();
    let link = enter(&roster, 1).unwrap();
    offer_all(&roster, &link, offer(1));
    let mut changed = roster.changed();

    roster.leave(&link);
    offer_all(&roster, &link, offer(2));
    roster.accept_calls(&link, false);
    roster.accept_calls(&link, true);

    assert!(roster.seats(Provider::OpenAi).is_empty());
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    assert_eq!(roster.links_with_seats()[0].1.len(), 2, "the operator still sees them");
}

#[test]
fn seats_of_a_drained_agent_come_back_with_it() {
    let roster = Roster::new();
    let link = enter(&roster, 1).unwrap();
    offer_all(&roster, &link, offer(1));

    roster.accept_calls(&link, false);
    offer_all(&roster, &link, offer(2));
    assert!(roster.seats(Provider::OpenAi).is_empty());
    roster.accept_calls(&link, true);

    assert_eq!(roster.seats(Provider::OpenAi).len(), 2);
}

#[test]
fn a_key_that_is_offered_anew_keeps_its_past() {
    let roster = Roster::new();
    let link = enter(&roster, 1).unwrap();
    offer_all(&roster, &link, offer(1));
    let now = Instant::now();
    roster.seats(Provider::OpenAi)[0].note(None, SeatOutcome::Refused, now);

    offer_all(&roster, &link, Offer { models: vec![model(r#"{"id":"gpt-9"}"#)], ..offer(1) });

    assert!(roster.seats(Provider::OpenAi)[0].cool_until(None, now).is_some());
}

#[test]
fn models_are_on_offer_once_as_long_as_somebody_offers_them() {
    let roster = Roster::new();
    let [first, second] = [1, 2].map(|agent| enter_agent(&roster, agent, 1, 0).unwrap());
    let listing = |models: &[&str]| Offer { models: models.iter().copied().map(model).collect(), ..offer(1) };
    offer_all(&roster, &first, listing(&[r#"{"id":"b","from":1}"#, r#"{"id":"a"}"#]));
    offer_all(&roster, &second, listing(&[r#"{"id":"b","from":2}"#, r#"{"id":"c"}"#]));
    let ids = || roster.models(Provider::OpenAi).iter().map(|model| model.id.to_string()).collect::<Vec<_>>();
    let b = || roster.model(Provider::OpenAi, "b").unwrap().object.get().to_owned();
    assert_eq!(ids(), ["b", "a", "c"]);
    assert_eq!(b(), r#"{"id":"b","from":1}"#);

    roster.remove(&first);

    assert_eq!(ids(), ["b", "c"]);
    assert_eq!(b(), r#"{"id":"b","from":2}"#, "nothing stays of an agent that is gone");
    assert!(!roster.lists(Provider::OpenAi, "a"));
    roster.leave(&second);
    assert!(ids().is_empty() && !roster.offers(Provider::OpenAi));
}

#[test]
fn seats_of_a_link_that_does_not_hold_the_prices_in_force_are_out_and_expected() {
    let roster = Roster::begun_at(Instant::now().checked_sub(EXPECTED_FOR * 2).unwrap());
    let table = |version| HeldTable { version, hash: Hex([7; 32]) };
    let [first, second] = [1, 2].map(|agent| enter_agent(&roster, agent, 1, 0).unwrap());
    offer_all(&roster, &first, offer(1));
    let seats = || roster.seats(Provider::OpenAi).len();
    assert_eq!(seats(), 1, "nothing is sold at a price yet");

    roster.sell_at(Some(table(1)));
    assert_eq!(seats(), 0);
    assert!(roster.expects(Provider::OpenAi));
    roster.holds(&first, vec![HeldTable { hash: Hex([8; 32]), ..table(1) }]);
    assert_eq!(seats(), 0, "another table of that number");
    roster.holds(&first, vec![table(1)]);
    assert_eq!(seats(), 1);
    assert!(!roster.expects(Provider::OpenAi));

    offer_all(&roster, &second, offer(2));
    assert_eq!(seats(), 1);
    assert!(roster.expects(Provider::OpenAi), "the prices are on their way to it");
    roster.holds(&second, vec![table(1), table(2)]);
    assert_eq!(seats(), 2);
    roster.sell_at(Some(table(2)));
    assert_eq!(seats(), 1);
    roster.accept_calls(&first, false);
    roster.holds(&first, vec![table(1), table(2)]);
    assert_eq!(seats(), 1, "the operator's word counts too");
    roster.accept_calls(&first, true);
    assert_eq!(seats(), 2);
    roster.holds(&second, Vec::new());
    assert_eq!(seats(), 1);
}

#[test]
fn who_waits_for_a_seat_is_told_when_a_link_holds_the_prices() {
    let roster = Roster::new();
    let link = enter(&roster, 1).unwrap();
    let table = HeldTable { version: 1, hash: Hex([7; 32]) };
    roster.sell_at(Some(table));
    offer_all(&roster, &link, offer(1));
    let mut changed = roster.changed();

    roster.holds(&link, vec![table]);
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    roster.holds(&link, vec![table]);
    roster.sell_at(Some(table));
    assert!(!changed.has_changed().unwrap(), "nothing changed");
}

/// Two hundred agents come, change and go in any order, and the index says what a plain
/// list would say.
#[test]
fn the_index_of_many_agents_is_equal_to_looking_at_all_of_them() {
    let roster = Roster::new();
    let mut links: HashMap<u16, Arc<LiveLink>> = HashMap::new();
    let mut random = 7_u64;
    for _ in 0..20_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let [agent, list, act, ..] = (random >> 24).to_le_bytes();
        let (agent, list) = (u16::from(agent) % 200, list % 5);
        let link = links.entry(agent).or_insert_with(|| enter_agent(&roster, agent, 1, 0).unwrap()).clone();
        match act % 8 {
            0..=3 => {
                let id = format!(r#"{{"id":"m{list}"}}"#);
                let models = if list == 0 { Vec::new() } else { vec![model(&id), model(r#"{"id":"common"}"#)] };
                offer_all(&roster, &link, Offer { models, ..offer(act % 3) });
            }
            4 => roster.withdraw(&link, VendorKeyId([act % 3; 16])),
            5 => roster.accept_calls(&link, false),
            6 => roster.accept_calls(&link, true),
            _ => {
                roster.remove(&link);
                links.remove(&agent);
            }
        }
    }

    let open = roster.links_with_seats().into_iter().filter(|(link, _)| link.is_open());
    let open: Vec<Seat> = open.flat_map(|(_, seats)| seats).collect();
    assert!(open.len() > 50, "{}", open.len());
    assert_eq!(roster.seats(Provider::OpenAi).len(), open.len());
    for id in ["common", "m1", "m2", "m3", "m4", "m9"] {
        let carry = open.iter().filter(|seat| seat.models.iter().any(|model| &*model.id == id)).count();
        assert_eq!(roster.lists(Provider::OpenAi, id), carry > 0);
        let mut fits: HashMap<Fit, Vec<Seat>> = HashMap::new();
        roster.visit(Needs { provider: Provider::OpenAi, resource: None, model: Some(id) }, |glance| {
            if let Some(fit) = glance.fit {
                fits.entry(fit).or_default().push(glance.seat.clone());
            }
            ControlFlow::Continue(())
        });
        let lists = fits.remove(&Fit::Lists).unwrap_or_default();
        assert_eq!(lists.len(), carry, "{id}");
        assert!(lists.iter().all(|seat| seat.models.iter().any(|model| &*model.id == id)));
        let others: Vec<Seat> = fits.into_values().flatten().chain(lists).collect();
        assert_eq!(others.len(), open.len(), "every seat is shown once");
        assert!(open.iter().all(|seat| others.iter().any(|shown| shown.is(seat))));
    }
}

/// Whoever finds no seat and then asks whether one is expected is told the truth, however the
/// agent comes, goes and offers anew in between.
#[test]
fn an_agent_is_on_offer_or_expected_at_every_moment() {
    // A roster that began long ago expects nobody for its beginning.
    let roster = Roster::begun_at(Instant::now().checked_sub(EXPECTED_FOR * 2).unwrap());
    let link = enter(&roster, 1).unwrap();
    offer_all(&roster, &link, offer(1));
    let (over, rounds) = (AtomicBool::new(false), AtomicU64::new(0));

    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut missed = 0;
            while !over.load(Ordering::Relaxed) {
                let began = rounds.load(Ordering::SeqCst);
                // As callers do: look, ask, look again.
                let found = roster.offers(Provider::OpenAi) || roster.expects(Provider::OpenAi);
                let missing = !found && !roster.offers(Provider::OpenAi);
                // An agent that came and left again in between may be missed by each look.
                missed += u32::from(missing && rounds.load(Ordering::SeqCst) - began < 3);
            }
            missed
        });
        for round in 0..20_000_u64 {
            rounds.store(round, Ordering::SeqCst);
            match round % 4 {
                0 => roster.accept_calls(&link, false),
                1 => roster.accept_calls(&link, true),
                _ => offer_all(&roster, &link, offer(1)),
            }
        }
        over.store(true, Ordering::Relaxed);
        assert_eq!(looking.join().unwrap(), 0);
    });
}

/// Enters a link of another copy each time.
fn enter(roster: &Roster, now: u64) -> Result<Arc<LiveLink>, FoughtOver> {
    enter_as(roster, u8::try_from(now % 251).unwrap(), now)
}

fn enter_as(roster: &Roster, instance: u8, now: u64) -> Result<Arc<LiveLink>, FoughtOver> {
    enter_agent(roster, 7, instance, now)
}

fn enter_agent(roster: &Roster, agent: u16, instance: u8, now: u64) -> Result<Arc<LiveLink>, FoughtOver> {
    let handle = LinkHandle::new(Side::Hub, Limits::default());
    let (name, instance) = ("office".to_owned(), Hex([instance; 16]));
    let mut id = [0; 16];
    id[..2].copy_from_slice(&agent.to_be_bytes());
    let agent = AgentId(id);
    roster.enter(Entering { agent, name, egress: Egress::Official, instance, handle, accepts: true }, now)
}

fn offer_all(roster: &Roster, link: &LiveLink, offer: Offer) {
    roster.offer(link, &to_json(&offer)).unwrap();
}

fn offer(key: u8) -> Offer {
    Offer { vendor_key: VendorKeyId([key; 16]), provider: Provider::OpenAi, resource: None, models: Vec::new() }
}

fn model(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}
