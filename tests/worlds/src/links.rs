//! Links: dialled, cut, and what is on them.
//!
//! Invariant: [`AgentHalf`], [`HubHalf`] and [`greet`] decide what is sent, taken and said.

use std::collections::VecDeque;
use std::rc::Rc;

use keyhaven_protocol::ledger_sync::Greeting;
use keyhaven_protocol::ledger_sync::HubHalf;
use keyhaven_protocol::ledger_sync::Taken;
use keyhaven_protocol::ledger_sync::greet;
use keyhaven_protocol::statement::Statement;
use keyhaven_protocol::statement::StatementError;

use crate::hub::Batch;
use crate::hub::HUBS;
use crate::mutant::Mutant;
use crate::random::mix;
use crate::records::Leaf;
use crate::records::group_signature;
use crate::records::head;
use crate::records::index;
use crate::records::narrow;
use crate::records::wide;
use crate::world::Down;
use crate::world::Link;
use crate::world::Up;
use crate::world::World;

/// Leaves that may wait to be committed on one link.
const QUEUE_MAX: u64 = 1_000;

impl World {
    /// The agent dials the hub; the first of its links carries its ledger.
    pub(crate) fn dial(&mut self, agent: usize, hub: usize) -> Result<(), String> {
        if !self.hubs[hub].works() || self.links[agent][hub].is_some() {
            return Ok(());
        }
        self.turn(hub);
        let is_ledger = self.links[agent].iter().flatten().all(|link| !link.is_ledger);
        let next = if is_ledger { self.greeted(agent, hub)? } else { 0 };
        self.link_numbers += 1;
        let epoch = self.agents[agent].epoch;
        let sent = self.known_statements(agent, epoch);
        self.links[agent][hub] = Some(Link {
            number: self.link_numbers,
            up: VecDeque::new(),
            down: VecDeque::new(),
            is_ledger,
            epoch,
            half: HubHalf::new(next, QUEUE_MAX),
            sent,
        });
        self.tell(hub);
        Ok(())
    }

    /// Statements that need not be sent: AUTH says how many the agent has, and the hash of the
    /// newest. After a rollback the books may have as many, and others.
    fn known_statements(&self, agent: usize, epoch: u32) -> usize {
        let has = &self.agents[agent].history;
        let chain = self.books.chain(agent, epoch);
        let same = chain.zip(has.last()).is_some_and(|(chain, newest)| {
            let last = chain.statements.get(has.len() - 1);
            last.is_some_and(|statement| wide(statement_hash(statement)) == newest.hash)
        });
        if same { has.len() } else { 0 }
    }

    /// What WELCOME says, after an agent that is an older copy began a new chain.
    fn greeted(&mut self, agent: usize, hub: usize) -> Result<u64, String> {
        // It brings a head that a hub of this fleet cosigned: where the books do not have that
        // many leaves, they were lost.
        let has = self.books.chain(agent, self.agents[agent].epoch).map_or(0, |chain| chain.size());
        if self.agents[agent].cosigned > has && !self.is(Mutant::MissesRollback) {
            self.forgot();
            self.end_transaction(hub);
        }
        for _ in 0..3 {
            let epoch = self.agents[agent].epoch;
            let newest = self.books.chains[agent].len();
            let (size, hash) = {
                let log = &self.agents[agent];
                (log.durable, log.durable.checked_sub(1).map_or(0, |last| log.log[index(last)].hash))
            };
            let chain = self.books.chain(agent, epoch);
            let has = chain.map_or(0, |chain| chain.size());
            let known = |size: u64| {
                let chain = chain?;
                let last = size.checked_sub(1).map_or(Some(0), |last| Some(chain.leaves.get(index(last))?.hash))?;
                Some(head(size, last).hash)
            };
            let mut greeting = greet(head(size, hash), has, known);
            if (epoch as usize) + 1 < newest {
                greeting = Greeting::Behind { next: has };
            }
            match greeting {
                Greeting::Welcome { next } => {
                    let remembered = self.hubs[hub].remembers[agent];
                    let said = if self.is(Mutant::WelcomesFromMemory) { remembered.max(next) } else { next };
                    let heard =
                        if self.is(Mutant::IgnoresWelcome) { self.agents[agent].half.acked().max(said) } else { said };
                    if self.agents[agent].half.welcome(heard).is_ok() {
                        return Ok(said);
                    }
                    self.parted(agent)?;
                }
                Greeting::Behind { .. } | Greeting::Fork { .. } => self.parted(agent)?,
            }
        }
        Err(format!("agent {agent} is an older copy, again and again"))
    }

    /// The hub shows that it has another history of this agent.
    pub(crate) fn parted(&mut self, agent: usize) -> Result<(), String> {
        let may = self.agents[agent].cheats || self.seen.copies > 0;
        if !may {
            return Err(format!("the books have another history of the honest agent {agent}"));
        }
        for hub in 0..HUBS {
            self.cut(agent, hub);
        }
        if !self.is(Mutant::GoesOnFromCopy) {
            self.begin_epoch(agent);
        }
        Ok(())
    }

    pub(crate) fn begin_epoch(&mut self, agent: usize) {
        self.seen.epochs += 1;
        let at = self.now ^ self.random.next() << 40;
        self.agents[agent].begin_epoch(at);
        self.claimed[agent] = 0;
        self.real_history(agent);
    }

    pub(crate) fn cut(&mut self, agent: usize, hub: usize) {
        let Some(link) = self.links[agent][hub].take() else { return };
        self.seen.cuts += 1;
        if link.is_ledger {
            self.agents[agent].half.link_down();
        }
        for running in &mut self.agents[agent].running {
            running.hub = running.hub.filter(|of| *of != hub);
        }
        if self.hubs[hub].is_up {
            self.link_lost(agent, hub);
        }
    }

    /// The agent makes durable what it wrote.
    pub(crate) fn sync(&mut self, agent: usize) {
        if !self.agents[agent].is_stalled {
            self.agents[agent].sync();
        }
    }

    /// What the agent's half says is to be sent.
    pub(crate) fn send(&mut self, agent: usize) {
        let Some(hub) = (0..HUBS).find(|hub| self.links[agent][*hub].as_ref().is_some_and(|link| link.is_ledger))
        else {
            return;
        };
        while let Some(leaves) = self.agents[agent].half.next_claim() {
            self.seen.claims_again += u64::from(leaves.start < self.claimed[agent]);
            self.claimed[agent] = self.claimed[agent].max(leaves.end);
            if self.is(Mutant::LosesClaims) && self.random.once_in(20) {
                continue;
            }
            let from = &self.agents[agent];
            let end = index(leaves.end).min(from.log.len());
            let sent: Vec<Leaf> = from.log[index(leaves.start).min(end)..end].to_vec();
            let newest = sent.last().map_or(0, |leaf| leaf.hash);
            let (epoch, first) = (from.epoch, leaves.start);
            let signature = group_signature(agent, epoch, first + sent.len() as u64, newest);
            let group = self.real_group(agent, agent, first, &sent);
            if let Some(link) = &mut self.links[agent][hub] {
                link.up.push_back(Up::Claim(Batch { agent, link: 0, epoch, first, leaves: sent, signature, group }));
            }
        }
    }

    /// Messages come to a hub, in order. Some claims come twice.
    pub(crate) fn deliver_up(&mut self, agent: usize, hub: usize, count: usize) -> Result<(), String> {
        for _ in 0..count {
            if !self.hubs[hub].works() {
                return Ok(());
            }
            let Some(link) = &mut self.links[agent][hub] else { return Ok(()) };
            let Some(message) = link.up.pop_front() else { return Ok(()) };
            match message {
                Up::Claim(batch) => {
                    if self.random.once_in(50) {
                        self.claim(hub, batch.clone())?;
                    }
                    self.claim(hub, batch)?;
                }
                Up::Bytes { .. } | Up::End { .. } | Up::Echo { .. } | Up::Refused { .. } => {
                    self.answer(agent, hub, &message);
                }
            }
        }
        Ok(())
    }

    fn claim(&mut self, hub: usize, mut batch: Batch) -> Result<(), String> {
        let (acks_early, agent) = (self.is(Mutant::AcksBeforeCommit), batch.agent);
        let Some(link) = &mut self.links[agent][hub] else { return Ok(()) };
        if batch.leaves.is_empty() || link.epoch != batch.epoch {
            return Ok(());
        }
        match link.half.claim(batch.first..batch.first + batch.leaves.len() as u64) {
            Taken::Settle(new) => {
                if acks_early {
                    link.down.push_back(Down::Ack { next: new.end, statement: None });
                }
                batch.leaves.drain(..index(new.start - batch.first));
                batch.first = new.start;
                batch.link = link.number;
                self.hubs[hub].batches.push_back(batch);
            }
            Taken::Ack { next } => link.down.push_back(Down::Ack { next, statement: None }),
            Taken::Need { next } => self.need(agent, hub, next),
            Taken::Wait | Taken::Skip => {}
            Taken::TooMuch if self.agents[agent].cheats => self.cut(agent, hub),
            Taken::TooMuch => return Err("the window is beyond what was agreed on".to_owned()),
        }
        Ok(())
    }

    pub(crate) fn need(&mut self, agent: usize, hub: usize, next: u64) {
        self.seen.needs += 1;
        if self.is(Mutant::NeverNeeds) {
            return;
        }
        if let Some(link) = &mut self.links[agent][hub] {
            link.down.push_back(Down::Need(next));
        }
    }

    /// Messages come to an agent. Some orders come twice.
    pub(crate) fn deliver_down(&mut self, agent: usize, hub: usize, count: usize) -> Result<(), String> {
        for _ in 0..count {
            let Some(link) = &mut self.links[agent][hub] else { return Ok(()) };
            let is_of_now = link.epoch == self.agents[agent].epoch;
            let Some(message) = link.down.pop_front() else { return Ok(()) };
            match message {
                Down::Open(ticket) => {
                    self.order(agent, hub, ticket, !ticket.is_signed())?;
                    if self.random.once_in(100) {
                        self.order(agent, hub, ticket, true)?;
                    }
                }
                Down::Abort { call, attempt } => self.abort(agent, call, attempt),
                Down::Need(next) if is_of_now && !self.is(Mutant::IgnoresNeed) => {
                    if self.agents[agent].half.need(next).is_err() {
                        self.parted(agent)?;
                    }
                }
                Down::Ack { next, statement } if is_of_now && !self.is(Mutant::NeverAcks) => {
                    self.acked(agent, hub, next, statement)?;
                }
                Down::Need(_) | Down::Ack { .. } => {}
            }
        }
        Ok(())
    }

    fn acked(
        &mut self,
        agent: usize,
        hub: usize,
        next: u64,
        statement: Option<(Rc<Statement>, u64)>,
    ) -> Result<(), String> {
        let most = self.most[agent].get(self.agents[agent].epoch as usize).copied().unwrap_or(0);
        if next > most {
            return Err(format!("{next} leaves were acknowledged, and at most {most} committed"));
        }
        if let Some((statement, hash)) = statement {
            let known = self.agents[agent].history.get(index(statement.number));
            let is_known = known.is_some_and(|stated| stated.hash == wide(hash));
            match self.agents[agent].take(&statement, hash) {
                Ok(true) => {
                    let stated = self.agents[agent].stated.leaves;
                    self.agents[agent].cosigned = self.agents[agent].cosigned.max(stated);
                    if !is_known {
                        self.real_statement(agent, &statement, hash)?;
                    }
                }
                Ok(false) => {
                    // It asks for all that was said, on a new link.
                    self.agents[agent].forget_statements();
                    self.real_history(agent);
                    self.cut(agent, hub);
                    return Ok(());
                }
                // The hub has another history: this is an older copy.
                Err(StatementError::OtherLeaf(_)) => return self.parted(agent),
                Err(error) if !self.agents[agent].cheats => return Err(format!("a statement: {error}")),
                Err(_) => {}
            }
        }
        match self.agents[agent].half.ack(next) {
            Ok(()) => Ok(()),
            Err(_) => self.parted(agent),
        }
    }

    /// Says what is committed and stated, and was not said: commits of others too.
    pub(crate) fn tell(&mut self, hub: usize) {
        let loses = self.is(Mutant::LosesStatements);
        for agent in 0..self.agents.len() {
            let Some(link) = self.links[agent][hub].as_mut().filter(|link| link.is_ledger) else { continue };
            let Some(chain) = self.books.chain(agent, link.epoch) else { continue };
            let size = chain.size();
            let news = link.half.committed(size);
            for statement in chain.statements.iter().skip(link.sent) {
                let hash = statement_hash(statement);
                if !(loses && self.random.once_in(10)) {
                    link.down.push_back(Down::Ack { next: size, statement: Some((statement.clone(), hash)) });
                }
            }
            if link.sent >= chain.statements.len()
                && let Some(next) = news
            {
                link.down.push_back(Down::Ack { next, statement: None });
            }
            link.sent = link.sent.max(chain.statements.len());
            self.hubs[hub].remembers[agent] = self.hubs[hub].remembers[agent].max(size);
        }
    }
}

/// What stands for the hash of a statement's bytes.
pub(crate) fn statement_hash(statement: &Statement) -> u64 {
    let mut sum =
        mix(narrow(&statement.before) ^ statement.number ^ statement.first_leaf << 32 ^ mix(statement.at_unix_ms));
    let earlier = statement.earlier.iter().map(|earlier| &earlier.line);
    for line in statement.lines.iter().chain(earlier) {
        let credit = line.settled.as_ref().map_or(0, |settled| settled.credit.0.unsigned_abs() + 1);
        sum = mix(sum ^ narrow(&line.leaf) ^ u64::from(line.reason.number()) << 56 ^ credit);
    }
    sum
}
