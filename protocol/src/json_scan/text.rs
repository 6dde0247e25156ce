//! The inside of strings: what is kept of them, characters that a cut has
//! split, and the search for the next byte that needs attention.
//!
//! Invariant: never holds more than the prefix and one character.

use super::JsonFault;
use super::TEXT_BYTES_MAX;
use super::Text;
use super::wide;

/// The prefix of the token being read.
#[derive(Debug, Clone)]
pub(super) struct Capture {
    kept: [u8; TEXT_BYTES_MAX],
    kept_len: usize,
    len: u64,
    /// How many of the bytes go on with a character and begin none.
    inner: u64,
}

impl Capture {
    pub(super) const fn new() -> Self {
        Self { kept: [0; TEXT_BYTES_MAX], kept_len: 0, len: 0, inner: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.kept_len = 0;
        self.len = 0;
        self.inner = 0;
    }

    #[inline]
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.len = self.len.saturating_add(wide(bytes.len()));
        let room = self.kept.get_mut(self.kept_len..).unwrap_or_default();
        let count = room.len().min(bytes.len());
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.kept_len += count;
    }

    /// The same with characters beyond ASCII, all of them whole.
    pub(super) fn extend_wide(&mut self, bytes: &[u8]) {
        let inner = bytes.iter().filter(|byte| **byte & 0xc0 == 0x80).count();
        self.inner = self.inner.saturating_add(wide(inner));
        self.extend(bytes);
    }

    pub(super) fn text(&self) -> Text<'_> {
        let prefix = self.kept.get(..self.kept_len).unwrap_or_default();
        Text { prefix, len: self.len, chars: self.len.saturating_sub(self.inner) }
    }
}

/// A character that a cut has split.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PartialChar {
    bytes: [u8; 4],
    len: usize,
}

impl PartialChar {
    /// Whether a character is begun and not yet whole.
    pub(super) const fn is_begun(self) -> bool {
        self.len > 0
    }

    /// Adds a byte; gives the character and its length when it is whole.
    pub(super) fn push(&mut self, byte: u8) -> Result<Option<([u8; 4], usize)>, JsonFault> {
        let slot = self.bytes.get_mut(self.len).ok_or(JsonFault::Utf8)?;
        *slot = byte;
        self.len += 1;
        match std::str::from_utf8(self.bytes.get(..self.len).unwrap_or_default()) {
            Ok(_) => {
                let whole = (self.bytes, self.len);
                self.len = 0;
                Ok(Some(whole))
            }
            Err(error) if error.error_len().is_none() => Ok(None),
            Err(_) => Err(JsonFault::Utf8),
        }
    }
}

/// How many bytes from the front need no attention inside a string, and
/// whether any of them is beyond ASCII. Whole blocks first, without a branch
/// per byte, so that the compiler uses vector instructions.
#[inline]
pub(super) fn plain_run(bytes: &[u8]) -> (usize, bool) {
    const BLOCK: usize = 32;
    let mut len = 0;
    let mut seen = 0;
    for block in bytes.chunks_exact(BLOCK) {
        let stops = block.iter().fold(0, |found, byte| found | stop(*byte));
        if stops != 0 {
            break;
        }
        seen |= block.iter().fold(0, |all, byte| all | byte);
        len += BLOCK;
    }
    for byte in bytes.get(len..).unwrap_or_default() {
        if stop(*byte) != 0 {
            break;
        }
        seen |= byte;
        len += 1;
    }
    (len, seen >= 0x80)
}

/// 1 for a byte that ends a run: quote, backslash, control character.
#[inline]
fn stop(byte: u8) -> u8 {
    u8::from(byte == b'"') | u8::from(byte == b'\\') | u8::from(byte < 0x20)
}
