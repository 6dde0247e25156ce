//! Agents' links in: accept, prove, welcome, pump; and the roster of those that are live.
//!
//! Invariant: a link takes part in dispatch only between its WELCOME and the moment it
//! is fenced, drained or lost.

mod absences;
mod accept;
mod handshake;
mod health;
mod index;
mod insight;
mod ledger;
mod live_link;
mod model_list;
mod price_push;
mod receipts;
mod roster;
mod seat;
mod session;
mod sightings;

use std::sync::Arc;

use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_daemon::tls;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Refuse;
use keyhaven_protocol::link::Budget;
use keyhaven_protocol::link::Limits;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::directory::Directory;
use crate::pricing::board::Prices;
use crate::registry::Registry;
use crate::settlement::Books;
use crate::store::agents::Agent;
use crate::store::agents::AgentState;

use sightings::Sightings;

pub use health::SeatOutcome;
pub use index::Fit;
pub use index::Glance;
pub use index::Needs;
pub use insight::Figures;
pub use live_link::Entering;
pub use live_link::LiveLink;
pub use model_list::ModelList;
pub use model_list::Offered;
pub use receipts::ExpectedReceipt;
pub use roster::Roster;
pub use seat::Seat;

/// When a suspended agent should ask again: its suspension lasts five minutes.
const SUSPENDED_RETRY_MS: u64 = 60_000;

/// When a copy whose link another one took may try to take it back: at once, they would fight.
const REPLACED_RETRY_MS: u64 = 5_000;

/// Everything a link's task needs.
pub struct AgentGateway {
    roster: Roster,
    directory: Directory,
    registry: Arc<Registry>,
    prices: Prices,
    books: Books,
    tls: Arc<ServerConfig>,
    config: Config,
    tasks: Tasks,
    handshakes: Arc<Semaphore>,
    /// What every link is bound by; one budget of bytes for all of them.
    limits: Limits,
    sightings: Sightings,
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
        prices: Prices,
        books: Books,
        roster: Roster,
        tasks: Tasks,
    ) -> Result<Arc<Self>, tls::TlsError> {
        let tls = tls::tunnel_server(&registry.keys.tunnel_key())?;
        let handshakes = Arc::new(Semaphore::new(config.tunnel.handshakes_max as usize));
        let limits = limits(&config);
        let sightings = Sightings::default();
        Ok(Arc::new(Self {
            roster,
            directory,
            registry,
            prices,
            books,
            tls,
            config,
            tasks,
            handshakes,
            limits,
            sightings,
        }))
    }

    /// What links did and do, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let series_max = usize::try_from(self.config.admin.link_series_max).unwrap_or(usize::MAX);
        self.roster.metrics(series_max, self.limits.budget.committed_bytes())
    }

    /// Accepts links until the hub drains, and keeps the roster to what the operator says.
    pub fn serve(self: &Arc<Self>, listener: TcpListener) {
        self.tasks.spawn("tunnel-listener", accept::accept_loop(self.clone(), listener));
        self.tasks.spawn_until_stop("tunnel-orders", follow_orders(self.clone()));
        // Before the first link comes: none is to be taken for one that may sell at any price.
        self.roster.sell_at(self.prices.in_force(unix_ms_now()).map(|priced| priced.named));
        let (roster, prices, stop) = (self.roster.clone(), self.prices.clone(), self.tasks.stopping());
        self.tasks.spawn_until_stop("tunnel-prices", price_push::follow(roster, prices, stop));
        let gateway = self.clone();
        self.tasks.spawn_until_stop("agents-seen", async move {
            gateway.sightings.write_down(&gateway.registry.store, gateway.tasks.stopping()).await;
        });
    }
}

/// The operator's drains and revocations, and suspensions, reach links that are already up.
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
            // Agents are never deleted: one that is not in the snapshot joined after it was read.
            let Some(agent) = gateway.directory.agent(link.agent) else { continue };
            gateway.roster.accept_calls(&link, takes_calls(agent.state));
            if let Some(code) = shut_out(&agent) {
                link.handle.refuse(&refusal(code));
            }
        }
    }
}

/// Whether calls may go to an agent that is linked. One that joined a moment ago may still be
/// invited in the snapshot: its link is proof enough.
fn takes_calls(state: AgentState) -> bool {
    match state {
        AgentState::Invited | AgentState::Active => true,
        AgentState::Draining | AgentState::Revoked => false,
    }
}

/// Why this agent may have no link now, if so.
fn shut_out(agent: &Agent) -> Option<ErrorCode> {
    match agent.state {
        AgentState::Revoked => Some(ErrorCode::AgentRevoked),
        AgentState::Invited | AgentState::Active | AgentState::Draining => {
            let suspended = agent.suspended_until_unix_ms.is_some_and(|until| unix_ms_now() < until);
            suspended.then_some(ErrorCode::AgentSuspended)
        }
    }
}

fn refusal(code: ErrorCode) -> Refuse {
    let retry_after_ms = if code == ErrorCode::AgentSuspended {
        SUSPENDED_RETRY_MS
    } else if code == ErrorCode::LinkReplaced {
        REPLACED_RETRY_MS
    } else {
        0
    };
    Refuse { code: code.to_string(), message: code.cause().to_owned(), retry_after_ms }
}

fn limits(config: &Config) -> Limits {
    let limits = &config.limits;
    Limits {
        streams_max: usize::try_from(limits.link_streams_max).unwrap_or(usize::MAX),
        budget: Budget::new(usize::try_from(limits.link_bytes_max).unwrap_or(usize::MAX)),
        opens_per_second: limits.link_opens_per_second_max,
        resets_per_second: limits.link_resets_per_second_max,
        ..Limits::default()
    }
}
