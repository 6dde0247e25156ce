//! Streams on their way through: nothing waits, nothing grows, nothing is lost when somebody
//! leaves.
//!
//! Invariant: what is asserted is what both ends saw; the upstream moves only when it is told to.

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::consumer_call::Call;
use keyhaven_tests::consumer_call::Calm;
use keyhaven_tests::consumer_call::same_at_both_ends;
use keyhaven_tests::form::Form;
use keyhaven_tests::house::House;
use keyhaven_tests::house::Plan;
use keyhaven_tests::raw_client::RawClient;
use keyhaven_tests::upstream::record::Exchange;
use tokio::task::JoinSet;

/// The most credit a stream's reader gives.
const CREDIT_BYTES_MAX: u64 = 4 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_piece_reaches_the_consumer_before_the_next_is_made() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;

    for form in Form::ALL {
        for streamed in [true, false] {
            let case = format!("step-{form:?}-{streamed}");
            let call = Call::new(form, &house.api_key).case(&case).play("step");
            let call = if streamed { call.streamed(form) } else { call };
            let mut client = RawClient::connect(house.hub.consumer).await?;
            client.send(&call.bytes()).await?;
            // The head comes before any piece of the body was allowed.
            client.until(|seen| !seen.messages().is_empty()).await.context(case.clone())?;
            let pieces = released_one_by_one(&house, &case, &mut client).await.context(case.clone())?;
            assert!(pieces >= 4, "{case}: only {pieces} pieces");
            same_at_both_ends(&house, &case, &mut client).await?;
        }
    }
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_many_pieces_arrives_in_order_and_whole() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;

    let mut calls = JoinSet::new();
    for form in Form::FEW {
        for play in
            ["chunks-200-1", "chunks-5-40", "slow-0", "big-3000000", "trailers", "100-continue", "to-end", "close"]
        {
            let case = format!("{form:?}-{play}");
            let call = Call::new(form, &house.api_key).streamed(form).case(&case).play(play);
            let (consumer, bytes) = (house.hub.consumer, call.bytes());
            calls.spawn(async move {
                let mut client = RawClient::connect(consumer).await?;
                client.send(&bytes).await?;
                client.answer().await.context(case.clone())?;
                anyhow::Ok((case, client))
            });
        }
    }
    while let Some(done) = calls.join_next().await {
        let (case, mut client) = done??;
        same_at_both_ends(&house, &case, &mut client).await?;
    }
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_answer_passes_byte_for_byte_and_only_if_it_was_asked_for() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let rows = [
        ("gzip", "gzip, deflate, br, zstd", Some("gzip, deflate"), Some("gzip")),
        ("deflate", "br;q=1.0, deflate;q=0.5, *;q=0.1", Some("deflate;q=0.5"), Some("deflate")),
        ("gzip", "br, zstd", Some("identity"), None),
        ("gzip", "*", Some("identity"), None),
        ("gzip", "", None, None),
    ];

    for form in Form::ALL {
        for streamed in [true, false] {
            for (number, (play, asked, narrowed, coding)) in rows.iter().enumerate() {
                let case = format!("{form:?}-{streamed}-{number}");
                let call = Call::new(form, &house.api_key).case(&case).play(play);
                let call = if streamed { call.streamed(form) } else { call };
                let call = if asked.is_empty() { call } else { call.with("accept-encoding", asked) };
                let mut client = RawClient::connect(house.hub.consumer).await?;
                let answer = client.ask(&call.bytes()).await?;
                let seen = same_at_both_ends(&house, &case, &mut client).await?;
                assert_eq!(seen.request.head.first("accept-encoding").as_deref(), *narrowed, "{case}");
                assert_eq!(answer.head.first("content-encoding").as_deref(), *coding, "{case}");
            }
        }
    }
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_stops_reading_stops_the_vendor_and_nobody_else() -> Result<()> {
    // What may be under way: a stream's whole credit, and what the kernels of vendor, agent and
    // hub take into their buffers; nothing that grows with the answer.
    let bound = CREDIT_BYTES_MAX + buffer_bytes_max("tcp_rmem") + 2 * buffer_bytes_max("tcp_wmem") + (2 << 20);
    let big = bound + (16 << 20);
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let call = Call::new(Form::OpenAi, &house.api_key).case("stalled").play(&format!("big-{big}"));
    let mut stalled = RawClient::connect_narrow(house.hub.consumer, 64 << 10).await?;
    stalled.send(&call.bytes()).await?;
    stalled.until(|seen| !seen.messages().is_empty()).await?;

    // Other calls are the clock: the vendor is stopped when it sent nothing during many of them.
    let mut sent = 0;
    let mut quiet = 0;
    let mut others = 0;
    while quiet < 25 {
        let form = Form::ALL[others % Form::ALL.len()];
        let case = format!("other-{others}");
        let call = Call::new(form, &house.api_key).streamed(form).case(&case).play("chunks-20-1");
        let mut client = RawClient::connect(house.hub.consumer).await?;
        client.ask(&call.bytes()).await.context(case.clone())?;
        same_at_both_ends(&house, &case, &mut client).await?;
        let now = house.upstream.sent_bytes_of("stalled");
        quiet = if now == sent { quiet + 1 } else { 0 };
        sent = now;
        others += 1;
    }
    assert!(sent < bound, "{sent} bytes were sent to a consumer that does not read");

    let answer = stalled.answer().await?;
    assert_eq!(answer.body_bytes, big);
    same_at_both_ends(&house, "stalled", &mut stalled).await?;
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_reads_nothing_for_too_long_is_given_up() -> Result<()> {
    let mut plan = Plan::default();
    plan.hub.consumer.response_stall_timeout_s = 1;
    let house = House::build_as(plan).await?;
    let calm = Calm::of(&house).await?;

    let mut stalled = Vec::new();
    for form in [Form::OpenAi, Form::Anthropic] {
        let case = format!("{form:?}");
        let call = Call::new(form, &house.api_key).case(&case).play("big-90000000");
        let mut client = RawClient::connect_narrow(house.hub.consumer, 16 << 10).await?;
        client.send(&call.bytes()).await?;
        client.until(|seen| !seen.messages().is_empty()).await.context(case.clone())?;
        let begun = client.seen().messages().first().context("no head came")?;
        ensure!(begun.head.status() == 200, "{case}: {}", String::from_utf8_lossy(&begun.body));
        stalled.push((case, client));
    }
    for (case, mut client) in stalled {
        let gone =
            |exchange: &Exchange| exchange.case.as_deref() == Some(case.as_str()) && exchange.peer_closed_at.is_some();
        let told = || {
            let stats = house.hub.roster.links().first().map(|link| link.handle.stats());
            format!("{case} is kept for ever after {} bytes, {stats:?}", house.upstream.sent_bytes_of(&case))
        };
        house.upstream.wait_for(gone).await.with_context(told)?;
        client.end().await?;
        let answer = client.seen().messages().first().context("no head came")?;
        ensure!(!answer.complete, "{case}: half an answer ended as a whole one");
    }
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_that_stops_reading_stops_the_upload_and_gets_all_of_it_later() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let bytes = Form::Anthropic.sized_body(24 << 20, true);
    let call = Call::new(Form::Anthropic, &house.api_key).case("upload").play("stall-upload-700").body(bytes);

    let mut client = RawClient::connect(house.hub.consumer).await?;
    let answer = client.ask(&call.chunked(1 << 20)).await?;

    assert_eq!(answer.head.status(), 200);
    let seen = same_at_both_ends(&house, "upload", &mut client).await?;
    assert_eq!(seen.request.body_sha256(), call.body_sha256());
    calm.holds(&house).await
}

/// The largest buffer that the kernel gives one direction of a connection by itself.
fn buffer_bytes_max(name: &str) -> u64 {
    let setting = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    setting.split_whitespace().nth(2).and_then(|most| most.parse().ok()).unwrap_or(8 << 20)
}

/// Releases a piece, waits until the consumer has all that the vendor sent, and so on to the end.
async fn released_one_by_one(house: &House, case: &str, client: &mut RawClient) -> Result<usize> {
    let mut pieces = 0;
    loop {
        let have = client.seen().messages().last().map_or(0, |message| message.body_bytes);
        house.upstream.steps().release(case, 1);
        pieces += 1;
        let sent = |exchange: &Exchange| {
            let more = exchange.response().is_some_and(|response| response.body_bytes > have);
            exchange.case.as_deref() == Some(case) && more
        };
        let exchange = house.upstream.wait_for(sent).await?;
        let sent = exchange.response().map_or(0, |response| response.body_bytes);
        client.until(|seen| seen.messages().last().is_some_and(|message| message.body_bytes >= sent)).await?;
        let received = client.seen().messages().last().map_or(0, |message| message.body_bytes);
        ensure!(received == sent, "{received} bytes came of {sent}");
        if exchange.response().is_some_and(|response| response.complete) {
            return Ok(pieces);
        }
    }
}
