//! The hub: consumers call it, agents dial it, it brings the two together.
//!
//! Invariant: a library installs no globals; `cli::serve`, which only `main`
//! reaches, does.

pub mod agent_gateway;
pub mod api_key;
pub mod app;
pub mod cli;
pub mod config;
pub mod consumer_api;
pub mod directory;
pub mod dispatch;
pub mod handover;
pub mod key_policy;
pub mod keys;
pub mod listening;
pub mod pricing;
pub mod registry;
pub mod settlement;
pub mod status;
pub mod store;
pub mod user_gateway;
