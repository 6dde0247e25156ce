//! What the vendor says about the owner's account, and what the hub is told instead.
//!
//! Invariant: a 401, 402, 403 or 429 body never leaves the agent, nor does another error
//! that speaks of the account: it may name the organisation or show part of the key.

use std::io::Read as _;
use std::time::Duration;
use std::time::SystemTime;

use flate2::read::GzDecoder;
use flate2::read::ZlibDecoder;
use http::HeaderMap;
use http::StatusCode;
use http::header;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use serde_json::Value;

use crate::offers::Trouble;

/// How much of an error's body is read before it is relayed: vendors' are below 2 KiB.
pub(super) const ERROR_BYTES_MAX: usize = 16 * 1024;

/// How much of it is read when it is compressed.
const DECODED_BYTES_MAX: u64 = 64 * 1024;

/// Codes and types of errors that say that the account cannot pay.
const EXHAUSTED: [&str; 5] =
    ["insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error", "insufficient_balance"];

/// Codes and types of errors that say that the key is not accepted.
const REJECTED: [&str; 3] = ["invalid_api_key", "authentication_error", "account_deactivated"];

/// How messages begin that say that the account cannot pay, or is closed, and have no code.
const EXHAUSTED_MESSAGES: [&str; 6] = [
    "your credit balance is too low",
    "you have reached your specified api usage limits",
    "you exceeded your current quota",
    "billing hard limit has been reached",
    "insufficient balance",
    "this organization has been disabled",
];

/// How other messages begin that are about the account, not about the request.
const ACCOUNT_MESSAGES: [&str; 4] = ["your organization", "your account", "incorrect api key", "invalid api key"];

/// How vendors name organisations and projects: a prefix and at least so many letters and digits.
const ACCOUNT_IDS: [&str; 3] = ["org-", "org_", "proj_"];
const ACCOUNT_ID_CHARS_MIN: usize = 16;

/// What is told instead of a response about the owner's account, and what that means for
/// the key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) abort: Abort,
    pub(super) trouble: Option<Trouble>,
}

/// What an error says about the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    /// Something that only the owner should read.
    Something,
    Rejected,
    Exhausted,
}

/// Whether an answer may be about the owner, so that the begin of its body is read first.
/// A success never is.
pub(super) fn may_be_about_owner(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// The refusal in place of an error about the owner's account; `None` for every other one.
pub(super) fn about_owner(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<Refusal> {
    let said = said(&decoded(headers, body));
    let (reason, trouble) = match (status.as_u16(), said) {
        (_, Said::Exhausted) | (402, Said::Nothing | Said::Something) => {
            (AbortReason::OwnerRefused, Some(Trouble::Exhausted))
        }
        (_, Said::Rejected) | (401, _) => (AbortReason::OwnerRefused, Some(Trouble::Rejected)),
        (429, Said::Nothing | Said::Something) => (AbortReason::OwnerRateLimited, None),
        (403, Said::Nothing | Said::Something) | (_, Said::Something) => (AbortReason::OwnerRefused, None),
        (_, Said::Nothing) => return None,
    };
    let wait = retry_after(headers).unwrap_or_default();
    let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    Some(Refusal { abort: Abort { retry_after_ms, ..Abort::with_detail(reason, status.as_str()) }, trouble })
}

/// The text of an error's body, as far as it can be read.
fn decoded(headers: &HeaderMap, body: &[u8]) -> String {
    let coding = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("identity");
    let mut text = Vec::new();
    // A body that was cut short is read up to the cut.
    let _ = match coding.trim().to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => GzDecoder::new(body).take(DECODED_BYTES_MAX).read_to_end(&mut text),
        "deflate" => ZlibDecoder::new(body).take(DECODED_BYTES_MAX).read_to_end(&mut text),
        _ => body.take(DECODED_BYTES_MAX).read_to_end(&mut text),
    };
    String::from_utf8_lossy(&text).into_owned()
}

fn said(text: &str) -> Said {
    let by_fields = match serde_json::from_str::<Value>(text) {
        Ok(body) => said_by_fields(&body),
        // Not whole or no JSON: what would be a code is looked for as a word.
        Err(_) => said_by_words(text),
    };
    if by_fields == Said::Nothing && names_account(text) { Said::Something } else { by_fields }
}

/// Codes, types and the message's begin only: the rest of a message may quote the consumer.
fn said_by_fields(body: &Value) -> Said {
    let error = body.get("error").unwrap_or(body);
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or("").to_ascii_lowercase();
    let message = match error.as_str() {
        Some(message) => message.to_ascii_lowercase(),
        None => text(error, "message"),
    };
    let [code, kind] = ["code", "type"].map(|name| text(error, name));
    let is = |list: &[&str]| list.contains(&code.as_str()) || list.contains(&kind.as_str());
    let begins = |list: &[&str]| list.iter().any(|begin| message.trim_start().starts_with(begin));
    if is(&EXHAUSTED) || begins(&EXHAUSTED_MESSAGES) {
        Said::Exhausted
    } else if is(&REJECTED) {
        Said::Rejected
    } else if begins(&ACCOUNT_MESSAGES) {
        Said::Something
    } else {
        Said::Nothing
    }
}

fn said_by_words(text: &str) -> Said {
    let text = text.to_ascii_lowercase();
    let holds = |list: &[&str]| list.iter().any(|word| text.contains(word));
    if holds(&EXHAUSTED) || holds(&EXHAUSTED_MESSAGES) || holds(&ACCOUNT_MESSAGES) {
        Said::Something
    } else {
        Said::Nothing
    }
}

fn names_account(text: &str) -> bool {
    ACCOUNT_IDS.iter().any(|prefix| {
        let mut rests = text.match_indices(prefix).map(|(at, _)| &text[at + prefix.len()..]);
        rests.any(|rest| rest.bytes().take_while(u8::is_ascii_alphanumeric).count() >= ACCOUNT_ID_CHARS_MIN)
    })
}

/// `retry-after-ms`, else `retry-after` in seconds or as a date, as the vendors' SDKs read them.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(milliseconds) = text("retry-after-ms").and_then(|text| text.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(milliseconds).ok().map(|wait| wait / 1000);
    }
    let text = text(header::RETRY_AFTER.as_str())?;
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderValue;

    use super::*;

    const PLAIN: &str = r#"{"error":{"message":"no such model","type":"invalid_request_error","code":null}}"#;

    #[test]
    fn only_what_is_about_the_owner_is_replaced() {
        for status in [400, 404, 408, 409, 413, 422, 500, 503, 529] {
            assert_eq!(judge(status, PLAIN), None, "{status}");
        }
        assert_eq!(judge(401, PLAIN), Some((AbortReason::OwnerRefused, Some(Trouble::Rejected))));
        assert_eq!(judge(402, PLAIN), Some((AbortReason::OwnerRefused, Some(Trouble::Exhausted))));
        assert_eq!(judge(403, PLAIN), Some((AbortReason::OwnerRefused, None)));
        assert_eq!(judge(429, PLAIN), Some((AbortReason::OwnerRateLimited, None)));
    }

    #[test]
    fn an_account_that_cannot_pay_is_seen_behind_every_status() {
        let exhausted = Some((AbortReason::OwnerRefused, Some(Trouble::Exhausted)));
        for body in [
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#,
            r#"{"error":{"message":"Billing hard limit has been reached","type":"invalid_request_error","code":"billing_hard_limit_reached"}}"#,
            r#"{"error":{"message":"x","type":"insufficient_quota","code":"insufficient_quota"}}"#,
            r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","code":"invalid_request_error"}}"#,
        ] {
            for status in [400, 403, 429, 500] {
                assert_eq!(judge(status, body), exhausted, "{status} {body}");
            }
        }
    }

    #[test]
    fn what_quotes_the_consumer_is_not_taken_for_the_vendors_word() {
        for body in [
            r#"{"error":{"message":"The model `insufficient_quota` does not exist","code":"model_not_found"}}"#,
            r#"{"error":{"message":"unknown value 'Your credit balance is too low'","type":"invalid_request_error"}}"#,
            r#"{"error":{"message":"bad name org-short","type":"invalid_request_error"}}"#,
        ] {
            assert_eq!(judge(400, body), None, "{body}");
        }
    }

    #[test]
    fn an_error_that_names_the_organisation_or_cannot_be_read_whole_stays_here() {
        let kept = Some((AbortReason::OwnerRefused, None));

        assert_eq!(judge(404, r#"{"error":{"message":"not for org-abcdefghij0123456789ABCD"}}"#), kept);
        assert_eq!(judge(400, r#"{"error":{"message":"Your organization must be verified"}}"#), kept);
        assert_eq!(judge(500, r#"<html>Your credit balance is too low"#), kept);
        assert_eq!(judge(500, r#"{"error":{"code":"insufficient_quota","message":"cut he"#), kept);
        assert_eq!(judge(500, "<html>Bad gateway</html>"), None);
    }

    #[test]
    fn a_compressed_error_is_read_and_a_bomb_is_not_blown_up() {
        let gzip = |text: &[u8]| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let text = br#"{"error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}"#;

        let refusal = about_owner(StatusCode::BAD_REQUEST, &headers, &gzip(text)).unwrap();

        assert_eq!(refusal.trouble, Some(Trouble::Exhausted));
        assert_eq!(decoded(&headers, &gzip(&vec![b'a'; 10_000_000])).len() as u64, DECODED_BYTES_MAX);
        assert_eq!(about_owner(StatusCode::BAD_REQUEST, &headers, b"no gzip"), None);
    }

    #[test]
    fn the_vendors_wait_is_read_in_every_form() {
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(90));
        let wait = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            about_owner(StatusCode::TOO_MANY_REQUESTS, &headers, b"").unwrap().abort.retry_after_ms
        };

        assert_eq!(wait("retry-after", "17"), 17_000);
        assert_eq!(wait("retry-after", "1.5"), 1_500);
        assert_eq!(wait("retry-after-ms", "250"), 250);
        assert!((85_000..=90_000).contains(&wait("retry-after", &date)));
        for nonsense in ["-1", "NaN", "soon", "1e300"] {
            assert_eq!(wait("retry-after", nonsense), 0, "{nonsense}");
        }
    }

    fn judge(status: u16, body: &str) -> Option<(AbortReason, Option<Trouble>)> {
        let status = StatusCode::from_u16(status).unwrap();
        about_owner(status, &HeaderMap::new(), body.as_bytes()).map(|refusal| (refusal.abort.reason, refusal.trouble))
    }
}
