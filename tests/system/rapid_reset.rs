//! Calls that are opened and reset as fast as clients can, before and after the head.
//!
//! Invariant: the storm leaves no stream behind, and whoever behaves is served or refused by
//! himself, never cut off with the link.

use crate::footprint::allow_sockets;
use crate::footprint::nothing_is_left;
use crate::footprint::print;
use crate::scene::Scene;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::ca::TestCa;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::raw_client::RawClient;
use keyhaven_tests::upstream::Upstream;
use keyhaven_tests::upstream::settings::Settings;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tokio::task::JoinSet;

/// Connections that open and reset, each again and again.
const RESETTERS: usize = 64;

/// What is said when the hub, or the agent, takes no more calls for now.
const BUSY: [&str; 2] = ["KH-E2010", "KH-E2009"];

/// What became of the storm, and of the calls beside it.
#[derive(Debug, Default)]
struct Seen {
    resets: usize,
    /// Calls that were opened, waited and got a refusal for a head.
    resets_refused: usize,
    served: usize,
    refused: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_resets_leaves_nothing_behind_and_others_are_served() -> Result<()> {
    let scene = scene(Ok).await?;
    let seen = storm(&scene, Duration::from_secs(2)).await?;
    // Beyond the default limit, 5,000 resets a second, calls may be refused.
    ensure!(seen.refused == 0 || seen.resets > 5_000, "{seen:?}");
    // How many there are is a matter of this machine.
    ensure!(seen.resets > 200 && seen.served > 0, "{seen:?}");
    calm_again(&scene).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_beyond_the_limit_refuse_calls_one_by_one_and_keep_the_link() -> Result<()> {
    let scene = scene(|site| Ok(site.set("limits.link_resets_per_second_max", "20"))).await?;
    let seen = storm(&scene, Duration::from_secs(2)).await?;
    ensure!(seen.resets_refused > 0, "{seen:?}");
    calm_again(&scene).await
}

async fn scene(set: impl Fn(HubSite) -> Result<HubSite>) -> Result<Scene> {
    allow_sockets(4096)?;
    let settings = Settings { keep_bytes_max: 4 << 10, ..Settings::default() };
    Scene::build_before(Upstream::start_with(settings, Arc::new(TestCa::new()?))?, set).await
}

/// Opens and resets for so long, with one consumer beside it that behaves.
async fn storm(scene: &Scene, time: Duration) -> Result<Seen> {
    let until = Instant::now() + time;
    let mut resetters = JoinSet::new();
    for number in 0..RESETTERS {
        let request = Chat::new(&scene.api_key).streamed("storm", "endless-40").request();
        resetters.spawn(open_and_reset(scene.hub.consumer, request, number % 2 == 0, until));
    }
    let mut seen = Seen::default();
    while Instant::now() < until {
        let answer = scene.chat().ask(scene.hub.consumer).await?;
        ensure!(answer.complete(), "a call beside the storm was cut off");
        match (answer.status(), answer.code()) {
            (200, _) => seen.served += 1,
            (503, Some(code)) if BUSY.contains(&code.as_str()) => seen.refused += 1,
            _ => anyhow::bail!("{}", answer.text()),
        }
    }
    while let Some(done) = resetters.join_next().await {
        let (resets, refused) = done??;
        seen.resets += resets;
        seen.resets_refused += refused;
    }
    print(&format!("opened and reset for {time:?} by {RESETTERS}: {seen:?}"));
    Ok(seen)
}

/// How often it was done, and how often the head was a refusal.
async fn open_and_reset(hub: SocketAddr, request: Vec<u8>, waits: bool, until: Instant) -> Result<(usize, usize)> {
    let (mut resets, mut refused) = (0, 0);
    while Instant::now() < until {
        let mut client = RawClient::connect(hub).await?;
        client.send(&request).await?;
        if waits {
            client.until(|seen| !seen.messages().is_empty()).await?;
            let status = client.seen().messages().first().map(|message| message.head.status());
            ensure!(matches!(status, Some(200 | 503)), "{status:?}");
            refused += usize::from(status == Some(503));
        }
        client.reset();
        resets += 1;
    }
    Ok((resets, refused))
}

/// Nothing is left, and the next calls are served once the rate has gone down.
async fn calm_again(scene: &Scene) -> Result<()> {
    nothing_is_left(scene).await?;
    crate::scene::until_served(&scene.chat(), scene.hub.consumer).await?;
    scene.unharmed().await
}
