//! One connection of the upstream: every byte of it is recorded, and every wait notices the peer
//! leaving.
//!
//! Invariant: nothing is written or awaited without reading at the same time, so that the moment
//! of a cancel is known whatever the upstream is doing.

use super::record::Closed;
use super::record::Log;
use crate::http1::decoder::Event;
use bytes::Bytes;
use bytes::BytesMut;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::io::ReadBuf;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Unparsed bytes held at most; beyond it the upstream stops reading.
const INBOX_BYTES_MAX: usize = 1 << 20;

/// The peer has left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gone;

pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

pub(super) struct Wire {
    reader: ReadHalf<Socket>,
    writer: WriteHalf<Socket>,
    pub(super) inbox: BytesMut,
    log: Arc<Log>,
    exchange: Option<usize>,
    gone: bool,
    upgraded: bool,
}

impl Wire {
    pub(super) fn new(socket: Socket, log: Arc<Log>) -> Self {
        let (reader, writer) = tokio::io::split(socket);
        Self { reader, writer, inbox: BytesMut::new(), log, exchange: None, gone: false, upgraded: false }
    }

    /// From here on, what passes belongs to this exchange.
    pub(super) const fn begin(&mut self, exchange: Option<usize>) {
        self.exchange = exchange;
    }

    /// Waits for more input.
    pub(super) async fn fill(&mut self) -> Result<(), Gone> {
        if self.gone {
            return Err(Gone);
        }
        self.inbox.reserve(16 << 10);
        let read = self.reader.read_buf(&mut self.inbox).await;
        self.took(read)
    }

    /// Sends everything, or finds that the peer has left.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let wants = self.may_read();
            self.inbox.reserve(16 << 10);
            let written = tokio::select! {
                biased;
                read = self.reader.read_buf(&mut self.inbox), if wants => {
                    self.took(read)?;
                    continue;
                }
                written = self.writer.write(rest) => written,
            };
            match written {
                Ok(count) if count > 0 => {
                    self.log.sent(self.exchange, &rest[..count]);
                    rest = &rest[count..];
                }
                _ => return Err(self.leave(Closed::Error)),
            }
        }
        if self.writer.flush().await.is_err() {
            return Err(self.leave(Closed::Error));
        }
        Ok(())
    }

    /// Waits for something of ours while noticing the peer.
    pub(super) async fn wait<F: Future>(&mut self, future: F) -> Result<F::Output, Gone> {
        let mut future = std::pin::pin!(future);
        loop {
            let wants = self.may_read();
            self.inbox.reserve(16 << 10);
            tokio::select! {
                biased;
                read = self.reader.read_buf(&mut self.inbox), if wants => self.took(read)?,
                output = &mut future => return Ok(output),
            }
        }
    }

    pub(super) async fn pause(&mut self, time: Duration) -> Result<(), Gone> {
        self.wait(tokio::time::sleep(time)).await
    }

    /// Waits until the peer leaves; what it still sends is thrown away.
    pub(super) async fn until_gone(&mut self) -> Gone {
        loop {
            self.inbox.clear();
            if self.fill().await.is_err() {
                return Gone;
            }
        }
    }

    /// Closes properly and waits a moment for the peer to do the same, so that what was sent is
    /// not overtaken by a reset.
    pub(super) async fn close(mut self) {
        let _ = self.writer.shutdown().await;
        let _ = tokio::time::timeout(Duration::from_secs(2), self.until_gone()).await;
    }

    /// Ends our direction only; the peer's stays open.
    pub(super) async fn end_of_ours(&mut self) -> Result<(), Gone> {
        match self.writer.shutdown().await {
            Ok(()) => {
                self.log.sent_all(self.exchange);
                Ok(())
            }
            Err(_) => Err(self.leave(Closed::Error)),
        }
    }

    /// From here on the connection is no longer HTTP, and every byte of the peer's is on record.
    pub(super) fn upgraded(&mut self) {
        self.upgraded = true;
        self.log.upgraded(self.exchange);
        self.log.request_event(self.exchange, Event::Body(Bytes::copy_from_slice(&self.inbox)));
    }

    /// Ends the connection with TCP RST.
    pub(super) fn reset(self) {
        let socket = self.reader.unsplit(self.writer);
        // Without it the close would be a proper one, and the test would see that.
        let _ = socket.tcp().set_zero_linger();
    }

    fn may_read(&self) -> bool {
        self.inbox.len() < INBOX_BYTES_MAX
    }

    fn took(&mut self, read: io::Result<usize>) -> Result<(), Gone> {
        match read {
            Ok(0) => Err(self.leave(Closed::End)),
            Ok(bytes) => {
                self.log.received(self.exchange, bytes);
                if self.upgraded {
                    let from = self.inbox.len().saturating_sub(bytes);
                    self.log.request_event(self.exchange, Event::Body(Bytes::copy_from_slice(&self.inbox[from..])));
                }
                Ok(())
            }
            Err(_) => Err(self.leave(Closed::Error)),
        }
    }

    fn leave(&mut self, how: Closed) -> Gone {
        self.gone = true;
        self.log.peer_closed(self.exchange, Instant::now(), how);
        Gone
    }
}
