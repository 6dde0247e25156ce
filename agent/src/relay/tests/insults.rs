//! Vendors that answer early, twice, never, or not in HTTP.
//!
//! Invariant: the call ends with a reason, the next one is served, and a connection whose
//! state is in doubt is never used again.

use bytes::Bytes;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use tokio::io::AsyncWriteExt as _;

use super::scene::ENDLESS;
use super::scene::QUESTION;
use super::scene::Scene;
use super::scene::Seen;
use super::scene::refused;
use super::scene::seen;

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn fine() -> Seen {
    Seen { status: Some(200), body: "ok".to_owned(), broke: None }
}

#[tokio::test]
async fn a_connection_is_reused_after_an_ordinary_answer() {
    for answer in [
        FINE,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ] {
        let scene = Scene::new().await;
        let (answered, mut guest) = scene.answered(answer).await;

        assert_eq!(answered, fine(), "{answer}");
        assert!(scene.is_reused(&mut guest).await, "{answer}");
    }
}

#[tokio::test]
async fn an_answer_before_the_upload_ends_is_relayed_and_its_connection_is_not_used_again() {
    let scene = Scene::new().await;
    for answer in [FINE, "HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nok"] {
        let call = scene.open(BodyLength::Known(1_000_000));
        call.send_data(Bytes::from_static(br#"{"model":"#)).unwrap();
        let mut guest = scene.vendor.accept().await;
        guest.read_head().await;
        guest.read_exact(9).await;
        guest.say(answer).await;

        let answered = seen(&call).await;

        assert_eq!((answered.body.as_str(), answered.broke), ("ok", None));
        assert!(!scene.is_reused(&mut guest).await);
        guest.until_closed().await;
    }
}

#[tokio::test]
async fn an_early_answer_does_not_stop_the_rest_of_the_upload() {
    let scene = Scene::new().await;
    let call = scene.open(BodyLength::Known(QUESTION.len() as u64));
    call.send_data(Bytes::copy_from_slice(&QUESTION.as_bytes()[..5])).unwrap();
    let mut guest = scene.vendor.accept().await;
    guest.read_head().await;
    guest.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await;
    call.head().await.unwrap();
    call.send_last(Bytes::copy_from_slice(&QUESTION.as_bytes()[5..]), Bytes::new()).unwrap();
    guest.read_exact(QUESTION.len()).await;
    guest.say("k").await;

    assert_eq!(super::scene::body(&call).await, ("ok".to_owned(), None));
    assert!(scene.is_reused(&mut guest).await);
}

#[tokio::test]
async fn bytes_that_nobody_asked_for_end_the_connection_and_reach_nobody() {
    let scene = Scene::new().await;
    let smuggled = format!("{FINE}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil");

    let (at_once, mut guest) = scene.answered(&smuggled).await;
    assert_eq!(at_once, fine());
    assert!(!scene.is_reused(&mut guest).await);

    let scene = Scene::new().await;
    let (later, mut guest) = scene.answered(FINE).await;
    guest.say("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await;
    assert_eq!(later, fine());
    scene.noticed().await;
    assert!(!scene.is_reused(&mut guest).await);
}

#[tokio::test]
async fn a_connection_that_the_vendor_closed_meanwhile_costs_no_call() {
    for answer in
        [FINE, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", "HTTP/1.0 200 OK\r\n\r\nok"]
    {
        let scene = Scene::new().await;
        let call = scene.ask(QUESTION);
        let mut guest = scene.asked().await;
        guest.say(answer).await;
        guest.close().await;

        assert_eq!(seen(&call).await, fine(), "{answer}");
        scene.noticed().await;
        assert!(!scene.is_reused(&mut guest).await, "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_plain_answer_is_garbage_and_its_connection_is_closed() {
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(140_000));
    let beyond_a_frame = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(100_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
    for answer in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 799 Odd\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nfolded: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        &huge,
        &beyond_a_frame,
        &many,
    ] {
        let scene = Scene::new().await;
        let (answered, mut guest) = scene.answered(answer).await;

        let begin = &answer[..answer.len().min(60)];
        assert_eq!(answered, refused(AbortReason::VendorGarbage), "{begin}");
        assert!(!scene.is_reused(&mut guest).await, "{begin}");
        guest.until_closed().await;
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_aborted_after_its_last_byte() {
    for (answer, reason) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok", AbortReason::VendorBroke),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", AbortReason::VendorBroke),
    ] {
        let scene = Scene::new().await;
        let call = scene.ask(QUESTION);
        let mut guest = scene.asked().await;
        guest.say(answer).await;
        guest.close().await;

        assert_eq!(seen(&call).await, Seen { broke: Some(reason), ..fine() }, "{answer}");
    }
}

#[tokio::test]
async fn a_vendor_that_closes_before_it_answers_broke() {
    let scene = Scene::new().await;
    let call = scene.ask(QUESTION);
    let mut guest = scene.asked().await;
    guest.close().await;

    assert_eq!(seen(&call).await, refused(AbortReason::VendorBroke));
}

#[tokio::test]
async fn a_vendor_that_closes_its_half_while_the_upload_runs_broke() {
    let scene = Scene::new().await;
    let call = scene.open(BodyLength::Known(1_000_000));
    call.send_data(Bytes::from_static(br#"{"model":"#)).unwrap();
    let mut guest = scene.vendor.accept().await;
    guest.read_head().await;
    guest.stream.shutdown().await.unwrap();

    assert_eq!(seen(&call).await, refused(AbortReason::VendorBroke));
    guest.until_closed().await;
}

#[tokio::test]
async fn who_stalls_is_told_apart_and_nobody_waits_for_ever() {
    let (connecting, taking, answering, going_on, hub) = tokio::join!(
        async {
            let scene = Scene::impatient().await;
            let call = scene.ask(QUESTION);
            let _silent = scene.vendor.accept_tcp().await;
            seen(&call).await
        },
        async {
            let scene = Scene::impatient().await;
            let call = scene.open(BodyLength::Chunked);
            call.send_data(Bytes::from_static(ENDLESS.as_bytes())).unwrap();
            let mut guest = scene.vendor.accept().await;
            guest.read_head().await;
            while call.capacity().await.is_ok() {
                call.send_data(Bytes::from(vec![b'x'; 64 * 1024])).unwrap();
            }
            seen(&call).await
        },
        async {
            let scene = Scene::impatient().await;
            let call = scene.ask(QUESTION);
            let _guest = scene.asked().await;
            seen(&call).await
        },
        async {
            let scene = Scene::impatient().await;
            scene.answered("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok").await.0
        },
        async {
            let scene = Scene::impatient().await;
            let call = scene.open(BodyLength::Known(100));
            call.send_data(Bytes::from_static(br#"{"model":"#)).unwrap();
            let _guest = scene.vendor.accept().await;
            seen(&call).await
        },
    );

    assert_eq!(connecting, refused(AbortReason::VendorUnreachable));
    assert_eq!(taking, refused(AbortReason::VendorTimeout));
    assert_eq!(answering, refused(AbortReason::VendorTimeout));
    assert_eq!(going_on, Seen { broke: Some(AbortReason::VendorTimeout), ..fine() });
    assert_eq!(hub, refused(AbortReason::Deadline));
}
