//! Which agent serves a call: capability first, then health, then the least loaded of a few.
//!
//! Invariant: a call is given only to an open link whose offer fits vendor and resource.

use std::ops::ControlFlow;
use std::sync::Arc;

use keyhaven_protocol::provider::Provider;
use metrics::counter;
use tokio::time::Instant;

use crate::agent_gateway::Fit;
use crate::agent_gateway::Glance;
use crate::agent_gateway::LiveLink;
use crate::agent_gateway::Needs;
use crate::agent_gateway::Roster;
use crate::agent_gateway::Seat;
use crate::agent_gateway::SeatOutcome;

/// Fitting seats that are compared for load; more would cost more than they gain.
const COMPARED_MAX: usize = 16;

/// Seats that are looked at for something better, once one has been found.
const LOOKED_AT_MAX: usize = 256;

/// What a call needs of a seat.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The vendor.
    pub provider: Provider,
    /// Azure: the resource the consumer named, in lower case.
    pub resource: Option<&'a str>,
    /// The model or deployment, if one is known.
    pub model: Option<&'a str>,
    /// The model that the call is sold as; owners may state another one for the same deployment.
    pub priced_as: Option<&'a str>,
    /// Seats that have failed this call: they are not chosen again.
    pub tried: &'a [Seat],
}

/// The seat for a call, or none: an offer that lists the model before one that does not
/// say, and among equals the one with the fewest calls. Equals take turns. A seat that
/// cools down comes after every other that lists the model or does not say, and before those
/// that list only others: a call whose seats all cool down has one
/// try, where it ends first.
pub fn choose(roster: &Roster, wanted: Wanted<'_>) -> Option<Seat> {
    let mut search = search(roster, wanted, Instant::now());
    // Their own tasks will say so too, a moment later; until then they would look like offers.
    search.gone.drain(..).for_each(|link| roster.leave(&link));
    search.found()
}

/// Learns from what became of a call at a seat: whoever gave the call to the seat that
/// [`choose`] named says so, once per attempt. `model` is that of the call.
/// [`SeatOutcome::of_abort`] tells which outcome an ABORT is.
pub fn note(seat: &Seat, model: Option<&str>, outcome: SeatOutcome) {
    let now = Instant::now();
    let cooled = seat.cool_until(model, now);
    seat.note(model, outcome, now);
    if seat.cool_until(model, now) > cooled {
        let reason = reason(outcome);
        counter!("keyhaven_dispatch_cool_downs_total", "provider" => seat.provider.name(), "reason" => reason)
            .increment(1);
    }
}

/// Why a seat cools down, as metrics name it.
fn reason(outcome: SeatOutcome) -> &'static str {
    match outcome {
        SeatOutcome::Served => "served",
        SeatOutcome::RateLimited(_) => "rate_limited",
        SeatOutcome::Refused => "refused",
        SeatOutcome::Failed => "failed",
    }
}

fn search<'a>(roster: &Roster, wanted: Wanted<'a>, now: Instant) -> Search<'a> {
    let mut search = Search::new(wanted, now);
    let needs = Needs { provider: wanted.provider, resource: wanted.resource, model: wanted.model };
    roster.visit(needs, |glance| search.see(&glance));
    search
}

/// One choice under way.
struct Search<'a> {
    wanted: Wanted<'a>,
    now: Instant,
    fit: Fit,
    best: Option<(usize, Seat)>,
    /// The seat that stops cooling down first.
    coolest: Option<(Instant, Seat)>,
    /// Links that were met and take no calls any more.
    gone: Vec<Arc<LiveLink>>,
    compared: usize,
    looked_at: usize,
}

impl<'a> Search<'a> {
    const fn new(wanted: Wanted<'a>, now: Instant) -> Self {
        Self { wanted, now, fit: Fit::Lists, best: None, coolest: None, gone: Vec::new(), compared: 0, looked_at: 0 }
    }

    fn found(self) -> Option<Seat> {
        let cools = self.coolest.filter(|_| self.wanted.tried.is_empty());
        self.best.map(|(_, seat)| seat).or_else(|| cools.map(|(_, seat)| seat))
    }

    fn see(&mut self, glance: &Glance<'_>) -> ControlFlow<()> {
        let begins_worse = glance.fit.is_some_and(|fit| fit > self.fit);
        // A vendor that limits a model is asked before one that does not list it.
        let enough = self.best.is_some() || (glance.fit == Some(Fit::Unlisted) && self.coolest.is_some());
        if begins_worse && enough {
            return ControlFlow::Break(());
        }
        self.looked_at += 1;
        if let Some(fit) = glance.fit {
            self.fit = fit;
            self.judge(glance.seat);
        }
        let idle = self.best.as_ref().is_some_and(|(load, _)| *load == 0);
        let searched = self.best.is_some() && self.looked_at >= LOOKED_AT_MAX;
        if idle || searched || self.compared >= COMPARED_MAX {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn judge(&mut self, seat: &Seat) {
        if !seat.link.handle.is_open() {
            self.gone.push(seat.link.clone());
            return;
        }
        if self.wanted.tried.iter().any(|tried| tried.is(seat)) || !seat.link.accepts() {
            return;
        }
        let sold_as = self.wanted.model.zip(self.wanted.priced_as);
        if sold_as.is_some_and(|(model, priced_as)| seat.priced_as(model) != priced_as) {
            return;
        }
        if let Some(until) = seat.cool_until(self.wanted.model, self.now) {
            if self.coolest.as_ref().is_none_or(|(coolest, _)| until < *coolest) {
                self.coolest = Some((until, seat.clone()));
            }
            return;
        }
        self.compared += 1;
        let load = seat.link.handle.stats().streams;
        if self.best.as_ref().is_none_or(|(least, _)| load < *least) {
            self.best = Some((load, seat.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::collections::HashSet;
    use std::time::Duration;

    use http::HeaderMap;
    use keyhaven_daemon::link::LinkHandle;
    use keyhaven_protocol::frame::BodyLength;
    use keyhaven_protocol::frame::Egress;
    use keyhaven_protocol::frame::Offer;
    use keyhaven_protocol::frame::OpenHead;
    use keyhaven_protocol::frame::to_json;
    use keyhaven_protocol::hex::Hex;
    use keyhaven_protocol::id::AgentId;
    use keyhaven_protocol::id::CallId;
    use keyhaven_protocol::id::VendorKeyId;
    use keyhaven_protocol::link::Limits;
    use keyhaven_protocol::link::Side;
    use serde_json::value::RawValue;

    use super::*;
    use crate::agent_gateway::Entering;

    const OPENAI: Wanted<'static> =
        Wanted { provider: Provider::OpenAi, resource: None, model: Some("gpt-5"), priced_as: None, tried: &[] };

    #[test]
    fn equals_take_turns() {
        let roster = Roster::new();
        for agent in 1..=3 {
            link(&roster, agent, Provider::OpenAi, None, &[]);
        }

        let chosen: HashSet<AgentId> =
            (0..3).filter_map(|_| choose(&roster, OPENAI)).map(|seat| seat.link.agent).collect();

        assert_eq!(chosen.len(), 3);
    }

    #[test]
    fn an_offer_that_lists_the_model_goes_before_one_that_does_not_say() {
        let roster = Roster::new();
        link(&roster, 1, Provider::OpenAi, None, &[]);
        link(&roster, 2, Provider::OpenAi, None, &["gpt-5"]);

        for _ in 0..4 {
            assert_eq!(choose(&roster, OPENAI).unwrap().link.agent, AgentId([2; 16]));
        }
    }

    #[test]
    fn the_one_offer_among_many_that_lists_the_model_is_found() {
        let roster = Roster::new();
        for agent in 1..=40 {
            link(&roster, agent, Provider::OpenAi, None, if agent == 40 { &["gpt-5"] } else { &["gpt-4"] });
        }

        assert!((0..40).all(|_| choose(&roster, OPENAI).unwrap().link.agent == AgentId([40; 16])));
    }

    #[test]
    fn a_resource_or_deployment_that_nobody_offers_has_no_seat() {
        let roster = Roster::new();
        link(&roster, 1, Provider::Azure, Some("Acme"), &["prod"]);
        let choose = |resource, model| {
            choose(&roster, Wanted { provider: Provider::Azure, resource, model, priced_as: None, tried: &[] })
        };

        assert!(choose(Some("acme"), Some("prod")).is_some());
        assert!(choose(None, Some("prod")).is_some());
        assert!(choose(Some("other"), Some("prod")).is_none());
        assert!(choose(Some("acme"), Some("secret")).is_none());
    }

    #[test]
    fn a_call_stays_with_owners_who_state_the_model_that_it_is_sold_as() {
        let roster = Roster::new();
        let stated = [
            (1, r#"{"id":"prod","model":"gpt-4o"}"#),
            (2, r#"{"id":"prod","model":"gpt-4"}"#),
            (3, r#"{"id":"prod"}"#),
        ];
        for (agent, models) in stated {
            let link = enter(&roster, agent);
            let payload = format!(
                r#"{{"vendor_key":"vk_{agent:032x}","provider":"azure","resource":"acme","models":[{models}]}}"#
            );
            roster.offer(&link, payload.as_bytes()).unwrap();
        }
        let chosen = |priced_as| {
            let wanted =
                Wanted { provider: Provider::Azure, resource: None, model: Some("prod"), priced_as, tried: &[] };
            (0..6)
                .filter_map(|_| choose(&roster, wanted))
                .map(|seat| seat.priced_as("prod").to_owned())
                .collect::<HashSet<_>>()
        };

        for model in ["gpt-4o", "gpt-4", "prod"] {
            assert_eq!(chosen(Some(model)), HashSet::from([model.to_owned()]));
        }
        assert_eq!(chosen(None).len(), 3);
        assert!(chosen(Some("gpt-5")).is_empty());
    }

    #[test]
    fn a_seat_that_was_tried_is_not_chosen_again() {
        let roster = Roster::new();
        link(&roster, 1, Provider::OpenAi, None, &["gpt-5"]);
        link(&roster, 2, Provider::OpenAi, None, &[]);

        let first = choose(&roster, OPENAI).unwrap();
        let second = choose(&roster, Wanted { tried: std::slice::from_ref(&first), ..OPENAI }).unwrap();
        let third = choose(&roster, Wanted { tried: &[first.clone(), second.clone()], ..OPENAI });

        assert_eq!(first.link.agent, AgentId([1; 16]));
        assert_eq!(second.link.agent, AgentId([2; 16]));
        assert!(third.is_none());
    }

    #[test]
    fn a_link_that_drains_or_was_paused_is_given_nothing() {
        let roster = Roster::new();
        let live = link(&roster, 1, Provider::OpenAi, None, &[]);
        roster.accept_calls(&live, false);
        assert!(choose(&roster, OPENAI).is_none());

        roster.accept_calls(&live, true);
        assert!(choose(&roster, OPENAI).is_some());
        live.handle.retire();
        assert!(choose(&roster, OPENAI).is_none());
        assert!(!roster.offers(Provider::OpenAi), "who met the drained link took it out");
    }

    #[test]
    fn a_limited_seat_rests_for_its_model_only() {
        let roster = Roster::new();
        link(&roster, 1, Provider::OpenAi, None, &["gpt-5", "gpt-4"]);
        link(&roster, 2, Provider::OpenAi, None, &["gpt-5", "gpt-4"]);
        let limited = choose(&roster, OPENAI).unwrap();
        let long = Some(Duration::from_secs(60));
        note(&limited, OPENAI.model, SeatOutcome::RateLimited(long));

        let chosen = |wanted| -> HashSet<AgentId> {
            (0..4).filter_map(|_| choose(&roster, wanted)).map(|seat| seat.link.agent).collect()
        };

        assert!(!chosen(OPENAI).contains(&limited.link.agent));
        assert_eq!(chosen(Wanted { model: Some("gpt-4"), ..OPENAI }).len(), 2);
    }

    #[test]
    fn a_call_whose_seats_all_cool_down_has_one_try_where_that_ends_first() {
        let roster = Roster::new();
        for agent in 1..=3 {
            link(&roster, agent, Provider::OpenAi, None, &["gpt-5"]);
        }
        link(&roster, 4, Provider::OpenAi, None, &["gpt-4"]);
        for seat in roster.seats(Provider::OpenAi) {
            let seconds = if seat.link.agent == AgentId([2; 16]) { 10 } else { 40 };
            let said = Some(Duration::from_secs(seconds));
            note(&seat, OPENAI.model, SeatOutcome::RateLimited(said));
        }

        let first = choose(&roster, OPENAI).unwrap();
        let second = choose(&roster, Wanted { tried: std::slice::from_ref(&first), ..OPENAI });

        assert_eq!(first.link.agent, AgentId([2; 16]));
        assert!(second.is_none());
    }

    #[test]
    fn the_least_loaded_of_equals_is_chosen() {
        let roster = Roster::new();
        let busy = link(&roster, 1, Provider::OpenAi, None, &["gpt-5"]);
        link(&roster, 2, Provider::OpenAi, None, &["gpt-5"]);
        let open = OpenHead {
            call: CallId([1; 16]),
            vendor_key: VendorKeyId([1; 16]),
            endpoint: 101,
            parameter: None,
            query: None,
            body: BodyLength::None,
            ticket: None,
            headers: HeaderMap::new(),
        };
        let _call = busy.handle.open(&open).unwrap();

        assert!((0..6).all(|_| choose(&roster, OPENAI).unwrap().link.agent == AgentId([2; 16])));
    }

    /// Counts instead of times: what a choice looks at does not grow with the fleet.
    #[test]
    fn a_choice_among_thousands_looks_at_few() {
        let roster = Roster::new();
        for agent in 0..4000_u16 {
            let own = format!("ft:gpt-5:{agent}");
            let models: &[&str] = match agent % 4 {
                0 => &["gpt-5", "gpt-4"],
                1 => &["gpt-4"],
                2 => &["gpt-5", &own],
                _ => &["rare", "gpt-4"][usize::from(agent != 3)..],
            };
            link_numbered(&roster, agent, Provider::OpenAi, None, models);
        }
        let now = Instant::now();
        let mut chosen: HashMap<&str, Vec<Seat>> = HashMap::new();
        for model in ["gpt-5", "gpt-4", "rare", "ft:gpt-5:2", "unheard-of"] {
            for _ in 0..500 {
                let search = search(&roster, Wanted { model: Some(model), ..OPENAI }, now);
                let most = if model == "gpt-5" { 2 * COMPARED_MAX } else { 1 };
                assert!(search.looked_at <= most, "{model}: {}", search.looked_at);
                chosen.entry(model).or_default().extend(search.found());
            }
        }
        let agents = |model: &str| chosen[model].iter().map(|seat| seat.link.agent).collect::<HashSet<_>>().len();

        assert_eq!(agents("rare"), 1);
        assert_eq!(agents("ft:gpt-5:2"), 1);
        assert_eq!(agents("gpt-4"), 500, "equals take turns");
        assert!(agents("gpt-5") > 400, "{}: of a thousand lists each has its share", agents("gpt-5"));
        let plain = chosen["gpt-5"].iter().filter(|seat| seat.models.iter().any(|model| &*model.id == "gpt-4"));
        assert!((150..350).contains(&plain.count()), "a list of a thousand agents counts as a thousand");
    }

    /// With `--nocapture` it prints what it measured; it asserts only what holds on any machine.
    #[test]
    fn a_fleet_of_ten_thousand_comes_and_is_chosen_from() {
        const AGENTS: u16 = 10_000;
        let roster = Roster::new();
        let lists: Vec<Vec<u8>> = (0..8).map(|list| offer_payload(0, 300 + list)).collect();
        let resident = resident_bytes();
        let began = Instant::now();
        let links: Vec<Arc<LiveLink>> = (0..AGENTS).map(|agent| enter(&roster, agent)).collect();
        let entered = began.elapsed();
        let bytes_of_links = resident_bytes().saturating_sub(resident);
        let resident = resident_bytes();
        let began = Instant::now();
        for (at, link) in links.iter().enumerate() {
            roster.offer(link, &lists[at % lists.len()]).unwrap();
        }
        let offered = began.elapsed();
        let bytes = resident_bytes().saturating_sub(resident);
        let began = Instant::now();
        let wanted = Wanted { model: Some("model-0007"), ..OPENAI };
        let agents: HashSet<AgentId> = (0..AGENTS).map(|_| choose(&roster, wanted).unwrap().link.agent).collect();
        let chosen = began.elapsed();
        let began = Instant::now();
        let models = (0..1000).map(|_| roster.models(Provider::OpenAi).len()).max();
        let listed = began.elapsed();
        let began = Instant::now();
        links.iter().for_each(|link| roster.remove(link));
        let removed = began.elapsed();

        eprintln!(
            "{AGENTS} agents, one key of 300 models each: entered in {entered:?} ({} bytes each), offered in {offered:?} \
             ({} bytes each), {AGENTS} choices in {chosen:?}, 1000 model lists in {listed:?}, gone in {removed:?}",
            bytes_of_links / usize::from(AGENTS),
            bytes / usize::from(AGENTS),
        );
        assert_eq!(agents.len(), usize::from(AGENTS), "every agent had its turn");
        assert_eq!(models, Some(307));
        assert!(roster.seats(Provider::OpenAi).is_empty());
    }

    /// An OFFER of so many models.
    fn offer_payload(key: u8, models: u16) -> Vec<u8> {
        let models = (0..models).map(|model| {
            let object =
                format!(r#"{{"id":"model-{model:04}","object":"model","created":1795168800,"owned_by":"system"}}"#);
            RawValue::from_string(object).unwrap()
        });
        let offer = Offer {
            vendor_key: VendorKeyId([key; 16]),
            provider: Provider::OpenAi,
            resource: None,
            models: models.collect(),
        };
        to_json(&offer).to_vec()
    }

    /// What this process holds in memory; other tests run beside this one, so it is printed only.
    fn resident_bytes() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        pages * 4096
    }

    fn link(roster: &Roster, agent: u8, provider: Provider, resource: Option<&str>, models: &[&str]) -> Arc<LiveLink> {
        offer(roster, enter_as(roster, AgentId([agent; 16])), provider, resource, models)
    }

    fn link_numbered(roster: &Roster, agent: u16, provider: Provider, resource: Option<&str>, models: &[&str]) {
        offer(roster, enter(roster, agent), provider, resource, models);
    }

    fn enter(roster: &Roster, agent: u16) -> Arc<LiveLink> {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&agent.to_be_bytes());
        enter_as(roster, AgentId(id))
    }

    fn enter_as(roster: &Roster, agent: AgentId) -> Arc<LiveLink> {
        let handle = LinkHandle::new(Side::Hub, Limits::default());
        let (name, egress, instance) = ("a".to_owned(), Egress::Official, Hex([0; 16]));
        roster.enter(Entering { agent, name, egress, instance, handle, accepts: true }, 1).unwrap()
    }

    fn offer(
        roster: &Roster,
        live: Arc<LiveLink>,
        provider: Provider,
        resource: Option<&str>,
        models: &[&str],
    ) -> Arc<LiveLink> {
        let models = models.iter().map(|id| RawValue::from_string(format!(r#"{{"id":"{id}"}}"#)).unwrap()).collect();
        let (vendor_key, resource) = (VendorKeyId(live.agent.0), resource.map(str::to_owned));
        roster.offer(&live, &to_json(&Offer { vendor_key, provider, resource, models })).unwrap();
        live
    }
}
