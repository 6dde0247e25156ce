//! What the vendor says about the owner's account, and what the hub is told instead.
//!
//! Invariant: a 401, 402, 403 or 429 body never leaves the agent: it may name the
//! organisation or show part of the key.

use std::time::Duration;
use std::time::SystemTime;

use http::HeaderMap;
use http::StatusCode;
use http::header;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;

/// The abort in place of a response about the owner's account; `None` for every other one.
pub(super) fn about_owner(status: StatusCode, headers: &HeaderMap) -> Option<Abort> {
    let reason = match status.as_u16() {
        401..=403 => AbortReason::OwnerRefused,
        429 => AbortReason::OwnerRateLimited,
        _ => return None,
    };
    let wait = retry_after(headers).unwrap_or_default();
    let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    Some(Abort { retry_after_ms, ..Abort::with_detail(reason, status.as_str()) })
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
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_is_about_the_owner_is_replaced() {
        for status in [200, 400, 404, 408, 409, 413, 422, 500, 503, 529] {
            assert_eq!(about_owner(StatusCode::from_u16(status).unwrap(), &HeaderMap::new()), None, "{status}");
        }
        for status in [401, 402, 403] {
            let abort = about_owner(StatusCode::from_u16(status).unwrap(), &HeaderMap::new()).unwrap();
            assert_eq!(abort.reason, AbortReason::OwnerRefused);
        }
    }

    #[test]
    fn the_vendors_wait_is_read_in_every_form() {
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(90));
        let wait = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            about_owner(StatusCode::TOO_MANY_REQUESTS, &headers).unwrap().retry_after_ms
        };

        assert_eq!(wait("retry-after", "17"), 17_000);
        assert_eq!(wait("retry-after", "1.5"), 1_500);
        assert_eq!(wait("retry-after-ms", "250"), 250);
        assert!((85_000..=90_000).contains(&wait("retry-after", &date)));
        for nonsense in ["-1", "NaN", "soon", "1e300"] {
            assert_eq!(wait("retry-after", nonsense), 0, "{nonsense}");
        }
    }
}
