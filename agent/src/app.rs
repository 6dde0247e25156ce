//! The agent, put together: vault, prices, offers, relay, link, status.
//!
//! Invariant: it dials and never listens; what its command line knows of it is a file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::ticket::Seen;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Config;
use crate::hub_keys;
use crate::hub_keys::HubKeys;
use crate::link::LinkView;
use crate::link::Linker;
use crate::link::new_instance;
use crate::offers::Offers;
use crate::orders::Orders;
use crate::prices;
use crate::prices::PriceStore;
use crate::provider::Egress;
use crate::provider::VendorClient;
use crate::relay::Relay;
use crate::status::EgressKind;
use crate::status::SCHEMA;
use crate::status::Status;
use crate::status::StatusFile;
use crate::vault::Vault;
use crate::vault::identity::Identity;
use crate::vault::running::SharedVault;

/// How often `status.json` is written at the most, and while calls are under way.
const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// How often it is written at the least, so that a reader knows a living agent's.
const STATUS_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// How often connections to vendors are looked at that nobody uses.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);

/// Serves the hub's calls until `tasks` drain.
///
/// # Errors
/// A [`Failure`] inside: not joined, or the hub says that trying again is of no use.
pub async fn run(config: Config, dir: PathBuf, vault: Vault, egress: Egress, tasks: Tasks) -> anyhow::Result<()> {
    let identity = vault.identity().ok_or_else(|| Failure::new(ErrorCode::NotJoined, ""))?;
    let hub_keys = HubKeys::open(&dir.join(hub_keys::FILE_NAME), identity.fleet, &identity.hub_key);
    let hub_keys = hub_keys.map_err(Failure::from)?;
    let prices = PriceStore::open(&dir.join(prices::DIR_NAME), hub_keys.clone()).map_err(Failure::from)?;
    let vault = SharedVault::new(vault);
    let offers = Offers::new(&vault);
    offers.follow(vault.clone(), VendorClient::new(&egress, config.calls.vendor_connect_timeout()), &tasks);
    let tier_floor = Ppm(config.calls.tier_min_ppm);
    let orders = Orders::new(identity.agent, hub_keys.clone(), prices.clone(), tier_floor, Seen::default());
    let calls = config.calls.clone();
    let relay = Relay::new(vault.clone(), &egress, calls, offers.clone(), orders, prices.clone(), tasks.stopping());
    tasks.spawn_until_stop("vendor connections", sweep(relay.clone(), tasks.stopping()));
    let view = LinkView::default();
    let reporter = Reporter {
        identity,
        egress: egress.declared(),
        offers: offers.clone(),
        relay: relay.clone(),
        view: view.clone(),
        started_unix_ms: unix_ms_now(),
        file: StatusFile::new(&dir),
    };
    tasks.spawn_until_stop("status", report(reporter, tasks.clone()));
    let backoff = (config.link.backoff_first(), config.link.backoff_max());
    let instance = new_instance().map_err(Failure::from)?;
    let drain_grace = config.calls.drain_grace();
    let linker = Linker { vault, egress, relay, offers, hub_keys, prices, view, backoff, drain_grace, instance, tasks };
    Ok(Arc::new(linker).run().await?)
}

/// Runs until SIGTERM or SIGINT, then lets calls under way finish; a second signal cuts them.
///
/// # Errors
/// As [`run`].
pub async fn serve(config: Config, dir: PathBuf, vault: Vault, egress: Egress) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let grace = config.calls.drain_grace();
    let serving = run(config, dir, vault, egress, tasks.clone());
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => {
            tasks.shut_down(Duration::ZERO).await;
            return ended;
        }
        () = Tasks::signals() => {}
    }
    // What dials ends as soon as the agent drains; links and calls, and the status, do not.
    let (ended, ()) = tokio::join!(serving, wind_up(&tasks, grace));
    ended
}

async fn wind_up(tasks: &Tasks, grace: Duration) {
    tokio::select! {
        () = tasks.shut_down(grace) => {}
        () = Tasks::signals() => {
            tasks.stopping().cancel();
            tasks.shut_down(Duration::ZERO).await;
        }
    }
}

async fn sweep(relay: Arc<Relay>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = relay.has_idle_connections() => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP_INTERVAL) => relay.sweep(),
        }
    }
}

struct Reporter {
    identity: Identity,
    egress: frame::Egress,
    offers: Offers,
    relay: Arc<Relay>,
    view: LinkView,
    started_unix_ms: u64,
    file: StatusFile,
}

async fn report(reporter: Reporter, tasks: Tasks) {
    let stopping = tasks.stopping();
    let mut offers_changed = reporter.offers.changed();
    let mut failed = false;
    loop {
        offers_changed.mark_unchanged();
        let status = reporter.status();
        let written = reporter.file.write(&status);
        if let (Err(error), false) = (&written, failed) {
            warn!("status.json cannot be written: {error}");
        }
        failed = written.is_err();
        let something_new = async {
            tokio::time::sleep(STATUS_PAUSE).await;
            if failed || !status.is_at_rest() {
                return;
            }
            tokio::select! {
                () = reporter.view.changed() => {}
                _ = offers_changed.changed() => {}
                () = tokio::time::sleep(STATUS_INTERVAL_MAX - STATUS_PAUSE) => {}
            }
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            () = something_new => {}
        }
    }
    if let Err(error) = reporter.file.remove() {
        warn!("status.json stays behind: {error}");
    }
}

impl Reporter {
    fn status(&self) -> Status {
        Status {
            schema: SCHEMA.to_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_ms: self.started_unix_ms,
            written_unix_ms: unix_ms_now(),
            agent: self.identity.agent,
            hub_address: self.identity.hub_address.clone(),
            link: self.view.status(),
            egress: match self.egress {
                frame::Egress::Official => EgressKind::Official,
                frame::Egress::Loopback => EgressKind::Loopback,
            },
            offers: self.offers.status(),
            calls: self.relay.totals(),
        }
    }
}
