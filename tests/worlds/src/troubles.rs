//! What goes wrong, and what a process does when it comes back to it.
//!
//! Invariant: memory is lost with a process, unsynced leaves with an agent's machine, the newest
//! transactions with the database; nothing else is.

use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::settle::charge;

use crate::books::AGENTS;
use crate::books::Amnesia;
use crate::books::CONSUMERS;
use crate::books::ChargeRow;
use crate::books::Entry;
use crate::books::HoldRow;
use crate::books::Key;
use crate::books::Op;
use crate::books::Source;
use crate::hub::HUBS;
use crate::hub::Hub;
use crate::mutant::Mutant;
use crate::records::index;
use crate::world::World;

impl World {
    /// Before a hub does anything in the database: is it the database that it knew, and is the
    /// hub still alive in it?
    pub(crate) fn turn(&mut self, hub: usize) {
        if !self.books.has(self.hubs[hub].saw) && !self.is(Mutant::MissesRollback) {
            self.discover(hub);
        }
        let boot = self.hubs[hub].boot;
        match self.books.boot(boot) {
            Some(row) if row.ended.is_some() && !self.is(Mutant::NoFence) => self.fenced(hub),
            Some(_) => {}
            None => {
                self.books.record(Op::Boot(boot));
                self.write_leases(hub);
                self.end_transaction(hub);
            }
        }
        // What others committed is seen too, and missed when it is gone.
        self.hubs[hub].saw = self.books.newest();
    }

    /// Another process took this one for dead: it goes on under a new name.
    fn fenced(&mut self, hub: usize) {
        self.seen.fenced += 1;
        let boot = self.next_boot();
        self.hubs[hub].boot = boot;
        self.hubs[hub].names.push(boot);
        self.books.record(Op::Boot(boot));
        for consumer in 0..CONSUMERS {
            let held = self.hubs[hub].held[consumer];
            self.hubs[hub].leased[consumer] = self.books.available(consumer).clamp(0, held.max(0));
        }
        self.write_leases(hub);
        for sold in &mut self.hubs[hub].sold {
            sold.is_in_holds = false;
            sold.written = 0;
        }
        self.end_transaction(hub);
    }

    fn write_leases(&mut self, hub: usize) {
        for consumer in 0..CONSUMERS {
            self.write_lease(hub, consumer);
        }
    }

    /// It is written down that calls up to now may be forgotten.
    pub(crate) fn forgot(&mut self) {
        for call in &mut self.truth {
            call.is_forgettable = true;
        }
        let before = u32::try_from(self.truth.len()).expect("few calls");
        if !self.is(Mutant::NoAmnesiaRecord) {
            self.books.record(Op::Amnesia(Amnesia { boot: None, before }));
        }
    }

    /// The database went back in time. It is written down that calls up to now may be forgotten;
    /// rows of calls that this process ended are not waited for; leaves are asked for again.
    pub(crate) fn discover(&mut self, hub: usize) {
        self.forgot();
        let names = self.hubs[hub].names.clone();
        let stale: Vec<u32> = self
            .books
            .holds
            .iter()
            .filter(|hold| names.contains(&hold.boot) && !self.hubs[hub].has(hold.call))
            .map(|hold| hold.call)
            .collect();
        for call in stale {
            self.books.record(Op::HoldGone(call));
        }
        for which in 0..self.hubs[hub].sold.len() {
            let written = self.books.hold(self.hubs[hub].sold[which].ticket.call).map(|hold| hold.list);
            let sold = &mut self.hubs[hub].sold[which];
            sold.is_in_holds = written.is_some();
            sold.written = written.unwrap_or(0);
        }
        if self.books.boot(self.hubs[hub].boot).is_some_and(|row| row.ended.is_none()) {
            self.write_leases(hub);
        }
        self.end_transaction(hub);
        self.hubs[hub].batches.clear();
        for agent in 0..AGENTS {
            let Some(link) = self.links[agent][hub].as_mut().filter(|link| link.is_ledger) else { continue };
            let (size, epoch) = (self.books.chain(agent, link.epoch).map_or(0, |chain| chain.size()), link.epoch);
            let next = link.half.lost(size);
            link.sent = 0;
            if self.agents[agent].epoch == epoch {
                self.need(agent, hub, next);
            }
        }
    }

    pub(crate) fn roll_back(&mut self) {
        let has = self.books.transactions();
        if has == 0 {
            return;
        }
        let keeps = if self.random.once_in(5) { 0 } else { has - self.random.below(has.min(60)) };
        if keeps == has {
            return;
        }
        self.seen.rollbacks += 1;
        self.seen.wipes += u64::from(keeps == 0);
        self.books.roll_back(keeps);
        for call in &mut self.truth {
            call.is_forgettable = true;
        }
    }

    pub(crate) fn crash_agent(&mut self, agent: usize) {
        self.seen.agent_crashes += 1;
        for hub in 0..HUBS {
            self.cut(agent, hub);
        }
        let lost = if self.is(Mutant::LosesDurable) { self.random.below(4) as u64 } else { 0 };
        let at = self.now;
        let closes = !self.is(Mutant::LeavesOpen);
        let agent = &mut self.agents[agent];
        agent.durable = agent.durable.saturating_sub(lost).max(1);
        agent.restart(at, closes);
        agent.is_stalled = false;
    }

    /// An agent comes back from an older copy of its disk.
    pub(crate) fn restore(&mut self, number: usize) -> Result<(), String> {
        self.seen.copies += 1;
        for hub in 0..HUBS {
            self.cut(number, hub);
        }
        let at = self.now;
        let size = self.agents[number].durable;
        let keeps = size - (self.random.next() % size.min(20));
        let agent = &mut self.agents[number];
        agent.durable = keeps;
        // The statements are in the log, where they came.
        let stated = agent.history.iter().take_while(|stated| stated.leaves <= keeps).count();
        agent.history.truncate(stated);
        agent.stated = agent.history.last().cloned().unwrap_or(keyhaven_protocol::statement::Stated::NOTHING);
        agent.told.truncate(index(keeps));
        agent.cosigned = agent.stated.leaves;
        agent.restart(at, true);
        self.real_history(number);
        Ok(())
    }

    pub(crate) fn crash_hub(&mut self, hub: usize) {
        if !self.hubs[hub].is_up {
            return;
        }
        self.seen.hub_crashes += 1;
        self.forgets(hub);
        self.hubs[hub].is_up = false;
        self.hubs[hub].is_stalled = false;
        for agent in 0..AGENTS {
            self.cut(agent, hub);
        }
        self.hubs[hub].sold.clear();
        self.hubs[hub].ended.clear();
        self.hubs[hub].batches.clear();
    }

    /// Calls of this process may be forgotten: those that it has, and those that it gave up.
    fn forgets(&mut self, hub: usize) {
        let names = &self.hubs[hub].names;
        for call in self.truth.iter_mut().filter(|call| names.contains(&call.boot)) {
            call.is_forgettable = true;
        }
        for ticket in self.hubs[hub].sold.iter().map(|sold| sold.ticket) {
            self.truth[ticket.call as usize].is_forgettable = true;
        }
    }

    pub(crate) fn restart_hub(&mut self, hub: usize) {
        if self.hubs[hub].is_up {
            return;
        }
        let boot = self.next_boot();
        self.hubs[hub] = Hub::new(boot);
        self.hubs[hub].saw = self.books.newest();
        self.books.record(Op::Boot(boot));
        self.end_transaction(hub);
    }

    pub(crate) fn stall(&mut self, agent: usize, hub: usize) {
        self.seen.stalls += 1;
        if self.random.once_in(2) {
            self.agents[agent].is_stalled = true;
        } else if self.hubs[hub].is_up {
            self.hubs[hub].is_stalled = true;
        }
    }

    /// A hub ends the boots that give no sign of life: their calls cost what was last written of
    /// them, what they leased goes back, and it is written down that they may have forgotten.
    pub(crate) fn sweep(&mut self, hub: usize) -> Result<(), String> {
        if !self.hubs[hub].works() || self.is(Mutant::NeverSweeps) {
            return Ok(());
        }
        self.turn(hub);
        for boot in 1..=self.boots {
            let is_open = self.books.boot(boot).is_some_and(|row| row.ended.is_none());
            let lives = self.hubs.iter().any(|other| other.works() && other.boot == boot);
            if is_open && !lives {
                self.sweep_boot(hub, boot);
            }
        }
        Ok(())
    }

    fn sweep_boot(&mut self, hub: usize, boot: u16) {
        self.seen.swept += 1;
        if let Some(stalled) = (0..HUBS).find(|other| self.hubs[*other].is_up && self.hubs[*other].boot == boot) {
            self.forgets(stalled);
        }
        let holds: Vec<HoldRow> = self.books.holds.iter().filter(|hold| hold.boot == boot).copied().collect();
        for hold in holds {
            let call = hold.call;
            if self.books.call(call).charge.is_none() {
                let list = if self.is(Mutant::SweepsCeiling) { hold.ticket.ceiling } else { hold.list };
                let row = ChargeRow { attempt: hold.ticket.attempt, list, bytes: 0, source: Source::Sweeper };
                let moves = charge(NanoUsd(list), hold.ticket.terms().shares).expect("small amounts");
                self.books.record(Op::Charge(call, row));
                let (consumer, owner) = (hold.ticket.consumer, hold.ticket.agent);
                self.books.record(Op::Entry(Entry { key: Key::Charge(call), consumer, owner, moves }));
            }
            self.books.record(Op::HoldGone(call));
        }
        if !self.is(Mutant::KeepsLeases) {
            for consumer in 0..CONSUMERS {
                self.books.record(Op::Lease(boot, u8::try_from(consumer).expect("few consumers"), 0));
            }
        }
        if !self.is(Mutant::NoAmnesiaRecord) {
            self.books.record(Op::Amnesia(Amnesia { boot: Some(boot), before: u32::MAX }));
        }
        self.books.record(Op::BootEnded(boot, false));
        self.end_transaction(hub);
    }

    /// What is leased and not held goes back.
    pub(crate) fn give_back_leases(&mut self, hub: usize) {
        if !self.hubs[hub].works() {
            return;
        }
        self.turn(hub);
        let mut wrote = false;
        for consumer in 0..CONSUMERS {
            let held = self.hubs[hub].held[consumer].max(0);
            if self.hubs[hub].leased[consumer] > held {
                self.hubs[hub].leased[consumer] = held;
                self.write_lease(hub, consumer);
                wrote = true;
            }
        }
        if wrote {
            self.end_transaction(hub);
        }
    }

    /// A process ends in order: nothing is under way, all is written.
    pub(crate) fn stop_hub(&mut self, hub: usize) {
        self.turn(hub);
        let boot = self.hubs[hub].boot;
        if !self.is(Mutant::KeepsLeases) {
            self.hubs[hub].leased = [0; CONSUMERS];
            self.write_leases(hub);
        }
        self.books.record(Op::BootEnded(boot, true));
        self.end_transaction(hub);
        self.hubs[hub].is_up = false;
    }
}
