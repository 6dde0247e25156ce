//! The agent's meter: what it has queued waits beside it, and is metered when it has left.
//!
//! Invariant: what is metered is what left, so that both ends of the link meter the same.

use std::collections::VecDeque;

use bytes::Buf as _;
use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;

use super::Asked;
use super::CallMeter;
use super::Ending;
use super::Figure;
use super::meter::Head;

/// A [`CallMeter`] that is fed with what its link has put on the wire.
pub struct WireMeter {
    meter: CallMeter,
    head: Option<Head>,
    /// Queued, and not known to have left.
    queued: VecDeque<Bytes>,
}

impl WireMeter {
    /// Nothing was queued yet.
    pub const fn new(meter: CallMeter) -> Self {
        Self { meter, head: None, queued: VecDeque::new() }
    }

    /// The head is about to be queued.
    pub fn queue_head(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.head = Some(Head::of(status, headers));
    }

    /// A piece of the body is about to be queued.
    pub fn queue(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.queued.push_back(piece);
        }
    }

    /// So much of what was queued has left: the head, if any of it has, and so many bytes
    /// of the body.
    pub fn left(&mut self, body_bytes: u64) {
        self.head_left();
        let fed = self.meter.response_bytes();
        let mut rest = usize::try_from(body_bytes.saturating_sub(fed)).unwrap_or(usize::MAX);
        while rest > 0 {
            let Some(piece) = self.queued.front_mut() else { break };
            let length = piece.len().min(rest);
            self.meter.feed(piece.get(..length).unwrap_or_default());
            rest -= length;
            piece.advance(length);
            if piece.is_empty() {
                self.queued.pop_front();
            }
        }
        if self.queued.is_empty() {
            // A call that idles keeps no memory for what once was.
            self.queued = VecDeque::new();
        }
    }

    /// The figure if all that is queued leaves and the call then ends so; none when that
    /// can only be told afterwards.
    pub fn forecast(&self, asked: &Asked<'_>, ending: Ending) -> Option<Figure> {
        let queued = self.queued.iter().map(Bytes::as_ref);
        match self.head {
            Some(head) => self.meter.begun(head).figure_after(queued, asked, ending),
            None => self.meter.figure_after(queued, asked, ending),
        }
    }

    /// The call is over, and no more leaves.
    pub fn finish(self, asked: &Asked<'_>, ending: Ending) -> Figure {
        self.meter.finish(asked, ending)
    }

    fn head_left(&mut self) {
        if let Some(head) = self.head.take() {
            self.meter.begin(head);
        }
    }
}
