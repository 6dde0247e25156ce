//! What concerns the owner: whose account is used for what, and what is told of it.
//!
//! Invariant: a refused request never reaches its end at the vendor, and what the vendor
//! says about the account never leaves.

use bytes::Bytes;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;

use super::scene::QUESTION;
use super::scene::Scene;
use super::scene::Seen;
use super::scene::refused;
use super::scene::seen;
use crate::status::KeyState;

#[tokio::test]
async fn the_end_of_a_request_that_is_not_allowed_never_reaches_the_vendor() {
    for bad in [
        r#"{"model":"gpt-5","model":"gpt-4"}"#,
        r#"{"model":"ft:gpt-4o:acme::1"}"#,
        r#"{"model":"gpt-5"} trailing"#,
        r#"{"model":"gpt-5""#,
    ] {
        for length in [BodyLength::Known(bad.len() as u64), BodyLength::Chunked] {
            let scene = Scene::new().await;
            let call = scene.open(length);
            let (begin, end) = bad.split_at(5);
            call.send_data(Bytes::copy_from_slice(begin.as_bytes())).unwrap();
            call.send_last(Bytes::copy_from_slice(end.as_bytes()), Bytes::new()).unwrap();
            let mut guest = scene.vendor.accept().await;

            let (answered, reached) = tokio::join!(seen(&call), guest.until_closed());

            let reached = String::from_utf8(reached).unwrap();
            let body = reached.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            assert_eq!(answered, refused(AbortReason::NotAllowed), "{bad} {length:?}");
            assert!(!body.contains(&end[end.len() - 1..]) && !body.contains("0\r\n"), "{bad} {length:?}: {body}");
        }
    }
}

#[tokio::test]
async fn a_request_without_the_body_that_its_endpoint_takes_is_not_even_begun() {
    let scene = Scene::new().await;
    for length in [BodyLength::None, BodyLength::Known(0), BodyLength::Upgrade] {
        assert_eq!(seen(&scene.open(length)).await, refused(AbortReason::NotAllowed), "{length:?}");
    }
}

#[tokio::test]
async fn an_allowed_request_in_chunks_arrives_whole() {
    let scene = Scene::new().await;
    let call = scene.open(BodyLength::Chunked);
    for piece in QUESTION.as_bytes().chunks(7) {
        call.send_data(Bytes::copy_from_slice(piece)).unwrap();
    }
    call.finish(Bytes::new()).unwrap();
    let mut guest = scene.vendor.accept().await;
    guest.read_head().await;
    let body = guest.read_chunks().await;
    guest.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;

    assert_eq!(body, QUESTION);
    assert_eq!(seen(&call).await, Seen { status: Some(200), body: String::new(), broke: None });
}

#[tokio::test]
async fn a_key_that_a_call_finds_rejected_is_asked_for_its_models_and_withdrawn() {
    let scene = Scene::new().await;
    scene.follow();
    scene.vendor.answer_one("200 OK", r#"{"data":[{"id":"gpt-5"}]}"#).await;
    let mut changed = scene.offers.changed();
    changed.wait_for(|_| scene.offers.status()[0].models == 1).await.unwrap();

    let call = scene.ask(QUESTION);
    let mut guest = scene.asked().await;
    let secret = r#"{"error":{"message":"Incorrect API key provided: sk-01***789"}}"#;
    guest.say(&format!("HTTP/1.1 401 No\r\ncontent-length: {}\r\n\r\n{secret}", secret.len())).await;
    let answered = seen(&call).await;
    // The list was asked for a moment ago: the next asking is seconds away, not an hour.
    let asked_again = tokio::time::timeout(super::RECHECK, scene.vendor.answer_one("401 No", "{}"));
    asked_again.await.expect("the models were not asked for again");
    changed.wait_for(|_| scene.offers.status()[0].state == KeyState::Rejected).await.unwrap();

    assert_eq!(answered, refused(AbortReason::OwnerRefused));
    assert!(scene.offers.frames().is_empty());
}

#[tokio::test]
async fn a_400_about_the_owners_account_stays_here_and_withdraws_the_key() {
    let scene = Scene::new().await;
    let body =
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}"#;
    let answer = format!("HTTP/1.1 400 Bad\r\ncontent-length: {}\r\n\r\n{body}", body.len());

    let (answered, mut guest) = scene.answered(&answer).await;

    assert_eq!(answered, refused(AbortReason::OwnerRefused));
    assert_eq!(scene.offers.status()[0].state, KeyState::Exhausted);
    assert!(scene.is_reused(&mut guest).await);
}

#[tokio::test]
async fn other_errors_pass_as_they_came_however_long_and_however_slow() {
    let scene = Scene::new().await;
    let long = "x".repeat(100_000);
    let answer = format!("HTTP/1.1 400 Bad\r\ncontent-length: {}\r\n\r\n{long}", long.len());
    let (answered, _guest) = scene.answered(&answer).await;
    assert_eq!(answered, Seen { status: Some(400), body: long, broke: None });

    let scene = Scene::new().await;
    let call = scene.ask(QUESTION);
    let mut guest = scene.asked().await;
    guest.say("HTTP/1.1 500 Oops\r\ncontent-length: 6\r\n\r\nslo").await;
    call.head().await.unwrap();
    guest.say("wly").await;

    assert_eq!(super::scene::body(&call).await, ("slowly".to_owned(), None));
}
