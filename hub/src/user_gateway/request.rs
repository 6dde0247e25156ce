//! The request's body on its way in: counted, scanned, and passed on piece by piece.
//!
//! Invariant: the last piece leaves only after the whole scan agreed, so that a request
//! we would refuse never becomes complete at a vendor.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use http_body::Body;
use hyper::body::Incoming;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::provider::native_error::ErrorShape;
use keyhaven_protocol::request_scan::RequestScan;
use keyhaven_protocol::request_scan::ScanError;
use tokio::time::Instant;
use tokio::time::Sleep;

use super::refusal::Refusal;

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
}

impl RequestError {
    pub(super) fn refusal(&self, shape: ErrorShape) -> Refusal {
        let refusal = match self {
            Self::BrokeOff => Refusal::new(shape, ErrorCode::RequestMalformed),
            Self::TooSlow => Refusal::new(shape, ErrorCode::RequestTimeout),
            Self::TooLarge => Refusal::new(shape, ErrorCode::RequestTooLarge),
            Self::Scan(error) => Refusal::scan(shape, error),
        };
        refusal.closing()
    }
}

/// Bytes of bodies that all calls together hold back for their scans.
#[derive(Clone)]
pub(super) struct HeldBytes {
    left: Arc<AtomicU64>,
}

/// A share of [`HeldBytes`], given back when dropped.
pub(super) struct HeldShare {
    from: HeldBytes,
    bytes: u64,
}

impl HeldBytes {
    pub(super) fn new(most: u64) -> Self {
        Self { left: Arc::new(AtomicU64::new(most)) }
    }

    pub(super) fn share(&self) -> HeldShare {
        HeldShare { from: self.clone(), bytes: 0 }
    }
}

impl HeldShare {
    /// Takes more; false when the hub holds back as much as it may.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        let took = self.from.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if took.is_ok() {
            self.bytes += bytes;
        }
        took.is_ok()
    }
}

impl Drop for HeldShare {
    fn drop(&mut self) {
        self.from.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// A body being read: counted, scanned and timed.
pub(super) struct RequestBody {
    incoming: Incoming,
    scan: RequestScan,
    bytes: u64,
    bytes_max: u64,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, scan: RequestScan, bytes_max: u64, idle: Duration) -> Self {
        Self { incoming, scan, bytes: 0, bytes_max, idle, timer: None }
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
                Poll::Pending => return self.poll_too_slow(cx).map(Err),
            };
            self.timer = None;
            let Some(frame) = frame else {
                self.scan.finish()?;
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

    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<RequestError> {
        let idle = self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + idle)));
        ready!(Future::poll(timer.as_mut(), cx));
        Poll::Ready(RequestError::TooSlow)
    }
}

/// A body held back until the scan has seen the model, or the body has ended.
pub(super) struct Held {
    body: RequestBody,
    pieces: VecDeque<Bytes>,
    /// Small pieces gathered: each would cost more than it holds.
    small: BytesMut,
    complete: bool,
    share: HeldShare,
}

/// Why a body is not held any longer.
pub(super) enum HoldError {
    /// All calls together hold back as much as they may.
    Full,
    /// The request itself.
    Request(RequestError),
}

impl Held {
    /// Reads until the scan has seen the model or the body ends, and then what is there
    /// already, so that a small request leaves in one message.
    pub(super) async fn read(body: RequestBody, share: HeldShare) -> Result<Self, HoldError> {
        let mut held = Self { body, pieces: VecDeque::new(), small: BytesMut::new(), complete: false, share };
        loop {
            let waits = held.body.scan().model().is_none();
            let piece = poll_fn(|cx| match held.body.poll_piece(cx) {
                Poll::Ready(piece) => Poll::Ready(Some(piece)),
                Poll::Pending if waits => Poll::Pending,
                Poll::Pending => Poll::Ready(None),
            });
            match piece.await.transpose().map_err(HoldError::Request)? {
                None => break,
                Some(None) => {
                    held.complete = true;
                    break;
                }
                Some(Some(piece)) => held.keep(piece)?,
            }
            if !waits && held.body.bytes() > READ_AHEAD_BYTES_MAX {
                break;
            }
        }
        held.gather();
        Ok(held)
    }

    /// What the scan has seen.
    pub(super) fn scan(&self) -> &RequestScan {
        self.body.scan()
    }

    /// Holds the body to the one endpoint that is meant.
    pub(super) fn agree(&mut self, endpoint: Endpoint) -> Result<(), RequestError> {
        Ok(self.body.scan.agree(endpoint)?)
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.body.bytes()
    }

    fn keep(&mut self, piece: Bytes) -> Result<(), HoldError> {
        if !self.share.grow(piece.len() as u64) {
            return Err(HoldError::Full);
        }
        if piece.len() < GATHER_BELOW_BYTES {
            self.small.extend_from_slice(&piece);
        }
        if self.small.len() >= GATHER_BELOW_BYTES || piece.len() >= GATHER_BELOW_BYTES {
            self.gather();
        }
        if piece.len() >= GATHER_BELOW_BYTES {
            self.pieces.push_back(piece);
        }
        Ok(())
    }

    fn gather(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
    }
}

/// Pieces below this are gathered.
const GATHER_BELOW_BYTES: usize = 16 * 1024;

/// What is read ahead of the dispatch once the model is known.
const READ_AHEAD_BYTES_MAX: u64 = 64 * 1024;

/// A body being passed on to an agent.
pub(super) struct Upload {
    body: RequestBody,
    stream: LinkStream,
    /// Scanned and free to go, before `last`.
    free: VecDeque<Bytes>,
    /// The newest piece: it waits for the scan of what follows.
    last: Option<Bytes>,
    complete: bool,
    share: Option<HeldShare>,
    passed_on: u64,
}

impl Upload {
    /// Passes on what was held back, and then the rest.
    pub(super) fn new(held: Held, stream: LinkStream) -> Self {
        let Held { body, pieces: mut free, small: _, complete, share } = held;
        let last = free.pop_back();
        Self { body, stream, free, last, complete, share: Some(share), passed_on: 0 }
    }

    /// Pieces handed to the link so far: it moves as long as the agent takes them.
    pub(super) fn passed_on(&self) -> u64 {
        self.passed_on
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.body.bytes()
    }

    /// Ready when the whole body was handed to the link, or cannot be; in the latter case
    /// the stream is aborted.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestError>> {
        let result = ready!(self.poll_pass_on(cx));
        if result.is_err() {
            self.stream.abort(Abort::new(AbortReason::RequestBroken));
        }
        Poll::Ready(result)
    }

    fn poll_pass_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestError>> {
        loop {
            if !ready!(self.poll_free(cx)) {
                // The agent or the vendor has ended the stream: what it says is the answer.
                return Poll::Ready(Ok(()));
            }
            if self.complete {
                let last = self.last.take().unwrap_or_default();
                let _ = self.stream.send_last(last, Bytes::new());
                return Poll::Ready(Ok(()));
            }
            match ready!(self.body.poll_piece(cx))? {
                Some(piece) => self.free.extend(self.last.replace(piece)),
                None => self.complete = true,
            }
        }
    }

    /// Hands the free pieces to the link. False when the stream takes no more.
    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while !self.free.is_empty() || self.complete {
            if ready!(self.stream.poll_capacity(cx)).is_err() {
                return Poll::Ready(false);
            }
            let Some(piece) = self.free.pop_front() else { break };
            self.passed_on += 1;
            if self.stream.send_data(piece).is_err() {
                return Poll::Ready(false);
            }
        }
        self.share = None;
        Poll::Ready(true)
    }
}
