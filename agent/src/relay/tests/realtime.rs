//! WebSockets to the vendor: agreed, refused, agreed wrongly, and ended in every way.
//!
//! Invariant: what arrives is byte for byte what was sent, and only on a connection whose
//! handshake holds.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::provider::websocket::upgrade_of;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::scene::LONG;
use super::scene::QUESTION;
use super::scene::Scene;
use super::scene::Seen;
use super::scene::body;
use super::scene::refused;
use super::scene::seen;
use crate::provider::fake_vendor::Guest;

const QUERY: &str = "model=gpt-realtime";

#[tokio::test]
async fn bytes_pass_both_ways_untouched_with_those_that_came_with_the_agreement() {
    let scene = Scene::new().await;
    let (call, mut guest, head) = asked(&scene).await;
    guest.say(&format!("{}\u{1}early", agreement(&head))).await;

    let answered = ResponseHead::decode(call.head().await.unwrap()).unwrap();
    call.send_data(ping("hello").into()).unwrap();
    let up = guest.read_exact(11).await;
    guest.say("\u{2}later").await;
    call.finish(Bytes::new()).unwrap();
    let rest = guest.until_closed().await;
    guest.close().await;

    assert_eq!(answered.status, StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answered.headers.get(header::SEC_WEBSOCKET_ACCEPT), agreed(&head).get(header::SEC_WEBSOCKET_ACCEPT));
    assert!(answered.headers.get(header::CONNECTION).is_none());
    assert_eq!((up.as_slice(), rest.as_slice()), (ping("hello").as_slice(), b"".as_slice()));
    assert_eq!(body(&call).await, ("\u{1}early\u{2}later".to_owned(), None));
}

#[tokio::test]
async fn the_vendor_is_asked_in_its_own_terms_with_the_owners_key() {
    let scene = Scene::new().await;
    let (_call, _guest, head) = asked(&scene).await;

    let lower = head.to_ascii_lowercase();
    assert!(head.starts_with("GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\n"), "{head}");
    for line in [
        "host: api.openai.com",
        "authorization: bearer sk-0123456789",
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-protocol: realtime",
    ] {
        assert!(lower.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
    }
    assert!(!lower.contains("content-length") && !lower.contains("transfer-encoding"), "{head}");
    assert!(!lower.contains("sec-websocket-extensions"), "{head}");
}

/// Makes a good answer a bad one.
type Spoil = fn(String) -> String;

#[tokio::test]
async fn an_agreement_to_anything_else_is_garbage_and_its_connection_is_closed() {
    let good = |head: &str| agreement(head);
    let spoil: [(&str, Spoil); 6] = [
        ("another proof", |answer| answer.replace("sec-websocket-accept: ", "sec-websocket-accept: x")),
        ("no proof", |answer| answer.replace("sec-websocket-accept", "x-accept")),
        ("an extension", |answer| {
            answer.replace("\r\n\r\n", "\r\nsec-websocket-extensions: permessage-deflate\r\n\r\n")
        }),
        ("another protocol", |answer| answer.replace("\r\n\r\n", "\r\nsec-websocket-protocol: other\r\n\r\n")),
        ("no upgrade", |answer| answer.replace("upgrade: websocket\r\n", "")),
        ("two proofs", |answer| answer.replace("\r\n\r\n", "\r\nsec-websocket-accept: x\r\n\r\n")),
    ];
    for (what, spoil) in spoil {
        let scene = Scene::new().await;
        let (call, mut guest, head) = asked(&scene).await;
        guest.say(&spoil(good(&head))).await;

        assert_eq!(seen(&call).await, refused(AbortReason::VendorGarbage), "{what}");
        guest.until_closed().await;
    }
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer_on_a_connection_that_is_not_used_again() {
    let scene = Scene::new().await;
    let (call, mut guest, _) = asked(&scene).await;
    guest.say("HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nno").await;

    assert_eq!(seen(&call).await, Seen { status: Some(404), body: "no".to_owned(), broke: None });
    assert!(!scene.is_reused(&mut guest).await);
    guest.until_closed().await;
}

#[tokio::test]
async fn bytes_before_the_vendor_agreed_end_the_call() {
    let scene = Scene::new().await;
    let (call, mut guest, head) = asked(&scene).await;
    call.send_data(Bytes::from_static(b"hasty")).unwrap();
    settle(&scene).await;
    guest.say(&agreement(&head)).await;

    assert_eq!(seen(&call).await, refused(AbortReason::Protocol));
    assert_eq!(guest.until_closed().await, b"");
}

#[tokio::test]
async fn an_end_in_order_ends_one_half_and_a_break_is_an_abort() {
    let scene = Scene::new().await;
    let (call, mut guest) = agreed_call(&scene).await;
    guest.close().await;
    let ended = body(&call).await;
    call.send_data(ping("still here").into()).unwrap();
    call.finish(Bytes::new()).unwrap();
    let heard = guest.until_closed().await;

    let (broken, guest) = agreed_call(&scene).await;
    // Without a goodbye of TLS, what came may not have been all.
    drop(guest);

    assert_eq!((ended, heard.as_slice()), ((String::new(), None), ping("still here").as_slice()));
    assert_eq!(body(&broken).await.1, Some(AbortReason::VendorBroke));
}

#[tokio::test]
async fn an_abort_closes_the_vendors_socket_while_bytes_flow_and_while_nobody_reads() {
    for stalled in [false, true] {
        let scene = Scene::new().await;
        let (call, mut guest) = agreed_call(&scene).await;
        if stalled {
            call.send_data(endless_speech().into()).unwrap();
            while timeout(super::NO_CREDIT, call.capacity()).await.is_ok() {
                call.send_data(Bytes::from(vec![b'x'; 64 * 1024])).unwrap();
            }
        }
        call.abort(Abort::new(AbortReason::ConsumerGone));

        timeout(LONG, guest.until_closed()).await.expect("the vendor's socket stays open");
    }
}

#[tokio::test]
async fn each_side_is_held_back_by_the_other_ones_pace_and_nothing_is_lost() {
    const BYTES: usize = 3_000_000;
    let scene = Scene::new().await;
    let (call, mut guest) = agreed_call(&scene).await;
    let (mut reader, mut writer) = tokio::io::split(&mut guest.stream);
    let piece = vec![b'd'; 50_000];
    let (up, down) = (
        async {
            call.send_data(endless_speech().into()).unwrap();
            let mut sent = 0;
            while sent < BYTES {
                call.capacity().await.unwrap();
                call.send_data(Bytes::from(vec![b'u'; 50_000])).unwrap();
                sent += 50_000;
            }
            call.finish(Bytes::new()).unwrap();
        },
        async {
            for _ in 0..BYTES / piece.len() {
                writer.write_all(&piece).await.unwrap();
            }
            writer.shutdown().await.unwrap();
        },
    );
    let mut heard = Vec::new();

    let ((), (), read, got) = tokio::join!(up, down, reader.read_to_end(&mut heard), body(&call));

    read.unwrap();
    let speech = heard.split_off(endless_speech().len());
    assert!(speech.len() == BYTES && speech.iter().all(|byte| *byte == b'u'));
    assert!(got.1.is_none() && got.0.len() == BYTES && got.0.bytes().all(|byte| byte == b'd'));
}

#[tokio::test]
async fn what_a_hub_lets_pass_is_judged_again() {
    let scene = Scene::new().await;
    let (call, mut guest) = agreed_call(&scene).await;
    let allowed = said(r#"{"type":"response.create"}"#);
    call.send_data(allowed.clone().into()).unwrap();
    let heard = guest.read_exact(allowed.len()).await;
    call.send_data(said(r#"{"type":"session.update","session":{"tools":[{"type":"mcp"}]}}"#).into()).unwrap();

    assert_eq!(guest.until_closed().await, b"");
    assert_eq!(heard, allowed);
    assert_eq!(body(&call).await.1, Some(AbortReason::NotAllowed));
}

#[tokio::test]
async fn a_conversation_in_which_nobody_says_anything_ends() {
    let scene = Scene::impatient().await;
    let (call, mut guest) = agreed_call(&scene).await;

    assert_eq!(body(&call).await.1, Some(AbortReason::VendorTimeout));
    guest.until_closed().await;
}

#[tokio::test]
async fn what_is_no_handshake_for_an_offered_model_is_not_even_begun() {
    let scene = Scene::new().await;
    let no_key = |headers: &mut HeaderMap| drop(headers.remove(header::SEC_WEBSOCKET_KEY));
    let keep = |_: &mut HeaderMap| ();
    for (query, spoil, body) in [
        (QUERY, no_key as fn(&mut HeaderMap), BodyLength::Upgrade),
        (QUERY, keep, BodyLength::None),
        (QUERY, keep, BodyLength::Known(5)),
        ("", keep, BodyLength::Upgrade),
        ("model=ft:gpt-4o:acme::1", keep, BodyLength::Upgrade),
        ("model=gpt-realtime&intent=transcription", keep, BodyLength::Upgrade),
    ] {
        let mut headers = handshake();
        spoil(&mut headers);
        let call = scene.open_as(Endpoint::OpenAiRealtime, Some(query), headers, body);

        assert_eq!(seen(&call).await, refused(AbortReason::NotAllowed), "{query} {body:?}");
    }
    assert_eq!(scene.ask(QUESTION).abort_received(), None);
}

fn handshake() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
        (header::SEC_WEBSOCKET_VERSION, "13"),
        (header::SEC_WEBSOCKET_PROTOCOL, "realtime"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

/// A call that asks for a WebSocket, and what the vendor got of it.
async fn asked(scene: &Scene) -> (LinkStream, Guest, String) {
    let call = scene.open_as(Endpoint::OpenAiRealtime, Some(QUERY), handshake(), BodyLength::Upgrade);
    let mut guest = scene.vendor.accept().await;
    let head = guest.read_head().await;
    (call, guest, head)
}

/// A call whose bytes flow.
pub(super) async fn agreed_call(scene: &Scene) -> (LinkStream, Guest) {
    let (call, mut guest, head) = asked(scene).await;
    guest.say(&agreement(&head)).await;
    call.head().await.unwrap();
    (call, guest)
}

/// The headers of the answer that agrees to this handshake.
fn agreed(head: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let proof = upgrade_of(&headers).unwrap().proof();
    let mut answer = HeaderMap::new();
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&proof).unwrap());
    answer
}

fn agreement(head: &str) -> String {
    let answer = agreed(head);
    let proof = answer[header::SEC_WEBSOCKET_ACCEPT].to_str().unwrap();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {proof}\r\n\r\n"
    )
}

/// Waits until what the hub sent has reached the agent: a round trip over the same link.
async fn settle(scene: &Scene) {
    let no_such_body = scene.open(BodyLength::None);
    let answered = timeout(Duration::from_secs(5), seen(&no_such_body)).await;
    assert_eq!(answered.unwrap(), refused(AbortReason::NotAllowed));
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
