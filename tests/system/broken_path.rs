//! The tunnel over paths that fall silent, are cut, end one way only and go byte by byte.
//!
//! Invariant: a call ends in the time that PROTOCOL.md promises, as an answer that is cut or an
//! error that says why, and the agent is back by itself as soon as the path carries.

use crate::scene::Scene;
use crate::scene::until_served;
use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::consumer::Answer;
use keyhaven_tests::consumer::Call;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::consumer_call::Call as Upload;
use keyhaven_tests::daemons::AgentSite;
use keyhaven_tests::daemons::HubSite;
use keyhaven_tests::daemons::eventually;
use keyhaven_tests::form::Form;
use keyhaven_tests::raw_client::RawClient;
use keyhaven_tests::relay::Direction;
use keyhaven_tests::relay::Path;
use keyhaven_tests::relay::Relay;
use keyhaven_tests::upstream::record::Exchange;
use std::time::Duration;
use std::time::Instant;
use tokio::task::JoinSet;

/// A dead peer is noticed within 5 s while a stream is open; the rest is a busy machine's.
const NOTICED_WITHIN: Duration = Duration::from_secs(8);

/// A peer is not given up before it was silent for so long.
const NOTICED_AFTER: Duration = Duration::from_secs(3);

/// An end that is told needs no timeout to be noticed.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

const BOTH: [Direction; 2] = [Direction::Up, Direction::Down];

/// Each waits for the same time to pass, so they wait together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_falls_silent_ends_its_calls_in_time_and_the_agent_is_back_when_it_carries() -> Result<()> {
    let way = async |silent: &[Direction]| falls_silent(silent).await.with_context(|| format!("{silent:?}"));
    tokio::try_join!(way(&BOTH), way(&[Direction::Up]), way(&[Direction::Down]))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_is_silent_for_a_moment_costs_nothing() -> Result<()> {
    let (scene, relay) = scene_over(Path::CLEAR, "0").await?;
    let mut call = Call::begin(scene.hub.consumer, &scene.chat().streamed("moment", "step").request()).await?;
    scene.upstream.steps().release("moment", 1);
    call.until_body(1).await?;

    relay.silence(&BOTH);
    scene.upstream.steps().release("moment", 100);
    // Past the first ping that nobody answers.
    tokio::time::sleep(NOTICED_AFTER).await;
    relay.heal();
    let answer = call.answer().await;

    same_as_sent(&scene, "moment", &answer).await?;
    assert_eq!(relay.connections(), 2, "one to join and one to serve");
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_ends_its_calls_at_once_and_the_agent_is_back() -> Result<()> {
    is_told(Relay::reset).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_ends_toward_the_hub_is_an_end_for_both() -> Result<()> {
    is_told(|relay| relay.half_close(Direction::Up)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_ends_toward_the_agent_is_an_end_for_both() -> Result<()> {
    is_told(|relay| relay.half_close(Direction::Down)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_in_an_upload_ends_it_in_time() -> Result<()> {
    const BYTES: usize = 32 << 20;
    let (scene, relay) = scene_over(Path { bytes_per_second: Some(8_000_000), ..Path::CLEAR }, "0").await?;
    let chat = Upload::new(Form::OpenAi, &scene.api_key).case("upload");
    let request = [chat.head(&format!("content-length: {BYTES}\r\n")), Form::OpenAi.sized_body(BYTES, false)].concat();
    let hub = scene.hub.consumer;
    let call = async { anyhow::Ok((RawClient::connect(hub).await?.ask(&request).await?, Instant::now())) };
    let hole = async {
        let under_way = |exchange: &Exchange| exchange.request.body_bytes > 1 << 20;
        scene.upstream.wait_for(under_way).await?;
        relay.silence(&BOTH);
        anyhow::Ok(Instant::now())
    };

    let (call, hole) = tokio::join!(call, hole);

    let ((answer, ended_at), began) = (call?, hole?);
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.head.status() == 502 && text.contains("KH-E2011"), "{} {text}", answer.head.status());
    let after = ended_at - began;
    assert!((NOTICED_AFTER..NOTICED_WITHIN).contains(&after), "{after:?}");
    scene.upstream.wait_for(|exchange| exchange.peer_closed_at.is_some()).await?;
    relay.heal();
    until_served(&scene.chat(), hub).await?;
    quiet(&scene)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn byte_by_byte_an_agent_joins_and_every_call_is_whole() -> Result<()> {
    let (scene, relay) = scene_over(Path { piece_bytes: 1, ..Path::CLEAR }, "0").await?;

    let mut calls = JoinSet::new();
    for play in ["chunks-20-1", "big-3000", "status-500", "gzip"] {
        for stream in [true, false] {
            let case = format!("{play}-{stream}");
            let chat = Chat { stream, ..scene.chat().streamed(&case, play) };
            let hub = scene.hub.consumer;
            calls.spawn(async move { anyhow::Ok((case, chat.ask(hub).await?)) });
        }
    }
    while let Some(done) = calls.join_next().await {
        let (case, answer) = done??;
        same_as_sent(&scene, &case, &answer).await?;
    }
    assert_eq!(relay.connections(), 2, "one to join and one to serve");
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_vanishes_is_given_up_in_time_and_its_calls_go_to_another_agent() -> Result<()> {
    const CALLS: usize = 8;
    let (mut scene, relay) = scene_over(Path::CLEAR, "0").await?;
    let other = AgentSite::new(&scene.dir.path().join("other"));
    other.join(&scene.site.invite("other").await?).await?;
    other.add_keys(&scene.upstream).await?;
    let mut other_process = other.start_before(&scene.upstream)?;
    eventually("two agents with models", || async {
        let links = scene.site.links().await?;
        let lists = |offer: &serde_json::Value| offer["provider"] == "openai" && offer["models"].as_u64() > Some(0);
        let open = links.iter().filter(|link| link["state"] == "open");
        let listing = open.filter(|link| link["offers"].as_array().is_some_and(|all| all.iter().any(lists)));
        Ok((listing.count() == 2).then_some(()))
    })
    .await?;

    relay.silence(&BOTH);
    scene.agent_process.kill_9()?;
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let chat = Chat { case: format!("vanished-{number}"), ..scene.chat() };
        let hub = scene.hub.consumer;
        calls.spawn(async move { anyhow::Ok((chat.case.clone(), chat.ask(hub).await?, began.elapsed())) });
    }
    let mut waited = 0;
    while let Some(done) = calls.join_next().await {
        let (case, answer, took) = done??;
        same_as_sent(&scene, &case, &answer).await?;
        ensure!(took < NOTICED_WITHIN, "{case} took {took:?}");
        waited += usize::from(took >= NOTICED_AFTER);
    }

    assert!(waited > 0, "no call met the agent that had vanished");
    let links = scene.site.links().await?;
    assert!(links.len() == 1 && links[0]["name"] == "other", "{links:?}");
    assert!(other_process.is_running());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_vanishes_with_nobody_in_its_place_is_a_clear_refusal_in_time() -> Result<()> {
    let (mut scene, relay) = scene_over(Path::CLEAR, "0").await?;

    relay.silence(&BOTH);
    scene.agent_process.kill_9()?;
    let began = Instant::now();
    let lost = scene.chat().ask(scene.hub.consumer).await?;
    let took = began.elapsed();
    let next = scene.chat().ask(scene.hub.consumer).await?;

    assert!((NOTICED_AFTER..NOTICED_WITHIN).contains(&took), "{took:?}");
    assert_eq!((lost.status(), lost.code().as_deref()), (502, Some("KH-E2011")), "{}", lost.text());
    assert_eq!((next.status(), next.code().as_deref()), (503, Some("KH-E2009")), "{}", next.text());
    assert!(scene.site.links().await?.is_empty());
    quiet(&scene)
}

/// Silence in the middle of calls: one whose answer has begun and one that waits for its head.
async fn falls_silent(silent: &[Direction]) -> Result<()> {
    let (scene, relay) = scene_over(Path::CLEAR, "0").await?;
    let (mut begun, waiting) = two_calls(&scene, "stall-head").await?;
    let links = relay.connections();

    relay.silence(silent);
    let began = Instant::now();
    let (cut, refused) = tokio::join!(timed(begun.answer(), began), timed(waiting.finish(), began));

    let ((cut, cut_after), (refused, refused_after)) = (cut, refused);
    assert!(cut.status() == 200 && !cut.complete(), "a cut answer looks cut: {}", cut.text());
    assert_eq!((refused.status(), refused.code().as_deref()), (502, Some("KH-E2011")), "{}", refused.text());
    for after in [cut_after, refused_after] {
        assert!((NOTICED_AFTER..NOTICED_WITHIN).contains(&after), "{after:?}");
    }
    left_the_vendor(&scene).await?;
    eventually("another attempt of the agent", || async { Ok((relay.connections() > links).then_some(())) }).await?;
    relay.heal();
    until_served(&scene.chat(), scene.hub.consumer).await?;
    quiet(&scene)
}

/// An end of the path that at least one side sees, in the middle of two calls.
async fn is_told(end: impl Fn(&Relay)) -> Result<()> {
    let (scene, relay) = scene_over(Path::CLEAR, "30").await?;
    let (mut begun, waiting) = two_calls(&scene, "stall-upload-1000").await?;

    let began = Instant::now();
    end(&relay);
    let ((cut, cut_after), answer) = tokio::join!(timed(begun.answer(), began), waiting.finish());

    assert!(cut.status() == 200 && !cut.complete(), "a cut answer looks cut: {}", cut.text());
    assert!(cut_after < TOLD_WITHIN, "{cut_after:?}");
    assert_eq!((answer.status(), answer.complete()), (200, true), "{}", answer.text());
    let asked = scene.upstream.exchanges_of("waiting");
    assert_eq!(asked.len(), 2, "once more when the agent was back");
    assert_eq!(asked[0].request.body, asked[1].request.body);
    left_the_vendor(&scene).await?;
    quiet(&scene)
}

/// A scene whose agent reaches its hub by this path. Calls that do not wait for the agent tell
/// when its link was given up.
async fn scene_over(path: Path, agent_wait_s: &str) -> Result<(Scene, Relay)> {
    let mut relay = None;
    let set = |site: HubSite| Ok(site.set("calls.agent_wait_s", agent_wait_s));
    let scene = Scene::build_over(set, |tunnel| {
        let started = Relay::start(tunnel, path)?;
        let addr = started.addr();
        relay = Some(started);
        Ok(addr)
    });
    let scene = scene.await?;
    Ok((scene, relay.context("no path was asked for")?))
}

/// A call whose answer goes on for long, and one that the vendor lets wait, like this.
async fn two_calls(scene: &Scene, play: &str) -> Result<(Call, Call)> {
    let hub = scene.hub.consumer;
    let mut begun = Call::begin(hub, &scene.chat().streamed("begun", "chunks-2000-20").request()).await?;
    begun.until_body(200).await?;
    let waiting = Call::begin(hub, &scene.chat().streamed("waiting", play).request()).await?;
    scene.upstream.wait_for(|exchange| exchange.case.as_deref() == Some("waiting")).await?;
    Ok((begun, waiting))
}

async fn timed(answer: impl Future<Output = Answer>, began: Instant) -> (Answer, Duration) {
    (answer.await, began.elapsed())
}

/// The agent has left the vendor's connections of both calls.
async fn left_the_vendor(scene: &Scene) -> Result<()> {
    for case in ["begun", "waiting"] {
        let left = |exchange: &Exchange| exchange.case.as_deref() == Some(case) && exchange.peer_closed_at.is_some();
        scene.upstream.wait_for(left).await.with_context(|| format!("{case}: the vendor's connection is open"))?;
    }
    Ok(())
}

/// The consumer got what the vendor sent for this case, once, and all of it.
async fn same_as_sent(scene: &Scene, case: &str, answer: &Answer) -> Result<()> {
    let exchange = scene.upstream.exchange_of(case).await?;
    let asked = scene.upstream.exchanges_of(case).len();
    ensure!(asked == 1, "{case}: asked {asked} times");
    let sent = exchange.response().with_context(|| format!("{case}: no answer was sent"))?;
    let came = answer.message.as_ref().with_context(|| format!("{case}: no answer came"))?;
    ensure!(came.complete && sent.complete, "{case}: cut off: {}", answer.text());
    ensure!(came.head.status() == sent.head.status(), "{case}: {}", answer.text());
    ensure!(came.body_sha256() == sent.body_sha256(), "{case}: other bytes came than were sent");
    Ok(())
}

/// Nobody panicked, and the hub has nothing to act upon.
fn quiet(scene: &Scene) -> Result<()> {
    let (hub, agent) = (scene.hub.process.stderr(), scene.agent_process.stderr());
    ensure!(!hub.contains("ERROR") && !hub.contains("panicked"), "the hub's log:\n{hub}");
    ensure!(!agent.contains("panicked"), "the agent's log:\n{agent}");
    Ok(())
}
