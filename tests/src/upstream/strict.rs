//! What a real vendor would refuse, and what must never have reached it.
//!
//! Invariant: a violation is recorded whatever the answer is; tests assert that there are none.

use super::record::Door;
use super::vendor::Vendor;
use super::websocket;
use crate::http1::Head;

/// Headers that name the consumer, the hub or the way, or that a vendor bills by.
const FORBIDDEN: [&str; 14] = [
    "forwarded",
    "via",
    "x-real-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-client-ip",
    "cookie",
    "openai-organization",
    "openai-project",
    "proxy-authorization",
    "proxy-connection",
    "idempotency-key",
    "origin",
    "sec-websocket-extensions",
];

/// Everything wrong with a request's head.
pub(super) fn violations(head: &Head, door: Door, sni: Option<&str>) -> Vec<String> {
    let mut found = Vec::new();
    if head.raw.windows(6).any(|window| window == b"kh_sk_") {
        found.push("a hub credential reached the vendor".to_owned());
    }
    let keys = auth_headers(head).len();
    if keys > 1 {
        found.push(format!("{keys} auth headers reached the vendor"));
    }
    let hosts = head.all("host");
    if hosts.len() != 1 {
        found.push(format!("host is given as {hosts:?}"));
    }
    if door == Door::Plain {
        return found;
    }
    if websocket::protocols(head).iter().any(|protocol| protocol.starts_with("openai-insecure-api-key.")) {
        found.push("a key in a subprotocol reached the vendor".to_owned());
    }
    for header in &head.headers {
        let name = header.name.to_ascii_lowercase();
        let by_prefix = name.starts_with("x-forwarded-") || name.starts_with("keyhaven-");
        if FORBIDDEN.contains(&name.as_str()) || by_prefix {
            found.push(format!("header {name} reached the vendor"));
        }
    }
    let host = hosts.first().map_or("", String::as_str);
    if Vendor::from_host(host).is_none() {
        found.push(format!("host {host:?} is not an official name"));
    }
    if sni != Some(host) {
        found.push(format!("host is {host:?} but the TLS name is {sni:?}"));
    }
    if head.minor_version != 1 {
        found.push("the request is not HTTP/1.1".to_owned());
    }
    if !head.target().starts_with('/') {
        found.push(format!("target {:?} is not a path", head.target()));
    }
    found
}

/// The headers that carry a key, as (name, value), names in lower case.
pub(super) fn auth_headers(head: &Head) -> Vec<(String, String)> {
    let names = ["authorization", "x-api-key", "api-key"];
    head.headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), header.text()))
        .filter(|(name, _)| names.contains(&name.as_str()))
        .collect()
}

/// The key in the one form the vendor accepts on this path; `None` when there is none such.
pub(super) fn key(head: &Head, vendor: Vendor, door: Door) -> Option<String> {
    let headers = auth_headers(head);
    if headers.is_empty() && door == Door::Plain && vendor == Vendor::OpenAi {
        // What a browser, which can send no header of its own, does instead.
        let browser = |protocol: String| Some(protocol.strip_prefix("openai-insecure-api-key.")?.to_owned());
        return websocket::protocols(head).into_iter().find_map(browser);
    }
    let [(name, value)] = headers.as_slice() else {
        return None;
    };
    let bearer = value.strip_prefix("Bearer ").map(str::to_owned);
    match (name.as_str(), vendor) {
        ("authorization", _) => bearer,
        ("api-key", Vendor::Azure) | ("x-api-key", Vendor::Anthropic) => Some(value.clone()),
        ("x-api-key", Vendor::DeepSeek) if head.target().contains("/anthropic/") => Some(value.clone()),
        _ => None,
    }
}
