//! The official SDKs against the vendor directly and through a hub: the same results, the
//! same bytes, and headers that differ exactly as published.
//!
//! Invariant: the two runs differ in base URL and key only.

use crate::footprint::print;
use anyhow::Context;
use anyhow::Result;
use flate2::read::GzDecoder;
use keyhaven_protocol::provider::headers::HANDSHAKE_PASSED;
use keyhaven_protocol::provider::headers::REQUEST_DROPPED;
use keyhaven_protocol::provider::headers::RESPONSE_DROPPED;
use keyhaven_protocol::provider::headers::Rule;
use keyhaven_protocol::provider::headers::SUBPROTOCOLS_DROPPED;
use keyhaven_tests::clients;
use keyhaven_tests::clients::Language;
use keyhaven_tests::consumer_call::CALL_ID_HEADER;
use keyhaven_tests::consumer_call::call_record;
use keyhaven_tests::house::AZURE_RESOURCE;
use keyhaven_tests::house::House;
use keyhaven_tests::http1::Head;
use keyhaven_tests::tap::Call;
use keyhaven_tests::tap::Tap;
use keyhaven_tests::tls_door::TlsDoor;
use keyhaven_tests::upstream::record::Door;
use keyhaven_tests::upstream::record::Exchange;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::Read as _;

/// Vendor statuses about the owner's account; their bodies stay with the owner.
const ABOUT_OWNER: [u16; 4] = [401, 402, 403, 429];

/// Headers the agent writes itself: the vendor's host, the owner's key, the framing.
const WRITTEN_BY_AGENT: [&str; 6] =
    ["host", "authorization", "x-api-key", "api-key", "content-length", "transfer-encoding"];

/// Headers the hub writes itself: its own id, the framing, and a date where there was none.
const WRITTEN_BY_HUB: [&str; 5] = ["keyhaven-call-id", "content-length", "transfer-encoding", "connection", "date"];

/// What mode `assist` adds to a request.
const ASKED_FOR_USAGE: &str = r#""stream_options":{"include_usage":true}"#;

/// DeepSeek refuses an unknown model with 400 in Anthropic's form too; the hub, which does not sell
/// it, says 404 there, as Anthropic does.
const REFUSED_OTHERWISE: [&str; 1] = ["deepseek_anthropic.error-model"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_sdks_see_the_same_through_the_hub_as_directly() -> Result<()> {
    same_for(Language::Python).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_sdks_see_the_same_through_the_hub_as_directly() -> Result<()> {
    same_for(Language::Node).await
}

async fn same_for(language: Language) -> Result<()> {
    let house = House::build().await?;
    let door = TlsDoor::start(&house.upstream.ca(), house.upstream.plain_addr())?;
    let direct = clients::with_tls(clients::direct(&house.upstream), &door);
    let directly = clients::run(language, &direct).await?;
    assert_as_meant(&directly)?;
    let tap = Tap::start(house.hub.consumer)?;
    let url = format!("http://{}", tap.addr());
    let door = TlsDoor::start(&house.upstream.ca(), tap.addr())?;
    let through = clients::with_tls(clients::through_hub(&url, AZURE_RESOURCE, &house.api_key), &door);
    let through = clients::run(language, &through).await?;

    let mut differences = clients::differences(&directly, &through);
    differences.retain(|difference| !REFUSED_OTHERWISE.iter().any(|case| difference.starts_with(&format!("{case}:"))));
    assert!(differences.is_empty(), "directly, then through the hub:\n{}", differences.join("\n"));
    assert_eq!(house.upstream.violations(), Vec::<String>::new());
    let (calls, exchanges) = (tap.calls(), house.upstream.exchanges());
    let compared = compare_all(&calls, &exchanges);
    let whole = |call: &&Call| {
        let response = call.response.as_ref();
        call.request.complete && response.is_some_and(|one| one.head.status() == 101 && one.complete)
    };
    let sessions = calls.iter().filter(whole).count();
    assert!(sessions > 30, "only {sessions} realtime sessions are on record from end to end");
    assert!(compared > 400, "only {compared} of {} calls reached the upstream", calls.len());
    agreed(&house, &calls).await
}

/// Hub and agent metered the same, each on its own, of every call that was sold.
async fn agreed(house: &House, calls: &[Call]) -> Result<()> {
    let mut verdicts: BTreeMap<String, usize> = BTreeMap::new();
    let mut paid = 0;
    for call in calls {
        let id = call.response.as_ref().and_then(|response| response.head.first(CALL_ID_HEADER));
        let Some(record) = call_record(house.hub.consumer, &house.api_key, id.as_deref().unwrap_or("-")).await? else {
            continue;
        };
        let case = call.case.as_deref().unwrap_or_default();
        let (hub, agent) = (&record["hub_metered"], &record["agent_metered"]);
        let verdict = record["agreement"].as_str().unwrap_or_default().to_owned();
        // An answer that was never sent has no figure of the agent, and costs nothing.
        if verdict == "open" {
            assert_eq!(record["cost_nano_usd"], 0, "{case}: {record}");
        } else {
            assert_eq!((verdict.as_str(), hub), ("agreed", agent), "{case}: {record}");
        }
        costs_as_ruled(case, call, &record);
        paid += usize::from(record["cost_nano_usd"].as_i64() > Some(0));
        *verdicts.entry(verdict).or_default() += 1;
    }
    print(&format!("{verdicts:?}, {paid} of them cost something"));
    assert!(paid > 250, "only {paid} calls cost anything");
    Ok(())
}

/// What docs/METERING.md says of a call that ended so: who pays, and who does not.
fn costs_as_ruled(case: &str, call: &Call, record: &Value) {
    let text = |field: &str| record[field].as_str().unwrap_or_default();
    let (status, is_whole) = (record["status"].as_u64(), call.response.as_ref().is_some_and(|one| one.complete));
    let is_session = call.request.head.first("upgrade").is_some();
    // What the kit's plays do: an error instead of an answer or in the middle of one, an end in the middle.
    let is_cut = ["cut", "cut-body", "cut-stream", "half-close"].iter().any(|kind| case.ends_with(kind));
    // A browser's session cannot name its case; one of them sends what is no event.
    let fails_within = ["error-in-stream", "failing-stream", "wrong-event"].iter().any(|kind| case.ends_with(kind))
        || (is_session && case.is_empty());
    let (fits, pays) = match (text("outcome"), text("rule")) {
        ("complete", "stated") => (status == Some(200) || is_session, true),
        ("complete", "unstated" | "requested") => (status == Some(200) && !is_session, true),
        // A session that ended before it had answered anything.
        ("complete", "nothing") => (is_session && is_cut, false),
        ("failed", "nothing") => (status >= Some(400) || fails_within, false),
        // Anthropic says what it has made so far when it begins.
        ("failed", "delivered") => (status == Some(200) && fails_within, true),
        ("broke", "nothing") => (status == Some(200) && is_cut && !is_whole, false),
        ("broke", "delivered") => (status == Some(200) && is_cut && !is_whole, true),
        ("consumer_left", "left" | "stated") => (case.contains("cancel-") && !is_whole, true),
        (_, _) => (false, false),
    };
    assert!(fits, "{case}: {record}");
    // What a session heard is not billed where it has no transcribing model; that is flagged.
    let is_flagged = record["doubts"].as_array().is_some_and(|doubts| doubts.contains(&json!("unpriced")));
    let is_free = !pays || (is_session && is_flagged && record["usage"] == json!({}));
    let (usage, cost) = (&record["usage"], record["cost_nano_usd"].as_i64());
    assert_eq!(cost == Some(0), is_free, "{case}: {record}");
    assert_eq!(*usage == json!({}), is_free, "{case}: {record}");
    assert!(cost <= record["held_nano_usd"].as_i64(), "{case}: {record}");
}

/// What should fail failed, and nothing else: two runs that are both wrong would be the same.
fn assert_as_meant(results: &Value) -> Result<()> {
    let cases = results.as_object().context("the suite printed no object")?;
    assert!(cases.len() > 450, "{} cases", cases.len());
    for (case, result) in cases {
        let failed = result["raised"].is_string() || result["raised"].is_object();
        let expected = ["error-", "cut-", "cancel-"].iter().any(|kind| case.contains(kind));
        // The SDKs differ in whether a response's own error event is raised.
        assert!(!failed || expected || case.ends_with("failing-stream"), "{case}: {result}");
        if case.ends_with("cancel-stream") || case.ends_with("cancel-before") {
            assert_eq!(result["cancelled"], json!(true), "{case}: {result}");
        } else if case.contains(".realtime") {
            let refused = result["ended"]["refused"].is_u64();
            assert_eq!(refused, case.contains(".error-") && !case.ends_with("in-stream"), "{case}: {result}");
            assert!(result["ended"]["timeout"].is_null(), "{case}: {result}");
        } else if expected {
            assert!(failed, "{case}: {result}");
        }
    }
    Ok(())
}

/// Compares every call that reached the upstream with what the upstream recorded. The
/// suites make their calls one after the other, so the nth of a case is the nth there.
fn compare_all(calls: &[Call], exchanges: &[Exchange]) -> usize {
    let (by_case, directly) = (cases(exchanges, Door::Tls), cases(exchanges, Door::Plain));
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut compared = 0;
    for call in calls {
        let Some(case) = call.case.as_deref().or_else(|| of_browser(&call.request.head)) else { continue };
        if call.case.is_none() && call.response.as_ref().is_some_and(|response| response.head.status() == 401) {
            continue;
        }
        let nth = seen.entry(case).or_default();
        let Some(exchange) = by_case.get(case).and_then(|exchanges| exchanges.get(*nth)) else { continue };
        let direct = directly.get(case).and_then(|exchanges| exchanges.get(*nth));
        *nth += 1;
        match direct.filter(|_| is_assisted(call, exchange)) {
            Some(direct) => compare_assisted(case, call, exchange, direct),
            None => compare(case, call, exchange),
        }
        compared += 1;
    }
    compared
}

fn cases(exchanges: &[Exchange], door: Door) -> BTreeMap<&str, Vec<&Exchange>> {
    let mut by_case: BTreeMap<&str, Vec<&Exchange>> = BTreeMap::new();
    for exchange in exchanges.iter().filter(|exchange| exchange.door == door) {
        let case = exchange.case.as_deref().or_else(|| of_browser(&exchange.request.head));
        if let Some(case) = case {
            by_case.entry(case).or_default().push(exchange);
        }
    }
    by_case
}

/// A stream for which the hub asked for the usage, because its consumer did not.
fn is_assisted(call: &Call, exchange: &Exchange) -> bool {
    let asks = |body: &[u8]| String::from_utf8_lossy(body).contains(ASKED_FOR_USAGE);
    asks(&exchange.request.body) && !asks(&call.request.body)
}

/// The vendor was asked for its usage and for nothing else, and the consumer got what the vendor
/// sends whom it is not asked by.
fn compare_assisted(case: &str, call: &Call, exchange: &Exchange, direct: &Exchange) {
    let asked = String::from_utf8_lossy(&exchange.request.body).replacen(&format!(",{ASKED_FOR_USAGE}"), "", 1);
    assert_eq!(asked, String::from_utf8_lossy(&call.request.body), "{case}: the request's body");
    assert_headers(case, &call.request.head, &exchange.request.head, REQUEST_DROPPED, &WRITTEN_BY_AGENT);
    let (Some(got), Some(sent), Some(unasked)) = (&call.response, exchange.response(), direct.response()) else {
        return;
    };
    assert_eq!(got.head.status(), sent.head.status(), "{case}");
    assert_headers(case, &sent.head, &got.head, RESPONSE_DROPPED, &WRITTEN_BY_HUB);
    // The vendor is asked to send what can be read: no coding.
    let mut read = Vec::new();
    match unasked.head.first("content-encoding").as_deref() {
        Some("gzip") => drop(GzDecoder::new(unasked.body.as_slice()).read_to_end(&mut read)),
        _ => read.clone_from(&unasked.body),
    }
    if got.complete {
        assert!(unasked.complete, "{case}: complete, and broken off where nobody asks for usage");
        assert_eq!(String::from_utf8_lossy(&got.body), String::from_utf8_lossy(&read), "{case}: the response's body");
    } else {
        // The kit cuts in the middle of an event, which is longer when usage is asked for.
        let both = read.len().min(got.body.len());
        assert!(both > 0 && read[..both] == got.body[..both], "{case}: other bytes than are sent unasked");
    }
}

/// A browser's handshake cannot name its case; they come in order, and a wrong key's comes nowhere.
fn of_browser(head: &Head) -> Option<&'static str> {
    head.target().contains("/realtime").then_some("browser")
}

fn compare(case: &str, call: &Call, exchange: &Exchange) {
    if call.request.complete && exchange.request.complete {
        assert_eq!(call.request.body_sha256(), exchange.request.body_sha256(), "{case}: the request's body");
    }
    assert_headers(case, &call.request.head, &exchange.request.head, REQUEST_DROPPED, &WRITTEN_BY_AGENT);
    let (Some(got), Some(sent)) = (&call.response, exchange.switched().or(exchange.response())) else { return };
    if ABOUT_OWNER.contains(&sent.head.status()) {
        return;
    }
    assert_eq!(got.head.status(), sent.head.status(), "{case}");
    assert_headers(case, &sent.head, &got.head, RESPONSE_DROPPED, &WRITTEN_BY_HUB);
    if sent.complete && got.complete {
        assert_eq!(got.body_sha256(), sent.body_sha256(), "{case}: the response's body");
    } else {
        assert!(!got.complete, "{case}: a response that broke off ended as if it were complete");
        assert!(sent.body.starts_with(&got.body), "{case}: what came is no beginning of what was sent");
    }
}

/// Every header either passed with all its values in order, or is on the list; and nothing
/// came from nowhere.
fn assert_headers(case: &str, before: &Head, after: &Head, dropped: &[Rule], written: &[&str]) {
    let named_by_connection: Vec<String> = before
        .all("connection")
        .iter()
        .flat_map(|value| value.split(',').map(|name| name.trim().to_lowercase()).collect::<Vec<_>>())
        .collect();
    for name in names(before) {
        let hop = named_by_connection.contains(&name);
        let handshake = before.first("upgrade").is_some();
        if written.contains(&name.as_str()) || (handshake && ["connection", "upgrade"].contains(&name.as_str())) {
            continue;
        }
        if handshake && HANDSHAKE_PASSED.iter().any(|rule| rule.name == name) {
            assert_eq!(after.all(&name), kept(&before.all(&name)), "{case}: {name}");
            continue;
        }
        if hop {
            continue;
        }
        if is_dropped(&name, dropped) {
            assert!(after.first(&name).is_none(), "{case}: {name} passed and is on the list");
        } else if name == "accept-encoding" {
            for coding in after.all(&name).iter().flat_map(|value| value.split(',')) {
                let coding = coding.split(';').next().unwrap_or("").trim();
                assert!(["gzip", "deflate", "identity"].contains(&coding), "{case}: accept-encoding {coding}");
            }
        } else {
            assert_eq!(after.all(&name), before.all(&name), "{case}: {name}");
        }
    }
    for name in names(after) {
        let known = written.contains(&name.as_str()) || before.first(&name).is_some();
        assert!(known, "{case}: {name} came from nowhere");
    }
}

/// A handshake's values without the subprotocols that stay at the hub.
fn kept(values: &[String]) -> Vec<String> {
    let stays = |protocol: &str| {
        let named = |rule: &Rule| protocol.starts_with(rule.name.trim_end_matches('*'));
        SUBPROTOCOLS_DROPPED.iter().any(named)
    };
    let without = |value: &String| {
        let protocols: Vec<&str> = value.split(',').map(str::trim).filter(|protocol| !stays(protocol)).collect();
        protocols.join(", ")
    };
    values.iter().map(without).filter(|value| !value.is_empty()).collect()
}

fn names(head: &Head) -> BTreeSet<String> {
    head.headers.iter().map(|header| header.name.to_lowercase()).collect()
}

fn is_dropped(name: &str, rules: &[Rule]) -> bool {
    rules.iter().any(|rule| match rule.name.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == rule.name,
    })
}
