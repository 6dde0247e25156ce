//! The faults end, and what can be finished is.
//!
//! Invariant: a world comes to rest by what the machines do anyway; nothing is mended by hand.

use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::settle::SUSPENSE_MS;
use keyhaven_protocol::settle::give_back;

use crate::books::AGENTS;
use crate::books::Entry;
use crate::books::Key;
use crate::books::Op;
use crate::hub::HUBS;
use crate::mutant::Mutant;
use crate::world::World;

/// Rounds within which a world comes to rest.
const ROUNDS_MAX: usize = 60;

impl World {
    pub(crate) fn come_to_rest(&mut self) -> Result<(), String> {
        self.is_busy = false;
        for hub in &mut self.hubs {
            hub.is_stalled = false;
        }
        for agent in &mut self.agents {
            agent.is_stalled = false;
        }
        for _ in 0..ROUNDS_MAX {
            self.round()?;
            if self.unrest().is_none() {
                return Ok(());
            }
        }
        Err(format!("it does not come to rest: {}", self.unrest().unwrap_or_default()))
    }

    /// The database goes back when nobody has anything to say, so that only a new link tells.
    pub(crate) fn forget_in_silence(&mut self) -> Result<(), String> {
        if self.rates.roll_back == 0 || !self.random.once_in(4) {
            return Ok(());
        }
        self.roll_back();
        for agent in 0..AGENTS {
            for hub in 0..HUBS {
                self.cut(agent, hub);
            }
        }
        self.come_to_rest()
    }

    fn round(&mut self) -> Result<(), String> {
        for hub in 0..HUBS {
            self.restart_hub(hub);
            self.sweep(hub)?;
        }
        for agent in 0..AGENTS {
            for hub in 0..HUBS {
                self.dial(agent, hub)?;
            }
            for hub in 0..HUBS {
                self.deliver_down(agent, hub, usize::MAX)?;
            }
            let mut which = 0;
            while which < self.agents[agent].running.len() {
                self.vendor_sends(agent, which);
                which += 1;
            }
            self.sync(agent);
            self.flush(agent);
            self.send(agent);
            for hub in 0..HUBS {
                self.deliver_up(agent, hub, usize::MAX)?;
            }
        }
        for hub in 0..HUBS {
            self.write(hub)?;
        }
        Ok(())
    }

    /// What has not come to rest.
    fn unrest(&self) -> Option<String> {
        for (hub, of) in self.hubs.iter().enumerate() {
            let (sold, ended, batches) = (of.sold.len(), of.ended.len(), of.batches.len());
            if !of.is_up || sold + ended + batches > 0 {
                return Some(format!("hub {hub}: {sold} sold, {ended} ended, {batches} batches"));
            }
        }
        for (number, agent) in self.agents.iter().enumerate() {
            let size = agent.log.len() as u64;
            let told = agent.told.iter().filter(|told| told.is_some()).count();
            let open = agent.stated.open.len();
            let chain = self.books.chain(number, agent.epoch);
            if !agent.cheats && chain.is_some_and(|chain| chain.stated != agent.stated) {
                return Some(format!("agent {number} has other statements than the books"));
            }
            if !agent.running.is_empty() {
                return Some(format!("agent {number}: {} attempts run", agent.running.len()));
            }
            if agent.cheats {
                continue;
            }
            if agent.half.acked() != size || told != agent.log.len() || open > 0 {
                let (acked, of) = (agent.half.acked(), agent.stated.leaves);
                return Some(format!(
                    "agent {number}: {size} leaves, {acked} acknowledged, {told} told of {of}, {open} open"
                ));
            }
        }
        let queued = self.links.iter().flatten().flatten().any(|link| !link.up.is_empty() || !link.down.is_empty());
        if queued {
            return Some("messages are under way".to_owned());
        }
        let (holds, waiting) = (self.books.holds.len(), self.books.waiting.len());
        (holds + waiting > 0).then(|| format!("{holds} holds, {waiting} leaves wait"))
    }

    /// Both hubs stop, and 30 days later suspense is given back.
    pub(crate) fn close_down(&mut self) -> Result<(), String> {
        for hub in 0..HUBS {
            self.stop_hub(hub);
        }
        self.now += SUSPENSE_MS;
        let suspended: Vec<(usize, Entry)> = self
            .books
            .entries
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, entry)| entry.moves.suspense > NanoUsd::ZERO)
            .collect();
        let times = match self.setting.mutant {
            Some(Mutant::NeverReturns) => 0,
            Some(Mutant::ReturnsTwice) => 2,
            _ => 1,
        };
        for (which, entry) in suspended {
            for _ in 0..times {
                let moves = give_back(entry.moves.suspense, 0, self.now, false).map_err(|error| error.to_string())?;
                if let Some(moves) = moves {
                    self.seen.suspense_returned += 1;
                    let key = Key::Return(which);
                    self.books.record(Op::Entry(Entry { key, moves, ..entry }));
                }
            }
        }
        self.end_transaction(0);
        Ok(())
    }
}
