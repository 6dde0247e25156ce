//! The tunnel's frames. One WebSocket binary message is a batch of whole frames;
//! a frame is a header of nine bytes and a payload:
//!
//! ```text
//! kind u8 | flags u8 | payload length u24 | stream u32 | payload
//! ```
//!
//! Invariant: a kind's number is never given to another kind.

mod abort;
mod books;
mod control;
mod head;
mod open;
mod prices;
mod receipt;
mod wire;

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;

use crate::chain::GROUP_BYTES_MAX;
#[cfg(doc)]
use crate::chain::Group;

pub use abort::Abort;
pub use abort::AbortReason;
pub use books::ACK_BYTES_MAX;
pub use books::Ack;
pub use books::KEYS_IN_FRAME_MAX;
pub use books::Keys;
pub use books::Need;
pub use control::Auth;
pub use control::Challenge;
pub use control::Drain;
pub use control::Egress;
pub use control::Enrolment;
pub use control::LedgerHead;
pub use control::Offer;
pub use control::Refuse;
pub use control::Welcome;
pub use control::Withdraw;
pub use control::from_json;
pub use control::to_json;
pub use head::ResponseHead;
pub use head::decode_trailers;
pub use head::encode_trailers;
pub use open::BodyLength;
pub use open::OpenHead;
pub use prices::HELD_TABLES_MAX;
pub use prices::HeldTable;
pub use prices::PACKED_BYTES_MAX;
pub use prices::PricePart;
pub use prices::PriceParts;
pub use prices::Prices;
pub use prices::parts_of;
pub use receipt::RECEIPT_BYTES_MAX;
pub use receipt::Receipt;
pub use wire::PayloadError;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 9;

/// The largest payload of a DATA frame.
pub const DATA_BYTES_MAX: usize = 64 * 1024;

/// The largest WebSocket message: a batch is cut before it gets larger.
pub const BATCH_BYTES_MAX: usize = 192 * 1024;

/// The most frames in one message.
pub const BATCH_FRAMES_MAX: usize = 4096;

/// A frame of an unknown kind with this flag is skipped; without it, it ends its stream.
pub const FLAG_OPTIONAL: u8 = 0x80;

/// On OPEN: the stream begins with the small window, both ways.
pub const FLAG_NARROW: u8 = 0x01;

/// Every kind of frame that this version knows. `docs/PROTOCOL.md` reserves more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// Hub to agent, first on the link: versions and a nonce. JSON [`Challenge`].
    Challenge = 0x01,
    /// Agent to hub: who it is and the proof. JSON [`Auth`].
    Auth = 0x02,
    /// Hub to agent: the link is up. JSON [`Welcome`].
    Welcome = 0x03,
    /// Either way: why the link closes now. JSON [`Refuse`].
    Refuse = 0x04,
    /// Hub to agent: begins a stream with a call's head. Binary [`OpenHead`].
    Open = 0x10,
    /// Agent to hub: the vendor's response head. Binary [`ResponseHead`].
    Head = 0x11,
    /// Either way: body bytes, at most [`DATA_BYTES_MAX`].
    Data = 0x12,
    /// Either way: the body is complete; trailers, if any, as a header block.
    End = 0x13,
    /// Either way: the stream is over, and why. Binary [`Abort`].
    Abort = 0x14,
    /// Either way: so many more bytes may be sent. `u32`.
    Credit = 0x15,
    /// Either way: are you there? `u64` nonce.
    Ping = 0x20,
    /// The answer to PING, with its nonce.
    Pong = 0x21,
    /// Either way: this link will end; streams that run finish. JSON [`Drain`].
    Drain = 0x22,
    /// Agent to hub: a vendor key that calls may use. JSON [`Offer`].
    Offer = 0x23,
    /// Agent to hub: an offer that no longer holds. JSON [`Withdraw`].
    Withdraw = 0x24,
    /// Agent to hub: what it metered of a call. Binary [`Receipt`].
    Receipt = 0x30,
    /// Agent to hub: leaves of its ledger that are sent again. CBOR [`Group`].
    Claim = 0x31,
    /// Hub to agent: leaves are in the books. CBOR [`Ack`].
    Ack = 0x32,
    /// Hub to agent: leaves are missing. CBOR [`Need`].
    Need = 0x33,
    /// Hub to agent: its signing keys. CBOR [`Keys`].
    Keys = 0x34,
    /// Hub to agent: a part of a price table; agent to hub: which tables it holds. Binary [`Prices`].
    Prices = 0x40,
}

impl FrameKind {
    /// Every kind, in the order of the numbers.
    pub const ALL: &'static [Self] = &[
        Self::Challenge,
        Self::Auth,
        Self::Welcome,
        Self::Refuse,
        Self::Open,
        Self::Head,
        Self::Data,
        Self::End,
        Self::Abort,
        Self::Credit,
        Self::Ping,
        Self::Pong,
        Self::Drain,
        Self::Offer,
        Self::Withdraw,
        Self::Receipt,
        Self::Claim,
        Self::Ack,
        Self::Need,
        Self::Keys,
        Self::Prices,
    ];

    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.number() == number)
    }

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The largest payload a frame of this kind may have.
    pub const fn payload_bytes_max(self) -> usize {
        match self {
            Self::Challenge | Self::Auth | Self::Welcome | Self::Refuse | Self::Drain | Self::Withdraw => 4 * 1024,
            Self::Open | Self::Head => 96 * 1024,
            Self::End => 16 * 1024,
            Self::Data | Self::Offer | Self::Prices | Self::Keys => DATA_BYTES_MAX,
            Self::Claim => GROUP_BYTES_MAX,
            Self::Ack => ACK_BYTES_MAX,
            Self::Need => 16,
            Self::Abort => 1024,
            Self::Receipt => RECEIPT_BYTES_MAX,
            Self::Credit => 4,
            Self::Ping | Self::Pong => 8,
        }
    }

    /// Whether the frame belongs to a stream (its stream number is not 0).
    pub const fn is_of_stream(self) -> bool {
        match self {
            Self::Open | Self::Head | Self::Data | Self::End | Self::Abort | Self::Credit => true,
            Self::Challenge
            | Self::Auth
            | Self::Welcome
            | Self::Refuse
            | Self::Ping
            | Self::Pong
            | Self::Drain
            | Self::Offer
            | Self::Withdraw
            | Self::Receipt
            | Self::Claim
            | Self::Ack
            | Self::Need
            | Self::Keys
            | Self::Prices => false,
        }
    }
}

/// A stream's number on its link. 0 is the link itself.
pub type StreamId = u32;

/// A frame as it came, its kind not yet looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The kind's number.
    pub kind: u8,
    /// Flag bits.
    pub flags: u8,
    /// The stream it belongs to, or 0.
    pub stream: StreamId,
    /// Its payload, sharing the message's memory.
    pub payload: Bytes,
}

/// A batch that cannot be cut into frames. What came before stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message ends inside a frame")]
pub struct TruncatedBatch;

/// Takes the next frame off a batch; `None` at its end.
///
/// # Errors
/// [`TruncatedBatch`] when the message ends inside a frame.
pub fn next_frame(batch: &mut Bytes) -> Result<Option<Frame>, TruncatedBatch> {
    if batch.is_empty() {
        return Ok(None);
    }
    if batch.len() < HEADER_BYTES {
        return Err(TruncatedBatch);
    }
    let kind = batch.get_u8();
    let flags = batch.get_u8();
    let length = usize::try_from(batch.get_uint(3)).map_err(|_| TruncatedBatch)?;
    let stream = batch.get_u32();
    if batch.len() < length {
        return Err(TruncatedBatch);
    }
    let payload = batch.split_to(length);
    Ok(Some(Frame { kind, flags, stream, payload }))
}

/// Writes a frame's header. The payload of `length` bytes follows.
pub fn put_header(out: &mut BytesMut, kind: FrameKind, stream: StreamId, length: usize) {
    put_flagged_header(out, kind, 0, stream, length);
}

fn put_flagged_header(out: &mut BytesMut, kind: FrameKind, flags: u8, stream: StreamId, length: usize) {
    debug_assert!(length <= kind.payload_bytes_max(), "{kind:?} of {length} bytes");
    out.put_u8(kind.number());
    out.put_u8(flags);
    out.put_uint(u64::try_from(length).unwrap_or(u64::MAX), 3);
    out.put_u32(stream);
}

/// Writes a whole frame.
pub fn put_frame(out: &mut BytesMut, kind: FrameKind, stream: StreamId, payload: &[u8]) {
    put_header(out, kind, stream, payload.len());
    out.put_slice(payload);
}

/// Writes a whole OPEN of a stream that begins with the small window.
pub fn put_narrow_open(out: &mut BytesMut, stream: StreamId, payload: &[u8]) {
    put_flagged_header(out, FrameKind::Open, FLAG_NARROW, stream, payload.len());
    out.put_slice(payload);
}

#[cfg(test)]
mod tests;
