//! RFC 6455 as a vendor's server speaks it.
//!
//! Invariant: accepts from a client only what the standard allows: masked frames without extensions.

use crate::http1::Head;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Buf;
use bytes::BytesMut;
use sha1::Digest;
use sha1::Sha1;

const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) last: bool,
    pub(super) opcode: Opcode,
    pub(super) payload: Vec<u8>,
}

impl Opcode {
    const ALL: [(u8, Self); 6] = [
        (0, Self::Continuation),
        (1, Self::Text),
        (2, Self::Binary),
        (8, Self::Close),
        (9, Self::Ping),
        (10, Self::Pong),
    ];

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.iter().find(|(listed, _)| *listed == number).map(|(_, opcode)| *opcode)
    }

    fn number(self) -> u8 {
        Self::ALL.iter().find(|(_, listed)| *listed == self).map_or(0, |(number, _)| *number)
    }

    const fn is_control(self) -> bool {
        match self {
            Self::Close | Self::Ping | Self::Pong => true,
            Self::Continuation | Self::Text | Self::Binary => false,
        }
    }
}

/// The key of a request that asks for a WebSocket as RFC 6455 wants it; `None` for any other.
pub(super) fn key(head: &Head) -> Option<String> {
    let says = |name: &str, word: &str| {
        let listed = head.all(name).join(",");
        listed.split(',').any(|one| one.trim().eq_ignore_ascii_case(word))
    };
    let version = head.all("sec-websocket-version") == ["13"];
    let keys = head.all("sec-websocket-key");
    let key = keys.first().filter(|_| keys.len() == 1)?;
    let sixteen = STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16);
    let asks = says("upgrade", "websocket") && says("connection", "upgrade") && version && sixteen;
    asks.then(|| key.clone())
}

/// The subprotocols that a request offers.
pub(super) fn protocols(head: &Head) -> Vec<String> {
    let listed = head.all("sec-websocket-protocol").join(",");
    listed.split(',').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
}

/// The answer to a key.
pub(super) fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}{GUID}")))
}

/// The next frame of a client; `None` wants more bytes.
///
/// # Errors
/// What the standard forbids.
pub(super) fn next_frame(input: &mut BytesMut) -> Result<Option<Frame>, String> {
    let [first, second, ..] = input[..] else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err("a reserved bit is set".to_owned());
    }
    let opcode = Opcode::from_number(first & 0x0f).ok_or_else(|| format!("opcode {}", first & 0x0f))?;
    let last = first & 0x80 != 0;
    if second & 0x80 == 0 {
        return Err("a client's frame is not masked".to_owned());
    }
    let (length, head) = match second & 0x7f {
        126 if input.len() >= 4 => (u64::from(u16::from_be_bytes([input[2], input[3]])), 4),
        127 if input.len() >= 10 => {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&input[2..10]);
            (u64::from_be_bytes(bytes), 10)
        }
        126 | 127 => return Ok(None),
        short => (u64::from(short), 2),
    };
    if opcode.is_control() && (length > 125 || !last) {
        return Err("a control frame is too long or in pieces".to_owned());
    }
    let length = usize::try_from(length).map_err(|_| "a frame is too long".to_owned())?;
    if input.len() < head + 4 + length {
        return Ok(None);
    }
    input.advance(head);
    let mask = [input[0], input[1], input[2], input[3]];
    input.advance(4);
    let mut payload = input.split_to(length).to_vec();
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok(Some(Frame { last, opcode, payload }))
}

/// A frame of a server.
pub(super) fn frame(opcode: Opcode, last: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![opcode.number() | if last { 0x80 } else { 0 }];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short), _) if short < 126 => bytes.push(short),
        (_, Ok(long)) => {
            bytes.push(126);
            bytes.extend(long.to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend(u64::try_from(payload.len()).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// The payload of a close frame.
pub(super) fn close(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}
