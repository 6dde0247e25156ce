//! One agent's link, as the rest of the hub sees it.
//!
//! Invariant: what is said of a link when it is entered stays so; only whether it takes
//! calls changes.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use keyhaven_daemon::link::LinkHandle;
use keyhaven_protocol::frame::Egress;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;

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
        Self { number, agent, name, egress, instance, linked_unix_ms, handle, accepts }
    }

    /// Whether calls may be dispatched to it now.
    pub fn is_open(&self) -> bool {
        self.accepts() && self.handle.is_open()
    }

    /// Whether the operator lets it take calls.
    pub fn accepts(&self) -> bool {
        self.accepts.load(Ordering::Relaxed)
    }

    pub(super) fn set_accepts(&self, accepts: bool) {
        self.accepts.store(accepts, Ordering::Relaxed);
    }
}
