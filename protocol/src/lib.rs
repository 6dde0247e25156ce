//! What the hub and the agent must agree on: frames, handshake, the link's
//! state machine, providers and their endpoints, and the error codes.
//!
//! Invariant: nothing here does I/O, reads a clock or rolls dice.

pub mod assist;
pub mod cbor;
pub mod chain;
pub mod content_digest;
pub mod demand;
pub mod error_code;
pub mod frame;
pub mod handshake;
pub mod hex;
pub mod id;
pub mod join_token;
pub mod json_scan;
pub mod key_list;
pub mod leaf;
pub mod ledger_sync;
pub mod link;
pub mod metering;
pub mod money;
pub mod pin;
pub mod price;
pub mod provider;
pub mod quote;
#[cfg(test)]
mod random;
pub mod request_scan;
pub mod sealed;
pub mod settle;
pub mod signing;
pub mod statement;
pub mod ticket;
pub mod usage;
pub mod version;
pub mod websocket;

pub use error_code::ErrorCode;
