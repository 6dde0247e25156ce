//! Consumers' calls in every vendor's form, as text that a test can twist, and what an answer
//! must look like.
//!
//! Invariant: the forms of calls and errors are written down from the vendors' documents, not
//! taken from the code under test.

use crate::form::Errors;
use crate::form::Form;
use crate::house::House;
use crate::http1::Framing;
use crate::http1::Head;
use crate::http1::recorder::Message;
use crate::http1::sha256;
use crate::raw_client::RawClient;
use crate::upstream::headers::OWNER_MARK;
use crate::upstream::record::Exchange;
use crate::upstream::vendor::Vendor;
use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

/// How long the record of a call that is over may take.
const METERED_WITHIN: Duration = Duration::from_secs(10);

/// The header that names a call in every answer.
pub const CALL_ID_HEADER: &str = "keyhaven-call-id";

/// A request, still open to be twisted.
#[derive(Debug, Clone)]
pub struct Call {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Call {
    /// A proper call with a hub's key.
    #[must_use]
    pub fn new(form: Form, key: &str) -> Self {
        let call = Self {
            method: "POST".to_owned(),
            target: form.target().to_owned(),
            headers: Vec::new(),
            body: form.body(false),
        };
        let call = call
            .with("host", "hub.example")
            .with("content-type", &form.content_type())
            .with("authorization", &format!("Bearer {key}"));
        match form.errors() {
            Errors::Anthropic => call.with("anthropic-version", "2023-06-01"),
            Errors::OpenAi | Errors::Azure => call,
        }
    }

    /// Asks for a stream.
    #[must_use]
    pub fn streamed(self, form: Form) -> Self {
        self.body(form.body(true))
    }

    /// Names the call for the upstream's record.
    #[must_use]
    pub fn case(self, case: &str) -> Self {
        self.with("x-kit-case", case)
    }

    /// Tells the upstream what to do.
    #[must_use]
    pub fn play(self, play: &str) -> Self {
        self.with("x-kit-play", play)
    }

    /// One more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without this header.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(listed, _)| listed != name);
        self
    }

    /// With another method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// With another request target.
    #[must_use]
    pub fn target(mut self, target: &str) -> Self {
        target.clone_into(&mut self.target);
        self
    }

    /// With another body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// SHA-256 of the body.
    #[must_use]
    pub fn body_sha256(&self) -> String {
        sha256(&self.body)
    }

    /// The head with these lines about the body's framing, each ended by CRLF.
    #[must_use]
    pub fn head(&self, framing: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += framing;
        head += "\r\n";
        head.into_bytes()
    }

    /// Head and body, framed by length.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        [self.head(&format!("content-length: {}\r\n", self.body.len())), self.body.clone()].concat()
    }

    /// Head and body in chunks of this size.
    #[must_use]
    pub fn chunked(&self, chunk_bytes: usize) -> Vec<u8> {
        let mut bytes = self.head("transfer-encoding: chunked\r\n");
        for piece in self.body.chunks(chunk_bytes) {
            bytes.extend(chunk(piece));
        }
        bytes.extend(b"0\r\n\r\n");
        bytes
    }

    /// Makes the call on a connection of its own.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn make(&self, house: &House) -> Result<Message> {
        RawClient::connect(house.hub.consumer).await?.ask(&self.bytes()).await
    }
}

/// A chunk of a chunked body.
#[must_use]
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// The case of the normal calls around every insult.
const CALM_CASE: &str = "calm";

/// What must be as it was after any insult and any fault.
pub struct Calm {
    link: u64,
}

impl Calm {
    /// As it is before: a normal call works.
    ///
    /// # Errors
    /// When no agent is linked, or it does not.
    pub async fn of(house: &House) -> Result<Self> {
        let call = Call::new(Form::OpenAi, &house.api_key).case(CALM_CASE);
        let answer = call.make(house).await.context("a first call")?;
        let ours = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(answer.head.status() == 200, "a first call ended with {}: {ours}", answer.head.status());
        Ok(Self { link: link(house)? })
    }

    /// The agent's link is the same one, the next call works, and nothing that should not have
    /// reached a vendor did.
    ///
    /// # Errors
    /// What is not as it was.
    pub async fn holds(&self, house: &House) -> Result<()> {
        ensure!(link(house)? == self.link, "the link was lost");
        let before = house.upstream.exchanges_of(CALM_CASE).len();
        let call = Call::new(Form::OpenAi, &house.api_key).case(CALM_CASE);
        let answer = call.make(house).await.context("a normal call afterwards")?;
        ensure!(answer.head.status() == 200 && answer.complete, "a normal call ended with {}", answer.head.status());
        ensure!(house.upstream.exchanges_of(CALM_CASE).len() == before + 1, "the normal call did not reach the vendor");
        let violations = house.upstream.violations();
        ensure!(violations.is_empty(), "{violations:?}");
        Ok(())
    }
}

/// How many calls have reached a vendor; those of [`Calm`] and the agent's own questions for
/// models do not count.
#[must_use]
pub fn calls_at_vendors(house: &House) -> usize {
    let counts =
        |exchange: &&Exchange| exchange.request.head.method() != "GET" && exchange.case.as_deref() != Some(CALM_CASE);
    house.upstream.exchanges().iter().filter(counts).count()
}

/// The message of an error of the hub's own, checked: status, code, the vendor's form, the call's
/// id, and nothing of the owner's.
///
/// # Errors
/// What is not as it should be.
pub fn refused(house: &House, answer: &Message, errors: Errors, status: u16, code: &str) -> Result<String> {
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    ensure!(answer.complete, "the error is cut off");
    ensure!(answer.head.status() == status, "{} instead of {status}: {body}", answer.head.status());
    ensure!(answer.head.all("content-type") == ["application/json"], "{:?}", answer.head.all("content-type"));
    has_call_id(&answer.head)?;
    tells_nothing(house, answer)?;
    let json: Value = serde_json::from_str(&body).with_context(|| format!("the body is no JSON: {body}"))?;
    let (outer, inner): (&[&str], &[&str]) = match errors {
        Errors::OpenAi => (&["error"], &["code", "message", "param", "type"]),
        Errors::Azure => (&["error"], &["code", "message"]),
        Errors::Anthropic => (&["error", "request_id", "type"], &["message", "type"]),
    };
    ensure!(keys(&json) == outer && keys(&json["error"]) == inner, "not the form of {errors:?}: {body}");
    let message = json["error"]["message"].as_str().context("the message is no text")?;
    ensure!(message.ends_with(&format!("[{code}]")), "{code} is not in {message:?}");
    Ok(message.to_owned())
}

/// Compares what the consumer has got with what the vendor has sent, and how it was framed.
///
/// # Errors
/// What differs.
pub async fn same_at_both_ends(house: &House, case: &str, client: &mut RawClient) -> Result<Exchange> {
    client
        .until(|seen| seen.messages().last().is_some_and(|last| last.complete))
        .await
        .with_context(|| case.to_owned())?;
    let answer = client.seen().messages().last().context("no answer")?;
    let ours = String::from_utf8_lossy(&answer.body).into_owned();
    ensure!(!ours.contains("[KH-E"), "{case}: the hub answered {}: {ours}", answer.head.status());
    let exchange = house.upstream.exchange_of(case).await?;
    let sent = exchange.response().context("no answer was sent")?;
    ensure!(answer.head.status() == sent.head.status(), "{case}: {}", answer.head.status());
    ensure!(answer.body_sha256() == sent.body_sha256(), "{case}: another body arrived than was sent");
    ensure!(answer.body_bytes == sent.body_bytes, "{case}: {} of {} bytes", answer.body_bytes, sent.body_bytes);
    let framing = if sent.framing == Framing::ToEnd { Framing::Chunked } else { sent.framing };
    ensure!(answer.framing == framing, "{case}: the framing is {:?}", answer.framing);
    has_call_id(&answer.head)?;
    tells_nothing(house, answer)?;
    ensure!(exchange.request.complete, "{case}: the request did not end");
    ensure!(exchange.request.body_sha256() != sha256(b""), "{case}: an empty request");
    Ok(exchange)
}

/// Checks that an answer names its call.
///
/// # Errors
/// When it does not.
pub fn has_call_id(head: &Head) -> Result<()> {
    let ids = head.all(CALL_ID_HEADER);
    ensure!(ids.len() == 1 && !ids[0].is_empty(), "{CALL_ID_HEADER} is {ids:?}");
    Ok(())
}

/// Checks that nothing in an answer tells of the key's owner.
///
/// # Errors
/// What does.
pub fn tells_nothing(house: &House, answer: &Message) -> Result<()> {
    let all = [&answer.head.raw[..], &answer.body].concat();
    let text = String::from_utf8_lossy(&all);
    let keys = Vendor::ALL.map(|vendor| house.upstream.keys().of(vendor));
    for secret in keys.into_iter().chain([OWNER_MARK, house.api_key.as_str()]) {
        ensure!(!text.contains(secret), "the answer tells {secret:?}:\n{text}");
    }
    Ok(())
}

/// What the hub tells the consumer of a call, once it is metered; none when it was not sold.
///
/// # Errors
/// When that is not told in time, or is no JSON.
pub async fn call_record(hub: SocketAddr, api_key: &str, id: &str) -> Result<Option<Value>> {
    let request =
        format!("GET /keyhaven/v1/calls/{id} HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {api_key}\r\n\r\n");
    let began = Instant::now();
    loop {
        let answer = RawClient::connect(hub).await?.ask(request.as_bytes()).await?;
        match answer.head.status() {
            200 => return Ok(Some(serde_json::from_slice(&answer.body)?)),
            404 => return Ok(None),
            425 if began.elapsed() < METERED_WITHIN => tokio::time::sleep(Duration::from_millis(20)).await,
            status => bail!("{status}: {}", String::from_utf8_lossy(&answer.body)),
        }
    }
}

fn link(house: &House) -> Result<u64> {
    Ok(house.hub.roster.links().first().context("no agent is linked")?.number)
}

fn keys(json: &Value) -> Vec<&str> {
    let object = json.as_object();
    let mut keys: Vec<&str> = object.map(|map| map.keys().map(String::as_str).collect()).unwrap_or_default();
    keys.sort_unstable();
    keys
}
