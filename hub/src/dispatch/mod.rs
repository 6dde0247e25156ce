//! Which agent serves a call: capability first, then the least loaded of a few.
//!
//! Invariant: a call is given only to an open link whose offer fits vendor and resource.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use keyhaven_protocol::provider::Provider;

use crate::agent_gateway::Roster;
use crate::agent_gateway::Seat;

/// Fitting seats that are compared for load; more would cost more than they gain.
const COMPARED_MAX: usize = 16;

/// What a call needs of a seat.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The vendor.
    pub provider: Provider,
    /// Azure: the resource the consumer named, in lower case.
    pub resource: Option<&'a str>,
    /// The model or deployment, if one is known.
    pub model: Option<&'a str>,
    /// Seats that have failed this call: they are not chosen again.
    pub tried: &'a [Seat],
}

/// Chooses seats for calls.
#[derive(Default)]
pub struct Dispatch {
    turn: AtomicUsize,
}

impl Dispatch {
    /// A dispatcher that has chosen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The seat for a call, or none: an offer that lists the model before one that does
    /// not say, and among equals the one with the fewest calls. Where it begins to look
    /// moves on with every call, so that equals take turns.
    pub fn choose(&self, roster: &Roster, wanted: Wanted<'_>) -> Option<Seat> {
        roster.with_seats(wanted.provider, |seats| self.choose_from(seats, wanted))
    }

    fn choose_from(&self, seats: &[Seat], wanted: Wanted<'_>) -> Option<Seat> {
        if seats.is_empty() {
            return None;
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % seats.len();
        let in_turn = || seats[first..].iter().chain(&seats[..first]);
        let lists = |seat: &Seat| wanted.model.is_some_and(|model| seat.lists(model));
        let least = |listing: bool| {
            let fitting = in_turn().filter(|seat| lists(seat) == listing && fits(seat, wanted));
            fitting.take(COMPARED_MAX).min_by_key(|seat| seat.link.handle.stats().streams)
        };
        least(true).or_else(|| least(false)).cloned()
    }
}

fn fits(seat: &Seat, wanted: Wanted<'_>) -> bool {
    let resource_fits = wanted.resource.is_none_or(|resource| seat.resource.as_deref() == Some(resource));
    // Azure's deployments are named by the owner: one that is not named does not exist.
    let names_deployments = seat.provider == Provider::Azure && !seat.models.is_empty();
    let model_fits = !names_deployments || wanted.model.is_none_or(|model| seat.lists(model));
    let untried = !wanted.tried.iter().any(|tried| tried.is(seat));
    resource_fits && model_fits && untried && seat.link.is_open()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use keyhaven_daemon::link::LinkHandle;
    use keyhaven_protocol::frame::Egress;
    use keyhaven_protocol::frame::Offer;
    use keyhaven_protocol::hex::Hex;
    use keyhaven_protocol::id::AgentId;
    use keyhaven_protocol::id::VendorKeyId;
    use keyhaven_protocol::link::Limits;
    use keyhaven_protocol::link::Side;
    use serde_json::value::RawValue;

    use super::*;
    use crate::agent_gateway::Entering;
    use crate::agent_gateway::LiveLink;

    const OPENAI: Wanted<'static> =
        Wanted { provider: Provider::OpenAi, resource: None, model: Some("gpt-5"), tried: &[] };

    #[test]
    fn equals_take_turns() {
        let roster = Roster::new();
        let dispatch = Dispatch::new();
        for agent in 1..=3 {
            link(&roster, agent, Provider::OpenAi, None, &[]);
        }

        let chosen: HashSet<AgentId> =
            (0..3).filter_map(|_| dispatch.choose(&roster, OPENAI)).map(|seat| seat.link.agent).collect();

        assert_eq!(chosen.len(), 3);
    }

    #[test]
    fn an_offer_that_lists_the_model_goes_before_one_that_does_not_say() {
        let roster = Roster::new();
        link(&roster, 1, Provider::OpenAi, None, &[]);
        link(&roster, 2, Provider::OpenAi, None, &["gpt-5"]);

        for _ in 0..4 {
            assert_eq!(Dispatch::new().choose(&roster, OPENAI).unwrap().link.agent, AgentId([2; 16]));
        }
    }

    #[test]
    fn the_one_offer_among_many_that_lists_the_model_is_found() {
        let roster = Roster::new();
        for agent in 1..=40 {
            link(&roster, agent, Provider::OpenAi, None, if agent == 40 { &["gpt-5"] } else { &["gpt-4"] });
        }

        let dispatch = Dispatch::new();
        assert!((0..40).all(|_| dispatch.choose(&roster, OPENAI).unwrap().link.agent == AgentId([40; 16])));
    }

    #[test]
    fn a_resource_or_deployment_that_nobody_offers_has_no_seat() {
        let roster = Roster::new();
        link(&roster, 1, Provider::Azure, Some("Acme"), &["prod"]);
        let choose = |resource, model| {
            Dispatch::new().choose(&roster, Wanted { provider: Provider::Azure, resource, model, tried: &[] })
        };

        assert!(choose(Some("acme"), Some("prod")).is_some());
        assert!(choose(None, Some("prod")).is_some());
        assert!(choose(Some("other"), Some("prod")).is_none());
        assert!(choose(Some("acme"), Some("secret")).is_none());
    }

    #[test]
    fn a_seat_that_was_tried_is_not_chosen_again() {
        let roster = Roster::new();
        let dispatch = Dispatch::new();
        link(&roster, 1, Provider::OpenAi, None, &["gpt-5"]);
        link(&roster, 2, Provider::OpenAi, None, &[]);

        let first = dispatch.choose(&roster, OPENAI).unwrap();
        let second = dispatch.choose(&roster, Wanted { tried: std::slice::from_ref(&first), ..OPENAI }).unwrap();
        let third = dispatch.choose(&roster, Wanted { tried: &[first.clone(), second.clone()], ..OPENAI });

        assert_eq!(first.link.agent, AgentId([1; 16]));
        assert_eq!(second.link.agent, AgentId([2; 16]));
        assert!(third.is_none());
    }

    #[test]
    fn a_link_that_drains_or_was_paused_is_given_nothing() {
        let roster = Roster::new();
        let live = link(&roster, 1, Provider::OpenAi, None, &[]);
        live.accept_calls(false);
        assert!(Dispatch::new().choose(&roster, OPENAI).is_none());

        live.accept_calls(true);
        assert!(Dispatch::new().choose(&roster, OPENAI).is_some());
        live.handle.retire();
        assert!(Dispatch::new().choose(&roster, OPENAI).is_none());
    }

    fn link(roster: &Roster, agent: u8, provider: Provider, resource: Option<&str>, models: &[&str]) -> Arc<LiveLink> {
        let handle = LinkHandle::new(Side::Hub, Limits::default());
        let (agent_id, name) = (AgentId([agent; 16]), "a".to_owned());
        let egress = Egress::Official;
        let entering = Entering { agent: agent_id, name, egress, instance: Hex([0; 16]), handle, accepts: true };
        let live = roster.enter(entering, 1).unwrap();
        let models = models.iter().map(|id| RawValue::from_string(format!(r#"{{"id":"{id}"}}"#)).unwrap()).collect();
        roster.offer(
            &live,
            Offer { vendor_key: VendorKeyId([agent; 16]), provider, resource: resource.map(str::to_owned), models },
        );
        live
    }
}
