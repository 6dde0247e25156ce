//! The request's body on its way in: counted, scanned and timed, piece by piece.
//!
//! Invariant: no byte is handed on that the scan has not seen.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http_body::Body;
use hyper::body::Incoming;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::assist::splice;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::provider::native_error::ErrorShape;
use keyhaven_protocol::request_scan::RequestScan;
use keyhaven_protocol::request_scan::ScanError;

use super::order::Limit;
use super::order::OverHold;
use super::refusal::Refusal;
use super::silence::Silence;

/// Why a request's body is not passed on.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("the request broke off")]
    BrokeOff,
    #[error("nothing came for too long")]
    TooSlow,
    #[error("the request is too large")]
    TooLarge,
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Its begin had left before that was known.
    #[error("a stream with so long a body has to state `stream_options.include_usage` itself: set it to true")]
    UsageUnasked,
    #[error(transparent)]
    OverHold(#[from] OverHold),
}

impl RequestError {
    pub(super) fn refusal(&self, shape: ErrorShape) -> Refusal {
        let refusal = match self {
            Self::BrokeOff => Refusal::new(shape, ErrorCode::RequestMalformed),
            Self::TooSlow => Refusal::new(shape, ErrorCode::RequestTimeout),
            Self::TooLarge => Refusal::new(shape, ErrorCode::RequestTooLarge),
            Self::Scan(error) => Refusal::scan(shape, error),
            Self::UsageUnasked => Refusal::with_message(shape, ErrorCode::UsageUnasked, self.to_string()),
            Self::OverHold(error) => Refusal::with_message(shape, ErrorCode::FieldRefused, error.to_string()),
        };
        refusal.closing()
    }
}

/// A body being read: counted, scanned and timed.
pub(super) struct RequestBody {
    incoming: Incoming,
    scan: RequestScan,
    bytes: u64,
    bytes_max: u64,
    silence: Silence,
    /// What the whole may cost, where it was sold before all of it had come.
    limit: Option<Limit>,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, scan: RequestScan, bytes_max: u64, silence: Silence) -> Self {
        Self { incoming, scan, bytes: 0, bytes_max, silence, limit: None }
    }

    /// Holds the body to the one endpoint that is meant.
    ///
    /// # Errors
    /// When what was read already is refused there.
    pub(super) fn agree(&mut self, endpoint: Endpoint) -> Result<(), RequestError> {
        Ok(self.scan.agree(endpoint)?)
    }

    /// What is still to come must fit into what was set aside.
    pub(super) fn stay_within(&mut self, limit: Limit) {
        self.limit = Some(limit);
    }

    /// What the scan has seen so far.
    pub(super) fn scan(&self) -> &RequestScan {
        &self.scan
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next piece; `None` at the end, once the scan has agreed to the whole.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, RequestError>> {
        loop {
            let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => return self.silence.poll(cx).map(|()| Err(RequestError::TooSlow)),
            };
            self.silence.moved();
            let Some(frame) = frame else {
                self.scan.finish()?;
                if let Some(limit) = &self.limit {
                    limit.holds(&self.scan.demand())?;
                    if splice(&self.scan).is_some() {
                        return Poll::Ready(Err(RequestError::UsageUnasked));
                    }
                }
                return Poll::Ready(Ok(None));
            };
            let Ok(frame) = frame else {
                return Poll::Ready(Err(RequestError::BrokeOff));
            };
            // Request trailers are not part of any vendor's API and are not passed on.
            let Ok(piece) = frame.into_data() else { continue };
            self.bytes += piece.len() as u64;
            if self.bytes > self.bytes_max {
                return Poll::Ready(Err(RequestError::TooLarge));
            }
            self.scan.feed(&piece)?;
            if !piece.is_empty() {
                return Poll::Ready(Ok(Some(piece)));
            }
        }
    }
}
