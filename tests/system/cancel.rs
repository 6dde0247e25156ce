//! A call can be given up in every phase, by either side: nothing is lost, nothing is left, and the
//! link does not notice.
//!
//! Invariant: a cancel counts as arrived only when the other end of the call has seen it; the times
//! are printed, and what is asserted is that none is missing.

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::consumer_call::Call;
use keyhaven_tests::consumer_call::Calm;
use keyhaven_tests::form::Form;
use keyhaven_tests::house::House;
use keyhaven_tests::house::Plan;
use keyhaven_tests::raw_client::RawClient;
use keyhaven_tests::upstream::record::Exchange;
use std::io::Write;
use std::time::Duration;
use std::time::Instant;

/// Cancels in a phase, and as many of them under way at once.
const CANCELS: usize = 500;
const AT_ONCE: usize = 100;

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
    /// Nobody reads the upload any more.
    StalledUpload,
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
            Self::StalledUpload => "hold-upload",
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
            Self::StalledUpload => {
                let body = form.sized_body(32 << 20, true);
                client.send(&call.head(&format!("content-length: {}\r\n", body.len()))).await?;
                client.send_until_stuck(&body).await?;
            }
        }
        Ok(client)
    }

    /// Waits until the call is in the phase at the vendor, and for the consumer.
    async fn reached(self, house: &House, case: &str, client: &mut RawClient) -> Result<()> {
        if self == Self::BeforeDispatch {
            return Ok(());
        }
        let whole = !matches!(self, Self::Upload | Self::StalledUpload);
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

/// Without credit nobody reads the consumer's connection, and its end stands behind what it sent. Then
/// it is the timeout for an agent that takes nothing that ends the call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_an_upload_that_nobody_reads_is_seen_by_the_timeout() -> Result<()> {
    let mut plan = Plan::default();
    plan.hub.calls.vendor_head_timeout_s = STALL_MAX_S;
    let house = House::build_as(plan).await?;
    let calm = Calm::of(&house).await?;
    let phase = Phase::StalledUpload;
    for (way, count) in [("reset", 24), ("end", 24)] {
        let mut left = Vec::new();
        for number in 0..count {
            let case = format!("stalled-{way}-{number}");
            let mut client = phase.begin(&house, Form::FEW[number % Form::FEW.len()], &case).await?;
            phase.reached(&house, &case, &mut client).await?;
            left.push((case, client));
        }
        let began = Instant::now();
        let mut cases = Vec::new();
        for (case, client) in left {
            if way == "reset" {
                client.reset()
            } else {
                drop(client)
            }
            cases.push(case);
        }
        streams_end(&house, STALL_ENDS).await.with_context(|| way.to_owned())?;
        print(&format!("cancel by {way}, StalledUpload: {count} of {count}, all within {:?}", began.elapsed()));
        for case in cases {
            house.upstream.steps().release(&case, 1);
            let seen = house.upstream.exchange_of(&case).await?;
            ensure!(!seen.request.complete, "{case} became whole");
        }
    }
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
    let house = House::build().await?;
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

/// Has consumers leave, half of them by reset, and waits until the vendor saw each.
async fn consumers_leave(phase: Phase) -> Result<()> {
    let house = House::build().await?;
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
    streams_end(house, PROMPTLY).await?;
    calm.holds(house).await
}

async fn streams_end(house: &House, most: Duration) -> Result<()> {
    let began = Instant::now();
    loop {
        let streams = house.hub.roster.links().first().context("no link")?.handle.stats().streams;
        if streams == 0 {
            return Ok(());
        }
        ensure!(began.elapsed() < most, "{streams} streams are left after {most:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
