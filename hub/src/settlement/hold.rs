//! Money that is set aside for one call.
//!
//! Invariant: a hold ends once: settled, given back because no agent had the call, or written
//! with what was seen of it.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;

use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use tracing::error;
use tracing::warn;

use super::Ended;
use super::OBSERVED_STEP;
use super::Phase;
use super::Shared;
use super::purses::Limit;
use super::record::CallRecord;
use super::record::Sale;
use super::sweep::abandoned;

/// What is set aside for one call. Dropped without an end, it gives back its money if no agent
/// had the call, and otherwise costs what was observed.
#[must_use = "a hold that is dropped is given back"]
pub struct Hold {
    books: Arc<Shared>,
    call: CallId,
    open: Arc<OpenCall>,
    is_over: bool,
}

/// What the database does not know of a call under way.
#[derive(Debug)]
pub(super) enum Unwritten {
    /// What it has cost so far.
    Observed(Arc<Sale>, NanoUsd),
    /// That no agent has it after all.
    Withdrawn,
}

/// No cost: what was sold is not written at all.
const NEVER: i64 = -1;

/// A call under way.
pub(super) struct OpenCall {
    pub(super) account: AccountId,
    pub(super) limits: Vec<Limit>,
    pub(super) held: NanoUsd,
    /// What was sold, once an agent has the call.
    sale: Mutex<Option<Arc<Sale>>>,
    /// At list prices, so far.
    observed: AtomicI64,
    /// As far as it is written, or is about to be.
    observed_asked: AtomicI64,
    /// As far as it is written; [`NEVER`] where this sale is not.
    observed_written: AtomicI64,
    /// The database knows the call as one under way.
    is_in_holds: AtomicBool,
}

impl Hold {
    pub(super) fn new(books: Arc<Shared>, call: CallId, open: Arc<OpenCall>) -> Self {
        Self { books, call, open, is_over: false }
    }

    /// How much is set aside.
    pub fn amount(&self) -> NanoUsd {
        self.open.held
    }

    /// An agent gets the call now, on these terms: from here on it may cost money.
    pub fn dispatched(&mut self, sale: Sale) {
        self.open.set_sale(Some(Arc::new(sale)));
    }

    /// The agent has said for certain that it did not serve it.
    pub fn withdrawn(&mut self) {
        self.open.set_sale(None);
        self.open.observed.store(0, Ordering::Relaxed);
    }

    /// What the call has cost so far at list prices. This is what is charged if the hub ends
    /// before the call does, as far as it was written then: once a second, or with every cent.
    pub fn observed(&self, list_so_far: NanoUsd) {
        let list_so_far = list_so_far.max(NanoUsd::ZERO);
        self.open.observed.store(list_so_far.0, Ordering::Relaxed);
        let asked = self.open.observed_asked.load(Ordering::Relaxed);
        if list_so_far.0.saturating_sub(asked) >= OBSERVED_STEP.0 {
            self.open.observed_asked.store(list_so_far.0, Ordering::Relaxed);
            self.books.lock().observe_now = true;
            self.books.wake.notify_one();
        }
    }

    pub(super) fn settle(mut self, record: CallRecord) {
        self.end(Some(record));
    }

    fn end(&mut self, record: Option<CallRecord>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let mut state = self.books.lock();
        let Some(record) = record else {
            state.calls.remove(&self.call);
            if state.awaited.remove(&self.call) {
                state.over.push(self.call);
                self.books.wake.notify_one();
            }
            if self.open.is_in_holds() {
                state.forgotten.push(self.call);
            }
            state.purses.give_back(&self.open.limits, self.open.held);
            return;
        };
        let charge = record.settled.charge;
        if charge > self.open.held || record.sale.call != self.call {
            let held = self.open.held;
            error!(call.id = %self.call, "call {} costs {charge}, and {held} was set aside for it", self.call);
        }
        let rest = NanoUsd(self.open.held.0.saturating_sub(charge.0));
        state.purses.give_back(&self.open.limits, rest);
        let ended = Arc::new(Ended { record, open: self.open.clone() });
        state.calls.insert(self.call, Phase::Ended(ended.clone()));
        state.ended.push_back(ended);
        drop(state);
        self.books.wake.notify_one();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let record = self.open.sale().map(|sale| {
            warn!(call.id = %self.call, "call {} ended unsettled; it costs what was seen of it", self.call);
            abandoned(&sale, self.open.observed_so_far(), unix_ms_now())
        });
        self.end(record);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("call", &self.call).field("amount", &self.open.held).finish()
    }
}

impl OpenCall {
    pub(super) fn new(account: AccountId, limits: Vec<Limit>, held: NanoUsd) -> Self {
        Self {
            account,
            limits,
            held,
            sale: Mutex::new(None),
            observed: AtomicI64::new(0),
            observed_asked: AtomicI64::new(0),
            observed_written: AtomicI64::new(NEVER),
            is_in_holds: AtomicBool::new(false),
        }
    }

    /// What was sold, if an agent has the call.
    pub(super) fn sale(&self) -> Option<Arc<Sale>> {
        self.sale.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_sale(&self, sale: Option<Arc<Sale>>) {
        *self.sale.lock().unwrap_or_else(PoisonError::into_inner) = sale;
        self.observed_written.store(NEVER, Ordering::Relaxed);
    }

    pub(super) fn observed_so_far(&self) -> NanoUsd {
        NanoUsd(self.observed.load(Ordering::Relaxed))
    }

    /// Whether the database knows the call as one under way.
    pub(super) fn is_in_holds(&self) -> bool {
        self.is_in_holds.load(Ordering::Relaxed)
    }

    /// What is to be written down now, if anything is.
    pub(super) fn unwritten(&self) -> Option<Unwritten> {
        let observed = self.observed_so_far();
        match self.sale() {
            Some(sale) => {
                let written = self.observed_written.load(Ordering::Relaxed);
                (written != observed.0).then_some(Unwritten::Observed(sale, observed))
            }
            None => self.is_in_holds().then_some(Unwritten::Withdrawn),
        }
    }

    /// The database has it.
    pub(super) fn is_written(&self, written: &Unwritten) {
        match written {
            Unwritten::Observed(_, observed) => {
                self.observed_written.store(observed.0, Ordering::Relaxed);
                self.is_in_holds.store(true, Ordering::Relaxed);
            }
            Unwritten::Withdrawn => self.is_in_holds.store(false, Ordering::Relaxed),
        }
    }

    /// The database has lost it.
    pub(super) fn is_lost(&self) {
        self.observed_written.store(NEVER, Ordering::Relaxed);
    }
}
