//! How leaves get from an agent's log into the hub's books, whatever is lost on the way.
//!
//! ```text
//! hub    WELCOME(next) ──▶ agent    the books have the first `next` leaves
//! hub    ◀── CLAIM(leaves) agent    durable ones, in order, from there
//! hub    NEED(next) ─────▶ agent    a gap, or the books have lost some: go back
//! hub    ACK(next) ──────▶ agent    the books have them, committed
//! ```
//!
//! Both halves are plain structs, fed with what happened; they answer with what to do. A receipt,
//! a claim after a reconnect and a rebuild are the same leaves on the same way.
//!
//! Invariant: a leaf that is durable at the agent comes into the books, however often either
//! side forgets; nothing is acknowledged that is not in them.

mod agent_half;
mod hub_half;
mod release;

pub use agent_half::AgentHalf;
pub use agent_half::AgentLimits;
pub use agent_half::HubAhead;
pub use hub_half::Greeting;
pub use hub_half::HubHalf;
pub use hub_half::Taken;
pub use hub_half::greet;
pub use release::Leaving;
pub use release::Release;

#[cfg(test)]
mod tests;
