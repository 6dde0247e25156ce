//! Where a request ends: lengths, chunks, and what follows them on the connection.
//!
//! Invariant: no byte of a body ever becomes a request, and no request becomes whole at a vendor
//! that the hub refuses.

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use keyhaven_tests::consumer_call::Call;
use keyhaven_tests::consumer_call::Calm;
use keyhaven_tests::consumer_call::chunk;
use keyhaven_tests::consumer_call::refused;
use keyhaven_tests::consumer_call::tells_nothing;
use keyhaven_tests::form::Errors;
use keyhaven_tests::form::Form;
use keyhaven_tests::form::Kind;
use keyhaven_tests::house::House;
use keyhaven_tests::house::Plan;
use keyhaven_tests::http1::Framing;
use keyhaven_tests::http1::sha256;
use keyhaven_tests::raw_client::Ended;
use keyhaven_tests::raw_client::RawClient;

/// The bound of bodies in houses that test it.
const BODY_BYTES_MAX: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_beyond_the_bound_is_refused_before_a_byte_of_it_or_while_it_streams() -> Result<()> {
    let house = House::build_as(bounded()).await?;
    let calm = Calm::of(&house).await?;
    let limit = usize::try_from(BODY_BYTES_MAX)?;

    for form in Form::ALL {
        let call = Call::new(form, &house.api_key).case("big");
        let mut client = RawClient::connect(house.hub.consumer).await?;
        let answer = client.ask(&call.head(&format!("content-length: {}\r\n", limit + 1))).await?;
        refused(&house, &answer, form.errors(), 413, "KH-E2007")?;
        assert_eq!(client.end().await?, Ended::Closed, "{form:?}: with nothing unread, the close is a proper one");

        // Who sends it all the same gets the same answer.
        let big = form.sized_body(limit + 1, true);
        let answer = call.clone().body(big.clone()).make(&house).await?;
        refused(&house, &answer, form.errors(), 413, "KH-E2007")?;

        for model_first in [true, false] {
            let call = call.clone().body(form.sized_body(limit + 100_000, model_first));
            let mut client = RawClient::connect(house.hub.consumer).await?;
            let answer = client.ask(&call.chunked(16 << 10)).await?;
            refused(&house, &answer, form.errors(), 413, "KH-E2007")
                .with_context(|| format!("{form:?}, model first: {model_first}"))?;
            client.end().await?;
        }

        let case = format!("at-{form:?}");
        let call = Call::new(form, &house.api_key).case(&case).body(form.sized_body(limit, true));
        assert_eq!(call.make(&house).await?.head.status(), 200, "{form:?}: exactly the bound is allowed");
    }
    let whole = house.upstream.exchanges_of("big").iter().filter(|exchange| exchange.request.complete).count();
    assert_eq!(whole, 0);
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_comes_late_is_found_and_every_byte_passes() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;

    for form in Form::ALL {
        for (name, chunk_bytes) in [("length", None), ("chunks", Some(5000)), ("one chunk", Some(usize::MAX))] {
            let case = format!("{form:?}-{name}");
            let call = Call::new(form, &house.api_key).case(&case).body(form.sized_body(1 << 20, false));
            let bytes = chunk_bytes.map_or_else(|| call.bytes(), |size| call.chunked(size));
            let answer = RawClient::connect(house.hub.consumer).await?.ask(&bytes).await?;
            assert_eq!(answer.head.status(), 200, "{case}");
            let seen = house.upstream.exchange_of(&case).await?;
            assert_eq!(seen.request.body_sha256(), call.body_sha256(), "{case}");
            let chunked = seen.request.framing == Framing::Chunked;
            assert_eq!(chunked, chunk_bytes.is_some(), "{case}: the framing is the consumer's");
        }
    }
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_expects_a_100_gets_it_only_when_the_body_is_wanted() -> Result<()> {
    let house = House::build_as(bounded()).await?;
    let calm = Calm::of(&house).await?;

    for form in Form::ALL {
        let call = Call::new(form, &house.api_key).with("expect", "100-continue").case(&format!("{form:?}"));
        let bytes = form.body(false);
        let mut client = RawClient::connect(house.hub.consumer).await?;
        client.send(&call.head(&format!("content-length: {}\r\n", bytes.len()))).await?;
        client.until(|seen| seen.messages().first().is_some_and(|first| first.head.status() == 100)).await?;
        client.send(&bytes).await?;
        assert_eq!(client.answer().await?.head.status(), 200);
        let seen = house.upstream.exchange_of(&format!("{form:?}")).await?;
        assert_eq!(seen.request.body_sha256(), sha256(&bytes));
        assert_eq!(seen.request.head.first("expect"), None);

        let unwanted = [
            (call.clone().without("authorization"), "content-length: 10\r\n", 401, "KH-E2001"),
            (call.clone(), "content-length: 9999999999\r\n", 413, "KH-E2007"),
            (call.clone().target("/nowhere"), "content-length: 10\r\n", 404, "KH-E2003"),
        ];
        for (call, framing, status, code) in unwanted {
            let errors = if status == 404 && form.errors() == Errors::Azure { Errors::OpenAi } else { form.errors() };
            let mut client = RawClient::connect(house.hub.consumer).await?;
            let answer = client.ask(&call.head(framing)).await?;
            refused(&house, &answer, errors, status, code).with_context(|| format!("{form:?}"))?;
            assert_eq!(client.seen().messages().len(), 1, "{form:?}: no 100 for a body that is not read");
        }
    }
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smuggled_lengths_make_no_second_request() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let call = Call::new(Form::OpenAi, &house.api_key).case("first");
    let good = Form::OpenAi.body(false);
    let chunked = [chunk(&good), b"0\r\n\r\n".to_vec()].concat();
    let second = Call::new(Form::OpenAi, &house.api_key).case("second").bytes();
    let line = |text: &str| text.replace('\n', "\r\n");
    let with = |framing: &str, body: &[u8]| [call.head(&line(framing)), body.to_vec(), second.clone()].concat();
    let length = good.len();
    let rows: [(&str, Vec<u8>); 20] = [
        ("CL and TE", with(&format!("content-length: {length}\ntransfer-encoding: chunked\n"), &chunked)),
        ("TE and CL", with(&format!("transfer-encoding: chunked\ncontent-length: {length}\n"), &chunked)),
        ("CL short and TE", with("content-length: 4\ntransfer-encoding: chunked\n", &chunked)),
        ("two CLs", with(&format!("content-length: {length}\ncontent-length: 4\n"), &good)),
        ("CL list", with(&format!("content-length: {length}, 4\n"), &good)),
        ("CL signed", with(&format!("content-length: +{length}\n"), &good)),
        ("CL negative", with("content-length: -1\n", &good)),
        ("CL hex", with("content-length: 0x10\n", &good)),
        ("CL overflow", with("content-length: 18446744073709551616\n", &good)),
        ("CL blank before colon", with(&format!("content-length : {length}\n"), &good)),
        ("TE gzip", with("transfer-encoding: gzip\n", &chunked)),
        ("TE chunked, gzip", with("transfer-encoding: chunked, gzip\n", &chunked)),
        ("TE xchunked", with("transfer-encoding: xchunked\n", &chunked)),
        ("obs-fold", with(&format!("x-note: a\n b\ncontent-length: {length}\n"), &good)),
        ("obs-fold of TE", with("transfer-encoding:\n chunked\n", &chunked)),
        ("NUL in a value", with(&format!("x-note: a\0b\ncontent-length: {length}\n"), &good)),
        ("NUL in a name", with(&format!("x-no\0te: b\ncontent-length: {length}\n"), &good)),
        ("bare CR", with(&format!("x-note: a\rb\ncontent-length: {length}\n"), &good)),
        ("a line without colon", with(&format!("x-note\ncontent-length: {length}\n"), &good)),
        ("HTTP/1.0 with TE", {
            let request = String::from_utf8(with("transfer-encoding: chunked\n", &chunked))?;
            request.replacen("HTTP/1.1", "HTTP/1.0", 1).into_bytes()
        }),
    ];

    for (what, bytes) in rows {
        let before = house.upstream.exchanges_of("first").len();
        let mut client = RawClient::connect(house.hub.consumer).await?;
        let answer = client.ask(&bytes).await.context(what.to_owned())?;
        client.end().await.context(what.to_owned())?;
        let finals = client.seen().messages().iter().filter(|message| message.head.status() >= 200).count();
        assert_eq!(finals, 1, "{what}: the connection is over after one answer");
        let served = house.upstream.exchanges_of("first").len() - before;
        match answer.head.status() {
            // Chunked counts, as the standard has it, and the connection ends.
            200 => assert!(what.contains("CL") && what.contains("TE") && served == 1, "{what}"),
            status => assert_eq!((status, served), (400, 0), "{what}"),
        }
        tells_nothing(&house, &answer)?;
    }
    for exchange in house.upstream.exchanges_of("first") {
        assert_eq!(exchange.request.body_sha256(), sha256(&good));
    }
    assert_eq!(house.upstream.exchanges_of("second").len(), 0);
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_whose_chunks_are_garbage_is_refused_and_ends_the_connection() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let good = Form::OpenAi.body(false);
    let (first, rest) = good.split_at(good.len() / 2);
    let second = Call::new(Form::OpenAi, &house.api_key).case("second").bytes();
    let tails: [(&str, Vec<u8>); 9] = [
        ("not a size", b"zz\r\n".to_vec()),
        ("negative", b"-5\r\nabcde\r\n".to_vec()),
        ("overflow", b"10000000000000000\r\n".to_vec()),
        ("empty size", b"\r\n".to_vec()),
        ("size ended by LF", [b"5\n".to_vec(), rest.to_vec()].concat()),
        ("longer than its size", b"1\r\nabcdef\r\n".to_vec()),
        ("LF in an extension", b"5;a=\nb\r\nabcde\r\n".to_vec()),
        ("endless extension", [b"5;".to_vec(), vec![b'a'; 100_000], b"\r\nabcde\r\n".to_vec()].concat()),
        ("trailer bomb", [chunk(rest), b"0\r\n".to_vec(), b"x-t: y\r\n".repeat(10_000), b"\r\n".to_vec()].concat()),
    ];

    for (what, tail) in tails {
        let call = Call::new(Form::OpenAi, &house.api_key).case("chunks");
        let head = call.head("transfer-encoding: chunked\r\n");
        let bytes = [head, chunk(first), tail, second.clone()].concat();
        let mut client = RawClient::connect(house.hub.consumer).await?;
        let answer = client.ask(&bytes).await.context(what.to_owned())?;
        refused(&house, &answer, Errors::OpenAi, 400, "KH-E2006").context(what.to_owned())?;
        client.end().await.context(what.to_owned())?;
        assert_eq!(client.seen().messages().len(), 1, "{what}");
    }
    let whole = house.upstream.exchanges_of("chunks").iter().filter(|exchange| exchange.request.complete).count();
    assert_eq!(whole, 0);
    assert_eq!(house.upstream.exchanges_of("second").len(), 0);
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lone_line_feeds_are_rewritten_on_the_way() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let call = Call::new(Form::OpenAi, &house.api_key).case("lf");
    let head = call.head(&format!("content-length: {}\r\n", Form::OpenAi.body(false).len()));
    let head = String::from_utf8(head)?.replace("\r\n", "\n");

    let bytes = [head.into_bytes(), Form::OpenAi.body(false)].concat();
    let answer = RawClient::connect(house.hub.consumer).await?.ask(&bytes).await?;

    assert_eq!(answer.head.status(), 200);
    let seen = house.upstream.exchange_of("lf").await?;
    let lone = seen.request.head.raw.windows(2).filter(|pair| pair[1] == b'\n' && pair[0] != b'\r').count();
    assert_eq!(lone, 0);
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_in_an_upload_can_send_on_and_read_why() -> Result<()> {
    let house = House::build_as(bounded()).await?;
    let calm = Calm::of(&house).await?;

    for form in Form::ALL {
        let call = Call::new(form, &house.api_key).body(form.sized_body(12 << 20, true));
        let stranger = Call::new(form, "kh_sk_stranger").body(form.sized_body(12 << 20, true));
        let rows = [
            (call.bytes(), 413, "KH-E2007"),
            (call.chunked(64 << 10), 413, "KH-E2007"),
            (stranger.bytes(), 401, "KH-E2002"),
            (stranger.chunked(64 << 10), 401, "KH-E2002"),
            (call.method("PUT").bytes(), 405, "KH-E2004"),
        ];
        for (bytes, status, code) in rows {
            let what = || format!("{form:?}, {code}");
            let mut client = RawClient::connect(house.hub.consumer).await?;
            client.send(&bytes).await.with_context(what)?;
            let answer = client.answer().await.with_context(what)?;
            refused(&house, &answer, form.errors(), status, code).with_context(what)?;
            assert_eq!(client.end().await?, Ended::Closed, "{form:?}, {code}: a reset may overtake the answer");
        }
    }
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_a_refused_body_is_never_read_as_a_request() -> Result<()> {
    let mut plan = Plan::default();
    // So that a body is passed on before it has come in full.
    plan.hub.calls.replayed_body_bytes = 0;
    let house = House::build_as(plan).await?;
    let calm = Calm::of(&house).await?;
    let hidden = Call::new(Form::OpenAi, &house.api_key).case("hidden").bytes();
    let good = Call::new(Form::OpenAi, &house.api_key);
    let length = format!("content-length: {}\r\n", hidden.len());
    let chunks = "transfer-encoding: chunked\r\n";
    let broken = [good.head(&length), b"{]".to_vec()].concat();
    let rows = [
        ("wrong key", Call::new(Form::OpenAi, "kh_sk_stranger").head(&length)),
        ("wrong key, chunks", Call::new(Form::OpenAi, "kh_sk_stranger").head(chunks)),
        ("no endpoint", good.clone().target("/nowhere").head(&length)),
        ("another method", good.clone().method("PATCH").head(&length)),
        ("models with a body", good.clone().method("GET").target("/v1/models").head(&length)),
        ("not JSON", broken),
        (
            "answered early",
            [good.clone().play("early").head("content-length: 9000\r\n"), Form::OpenAi.body(false)[..60].to_vec()]
                .concat(),
        ),
        (
            "vendor's refusal",
            [
                good.clone().play("early-close").head("content-length: 9000\r\n"),
                Form::OpenAi.body(false)[..60].to_vec(),
            ]
            .concat(),
        ),
    ];

    for (what, beginning) in rows {
        let mut client = RawClient::connect(house.hub.consumer).await?;
        client.ask(&beginning).await.context(what.to_owned())?;
        // The hub has answered; what comes now is still the body. It is read as that, or not at all.
        let next = Call::new(Form::OpenAi, &house.api_key).method("GET").target("/via/deepseek/models").body("");
        let _ = client.send(&[hidden.clone(), next.bytes()].concat()).await;
        if let Ok(answer) = client.answer().await {
            let listed = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(listed.contains("deepseek-reasoner"), "{what}: {listed}");
        }
    }
    assert_eq!(house.upstream.exchanges_of("hidden").len(), 0);
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_on_one_connection_are_each_answered_in_order() -> Result<()> {
    let house = House::build().await?;
    let calm = Calm::of(&house).await?;
    let call = |form: Form| Call::new(form, &house.api_key);
    let calls = [
        (call(Form::OpenAi), 200),
        (call(Form::OpenAi).target("/nowhere"), 404),
        (call(Form::Anthropic).streamed(Form::Anthropic), 200),
        (Call::new(Form::DeepSeek, "kh_sk_stranger"), 401),
        (call(Form::AzureV1).method("HEAD").body(""), 405),
        (call(Form::AzureDeployment).play("status-429"), 429),
        (call(Form::DeepSeekMessages).play("garbage"), 502),
        (call(Form::OpenAi).method("GET").target("/v1/models").body(""), 200),
        (call(Form::DeepSeek), 200),
    ];

    let mut client = RawClient::connect(house.hub.consumer).await?;
    for (call, status) in &calls {
        assert_eq!(client.ask(&call.bytes()).await?.head.status(), *status);
    }
    let mut client = RawClient::connect(house.hub.consumer).await?;
    let together: Vec<u8> =
        calls.iter().filter(|(_, status)| *status != 405).flat_map(|(call, _)| call.bytes()).collect();
    client.send(&together).await?;
    for (_, status) in calls.iter().filter(|(_, status)| *status != 405) {
        assert_eq!(client.answer().await?.head.status(), *status);
    }
    calm.holds(&house).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_for_bodies_that_are_held_back_is_bounded_and_given_back() -> Result<()> {
    const HELD_BYTES_MAX: u64 = 256 << 10;
    let mut plan = Plan::default();
    plan.hub.consumer.held_body_bytes_max = HELD_BYTES_MAX;
    let house = House::build_as(plan).await?;
    let calm = Calm::of(&house).await?;
    let held = usize::try_from(HELD_BYTES_MAX)?;

    // What an image is made of is no book.
    let forms: Vec<Form> = Form::ALL.into_iter().filter(|form| form.kind() != Kind::Image).collect();
    for round in 0..20 {
        let form = forms[round % forms.len()];
        let call = Call::new(form, &house.api_key);
        let fits = call.clone().body(form.sized_body(held * 9 / 10, false));
        until_served(&house, &fits).await.with_context(|| format!("round {round}"))?;
        // With the model first nothing needs to be held.
        let passes = call.clone().body(form.sized_body(held * 8, true));
        assert_eq!(passes.make(&house).await?.head.status(), 200, "round {round}");
        let answer = call.clone().body(form.sized_body(held * 8, false)).make(&house).await?;
        refused(&house, &answer, form.errors(), 503, "KH-E2010").with_context(|| format!("round {round}"))?;
        assert_eq!(answer.head.all("retry-after"), ["1"]);
        // Holds most of the room and leaves.
        let mut leaver = RawClient::connect(house.hub.consumer).await?;
        let head = call.head(&format!("content-length: {held}\r\n"));
        leaver.send(&[head, form.sized_body(held, false)[..held / 2].to_vec()].concat()).await?;
        leaver.reset();
    }
    calm.holds(&house).await
}

/// A house with a low bound for bodies.
fn bounded() -> Plan {
    let mut plan = Plan::default();
    plan.hub.consumer.request_body_bytes_max = BODY_BYTES_MAX;
    plan
}

/// Calls until there is room: who left a moment ago may still be holding some.
async fn until_served(house: &House, call: &Call) -> Result<()> {
    for _ in 0..1000 {
        match call.make(house).await?.head.status() {
            200 => return Ok(()),
            503 => {}
            status => bail!("the call ended with {status}"),
        }
    }
    bail!("the room was not given back")
}
