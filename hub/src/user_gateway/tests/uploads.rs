//! Bodies on their way in: forms in parts, large ones, and answers that come before their end.
//!
//! Invariant: what an agent gets is what the consumer sent, and the hub keeps little of it.

use bytes::Bytes;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::link::Incoming;

use super::scene::Consumer;
use super::scene::Scene;
use super::scene::aborted;
use super::scene::answer;
use super::scene::head;
use super::scene::until;
use crate::config::Config;
use crate::user_gateway::Outcome;

const PIECE_BYTES: usize = 256 * 1024;

#[tokio::test]
async fn a_form_with_its_file_first_passes_byte_for_byte_in_pieces() {
    let scene = Scene::build().await;
    let mut agent = scene.agent(1, &["whisper-1"]).await;
    let form = transcription(&"x".repeat(3 << 20));
    let mut consumer = scene.connect().await;
    consumer.send(form_head(&scene, form.len()).as_bytes()).await;

    let sending = consumer.send(form.as_bytes());
    let ((), (open, body, stream)) = tokio::join!(sending, agent.whole_call());
    answer(&stream, 200, "2", "ok");

    assert_eq!(open.body, BodyLength::Known(form.len() as u64));
    assert_eq!(open.headers["content-type"], "multipart/form-data; boundary=cut");
    assert!(body == form.as_bytes());
    assert_eq!(consumer.answer().await.1, b"ok");
}

#[tokio::test]
async fn a_model_behind_more_than_a_call_may_hold_back_is_refused_with_the_way_out() {
    let mut config = Config::default();
    config.consumer.held_body_bytes_per_call_max = 100_000;
    let scene = Scene::build_as(config).await;
    let mut agent = scene.agent(1, &["whisper-1"]).await;
    let form = transcription(&"x".repeat(200_000));
    let mut consumer = scene.connect().await;
    consumer.send(form_head(&scene, form.len()).as_bytes()).await;
    consumer.send(form.as_bytes()).await;

    let (head, body) = consumer.answer().await;

    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("`model` is not among the first 100000 bytes"));
    assert!(agent.is_unasked());
}

#[tokio::test]
async fn a_large_upload_is_not_held_once_it_flows() {
    const BYTES: usize = 64 << 20;
    let scene = passing_on().await;
    let mut agent = scene.agent(1, &["gpt-9"]).await;
    let mut consumer = scene.connect().await;
    let (opening, closing) = (r#"{"model":"gpt-9","messages":[{"role":"user","content":""#, r#""}]}"#);
    consumer.send(scene.chat_head(opening.len() + BYTES + closing.len()).as_bytes()).await;
    consumer.send(opening.as_bytes()).await;
    let (_, stream) = agent.call().await;
    let all = scene.gateway.config.consumer.held_body_bytes_max;
    let kept_max = scene.gateway.config.calls.replayed_body_bytes + PIECE_BYTES as u64;

    let sending = async {
        let piece = vec![b'x'; PIECE_BYTES];
        for _ in 0..BYTES / PIECE_BYTES {
            consumer.send(&piece).await;
        }
        consumer.send(closing.as_bytes()).await;
    };
    let receiving = async {
        let mut came = 0;
        loop {
            match std::future::poll_fn(|cx| stream.poll_data(cx)).await {
                Incoming::Data(data) => came += data.len(),
                Incoming::End(_) => return came,
                Incoming::Aborted(abort) => panic!("{abort:?}"),
                Incoming::Pending => unreachable!("poll_data never says so"),
            }
            assert!(scene.gateway.held.share().grow(all - kept_max), "after {came} bytes");
        }
    };
    let ((), came) = tokio::join!(sending, receiving);

    assert_eq!(came, opening.len() + BYTES + closing.len());
}

#[tokio::test]
async fn an_answer_in_the_middle_of_an_upload_reaches_the_consumer_and_ends_the_upload() {
    let mut scene = passing_on().await;
    let mut agent = scene.agent(1, &["gpt-9"]).await;
    let mut consumer = begun_upload(&scene, 500_000).await;
    let (_, stream) = agent.call().await;

    answer(&stream, 413, "9", "too large");

    let (head, body) = consumer.answer().await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert_eq!(body, b"too large");
    assert_eq!(scene.summary().await.outcome, Outcome::Served);
    drop(stream);
    until(|| agent.link.stats().streams == 0).await;
}

#[tokio::test]
async fn an_answer_that_begins_in_the_middle_of_an_upload_streams_beside_it() {
    let scene = passing_on().await;
    let mut agent = scene.agent(1, &["gpt-9"]).await;
    let text = format!(r#"{{"model":"gpt-9","messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(400_000));
    let mut consumer = scene.connect().await;
    consumer.send(scene.chat_head(text.len()).as_bytes()).await;
    consumer.send(&text.as_bytes()[..100_000]).await;
    let (_, stream) = agent.call().await;

    stream.send_head(head(200, &[])).unwrap();
    stream.send_data(Bytes::from_static(b"early")).unwrap();
    consumer.until(b"early").await;
    let sending = consumer.send(&text.as_bytes()[100_000..]);
    let ((), (body, end)) = tokio::join!(sending, super::scene::read_all(&stream));
    stream.send_last(Bytes::from_static(b"late"), Bytes::new()).unwrap();
    consumer.until(b"late").await;

    assert_eq!((body == text.as_bytes(), end), (true, None));
}

#[tokio::test]
async fn a_consumer_that_leaves_in_the_middle_of_an_upload_aborts_it() {
    let scene = passing_on().await;
    let mut agent = scene.agent(1, &["gpt-9"]).await;
    let consumer = begun_upload(&scene, 500_000).await;
    let (_, stream) = agent.call().await;

    drop(consumer);

    let reading = super::scene::read_all(&stream);
    assert!(reading.await.1.is_some(), "no end but an abort");
    aborted(&stream).await;
}

#[tokio::test]
async fn a_consumer_that_leaves_an_upload_that_nobody_reads_is_noticed_at_once() {
    for resets in [false, true] {
        let mut scene = passing_on().await;
        let mut agent = scene.agent(1, &["gpt-9"]).await;
        let mut consumer = begun_upload(&scene, 500_000).await;
        // More than the agent's credit and what the hub queues, and all of it is in this system.
        consumer.send(&[b'x'; 200_000]).await;
        let (_, stream) = agent.call().await;
        until(|| agent.link.stats().buffered_bytes >= 64 * 1024).await;

        if resets {
            consumer.reset();
        } else {
            drop(consumer);
        }

        assert_eq!(aborted(&stream).await, AbortReason::ConsumerGone, "reset: {resets}");
        assert_eq!(scene.summary().await.outcome, Outcome::Aborted);
    }
}

/// A scene where bodies are passed on as soon as their model was seen.
async fn passing_on() -> Scene {
    let mut config = Config::default();
    config.calls.replayed_body_bytes = 0;
    Scene::build_as(config).await
}

/// A consumer that has sent the beginning of a body of this length.
async fn begun_upload(scene: &Scene, length: usize) -> Consumer {
    let mut consumer = scene.connect().await;
    consumer.send(scene.chat_head(length).as_bytes()).await;
    consumer.send(br#"{"model":"gpt-9","messages":[{"role":"user","content":"xxxxx"#).await;
    consumer
}

/// As an SDK writes it: the file before the model.
fn transcription(file: &str) -> String {
    format!(
        "--cut\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\ncontent-type: audio/mpeg\r\n\r\n{file}\r\n--cut\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--cut--\r\n"
    )
}

fn form_head(scene: &Scene, length: usize) -> String {
    format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\ncontent-type: multipart/form-data; boundary=cut\r\ncontent-length: {length}\r\n\r\n",
        scene.key
    )
}
