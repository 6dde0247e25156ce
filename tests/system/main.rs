//! The whole system with real parts and real clients; one binary, one module per concern.
//!
//! Invariant: what is asserted is what happened; timed is only what has a documented bound.

mod agent_top;
mod broken_path;
mod cancel;
mod client_suite;
mod command_line;
mod consumer_framing;
mod consumer_insults;
mod consumer_routing;
mod database;
mod drain;
mod enrolment;
mod failover;
mod fake_agent;
mod faults;
mod field_insults;
mod footprint;
mod gigabyte;
mod handover;
mod idempotency;
mod idle;
mod killed_at_calls;
mod kit;
mod leaves;
mod lying_agent;
mod oracles;
mod prices_change;
mod rapid_reset;
mod readme;
mod realtime;
mod relay;
mod scene;
mod secrets;
mod signing_keys;
mod sold;
mod stalled;
mod streaming;
mod survival;
mod tunnel_insults;
mod waiting;
