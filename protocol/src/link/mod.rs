//! The link: many streams over one connection, as a state machine without sockets or
//! clocks. The hub, the agent and the simulator drive the same code.
//!
//! The caller gives it frames that came ([`Link::receive`]), calls of the application,
//! and the time; it takes batches to send ([`Link::next_batch`]) and [`Event`]s.
//!
//! Invariant: no stream waits for another one's reader, and a fault within a stream
//! never ends the link.

mod budget;
mod counters;
mod credit;
mod limits;
mod liveness;
mod pieces;
mod rate;
mod receive;
mod schedule;
mod stream;

use std::collections::HashMap;
use std::collections::VecDeque;

use bytes::Bytes;

use crate::frame::Abort;
use crate::frame::AbortReason;
use crate::frame::Drain;
use crate::frame::Frame;
use crate::frame::FrameKind;
use crate::frame::StreamId;
use crate::frame::to_json;

pub use budget::Budget;
pub use counters::AbortCounts;
pub use counters::Counters;
pub use counters::QueueDelay;
pub use limits::Limits;
pub use liveness::Silent;
pub use receive::LinkFault;
pub use stream::Sent;

use liveness::Liveness;
use pieces::Keep;
use rate::Rate;
use rate::Verdict;
use schedule::Schedule;
use stream::Receiving;
use stream::Sending;
use stream::Stream;

/// A moment in microseconds, from any fixed beginning; never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// Microseconds since an earlier moment; 0 if it was not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// So many microseconds later.
    #[must_use]
    pub const fn plus(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

/// Which end of the link this is. Only the hub opens streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Accepts links and opens streams.
    Hub,
    /// Dials the link and answers streams.
    Agent,
}

/// What the application should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The hub opened this stream; its OPEN is taken with [`Link::take_head`].
    Opened(StreamId),
    /// A head, data or an end came for this stream.
    Readable(StreamId),
    /// This stream's queue has room again.
    Writable(StreamId),
    /// The peer or the loss of the link aborted this stream.
    Aborted(StreamId),
    /// A frame of the link that the state machine does not answer itself.
    Control(Frame),
    /// The peer takes or opens no new streams on this link.
    PeerDrains(Drain),
}

/// What [`Link::take_data`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Nothing yet.
    Pending,
    /// Body bytes.
    Data(Bytes),
    /// The body is complete; the payload of END (trailers).
    End(Bytes),
    /// The stream broke off.
    Aborted(Abort),
}

/// Why a stream cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenRefused {
    /// One of the sides drains.
    #[error("the link drains")]
    Draining,
    /// The bound on streams at once is reached, or on streams opened or aborted a second.
    #[error("the link has as many streams as it may")]
    Full,
    /// The link is gone, or has used up its stream numbers.
    #[error("the link is over")]
    Over,
}

/// The stream is not known any more: it was aborted, released or the link is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is over")]
pub struct StreamOver;

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    side: Side,
    limits: Limits,
    streams: HashMap<StreamId, Stream>,
    last_opened: StreamId,
    schedule: Schedule,
    events: VecDeque<Event>,
    liveness: Liveness,
    draining_here: bool,
    /// The ping that went out behind DRAIN; until it is answered, streams that the peer
    /// opened before it knew are still taken.
    drain_ping: Option<u64>,
    draining_there: bool,
    over: bool,
    counters: Counters,
    committed_bytes: usize,
    rates: Rates,
}

/// What is counted by the second.
#[derive(Debug)]
struct Rates {
    opens: Rate,
    /// Aborts of either side: each costs both.
    resets: Rate,
    control: Rate,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.limits.budget.release(self.committed_bytes);
    }
}

impl Link {
    /// A link that has just been welcomed.
    pub fn new(side: Side, limits: Limits, now: Micros) -> Self {
        let rates = Rates {
            opens: Rate::new(limits.opens_per_second, now),
            resets: Rate::new(limits.resets_per_second, now),
            control: Rate::new(limits.control_per_second, now),
        };
        Self {
            side,
            limits,
            rates,
            streams: HashMap::new(),
            last_opened: 0,
            schedule: Schedule::default(),
            events: VecDeque::new(),
            liveness: Liveness::new(side, now),
            draining_here: false,
            drain_ping: None,
            draining_there: false,
            over: false,
            counters: Counters::default(),
            committed_bytes: 0,
        }
    }

    /// Opens a stream with an encoded OPEN.
    ///
    /// # Errors
    /// When the link takes no new streams.
    pub fn open(&mut self, head: Bytes, now: Micros) -> Result<StreamId, OpenRefused> {
        debug_assert_eq!(self.side, Side::Hub, "only the hub opens streams");
        if self.over || self.last_opened == StreamId::MAX {
            return Err(OpenRefused::Over);
        }
        if self.draining_here || self.draining_there {
            return Err(OpenRefused::Draining);
        }
        if self.streams.len() >= self.limits.streams_max
            || self.rates.resets.is_used_up(now)
            || self.rates.opens.count(now) != Verdict::Within
        {
            return Err(OpenRefused::Full);
        }
        self.last_opened += 1;
        let id = self.last_opened;
        let narrow = self.is_crowded_with(self.limits.window_bytes as usize);
        let stream = self.add_stream(id, narrow, now);
        stream.head_out = Some(head);
        self.wake_urgent(id);
        Ok(id)
    }

    /// Queues the encoded HEAD. Goes out before any data of this stream.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn send_head(&mut self, id: StreamId, head: Bytes) -> Result<(), StreamOver> {
        let stream = self.sending_stream(id)?;
        stream.head_out = Some(head);
        self.wake_urgent(id);
        Ok(())
    }

    /// How many bytes the stream's queue has room for. At 0, wait for [`Event::Writable`].
    ///
    /// # Errors
    /// When the stream is over.
    pub fn send_capacity(&self, id: StreamId) -> Result<usize, StreamOver> {
        let stream = self.streams.get(&id).filter(|stream| stream.sending == Sending::Open).ok_or(StreamOver)?;
        Ok(stream.outbox_room())
    }

    /// What of the stream is on the wire; nothing of one that is not known.
    pub fn sent(&self, id: StreamId) -> Sent {
        self.streams.get(&id).map(|stream| stream.sent).unwrap_or_default()
    }

    /// Leaves an encoded RECEIPT with a body that is about to end: it goes out right before
    /// the END, or before the ABORT of [`Link::fail`], and not at all when the stream is
    /// aborted first.
    pub fn leave_receipt(&mut self, id: StreamId, receipt: Bytes) {
        if let Ok(stream) = self.sending_stream(id) {
            stream.receipt_out = Some(receipt);
        }
    }

    /// Sends an encoded RECEIPT now: of a call that the peer has ended.
    pub fn send_receipt(&mut self, receipt: Bytes) {
        if !self.over {
            self.counters.receipts_sent += 1;
            self.schedule.push_receipt(receipt);
        }
    }

    /// Whether nothing of the sending half waits: its END is on the wire, or it was aborted. A
    /// hub that has the whole response waits for [`Event::Writable`] until then, and an agent
    /// that left a receipt.
    pub fn has_sent_all(&self, id: StreamId) -> bool {
        let sending = self.streams.get(&id).map(|stream| &stream.sending);
        sending.is_none_or(|sending| matches!(sending, Sending::Ended | Sending::AbortQueued(_) | Sending::Aborted))
    }

    /// Queues body bytes. The caller keeps to [`Link::send_capacity`], but one piece may exceed it.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn send_data(&mut self, id: StreamId, data: Bytes, now: Micros) -> Result<(), StreamOver> {
        let stream = self.sending_stream(id)?;
        if data.is_empty() {
            return Ok(());
        }
        stream.outbox.push(data, Keep::Alone);
        self.wake_data(id, now);
        Ok(())
    }

    /// The body is complete: END with an encoded trailer block (empty: none) after the last byte.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn finish(&mut self, id: StreamId, trailers: Bytes, now: Micros) -> Result<(), StreamOver> {
        let stream = self.sending_stream(id)?;
        stream.sending = Sending::EndQueued(trailers);
        self.wake_data(id, now);
        Ok(())
    }

    /// The body broke off: ABORT after the last queued byte, so that the other side still
    /// gets all that came before the break.
    pub fn fail(&mut self, id: StreamId, abort: Abort, now: Micros) {
        let Ok(stream) = self.sending_stream(id) else { return };
        let abort = Abort { received_bytes: stream.received_bytes, ..abort };
        let reason = abort.reason;
        stream.sending = Sending::FailQueued(abort);
        self.counters.aborts_sent.add(reason);
        self.wake_data(id, now);
    }

    /// The stream is not wanted any more: ABORT before everything else. May be called at
    /// any time and again; only the first one counts.
    pub fn abort(&mut self, id: StreamId, abort: Abort, now: Micros) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.is_closed_on_wire() || matches!(stream.sending, Sending::AbortQueued(_) | Sending::Aborted) {
            return;
        }
        let abort = Abort { received_bytes: stream.received_bytes, ..abort };
        let unknown_to_peer = self.side == Side::Hub && stream.head_out.is_some();
        stream.clear_outbox();
        self.events.push_back(Event::Writable(id));
        if unknown_to_peer {
            // The OPEN never left: there is nobody to tell, and nobody who would answer.
            stream.sending = Sending::Aborted;
            stream.receiving = Receiving::Aborted(abort);
            self.events.push_back(Event::Aborted(id));
            return self.forget_if_over(id);
        }
        let reason = abort.reason;
        stream.sending = Sending::AbortQueued(abort);
        self.rates.resets.count(now);
        self.counters.aborts_sent.add(reason);
        self.wake_urgent(id);
    }

    /// The application takes no more from this stream. A call that is not complete is
    /// aborted; a response that only waits to be sent still is.
    pub fn release(&mut self, id: StreamId, reason: AbortReason, now: Micros) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.released = true;
        let unread_bytes = stream.inbox.bytes();
        stream.inbox.clear();
        let incomplete = match self.side {
            Side::Hub => !stream.is_closed_on_wire(),
            Side::Agent => stream.sending == Sending::Open,
        };
        if incomplete {
            self.abort(id, Abort::new(reason), now);
        }
        self.uncommit(unread_bytes);
        self.forget_if_over(id);
    }

    /// The encoded OPEN (agent) or HEAD (hub) of a stream, once.
    pub fn take_head(&mut self, id: StreamId) -> Option<Bytes> {
        self.streams.get_mut(&id)?.head_in.take()
    }

    /// The next piece of a stream's body. Reading is what gives the peer new credit.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn take_data(&mut self, id: StreamId, now: Micros) -> Result<Incoming, StreamOver> {
        let stream = self.streams.get_mut(&id).ok_or(StreamOver)?;
        if let Some(data) = stream.inbox.pop() {
            self.uncommit(data.len());
            self.grant_credit(id, data.len(), now);
            return Ok(Incoming::Data(data));
        }
        Ok(match &stream.receiving {
            Receiving::Open => Incoming::Pending,
            Receiving::Ended(trailers) => Incoming::End(trailers.clone()),
            Receiving::Aborted(abort) => Incoming::Aborted(abort.clone()),
        })
    }

    /// The abort that ended the receiving half, if one did; unread data may precede it.
    pub fn aborted(&self, id: StreamId) -> Option<Abort> {
        match &self.streams.get(&id)?.receiving {
            Receiving::Aborted(abort) => Some(abort.clone()),
            Receiving::Open | Receiving::Ended(_) => None,
        }
    }

    /// Queues a frame of the link itself.
    pub fn send_control(&mut self, kind: FrameKind, payload: &[u8]) {
        debug_assert!(!kind.is_of_stream(), "{kind:?} belongs to a stream");
        self.schedule.push_control(kind, payload);
    }

    /// No new streams from now on; tells the peer once.
    pub fn drain(&mut self, drain: &Drain, now: Micros) {
        if self.draining_here || self.over {
            return;
        }
        self.draining_here = true;
        self.send_control(FrameKind::Drain, &to_json(drain));
        if self.side == Side::Agent {
            self.drain_ping = Some(self.ping(now));
        }
    }

    /// Whether nothing is left: no stream, nothing to send, and no stream that a peer which
    /// does not know of the drain yet could still open.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty() && !self.has_frames() && self.drain_ping.is_none()
    }

    fn drain_known(&self) -> bool {
        self.draining_here && self.drain_ping.is_none()
    }

    /// Whether either side takes no new streams.
    pub fn is_draining(&self) -> bool {
        self.draining_here || self.draining_there || self.over
    }

    /// Streams that are not over.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// The connection is gone: every stream that was not finished is aborted.
    pub fn lose(&mut self) {
        self.over = true;
        let abort = Abort::new(AbortReason::LinkLost);
        for (id, stream) in &mut self.streams {
            stream.clear_outbox();
            stream.sending = Sending::Aborted;
            if stream.break_off(self.side, &abort) {
                self.events.push_back(Event::Aborted(*id));
            }
            self.events.push_back(Event::Writable(*id));
        }
        let over: Vec<StreamId> = self.streams.keys().copied().collect();
        over.into_iter().for_each(|id| self.forget_if_over(id));
    }

    /// The next thing for the application to look at.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Lets go of the memory of what was queued, while there are no streams: a link that was
    /// busy once should not remember it while it is quiet.
    pub fn rest(&mut self) {
        if !self.streams.is_empty() {
            return;
        }
        self.streams = HashMap::new();
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
        self.schedule.rest();
    }

    /// What its queues hold in memory, used or not.
    #[cfg(test)]
    fn queues_bytes(&self) -> usize {
        self.streams.capacity() * size_of::<Stream>()
            + self.events.capacity() * size_of::<Event>()
            + self.schedule.bytes()
    }

    /// Counters since the link began.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The last measured round trip, in microseconds.
    pub fn rtt_micros(&self) -> Option<u64> {
        self.liveness.rtt_micros()
    }

    /// Bytes that peers may still send or that wait unread, over all streams: what the
    /// budget bounds.
    pub fn committed_bytes(&self) -> usize {
        self.committed_bytes
    }

    /// Body bytes that wait here, to be read or to be sent. Looks at every stream.
    pub fn buffered_bytes(&self) -> usize {
        self.streams.values().map(|stream| stream.inbox.bytes() + stream.outbox.bytes()).sum()
    }

    /// The socket was full and has taken more: the peer acknowledges what we send, so that a
    /// PING which waits behind it is no sign of death. Bytes that a socket with room takes
    /// prove nothing and are not told.
    pub fn wrote(&mut self, now: Micros) {
        self.liveness.wrote(now);
    }

    /// When [`Link::on_time`] wants to be called next.
    pub fn next_wake(&self) -> Micros {
        self.liveness.next_wake(!self.streams.is_empty())
    }

    /// Sends a ping when it is time.
    ///
    /// # Errors
    /// [`Silent`] when the peer has not been heard for too long.
    pub fn on_time(&mut self, now: Micros) -> Result<(), Silent> {
        if let Some(nonce) = self.liveness.on_time(!self.streams.is_empty(), now)? {
            self.schedule.push_control(FrameKind::Ping, &nonce.to_be_bytes());
        }
        Ok(())
    }

    /// Sends a ping now, whatever the time: the proof of a heartbeat.
    pub fn ping(&mut self, now: Micros) -> u64 {
        let nonce = self.liveness.ping(now);
        self.schedule.push_control(FrameKind::Ping, &nonce.to_be_bytes());
        nonce
    }

    fn add_stream(&mut self, id: StreamId, narrow: bool, now: Micros) -> &mut Stream {
        let window = if narrow { self.limits.window_narrow_bytes() } else { self.limits.window_bytes };
        self.counters.opened += 1;
        self.commit(window as usize);
        let stream = self.streams.entry(id).or_insert_with(|| Stream::new(window, now));
        stream.narrow = narrow;
        stream
    }

    fn sending_stream(&mut self, id: StreamId) -> Result<&mut Stream, StreamOver> {
        self.streams.get_mut(&id).filter(|stream| stream.sending == Sending::Open).ok_or(StreamOver)
    }

    fn forget_if_over(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get(&id)
            && stream.is_over()
        {
            let committed = stream.allowance as usize + stream.inbox.bytes();
            self.uncommit(committed);
            self.streams.remove(&id);
        }
    }

    /// Bytes that the peer may send from now on.
    fn commit(&mut self, bytes: usize) {
        self.committed_bytes += bytes;
        self.limits.budget.commit(bytes);
    }

    /// Bytes that were read, or that nobody will send any more.
    fn uncommit(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.committed_bytes, "more given back than was taken");
        let bytes = bytes.min(self.committed_bytes);
        self.committed_bytes -= bytes;
        self.limits.budget.release(bytes);
    }
}

#[cfg(test)]
mod faults;
#[cfg(test)]
mod model;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
