//! Frames in: bytes as they come, cut wherever the network cut them.
//!
//! Invariant: a byte is looked at once, and where it was cut makes no difference.

use bytes::Bytes;
use bytes::BytesMut;

use super::CONTROL_BYTES_MAX;
use super::HEAD_BYTES_MAX;
use super::Role;
use super::WebSocketFault;
use super::encode::Opcode;
use super::mask;

/// What came whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A binary message.
    Binary(Bytes),
    /// A ping; its payload wants to be sent back.
    Ping(Bytes),
    /// A pong, asked for or not.
    Pong,
    /// The peer closes, with its reason's number if it gave one.
    Close(Option<u16>),
}

/// Reads one direction of a connection. Holds no memory between messages.
#[derive(Debug)]
pub struct Decoder {
    masked: bool,
    message_bytes_max: usize,
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    payload: Option<Payload>,
}

/// A frame whose head is known.
#[derive(Debug)]
struct Payload {
    opcode: Opcode,
    key: Option<[u8; 4]>,
    left: usize,
    bytes: BytesMut,
}

impl Decoder {
    /// For what comes to this end of a connection.
    pub const fn new(role: Role, message_bytes_max: usize) -> Self {
        let masked = matches!(role, Role::Server);
        Self { masked, message_bytes_max, head: [0; HEAD_BYTES_MAX], head_bytes: 0, payload: None }
    }

    /// Takes bytes off the front of `input` up to the end of the next message; with none,
    /// all of `input` is taken and more is needed.
    ///
    /// # Errors
    /// [`WebSocketFault`] when the connection must close; nothing after it means anything.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Message>, WebSocketFault> {
        let mut payload = match self.payload.take() {
            Some(payload) => payload,
            None => match self.read_head(input)? {
                Some(payload) => payload,
                None => return Ok(None),
            },
        };
        let taken = payload.left.min(input.len());
        let (now, later) = input.split_at(taken);
        payload.bytes.extend_from_slice(now);
        payload.left -= taken;
        *input = later;
        if payload.left > 0 {
            self.payload = Some(payload);
            return Ok(None);
        }
        payload.finish().map(Some)
    }

    /// Gathers a head's bytes until there are as many as it says itself.
    fn read_head(&mut self, input: &mut &[u8]) -> Result<Option<Payload>, WebSocketFault> {
        loop {
            let wanted = match self.head {
                _ if self.head_bytes < 2 => 2,
                [first, second, ..] => {
                    if self.head_bytes == 2 {
                        self.judge_start(first, second)?;
                    }
                    2 + length_bytes(second) + if self.masked { 4 } else { 0 }
                }
            };
            if self.head_bytes == wanted {
                self.head_bytes = 0;
                return self.judge_head().map(Some);
            }
            let taken = (wanted - self.head_bytes).min(input.len());
            if taken == 0 {
                return Ok(None);
            }
            let (now, later) = input.split_at(taken);
            self.head[self.head_bytes..self.head_bytes + taken].copy_from_slice(now);
            self.head_bytes += taken;
            *input = later;
        }
    }

    /// All that the first two bytes can do wrong.
    fn judge_start(&self, first: u8, second: u8) -> Result<(), WebSocketFault> {
        if first & 0x70 != 0 {
            return Err(WebSocketFault::Reserved);
        }
        if first & 0x80 == 0 || first & 0x0f == 0 {
            return Err(WebSocketFault::Fragmented);
        }
        let opcode = opcode(first)?;
        if (second & 0x80 != 0) != self.masked {
            return Err(WebSocketFault::Masking);
        }
        if opcode != Opcode::Binary && usize::from(second & 0x7f) > CONTROL_BYTES_MAX {
            return Err(WebSocketFault::TooLarge);
        }
        Ok(())
    }

    fn judge_head(&self) -> Result<Payload, WebSocketFault> {
        let [first, second, rest @ ..] = self.head;
        let [a, b, c, d, e, f, g, h, ..] = rest;
        let length = match second & 0x7f {
            126 => Some(u64::from(u16::from_be_bytes([a, b]))).filter(|length| *length > 125),
            127 => Some(u64::from_be_bytes([a, b, c, d, e, f, g, h])).filter(|length| *length > u64::from(u16::MAX)),
            short => Some(u64::from(short)),
        };
        let length = length.ok_or(WebSocketFault::Length)?;
        let length = usize::try_from(length).map_err(|_| WebSocketFault::TooLarge)?;
        if length > self.message_bytes_max {
            return Err(WebSocketFault::TooLarge);
        }
        let key = self.masked.then(|| {
            let mut key = [0; 4];
            let from = length_bytes(second);
            key.copy_from_slice(&rest[from..from + 4]);
            key
        });
        Ok(Payload { opcode: opcode(first)?, key, left: length, bytes: BytesMut::with_capacity(length) })
    }
}

impl Payload {
    fn finish(mut self) -> Result<Message, WebSocketFault> {
        if let Some(key) = self.key {
            mask::apply(&mut self.bytes, key);
        }
        Ok(match self.opcode {
            Opcode::Binary => Message::Binary(self.bytes.freeze()),
            Opcode::Ping => Message::Ping(self.bytes.freeze()),
            Opcode::Pong => Message::Pong,
            Opcode::Close => match &self.bytes[..] {
                [] => Message::Close(None),
                [_] => return Err(WebSocketFault::Close),
                [high, low, ..] => Message::Close(Some(u16::from_be_bytes([*high, *low]))),
            },
        })
    }
}

fn opcode(first: u8) -> Result<Opcode, WebSocketFault> {
    match first & 0x0f {
        0x2 => Ok(Opcode::Binary),
        0x8 => Ok(Opcode::Close),
        0x9 => Ok(Opcode::Ping),
        0xa => Ok(Opcode::Pong),
        other => Err(WebSocketFault::Opcode(other)),
    }
}

/// Bytes of the length that follow the second byte.
pub(super) const fn length_bytes(second: u8) -> usize {
    match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}
