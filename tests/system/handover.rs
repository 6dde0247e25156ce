//! A running hub is replaced, twice in a row, under calls on kept and on new connections and
//! under long streams.
//!
//! Invariant: no call fails and no connection is refused, and each hub that was replaced ends by itself.

use crate::scene::Scene;
use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::consumer::Answer;
use keyhaven_tests::consumer::Call;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::daemons::PATIENCE;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::daemons::failure_code;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;

const CALLS: u64 = 5_000;

const CALLERS: u64 = 8;

const HANDOVERS: u64 = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_the_hub_is_replaced_twice() -> Result<()> {
    let mut scene = Scene::build_as(|site| Ok(site.set("calls.agent_wait_s", "30"))).await?;
    let at = scene.hub.consumer;
    let counts = Counts::default();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call_on(scene.chat(), at, caller % 2 == 0, counts.clone()));
    }

    for round in 0..HANDOVERS {
        let due = CALLS * (round + 1) / (HANDOVERS + 1);
        eventually("calls between two handovers", || async {
            Ok((counts.answered() >= due || counts.all_begun()).then_some(()))
        })
        .await?;
        let mut idle = Call::begin(at, &scene.chat().request()).await?;
        ensure!(served(&idle.answer().await), "before handover {round}");
        let long = scene.chat().streamed(&format!("over-{round}"), "chunks-200-20");
        let mut stream = Call::begin(at, &long.request()).await?;
        stream.until_body(200).await?;

        let replacing = scene.site.start_as(scene.site.command(&["serve", "--replace"])?).await?;
        let mut old = std::mem::replace(&mut scene.hub, replacing);
        assert_eq!((scene.hub.consumer, scene.hub.tunnel, scene.hub.admin), (old.consumer, old.tunnel, old.admin));
        eventually("the agent's link to the new hub", || async {
            Ok(scene.site.links().await?.iter().any(|link| link["state"] == "open").then_some(()))
        })
        .await?;

        assert!(served(&stream.answer().await), "the stream of round {round} broke");
        // The old hub has told its agent to go, and still has this connection's calls served.
        stream.again(&scene.chat().request()).await?;
        let last = stream.answer().await;
        assert!(served(&last) && closes(&last), "a kept connection after its stream: {}", last.text());
        let status = old.process.wait(PATIENCE).await?;
        let log = old.process.stderr();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
        // One that nobody used was closed, not cut: there is an end and nothing before it.
        idle.again(b"").await?;
        assert_eq!(idle.answer().await.message.map(|message| message.head.status()), None);
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }

    assert_eq!(counts.answered(), CALLS);
    let hub = scene.site.json(&["status"]).await?;
    assert!(hub["links"].as_array().is_some_and(|links| links.len() == 1), "{hub}");
    let log = scene.hub.process.stderr();
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
    scene.hub.process.terminate()?;
    assert_eq!(scene.hub.process.wait(PATIENCE).await?.code(), Some(0));
    assert!(!scene.site.dir().join("listening.json").exists() && !scene.site.dir().join("handover.sock").exists());
    Ok(())
}

#[tokio::test]
async fn a_hub_that_is_to_replace_none_just_serves() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = HubSite::new(&dir.path().join("hub"));

    let mut hub = site.start_as(site.command(&["serve", "--replace"])?).await?;

    hub.process.says("there is none to replace", PATIENCE).await?;
    // As a hub of an earlier version, which has no such socket.
    let socket = site.dir().join("handover.sock");
    eventually("a socket", || async { Ok(socket.exists().then_some(())) }).await?;
    std::fs::remove_file(&socket)?;
    let refused = site.run(&["serve", "--replace", "--json"]).await?;
    assert_eq!(failure_code(&refused).as_deref(), Some("KH-E5002"), "{}", refused.stderr);
    assert!(refused.stderr.contains("too old to be replaced"), "{}", refused.stderr);
    assert!(hub.process.is_running());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_that_cannot_start_changes_nothing() -> Result<()> {
    let mut scene = Scene::build().await?;
    let before = std::fs::read(scene.site.dir().join("listening.json"))?;
    let mut stream = Call::begin(scene.hub.consumer, &scene.chat().streamed("on", "step").request()).await?;
    scene.upstream.steps().release("on", 1);
    stream.until_body(1).await?;

    let broken = scene.site.clone().set("consumer.tls_certificate_file", "none.pem");
    let broken = broken.set("consumer.tls_key_file", "none.pem");
    let failed = broken.run(&["serve", "--replace", "--json"]).await?;

    assert_eq!(failure_code(&failed).as_deref(), Some("KH-E3002"), "{}", failed.stderr);
    assert_eq!(std::fs::read(scene.site.dir().join("listening.json"))?, before);
    scene.upstream.steps().release("on", 100);
    let answer = stream.answer().await;
    assert!(served(&answer) && !closes(&answer), "{}", answer.text());
    scene.unharmed().await?;
    let next = scene.site.start_as(scene.site.command(&["serve", "--replace"])?).await?;
    let mut old = std::mem::replace(&mut scene.hub, next);
    assert_eq!(old.process.wait(PATIENCE).await?.code(), Some(0));
    assert!(served(&scene.chat().ask(scene.hub.consumer).await?));
    Ok(())
}

/// What the callers share.
#[derive(Clone, Default)]
struct Counts {
    begun: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
}

impl Counts {
    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Also when a call has failed: then there is nothing to wait for.
    fn all_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst) >= CALLS
    }
}

/// Calls on and on, on one connection as long as the hub keeps it or on a new one each time. No
/// call is tried twice.
async fn call_on(chat: Chat, hub: SocketAddr, keeps: bool, counts: Counts) -> Result<()> {
    let mut kept = None;
    while counts.begun.fetch_add(1, Ordering::SeqCst) < CALLS {
        let asked = ask(&chat, hub, kept.take()).await;
        let asked = asked.with_context(|| format!("after {} calls, kept {keeps}", counts.answered()));
        // One failure ends it all.
        let call = asked.inspect_err(|_| counts.begun.store(CALLS, Ordering::SeqCst))?;
        kept = call.filter(|_| keeps);
        counts.answered.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// One call; returns its connection, if the hub keeps it.
async fn ask(chat: &Chat, hub: SocketAddr, kept: Option<Call>) -> Result<Option<Call>> {
    let mut call = match kept {
        Some(mut call) => {
            call.again(&chat.request()).await?;
            call
        }
        None => Call::begin(hub, &chat.request()).await?,
    };
    let answer = call.answer().await;
    ensure!(served(&answer), "status {}: {}", answer.status(), answer.text());
    Ok((!closes(&answer)).then_some(call))
}

fn served(answer: &Answer) -> bool {
    answer.status() == 200 && answer.complete()
}

/// Whether the hub said that the connection ends with this answer.
fn closes(answer: &Answer) -> bool {
    let message = answer.message.as_ref();
    message.is_some_and(|message| {
        let mut headers = message.head.headers.iter();
        headers.any(|header| header.name.eq_ignore_ascii_case("connection") && header.value == b"close")
    })
}
