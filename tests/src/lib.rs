//! The test kit: upstreams that record, a tap, real processes and official clients.
//!
//! Invariant: an oracle of its own; it learns nothing about vendors from the code under test.

pub mod aimock;
pub mod ca;
pub mod clients;
pub mod consumer;
pub mod consumer_call;
pub mod customer;
pub mod daemons;
pub mod form;
pub mod house;
pub mod http1;
pub mod mariadb;
pub mod prices;
pub mod process;
pub mod raw_agent;
pub mod raw_client;
pub mod relay;
mod stage;
pub mod tap;
pub mod tls_door;
pub mod tls_front;
pub mod upstream;
