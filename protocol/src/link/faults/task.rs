//! The application at one end of one call. It acts when it was woken and only then, as tasks do.
//!
//! Invariant: byte `n` of a direction is a function of the stream and `n`, so that what arrives
//! can be told from what should have.

use bytes::Bytes;

use crate::frame::Abort;
use crate::frame::AbortReason;
use crate::frame::StreamId;
use crate::link::Incoming;
use crate::link::Link;
use crate::link::Micros;
use crate::link::Side;
use crate::random::Random;

/// How the receiving half ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Whole,
    Broken(AbortReason),
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: StreamId,
    pub(super) side: Side,
    /// Bytes it means to send.
    want: u64,
    pub(super) sent: u64,
    pub(super) read: u64,
    head_sent: bool,
    /// It has said its last word: END, or an abort.
    pub(super) finished: bool,
    pub(super) ended_well: bool,
    /// It, or the link, did something that leaves the call incomplete.
    pub(super) gave_up: bool,
    pub(super) outcome: Option<Outcome>,
    pub(super) aborts_told: usize,
    pub(super) released: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Reads nothing while faults go on.
    pub(super) stalls: bool,
}

impl Task {
    pub(super) fn new(id: StreamId, link: &Link, random: &mut Random) -> Self {
        // More than the link queues, where that does not take a frame for each few bytes.
        let large = link.limits.window_bytes >= 65_536 && random.once_in(16);
        let most = if large { 200_000 } else { random.pick(&[0, 10, 300, 3_000]) };
        let side = link.side;
        Self {
            id,
            side,
            want: random.below(most + 1) as u64,
            sent: 0,
            read: 0,
            head_sent: side == Side::Hub,
            finished: false,
            ended_well: false,
            gave_up: false,
            outcome: None,
            aborts_told: 0,
            released: false,
            readable: true,
            writable: true,
            stalls: random.once_in(5),
        }
    }

    /// Sends a piece, or the end.
    pub(super) fn write(&mut self, link: &mut Link, random: &mut Random, now: Micros) {
        if self.finished || self.released || !self.writable {
            return;
        }
        let Ok(capacity) = link.send_capacity(self.id) else {
            self.finished = true;
            self.gave_up = true;
            return;
        };
        if !self.head_sent {
            self.head_sent = link.send_head(self.id, Bytes::from_static(b"head")).is_ok();
        }
        if self.sent == self.want {
            self.ended_well = link.finish(self.id, Bytes::new(), now).is_ok();
            self.finished = true;
        } else if capacity == 0 {
            self.writable = false;
        } else {
            let left = usize::try_from(self.want - self.sent).unwrap_or(usize::MAX);
            let most = if self.want > 10_000 { 40_000 } else { 600 };
            let length = (random.below(most) + 1).min(left) as u64;
            let data: Bytes = (self.sent..self.sent + length).map(|at| byte(self.id, self.side, at)).collect();
            if link.send_data(self.id, data, now).is_ok() {
                self.sent += length;
            }
        }
    }

    /// Reads one piece, or how it ended.
    pub(super) fn read(&mut self, link: &mut Link, now: Micros) -> Result<(), String> {
        if self.released || self.outcome.is_some() || !self.readable {
            return Ok(());
        }
        let _ = link.take_head(self.id);
        let other = if self.side == Side::Hub { Side::Agent } else { Side::Hub };
        match link.take_data(self.id, now) {
            Ok(Incoming::Pending) => self.readable = false,
            Ok(Incoming::Data(data)) => {
                for came in data {
                    if came != byte(self.id, other, self.read) {
                        return Err(format!("byte {} of stream {} is not what was sent", self.read, self.id));
                    }
                    self.read += 1;
                }
            }
            Ok(Incoming::End(_)) => self.outcome = Some(Outcome::Whole),
            Ok(Incoming::Aborted(abort)) => self.outcome = Some(Outcome::Broken(abort.reason)),
            Err(_) => self.outcome = Some(Outcome::Broken(AbortReason::LinkLost)),
        }
        Ok(())
    }

    /// Somebody changes their mind.
    pub(super) fn gives_up(&mut self, link: &mut Link, random: &mut Random, now: Micros) {
        if self.released {
            return;
        }
        self.gave_up = true;
        match random.below(3) {
            0 => {
                link.abort(self.id, Abort::new(AbortReason::ConsumerGone), now);
                link.abort(self.id, Abort::new(AbortReason::Stopping), now);
                self.finished = true;
            }
            1 if self.head_sent && !self.finished => {
                link.fail(self.id, Abort::new(AbortReason::VendorBroke), now);
                self.finished = true;
            }
            _ => self.release(link, now),
        }
    }

    /// Nothing more is wanted: as when the last handle of a stream is dropped.
    pub(super) fn release(&mut self, link: &mut Link, now: Micros) {
        self.released = true;
        self.finished = true;
        link.release(self.id, AbortReason::ConsumerGone, now);
    }

    /// Whether the application is through with it.
    pub(super) fn is_done(&self) -> bool {
        match self.side {
            Side::Hub => self.outcome.is_some(),
            Side::Agent => self.finished && (self.outcome.is_some() || self.ended_well),
        }
    }
}

fn byte(id: StreamId, sender: Side, at: u64) -> u8 {
    let salt = u64::from(id) * 31 + if sender == Side::Hub { 7 } else { 101 };
    u8::try_from((salt + at * 3 + at / 251) % 256).expect("below 256")
}
