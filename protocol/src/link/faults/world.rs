//! One schedule: faults for a while, then none until all is done.
//!
//! Invariant: everything that happens is drawn from the schedule's seed.

use bytes::Bytes;

use crate::frame::Drain;
use crate::link::Budget;
use crate::link::Limits;
use crate::link::Micros;
use crate::link::Side;
use crate::random::Random;

use super::check;
use super::connection::Connection;
use super::mutant::Mutant;
use super::task::Task;

const SECOND: u64 = 1_000_000;

/// Turns of all after the last fault, within which all must be done.
const SETTLING_TURNS: usize = 20_000;

/// Connections of one agent in one schedule.
const CONNECTIONS_MAX: usize = 3;

pub(super) struct World {
    random: Random,
    now: Micros,
    mutant: Option<Mutant>,
    /// The hub's, the agent's.
    limits: (Limits, Limits),
    connections: Vec<Connection>,
    seen: Seen,
}

/// What happened in schedules, so that it can be told whether they cover anything.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) calls: u64,
    pub(super) data_bytes: u64,
    whole: u64,
    broken: u64,
    silent: u64,
    doubled: u64,
    drained: u64,
    stalls: u64,
    refused: u64,
    tight: u64,
}

impl Seen {
    pub(super) fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.data_bytes += other.data_bytes;
        self.whole += other.whole;
        self.broken += other.broken;
        self.silent += other.silent;
        self.doubled += other.doubled;
        self.drained += other.drained;
        self.stalls += other.stalls;
        self.refused += other.refused;
        self.tight += other.tight;
    }

    /// Whether each kind of fault came in at least one schedule of a hundred.
    pub(super) fn is_varied(&self, schedules: u64) -> bool {
        let counts =
            [self.whole, self.broken, self.silent, self.doubled, self.drained, self.stalls, self.refused, self.tight];
        counts.into_iter().all(|count| count >= schedules / 100)
    }
}

impl World {
    /// Runs the schedule of this seed.
    pub(super) fn run(seed: u64, mutant: Option<Mutant>) -> Result<Seen, String> {
        let mut random = Random::new(seed);
        let window_bytes = random.pick(&[1, 16, 100, 1_000, 65_536]);
        let budget = Budget::new(random.pick(&[1, 2_000, 1 << 20, usize::MAX]));
        let limits = Limits {
            streams_max: random.pick(&[1, 3, 8]),
            opens_per_second: random.pick(&[4, 50_000]),
            window_bytes,
            window_bytes_max: window_bytes * random.pick(&[1, 4, 64]),
            budget_bytes: random.pick(&[1, 2_000, 1 << 20]),
            budget: budget.clone(),
            ..Limits::default()
        };
        let now = Micros(0);
        // What the hub may open is sometimes more than the agent takes.
        let limits_hub = Limits { streams_max: 8, opens_per_second: 50_000, ..limits.clone() };
        let limits = if random.once_in(2) { (limits.clone(), limits) } else { (limits_hub, limits) };
        let connections = vec![Connection::new(&limits, now)];
        let mut world = Self { random, now, mutant, limits, connections, seen: Seen::default() };
        for _ in 0..world.random.pick(&[20, 100, 300]) {
            world.something_happens()?;
            world.hears_events();
        }
        world.check()?;
        world.settle()?;
        world.check_end(&budget)?;
        Ok(world.seen)
    }

    fn something_happens(&mut self) -> Result<(), String> {
        let at = self.random.below(self.connections.len());
        let side = self.random.pick(&[Side::Hub, Side::Agent]);
        let now = self.now;
        match self.random.below(100) {
            0..10 => self.open(),
            10..30 => self.task_acts(at, side, |task, link, random| {
                task.write(link, random, now);
                Ok(())
            })?,
            30..50 => {
                self.task_acts(at, side, |task, link, _| if task.stalls { Ok(()) } else { task.read(link, now) })?
            }
            50..66 => drop(self.connections[at].pump(side, self.mutant, now)?),
            66..82 => drop(self.connections[at].deliver(side, now)?),
            82..85 => self.task_acts(at, side, |task, link, random| {
                task.gives_up(link, random, now);
                Ok(())
            })?,
            85..87 => self.task_acts(at, side, |task, link, _| {
                if task.is_done() && !task.released {
                    task.release(link, now);
                }
                Ok(())
            })?,
            87..96 => self.time_passes(),
            96 => self.connection_suffers(at),
            97 => self.notices_loss(at, side),
            98 => self.connects_again(),
            _ => self.drains(at, side),
        }
        Ok(())
    }

    fn open(&mut self) {
        let Some(connection) = self.connections.last_mut() else { return };
        let Ok(id) = connection.hub.link.open(Bytes::from_static(b"open"), self.now) else { return };
        let task = Task::new(id, &connection.hub.link, &mut self.random);
        self.seen.calls += 1;
        connection.hub.tasks.push(task);
    }

    fn task_acts(
        &mut self,
        at: usize,
        side: Side,
        act: impl FnOnce(&mut Task, &mut crate::link::Link, &mut Random) -> Result<(), String>,
    ) -> Result<(), String> {
        let (end, _) = self.connections[at].ends(side);
        if end.tasks.is_empty() {
            return Ok(());
        }
        let which = self.random.below(end.tasks.len());
        act(&mut end.tasks[which], &mut end.link, &mut self.random)?;
        if self.mutant == Some(Mutant::KeepsCommittedBytes) && end.tasks[which].released {
            end.link.commit(1);
        }
        Ok(())
    }

    fn time_passes(&mut self) {
        let most = self.random.pick(&[100, 100, 10_000, 10_000, 500_000, 3 * SECOND, 90 * SECOND]);
        self.now = self.now.plus(self.random.next() % most);
        self.watch_time();
    }

    fn watch_time(&mut self) {
        for connection in &mut self.connections {
            for side in [Side::Hub, Side::Agent] {
                let (end, _) = connection.ends(side);
                let silent = !end.lost && end.link.on_time(self.now).is_err();
                if silent && self.mutant != Some(Mutant::NeverGivesUpASilentPeer) {
                    end.lose(self.mutant);
                    connection.broken = true;
                }
            }
        }
    }

    fn connection_suffers(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        if self.random.once_in(2) {
            self.seen.broken += u64::from(!connection.broken);
            connection.breaks(&mut self.random);
        } else {
            self.seen.silent += u64::from(!connection.silent);
            connection.silent = true;
        }
    }

    fn notices_loss(&mut self, at: usize, side: Side) {
        let connection = &mut self.connections[at];
        if connection.broken {
            connection.ends(side).0.lose(self.mutant);
        }
    }

    /// The agent dials although a connection is there, or because it is gone.
    fn connects_again(&mut self) {
        if self.connections.len() < CONNECTIONS_MAX {
            self.seen.doubled += 1;
            self.connections.push(Connection::new(&self.limits, self.now));
        }
    }

    fn drains(&mut self, at: usize, side: Side) {
        if self.random.once_in(4) {
            self.seen.drained += 1;
            let (end, _) = self.connections[at].ends(side);
            end.link.drain(&Drain { deadline_ms: 1_000 }, self.now);
        }
    }

    fn hears_events(&mut self) {
        for connection in &mut self.connections {
            connection.hub.take_events(self.mutant, &mut self.random);
            connection.agent.take_events(self.mutant, &mut self.random);
        }
    }

    /// No more faults: everybody goes on until nobody has anything to do.
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..SETTLING_TURNS {
            self.hears_events();
            let moved = self.settling_turn()?;
            let left = self.connections.iter().any(|connection| {
                [&connection.hub, &connection.agent].iter().any(|end| end.tasks.iter().any(|task| !task.released))
            });
            if moved {
                self.now = self.now.plus(50);
            } else if left || self.connections.iter().any(|connection| !connection.is_settled()) {
                // Nothing moves: only time helps, and only where somebody watches it.
                let wakes = self.connections.iter().flat_map(|connection| [&connection.hub, &connection.agent]);
                let next = wakes.filter(|end| !end.lost).map(|end| end.link.next_wake()).min();
                self.now = next.ok_or("a stream hangs")?.max(self.now.plus(1));
            } else {
                return Ok(());
            }
            self.watch_time();
        }
        Err(format!("not done after {SETTLING_TURNS} turns"))
    }

    fn settling_turn(&mut self) -> Result<bool, String> {
        let (now, mutant) = (self.now, self.mutant);
        let mut moved = false;
        for connection in &mut self.connections {
            for side in [Side::Hub, Side::Agent] {
                let (broken, silent) = (connection.broken, connection.silent);
                let (end, other) = connection.ends(side);
                if broken && !end.lost && (silent || other.flying.is_empty()) {
                    end.lose(mutant);
                    moved = true;
                }
                for task in &mut end.tasks {
                    let before = (task.sent, task.read, task.finished, task.readable, task.writable, task.released);
                    task.write(&mut end.link, &mut self.random, now);
                    task.read(&mut end.link, now)?;
                    if task.is_done() && !task.released && mutant != Some(Mutant::KeepsReleasedStreams) {
                        task.release(&mut end.link, now);
                    } else if task.is_done() {
                        task.released = true;
                    }
                    let after = (task.sent, task.read, task.finished, task.readable, task.writable, task.released);
                    moved |= before != after;
                }
                moved |= connection.pump(side, mutant, now)?;
                moved |= connection.deliver(side, now)?;
            }
        }
        Ok(moved)
    }

    fn check(&mut self) -> Result<(), String> {
        self.seen.tight += u64::from(self.limits.0.budget.is_tight());
        for connection in &mut self.connections {
            if self.mutant == Some(Mutant::SendsBeyondCredit) {
                let streams = connection.agent.link.streams.values_mut();
                streams.for_each(|stream| stream.send_credit += 1_000_000);
            }
            check::committed(&connection.hub.link)?;
            check::committed(&connection.agent.link)?;
            if connection.is_up() && self.mutant != Some(Mutant::SendsBeyondCredit) {
                check::credit(&connection.hub, &connection.agent)?;
                check::credit(&connection.agent, &connection.hub)?;
            }
        }
        Ok(())
    }

    fn check_end(&mut self, budget: &Budget) -> Result<(), String> {
        for connection in &self.connections {
            check::nothing_left(connection)?;
            for end in [&connection.hub, &connection.agent] {
                check::committed(&end.link)?;
                let counters = end.link.counters();
                self.seen.data_bytes += counters.data_received_bytes;
                self.seen.stalls += u64::from(counters.credit_stalls > 0);
                self.seen.refused += u64::from(counters.opens_refused > 0);
            }
            let outcomes = connection.hub.tasks.iter().filter_map(|task| task.outcome.as_ref());
            self.seen.whole += outcomes.filter(|outcome| **outcome == super::task::Outcome::Whole).count() as u64;
        }
        match budget.committed_bytes() {
            0 => Ok(()),
            bytes => Err(format!("{bytes} bytes of the budget are left")),
        }
    }
}
