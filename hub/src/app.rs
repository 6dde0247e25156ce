//! The hub, put together: store, directory, roster, gateways, admin listener.
//!
//! Invariant: when `start` returns, every listener is bound and serving.

use std::net::SocketAddr;
use std::sync::Arc;

use keyhaven_daemon::admin;
use keyhaven_daemon::admin::Metrics;
use keyhaven_daemon::admin::Readiness;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::files::DirLock;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::ErrorCode;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio::sync::broadcast;
use tracing::info;
use tracing::warn;

use crate::agent_gateway::AgentGateway;
use crate::agent_gateway::Roster;
use crate::config::Config;
use crate::directory::Directory;
use crate::listening::Listening;
use crate::listening::file_path;
use crate::registry::Registry;
use crate::status;
use crate::status::About;
use crate::user_gateway::CallSummary;
use crate::user_gateway::ConsumerTls;
use crate::user_gateway::UserGateway;

/// Connections that wait in the kernel for their turn, as far as the kernel allows: all agents
/// dial at once after a restart.
const BACKLOG: u32 = 4096;

/// Calls that a watcher may lag behind before it misses some.
const CALLS_WATCHED_MAX: usize = 1024;

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
    calls: broadcast::Sender<CallSummary>,
    _lock: DirLock,
}

impl Hub {
    /// Starts a hub in a data directory that `init` has made. Its tasks end with `tasks`.
    ///
    /// # Errors
    /// What stands in the way, as a [`Failure`] inside.
    pub async fn start(mut config: Config, tasks: &Tasks, metrics: PrometheusHandle) -> anyhow::Result<Self> {
        config.check()?;
        let dir = config.data_dir();
        let lock = DirLock::claim(&dir)?;
        let registry = Registry::open(&dir, config.tunnel.key_file.as_deref()).await.map_err(Failure::from)?;
        let directory = Directory::start(registry.store.clone(), tasks).await.map_err(Failure::from)?;
        let tls = consumer_tls(&config)?;
        let consumer_listener = listen(config.consumer.listen)?;
        let tunnel_listener = listen(config.tunnel.listen)?;
        let admin_listener = listen(config.admin.listen)?;
        let hub = Self {
            consumer: consumer_listener.local_addr()?,
            tunnel: tunnel_listener.local_addr()?,
            admin: admin_listener.local_addr()?,
            registry: Arc::new(registry),
            roster: Roster::new(),
            calls: broadcast::Sender::new(CALLS_WATCHED_MAX),
            _lock: lock,
        };
        let listening = Listening::here(hub.consumer, hub.tunnel, hub.admin);
        listening.write(&dir).map_err(|error| {
            Failure::new(ErrorCode::DataDirUnusable, error.to_string()).at(file_path(&dir).display().to_string())
        })?;
        listening.fill_in(&mut config);
        let roster = hub.roster.clone();
        let agents =
            AgentGateway::new(config.clone(), hub.registry.clone(), directory.clone(), roster.clone(), tasks.clone());
        let agents = agents.map_err(|error| Failure::new(ErrorCode::ConfigInvalid, error.to_string()))?;
        agents.serve(tunnel_listener);
        let users = UserGateway::new(config.clone(), directory, roster.clone(), hub.calls.clone(), tasks.clone());
        users.serve(consumer_listener, tls);
        let consumer_url = config.consumer_url();
        let about = About {
            started_unix_ms: unix_ms_now(),
            fleet: hub.registry.keys.fleet().to_string(),
            consumer: consumer_url.clone(),
            tunnel: hub.tunnel,
            roster: roster.clone(),
            users,
        };
        let routes = status::routes(about);
        let admin_tasks = tasks.clone();
        let ready = move || {
            if roster.is_empty() { Readiness::not_ready("no agent is linked") } else { Readiness::ready() }
        };
        tasks.spawn_until_stop("admin", async move {
            let metrics = Metrics::new(metrics).with(move || agents.metrics());
            admin::serve(admin_listener, routes, ready, metrics, &admin_tasks).await
        });
        info!("consumers at {consumer_url}, agents at {}, admin at http://{}", hub.tunnel, hub.admin);
        Ok(hub)
    }

    /// Every call that ends from now on.
    pub fn watch_calls(&self) -> broadcast::Receiver<CallSummary> {
        self.calls.subscribe()
    }
}

/// Runs a hub until SIGTERM or SIGINT, then lets its calls finish; a second signal cuts them.
///
/// # Errors
/// What stands in the way of starting, as a [`Failure`] inside.
pub async fn serve(config: Config, tasks: Tasks, metrics: PrometheusHandle) -> anyhow::Result<()> {
    let grace = config.calls.drain_grace();
    let dir = config.data_dir();
    let hub = Hub::start(config, &tasks, metrics).await?;
    Tasks::signals().await;
    info!("draining: calls under way may finish within {} s", grace.as_secs());
    let cut_short = tasks.stopping();
    tokio::select! {
        () = tasks.shut_down(grace) => {}
        () = Tasks::signals() => {
            cut_short.cancel();
            tasks.shut_down(std::time::Duration::ZERO).await;
        }
    }
    hub.registry.store.close().await;
    if let Err(error) = Listening::remove(&dir) {
        warn!("{} stays behind: {error}", file_path(&dir).display());
    }
    Ok(())
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
