//! The live links and what they offer: what dispatch chooses from.
//!
//! Invariant: one link per agent, entering a newer one fences the older; and only seats of
//! links that take calls and hold the price table in force are in the index.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::RwLockReadGuard;
use std::sync::RwLockWriteGuard;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::HeldTable;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::provider::Provider;
use metrics::gauge;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::Instant;

use super::absences::Absences;
use super::index::Glance;
use super::index::Needs;
use super::index::VendorIndex;
use super::insight::Insight;
use super::live_link::Entering;
use super::live_link::LiveLink;
use super::model_list::ModelLists;
use super::model_list::Offered;
use super::refusal;
use super::seat::Seat;

/// More takeovers than this within [`FENCES_WINDOW_MS`] are two copies fighting.
const FENCES_MAX: usize = 3;

/// Five minutes.
const FENCES_WINDOW_MS: u64 = 5 * 60 * 1000;

/// Offers of one agent; more are ignored.
const OFFERS_MAX: usize = 256;

/// A link's place in the roster; whatever ends its task, it is given up.
pub struct Entered {
    roster: Roster,
    /// The link.
    pub link: Arc<LiveLink>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.roster.remove(&self.link);
        self.roster.shared.insight.ended(&self.link);
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
#[derive(Clone)]
pub struct Roster {
    shared: Arc<Shared>,
}

/// Locks are taken in this order: links, a vendor, absences.
struct Shared {
    links: Mutex<Links>,
    vendors: HashMap<Provider, RwLock<VendorIndex>>,
    absences: Mutex<Absences>,
    lists: ModelLists,
    insight: Insight,
    last_number: AtomicU64,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Links {
    live: HashMap<AgentId, Live>,
    fences: HashMap<AgentId, VecDeque<u64>>,
    /// The price table in force; without one, nothing is sold at a price.
    in_force: Option<HeldTable>,
}

struct Live {
    link: Arc<LiveLink>,
    /// What it offers, whether or not calls may go there now.
    seats: Vec<Seat>,
    /// It drains and takes no calls any more, whatever the operator says.
    leaves: bool,
}

/// The payload of OFFER, with its models unread.
#[derive(Deserialize)]
struct OfferFrame<'a> {
    vendor_key: VendorKeyId,
    provider: Provider,
    #[serde(default)]
    resource: Option<String>,
    #[serde(default, borrow)]
    models: Option<&'a RawValue>,
}

impl Default for Roster {
    fn default() -> Self {
        Self::begun_at(Instant::now())
    }
}

impl Shared {
    fn begun_at(now: Instant) -> Self {
        let vendors = Provider::ALL.iter().map(|provider| (*provider, RwLock::new(VendorIndex::new(*provider))));
        Self {
            links: Mutex::default(),
            vendors: vendors.collect(),
            absences: Mutex::new(Absences::new(now)),
            lists: ModelLists::default(),
            insight: Insight::default(),
            last_number: AtomicU64::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Live {
    fn is_of(&self, link: &LiveLink) -> bool {
        self.link.number == link.number
    }

    fn takes_calls(&self, in_force: Option<HeldTable>) -> bool {
        self.may_take_calls() && in_force.is_none_or(|table| self.link.holds(table))
    }

    /// Whether it takes calls, or will as soon as it holds the prices.
    fn may_take_calls(&self) -> bool {
        self.link.accepts() && !self.leaves
    }
}

impl Roster {
    /// A roster without links.
    pub fn new() -> Self {
        Self::default()
    }

    fn begun_at(now: Instant) -> Self {
        Self { shared: Arc::new(Shared::begun_at(now)) }
    }

    /// Changes whenever an offer came or went: who found no seat looks again.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Whether a seat for this vendor may come soon: somebody who offered it left less than
    /// ten seconds ago and has not offered it again, or the hub began less than ten seconds ago.
    pub fn expects(&self, provider: Provider) -> bool {
        self.absences().expects(provider, Instant::now())
    }

    /// Enters a link that has proved itself. The agent's older one, if any, takes no more
    /// calls and closes when those it has are done.
    ///
    /// # Errors
    /// [`FoughtOver`] when this happens too often; then neither stays.
    pub fn enter(&self, entering: Entering, now_unix_ms: u64) -> Result<Arc<LiveLink>, FoughtOver> {
        let (agent, instance) = (entering.agent, entering.instance);
        let link = Arc::new(LiveLink::new(entering, self.next_number(now_unix_ms), now_unix_ms));
        let (older, fought) = {
            let mut links = self.lock();
            let live = Live { link: link.clone(), seats: Vec::new(), leaves: false };
            let older = links.live.insert(agent, live);
            if let Some(older) = &older {
                self.take_out(&older.seats);
            }
            let fences = links.fences.entry(agent).or_default();
            fences.retain(|at| now_unix_ms.saturating_sub(*at) < FENCES_WINDOW_MS);
            // The same process that dials again, having lost its link before the hub noticed,
            // is no second copy.
            if older.as_ref().is_some_and(|older| older.link.handle.is_open() && older.link.instance != instance) {
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
            if older.link.instance == instance {
                older.link.handle.retire();
            } else {
                older.link.handle.retire_saying(&refusal(ErrorCode::LinkReplaced));
            }
            self.tell_change();
        }
        if fought {
            return Err(FoughtOver { until_unix_ms: now_unix_ms + FENCES_WINDOW_MS });
        }
        Ok(link)
    }

    /// Ties a link's place to the task that drives it.
    pub fn hold(&self, link: Arc<LiveLink>) -> Entered {
        gauge!("keyhaven_agent_gateway_links").increment(1.0);
        self.shared.insight.began(&link);
        Entered { roster: self.clone(), link }
    }

    /// Takes a link and its offers out; a newer link of the same agent stays.
    pub fn remove(&self, link: &LiveLink) {
        let removed = {
            let mut links = self.lock();
            let is_it = links.live.get(&link.agent).is_some_and(|live| live.is_of(link));
            let removed = if is_it { links.live.remove(&link.agent) } else { None };
            removed.inspect(|live| self.take_out(&live.seats)).is_some()
        };
        if removed {
            self.tell_change();
        }
    }

    /// The link drains: it is given no more calls, and does not come back.
    pub fn leave(&self, link: &LiveLink) {
        self.change(link, |live| live.leaves = true);
    }

    /// Lets calls go to a link, or no longer: the operator drains the agent.
    pub fn accept_calls(&self, link: &LiveLink, accepts: bool) {
        if link.accepts() != accepts {
            link.set_accepts(accepts);
            self.change(link, |_| ());
        }
    }

    /// Notes what a link offers, by the payload of an OFFER, instead of what it offered for
    /// the same key before.
    ///
    /// # Errors
    /// When the payload is no offer.
    pub fn offer(&self, link: &LiveLink, payload: &[u8]) -> Result<(), serde_json::Error> {
        let offer: OfferFrame<'_> = serde_json::from_slice(payload)?;
        let nothing = RawValue::from_string("[]".to_owned())?;
        let models = self.shared.lists.read(offer.models.unwrap_or(&nothing))?;
        let mut links = self.lock();
        let in_force = links.in_force;
        let Some(live) = links.live.get_mut(&link.agent).filter(|live| live.is_of(link)) else { return Ok(()) };
        let older = live.seats.iter().position(|seat| seat.vendor_key == offer.vendor_key);
        let older = older.map(|at| live.seats.swap_remove(at));
        if live.seats.len() < OFFERS_MAX {
            let seat = Seat {
                link: live.link.clone(),
                vendor_key: offer.vendor_key,
                provider: offer.provider,
                resource: offer.resource.map(|resource| resource.to_ascii_lowercase().into()),
                models,
                // A key that is offered anew has not got better by that.
                state: older.as_ref().map(|older| older.state.clone()).unwrap_or_default(),
            };
            // Most agents offer one key for as long as they live.
            live.seats.reserve_exact(1);
            live.seats.push(seat.clone());
            let takes_calls = live.takes_calls(in_force);
            if !takes_calls && live.may_take_calls() {
                // The prices are on their way to it.
                self.absences().left(seat.provider, seat.link.agent, Instant::now());
            }
            self.replace(older.as_ref(), takes_calls.then_some(seat));
        }
        drop(links);
        self.tell_change();
        Ok(())
    }

    /// Forgets an offer.
    pub fn withdraw(&self, link: &LiveLink, vendor_key: VendorKeyId) {
        let mut links = self.lock();
        let Some(live) = links.live.get_mut(&link.agent).filter(|live| live.is_of(link)) else { return };
        let Some(at) = live.seats.iter().position(|seat| seat.vendor_key == vendor_key) else { return };
        let seat = live.seats.swap_remove(at);
        self.vendor_mut(seat.provider).take_out(&seat);
        drop(links);
        self.tell_change();
    }

    /// Notes which price tables a link holds, all of them.
    pub fn holds(&self, link: &LiveLink, tables: Vec<HeldTable>) {
        let mut links = self.lock();
        let in_force = links.in_force;
        let Some(live) = links.live.get_mut(&link.agent).filter(|live| live.is_of(link)) else { return };
        let took_calls = live.takes_calls(in_force);
        live.link.set_held(tables);
        let takes_calls = live.takes_calls(in_force);
        self.move_seats(live, took_calls, takes_calls);
        drop(links);
        if took_calls != takes_calls {
            self.tell_change();
        }
    }

    /// Whether a link holds the prices in force, if there are any.
    pub fn has_prices(&self, link: &LiveLink) -> bool {
        self.lock().in_force.is_none_or(|table| link.holds(table))
    }

    /// From now on calls are sold at these prices: links that do not hold them take none.
    pub fn sell_at(&self, in_force: Option<HeldTable>) {
        let mut links = self.lock();
        let before = std::mem::replace(&mut links.in_force, in_force);
        if before == in_force {
            return;
        }
        for live in links.live.values() {
            self.move_seats(live, live.takes_calls(before), live.takes_calls(in_force));
        }
        drop(links);
        self.tell_change();
    }

    /// Every live link.
    pub fn links(&self) -> Vec<Arc<LiveLink>> {
        self.lock().live.values().map(|live| live.link.clone()).collect()
    }

    /// Every link that is up, the oldest first; those too that another one has replaced.
    pub fn links_up(&self) -> Vec<Arc<LiveLink>> {
        self.shared.insight.links()
    }

    pub(super) fn metrics(&self, series_max: usize, committed_bytes: usize) -> String {
        self.shared.insight.metrics(series_max, committed_bytes)
    }

    /// Every live link with what it offers, whether or not calls may go there now.
    pub fn links_with_seats(&self) -> Vec<(Arc<LiveLink>, Vec<Seat>)> {
        self.lock().live.values().map(|live| (live.link.clone(), live.seats.clone())).collect()
    }

    /// Whether no agent is linked.
    pub fn is_empty(&self) -> bool {
        self.lock().live.is_empty()
    }

    /// Every seat of a vendor that calls may go to.
    pub fn seats(&self, provider: Provider) -> Vec<Seat> {
        self.vendor(provider).seats().to_vec()
    }

    /// Whether a link that takes calls offers this vendor.
    pub fn offers(&self, provider: Provider) -> bool {
        !self.vendor(provider).seats().is_empty()
    }

    /// Whether an offer for this vendor lists the model.
    pub fn lists(&self, provider: Provider, model: &str) -> bool {
        self.vendor(provider).lists(model)
    }

    /// All models on offer for a vendor, each id once, in the order in which they came.
    pub fn models(&self, provider: Provider) -> Arc<[Arc<Offered>]> {
        self.vendor(provider).listed()
    }

    /// The models on offer at one resource, in the owners' order; an id may come twice.
    pub fn models_at(&self, provider: Provider, resource: &str) -> Vec<Arc<Offered>> {
        self.vendor(provider).listed_at(resource)
    }

    /// One model on offer.
    pub fn model(&self, provider: Provider, id: &str) -> Option<Arc<Offered>> {
        self.vendor(provider).model(id)
    }

    /// Shows the seats that fit, best kind first and each kind in turn, until told to stop.
    /// The vendor's seats cannot change meanwhile: whoever looks is quick.
    pub fn visit(&self, needs: Needs<'_>, mut see: impl FnMut(Glance<'_>) -> ControlFlow<()>) {
        // Whether it was stopped or saw all is the same to a visitor.
        let _ = self.vendor(needs.provider).visit(needs, &mut see);
    }

    /// Changes whether a link takes calls, and puts its seats in or out accordingly.
    fn change(&self, link: &LiveLink, change: impl FnOnce(&mut Live)) {
        let mut links = self.lock();
        let in_force = links.in_force;
        let Some(live) = links.live.get_mut(&link.agent).filter(|live| live.is_of(link)) else { return };
        // Whatever was in goes out first, so that no seat is in twice.
        self.take_out(&live.seats);
        change(live);
        self.move_seats(live, false, live.takes_calls(in_force));
        drop(links);
        self.tell_change();
    }

    /// Puts the seats of a link in or out when it begins or ceases to take calls.
    fn move_seats(&self, live: &Live, took_calls: bool, takes_calls: bool) {
        if took_calls && !takes_calls {
            self.take_out(&live.seats);
        } else if takes_calls && !took_calls {
            live.seats.iter().cloned().for_each(|seat| self.replace(None, Some(seat)));
        }
    }

    /// One seat instead of another: whoever looks finds the one or the other, if they are the
    /// same vendor's.
    fn replace(&self, older: Option<&Seat>, seat: Option<Seat>) {
        let to = seat.as_ref().map(|seat| seat.provider);
        if let Some(older) = older.filter(|older| Some(older.provider) != to) {
            self.vendor_mut(older.provider).take_out(older);
        }
        let Some(seat) = seat else { return };
        let (provider, agent) = (seat.provider, seat.link.agent);
        let mut vendor = self.vendor_mut(provider);
        if let Some(older) = older.filter(|older| older.provider == provider) {
            vendor.take_out(older);
        }
        vendor.place(seat);
        // While the vendor is locked: who finds no seat and asks next is told the truth.
        self.absences().came(provider, agent);
    }

    /// Takes seats out because their agent goes; it is expected back.
    fn take_out(&self, seats: &[Seat]) {
        for seat in seats {
            let mut vendor = self.vendor_mut(seat.provider);
            if vendor.take_out(seat) {
                // While the vendor is locked, as above.
                self.absences().left(seat.provider, seat.link.agent, Instant::now());
            }
        }
    }

    fn absences(&self) -> MutexGuard<'_, Absences> {
        self.shared.absences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_change(&self) {
        self.shared.changed.send_modify(|changes| *changes += 1);
    }

    fn vendor(&self, provider: Provider) -> RwLockReadGuard<'_, VendorIndex> {
        self.index(provider).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn vendor_mut(&self, provider: Provider) -> RwLockWriteGuard<'_, VendorIndex> {
        self.index(provider).write().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self, provider: Provider) -> &RwLock<VendorIndex> {
        self.shared.vendors.get(&provider).expect("every vendor has an index from the start")
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

#[cfg(test)]
mod tests;
