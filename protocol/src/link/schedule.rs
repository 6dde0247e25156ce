//! Who sends next. Pulled by the writer, so that nothing is staged behind the scheduler:
//! frames of the link, then heads, aborts and credit, then data of streams that were
//! quiet, then data of the busy ones in turn (deficit round robin, as in RFC 8290).
//!
//! Invariant: within a stream nothing overtakes data but ABORT and CREDIT.

use std::collections::VecDeque;

use bytes::Bytes;
use bytes::BytesMut;

use crate::frame::DATA_BYTES_MAX;
use crate::frame::FrameKind;
use crate::frame::StreamId;
use crate::frame::put_frame;
use crate::frame::put_header;

use super::Event;
use super::Link;
use super::Micros;
use super::OUTBOX_BYTES_MAX;
use super::Sending;
use super::Side;
use super::stream::DataQueue;

/// A turn while others wait.
const QUANTUM_BYTES: usize = 16 * 1024;

/// A batch may exceed its size by so much rather than carry a crumb of data.
const PIECE_BYTES_MIN: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Schedule {
    control: VecDeque<(FrameKind, StreamId, Bytes)>,
    urgent: VecDeque<StreamId>,
    fresh: VecDeque<StreamId>,
    bulk: VecDeque<StreamId>,
}

impl Schedule {
    pub(super) fn push_control(&mut self, kind: FrameKind, payload: &[u8]) {
        self.push_stream_frame(kind, 0, payload);
    }

    /// A frame for a stream that has no state here.
    pub(super) fn push_stream_frame(&mut self, kind: FrameKind, id: StreamId, payload: &[u8]) {
        self.control.push_back((kind, id, Bytes::copy_from_slice(payload)));
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
            && schedule.fresh.is_empty()
            && schedule.bulk.is_empty())
    }

    /// Appends the next batch of frames to `out`, at most about 16 KiB while several
    /// streams wait, 64 KiB for one alone. Nothing is appended when nothing waits.
    pub fn next_batch(&mut self, out: &mut BytesMut, now: Micros) {
        let waiting = self.schedule.fresh.len() + self.schedule.bulk.len();
        let batch_bytes = if waiting > 1 { QUANTUM_BYTES } else { DATA_BYTES_MAX };
        while out.len() < batch_bytes {
            if let Some((kind, id, payload)) = self.schedule.control.pop_front() {
                put_frame(out, kind, id, &payload);
            } else if let Some(id) = self.schedule.urgent.pop_front() {
                self.put_urgent(id, out);
            } else if !self.put_data(batch_bytes, out, now) {
                break;
            }
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
            stream.data_queue = DataQueue::Fresh;
            stream.deficit = QUANTUM_BYTES;
            stream.ready_at = now;
            self.schedule.fresh.push_back(id);
        } else if stream.outbox_bytes > 0 {
            self.counters.credit_stalls += 1;
        }
    }

    fn put_urgent(&mut self, id: StreamId, out: &mut BytesMut) {
        let head_kind = match self.side {
            Side::Hub => FrameKind::Open,
            Side::Agent => FrameKind::Head,
        };
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.urgent = false;
        if let Some(head) = stream.head_out.take() {
            put_frame(out, head_kind, id, &head);
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
    fn put_data(&mut self, batch_bytes: usize, out: &mut BytesMut, now: Micros) -> bool {
        let fresh = self.schedule.fresh.pop_front().map(|id| (id, DataQueue::Fresh));
        let next = fresh.or_else(|| self.schedule.bulk.pop_front().map(|id| (id, DataQueue::Bulk)));
        let Some((id, queue)) = next else { return false };
        let Some(stream) = self.streams.get_mut(&id) else { return true };
        let had_room = stream.outbox_bytes < OUTBOX_BYTES_MAX;
        let alone = batch_bytes == DATA_BYTES_MAX;
        let turn = if alone { DATA_BYTES_MAX } else { stream.deficit };
        let credit = usize::try_from(stream.send_credit).unwrap_or(usize::MAX);
        let room = batch_bytes.saturating_sub(out.len()).max(PIECE_BYTES_MIN);
        let length = turn.min(credit).min(room).min(stream.outbox_bytes);
        if length > 0 {
            put_header(out, FrameKind::Data, id, length);
            stream.take_outbox(length, out);
            stream.send_credit -= length as u64;
            stream.deficit = stream.deficit.saturating_sub(length);
            self.counters.data_sent_bytes += length as u64;
            self.counters.queue_delay.measured(now.since(stream.ready_at));
            stream.ready_at = now;
        }
        if stream.outbox_bytes == 0 {
            match &stream.sending {
                Sending::EndQueued(trailers) => {
                    put_frame(out, FrameKind::End, id, trailers);
                    stream.sending = Sending::Ended;
                }
                Sending::FailQueued(abort) => {
                    put_frame(out, FrameKind::Abort, id, &abort.encode());
                    stream.sending = Sending::Aborted;
                }
                Sending::Open | Sending::Ended | Sending::AbortQueued(_) | Sending::Aborted => {}
            }
        }
        let has_room = stream.outbox_bytes < OUTBOX_BYTES_MAX;
        if has_room && !had_room {
            self.events.push_back(Event::Writable(id));
        }
        self.requeue(id, queue);
        self.forget_if_over(id);
        true
    }

    /// Where a stream waits after its turn. One that was fresh and is empty now waits as a
    /// busy one once, so that a stream cannot stay in front by never queueing much.
    fn requeue(&mut self, id: StreamId, queue: DataQueue) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let open = matches!(stream.sending, Sending::Open | Sending::EndQueued(_) | Sending::FailQueued(_));
        let sendable = stream.has_sendable_data();
        let stays_fresh = queue == DataQueue::Fresh && sendable && stream.deficit > 0;
        let waits_in_bulk = sendable || (open && queue == DataQueue::Fresh);
        if stays_fresh {
            self.schedule.fresh.push_front(id);
        } else if waits_in_bulk {
            stream.data_queue = DataQueue::Bulk;
            if stream.deficit == 0 {
                stream.deficit = QUANTUM_BYTES;
            }
            self.schedule.bulk.push_back(id);
        } else {
            stream.data_queue = DataQueue::None;
            if stream.outbox_bytes > 0 && stream.send_credit == 0 {
                self.counters.credit_stalls += 1;
            }
        }
    }
}
