//! Agents' links in: accept, prove, welcome, pump; and the roster of those that are live.
//!
//! Invariant: a link takes part in dispatch only between its WELCOME and the moment it
//! is fenced, drained or lost.

mod accept;
mod handshake;
mod roster;
mod session;

use std::sync::Arc;

use keyhaven_daemon::tasks::Tasks;
use keyhaven_daemon::tls;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Refuse;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::directory::Directory;
use crate::registry::Registry;
use crate::store::agents::AgentState;

pub use roster::LiveLink;
pub use roster::Offered;
pub use roster::Roster;
pub use roster::Seat;

/// Everything a link's task needs.
pub struct AgentGateway {
    roster: Roster,
    directory: Directory,
    registry: Arc<Registry>,
    tls: Arc<ServerConfig>,
    config: Config,
    tasks: Tasks,
    handshakes: Arc<Semaphore>,
}

impl AgentGateway {
    /// A gateway that listens on nothing yet.
    ///
    /// # Errors
    /// When the tunnel key cannot be used.
    pub fn new(
        config: Config,
        registry: Arc<Registry>,
        directory: Directory,
        roster: Roster,
        tasks: Tasks,
    ) -> Result<Arc<Self>, tls::TlsError> {
        let tls = tls::tunnel_server(&registry.keys.tunnel_key())?;
        let handshakes = Arc::new(Semaphore::new(config.tunnel.handshakes_max as usize));
        Ok(Arc::new(Self { roster, directory, registry, tls, config, tasks, handshakes }))
    }

    /// Accepts links until the hub drains, and keeps the roster to what the operator says.
    pub fn serve(self: &Arc<Self>, listener: TcpListener) {
        self.tasks.spawn("tunnel-listener", accept::accept_loop(self.clone(), listener));
        self.tasks.spawn_until_stop("tunnel-orders", follow_orders(self.clone()));
    }
}

/// The operator's drains and revocations reach links that are already up.
async fn follow_orders(gateway: Arc<AgentGateway>) {
    let mut changed = gateway.directory.changed();
    let stopping = gateway.tasks.stopping();
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            result = changed.changed() => if result.is_err() { return },
        }
        for link in gateway.roster.links() {
            let state = gateway.directory.agent(link.agent).map_or(AgentState::Revoked, |agent| agent.state);
            link.accept_calls(state == AgentState::Active);
            if state == AgentState::Revoked {
                link.handle.refuse(&refusal(ErrorCode::AgentRevoked));
            }
        }
    }
}

fn refusal(code: ErrorCode) -> Refuse {
    Refuse { code: code.to_string(), message: code.cause().to_owned(), retry_after_ms: 0 }
}
