//! Frames out: a head that goes before a payload which stays where it is.
//!
//! Invariant: a client's payload is masked exactly once, with a key of its own.

use super::HEAD_BYTES_MAX;
use super::Role;
use super::mask;

/// Kinds of frames that the tunnel sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A whole message.
    Binary = 0x2,
    /// The connection ends.
    Close = 0x8,
    /// Asks for a pong.
    Ping = 0x9,
    /// Answers a ping.
    Pong = 0xa,
}

/// The bytes before a payload.
#[derive(Debug, Clone, Copy)]
pub struct FrameHead {
    bytes: [u8; HEAD_BYTES_MAX],
    length: u8,
}

/// Fresh masking keys for every frame, from one random seed.
///
/// The keys hide bytes from proxies that would take them for HTTP. Inside TLS there is no
/// such proxy, so a plain generator does.
#[derive(Debug, Clone)]
pub struct MaskKeys(u64);

impl MaskKeys {
    /// Keys that follow from this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next key (SplitMix64).
    pub const fn next_key(&mut self) -> [u8; 4] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [a, b, c, d, ..] = (mixed ^ (mixed >> 31)).to_be_bytes();
        [a, b, c, d]
    }
}

impl FrameHead {
    /// The head of one whole frame. As a client, masks the payload.
    pub fn seal(role: Role, opcode: Opcode, payload: &mut [u8], keys: &mut MaskKeys) -> Self {
        const FIN: u8 = 0x80;
        let mut head = Self { bytes: [0; HEAD_BYTES_MAX], length: 0 };
        head.put(&[FIN | opcode as u8]);
        let masked = match role {
            Role::Server => 0,
            Role::Client => 0x80,
        };
        match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
            (Ok(length @ 0..=125), _) => head.put(&[masked | length]),
            (_, Ok(length)) => {
                head.put(&[masked | 126]);
                head.put(&length.to_be_bytes());
            }
            (_, Err(_)) => {
                head.put(&[masked | 127]);
                head.put(&u64::try_from(payload.len()).unwrap_or(u64::MAX).to_be_bytes());
            }
        }
        if role == Role::Client {
            let key = keys.next_key();
            head.put(&key);
            mask::apply(payload, key);
        }
        head
    }

    /// What goes on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length.into()]
    }

    fn put(&mut self, bytes: &[u8]) {
        let from = usize::from(self.length);
        self.bytes[from..from + bytes.len()].copy_from_slice(bytes);
        self.length += u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    }
}
