//! Who this agent is, and which hub it trusts.
//!
//! Invariant: the public key is the one of the sealed signing key beside it.

use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::pin::Pin;

/// What an agent knows about itself and its hub once it has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The agent.
    pub agent: AgentId,
    /// The fleet of hubs it belongs to.
    pub fleet: FleetId,
    /// `host:port` of the hub's tunnel listener.
    pub hub_address: String,
    /// The hub's keys that are trusted: the live one and at least one backup.
    pub pins: Vec<Pin>,
    /// The Ed25519 key with which the hub signs.
    pub hub_key: [u8; 32],
    /// The agent's own Ed25519 key, known to the hub since `join`.
    pub public_key: [u8; 32],
}
