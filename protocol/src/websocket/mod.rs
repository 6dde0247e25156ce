//! The data phase of a WebSocket (RFC 6455), without I/O and without extensions. As the tunnel
//! speaks it: whole binary messages and the control frames between them, no text, no fragments.
//! Somebody else's session, where both occur, is read by [`messages`].
//!
//! Invariant: nothing is set aside for a frame before its head was judged, and never more
//! than the head announced.

mod decode;
mod encode;
mod mask;
pub mod messages;

pub use decode::Decoder;
pub use decode::Message;
pub use encode::FrameHead;
pub use encode::MaskKeys;
pub use encode::Opcode;

/// The longest head of a frame.
pub const HEAD_BYTES_MAX: usize = 14;

/// The longest payload of a control frame.
pub const CONTROL_BYTES_MAX: usize = 125;

/// Which end of the connection this is. The client masks what it sends, the server does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The end that was dialled.
    Server,
    /// The end that dialled.
    Client,
}

/// The bytes are not WebSocket as they must be here; the connection must close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WebSocketFault {
    /// A reserved bit is set: an extension that nobody agreed to.
    #[error("a WebSocket frame has a reserved bit set")]
    Reserved,
    /// A piece of a message, or a piece of none.
    #[error("a WebSocket message is fragmented")]
    Fragmented,
    /// An opcode that does not belong here.
    #[error("WebSocket opcode {0} does not belong in a tunnel")]
    Opcode(u8),
    /// A client's frame without a mask, or a server's with one.
    #[error("a WebSocket frame is masked the wrong way")]
    Masking,
    /// A length that is not written in the fewest bytes.
    #[error("the length of a WebSocket frame is not written as RFC 6455 has it")]
    Length,
    /// A message or control frame beyond its bound.
    #[error("a WebSocket frame is larger than it may be")]
    TooLarge,
    /// A close frame that does not follow its layout.
    #[error("a WebSocket close frame does not follow its layout")]
    Close,
}

impl WebSocketFault {
    /// What is wrong, for a consumer whose session it is.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Reserved => "a WebSocket frame uses an extension that was not agreed on",
            Self::Fragmented => "a WebSocket message is put together wrongly",
            Self::Opcode(_) => "a WebSocket frame is of an unknown kind",
            Self::Masking => "a WebSocket frame is masked the wrong way",
            Self::Length | Self::TooLarge => "a WebSocket frame's length is wrong",
            Self::Close => "a WebSocket close frame does not follow its layout",
        }
    }
}

#[cfg(test)]
mod tests;
