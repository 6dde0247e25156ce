//! One stream of a link: what waits to be sent, what came and was not yet read.
//!
//! Invariant: bytes leave in the order they were given, and never more than credit allows.

use bytes::Bytes;

use crate::frame::Abort;

use super::Micros;
use super::Side;
use super::credit::Drained;
use super::pieces::Pieces;
use super::schedule::QUANTUM_BYTES_MAX;

/// Bytes the application may have queued in one stream before it must wait.
const OUTBOX_BYTES_MAX: usize = 64 * 1024;

/// The same while the stream has no credit.
const OUTBOX_STALLED_BYTES_MAX: usize = 16 * 1024;

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

/// What of a stream has been put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Its OPEN, or its HEAD.
    pub head: bool,
    /// Bytes of its body.
    pub body_bytes: u64,
    /// Its END.
    pub end: bool,
    /// The receipt that was left with it.
    pub receipt: bool,
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
    /// It began with the small window, which its OPEN says.
    pub(super) narrow: bool,
    pub(super) outbox: Pieces,
    pub(super) send_credit: u64,
    pub(super) sending: Sending,
    pub(super) credit_due: u32,
    pub(super) urgent: bool,
    pub(super) data_queue: DataQueue,
    pub(super) deficit: usize,
    /// How much of its quantum before the busy streams is left, and since when it counts.
    pub(super) fresh_bytes: usize,
    pub(super) fresh_since: Micros,
    /// Since when the stream waits for its turn.
    pub(super) ready_at: Micros,
    /// Goes right before END, or before the ABORT of a body that broke off.
    pub(super) receipt_out: Option<Bytes>,
    pub(super) sent: Sent,
    // Receiving.
    pub(super) head_in: Option<Bytes>,
    pub(super) head_seen: bool,
    pub(super) inbox: Pieces,
    pub(super) window: u32,
    pub(super) allowance: u32,
    pub(super) consumed: u32,
    /// Within the last round trip, and within the last second.
    pub(super) drained: Drained,
    pub(super) drained_long: Drained,
    pub(super) receiving: Receiving,
    pub(super) received_bytes: u64,
    /// The application let go of the stream; what still comes is thrown away.
    pub(super) released: bool,
}

impl Stream {
    pub(super) fn new(window: u32, now: Micros) -> Self {
        Self {
            head_out: None,
            narrow: false,
            outbox: Pieces::default(),
            send_credit: window.into(),
            sending: Sending::Open,
            credit_due: 0,
            urgent: false,
            data_queue: DataQueue::None,
            deficit: 0,
            fresh_bytes: QUANTUM_BYTES_MAX,
            fresh_since: now,
            ready_at: now,
            receipt_out: None,
            sent: Sent::default(),
            head_in: None,
            head_seen: false,
            inbox: Pieces::default(),
            window,
            allowance: window,
            consumed: 0,
            drained: Drained::new(now),
            drained_long: Drained::new(now),
            receiving: Receiving::Open,
            received_bytes: 0,
            released: false,
        }
    }

    /// Whether a DATA or END frame could go out now.
    pub(super) fn has_sendable_data(&self) -> bool {
        match self.sending {
            Sending::Open => self.outbox.bytes() > 0 && self.send_credit > 0,
            Sending::EndQueued(_) | Sending::FailQueued(_) => self.outbox.bytes() == 0 || self.send_credit > 0,
            Sending::Ended | Sending::AbortQueued(_) | Sending::Aborted => false,
        }
    }

    /// How many bytes its queue has room for: no more than may leave now, but for a first piece
    /// for when there is credit again. A thousand that wait for credit are a normal day.
    pub(super) fn outbox_room(&self) -> usize {
        let credit = usize::try_from(self.send_credit).unwrap_or(usize::MAX);
        let most = credit.clamp(OUTBOX_STALLED_BYTES_MAX, OUTBOX_BYTES_MAX);
        most.saturating_sub(self.outbox.bytes())
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
        self.receipt_out = None;
        self.outbox.clear();
    }
}
