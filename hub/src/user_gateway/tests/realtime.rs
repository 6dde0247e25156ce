//! A consumer's WebSocket: its handshake, its bytes, and every way it ends.
//!
//! Invariant: bytes pass unchanged both ways, and neither side outlives the other's end for long.

use std::time::Duration;

use bytes::Bytes;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::link::Incoming;
use tokio::io::AsyncWriteExt;

use super::scene::Agent;
use super::scene::Consumer;
use super::scene::Scene;
use super::scene::aborted;
use super::scene::head;
use super::scene::next_call;
use super::scene::read_all;
use super::scene::until;
use crate::config::Config;
use crate::user_gateway::Outcome;

/// The proof for the key that the scene's consumers send (RFC 6455, section 1.3).
const PROOF: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[tokio::test]
async fn bytes_pass_both_ways_untouched_until_both_sides_have_ended() {
    let mut scene = Scene::build().await;
    let mut agent = scene.agent(1, &["gpt-realtime"]).await;
    let (mut consumer, stream) = switched(&scene, &mut agent).await;

    let ping = ping("from-consumer!");
    consumer.send(&ping).await;
    assert_eq!(data(&stream).await, ping);
    stream.send_data(Bytes::from_static(b"\x81\x04from")).unwrap();
    consumer.until(b"\x81\x04from").await;
    consumer.socket.shutdown().await.unwrap();
    assert_eq!(read_all(&stream).await, (Vec::new(), None), "the consumer's end is an end");
    stream.send_last(Bytes::from_static(b"\x88\x00"), Bytes::new()).unwrap();
    while consumer.read().await > 0 {}

    assert!(consumer.came.ends_with(b"\x81\x04from\x88\x00"), "what came after one end still came");
    let summary = scene.summary().await;
    assert_eq!((summary.status, summary.outcome, summary.attempts), (101, Outcome::Served, 1));
    assert_eq!((summary.request_bytes, summary.response_bytes), (20, 8));
    assert_eq!(summary.model.as_deref(), Some("gpt-realtime"));
}

#[tokio::test]
async fn the_agents_end_is_passed_on_while_the_consumer_goes_on() {
    let scene = Scene::build().await;
    let mut agent = scene.agent(1, &["gpt-realtime"]).await;
    let (mut consumer, stream) = switched(&scene, &mut agent).await;

    stream.send_last(Bytes::from_static(b"bye"), Bytes::new()).unwrap();
    consumer.until(b"bye").await;
    assert_eq!(consumer.read().await, 0, "its end");
    consumer.send(&ping("last words")).await;
    consumer.socket.shutdown().await.unwrap();

    assert_eq!(read_all(&stream).await, (ping("last words"), None));
}

#[tokio::test]
async fn a_handshake_travels_without_what_belongs_to_the_connection() {
    let scene = Scene::build().await;
    let mut agent = scene.agent(1, &["gpt-realtime"]).await;
    let mut consumer = scene.ask_realtime().await;
    let (open, stream) = agent.call().await;

    assert_eq!((open.body, open.query.as_deref()), (BodyLength::Upgrade, Some("model=gpt-realtime")));
    assert_eq!(open.headers["sec-websocket-version"], "13");
    for dropped in ["authorization", "connection", "upgrade", "sec-websocket-extensions"] {
        assert!(!open.headers.contains_key(dropped), "{dropped}");
    }
    stream.send_head(head(101, &[("sec-websocket-accept", PROOF), ("set-cookie", "owner=1")])).unwrap();
    consumer.until(b"\r\n\r\n").await;
    let head = consumer.text().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for wanted in ["connection: upgrade\r\n", "upgrade: websocket\r\n", "keyhaven-call-id: call_"] {
        assert!(head.contains(wanted), "{wanted}: {head}");
    }
    assert!(!head.contains("set-cookie") && !head.contains("content-length"), "{head}");
}

#[tokio::test]
async fn a_101_without_the_proof_or_for_an_ordinary_call_is_an_error() {
    let scene = Scene::build().await;
    let mut agent = scene.agent(1, &["gpt-realtime", "gpt-9"]).await;
    let wrong: [&[(&str, &str)]; 3] = [
        &[],
        &[("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOp=")],
        &[("sec-websocket-accept", PROOF), ("sec-websocket-extensions", "permessage-deflate")],
    ];
    for headers in wrong {
        let mut consumer = scene.ask_realtime().await;
        let (_, stream) = agent.call().await;
        stream.send_head(head(101, headers)).unwrap();

        let (head, _) = consumer.answer().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert_ne!(aborted(&stream).await, AbortReason::ConsumerGone);
    }
    let mut consumer = scene.ask(r#"{"model":"gpt-9"}"#).await;
    let (_, _, stream) = agent.whole_call().await;
    stream.send_head(head(101, &[("sec-websocket-accept", PROOF)])).unwrap();

    let (head, _) = consumer.answer().await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}

#[tokio::test]
async fn a_refused_handshake_is_an_ordinary_answer_and_fails_over_like_one() {
    let mut scene = Scene::build().await;
    let mut agents = [scene.agent(1, &["gpt-realtime"]).await, scene.agent(2, &["gpt-realtime"]).await];
    let mut consumer = scene.ask_realtime().await;
    let (_, stream) = next_call(&mut agents).await;
    stream.abort(Abort::new(AbortReason::OwnerRefused));
    let (_, stream) = next_call(&mut agents).await;
    super::scene::answer(&stream, 400, "3", "bad");

    let (head, body) = consumer.answer().await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    assert_eq!(body, b"bad");
    assert_eq!(scene.summary().await.attempts, 2);
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_at_the_door() {
    let scene = Scene::build().await;
    let mut agent = scene.agent(1, &["gpt-realtime"]).await;
    let ask = |lines: &str| {
        format!(
            "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\n{lines}\r\n",
            scene.key
        )
    };
    let good = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n";
    let bad = [
        String::new(),
        good.to_owned(),
        format!("{good}sec-websocket-key: short\r\n"),
        "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n".to_owned(),
    ];
    for lines in bad {
        let mut consumer = scene.connect().await;
        consumer.send(ask(&lines).as_bytes()).await;
        let (head, body) = consumer.answer().await;
        assert!(head.starts_with("HTTP/1.1 4"), "{lines}: {head}");
        assert!(String::from_utf8(body).unwrap().contains("KH-E20"), "{lines}");
    }
    assert!(agent.is_unasked());
}

#[tokio::test]
async fn whatever_breaks_one_side_breaks_the_other() {
    let mut scene = Scene::build().await;
    let mut agent = scene.agent(1, &["gpt-realtime"]).await;

    let (consumer, stream) = switched(&scene, &mut agent).await;
    consumer.socket.set_zero_linger().unwrap();
    drop(consumer);
    assert_eq!(aborted(&stream).await, AbortReason::ConsumerGone);
    assert_eq!(scene.summary().await.outcome, Outcome::Aborted);

    let (mut consumer, stream) = switched(&scene, &mut agent).await;
    stream.send_data(Bytes::from_static(b"before")).unwrap();
    stream.fail(Abort::new(AbortReason::VendorBroke));
    consumer.until(b"before").await;
    assert_eq!(consumer.read().await, 0, "cut");
    assert_eq!(scene.summary().await.outcome, Outcome::Aborted);

    let (mut consumer, stream) = switched(&scene, &mut agent).await;
    agent.link.close();
    assert_eq!(consumer.read().await, 0, "cut");
    drop(stream);
}

#[tokio::test]
async fn a_side_that_does_not_read_stops_the_other_one() {
    let scene = Scene::build().await;
    let mut agent = scene.agent(1, &["gpt-realtime"]).await;
    let (mut consumer, stream) = switched(&scene, &mut agent).await;
    let piece = vec![b'7'; 64 * 1024];
    consumer.send(&endless_speech()).await;

    // The agent reads nothing: the consumer's socket fills up.
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_millis(300), consumer.socket.write_all(&piece)).await.is_ok() {
        sent += piece.len();
        assert!(sent < 64 << 20, "nothing stops the consumer");
    }
    // Reading again sets it free.
    let mut read = 0;
    while read < sent {
        read += data(&stream).await.len();
    }
    consumer.send(b"goes on").await;
}

#[tokio::test]
async fn a_silent_websocket_is_given_up_in_time() {
    let mut config = Config::default();
    config.calls.realtime_idle_timeout_s = 1;
    let mut scene = Scene::build_as(config).await;
    let mut agent = scene.agent(1, &["gpt-realtime"]).await;
    let (mut consumer, stream) = switched(&scene, &mut agent).await;

    assert_eq!(consumer.read().await, 0, "cut");
    assert_eq!(aborted(&stream).await, AbortReason::VendorTimeout);
    assert_eq!(scene.summary().await.outcome, Outcome::Aborted);
}

#[tokio::test]
async fn a_websocket_goes_on_through_a_drain_and_ends_with_the_stop() {
    let scene = Scene::build().await;
    let mut agent = scene.agent(1, &["gpt-realtime"]).await;
    let (mut consumer, stream) = switched(&scene, &mut agent).await;

    scene.tasks.draining().cancel();
    consumer.send(&ping("still here")).await;
    assert_eq!(data(&stream).await, ping("still here"));
    scene.tasks.stopping().cancel();

    assert_eq!(consumer.read().await, 0, "cut");
}

#[tokio::test]
async fn a_websocket_holds_its_connections_place() {
    let mut config = Config::default();
    config.consumer.connections_max = 1;
    let scene = Scene::build_as(config).await;
    let mut agent = scene.agent(1, &["gpt-realtime", "gpt-9"]).await;
    let (consumer, stream) = switched(&scene, &mut agent).await;
    let mut next = scene.ask(r#"{"model":"gpt-9"}"#).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(agent.is_unasked(), "nobody else has a place");

    drop((consumer, stream));
    let (_, _, stream) = agent.whole_call().await;
    super::scene::answer(&stream, 200, "2", "ok");

    assert_eq!(next.answer().await.1, b"ok");
    until(|| agent.link.stats().streams <= 1).await;
}

/// A consumer and an agent with a WebSocket between them.
async fn switched(scene: &Scene, agent: &mut Agent) -> (Consumer, LinkStream) {
    let mut consumer = scene.ask_realtime().await;
    let (_, stream) = agent.call().await;
    stream.send_head(head(101, &[("sec-websocket-accept", PROOF)])).unwrap();
    consumer.until(b"\r\n\r\n").await;
    assert!(consumer.text().starts_with("HTTP/1.1 101 "), "{}", consumer.text());
    consumer.came.clear();
    (consumer, stream)
}

async fn data(stream: &LinkStream) -> Vec<u8> {
    let incoming = tokio::time::timeout(Duration::from_secs(20), std::future::poll_fn(|cx| stream.poll_data(cx)));
    match incoming.await.unwrap() {
        Incoming::Data(data) => data.to_vec(),
        other @ (Incoming::Pending | Incoming::End(_) | Incoming::Aborted(_)) => panic!("no data but {other:?}"),
    }
}

#[tokio::test]
async fn what_belongs_to_the_owner_cannot_be_asked_for_in_a_session() {
    let mut scene = Scene::build().await;
    let mut agent = scene.agent(1, &["gpt-realtime"]).await;
    let allowed = said(r#"{"type":"session.update","session":{"prompt":null}}"#);
    let refused = said(r#"{"type":"session.update","session":{"prompt":{"id":"pmpt_1"}}}"#);

    let (mut consumer, stream) = switched(&scene, &mut agent).await;
    consumer.send(&allowed).await;
    assert_eq!(data(&stream).await, allowed);
    consumer.send(&refused).await;
    while consumer.read().await > 0 {}

    assert_eq!(aborted(&stream).await, AbortReason::RequestBroken);
    let close = consumer.came.windows(4).position(|bytes| bytes[0] == 0x88 && bytes[2..] == [3, 240]);
    assert!(close.is_some() && String::from_utf8_lossy(&consumer.came).contains("\"prompt\""), "1008, and why");
    assert_eq!(scene.summary().await.outcome, Outcome::Refused);

    // Inside one of the vendor's frames there is no place for one of ours.
    let (mut consumer, stream) = switched(&scene, &mut agent).await;
    stream.send_data(Bytes::from_static(b"\x81\x05begun")).unwrap();
    stream.send_data(Bytes::from_static(b"\x81\x09half")).unwrap();
    consumer.until(b"half").await;
    consumer.send(&refused).await;
    while consumer.read().await > 0 {}
    assert!(consumer.came.ends_with(b"half"));
}

/// A ping of a consumer with this payload; a mask of zeros leaves it readable.
fn ping(payload: &str) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0x89, 0x80 | length, 0, 0, 0, 0], payload.as_bytes()].concat()
}

/// The begin of a message of 4 GiB that says audio: whatever letters follow are part of it.
fn endless_speech() -> Vec<u8> {
    let head = [0x81, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    [&head[..], br#"{"type":"input_audio_buffer.append","audio":""#].concat()
}

/// A whole message.
fn said(message: &str) -> Vec<u8> {
    let mut frame = ping(message);
    frame[0] = 0x81;
    frame
}
