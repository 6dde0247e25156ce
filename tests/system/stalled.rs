//! A thousand consumers of one link that stop reading, and one that goes on.
//!
//! Invariant: whoever stalls costs a bounded number of bytes, and nobody else a call.

use crate::footprint::Footprint;
use crate::footprint::allow_sockets;
use crate::footprint::committed;
use crate::footprint::nothing_is_left;
use crate::footprint::print;
use crate::scene::Scene;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::ca::TestCa;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::raw_client::RawClient;
use keyhaven_tests::upstream::Upstream;
use keyhaven_tests::upstream::settings::Settings;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// Consumers that stall, and how many of them come at once.
const STALLED: usize = 1000;
const AT_ONCE: usize = 50;

/// What the hub may have granted or not yet handed on: the budget of a link, by which the window of
/// one stream may have grown too far, and the small window for each stream that began beyond it.
const GRANTED_BYTES_MAX: u64 = (32 << 20) + (4 << 20) + STALLED as u64 * (16 << 10);

/// Beside that, for each: its connection and task, its heads, a piece handed over that did not leave.
const HUB_BYTES_EACH: u64 = 64 << 10;

/// For each: its connection and task, TLS's buffers of the vendor's connection, two pieces read from
/// it, and what waits for credit: at most 16 KiB and the piece that reached beyond.
const AGENT_BYTES_EACH: u64 = 256 << 10;

/// Calls of the one that goes on, each time.
const CALLS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_that_stall_on_large_pieces_cost_little_and_disturb_nobody() -> Result<()> {
    a_thousand_stall(64 << 10).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_that_stall_on_pieces_of_40_bytes_cost_little_and_disturb_nobody() -> Result<()> {
    a_thousand_stall(40).await
}

async fn a_thousand_stall(piece_bytes: usize) -> Result<()> {
    allow_sockets(4096)?;
    let settings = Settings { keep_bytes_max: 4 << 10, ..Settings::default() };
    let upstream = Upstream::start_with(settings, Arc::new(TestCa::new()?))?;
    let scene = Scene::build_before(upstream, Ok).await?;
    let expected = scene.chat().ask(scene.hub.consumer).await?.text();
    calls_go_on(&scene, &expected).await?;
    let before = Footprint::of(&scene)?;

    let began = Instant::now();
    let mut stalled = Vec::with_capacity(STALLED);
    while stalled.len() < STALLED {
        let mut clients = Vec::with_capacity(AT_ONCE);
        for _ in 0..AT_ONCE {
            let call = Chat::new(&scene.api_key).streamed("stalled", &format!("endless-{piece_bytes}"));
            let mut client = RawClient::connect_narrow(scene.hub.consumer, 4 << 10).await?;
            client.send(&call.request()).await?;
            clients.push(client);
        }
        for client in &mut clients {
            client.until(|seen| !seen.messages().is_empty()).await?;
        }
        stalled.extend(clients);
    }
    let all_there = began.elapsed();
    calls_go_on(&scene, &expected).await?;
    until_quiet(&scene).await?;
    let quiet = began.elapsed();

    calls_go_on(&scene, &expected).await?;
    let (streams, committed_bytes) = committed(&scene).await?;
    let grown = Footprint::of(&scene)?.grown_since(before);
    let each = |bytes: u64| bytes / 1024 / STALLED as u64;
    print(&format!(
        "{STALLED} stalled, pieces of {piece_bytes}: there after {all_there:?}, quiet after {quiet:?}; KiB each: hub {}, \
         agent {}, granted or unread {}, sent by the vendor {}",
        each(grown.hub_bytes),
        each(grown.agent_bytes),
        each(committed_bytes),
        each(scene.upstream.sent_bytes_of("stalled")),
    ));
    assert_eq!(streams, STALLED as u64);
    ensure!(committed_bytes <= GRANTED_BYTES_MAX, "{committed_bytes} bytes are granted or unread");
    ensure!(grown.hub_bytes <= GRANTED_BYTES_MAX + STALLED as u64 * HUB_BYTES_EACH, "{grown:?}");
    ensure!(grown.agent_bytes <= STALLED as u64 * AGENT_BYTES_EACH, "{grown:?}");

    drop(stalled);
    nothing_is_left(&scene).await?;
    calls_go_on(&scene, &expected).await?;
    scene.unharmed().await
}

/// One consumer's calls are all served, and their bytes are right.
async fn calls_go_on(scene: &Scene, expected: &str) -> Result<()> {
    for _ in 0..CALLS {
        let answer = scene.chat().ask(scene.hub.consumer).await?;
        ensure!(answer.status() == 200 && answer.complete(), "{}", answer.text());
        ensure!(answer.text() == expected, "other bytes: {}", answer.text());
    }
    Ok(())
}

/// Waits until the vendor can send no more to those who stall.
async fn until_quiet(scene: &Scene) -> Result<()> {
    let mut sent = 0;
    let mut since = Instant::now();
    eventually("a vendor that is held up", || {
        let now = scene.upstream.sent_bytes_of("stalled");
        if now != sent {
            (sent, since) = (now, Instant::now());
        }
        let is_quiet = since.elapsed() > Duration::from_millis(500);
        async move { Ok(is_quiet.then_some(())) }
    })
    .await
}
