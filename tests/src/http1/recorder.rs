//! From bytes to whole messages, with the bytes kept.
//!
//! Invariant: counts and hashes cover everything that passed, also what was too much to keep.

use super::Framing;
use super::Head;
use super::Header;
use super::Malformed;
use super::Side;
use super::decoder::Decoder;
use super::decoder::Event;
use super::hex;
use super::length;
use bytes::BytesMut;
use sha2::Digest;
use sha2::Sha256;

/// One recorded message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its head.
    pub head: Head,
    /// How its body is framed.
    pub framing: Framing,
    /// The body without framing, as far as it was kept.
    pub body: Vec<u8>,
    /// How many body bytes there were, kept or not.
    pub body_bytes: u64,
    /// Sizes of the chunks of a chunked body, the last (0) included.
    pub chunks: Vec<u64>,
    /// Trailers of a chunked body.
    pub trailers: Vec<Header>,
    /// Whether the body ended as its framing says.
    pub complete: bool,
    hasher: Sha256,
}

impl Message {
    /// A message whose head has just been read.
    #[must_use]
    pub fn begin(head: Head, framing: Framing) -> Self {
        Self {
            head,
            framing,
            body: Vec::new(),
            body_bytes: 0,
            chunks: Vec::new(),
            trailers: Vec::new(),
            complete: false,
            hasher: Sha256::new(),
        }
    }

    /// Adds what came after the head; keeps at most `keep_max` body bytes, hashes all.
    pub fn absorb(&mut self, event: Event, keep_max: usize) {
        match event {
            Event::Head(..) => {}
            Event::Chunk(size) => self.chunks.push(size),
            Event::Body(piece) => {
                self.hasher.update(&piece);
                self.body_bytes += length(&piece);
                keep(&mut self.body, &piece, keep_max);
            }
            Event::Trailers(trailers) => self.trailers = trailers,
            Event::End => self.complete = true,
        }
    }

    /// SHA-256 of the body bytes so far, in hex.
    #[must_use]
    pub fn body_sha256(&self) -> String {
        hex(&self.hasher.clone().finalize())
    }
}

/// Keeps the exact bytes of one direction of a connection, and the messages in them.
#[derive(Debug, Clone)]
pub struct Recorder {
    decoder: Decoder,
    waiting: BytesMut,
    keep_max: usize,
    raw: Vec<u8>,
    raw_bytes: u64,
    messages: Vec<Message>,
    error: Option<Malformed>,
}

impl Recorder {
    /// A recorder that keeps at most `keep_max` raw bytes, and as many of each body.
    #[must_use]
    pub fn new(side: Side, keep_max: usize) -> Self {
        Self {
            decoder: Decoder::new(side),
            waiting: BytesMut::new(),
            keep_max,
            raw: Vec::new(),
            raw_bytes: 0,
            messages: Vec::new(),
            error: None,
        }
    }

    /// See [`Decoder::expect_answer_to`].
    pub fn expect_answer_to(&mut self, method: &str) {
        self.decoder.expect_answer_to(method);
    }

    /// The other side has answered 101: what follows belongs to the last message's body.
    pub fn upgraded(&mut self) {
        self.decoder.upgraded();
        if let Some(message) = self.messages.last_mut() {
            message.framing = Framing::ToEnd;
            message.complete = false;
        }
    }

    /// Takes bytes as they passed.
    pub fn push(&mut self, bytes: &[u8]) {
        self.raw_bytes += length(bytes);
        keep(&mut self.raw, bytes, self.keep_max);
        if self.error.is_some() {
            return;
        }
        self.waiting.extend_from_slice(bytes);
        loop {
            match self.decoder.next(&mut self.waiting) {
                Ok(Some(Event::Head(head, framing))) => {
                    self.messages.push(Message::begin(head, framing));
                }
                Ok(Some(event)) => {
                    if let Some(message) = self.messages.last_mut() {
                        message.absorb(event, self.keep_max);
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    self.error = Some(error);
                    return;
                }
            }
        }
    }

    /// The sender closed its direction; `clean` is false for a reset or a missing TLS goodbye.
    pub fn end(&mut self, clean: bool) {
        let proper = self.decoder.end_of_input();
        if self.error.is_some() {
            return;
        }
        if let Some(message) = self.messages.last_mut()
            && message.framing == Framing::ToEnd
        {
            message.complete = proper && clean;
        }
    }

    /// The messages so far; the last may be incomplete.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The exact bytes, as far as they were kept.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// How many bytes passed, kept or not.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Why the stream stopped being HTTP/1.1, if it did.
    #[must_use]
    pub fn error(&self) -> Option<&Malformed> {
        self.error.as_ref()
    }
}

/// All messages of one recorded direction that has ended.
///
/// # Errors
/// When the bytes are not HTTP/1.1; messages before the fault are lost, use [`Recorder`] for them.
pub fn messages(side: Side, bytes: &[u8]) -> Result<Vec<Message>, Malformed> {
    let mut recorder = Recorder::new(side, usize::MAX);
    recorder.push(bytes);
    recorder.end(true);
    match recorder.error {
        Some(error) => Err(error),
        None => Ok(recorder.messages),
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8], keep_max: usize) {
    let room = keep_max.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(&bytes[..room]);
}
