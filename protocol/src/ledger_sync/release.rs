//! What of an attempt may leave the agent, by what is durable of its ledger.
//!
//! Invariant: whoever got a byte of the answer got it after OPEN was durable, and whoever got all
//! of it after CLOSE was.

/// A part of an answer that is ready to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// The head, or bytes of the body.
    Bytes,
    /// The bytes that complete a declared length, or the end.
    End,
}

/// Where one attempt stands in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    open: u64,
    close: Option<u64>,
}

impl Release {
    /// OPEN is the leaf of this number.
    pub const fn opened(leaf: u64) -> Self {
        Self { open: leaf, close: None }
    }

    /// CLOSE is the leaf of this number. The first one stands: an abort that comes after the end
    /// changes nothing, nor the other way round.
    pub const fn closed(&mut self, leaf: u64) -> bool {
        let is_first = self.close.is_none();
        if is_first {
            self.close = Some(leaf);
        }
        is_first
    }

    /// Whether it may leave, with so many leaves durable.
    pub const fn may_leave(&self, leaving: Leaving, durable: u64) -> bool {
        match (leaving, self.close) {
            (Leaving::Bytes, _) => durable > self.open,
            (Leaving::End, Some(close)) => durable > close,
            (Leaving::End, None) => false,
        }
    }
}
