//! Vendors that die, stall, send rubbish or refuse the owner.
//!
//! Invariant: a consumer gets a clear error in the vendor's own form or an answer that is plainly
//! cut off, never a clean end of half an answer; and nobody else notices.

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::consumer_call::Call;
use keyhaven_tests::consumer_call::Calm;
use keyhaven_tests::consumer_call::has_call_id;
use keyhaven_tests::consumer_call::refused;
use keyhaven_tests::consumer_call::same_at_both_ends;
use keyhaven_tests::consumer_call::tells_nothing;
use keyhaven_tests::form::Form;
use keyhaven_tests::house::House;
use keyhaven_tests::house::Plan;
use keyhaven_tests::http1::Framing;
use keyhaven_tests::http1::sha256;
use keyhaven_tests::raw_client::RawClient;
use keyhaven_tests::upstream::record::Exchange;
use keyhaven_tests::upstream::vendor::Vendor;
use tokio::task::JoinSet;

/// Far longer than the hub takes to hear that an offer is withdrawn.
const WITHDRAWN_IN: std::time::Duration = std::time::Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_that_gives_no_proper_head_is_an_error_in_its_own_form() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let bystander = Bystander::begin(&house).await?;
    let plays = [
        "cut-head",
        "garbage",
        "reset-head",
        "bad-content-length",
        "two-content-lengths",
        "huge-head",
        "half-close-head",
        "switch-101",
    ];

    for form in Form::ALL {
        for play in plays {
            for streamed in [true, false] {
                let what = || format!("{play}, {form:?}");
                let call = Call::new(form, &house.api_key).play(play);
                let call = if streamed { call.streamed(form) } else { call };
                let answer = call.make(&house).await.with_context(what)?;
                refused(&house, &answer, form.errors(), 502, "KH-E2014").with_context(what)?;
            }
        }
    }
    bystander.end(&house).await?;
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_is_cut_off_for_the_consumer_after_its_last_byte() -> Result<()> {
    let house = House::build_as(impatient()).await?;
    let calm = Calm::of(&house).await?;
    let bystander = Bystander::begin(&house).await?;

    for play in ["cut-body", "cut-chunk", "garbage-chunk", "reset", "stall-body", "half-close-body"] {
        let mut calls = JoinSet::new();
        for form in Form::ALL {
            for streamed in [true, false] {
                let case = format!("{play}-{form:?}-{streamed}");
                let call = Call::new(form, &house.api_key).case(&case).play(play);
                let call = if streamed { call.streamed(form) } else { call };
                let (consumer, bytes) = (house.hub.consumer, call.bytes());
                calls.spawn(async move {
                    let mut client = RawClient::connect(consumer).await?;
                    let answer = client.ask(&bytes).await.context(case.clone())?;
                    anyhow::Ok((case, answer))
                });
            }
        }
        while let Some(done) = calls.join_next().await {
            let (case, answer) = done??;
            assert_eq!(answer.head.status(), 200, "{case}");
            assert!(!answer.complete, "{case}: half an answer ended as a whole one");
            has_call_id(&answer.head)?;
            tells_nothing(&house, &answer)?;
            let exchange = house.upstream.exchange_of(&case).await?;
            let sent = exchange.response().context("no answer was sent")?;
            assert!(sent.body.starts_with(&answer.body), "{case}: other bytes came than were sent");
            // A reset may overtake what was sent before it; nothing else may.
            if play != "reset" {
                assert_eq!(answer.body_bytes, sent.body_bytes, "{case}: bytes before the break are missing");
            }
        }
    }
    bystander.end(&house).await?;
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_that_never_answers_is_a_timeout_in_its_own_form() -> Result<()> {
    let house = House::build_as(impatient()).await?;
    let calm = Calm::of(&house).await?;
    let bystander = Bystander::begin(&house).await?;

    let mut calls = JoinSet::new();
    for form in Form::ALL {
        let case = format!("{form:?}");
        let call = Call::new(form, &house.api_key).case(&case).play("stall-head");
        let (consumer, bytes) = (house.hub.consumer, call.bytes());
        calls.spawn(async move { anyhow::Ok((form, RawClient::connect(consumer).await?.ask(&bytes).await?)) });
    }
    while let Some(done) = calls.join_next().await {
        let (form, answer) = done??;
        refused(&house, &answer, form.errors(), 504, "KH-E2013").with_context(|| format!("{form:?}"))?;
        let exchange = house.upstream.exchange_of(&format!("{form:?}")).await?;
        assert!(exchange.peer_closed_at.is_some(), "{form:?}: the vendor's connection was not closed");
    }
    bystander.end(&house).await?;
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_cannot_pay_refuses_one_call_and_is_not_offered_any_more() -> Result<()> {
    let house = House::build().await?;

    // The other forms are paid from the same accounts.
    for form in [Form::OpenAi, Form::AzureDeployment, Form::Anthropic, Form::DeepSeek] {
        let first = Call::new(form, &house.api_key).play("status-402").make(&house).await?;
        refused(&house, &first, form.errors(), 503, "KH-E2015").with_context(|| format!("{form:?}"))?;
        let withdrawn = async {
            loop {
                let next = Call::new(form, &house.api_key).make(&house).await?;
                if refused(&house, &next, form.errors(), 503, "KH-E2009").is_ok() {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(WITHDRAWN_IN, withdrawn).await.with_context(|| format!("{form:?} stays on offer"))??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_vendor_says_about_the_owner_stays_and_its_own_troubles_pass() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let bystander = Bystander::begin(&house).await?;

    for form in Form::ALL {
        for (status, seen, code) in [(401, 503, "KH-E2015"), (403, 503, "KH-E2015"), (429, 429, "KH-E2016")] {
            let case = format!("{form:?}-{status}");
            let call = Call::new(form, &house.api_key).case(&case).play(&format!("status-{status}"));
            let answer = call.make(&house).await?;
            refused(&house, &answer, form.errors(), seen, code).context(case.clone())?;
            let vendors = house.upstream.exchange_of(&case).await?;
            let vendors = vendors.response().context("no answer was sent")?;
            assert_eq!(vendors.head.status(), status);
            let wait = vendors.head.first("retry-after").unwrap_or_else(|| "1".to_owned());
            assert_eq!(answer.head.all("retry-after"), [wait], "{case}");
        }
        for (status, streamed) in [(500, false), (503, true), (529, false), (400, true), (404, false), (422, true)] {
            let case = format!("{form:?}-{status}");
            let call = Call::new(form, &house.api_key).case(&case).play(&format!("status-{status}"));
            let call = if streamed { call.streamed(form) } else { call };
            let mut client = RawClient::connect(house.hub.consumer).await?;
            let answer = client.ask(&call.bytes()).await?;
            let exchange = same_at_both_ends(&house, &case, &mut client).await?;
            let vendors = exchange.response().context("no answer was sent")?;
            for header in ["retry-after", "content-type", "x-request-id", "request-id", "x-kit-unknown"] {
                assert_eq!(answer.head.all(header), vendors.head.all(header), "{case}: {header}");
            }
        }
        let case = format!("{form:?}-error-in-stream");
        let call = Call::new(form, &house.api_key).case(&case).play("error-in-stream").streamed(form);
        let mut client = RawClient::connect(house.hub.consumer).await?;
        assert_eq!(client.ask(&call.bytes()).await?.head.status(), 200);
        same_at_both_ends(&house, &case, &mut client).await?;
    }
    bystander.end(&house).await?;
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_upload_ends_reaches_the_consumer_at_once() -> Result<()> {
    let mut plan = Plan::default();
    plan.hub.calls.replayed_body_bytes = 0;
    let house = House::build_as(plan).await?;
    let calm = Calm::of(&house).await?;
    let bystander = Bystander::begin(&house).await?;

    for form in Form::ALL {
        for (play, status) in [("early", 500), ("early-close", 503)] {
            for whole in [false, true] {
                let case = format!("{form:?}-{play}-{whole}");
                let call = Call::new(form, &house.api_key).case(&case).play(play);
                let bytes = form.sized_body(3 << 20, true);
                let sent = if whole { &bytes[..] } else { &bytes[..100_000] };
                let head = call.head(&format!("content-length: {}\r\n", bytes.len()));
                let mut client = RawClient::connect(house.hub.consumer).await?;
                let answer = client.ask(&[&head, sent].concat()).await.context(case.clone())?;
                assert_eq!((answer.head.status(), answer.complete), (status, true), "{case}");
                tells_nothing(&house, &answer)?;
                let answered = |exchange: &Exchange| {
                    exchange.case.as_deref() == Some(case.as_str())
                        && exchange.response().is_some_and(|response| response.complete)
                };
                let exchange = house.upstream.wait_for(answered).await?;
                let vendors = exchange.response().context("no answer was sent")?;
                assert_eq!(answer.body_sha256(), vendors.body_sha256(), "{case}");
            }
        }
    }
    bystander.end(&house).await?;
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_that_sends_byte_by_byte_is_passed_on_byte_by_byte() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;

    let mut calls = JoinSet::new();
    for form in Form::FEW {
        let case = format!("{form:?}");
        let call = Call::new(form, &house.api_key).case(&case).play("slow-1").streamed(form);
        let (consumer, bytes) = (house.hub.consumer, call.bytes());
        calls.spawn(async move {
            let mut client = RawClient::connect(consumer).await?;
            client.send(&bytes).await?;
            client.answer().await.context(case.clone())?;
            anyhow::Ok((case, client))
        });
    }
    while let Some(done) = calls.join_next().await {
        let (case, mut client) = done??;
        let exchange = same_at_both_ends(&house, &case, &mut client).await?;
        let answer = client.seen().messages().last().context("no answer")?;
        let body_bytes = usize::try_from(answer.body_bytes)?;
        let pieces = answer.chunks.len();
        // Of a body with a length the pieces cannot be told.
        let told = answer.framing == Framing::Chunked;
        assert!(!told || pieces > body_bytes / 4, "{case}: {pieces} pieces of {body_bytes} bytes");
        assert_eq!(exchange.request.body_sha256(), sha256(&exchange.request.body));
    }
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_that_cannot_be_reached_is_an_error_in_its_own_form() -> Result<()> {
    let house = House::build_as(Plan { unreachable: Some(Vendor::Azure), ..Plan::default() }).await?;
    let calm = Calm::of(&house).await?;
    let bystander = Bystander::begin(&house).await?;

    for form in Form::ALL {
        let answer = Call::new(form, &house.api_key).make(&house).await?;
        if form.vendor() == Vendor::Azure {
            refused(&house, &answer, form.errors(), 502, "KH-E2012").with_context(|| format!("{form:?}"))?;
        } else {
            assert_eq!(answer.head.status(), 200, "{form:?}");
        }
    }
    bystander.end(&house).await?;
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_before_a_break_reaches_a_consumer_that_reads_late() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;

    for form in Form::ALL {
        for (play, streamed) in [("cut-body", false), ("cut-chunk", true), ("garbage-chunk", true)] {
            let case = format!("late-{form:?}-{play}");
            let call = Call::new(form, &house.api_key).case(&case).play(&format!("{play},big-300000"));
            let call = if streamed { call.streamed(form) } else { call };
            let mut client = RawClient::connect_narrow(house.hub.consumer, 16 << 10).await?;
            client.send(&call.bytes()).await?;
            let exchange = house.upstream.exchange_of(&case).await?;
            let answer = client.answer().await?;
            let sent = exchange.response().context("no answer was sent")?;
            assert!(!answer.complete, "{case}: half an answer ended as a whole one");
            assert_eq!(answer.body_bytes, sent.body_bytes, "{case}: bytes before the break are missing");
            assert_eq!(answer.body_sha256(), sent.body_sha256(), "{case}");
        }
    }
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_room_refuses_and_serves_again_when_there_is_some() -> Result<()> {
    let mut plan = Plan::default();
    plan.agent.calls.concurrent_max = 2;
    let house = House::build_as(plan).await?;
    let calm = Calm::of(&house).await?;

    let mut held = Vec::new();
    for number in 0..2 {
        let case = format!("held-{number}");
        let mut client = RawClient::connect(house.hub.consumer).await?;
        client.send(&Call::new(Form::OpenAi, &house.api_key).case(&case).play("stall-head").bytes()).await?;
        let arrived = |exchange: &Exchange| exchange.case.as_deref() == Some(case.as_str());
        house.upstream.wait_for(arrived).await?;
        held.push((case, client));
    }
    for form in Form::ALL {
        let answer = Call::new(form, &house.api_key).make(&house).await?;
        refused(&house, &answer, form.errors(), 503, "KH-E2009").with_context(|| format!("{form:?}"))?;
        assert_eq!(answer.head.all("retry-after"), ["1"], "{form:?}");
    }
    for (case, client) in held {
        drop(client);
        house.upstream.exchange_of(&case).await?;
    }
    calm.holds(&house).await
}

/// A house whose agent waits two seconds where it would wait minutes.
fn impatient() -> Plan {
    let mut plan = Plan::default();
    plan.agent.calls.vendor_head_timeout_s = 2;
    plan.agent.calls.vendor_idle_timeout_s = 2;
    plan
}

/// A stream that was under way before the faults and must not notice them.
struct Bystander {
    client: RawClient,
}

impl Bystander {
    const CASE: &'static str = "bystander";

    async fn begin(house: &House) -> Result<Self> {
        // Half a second between pieces: an impatient agent keeps it.
        let call = Call::new(Form::Anthropic, &house.api_key).case(Self::CASE).play("chunks-12-400");
        let mut client = RawClient::connect(house.hub.consumer).await?;
        client.send(&call.streamed(Form::Anthropic).bytes()).await?;
        client.until(|seen| seen.messages().first().is_some_and(|first| first.body_bytes > 0)).await?;
        Ok(Self { client })
    }

    async fn end(mut self, house: &House) -> Result<()> {
        let exchange = same_at_both_ends(house, Self::CASE, &mut self.client).await.context("a bystander")?;
        ensure!(
            exchange.response().is_some_and(|response| response.chunks.len() > 12),
            "the bystander's stream is short"
        );
        Ok(())
    }
}
