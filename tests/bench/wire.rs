//! The probes' HTTP/1.1 client: as little as it takes to see when bytes come.
//!
//! Invariant: what is not a 200, or ends too early, is an error and never a figure.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use bytes::Buf;
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::clock::monotonic_ns;
use crate::model::Model;
use crate::peers::Peer;

/// How long a call may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(20);

const HEADERS_MAX: usize = 64;

/// One connection and what was read from it.
pub(crate) struct Call {
    socket: TcpStream,
    request: Vec<u8>,
    unread: BytesMut,
}

/// How a response's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
}

/// The bytes of a chat completion call.
pub(crate) fn request(peer: &Peer, body: &str) -> Vec<u8> {
    let (addr, key, length) = (peer.addr, &peer.key, body.len());
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {addr}\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// What the upstream has seen so far.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
pub(crate) struct Seen {
    /// Chat completions.
    pub(crate) calls: u64,
    /// Answers that were dropped before their end.
    pub(crate) drops: u64,
    /// When the last of them was.
    pub(crate) last_drop_ns: u64,
}

/// Asks the upstream what it has seen.
pub(crate) async fn seen(upstream: SocketAddr) -> Result<Seen> {
    let socket = TcpStream::connect(upstream).await?;
    let request = format!("GET /seen HTTP/1.1\r\nhost: {upstream}\r\n\r\n").into_bytes();
    let mut call = Call { socket, request, unread: BytesMut::new() };
    call.send().await?;
    let Framing::Length(length) = call.head().await? else { bail!("the upstream's answer has no length") };
    let length = usize::try_from(length)?;
    while call.unread.len() < length {
        call.read().await?;
    }
    Ok(serde_json::from_slice(&call.unread[..length])?)
}

impl Call {
    /// A connection on which this call can be made, again and again.
    pub(crate) fn new(socket: TcpStream, peer: &Peer, model: Model) -> Self {
        // A small request must not wait for the acknowledgement of the one before.
        let _ = socket.set_nodelay(true);
        Self { socket, request: request(peer, &model.request_body()), unread: BytesMut::new() }
    }

    /// Connects for this call.
    pub(crate) async fn connect(peer: &Peer, model: Model) -> Result<Self> {
        Ok(Self::new(TcpStream::connect(peer.addr).await?, peer, model))
    }

    /// Sends the request.
    pub(crate) async fn send(&mut self) -> Result<()> {
        self.unread.clear();
        Ok(self.socket.write_all(&self.request).await?)
    }

    /// Makes the call once and returns nothing but its status.
    pub(crate) async fn status_alone(mut self) -> Result<u16> {
        self.send().await?;
        self.read().await?;
        let line = String::from_utf8_lossy(&self.unread).into_owned();
        Ok(line.split(' ').nth(1).context("no status")?.parse()?)
    }

    /// Makes the call once; nanoseconds to the first byte and to the last.
    pub(crate) async fn timed(&mut self) -> Result<(u64, u64)> {
        let began = monotonic_ns();
        self.send().await?;
        self.read().await?;
        let first = monotonic_ns() - began;
        match self.head().await? {
            Framing::Length(length) => self.skip(length).await?,
            Framing::Chunked => bail!("the answer should have a length"),
        }
        Ok((first, monotonic_ns() - began))
    }

    /// Sends the request and waits for the first event.
    pub(crate) async fn first_event(&mut self) -> Result<()> {
        self.send().await?;
        self.expect_chunked().await?;
        while take_event(&mut self.unread).is_none() {
            self.read().await?;
        }
        Ok(())
    }

    /// Sends the request and reads all its events; how late each was, in nanoseconds.
    pub(crate) async fn events(&mut self, count: u64) -> Result<Vec<u64>> {
        self.send().await?;
        self.expect_chunked().await?;
        let mut late = Vec::new();
        let mut now = monotonic_ns();
        loop {
            while let Some(made) = take_event(&mut self.unread) {
                late.push(now.saturating_sub(made));
            }
            if self.unread.ends_with(b"0\r\n\r\n") {
                break;
            }
            self.read().await?;
            now = monotonic_ns();
        }
        if late.len() as u64 != count {
            bail!("{} events came instead of {count}", late.len());
        }
        Ok(late)
    }

    async fn expect_chunked(&mut self) -> Result<()> {
        if self.head().await? != Framing::Chunked {
            bail!("a stream should come in chunks");
        }
        Ok(())
    }

    /// Reads the response's head off the connection.
    async fn head(&mut self) -> Result<Framing> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut head = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(length) = head.parse(&self.unread)? {
                let framing = framing(&head)?;
                self.unread.advance(length);
                return Ok(framing);
            }
            self.read().await?;
        }
    }

    async fn skip(&mut self, length: u64) -> Result<()> {
        let mut left = length;
        loop {
            let here = self.unread.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.unread.advance(here);
            left -= here as u64;
            if left == 0 {
                return Ok(());
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<()> {
        self.unread.reserve(64 * 1024);
        let read = tokio::time::timeout(SILENCE_MAX, self.socket.read_buf(&mut self.unread)).await;
        if read.context("a call fell silent")?? == 0 {
            bail!("a connection was closed in the middle of an answer");
        }
        Ok(())
    }
}

fn framing(head: &httparse::Response<'_, '_>) -> Result<Framing> {
    if head.code != Some(200) {
        bail!("the answer has the status {:?}", head.code);
    }
    let value = |name: &str| head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    match value("content-length") {
        Some(length) => Ok(Framing::Length(std::str::from_utf8(length.value)?.parse()?)),
        None => Ok(Framing::Chunked),
    }
}

/// Takes everything up to the end of the next whole event, and returns when it was made.
fn take_event(unread: &mut BytesMut) -> Option<u64> {
    const STAMP: &[u8] = b"{\"ns\":";
    let stamp = find(unread, STAMP)? + STAMP.len();
    let end = stamp + find(&unread[stamp..], b"\n\n")? + 2;
    let digits = std::str::from_utf8(unread.get(stamp..stamp + 20)?).ok()?;
    let made = digits.parse().ok()?;
    unread.advance(end);
    Some(made)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}
