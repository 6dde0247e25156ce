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
use crate::seen::After;
use crate::seen::Seen;
use crate::street::Peer;

/// How long a call may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(20);

const HEADERS_MAX: usize = 64;

/// One connection and what was read from it.
pub(crate) struct Call {
    socket: TcpStream,
    request: Vec<u8>,
    unread: BytesMut,
    closes: bool,
}

/// What a response's head says of what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    body: Framing,
    /// The connection is not to be used again.
    closes: bool,
}

/// How a response's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
}

/// A connection on which the upstream is asked what it has seen.
pub(crate) struct Observer {
    socket: TcpStream,
    unread: BytesMut,
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

impl Observer {
    /// Connects to the upstream's plain address.
    pub(crate) async fn connect(upstream: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(upstream).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, unread: BytesMut::new() })
    }

    /// What it has seen by now.
    pub(crate) async fn seen(&mut self) -> Result<Seen> {
        self.ask("/seen").await
    }

    /// What it has seen once something has come to pass; none if that takes too long.
    pub(crate) async fn seen_after(&mut self, after: After) -> Result<Option<Seen>> {
        let seen = self.ask(&format!("/seen?{}", after.to_query())).await?;
        Ok(after.holds(&seen).then_some(seen))
    }

    async fn ask(&mut self, path: &str) -> Result<Seen> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: upstream\r\n\r\n");
        self.socket.write_all(request.as_bytes()).await?;
        let Framing::Length(length) = read_head(&mut self.socket, &mut self.unread).await?.body else {
            bail!("the upstream's answer has no length");
        };
        let length = usize::try_from(length)?;
        while self.unread.len() < length {
            read(&mut self.socket, &mut self.unread).await?;
        }
        let seen = serde_json::from_slice(&self.unread[..length])?;
        self.unread.advance(length);
        Ok(seen)
    }
}

impl Call {
    /// A connection on which this call can be made, again and again.
    pub(crate) fn new(socket: TcpStream, peer: &Peer, model: Model) -> Self {
        Self::with_request(socket, request(peer, &model.request_body()))
    }

    /// The same with any request.
    pub(crate) fn with_request(socket: TcpStream, request: Vec<u8>) -> Self {
        // A small request must not wait for the acknowledgement of the one before.
        let _ = socket.set_nodelay(true);
        Self { socket, request, unread: BytesMut::new(), closes: false }
    }

    /// Connects for this call.
    pub(crate) async fn connect(peer: &Peer, model: Model) -> Result<Self> {
        Ok(Self::new(TcpStream::connect(peer.addr).await?, peer, model))
    }

    /// Sends the request.
    pub(crate) async fn send(&mut self) -> Result<()> {
        self.send_to(self.request.len()).await
    }

    /// Sends the beginning of the request and no more.
    pub(crate) async fn send_to(&mut self, bytes: usize) -> Result<()> {
        self.unread.clear();
        Ok(self.socket.write_all(&self.request[..bytes]).await?)
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
        let length = self.expect_length().await?;
        self.skip(length).await?;
        Ok((first, monotonic_ns() - began))
    }

    /// Whether the connection may be used again.
    pub(crate) fn stays(&self) -> bool {
        !self.closes
    }

    /// Sends the request and reads a long answer; nanoseconds for its second half.
    pub(crate) async fn second_half(&mut self) -> Result<u64> {
        self.send().await?;
        let length = self.expect_length().await?;
        self.skip(length / 2).await?;
        let half_way = monotonic_ns();
        self.skip(length - length / 2).await?;
        Ok(monotonic_ns() - half_way)
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

    /// Sends the request and waits for the head and the beginning of a body with a length.
    pub(crate) async fn first_piece(&mut self) -> Result<()> {
        self.send().await?;
        self.expect_length().await?;
        while self.unread.is_empty() {
            self.read().await?;
        }
        Ok(())
    }

    /// Sends the request and waits for the first byte of whatever comes.
    pub(crate) async fn first_byte(&mut self) -> Result<()> {
        self.send().await?;
        self.read().await
    }

    /// Reads until the answer breaks off; an error if it does not.
    pub(crate) async fn until_cut_off(&mut self) -> Result<()> {
        loop {
            self.unread.clear();
            let read = tokio::time::timeout(SILENCE_MAX * 3, self.socket.read_buf(&mut self.unread)).await;
            match read.context("nothing was cut off")? {
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
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
        match read_head(&mut self.socket, &mut self.unread).await?.body {
            Framing::Chunked => Ok(()),
            Framing::Length(_) => bail!("a stream should come in chunks"),
        }
    }

    async fn expect_length(&mut self) -> Result<u64> {
        let head = read_head(&mut self.socket, &mut self.unread).await?;
        self.closes = head.closes;
        match head.body {
            Framing::Length(length) => Ok(length),
            Framing::Chunked => bail!("the answer should have a length"),
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
        read(&mut self.socket, &mut self.unread).await
    }
}

/// Reads a response's head off a connection.
async fn read_head(socket: &mut TcpStream, unread: &mut BytesMut) -> Result<Head> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        if let httparse::Status::Complete(length) = head.parse(unread)? {
            let head = read_as(&head)?;
            unread.advance(length);
            return Ok(head);
        }
        read(socket, unread).await?;
    }
}

async fn read(socket: &mut TcpStream, unread: &mut BytesMut) -> Result<()> {
    unread.reserve(64 * 1024);
    let read = tokio::time::timeout(SILENCE_MAX, socket.read_buf(unread)).await;
    if read.context("a call fell silent")?? == 0 {
        bail!("a connection was closed in the middle of an answer");
    }
    Ok(())
}

fn read_as(head: &httparse::Response<'_, '_>) -> Result<Head> {
    if head.code != Some(200) {
        bail!("the answer has the status {:?}", head.code);
    }
    let value = |name: &str| head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let body = match value("content-length") {
        Some(length) => Framing::Length(std::str::from_utf8(length.value)?.parse()?),
        None => Framing::Chunked,
    };
    let closes = value("connection").is_some_and(|header| header.value.eq_ignore_ascii_case(b"close"));
    Ok(Head { body, closes })
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
