//! Who sends next. Pulled by the writer, so that nothing is staged behind the scheduler:
//! frames of the link, then heads, aborts and credit, then data of streams that send
//! little, then data of the busy ones in turn (deficit round robin, as in RFC 8290). Turns are
//! long only while nobody is there who would notice.
//!
//! Invariant: within a stream nothing overtakes data but ABORT and CREDIT.

use std::collections::VecDeque;

use bytes::Bytes;
use bytes::BytesMut;

use crate::frame::BATCH_FRAMES_MAX;
use crate::frame::DATA_BYTES_MAX;
use crate::frame::FrameKind;
use crate::frame::StreamId;
use crate::frame::put_frame;
use crate::frame::put_header;
use crate::frame::put_narrow_open;

use super::Event;
use super::Link;
use super::Micros;
use super::Receiving;
use super::Sending;
use super::Side;
use super::stream::DataQueue;

/// The longest turn while others wait; what fits one TLS record.
pub(super) const QUANTUM_BYTES_MAX: usize = 16 * 1024;

/// The shortest one, on a path so slow that even this takes a while.
const QUANTUM_BYTES_MIN: usize = 4 * 1024;

/// A queue that so few bytes empty belongs to somebody who waits for each of them.
const INTERACTIVE_BYTES_MAX: usize = 4 * 1024;

/// How long the path may be busy with one turn while others wait, and with a batch at all.
const TURN_MICROS: u64 = 1_000;
const BATCH_MICROS: u64 = 20_000;

/// A stream goes before the busy ones with its first quantum in each such time.
const FRESH_MICROS: u64 = 20_000;

/// So much goes before the busy ones without a break; then one of them has its turn.
const FRESH_RUN_BYTES_MAX: usize = 256 * 1024;

/// A step of a batch writes at most three frames.
const BATCH_STEPS_MAX: usize = BATCH_FRAMES_MAX / 3;

/// A batch may exceed its size by so much rather than carry a crumb of data.
const PIECE_BYTES_MIN: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Schedule {
    control: VecDeque<(FrameKind, StreamId, Bytes)>,
    urgent: VecDeque<StreamId>,
    receipts: VecDeque<Bytes>,
    fresh: VecDeque<StreamId>,
    bulk: VecDeque<StreamId>,
    /// When a stream that sends little at a time had its last turn.
    interactive_at: Option<Micros>,
    /// Bytes that went before waiting busy streams since one of these had its turn.
    fresh_run_bytes: usize,
    pace: Pace,
}

/// How fast the path takes what it is given, measured while it is given more than it takes.
#[derive(Debug, Default)]
struct Pace {
    began: Micros,
    bytes: u64,
    bytes_per_ms: Option<u64>,
}

/// What the next batch may hold.
struct Turn {
    batch_bytes: usize,
    /// Of one stream.
    stream_bytes: usize,
}

impl Pace {
    fn wrote(&mut self, bytes: usize, more_waits: bool, now: Micros) {
        let elapsed = now.since(self.began);
        self.bytes += bytes as u64;
        if elapsed >= TURN_MICROS {
            self.bytes_per_ms = Some(self.bytes.saturating_mul(1000) / elapsed);
        } else if more_waits {
            return;
        }
        self.began = now;
        self.bytes = 0;
        if !more_waits {
            // The path was not what held us up: nothing was learned about it.
            self.bytes_per_ms = None;
        }
    }

    fn quantum_bytes(&self) -> usize {
        self.bytes_in(TURN_MICROS).clamp(QUANTUM_BYTES_MIN, QUANTUM_BYTES_MAX)
    }

    fn batch_bytes(&self) -> usize {
        self.bytes_in(BATCH_MICROS).clamp(QUANTUM_BYTES_MIN, DATA_BYTES_MAX)
    }

    fn bytes_in(&self, micros: u64) -> usize {
        let bytes = self.bytes_per_ms.map_or(u64::MAX, |bytes| bytes.saturating_mul(micros / 1000));
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

impl Schedule {
    pub(super) fn push_control(&mut self, kind: FrameKind, payload: &[u8]) {
        self.push_stream_frame(kind, 0, payload);
    }

    /// A frame for a stream that has no state here.
    pub(super) fn push_stream_frame(&mut self, kind: FrameKind, id: StreamId, payload: &[u8]) {
        self.control.push_back((kind, id, Bytes::copy_from_slice(payload)));
    }

    pub(super) fn push_receipt(&mut self, receipt: Bytes) {
        self.receipts.push_back(receipt);
    }

    /// Whose turn it is: a fresh stream's, unless busy ones have waited for many of them.
    fn next_stream(&mut self) -> Option<(StreamId, DataQueue)> {
        let busy_first = self.fresh_run_bytes >= FRESH_RUN_BYTES_MAX && !self.bulk.is_empty();
        if self.bulk.is_empty() {
            self.fresh_run_bytes = 0;
        }
        let fresh = if busy_first { None } else { self.fresh.pop_front() };
        let fresh = fresh.map(|id| (id, DataQueue::Fresh));
        fresh.or_else(|| self.bulk.pop_front().map(|id| (id, DataQueue::Bulk)))
    }

    /// Lets go of the memory of empty queues.
    pub(super) fn rest(&mut self) {
        if self.control.is_empty() {
            self.control = VecDeque::new();
        }
        for queue in [&mut self.urgent, &mut self.fresh, &mut self.bulk] {
            if queue.is_empty() {
                *queue = VecDeque::new();
            }
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let ids: usize = [&self.urgent, &self.fresh, &self.bulk].iter().map(|queue| queue.capacity()).sum();
        ids * size_of::<StreamId>() + self.control.capacity() * size_of::<(FrameKind, StreamId, Bytes)>()
    }

    pub(super) fn control_len(&self) -> usize {
        self.control.len()
    }
}

impl Link {
    /// Whether [`Link::next_batch`] would write anything.
    pub fn has_frames(&self) -> bool {
        let schedule = &self.schedule;
        !(schedule.control.is_empty()
            && schedule.urgent.is_empty()
            && schedule.receipts.is_empty()
            && schedule.fresh.is_empty()
            && schedule.bulk.is_empty())
    }

    /// Appends the next batch of frames to `out`: 4 to 16 KiB while somebody waits for small
    /// pieces; if nobody did within the last round trip, what the path takes in 20 ms, up to
    /// 64 KiB. Nothing is appended when nothing waits.
    pub fn next_batch(&mut self, out: &mut BytesMut, now: Micros) {
        let turn = self.next_turn(now);
        let before = out.len();
        for _ in 0..BATCH_STEPS_MAX {
            if out.len() >= turn.batch_bytes {
                break;
            }
            if let Some((kind, id, payload)) = self.schedule.control.pop_front() {
                put_frame(out, kind, id, &payload);
            } else if let Some(id) = self.schedule.urgent.pop_front() {
                self.put_urgent(id, out);
            } else if let Some(receipt) = self.schedule.receipts.pop_front() {
                put_frame(out, FrameKind::Receipt, 0, &receipt);
            } else if !self.put_data(&turn, out, now) {
                break;
            }
        }
        let more_waits = self.has_frames();
        self.schedule.pace.wrote(out.len() - before, more_waits, now);
    }

    fn next_turn(&self, now: Micros) -> Turn {
        let schedule = &self.schedule;
        let round_trip = self.liveness.rtt_micros().unwrap_or(TURN_MICROS);
        let somebody_waits = !schedule.fresh.is_empty()
            || schedule.interactive_at.is_some_and(|interactive_at| now.since(interactive_at) <= round_trip);
        let alone = schedule.fresh.len() + schedule.bulk.len() <= 1;
        let (quantum_bytes, batch_bytes) = (schedule.pace.quantum_bytes(), schedule.pace.batch_bytes());
        match (somebody_waits, alone) {
            (true, _) => Turn { batch_bytes: quantum_bytes, stream_bytes: quantum_bytes },
            (false, true) => Turn { batch_bytes, stream_bytes: DATA_BYTES_MAX },
            (false, false) => Turn { batch_bytes, stream_bytes: QUANTUM_BYTES_MAX },
        }
    }

    /// Puts the stream into the queue for heads, aborts and credit.
    pub(super) fn wake_urgent(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.urgent
        {
            stream.urgent = true;
            self.schedule.urgent.push_back(id);
        }
    }

    /// Puts the stream into a data queue, if it has data and credit and is in none.
    pub(super) fn wake_data(&mut self, id: StreamId, now: Micros) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.data_queue != DataQueue::None {
            return;
        }
        if stream.has_sendable_data() {
            let quantum_bytes = self.schedule.pace.quantum_bytes();
            if now.since(stream.fresh_since) >= FRESH_MICROS {
                stream.fresh_since = now;
                stream.fresh_bytes = quantum_bytes;
            }
            stream.ready_at = now;
            if stream.fresh_bytes > 0 {
                stream.data_queue = DataQueue::Fresh;
                self.schedule.fresh.push_back(id);
            } else {
                stream.data_queue = DataQueue::Bulk;
                stream.deficit = quantum_bytes;
                self.schedule.bulk.push_back(id);
            }
        } else if stream.outbox.bytes() > 0 {
            self.counters.credit_stalls += 1;
        }
    }

    fn put_urgent(&mut self, id: StreamId, out: &mut BytesMut) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.urgent = false;
        if let Some(head) = stream.head_out.take() {
            match (self.side, stream.narrow) {
                (Side::Hub, true) => put_narrow_open(out, id, &head),
                (Side::Hub, false) => put_frame(out, FrameKind::Open, id, &head),
                (Side::Agent, _) => put_frame(out, FrameKind::Head, id, &head),
            }
            stream.sent.head = true;
        }
        if stream.credit_due > 0 {
            let credit = std::mem::take(&mut stream.credit_due);
            put_frame(out, FrameKind::Credit, id, &credit.to_be_bytes());
        }
        if let Sending::AbortQueued(abort) = &stream.sending {
            put_frame(out, FrameKind::Abort, id, &abort.encode());
            stream.sending = Sending::Aborted;
            self.forget_if_over(id);
        }
    }

    /// Gives the next stream its turn. False when no stream waits.
    fn put_data(&mut self, turn: &Turn, out: &mut BytesMut, now: Micros) -> bool {
        let Some((id, queue)) = self.schedule.next_stream() else { return false };
        let Some(stream) = self.streams.get_mut(&id) else { return true };
        let had_room = stream.outbox_room() > 0;
        let alone = turn.stream_bytes == DATA_BYTES_MAX;
        let most = match queue {
            _ if alone => DATA_BYTES_MAX,
            DataQueue::Fresh => stream.fresh_bytes,
            DataQueue::Bulk | DataQueue::None => stream.deficit,
        };
        let credit = usize::try_from(stream.send_credit).unwrap_or(usize::MAX);
        let room = turn.batch_bytes.saturating_sub(out.len()).max(PIECE_BYTES_MIN);
        let length = most.min(credit).min(room).min(stream.outbox.bytes());
        if length > 0 {
            put_header(out, FrameKind::Data, id, length);
            stream.outbox.take(length, out);
            stream.send_credit -= length as u64;
            stream.sent.body_bytes += length as u64;
            match queue {
                DataQueue::Fresh => {
                    stream.fresh_bytes = stream.fresh_bytes.saturating_sub(length);
                    self.schedule.fresh_run_bytes += length;
                }
                DataQueue::Bulk | DataQueue::None => {
                    stream.deficit = stream.deficit.saturating_sub(length);
                    self.schedule.fresh_run_bytes = 0;
                }
            }
            self.counters.data_sent_bytes += length as u64;
            self.counters.queue_delay.measured(now.since(stream.ready_at));
            stream.ready_at = now;
        }
        if stream.outbox.bytes() == 0 {
            if (1..=INTERACTIVE_BYTES_MAX).contains(&length) {
                self.schedule.interactive_at = Some(now);
            }
            let ends = matches!(stream.sending, Sending::EndQueued(_) | Sending::FailQueued(_));
            if ends && let Some(receipt) = stream.receipt_out.take() {
                put_frame(out, FrameKind::Receipt, 0, &receipt);
                stream.sent.receipt = true;
                self.counters.receipts_sent += 1;
            }
            match &stream.sending {
                Sending::EndQueued(trailers) => {
                    put_frame(out, FrameKind::End, id, trailers);
                    stream.sending = Sending::Ended;
                    stream.sent.end = true;
                    // Who has the whole response may wait for the end of what it sent, and so
                    // does who must know what left.
                    if self.side == Side::Agent || stream.receiving != Receiving::Open {
                        self.events.push_back(Event::Writable(id));
                    }
                }
                Sending::FailQueued(abort) => {
                    put_frame(out, FrameKind::Abort, id, &abort.encode());
                    stream.sending = Sending::Aborted;
                    if self.side == Side::Agent {
                        self.events.push_back(Event::Writable(id));
                    }
                }
                Sending::Open | Sending::Ended | Sending::AbortQueued(_) | Sending::Aborted => {}
            }
        }
        if stream.outbox_room() > 0 && !had_room {
            self.events.push_back(Event::Writable(id));
        }
        self.requeue(id, queue, turn);
        self.forget_if_over(id);
        true
    }

    /// Where a stream waits after its turn. One whose turn the end of the batch cut short goes
    /// on with it in the next.
    fn requeue(&mut self, id: StreamId, queue: DataQueue, turn: &Turn) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.has_sendable_data() {
            stream.data_queue = DataQueue::None;
            if stream.outbox.bytes() > 0 {
                self.counters.credit_stalls += 1;
            }
        } else if queue == DataQueue::Fresh && stream.fresh_bytes > 0 {
            self.schedule.fresh.push_front(id);
        } else if queue == DataQueue::Bulk && stream.deficit >= PIECE_BYTES_MIN {
            self.schedule.bulk.push_front(id);
        } else {
            stream.data_queue = DataQueue::Bulk;
            stream.deficit = turn.stream_bytes.min(QUANTUM_BYTES_MAX);
            self.schedule.bulk.push_back(id);
        }
    }
}
