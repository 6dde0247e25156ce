//! A WebSocket through the tunnel: the bytes of the connection, untouched, both ways.
//!
//! Invariant: bytes flow only after the vendor agreed to this very handshake; no message is
//! completed that asks for what is refused; a half that ended in order ends in order at the
//! other side, and nothing else does.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Buf as _;
use bytes::Bytes;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::link::Incoming;
use keyhaven_protocol::metering::Ending;
use keyhaven_protocol::request_scan::SessionScan;
use tokio::io::AsyncRead as _;
use tokio::io::AsyncWrite as _;
use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::End;
use super::gone;
use super::metered::Metered;
use super::patience::Patience;
use crate::provider::VendorStream;

/// The most that is read from the vendor at once.
const READ_BYTES: usize = 16 * 1024;

/// A connection that has become a WebSocket.
pub(super) struct Conversation<'a> {
    pub(super) stream: &'a LinkStream,
    pub(super) vendor: VendorStream,
    /// What the vendor said together with its agreement.
    pub(super) early: Bytes,
    /// The judge of what the consumer says.
    pub(super) scan: SessionScan,
    pub(super) patience: Patience,
    pub(super) idle: Duration,
}

/// How far one direction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Open,
    /// The consumer's end is being passed on.
    Closing,
    Closed,
}

/// What came of one step toward the vendor.
enum Up {
    Moved,
    /// The consumer asks for what is not allowed.
    Refused(String),
}

struct State {
    /// To the vendor.
    up: Half,
    unwritten: Bytes,
    /// To the consumer.
    down: Half,
    moved_at: Instant,
}

impl Conversation<'_> {
    /// Whether the hub kept silent until now, as it must before the vendor agreed.
    pub(super) async fn was_quiet(stream: &LinkStream) -> bool {
        poll_fn(|cx| Poll::Ready(stream.poll_data(cx).is_pending())).await
    }

    /// Sends the head, then passes on bytes until both sides have ended.
    pub(super) async fn run(mut self, head: Bytes, metered: &mut Metered) -> End {
        if self.stream.send_head(head).is_err() {
            return gone(self.stream);
        }
        let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
        let began = Instant::now();
        let mut state = State { up: Half::Open, unwritten: Bytes::new(), down: Half::Open, moved_at: began };
        self.patience.not_beyond(began + self.idle);
        poll_fn(|cx| {
            if let Poll::Ready(end) = self.poll_down(cx, &mut state, &mut buffer, metered) {
                return Poll::Ready(end);
            }
            if let Some(refused) = self.poll_up(cx, &mut state) {
                return Poll::Ready(refused);
            }
            if state.up == Half::Closed && state.down == Half::Closed {
                return Poll::Ready(End::Served);
            }
            let due = state.moved_at + self.idle;
            self.patience.poll_late(cx, || due).map(|()| {
                let late = "nobody says anything";
                self.broken(AbortReason::VendorTimeout, late, metered)
            })
        })
        .await
    }

    /// Ready only when the call is over because of what happened.
    fn poll_down(
        &mut self,
        cx: &mut Context<'_>,
        state: &mut State,
        buffer: &mut [u8],
        metered: &mut Metered,
    ) -> Poll<End> {
        while state.down == Half::Open {
            if ready!(self.stream.poll_capacity(cx)).is_err() {
                return Poll::Ready(gone(self.stream));
            }
            let data = match std::mem::take(&mut self.early) {
                early if !early.is_empty() => early,
                _ => match ready!(poll_read(Pin::new(&mut self.vendor), cx, buffer)) {
                    Ok(data) => data,
                    Err(error) => {
                        return Poll::Ready(self.broken(AbortReason::VendorBroke, &error.to_string(), metered));
                    }
                },
            };
            state.moved_at = Instant::now();
            let sent = if data.is_empty() {
                state.down = Half::Closed;
                metered.ends(self.stream, Ending::Complete);
                self.stream.finish(Bytes::new())
            } else {
                metered.piece(self.stream, &data);
                self.stream.send_data(data)
            };
            if sent.is_err() {
                return Poll::Ready(gone(self.stream));
            }
        }
        Poll::Pending
    }

    /// Passes on what the consumer says. A vendor that takes no more may still have
    /// something to say, so that its refusal ends only this half; ours ends the call.
    fn poll_up(&mut self, cx: &mut Context<'_>, state: &mut State) -> Option<End> {
        while state.up != Half::Closed {
            match self.poll_up_once(cx, state) {
                Poll::Ready(Ok(Up::Moved)) => state.moved_at = Instant::now(),
                Poll::Ready(Ok(Up::Refused(why))) => {
                    return Some(End::Refused(Abort::with_detail(AbortReason::NotAllowed, why)));
                }
                Poll::Ready(Err(_)) => state.up = Half::Closed,
                Poll::Pending => return None,
            }
        }
        None
    }

    fn poll_up_once(&mut self, cx: &mut Context<'_>, state: &mut State) -> Poll<io::Result<Up>> {
        if !state.unwritten.is_empty() {
            let written = ready!(Pin::new(&mut self.vendor).poll_write(cx, &state.unwritten))?;
            state.unwritten.advance(written);
            return Poll::Ready(Ok(Up::Moved));
        }
        if state.up == Half::Closing {
            ready!(Pin::new(&mut self.vendor).poll_shutdown(cx))?;
            state.up = Half::Closed;
            return Poll::Ready(Ok(Up::Moved));
        }
        match self.stream.poll_data(cx) {
            Poll::Ready(Incoming::Data(data)) => match self.scan.feed(&data) {
                Ok(()) => state.unwritten = data,
                Err(refused) => return Poll::Ready(Ok(Up::Refused(refused.to_string()))),
            },
            Poll::Ready(Incoming::End(_)) => state.up = Half::Closing,
            Poll::Ready(Incoming::Aborted(abort)) => return Poll::Ready(Err(io::Error::other(abort.reason.name()))),
            Poll::Ready(Incoming::Pending) | Poll::Pending => {
                ready!(Pin::new(&mut self.vendor).poll_flush(cx))?;
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(Up::Moved))
    }

    fn broken(&self, reason: AbortReason, why: &str, metered: &mut Metered) -> End {
        metered.ends(self.stream, Ending::Broke);
        self.stream.fail(Abort::with_detail(reason, why));
        End::Aborted(reason)
    }
}

/// The next bytes; none at the end.
fn poll_read(vendor: Pin<&mut VendorStream>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Bytes>> {
    let mut read = ReadBuf::new(buffer);
    ready!(vendor.poll_read(cx, &mut read))?;
    Poll::Ready(Ok(Bytes::copy_from_slice(read.filled())))
}
