//! A whole Keyhaven in one process for a test: hub and agent over the real tunnel on
//! loopback, in front of the recording upstream.
//!
//! Invariant: every house has ports and directories of its own, and ends when dropped.

use crate::prices;
use crate::upstream::Upstream;
use crate::upstream::vendor::Vendor;
use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use keyhaven_agent::provider::Egress;
use keyhaven_agent::vault::Vault;
use keyhaven_agent::vault::host::Account;
use keyhaven_agent::vault::host::AzureSuffix;
use keyhaven_agent::vault::key::Attestation;
use keyhaven_agent::vault::key::NewKey;
use keyhaven_agent::vault::unlock::Unlock;
use keyhaven_daemon::admin;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_hub::app::Hub;
use keyhaven_hub::keys::HubKeys;
use keyhaven_hub::keys::OfflineFiles;
use keyhaven_hub::registry::INVITATION_TTL;
use keyhaven_protocol::join_token::JoinToken;
use keyhaven_protocol::provider::Provider;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;
use tempfile::TempDir;

/// The Azure resource in every house.
pub const AZURE_RESOURCE: &str = "kit";

/// How long a house may take to stand.
const START_MAX: Duration = Duration::from_secs(20);

const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A running hub with one agent in front of an upstream.
pub struct House {
    /// The hub.
    pub hub: Hub,
    /// An API key of a consumer.
    pub api_key: String,
    /// The recording upstream behind the agent.
    pub upstream: Upstream,
    /// The hub's tasks.
    pub hub_tasks: Tasks,
    /// The agent's tasks.
    pub agent_tasks: Tasks,
    dir: TempDir,
    unreachable: Option<Vendor>,
}

/// What a test may change before a house is built.
#[derive(Default)]
pub struct Plan {
    /// The hub's configuration; addresses and the data directory are set by the house.
    pub hub: keyhaven_hub::config::Config,
    /// The agent's configuration.
    pub agent: keyhaven_agent::config::Config,
    /// A vendor at whose address nobody listens.
    pub unreachable: Option<Vendor>,
}

impl House {
    /// A house with default settings.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn build() -> Result<Self> {
        Self::build_as(Plan::default()).await
    }

    /// A house as planned, once the agent offers every vendor with its models.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn build_as(plan: Plan) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("keyhaven-house-").tempdir()?;
        let upstream = Upstream::start().await?;
        let hub_tasks = Tasks::new();
        let hub = start_hub(&dir.path().join("hub"), plan.hub, &hub_tasks).await?;
        let (_, api_key) = hub.registry.create_api_key("test", unix_ms_now()).await?;
        let api_key = api_key.reveal().to_owned();
        let agent_tasks = Tasks::new();
        let mut house = Self { hub, api_key, upstream, hub_tasks, agent_tasks, dir, unreachable: plan.unreachable };
        let egress = match plan.unreachable {
            Some(vendor) => egress_without(&house.upstream, vendor)?,
            None => egress(&house.upstream)?,
        };
        house.add_agent("agent", plan.agent, egress).await?;
        house.until_offered().await?;
        Ok(house)
    }

    /// Where consumers call: `http://127.0.0.1:port`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.hub.consumer)
    }

    /// The house's own directory: `hub` and `agent` are in it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A fresh join token for one more agent.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn invite(&self) -> Result<JoinToken> {
        let address = self.hub.tunnel.to_string();
        let invited = self.hub.registry.invite(None, &address, INVITATION_TTL, unix_ms_now()).await?;
        Ok(invited.token)
    }

    /// Joins and starts an agent with a key of every vendor, in the house's process.
    async fn add_agent(&mut self, name: &str, config: keyhaven_agent::config::Config, egress: Egress) -> Result<()> {
        let dir = self.dir.path().join(name);
        let token = self.invite().await?;
        let mut vault = vault_with_keys(&dir, &self.upstream)?;
        keyhaven_agent::enrol::join(&mut vault, &token, &egress).await?;
        let tasks = self.agent_tasks.clone();
        self.agent_tasks.spawn("agent", async move {
            if let Err(error) = keyhaven_agent::app::run(config, dir, vault, egress, tasks).await {
                panic!("the agent ended: {error:#}");
            }
        });
        Ok(())
    }

    /// Waits until every vendor is offered with its models.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn until_offered(&self) -> Result<()> {
        let began = Instant::now();
        // Azure's API does not list deployments, and the house's owner names none.
        let unlisted = |provider: Provider| {
            let unreachable = self.unreachable.is_some_and(|vendor| vendor.word() == provider.name());
            unreachable || provider == Provider::Azure
        };
        let offered = |provider: &Provider| {
            let seats = self.hub.roster.seats(*provider);
            seats.iter().any(|seat| unlisted(*provider) || !seat.models.is_empty())
        };
        while !Provider::ALL.iter().all(offered) {
            if began.elapsed() > START_MAX {
                bail!("the agent's offers did not come");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for tasks in [&self.agent_tasks, &self.hub_tasks] {
            tasks.draining().cancel();
            tasks.stopping().cancel();
        }
    }
}

/// Starts a hub with free ports in a directory, which it initialises and stocks if need be.
///
/// # Errors
/// What stands in the way.
pub async fn start_hub(dir: &Path, mut config: keyhaven_hub::config::Config, tasks: &Tasks) -> Result<Hub> {
    if !HubKeys::exist_in(dir)? {
        HubKeys::init(dir, OfflineFiles::default())?;
    }
    prices::stock_in(dir).await?;
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    config.data_dir = Some(dir.to_owned());
    config.consumer.listen = free;
    config.tunnel.listen = free;
    config.admin.listen = free;
    Hub::start(config, tasks, admin::detached_metrics()).await.context("start the hub")
}

/// Egress to the upstream for all official hosts.
///
/// # Errors
/// When the upstream's authority cannot be read.
pub fn egress(upstream: &Upstream) -> Result<Egress> {
    egress_by(upstream, |_| upstream.addr())
}

/// Egress to the upstream for all official hosts but those of one vendor.
fn egress_without(upstream: &Upstream, vendor: Vendor) -> Result<Egress> {
    // Bound and given back: nobody listens there.
    let closed = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    egress_by(upstream, |host| {
        if Vendor::from_host(&host.replace('*', "kit")) == Some(vendor) { closed } else { upstream.addr() }
    })
}

fn egress_by(upstream: &Upstream, addr: impl Fn(&str) -> SocketAddr) -> Result<Egress> {
    let hosts = ["api.openai.com", "api.anthropic.com", "api.deepseek.com", "*.openai.azure.com"];
    let routes = hosts.map(|host| (host.to_owned(), addr(host))).into();
    Ok(Egress::loopback(routes, &std::fs::read(upstream.ca_pem())?)?)
}

/// A new vault, opened by a key file, with the upstream's key of every vendor.
///
/// # Errors
/// When it cannot be written.
pub fn vault_with_keys(dir: &Path, upstream: &Upstream) -> Result<Vault> {
    keyhaven_agent::vault::create_dir(dir)?;
    let mut vault = Vault::create(dir, &Unlock::KeyFile)?;
    let azure =
        Account::Azure { resource: AZURE_RESOURCE.to_owned(), suffix: AzureSuffix::OpenAi, deployments: Vec::new() };
    let accounts = [
        (Account::OpenAi, Vendor::OpenAi),
        (azure, Vendor::Azure),
        (Account::Anthropic, Vendor::Anthropic),
        (Account::DeepSeek, Vendor::DeepSeek),
    ];
    for (account, vendor) in accounts {
        vault.add_key(NewKey {
            account,
            label: String::new(),
            secret: upstream.keys().of(vendor).into(),
            attestation: Some(Attestation { text: "a made-up key of a test".to_owned(), at_unix_ms: unix_ms_now() }),
            added_unix_ms: unix_ms_now(),
        })?;
    }
    Ok(vault)
}
