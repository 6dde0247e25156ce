//! Frames that came: what each does to its stream, and what the link does about those
//! that should not have come.
//!
//! Invariant: whatever a peer sends, memory stays within credit, and only a fault of the
//! link itself ends the link.

use bytes::Bytes;

use crate::frame::Abort;
use crate::frame::AbortReason;
use crate::frame::BATCH_FRAMES_MAX;
use crate::frame::FLAG_NARROW;
use crate::frame::FLAG_OPTIONAL;
use crate::frame::Frame;
use crate::frame::FrameKind;
use crate::frame::StreamId;
use crate::frame::from_json;
use crate::frame::next_frame;

use super::Event;
use super::Keep;
use super::Link;
use super::Micros;
use super::Receiving;
use super::Sending;
use super::Side;
use super::Stream;
use super::Verdict;
use super::pieces::GATHER_BELOW_BYTES;

/// Answers the peer may make us owe at once before it is a flood.
const CONTROL_QUEUE_MAX: usize = 4096;

/// The peer broke the protocol of the link itself; the link must close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    /// A frame of the link of an unknown kind that may not be skipped.
    #[error("frame kind {0:#04x} is not known and may not be skipped")]
    UnknownKind(u8),
    /// A frame of the link beyond its bound.
    #[error("a {kind:?} of {bytes} bytes is too large")]
    TooLarge {
        /// What it claims to be.
        kind: FrameKind,
        /// Its payload.
        bytes: usize,
    },
    /// A frame that belongs elsewhere: to a stream, to the link, or to the other side.
    #[error("{0:?} does not belong here")]
    Misplaced(FrameKind),
    /// A payload of the link that does not follow its layout.
    #[error("a {0:?} does not follow its layout")]
    Malformed(FrameKind),
    /// More questions than answers could be sent, or far more of anything than is sensible.
    #[error("too many frames in too short a time")]
    Flood,
    /// A message of more frames than one may hold.
    #[error("a message holds more than {BATCH_FRAMES_MAX} frames")]
    Crowded,
    /// A message that cannot be cut into frames.
    #[error("a message ends inside a frame")]
    Truncated,
}

impl Link {
    /// Takes a message that came, frame by frame.
    ///
    /// # Errors
    /// [`LinkFault`] when the link must close; what went before stands.
    pub fn receive_batch(&mut self, mut batch: Bytes, now: Micros) -> Result<(), LinkFault> {
        let batch_bytes = batch.len();
        for _ in 0..=BATCH_FRAMES_MAX {
            let Some(mut frame) = next_frame(&mut batch).map_err(|_| LinkFault::Truncated)? else { return Ok(()) };
            if frame.payload.len() < batch_bytes / 2 {
                // A small part must not keep all of a large message in memory. Small DATA is
                // copied when it is gathered.
                let gathered = frame.kind == FrameKind::Data.number() && frame.payload.len() < GATHER_BELOW_BYTES;
                if !gathered {
                    frame.payload = Bytes::copy_from_slice(&frame.payload);
                }
            }
            self.receive(frame, now)?;
        }
        Err(LinkFault::Crowded)
    }

    /// Takes a frame that came.
    ///
    /// # Errors
    /// [`LinkFault`] when the link must close; what went before stands.
    pub fn receive(&mut self, frame: Frame, now: Micros) -> Result<(), LinkFault> {
        self.liveness.heard(now);
        if self.schedule.control_len() > CONTROL_QUEUE_MAX {
            return Err(LinkFault::Flood);
        }
        let Some(kind) = FrameKind::from_number(frame.kind) else {
            return self.receive_unknown(&frame, now);
        };
        if kind.is_of_stream() == (frame.stream == 0) {
            return Err(LinkFault::Misplaced(kind));
        }
        if frame.payload.len() > kind.payload_bytes_max() {
            if !kind.is_of_stream() {
                return Err(LinkFault::TooLarge { kind, bytes: frame.payload.len() });
            }
            self.stream_fault(frame.stream, AbortReason::Protocol, "a frame was too large", now);
            return Ok(());
        }
        let eager = if is_counted(kind) { self.counts_as_eager(now)? } else { false };
        match kind {
            FrameKind::Open => return self.receive_open(frame, now),
            FrameKind::Head => self.receive_head(frame.stream, frame.payload, now),
            FrameKind::Data if frame.payload.is_empty() => return self.counts_as_eager(now).map(drop),
            FrameKind::Data => self.receive_data(frame.stream, frame.payload, now),
            FrameKind::End => self.receive_end(frame.stream, frame.payload, now),
            FrameKind::Abort => return self.receive_abort(frame.stream, frame.payload, now),
            FrameKind::Credit => self.receive_credit(frame.stream, &frame.payload, now),
            FrameKind::Ping if eager => {}
            FrameKind::Ping => {
                self.schedule.push_control(FrameKind::Pong, &eight_bytes(FrameKind::Ping, &frame.payload)?)
            }
            FrameKind::Pong => {
                let nonce = u64::from_be_bytes(eight_bytes(FrameKind::Pong, &frame.payload)?);
                self.liveness.pong(nonce, now);
                if self.drain_ping.is_some_and(|ping| nonce >= ping) {
                    self.drain_ping = None;
                }
                self.events.push_back(Event::Control(frame));
            }
            FrameKind::Drain => {
                let drain = from_json(&frame.payload).map_err(|_| LinkFault::Malformed(kind))?;
                self.draining_there = true;
                self.events.push_back(Event::PeerDrains(drain));
            }
            // What is inside says which side it is from.
            FrameKind::Refuse | FrameKind::Prices => self.events.push_back(Event::Control(frame)),
            FrameKind::Offer | FrameKind::Withdraw | FrameKind::Claim => {
                if self.side == Side::Agent {
                    return Err(LinkFault::Misplaced(kind));
                }
                self.events.push_back(Event::Control(frame));
            }
            FrameKind::Ack | FrameKind::Need | FrameKind::Keys => {
                if self.side == Side::Hub {
                    return Err(LinkFault::Misplaced(kind));
                }
                self.events.push_back(Event::Control(frame));
            }
            FrameKind::Receipt => return self.receive_receipt(frame),
            FrameKind::Challenge | FrameKind::Auth | FrameKind::Welcome => return Err(LinkFault::Misplaced(kind)),
        }
        Ok(())
    }

    /// A receipt is for a call of this link, and each has one.
    fn receive_receipt(&mut self, frame: Frame) -> Result<(), LinkFault> {
        if self.side == Side::Agent {
            return Err(LinkFault::Misplaced(FrameKind::Receipt));
        }
        self.counters.receipts_received += 1;
        if self.counters.receipts_received > self.counters.opened {
            return Err(LinkFault::Flood);
        }
        self.events.push_back(Event::Control(frame));
        Ok(())
    }

    /// Whether a frame that asks for work, or for nothing at all, is one too many.
    fn counts_as_eager(&mut self, now: Micros) -> Result<bool, LinkFault> {
        match self.rates.control.count(now) {
            Verdict::Within => Ok(false),
            Verdict::Over => Ok(true),
            Verdict::Flood => Err(LinkFault::Flood),
        }
    }

    fn receive_unknown(&mut self, frame: &Frame, now: Micros) -> Result<(), LinkFault> {
        if frame.flags & FLAG_OPTIONAL != 0 {
            return self.counts_as_eager(now).map(drop);
        }
        if frame.stream == 0 {
            return Err(LinkFault::UnknownKind(frame.kind));
        }
        self.stream_fault(frame.stream, AbortReason::Protocol, "a frame was of an unknown kind", now);
        Ok(())
    }

    fn receive_open(&mut self, open: Frame, now: Micros) -> Result<(), LinkFault> {
        let id = open.stream;
        if self.side == Side::Hub {
            return Err(LinkFault::Misplaced(FrameKind::Open));
        }
        if id <= self.last_opened {
            self.stream_fault(id, AbortReason::Protocol, "a stream was opened twice", now);
            return Ok(());
        }
        self.last_opened = id;
        let eager = match self.rates.opens.count(now) {
            Verdict::Within => self.rates.resets.is_used_up(now),
            Verdict::Over => true,
            Verdict::Flood => return Err(LinkFault::Flood),
        };
        if eager || self.drain_known() || self.streams.len() >= self.limits.streams_max {
            self.counters.opens_refused += 1;
            self.schedule.push_stream_frame(FrameKind::Abort, id, &Abort::new(AbortReason::Busy).encode());
            return Ok(());
        }
        let narrow = open.flags & FLAG_NARROW != 0;
        self.add_stream(id, narrow, now).head_in = Some(open.payload);
        self.events.push_back(Event::Opened(id));
        Ok(())
    }

    fn receive_head(&mut self, id: StreamId, head: Bytes, now: Micros) {
        let side = self.side;
        let Some(stream) = self.receiving_stream(id) else { return };
        if side == Side::Agent || stream.head_seen {
            return self.stream_fault(id, AbortReason::Protocol, "a HEAD came where none belongs", now);
        }
        stream.head_seen = true;
        stream.head_in = Some(head);
        self.events.push_back(Event::Readable(id));
    }

    fn receive_data(&mut self, id: StreamId, data: Bytes, now: Micros) {
        let side = self.side;
        let Some(stream) = self.receiving_stream(id) else { return };
        if side == Side::Hub && !stream.head_seen {
            return self.stream_fault(id, AbortReason::Protocol, "DATA came before HEAD", now);
        }
        let Some(allowance) = u32::try_from(data.len()).ok().and_then(|length| stream.allowance.checked_sub(length))
        else {
            return self.stream_fault(id, AbortReason::FlowControl, "more DATA than credit", now);
        };
        stream.allowance = allowance;
        stream.received_bytes += data.len() as u64;
        let released = stream.released;
        self.counters.data_received_bytes += data.len() as u64;
        if released {
            self.uncommit(data.len());
        } else {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.inbox.push(data, Keep::Whole);
            }
            self.events.push_back(Event::Readable(id));
        }
    }

    fn receive_end(&mut self, id: StreamId, trailers: Bytes, now: Micros) {
        let side = self.side;
        let Some(stream) = self.receiving_stream(id) else { return };
        if side == Side::Hub && !stream.head_seen {
            return self.stream_fault(id, AbortReason::Protocol, "END came before HEAD", now);
        }
        stream.receiving = Receiving::Ended(trailers);
        self.events.push_back(Event::Readable(id));
        self.forget_if_over(id);
    }

    fn receive_abort(&mut self, id: StreamId, payload: Bytes, now: Micros) -> Result<(), LinkFault> {
        if !self.streams.contains_key(&id) {
            return Ok(());
        }
        let abort = Abort::decode(payload)
            .unwrap_or_else(|_| Abort::with_detail(AbortReason::Protocol, "an ABORT did not follow its layout"));
        self.end_receiving(id, &abort);
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let answers_ours = matches!(stream.sending, Sending::AbortQueued(_) | Sending::Aborted);
        if !answers_ours {
            self.counters.aborts_received.add(abort.reason);
        }
        match stream.sending {
            Sending::Open | Sending::EndQueued(_) | Sending::FailQueued(_) => {
                // The echo: it tells the other side how much had come when its ABORT did.
                let echo = Abort { received_bytes: stream.received_bytes, ..Abort::new(abort.reason) };
                stream.clear_outbox();
                stream.sending = Sending::AbortQueued(echo);
                self.events.push_back(Event::Writable(id));
                self.wake_urgent(id);
            }
            Sending::Ended | Sending::AbortQueued(_) | Sending::Aborted => {}
        }
        self.forget_if_over(id);
        let flood = !answers_ours && self.rates.resets.count(now) == Verdict::Flood;
        if flood { Err(LinkFault::Flood) } else { Ok(()) }
    }

    fn receive_credit(&mut self, id: StreamId, payload: &[u8], now: Micros) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Ok(credit) = payload.try_into().map(u32::from_be_bytes) else {
            return self.stream_fault(id, AbortReason::Protocol, "a CREDIT did not follow its layout", now);
        };
        let had_room = stream.outbox_room() > 0;
        stream.send_credit = stream.send_credit.saturating_add(credit.into());
        if !had_room && stream.outbox_room() > 0 {
            self.events.push_back(Event::Writable(id));
        }
        self.wake_data(id, now);
    }

    /// A stream that may still receive. A frame for any other one is late, which is no fault.
    fn receiving_stream(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(&id).filter(|stream| stream.receiving == Receiving::Open)
    }

    /// The peer broke the protocol within a stream: the stream ends on both sides.
    fn stream_fault(&mut self, id: StreamId, reason: AbortReason, detail: &str, now: Micros) {
        let abort = Abort::with_detail(reason, detail);
        self.abort(id, abort.clone(), now);
        self.end_receiving(id, &abort);
        self.forget_if_over(id);
    }

    fn end_receiving(&mut self, id: StreamId, abort: &Abort) {
        let side = self.side;
        if self.streams.get_mut(&id).is_some_and(|stream| stream.break_off(side, abort)) {
            self.events.push_back(Event::Aborted(id));
        }
    }
}

/// Whether so many of it in a second are a flood. Of receipts there is one for each call, and they
/// are counted against these; of claims and their answers the ledger's own windows bound the number.
const fn is_counted(kind: FrameKind) -> bool {
    match kind {
        FrameKind::Receipt | FrameKind::Claim | FrameKind::Ack => false,
        FrameKind::Open
        | FrameKind::Head
        | FrameKind::Data
        | FrameKind::End
        | FrameKind::Abort
        | FrameKind::Credit
        | FrameKind::Challenge
        | FrameKind::Auth
        | FrameKind::Welcome
        | FrameKind::Refuse
        | FrameKind::Ping
        | FrameKind::Pong
        | FrameKind::Drain
        | FrameKind::Offer
        | FrameKind::Withdraw
        | FrameKind::Need
        | FrameKind::Keys
        | FrameKind::Prices => !kind.is_of_stream(),
    }
}

fn eight_bytes(kind: FrameKind, payload: &[u8]) -> Result<[u8; 8], LinkFault> {
    payload.try_into().map_err(|_| LinkFault::Malformed(kind))
}
