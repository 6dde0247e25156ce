//! One vendor's seats, looked up by model and resource.
//!
//! Seats with the same resource and the same model list share a *listing*; a model knows the
//! listings that carry it. Fleets offer few distinct lists, so that a seat comes and goes
//! without its models being looked at, and a model's seats are found without looking at others.
//!
//! Invariant: a listing has at least one seat, and a model at least one listing.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use keyhaven_protocol::provider::Provider;

use super::model_list::ModelList;
use super::model_list::Offered;
use super::seat::Seat;

/// Listings whose seats take exact turns; of a model that more carry, seats are met in the
/// order of all seats.
const EXACT_TURNS_MAX: usize = 64;

/// What a call needs.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// The vendor.
    pub provider: Provider,
    /// Azure: the resource, in lower case.
    pub resource: Option<&'a str>,
    /// The model or deployment, if one is known.
    pub model: Option<&'a str>,
}

/// How well an offer fits; better ones are shown first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fit {
    /// It lists the model, or none was asked for.
    Lists,
    /// It does not say what it has.
    Silent,
    /// It lists other models; vendors take names that they do not list.
    Unlisted,
}

/// A seat that was looked at.
pub struct Glance<'a> {
    /// The seat.
    pub seat: &'a Seat,
    /// How it fits; none if it was only passed on the way.
    pub fit: Option<Fit>,
}

/// One vendor's seats.
pub(super) struct VendorIndex {
    provider: Provider,
    seats: Vec<Seat>,
    listings: HashMap<u64, Listing>,
    numbers: HashMap<ListingKey, u64>,
    last_number: u64,
    models: HashMap<Arc<str>, Carriers>,
    /// Models in the order in which they came.
    order: BTreeMap<u64, Arc<str>>,
    last_model: u64,
    /// Listings that name no model.
    silent: BTreeSet<u64>,
    resources: HashMap<Arc<str>, BTreeSet<u64>>,
    turn: AtomicUsize,
    /// All models, until one comes or goes.
    listed: Mutex<Option<Arc<[Arc<Offered>]>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct ListingKey {
    models: u64,
    resource: Option<Arc<str>>,
}

struct Listing {
    key: ListingKey,
    models: Arc<ModelList>,
    /// Where its seats are among all.
    seats: Vec<usize>,
}

/// Who carries a model.
struct Carriers {
    since: u64,
    /// Listings, and where in their lists the model is.
    listings: BTreeMap<u64, u16>,
    turn: AtomicUsize,
}

type See<'a> = dyn FnMut(Glance<'_>) -> ControlFlow<()> + 'a;

impl VendorIndex {
    pub(super) fn new(provider: Provider) -> Self {
        Self {
            provider,
            seats: Vec::new(),
            listings: HashMap::new(),
            numbers: HashMap::new(),
            last_number: 0,
            models: HashMap::new(),
            order: BTreeMap::new(),
            last_model: 0,
            silent: BTreeSet::new(),
            resources: HashMap::new(),
            turn: AtomicUsize::new(0),
            listed: Mutex::new(None),
        }
    }

    /// Every seat, in no particular order.
    pub(super) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// Whether a seat lists the model.
    pub(super) fn lists(&self, model: &str) -> bool {
        self.models.contains_key(model)
    }

    /// A seat can be chosen from now on. It must not be placed already.
    pub(super) fn place(&mut self, seat: Seat) {
        let number = self.listing_for(&seat);
        let listing = self.listings.get_mut(&number).expect("it was found or made just now");
        let place = &seat.state.place;
        place.listing.store(number, Ordering::Relaxed);
        place.in_listing.store(listing.seats.len(), Ordering::Relaxed);
        place.in_vendor.store(self.seats.len(), Ordering::Relaxed);
        listing.seats.push(self.seats.len());
        self.seats.push(seat);
    }

    /// A seat cannot be chosen any more. Whether it could be.
    pub(super) fn take_out(&mut self, seat: &Seat) -> bool {
        let place = &seat.state.place;
        let (number, in_listing, in_vendor) = (place.listing(), place.in_listing(), place.in_vendor());
        let is_here = self.seats.get(in_vendor).is_some_and(|here| Arc::ptr_eq(&here.state, &seat.state));
        let Some(listing) = self.listings.get_mut(&number).filter(|_| is_here) else { return false };
        listing.seats.swap_remove(in_listing);
        if let Some(moved) = listing.seats.get(in_listing) {
            self.seats[*moved].state.place.in_listing.store(in_listing, Ordering::Relaxed);
        }
        let emptied = listing.seats.is_empty();
        self.seats.swap_remove(in_vendor);
        if let Some(moved) = self.seats.get(in_vendor) {
            let place = &moved.state.place;
            place.in_vendor.store(in_vendor, Ordering::Relaxed);
            let listing = self.listings.get_mut(&place.listing()).expect("a seat's listing is there");
            listing.seats[place.in_listing()] = in_vendor;
        }
        if emptied {
            self.drop_listing(number);
        }
        true
    }

    /// Shows the seats that fit, best kind first and each kind in turn, until told to stop.
    /// Seats that do not fit may be shown in between.
    pub(super) fn visit(&self, needs: Needs<'_>, see: &mut See<'_>) -> ControlFlow<()> {
        if let Some(resource) = needs.resource {
            return self.visit_resource(resource, needs.model, see);
        }
        let Some(model) = needs.model else { return self.walk(|_| Some(Fit::Lists), see) };
        let carriers = self.models.get(model);
        let carries = |number: &u64| carriers.is_some_and(|carriers| carriers.listings.contains_key(number));
        if let Some(carriers) = carriers {
            self.visit_listings(carriers.listings.keys(), &carriers.turn, Fit::Lists, &carries, see)?;
        }
        self.visit_listings(self.silent.iter(), &self.turn, Fit::Silent, &|number| self.silent.contains(number), see)?;
        if self.names_all_models() {
            return ControlFlow::Continue(());
        }
        let is_other = |number: &u64| !carries(number) && !self.silent.contains(number);
        self.walk(|seat| is_other(&seat.state.place.listing()).then_some(Fit::Unlisted), see)
    }

    /// Every model, each id once, in the order in which they came.
    pub(super) fn listed(&self) -> Arc<[Arc<Offered>]> {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        listed.get_or_insert_with(|| self.order.values().filter_map(|id| self.model(id)).collect()).clone()
    }

    /// One model, as the oldest listing that carries it describes it.
    pub(super) fn model(&self, id: &str) -> Option<Arc<Offered>> {
        let (number, at) = self.models.get(id)?.listings.first_key_value()?;
        self.listings.get(number)?.models.get(usize::from(*at)).cloned()
    }

    /// The models of one resource, in the order in which its listings came.
    pub(super) fn listed_at(&self, resource: &str) -> Vec<Arc<Offered>> {
        let numbers = self.resources.get(resource).into_iter().flatten();
        let listings = numbers.filter_map(|number| self.listings.get(number));
        listings.flat_map(|listing| listing.models.iter().cloned()).collect()
    }

    /// Azure's deployments are named by the owner: one that is not named does not exist.
    fn names_all_models(&self) -> bool {
        self.provider == Provider::Azure
    }

    fn visit_resource(&self, resource: &str, model: Option<&str>, see: &mut See<'_>) -> ControlFlow<()> {
        let Some(here) = self.resources.get(resource) else { return ControlFlow::Continue(()) };
        let Some(model) = model else { return self.in_turn(here.iter(), &self.turn, Fit::Lists, see) };
        let carriers = self.models.get(model);
        let carries = |number: &u64| carriers.is_some_and(|carriers| carriers.listings.contains_key(number));
        let turn = carriers.map_or(&self.turn, |carriers| &carriers.turn);
        self.in_turn(here.iter().filter(|number| carries(number)), turn, Fit::Lists, see)?;
        self.in_turn(here.intersection(&self.silent), &self.turn, Fit::Silent, see)?;
        if self.names_all_models() {
            return ControlFlow::Continue(());
        }
        let other = here.iter().filter(|number| !carries(number) && !self.silent.contains(number));
        self.in_turn(other, &self.turn, Fit::Unlisted, see)
    }

    /// The seats of these listings: in exact turns while there are few listings.
    fn visit_listings<'a>(
        &self,
        numbers: impl ExactSizeIterator<Item = &'a u64> + Clone,
        turn: &AtomicUsize,
        fit: Fit,
        contains: &dyn Fn(&u64) -> bool,
        see: &mut See<'_>,
    ) -> ControlFlow<()> {
        if numbers.len() <= EXACT_TURNS_MAX {
            return self.in_turn(numbers, turn, fit, see);
        }
        self.walk(|seat| contains(&seat.state.place.listing()).then_some(fit), see)
    }

    /// Each seat of these listings once; every call begins one seat further.
    fn in_turn<'a>(
        &self,
        numbers: impl Iterator<Item = &'a u64> + Clone,
        turn: &AtomicUsize,
        fit: Fit,
        see: &mut See<'_>,
    ) -> ControlFlow<()> {
        let listings = numbers.filter_map(|number| self.listings.get(number));
        let all: usize = listings.clone().map(|listing| listing.seats.len()).sum();
        if all == 0 {
            return ControlFlow::Continue(());
        }
        let first = turn.fetch_add(1, Ordering::Relaxed) % all;
        let mut before = first;
        for listing in listings.clone() {
            let from = before.min(listing.seats.len());
            before -= from;
            self.show(&listing.seats[from..], fit, see)?;
        }
        let mut left = first;
        for listing in listings {
            let to = left.min(listing.seats.len());
            left -= to;
            self.show(&listing.seats[..to], fit, see)?;
        }
        ControlFlow::Continue(())
    }

    fn show(&self, seats: &[usize], fit: Fit, see: &mut See<'_>) -> ControlFlow<()> {
        seats.iter().try_for_each(|at| see(Glance { seat: &self.seats[*at], fit: Some(fit) }))
    }

    /// Every seat once. Where it begins is scattered: were it one further each time, a seat
    /// behind many that do not fit would be met first too often.
    fn walk(&self, fit: impl Fn(&Seat) -> Option<Fit>, see: &mut See<'_>) -> ControlFlow<()> {
        if self.seats.is_empty() {
            return ControlFlow::Continue(());
        }
        let first = scattered(self.turn.fetch_add(1, Ordering::Relaxed)) % self.seats.len();
        let in_turn = self.seats[first..].iter().chain(&self.seats[..first]);
        in_turn.map(|seat| Glance { seat, fit: fit(seat) }).try_for_each(see)
    }

    fn listing_for(&mut self, seat: &Seat) -> u64 {
        let key = ListingKey { models: seat.models.number, resource: seat.resource.clone() };
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        self.last_number += 1;
        let number = self.last_number;
        for (at, model) in (0_u16..).zip(seat.models.iter()) {
            let carriers = self.models.entry(model.id.clone()).or_insert_with(|| {
                self.last_model += 1;
                self.order.insert(self.last_model, model.id.clone());
                Carriers { since: self.last_model, listings: BTreeMap::new(), turn: AtomicUsize::new(0) }
            });
            carriers.listings.insert(number, at);
        }
        if seat.models.is_empty() {
            self.silent.insert(number);
        }
        if let Some(resource) = &seat.resource {
            self.resources.entry(resource.clone()).or_default().insert(number);
        }
        self.numbers.insert(key.clone(), number);
        self.listings.insert(number, Listing { key, models: seat.models.clone(), seats: Vec::new() });
        self.forget_listed();
        number
    }

    fn drop_listing(&mut self, number: u64) {
        let Some(listing) = self.listings.remove(&number) else { return };
        for model in listing.models.iter() {
            let Some(carriers) = self.models.get_mut(&model.id) else { continue };
            carriers.listings.remove(&number);
            if carriers.listings.is_empty() {
                self.order.remove(&carriers.since);
                self.models.remove(&model.id);
            }
        }
        self.silent.remove(&number);
        if let Some(resource) = &listing.key.resource
            && let Some(numbers) = self.resources.get_mut(resource)
        {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.resources.remove(resource);
            }
        }
        self.numbers.remove(&listing.key);
        self.forget_listed();
    }

    fn forget_listed(&mut self) {
        *self.listed.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A number far from that of the next turn.
fn scattered(turn: usize) -> usize {
    turn.wrapping_mul(0x9E37_79B9) >> 7
}
