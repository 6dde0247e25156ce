//! Failover: which answers lead to another seat, and what the consumer sees of it.
//!
//! Invariant: a consumer sees one attempt only, and no more than one is alive at a time.

use bytes::Bytes;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;

use super::scene::Agent;
use super::scene::Scene;
use super::scene::aborted;
use super::scene::answer;
use super::scene::head;
use super::scene::next_call;
use crate::config::Config;
use crate::user_gateway::Outcome;

const BODY: &str = r#"{"model":"gpt-9","messages":[]}"#;

const NEGATIVES: [AbortReason; 12] = [
    AbortReason::OwnerRefused,
    AbortReason::OwnerRateLimited,
    AbortReason::VendorUnreachable,
    AbortReason::Busy,
    AbortReason::OfferUnknown,
    AbortReason::NotAllowed,
    AbortReason::PricesUnknown,
    AbortReason::TicketInvalid,
    AbortReason::TicketMissing,
    AbortReason::RulesUnknown,
    AbortReason::TierTooLow,
    AbortReason::Stopping,
];

/// What says nothing about what the vendor did with the call.
const UNCERTAIN: [AbortReason; 10] = [
    AbortReason::Unspecified,
    AbortReason::ConsumerGone,
    AbortReason::RequestBroken,
    AbortReason::Finished,
    AbortReason::Protocol,
    AbortReason::Deadline,
    AbortReason::TicketSeen,
    AbortReason::VendorTimeout,
    AbortReason::VendorBroke,
    AbortReason::VendorGarbage,
];

#[tokio::test]
async fn every_definite_negative_leads_to_another_seat_with_the_whole_body() {
    let mut scene = Scene::build().await;
    for reason in NEGATIVES {
        let mut agents = [scene.agent(1, &["gpt-9"]).await, scene.agent(2, &["gpt-9"]).await];
        let mut consumer = scene.ask(BODY).await;

        let first = refuse_first(&mut agents, reason).await;
        let (_, body, stream) = agents[1 - first].whole_call().await;
        answer(&stream, 200, "5", "hello");

        assert_eq!(body, BODY.as_bytes(), "{reason:?}");
        let (head, body) = consumer.answer().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{reason:?}: {head}");
        assert_eq!(body, b"hello");
        let summary = scene.summary().await;
        assert_eq!((summary.attempts, summary.outcome), (2, Outcome::Served));
        assert_eq!(summary.agent, Some(agents[1 - first].live.agent));
    }
}

#[tokio::test]
async fn what_leaves_the_vendors_part_open_is_the_answer() {
    let mut scene = Scene::build().await;
    for reason in UNCERTAIN {
        let mut agents = [scene.agent(1, &["gpt-9"]).await, scene.agent(2, &["gpt-9"]).await];
        let mut consumer = scene.ask(BODY).await;

        let first = refuse_first(&mut agents, reason).await;

        let (head, _) = consumer.answer().await;
        assert!(!head.starts_with("HTTP/1.1 200 "), "{reason:?}: {head}");
        assert_eq!(scene.summary().await.attempts, 1, "{reason:?}");
        assert!(agents[1 - first].is_unasked(), "{reason:?}");
    }
}

#[tokio::test]
async fn three_seats_are_tried_and_the_soonest_time_to_come_back_is_told() {
    let mut scene = Scene::build().await;
    let mut agents = Vec::new();
    for number in 1..=4 {
        agents.push(scene.agent(number, &["gpt-9"]).await);
    }
    let mut consumer = scene.ask(BODY).await;

    let mut asked = Vec::new();
    for retry_after_ms in [30_000, 7_000, 90_000] {
        let (at, stream) = next_call(&mut agents).await;
        asked.push(at);
        stream.abort(Abort { retry_after_ms, ..Abort::new(AbortReason::OwnerRateLimited) });
    }

    let (head, body) = consumer.answer().await;
    assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("\r\nretry-after: 7\r\n"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("KH-E2016"), "{head}");
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), 3, "each on another seat");
    assert!(agents.iter_mut().all(Agent::is_unasked));
    assert_eq!(scene.summary().await.attempts, 3);
}

#[tokio::test]
async fn a_server_error_is_fenced_and_the_next_seat_answers() {
    let mut scene = Scene::build().await;
    let mut agents = vec![scene.agent(1, &["gpt-9"]).await, scene.agent(2, &["gpt-9"]).await];
    let mut consumer = scene.ask(BODY).await;

    let (_, failing) = next_call(&mut agents).await;
    failing.send_head(head(503, &[("content-length", "8")])).unwrap();
    failing.send_data(Bytes::from_static(b"late")).unwrap();
    let (_, next) = next_call(&mut agents).await;
    let told = aborted(&failing).await;
    // What the first one still says goes nowhere.
    let _ = failing.send_last(Bytes::from_static(b"late"), Bytes::new());
    answer(&next, 200, "5", "hello");

    let (head, body) = consumer.answer().await;
    assert_eq!(told, AbortReason::Finished);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!((body.as_slice(), consumer.came.len()), (&b"hello"[..], 0));
    assert_eq!(scene.summary().await.attempts, 2);
}

#[tokio::test]
async fn the_last_server_error_is_delivered_as_the_vendor_sent_it() {
    let mut scene = Scene::build().await;
    let mut agents = vec![scene.agent(1, &["gpt-9"]).await, scene.agent(2, &["gpt-9"]).await];
    let mut consumer = scene.ask(BODY).await;

    for (status, body) in [(500, "first"), (529, "last!")] {
        let (_, stream) = next_call(&mut agents).await;
        answer(&stream, status, "5", body);
    }

    let (head, body) = consumer.answer().await;
    assert!(head.starts_with("HTTP/1.1 529 "), "{head}");
    assert_eq!(body, b"last!");
    let summary = scene.summary().await;
    assert_eq!((summary.attempts, summary.status, summary.outcome), (2, 529, Outcome::Served));
}

#[tokio::test]
async fn a_client_error_is_the_answer_and_no_other_seat_is_asked() {
    let mut scene = Scene::build().await;
    let mut agents = vec![scene.agent(1, &["gpt-9"]).await, scene.agent(2, &["gpt-9"]).await];
    let mut consumer = scene.ask(BODY).await;

    let (_, stream) = next_call(&mut agents).await;
    answer(&stream, 400, "3", "bad");

    let (head, body) = consumer.answer().await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    assert_eq!(body, b"bad");
    assert!(agents.iter_mut().all(Agent::is_unasked));
    assert_eq!(scene.summary().await.attempts, 1);
}

#[tokio::test]
async fn a_seat_that_never_named_the_model_does_not_follow_one_that_did() {
    let scene = Scene::build().await;
    let mut named = scene.agent(1, &["gpt-9"]).await;
    let mut other = scene.agent(2, &["gpt-4"]).await;
    let mut consumer = scene.ask(BODY).await;

    let (_, stream) = named.call().await;
    stream.abort(Abort::new(AbortReason::OwnerRefused));

    let (head, _) = consumer.answer().await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(other.is_unasked());
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_tried_once() {
    let mut config = Config::default();
    config.calls.replayed_body_bytes = 1000;
    let mut scene = Scene::build_as(config).await;
    let mut agents = vec![scene.agent(1, &["gpt-9"]).await, scene.agent(2, &["gpt-9"]).await];
    let text = format!(r#"{{"model":"gpt-9","messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(1000));
    let mut consumer = scene.ask(&text).await;

    let (_, stream) = next_call(&mut agents).await;
    stream.abort(Abort::new(AbortReason::Busy));

    let (head, _) = consumer.answer().await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(agents.iter_mut().all(Agent::is_unasked));
    assert_eq!(scene.summary().await.attempts, 1);
}

#[tokio::test]
async fn a_head_that_was_delivered_is_final() {
    let mut scene = Scene::build().await;
    let mut agents = vec![scene.agent(1, &["gpt-9"]).await, scene.agent(2, &["gpt-9"]).await];
    let mut consumer = scene.ask(BODY).await;

    let (_, stream) = next_call(&mut agents).await;
    stream.send_head(head(200, &[])).unwrap();
    stream.send_data(Bytes::from_static(b"hello")).unwrap();
    consumer.until(b"hello").await;
    stream.fail(Abort::new(AbortReason::Busy));

    while consumer.read().await > 0 {}
    assert!(!consumer.text().ends_with("0\r\n\r\n"), "cut: {}", consumer.text());
    assert!(agents.iter_mut().all(Agent::is_unasked));
    let summary = scene.summary().await;
    assert_eq!((summary.attempts, summary.outcome), (1, Outcome::Aborted));
}

#[tokio::test]
async fn what_calls_keep_for_another_attempt_is_given_back() {
    let scene = Scene::build().await;
    let mut agent = scene.agent(1, &["gpt-9"]).await;
    for _ in 0..3 {
        let mut consumer = scene.ask(BODY).await;
        let (_, _, stream) = agent.whole_call().await;
        answer(&stream, 200, "2", "ok");
        consumer.answer().await;
    }

    let all = scene.gateway.config.consumer.held_body_bytes_max;
    super::scene::until(|| scene.gateway.held.share().grow(all)).await;
}

/// Whichever agent is asked first refuses; which one it was.
async fn refuse_first(agents: &mut [Agent; 2], reason: AbortReason) -> usize {
    let (at, stream) = next_call(agents).await;
    stream.abort(Abort::new(reason));
    at
}
