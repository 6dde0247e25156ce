//! A response of the sample vendor: whole, or event by event with pauses as a model would make.
//!
//! Invariant: an event is handed over only when it is due, so that what arrives early was buffered
//! by nobody.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header::CACHE_CONTROL;
use http::header::CONTENT_TYPE;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::SizeHint;
use tokio::time::Sleep;

use super::desk::Vendor;

/// Between two events: fast enough to be watched, slow enough to be seen as a stream.
const PAUSE: Duration = Duration::from_millis(40);

/// A body of whole pieces, each after a pause but the first.
pub(super) struct Pieces {
    left: VecDeque<Bytes>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let piece = self.left.pop_front();
        if !self.left.is_empty() {
            self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left.len() {
            // A whole document is sent with its length, a stream in chunks.
            0 | 1 => SizeHint::with_exact(self.left.iter().map(|piece| piece.len() as u64).sum()),
            _ => SizeHint::default(),
        }
    }
}

/// A whole JSON document.
pub(super) fn json(vendor: Vendor, status: StatusCode, seed: &str, body: String) -> Response<Pieces> {
    with_body(vendor, status, seed, "application/json", VecDeque::from([Bytes::from(body)]))
}

/// A stream of server-sent events.
pub(super) fn events(vendor: Vendor, seed: &str, events: Vec<String>) -> Response<Pieces> {
    let pieces = events.into_iter().map(Bytes::from).collect();
    let mut response = with_body(vendor, StatusCode::OK, seed, "text/event-stream; charset=utf-8", pieces);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Text as a JSON string, quotes included.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn with_body(
    vendor: Vendor,
    status: StatusCode,
    seed: &str,
    kind: &'static str,
    left: VecDeque<Bytes>,
) -> Response<Pieces> {
    let mut response = Response::new(Pieces { left, pause: None });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // The hub drops the second of each pair, because it names the owner.
    let (id, owner) = match vendor {
        Vendor::OpenAi | Vendor::DeepSeek => ("x-request-id", "openai-organization"),
        Vendor::Azure => ("apim-request-id", "x-ms-region"),
        Vendor::Anthropic | Vendor::DeepSeekAnthropic => ("request-id", "anthropic-organization-id"),
    };
    if let Ok(value) = HeaderValue::from_str(&format!("req_{seed}")) {
        headers.insert(HeaderName::from_static(id), value);
    }
    headers.insert(HeaderName::from_static(owner), HeaderValue::from_static("made-up-owner"));
    response
}
