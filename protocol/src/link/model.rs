//! Property: two links under any interleaving of calls, deliveries, aborts and stalls
//! behave like the obvious model: per stream, a byte queue that arrives whole and in order
//! up to its end, or a prefix of it and an abort; and nothing is left when all is done.
//!
//! Invariant: the model knows nothing of credit, queues or frames.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use bytes::Bytes;
use bytes::BytesMut;
use proptest::prelude::*;

use crate::frame::Abort;
use crate::frame::AbortReason;
use crate::frame::Frame;
use crate::frame::StreamId;
use crate::frame::next_frame;

use super::Event;
use super::Incoming;
use super::Limits;
use super::Link;
use super::Micros;
use super::Side;

#[derive(Debug, Clone)]
enum Step {
    Open,
    HubSends { stream: usize, bytes: usize },
    HubFinishes { stream: usize },
    AgentAnswers { stream: usize, bytes: usize },
    AgentFinishes { stream: usize },
    AgentFails { stream: usize },
    HubReads { stream: usize },
    AgentReads { stream: usize },
    ConsumerLeaves { stream: usize },
    AgentDropsCall { stream: usize },
    DeliverToAgent { frames: usize },
    DeliverToHub { frames: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0..6_usize;
    let bytes = prop_oneof![1..200_usize, 10_000..90_000_usize];
    prop_oneof![
        2 => Just(Step::Open),
        4 => (stream.clone(), bytes.clone()).prop_map(|(stream, bytes)| Step::HubSends { stream, bytes }),
        2 => stream.clone().prop_map(|stream| Step::HubFinishes { stream }),
        6 => (stream.clone(), bytes).prop_map(|(stream, bytes)| Step::AgentAnswers { stream, bytes }),
        2 => stream.clone().prop_map(|stream| Step::AgentFinishes { stream }),
        1 => stream.clone().prop_map(|stream| Step::AgentFails { stream }),
        6 => stream.clone().prop_map(|stream| Step::HubReads { stream }),
        6 => stream.clone().prop_map(|stream| Step::AgentReads { stream }),
        1 => stream.clone().prop_map(|stream| Step::ConsumerLeaves { stream }),
        1 => stream.prop_map(|stream| Step::AgentDropsCall { stream }),
        8 => (1..8_usize).prop_map(|frames| Step::DeliverToAgent { frames }),
        8 => (1..8_usize).prop_map(|frames| Step::DeliverToHub { frames }),
    ]
}

/// One direction of one stream: a counter instead of bytes, since byte `n` is `n % 251`.
#[derive(Debug, Default)]
struct Direction {
    sent: u64,
    read: u64,
    finished: bool,
    end_seen: bool,
}

#[derive(Debug, Default)]
struct Call {
    request: Direction,
    response: Direction,
    opened_at_agent: bool,
    head_sent: bool,
    aborted: bool,
    released_by_hub: bool,
    released_by_agent: bool,
}

struct World {
    hub: Link,
    agent: Link,
    to_agent: VecDeque<Frame>,
    to_hub: VecDeque<Frame>,
    calls: BTreeMap<StreamId, Call>,
    now: Micros,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn streams_arrive_whole_and_in_order_or_as_a_prefix_and_an_abort(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        for step in steps {
            world.apply(step);
        }
        world.run_to_the_end();
    }
}

impl World {
    fn new() -> Self {
        let limits = Limits { streams_max: 6, budget_bytes: 3 * 64 * 1024, ..Limits::default() };
        Self {
            hub: Link::new(Side::Hub, limits.clone(), Micros(0)),
            agent: Link::new(Side::Agent, limits.clone(), Micros(0)),
            to_agent: VecDeque::new(),
            to_hub: VecDeque::new(),
            calls: BTreeMap::new(),
            now: Micros(0),
        }
    }

    fn apply(&mut self, step: Step) {
        self.now = self.now.plus(50);
        match step {
            Step::Open => {
                if let Ok(id) = self.hub.open(Bytes::from_static(b"open"), self.now) {
                    self.calls.insert(id, Call::default());
                }
            }
            Step::HubSends { stream, bytes } => self.on(stream, |world, id| world.hub_sends(id, bytes)),
            Step::HubFinishes { stream } => self.on(stream, Self::hub_finishes),
            Step::AgentAnswers { stream, bytes } => self.on(stream, |world, id| world.agent_sends(id, bytes)),
            Step::AgentFinishes { stream } => self.on(stream, Self::agent_finishes),
            Step::AgentFails { stream } => self.on(stream, Self::agent_fails),
            Step::HubReads { stream } => self.on(stream, |world, id| world.read(id, Side::Hub)),
            Step::AgentReads { stream } => self.on(stream, |world, id| world.read(id, Side::Agent)),
            Step::ConsumerLeaves { stream } => self.on(stream, |world, id| world.let_go(id, Side::Hub)),
            Step::AgentDropsCall { stream } => self.on(stream, |world, id| world.let_go(id, Side::Agent)),
            Step::DeliverToAgent { frames } => self.deliver(Side::Agent, frames),
            Step::DeliverToHub { frames } => self.deliver(Side::Hub, frames),
        }
        self.take_events();
    }

    /// Finishes and reads everything; then nothing may be left on either side.
    fn run_to_the_end(&mut self) {
        for round in 0..10_000 {
            self.now = self.now.plus(50);
            let ids: Vec<StreamId> = self.calls.keys().copied().collect();
            for id in ids {
                self.hub_finishes(id);
                self.agent_sends(id, 1);
                self.agent_finishes(id);
                self.read(id, Side::Hub);
                self.read(id, Side::Agent);
                let call = &self.calls[&id];
                if call.response.end_seen || call.aborted {
                    self.let_go(id, Side::Hub);
                    self.let_go(id, Side::Agent);
                }
            }
            self.deliver(Side::Agent, usize::MAX);
            self.deliver(Side::Hub, usize::MAX);
            self.take_events();
            let idle = self.hub.stream_count() == 0 && self.agent.stream_count() == 0;
            if idle && !self.hub.has_frames() && !self.agent.has_frames() {
                break;
            }
            assert!(round < 9_999, "a stream hangs: {:?}", self.calls);
        }
        for (id, call) in &self.calls {
            if call.aborted {
                continue;
            }
            assert!(call.request.end_seen || call.released_by_agent, "request of {id}: {call:?}");
            assert!(call.response.end_seen, "response of {id}: {call:?}");
            assert_eq!(call.response.read, call.response.sent, "response of {id}");
        }
        assert_eq!((self.hub.committed_bytes(), self.agent.committed_bytes()), (0, 0), "credit leaked");
    }

    fn on(&mut self, stream: usize, act: impl FnOnce(&mut Self, StreamId)) {
        if let Some(id) = self.calls.keys().rev().nth(stream).copied() {
            act(self, id);
        }
    }

    fn hub_sends(&mut self, id: StreamId, bytes: usize) {
        if self.hub.send_capacity(id).is_ok_and(|capacity| capacity > 0) {
            let direction = &mut self.calls.get_mut(&id).unwrap().request;
            self.hub.send_data(id, pattern(&mut direction.sent, bytes), self.now).unwrap();
        }
    }

    fn hub_finishes(&mut self, id: StreamId) {
        if self.hub.finish(id, Bytes::new(), self.now).is_ok() {
            self.calls.get_mut(&id).unwrap().request.finished = true;
        }
    }

    fn agent_sends(&mut self, id: StreamId, bytes: usize) {
        let call = self.calls.get_mut(&id).unwrap();
        if !call.opened_at_agent || !self.agent.send_capacity(id).is_ok_and(|capacity| capacity > 0) {
            return;
        }
        if !call.head_sent {
            call.head_sent = true;
            self.agent.send_head(id, Bytes::from_static(b"head")).unwrap();
        }
        self.agent.send_data(id, pattern(&mut call.response.sent, bytes), self.now).unwrap();
    }

    fn agent_finishes(&mut self, id: StreamId) {
        let call = self.calls.get_mut(&id).unwrap();
        if call.head_sent && self.agent.finish(id, Bytes::new(), self.now).is_ok() {
            call.response.finished = true;
        }
    }

    fn agent_fails(&mut self, id: StreamId) {
        let call = self.calls.get_mut(&id).unwrap();
        if call.opened_at_agent && self.agent.send_capacity(id).is_ok() {
            call.aborted = true;
            self.agent.fail(id, Abort::new(AbortReason::VendorBroke), self.now);
        }
    }

    fn read(&mut self, id: StreamId, side: Side) {
        let call = self.calls.get_mut(&id).unwrap();
        let (link, direction, released) = match side {
            Side::Hub => (&mut self.hub, &mut call.response, call.released_by_hub),
            Side::Agent => (&mut self.agent, &mut call.request, call.released_by_agent),
        };
        if released {
            return;
        }
        if side == Side::Hub {
            link.take_head(id);
        }
        match link.take_data(id, self.now) {
            Ok(Incoming::Data(data)) => {
                for byte in data {
                    assert_eq!(u64::from(byte), direction.read % 251, "byte {} of {id}", direction.read);
                    direction.read += 1;
                }
                assert!(direction.read <= direction.sent);
            }
            Ok(Incoming::End(_)) => {
                assert!(direction.finished, "an end nobody sent");
                assert_eq!(direction.read, direction.sent, "an end before the last byte");
                direction.end_seen = true;
            }
            Ok(Incoming::Aborted(_)) => call.aborted = true,
            Ok(Incoming::Pending) | Err(_) => {}
        }
    }

    fn let_go(&mut self, id: StreamId, side: Side) {
        let call = self.calls.get_mut(&id).unwrap();
        match side {
            Side::Hub if !call.released_by_hub => {
                call.released_by_hub = true;
                call.aborted |= !call.response.end_seen;
                self.hub.release(id, AbortReason::ConsumerGone, self.now);
            }
            Side::Agent if call.opened_at_agent && !call.released_by_agent => {
                call.released_by_agent = true;
                call.aborted |= !call.response.finished;
                self.agent.release(id, AbortReason::Unspecified, self.now);
            }
            Side::Hub | Side::Agent => {}
        }
    }

    fn deliver(&mut self, to: Side, most: usize) {
        let (from, queue) = match to {
            Side::Agent => (&mut self.hub, &mut self.to_agent),
            Side::Hub => (&mut self.agent, &mut self.to_hub),
        };
        let mut batch = BytesMut::new();
        from.next_batch(&mut batch, self.now);
        let mut batch = batch.freeze();
        while let Some(frame) = next_frame(&mut batch).unwrap() {
            queue.push_back(frame);
        }
        let receiver = match to {
            Side::Agent => &mut self.agent,
            Side::Hub => &mut self.hub,
        };
        for frame in queue.drain(..most.min(queue.len())) {
            receiver.receive(frame, self.now).unwrap();
        }
    }

    fn take_events(&mut self) {
        while self.hub.next_event().is_some() {}
        while let Some(event) = self.agent.next_event() {
            if let Event::Opened(id) = event {
                assert_eq!(self.agent.take_head(id), Some(Bytes::from_static(b"open")));
                self.calls.get_mut(&id).unwrap().opened_at_agent = true;
            }
        }
    }
}

fn pattern(from: &mut u64, bytes: usize) -> Bytes {
    let data = (*from..*from + bytes as u64).map(|at| u8::try_from(at % 251).unwrap()).collect();
    *from += bytes as u64;
    data
}
