//! The whole system with real parts and real clients; one binary, one module per concern.
//!
//! Invariant: nothing here is timed; what is asserted is what happened.

mod agent_top;
mod cancel;
mod client_suite;
mod command_line;
mod consumer_framing;
mod consumer_insults;
mod consumer_routing;
mod drain;
mod enrolment;
mod failover;
mod fake_agent;
mod faults;
mod handover;
mod kit;
mod readme;
mod realtime;
mod scene;
mod secrets;
mod streaming;
mod survival;
mod tunnel_insults;
mod waiting;
