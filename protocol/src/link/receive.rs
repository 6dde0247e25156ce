//! Frames that came: what each does to its stream, and what the link does about those
//! that should not have come.
//!
//! Invariant: whatever a peer sends, memory stays within credit, and only a fault of the
//! link itself ends the link.

use bytes::Bytes;

use crate::frame::Abort;
use crate::frame::AbortReason;
use crate::frame::FLAG_OPTIONAL;
use crate::frame::Frame;
use crate::frame::FrameKind;
use crate::frame::StreamId;
use crate::frame::from_json;

use super::Event;
use super::Link;
use super::Micros;
use super::Receiving;
use super::Sending;
use super::Side;
use super::Stream;

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
    /// More questions than answers could be sent.
    #[error("too many frames wait for an answer")]
    Flood,
}

impl Link {
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
            return self.receive_unknown(&frame);
        };
        if kind.is_of_stream() == (frame.stream == 0) {
            return Err(LinkFault::Misplaced(kind));
        }
        if frame.payload.len() > kind.payload_bytes_max() {
            if !kind.is_of_stream() {
                return Err(LinkFault::TooLarge { kind, bytes: frame.payload.len() });
            }
            self.stream_fault(frame.stream, AbortReason::Protocol, "a frame was too large");
            return Ok(());
        }
        match kind {
            FrameKind::Open => return self.receive_open(frame.stream, frame.payload, now),
            FrameKind::Head => self.receive_head(frame.stream, frame.payload),
            FrameKind::Data => self.receive_data(frame.stream, frame.payload),
            FrameKind::End => self.receive_end(frame.stream, frame.payload),
            FrameKind::Abort => self.receive_abort(frame.stream, frame.payload),
            FrameKind::Credit => self.receive_credit(frame.stream, &frame.payload, now),
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
            FrameKind::Refuse => self.events.push_back(Event::Control(frame)),
            FrameKind::Offer | FrameKind::Withdraw => {
                if self.side == Side::Agent {
                    return Err(LinkFault::Misplaced(kind));
                }
                self.events.push_back(Event::Control(frame));
            }
            FrameKind::Challenge | FrameKind::Auth | FrameKind::Welcome => return Err(LinkFault::Misplaced(kind)),
        }
        Ok(())
    }

    fn receive_unknown(&mut self, frame: &Frame) -> Result<(), LinkFault> {
        if frame.flags & FLAG_OPTIONAL != 0 {
            return Ok(());
        }
        if frame.stream == 0 {
            return Err(LinkFault::UnknownKind(frame.kind));
        }
        self.stream_fault(frame.stream, AbortReason::Protocol, "a frame was of an unknown kind");
        Ok(())
    }

    fn receive_open(&mut self, id: StreamId, head: Bytes, now: Micros) -> Result<(), LinkFault> {
        if self.side == Side::Hub {
            return Err(LinkFault::Misplaced(FrameKind::Open));
        }
        if id <= self.last_opened {
            self.stream_fault(id, AbortReason::Protocol, "a stream was opened twice");
            return Ok(());
        }
        self.last_opened = id;
        if self.drain_known() || self.streams.len() >= self.limits.streams_max {
            self.counters.opens_refused += 1;
            self.schedule.push_stream_frame(FrameKind::Abort, id, &Abort::new(AbortReason::Busy).encode());
            return Ok(());
        }
        self.add_stream(id, now).head_in = Some(head);
        self.events.push_back(Event::Opened(id));
        Ok(())
    }

    fn receive_head(&mut self, id: StreamId, head: Bytes) {
        let side = self.side;
        let Some(stream) = self.receiving_stream(id) else { return };
        if side == Side::Agent || stream.head_seen {
            return self.stream_fault(id, AbortReason::Protocol, "a HEAD came where none belongs");
        }
        stream.head_seen = true;
        stream.head_in = Some(head);
        self.events.push_back(Event::Readable(id));
    }

    fn receive_data(&mut self, id: StreamId, data: Bytes) {
        let side = self.side;
        let Some(stream) = self.receiving_stream(id) else { return };
        if side == Side::Hub && !stream.head_seen {
            return self.stream_fault(id, AbortReason::Protocol, "DATA came before HEAD");
        }
        let Some(allowance) = u32::try_from(data.len()).ok().and_then(|length| stream.allowance.checked_sub(length))
        else {
            return self.stream_fault(id, AbortReason::FlowControl, "more DATA than credit");
        };
        stream.allowance = allowance;
        stream.received_bytes += data.len() as u64;
        let released = stream.released;
        self.counters.data_received_bytes += data.len() as u64;
        if released {
            self.uncommit(data.len());
        } else if !data.is_empty() {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.inbox.push(data);
            }
            self.events.push_back(Event::Readable(id));
        }
    }

    fn receive_end(&mut self, id: StreamId, trailers: Bytes) {
        let side = self.side;
        let Some(stream) = self.receiving_stream(id) else { return };
        if side == Side::Hub && !stream.head_seen {
            return self.stream_fault(id, AbortReason::Protocol, "END came before HEAD");
        }
        stream.receiving = Receiving::Ended(trailers);
        self.events.push_back(Event::Readable(id));
        self.forget_if_over(id);
    }

    fn receive_abort(&mut self, id: StreamId, payload: Bytes) {
        if !self.streams.contains_key(&id) {
            return;
        }
        let abort = Abort::decode(payload)
            .unwrap_or_else(|_| Abort::with_detail(AbortReason::Protocol, "an ABORT did not follow its layout"));
        self.end_receiving(id, &abort);
        let Some(stream) = self.streams.get_mut(&id) else { return };
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
    }

    fn receive_credit(&mut self, id: StreamId, payload: &[u8], now: Micros) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Ok(credit) = payload.try_into().map(u32::from_be_bytes) else {
            return self.stream_fault(id, AbortReason::Protocol, "a CREDIT did not follow its layout");
        };
        stream.send_credit = stream.send_credit.saturating_add(credit.into());
        self.wake_data(id, now);
    }

    /// A stream that may still receive. A frame for any other one is late, which is no fault.
    fn receiving_stream(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(&id).filter(|stream| stream.receiving == Receiving::Open)
    }

    /// The peer broke the protocol within a stream: the stream ends on both sides.
    fn stream_fault(&mut self, id: StreamId, reason: AbortReason, detail: &str) {
        let abort = Abort::with_detail(reason, detail);
        self.abort(id, abort.clone());
        self.end_receiving(id, &abort);
        self.forget_if_over(id);
    }

    fn end_receiving(&mut self, id: StreamId, abort: &Abort) {
        let side = self.side;
        if self.streams.get_mut(&id).is_some_and(|stream| stream.break_off(side, abort)) {
            self.events.push_back(Event::Aborted(id));
        }
    }

    /// New credit for what the application has read, once it is worth a frame.
    pub(super) fn grant_credit(&mut self, id: StreamId, read_bytes: usize, now: Micros) {
        let round_trip = self.liveness.rtt_micros().unwrap_or(ROUND_TRIP_UNKNOWN_MICROS);
        let may_grow = self.committed_bytes < self.limits.budget_bytes;
        let tight = self.limits.budget.is_tight();
        let (window, window_max) = (self.limits.window_bytes, self.limits.window_bytes_max);
        let Some(stream) = self.receiving_stream(id) else { return };
        stream.consumed = stream.consumed.saturating_add(u32::try_from(read_bytes).unwrap_or(u32::MAX));
        if tight {
            stream.window = WINDOW_BYTES_TIGHT.min(window);
        }
        let dry = stream.allowance == 0 && stream.inbox.bytes() == 0;
        if stream.consumed < stream.window / 2 && !dry {
            return;
        }
        let since_grant = now.since(stream.granted_at);
        if tight {
            // Just enough to keep the stream moving.
        } else if since_grant < 2 * round_trip && may_grow {
            // The reader empties half a window within two round trips: credit is what limits it.
            stream.window = stream.window.saturating_mul(2).min(window_max);
        } else if since_grant > STALLED_MICROS {
            stream.window = (stream.window / 2).max(window);
        }
        let unread = u32::try_from(stream.inbox.bytes()).unwrap_or(u32::MAX);
        let grant = stream.window.saturating_sub(unread).saturating_sub(stream.allowance);
        if grant == 0 {
            return;
        }
        stream.consumed = 0;
        stream.granted_at = now;
        stream.allowance += grant;
        stream.credit_due = stream.credit_due.saturating_add(grant);
        self.commit(grant as usize);
        self.wake_urgent(id);
    }
}

/// Assumed before the first PONG: a local network.
const ROUND_TRIP_UNKNOWN_MICROS: u64 = 1_000;

/// The credit of a stream while the budget of all links is used up.
const WINDOW_BYTES_TIGHT: u32 = 16 * 1024;

/// A reader that takes longer than this for half a window does not need a large one.
const STALLED_MICROS: u64 = 2_000_000;

fn eight_bytes(kind: FrameKind, payload: &[u8]) -> Result<[u8; 8], LinkFault> {
    payload.try_into().map_err(|_| LinkFault::Malformed(kind))
}
