//! Closes a connection so that its last answer is not lost. A consumer that is refused in the
//! middle of an upload sends on until it has read why; a connection closed at once would meet
//! that with a reset, and many clients then never read the answer.
//!
//! Invariant: a closing connection is kept for [`TIME_MAX`] at most, and never for a silent consumer.

use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use hyper::rt::Read;
use hyper::rt::ReadBuf;
use hyper::rt::ReadBufCursor;
use hyper::rt::Write;
use tokio::time::Instant;
use tokio::time::Sleep;

use super::connection::Connection;

/// How long what still comes is read and thrown away.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Silence after which nothing more is expected.
const SILENCE_MAX: Duration = Duration::from_secs(1);

const PIECE_BYTES: usize = 8 * 1024;

/// A connection whose shutdown reads on until the consumer has closed too.
pub(super) struct Lingering<T> {
    io: T,
    connection: Connection,
    ending: Option<Ending>,
}

/// This side has closed.
struct Ending {
    at_latest: Instant,
    silence: Pin<Box<Sleep>>,
}

impl<T> Lingering<T> {
    pub(super) fn new(io: T, connection: Connection) -> Self {
        Self { io, connection, ending: None }
    }
}

impl Ending {
    fn begin() -> Self {
        let now = Instant::now();
        Self { at_latest: now + TIME_MAX, silence: Box::pin(tokio::time::sleep_until(now + SILENCE_MAX)) }
    }

    fn something_came(&mut self) {
        let silence_ends = Instant::now() + SILENCE_MAX;
        self.silence.as_mut().reset(silence_ends.min(self.at_latest));
    }
}

impl<T: Read + Unpin> Read for Lingering<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: Read + Write + Unpin> Write for Lingering<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.connection.is_tunnel() {
            // The other direction may go on, and is read by whoever carries it.
            return Pin::new(&mut this.io).poll_shutdown(cx);
        }
        if this.ending.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        let ending = this.ending.get_or_insert_with(Ending::begin);
        let mut piece = [MaybeUninit::uninit(); PIECE_BYTES];
        loop {
            if Future::poll(ending.silence.as_mut(), cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut thrown_away = ReadBuf::uninit(&mut piece);
            ready!(Pin::new(&mut this.io).poll_read(cx, thrown_away.unfilled()))?;
            if thrown_away.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            ending.something_came();
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }
}
