//! One agent, two hubs, one database, and what happens to them.
//!
//! Invariant: only the shipped halves decide what is sent, taken, acknowledged and let out; the
//! world carries their answers out, loses things, and counts.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use super::mutant::Mutant;
use crate::ledger_sync::AgentHalf;
use crate::ledger_sync::AgentLimits;
use crate::ledger_sync::HubHalf;
use crate::ledger_sync::Leaving;
use crate::ledger_sync::Release;
use crate::ledger_sync::Taken;
use crate::random::Random;

const LIMITS: AgentLimits = AgentLimits { leaves_per_claim: 4, in_flight_max: 16, unacked_max: 24 };
const STEPS: usize = 400;
/// After so many, no calls come: faults then hit a ledger that would send nothing by itself.
const BUSY_STEPS: usize = 300;
const HUBS: usize = 2;
const RUNNING_MAX: usize = 4;

/// A leaf, with a stub for its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leaf {
    call: u64,
    is_close: bool,
    before: u64,
    hash: u64,
}

enum Message {
    Claim { first: u64, leaves: Vec<Leaf> },
    Need(u64),
    Ack(u64),
}

/// The link that is up: messages that are on it, in order.
struct Link {
    hub: usize,
    up: VecDeque<Message>,
    down: VecDeque<Message>,
    half: HubHalf,
    /// The database went back, and this hub has not heard of it.
    is_stale: bool,
}

/// Leaves that a hub took and did not commit. They outlive the link, not the hub.
struct Batch {
    hub: usize,
    link: u64,
    first: u64,
    leaves: Vec<Leaf>,
}

#[derive(Default)]
struct Books {
    leaves: Vec<Leaf>,
    /// How often each call was charged.
    charges: BTreeMap<u64, u32>,
    /// The most leaves that were ever committed.
    most: u64,
}

/// What happened, to see that something did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    calls: u64,
    leaves: u64,
    agent_crashes: u64,
    hub_crashes: u64,
    cuts: u64,
    rollbacks: u64,
    wipes: u64,
    needs: u64,
    failed_batches: u64,
    claims_again: u64,
}

pub(super) struct World {
    random: Random,
    mutant: Option<Mutant>,
    log: Vec<Leaf>,
    durable: usize,
    agent: AgentHalf,
    /// Attempts that run, with where they stand.
    running: BTreeMap<u64, Release>,
    /// Calls whose consumer got bytes, and those whose consumer got all.
    began: Vec<u64>,
    ended: Vec<u64>,
    calls: u64,
    link: Option<Link>,
    links: u64,
    batches: VecDeque<Batch>,
    remembered: [u64; HUBS],
    books: Books,
    claimed: u64,
    seen: Seen,
}

impl World {
    pub(super) fn run(seed: u64, mutant: Option<Mutant>) -> Result<Seen, String> {
        let mut world = Self {
            random: Random::new(seed),
            mutant,
            log: Vec::new(),
            durable: 0,
            agent: AgentHalf::new(LIMITS, 0),
            running: BTreeMap::new(),
            began: Vec::new(),
            ended: Vec::new(),
            calls: 0,
            link: None,
            links: 0,
            batches: VecDeque::new(),
            remembered: [0; HUBS],
            books: Books::default(),
            claimed: 0,
            seen: Seen::default(),
        };
        for step in 0..STEPS {
            world.step(step < BUSY_STEPS)?;
        }
        world.settle_down()?;
        world.seen.calls = world.calls;
        world.seen.leaves = world.log.len() as u64;
        Ok(world.seen)
    }

    fn step(&mut self, is_busy: bool) -> Result<(), String> {
        match self.random.below(100) {
            0..18 if is_busy => self.open(),
            18..36 => self.answer(),
            36..50 => self.sync(),
            50..56 if self.link.is_none() || self.random.once_in(12) => self.dial()?,
            56..70 => self.send(),
            70..80 => self.deliver_up()?,
            80..88 => self.deliver_down()?,
            88..94 => self.commit()?,
            94 => self.hear_of_rollback(),
            95 if self.random.once_in(2) => self.cut(),
            96 if self.random.once_in(2) => self.crash_agent(),
            97 if self.random.once_in(2) => self.crash_hub(),
            98 => self.roll_back(),
            _ => {}
        }
        Ok(())
    }

    /// No more faults: everything that can be finished is.
    fn settle_down(&mut self) -> Result<(), String> {
        for _ in 0..400 {
            self.sync();
            for call in self.running.keys().copied().collect::<Vec<_>>() {
                self.close(call);
            }
            self.hear_of_rollback();
            if self.link.is_none() {
                self.dial()?;
            }
            self.send();
            while self.link.as_ref().is_some_and(|link| !link.up.is_empty()) {
                self.deliver_up()?;
            }
            while !self.batches.is_empty() {
                self.commit()?;
            }
            while self.link.as_ref().is_some_and(|link| !link.down.is_empty()) {
                self.deliver_down()?;
            }
        }
        self.check()
    }

    fn check(&self) -> Result<(), String> {
        let say =
            |what: &str| Err(format!("{what}; {} leaves here, {} there", self.log.len(), self.books.leaves.len()));
        if self.books.leaves != self.log {
            return say("the books do not have the ledger's leaves");
        }
        if self.agent.acked() != self.log.len() as u64 {
            return say("the agent does not know that the books have all");
        }
        let count =
            |call: u64, is_close| self.log.iter().filter(|leaf| leaf.call == call && leaf.is_close == is_close).count();
        for call in 0..self.calls {
            if count(call, true) != count(call, false) || count(call, true) > 1 {
                return say("an attempt is not opened and closed once");
            }
        }
        if self.began.iter().any(|call| count(*call, false) == 0) {
            return say("a consumer got bytes that no ledger knows of");
        }
        if self.ended.iter().any(|call| count(*call, true) == 0) {
            return say("a consumer got all of an answer that was not closed");
        }
        if let Some((call, times)) = self.books.charges.iter().find(|(_, times)| **times != 1) {
            return say(&format!("call {call} was charged {times} times"));
        }
        if self.books.charges.len() != self.log.iter().filter(|leaf| leaf.is_close).count() {
            return say("a call was not charged");
        }
        Ok(())
    }

    fn open(&mut self) {
        if self.running.len() < RUNNING_MAX && self.agent.may_open() {
            let leaf = self.append(self.calls, false);
            self.running.insert(self.calls, Release::opened(leaf));
            self.calls += 1;
        }
    }

    /// Something of an answer is ready: it leaves if it may.
    fn answer(&mut self) {
        let running: Vec<u64> = self.running.keys().copied().collect();
        if running.is_empty() {
            return;
        }
        let call = running[self.random.below(running.len())];
        if self.random.once_in(2) {
            let durable = self.durable as u64;
            let may = self.running.get(&call).is_some_and(|release| release.may_leave(Leaving::Bytes, durable));
            if may || self.mutant == Some(Mutant::BytesBeforeOpen) {
                self.began.push(call);
            }
        } else {
            self.close(call);
        }
    }

    /// The answer is over: CLOSE is written once, and the end leaves when it is durable.
    fn close(&mut self, call: u64) {
        let next = self.log.len() as u64;
        let Some(release) = self.running.get_mut(&call) else { return };
        if release.closed(next) || self.mutant == Some(Mutant::ClosesTwice) {
            self.append(call, true);
        }
        let durable = self.durable as u64;
        let may = self.running.get(&call).is_some_and(|release| release.may_leave(Leaving::End, durable));
        if may || self.mutant == Some(Mutant::EndBeforeClose) {
            self.ended.push(call);
            self.running.remove(&call);
        }
    }

    fn append(&mut self, call: u64, is_close: bool) -> u64 {
        let before = self.log.last().map_or(0, |leaf| leaf.hash);
        // Two leaves that were written at different times are never the same.
        let hash = self.random.next();
        self.log.push(Leaf { call, is_close, before, hash });
        if self.mutant == Some(Mutant::TellsDurableEarly) {
            self.agent.durable(self.log.len() as u64);
        }
        self.log.len() as u64 - 1
    }

    fn sync(&mut self) {
        self.durable = self.log.len();
        self.agent.durable(self.durable as u64);
    }

    fn dial(&mut self) -> Result<(), String> {
        if self.link.is_some() {
            self.cut();
        }
        let hub = self.random.below(HUBS);
        let committed = self.books.leaves.len() as u64;
        let next = match self.mutant {
            Some(Mutant::WelcomesFromMemory) => self.remembered[hub].max(committed),
            Some(Mutant::WelcomesUncommitted) => {
                let waits = self.batches.iter().map(|batch| batch.first + batch.leaves.len() as u64).max();
                waits.unwrap_or(0).clamp(committed, (self.durable as u64).max(committed))
            }
            _ => committed,
        };
        self.remembered[hub] = next;
        self.links += 1;
        let half = HubHalf::new(next, 1_000);
        self.link = Some(Link { hub, up: VecDeque::new(), down: VecDeque::new(), half, is_stale: false });
        let heard = match self.mutant {
            Some(Mutant::IgnoresWelcome) => self.agent.acked().max(next),
            _ => next,
        };
        self.agent.welcome(heard).map_err(|error| error.to_string())
    }

    fn send(&mut self) {
        let Some(link) = &mut self.link else { return };
        while let Some(leaves) = self.agent.next_claim() {
            let (first, end) = (index(leaves.start), index(leaves.end));
            self.seen.claims_again += u64::from(leaves.start < self.claimed);
            self.claimed = self.claimed.max(leaves.end);
            if self.mutant == Some(Mutant::LosesClaims) && self.random.once_in(20) {
                continue;
            }
            link.up.push_back(Message::Claim { first: leaves.start, leaves: self.log[first..end].to_vec() });
        }
    }

    fn deliver_up(&mut self) -> Result<(), String> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let Some(Message::Claim { first, leaves }) = link.up.pop_front() else { return Ok(()) };
        match link.half.claim(first..first + leaves.len() as u64) {
            Taken::Settle(new) => {
                let leaves = leaves[index(new.start - first)..].to_vec();
                self.batches.push_back(Batch { hub: link.hub, link: self.links, first: new.start, leaves });
                if self.mutant == Some(Mutant::AcksBeforeCommit) {
                    link.down.push_back(Message::Ack(new.end));
                }
            }
            Taken::Ack { next } => link.down.push_back(Message::Ack(next)),
            Taken::Need { next } => {
                self.seen.needs += 1;
                if self.mutant != Some(Mutant::NeverNeeds) {
                    link.down.push_back(Message::Need(next));
                }
            }
            Taken::Wait | Taken::Skip => {}
            Taken::TooMuch => return Err("the window is beyond what was agreed on".to_owned()),
        }
        Ok(())
    }

    fn deliver_down(&mut self) -> Result<(), String> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let verdict = match link.down.pop_front() {
            Some(Message::Ack(_)) if self.mutant == Some(Mutant::NeverAcks) => Ok(()),
            Some(Message::Ack(next)) if next > self.books.most => {
                return Err(format!("{next} leaves were acknowledged, and at most {} committed", self.books.most));
            }
            Some(Message::Ack(next)) => self.agent.ack(next),
            Some(Message::Need(_)) if self.mutant == Some(Mutant::IgnoresNeed) => Ok(()),
            Some(Message::Need(next)) => self.agent.need(next),
            Some(Message::Claim { .. }) | None => Ok(()),
        };
        verdict.map_err(|error| error.to_string())
    }

    /// The writer commits the oldest batch, whole or not at all.
    fn commit(&mut self) -> Result<(), String> {
        let Some(mut batch) = self.batches.pop_front() else { return Ok(()) };
        let has = self.books.leaves.len() as u64;
        let is_refused = self.random.once_in(20);
        let fits = !is_refused && (batch.first <= has || self.mutant == Some(Mutant::WritesGaps));
        let end = batch.first + batch.leaves.len() as u64;
        if self.mutant == Some(Mutant::CommitsHalves) {
            batch.leaves.truncate(batch.leaves.len().div_ceil(2));
        }
        if fits {
            self.write(&batch)?;
        } else {
            self.seen.failed_batches += 1;
        }
        let now = self.books.leaves.len() as u64;
        self.remembered[batch.hub] = self.remembered[batch.hub].max(now);
        let said = if self.mutant == Some(Mutant::CommitsHalves) { end } else { now };
        let is_told = fits || self.mutant != Some(Mutant::DropsFailedBatches);
        let of_this_link = self.links == batch.link;
        let Some(link) = self.link.as_mut().filter(|_| is_told && of_this_link) else { return Ok(()) };
        if !fits {
            link.is_stale = false;
            let next = link.half.lost(now);
            self.push_need(next);
        } else if let Some(next) = link.half.committed(said) {
            link.down.push_back(Message::Ack(next));
        }
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<(), String> {
        for (number, leaf) in (index(batch.first)..).zip(&batch.leaves) {
            match self.books.leaves.get(number) {
                Some(known) if self.mutant != Some(Mutant::WritesTwice) => {
                    if known != leaf {
                        return Err(format!("leaf {number} came with two contents"));
                    }
                    let again = self.mutant == Some(Mutant::ChargesTwice) && leaf.is_close;
                    *self.books.charges.entry(leaf.call).or_default() += u32::from(again);
                    self.books.charges.retain(|_, times| *times > 0);
                }
                Some(_) | None => {
                    let before = self.books.leaves.last().map_or(0, |leaf| leaf.hash);
                    if leaf.before != before {
                        return Err(format!("leaf {number} does not follow the one before"));
                    }
                    self.books.leaves.push(*leaf);
                    if leaf.is_close {
                        *self.books.charges.entry(leaf.call).or_default() += 1;
                    }
                }
            }
        }
        self.books.most = self.books.most.max(self.books.leaves.len() as u64);
        Ok(())
    }

    fn roll_back(&mut self) {
        let keeps = if self.random.once_in(5) { 0 } else { self.random.below(self.books.leaves.len() + 1) };
        if keeps == self.books.leaves.len() {
            return;
        }
        self.seen.rollbacks += 1;
        self.seen.wipes += u64::from(keeps == 0);
        for leaf in self.books.leaves.split_off(keeps) {
            if leaf.is_close {
                self.books.charges.remove(&leaf.call);
            }
        }
        if let Some(link) = &mut self.link {
            link.is_stale = true;
        }
    }

    /// The hub's connection to the database is new, and it looks at what the books have.
    fn hear_of_rollback(&mut self) {
        if self.mutant == Some(Mutant::MissesRollback) {
            return;
        }
        let has = self.books.leaves.len() as u64;
        let Some(link) = self.link.as_mut().filter(|link| link.is_stale) else { return };
        link.is_stale = false;
        let next = link.half.lost(has);
        let links = self.links;
        self.batches.retain(|batch| batch.link != links);
        self.push_need(next);
    }

    fn push_need(&mut self, next: u64) {
        self.seen.needs += 1;
        if let Some(link) = self.link.as_mut().filter(|_| self.mutant != Some(Mutant::NeverNeeds)) {
            link.down.push_back(Message::Need(next));
        }
    }

    fn cut(&mut self) {
        if self.link.take().is_some() {
            self.seen.cuts += 1;
            self.agent.link_down();
        }
    }

    fn crash_agent(&mut self) {
        self.cut();
        self.seen.agent_crashes += 1;
        let lost = match self.mutant {
            Some(Mutant::LosesDurable) => self.random.below(3),
            _ => 0,
        };
        self.durable = self.durable.saturating_sub(lost);
        self.log.truncate(self.durable);
        self.running.clear();
        if self.mutant != Some(Mutant::LeavesOpen) {
            let is_open = |leaf: &&Leaf| {
                !leaf.is_close && !self.log.iter().any(|other| other.is_close && other.call == leaf.call)
            };
            let open: Vec<u64> = self.log.iter().filter(is_open).map(|leaf| leaf.call).collect();
            for call in open {
                self.append(call, true);
            }
        }
        self.durable = self.log.len();
        self.agent = AgentHalf::new(LIMITS, self.durable as u64);
        // A call that no ledger knows never reached anybody: its number is free.
        let known = |call: u64| self.log.iter().any(|leaf| leaf.call == call);
        while self.calls > 0 && !known(self.calls - 1) && !self.began.contains(&(self.calls - 1)) {
            self.calls -= 1;
        }
    }

    fn crash_hub(&mut self) {
        let hub = self.random.below(HUBS);
        self.seen.hub_crashes += 1;
        self.batches.retain(|batch| batch.hub != hub);
        self.remembered[hub] = 0;
        if self.link.as_ref().is_some_and(|link| link.hub == hub) {
            self.cut();
        }
    }
}

impl Seen {
    pub(super) fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.leaves += other.leaves;
        self.agent_crashes += other.agent_crashes;
        self.hub_crashes += other.hub_crashes;
        self.cuts += other.cuts;
        self.rollbacks += other.rollbacks;
        self.wipes += other.wipes;
        self.needs += other.needs;
        self.failed_batches += other.failed_batches;
        self.claims_again += other.claims_again;
    }

    /// Whether every kind of trouble came often enough.
    pub(super) fn is_varied(&self, worlds: u64) -> bool {
        let each = [self.agent_crashes, self.hub_crashes, self.cuts, self.rollbacks, self.claims_again];
        let some = [self.wipes, self.needs, self.failed_batches];
        self.calls >= 10 * worlds && each.iter().all(|count| *count >= worlds) && some.iter().all(|count| *count > 0)
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("a simulated log is short")
}
