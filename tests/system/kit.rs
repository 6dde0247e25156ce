//! The kit itself: an instrument that is not tested proves nothing.
//!
//! Invariant: no code of hub or agent takes part; what is checked is the upstream, the tap, the
//! front, the process helpers and the clients against each other.

use anyhow::Context;
use anyhow::Result;
use bytes::BytesMut;
use keyhaven_tests::aimock::Aimock;
use keyhaven_tests::ca::TestCa;
use keyhaven_tests::form::Form;
use keyhaven_tests::http1;
use keyhaven_tests::http1::Framing;
use keyhaven_tests::http1::Side;
use keyhaven_tests::http1::decoder::Decoder;
use keyhaven_tests::http1::recorder;
use keyhaven_tests::http1::recorder::Message;
use keyhaven_tests::http1::recorder::Recorder;
use keyhaven_tests::process::Process;
use keyhaven_tests::tap::Tap;
use keyhaven_tests::tls_front::TlsFront;
use keyhaven_tests::upstream::Upstream;
use keyhaven_tests::upstream::headers::OWNER_MARK;
use keyhaven_tests::upstream::record::Exchange;
use keyhaven_tests::upstream::vendor::Vendor;
use rustls_pki_types::ServerName;
use serde_json::Value;
use serde_json::json;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_stream_cut_anywhere_decodes_to_the_same_messages() {
    let stream: &[u8] = b"POST /a?b HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two: 2\r\n\
        Transfer-Encoding: chunked\r\n\r\n3;e=1\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n\
        GET /c HTTP/1.1\r\nhost: x\r\n\r\nPUT /d HTTP/1.1\r\ncontent-length: 4\r\n\r\n1234";

    for cut in 0..stream.len() {
        let mut recorder = Recorder::new(Side::Request, usize::MAX);
        recorder.push(&stream[..cut]);
        recorder.push(&stream[cut..]);
        recorder.end(true);

        let messages = recorder.messages();
        assert_eq!(messages.len(), 3, "cut at {cut}");
        assert_eq!(messages[0].body, b"abcde");
        assert_eq!(messages[0].chunks, [3, 2, 0]);
        assert_eq!(messages[0].trailers[0].name, "T");
        assert_eq!(messages[0].head.all("X-TWO"), ["1", "2"]);
        assert_eq!(messages[0].head.headers[2].name, "x-two");
        assert_eq!(messages[1].framing, Framing::Empty);
        assert_eq!(messages[2].body_sha256(), http1::sha256(b"1234"));
        assert!(messages.iter().all(|message| message.complete));
        assert_eq!(recorder.raw(), stream);
    }
}

#[test]
fn ambiguous_framing_is_malformed() {
    let heads = [
        "content-length: 1\r\ncontent-length: 1",
        "content-length: 1\r\ntransfer-encoding: chunked",
        "content-length: +1",
        "content-length: 1, 1",
        "transfer-encoding: gzip, chunked",
    ];

    for head in heads {
        let bytes = format!("POST / HTTP/1.1\r\n{head}\r\n\r\n");
        let mut input = BytesMut::from(bytes.as_bytes());
        let found = Decoder::new(Side::Request).next(&mut input);
        assert!(found.is_err(), "{head}");
    }
}

#[test]
fn a_response_is_complete_only_when_its_framing_says_so() {
    let complete = |bytes: &[u8], clean| {
        let mut recorder = Recorder::new(Side::Response, usize::MAX);
        recorder.push(bytes);
        recorder.end(clean);
        recorder.messages().last().is_some_and(|message| message.complete)
    };

    assert!(complete(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", true));
    assert!(!complete(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", true));
    assert!(complete(b"HTTP/1.1 200 OK\r\n\r\nab", true));
    assert!(!complete(b"HTTP/1.1 200 OK\r\n\r\nab", false));
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    assert!(!complete(format!("{chunked}2\r\nab\r\n").as_bytes(), true));
    assert!(complete(format!("{chunked}2\r\nab\r\n0\r\n\r\n").as_bytes(), true));
}

#[tokio::test]
async fn every_endpoint_has_a_request_that_its_vendor_answers() -> Result<()> {
    let upstream = Upstream::start().await?;

    for form in Form::ALL {
        let target = form.target().trim_start_matches("/via").replace("/azure/kit/", "/azure/");
        for stream in [false, true] {
            let case = format!("{form:?}-{stream}");
            let body = form.body(stream);
            let head = format!(
                "POST {target} HTTP/1.1\r\nhost: kit\r\nauthorization: Bearer {}\r\nanthropic-version: 2023-06-01\r\n\
                 x-kit-case: {case}\r\ncontent-type: {}\r\ncontent-length: {}\r\n\r\n",
                upstream.keys().of(form.vendor()),
                form.content_type(),
                body.len()
            );
            let answer = over_tcp(upstream.plain_addr(), &[head.into_bytes(), body].concat()).await?;
            let message = one(&answer)?;
            assert_eq!(message.head.status(), 200, "{case}: {}", text(&message.body));
            assert!(message.complete && message.body_bytes > 0, "{case}");
        }
        for size in [2000, 2001] {
            assert_eq!(
                [form.sized_body(size, true).len(), form.sized_body(size, false).len()],
                [size, size],
                "{form:?}"
            );
        }
    }
    assert_eq!(upstream.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn the_official_names_answer_over_tls_and_what_was_sent_is_on_record() -> Result<()> {
    let upstream = Upstream::start().await?;

    for vendor in Vendor::ALL {
        let case = vendor.word();
        let answer = over_tls(&upstream, &call(&upstream, vendor, case, "", true)).await?;

        let message = one(&answer)?;
        assert_eq!(message.head.status(), 200, "{case}");
        let exchange = upstream.exchange_of(case).await?;
        assert_eq!(exchange.sent.raw(), answer);
        assert!(exchange.request.complete);
        assert_eq!(exchange.request.body_sha256(), http1::sha256(&body(vendor, true)));
        let sent = exchange.response().context("no answer on record")?;
        assert_eq!(sent.body_sha256(), message.body_sha256());
        let named = String::from_utf8_lossy(&message.head.raw).contains(OWNER_MARK);
        assert!(named, "{case} does not name its owner");
    }
    assert_eq!(upstream.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn the_same_question_has_the_same_answer_at_both_doors() -> Result<()> {
    let upstream = Upstream::start().await?;

    for vendor in Vendor::ALL {
        for stream in [false, true] {
            let tls = over_tls(&upstream, &call(&upstream, vendor, "t", "", stream)).await?;
            let plain = plain_call(&upstream, vendor, "p", "", stream);
            let plain = over_tcp(upstream.plain_addr(), &plain).await?;
            assert_eq!(tls, plain);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_vendor_refuses_what_is_not_its_own() -> Result<()> {
    let upstream = Upstream::start().await?;
    let good = call(&upstream, Vendor::OpenAi, "x", "", false);
    let change = |from: &str, to: &str| text(&good).replacen(from, to, 1).into_bytes();
    let key = upstream.keys().of(Vendor::OpenAi).to_owned();
    let rows = [
        (change(&key, upstream.keys().of(Vendor::DeepSeek)), 401),
        (change("authorization: Bearer", "x-api-key:"), 401),
        (change("/v1/chat/completions", "//v1/chat/completions"), 404),
        (change("/v1/chat/completions", "/v1/Chat/completions"), 404),
        (change("/v1/chat/completions", "/v1/chat/completions/"), 404),
        (change("POST", "PUT"), 405),
        (change("{\"", "[\""), 400),
        (change("gpt-4o", "not-4o"), 404),
        (change("\"messages\"", "\"messagez\""), 400),
        (change("content-length", "content-length: 1\r\ncontent-length"), 400),
        (change("content-length", "transfer-encoding: chunked\r\ncontent-length"), 400),
    ];

    for (request, status) in rows {
        let answer = over_tls(&upstream, &request).await?;
        assert_eq!(one(&answer)?.head.status(), status, "{}", text(&request));
    }
    assert_eq!(upstream.violations().len(), 2, "{:?}", upstream.violations());
    Ok(())
}

#[tokio::test]
async fn what_must_not_reach_a_vendor_is_a_violation() -> Result<()> {
    let headers = [
        "x-forwarded-for: 1.2.3.4",
        "cookie: a=b",
        "openai-organization: org",
        "x-api-key: second",
        "x-note: kh_sk_abc",
        "via: 1.1 hub",
    ];

    for header in headers {
        let upstream = Upstream::start().await?;
        let request = call(&upstream, Vendor::OpenAi, "x", header, false);
        over_tls(&upstream, &request).await?;
        assert_eq!(upstream.violations().len(), 1, "{header}");
    }
    let upstream = Upstream::start().await?;
    let request = text(&call(&upstream, Vendor::OpenAi, "x", "", false));
    let request = request.replacen("api.openai.com", "api.openai.com:443", 1);
    over_tls(&upstream, request.as_bytes()).await?;
    assert!(!upstream.violations().is_empty());
    Ok(())
}

#[tokio::test]
async fn each_fault_looks_on_the_wire_as_its_name_says() -> Result<()> {
    let upstream = Upstream::start().await?;
    let rows = [
        ("cut-head", 0, false),
        ("cut-body", 1, false),
        ("cut-chunk", 1, false),
        ("garbage", 0, false),
        ("garbage-chunk", 1, false),
        ("reset", 1, false),
        ("reset-head", 0, false),
        ("bad-content-length", 0, false),
        ("two-content-lengths", 0, false),
        ("huge-head", 1, true),
        ("to-end", 1, true),
        ("trailers", 1, true),
        ("close", 1, true),
        ("gzip", 1, true),
        ("deflate", 1, true),
        ("100-continue", 2, true),
        ("early-close", 1, true),
        ("slow-0", 1, true),
        ("chunks-5-1", 1, true),
        ("big-100000", 1, true),
        ("error-in-stream", 1, true),
        ("status-529", 1, true),
    ];

    for (play, messages, complete) in rows {
        let header = format!("x-kit-play: {play}\r\naccept-encoding: gzip, deflate");
        let request = plain_call(&upstream, Vendor::OpenAi, play, &header, true);
        let mut recorder = Recorder::new(Side::Response, usize::MAX);
        let got = ask(TcpStream::connect(upstream.plain_addr()).await?, &request).await;
        recorder.push(&got.bytes);
        recorder.end(got.clean);
        assert_eq!(recorder.messages().len(), messages, "{play}");
        let last = recorder.messages().last();
        assert_eq!(last.is_some_and(|last| last.complete), complete, "{play}");
        assert_eq!(got.clean, !play.starts_with("reset"), "{play}");
    }
    assert_eq!(upstream.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_big_plain_answer_has_exactly_the_bytes_asked_for() -> Result<()> {
    let upstream = Upstream::start().await?;

    for vendor in Vendor::ALL {
        let request = plain_call(&upstream, vendor, "big", "x-kit-play: big-1234567", false);
        let answer = over_tcp(upstream.plain_addr(), &request).await?;
        let message = one(&answer)?;
        assert_eq!(message.body_bytes, 1_234_567);
        serde_json::from_slice::<Value>(&message.body)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_step_sends_nothing_before_it_is_released() -> Result<()> {
    let upstream = Upstream::start().await?;
    let request = plain_call(&upstream, Vendor::OpenAi, "s", "x-kit-play: step", true);
    let mut socket = TcpStream::connect(upstream.plain_addr()).await?;
    socket.write_all(&request).await?;
    let mut recorder = Recorder::new(Side::Response, usize::MAX);
    let mut buffer = [0; 4096];
    while recorder.messages().is_empty() {
        let count = socket.read(&mut buffer).await?;
        recorder.push(&buffer[..count]);
    }

    for released in 1..=4 {
        assert_eq!(recorder.messages()[0].chunks.len(), released - 1);
        upstream.steps().release("s", 1);
        let count = tokio::time::timeout(SOON, socket.read(&mut buffer)).await??;
        recorder.push(&buffer[..count]);
    }
    assert_eq!(recorder.messages()[0].chunks.len(), 4);
    Ok(())
}

#[tokio::test]
async fn a_peer_that_leaves_is_noticed_in_every_stalled_phase() -> Result<()> {
    let upstream = Upstream::start().await?;

    for play in ["stall-head", "stall-body", "step", "chunks-1000-50", "slow-20"] {
        let header = format!("x-kit-play: {play}");
        let request = plain_call(&upstream, Vendor::Anthropic, play, &header, true);
        let mut socket = TcpStream::connect(upstream.plain_addr()).await?;
        socket.write_all(&request).await?;
        let arrived = |exchange: &Exchange| exchange.case.as_deref() == Some(play) && exchange.request.complete;
        assert!(!upstream.wait_for(arrived).await?.over(), "{play}");
        drop(socket);

        let left = |exchange: &Exchange| arrived(exchange) && exchange.peer_closed_at.is_some();
        // With bytes unread the system closes by reset, so either way of leaving will do.
        assert!(upstream.wait_for(left).await?.over(), "{play}");
    }
    Ok(())
}

#[tokio::test]
async fn an_early_answer_comes_before_the_upload_ends() -> Result<()> {
    let upstream = Upstream::start().await?;
    let request = plain_call(&upstream, Vendor::OpenAi, "e", "x-kit-play: early", false);
    let (head, rest) = request.split_at(request.len() - 5);
    let mut socket = TcpStream::connect(upstream.plain_addr()).await?;
    socket.write_all(head).await?;
    let mut buffer = [0; 16];

    tokio::time::timeout(SOON, socket.read_exact(&mut buffer)).await??;
    let before = upstream.exchanges_of("e");
    socket.write_all(rest).await?;

    assert!(buffer.starts_with(b"HTTP/1.1 500"));
    assert!(!before[0].request.complete);
    upstream.wait_for(|exchange| exchange.request.complete).await?;
    Ok(())
}

#[tokio::test]
async fn the_tap_and_the_upstream_agree_on_every_byte() -> Result<()> {
    let upstream = Upstream::start().await?;
    let tap = Tap::start(upstream.plain_addr())?;

    for vendor in Vendor::ALL {
        for (case, stream) in [("plain", false), ("stream", true)] {
            let case = format!("{}.{case}", vendor.word());
            let request = plain_call(&upstream, vendor, &case, "", stream);
            over_tcp(tap.addr(), &request).await?;

            let seen = upstream.exchange_of(&case).await?;
            let [tapped] = &tap.calls_of(&case)[..] else {
                anyhow::bail!("{case} is not in the tap once");
            };
            let response = tapped.response.as_ref().context("no response")?;
            let sent = seen.response().context("no answer")?;
            assert_eq!(tapped.request.head, seen.request.head);
            assert_eq!(tapped.request.body_sha256(), seen.request.body_sha256());
            assert_eq!(response.head, sent.head);
            assert_eq!(response.body_sha256(), sent.body_sha256());
            assert!(response.complete && sent.complete);
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_third_party_upstream_answers_behind_the_front() -> Result<()> {
    let ca = TestCa::new()?;
    let fixtures = json!({"fixtures": [{
        "match": {"userMessage": "hello"},
        "response": {"content": "Grüezi", "usage": {"prompt_tokens": 12, "completion_tokens": 7}},
    }]});
    let aimock = Aimock::start(&fixtures).await?;
    let front = TlsFront::start(&ca, aimock.addr())?;
    let rows = [
        ("api.openai.com", "/v1/chat/completions"),
        ("api.deepseek.com", "/anthropic/v1/messages"),
        ("api.anthropic.com", "/v1/messages"),
    ];

    for (host, path) in rows {
        let body = r#"{"model":"gpt-4o","max_tokens":9,"messages":[{"role":"user","content":"hello"}]}"#;
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer k\r\n\
             anthropic-version: 2023-06-01\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let socket = tls(&ca, front.addr(), host).await?;
        let answer = ask(socket, request.as_bytes()).await.bytes;
        let message = one(&answer)?;
        assert_eq!(message.head.status(), 200, "{}", text(&answer));
        assert!(text(&message.body).contains("Grüezi"), "{}", text(&answer));
    }
    Ok(())
}

#[tokio::test]
async fn a_process_is_started_heard_and_ended() -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", "echo noise; echo '{\"a\":1}'; read line; echo $line >&2; sleep 60"]);
    let mut process = Process::start_with_input(command, "word\n")?;

    let line = process.json_line(SOON).await?;
    process.says("word", SOON).await?;
    process.terminate()?;
    let status = process.wait(SOON).await?;

    assert_eq!(line, json!({"a": 1}));
    assert_eq!(status.code(), None);
    assert!(!process.is_running());
    assert!(process.terminate().is_err());

    let mut other = Process::start({
        let mut command = Command::new("sleep");
        command.arg("60");
        command
    })?;
    assert!(other.is_running());
    other.kill_9()?;
    assert!(!other.is_running());
    assert!(other.json_line(SOON).await.is_err());
    Ok(())
}

// What the tests above ask with: a client that adds and hides nothing.

struct Got {
    bytes: Vec<u8>,
    clean: bool,
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, request: &[u8]) -> Got {
    let mut bytes = Vec::new();
    let exchange = async {
        socket.write_all(request).await?;
        socket.flush().await?;
        // To the end, or to the end of what a kept-alive connection has for us.
        let mut recorder = Recorder::new(Side::Response, usize::MAX);
        loop {
            let mut buffer = vec![0; 64 << 10];
            let count = socket.read(&mut buffer).await?;
            bytes.extend_from_slice(&buffer[..count]);
            recorder.push(&buffer[..count]);
            let last = recorder.messages().last();
            if count == 0 || last.is_some_and(|last| last.complete && last.head.status() >= 200) {
                return std::io::Result::Ok(());
            }
        }
    };
    let ended = tokio::time::timeout(SOON, exchange).await;
    let clean = matches!(ended, Ok(Ok(())));
    Got { bytes, clean }
}

async fn over_tcp(addr: SocketAddr, request: &[u8]) -> Result<Vec<u8>> {
    Ok(ask(TcpStream::connect(addr).await?, request).await.bytes)
}

async fn over_tls(upstream: &Upstream, request: &[u8]) -> Result<Vec<u8>> {
    let messages = text(request);
    let host = messages.lines().find_map(|line| line.strip_prefix("host: ")).context("no host")?;
    let host = host.split(':').next().context("no host")?;
    let socket = tls(&upstream.ca(), upstream.addr(), host).await?;
    Ok(ask(socket, request).await.bytes)
}

async fn tls(ca: &TestCa, addr: SocketAddr, host: &str) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let socket = TcpStream::connect(addr).await?;
    let name = ServerName::try_from(host.to_owned())?;
    Ok(TlsConnector::from(ca.client_config()?).connect(name, socket).await?)
}

fn call(upstream: &Upstream, vendor: Vendor, case: &str, header: &str, stream: bool) -> Vec<u8> {
    let path = match vendor {
        Vendor::OpenAi => "/v1/chat/completions",
        Vendor::Azure => "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        Vendor::Anthropic => "/v1/messages",
        Vendor::DeepSeek => "/chat/completions",
    };
    request(upstream, vendor, vendor.host(), path, case, header, stream)
}

fn plain_call(upstream: &Upstream, vendor: Vendor, case: &str, header: &str, stream: bool) -> Vec<u8> {
    let direct = text(&call(upstream, vendor, case, header, stream));
    let prefix = format!("POST /{}/", vendor.word());
    direct.replacen("POST /", &prefix, 1).into_bytes()
}

fn request(
    upstream: &Upstream,
    vendor: Vendor,
    host: &str,
    path: &str,
    case: &str,
    header: &str,
    stream: bool,
) -> Vec<u8> {
    let key = upstream.keys().of(vendor);
    let auth = match vendor {
        Vendor::OpenAi | Vendor::DeepSeek => format!("authorization: Bearer {key}"),
        Vendor::Azure => format!("api-key: {key}"),
        Vendor::Anthropic => format!("x-api-key: {key}\r\nanthropic-version: 2023-06-01"),
    };
    let body = body(vendor, stream);
    let more = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\n{auth}\r\nx-kit-case: {case}\r\n{more}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    request
}

fn body(vendor: Vendor, stream: bool) -> Vec<u8> {
    let model = match vendor {
        Vendor::OpenAi | Vendor::Azure => "gpt-4o",
        Vendor::Anthropic => "claude-haiku-4-5-20251001",
        Vendor::DeepSeek => "deepseek-chat",
    };
    let messages = json!([{"role": "user", "content": "Grüezi 🙂"}]);
    json!({"model": model, "messages": messages, "max_tokens": 64, "stream": stream}).to_string().into_bytes()
}

fn one(bytes: &[u8]) -> Result<Message> {
    let messages = recorder::messages(Side::Response, bytes)?;
    messages.into_iter().next_back().context("no answer")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
