//! The agent: it dials one hub, serves its calls with the keys in its vault,
//! and listens on nothing.
//!
//! Invariant: a key leaves this process only toward the one host it is bound to.

pub mod app;
pub mod cli;
pub mod config;
pub mod enrol;
pub mod hub_keys;
pub mod ledger;
pub mod link;
pub mod offers;
pub mod orders;
pub mod prices;
pub mod provider;
pub mod relay;
pub mod status;
pub mod vault;
