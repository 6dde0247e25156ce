//! The live links and what they offer: what dispatch chooses from.
//!
//! Invariant: one link per agent; entering a newer one fences the older.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::RwLockWriteGuard;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use keyhaven_daemon::link::LinkHandle;
use keyhaven_protocol::frame::Egress;
use keyhaven_protocol::frame::Offer;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::provider::Provider;
use metrics::gauge;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::Instant;

use super::absences::Absences;

/// More takeovers than this within [`FENCES_WINDOW_MS`] are two copies fighting.
const FENCES_MAX: usize = 3;

/// Five minutes.
const FENCES_WINDOW_MS: u64 = 5 * 60 * 1000;

/// Offers of one agent; more are ignored.
const OFFERS_MAX: usize = 256;

/// Models of one offer; more are ignored.
const MODELS_MAX: usize = 1024;

/// Bytes of a model's id.
const MODEL_ID_BYTES_MAX: usize = 256;

/// One agent's link.
pub struct LiveLink {
    /// The hub's number of the link; larger is newer.
    pub number: u64,
    /// Whose it is.
    pub agent: AgentId,
    /// What the operator calls the agent.
    pub name: String,
    /// Which upstreams the agent can reach.
    pub egress: Egress,
    /// Which start of the agent's process made it.
    pub instance: Hex<16>,
    /// When it was welcomed.
    pub linked_unix_ms: u64,
    /// Its end of the tunnel.
    pub handle: LinkHandle,
    accepts: AtomicBool,
}

/// One model of an offer: its id, and the vendor's own object that describes it.
#[derive(Debug, Clone)]
pub struct Offered {
    /// What consumers name.
    pub id: String,
    /// The vendor's object, as the vendor wrote it.
    pub object: Arc<RawValue>,
}

/// A vendor key that calls can use: where dispatch may seat a call.
#[derive(Clone)]
pub struct Seat {
    /// The link that leads to it.
    pub link: Arc<LiveLink>,
    /// The key's id at the agent.
    pub vendor_key: VendorKeyId,
    /// Whose API it opens.
    pub provider: Provider,
    /// Azure: the resource, in lower case.
    pub resource: Option<String>,
    /// The models it lists, in the vendor's order.
    pub models: Arc<[Offered]>,
    listed: Arc<HashSet<String>>,
}

/// A link that has proved itself and is to be entered.
pub struct Entering {
    /// Whose it is.
    pub agent: AgentId,
    /// What the operator calls the agent.
    pub name: String,
    /// Which upstreams the agent can reach.
    pub egress: Egress,
    /// Which start of the agent's process made it.
    pub instance: Hex<16>,
    /// Its end of the tunnel.
    pub handle: LinkHandle,
    /// Whether calls may be dispatched to it.
    pub accepts: bool,
}

/// A link's place in the roster; whatever ends its task, it is given up.
pub struct Entered {
    roster: Roster,
    /// The link.
    pub link: Arc<LiveLink>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.roster.remove(&self.link);
        gauge!("keyhaven_agent_gateway_links").decrement(1.0);
    }
}

/// Two copies of an agent took its link from each other too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoughtOver {
    /// Until then neither is let in.
    pub until_unix_ms: u64,
}

/// All live links. Clones share them.
#[derive(Clone, Default)]
pub struct Roster {
    shared: Arc<Shared>,
}

struct Shared {
    links: Mutex<Links>,
    seats: RwLock<HashMap<Provider, Vec<Seat>>>,
    last_number: AtomicU64,
    absences: Mutex<Absences>,
    changed: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            links: Mutex::default(),
            seats: RwLock::default(),
            last_number: AtomicU64::default(),
            absences: Mutex::new(Absences::new(Instant::now())),
            changed: watch::Sender::new(0),
        }
    }
}

#[derive(Default)]
struct Links {
    live: HashMap<AgentId, Arc<LiveLink>>,
    fences: HashMap<AgentId, VecDeque<u64>>,
}

impl LiveLink {
    /// Whether calls may be dispatched to it now.
    pub fn is_open(&self) -> bool {
        self.accepts.load(Ordering::Relaxed) && self.handle.is_open()
    }

    /// Lets calls in, or no longer.
    pub fn accept_calls(&self, accepts: bool) {
        self.accepts.store(accepts, Ordering::Relaxed);
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat")
            .field("agent", &self.link.agent)
            .field("link", &self.link.number)
            .field("vendor_key", &self.vendor_key)
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

impl Seat {
    /// Whether the offer lists this model.
    pub fn lists(&self, model: &str) -> bool {
        self.listed.contains(model)
    }

    /// Whether both are the same key behind the same link.
    pub fn is(&self, other: &Self) -> bool {
        self.link.number == other.link.number && self.vendor_key == other.vendor_key
    }
}

impl Roster {
    /// A roster without links.
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes whenever an offer came or went: who found no seat looks again.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Whether a seat for this vendor may come soon: somebody who offered it left less than
    /// ten seconds ago, or the hub began less than ten seconds ago.
    pub fn expects(&self, provider: Provider) -> bool {
        self.absences().expects(provider, Instant::now())
    }

    /// Enters a link that has proved itself. The agent's older one, if any, takes no more
    /// calls and closes when those it has are done.
    ///
    /// # Errors
    /// [`FoughtOver`] when this happens too often; then neither stays.
    pub fn enter(&self, entering: Entering, now_unix_ms: u64) -> Result<Arc<LiveLink>, FoughtOver> {
        let Entering { agent, name, egress, instance, handle, accepts } = entering;
        let number = self.next_number(now_unix_ms);
        let accepts = AtomicBool::new(accepts);
        let link = LiveLink { number, agent, name, egress, instance, linked_unix_ms: now_unix_ms, handle, accepts };
        let link = Arc::new(link);
        let (older, fought) = {
            let mut links = self.lock();
            let older = links.live.insert(agent, link.clone());
            let fences = links.fences.entry(agent).or_default();
            fences.retain(|at| now_unix_ms.saturating_sub(*at) < FENCES_WINDOW_MS);
            // The same process that dials again, having lost its link before the hub noticed,
            // is no second copy.
            if older.as_ref().is_some_and(|older| older.handle.is_open() && older.instance != instance) {
                fences.push_back(now_unix_ms);
            }
            let fought = fences.len() > FENCES_MAX;
            if fences.is_empty() || fought {
                links.fences.remove(&agent);
            }
            if fought {
                links.live.remove(&agent);
            }
            (older, fought)
        };
        if let Some(older) = older {
            self.withdraw_all(&older);
            older.handle.retire();
        }
        if fought {
            return Err(FoughtOver { until_unix_ms: now_unix_ms + FENCES_WINDOW_MS });
        }
        Ok(link)
    }

    /// Ties a link's place to the task that drives it.
    pub fn hold(&self, link: Arc<LiveLink>) -> Entered {
        gauge!("keyhaven_agent_gateway_links").increment(1.0);
        Entered { roster: self.clone(), link }
    }

    /// Takes a link and its offers out; a newer link of the same agent stays.
    pub fn remove(&self, link: &Arc<LiveLink>) {
        let mut links = self.lock();
        if links.live.get(&link.agent).is_some_and(|live| live.number == link.number) {
            links.live.remove(&link.agent);
        }
        drop(links);
        self.withdraw_all(link);
    }

    /// Notes what a link offers, instead of what it offered for the same key before.
    pub fn offer(&self, link: &Arc<LiveLink>, offer: Offer) {
        let seat = Seat::new(link.clone(), offer);
        let mut seats = self.write_seats();
        let fenced = self.lock().live.get(&link.agent).is_none_or(|live| live.number != link.number);
        if fenced {
            return;
        }
        let mine = |other: &Seat| other.link.number == link.number;
        let same_key = |other: &Seat| mine(other) && other.vendor_key == seat.vendor_key;
        seats.values_mut().for_each(|seats| seats.retain(|other| !same_key(other)));
        if seats.values().flatten().filter(|other| mine(other)).count() < OFFERS_MAX {
            self.absences().came(seat.provider, link.agent);
            seats.entry(seat.provider).or_default().push(seat);
        }
        drop(seats);
        self.tell_change();
    }

    /// Forgets an offer.
    pub fn withdraw(&self, link: &LiveLink, vendor_key: VendorKeyId) {
        let goes = |seat: &Seat| seat.link.number == link.number && seat.vendor_key == vendor_key;
        self.write_seats().values_mut().for_each(|seats| seats.retain(|seat| !goes(seat)));
        self.tell_change();
    }

    /// Every live link.
    pub fn links(&self) -> Vec<Arc<LiveLink>> {
        self.lock().live.values().cloned().collect()
    }

    /// Every offer for a vendor.
    pub fn seats(&self, provider: Provider) -> Vec<Seat> {
        self.with_seats(provider, <[Seat]>::to_vec)
    }

    /// Whether an open link offers this vendor.
    pub fn offers(&self, provider: Provider) -> bool {
        self.with_seats(provider, |seats| seats.iter().any(|seat| seat.link.is_open()))
    }

    /// Whether somebody's offer for this vendor lists the model.
    pub fn lists(&self, provider: Provider, model: &str) -> bool {
        self.with_seats(provider, |seats| seats.iter().any(|seat| seat.lists(model)))
    }

    /// Looks at every offer for a vendor without copying them. The roster is locked
    /// meanwhile.
    pub fn with_seats<T>(&self, provider: Provider, look: impl FnOnce(&[Seat]) -> T) -> T {
        let seats = self.shared.seats.read().unwrap_or_else(PoisonError::into_inner);
        look(seats.get(&provider).map_or(&[], Vec::as_slice))
    }

    fn withdraw_all(&self, link: &LiveLink) {
        let mut absences = self.absences();
        for (provider, seats) in self.write_seats().iter_mut() {
            let before = seats.len();
            seats.retain(|seat| seat.link.number != link.number);
            if seats.len() < before {
                absences.left(*provider, link.agent, Instant::now());
            }
        }
        drop(absences);
        self.tell_change();
    }

    fn absences(&self) -> MutexGuard<'_, Absences> {
        self.shared.absences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_change(&self) {
        self.shared.changed.send_modify(|changes| *changes += 1);
    }

    fn write_seats(&self) -> RwLockWriteGuard<'_, HashMap<Provider, Vec<Seat>>> {
        self.shared.seats.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Above every number given before, by this process or, as far as the clock does not
    /// go back, by an earlier one.
    fn next_number(&self, now_unix_ms: u64) -> u64 {
        let above = |last: u64| last.max(now_unix_ms) + 1;
        let numbers = &self.shared.last_number;
        let last = numbers.update(Ordering::Relaxed, Ordering::Relaxed, above);
        above(last)
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.shared.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    fn new(link: Arc<LiveLink>, offer: Offer) -> Self {
        let models: Vec<Offered> = offer.models.into_iter().take(MODELS_MAX).filter_map(Offered::read).collect();
        let listed = models.iter().map(|model| model.id.clone()).collect();
        Self {
            link,
            vendor_key: offer.vendor_key,
            provider: offer.provider,
            resource: offer.resource.map(|resource| resource.to_ascii_lowercase()),
            models: models.into(),
            listed: Arc::new(listed),
        }
    }
}

impl Offered {
    /// None for what is no object with an id: an agent may say anything.
    fn read(object: Box<RawValue>) -> Option<Self> {
        #[derive(Deserialize)]
        struct Named {
            id: String,
        }
        let named: Named = serde_json::from_str(object.get()).ok()?;
        let fits = !named.id.is_empty() && named.id.len() <= MODEL_ID_BYTES_MAX && object.get().starts_with('{');
        fits.then(|| Self { id: named.id, object: object.into() })
    }
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::link::Limits;
    use keyhaven_protocol::link::Side;

    use super::*;

    #[test]
    fn a_newer_link_fences_the_older_and_its_offers() {
        let roster = Roster::new();
        let older = enter(&roster, 1).unwrap();
        roster.offer(&older, offer(1));
        let newer = enter(&roster, 2).unwrap();
        roster.offer(&newer, offer(1));

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
        roster.offer(&older, offer(1));

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
        roster.offer(&link, offer(1));
        roster.offer(&link, Offer { models: vec![model(r#"{"id":"gpt-9"}"#)], ..offer(1) });
        roster.offer(&link, offer(2));

        let seats = roster.seats(Provider::OpenAi);
        assert_eq!(seats.len(), 2);
        assert!(seats.iter().any(|seat| seat.lists("gpt-9")));
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

        roster.offer(&link, offer(1));
        assert!(told());
        roster.withdraw(&link, VendorKeyId([1; 16]));
        assert!(told());
        roster.offer(&link, offer(1));
        assert!(told());
        roster.remove(&link);
        assert!(told());
    }

    #[test]
    fn what_is_no_model_is_not_offered() {
        let roster = Roster::new();
        let link = enter(&roster, 1).unwrap();
        let models = [r#"{"id":"gpt-9","object":"model"}"#, r#"{"object":"model"}"#, "7", r#"{"id":""}"#, r#"["id"]"#];
        roster.offer(&link, Offer { models: models.into_iter().map(model).collect(), ..offer(1) });

        let ids: Vec<String> = roster.seats(Provider::OpenAi)[0].models.iter().map(|model| model.id.clone()).collect();
        assert_eq!(ids, ["gpt-9"]);
    }

    /// Enters a link of another copy each time.
    fn enter(roster: &Roster, now: u64) -> Result<Arc<LiveLink>, FoughtOver> {
        enter_as(roster, u8::try_from(now % 251).unwrap(), now)
    }

    fn enter_as(roster: &Roster, instance: u8, now: u64) -> Result<Arc<LiveLink>, FoughtOver> {
        let handle = LinkHandle::new(Side::Hub, Limits::default());
        let (name, instance) = ("office".to_owned(), Hex([instance; 16]));
        let agent = AgentId([7; 16]);
        roster.enter(Entering { agent, name, egress: Egress::Official, instance, handle, accepts: true }, now)
    }

    fn offer(key: u8) -> Offer {
        Offer { vendor_key: VendorKeyId([key; 16]), provider: Provider::OpenAi, resource: None, models: Vec::new() }
    }

    fn model(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }
}
