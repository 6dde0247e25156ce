//! Agents that left a moment ago and are expected back.
//!
//! Invariant: an agent is absent for a vendor from the moment its offers went until it
//! offers again, and no longer than [`EXPECTED_FOR`].

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::time::Duration;

use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::provider::Provider;
use tokio::time::Instant;

/// How long an agent that left is expected back; a hub that has just begun expects all.
pub(super) const EXPECTED_FOR: Duration = Duration::from_secs(10);

/// Who left when, by vendor.
pub(super) struct Absences {
    began: Instant,
    vendors: HashMap<Provider, Absent>,
}

#[derive(Default)]
struct Absent {
    since: HashMap<AgentId, Instant>,
    in_order: BTreeSet<(Instant, AgentId)>,
}

impl Absences {
    pub(super) fn new(began: Instant) -> Self {
        Self { began, vendors: HashMap::new() }
    }

    /// An agent that offered this vendor is gone.
    pub(super) fn left(&mut self, provider: Provider, agent: AgentId, now: Instant) {
        let absent = self.vendors.entry(provider).or_default();
        absent.forget(agent);
        absent.since.insert(agent, now);
        absent.in_order.insert((now, agent));
        absent.forget_before(now);
    }

    /// It offers this vendor again.
    pub(super) fn came(&mut self, provider: Provider, agent: AgentId) {
        if let Some(absent) = self.vendors.get_mut(&provider) {
            absent.forget(agent);
        }
    }

    /// Whether a seat for this vendor may come soon.
    pub(super) fn expects(&self, provider: Provider, now: Instant) -> bool {
        let absent = self.vendors.get(&provider);
        let last_left = absent.and_then(|absent| absent.in_order.last()).map(|(since, _)| *since);
        [Some(self.began), last_left].into_iter().flatten().any(|moment| now.duration_since(moment) < EXPECTED_FOR)
    }
}

impl Absent {
    fn forget(&mut self, agent: AgentId) {
        if let Some(since) = self.since.remove(&agent) {
            self.in_order.remove(&(since, agent));
        }
    }

    fn forget_before(&mut self, now: Instant) {
        while let Some(&(since, agent)) = self.in_order.first()
            && now.duration_since(since) >= EXPECTED_FOR
        {
            self.forget(agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: AgentId = AgentId([1; 16]);
    const OTHER: AgentId = AgentId([2; 16]);

    #[test]
    fn a_hub_that_has_just_begun_expects_everybody() {
        let began = Instant::now();
        let absences = Absences::new(began);

        assert!(absences.expects(Provider::Azure, began));
        assert!(!absences.expects(Provider::Azure, began + EXPECTED_FOR));
    }

    #[test]
    fn who_left_is_expected_back_for_ten_seconds_for_what_it_offered() {
        let (mut absences, now) = begun_long_ago();
        absences.left(Provider::OpenAi, AGENT, now);

        assert!(absences.expects(Provider::OpenAi, now + EXPECTED_FOR / 2));
        assert!(!absences.expects(Provider::Anthropic, now));
        assert!(!absences.expects(Provider::OpenAi, now + EXPECTED_FOR));
    }

    #[test]
    fn who_came_back_is_no_longer_waited_for() {
        let (mut absences, now) = begun_long_ago();
        absences.left(Provider::OpenAi, AGENT, now);
        absences.left(Provider::OpenAi, OTHER, now);
        absences.came(Provider::OpenAi, AGENT);
        assert!(absences.expects(Provider::OpenAi, now));

        absences.came(Provider::OpenAi, OTHER);
        assert!(!absences.expects(Provider::OpenAi, now));
    }

    #[test]
    fn agents_that_never_come_back_are_forgotten() {
        let (mut absences, now) = begun_long_ago();
        for agent in 0..100 {
            absences.left(Provider::OpenAi, AgentId([agent; 16]), now);
        }
        absences.left(Provider::OpenAi, AgentId([200; 16]), now + EXPECTED_FOR);

        assert_eq!(absences.vendors[&Provider::OpenAi].since.len(), 1);
        assert_eq!(absences.vendors[&Provider::OpenAi].in_order.len(), 1);
    }

    fn begun_long_ago() -> (Absences, Instant) {
        let began = Instant::now();
        (Absences::new(began), began + EXPECTED_FOR)
    }
}
