//! Where dispatch may seat a call: a vendor key behind a link.
//!
//! Invariant: clones of a seat are the same seat, with one past and one place in the index.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::provider::Provider;
use tokio::time::Instant;

use super::health::Health;
use super::health::SeatOutcome;
use super::live_link::LiveLink;
use super::model_list::ModelList;

/// A vendor key that calls can use.
#[derive(Clone)]
pub struct Seat {
    /// The link that leads to it.
    pub link: Arc<LiveLink>,
    /// The key's id at the agent.
    pub vendor_key: VendorKeyId,
    /// Whose API it opens.
    pub provider: Provider,
    /// Azure: the resource, in lower case.
    pub resource: Option<Arc<str>>,
    /// The models it lists.
    pub models: Arc<ModelList>,
    pub(super) state: Arc<SeatState>,
}

/// What changes about a seat.
#[derive(Default)]
pub(super) struct SeatState {
    pub(super) health: Health,
    pub(super) place: Place,
}

/// Where in the index a seat is; changed under the index's write lock only.
#[derive(Default)]
pub(super) struct Place {
    pub(super) listing: AtomicU64,
    pub(super) in_listing: AtomicUsize,
    pub(super) in_vendor: AtomicUsize,
}

impl Place {
    pub(super) fn listing(&self) -> u64 {
        self.listing.load(Ordering::Relaxed)
    }

    pub(super) fn in_listing(&self) -> usize {
        self.in_listing.load(Ordering::Relaxed)
    }

    pub(super) fn in_vendor(&self) -> usize {
        self.in_vendor.load(Ordering::Relaxed)
    }
}

impl Seat {
    /// Whether both are the same key behind the same link.
    pub fn is(&self, other: &Self) -> bool {
        self.link.number == other.link.number && self.vendor_key == other.vendor_key
    }

    /// The model whose prices hold for calls that name this one: of a deployment at Azure, the
    /// one behind it.
    pub fn priced_as<'a>(&'a self, model: &'a str) -> &'a str {
        match self.provider {
            Provider::Azure => {
                let offered = self.models.iter().find(|offered| &*offered.id == model);
                offered.and_then(|offered| offered.behind.as_deref()).unwrap_or(model)
            }
            Provider::OpenAi | Provider::Anthropic | Provider::DeepSeek => model,
        }
    }

    /// Until when calls for this model should rather go elsewhere, if so.
    pub fn cool_until(&self, model: Option<&str>, now: Instant) -> Option<Instant> {
        self.state.health.cool_until(model, now)
    }

    /// Notes what became of a call for this model.
    pub fn note(&self, model: Option<&str>, outcome: SeatOutcome, now: Instant) {
        self.state.health.note(model, outcome, now);
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
