//! What each endpoint refuses: fields that cost without a bound or reach into the owner's account,
//! fields nobody knows, and bodies of the wrong type.
//!
//! Invariant: each is refused in the vendor's own form, wherever it stands, and no request that holds
//! one becomes whole at a vendor. A new endpoint is tried with what its kind refuses.

use anyhow::Context;
use anyhow::Result;
use keyhaven_tests::consumer_call::Call;
use keyhaven_tests::consumer_call::Calm;
use keyhaven_tests::consumer_call::refused;
use keyhaven_tests::form::BOUNDARY;
use keyhaven_tests::form::Form;
use keyhaven_tests::form::Kind;
use keyhaven_tests::house::House;
use keyhaven_tests::raw_client::RawClient;

const FIELD: &str = "KH-E2022";
const MEDIA_TYPE: &str = "KH-E2023";
const MALFORMED: &str = "KH-E2006";

/// A body so large that its beginning is at the vendor before its end is read.
const LARGE_BYTES: usize = 300_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_endpoint_refuses_is_refused_wherever_it_stands() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;

    for form in Form::ALL {
        for (field, value) in refused_fields(form.kind()).iter().chain(REFUSED_EVERYWHERE) {
            for (place, body) in [
                ("first", with_field(form, form.body(false), field, value, true)),
                ("last", with_field(form, form.body(false), field, value, false)),
                ("last of many bytes", with_field(form, form.sized_body(LARGE_BYTES, true), field, value, false)),
            ] {
                let what = || format!("{field}: {value}, {place}, {form:?}");
                let call = Call::new(form, &house.api_key).case("field").body(body);
                let answer = RawClient::connect(house.hub.consumer).await?.ask(&call.bytes()).await?;
                let message = refused(&house, &answer, form.errors(), 400, FIELD).with_context(what)?;
                assert!(message.contains(name_of(field, value)), "{}: {message}", what());
            }
        }
    }
    nothing_became_whole(&house, "field");
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_another_type_than_the_endpoints_reaches_nobody() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;

    for form in Form::ALL {
        let own = form.content_type();
        let mut rows: Vec<(Option<String>, u16, &str)> = [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/json; charset=utf-16",
            "multipart/mixed; boundary=kit--boundary",
            "application/xml",
            "nonsense",
        ]
        .map(|text| (Some(text.to_owned()), 415, MEDIA_TYPE))
        .into();
        rows.push((Some("multipart/form-data".to_owned()), 400, MALFORMED));
        rows.push((Some("multipart/form-data; boundary=a; boundary=b".to_owned()), 400, MALFORMED));
        match form.kind() {
            Kind::Transcription | Kind::Translation => {
                rows.push((Some("application/json".to_owned()), 415, MEDIA_TYPE));
                rows.push((None, 415, MEDIA_TYPE));
            }
            // Edits are JSON as well, but the kit's are not; and who says nothing means JSON.
            Kind::Edit => rows.push((Some("application/json".to_owned()), 400, MALFORMED)),
            Kind::Chat
            | Kind::Completion
            | Kind::Response
            | Kind::Embedding
            | Kind::Image
            | Kind::Speech
            | Kind::Messages
            | Kind::Count => rows.push((Some(format!("multipart/form-data; boundary={BOUNDARY}")), 415, MEDIA_TYPE)),
        }
        for (content_type, status, code) in rows {
            let call = Call::new(form, &house.api_key).without("content-type").case("type");
            let call = match &content_type {
                Some(content_type) => call.with("content-type", content_type),
                None => call,
            };
            let answer = call.make(&house).await?;
            refused(&house, &answer, form.errors(), status, code)
                .with_context(|| format!("{content_type:?}, {form:?}"))?;
        }
        let twice = Call::new(form, &house.api_key).with("content-type", &own).case("type");
        let answer = twice.make(&house).await?;
        refused(&house, &answer, form.errors(), 400, MALFORMED).with_context(|| format!("twice, {form:?}"))?;
    }
    nothing_became_whole(&house, "type");
    calm.holds(&house).await
}

/// Refused by every endpoint: a field of no vendor's, another's model, one that differs by its case.
const REFUSED_EVERYWHERE: &[(&str, &str)] = &[("kit_unheard_of", "1"), ("Model", "\"gpt-4o\"")];

/// What the documents of the vendors list and an owner's account must not be asked for.
fn refused_fields(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::Chat => &[
            ("store", "true"),
            ("web_search_options", "{}"),
            ("data_sources", "[{\"type\":\"azure_search\"}]"),
            ("tools", "[{\"type\":\"web_search\"}]"),
        ],
        Kind::Completion | Kind::Embedding | Kind::Speech => &[("store", "true"), ("tools", "[]")],
        Kind::Response => &[
            ("background", "true"),
            ("conversation", "\"conv_1\""),
            ("previous_response_id", "\"resp_1\""),
            ("prompt", "{\"id\":\"pmpt_1\"}"),
            ("access_programs", "[]"),
            ("tools", "[{\"type\":\"file_search\",\"vector_store_ids\":[\"vs_1\"]}]"),
        ],
        Kind::Image | Kind::Edit => &[("svg", "{}"), ("store", "true")],
        Kind::Transcription | Kind::Translation => &[("store", "true"), ("file_id", "\"file-1\"")],
        Kind::Messages => &[
            ("container", "\"container_1\""),
            ("mcp_servers", "[{\"type\":\"url\",\"url\":\"https://a.example\",\"name\":\"a\"}]"),
            ("thread", "\"t\""),
            ("fallbacks", "[]"),
            ("fallback_credit_token", "\"t\""),
            ("billing_policy", "{}"),
        ],
        Kind::Count => &[("mcp_servers", "[]"), ("billing_policy", "{}"), ("store", "true")],
    }
}

/// What the error must name: the field, or the kind of tool.
fn name_of<'a>(field: &'a str, value: &'a str) -> &'a str {
    match field {
        "tools" if value.contains("web_search") => "web_search",
        "tools" if value.contains("file_search") => "file_search",
        field => field,
    }
}

/// The body with one more field, before all others or behind them.
fn with_field(form: Form, body: Vec<u8>, field: &str, value: &str, first: bool) -> Vec<u8> {
    let (at, field) = if form.kind().is_multipart() {
        let text = value.trim_matches('"');
        let part = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{field}\"\r\n\r\n{text}\r\n");
        (if first { 0 } else { body.len() - format!("--{BOUNDARY}--\r\n").len() }, part)
    } else if first {
        (1, format!("\"{field}\":{value},"))
    } else {
        (body.len() - 1, format!(",\"{field}\":{value}"))
    };
    [&body[..at], field.as_bytes(), &body[at..]].concat()
}

fn nothing_became_whole(house: &House, case: &str) {
    let whole = house.upstream.exchanges_of(case).iter().filter(|exchange| exchange.request.complete).count();
    assert_eq!(whole, 0);
}
