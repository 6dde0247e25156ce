//! Waiting for an agent that is expected back.
//!
//! Invariant: a wait ends with a seat, its time, a full room, the drain or the consumer's
//! leaving, and leaves nothing behind.

use std::time::Duration;

use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use tokio::sync::watch;

use super::scene::Scene;
use super::scene::answer;
use super::scene::until;
use crate::config::Config;
use crate::user_gateway::Outcome;
use crate::user_gateway::waiting::WaitingRoom;

const BODY: &str = r#"{"model":"gpt-9","messages":[]}"#;

#[tokio::test]
async fn a_call_right_after_the_hubs_start_waits_for_the_first_agent() {
    let scene = Scene::build().await;
    let mut consumer = scene.ask(BODY).await;
    until(|| waiting(&scene) == 1).await;

    let mut agent = scene.agent(1, &["gpt-9"]).await;
    let (_, body, stream) = agent.whole_call().await;
    answer(&stream, 200, "2", "ok");

    assert_eq!(body, BODY.as_bytes());
    assert_eq!(consumer.answer().await.1, b"ok");
    assert_eq!(waiting(&scene), 0);
}

#[tokio::test]
async fn a_model_of_no_family_waits_until_somebody_lists_it() {
    let scene = Scene::build().await;
    let mut consumer = scene.ask(r#"{"model":"made-up"}"#).await;
    until(|| waiting(&scene) == 1).await;

    let mut agent = scene.link(1).await;
    scene.offer(&agent, &[]);
    scene.offer(&agent, &["made-up"]);
    let (_, _, stream) = agent.whole_call().await;
    answer(&stream, 200, "2", "ok");

    assert_eq!(consumer.answer().await.1, b"ok");
}

#[tokio::test]
async fn a_call_whose_link_was_lost_before_the_head_finds_the_agent_on_its_next_link() {
    let mut scene = Scene::build().await;
    let mut agent = scene.agent(1, &["gpt-9"]).await;
    let mut consumer = scene.ask(BODY).await;
    let (_, _, lost) = agent.whole_call().await;
    agent.link.close();
    until(|| waiting(&scene) == 1).await;
    drop(lost);

    let mut agent = scene.agent(1, &["gpt-9"]).await;
    let (_, body, stream) = agent.whole_call().await;
    answer(&stream, 200, "2", "ok");

    assert_eq!(body, BODY.as_bytes());
    assert_eq!(consumer.answer().await.1, b"ok");
    assert_eq!(scene.summary().await.attempts, 2);
}

#[tokio::test]
async fn an_owners_refusal_waits_for_nobody() {
    let scene = Scene::build().await;
    let mut agent = scene.agent(1, &["gpt-9"]).await;
    let mut consumer = scene.ask(BODY).await;
    let (_, stream) = agent.call().await;
    stream.abort(Abort::new(AbortReason::OwnerRefused));

    let (head, _) = consumer.answer().await;

    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(waiting(&scene), 0);
}

#[tokio::test]
async fn the_time_of_a_wait_is_bounded() {
    let mut config = Config::default();
    config.calls.agent_wait_s = 1;
    let scene = Scene::build_as(config).await;
    let mut consumer = scene.ask(BODY).await;

    let (head, body) = consumer.answer().await;

    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: 1"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("KH-E2009"));
    assert_eq!(waiting(&scene), 0);
}

#[tokio::test]
async fn the_number_of_waits_is_bounded() {
    let mut config = Config::default();
    config.calls.agent_waits_max = 1;
    let scene = Scene::build_as(config).await;
    let _first = scene.ask(BODY).await;
    until(|| waiting(&scene) == 1).await;

    let (head, body) = scene.ask(BODY).await.answer().await;

    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("KH-E2009"));
    assert_eq!(waiting(&scene), 1, "the first one waits on");
}

#[tokio::test]
async fn a_consumer_that_leaves_waits_no_longer() {
    let mut scene = Scene::build().await;
    let consumer = scene.ask(BODY).await;
    until(|| waiting(&scene) == 1).await;

    drop(consumer);

    until(|| waiting(&scene) == 0).await;
    assert_eq!(scene.summary().await.outcome, Outcome::Aborted);
}

#[tokio::test]
async fn a_drain_ends_the_wait_with_an_answer_that_says_so() {
    let scene = Scene::build().await;
    let mut consumer = scene.ask(BODY).await;
    until(|| waiting(&scene) == 1).await;

    scene.tasks.draining().cancel();

    let (head, body) = consumer.answer().await;
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("connection: close"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("KH-E2019"), "{head}");
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_offers_is_looked_at_a_hundred_times_a_second_at_most() {
    let (offers, changed) = watch::channel(0);
    let room = WaitingRoom::new(1, Duration::from_secs(1));
    let draining = Tasks::new().draining();
    let mut looks = 0;
    let storm = async {
        loop {
            offers.send_modify(|changes| *changes += 1);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };

    let look = || {
        looks += 1;
        Err::<(), ()>(())
    };
    tokio::select! {
        found = room.until(changed, &draining, look) => assert_eq!(found, Err(())),
        () = storm => {}
    }

    assert!((50..=102).contains(&looks), "{looks}");
}

fn waiting(scene: &Scene) -> usize {
    scene.gateway.config.calls.agent_waits_max as usize - scene.gateway.waiting.places.available_permits()
}
