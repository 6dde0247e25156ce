//! The ledger under crashes, damage, full disks and twins.
//!
//! Invariant: what a test says was told, the ledger said by [`super::Pending`] or by the log itself.

mod acks;
mod crash;
mod damage;
mod disks;
mod long;
mod platter;
mod rate;
mod running;
mod scene;
