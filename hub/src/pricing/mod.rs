//! What calls cost: tables of list prices from outside, compared, signed and published.
//!
//! Invariant: no price is in force that a person did not publish.

pub mod board;
pub mod book;
pub mod diff;
pub mod litellm;
mod signed;
pub mod unit;
