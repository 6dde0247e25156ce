//! Hub, agent and sample vendor under one roof, joined by the real tunnel.
//!
//! Invariant: the agent's way out is official, or leads to loopback; which of the two is decided
//! here, once, and nothing that is read later changes it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use keyhaven_agent::provider::Egress;
use keyhaven_agent::status::KeyState;
use keyhaven_agent::status::StatusFile;
use keyhaven_agent::vault::Vault;
use keyhaven_agent::vault::host::Account;
use keyhaven_agent::vault::identity::Identity;
use keyhaven_agent::vault::unlock::Unlock;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::files::DirLock;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_hub::agent_gateway::Seat;
use keyhaven_hub::app::Hub;
use keyhaven_hub::keys::HubKeys;
use keyhaven_hub::registry::Registry;
use keyhaven_hub::registry::RegistryError;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::join_token::JoinToken;
use keyhaven_protocol::provider::Provider;
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;
use tokio::sync::oneshot;
use tracing::info;
use tracing::warn;

use crate::arguments::RealVendor;
use crate::arguments::Upstream;
use crate::home::Home;
use crate::hub_settings::HubSettings;
use crate::prices;
use crate::sample_vendor::SampleVendor;
use crate::vendor_keys;
use crate::vendor_keys::RealKey;

/// How long the printed join token is good.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// How long the demo's own join token is good: it is used at once.
const OWN_TOKEN_TTL: Duration = Duration::from_secs(60);

/// For the agent's offers to reach the hub.
const OFFERS_TIME_MAX: Duration = Duration::from_secs(15);

/// For the models in them: an upstream of other people's need not list any.
const MODELS_TIME_MAX: Duration = Duration::from_secs(3);

const POLL: Duration = Duration::from_millis(10);

/// What agent and sample vendor may take to end after the hub has.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// The tasks of each member, so that they end in order.
#[derive(Default)]
pub(crate) struct Lives {
    hub: Tasks,
    agent: Tasks,
    vendor: Tasks,
}

impl Lives {
    /// Lets calls finish within `grace`; then the hub ends, the agent, and the vendor last.
    pub(crate) async fn end(&self, grace: Duration) {
        // Or the agent would look for a hub to replace the one that drains.
        self.agent.draining().cancel();
        self.hub.shut_down(grace).await;
        self.agent.shut_down(END_TIME_MAX).await;
        self.vendor.shut_down(END_TIME_MAX).await;
    }

    /// Calls that have not finished are cut.
    pub(crate) fn cut(&self) {
        for tasks in [&self.hub, &self.agent, &self.vendor] {
            tasks.stopping().cancel();
        }
    }
}

/// Everything, running.
pub(crate) struct Household {
    /// The hub.
    pub(crate) hub: Hub,
    /// The root of what consumers call.
    pub(crate) base_url: String,
    /// A consumer's key.
    pub(crate) api_key: SecretString,
    /// For one more agent.
    pub(crate) join_token: SecretString,
    /// The resource of the Azure key, if there is one.
    pub(crate) azure_resource: Option<String>,
    /// The vendors that the agent's calls can reach, the one for the first call at the front.
    pub(crate) reachable: Vec<Provider>,
    /// This household's own agent.
    pub(crate) agent: AgentId,
    agent_status: StatusFile,
    agent_end: oneshot::Receiver<anyhow::Result<()>>,
    _agent_lock: DirLock,
}

/// What the agent works with.
struct Furnished {
    vault: Vault,
    egress: Egress,
    accounts: Vec<Account>,
    reachable: Vec<Provider>,
}

impl Household {
    /// Starts everyone, and returns once the agent's offers are in the hub's roster.
    ///
    /// # Errors
    /// What stands in the way, as a [`Failure`] inside.
    pub(crate) async fn start(
        settings: HubSettings,
        upstream: &Upstream,
        real_key: Option<RealKey>,
        home: &Home,
        metrics: PrometheusHandle,
        lives: &mut Lives,
    ) -> anyhow::Result<Self> {
        let dir = home.agent();
        keyhaven_agent::vault::create_dir(&dir).map_err(Failure::from)?;
        let agent_lock = DirLock::claim(&dir)?;
        let vault = open_or_create(&dir)?;
        let mut agent = furnish(vault, upstream, real_key, lives).await?;
        let hub = start_hub(settings.clone(), agent.vault.identity(), metrics, lives).await?;
        let identity = enrol(&mut agent, &hub).await?;

        let (sender, agent_end) = oneshot::channel();
        let config = keyhaven_agent::config::Config { data_dir: Some(dir.clone()), ..Default::default() };
        let running = keyhaven_agent::app::run(config, dir, agent.vault, agent.egress, lives.agent.clone());
        lives.agent.spawn("agent", async move {
            // Nobody listens once the household has ended.
            let _ = sender.send(running.await);
        });
        let scheme = if settings.config.consumer.tls_certificate_file.is_some() { "https" } else { "http" };
        let mut household = Self {
            base_url: format!("{scheme}://{}", hub.consumer),
            api_key: new_api_key(&hub.registry).await?,
            join_token: invite(&hub.registry, hub.tunnel, TOKEN_TTL).await?.encode().into(),
            azure_resource: vendor_keys::azure_resource(&agent.accounts),
            reachable: agent.reachable,
            agent: identity.agent,
            agent_status: StatusFile::new(&home.agent()),
            hub,
            agent_end,
            _agent_lock: agent_lock,
        };
        household.await_offers(&agent.accounts).await?;
        Ok(household)
    }

    /// Waits for the agent's end, which is an error whenever it comes by itself.
    pub(crate) async fn agent_ended(&mut self) -> anyhow::Error {
        match (&mut self.agent_end).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => Failure::new(ErrorCode::Internal, "the demo's agent ended").into(),
        }
    }

    /// What the household's own agent offers of a vendor.
    pub(crate) fn seat(&self, provider: Provider) -> Option<Seat> {
        self.hub
            .roster
            .seats(provider)
            .iter()
            .find(|seat| seat.link.agent == self.agent && seat.link.is_open())
            .cloned()
    }

    async fn await_offers(&mut self, accounts: &[Account]) -> anyhow::Result<()> {
        let begun = tokio::time::Instant::now();
        while !self.reachable.iter().all(|provider| self.is_settled(*provider, accounts, begun.elapsed())) {
            if begun.elapsed() > OFFERS_TIME_MAX {
                break;
            }
            tokio::select! {
                error = self.agent_ended() => return Err(error),
                () = tokio::time::sleep(POLL) => {}
            }
        }
        let offered = |provider: &&Provider| self.seat(**provider).is_some();
        let missing: Vec<&str> =
            self.reachable.iter().filter(|provider| !offered(provider)).map(|provider| provider.name()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let detail = format!("the agent cannot offer {}", missing.join(", "));
        if missing.len() < self.reachable.len() {
            warn!("{detail}: `--upstream-map` leads to an upstream that refuses the made-up key");
            return Ok(());
        }
        let refused = self.reachable.iter().any(|provider| self.state_of(*provider) == Some(KeyState::Rejected));
        let code = if refused { ErrorCode::VendorRefusedKey } else { ErrorCode::NoAgent };
        Err(Failure::new(code, detail).into())
    }

    /// Whether it is known what there will be of a vendor's offer.
    fn is_settled(&self, provider: Provider, accounts: &[Account], waited: Duration) -> bool {
        match (self.state_of(provider), self.seat(provider)) {
            (Some(KeyState::Rejected | KeyState::Exhausted), _) => true,
            (Some(KeyState::Ok | KeyState::Unreachable) | None, None) => false,
            (Some(KeyState::Unreachable), Some(_)) => true,
            (Some(KeyState::Ok) | None, Some(seat)) => {
                !seat.models.is_empty() || !lists_models(accounts, provider) || waited > MODELS_TIME_MAX
            }
        }
    }

    /// What came of the agent's own asking, once it has written so.
    fn state_of(&self, provider: Provider) -> Option<KeyState> {
        // A file that cannot be read says nothing; the time that is waited is bounded anyhow.
        let status = self.agent_status.read().ok().flatten().filter(|status| status.pid == std::process::id())?;
        status.offers.iter().find(|offer| offer.provider == provider).map(|offer| offer.state)
    }
}

/// Whether an upstream of this vendor can be expected to list models.
fn lists_models(accounts: &[Account], provider: Provider) -> bool {
    accounts.iter().filter(|account| account.provider() == provider).any(|account| match account {
        Account::Azure { deployments, .. } => !deployments.is_empty(),
        Account::OpenAi | Account::Anthropic | Account::DeepSeek => true,
    })
}

/// Decides the agent's way out, and puts the keys for it in the vault.
async fn furnish(
    mut vault: Vault,
    upstream: &Upstream,
    real_key: Option<RealKey>,
    lives: &Lives,
) -> anyhow::Result<Furnished> {
    match upstream {
        Upstream::Sample => {
            let accounts = vendor_keys::sample_accounts();
            let keys = vendor_keys::put_made_up(&mut vault, accounts.clone())?;
            let vendor = SampleVendor::start(keys, &lives.vendor).await.context("start the sample vendor")?;
            let egress = Egress::loopback(vendor.routes(), vendor.ca_pem.as_bytes());
            let egress = egress.context("reach the sample vendor")?;
            Ok(Furnished { vault, egress, accounts, reachable: Provider::ALL.to_vec() })
        }
        Upstream::Mapped { routes, ca_file } => {
            let place = ca_file.display().to_string();
            let refused =
                |error: &dyn std::fmt::Display| Failure::new(ErrorCode::UsageInvalid, error.to_string()).at(&*place);
            let pem = tokio::fs::read(ca_file).await.map_err(|error| refused(&error))?;
            let table = routes.iter().map(|route| (route.host.to_string(), route.address)).collect();
            let egress = Egress::loopback(table, &pem).map_err(|error| refused(&error))?;
            let accounts = vendor_keys::mapped_accounts(routes);
            vendor_keys::put_made_up(&mut vault, accounts.clone())?;
            let is_mapped = |provider: &&Provider| routes.iter().any(|route| route.host.provider() == **provider);
            let reachable = Provider::ALL.iter().filter(is_mapped).copied().collect();
            Ok(Furnished { vault, egress, accounts, reachable })
        }
        Upstream::Real { vendor, .. } => {
            let egress = Egress::official();
            vendor_keys::put_real(&mut vault, *vendor, real_key)?;
            try_real_key(&vault, *vendor, &egress).await?;
            Ok(Furnished { vault, egress, accounts: Vec::new(), reachable: vec![vendor.provider()] })
        }
    }
}

/// Says at once what is wrong with a real key; asking for the list of models costs nothing.
async fn try_real_key(vault: &Vault, vendor: RealVendor, egress: &Egress) -> anyhow::Result<()> {
    let mut keys = vault.keys().into_iter().filter(|key| key.provider == vendor.provider());
    let key = keys.next().ok_or_else(|| Failure::new(ErrorCode::VaultKeyUnknown, vendor.provider().title()))?;
    keyhaven_agent::provider::test_key(egress, vault, key.id).await?;
    Ok(())
}

/// Starts the hub, a new one if need be. When nobody asked for the port that is taken, another will
/// do: the consumers' by default, and the one the tunnel had the last time.
async fn start_hub(
    settings: HubSettings,
    known: Option<Identity>,
    metrics: PrometheusHandle,
    lives: &mut Lives,
) -> anyhow::Result<Hub> {
    let dir = settings.config.data_dir();
    if let Some(keys) = HubKeys::init_if_empty(&dir).map_err(Failure::from)? {
        info!(fleet.id = %keys.fleet(), "made a hub of fleet {}", keys.fleet());
    }
    // Before the hub starts: one that runs learns of prices only after a moment, and would refuse the first call.
    let registry = Registry::open(&dir, settings.config.tunnel.key_file.as_deref()).await.map_err(Failure::from)?;
    let published = prices::publish(&registry).await;
    registry.store.close().await;
    published?;
    let mut config = settings.config;
    let before = known.and_then(|identity| identity.hub_address.parse::<SocketAddr>().ok());
    let before = before.filter(|address| settings.tunnel_may_move && address.ip().is_loopback());
    if let Some(before) = before {
        config.tunnel.listen = before;
    }
    let taken = match Hub::start(config.clone(), &lives.hub, metrics.clone()).await {
        Ok(hub) => return Ok(hub),
        Err(error) => error,
    };
    let was_taken = taken.downcast_ref::<Failure>().is_some_and(|failure| failure.code() == ErrorCode::ListenFailed);
    if !was_taken || !(settings.consumer_may_move || before.is_some()) {
        return Err(taken);
    }
    // What the attempt began must not go on beside the hub that comes next.
    lives.hub.shut_down(Duration::ZERO).await;
    lives.hub = Tasks::new();
    if settings.consumer_may_move && !is_free(config.consumer.listen) {
        config.consumer.listen.set_port(0);
    }
    if before.is_some_and(|before| !is_free(before)) {
        config.tunnel.listen.set_port(0);
    }
    Hub::start(config, &lives.hub, metrics).await
}

fn is_free(address: SocketAddr) -> bool {
    std::net::TcpListener::bind(address).is_ok()
}

/// The agent joins the hub, or finds it again.
async fn enrol(agent: &mut Furnished, hub: &Hub) -> anyhow::Result<Identity> {
    let Some(mut identity) = agent.vault.identity() else {
        let token = invite(&hub.registry, hub.tunnel, OWN_TOKEN_TTL).await?;
        return keyhaven_agent::enrol::join(&mut agent.vault, &token, &agent.egress).await;
    };
    if identity.fleet != hub.registry.keys.fleet() {
        let failure = Failure::new(ErrorCode::DataDirUnusable, "the agent in it belongs to another hub");
        return Err(failure.at("--data-dir").fix("remove its directory `agent`, or give another --data-dir").into());
    }
    let address = hub.tunnel.to_string();
    if identity.hub_address != address {
        identity.hub_address = address;
        let key = agent.vault.signing_key().map_err(Failure::from)?;
        agent.vault.set_identity(&identity, &key).map_err(Failure::from)?;
    }
    Ok(identity)
}

async fn invite(registry: &Registry, tunnel: SocketAddr, ttl: Duration) -> Result<JoinToken, RegistryError> {
    let invited = registry.invite(None, &tunnel.to_string(), ttl, unix_ms_now()).await?;
    Ok(invited.token)
}

async fn new_api_key(registry: &Registry) -> Result<SecretString, Failure> {
    let (_, key) = registry.create_api_key("demo", unix_ms_now()).await?;
    Ok(SecretString::from(key.reveal()))
}

fn open_or_create(dir: &Path) -> Result<Vault, Failure> {
    if Vault::exists(dir) { Ok(Vault::open(dir, &Unlock::KeyFile)?) } else { Ok(Vault::create(dir, &Unlock::KeyFile)?) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clap::Parser;
    use http::Request;
    use http::Response;
    use http::StatusCode;
    use http_body_util::BodyExt;
    use http_body_util::Full;
    use hyper::body::Incoming;
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use keyhaven_daemon::admin;
    use secrecy::ExposeSecret;
    use serde_json::Value;

    use super::*;
    use crate::arguments::Arguments;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_plain_and_a_streamed_call_pass_through_hub_tunnel_and_agent() {
        let home = Home::open(None).unwrap();
        let mut lives = Lives::default();
        let household = start(&home, &mut lives).await.unwrap();

        let plain = r#"{"model":"claude-haiku-4-5","max_tokens":9,"messages":[{"role":"user","content":"plainly"}]}"#;
        let response = post(&household, "/v1/messages", "x-api-key", plain).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.headers().contains_key("keyhaven-call-id"));
        assert!(!response.headers().contains_key("anthropic-organization-id"));
        let answer: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert!(answer["content"][0]["text"].as_str().unwrap().contains("plainly"), "{answer}");

        let streamed = r#"{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"word by word"}]}"#;
        let response = post(&household, "/v1/chat/completions", "authorization", streamed).await;
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap());
        }
        assert!(pieces.len() > 20, "{} pieces", pieces.len());
        assert!(pieces.concat().ends_with(b"data: [DONE]\n\n"));
        lives.end(Duration::ZERO).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_vendor_is_offered_and_azure_by_its_resource() {
        let home = Home::open(None).unwrap();
        let mut lives = Lives::default();
        let household = start(&home, &mut lives).await.unwrap();
        let body = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}"#;

        for provider in Provider::ALL {
            assert!(!household.seat(*provider).unwrap().models.is_empty(), "{provider}");
        }
        let resource = household.azure_resource.clone().unwrap();
        let path = format!("/via/azure/{resource}/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21");
        assert_eq!(post(&household, &path, "api-key", body).await.status(), StatusCode::OK);
        lives.end(Duration::ZERO).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_kept_household_is_the_same_the_next_time() {
        let kept = tempfile::tempdir().unwrap();
        let mut agents = Vec::new();
        for _ in 0..2 {
            let home = Home::open(Some(kept.path())).unwrap();
            let mut lives = Lives::default();
            let household = start(&home, &mut lives).await.unwrap();
            agents.push(household.agent);
            lives.end(Duration::ZERO).await;
            household.hub.registry.store.close().await;
        }

        assert_eq!(agents[0], agents[1]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_upstream_that_refuses_the_made_up_keys_is_told_at_once() {
        let home = Home::open(None).unwrap();
        let mut lives = Lives::default();
        let stranger = SampleVendor::start(Vec::new(), &lives.vendor).await.unwrap();
        let ca_file = home.dir().join("ca.pem");
        std::fs::write(&ca_file, &stranger.ca_pem).unwrap();
        let routes = vec![format!("api.openai.com={}", stranger.address).parse().unwrap()];

        let refused = start_with(&home, Upstream::Mapped { routes, ca_file }, &mut lives).await.err().unwrap();

        assert_eq!(refused.downcast_ref::<Failure>().unwrap().code(), ErrorCode::VendorRefusedKey);
        lives.end(Duration::ZERO).await;
    }

    async fn start(home: &Home, lives: &mut Lives) -> anyhow::Result<Household> {
        start_with(home, Upstream::Sample, lives).await
    }

    async fn start_with(home: &Home, upstream: Upstream, lives: &mut Lives) -> anyhow::Result<Household> {
        let arguments = Arguments::try_parse_from(["keyhaven-demo", "--listen", "127.0.0.1:0"]).unwrap();
        let settings = HubSettings::load(&arguments, home).unwrap();
        Household::start(settings, &upstream, None, home, admin::detached_metrics(), lives).await
    }

    async fn post(household: &Household, path: &str, header: &str, body: &str) -> Response<Incoming> {
        let key = household.api_key.expose_secret();
        let key = if header == "authorization" { format!("Bearer {key}") } else { key.to_owned() };
        let request = Request::post(format!("{}{path}", household.base_url))
            .header(header, key)
            .header("anthropic-version", "2023-06-01")
            .header("content-type", "application/json");
        // Only Anthropic's callers send their header, and it decides between vendors.
        let request = if header == "x-api-key" { request } else { without_version(request) };
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        Client::builder(TokioExecutor::new()).build_http().request(request).await.unwrap()
    }

    fn without_version(mut request: http::request::Builder) -> http::request::Builder {
        request.headers_mut().unwrap().remove("anthropic-version");
        request
    }
}
