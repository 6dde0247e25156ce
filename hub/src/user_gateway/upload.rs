//! A request's body on its way to an agent: held back until the model is known, passed
//! on, and kept as long as another attempt may need it.
//!
//! Invariant: the last piece leaves only after the whole scan agreed, so that a request
//! we would refuse never becomes complete at a vendor.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use bytes::BytesMut;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::assist::Splice;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::quote::BodyKnown;
use keyhaven_protocol::request_scan::RequestScan;

use super::held::HeldShare;
use super::order::Limit;
use super::request::RequestBody;
use super::request::RequestError;

/// Pieces below this are gathered: each would cost more than it holds.
const GATHER_BELOW_BYTES: usize = 16 * 1024;

/// What is read ahead of the dispatch once the model is known.
const READ_AHEAD_BYTES_MAX: u64 = 64 * 1024;

/// Why a body is not held any longer.
#[derive(Debug)]
pub(super) enum HoldError {
    /// All calls together hold back as much as they may.
    Full,
    /// Too much came before the model.
    ModelTooLate,
    /// The request itself.
    Request(RequestError),
}

/// What is kept of one body.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes that may come before the model.
    pub(super) held_bytes_max: u64,
    /// Bytes that are kept for another attempt.
    pub(super) replayed_bytes_max: u64,
}

/// A body being passed on.
pub(super) struct Upload {
    body: RequestBody,
    /// From the body's first piece on while it can be replayed, else what has not left.
    pieces: VecDeque<Bytes>,
    small: BytesMut,
    /// How many of `pieces` the stream of this attempt was given.
    given: usize,
    bounds: Bounds,
    replayable: bool,
    /// The body ended and the scan agreed to it.
    complete: bool,
    /// Nothing more will be handed to the stream of this attempt.
    over: bool,
    share: HeldShare,
    passed_on: u64,
}

impl Upload {
    /// Reads all of the body, since only then it is known what it may cost, or as much of it as
    /// is kept for another attempt; and of a longer one until the scan has seen the model.
    pub(super) async fn hold(body: RequestBody, share: HeldShare, bounds: Bounds) -> Result<Box<Self>, HoldError> {
        let mut upload = Box::new(Self {
            body,
            pieces: VecDeque::new(),
            small: BytesMut::new(),
            given: 0,
            bounds,
            replayable: true,
            complete: false,
            over: false,
            share,
            passed_on: 0,
        });
        loop {
            let is_short = upload.body.bytes() < bounds.replayed_bytes_max && upload.share.grow_for_copies(0);
            let waits = upload.body.scan().model().is_none() || is_short;
            let piece = poll_fn(|cx| match upload.body.poll_piece(cx) {
                Poll::Ready(piece) => Poll::Ready(Some(piece)),
                Poll::Pending if waits => Poll::Pending,
                Poll::Pending => Poll::Ready(None),
            });
            match piece.await.transpose().map_err(HoldError::Request)? {
                None => break,
                Some(None) => {
                    upload.complete = true;
                    break;
                }
                Some(Some(piece)) => upload.hold_back(piece)?,
            }
            if !waits && upload.body.bytes() > READ_AHEAD_BYTES_MAX {
                break;
            }
        }
        upload.gather();
        let fits = upload.body.bytes() <= bounds.replayed_bytes_max && upload.share.grow_for_copies(0);
        upload.replayable = upload.complete && fits;
        Ok(upload)
    }

    /// What the scan has seen.
    pub(super) fn scan(&self) -> &RequestScan {
        self.body.scan()
    }

    /// Holds the body to the one endpoint that is meant.
    ///
    /// # Errors
    /// When what was read already is refused there.
    pub(super) fn agree(&mut self, endpoint: Endpoint) -> Result<(), RequestError> {
        self.body.agree(endpoint)
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.body.bytes()
    }

    /// Pieces handed to links so far: it moves as long as an agent takes them.
    pub(super) fn passed_on(&self) -> u64 {
        self.passed_on
    }

    /// Whether the consumer has sent all of it, and the scan agreed.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// How much of it is known.
    pub(super) fn known(&self, length: BodyLength) -> BodyKnown {
        match length {
            _ if self.complete => BodyKnown::Whole,
            BodyLength::Known(declared) => BodyKnown::Coming { declared: Some(declared) },
            BodyLength::None | BodyLength::Chunked | BodyLength::Upgrade => BodyKnown::Coming { declared: None },
        }
    }

    /// What is still to come must fit into what was set aside.
    pub(super) fn stay_within(&mut self, limit: Limit) {
        self.body.stay_within(limit);
    }

    /// Changes a body that is here in full.
    pub(super) fn change(&mut self, splice: &Splice) {
        debug_assert!(self.complete, "what has left cannot be changed");
        let mut offset = 0;
        for piece in &mut self.pieces {
            let (before, is_here, after) = splice.of_piece(offset, piece.len());
            offset += piece.len() as u64;
            if is_here || before.len() + after.len() < piece.len() {
                let insert = if is_here { splice.insert } else { b"" };
                let (before, after) = (piece.get(before).unwrap_or_default(), piece.get(after).unwrap_or_default());
                *piece = [before, insert, after].concat().into();
            }
        }
    }

    /// Whether the stream of this attempt was given all of it.
    pub(super) fn was_sent(&self) -> bool {
        let kept = if self.replayable { self.given } else { 0 };
        self.complete && self.over && self.pieces.len() == kept
    }

    /// Whether nothing more will be handed to the stream of this attempt.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether another attempt could be given the whole body: it is here, and short enough.
    pub(super) fn is_replayable(&self) -> bool {
        self.replayable
    }

    /// The next stream gets the body from its beginning.
    pub(super) fn rewind(&mut self) {
        debug_assert!(self.replayable, "what was let go of cannot be sent again");
        self.given = 0;
        self.over = false;
    }

    /// No other attempt will need what has left.
    pub(super) fn settle(&mut self) {
        self.replayable = false;
        let left: usize = self.pieces.drain(..self.given).map(|piece| piece.len()).sum();
        self.given = 0;
        self.share.shrink(left as u64);
    }

    /// Ready when the whole body was handed to the stream, or the stream takes no more: then
    /// what its other end says is the answer.
    ///
    /// # Errors
    /// When the body cannot be passed on; the stream is aborted then.
    pub(super) fn poll(&mut self, stream: &LinkStream, cx: &mut Context<'_>) -> Poll<Result<(), RequestError>> {
        if self.over {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(self.poll_pass_on(stream, cx));
        self.over = true;
        if result.is_err() {
            stream.abort(Abort::new(AbortReason::RequestBroken));
        }
        Poll::Ready(result)
    }

    fn poll_pass_on(&mut self, stream: &LinkStream, cx: &mut Context<'_>) -> Poll<Result<(), RequestError>> {
        loop {
            // The newest piece waits for the scan of what follows.
            while self.given + 1 < self.pieces.len() {
                if ready!(stream.poll_capacity(cx)).is_err() || stream.send_data(self.next()).is_err() {
                    return Poll::Ready(Ok(()));
                }
            }
            if self.complete {
                if ready!(stream.poll_capacity(cx)).is_ok() {
                    // A stream that is over in between says so to whoever reads it.
                    let _ = stream.send_last(self.next(), Bytes::new());
                }
                return Poll::Ready(Ok(()));
            }
            match ready!(self.body.poll_piece(cx))? {
                Some(piece) => self.pieces.push_back(piece),
                None => self.complete = true,
            }
        }
    }

    /// The next piece for the stream; empty when there is none left.
    fn next(&mut self) -> Bytes {
        self.passed_on += 1;
        if self.replayable {
            let piece = self.pieces.get(self.given).cloned();
            self.given += usize::from(piece.is_some());
            return piece.unwrap_or_default();
        }
        let piece = self.pieces.pop_front().unwrap_or_default();
        self.share.shrink(piece.len() as u64);
        piece
    }

    fn hold_back(&mut self, piece: Bytes) -> Result<(), HoldError> {
        if self.body.bytes() > self.bounds.held_bytes_max && self.scan().model().is_none() {
            return Err(HoldError::ModelTooLate);
        }
        if !self.share.grow(piece.len() as u64) {
            return Err(HoldError::Full);
        }
        if piece.len() < GATHER_BELOW_BYTES {
            self.small.extend_from_slice(&piece);
        }
        if self.small.len() >= GATHER_BELOW_BYTES || piece.len() >= GATHER_BELOW_BYTES {
            self.gather();
        }
        if piece.len() >= GATHER_BELOW_BYTES {
            self.pieces.push_back(piece);
        }
        Ok(())
    }

    fn gather(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
    }
}
