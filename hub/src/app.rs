//! The hub, put together: store, directory, prices, roster, gateways, admin listener.
//!
//! Invariant: when `start` returns, every listener is bound and serving.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyhaven_daemon::admin;
use keyhaven_daemon::admin::Metrics;
use keyhaven_daemon::admin::Readiness;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::files::DirLock;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::provider::Provider;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio::time::timeout;
use tracing::info;
use tracing::warn;

use crate::agent_gateway::AgentGateway;
use crate::agent_gateway::Roster;
use crate::config::Config;
use crate::directory::Directory;
use crate::handover;
use crate::handover::Belongings;
use crate::handover::Offer;
use crate::handover::Predecessor;
use crate::handover::Relieved;
use crate::handover::Taken;
use crate::listening::Listening;
use crate::listening::file_path;
use crate::pricing::board::Prices;
use crate::registry::Registry;
use crate::settlement::BookKeys;
use crate::settlement::BookRules;
use crate::settlement::Books;
use crate::settlement::Others;
use crate::status;
use crate::status::About;
use crate::store::Engine;
use crate::user_gateway::CallSummary;
use crate::user_gateway::ConsumerTls;
use crate::user_gateway::Till;
use crate::user_gateway::UserGateway;

/// Connections that wait in the kernel for their turn, as far as the kernel allows: all agents
/// dial at once after a restart.
const BACKLOG: u32 = 4096;

/// Calls that a watcher may lag behind before it misses some.
const CALLS_WATCHED_MAX: usize = 1024;

/// How often a hub that shall be replaced looks whether its agents have come.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A running hub.
pub struct Hub {
    /// Where consumers are served.
    pub consumer: SocketAddr,
    /// Where agents are served.
    pub tunnel: SocketAddr,
    /// Where health, metrics and status are.
    pub admin: SocketAddr,
    /// Keys and database, for those who invite agents or make API keys in process.
    pub registry: Arc<Registry>,
    /// The live links.
    pub roster: Roster,
    /// The prices in force, zones and tiers.
    pub prices: Prices,
    /// What calls cost.
    pub books: Books,
    calls: broadcast::Sender<CallSummary>,
    users: Arc<UserGateway>,
    lock: DirLock,
}

impl Hub {
    /// Starts a hub in a data directory that `init` has made. Its tasks end with `tasks`.
    ///
    /// # Errors
    /// What stands in the way, as a [`Failure`] inside.
    pub async fn start(config: Config, tasks: &Tasks, metrics: PrometheusHandle) -> anyhow::Result<Self> {
        let (hub, _) = Self::start_with(config, None, tasks, metrics).await?;
        Ok(hub)
    }

    /// The same in the place of a hub that runs; returns too what can be given on.
    async fn start_with(
        mut config: Config,
        runs: Option<(Taken, Predecessor)>,
        tasks: &Tasks,
        metrics: PrometheusHandle,
    ) -> anyhow::Result<(Self, Belongings)> {
        config.check()?;
        let dir = config.data_dir();
        let others = if runs.is_some() { Others::MayLive } else { Others::None };
        let (mut lock, [consumer, tunnel, admin], predecessor) = match runs {
            Some((taken, predecessor)) => {
                (taken.lock, [Some(taken.consumer), Some(taken.tunnel), Some(taken.admin)], Some(predecessor))
            }
            None => (DirLock::claim(&dir)?, [None, None, None], None),
        };
        let registry = Registry::open_with(&dir, config.tunnel.key_file.as_deref(), &config.database).await;
        let registry = registry.map_err(Failure::from)?;
        let others = match registry.store.engine() {
            Engine::Sqlite => others,
            // Hubs with other data directories may use the same database.
            Engine::MySql => Others::MayLive,
        };
        let directory = Directory::start(registry.store.clone(), tasks).await.map_err(Failure::from)?;
        let signer = registry.keys.signer().clone();
        let prices =
            Prices::start(registry.store.clone(), signer, directory.changed(), tasks).await.map_err(Failure::from)?;
        let keys = BookKeys {
            signing: registry.keys.signing_key().clone(),
            list: Arc::new(registry.keys.signer().list().clone()),
            archive: registry.keys.archive_key().clone(),
        };
        let rules = BookRules { orphan_budget: NanoUsd(config.owners.orphan_budget_nano_usd) };
        let books = Books::start(registry.store.clone(), others, keys, rules, tasks).await.map_err(Failure::from)?;
        let tls = consumer_tls(&config)?;
        let consumer_listener = listen_on(config.consumer.listen, consumer)?;
        let tunnel_listener = listen_on(config.tunnel.listen, tunnel)?;
        let admin_listener = listen_on(config.admin.listen, admin)?;
        let copy = |file: &dyn AsFd| file.as_fd().try_clone_to_owned();
        let belongings = Belongings {
            consumer: copy(&consumer_listener)?,
            tunnel: copy(&tunnel_listener)?,
            admin: copy(&admin_listener)?,
            lock: OwnedFd::from(lock.copy()?),
        };
        let (consumer, tunnel) = (consumer_listener.local_addr()?, tunnel_listener.local_addr()?);
        let admin = admin_listener.local_addr()?;
        let registry = Arc::new(registry);
        let roster = Roster::new();
        let calls = broadcast::Sender::new(CALLS_WATCHED_MAX);
        let listening = Listening::here(consumer, tunnel, admin);
        listening.fill_in(&mut config);
        let agents = AgentGateway::new(
            config.clone(),
            registry.clone(),
            directory.clone(),
            prices.clone(),
            books.clone(),
            roster.clone(),
            tasks.clone(),
        );
        let agents = agents.map_err(|error| Failure::new(ErrorCode::ConfigInvalid, error.to_string()))?;
        let till = Till { prices: prices.clone(), books: books.clone(), keys: registry.keys.clone() };
        let users = UserGateway::new(config.clone(), directory, roster.clone(), till, calls.clone(), tasks.clone());
        let earlier = Listening::read(&dir).ok().flatten();
        listening.write(&dir).map_err(|error| {
            Failure::new(ErrorCode::DataDirUnusable, error.to_string()).at(file_path(&dir).display().to_string())
        })?;
        if let Some(predecessor) = predecessor {
            // Everything that can fail here has succeeded.
            lock = match relieve(predecessor, lock, &dir).await {
                Ok(lock) => lock,
                Err(failure) => {
                    // It runs on, where it did before; that file missing would be the lesser harm.
                    let _ = earlier.map(|earlier| earlier.write(&dir));
                    return Err(failure.into());
                }
            };
        }
        agents.serve(tunnel_listener);
        users.serve(consumer_listener, tls);
        let consumer_url = config.consumer_url();
        let about = About {
            started_unix_ms: unix_ms_now(),
            fleet: registry.keys.fleet().to_string(),
            consumer: consumer_url.clone(),
            tunnel,
            roster: roster.clone(),
            users: users.clone(),
        };
        let hub = Self {
            consumer,
            tunnel,
            admin,
            registry,
            roster: roster.clone(),
            prices,
            books: books.clone(),
            calls,
            users,
            lock,
        };
        let routes = status::routes(about);
        let admin_tasks = tasks.clone();
        let ready = move || {
            let ready = if roster.is_empty() { Readiness::not_ready("no agent is linked") } else { Readiness::ready() };
            books.trouble().into_iter().fold(ready, Readiness::and)
        };
        tasks.spawn_until_stop("admin", async move {
            let metrics = Metrics::new(metrics).with(move || agents.metrics());
            admin::serve(admin_listener, routes, ready, metrics, &admin_tasks).await
        });
        info!("consumers at {consumer_url}, agents at {}, admin at http://{}", hub.tunnel, hub.admin);
        Ok((hub, belongings))
    }

    /// Every call that ends from now on.
    pub fn watch_calls(&self) -> broadcast::Receiver<CallSummary> {
        self.calls.subscribe()
    }
}

/// Runs a hub until SIGTERM or SIGINT, or until another process replaces it, then lets its
/// calls finish; a second signal cuts them. If it `replaces`, it takes over from the hub that
/// runs on the same data directory, or just starts where none does.
///
/// # Errors
/// What stands in the way of starting, as a [`Failure`] inside.
pub async fn serve(config: Config, replaces: bool, tasks: Tasks, metrics: PrometheusHandle) -> anyhow::Result<()> {
    let mut grace = config.calls.drain_grace();
    let dir = config.data_dir();
    let runs = if replaces { take_over(&dir).await? } else { None };
    let (mut hub, belongings) = Hub::start_with(config, runs, &tasks, metrics).await?;
    let offer = Offer::open(&dir, belongings).inspect_err(|error| {
        warn!(%error, "`serve --replace` will not find this hub: {}: {error}", handover::socket_path(&dir).display());
    });
    let replaced = tokio::select! {
        () = Tasks::signals() => false,
        () = replaced(&hub.roster, offer.as_ref().ok()) => true,
    };
    drop(offer);
    if replaced {
        hub.lock.is_shared_now();
        info!(
            "replaced by another process: calls on connections that are here may finish within {} s",
            grace.as_secs()
        );
        let began = Instant::now();
        tasks.leave();
        tokio::select! {
            // Whether the grace sufficed makes no difference to what follows.
            _ = timeout(grace, hub.users.last_consumer_gone()) => {}
            () = Tasks::signals() => {}
        }
        grace = grace.saturating_sub(began.elapsed());
    }
    info!("draining: calls under way may finish within {} s", grace.as_secs());
    let cut_short = tasks.stopping();
    tokio::select! {
        () = tasks.shut_down(grace) => {}
        () = Tasks::signals() => {
            cut_short.cancel();
            tasks.shut_down(Duration::ZERO).await;
        }
    }
    hub.registry.store.close().await;
    let is_ours = Listening::read(&dir).ok().flatten().is_some_and(|listening| listening.pid == std::process::id());
    // Otherwise these are the next process's.
    if is_ours && let Err(error) = Listening::remove(&dir).and(handover::remove(&dir)) {
        warn!("{} stays behind: {error}", file_path(&dir).display());
    }
    Ok(())
}

/// What the hub that runs here gives; none: no hub runs here.
async fn take_over(dir: &Path) -> Result<Option<(Taken, Predecessor)>, Failure> {
    let failed = |failure: Failure| failure.at(dir.display().to_string());
    if let Some(taken) = handover::ask(dir).await.map_err(|error| failed(error.into()))? {
        return Ok(Some(taken));
    }
    let lock = DirLock::claim(dir).map_err(|failure| {
        if failure.code() != ErrorCode::AlreadyRunning {
            return failure;
        }
        failure.fix("the hub that runs here is too old to be replaced, or its handover.sock is gone: stop it first")
    })?;
    drop(lock);
    info!("no hub runs in {}: there is none to replace", dir.display());
    Ok(None)
}

/// From now on this process is the hub. Returns the lock as it is held then.
async fn relieve(predecessor: Predecessor, lock: DirLock, dir: &Path) -> Result<DirLock, Failure> {
    match predecessor.relieve(dir).await? {
        Relieved::Leaves => {
            info!("replaced the hub that ran here; its last calls finish there");
            Ok(lock)
        }
        Relieved::HadEnded => {
            warn!("the hub that ran here ended meanwhile");
            // It may have freed the lock, not knowing of us.
            let taken = lock.copy().and_then(DirLock::take_part);
            taken.map_err(|error| {
                Failure::new(ErrorCode::AlreadyRunning, error.to_string()).at(dir.display().to_string())
            })
        }
    }
}

/// Ready when another process serves in the place of this one.
async fn replaced(roster: &Roster, offer: Option<&Offer>) {
    let Some(offer) = offer else { return std::future::pending().await };
    // Calls that wait here for an agent would wait in vain: it dials the next hub.
    let waits = |provider: &Provider| roster.expects(*provider) && !roster.offers(*provider);
    while Provider::ALL.iter().any(waits) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    offer.taken().await;
}

fn consumer_tls(config: &Config) -> anyhow::Result<Option<ConsumerTls>> {
    let (Some(certificate), Some(key)) = (&config.consumer.tls_certificate_file, &config.consumer.tls_key_file) else {
        return Ok(None);
    };
    let tls = ConsumerTls::load(certificate, key).map_err(|error| {
        Failure::new(ErrorCode::ConfigInvalid, error.to_string()).at(certificate.display().to_string())
    })?;
    Ok(Some(tls))
}

/// The listener of a hub that was replaced, as long as its address is still the one to use.
fn listen_on(address: SocketAddr, taken: Option<std::net::TcpListener>) -> Result<TcpListener, Failure> {
    let is_meant = |used: SocketAddr| used == address || (address.port() == 0 && used.ip() == address.ip());
    match taken {
        Some(taken) if taken.local_addr().is_ok_and(is_meant) => {
            let taken = taken.set_nonblocking(true).and_then(|()| TcpListener::from_std(taken));
            taken.map_err(|error| Failure::new(ErrorCode::ListenFailed, error.to_string()).at(address.to_string()))
        }
        _ => listen(address),
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(ErrorCode::ListenFailed, error.to_string()).at(address.to_string());
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(failed)
}
