//! The vendors as the agent meets them: the hosts it may reach, the connection, the
//! models a key lists.
//!
//! Invariant: nothing that is read at run time can add a host.

mod cause;
mod connector;
mod egress;
#[cfg(test)]
pub(crate) mod fake_vendor;
mod models;

pub(crate) use cause::deepest;
pub use connector::VendorClient;
pub use egress::Egress;
pub use egress::EgressError;
pub use models::ListError;
pub use models::TestedKey;
pub use models::declared_models;
pub use models::list_models;
pub use models::test_key;
