//! Both ends of a link over a path with a bandwidth, a delay and kernel buffers, in virtual
//! time: what the shipped state machine does to latency, throughput and liveness.
//!
//! Invariant: nothing here reads a clock or draws a number; the same run always gives the same
//! figures.

mod fairness;
mod path;
mod slow_path;
mod throughput;

use bytes::Bytes;
use bytes::BytesMut;

use crate::frame::StreamId;

use super::Incoming;
use super::Limits;
use super::Link;
use super::Micros;
use super::Side;
use super::Silent;

use path::Path;
use path::Pipe;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000_000;

/// What drives the two pumps: one batch at a time into the kernel, frames out of it.
struct World {
    now: Micros,
    hub: End,
    agent: End,
    timer: Option<Micros>,
}

struct End {
    link: Link,
    out: Pipe,
    was_full: bool,
    silent: Option<(Micros, Silent)>,
}

impl World {
    fn new(path: Path, limits: &Limits) -> Self {
        let end = |side| End {
            link: Link::new(side, limits.clone(), Micros(0)),
            out: Pipe::new(path),
            was_full: false,
            silent: None,
        };
        let mut world = Self { now: Micros(0), hub: end(Side::Hub), agent: end(Side::Agent), timer: None };
        world.hub.link.ping(Micros(0));
        world.agent.link.ping(Micros(0));
        world
    }

    /// Lets the world run, with `app` called after everything that happens and whenever the
    /// timer it set has come.
    fn run_until(&mut self, end: Micros, mut app: impl FnMut(&mut Self)) {
        while self.now < end {
            if self.timer.is_some_and(|timer| timer <= self.now) {
                self.timer = None;
            }
            app(self);
            self.hub.pump(self.now);
            self.agent.pump(self.now);
            let next = [self.hub.next_at(self.now), self.agent.next_at(self.now), self.timer];
            self.now = next.into_iter().flatten().min().unwrap_or(end).max(self.now.plus(1)).min(end);
            self.hub.receive(&mut self.agent.out, self.now);
            self.agent.receive(&mut self.hub.out, self.now);
        }
    }

    /// A call whose request is complete and whose answer has begun.
    fn answered_call(&mut self) -> StreamId {
        let id = self.hub.link.open(Bytes::from_static(b"open"), self.now).unwrap();
        self.hub.link.finish(id, Bytes::new(), self.now).unwrap();
        let deadline = self.now.plus(60 * SECOND);
        let mut opened = false;
        while !opened {
            assert!(self.now < deadline, "the call never arrived");
            self.run_until(self.now.plus(MS), |_| {});
            opened = self.agent.link.take_head(id).is_some();
        }
        self.agent.link.send_head(id, Bytes::from_static(b"head")).unwrap();
        id
    }
}

impl End {
    /// As the real pump does: a batch when the kernel has room, and only then.
    fn pump(&mut self, now: Micros) {
        while self.link.next_event().is_some() {}
        if let (None, Err(silent)) = (self.silent, self.link.on_time(now)) {
            self.silent = Some((now, silent));
        }
        while self.link.has_frames() {
            if !self.out.has_room(now) {
                self.was_full = true;
                return;
            }
            if std::mem::take(&mut self.was_full) {
                self.link.wrote(now);
            }
            let mut batch = BytesMut::new();
            self.link.next_batch(&mut batch, now);
            if !batch.is_empty() {
                self.out.send(batch.freeze(), now);
            }
        }
    }

    fn next_at(&self, now: Micros) -> Option<Micros> {
        let room_at = if self.link.has_frames() { self.out.room_at(now) } else { None };
        let wake_at = if self.silent.is_none() { Some(self.link.next_wake()) } else { None };
        [self.out.arrives_at(), room_at, wake_at].into_iter().flatten().min()
    }

    fn receive(&mut self, from: &mut Pipe, now: Micros) {
        while let Some(batch) = from.arrived(now) {
            self.link.receive_batch(batch, now).unwrap();
        }
    }

    /// Reads all there is; how many bytes that was.
    fn read(&mut self, id: StreamId, now: Micros) -> usize {
        let mut read = 0;
        while let Ok(Incoming::Data(data)) = self.link.take_data(id, now) {
            read += data.len();
        }
        read
    }

    /// Queues data as long as the link takes it.
    fn saturate(&mut self, id: StreamId, piece: &Bytes, now: Micros) {
        while self.link.send_capacity(id).is_ok_and(|capacity| capacity > 0) {
            self.link.send_data(id, piece.clone(), now).unwrap();
        }
    }
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() - 1) * percent / 100]
}
