//! A strict reader of HTTP/1.1 byte streams, for servers, recorders and comparisons.
//!
//! Invariant: never guesses; a stream whose framing is ambiguous is malformed, and a body is
//! complete only when its framing said so.

pub mod decoder;
pub mod recorder;

use sha2::Digest;
use sha2::Sha256;
use std::fmt;

/// Which way a byte stream flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// From the client.
    Request,
    /// From the server.
    Response,
}

/// Why a byte stream is not HTTP/1.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}

/// One header line, its name as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name with its original case.
    pub name: String,
    /// The value's bytes without surrounding blanks.
    pub value: Vec<u8>,
}

impl Header {
    /// The value as text; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.value).into_owned()
    }
}

/// The first line of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Of a request.
    Request {
        /// The method.
        method: String,
        /// The target as written: path and query.
        target: String,
    },
    /// Of a response.
    Response {
        /// The status code.
        status: u16,
        /// The reason phrase.
        reason: String,
    },
}

/// A message's head: first line and headers, in order and with duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The exact bytes, the empty line included.
    pub raw: Vec<u8>,
    /// The first line.
    pub start: Start,
    /// The minor version: 1 for HTTP/1.1.
    pub minor_version: u8,
    /// All headers, in order.
    pub headers: Vec<Header>,
}

impl Head {
    /// Every value of a header, in order; names compare without case.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<String> {
        let same = |header: &&Header| header.name.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(Header::text).collect()
    }

    /// The first value of a header.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<String> {
        self.all(name).into_iter().next()
    }

    /// The method; empty for a response.
    #[must_use]
    pub fn method(&self) -> &str {
        match &self.start {
            Start::Request { method, .. } => method,
            Start::Response { .. } => "",
        }
    }

    /// The request target; empty for a response.
    #[must_use]
    pub fn target(&self) -> &str {
        match &self.start {
            Start::Request { target, .. } => target,
            Start::Response { .. } => "",
        }
    }

    /// The status; 0 for a request.
    #[must_use]
    pub fn status(&self) -> u16 {
        match &self.start {
            Start::Request { .. } => 0,
            Start::Response { status, .. } => *status,
        }
    }
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// `content-length`.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// The end of the connection (responses only).
    ToEnd,
}

/// SHA-256 in hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Bytes as lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
