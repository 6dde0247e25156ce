//! Which headers cross the hub and the agent, and in which one a key travels.
//!
//! Invariant: a filtered map is built anew from the lists below; what they do
//! not name passes untouched, duplicates and their order included.

use super::endpoint::BodyKind;
use super::endpoint::Endpoint;
use crate::ErrorCode;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header::ACCEPT_ENCODING;
use http::header::AUTHORIZATION;
use http::header::CONNECTION;
use http::header::InvalidHeaderValue;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use std::collections::HashSet;

/// One line of a published header policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// A header's name in lower case; a `*` at the end stands for any rest.
    pub name: &'static str,
    /// Why it does not pass.
    pub reason: &'static str,
}

const fn rule(name: &'static str, reason: &'static str) -> Rule {
    Rule { name, reason }
}

const CREDENTIAL: &str = "carries the consumer's key, which is the hub's own";
const VENDOR_KEY: &str = "is a place for a vendor's key; only the agent's vault fills one";
const COOKIE: &str = "belongs to the consumer and the hub's host";
const FORWARDED: &str = "tells who the consumer is and which way the call came";
const HOP: &str = "is about one connection, not about the call";
const FRAMING: &str = "is made anew by the side that sends to the vendor";
const ACCOUNT: &str = "picks an organisation, project, workspace or profile inside an account that is the owner's";
const IDEMPOTENCY: &str = "is kept by the hub, which never sends a delivered call twice";
const PAGE: &str = "describes the page that called the hub, not the agent's call";
const OVERRIDE: &str = "could ask for another endpoint than the one that was allowed";
const OURS: &str = "is spoken between consumer and hub only";

/// What is dropped from a request: at the hub before the tunnel, and again at
/// the agent, which does not trust the hub with it. Headers named by
/// `connection` are dropped too, and `accept-encoding` is narrowed to gzip,
/// deflate and identity.
pub const REQUEST_DROPPED: &[Rule] = &[
    rule("authorization", CREDENTIAL),
    rule("x-api-key", CREDENTIAL),
    rule("api-key", CREDENTIAL),
    rule("ocp-apim-subscription-key", VENDOR_KEY),
    rule("cookie", COOKIE),
    rule("forwarded", FORWARDED),
    rule("x-forwarded-*", FORWARDED),
    rule("x-original-forwarded-for", FORWARDED),
    rule("x-real-ip", FORWARDED),
    rule("x-client-ip", FORWARDED),
    rule("x-cluster-client-ip", FORWARDED),
    rule("x-azure-clientip", FORWARDED),
    rule("x-azure-socketip", FORWARDED),
    rule("client-ip", FORWARDED),
    rule("true-client-ip", FORWARDED),
    rule("fastly-client-ip", FORWARDED),
    rule("fly-client-ip", FORWARDED),
    rule("cf-*", FORWARDED),
    rule("via", FORWARDED),
    rule("cdn-loop", FORWARDED),
    rule("x-amzn-trace-id", FORWARDED),
    rule("x-envoy-*", FORWARDED),
    rule("x-original-host", FORWARDED),
    rule("connection", HOP),
    rule("keep-alive", HOP),
    rule("proxy-*", HOP),
    rule("te", HOP),
    rule("trailer", HOP),
    rule("upgrade", HOP),
    rule("http2-settings", HOP),
    rule("sec-websocket-*", HOP),
    rule("expect", HOP),
    rule("host", FRAMING),
    rule("content-length", FRAMING),
    rule("transfer-encoding", FRAMING),
    rule("openai-organization", ACCOUNT),
    rule("openai-project", ACCOUNT),
    rule("anthropic-workspace-id", ACCOUNT),
    rule("anthropic-user-profile-id", ACCOUNT),
    rule("idempotency-key", IDEMPOTENCY),
    rule("origin", PAGE),
    rule("referer", PAGE),
    rule("x-http-method", OVERRIDE),
    rule("x-http-method-override", OVERRIDE),
    rule("x-method-override", OVERRIDE),
    rule("x-original-url", OVERRIDE),
    rule("x-rewrite-url", OVERRIDE),
    rule("keyhaven-*", OURS),
];

const HANDSHAKE: &str = "is the consumer's own half of the handshake, which the vendor answers";

/// What of [`REQUEST_DROPPED`] passes after all on an endpoint that is a WebSocket.
/// `sec-websocket-extensions` never does: a compressed stream cannot be metered.
pub const HANDSHAKE_PASSED: &[Rule] = &[
    rule("sec-websocket-key", HANDSHAKE),
    rule("sec-websocket-version", HANDSHAKE),
    rule("sec-websocket-protocol", HANDSHAKE),
];

/// The subprotocol in which a browser sends its key.
const KEY_SUBPROTOCOL: &str = "openai-insecure-api-key.";

/// Elements that are taken out of `sec-websocket-protocol`.
pub const SUBPROTOCOLS_DROPPED: &[Rule] = &[
    rule("openai-insecure-api-key.*", CREDENTIAL),
    rule("openai-organization.*", ACCOUNT),
    rule("openai-project.*", ACCOUNT),
];

const OWNER: &str = "names the owner's account at the vendor";
const REGION: &str = "names the vendor's region, deployment or request inside the owner's account";
const NETWORK: &str = "names the place in the vendor's network that the owner's machine reached";
const VENDOR_HOST: &str = "speaks for the vendor's host; at the hub it would speak for the hub's";

const EXTENSION: &str = "was not offered, because a compressed stream cannot be metered";

/// What is dropped from a response. Headers named by `connection` are dropped
/// too. `content-length` passes: it states the vendor's framing, which the hub
/// keeps, so that a body that ends early is seen as broken.
pub const RESPONSE_DROPPED: &[Rule] = &[
    rule("connection", HOP),
    rule("keep-alive", HOP),
    rule("proxy-*", HOP),
    rule("te", HOP),
    rule("trailer", HOP),
    rule("transfer-encoding", HOP),
    rule("upgrade", HOP),
    rule("openai-organization", OWNER),
    rule("openai-project", OWNER),
    rule("anthropic-organization-id", OWNER),
    rule("x-ms-*", REGION),
    rule("apim-*", REGION),
    rule("azureml-*", REGION),
    rule("cf-ray", NETWORK),
    rule("set-cookie", VENDOR_HOST),
    rule("alt-svc", VENDOR_HOST),
    rule("strict-transport-security", VENDOR_HOST),
    rule("clear-site-data", VENDOR_HOST),
    rule("nel", VENDOR_HOST),
    rule("report-to", VENDOR_HOST),
    rule("reporting-endpoints", VENDOR_HOST),
    rule("sec-websocket-extensions", EXTENSION),
    rule("keyhaven-*", OURS),
];

/// Content codings that metering can read on its copy of the bytes.
const CODINGS: [&str; 3] = ["gzip", "deflate", "identity"];

/// The header in which a vendor takes its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthForm {
    /// `authorization: Bearer <key>`.
    Bearer,
    /// `x-api-key: <key>`.
    XApiKey,
    /// `api-key: <key>`.
    ApiKey,
}

impl AuthForm {
    /// The header to add to the vendor's request, marked as sensitive.
    ///
    /// # Errors
    /// When the key holds bytes that no header may carry.
    pub fn header(self, key: &str) -> Result<(HeaderName, HeaderValue), InvalidHeaderValue> {
        let (name, mut value) = match self {
            Self::Bearer => (AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}"))?),
            Self::XApiKey => (X_API_KEY, HeaderValue::from_str(key)?),
            Self::ApiKey => (API_KEY, HeaderValue::from_str(key)?),
        };
        value.set_sensitive(true);
        Ok((name, value))
    }
}

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// Why a request shows no usable key. Never holds the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// None of the three headers holds a key.
    #[error("no key in `authorization: Bearer`, `x-api-key` or `api-key`")]
    Missing,
    /// A header holds something that cannot be a key.
    #[error("the key holds spaces or characters that are not visible ASCII")]
    Malformed,
    /// Two headers hold different keys: it is unclear who asks.
    #[error("the request carries two different keys; send one")]
    Conflicting,
}

impl CredentialError {
    /// The code that the consumer sees.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Missing => ErrorCode::ApiKeyMissing,
            Self::Malformed | Self::Conflicting => ErrorCode::ApiKeyUnknown,
        }
    }
}

/// The consumer's key, in whichever form it came. Browsers cannot set headers on a
/// WebSocket, so OpenAI's SDK puts the key into the list of subprotocols there.
///
/// # Errors
/// When there is none, when it cannot be a key, or when two differ.
pub fn credential(headers: &HeaderMap) -> Result<&str, CredentialError> {
    let bearer = headers.get_all(AUTHORIZATION).into_iter().map(bearer_key);
    let named = headers.get_all(X_API_KEY).into_iter();
    let named = named.chain(headers.get_all(API_KEY)).map(plain_key);
    let offered = element_of(headers, &SEC_WEBSOCKET_PROTOCOL);
    let offered = offered.filter_map(|name| name.strip_prefix(KEY_SUBPROTOCOL)).map(checked_key);

    let mut found = None;
    for key in bearer.chain(named).chain(offered) {
        match (found, key?) {
            (_, "") => {}
            (None, key) => found = Some(key),
            (Some(first), key) if first == key => {}
            (Some(_), _) => return Err(CredentialError::Conflicting),
        }
    }
    found.ok_or(CredentialError::Missing)
}

/// The request's headers as they travel from hub to agent.
pub fn request_to_tunnel(endpoint: Endpoint, headers: &HeaderMap) -> HeaderMap {
    filtered_request(endpoint, headers)
}

/// The request's headers as the agent sends them to the vendor, before it adds
/// `host`, framing and its own key: the same lists again, because the agent
/// relies on nobody else for what reaches the vendor in its owner's name.
pub fn request_to_vendor(endpoint: Endpoint, headers: &HeaderMap) -> HeaderMap {
    filtered_request(endpoint, headers)
}

/// The vendor's headers as they go to the consumer.
pub fn response_to_consumer(headers: &HeaderMap) -> HeaderMap {
    filtered(headers, RESPONSE_DROPPED, &[])
}

fn filtered_request(endpoint: Endpoint, headers: &HeaderMap) -> HeaderMap {
    let is_handshake = endpoint.body() == BodyKind::WebSocket;
    let passed = if is_handshake { HANDSHAKE_PASSED } else { &[] };
    let mut kept = filtered(headers, REQUEST_DROPPED, passed);
    if is_handshake {
        keep_plain_subprotocols(&mut kept);
    }
    if kept.contains_key(ACCEPT_ENCODING) {
        let mut narrowed = narrowed_codings(headers).into_iter();
        // `insert` replaces every value of the name, `append` adds to it.
        if let Some(first) = narrowed.next() {
            kept.insert(ACCEPT_ENCODING, first);
        }
        for value in narrowed {
            kept.append(ACCEPT_ENCODING, value);
        }
    }
    kept
}

/// A new map of what no rule drops. It cannot outgrow the map it comes from,
/// so `append` cannot reach the limit at which it would panic.
fn filtered(headers: &HeaderMap, dropped: &[Rule], passed: &[Rule]) -> HeaderMap {
    let of_connection = names_of_connection(headers);
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        let on = |rules: &[Rule]| rules.iter().any(|rule| covers(rule.name, name.as_str()));
        let listed = on(dropped) && !on(passed);
        if !listed && !of_connection.contains(name.as_str()) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// Takes the subprotocols that carry a credential or pick an account out of the list.
fn keep_plain_subprotocols(headers: &mut HeaderMap) {
    let carries = |name: &&str| SUBPROTOCOLS_DROPPED.iter().any(|rule| covers(rule.name, &name.to_ascii_lowercase()));
    let plain: Vec<&str> = element_of(headers, &SEC_WEBSOCKET_PROTOCOL).filter(|name| !carries(name)).collect();
    let line = HeaderValue::from_str(&plain.join(", ")).ok().filter(|_| !plain.is_empty());
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Some(line) = line {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, line);
    }
}

/// The elements of a header that is a list.
pub(super) fn element_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

fn covers(rule: &str, name: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == rule,
    }
}

/// The headers that `connection` declares to be about this connection only.
fn names_of_connection(headers: &HeaderMap) -> HashSet<String> {
    element_of(headers, &CONNECTION).map(str::to_ascii_lowercase).collect()
}

/// What was offered of [`CODINGS`], with its weights; `identity` when nothing
/// is left. A line of which nothing has to go keeps its exact bytes.
fn narrowed_codings(headers: &HeaderMap) -> Vec<HeaderValue> {
    let lines = headers.get_all(ACCEPT_ENCODING).into_iter();
    let mut narrowed: Vec<HeaderValue> = lines.filter_map(narrowed_line).collect();
    if narrowed.is_empty() {
        narrowed.push(HeaderValue::from_static("identity"));
    }
    narrowed
}

fn narrowed_line(line: &HeaderValue) -> Option<HeaderValue> {
    let text = line.to_str().ok()?;
    let offered = text.split(',').count();
    let elements = text.split(',').map(str::trim);
    let kept: Vec<&str> = elements.filter(|element| is_readable(element)).collect();
    if kept.len() == offered {
        return Some(line.clone());
    }
    if kept.is_empty() {
        return None;
    }
    HeaderValue::from_str(&kept.join(", ")).ok()
}

/// Whether an element such as `gzip;q=0.5` names one of [`CODINGS`].
fn is_readable(element: &str) -> bool {
    let (coding, _) = element.split_once(';').unwrap_or((element, ""));
    CODINGS.iter().any(|name| name.eq_ignore_ascii_case(coding.trim_end()))
}

/// The key after `Bearer`, or nothing when the scheme is another one: a
/// browser or a proxy may have added it beside a key in another header.
fn bearer_key(value: &HeaderValue) -> Result<&str, CredentialError> {
    let text = value.to_str().map_err(|_| CredentialError::Malformed)?;
    let (scheme, key) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("bearer") { checked_key(key) } else { Ok("") }
}

fn plain_key(value: &HeaderValue) -> Result<&str, CredentialError> {
    checked_key(value.to_str().map_err(|_| CredentialError::Malformed)?)
}

fn checked_key(key: &str) -> Result<&str, CredentialError> {
    let key = key.trim();
    let visible = key.bytes().all(|byte| byte.is_ascii_graphic());
    visible.then_some(key).ok_or(CredentialError::Malformed)
}

#[cfg(test)]
mod tests;
