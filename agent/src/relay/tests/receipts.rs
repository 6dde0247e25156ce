//! What the agent says it metered, beside what a hub meters of the bytes it got.
//!
//! Invariant: both figures are the same, however a call ends; only what left is metered.

use std::future::poll_fn;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::demand::Demand;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::frame::Receipt;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::link::Incoming;
use keyhaven_protocol::metering::Asked;
use keyhaven_protocol::metering::CallMeter;
use keyhaven_protocol::metering::Ending;
use keyhaven_protocol::metering::Outcome;
use keyhaven_protocol::metering::Rule;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::request_scan::RequestScan;
use keyhaven_protocol::usage::Doubt;
use keyhaven_protocol::usage::Form;
use tokio::time::timeout;

use super::realtime::agreed_call;
use super::scene::ENDLESS;
use super::scene::LONG;
use super::scene::QUESTION;
use super::scene::Scene;
use super::scene::price_table;
use super::scene::ticket;
use crate::provider::fake_vendor::Guest;

const CHUNK: &str =
    "data: {\"model\":\"gpt-5\",\"choices\":[{\"delta\":{\"content\":\"Hello\"},\"finish_reason\":null}]}\n\n";
const REST: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":20,\"total_tokens\":120}}\n\n\
    data: [DONE]\n\n";

/// The hub's time when its consumer left.
const ELAPSED_MS: u32 = 700;

#[tokio::test]
async fn a_whole_answer_is_metered_alike_and_its_receipt_comes_with_its_end() {
    let whole = r#"{"model":"gpt-5","choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":20}}"#;
    for kind in ["application/json", "text/event-stream"] {
        let scene = Scene::new().await;
        let call = scene.ask(QUESTION);
        let mut guest = scene.asked().await;
        if kind == "application/json" {
            let length = whole.len();
            guest
                .say(&format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{whole}"))
                .await;
        } else {
            begin(&mut guest, "").await;
            guest.say(&chunk(CHUNK.as_bytes())).await;
            guest.say(&format!("{}0\r\n\r\n", chunk(REST.as_bytes()))).await;
        }

        let hub = metered_by_hub(&call, Ending::Complete).await;

        assert_eq!(scene.receipt().await, hub, "{kind}");
        assert_eq!((hub.outcome, hub.rule), (Outcome::Complete, Rule::Stated));
        assert_eq!(hub.list, NanoUsd(140_000));
    }
}

#[tokio::test]
async fn a_consumer_that_leaves_costs_the_same_on_both_sides_by_the_hubs_time() {
    let scene = Scene::new().await;
    let call = scene.ask(QUESTION);
    let mut guest = scene.asked().await;
    begin(&mut guest, "").await;
    guest.say(&chunk(CHUNK.as_bytes())).await;
    let mut hub = HubMeter::new(&call).await;
    hub.read(&call, CHUNK.len()).await;
    call.abort(left(ELAPSED_MS));

    let hub = hub.rest(&call, Ending::ConsumerLeft { elapsed_ms: ELAPSED_MS }).await;

    assert_eq!(scene.receipt().await, hub);
    assert_eq!((hub.outcome, hub.rule, hub.elapsed_ms), (Outcome::ConsumerLeft, Rule::Left, ELAPSED_MS));
    assert_eq!(hub.response_bytes, CHUNK.len() as u64);
    assert_eq!(hub.list, NanoUsd(2 * 70 * 1_000), "70 tokens out for the time; the question has no text");
}

#[tokio::test]
async fn a_consumer_that_leaves_before_the_head_pays_for_its_request() {
    let scene = Scene::new().await;
    let call = scene.ask(QUESTION);
    let _guest = scene.asked().await;
    call.abort(left(ELAPSED_MS));

    let hub = metered_without_head(Ending::ConsumerLeft { elapsed_ms: ELAPSED_MS });

    assert_eq!(scene.receipt().await, hub);
    assert_eq!(hub.rule, Rule::Left);
}

#[tokio::test]
async fn a_time_that_cannot_be_is_not_believed_and_that_is_said() {
    let scene = Scene::new().await;
    let call = scene.ask(QUESTION);
    let _guest = scene.asked().await;
    call.abort(left(3_600_000));

    let receipt = scene.receipt().await;

    assert!(receipt.doubts.has(Doubt::OwnClock) && receipt.elapsed_ms < 60_000, "{receipt:?}");
}

#[tokio::test]
async fn what_was_queued_and_did_not_leave_is_not_metered() {
    let scene = Scene::new().await;
    let call = scene.ask(QUESTION);
    let mut guest = scene.asked().await;
    begin(&mut guest, "").await;
    let hub = HubMeter::new(&call).await;
    // The hub reads nothing; in the end the vendor cannot write.
    let many = chunk(CHUNK.repeat(600).as_bytes());
    while timeout(super::NO_CREDIT, guest.say(&many)).await.is_ok() {}
    call.abort(left(ELAPSED_MS));

    let hub = hub.rest(&call, Ending::ConsumerLeft { elapsed_ms: ELAPSED_MS }).await;
    let receipt = scene.receipt().await;

    assert!(hub.response_bytes >= 64 * 1024, "{hub:?}");
    assert_eq!(receipt, hub);
}

#[tokio::test]
async fn a_compressed_answer_is_metered_alike_and_its_receipt_follows_it() {
    let scene = Scene::new().await;
    let call = scene.ask(QUESTION);
    let mut guest = scene.asked().await;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all([CHUNK, REST].concat().as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    begin(&mut guest, "content-encoding: gzip\r\n").await;
    let mut hub = HubMeter::new(&call).await;
    let (first, second) = packed.split_at(40);
    guest.say_bytes(&chunk_bytes(first)).await;
    hub.read(&call, first.len()).await;
    guest.say_bytes(&[chunk_bytes(second), b"0\r\n\r\n".to_vec()].concat()).await;

    let hub = hub.rest(&call, Ending::Complete).await;

    assert_eq!(scene.receipt().await, hub);
    assert_eq!((hub.rule, hub.list), (Rule::Stated, NanoUsd(140_000)));
}

#[tokio::test]
async fn an_answer_that_the_vendor_broke_costs_the_consumer_no_input_on_either_side() {
    let scene = Scene::new().await;
    let call = scene.ask(QUESTION);
    let mut guest = scene.asked().await;
    begin(&mut guest, "").await;
    guest.say(&chunk(CHUNK.as_bytes())).await;
    let mut hub = HubMeter::new(&call).await;
    hub.read(&call, CHUNK.len()).await;
    drop(guest);

    let hub = hub.rest(&call, Ending::Broke).await;

    assert_eq!(scene.receipt().await, hub);
    assert_eq!((hub.outcome, hub.rule, hub.list), (Outcome::Broke, Rule::Nothing, NanoUsd::ZERO));
}

#[tokio::test]
async fn a_request_that_never_was_complete_costs_nothing() {
    for reason in [AbortReason::ConsumerGone, AbortReason::RequestBroken] {
        let scene = Scene::new().await;
        let call = scene.open(BodyLength::Known(1_000_000));
        call.send_data(Bytes::from_static(ENDLESS.as_bytes())).unwrap();
        let mut guest = scene.vendor.accept().await;
        guest.read_head().await;
        guest.read_exact(ENDLESS.len()).await;
        call.abort(Abort::new(reason));

        let receipt = scene.receipt().await;

        assert_eq!((receipt.outcome, receipt.rule, receipt.list), (Outcome::NotSent, Rule::Nothing, NanoUsd::ZERO));
        assert!(!receipt.doubts.has(Doubt::OwnClock));
    }
}

#[tokio::test]
async fn a_session_is_summed_and_has_one_receipt() {
    let scene = Scene::new().await;
    let (call, mut guest) = agreed_call(&scene).await;
    let done =
        r#"{"type":"response.done","response":{"usage":{"input_tokens":100,"output_tokens":10,"total_tokens":110}}}"#;
    let length = u8::try_from(done.len()).unwrap();
    let message = [&[0x81, 126, 0, length], done.as_bytes()].concat();
    guest.say_bytes(&message).await;
    guest.say_bytes(&message).await;
    guest.close().await;
    while !matches!(timeout(LONG, poll_fn(|cx| call.poll_data(cx))).await.unwrap(), Incoming::End(_)) {}
    call.finish(Bytes::new()).unwrap();
    guest.until_closed().await;

    let receipt = scene.receipt().await;

    assert_eq!((receipt.rule, receipt.list), (Rule::Stated, NanoUsd(2 * 120_000)));
    assert_eq!(receipt.response_bytes, 2 * message.len() as u64);
    assert!(scene.receipts.lock().await.try_recv().is_err());
}

/// The hub's end of a call, metered.
struct HubMeter {
    meter: CallMeter,
}

impl HubMeter {
    async fn new(call: &LinkStream) -> Self {
        let mut meter = CallMeter::new(Form::Completions);
        let head = timeout(LONG, call.head()).await.unwrap().unwrap();
        let head = ResponseHead::decode(head).unwrap();
        meter.head(head.status, &head.headers);
        Self { meter }
    }

    async fn read(&mut self, call: &LinkStream, bytes: usize) {
        while self.meter.response_bytes() < bytes as u64 {
            let incoming = timeout(LONG, poll_fn(|cx| call.poll_data(cx))).await.unwrap();
            let Incoming::Data(data) = incoming else { panic!("{incoming:?}") };
            self.meter.feed(&data);
        }
    }

    /// All that still comes, up to the end or the echo.
    async fn rest(mut self, call: &LinkStream, ending: Ending) -> Receipt {
        while let Incoming::Data(data) = timeout(LONG, poll_fn(|cx| call.poll_data(cx))).await.unwrap() {
            self.meter.feed(&data);
        }
        receipt_of(self.meter, ending)
    }
}

async fn metered_by_hub(call: &LinkStream, ending: Ending) -> Receipt {
    HubMeter::new(call).await.rest(call, ending).await
}

fn metered_without_head(ending: Ending) -> Receipt {
    receipt_of(CallMeter::new(Form::Completions), ending)
}

fn receipt_of(meter: CallMeter, ending: Ending) -> Receipt {
    let (prices, demand) = (price_table(), question());
    let asked = Asked {
        prices: &prices,
        provider: Provider::OpenAi,
        model: "gpt-5",
        demand: Some(&demand),
        ceiling: ticket(Endpoint::OpenAiChat).ceiling,
    };
    Receipt::new(&ticket(Endpoint::OpenAiChat), meter.finish(&asked, ending))
}

fn question() -> Demand {
    let mut scan = RequestScan::new(Endpoint::OpenAiChat, None).unwrap();
    scan.feed(QUESTION.as_bytes()).unwrap();
    scan.finish().unwrap();
    scan.demand()
}

fn left(elapsed_ms: u32) -> Abort {
    Abort { elapsed_ms, ..Abort::new(AbortReason::ConsumerGone) }
}

async fn begin(guest: &mut Guest, more: &str) {
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{more}transfer-encoding: chunked\r\n\r\n");
    guest.say(&head).await;
}

fn chunk(body: &[u8]) -> String {
    String::from_utf8(chunk_bytes(body)).unwrap()
}

fn chunk_bytes(body: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat()
}
