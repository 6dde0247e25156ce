//! What consumers send that they should not: paths, methods, keys, bodies, heads, and slowly.
//!
//! Invariant: each insult gets an error in its vendor's own form, reaches no vendor, and harms
//! neither the link nor the next call.

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_protocol::provider::endpoint::BodyKind;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_tests::consumer_call::Call;
use keyhaven_tests::consumer_call::Calm;
use keyhaven_tests::consumer_call::calls_at_vendors;
use keyhaven_tests::consumer_call::chunk;
use keyhaven_tests::consumer_call::has_call_id;
use keyhaven_tests::consumer_call::refused;
use keyhaven_tests::consumer_call::tells_nothing;
use keyhaven_tests::form::Errors;
use keyhaven_tests::form::Form;
use keyhaven_tests::house::House;
use keyhaven_tests::house::Plan;
use keyhaven_tests::raw_client::RawClient;
use keyhaven_tests::upstream::vendor::Vendor;

#[test]
fn every_endpoint_of_the_table_is_tried_by_what_tries_all() {
    let calls = |endpoint: &&Endpoint| !endpoint.served_by_hub() && endpoint.body() != BodyKind::WebSocket;
    let numbers: Vec<u16> = Endpoint::ALL.iter().filter(calls).map(|endpoint| endpoint.number()).collect();

    assert_eq!(numbers, Form::ALL.map(Form::number), "write a request for the new endpoint in the kit's `form.rs`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_only_resembles_an_endpoint_is_refused_with_a_hint() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let v1 = "the base URL ends in `/v1`";
    let forms = "/via/azure/<resource>";
    let long = format!("/via/azure/{}/openai/v1/chat/completions", "a".repeat(64));
    let rows = [
        ("//v1/chat/completions", Errors::OpenAi, v1),
        ("/v1//chat/completions", Errors::OpenAi, v1),
        ("/v1/chat/completions/", Errors::OpenAi, v1),
        ("/v1/chat/completions//", Errors::OpenAi, v1),
        ("/V1/Chat/Completions", Errors::OpenAi, v1),
        ("/v1/../v1/chat/completions", Errors::OpenAi, v1),
        ("/v1/./chat/completions", Errors::OpenAi, ""),
        ("/v1/%2e%2e/v1/chat/completions", Errors::OpenAi, v1),
        ("/v1%2fchat/completions", Errors::OpenAi, v1),
        ("/v1/chat%2Fcompletions", Errors::OpenAi, forms),
        ("/v1/chat/completions%00", Errors::OpenAi, forms),
        ("/v1/chat/completions%20", Errors::OpenAi, forms),
        ("/v1/chat/completions;a=b", Errors::OpenAi, forms),
        ("/v1/chat/completions/..;/models", Errors::OpenAi, ""),
        ("/%76%31/chat/completions", Errors::OpenAi, v1),
        ("/", Errors::OpenAi, forms),
        ("/metrics", Errors::OpenAi, forms),
        ("/v1/responses/../chat/completions", Errors::OpenAi, v1),
        ("/v1/files", Errors::OpenAi, forms),
        ("/openai/v1/CHAT/completions", Errors::Azure, "/openai/v1"),
        ("/via", Errors::OpenAi, forms),
        ("/via/", Errors::OpenAi, forms),
        ("/via//openai/v1/chat/completions", Errors::OpenAi, forms),
        ("/via/OpenAI/v1/chat/completions", Errors::OpenAi, forms),
        ("/via/openai//v1/chat/completions", Errors::OpenAi, "/via/openai/v1"),
        ("/via/openai/../anthropic/v1/messages", Errors::OpenAi, ""),
        ("/via/openai/v1/messages", Errors::OpenAi, ""),
        ("/via/api.openai.com/v1/chat/completions", Errors::OpenAi, forms),
        ("/via/anthropic/v1/messages/", Errors::Anthropic, "/via/anthropic"),
        ("/via/anthropic/v1/messages/count", Errors::Anthropic, ""),
        ("/via/deepseek/anthropic/v1/messages/", Errors::OpenAi, "/via/deepseek/anthropic"),
        ("/via/azure", Errors::OpenAi, forms),
        ("/via/azure/openai/deployments/gpt-4o/chat/completions?api-version=1", Errors::Azure, forms),
        ("/via/azure//openai/v1/chat/completions", Errors::Azure, forms),
        ("/via/azure/kit.evil.example/openai/v1/chat/completions", Errors::Azure, forms),
        ("/via/azure/kit.openai.azure.com/openai/v1/chat/completions", Errors::Azure, forms),
        ("/via/azure/kit:443/openai/v1/chat/completions", Errors::Azure, forms),
        ("/via/azure/kit@evil/openai/v1/chat/completions", Errors::Azure, forms),
        ("/via/azure/user:word@kit/openai/v1/chat/completions", Errors::Azure, forms),
        ("/via/azure/kit%2eevil/openai/v1/chat/completions", Errors::Azure, forms),
        ("/via/azure/kit%00/openai/v1/chat/completions", Errors::Azure, forms),
        ("/via/azure/../openai/v1/chat/completions", Errors::Azure, forms),
        ("/via/azure/-kit/openai/v1/chat/completions", Errors::Azure, forms),
        ("/via/azure/kit-/openai/v1/chat/completions", Errors::Azure, forms),
        ("/via/azure/kit_/openai/v1/chat/completions", Errors::Azure, forms),
        (long.as_str(), Errors::Azure, forms),
        ("/via/azure/kit/openai/deployments/../chat/completions?api-version=1", Errors::Azure, ""),
        ("/via/azure/kit/openai/deployments/a%2fb/chat/completions?api-version=1", Errors::Azure, ""),
        ("/via/azure/kit/openai/deployments/a/b/chat/completions?api-version=1", Errors::Azure, ""),
        ("/via/azure/kit/openai/deployments//chat/completions?api-version=1", Errors::Azure, ""),
        ("http://api.openai.com/v1/chat/completions", Errors::OpenAi, v1),
        ("http://hub.example/v1/chat/completions", Errors::OpenAi, v1),
        ("https://user:word@hub.example:1/v1/chat/completions", Errors::OpenAi, v1),
    ];

    for (target, errors, hint) in rows {
        let call = Call::new(Form::OpenAi, &house.api_key).target(target);
        let answer = call.make(&house).await.context(target.to_owned())?;
        let message = refused(&house, &answer, errors, 404, "KH-E2003").context(target.to_owned())?;
        assert!(message.contains(hint), "{target}: {message}");
    }
    assert_eq!(calls_at_vendors(&house), 0);
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_takes_its_own_method_only() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;

    for form in Form::ALL {
        for method in ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "post", "BREW"] {
            let call = Call::new(form, &house.api_key).method(method);
            let answer = call.make(&house).await.with_context(|| format!("{method} {form:?}"))?;
            if method == "HEAD" {
                assert_eq!(answer.head.status(), 405);
                assert!(answer.body.is_empty());
                has_call_id(&answer.head)?;
            } else {
                refused(&house, &answer, form.errors(), 405, "KH-E2004")
                    .with_context(|| format!("{method} {form:?}"))?;
            }
            assert_eq!(answer.head.all("allow"), ["POST"], "{method} {form:?}");
        }
    }
    for (method, target, status, code) in [
        ("POST", "/v1/models", 405, "KH-E2004"),
        ("OPTIONS", "*", 404, "KH-E2003"),
        ("CONNECT", "api.openai.com:443", 404, "KH-E2003"),
    ] {
        let call = Call::new(Form::OpenAi, &house.api_key).method(method).target(target);
        let answer = call.make(&house).await.with_context(|| format!("{method} {target}"))?;
        refused(&house, &answer, Errors::OpenAi, status, code).with_context(|| format!("{method} {target}"))?;
    }
    assert_eq!(calls_at_vendors(&house), 0);
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_taken_in_each_header_form_and_stays_at_the_hub() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let key = house.api_key.clone();
    let headers = [
        vec![("authorization", format!("Bearer {key}"))],
        vec![("authorization", format!("bearer {key}"))],
        vec![("x-api-key", key.clone())],
        vec![("api-key", key.clone())],
        vec![("x-api-key", key.clone()), ("authorization", format!("Bearer {key}"))],
        vec![("X-API-Key", key.clone()), ("Authorization", "Basic dTpw".to_owned())],
    ];

    for form in Form::ALL {
        for (number, headers) in headers.iter().enumerate() {
            let case = format!("{form:?}-{number}");
            let call = Call::new(form, &key).without("authorization").case(&case);
            let call = headers.iter().fold(call, |call, (name, value)| call.with(name, value));
            let answer = call.make(&house).await.context(case.clone())?;
            assert_eq!(answer.head.status(), 200, "{case}: {}", String::from_utf8_lossy(&answer.body));
            tells_nothing(&house, &answer)?;
            has_call_id(&answer.head)?;
            let seen = house.upstream.exchange_of(&case).await?;
            assert_eq!(seen.request.body_sha256(), call.body_sha256());
            let raw = String::from_utf8_lossy(&seen.request.head.raw).into_owned();
            assert!(!raw.contains(&key), "{case}");
            assert!(raw.contains(house.upstream.keys().of(form.vendor())), "{case}");
        }
    }
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_wrong_doubled_or_revoked_key_calls_nobody() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let (missing, unknown) = ("KH-E2001", "KH-E2002");
    let (row, revoked) = house.hub.registry.create_api_key("leaver", unix_ms_now()).await?;
    let revoked = revoked.reveal().to_owned();
    let before = Call::new(Form::OpenAi, &revoked).case("before").make(&house).await?;
    assert_eq!(before.head.status(), 200);
    assert!(house.hub.registry.store.revoke_api_key(row.id, unix_ms_now()).await?);
    until_refused(&house, &revoked).await?;
    let served = calls_at_vendors(&house);

    let good = format!("Bearer {}", house.api_key);
    let wrong = format!("Bearer {}x", house.api_key);
    let vendors = format!("Bearer {}", house.upstream.keys().of(Form::OpenAi.vendor()));
    let long = format!("Bearer {}", "k".repeat(30_000));
    let rows: [(&[(&str, &str)], &str); 14] = [
        (&[], missing),
        (&[("authorization", "")], missing),
        (&[("authorization", "Bearer")], missing),
        (&[("authorization", "Bearer ")], missing),
        (&[("authorization", "Basic dTpw")], missing),
        (&[("x-api-key", "")], missing),
        (&[("authorization", "Bearer kh_sk_wrong")], unknown),
        (&[("authorization", &wrong)], unknown),
        (&[("authorization", &vendors)], unknown),
        (&[("authorization", &long)], unknown),
        (&[("authorization", &good), ("x-api-key", "kh_sk_other")], unknown),
        (&[("authorization", &good), ("authorization", &wrong)], unknown),
        (&[("authorization", &format!("Bearer {} {}", house.api_key, house.api_key))], unknown),
        (&[("api-key", &revoked)], unknown),
    ];
    for form in Form::ALL {
        for (headers, code) in &rows {
            let call = Call::new(form, "").without("authorization");
            let call = headers.iter().fold(call, |call, (name, value)| call.with(name, value));
            let answer = call.make(&house).await?;
            refused(&house, &answer, form.errors(), 401, code).with_context(|| format!("{form:?} {headers:?}"))?;
        }
    }
    assert_eq!(calls_at_vendors(&house), served);
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_not_one_plain_json_object_never_becomes_a_whole_request() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let deep = format!(r#"{{"model":"gpt-4o","messages":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let long_model = format!(r#"{{"model":"{}","messages":[]}}"#, "m".repeat(100_000));
    let model_of = |value: &str| format!(r#"{{"model":{value},"messages":[]}}"#);
    let bodies: [(&str, Vec<u8>); 22] = [
        ("empty", Vec::new()),
        ("not JSON", b"model=gpt-4o&messages=x".to_vec()),
        ("XML", b"<model>gpt-4o</model>".to_vec()),
        ("truncated", br#"{"model":"gpt-4o","messages":[{"role":"user""#.to_vec()),
        ("truncated name", br#"{"model":"gpt-4"#.to_vec()),
        ("an array", br#"[{"model":"gpt-4o"}]"#.to_vec()),
        ("a string", br#""gpt-4o""#.to_vec()),
        ("two documents", br#"{"model":"gpt-4o","messages":[]}{"model":"gpt-4o"}"#.to_vec()),
        ("trailing comma", br#"{"model":"gpt-4o","messages":[],}"#.to_vec()),
        ("comment", br#"{"model":"gpt-4o",/*x*/"messages":[]}"#.to_vec()),
        ("not UTF-8", b"{\"model\":\"gpt-4o\",\"messages\":[\"\xff\"]}".to_vec()),
        ("byte order mark", b"\xef\xbb\xbf{\"model\":\"gpt-4o\",\"messages\":[]}".to_vec()),
        ("NUL", b"{\"model\":\"gpt-4o\",\"messages\":[\"\0\"]}".to_vec()),
        ("duplicate model", br#"{"model":"gpt-4o","messages":[],"model":"gpt-4o"}"#.to_vec()),
        ("escaped duplicate", br#"{"model":"gpt-4o","messages":[],"mod\u0065l":"o1-pro"}"#.to_vec()),
        ("model a number", model_of("4").into_bytes()),
        ("model null", model_of("null").into_bytes()),
        ("model an object", model_of(r#"{"name":"gpt-4o"}"#).into_bytes()),
        ("model empty", model_of(r#""""#).into_bytes()),
        ("model with a newline", model_of(r#""gpt-4o\r\nx: y""#).into_bytes()),
        ("model huge", long_model.into_bytes()),
        ("nested 200 deep", deep.into_bytes()),
    ];

    for form in Form::ALL {
        for (what, bytes) in &bodies {
            let bytes = with_own_field(form, bytes);
            let call = Call::new(form, &house.api_key).case("body").body(bytes);
            let name = || format!("{what}, {form:?}");
            let answer = call.make(&house).await.with_context(name)?;
            refused(&house, &answer, form.errors(), 400, "KH-E2006").with_context(name)?;
            let mut client = RawClient::connect(house.hub.consumer).await?;
            let answer = client.ask(&call.chunked(7)).await.with_context(name)?;
            refused(&house, &answer, form.errors(), 400, "KH-E2006").with_context(name)?;
        }
    }
    let whole = house.upstream.exchanges_of("body").iter().filter(|exchange| exchange.request.complete).count();
    assert_eq!(whole, 0);
    calm.holds(&house).await
}

/// The body with a field that the form knows in the place of `messages`.
fn with_own_field(form: Form, body: &[u8]) -> Vec<u8> {
    const MESSAGES: &[u8] = br#""messages""#;
    let proper: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&form.body(false)).unwrap_or_default();
    let Some(field) = proper.keys().find(|key| *key != "model") else { return body.to_vec() };
    let mut changed = Vec::new();
    let mut rest = body;
    while let Some(at) = rest.windows(MESSAGES.len()).position(|window| window == MESSAGES) {
        changed.extend_from_slice(&rest[..at]);
        changed.extend_from_slice(format!("{field:?}").as_bytes());
        rest = &rest[at + MESSAGES.len()..];
    }
    [changed, rest.to_vec()].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_a_model_is_refused_where_the_path_does_not_name_it() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let nameless = br#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":9}"#;

    let answer = Call::new(Form::AzureDeployment, &house.api_key).body(nameless).make(&house).await?;
    assert_eq!(answer.head.status(), 200);

    for target in [Form::OpenAi.target(), "/v1/chat/completions"] {
        let call = Call::new(Form::OpenAi, &house.api_key).target(target).body(nameless);
        let answer = call.make(&house).await?;
        let message = refused(&house, &answer, Errors::OpenAi, 400, "KH-E2006")?;
        assert!(message.contains("`model` is missing"), "{message}");
    }
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_body_and_an_old_version_are_refused_natively() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;

    for form in Form::ALL {
        for coding in ["gzip", "br", "gzip, identity", "identity, gzip", ""] {
            let call = Call::new(form, &house.api_key).with("content-encoding", coding);
            let answer = call.make(&house).await?;
            refused(&house, &answer, form.errors(), 400, "KH-E2006").with_context(|| format!("{form:?} {coding}"))?;
        }
        let plain = Call::new(form, &house.api_key).with("content-encoding", "Identity");
        assert_eq!(plain.make(&house).await?.head.status(), 200, "{form:?}");
        let old = String::from_utf8(Call::new(form, &house.api_key).case("old").bytes())?.replacen("/1.1", "/1.0", 1);
        for bytes in [old.clone(), old.replacen("host:", "connection: keep-alive\r\nhost:", 1)] {
            let mut client = RawClient::connect(house.hub.consumer).await?;
            let answer = client.ask(bytes.as_bytes()).await?;
            let message = refused(&house, &answer, form.errors(), 505, "KH-E2021")?;
            assert!(message.contains("HTTP/1.1"), "{message}");
            client.end().await?;
        }
    }
    assert_eq!(house.upstream.exchanges_of("old").len(), 0);
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_beyond_the_bound_is_refused_natively() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;

    for form in Form::ALL {
        let call = Call::new(form, &house.api_key);
        let one = call.clone().with("x-bomb", &"b".repeat(100_000));
        let many = (0..80).fold(call.clone(), |call, n| call.with(&format!("x-bomb-{n}"), &"b".repeat(1200)));
        let path = format!("{}{}", form.target(), "/a".repeat(40_000));
        for call in [one, many] {
            let mut client = RawClient::connect(house.hub.consumer).await?;
            let answer = client.ask(&call.bytes()).await?;
            refused(&house, &answer, form.errors(), 431, "KH-E2008").with_context(|| format!("{form:?}"))?;
            client.end().await?;
        }
        let answer = call.clone().target(&path).make(&house).await?;
        assert!([404, 414, 431].contains(&answer.head.status()), "{form:?}: {}", answer.head.status());

        let separator = if form.target().contains('?') { '&' } else { '?' };
        let query = format!("{}{separator}x={}", form.target(), "q".repeat(3000));
        let answer = call.clone().target(&query).make(&house).await?;
        refused(&house, &answer, form.errors(), 400, "KH-E2006").with_context(|| format!("{form:?}"))?;

        // More lines or bytes than are parsed at all: the form is not known then.
        let lines = (0..200).fold(call.clone(), |call, n| call.with(&format!("x-{n}"), "b"));
        let huge = call.with("x-bomb", &"b".repeat(2 << 20));
        for call in [lines, huge] {
            let mut client = RawClient::connect(house.hub.consumer).await?;
            assert_eq!(client.ask(&call.bytes()).await?.head.status(), 431, "{form:?}");
            client.end().await?;
        }
    }
    assert_eq!(calls_at_vendors(&house), 0);
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_slowly_is_given_up_in_time() -> Result<()> {
    let mut plan = Plan::default();
    plan.hub.consumer.request_idle_timeout_s = 1;
    let house = House::build_as(plan).await?;
    let calm = Calm::of(&house).await?;
    let call = Call::new(Form::Anthropic, &house.api_key).case("slow");
    let good = Form::Anthropic.body(false);
    let head = call.head(&format!("content-length: {}\r\n", good.len()));
    let beginnings = [
        ("nothing", Vec::new(), None),
        ("half a line", b"POST /v1/mess".to_vec(), None),
        ("half a head", head[..head.len() / 2].to_vec(), None),
        ("no body", head.clone(), Some(Errors::Anthropic)),
        ("half a body", [head, good[..good.len() - 1].to_vec()].concat(), Some(Errors::Anthropic)),
        (
            "half a chunk",
            [call.head("transfer-encoding: chunked\r\n"), b"ff\r\n{".to_vec()].concat(),
            Some(Errors::Anthropic),
        ),
    ];

    let mut idle = RawClient::connect(house.hub.consumer).await?;
    assert_eq!(idle.ask(&Call::new(Form::OpenAi, &house.api_key).bytes()).await?.head.status(), 200);
    let mut clients = Vec::new();
    for (what, bytes, native) in beginnings {
        let mut client = RawClient::connect(house.hub.consumer).await?;
        client.send(&bytes).await?;
        clients.push((what, client, native));
    }
    for (what, mut client, native) in clients {
        client.end().await.context(what.to_owned())?;
        match (client.seen().messages().first(), native) {
            (Some(answer), Some(errors)) => {
                refused(&house, answer, errors, 408, "KH-E2018").context(what.to_owned())?;
            }
            (answer, native) => {
                assert!(native.is_none(), "{what}");
                assert!(answer.is_none_or(|answer| answer.head.status() == 408), "{what}");
            }
        }
    }
    idle.end().await.context("an idle connection stays open")?;
    assert!(house.upstream.exchanges_of("slow").iter().all(|exchange| !exchange.request.complete));
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tells_of_the_consumer_or_the_way_stays_at_the_hub_and_the_rest_passes() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let kept = [
        ("cookie", "a=b"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-for", "1.2.3.4"),
        ("X-Forwarded-Host", "api.openai.com"),
        ("x-real-ip", "1.2.3.4"),
        ("via", "1.1 proxy"),
        ("openai-organization", "org-other"),
        ("openai-project", "proj_other"),
        ("proxy-authorization", "Basic dTpw"),
        ("ocp-apim-subscription-key", "k"),
        ("connection", "x-private, upgrade"),
        ("x-private", "1"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
        ("te", "trailers"),
        ("origin", "https://page.example"),
        ("x-original-url", "/v1/files"),
        ("x-http-method-override", "DELETE"),
        ("keyhaven-call-id", "forged"),
        ("host", "evil.example"),
    ];
    let passed = [
        ("user-agent", "Kit/1"),
        ("x-note", "a, b"),
        ("X-Note", "c"),
        ("anthropic-beta", "pdfs-2024-09-25"),
        ("accept", "*/*"),
    ];

    for form in Form::ALL {
        let case = format!("{form:?}");
        let query = match form.vendor() {
            Vendor::Azure if form.target().contains("/openai/v1/") => "?api-version=preview",
            Vendor::Azure => "?api-version=2024-10-21",
            Vendor::Anthropic => "?beta=true",
            Vendor::DeepSeek if form.errors() == Errors::Anthropic => "?beta=true",
            Vendor::OpenAi | Vendor::DeepSeek => "",
        };
        let target = format!("{}{query}", form.target().split('?').next().unwrap_or_default());
        let smuggled = "x=%2F..%2f%0d%0aHost:%20evil&y=a|b,c;d";
        let more = format!("{target}{}{smuggled}", if query.is_empty() { "?" } else { "&" });
        let answer = Call::new(form, &house.api_key).target(&more).make(&house).await?;
        refused(&house, &answer, form.errors(), 400, "KH-E2022").context(case.clone())?;
        let call = Call::new(form, &house.api_key).target(&target).case(&case);
        let call = kept.iter().chain(&passed).fold(call, |call, (name, value)| call.with(name, value));
        let trailers = b"0\r\nauthorization: Bearer kh_sk_trailer\r\nx-kit-play: status-500\r\n\r\n";
        let head = call.head("transfer-encoding: chunked\r\ntrailer: authorization\r\n");
        let bytes = [&head[..], &chunk(&form.body(false)), trailers].concat();
        let answer = RawClient::connect(house.hub.consumer).await?.ask(&bytes).await?;

        assert_eq!(answer.head.status(), 200, "{case}: {}", String::from_utf8_lossy(&answer.body));
        has_call_id(&answer.head)?;
        assert_ne!(answer.head.first("keyhaven-call-id").as_deref(), Some("forged"));
        let seen = house.upstream.exchange_of(&case).await?.request;
        for (name, value) in kept {
            assert!(!seen.head.all(name).contains(&value.to_owned()), "{case}: {name} reached the vendor");
        }
        for name in ["user-agent", "x-note", "anthropic-beta", "accept"] {
            let sent: Vec<&str> =
                passed.iter().filter(|(sent, _)| sent.eq_ignore_ascii_case(name)).map(|(_, value)| *value).collect();
            assert_eq!(seen.head.all(name), sent, "{case}");
        }
        assert!(seen.head.target().ends_with(query), "{case}: {}", seen.head.target());
        assert!(seen.trailers.is_empty(), "{case}");
    }
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_line_that_is_not_http_ends_the_connection() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let good = Call::new(Form::OpenAi, &house.api_key).bytes();
    let line = b"POST /via/openai/v1/chat/completions HTTP/1.1";
    let with = |first: &[u8]| [first, &good[line.len()..]].concat();
    let rows: [(&str, Vec<u8>); 10] = [
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("noise", [&b"\xff\xfe\0\x01"[..], b"\r\n\r\n"].concat()),
        ("HTTP/0.9", b"GET /v1/models\r\n\r\n".to_vec()),
        ("another version", with(b"POST /via/openai/v1/chat/completions HTTP/3.7")),
        ("a blank in the target", with(b"POST /via/openai/v1/chat/completions x HTTP/1.1")),
        ("no target", with(b"POST  HTTP/1.1")),
        ("not UTF-8", with(b"POST /via/openai/v1/chat/\xffcompletions HTTP/1.1")),
        ("NUL in the target", with(b"POST /via/openai/v1/chat/completions\0 HTTP/1.1")),
        ("a tab for a blank", with(b"POST\t/via/openai/v1/chat/completions HTTP/1.1")),
    ];

    for (what, bytes) in rows {
        let mut client = RawClient::connect(house.hub.consumer).await?;
        let _ = client.send(&bytes).await;
        client.end().await.context(what.to_owned())?;
        let statuses: Vec<u16> = client.seen().messages().iter().map(|message| message.head.status()).collect();
        assert!(statuses.is_empty() || statuses == [400], "{what}: {statuses:?}");
    }
    assert_eq!(calls_at_vendors(&house), 0);
    calm.holds(&house).await
}

/// Calls until the hub has noticed that the key was revoked.
async fn until_refused(house: &House, key: &str) -> Result<()> {
    for _ in 0..10_000 {
        let answer = Call::new(Form::OpenAi, key).case("revoked").make(house).await?;
        if answer.head.status() == 401 {
            return Ok(());
        }
    }
    ensure!(false, "a revoked key still works");
    Ok(())
}
