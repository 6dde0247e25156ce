//! The whole way of an answer's bytes: coding, framing, JSON, reading.
//!
//! Invariant: the tap reads; it can neither change, delay nor fail the answer.

use crate::websocket::Role;
use crate::websocket::messages;
use crate::websocket::messages::MessageScan;

use super::Coding;
use super::Doubt;
use super::Form;
use super::Reading;
use super::coding::Decoding;
use super::reader::Reader;
use super::sse;
use super::sse::SseScan;

/// How an answer is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One JSON text.
    Json,
    /// Server-sent events, a JSON text each.
    Events,
    /// A vendor's side of a WebSocket session, a JSON text each message.
    Session,
    /// Audio or plain text: nothing in it states usage.
    Opaque,
}

impl Shape {
    /// The shape that a `content-type` header names.
    pub fn of(content_type: &[u8]) -> Self {
        let kind = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if kind.eq_ignore_ascii_case(b"text/event-stream") {
            Self::Events
        } else if kind.eq_ignore_ascii_case(b"application/json") {
            Self::Json
        } else {
            Self::Opaque
        }
    }
}

/// Reads one answer.
pub struct Tap {
    decoding: Option<Decoding>,
    framing: Framing,
    reader: Reader,
    reading: Reading,
}

#[derive(Clone)]
enum Framing {
    Json,
    Events(SseScan),
    Session(MessageScan),
    Opaque,
    /// No frames: nothing more is read.
    Lost,
}

impl Tap {
    /// A tap at the beginning of an answer's body. Of a coding that cannot be undone
    /// (`None`) nothing is read.
    pub fn new(form: Form, shape: Shape, coding: Option<Coding>) -> Self {
        let framing = match shape {
            Shape::Json => Framing::Json,
            Shape::Events => Framing::Events(SseScan::new()),
            Shape::Session => Framing::Session(MessageScan::new(Role::Server)),
            Shape::Opaque => Framing::Opaque,
        };
        let mut reading = Reading::default();
        if coding.is_none() {
            reading.doubts.add(Doubt::Undecodable);
        }
        Self { decoding: coding.map(Decoding::new), framing, reader: Reader::new(form), reading }
    }

    /// Reads a copy of the next bytes, at any cut.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Some(decoding) = &mut self.decoding else { return };
        let Self { framing, reader, reading, .. } = self;
        let decoded = decoding.feed(bytes, &mut |decoded| framing.take(decoded, reader, reading));
        if decoded.is_err() {
            // How far it could be undone depends on the cuts: none of it counts.
            self.reading = Reading::default();
            self.reading.doubts.add(Doubt::Undecodable);
            self.framing = Framing::Lost;
            self.decoding = None;
        }
    }

    /// The answer is over: `whole` when its vendor ended it and it did not break off.
    pub fn finish(mut self, whole: bool) -> Reading {
        if whole && matches!(self.framing, Framing::Json) && self.reader.end(&mut self.reading) {
            self.reading.finished = true;
            self.reading.ended = true;
        }
        self.reading
    }

    /// Another tap that has read the same, to try what would follow; none when what is read
    /// is compressed.
    pub fn fork(&self) -> Option<Self> {
        let decoding = match &self.decoding {
            Some(decoding) => Some(decoding.fork()?),
            None => None,
        };
        let Self { framing, reader, reading, .. } = self;
        Some(Self { decoding, framing: framing.clone(), reader: reader.clone(), reading: reading.clone() })
    }

    /// What was read so far.
    pub fn reading(&self) -> &Reading {
        &self.reading
    }
}

impl Framing {
    fn take(&mut self, bytes: &[u8], reader: &mut Reader, reading: &mut Reading) {
        match self {
            Self::Json => reader.feed(bytes, reading),
            Self::Events(scan) => scan.feed(bytes, &mut |part| match part {
                sse::Part::Data(data) => reader.feed(data, reading),
                sse::Part::EventEnd => {
                    reader.end(reading);
                }
            }),
            Self::Session(scan) => {
                let framed = scan.feed(bytes, &mut |part| match part {
                    messages::Part::Text(text) => reader.feed(text, reading),
                    messages::Part::TextEnd => {
                        reader.end(reading);
                    }
                    messages::Part::Binary => {}
                    messages::Part::Close => reading.ended = true,
                });
                if framed.is_err() {
                    reading.doubts.add(Doubt::Unreadable);
                    *self = Self::Lost;
                }
            }
            Self::Opaque | Self::Lost => {}
        }
    }
}
