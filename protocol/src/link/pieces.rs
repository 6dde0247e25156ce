//! A queue of bytes that came in pieces: what waits to be sent, what waits to be read.
//!
//! Invariant: what it holds in memory is a small multiple of its bytes, however small the pieces are.

use std::collections::VecDeque;

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;

/// Pieces smaller than this are gathered into one.
pub(super) const GATHER_BELOW_BYTES: usize = 16 * 1024;

/// When a small piece is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Only behind others: the first one is gone as a whole soon.
    Alone,
    /// Always: as it is, it would keep the message it came in alive.
    Whole,
}

#[derive(Debug, Default)]
pub(super) struct Pieces {
    whole: VecDeque<Bytes>,
    gathered: BytesMut,
    bytes: usize,
}

impl Pieces {
    pub(super) fn push(&mut self, data: Bytes, keep: Keep) {
        let alone = self.bytes == 0 && keep == Keep::Alone;
        self.bytes += data.len();
        let gathers = data.len() < GATHER_BELOW_BYTES && !alone;
        // A gathered piece keeps all of its memory until the last byte of it has gone.
        let has_room = gathers && self.gathered.len() + data.len() <= GATHER_BELOW_BYTES;
        if !has_room && !self.gathered.is_empty() {
            self.whole.push_back(std::mem::take(&mut self.gathered).freeze());
        }
        match gathers {
            true => self.gathered.extend_from_slice(&data),
            false => self.whole.push_back(data),
        }
    }

    /// The next bytes, as they came or as they were gathered.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let data = match self.whole.pop_front() {
            Some(data) => data,
            None if self.gathered.is_empty() => return None,
            None => std::mem::take(&mut self.gathered).freeze(),
        };
        self.bytes -= data.len();
        Some(data)
    }

    /// Moves up to `most` bytes to the end of `out`.
    pub(super) fn take(&mut self, most: usize, out: &mut BytesMut) {
        let mut left = most.min(self.bytes);
        self.bytes -= left;
        while left > 0 {
            if self.whole.is_empty() {
                self.whole.push_back(std::mem::take(&mut self.gathered).freeze());
            }
            let Some(front) = self.whole.front_mut() else { break };
            let length = front.len().min(left);
            out.extend_from_slice(&front[..length]);
            front.advance(length);
            left -= length;
            if front.is_empty() {
                self.whole.pop_front();
            }
        }
        if self.whole.is_empty() {
            // An idle stream keeps no memory for what once was.
            self.whole = VecDeque::new();
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What it holds in memory beyond the pieces it was given as they are.
    #[cfg(test)]
    pub(super) fn overhead_bytes(&self) -> usize {
        self.gathered.capacity() + self.whole.capacity() * size_of::<Bytes>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_that_nobody_reads_are_gathered_in_order() {
        let mut inbox = Pieces::default();
        let message = Bytes::from(vec![b'x'; 60_000]);
        inbox.push(message.slice(0..10), Keep::Whole);
        for piece in ["ab", "cd", "ef"] {
            inbox.push(Bytes::from_static(piece.as_bytes()), Keep::Whole);
        }
        inbox.push(Bytes::from(vec![b'y'; GATHER_BELOW_BYTES]), Keep::Whole);

        let mut read = Vec::new();
        let mut pieces = 0;
        while let Some(piece) = inbox.pop() {
            read.extend_from_slice(&piece);
            pieces += 1;
        }

        assert_eq!(&read[..16], b"xxxxxxxxxxabcdef");
        assert_eq!((read.len(), pieces, inbox.bytes()), (16 + GATHER_BELOW_BYTES, 2, 0));
    }

    #[test]
    fn a_stalled_token_stream_costs_its_bytes_and_not_its_pieces() {
        for keep in [Keep::Alone, Keep::Whole] {
            let mut pieces = Pieces::default();
            for _ in 0..64 * 1024 / 40 {
                pieces.push(Bytes::from_static(&[b't'; 40]), keep);
            }

            assert!(pieces.overhead_bytes() <= 2 * 64 * 1024 + 1024, "{}", pieces.overhead_bytes());
        }
    }

    #[test]
    fn taking_goes_through_pieces_of_every_kind_in_order() {
        let mut pieces = Pieces::default();
        let large: Bytes = (0..20_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        pieces.push(Bytes::from_static(b"first"), Keep::Alone);
        pieces.push(Bytes::from_static(b"second"), Keep::Alone);
        pieces.push(large.clone(), Keep::Alone);
        pieces.push(Bytes::from_static(b"last"), Keep::Alone);
        let mut out = BytesMut::new();
        for most in [3, 7, 1, 20_001, 100] {
            pieces.take(most, &mut out);
        }

        let expected = [&b"firstsecond"[..], &large, b"last"].concat();
        assert!(out == expected && pieces.bytes() == 0);
    }
}
