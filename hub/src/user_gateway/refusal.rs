//! An error of ours, in the shape the consumer's SDK reads.
//!
//! Invariant: nothing of the owner, the agent or the vendor's own words is in it.

use std::time::Duration;

use http::Response;
use http::StatusCode;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::provider::native_error::ErrorShape;
use keyhaven_protocol::provider::native_error::native_error;
use keyhaven_protocol::provider::native_error::native_error_headers;
use keyhaven_protocol::provider::native_error::status_in;
use keyhaven_protocol::provider::route::RouteError;
use keyhaven_protocol::request_scan::ScanError;

use super::body::AnswerBody;

/// When a consumer should come back if nobody knows better.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// Why a call gets an answer of ours.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) shape: ErrorShape,
    pub(super) code: ErrorCode,
    status: StatusCode,
    message: String,
    retry_after: Option<Duration>,
    allow: Option<String>,
    /// The rest of the request will not be read.
    close: bool,
}

impl Refusal {
    pub(super) fn new(shape: ErrorShape, code: ErrorCode) -> Self {
        let message = format!("{}; {}", code.cause(), code.fix());
        Self::with_message(shape, code, message)
    }

    pub(super) fn with_message(shape: ErrorShape, code: ErrorCode, message: String) -> Self {
        let status = status_in(shape, code);
        let told = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        // A 429 that says that money is short gets no better by waiting.
        let come_back = told && code.retryable();
        let retry_after = Some(RETRY_AFTER_DEFAULT).filter(|_| come_back);
        Self { shape, code, status, message, retry_after, allow: None, close: false }
    }

    pub(super) fn route(error: &RouteError) -> Self {
        let allow = error.allow().map(str::to_owned);
        Self { allow, ..Self::with_message(error.shape(), error.code(), error.to_string()) }
    }

    pub(super) fn scan(shape: ErrorShape, error: &ScanError) -> Self {
        let code = error.code();
        Self::with_message(shape, code, format!("{}: {error}", code.cause()))
    }

    /// What the consumer is told of an abort that came instead of the vendor's head.
    pub(super) fn aborted(shape: ErrorShape, abort: &Abort) -> Self {
        let refusal = Self::new(shape, code_of(abort.reason));
        if abort.retry_after_ms == 0 {
            return refusal;
        }
        Self { retry_after: Some(Duration::from_millis(abort.retry_after_ms.into())), ..refusal }
    }

    /// When a consumer is told to come back.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The same, if it tells when to come back at all, with the soonest time that was heard of.
    pub(super) fn retry_within(self, soonest: Option<Duration>) -> Self {
        Self { retry_after: self.retry_after.and(soonest), ..self }
    }

    /// The connection ends with this answer, because the request was not read to its end.
    pub(super) fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    pub(super) fn into_response(self, call: CallId) -> Response<AnswerBody> {
        let id = call.to_string();
        let body = native_error(self.shape, self.status, self.code, &self.message, Some(&id));
        let mut response = Response::new(AnswerBody::ours(body));
        *response.status_mut() = self.status;
        *response.headers_mut() =
            native_error_headers(self.shape, self.code, Some(&id), self.retry_after, self.allow.as_deref());
        if self.close {
            response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        }
        response
    }
}

fn code_of(reason: AbortReason) -> ErrorCode {
    match reason {
        AbortReason::VendorUnreachable => ErrorCode::VendorUnreachable,
        AbortReason::VendorTimeout | AbortReason::Deadline => ErrorCode::VendorTimeout,
        AbortReason::VendorBroke | AbortReason::VendorGarbage => ErrorCode::VendorBroke,
        AbortReason::OwnerRefused => ErrorCode::OwnerRefused,
        AbortReason::OwnerRateLimited => ErrorCode::OwnerRateLimited,
        AbortReason::LinkLost => ErrorCode::LinkLost,
        AbortReason::Stopping
        | AbortReason::Busy
        | AbortReason::PricesUnknown
        | AbortReason::RulesUnknown
        | AbortReason::TierTooLow => ErrorCode::NoAgent,
        AbortReason::RequestBroken => ErrorCode::RequestMalformed,
        AbortReason::NotAllowed
        | AbortReason::TicketInvalid
        | AbortReason::TicketMissing
        | AbortReason::TicketSeen
        | AbortReason::OfferUnknown
        | AbortReason::Protocol
        | AbortReason::FlowControl
        | AbortReason::Unspecified
        | AbortReason::ConsumerGone
        | AbortReason::Finished => ErrorCode::AgentRefused,
    }
}
