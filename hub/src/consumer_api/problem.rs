//! An error of ours, as RFC 9457 has it: nobody asks here with a vendor's SDK.
//!
//! Invariant: every problem carries our code and what can be done.

use bytes::Bytes;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::provider::native_error::status_of;
use serde_json::json;

/// Seconds until a call that is under way should be asked for again.
const RETRY_AFTER_S: u16 = 1;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    code: ErrorCode,
    detail: Option<String>,
}

impl Problem {
    pub(super) const fn new(code: ErrorCode) -> Self {
        Self { code, detail: None }
    }

    pub(super) fn because(self, detail: &str) -> Self {
        Self { detail: Some(detail.to_owned()), ..self }
    }

    pub(super) fn into_response(self) -> Response<Bytes> {
        let status = status_of(self.code);
        let json = json!({
            "type": "about:blank",
            "title": self.code.cause(),
            "status": status.as_u16(),
            "detail": self.detail,
            "code": self.code.to_string(),
            "fix": self.code.fix(),
        });
        let mut response = Response::new(Bytes::from(json.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.code.retryable() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }
}
