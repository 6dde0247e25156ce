//! The content type of a request: how its body is to be read.
//!
//! Invariant: a body is scanned in the one form in which its content type makes a vendor
//! read it; a content type with a second reading is refused.

use super::ScanError;
use super::params::Params;
use crate::provider::endpoint::BodyKind;
use http::HeaderValue;

/// The longest boundary of RFC 2046.
const BOUNDARY_BYTES_MAX: usize = 70;

/// How a body is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reading {
    /// There is none.
    Nothing,
    /// As JSON.
    Json,
    /// As parts between these boundaries.
    Multipart(String),
}

/// The reading that endpoint and content type agree on.
pub(super) fn reading(body: BodyKind, content_type: Option<&HeaderValue>) -> Result<Reading, ScanError> {
    let read = match (body, content_type) {
        (BodyKind::Empty | BodyKind::WebSocket, _) => return Ok(Reading::Nothing),
        (_, Some(content_type)) => parse(content_type)?,
        // curl and hand-made clients leave it out, and vendors then assume JSON.
        (_, None) => Reading::Json,
    };
    let expected = match (body, &read) {
        (BodyKind::Json | BodyKind::JsonOrMultipart, Reading::Json) => return Ok(read),
        (BodyKind::Multipart | BodyKind::JsonOrMultipart, Reading::Multipart(_)) => return Ok(read),
        (BodyKind::Multipart, _) => "`multipart/form-data; boundary=...`",
        (BodyKind::JsonOrMultipart, _) => "`application/json` or `multipart/form-data; boundary=...`",
        (BodyKind::Json | BodyKind::Empty | BodyKind::WebSocket, _) => "`application/json`",
    };
    Err(ScanError::ContentType { expected })
}

fn parse(content_type: &HeaderValue) -> Result<Reading, ScanError> {
    let malformed = || ScanError::Malformed { what: "the `content-type` header" };
    let text = content_type.to_str().map_err(|_| malformed())?;
    let (kind, params) = text.split_once(';').unwrap_or((text, ""));
    let params = Params::parse(params).ok_or_else(malformed)?;
    let kind = kind.trim().to_ascii_lowercase();
    if kind == "multipart/form-data" {
        let boundary = params.only("boundary").ok_or(ScanError::Boundary)?;
        return is_boundary(boundary).then(|| Reading::Multipart(boundary.to_owned())).ok_or(ScanError::Boundary);
    }
    if kind != "application/json" {
        return Ok(Reading::Nothing);
    }
    // In another charset the same bytes are another text.
    let utf8 = params.iter().all(|(name, value)| name != "charset" || is_utf8(value));
    utf8.then_some(Reading::Json).ok_or(ScanError::ContentType { expected: "`application/json` in UTF-8" })
}

/// Whether a charset is UTF-8 or a part of it.
pub(super) fn is_utf8(charset: &str) -> bool {
    ["utf-8", "utf8", "us-ascii"].iter().any(|name| name.eq_ignore_ascii_case(charset))
}

fn is_boundary(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    (1..=BOUNDARY_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_says_how_the_body_is_read() {
        let multipart = |boundary: &str| Ok(Reading::Multipart(boundary.to_owned()));
        for json in ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""] {
            assert_eq!(of(BodyKind::Json, json), Ok(Reading::Json), "{json}");
            assert_eq!(of(BodyKind::JsonOrMultipart, json), Ok(Reading::Json), "{json}");
        }
        assert_eq!(reading(BodyKind::Json, None), Ok(Reading::Json));
        assert_eq!(of(BodyKind::Multipart, "multipart/form-data; boundary=a-b"), multipart("a-b"));
        assert_eq!(of(BodyKind::JsonOrMultipart, "Multipart/Form-Data;boundary=\"a=b\""), multipart("a=b"));
        assert_eq!(reading(BodyKind::Empty, None), Ok(Reading::Nothing));
    }

    #[test]
    fn a_content_type_that_the_endpoint_does_not_take_is_refused() {
        let cases = [
            (BodyKind::Json, "text/plain"),
            (BodyKind::Json, "multipart/form-data; boundary=a"),
            (BodyKind::Json, "application/x-www-form-urlencoded"),
            (BodyKind::Json, "application/json; charset=utf-16"),
            (BodyKind::Json, "application/json; charset=utf-7"),
            (BodyKind::Multipart, "application/json"),
            (BodyKind::Multipart, "multipart/mixed; boundary=a"),
        ];
        for (body, text) in cases {
            let error = of(body, text).unwrap_err();
            assert!(matches!(error, ScanError::ContentType { .. }), "{text}: {error:?}");
        }
        assert!(reading(BodyKind::Multipart, None).is_err());
    }

    #[test]
    fn a_boundary_with_a_second_reading_is_refused() {
        let long = format!("multipart/form-data; boundary={}", "a".repeat(71));
        for text in [
            "multipart/form-data",
            "multipart/form-data; boundary=\"\"",
            "multipart/form-data; boundary=\"a b\"",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=a; Boundary=a",
            "multipart/form-data; boundary=a; charset=utf-16",
            &long,
        ] {
            assert_eq!(of(BodyKind::Multipart, text), Err(ScanError::Boundary), "{text}");
        }
        for text in [
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"a",
            "multipart/form-data; boundary*=utf-8''a",
            "a; b=\"c\\\"\"",
        ] {
            assert!(of(BodyKind::Multipart, text).is_err(), "{text}");
        }
    }

    fn of(body: BodyKind, text: &str) -> Result<Reading, ScanError> {
        reading(body, Some(&HeaderValue::from_str(text).unwrap()))
    }
}
