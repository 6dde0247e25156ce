//! A consumer's TCP connection, whose end is noticed although nobody reads it: while an agent
//! takes nothing of an upload, the end stands behind bytes that have to wait.
//!
//! Invariant: bytes pass as on the connection itself; watching takes none of them.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Weak;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use rustix::net::RecvFlags;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::Interest;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// The connection.
pub(super) struct WatchedStream {
    tcp: Arc<TcpStream>,
}

/// Tells when the consumer has ended it. Does not keep it open.
#[derive(Clone, Default)]
pub(super) struct Departure {
    tcp: Weak<TcpStream>,
}

impl WatchedStream {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp: Arc::new(tcp) }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub(super) fn departure(&self) -> Departure {
        Departure { tcp: Arc::downgrade(&self.tcp) }
    }
}

impl Departure {
    /// Waits until the system knows that the consumer sends no more: by its reset, or by an end
    /// behind bytes that all are here.
    pub(super) async fn noticed(&self) {
        let Some(tcp) = self.tcp.upgrade() else { return };
        // Of what this waits for, nothing but an end was asked of the system: urgent bytes were not.
        #[cfg(target_os = "linux")]
        if tcp.ready(Interest::PRIORITY).await.is_ok_and(|ready| ready.is_read_closed()) {
            return;
        }
        drop(tcp);
        std::future::pending().await
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            let mut came = None;
            let read = self.tcp.try_io(Interest::READABLE, || {
                let read = rustix::net::recv(&*self.tcp, &mut *room, RecvFlags::empty())?.1;
                came = Some(read);
                // Less than there was room for: there is no more, and asking would cost a system call.
                if (1..room.len()).contains(&read) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(read) }
            });
            match (came, read) {
                (Some(came), _) => {
                    buf.advance(came);
                    return Poll::Ready(Ok(()));
                }
                (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                (None, Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                (None, outcome) => return Poll::Ready(outcome.map(drop)),
            }
        }
    }
}

impl WatchedStream {
    fn poll_try<T>(&self, cx: &mut Context<'_>, mut attempt: impl FnMut() -> io::Result<T>) -> Poll<io::Result<T>> {
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_try(cx, || self.tcp.try_write(data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try(cx, || self.tcp.try_write_vectored(data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match rustix::net::shutdown(&*self.tcp, rustix::net::Shutdown::Write) {
            // The consumer was first.
            Err(rustix::io::Errno::NOTCONN) => Ok(()),
            ended => ended.map_err(io::Error::from),
        })
    }
}
