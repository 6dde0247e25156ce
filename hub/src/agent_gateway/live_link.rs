//! One agent's link, as the rest of the hub sees it.
//!
//! Invariant: what is said of a link when it is entered stays so; only whether it takes
//! calls, which price tables were sent to it and how it metered change.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use keyhaven_daemon::link::LinkHandle;
use keyhaven_protocol::frame::Egress;
use keyhaven_protocol::frame::HeldTable;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::leaf::Metered;
use keyhaven_protocol::settle::Verdict;

use super::receipts::ExpectedReceipt;
use super::receipts::Receipts;

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
    prices: Mutex<Prices>,
    receipts: Arc<Receipts>,
    disputes: Disputes,
}

/// Calls of a link that its agent metered otherwise than the hub, by who has more.
#[derive(Default)]
struct Disputes {
    above: AtomicU64,
    below: AtomicU64,
}

/// The price tables of a link's agent.
#[derive(Default)]
struct Prices {
    /// It has said which ones it holds; one that never does knows nothing of prices.
    takes: bool,
    held: Vec<HeldTable>,
    sent: Vec<HeldTable>,
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

impl LiveLink {
    pub(super) fn new(entering: Entering, number: u64, linked_unix_ms: u64) -> Self {
        let Entering { agent, name, egress, instance, handle, accepts } = entering;
        let accepts = AtomicBool::new(accepts);
        Self {
            number,
            agent,
            name,
            egress,
            instance,
            linked_unix_ms,
            handle,
            accepts,
            prices: Mutex::default(),
            receipts: Arc::default(),
            disputes: Disputes::default(),
        }
    }

    /// Whether calls may be dispatched to it now.
    pub fn is_open(&self) -> bool {
        self.accepts() && self.handle.is_open()
    }

    /// Whether the operator lets it take calls.
    pub fn accepts(&self) -> bool {
        self.accepts.load(Ordering::Relaxed)
    }

    /// Whether its agent said that it holds this price table.
    pub fn holds(&self, table: HeldTable) -> bool {
        self.prices().held.contains(&table)
    }

    /// The agent said that it holds these, and no others.
    pub(super) fn set_held(&self, held: Vec<HeldTable>) {
        let mut prices = self.prices();
        prices.takes = true;
        prices.held = held;
    }

    /// Whether a table is to be sent now. On one link none is sent twice: an agent that did not
    /// take it the first time would not the second.
    pub(super) fn begin_sending(&self, table: HeldTable) -> bool {
        let mut prices = self.prices();
        let wanted = prices.takes && !prices.held.contains(&table) && !prices.sent.contains(&table);
        if wanted {
            prices.sent.push(table);
        }
        wanted
    }

    /// What its agent will say that it metered of an attempt; ask before the attempt is opened.
    pub fn expect_receipt(&self, call: CallId, attempt: u8) -> ExpectedReceipt {
        self.receipts.expect(call, attempt)
    }

    /// Gives a figure to who expects it. Says whether somebody did.
    pub(super) fn deliver(&self, call: CallId, attempt: u8, metered: Metered) -> bool {
        self.receipts.deliver(call, attempt, metered)
    }

    /// How its agent's figure of a call compares with the hub's.
    pub fn note_verdict(&self, verdict: Verdict) {
        match verdict {
            Verdict::AgentAbove => drop(self.disputes.above.fetch_add(1, Ordering::Relaxed)),
            Verdict::AgentBelow => drop(self.disputes.below.fetch_add(1, Ordering::Relaxed)),
            Verdict::Agreed | Verdict::Short | Verdict::Open => {}
        }
    }

    /// How often its agent metered more than the hub, and how often less.
    pub(super) fn disputes(&self) -> (u64, u64) {
        (self.disputes.above.load(Ordering::Relaxed), self.disputes.below.load(Ordering::Relaxed))
    }

    fn prices(&self) -> MutexGuard<'_, Prices> {
        self.prices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_accepts(&self, accepts: bool) {
        self.accepts.store(accepts, Ordering::Relaxed);
    }
}
