//! What a call costs, whatever way it ended: metered by both sides on their own, from the
//! same bytes, by the same rules.
//!
//! Invariant: the same bytes, the same request and the same ending give the same figure,
//! however the bytes were cut; no figure is above the ceiling or above the price of the
//! model that was asked for.

mod bill;
mod estimate;
mod figure;
mod judge;
mod meter;
mod on_wire;

pub use estimate::BYTES_PER_TOKEN;
pub use estimate::IMAGE_TOKENS;
pub use estimate::MEDIA_BYTES_PER_MILLI;
pub use estimate::MEDIA_BYTES_PER_TOKEN;
pub use estimate::agreed_elapsed_ms;
pub use figure::Asked;
pub use figure::Ending;
pub use figure::Figure;
pub use figure::Outcome;
pub use figure::Rule;
pub use meter::CallMeter;
pub use on_wire::WireMeter;

/// The version of these rules: tickets name the one that both sides meter by. It grows when the
/// same bytes would give another figure.
pub const METER_RULES: u16 = 1;

#[cfg(test)]
mod tests;
