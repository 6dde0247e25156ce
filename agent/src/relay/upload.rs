//! The request's body on its way to the vendor: pulled off the stream as the vendor takes
//! it, and read on the way.
//!
//! Invariant: its last byte leaves only when the whole of it was found allowed; a body that
//! the consumer did not finish never ends as if it were complete.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::demand::Demand;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::link::Incoming;
use tokio::time::Instant;

use super::check::Check;

/// The request did not reach its end; [`Upload::broke`] says why.
#[derive(Debug, thiserror::Error)]
#[error("the request broke off")]
pub struct RequestBroke;

/// How far a request's body has come, for those who wait for the vendor's answer.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    moved_at: Instant,
    awaited: Awaited,
    broke: Option<Abort>,
    sent: Option<Arc<SentRequest>>,
}

/// A request whose last byte was given to the vendor's connection.
#[derive(Debug)]
pub(super) struct SentRequest {
    /// When.
    pub(super) at: Instant,
    /// What it asks for.
    pub(super) demand: Demand,
}

/// Who must move next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// The vendor is to take more of the request.
    Vendor,
    /// The hub is to send more of it.
    Hub,
    /// The vendor has all of it and is to answer.
    Answer,
}

impl Upload {
    fn new(awaited: Awaited) -> Self {
        Self { shared: Arc::new(Mutex::new(State { moved_at: Instant::now(), awaited, broke: None, sent: None })) }
    }

    /// Until when the next step is waited for: `idle` for a piece of the request, `answer`
    /// from its last byte to the answer.
    pub(super) fn due(&self, idle: Duration, answer: Duration) -> Instant {
        let state = self.lock();
        match state.awaited {
            Awaited::Vendor | Awaited::Hub => state.moved_at + idle,
            Awaited::Answer => state.moved_at + answer,
        }
    }

    /// What it means that the next step was waited for in vain.
    pub(super) fn late(&self) -> Abort {
        match self.lock().awaited {
            Awaited::Vendor => Abort::with_detail(AbortReason::VendorTimeout, "the vendor does not take the request"),
            Awaited::Hub => Abort::with_detail(AbortReason::Deadline, "the request stopped"),
            Awaited::Answer => Abort::with_detail(AbortReason::VendorTimeout, "no answer"),
        }
    }

    /// Why the request did not reach its end, if it did not.
    pub(super) fn broke(&self) -> Option<Abort> {
        self.lock().broke.clone()
    }

    /// The request, once it was sent in full.
    pub(super) fn sent(&self) -> Option<Arc<SentRequest>> {
        self.lock().sent.clone()
    }

    fn complete(&self, check: &Check) {
        self.lock().sent = Some(Arc::new(SentRequest { at: Instant::now(), demand: check.demand() }));
    }

    fn moved(&self, awaited: Awaited) {
        let mut state = self.lock();
        state.moved_at = Instant::now();
        state.awaited = awaited;
    }

    fn waits_for_hub(&self) {
        self.lock().awaited = Awaited::Hub;
    }

    fn break_off(&self, abort: Abort) -> RequestBroke {
        self.lock().broke = Some(abort);
        RequestBroke
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a request to a vendor.
pub struct CallBody {
    stream: Option<LinkStream>,
    length: BodyLength,
    left: u64,
    /// In chunks any piece may be the last one, so each waits for the next.
    held: Option<Bytes>,
    check: Check,
    upload: Upload,
}

impl CallBody {
    pub(super) fn new(stream: &LinkStream, length: BodyLength, check: Check) -> (Self, Upload) {
        let (left, awaited) = match length {
            BodyLength::Known(length) => (length, Awaited::Vendor),
            BodyLength::Chunked => (0, Awaited::Vendor),
            // An upgrade's bytes are no part of its request.
            BodyLength::None | BodyLength::Upgrade => (0, Awaited::Answer),
        };
        let upload = Upload::new(awaited);
        let stream = (awaited == Awaited::Vendor).then(|| stream.clone());
        (Self { stream, length, left, held: None, check, upload: upload.clone() }, upload)
    }

    /// A piece that came; what may leave in its place.
    fn accept(&mut self, data: Bytes) -> Result<Option<Bytes>, Abort> {
        self.check.feed(&data)?;
        match self.length {
            BodyLength::Known(_) => {
                // More than was declared would become a second request on the vendor's connection.
                let left = self.left.checked_sub(data.len() as u64);
                self.left = left.ok_or_else(|| Abort::new(AbortReason::Protocol))?;
                if self.left == 0 {
                    self.complete()?;
                }
                Ok(Some(data))
            }
            BodyLength::Chunked | BodyLength::None | BodyLength::Upgrade => Ok(self.held.replace(data)),
        }
    }

    /// The consumer's END; the piece that was held back for it.
    fn end(&mut self) -> Result<Option<Bytes>, Abort> {
        if self.left > 0 {
            return Err(Abort::with_detail(AbortReason::RequestBroken, "shorter than declared"));
        }
        self.complete()?;
        Ok(self.held.take())
    }

    fn complete(&mut self) -> Result<(), Abort> {
        self.check.finish()?;
        self.upload.complete(&self.check);
        self.stream = None;
        Ok(())
    }

    fn give(&mut self, given: Result<Option<Bytes>, Abort>) -> Option<Result<Frame<Bytes>, RequestBroke>> {
        match given {
            Ok(piece) => {
                self.upload.moved(if self.stream.is_some() { Awaited::Vendor } else { Awaited::Answer });
                piece.map(|piece| Ok(Frame::data(piece)))
            }
            Err(abort) => {
                self.stream = None;
                Some(Err(self.upload.break_off(abort)))
            }
        }
    }
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = RequestBroke;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBroke>>> {
        loop {
            let Some(stream) = &self.stream else { return Poll::Ready(None) };
            let Poll::Ready(incoming) = stream.poll_data(cx) else {
                self.upload.waits_for_hub();
                return Poll::Pending;
            };
            let given = match incoming {
                Incoming::Data(data) => self.accept(data),
                Incoming::End(_) => self.end(),
                Incoming::Aborted(abort) => Err(abort),
                Incoming::Pending => return Poll::Pending,
            };
            if let Some(frame) = self.give(given) {
                return Poll::Ready(Some(frame));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            BodyLength::None | BodyLength::Upgrade => SizeHint::with_exact(0),
            BodyLength::Known(_) => SizeHint::with_exact(self.left),
            BodyLength::Chunked => SizeHint::default(),
        }
    }
}
