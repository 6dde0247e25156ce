//! A made-up vendor on loopback that answers to the official names, for an agent that is told so.
//!
//! Invariant: it listens on loopback only, knows only the made-up keys it was given, and talks to
//! nobody.

mod answer;
mod authority;
mod chat;
mod desk;
mod messages;
mod models;
mod prompt;
mod refusal;
mod server;

use std::net::Ipv4Addr;
use std::net::SocketAddr;

use keyhaven_agent::vault::host::Deployment;
use keyhaven_daemon::tasks::Tasks;
#[cfg(test)]
use keyhaven_protocol::provider::Provider;
use tokio::net::TcpListener;

pub(crate) use desk::KnownKeys;

/// The running sample vendor.
pub(crate) struct SampleVendor {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The authority that vouches for it.
    pub(crate) ca_pem: String,
}

impl SampleVendor {
    /// Serves on a free port until the tasks are told to stop.
    pub(crate) async fn start(keys: KnownKeys, tasks: &Tasks) -> anyhow::Result<Self> {
        let vouched = authority::vouch()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        server::serve(listener, vouched.server, desk::Desk::new(keys), tasks);
        Ok(Self { address, ca_pem: vouched.ca_pem })
    }

    /// Every official name, led to this vendor.
    pub(crate) fn routes(&self) -> Vec<(String, SocketAddr)> {
        authority::NAMES.iter().map(|name| ((*name).to_owned(), self.address)).collect()
    }

    /// Every model, and whose it is.
    #[cfg(test)]
    pub(crate) fn models() -> impl Iterator<Item = (Provider, &'static str)> {
        models::all()
    }

    /// The models it has, which are also the names of the deployments at its Azure.
    pub(crate) fn azure_deployments() -> Vec<Deployment> {
        models::OPENAI.iter().filter_map(|name| name.parse().ok()).collect()
    }
}
