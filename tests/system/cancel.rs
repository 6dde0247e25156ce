//! A call can be given up in every phase, by either side: nothing is lost, nothing is left, and the
//! link does not notice.
//!
//! Invariant: a cancel counts as arrived only when the other end of the call has seen it; the times
//! are printed, and what is asserted is that none is missing.

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use keyhaven_tests::consumer_call::Call;
use keyhaven_tests::consumer_call::Calm;
use keyhaven_tests::form::Form;
use keyhaven_tests::house::House;
use keyhaven_tests::house::Plan;
use keyhaven_tests::raw_client::RawClient;
use keyhaven_tests::upstream::play::CASE_HEADER;
use keyhaven_tests::upstream::record::Exchange;
use std::io::Write;
use std::time::Duration;
use std::time::Instant;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Cancels in a phase, and as many of them under way at once.
const CANCELS: usize = 500;
const AT_ONCE: usize = 100;

/// A body of which much is left when nobody reads: credit and buffers on the way take a part of it.
const STUCK_BYTES: usize = 4 << 20;

/// The longest time for a cancel to arrive. Far more than it takes, and far less than any timeout.
const PROMPTLY: Duration = Duration::from_secs(5);

/// What the hub waits for an agent that takes nothing, where a test is about that: as long as it would
/// for a head, with what it grants the agent's own timeout on top.
const STALL_MAX_S: u64 = 1;
const STALL_ENDS: Duration = Duration::from_secs(STALL_MAX_S + 5 + 4);

/// How far a call is when it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The hub does not know the model yet, and so no agent.
    BeforeDispatch,
    /// The vendor has the request and says nothing.
    BeforeHead,
    /// The vendor reads the upload, and more is to come.
    Upload,
    /// Some events of a stream have come.
    Stream,
    /// Half of a whole answer has come.
    Answer,
}

impl Phase {
    fn play(self) -> &'static str {
        match self {
            Self::BeforeDispatch | Self::Upload => "",
            Self::BeforeHead => "stall-head",
            Self::Stream => "chunks-60-1000",
            Self::Answer => "stall-body",
        }
    }

    /// Sends as much of a call as belongs to the phase.
    async fn begin(self, house: &House, form: Form, case: &str) -> Result<RawClient> {
        let call = Call::new(form, &house.api_key).case(case);
        let call = if self.play().is_empty() { call } else { call.play(self.play()) };
        let mut client = RawClient::connect(house.hub.consumer).await?;
        match self {
            Self::BeforeHead | Self::Answer => client.send(&call.bytes()).await?,
            Self::Stream => client.send(&call.streamed(form).bytes()).await?,
            Self::BeforeDispatch => {
                let body = form.sized_body(20_000, false);
                client.send(&call.head(&format!("content-length: {}\r\n", body.len()))).await?;
                client.send(&body[..10_000]).await?;
            }
            Self::Upload => {
                let body = form.body(false);
                client.send(&call.head(&format!("content-length: {}\r\n", body.len()))).await?;
                client.send(&body[..body.len() - 5]).await?;
            }
        }
        Ok(client)
    }

    /// Waits until the call is in the phase at the vendor, and for the consumer.
    async fn reached(self, house: &House, case: &str, client: &mut RawClient) -> Result<()> {
        if self == Self::BeforeDispatch {
            return Ok(());
        }
        let whole = self != Self::Upload;
        let arrived =
            |exchange: &Exchange| exchange.case.as_deref() == Some(case) && (!whole || exchange.request.complete);
        let seen = house.upstream.wait_for(arrived).await.context(case.to_owned())?;
        ensure!(!seen.over(), "{case} was over before it was given up");
        ensure!(whole || !seen.request.complete, "{case} arrived whole");
        if matches!(self, Self::Stream | Self::Answer) {
            client.until(|seen| seen.messages().iter().any(|message| message.body_bytes > 0)).await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_before_dispatch_leaves_no_trace() -> Result<()> {
    let mut plan = Plan::default();
    // Room for a wave of held bodies and no more: what is not given back is missing later.
    plan.hub.consumer.held_body_bytes_max = 2 << 20;
    let house = House::build_as(plan).await?;
    let calm = Calm::of(&house).await?;
    for wave in 0..CANCELS / AT_ONCE {
        let mut clients = Vec::new();
        for number in 0..AT_ONCE {
            let form = Form::ALL[number % Form::ALL.len()];
            clients.push(Phase::BeforeDispatch.begin(&house, form, "before-dispatch").await?);
        }
        for (number, client) in clients.into_iter().enumerate() {
            if number % 2 == 0 { drop(client) } else { client.reset() }
        }
        // The room of those who left is there for who comes now.
        let body = Form::OpenAi.sized_body(1 << 20, false);
        let began = Instant::now();
        loop {
            let call = Call::new(Form::OpenAi, &house.api_key).case("held").body(body.clone());
            if call.make(&house).await?.head.status() == 200 {
                break;
            }
            ensure!(began.elapsed() < PROMPTLY, "wave {wave}: the room was not given back");
        }
    }
    ensure!(house.upstream.exchanges_of("before-dispatch").is_empty(), "a call without a model was dispatched");
    nothing_is_left(&house, &calm).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_before_the_head_closes_the_vendors_connection() -> Result<()> {
    consumers_leave(Phase::BeforeHead).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_in_an_upload_closes_the_vendors_connection() -> Result<()> {
    consumers_leave(Phase::Upload).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_in_a_stream_closes_the_vendors_connection() -> Result<()> {
    consumers_leave(Phase::Stream).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_in_a_whole_answer_closes_the_vendors_connection() -> Result<()> {
    consumers_leave(Phase::Answer).await
}

/// A reset arrives although nobody reads what was sent before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_resets_an_upload_that_nobody_reads_is_noticed_at_once() -> Result<()> {
    let house = passing_on().await?;
    let calm = Calm::of(&house).await?;
    let bodies = Form::FEW.map(|form| (form, form.sized_body(STUCK_BYTES, true)));
    let mut waits = Vec::new();
    for wave in 0..CANCELS / AT_ONCE {
        let calls = (0..AT_ONCE).map(|number| {
            let (form, body) = &bodies[number % bodies.len()];
            stuck(&house, *form, body, format!("stuck-{wave}-{number}"))
        });
        let calls = try_join_all(calls).await?;
        for (case, client) in calls {
            let streams = streams(&house)?;
            let at = Instant::now();
            client.reset();
            until_streams(&house, streams - 1, PROMPTLY).await.with_context(|| format!("{case} was lost"))?;
            waits.push(at.elapsed());
            // The vendor, which reads now, finds the end of what had come.
            house.upstream.steps().release(&case, 1);
            let seen = house.upstream.exchange_of(&case).await?;
            ensure!(!seen.request.complete, "{case} became whole");
        }
    }
    tell("by the consumer, StalledUpload", &mut waits);
    nothing_is_left(&house, &calm).await
}

/// An end stands behind what was sent, and cannot arrive before that. Then it is the timeout for an
/// agent that takes nothing that ends the call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_ends_an_upload_that_nobody_reads_is_seen_by_the_timeout() -> Result<()> {
    const COUNT: usize = 24;
    let mut plan = Plan::default();
    plan.hub.calls.vendor_head_timeout_s = STALL_MAX_S;
    plan.hub.calls.replayed_body_bytes = 0;
    let house = House::build_as(plan).await?;
    let calm = Calm::of(&house).await?;
    let body = Form::OpenAi.sized_body(STUCK_BYTES, true);
    let calls = (0..COUNT).map(|number| stuck(&house, Form::OpenAi, &body, format!("ended-{number}")));
    let calls = try_join_all(calls).await?;

    let began = Instant::now();
    let cases: Vec<String> = calls.into_iter().map(|(case, _left)| case).collect();
    until_streams(&house, 0, STALL_ENDS).await?;
    print(&format!("cancel by end, StalledUpload: {COUNT} of {COUNT}, all within {:?}", began.elapsed()));
    for case in cases {
        house.upstream.steps().release(&case, 1);
        let seen = house.upstream.exchange_of(&case).await?;
        ensure!(!seen.request.complete, "{case} became whole");
    }
    nothing_is_left(&house, &calm).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_a_realtime_session_closes_the_vendors_connection() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let mut waits = Vec::new();
    for wave in 0..CANCELS / AT_ONCE {
        let sessions = (0..AT_ONCE).map(|number| session(&house, format!("session-{wave}-{number}")));
        for (number, (case, socket)) in try_join_all(sessions).await?.into_iter().enumerate() {
            let at = Instant::now();
            if number % 2 == 1 {
                socket.get_ref().set_zero_linger()?;
            }
            drop(socket);
            let gone = |exchange: &Exchange| exchange.case.as_deref() == Some(case.as_str()) && exchange.over();
            let seen = house.upstream.wait_for(gone).await.with_context(|| format!("{case} was lost"))?;
            let left_at = seen.peer_closed_at.or(seen.ended_at).context("no time")?;
            waits.push(left_at.saturating_duration_since(at));
        }
    }
    tell("by the consumer, Realtime", &mut waits);
    ensure!(waits.iter().all(|wait| *wait < PROMPTLY), "{waits:?}");
    nothing_is_left(&house, &calm).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_that_leaves_ends_the_call_for_the_consumer() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    for (play, status) in [("reset-head", 502), ("half-close-head", 502), ("reset", 200), ("cut-body", 200)] {
        let mut waits = Vec::new();
        for number in 0..CANCELS {
            let case = format!("vendor-{play}-{number}");
            let call = Call::new(Form::ALL[number % Form::ALL.len()], &house.api_key).case(&case).play(play);
            let mut client = RawClient::connect(house.hub.consumer).await?;
            let answer = client.ask(&call.bytes()).await.context(case.clone())?;
            let at = Instant::now();
            ensure!(answer.head.status() == status, "{case}: {}", answer.head.status());
            ensure!(answer.complete == (status == 502), "{case}: half an answer ended as a whole one");
            let ended = house.upstream.exchange_of(&case).await?;
            waits.push(at.saturating_duration_since(ended.began_at));
        }
        tell(&format!("by the vendor, {play}, from the call to its end"), &mut waits);
    }
    nothing_is_left(&house, &calm).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stops_at_once_ends_every_call_and_none_hangs() -> Result<()> {
    let house = passing_on().await?;
    let mut clients = Vec::new();
    for (place, phase) in [Phase::BeforeHead, Phase::Upload, Phase::Stream, Phase::Answer].into_iter().enumerate() {
        for number in 0..25 {
            let case = format!("stop-{place}-{number}");
            let mut client = phase.begin(&house, Form::ALL[number % Form::ALL.len()], &case).await?;
            phase.reached(&house, &case, &mut client).await?;
            clients.push((case, client));
        }
    }

    house.agent_tasks.draining().cancel();
    house.agent_tasks.stopping().cancel();

    for (case, mut client) in clients {
        let answer = client.answer().await.with_context(|| format!("{case} hangs"))?;
        ensure!(answer.head.status() >= 500 || !answer.complete, "{case}: a whole answer out of nothing");
        let seen = house.upstream.exchange_of(&case).await?;
        ensure!(seen.peer_closed_at.is_some(), "{case}: the vendor's connection was not closed");
    }
    Ok(())
}

/// A call in whose upload nothing moves any more.
async fn stuck(house: &House, form: Form, body: &[u8], case: String) -> Result<(String, RawClient)> {
    let call = Call::new(form, &house.api_key).case(&case).play("hold-upload");
    let mut client = RawClient::connect_narrow(house.hub.consumer, 16 << 10).await?;
    client.send(&call.head(&format!("content-length: {}\r\n", body.len()))).await?;
    let sent = client.send_until_stuck(body).await?;
    ensure!(sent < body.len(), "{case}: all of it was taken");
    let arrived = |exchange: &Exchange| exchange.case.as_deref() == Some(case.as_str());
    let seen = house.upstream.wait_for(arrived).await.context(case.clone())?;
    ensure!(!seen.over() && !seen.request.complete, "{case} was over before it was given up");
    Ok((case, client))
}

/// A realtime session in which the vendor has spoken.
async fn session(house: &House, case: String) -> Result<(String, WebSocketStream<TcpStream>)> {
    let url = format!("ws://{}/v1/realtime?model=gpt-realtime", house.hub.consumer);
    let mut request = url.into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {}", house.api_key).parse()?);
    request.headers_mut().insert(CASE_HEADER, case.parse()?);
    let (mut socket, _) = client_async(request, TcpStream::connect(house.hub.consumer).await?).await?;
    socket.next().await.context("the end came first")??;
    Ok((case, socket))
}

/// Has consumers leave, half of them by reset, and waits until the vendor saw each.
async fn consumers_leave(phase: Phase) -> Result<()> {
    let house = passing_on().await?;
    let calm = Calm::of(&house).await?;
    let mut waits = Vec::new();
    for wave in 0..CANCELS / AT_ONCE {
        let mut calls = Vec::new();
        for number in 0..AT_ONCE {
            let case = format!("{phase:?}-{wave}-{number}");
            let form = Form::ALL[(wave * AT_ONCE + number) % Form::ALL.len()];
            calls.push((phase.begin(&house, form, &case).await.context(case.clone())?, case));
        }
        for (client, case) in &mut calls {
            phase.reached(&house, case, client).await.context(case.clone())?;
        }
        for (number, (client, case)) in calls.into_iter().enumerate() {
            let at = Instant::now();
            if number % 2 == 0 {
                drop(client)
            } else {
                client.reset()
            }
            let gone = |exchange: &Exchange| {
                exchange.case.as_deref() == Some(case.as_str()) && exchange.peer_closed_at.is_some()
            };
            let seen = house.upstream.wait_for(gone).await.with_context(|| format!("{case} was lost"))?;
            waits.push(seen.peer_closed_at.context("no time")?.saturating_duration_since(at));
        }
    }
    ensure!(waits.len() == CANCELS, "{} of {CANCELS}", waits.len());
    tell(&format!("by the consumer, {phase:?}"), &mut waits);
    ensure!(waits.iter().all(|wait| *wait < PROMPTLY), "{phase:?}: {waits:?}");
    nothing_is_left(&house, &calm).await
}

fn tell(what: &str, waits: &mut [Duration]) {
    waits.sort();
    let at = |share: usize| waits.get(waits.len() * share / 100).copied().unwrap_or_default();
    print(&format!("cancel {what}: {} of {CANCELS}, p50 {:?}, p99 {:?}", waits.len(), at(50), at(99)));
}

/// Figures are for whoever reads the log of a run that passed, too.
fn print(line: &str) {
    // A closed stderr is no fault of the call's.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// No stream is left on the link, the link is the one it was, and calls go on.
async fn nothing_is_left(house: &House, calm: &Calm) -> Result<()> {
    until_streams(house, 0, PROMPTLY).await?;
    calm.holds(house).await
}

fn streams(house: &House) -> Result<usize> {
    Ok(house.hub.roster.links().first().context("no link")?.handle.stats().streams)
}

async fn until_streams(house: &House, wanted: usize, most: Duration) -> Result<()> {
    let began = Instant::now();
    while streams(house)? > wanted {
        ensure!(began.elapsed() < most, "{} streams are left after {most:?}, not {wanted}", streams(house)?);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// A house whose hub passes bodies on as soon as it has seen their model.
async fn passing_on() -> Result<House> {
    let mut plan = Plan::default();
    plan.hub.calls.replayed_body_bytes = 0;
    House::build_as(plan).await
}
