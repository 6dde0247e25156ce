//! Consumers' HTTP in, in the vendor's own shape.
//!
//! Invariant: bodies pass unchanged, and every answer that is ours has the vendor's
//! error shape and the call's id.

mod attempt;
mod body;
mod call;
mod call_ids;
mod connection;
mod held;
mod linger;
mod listen;
mod meters;
mod models;
mod order;
mod placing;
mod realtime;
mod refusal;
mod repoll;
mod request;
mod response;
mod silence;
mod tab;
mod ticket;
mod upload;
mod waiting;
mod watched_stream;
mod writes;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::provider::Provider;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::sync::broadcast;

use crate::agent_gateway::Roster;
use crate::config::Config;
use crate::consumer_api::ConsumerApi;
use crate::directory::Directory;
use crate::keys::HubKeys;
use crate::pricing::board::Prices;
use crate::settlement::Books;

pub use listen::ConsumerTls;

use call_ids::CallIds;
use held::HeldBytes;
use meters::Meters;
use waiting::WaitingRoom;

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The vendor's response reached its end.
    Served,
    /// The consumer left, or the response broke off.
    Aborted,
    /// We answered with an error of our own.
    Refused,
}

impl Outcome {
    /// As metrics and logs name it.
    const fn name(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Aborted => "aborted",
            Self::Refused => "refused",
        }
    }
}

/// One call that is over, for those who watch.
#[derive(Debug, Clone, Serialize)]
pub struct CallSummary {
    /// The call.
    pub call: CallId,
    /// When it began.
    pub began_unix_ms: u64,
    /// Method and path as the consumer sent them, without the query.
    pub request: String,
    /// The vendor, once it was known.
    pub provider: Option<Provider>,
    /// The model the request named.
    pub model: Option<String>,
    /// The agent that served it, or was the last to be tried.
    pub agent: Option<AgentId>,
    /// Seats it was tried on; more than one after a failover.
    pub attempts: u32,
    /// The status the consumer saw.
    pub status: u16,
    /// What became of it.
    pub outcome: Outcome,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body that were handed to the consumer's connection.
    pub response_bytes: u64,
    /// From the request's head to the response's head, in microseconds.
    pub first_byte_micros: u64,
    /// From the request's head to the end, in microseconds.
    pub total_micros: u64,
}

/// What calls are sold by.
pub struct Till {
    /// The prices in force.
    pub prices: Prices,
    /// Where money is set aside and settled.
    pub books: Books,
    /// What signs orders, and seals who pays.
    pub keys: Arc<HubKeys>,
}

/// Everything a call needs.
pub struct UserGateway {
    config: Config,
    directory: Directory,
    roster: Roster,
    prices: Prices,
    books: Books,
    keys: Arc<HubKeys>,
    consumer_api: ConsumerApi,
    held: HeldBytes,
    waiting: WaitingRoom,
    /// One for each consumer's connection.
    places: Arc<Semaphore>,
    calls: broadcast::Sender<CallSummary>,
    ids: CallIds,
    meters: Meters,
    served: AtomicU64,
    tasks: Tasks,
}

impl UserGateway {
    /// A gateway that listens on nothing yet.
    pub fn new(
        config: Config,
        directory: Directory,
        roster: Roster,
        till: Till,
        calls: broadcast::Sender<CallSummary>,
        tasks: Tasks,
    ) -> Arc<Self> {
        let Till { prices, books, keys } = till;
        let consumer_api = ConsumerApi::new(directory.clone(), books.clone(), prices.clone());
        let held = HeldBytes::new(config.consumer.held_body_bytes_max);
        let places = Arc::new(Semaphore::new(config.consumer.connections_max as usize));
        let waiting = WaitingRoom::new(config.calls.agent_waits_max, config.calls.agent_wait());
        Arc::new(Self {
            config,
            directory,
            roster,
            prices,
            books,
            keys,
            consumer_api,
            held,
            waiting,
            places,
            calls,
            ids: CallIds::new(),
            meters: Meters::default(),
            served: AtomicU64::new(0),
            tasks,
        })
    }

    /// Calls that have begun since the start.
    pub fn calls_begun(&self) -> u64 {
        self.served.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
