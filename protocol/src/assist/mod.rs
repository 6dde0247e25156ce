//! Mode `assist`: a stream is made to state its usage, and its consumer receives what the
//! vendor would have sent unasked.
//!
//! Invariant: but for what was asked in the consumer's name, no byte differs either way.

mod filter;
mod splice;

pub use filter::AssistFilter;
pub use filter::EVENT_BYTES_MAX;
pub use splice::Splice;
pub use splice::splice;
