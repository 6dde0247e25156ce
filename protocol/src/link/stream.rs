//! One stream of a link: what waits to be sent, what came and was not yet read.
//!
//! Invariant: bytes leave in the order they were given, and never more than credit allows.

use std::collections::VecDeque;

use bytes::Bytes;
use bytes::BytesMut;

use crate::frame::Abort;

use super::Micros;
use super::Side;

/// Pieces smaller than this are copied, and gathered while nobody reads, so that a small
/// piece does not keep the whole message it came in alive.
const GATHER_BELOW_BYTES: usize = 16 * 1024;

/// How the sending half stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// More may come.
    Open,
    /// END with these trailers follows the last queued byte.
    EndQueued(Bytes),
    /// ABORT follows the last queued byte.
    FailQueued(Abort),
    /// END is on the wire.
    Ended,
    /// ABORT goes out before anything else.
    AbortQueued(Abort),
    /// ABORT is on the wire.
    Aborted,
}

/// How the receiving half stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Receiving {
    /// More may come.
    Open,
    /// The peer ended it with these trailers (empty: none).
    Ended(Bytes),
    /// The peer, or the loss of the link, aborted it.
    Aborted(Abort),
}

/// In which of the scheduler's queues the stream waits with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataQueue {
    None,
    Fresh,
    Bulk,
}

#[derive(Debug)]
pub(super) struct Stream {
    // Sending.
    pub(super) head_out: Option<Bytes>,
    pub(super) outbox: VecDeque<Bytes>,
    pub(super) outbox_bytes: usize,
    pub(super) send_credit: u64,
    pub(super) sending: Sending,
    pub(super) credit_due: u32,
    pub(super) urgent: bool,
    pub(super) data_queue: DataQueue,
    pub(super) deficit: usize,
    /// Since when the stream waits for its turn.
    pub(super) ready_at: Micros,
    // Receiving.
    pub(super) head_in: Option<Bytes>,
    pub(super) head_seen: bool,
    pub(super) inbox: Inbox,
    pub(super) window: u32,
    pub(super) allowance: u32,
    pub(super) consumed: u32,
    pub(super) granted_at: Micros,
    pub(super) receiving: Receiving,
    pub(super) received_bytes: u64,
    /// The application let go of the stream; what still comes is thrown away.
    pub(super) released: bool,
}

impl Stream {
    pub(super) fn new(window: u32, now: Micros) -> Self {
        Self {
            head_out: None,
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            send_credit: window.into(),
            sending: Sending::Open,
            credit_due: 0,
            urgent: false,
            data_queue: DataQueue::None,
            deficit: 0,
            ready_at: now,
            head_in: None,
            head_seen: false,
            inbox: Inbox::default(),
            window,
            allowance: window,
            consumed: 0,
            granted_at: now,
            receiving: Receiving::Open,
            received_bytes: 0,
            released: false,
        }
    }

    /// Whether a DATA or END frame could go out now.
    pub(super) fn has_sendable_data(&self) -> bool {
        match self.sending {
            Sending::Open => self.outbox_bytes > 0 && self.send_credit > 0,
            Sending::EndQueued(_) | Sending::FailQueued(_) => self.outbox_bytes == 0 || self.send_credit > 0,
            Sending::Ended | Sending::AbortQueued(_) | Sending::Aborted => false,
        }
    }

    /// Whether both sides have said their last word on the wire.
    pub(super) fn is_closed_on_wire(&self) -> bool {
        matches!(self.sending, Sending::Ended | Sending::Aborted) && self.receiving != Receiving::Open
    }

    /// Closed on the wire, and nobody will ask for what came.
    pub(super) fn is_over(&self) -> bool {
        self.is_closed_on_wire() && self.released
    }

    /// The receiving half breaks off, if that means anything: a request that had ended is
    /// still aborted with its call, a response that had ended is complete.
    pub(super) fn break_off(&mut self, side: Side, abort: &Abort) -> bool {
        let breaks = match (&self.receiving, side) {
            (Receiving::Open, _) | (Receiving::Ended(_), Side::Agent) => true,
            (Receiving::Ended(_), Side::Hub) | (Receiving::Aborted(_), _) => false,
        };
        if breaks {
            self.receiving = Receiving::Aborted(abort.clone());
        }
        breaks
    }

    pub(super) fn clear_outbox(&mut self) {
        self.head_out = None;
        self.outbox = VecDeque::new();
        self.outbox_bytes = 0;
    }

    /// Takes up to `most` bytes off the outbox into `out`.
    pub(super) fn take_outbox(&mut self, most: usize, out: &mut BytesMut) {
        let mut left = most;
        while left > 0 {
            let Some(front) = self.outbox.front_mut() else { break };
            if front.len() <= left {
                left -= front.len();
                out.extend_from_slice(front);
                self.outbox.pop_front();
            } else {
                out.extend_from_slice(&front.split_to(left));
                left = 0;
            }
        }
        self.outbox_bytes -= most - left;
    }
}

/// Received bytes that nobody has read yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    whole: VecDeque<Bytes>,
    gathered: BytesMut,
    bytes: usize,
}

impl Inbox {
    pub(super) fn push(&mut self, data: Bytes) {
        self.bytes += data.len();
        if data.len() < GATHER_BELOW_BYTES {
            return self.gathered.extend_from_slice(&data);
        }
        if !self.gathered.is_empty() {
            self.whole.push_back(std::mem::take(&mut self.gathered).freeze());
        }
        self.whole.push_back(data);
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let data = match self.whole.pop_front() {
            Some(data) => data,
            None if self.gathered.is_empty() => return None,
            None => std::mem::take(&mut self.gathered).freeze(),
        };
        self.bytes -= data.len();
        Some(data)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_that_nobody_reads_are_gathered_in_order() {
        let mut inbox = Inbox::default();
        let message = Bytes::from(vec![b'x'; 60_000]);
        inbox.push(message.slice(0..10));
        for piece in ["ab", "cd", "ef"] {
            inbox.push(Bytes::from_static(piece.as_bytes()));
        }
        inbox.push(Bytes::from(vec![b'y'; GATHER_BELOW_BYTES]));

        let mut read = Vec::new();
        let mut pieces = 0;
        while let Some(piece) = inbox.pop() {
            read.extend_from_slice(&piece);
            pieces += 1;
        }

        assert_eq!(&read[..16], b"xxxxxxxxxxabcdef");
        assert_eq!((read.len(), pieces, inbox.bytes()), (16 + GATHER_BELOW_BYTES, 2, 0));
    }
}
