//! An agent that has proved itself and then misbehaves during calls: false frames, false heads,
//! every abort, silence, a link that is gone.
//!
//! Invariant: the consumer gets an error in the vendor's shape or a cut answer, never a whole one
//! that is wrong; the fake's own link and everybody else's calls go on.

use crate::scene::Scene;
use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::FLAG_OPTIONAL;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::provider::native_error::status_of;
use keyhaven_tests::consumer::Answer;
use keyhaven_tests::consumer::Call;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::prices;
use keyhaven_tests::raw_agent::RawAgent;
use keyhaven_tests::raw_agent::RawLink;
use keyhaven_tests::raw_agent::odd_frame;
use serde_json::json;
use tokio::task::JoinSet;

/// A model that only the fake offers.
pub(crate) const MODEL: &str = "fake-model";

/// What the consumer must see of a misdeed.
#[derive(Debug, Clone, Copy)]
enum Seen {
    /// An error of the hub's with this code.
    Error(ErrorCode),
    /// A 200 that breaks off after this body.
    Cut(&'static str),
    /// An error or a cut answer: which one is a matter of time.
    NotWhole,
    /// A whole answer with this body.
    Whole(&'static str),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_out_of_order_end_the_call_with_an_error_or_a_cut() -> Result<()> {
    let head = |stream| frame(FrameKind::Head, stream, &response(200, &[]));
    let data = |stream, text: &[u8]| frame(FrameKind::Data, stream, text);
    let end = |stream| frame(FrameKind::End, stream, b"");
    let long = || vec![b'x'; 64 * 1024];
    let refused = Seen::Error(ErrorCode::AgentRefused);
    let misdeeds: Vec<Misdeed> = vec![
        misdeed("good", Seen::Whole("hello"), move |s| vec![head(s), data(s, b"hello"), end(s)]),
        misdeed("good-with-news", Seen::Whole("hello"), move |s| {
            let news = odd_frame(0x7f, FLAG_OPTIONAL, 4, s, b"news");
            vec![news.clone(), head(s), news.clone(), data(s, b"hello"), news, end(s)]
        }),
        misdeed("late-frames", Seen::Whole("hello"), move |s| {
            vec![head(s), data(s, b"hello"), end(s), data(s, b"more"), head(s), end(s), abort(s, AbortReason::Busy)]
        }),
        misdeed("data-before-head", refused, move |s| vec![data(s, b"x"), head(s), end(s)]),
        misdeed("end-before-head", refused, move |s| vec![end(s), head(s)]),
        misdeed("head-twice", Seen::NotWhole, move |s| vec![head(s), head(s), data(s, b"x"), end(s)]),
        misdeed("unknown-kind", refused, move |s| vec![odd_frame(0x7f, 0, 1, s, b"x"), head(s), end(s)]),
        misdeed("open", Seen::NotWhole, move |s| vec![abort(s, AbortReason::Unspecified), head(s), end(s)]),
        misdeed("data-too-large", Seen::NotWhole, move |s| {
            let mut longer = long();
            longer.push(b'x');
            vec![head(s), odd_frame(FrameKind::Data.number(), 0, 65_537, s, &longer), end(s)]
        }),
        misdeed("beyond-credit", Seen::NotWhole, move |s| vec![head(s), data(s, &long()), data(s, &long()), end(s)]),
        misdeed("credit-malformed", Seen::NotWhole, move |s| {
            vec![odd_frame(FrameKind::Credit.number(), 0, 3, s, b"xxx"), head(s), end(s)]
        }),
        misdeed("head-too-large", refused, move |s| {
            vec![odd_frame(FrameKind::Head.number(), 0, 98_305, s, &vec![0; 98_305])]
        }),
        misdeed("end-too-large", Seen::NotWhole, move |s| {
            vec![head(s), odd_frame(FrameKind::End.number(), 0, 16_385, s, &vec![0; 16_385])]
        }),
        misdeed("cut", Seen::Cut("hello"), move |s| {
            vec![head(s), data(s, b"hello"), abort(s, AbortReason::VendorBroke)]
        }),
        misdeed("abort-malformed", refused, move |s| vec![frame(FrameKind::Abort, s, b"x")]),
    ];
    play(misdeeds).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_none_is_an_error_and_one_that_lies_cannot_shift_the_next_answer() -> Result<()> {
    let refused = Seen::Error(ErrorCode::AgentRefused);
    let answered = |head: Vec<u8>| {
        move |s| {
            vec![frame(FrameKind::Head, s, &head), frame(FrameKind::Data, s, b"hello"), frame(FrameKind::End, s, b"")]
        }
    };
    let raw_head = |status: u16, name: &[u8], value: &[u8]| {
        let mut head = BytesMut::new();
        head.put_u16(status);
        head.put_u16(1);
        head.put_u16(u16::try_from(name.len()).unwrap_or_default());
        head.put_slice(name);
        head.put_u16(u16::try_from(value.len()).unwrap_or_default());
        head.put_slice(value);
        head.to_vec()
    };
    let of = |headers: &[(&'static str, &'static str)]| response(200, headers).to_vec();
    let misdeeds: Vec<Misdeed> = vec![
        misdeed("empty", refused, answered(Vec::new())),
        misdeed("garbage", refused, answered(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())),
        misdeed("status-0", refused, answered(vec![0, 0, 0, 0])),
        misdeed("status-101", refused, answered(vec![0, 101, 0, 0])),
        misdeed("status-600", refused, answered(vec![2, 88, 0, 0])),
        misdeed("trailing", refused, answered(vec![0, 200, 0, 0, 7])),
        misdeed("line-break", refused, answered(raw_head(200, b"x-evil", b"a\r\nx-more: b"))),
        misdeed("name-with-colon", refused, answered(raw_head(200, b"x: y", b"z"))),
        misdeed("nul", refused, answered(raw_head(200, b"x-evil", b"a\0b"))),
        misdeed("length-true", Seen::Whole("hello"), answered(of(&[("content-length", "5")]))),
        // What the agent says is the vendor's word; the hub holds it to its own framing.
        misdeed("length-short", Seen::Whole("hel"), answered(of(&[("content-length", "3")]))),
        misdeed("length-long", Seen::NotWhole, answered(of(&[("content-length", "50")]))),
        misdeed("length-no-number", Seen::NotWhole, answered(of(&[("content-length", "5, 5x")]))),
        misdeed("lengths-differ", Seen::NotWhole, answered(of(&[("content-length", "5"), ("content-length", "9")]))),
        misdeed(
            "hop-by-hop",
            Seen::Whole("hello"),
            answered(of(&[
                ("transfer-encoding", "gzip, chunked"),
                ("connection", "upgrade, x-secret"),
                ("upgrade", "h2c"),
                ("keyhaven-call-id", "forged"),
                ("set-cookie", "owner=1"),
            ])),
        ),
    ];
    play(misdeeds).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reason_for_an_abort_is_a_native_error_before_the_head_and_a_cut_after_it() -> Result<()> {
    let reasons = [
        (AbortReason::Unspecified, ErrorCode::AgentRefused),
        (AbortReason::ConsumerGone, ErrorCode::AgentRefused),
        (AbortReason::RequestBroken, ErrorCode::RequestMalformed),
        (AbortReason::Finished, ErrorCode::AgentRefused),
        (AbortReason::Stopping, ErrorCode::NoAgent),
        (AbortReason::Protocol, ErrorCode::AgentRefused),
        (AbortReason::FlowControl, ErrorCode::AgentRefused),
        (AbortReason::LinkLost, ErrorCode::LinkLost),
        (AbortReason::Deadline, ErrorCode::VendorTimeout),
        (AbortReason::VendorUnreachable, ErrorCode::VendorUnreachable),
        (AbortReason::VendorTimeout, ErrorCode::VendorTimeout),
        (AbortReason::VendorBroke, ErrorCode::VendorBroke),
        (AbortReason::VendorGarbage, ErrorCode::VendorBroke),
        (AbortReason::OwnerRefused, ErrorCode::OwnerRefused),
        (AbortReason::OwnerRateLimited, ErrorCode::OwnerRateLimited),
        (AbortReason::NotAllowed, ErrorCode::AgentRefused),
        (AbortReason::OfferUnknown, ErrorCode::AgentRefused),
        (AbortReason::Busy, ErrorCode::NoAgent),
        (AbortReason::PricesUnknown, ErrorCode::NoAgent),
        (AbortReason::TicketInvalid, ErrorCode::AgentRefused),
        (AbortReason::TicketMissing, ErrorCode::AgentRefused),
        (AbortReason::TicketSeen, ErrorCode::AgentRefused),
        (AbortReason::RulesUnknown, ErrorCode::NoAgent),
        (AbortReason::TierTooLow, ErrorCode::NoAgent),
    ];
    let mut misdeeds = vec![misdeed("number-from-the-future", Seen::Error(ErrorCode::AgentRefused), |s| {
        let mut payload = Abort::new(AbortReason::Unspecified).encode().to_vec();
        payload[0] = 0x7f;
        vec![frame(FrameKind::Abort, s, &payload)]
    })];
    for (reason, code) in reasons {
        misdeeds
            .push(misdeed(&format!("before-{}", reason.name()), Seen::Error(code), move |s| vec![abort(s, reason)]));
        misdeeds.push(misdeed(&format!("after-{}", reason.name()), Seen::Cut("hello"), move |s| {
            let head = frame(FrameKind::Head, s, &response(200, &[]));
            vec![head, frame(FrameKind::Data, s, b"hello"), abort(s, reason)]
        }));
    }
    play(misdeeds).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_leaves_in_the_middle_or_never_answers_is_named() -> Result<()> {
    let scene = Scene::build_as(|site| Ok(site.set("calls.vendor_head_timeout_s", "1"))).await?;
    let fake = Fake::join(&scene, "fake").await?;
    let chat = Chat { model: MODEL.to_owned(), ..scene.chat() };

    let (answer, left) = tokio::join!(chat.ask(scene.hub.consumer), leave(fake.link().await?, false));
    left?;
    seen(&answer?, Seen::Error(ErrorCode::LinkLost)).context("left before the head")?;
    let (answer, left) = tokio::join!(chat.ask(scene.hub.consumer), leave(fake.link().await?, true));
    left?;
    seen(&answer?, Seen::Cut("hello")).context("left after the head")?;

    let mut playing = JoinSet::new();
    playing.spawn(serve(fake.link().await?, vec![misdeed("", Seen::NotWhole, |_| Vec::new())]));
    let silent = chat.ask(scene.hub.consumer).await?;
    seen(&silent, Seen::Error(ErrorCode::VendorTimeout)).context("silent")?;
    scene.unharmed().await
}

/// One way to misbehave: the case that asks for it, what must be seen of it, and its messages.
struct Misdeed {
    case: String,
    seen: Seen,
    messages: Box<dyn Fn(u32) -> Vec<Bytes> + Send>,
}

fn misdeed(case: &str, seen: Seen, messages: impl Fn(u32) -> Vec<Bytes> + Send + 'static) -> Misdeed {
    Misdeed { case: case.to_owned(), seen, messages: Box::new(messages) }
}

/// Has a fake agent do all of it over one link while a good agent streams.
async fn play(misdeeds: Vec<Misdeed>) -> Result<()> {
    let scene = Scene::build().await?;
    let hub = scene.hub.consumer;
    let expected: Vec<(String, Seen)> = misdeeds.iter().map(|one| (one.case.clone(), one.seen)).collect();
    let mut good = Call::begin(hub, &scene.chat().streamed("meanwhile", "step").request()).await?;
    let fake = Fake::join(&scene, "fake").await?;
    let mut playing = JoinSet::new();
    playing.spawn(serve(fake.link().await?, misdeeds));

    for (case, wanted) in expected {
        let chat = Chat { model: MODEL.to_owned(), case: case.clone(), ..scene.chat() };
        let mut call = Call::begin(hub, &chat.request()).await?;
        let answer = call.answer().await;
        seen(&answer, wanted).with_context(|| case.clone())?;
        let dropped = ["forged", "x-secret", "owner=1", "h2c"];
        let head = answer.message.as_ref().map(|message| String::from_utf8_lossy(&message.head.raw).into_owned());
        let leaked = dropped.iter().find(|word| head.as_ref().is_some_and(|head| head.contains(**word)));
        assert_eq!(leaked, None, "{case}");
        // Whatever was left of the first answer must not be taken for the second.
        if call.again(&scene.chat().request()).await.is_ok() {
            let next = call.answer().await;
            let gone = next.message.is_none();
            assert!(gone || next.json()["object"] == "chat.completion", "{case}, then: {}", next.text());
        }
    }
    assert!(playing.try_join_next().is_none(), "the fake's own link is still up");
    scene.upstream.steps().release("meanwhile", 100);
    assert!(good.answer().await.complete(), "the good agent's call went on");
    scene.unharmed().await
}

/// Compares an answer with what must be seen.
fn seen(answer: &Answer, wanted: Seen) -> Result<()> {
    let fits = match wanted {
        Seen::Error(code) => {
            let ours = answer.code() == Some(code.to_string()) && answer.json()["error"]["message"].is_string();
            ours && answer.complete() && answer.status() == status_of(code).as_u16()
        }
        Seen::Cut(body) => answer.status() == 200 && !answer.complete() && answer.text() == body,
        Seen::NotWhole => answer.status() != 200 || !answer.complete(),
        Seen::Whole(body) => answer.status() == 200 && answer.complete() && answer.text() == body,
    };
    if fits {
        return Ok(());
    }
    bail!("wanted {wanted:?}, got:\n{}", String::from_utf8_lossy(&answer.bytes))
}

pub(crate) struct Fake {
    pub(crate) agent: RawAgent,
    tunnel: std::net::SocketAddr,
    /// What it says of the hub's prices.
    held: Bytes,
}

impl Fake {
    pub(crate) async fn join(scene: &Scene, name: &str) -> Result<Self> {
        let agent = RawAgent::new(&scene.site.invite(name).await?, 42)?;
        agent.join(scene.hub.tunnel).await?;
        let held = prices::held_of(scene.site.dir()).await?;
        Ok(Self { agent, tunnel: scene.hub.tunnel, held })
    }

    /// A link that offers the fake's model, once the hub has taken note of it.
    pub(crate) async fn link(&self) -> Result<RawLink> {
        let mut link = self.agent.link(self.tunnel, false).await?;
        link.answer_ping().await?;
        let offer = json!({
            "vendor_key": "vk_00112233445566778899aabbccddeeff",
            "provider": "openai",
            "models": [{"id": MODEL, "object": "model"}],
        });
        link.send_frame(FrameKind::Prices, 0, &self.held).await?;
        link.send_frame(FrameKind::Offer, 0, offer.to_string().as_bytes()).await?;
        link.send_frame(FrameKind::Ping, 0, &[1; 8]).await?;
        while link.frame().await?.context("the hub closed")?.kind != FrameKind::Pong.number() {}
        Ok(link)
    }
}

/// Answers each call by the misdeed that its case names.
async fn serve(mut link: RawLink, misdeeds: Vec<Misdeed>) -> Result<()> {
    loop {
        let frame = link.frame_of_call().await?.context("the hub closed the fake's link")?;
        if frame.kind != FrameKind::Open.number() {
            continue;
        }
        let open = OpenHead::decode(frame.payload)?;
        let case = open.headers.get("x-kit-case").map_or(&b""[..], HeaderValue::as_bytes);
        let chosen = misdeeds.iter().find(|one| one.case.as_bytes() == case).context("no such misdeed")?;
        // In one message, so that nothing but the frames' own order tells them apart.
        for message in batches((chosen.messages)(frame.stream)) {
            link.send(message).await?;
        }
    }
}

/// Joins frames up to what a message may hold.
fn batches(frames: Vec<Bytes>) -> Vec<Bytes> {
    let mut batches = vec![BytesMut::new()];
    for frame in frames {
        if batches.last().is_some_and(|batch| batch.len() + frame.len() > 190_000) {
            batches.push(BytesMut::new());
        }
        if let Some(batch) = batches.last_mut() {
            batch.extend_from_slice(&frame);
        }
    }
    batches.into_iter().filter(|batch| !batch.is_empty()).map(BytesMut::freeze).collect()
}

/// Waits for a call, begins to answer it or not, and drops the connection.
async fn leave(mut link: RawLink, begun: bool) -> Result<()> {
    let open = loop {
        let frame = link.frame_of_call().await?.context("the hub closed the fake's link")?;
        if frame.kind == FrameKind::Open.number() {
            break frame;
        }
    };
    if begun {
        link.send_frame(FrameKind::Head, open.stream, &response(200, &[])).await?;
        link.send_frame(FrameKind::Data, open.stream, b"hello").await?;
    }
    link.socket.close(None).await?;
    Ok(())
}

pub(crate) fn frame(kind: FrameKind, stream: u32, payload: &[u8]) -> Bytes {
    odd_frame(kind.number(), 0, u32::try_from(payload.len()).unwrap_or_default(), stream, payload)
}

fn abort(stream: u32, reason: AbortReason) -> Bytes {
    frame(FrameKind::Abort, stream, &Abort::new(reason).encode())
}

pub(crate) fn response(status: u16, fields: &[(&'static str, &'static str)]) -> Bytes {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let status = StatusCode::from_u16(status).unwrap_or_default();
    ResponseHead { status, headers }.encode().unwrap_or_default()
}
