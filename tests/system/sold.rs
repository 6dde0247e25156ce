//! What a call cost, by hand and by all who tell it: the consumer's record, the operator's command
//! line, usage and balance; and that no more is sold than is paid for.
//!
//! Invariant: what is expected is worked out here from what the vendor said to the consumer and
//! the kit's prices, not by the code under test.

use crate::scene::Scene;
use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::consumer::Answer;
use keyhaven_tests::consumer::Call;
use keyhaven_tests::consumer::Chat;
use keyhaven_tests::consumer_call::CALL_ID_HEADER;
use keyhaven_tests::customer::Customer;
use keyhaven_tests::customer::audit;
use keyhaven_tests::customer::usd;
use keyhaven_tests::daemons::eventually;
use serde_json::Value;
use serde_json::json;
use tokio::task::JoinSet;

/// A dollar.
const USD: i64 = 1_000_000_000;

/// The kit's list prices of one token, in nano-dollars.
const FRESH: i64 = 2_500;
const CACHED: i64 = 1_250;
const OUTPUT: i64 = 10_000;

/// What is held for one call of [`Chat`]: 1,024 tokens around the prompt, 16 for the body and 16 for the message, 4 each
/// for the list, a role and a content, and the 9 bytes of the two words, each read from the cache and written to it; the
/// longest answer; one for each of the 14 meters.
pub(crate) const HELD: i64 = in_zone((1_024 + 32 + 12 + 9) * (CACHED + 3_125) + 16_384 * OUTPUT + 14);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_told_its_usage_costs_what_that_costs_and_everybody_says_the_same() -> Result<()> {
    let scene = Scene::build().await?;
    let (site, hub) = (&scene.site, scene.hub.consumer);
    let ours = Customer::create(site, "ours", 5 * USD, &[]).await?;
    let colleague = ours.with_key(site, "colleague", &[]).await?;
    let stranger = Customer::create(site, "stranger", 5 * USD, &[]).await?;
    let chat = Chat::new(&ours.key);

    let mut paid = 0;
    for chat in [chat.clone(), chat.streamed("told", "")] {
        let answer = chat.ask(hub).await?;
        ensure!(answer.status() == 200 && answer.complete(), "{}", answer.text());
        let id = answer.call_id();
        let (fresh, cached, output) = stated(&answer)?;
        let list = fresh * FRESH + cached * CACHED + output * OUTPUT;
        let cost = in_zone(list);
        let record = ours.record(hub, &id).await?.context("no record")?;

        let usage = json!({"input_tokens": fresh, "cached_input_tokens": cached, "output_tokens": output});
        let metered = json!({"list_nano_usd": list, "usage": usage, "estimated": false, "rule": "stated"});
        let line = |meter: &str, quantity: i64, price: i64| json!({"meter": meter, "quantity": quantity, "unit_pico_usd": price * 1000, "nano_usd": quantity * price});
        let told = json!({
            "id": id,
            "model": "gpt-4o",
            "answer_model": "gpt-4o-2024-08-06",
            "endpoint": "POST /v1/chat/completions",
            "outcome": "complete",
            "status": 200,
            "usage": usage,
            "price_version": 1,
            "zone": "standard",
            "zone_factor_ppm": 1_150_000,
            "list_nano_usd": list,
            "cost_nano_usd": cost,
            "cost": format!("${}", usd(cost).trim_end_matches('0')),
            "estimated": false,
            "rule": "stated",
            "doubts": [],
            "hub_metered": metered,
            "agent_metered": metered,
            "agreement": "agreed",
            "lines": [
                line("input_tokens", fresh, FRESH),
                line("cached_input_tokens", cached, CACHED),
                line("output_tokens", output, OUTPUT),
            ],
        });
        for (field, expected) in told.as_object().into_iter().flatten() {
            assert_eq!(&record[field], expected, "{field} of {record}");
        }
        assert_eq!(record["held_nano_usd"], HELD, "{record}");
        assert_eq!(colleague.record(hub, &id).await?, Some(record), "another key of the account");
        assert_eq!(stranger.get(hub, &format!("calls/{id}")).await?.status(), 404);
        assert_eq!(stranger.get(hub, &format!("calls/{id}")).await?.code().as_deref(), Some("KH-E2049"));
        paid += cost;
        ours.until_balance(hub, 5 * USD - paid).await?;

        let shown = site.json(&["call", "show", &id]).await?;
        assert_eq!(shown["settled"]["charge"], cost, "{shown}");
        // The owner's part is owed until the agent's ledger says that it was earned.
        assert_eq!(shown["settled"]["open"], list * 8 / 10, "{shown}");
        assert_eq!(shown["hub_metered"]["usage"], usage, "{shown}");
    }
    let usage = ours.ask(hub, "usage").await?;
    let row = &usage["usage"][0];
    assert_eq!((&usage["calls"], &usage["cost_nano_usd"]), (&json!(2), &json!(paid)), "{usage}");
    assert_eq!((&row["model"], &row["calls"], &row["cost_nano_usd"]), (&json!("gpt-4o"), &json!(2), &json!(paid)));
    let usage = site.json(&["usage", "--account", "ours"]).await?;
    assert!(usage.to_string().contains(&format!("\"cost_nano_usd\":{paid}")), "{usage}");
    assert_eq!(stranger.balance(hub).await?, 5 * USD);
    audit(site).await?;
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_its_consumer_leaves_costs_the_estimate_on_which_both_sides_agree() -> Result<()> {
    let scene = Scene::build().await?;
    let hub = scene.hub.consumer;
    let ours = Customer::create(&scene.site, "ours", 5 * USD, &[]).await?;
    let mut call = Call::begin(hub, &Chat::new(&ours.key).streamed("left", "step").request()).await?;
    call.until_body(0).await?;
    let id = call.message().and_then(|message| message.head.first(CALL_ID_HEADER)).context("no id before the body")?;
    let under_way = ours.get(hub, &format!("calls/{id}")).await?;
    assert_eq!((under_way.status(), under_way.code().as_deref()), (425, Some("KH-E2050")));
    // The role, and two words.
    scene.upstream.steps().release("left", 3);
    let events = |call: &Call| {
        call.message().map_or(0, |message| String::from_utf8_lossy(&message.body).matches("\n\n").count())
    };
    while events(&call) < 3 {
        let had = call.message().map_or(0, |message| message.body_bytes);
        call.until_body(had + 1).await?;
    }
    drop(call);

    let record = ours.record(hub, &id).await?.context("no record")?;
    let shown = eventually("the written record", || async {
        let shown = scene.site.run(&["call", "show", &id, "--json"]).await?;
        Ok((shown.code == Some(0)).then(|| serde_json::from_str::<Value>(&shown.stdout)).transpose()?)
    })
    .await?;

    // "user" and "hello" are 9 bytes, 4 to a token; so are "You " and "said: ", and a second is 100 tokens.
    let elapsed_ms = shown["hub_metered"]["elapsed_ms"].as_i64().context("no time")?;
    let output = 3.max(elapsed_ms / 10);
    let list = 3 * FRESH + output * OUTPUT;
    assert_eq!(record["outcome"], "consumer_left", "{record}");
    assert_eq!((&record["rule"], &record["estimated"]), (&json!("left"), &json!(true)), "{record}");
    assert_eq!(record["usage"], json!({"input_tokens": 3, "output_tokens": output}), "{record}");
    assert_eq!(record["list_nano_usd"], list, "{record}");
    assert_eq!(record["cost_nano_usd"], in_zone(list), "{record}");
    assert_eq!(
        (&record["agreement"], &record["agent_metered"]),
        (&json!("agreed"), &record["hub_metered"]),
        "{record}"
    );
    ours.until_balance(hub, 5 * USD - in_zone(list)).await?;
    audit(&scene.site).await?;
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balance_for_ten_calls_is_enough_for_ten_of_five_hundred() -> Result<()> {
    let scene = Scene::build().await?;
    let (site, hub) = (&scene.site, scene.hub.consumer);
    let ours = Customer::create(site, "ours", 10 * HELD, &[]).await?;

    let served = crowd(&scene, &ours, "crowd", 500, 10).await?;

    let mut paid = 0;
    for answer in &served {
        let record = ours.record(hub, &answer.call_id()).await?.context("no record")?;
        assert_eq!(record["held_nano_usd"], HELD, "{record}");
        paid += record["cost_nano_usd"].as_i64().context("no cost")?;
    }
    assert_eq!(scene.upstream.exchanges_of("crowd").len(), 10);
    ours.until_balance(hub, 10 * HELD - paid).await?;
    assert_eq!(ours.ask(hub, "usage").await?["calls"], 10);
    audit(site).await?;
    // What was held and not used is there for the next ones.
    let left = usize::try_from((10 * HELD - paid) / HELD)?;
    crowd(&scene, &ours, "later", left + 20, left).await?;
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_would_not_tell_its_usage_is_helped_or_refused_as_the_key_says() -> Result<()> {
    let scene = Scene::build().await?;
    let (site, hub) = (&scene.site, scene.hub.consumer);
    let helped = Customer::create(site, "ours", 5 * USD, &[]).await?;
    let exact = helped.with_key(site, "exact", &["--mode", "exact"]).await?;

    let refused = ask(hub, &unasked(&exact.key, "refused")).await?;
    let answer = ask(hub, &unasked(&helped.key, "helped")).await?;
    let asked = Chat::new(&exact.key).streamed("asked", "").ask(hub).await?;

    let error = &refused.json()["error"];
    assert_eq!((refused.status(), refused.code().as_deref()), (400, Some("KH-E2053")), "{}", refused.text());
    let message = error["message"].as_str().context("no message")?;
    assert!(message.contains("stream_options.include_usage") && message.contains("mode assist"), "{message}");
    assert_eq!(error["type"], "invalid_request_error");
    assert!(scene.upstream.exchanges_of("refused").is_empty());
    assert_eq!(exact.record(hub, &refused.call_id()).await?, None, "it was not sold");

    assert!(answer.complete() && answer.text().ends_with("data: [DONE]\n\n") && !answer.text().contains("usage"));
    let record = helped.record(hub, &answer.call_id()).await?.context("no record")?;
    assert_eq!((&record["rule"], &record["estimated"]), (&json!("stated"), &json!(false)), "{record}");
    let (fresh, cached, output) = stated(&asked)?;
    assert_eq!(record["cost_nano_usd"], in_zone(fresh * FRESH + cached * CACHED + output * OUTPUT), "{record}");
    scene.unharmed().await
}

/// Has so many calls made at once on a balance for some of them, and checks that no other runs. What those answered.
pub(crate) async fn crowd(
    scene: &Scene,
    who: &Customer,
    case: &str,
    calls: usize,
    affordable: usize,
) -> Result<Vec<Answer>> {
    let hub = scene.hub.consumer;
    let mut asking = JoinSet::new();
    for _ in 0..calls {
        let chat = Chat { stream: false, ..Chat::new(&who.key).streamed(case, "step") };
        asking.spawn(async move { chat.ask(hub).await });
    }
    // Nobody's hold is given back while the others ask: no call that runs ends before the refusals.
    for _ in affordable..calls {
        let refused = asking.join_next().await.context("too few calls")???;
        let shape = &refused.json()["error"];
        let native = (&shape["type"], &shape["code"]) == (&json!("insufficient_quota"), &json!("insufficient_quota"));
        ensure!(refused.status() == 429 && native, "{} {}", refused.status(), refused.text());
        ensure!(refused.code().as_deref() == Some("KH-E2040"), "{}", refused.text());
    }
    ensure!(asking.len() == affordable, "{} run", asking.len());
    scene.upstream.steps().release(case, 1000);
    let mut served = Vec::new();
    while let Some(answer) = asking.join_next().await {
        let answer = answer??;
        ensure!(answer.status() == 200 && answer.complete(), "{}", answer.text());
        served.push(answer);
    }
    ensure!(scene.upstream.exchanges_of(case).len() == affordable, "others reached the vendor");
    Ok(served)
}

/// What the standard zone makes of a list price, rounded up.
pub(crate) const fn in_zone(list: i64) -> i64 {
    (list * 115 + 99) / 100
}

/// What the answer says it used: fresh input, cached input, output.
pub(crate) fn stated(answer: &Answer) -> Result<(i64, i64, i64)> {
    let text = answer.text();
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    let usage = events.chain([answer.json()]).map(|json| json["usage"].clone()).find(Value::is_object);
    let usage = usage.with_context(|| format!("no usage in {text}"))?;
    let count = |value: &Value| value.as_i64().context("no count");
    let cached = count(&usage["prompt_tokens_details"]["cached_tokens"])?;
    Ok((count(&usage["prompt_tokens"])? - cached, cached, count(&usage["completion_tokens"])?))
}

/// A chat stream that does not ask for its usage.
fn unasked(key: &str, case: &str) -> Vec<u8> {
    let body = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}],"stream":true}"#;
    let head =
        format!("host: hub\r\nauthorization: Bearer {key}\r\nx-kit-case: {case}\r\ncontent-type: application/json");
    format!("POST /via/openai/v1/chat/completions HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

async fn ask(hub: std::net::SocketAddr, request: &[u8]) -> Result<Answer> {
    Ok(Call::begin(hub, request).await?.finish().await)
}
