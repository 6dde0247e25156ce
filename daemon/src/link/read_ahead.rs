//! Reads more than was asked for, so that a large record does not cost a system call for
//! every 4 KiB that rustls wants at a time.
//!
//! Invariant: bytes come out as they came in, and a buffer is held only while bytes wait in it.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio_util::io::poll_read_buf;

use super::pool;

/// A connection that is read in large pieces. Writes pass through.
#[derive(Debug)]
pub struct ReadAhead<S> {
    io: S,
    ahead: BytesMut,
    given: usize,
}

impl<S> ReadAhead<S> {
    /// Nothing read yet.
    pub fn new(io: S) -> Self {
        Self { io, ahead: BytesMut::new(), given: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.given == this.ahead.len() {
            let mut buffer = pool::take();
            let read = poll_read_buf(Pin::new(&mut this.io), cx, &mut buffer);
            if buffer.is_empty() {
                pool::give_back(buffer);
            } else {
                (this.ahead, this.given) = (buffer, 0);
            }
            ready!(read)?;
        }
        let taken = buf.remaining().min(this.ahead.len() - this.given);
        buf.put_slice(&this.ahead[this.given..this.given + taken]);
        this.given += taken;
        if this.given == this.ahead.len() {
            pool::give_back(std::mem::take(&mut this.ahead));
            this.given = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn bytes_come_out_as_they_came_in_and_no_buffer_stays() {
        let sent: Vec<u8> = (0..300_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let (near, mut far) = tokio::io::duplex(100_000);
        let mut near = ReadAhead::new(near);
        let mut read = vec![0; sent.len()];
        let write = async {
            far.write_all(&sent).await.unwrap();
        };
        let in_pieces = async {
            for piece in read.chunks_mut(4_096) {
                near.read_exact(piece).await.unwrap();
            }
        };
        tokio::join!(write, in_pieces);

        assert!(read == sent);
        assert_eq!(near.ahead.capacity(), 0);
        drop(far);
        assert_eq!(near.read(&mut read).await.unwrap(), 0);
    }
}
