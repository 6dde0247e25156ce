//! A call's stream on a link.
//!
//! Invariant: when the last clone is dropped, what was not complete is aborted.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use bytes::Bytes;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::StreamId;
use keyhaven_protocol::link::Incoming;
use keyhaven_protocol::link::Micros;
use keyhaven_protocol::link::Sent;
use keyhaven_protocol::link::Side;
use keyhaven_protocol::link::StreamOver;

use super::Shared;
use super::State;

/// One stream. Clones share it; at most one of them reads, one writes and one watches.
#[derive(Clone)]
pub struct LinkStream {
    held: Arc<Held>,
}

struct Held {
    shared: Arc<Shared>,
    id: StreamId,
}

impl LinkStream {
    pub(super) fn new(shared: Arc<Shared>, id: StreamId) -> Self {
        Self { held: Arc::new(Held { shared, id }) }
    }

    /// The vendor's response head, encoded; or the abort that came instead.
    pub fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Abort>> {
        let (shared, id) = self.parts();
        let mut state = shared.lock();
        if let Some(head) = state.link.take_head(id) {
            return Poll::Ready(Ok(head));
        }
        if let Some(abort) = state.link.aborted(id) {
            return Poll::Ready(Err(abort));
        }
        keep(&mut state.wakers.entry(id).or_default().reader, cx);
        Poll::Pending
    }

    /// The next piece of the body, its end, or its abort; never [`Incoming::Pending`].
    pub fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let (shared, id) = self.parts();
        let now = shared.now();
        let mut state = shared.lock();
        let incoming = state
            .link
            .take_data(id, now)
            .unwrap_or_else(|StreamOver| Incoming::Aborted(Abort::new(AbortReason::LinkLost)));
        match incoming {
            Incoming::Pending => {
                keep(&mut state.wakers.entry(id).or_default().reader, cx);
                Poll::Pending
            }
            Incoming::Data(_) => {
                let owes_credit = state.link.has_frames();
                drop(state);
                if owes_credit {
                    shared.pump.wake();
                }
                Poll::Ready(incoming)
            }
            Incoming::End(_) | Incoming::Aborted(_) => Poll::Ready(incoming),
        }
    }

    /// Waits until the stream's queue has room.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn poll_capacity(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamOver>> {
        let (shared, id) = self.parts();
        let mut state = shared.lock();
        match state.link.send_capacity(id) {
            Ok(0) => {
                keep(&mut state.wakers.entry(id).or_default().writer, cx);
                Poll::Pending
            }
            Ok(_) => Poll::Ready(Ok(())),
            Err(over) => Poll::Ready(Err(over)),
        }
    }

    /// Waits until the end of what was sent has left, at a hub that has the whole response,
    /// whose stream is aborted when it is dropped before that, or at an agent.
    pub fn poll_sent_all(&self, cx: &mut Context<'_>) -> Poll<()> {
        let (shared, id) = self.parts();
        let mut state = shared.lock();
        if state.link.has_sent_all(id) {
            return Poll::Ready(());
        }
        keep(&mut state.wakers.entry(id).or_default().writer, cx);
        Poll::Pending
    }

    /// Waits for the vendor's response head.
    ///
    /// # Errors
    /// The abort that came instead.
    pub async fn head(&self) -> Result<Bytes, Abort> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    /// Waits until the stream's queue has room.
    ///
    /// # Errors
    /// When the stream is over.
    pub async fn capacity(&self) -> Result<(), StreamOver> {
        poll_fn(|cx| self.poll_capacity(cx)).await
    }

    /// Waits until the peer, or the loss of the link, aborts the stream.
    pub async fn aborted(&self) -> Abort {
        poll_fn(|cx| {
            let (shared, id) = self.parts();
            let mut state = shared.lock();
            if let Some(abort) = state.link.aborted(id) {
                return Poll::Ready(abort);
            }
            keep(&mut state.wakers.entry(id).or_default().watcher, cx);
            Poll::Pending
        })
        .await
    }

    /// The abort that ended the receiving half, if one did.
    pub fn abort_received(&self) -> Option<Abort> {
        self.held.shared.lock().link.aborted(self.held.id)
    }

    /// Queues the encoded response head.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn send_head(&self, head: Bytes) -> Result<(), StreamOver> {
        self.held.act(|state, _| state.link.send_head(self.held.id, head))
    }

    /// The response's head with the beginning of its body, or all of it, in one step.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn respond(&self, head: Bytes, data: Bytes, complete: bool) -> Result<(), StreamOver> {
        self.held.act(|state, now| {
            state.link.send_head(self.held.id, head)?;
            state.link.send_data(self.held.id, data, now)?;
            if complete { state.link.finish(self.held.id, Bytes::new(), now) } else { Ok(()) }
        })
    }

    /// Queues body bytes; the caller waits for [`LinkStream::capacity`] before.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn send_data(&self, data: Bytes) -> Result<(), StreamOver> {
        self.held.act(|state, now| state.link.send_data(self.held.id, data, now))
    }

    /// The body is complete.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn finish(&self, trailers: Bytes) -> Result<(), StreamOver> {
        self.held.act(|state, now| state.link.finish(self.held.id, trailers, now))
    }

    /// The last piece and the end in one step, so that both leave in one message.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn send_last(&self, data: Bytes, trailers: Bytes) -> Result<(), StreamOver> {
        self.held.act(|state, now| {
            state.link.send_data(self.held.id, data, now)?;
            state.link.finish(self.held.id, trailers, now)
        })
    }

    /// What of the stream is on the wire.
    pub fn sent(&self) -> Sent {
        self.held.shared.lock().link.sent(self.held.id)
    }

    /// Leaves an encoded RECEIPT with a body that is about to end: it goes out in the same
    /// message as the end, or the abort of [`LinkStream::fail`]. When the stream is aborted
    /// before that, it does not go out at all.
    pub fn leave_receipt(&self, receipt: Bytes) {
        self.held.shared.lock().link.leave_receipt(self.held.id, receipt);
    }

    /// Sends an encoded RECEIPT now.
    pub fn send_receipt(&self, receipt: Bytes) {
        self.held.act(|state, _| state.link.send_receipt(receipt));
    }

    /// The body broke off: the abort goes out after what is queued.
    pub fn fail(&self, abort: Abort) {
        self.held.act(|state, now| state.link.fail(self.held.id, abort, now));
    }

    /// The stream is not wanted any more: the abort goes out before all else.
    pub fn abort(&self, abort: Abort) {
        self.held.act(|state, now| state.link.abort(self.held.id, abort, now));
    }

    fn parts(&self) -> (&Shared, StreamId) {
        (&self.held.shared, self.held.id)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let reason = match self.shared.side {
            Side::Hub => AbortReason::ConsumerGone,
            Side::Agent => AbortReason::Unspecified,
        };
        self.act(|state, now| {
            state.wakers.remove(&self.id);
            state.link.release(self.id, reason, now);
        });
    }
}

impl Held {
    fn act<T>(&self, change: impl FnOnce(&mut State, Micros) -> T) -> T {
        let now = self.shared.now();
        self.shared.act(|state| change(state, now))
    }
}

fn keep(kept: &mut Option<Waker>, cx: &Context<'_>) {
    match kept {
        Some(kept) if kept.will_wake(cx.waker()) => {}
        Some(kept) => kept.clone_from(cx.waker()),
        None => *kept = Some(cx.waker().clone()),
    }
}
