//! What must hold, on the wire, in the middle of a schedule and at its end.
//!
//! Invariant: a check reads and changes nothing.

use std::collections::HashMap;

use bytes::Bytes;

use crate::frame::AbortReason;
use crate::frame::FrameKind;
use crate::frame::StreamId;
use crate::frame::next_frame;
use crate::link::Link;
use crate::link::Receiving;
use crate::link::Sending;

use super::connection::Connection;
use super::connection::End;
use super::task::Outcome;

/// What one end has written for each stream.
#[derive(Default)]
pub(super) struct Wire(HashMap<StreamId, Written>);

#[derive(Default)]
struct Written {
    opened: bool,
    ended: bool,
    aborted: bool,
}

impl Wire {
    /// A stream is opened once, ends once, is aborted once, and says nothing after its last word.
    pub(super) fn sent(&mut self, batch: &Bytes) -> Result<(), String> {
        let mut batch = batch.clone();
        while let Some(frame) = next_frame(&mut batch).map_err(|_| "a batch is cut inside a frame".to_owned())? {
            let kind = FrameKind::from_number(frame.kind).ok_or("a frame of an unknown kind")?;
            let written = self.0.entry(frame.stream).or_default();
            let fine = match kind {
                FrameKind::Open | FrameKind::Head => !std::mem::replace(&mut written.opened, true),
                FrameKind::Data => !written.ended && !written.aborted,
                FrameKind::End => !std::mem::replace(&mut written.ended, true) && !written.aborted,
                FrameKind::Abort => !std::mem::replace(&mut written.aborted, true),
                FrameKind::Credit
                | FrameKind::Challenge
                | FrameKind::Auth
                | FrameKind::Welcome
                | FrameKind::Refuse
                | FrameKind::Ping
                | FrameKind::Pong
                | FrameKind::Drain
                | FrameKind::Offer
                | FrameKind::Withdraw
                | FrameKind::Receipt
                | FrameKind::Claim
                | FrameKind::Ack
                | FrameKind::Need
                | FrameKind::Keys
                | FrameKind::Prices => true,
            };
            if !fine {
                return Err(format!("a {kind:?} too many or too late on stream {}", frame.stream));
            }
        }
        Ok(())
    }
}

/// What is committed is what peers may send and what is unread; nothing else.
pub(super) fn committed(link: &Link) -> Result<(), String> {
    let streams = link.streams.values();
    let expected: usize = streams.map(|stream| stream.allowance as usize + stream.inbox.bytes()).sum();
    if expected == link.committed_bytes {
        return Ok(());
    }
    Err(format!("{} bytes are committed and {expected} are accounted for", link.committed_bytes))
}

/// For each open direction: what its receiver allows is what its sender has, and what is on its way.
pub(super) fn credit(sender: &End, receiver: &End) -> Result<(), String> {
    for (id, from) in &sender.link.streams {
        let Some(to) = receiver.link.streams.get(id) else { continue };
        if from.sending != Sending::Open || to.receiving != Receiving::Open {
            continue;
        }
        let data: u64 = flying(sender, *id, FrameKind::Data).map(|payload| payload.len() as u64).sum();
        let granted = flying(receiver, *id, FrameKind::Credit);
        let granted: u64 = granted.filter_map(|payload| payload.as_ref().try_into().ok()).map(read_u32).sum();
        let accounted = from.send_credit + data + granted + u64::from(to.credit_due);
        if accounted != u64::from(to.allowance) {
            return Err(format!("stream {id}: {accounted} bytes of credit are around, {} allowed", to.allowance));
        }
    }
    Ok(())
}

/// When all is done: nothing is left, and every call ended as its two ends say.
pub(super) fn nothing_left(connection: &Connection) -> Result<(), String> {
    for end in [&connection.hub, &connection.agent] {
        let (streams, bytes) = (end.link.stream_count(), end.link.committed_bytes());
        if (streams, bytes) != (0, 0) {
            let left: Vec<_> = end.link.streams.iter().collect();
            return Err(format!("{:?}: {streams} streams and {bytes} bytes are left: {left:?}", end.side));
        }
        for task in &end.tasks {
            if task.aborts_told > 1 {
                return Err(format!("{:?}: stream {} was told of its abort twice", end.side, task.id));
            }
            let breach = [AbortReason::Protocol, AbortReason::FlowControl].map(Outcome::Broken);
            if task.outcome.as_ref().is_some_and(|outcome| breach.contains(outcome)) {
                return Err(format!("{:?}: stream {} ended as {:?}", end.side, task.id, task.outcome));
            }
        }
    }
    ends_agree(&connection.hub, &connection.agent)
}

fn ends_agree(hub: &End, agent: &End) -> Result<(), String> {
    for call in &hub.tasks {
        let served = agent.tasks.iter().find(|task| task.id == call.id);
        let Some(served) = served else {
            if call.outcome == Some(Outcome::Whole) || call.read > 0 {
                return Err(format!("call {} was answered by nobody", call.id));
            }
            continue;
        };
        for (sender, receiver) in [(call, served), (served, call)] {
            if receiver.read > sender.sent {
                return Err(format!("stream {}: more was read than sent", call.id));
            }
            let whole = sender.ended_well && receiver.read == sender.sent;
            if receiver.outcome == Some(Outcome::Whole) && !whole {
                return Err(format!("stream {}: an end that is none: {sender:?} {receiver:?}", call.id));
            }
        }
        let disturbed = call.gave_up || served.gave_up || hub.lost || agent.lost;
        if !disturbed && call.outcome != Some(Outcome::Whole) {
            return Err(format!("call {} broke for no reason: {call:?} {served:?}", call.id));
        }
    }
    Ok(())
}

fn flying(end: &End, id: StreamId, kind: FrameKind) -> impl Iterator<Item = Bytes> {
    end.flying.iter().flat_map(move |batch| {
        let mut batch = batch.clone();
        std::iter::from_fn(move || next_frame(&mut batch).ok().flatten())
            .filter(move |frame| frame.stream == id && frame.kind == kind.number())
            .map(|frame| frame.payload)
    })
}

fn read_u32(bytes: [u8; 4]) -> u64 {
    u32::from_be_bytes(bytes).into()
}
