//! From bytes to events, one connection's direction at a time.
//!
//! Invariant: owns no bytes and no socket; the same stream gives the same events however it is cut.

use super::Framing;
use super::Head;
use super::Header;
use super::Malformed;
use super::Side;
use super::Start;
use super::length;
use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;
use std::collections::VecDeque;

const HEAD_BYTES_MAX: usize = 4 << 20;
const CHUNK_LINE_BYTES_MAX: usize = 4096;

/// What a decoder found next.
#[derive(Debug, Clone)]
pub enum Event {
    /// A message begins.
    Head(Head, Framing),
    /// A chunk of this size begins (chunked bodies only).
    Chunk(u64),
    /// Body bytes, without framing.
    Body(Bytes),
    /// Trailers of a chunked body; only when there are any.
    Trailers(Vec<Header>),
    /// The message is complete.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Body(u64),
    ToEnd,
    ChunkLine,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Ending,
}

/// Turns bytes into events; owns no bytes and no socket.
#[derive(Debug, Clone)]
pub struct Decoder {
    side: Side,
    stage: Stage,
    methods: VecDeque<String>,
}

impl Decoder {
    /// A decoder at the beginning of a connection.
    #[must_use]
    pub fn new(side: Side) -> Self {
        Self { side, stage: Stage::Head, methods: VecDeque::new() }
    }

    /// Tells a response decoder the method of a request, since answers to HEAD have no body.
    pub fn expect_answer_to(&mut self, method: &str) {
        self.methods.push_back(method.to_owned());
    }

    /// The other side has answered 101: all that follows in this direction is one message's body.
    pub fn upgraded(&mut self) {
        self.stage = Stage::ToEnd;
    }

    /// Takes the next event from the front of `input`; `None` wants more bytes.
    ///
    /// # Errors
    /// When the bytes are not HTTP/1.1 or their framing is ambiguous.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Malformed> {
        loop {
            match self.stage {
                Stage::Head => return self.head(input),
                Stage::Body(0) | Stage::Ending => {
                    self.stage = Stage::Head;
                    return Ok(Some(Event::End));
                }
                Stage::Body(left) => {
                    let Some(piece) = take(input, left) else {
                        return Ok(None);
                    };
                    self.stage = Stage::Body(left.saturating_sub(length(&piece)));
                    return Ok(Some(Event::Body(piece)));
                }
                Stage::ToEnd => return Ok(take(input, u64::MAX).map(Event::Body)),
                Stage::ChunkLine => {
                    let Some(line) = line(input)? else {
                        return Ok(None);
                    };
                    let size = chunk_size(&line)?;
                    self.stage = if size == 0 { Stage::Trailers } else { Stage::ChunkData(size) };
                    return Ok(Some(Event::Chunk(size)));
                }
                Stage::ChunkData(left) => {
                    let Some(piece) = take(input, left) else {
                        return Ok(None);
                    };
                    let left = left.saturating_sub(length(&piece));
                    self.stage = if left == 0 { Stage::ChunkEnd } else { Stage::ChunkData(left) };
                    return Ok(Some(Event::Body(piece)));
                }
                Stage::ChunkEnd => {
                    if input.len() < 2 {
                        return Ok(None);
                    }
                    if &input[..2] != b"\r\n" {
                        return Err(Malformed("a chunk is longer than its size".into()));
                    }
                    input.advance(2);
                    self.stage = Stage::ChunkLine;
                }
                Stage::Trailers => {
                    let Some(trailers) = trailers(input)? else {
                        return Ok(None);
                    };
                    self.stage = Stage::Ending;
                    if !trailers.is_empty() {
                        return Ok(Some(Event::Trailers(trailers)));
                    }
                }
            }
        }
    }

    /// Says that no more bytes will come: `true` when that was a proper end.
    pub fn end_of_input(&mut self) -> bool {
        let proper = matches!(self.stage, Stage::Head | Stage::ToEnd | Stage::Ending);
        self.stage = Stage::Head;
        proper
    }

    fn head(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Malformed> {
        if input.is_empty() {
            return Ok(None);
        }
        let Some(head) = parse_head(self.side, input)? else {
            if input.len() > HEAD_BYTES_MAX {
                return Err(Malformed("the head is too long".into()));
            }
            return Ok(None);
        };
        input.advance(head.raw.len());
        let framing = self.framing(&head)?;
        self.stage = match framing {
            Framing::Empty => Stage::Ending,
            Framing::Length(bytes) => Stage::Body(bytes),
            Framing::Chunked => Stage::ChunkLine,
            Framing::ToEnd => Stage::ToEnd,
        };
        Ok(Some(Event::Head(head, framing)))
    }

    fn framing(&mut self, head: &Head) -> Result<Framing, Malformed> {
        let status = head.status();
        if self.side == Side::Response {
            let informational = (100..200).contains(&status) && status != 101;
            let method = if informational { None } else { self.methods.pop_front() };
            if status == 101 {
                return Ok(Framing::ToEnd);
            }
            if informational || matches!(status, 204 | 304) || method.as_deref() == Some("HEAD") {
                return Ok(Framing::Empty);
            }
        }
        let lengths = head.all("content-length");
        let codings = head.all("transfer-encoding");
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) if self.side == Side::Request => Ok(Framing::Empty),
            ([], []) => Ok(Framing::ToEnd),
            ([one], []) => one
                .bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| one.parse().ok())
                .flatten()
                .map(Framing::Length)
                .ok_or_else(|| Malformed(format!("content-length is {one:?}"))),
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            ([], _) => Err(Malformed(format!("transfer-encoding is {codings:?}"))),
            (_, []) => Err(Malformed(format!("content-length is given as {lengths:?}"))),
            _ => Err(Malformed("both content-length and transfer-encoding are given".into())),
        }
    }
}

fn parse_head(side: Side, input: &[u8]) -> Result<Option<Head>, Malformed> {
    let mut slots = 128;
    loop {
        let mut headers = vec![httparse::EMPTY_HEADER; slots];
        match parse_head_with(side, input, &mut headers) {
            Err(httparse::Error::TooManyHeaders) if slots < 1 << 16 => slots *= 8,
            Err(error) => return Err(Malformed(format!("head: {error}"))),
            Ok(head) => return Ok(head),
        }
    }
}

fn parse_head_with<'a>(
    side: Side,
    input: &'a [u8],
    slots: &mut [httparse::Header<'a>],
) -> Result<Option<Head>, httparse::Error> {
    let (status, start, minor, headers): (_, _, _, &[httparse::Header<'_>]) = match side {
        Side::Request => {
            let mut request = httparse::Request::new(slots);
            let status = request.parse(input)?;
            let start = Start::Request {
                method: request.method.unwrap_or_default().to_owned(),
                target: request.path.unwrap_or_default().to_owned(),
            };
            (status, start, request.version, request.headers)
        }
        Side::Response => {
            let mut response = httparse::Response::new(slots);
            let status = response.parse(input)?;
            let start = Start::Response {
                status: response.code.unwrap_or_default(),
                reason: response.reason.unwrap_or_default().to_owned(),
            };
            (status, start, response.version, response.headers)
        }
    };
    let httparse::Status::Complete(bytes) = status else {
        return Ok(None);
    };
    Ok(Some(Head {
        raw: input[..bytes].to_vec(),
        start,
        minor_version: minor.unwrap_or(1),
        headers: headers.iter().map(owned).collect(),
    }))
}

fn trailers(input: &mut BytesMut) -> Result<Option<Vec<Header>>, Malformed> {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let (bytes, trailers) = match httparse::parse_headers(input, &mut slots) {
        Ok(httparse::Status::Complete((bytes, headers))) => (bytes, headers.iter().map(owned).collect()),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(Malformed(format!("trailers: {error}"))),
    };
    input.advance(bytes);
    Ok(Some(trailers))
}

fn owned(header: &httparse::Header<'_>) -> Header {
    Header { name: header.name.to_owned(), value: header.value.to_vec() }
}

fn line(input: &mut BytesMut) -> Result<Option<Vec<u8>>, Malformed> {
    let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else {
        if input.len() > CHUNK_LINE_BYTES_MAX {
            return Err(Malformed("a chunk's size line is too long".into()));
        }
        return Ok(None);
    };
    let line = input.split_to(end).to_vec();
    input.advance(2);
    Ok(Some(line))
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let text = String::from_utf8_lossy(line);
    let digits = text.split(';').next().unwrap_or_default().trim_end();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Malformed(format!("a chunk's size is {text:?}")));
    }
    u64::from_str_radix(digits, 16).map_err(|_| Malformed(format!("a chunk's size is {text:?}")))
}

fn take(input: &mut BytesMut, at_most: u64) -> Option<Bytes> {
    if input.is_empty() {
        return None;
    }
    let bytes = usize::try_from(at_most).unwrap_or(usize::MAX);
    Some(input.split_to(bytes.min(input.len())).freeze())
}
