//! A consumer at the level of bytes: writes what no HTTP library would, reads what comes.
//!
//! Invariant: adds, changes and hides nothing, and never waits for the server beyond [`WAIT_MAX`].

use crate::http1::Side;
use crate::http1::recorder::Message;
use crate::http1::recorder::Recorder;
use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;

/// The longest wait for anything the server should do.
pub const WAIT_MAX: Duration = Duration::from_secs(20);

/// Who takes nothing for so long has stopped reading.
const STUCK_AFTER: Duration = Duration::from_millis(100);

/// Body bytes that are kept for looking at; all of them are hashed.
const KEEP_BYTES_MAX: usize = 8 << 20;

/// How the server's side of the connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It closed properly.
    Closed,
    /// It reset the connection.
    Reset,
}

/// One connection of a consumer.
pub struct RawClient {
    socket: TcpStream,
    seen: Recorder,
    answered: usize,
    ended: Option<Ended>,
}

impl RawClient {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(addr: SocketAddr) -> Result<Self> {
        Ok(Self::over(TcpStream::connect(addr).await?))
    }

    /// Connects with buffers of about this size, so that not reading is soon noticed, and not being
    /// read.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect_narrow(addr: SocketAddr, buffer_bytes: u32) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(buffer_bytes)?;
        socket.set_send_buffer_size(buffer_bytes)?;
        Ok(Self::over(socket.connect(addr).await?))
    }

    fn over(socket: TcpStream) -> Self {
        // Only latency depends on it.
        let _ = socket.set_nodelay(true);
        Self { socket, seen: Recorder::new(Side::Response, KEEP_BYTES_MAX), answered: 0, ended: None }
    }

    /// Sends exactly these bytes.
    ///
    /// # Errors
    /// When the server has closed, or takes nothing for [`WAIT_MAX`].
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        tokio::time::timeout(WAIT_MAX, self.socket.write_all(bytes)).await?
    }

    /// Sends of these bytes what the server takes: all, or as much as until it has taken nothing for
    /// [`STUCK_AFTER`].
    ///
    /// # Errors
    /// When the server has closed.
    pub async fn send_until_stuck(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            match tokio::time::timeout(STUCK_AFTER, self.socket.write(&bytes[sent..])).await {
                Ok(written) => sent += written?,
                Err(_) => break,
            }
        }
        Ok(sent)
    }

    /// Sends a request and waits for its answer. That the server stops listening half-way is no
    /// failure: what it says then is the answer.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Message> {
        if request.starts_with(b"HEAD ") {
            self.seen.expect_answer_to("HEAD");
        }
        let _ = self.send(request).await;
        self.answer().await
    }

    /// The next answer: whole, or as far as it came before the connection ended.
    ///
    /// # Errors
    /// When none begins, or its end does not come.
    pub async fn answer(&mut self) -> Result<Message> {
        loop {
            let messages = self.seen.messages();
            let next = messages.iter().enumerate().skip(self.answered);
            let found = next.into_iter().find(|(_, message)| message.head.status() >= 200);
            if let Some((place, message)) = found
                && (message.complete || self.ended.is_some())
            {
                let message = message.clone();
                self.answered = place + 1;
                return Ok(message);
            }
            if let Some(error) = self.seen.error() {
                bail!("the answer is not HTTP/1.1: {error}");
            }
            if self.ended.is_some() {
                bail!("the connection ended without an answer");
            }
            self.read().await?;
        }
    }

    /// Reads until what was seen is as wanted.
    ///
    /// # Errors
    /// When the connection ends before.
    pub async fn until(&mut self, wanted: impl Fn(&Recorder) -> bool) -> Result<()> {
        while !wanted(&self.seen) {
            if !self.read().await? {
                bail!("the connection ended before what was waited for");
            }
        }
        Ok(())
    }

    /// Reads until the connection ends.
    ///
    /// # Errors
    /// When it does not.
    pub async fn end(&mut self) -> Result<Ended> {
        loop {
            if let Some(ended) = self.ended {
                return Ok(ended);
            }
            self.read().await?;
        }
    }

    /// Reads once; false when the connection has ended.
    ///
    /// # Errors
    /// When nothing comes.
    pub async fn read(&mut self) -> Result<bool> {
        if self.ended.is_some() {
            return Ok(false);
        }
        let mut buffer = vec![0; 64 << 10];
        let read = tokio::time::timeout(WAIT_MAX, self.socket.read(&mut buffer)).await;
        match read.context("the server neither sent nor closed")? {
            Ok(0) => self.ended = Some(Ended::Closed),
            Ok(count) => self.seen.push(&buffer[..count]),
            Err(_) => self.ended = Some(Ended::Reset),
        }
        if let Some(ended) = self.ended {
            self.seen.end(ended == Ended::Closed);
        }
        Ok(self.ended.is_none())
    }

    /// What came so far.
    #[must_use]
    pub const fn seen(&self) -> &Recorder {
        &self.seen
    }

    /// Leaves by TCP RST; dropping the client leaves properly.
    pub fn reset(self) {
        // Without it the close would be a proper one, and the test would test less.
        let _ = self.socket.set_zero_linger();
    }
}
