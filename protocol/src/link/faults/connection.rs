//! A connection with a link at either end: messages in flight, and what can happen to them.
//!
//! Invariant: a message arrives whole and in order, or not at all, and nothing after one that
//! did not.

use std::collections::VecDeque;

use bytes::Bytes;
use bytes::BytesMut;

use crate::link::Event;
use crate::link::Limits;
use crate::link::Link;
use crate::link::Micros;
use crate::link::Side;
use crate::random::Random;

use super::check::Wire;
use super::mutant::Mutant;
use super::task::Task;

/// Messages that the path holds.
const FLYING_MAX: usize = 4;

pub(super) struct Connection {
    pub(super) hub: End,
    pub(super) agent: End,
    /// Nothing gets through any more, and nobody is told.
    pub(super) silent: bool,
    /// The connection is gone; each end learns it in its own time.
    pub(super) broken: bool,
}

pub(super) struct End {
    pub(super) link: Link,
    pub(super) side: Side,
    pub(super) tasks: Vec<Task>,
    /// On their way to the other end.
    pub(super) flying: VecDeque<Bytes>,
    pub(super) lost: bool,
    pub(super) wire: Wire,
}

impl Connection {
    pub(super) fn new((hub, agent): &(Limits, Limits), now: Micros) -> Self {
        let end = |side, limits: &Limits| End {
            link: Link::new(side, limits.clone(), now),
            side,
            tasks: Vec::new(),
            flying: VecDeque::new(),
            lost: false,
            wire: Wire::default(),
        };
        let mut connection =
            Self { hub: end(Side::Hub, hub), agent: end(Side::Agent, agent), silent: false, broken: false };
        connection.hub.link.ping(now);
        connection.agent.link.ping(now);
        connection
    }

    pub(super) fn is_up(&self) -> bool {
        !self.broken && !self.silent && !self.hub.lost && !self.agent.lost
    }

    /// Whether nothing is on its way, nobody has anything to send and no stream is left.
    pub(super) fn is_settled(&self) -> bool {
        let quiet = |end: &End| end.lost || (end.link.is_idle() && end.flying.is_empty());
        quiet(&self.hub) && quiet(&self.agent)
    }

    pub(super) fn ends(&mut self, side: Side) -> (&mut End, &mut End) {
        match side {
            Side::Hub => (&mut self.hub, &mut self.agent),
            Side::Agent => (&mut self.agent, &mut self.hub),
        }
    }

    /// The connection breaks: the message that it breaks in is lost, and what is behind it.
    pub(super) fn breaks(&mut self, random: &mut Random) {
        self.broken = true;
        for end in [&mut self.hub, &mut self.agent] {
            let arrives = random.below(end.flying.len() + 1);
            end.flying.truncate(arrives);
        }
    }

    /// One message of the other end arrives at this one.
    pub(super) fn deliver(&mut self, to: Side, now: Micros) -> Result<bool, String> {
        if self.silent {
            return Ok(false);
        }
        let (end, other) = self.ends(to);
        if end.lost {
            return Ok(false);
        }
        let Some(batch) = other.flying.pop_front() else { return Ok(false) };
        end.link.receive_batch(batch, now).map_err(|fault| format!("{to:?}: {fault}"))?;
        Ok(true)
    }

    /// The pump of one end writes a batch, if the path takes one.
    pub(super) fn pump(&mut self, side: Side, mutant: Option<Mutant>, now: Micros) -> Result<bool, String> {
        let gone = self.broken || self.silent;
        let (end, _) = self.ends(side);
        if end.lost || end.flying.len() >= FLYING_MAX || !end.link.has_frames() {
            return Ok(false);
        }
        let mut batch = BytesMut::new();
        end.link.next_batch(&mut batch, now);
        if batch.is_empty() {
            return Ok(true);
        }
        let batch = batch.freeze();
        let batch = mutant.and_then(|mutant| mutant.writes(&batch)).unwrap_or(batch);
        end.wire.sent(&batch)?;
        if !gone {
            end.flying.push_back(batch);
        }
        Ok(true)
    }
}

impl End {
    /// This end learns that the connection is gone.
    pub(super) fn lose(&mut self, mutant: Option<Mutant>) {
        if !self.lost {
            self.lost = true;
            if mutant != Some(Mutant::KeepsStreamsOfALostLink) {
                self.link.lose();
            }
        }
    }

    /// Wakes whom the link's events name; the agent's new calls get a task.
    pub(super) fn take_events(&mut self, mutant: Option<Mutant>, random: &mut Random) {
        while let Some(event) = self.link.next_event() {
            for _ in 0..mutant.map_or(1, |mutant| mutant.tells(&event)) {
                self.take_event(&event, random);
            }
        }
    }

    fn take_event(&mut self, event: &Event, random: &mut Random) {
        match event {
            Event::Opened(id) => {
                let _ = self.link.take_head(*id);
                self.tasks.push(Task::new(*id, &self.link, random));
            }
            Event::Readable(id) => self.wake(*id, |task| task.readable = true),
            Event::Writable(id) => self.wake(*id, |task| task.writable = true),
            Event::Aborted(id) => self.wake(*id, |task| {
                task.readable = true;
                task.writable = true;
                task.aborts_told += 1;
            }),
            Event::Control(_) | Event::PeerDrains(_) => {}
        }
    }

    fn wake(&mut self, id: u32, how: impl FnOnce(&mut Task)) {
        if let Some(task) = self.tasks.iter_mut().find(|task| task.id == id) {
            how(task);
        }
    }
}
