//! The vendors as the agent meets them: the hosts it may reach, the connections to them,
//! the models a key lists.
//!
//! Invariant: nothing that is read at run time can add a host.

mod cause;
mod client;
mod connection;
mod connector;
mod egress;
#[cfg(test)]
pub(crate) mod fake_vendor;
mod models;

pub(crate) use cause::deepest;
pub use client::VendorClient;
pub use client::VendorError;
pub use connection::BodyError;
pub use connection::VendorConnection;
pub(crate) use connector::VendorStream;
pub use egress::Egress;
pub use egress::EgressError;
pub use models::ListError;
pub use models::TestedKey;
pub use models::declared_models;
pub use models::list_models;
pub use models::test_key;
