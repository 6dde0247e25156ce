//! What a call used, read from a copy of the vendor's bytes: one small reader per form of
//! answer, fed at any cut, run at the agent and at the hub on their own.
//!
//! Invariant: the same bytes give the same reading however they are cut, in memory that
//! does not grow with them; text is never counted into tokens.

mod coding;
mod counter;
mod form;
mod meter;
mod reader;
mod sse;
mod tap;

pub use coding::Coding;
pub use counter::Counter;
pub use counter::Counters;
pub use form::Form;
pub use meter::Meter;
pub use meter::Meters;
pub use reader::Doubt;
pub use reader::Doubts;
pub use reader::Reading;
pub use tap::Shape;
pub use tap::Tap;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
