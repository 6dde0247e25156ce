//! The link to the hub: dialled, proved, served, and dialled again.
//!
//! Invariant: one link at a time takes new calls; while an old one drains, its
//! replacement is up first.

mod backoff;
mod dial;
mod serve;
mod upgrade;

pub use dial::Caller;
pub use dial::Dialled;
pub use dial::LinkError;
pub use dial::dial;
pub use dial::new_instance;
pub use serve::LinkView;
pub use serve::Linker;
