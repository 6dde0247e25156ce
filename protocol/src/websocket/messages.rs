//! The messages of somebody else's WebSocket session, read from a copy of the raw bytes of
//! one direction: which bytes are text of which message. Fragments and pings between them
//! are as RFC 6455 has them; extensions are not.
//!
//! Invariant: of a frame only its head is kept; the same bytes give the same parts however
//! they are cut.

use super::HEAD_BYTES_MAX;
use super::Role;
use super::WebSocketFault;
use super::decode::length_bytes;

/// What the bytes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Text of the present message, unmasked; further parts may follow.
    Text(&'a [u8]),
    /// The present message of text is over.
    TextEnd,
    /// A frame of a binary message begins.
    Binary,
    /// The sender closes the session.
    Close,
}

/// Unmasked at once.
const PIECE_BYTES: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
    Control,
}

/// The reader of one direction.
#[derive(Debug, Clone)]
pub struct MessageScan {
    sender: Role,
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    frame: Option<Frame>,
    /// Of the message that has begun and not ended.
    message: Option<Kind>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: Kind,
    ends_message: bool,
    left: u64,
    mask: [u8; 4],
    /// Where in the mask the next byte stands.
    mask_at: usize,
}

impl MessageScan {
    /// A reader of what this end sends.
    pub const fn new(sender: Role) -> Self {
        Self { sender, head: [0; HEAD_BYTES_MAX], head_bytes: 0, frame: None, message: None }
    }

    /// Whether a frame of this direction is whole: another one could be put here.
    pub const fn is_between_frames(&self) -> bool {
        self.frame.is_none() && self.head_bytes == 0
    }

    /// Reads the next bytes.
    ///
    /// # Errors
    /// When they are no frames that may be read; the reader is of no use then.
    pub fn feed(&mut self, mut bytes: &[u8], visit: &mut impl FnMut(Part<'_>)) -> Result<(), WebSocketFault> {
        while !bytes.is_empty() {
            match self.frame {
                None => bytes = self.head(bytes, visit)?,
                Some(frame) => bytes = self.payload(frame, bytes, visit),
            }
        }
        Ok(())
    }

    fn head<'a>(&mut self, bytes: &'a [u8], visit: &mut impl FnMut(Part<'_>)) -> Result<&'a [u8], WebSocketFault> {
        let Some((&byte, rest)) = bytes.split_first() else { return Ok(bytes) };
        let slot = self.head.get_mut(self.head_bytes).ok_or(WebSocketFault::Length)?;
        *slot = byte;
        self.head_bytes += 1;
        let Some((left, mask)) = self.length_and_mask()? else { return Ok(rest) };
        let [first, ..] = self.head;
        self.head_bytes = 0;
        let last = first & 0x80 != 0;
        let kind = self.kind(first, visit)?;
        if kind != Kind::Control {
            self.message = Some(kind).filter(|_| !last);
        } else if !last {
            return Err(WebSocketFault::Fragmented);
        }
        self.enter(Frame { kind, ends_message: kind == Kind::Text && last, left, mask, mask_at: 0 }, visit);
        Ok(rest)
    }

    fn kind(&self, first: u8, visit: &mut impl FnMut(Part<'_>)) -> Result<Kind, WebSocketFault> {
        match (first & 0x0f, self.message) {
            (0, None) | (1 | 2, Some(_)) => Err(WebSocketFault::Fragmented),
            (0, Some(kind)) => Ok(kind),
            (1, None) => Ok(Kind::Text),
            (2, None) => {
                visit(Part::Binary);
                Ok(Kind::Binary)
            }
            (8, _) => {
                visit(Part::Close);
                Ok(Kind::Control)
            }
            (9 | 10, _) => Ok(Kind::Control),
            (other, _) => Err(WebSocketFault::Opcode(other)),
        }
    }

    /// The payload's length and its mask, once the whole head is there.
    fn length_and_mask(&self) -> Result<Option<(u64, [u8; 4])>, WebSocketFault> {
        let head = self.head.get(..self.head_bytes).unwrap_or_default();
        let [first, second, rest @ ..] = head else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(WebSocketFault::Reserved);
        }
        let masked = second & 0x80 != 0;
        if masked != (self.sender == Role::Client) {
            return Err(WebSocketFault::Masking);
        }
        let extended = length_bytes(*second);
        let mask_bytes = if masked { 4 } else { 0 };
        if rest.len() < extended + mask_bytes {
            return Ok(None);
        }
        let (length, mask) = rest.split_at(extended);
        let length = match length {
            [] => u64::from(second & 0x7f),
            _ => length.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        let mask = mask.try_into().unwrap_or_default();
        Ok(Some((length, mask)))
    }

    fn payload<'a>(&mut self, mut frame: Frame, bytes: &'a [u8], visit: &mut impl FnMut(Part<'_>)) -> &'a [u8] {
        let taken = usize::try_from(frame.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let (payload, rest) = bytes.split_at(taken);
        if frame.kind == Kind::Text {
            frame.unmask(self.sender, payload, visit);
        }
        frame.left = frame.left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
        self.enter(frame, visit);
        rest
    }

    /// Goes on in a frame, or past it when nothing of it is left.
    fn enter(&mut self, frame: Frame, visit: &mut impl FnMut(Part<'_>)) {
        self.frame = Some(frame).filter(|frame| frame.left > 0);
        if self.frame.is_none() && frame.ends_message {
            visit(Part::TextEnd);
        }
    }
}

impl Frame {
    fn unmask(&mut self, sender: Role, payload: &[u8], visit: &mut impl FnMut(Part<'_>)) {
        if sender == Role::Server {
            return visit(Part::Text(payload));
        }
        let mut clear = [0; PIECE_BYTES];
        for piece in payload.chunks(PIECE_BYTES) {
            let mask = self.mask.iter().cycle().skip(self.mask_at);
            for ((to, from), mask) in clear.iter_mut().zip(piece).zip(mask) {
                *to = from ^ mask;
            }
            self.mask_at = (self.mask_at + piece.len()) % self.mask.len();
            visit(Part::Text(clear.get(..piece.len()).unwrap_or_default()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_at_every_cut_with_pings_between_their_frames() {
        let long = "x".repeat(70_000);
        for sender in [Role::Server, Role::Client] {
            let frame = |first, payload| frame(sender, first, payload);
            let mut bytes = frame(0x81, b"{\"a\":1}");
            bytes.extend(frame(0x01, b"{\"b\""));
            bytes.extend(frame(0x89, b"ping"));
            bytes.extend(frame(0x80, b":2}"));
            bytes.extend(frame(0x82, b"bytes"));
            bytes.extend(frame(0x81, b""));
            bytes.extend(frame(0x81, long.as_bytes()));
            bytes.extend(frame(0x88, &[3, 232]));
            let expected = ["{\"a\":1}", "{\"b\":2}", "binary", "", &long, "close"];

            for cut in 0..100 {
                let (before, after) = bytes.split_at(cut);
                assert_eq!(messages(sender, &[before, after]).unwrap(), expected, "{sender:?} {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(messages(sender, &single).unwrap(), expected);
        }
    }

    #[test]
    fn what_rfc_6455_forbids_is_a_fault() {
        let bad: [(&[u8], WebSocketFault); 6] = [
            (&[0x81, 0x81, 1, 2, 3, 4, 5], WebSocketFault::Masking),
            (&[0xc1, 1, 1], WebSocketFault::Reserved),
            (&[0x83, 1, 1], WebSocketFault::Opcode(3)),
            (&[0x80, 1, 1], WebSocketFault::Fragmented),
            (&[0x01, 1, 1, 0x81, 1, 1], WebSocketFault::Fragmented),
            (&[0x09, 1, 1], WebSocketFault::Fragmented),
        ];
        for (bytes, fault) in bad {
            assert_eq!(messages(Role::Server, &[bytes]), Err(fault), "{bytes:x?}");
        }
        assert_eq!(messages(Role::Client, &[&[0x81, 1, 1]]), Err(WebSocketFault::Masking));
    }

    #[test]
    fn it_knows_whether_a_frame_is_whole() {
        let mut scan = MessageScan::new(Role::Server);
        let mut between = Vec::new();
        for byte in frame(Role::Server, 0x81, b"ab") {
            scan.feed(&[byte], &mut |_| {}).unwrap();
            between.push(scan.is_between_frames());
        }

        assert_eq!(between, [false, false, false, true]);
    }

    #[test]
    fn no_bytes_lead_to_a_panic() {
        bolero::check!().with_type::<(bool, Vec<u8>)>().for_each(|(client, bytes)| {
            let _ = messages(if *client { Role::Client } else { Role::Server }, &[bytes]);
        });
    }

    fn frame(sender: Role, first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = if sender == Role::Client { [7, 0, 200, 33] } else { [0; 4] };
        let masked = if sender == Role::Client { 0x80 } else { 0 };
        let mut frame = vec![first];
        match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
            (Ok(length @ ..=125), _) => frame.push(masked | length),
            (_, Ok(length)) => {
                frame.push(masked | 126);
                frame.extend(length.to_be_bytes());
            }
            (_, Err(_)) => {
                frame.push(masked | 127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        if sender == Role::Client {
            frame.extend(mask);
        }
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn messages(sender: Role, pieces: &[&[u8]]) -> Result<Vec<String>, WebSocketFault> {
        let mut scan = MessageScan::new(sender);
        let mut messages = Vec::new();
        let mut message = Vec::new();
        for piece in pieces {
            scan.feed(piece, &mut |part| match part {
                Part::Text(text) => message.extend_from_slice(text),
                Part::TextEnd => messages.push(String::from_utf8_lossy(&std::mem::take(&mut message)).into_owned()),
                Part::Binary => messages.push("binary".to_owned()),
                Part::Close => messages.push("close".to_owned()),
            })?;
        }
        Ok(messages)
    }
}
