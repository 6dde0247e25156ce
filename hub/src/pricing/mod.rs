//! What calls cost: tables of list prices from outside, compared and published.
//!
//! Invariant: no price is in force that a person did not publish.

pub mod diff;
pub mod litellm;
