//! A vendor's WebSocket frames (RFC 6455, section 5) on a copy of the raw bytes: which
//! bytes are text of which message.
//!
//! Invariant: of a frame only its head is kept.

/// What the bytes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Text of the present message; further parts may follow.
    Text(&'a [u8]),
    /// The present message is over.
    MessageEnd,
    /// The vendor closes the session.
    Close,
}

/// The bytes are no frames that may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoFrames;

/// The longest head of a frame: two bytes, a length of eight, a mask of four.
const HEAD_BYTES_MAX: usize = 14;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Close,
    /// Binary, ping and pong: nothing in them is JSON.
    Other,
}

/// The reader of one direction.
#[derive(Debug, Clone)]
pub(super) struct WebSocketScan {
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    frame: Option<Frame>,
    /// The message being continued is text.
    in_text: bool,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    is_text: bool,
    ends_message: bool,
    left: u64,
}

impl WebSocketScan {
    pub(super) fn new() -> Self {
        Self { head: [0; HEAD_BYTES_MAX], head_bytes: 0, frame: None, in_text: false }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], visit: &mut impl FnMut(Part<'_>)) -> Result<(), NoFrames> {
        while !bytes.is_empty() {
            match self.frame {
                None => bytes = self.head(bytes, visit)?,
                Some(frame) => bytes = self.payload(frame, bytes, visit),
            }
        }
        Ok(())
    }

    fn head<'a>(&mut self, bytes: &'a [u8], visit: &mut impl FnMut(Part<'_>)) -> Result<&'a [u8], NoFrames> {
        let Some((&byte, rest)) = bytes.split_first() else { return Ok(bytes) };
        let slot = self.head.get_mut(self.head_bytes).ok_or(NoFrames)?;
        *slot = byte;
        self.head_bytes += 1;
        let Some(left) = self.length()? else { return Ok(rest) };
        let [first, ..] = self.head;
        self.head_bytes = 0;
        let last = first & 0x80 != 0;
        let opcode = opcode(first)?;
        let is_text = match opcode {
            Opcode::Text => true,
            Opcode::Continuation => self.in_text,
            Opcode::Close => {
                visit(Part::Close);
                false
            }
            Opcode::Other => false,
        };
        if matches!(opcode, Opcode::Text | Opcode::Continuation) {
            self.in_text = is_text && !last;
        }
        self.enter(Frame { is_text, ends_message: is_text && last, left }, visit);
        Ok(rest)
    }

    /// The payload's length, once the whole head is there. A vendor does not mask.
    fn length(&self) -> Result<Option<u64>, NoFrames> {
        let head = self.head.get(..self.head_bytes).unwrap_or_default();
        let [first, second, extended @ ..] = head else { return Ok(None) };
        if first & 0x70 != 0 || second & 0x80 != 0 {
            return Err(NoFrames);
        }
        Ok(match (second, extended.len()) {
            (126, 2) | (127, 8) => Some(extended.iter().fold(0, |length, byte| length << 8 | u64::from(*byte))),
            (126 | 127, _) => None,
            (length, _) => Some(u64::from(*length)),
        })
    }

    fn payload<'a>(&mut self, frame: Frame, bytes: &'a [u8], visit: &mut impl FnMut(Part<'_>)) -> &'a [u8] {
        let taken = usize::try_from(frame.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let (payload, rest) = bytes.split_at(taken);
        if frame.is_text {
            visit(Part::Text(payload));
        }
        let left = frame.left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
        self.enter(Frame { left, ..frame }, visit);
        rest
    }

    /// Goes on in a frame, or past it when nothing of it is left.
    fn enter(&mut self, frame: Frame, visit: &mut impl FnMut(Part<'_>)) {
        self.frame = Some(frame).filter(|frame| frame.left > 0);
        if self.frame.is_none() && frame.ends_message {
            visit(Part::MessageEnd);
        }
    }
}

fn opcode(first: u8) -> Result<Opcode, NoFrames> {
    match first & 0x0f {
        0 => Ok(Opcode::Continuation),
        1 => Ok(Opcode::Text),
        2 | 9 | 10 => Ok(Opcode::Other),
        8 => Ok(Opcode::Close),
        _ => Err(NoFrames),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_at_every_cut_with_pings_between_their_frames() {
        let long = "x".repeat(70_000);
        let mut bytes = frame(0x81, b"{\"a\":1}");
        bytes.extend(frame(0x01, b"{\"b\""));
        bytes.extend(frame(0x89, b"ping"));
        bytes.extend(frame(0x80, b":2}"));
        bytes.extend(frame(0x82, b"binary"));
        bytes.extend(frame(0x81, b""));
        bytes.extend(frame(0x81, long.as_bytes()));
        bytes.extend(frame(0x88, &[3, 232]));
        let expected = ["{\"a\":1}", "{\"b\":2}", "", &long, "close"];

        for cut in 0..80 {
            let (before, after) = bytes.split_at(cut);
            assert_eq!(messages(&[before, after]).unwrap(), expected, "{cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(messages(&single).unwrap(), expected);
    }

    #[test]
    fn masked_frames_reserved_bits_and_unknown_opcodes_are_no_frames() {
        for bad in [[0x81, 0x81], [0xc1, 1], [0x83, 1], [0x8b, 1]] {
            assert_eq!(messages(&[&bad, b"xxxxx"]), Err(NoFrames), "{bad:x?}");
        }
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
            (Ok(length @ ..=125), _) => frame.push(length),
            (_, Ok(length)) => {
                frame.push(126);
                frame.extend(length.to_be_bytes());
            }
            (_, Err(_)) => {
                frame.push(127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }

    fn messages(pieces: &[&[u8]]) -> Result<Vec<String>, NoFrames> {
        let mut scan = WebSocketScan::new();
        let mut messages = Vec::new();
        let mut message = Vec::new();
        for piece in pieces {
            scan.feed(piece, &mut |part| match part {
                Part::Text(text) => message.extend_from_slice(text),
                Part::MessageEnd => messages.push(String::from_utf8(std::mem::take(&mut message)).unwrap()),
                Part::Close => messages.push("close".to_owned()),
            })?;
        }
        Ok(messages)
    }
}
