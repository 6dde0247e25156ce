//! The request's body on its way to the vendor: pulled off the stream as the vendor takes it.
//!
//! Invariant: a body that the consumer did not finish never ends as if it were complete.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::link::Incoming;
use tokio::time::Instant;

/// The consumer's request broke off.
#[derive(Debug, thiserror::Error)]
#[error("the request broke off: {}", .0.name())]
pub struct RequestBroke(AbortReason);

/// When the request last moved: the wait for the vendor's head begins at its last byte.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    moved_at: Arc<Mutex<Instant>>,
}

impl Progress {
    fn new() -> Self {
        Self { moved_at: Arc::new(Mutex::new(Instant::now())) }
    }

    pub(super) fn moved_at(&self) -> Instant {
        *self.moved_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) {
        *self.moved_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// The body of a request to a vendor.
pub struct CallBody {
    stream: Option<LinkStream>,
    length: BodyLength,
    left: u64,
    progress: Progress,
}

impl CallBody {
    pub(super) fn new(stream: &LinkStream, length: BodyLength) -> (Self, Progress) {
        let progress = Progress::new();
        let stream = Some(stream.clone()).filter(|_| length != BodyLength::None);
        let left = match length {
            BodyLength::Known(length) => length,
            BodyLength::None | BodyLength::Chunked | BodyLength::Upgrade => 0,
        };
        (Self { stream, length, left, progress: progress.clone() }, progress)
    }

    fn accept(&mut self, data: Bytes) -> Result<Frame<Bytes>, RequestBroke> {
        self.progress.moved();
        if let BodyLength::Known(_) = self.length {
            // More than was declared would become a second request on the vendor's connection.
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                self.stream = None;
                return Err(RequestBroke(AbortReason::Protocol));
            };
            self.left = left;
        }
        Ok(Frame::data(data))
    }

    fn end(&mut self) -> Option<Result<Frame<Bytes>, RequestBroke>> {
        self.stream = None;
        let short = matches!(self.length, BodyLength::Known(_)) && self.left > 0;
        short.then(|| Err(RequestBroke(AbortReason::RequestBroken)))
    }
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = RequestBroke;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBroke>>> {
        let Some(stream) = &self.stream else { return Poll::Ready(None) };
        Poll::Ready(match ready!(stream.poll_data(cx)) {
            Incoming::Data(data) => Some(self.accept(data)),
            Incoming::End(_) => self.end(),
            Incoming::Aborted(abort) => {
                self.stream = None;
                Some(Err(RequestBroke(abort.reason)))
            }
            Incoming::Pending => return Poll::Pending,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            BodyLength::None => SizeHint::with_exact(0),
            BodyLength::Known(_) => SizeHint::with_exact(self.left),
            BodyLength::Chunked | BodyLength::Upgrade => SizeHint::default(),
        }
    }
}
