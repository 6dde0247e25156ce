//! The handshake of a WebSocket endpoint (RFC 6455, section 4): what a consumer must
//! ask, and what makes a vendor's 101 an answer to just that.
//!
//! Invariant: no extension is ever agreed on, so that the bytes stay readable, and a 101
//! counts only with the proof that it answers this very handshake.

use super::headers::element_of;
use crate::ErrorCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header::CONNECTION;
use http::header::SEC_WEBSOCKET_ACCEPT;
use http::header::SEC_WEBSOCKET_EXTENSIONS;
use http::header::SEC_WEBSOCKET_KEY;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::header::SEC_WEBSOCKET_VERSION;
use http::header::UPGRADE;
use sha1::Digest as _;
use sha1::Sha1;

/// What the standard appends to a key before it is hashed.
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The bytes behind a `sec-websocket-key`.
const KEY_BYTES: usize = 16;

/// The only version there is.
const VERSION: &str = "13";

/// One consumer's wish for a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    key: String,
    protocols: Vec<String>,
}

/// Why a request is no handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// It does not ask for a WebSocket.
    #[error("the request lacks `connection: upgrade` and `upgrade: websocket`")]
    NotAsked,
    /// Another version.
    #[error("`sec-websocket-version` must be 13")]
    Version,
    /// Not one key of 16 bytes.
    #[error("`sec-websocket-key` must be 16 bytes in base64, once")]
    Key,
    /// The list of subprotocols is no list of names.
    #[error("`sec-websocket-protocol` must be a list of different names")]
    Protocols,
    /// A body in front of the WebSocket's bytes.
    #[error("a WebSocket's handshake has no body")]
    Body,
}

impl UpgradeError {
    /// The code that the consumer sees.
    pub const fn code(self) -> ErrorCode {
        ErrorCode::UpgradeExpected
    }
}

/// Reads a consumer's handshake at the hub's door.
///
/// # Errors
/// When it is not one that RFC 6455 allows.
pub fn upgrade_of(headers: &HeaderMap) -> Result<Upgrade, UpgradeError> {
    if !names(headers, &CONNECTION, "upgrade") || !names(headers, &UPGRADE, "websocket") {
        return Err(UpgradeError::NotAsked);
    }
    let framed = headers.contains_key(http::header::TRANSFER_ENCODING);
    let length = headers.get(http::header::CONTENT_LENGTH);
    if framed || length.is_some_and(|length| length != "0") {
        return Err(UpgradeError::Body);
    }
    offer_of(headers)
}

/// Reads a handshake as it came through the tunnel, where the headers that are about one
/// connection do not travel.
///
/// # Errors
/// When key, version or subprotocols are not what RFC 6455 allows.
pub fn offer_of(headers: &HeaderMap) -> Result<Upgrade, UpgradeError> {
    if single(headers, &SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes) != Some(VERSION.as_bytes()) {
        return Err(UpgradeError::Version);
    }
    let key = single(headers, &SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).ok_or(UpgradeError::Key)?;
    if STANDARD.decode(key).map(|bytes| bytes.len()) != Ok(KEY_BYTES) {
        return Err(UpgradeError::Key);
    }
    Ok(Upgrade { key: key.to_owned(), protocols: protocols_of(headers)? })
}

/// Whether the headers of a 101 accept this very handshake.
pub fn accepts(upgrade: &Upgrade, answer: &HeaderMap) -> bool {
    let proof = single(answer, &SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    let chosen = match answer.get(SEC_WEBSOCKET_PROTOCOL) {
        None => true,
        Some(_) => {
            let name = single(answer, &SEC_WEBSOCKET_PROTOCOL).and_then(|name| name.to_str().ok());
            name.is_some_and(|name| upgrade.protocols.iter().any(|offered| offered == name))
        }
    };
    names(answer, &CONNECTION, "upgrade")
        && names(answer, &UPGRADE, "websocket")
        && proof == Some(upgrade.proof().as_bytes())
        && chosen
        && !answer.contains_key(SEC_WEBSOCKET_EXTENSIONS)
}

impl Upgrade {
    /// What `sec-websocket-accept` must be.
    pub fn proof(&self) -> String {
        proof_of(self.key.as_bytes())
    }
}

/// What `sec-websocket-accept` must be for this `sec-websocket-key`.
pub fn proof_of(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize())
}

fn protocols_of(headers: &HeaderMap) -> Result<Vec<String>, UpgradeError> {
    let mut protocols: Vec<String> = Vec::new();
    for line in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        let line = line.to_str().map_err(|_| UpgradeError::Protocols)?;
        for name in line.split(',').map(str::trim) {
            if !is_token(name) || protocols.iter().any(|known| known == name) {
                return Err(UpgradeError::Protocols);
            }
            protocols.push(name.to_owned());
        }
    }
    Ok(protocols)
}

/// Whether a header's list names this, in whatever case.
fn names(headers: &HeaderMap, header: &HeaderName, wanted: &str) -> bool {
    element_of(headers, header).any(|element| element.eq_ignore_ascii_case(wanted))
}

/// The header's value, when it stands once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

pub(crate) fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key and proof of RFC 6455, section 1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const PROOF: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    #[test]
    fn the_example_of_the_standard_is_proved() {
        assert_eq!(upgrade_of(&asking(&[])).unwrap().proof(), PROOF);
    }

    #[test]
    fn a_handshake_is_read_whatever_its_case_and_beside_other_tokens() {
        let mut headers = asking(&[("sec-websocket-protocol", "realtime, openai-beta.realtime-v1")]);
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));

        let upgrade = upgrade_of(&headers).unwrap();

        assert_eq!(upgrade.protocols, ["realtime", "openai-beta.realtime-v1"]);
    }

    #[test]
    fn what_is_no_handshake_says_why() {
        let without = |name: &str| {
            let mut headers = asking(&[]);
            headers.remove(name);
            upgrade_of(&headers).unwrap_err()
        };
        let with = |name, value| upgrade_of(&asking(&[(name, value)])).unwrap_err();

        assert_eq!(without("connection"), UpgradeError::NotAsked);
        assert_eq!(without("upgrade"), UpgradeError::NotAsked);
        assert_eq!(without("sec-websocket-version"), UpgradeError::Version);
        assert_eq!(without("sec-websocket-key"), UpgradeError::Key);
        assert_eq!(with("sec-websocket-version", "13"), UpgradeError::Version, "twice");
        assert_eq!(with("sec-websocket-key", KEY), UpgradeError::Key, "twice");
        assert_eq!(with("sec-websocket-protocol", "a,,b"), UpgradeError::Protocols);
        assert_eq!(with("sec-websocket-protocol", "a, a"), UpgradeError::Protocols);
        assert_eq!(with("sec-websocket-protocol", "a b"), UpgradeError::Protocols);
        assert_eq!(with("content-length", "1"), UpgradeError::Body);
        assert_eq!(with("transfer-encoding", "chunked"), UpgradeError::Body);
        let mut short = asking(&[]);
        short.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("c2hvcnQ="));
        assert_eq!(upgrade_of(&short), Err(UpgradeError::Key));
    }

    #[test]
    fn through_the_tunnel_the_hop_headers_are_not_needed() {
        let mut headers = asking(&[]);
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);

        assert!(offer_of(&headers).is_ok());
        assert_eq!(upgrade_of(&headers), Err(UpgradeError::NotAsked));
    }

    #[test]
    fn only_the_right_101_is_accepted() {
        let upgrade = upgrade_of(&asking(&[("sec-websocket-protocol", "realtime")])).unwrap();
        let answer = |change: &[(&'static str, &'static str)]| {
            let mut headers = map(&[
                ("connection", "Upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-accept", PROOF),
                ("sec-websocket-protocol", "realtime"),
            ]);
            for (name, value) in change {
                headers.remove(*name);
                if !value.is_empty() {
                    headers.insert(*name, HeaderValue::from_static(value));
                }
            }
            accepts(&upgrade, &headers)
        };

        assert!(answer(&[]));
        assert!(answer(&[("sec-websocket-protocol", "")]));
        assert!(!answer(&[("sec-websocket-protocol", "other")]));
        assert!(!answer(&[("sec-websocket-accept", "")]));
        assert!(!answer(&[("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOp=")]));
        assert!(!answer(&[("upgrade", "h2c")]));
        assert!(!answer(&[("connection", "close")]));
        assert!(!answer(&[("sec-websocket-extensions", "permessage-deflate")]));
    }

    fn asking(more: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = map(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ]);
        for (name, value) in more {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }
}
