//! A WebSocket after its HTTP upgrade: batches in, batches out, pings answered.
//!
//! Invariant: a link on which nothing moves holds no buffer.

use std::future::poll_fn;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;
use keyhaven_protocol::frame::BATCH_BYTES_MAX;
use keyhaven_protocol::websocket::Decoder;
use keyhaven_protocol::websocket::FrameHead;
use keyhaven_protocol::websocket::MaskKeys;
use keyhaven_protocol::websocket::Message;
use keyhaven_protocol::websocket::Opcode;
use keyhaven_protocol::websocket::Role;
use keyhaven_protocol::websocket::WebSocketFault;
use tokio::io::AsyncBufRead;
use tokio::io::AsyncWrite;

use super::pool;

/// "Normal closure", in a close frame.
const CLOSE_NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

/// Why nothing more comes.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The peer said goodbye, or ended the connection between two messages.
    #[error("closed by the other side")]
    Closed,
    /// The peer does not speak WebSocket.
    #[error(transparent)]
    Fault(#[from] WebSocketFault),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// A WebSocket over a connection.
#[derive(Debug)]
pub struct Socket<S> {
    /// Boxed, because futures keep a place for every step at which they hand it on.
    io: Box<S>,
    role: Role,
    /// What came together with the upgrade and was not looked at yet.
    early: Bytes,
    decoder: Decoder,
    keys: MaskKeys,
    staged: Option<Staged>,
    /// The payload of the last ping that was not answered; older ones need no answer.
    ping: Option<Bytes>,
    unflushed: bool,
}

/// A frame on its way out.
#[derive(Debug)]
struct Staged {
    head: FrameHead,
    payload: BytesMut,
    written: usize,
}

impl<S: AsyncBufRead + AsyncWrite + Unpin> Socket<S> {
    /// A WebSocket whose upgrade is done. `early` is what came behind the upgrade.
    pub fn new(io: S, role: Role, early: Bytes) -> Self {
        // The keys need be unforeseeable for nobody inside TLS; a fixed seed would do.
        let seed = getrandom::u64().unwrap_or_default();
        // A slice would keep the whole buffer of the HTTP library alive, 8 KiB for each link.
        let early = Bytes::copy_from_slice(&early);
        Self {
            io: Box::new(io),
            role,
            early,
            decoder: Decoder::new(role, BATCH_BYTES_MAX),
            keys: MaskKeys::new(seed),
            staged: None,
            ping: None,
            unflushed: false,
        }
    }

    /// The next binary message.
    ///
    /// # Errors
    /// When nothing more comes.
    pub async fn receive(&mut self) -> Result<Bytes, SocketError> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// Sends one binary message.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn send(&mut self, batch: &[u8]) -> io::Result<()> {
        poll_fn(|cx| self.poll_sent(cx)).await?;
        let mut payload = pool::take();
        payload.extend_from_slice(batch);
        self.stage(payload);
        poll_fn(|cx| self.poll_sent(cx)).await
    }

    /// Says goodbye, and waits until the peer has: who closes with unread bytes before
    /// him takes his own last words back.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn close(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_sent(cx)).await?;
        self.stage_frame(Opcode::Close, BytesMut::from(&CLOSE_NORMAL[..]));
        poll_fn(|cx| self.poll_sent(cx)).await?;
        poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await?;
        loop {
            let unread = poll_fn(|cx| Pin::new(&mut self.io).poll_fill_buf(cx).map_ok(<[u8]>::len)).await?;
            if unread == 0 {
                return Ok(());
            }
            Pin::new(&mut self.io).consume(unread);
        }
    }

    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, SocketError>> {
        loop {
            let message = if self.early.is_empty() {
                let unread = ready!(Pin::new(&mut self.io).poll_fill_buf(cx))?;
                if unread.is_empty() {
                    return Poll::Ready(Err(SocketError::Closed));
                }
                let mut rest = unread;
                let message = self.decoder.decode(&mut rest);
                let taken = unread.len() - rest.len();
                Pin::new(&mut self.io).consume(taken);
                message
            } else {
                let mut rest = &self.early[..];
                let message = self.decoder.decode(&mut rest);
                let taken = self.early.len() - rest.len();
                self.early.advance(taken);
                if self.early.is_empty() {
                    self.early = Bytes::new();
                }
                message
            };
            match message? {
                Some(Message::Binary(batch)) => return Poll::Ready(Ok(batch)),
                Some(Message::Ping(payload)) => self.ping = Some(payload),
                Some(Message::Close(_)) => return Poll::Ready(Err(SocketError::Closed)),
                Some(Message::Pong) | None => {}
            }
        }
    }

    /// Whether something waits to leave that [`Socket::poll_sent`] would send.
    pub(super) fn has_unsent(&self) -> bool {
        self.unflushed || self.staged.is_some() || self.ping.is_some()
    }

    /// Gives the next message. Only when nothing is on its way out.
    pub(super) fn stage(&mut self, batch: BytesMut) {
        self.stage_frame(Opcode::Binary, batch);
    }

    fn stage_frame(&mut self, opcode: Opcode, mut payload: BytesMut) {
        debug_assert!(self.staged.is_none(), "one message is on its way already");
        let head = FrameHead::seal(self.role, opcode, &mut payload, &mut self.keys);
        self.staged = Some(Staged { head, payload, written: 0 });
    }

    /// Sends what is on its way out, down to the system. Ready when nothing is any more.
    pub(super) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(staged) = &mut self.staged {
                ready!(staged.poll_write(&mut self.io, cx))?;
                self.unflushed = true;
                if let Some(staged) = self.staged.take() {
                    pool::give_back(staged.payload);
                }
            }
            match self.ping.take() {
                Some(ping) => self.stage_frame(Opcode::Pong, BytesMut::from(&ping[..])),
                None => break,
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl Staged {
    fn poll_write<S: AsyncWrite + Unpin>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let head = self.head.as_bytes();
        while self.written < head.len() + self.payload.len() {
            let head = &head[self.written.min(head.len())..];
            let payload = &self.payload[self.written.saturating_sub(self.head.as_bytes().len())..];
            let slices = [IoSlice::new(head), IoSlice::new(payload)];
            // Writers that take one slice take the first that holds anything.
            let written = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_keeps_no_buffer_of_the_upgrade_alive() {
        for early in [0, 5] {
            let upgrade = Bytes::from(vec![0; 8192]);
            let socket = Socket::new(tokio::io::empty(), Role::Server, upgrade.slice(..early));

            assert_eq!(socket.early.len(), early);
            assert!(upgrade.is_unique(), "{early} bytes hold 8192");
        }
    }

    #[tokio::test]
    async fn what_came_with_the_upgrade_is_read_first_and_let_go() {
        let early = Bytes::from_static(&[0x82, 3, b'o', b'n', b'e', 0x82, 3, b't', b'w', b'o']);
        let mut socket = Socket::new(tokio::io::empty(), Role::Client, early);

        assert_eq!(socket.receive().await.unwrap(), "one");
        assert_eq!(socket.receive().await.unwrap(), "two");
        assert!(socket.early.is_empty());
        assert!(matches!(socket.receive().await, Err(SocketError::Closed)));
    }
}
