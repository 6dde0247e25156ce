//! What nothing costs: an agent that is not called, on its owner's machine and at the hub.
//!
//! Invariant: what is counted are wake-ups and bytes, and a busy machine adds none.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use keyhaven_agent::link::Caller;
use keyhaven_agent::link::dial;
use keyhaven_agent::link::new_instance;
use keyhaven_agent::vault::identity::Identity;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::link;
use keyhaven_daemon::link::LinkEvents;
use keyhaven_daemon::link::LinkHandle;
use keyhaven_daemon::link::LinkStream;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_hub::registry::INVITATION_TTL_MAX;
use keyhaven_hub::registry::Registry;
use keyhaven_protocol::frame::Drain;
use keyhaven_protocol::frame::Egress;
use keyhaven_protocol::frame::Enrolment;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::Offer;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::join_token::JoinToken;
use keyhaven_protocol::link::Limits;
use keyhaven_protocol::link::LinkFault;
use keyhaven_protocol::link::Side;
use keyhaven_protocol::provider::Provider;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::daemons::eventually;

use crate::footprint::own_bytes;
use crate::footprint::print;
use crate::scene::Scene;

/// How long an agent is watched.
const WATCHED: Duration = Duration::from_secs(8);

/// Half a wake-up a second. Three timers, two of them of a second each, made thirty.
const WAKEUPS_MAX: u64 = 4;

/// Agents that warm up what is there once for all, and those that are counted.
const WARM_AGENTS: usize = 60;
const AGENTS: usize = 300;

/// What an idle agent may cost the hub, with what the allocator loses; of 24 KiB that it cost
/// once, 8 were a buffer that the HTTP upgrade left behind.
const IDLE_BYTES_MAX: u64 = 20 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_nobody_calls_sleeps_and_says_that_it_runs() -> Result<()> {
    let scene = Scene::build().await?;
    let pid = scene.agent_process.pid();

    eventually("a quiet agent", || async {
        let before = wakeups(pid)?;
        // That nothing happens shows in time alone.
        tokio::time::sleep(WATCHED).await;
        let woken: u64 =
            wakeups(pid)?.iter().map(|(thread, now)| now.saturating_sub(*before.get(thread).unwrap_or(&0))).sum();
        Ok((woken <= WAKEUPS_MAX).then_some(()))
    })
    .await?;
    let status = scene.agent.json(&["status"], "").await?;

    assert_eq!(status["running"], true);
    assert_eq!(status["status"]["link"]["state"], "linked");
    assert_eq!(status["status"]["link"]["streams"], 0);
    assert_eq!(status["status"]["calls"]["opened"], status["status"]["calls"]["served"]);
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_agent_costs_the_hub_few_bytes() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("keyhaven-idle-").tempdir()?;
    let site = HubSite::new(&dir.path().join("hub"));
    let hub = site.start().await?;
    let tokens = invite(site.dir(), &hub.tunnel.to_string()).await?;
    let tasks = Tasks::new();
    let mut links = Vec::new();
    let mut warm = 0;

    for (number, token) in tokens.iter().enumerate() {
        if number == WARM_AGENTS {
            at_rest(&links).await?;
            warm = own_bytes(hub.process.pid())?;
        }
        links.push(join(token, number, &tasks).await?);
    }
    at_rest(&links).await?;
    let each = own_bytes(hub.process.pid())?.saturating_sub(warm) / AGENTS as u64;

    print(&format!("an idle agent costs the hub {each} bytes"));
    ensure!(links.iter().all(LinkHandle::is_open), "not all agents are linked");
    ensure!(each <= IDLE_BYTES_MAX, "an idle agent costs the hub {each} bytes");
    links.iter().for_each(LinkHandle::close);
    tasks.shut_down(Duration::from_secs(5)).await;
    Ok(())
}

/// How often each thread of a process began to wait, and was woken; those that end take their
/// counts with them.
fn wakeups(pid: u32) -> Result<HashMap<OsString, u64>> {
    let mut all = HashMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?;
        // A thread that ended meanwhile waits for nothing.
        let Ok(status) = fs::read_to_string(thread.path().join("status")) else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        all.insert(thread.file_name(), line.context("voluntary_ctxt_switches")?.trim().parse()?);
    }
    Ok(all)
}

async fn invite(hub_dir: &Path, tunnel: &str) -> Result<Vec<JoinToken>> {
    let registry = Registry::open(hub_dir, None).await?;
    let mut tokens = Vec::new();
    for _ in 0..WARM_AGENTS + AGENTS {
        tokens.push(registry.invite(None, tunnel, INVITATION_TTL_MAX, unix_ms_now()).await?.token);
    }
    registry.store.close().await;
    Ok(tokens)
}

/// Dials as an agent does, and offers one model.
async fn join(token: &JoinToken, number: usize, tasks: &Tasks) -> Result<LinkHandle> {
    let key = SigningKey::from_bytes(&token.secret);
    let identity = Identity {
        agent: token.agent,
        fleet: token.fleet,
        hub_address: token.hub_address.clone(),
        pins: token.pins.clone(),
        hub_key: token.hub_key,
        public_key: key.verifying_key().to_bytes(),
    };
    let caller = Caller { identity: &identity, key: &key, egress: Egress::Loopback, instance: new_instance()? };
    let enrolment = Enrolment { token: token.token, secret: Hex(token.secret) };
    let dialled = dial(caller, Some(enrolment)).await?;
    let handle = LinkHandle::new(Side::Agent, Limits::default());
    let driven = handle.clone();
    tasks.spawn("link", async move {
        link::run(dialled.socket, &driven, Quiet).await;
    });
    let mut id = [0; 16];
    id[8..].copy_from_slice(&(number as u64).to_be_bytes());
    let offer = Offer { vendor_key: VendorKeyId(id), provider: Provider::OpenAi, resource: None, models: Vec::new() };
    handle.send_control(FrameKind::Offer, &to_json(&offer));
    Ok(handle)
}

/// Everybody's first ping has been answered.
async fn at_rest(links: &[LinkHandle]) -> Result<()> {
    eventually("answers to all pings", || async {
        Ok(links.iter().all(|link| link.stats().rtt_micros.is_some()).then_some(()))
    })
    .await
}

struct Quiet;

impl LinkEvents for Quiet {
    fn opened(&mut self, _stream: LinkStream, _open: Bytes) {}

    fn control(&mut self, _frame: &Frame) -> Result<(), LinkFault> {
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}
