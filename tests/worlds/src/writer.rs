//! A hub's one writer: calls that ended, leaves, statements and cosigned heads, a batch at a time.
//!
//! Invariant: a transaction has all of a batch or nothing; [`Cosign`] and [`Stated`] say whether
//! it follows what is there.

use std::rc::Rc;

use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::statement::Statement;

use crate::books::ChargeRow;
use crate::books::HoldRow;
use crate::books::Op;
use crate::books::Source;
use crate::books::chain_id;
use crate::credits::Lines;
use crate::hub::Batch;
use crate::hub::Ended;
use crate::links::statement_hash;
use crate::mutant::Mutant;
use crate::records::Leaf;
use crate::records::group_signature;
use crate::records::head;
use crate::records::index;
use crate::world::Down;
use crate::world::World;

/// Calls that ended, and batches of leaves, in one transaction.
const ENDED_MAX: usize = 16;
const BATCHES_MAX: usize = 6;

/// Why leaves are not committed.
enum Bad {
    /// Leaves before them are missing.
    Gap,
    /// They are no part of the chain that is known.
    Parted,
}

impl World {
    /// One transaction of a hub's writer.
    pub(crate) fn write(&mut self, hub: usize) -> Result<(), String> {
        if !self.hubs[hub].works() {
            return Ok(());
        }
        self.turn(hub);
        if self.happens(self.rates.failed_batch) && self.is_busy {
            self.failed(hub);
            return Ok(());
        }
        let before = self.books.transactions();
        let (ended, batches) = (self.hubs[hub].ended.len(), self.hubs[hub].batches.len());
        if ended + batches == 0 && self.books.waiting.is_empty() {
            self.tell(hub);
            return Ok(());
        }
        for _ in 0..ended.min(ENDED_MAX) {
            if let Some(ended) = self.hubs[hub].ended.pop_front() {
                self.write_ended(hub, &ended);
            }
        }
        if batches > 1 && self.random.once_in(40) {
            let (one, other) = (self.random.below(batches), self.random.below(batches));
            self.hubs[hub].batches.swap(one, other);
        }
        let mut lines = Lines::default();
        let mut bad = Vec::new();
        for _ in 0..batches.min(BATCHES_MAX) {
            let Some(batch) = self.hubs[hub].batches.pop_front() else { break };
            if let Err(why) = self.take_batch(hub, &batch, &mut lines)? {
                bad.push((batch, why));
            }
        }
        self.decide(hub, &mut lines)?;
        self.state(lines)?;
        self.end_transaction(hub);
        debug_assert!(self.books.transactions() == before + 1);
        self.seen.batches += 1;
        for (batch, why) in bad {
            self.not_committed(hub, &batch, &why)?;
        }
        self.tell(hub);
        Ok(())
    }

    /// The transaction was not committed: calls that ended stay in line, leaves are asked for.
    fn failed(&mut self, hub: usize) {
        self.seen.failed_batches += 1;
        if self.is(Mutant::DropsEnded) {
            while let Some(ended) = self.hubs[hub].ended.pop_front() {
                self.hubs[hub].held[usize::from(ended.ticket.consumer)] -= ended.held;
            }
        }
        let batches = std::mem::take(&mut self.hubs[hub].batches);
        if self.is(Mutant::DropsFailedBatches) {
            return;
        }
        for batch in batches {
            self.lost(hub, &batch);
        }
    }

    fn lost(&mut self, hub: usize, batch: &Batch) {
        let size = self.books.chain(batch.agent, batch.epoch).map_or(0, |chain| chain.size());
        let Some(link) = self.links[batch.agent][hub].as_mut().filter(|link| link.number == batch.link) else { return };
        let next = link.half.lost(size);
        self.need(batch.agent, hub, next);
    }

    fn not_committed(&mut self, hub: usize, batch: &Batch, why: &Bad) -> Result<(), String> {
        match why {
            Bad::Gap => self.lost(hub, batch),
            Bad::Parted => {
                let is_of_now = self.links[batch.agent][hub].as_ref().is_some_and(|link| link.number == batch.link);
                if is_of_now && self.agents[batch.agent].epoch == batch.epoch {
                    self.parted(batch.agent)?;
                }
            }
        }
        Ok(())
    }

    /// The charge of a call that this hub metered. One that is charged stays as it is.
    fn write_ended(&mut self, hub: usize, ended: &Ended) {
        let Ended { ticket, held, list, bytes } = *ended;
        let consumer = usize::from(ticket.consumer);
        self.hubs[hub].held[consumer] -= held;
        let row = self.books.call(ticket.call);
        // A process that was taken for dead comes back with a call whose leaf was decided without it.
        let is_decided = row.charge.is_some() || row.credits[usize::from(ticket.attempt) - 1].is_some();
        let is_charged = is_decided && !self.is(Mutant::ChargesTwice);
        if let Some(list) = list.filter(|_| !is_charged) {
            let list = if self.is(Mutant::ChargesByLeaf) { list + 1 } else { list };
            let row = ChargeRow { attempt: ticket.attempt, list, bytes, source: Source::Hub };
            let moves = self.charge(&ticket, row);
            let leased = &mut self.hubs[hub].leased[consumer];
            *leased = (*leased + moves.consumer.0).max(0);
            self.write_lease(hub, consumer);
        }
        if self.books.hold(ticket.call).is_some() {
            self.books.record(Op::HoldGone(ticket.call));
        }
    }

    /// Takes leaves into the chain of the books, with what each of them settles.
    fn take_batch(&mut self, hub: usize, batch: &Batch, lines: &mut Lines) -> Result<Result<(), Bad>, String> {
        let (agent, epoch) = (batch.agent, batch.epoch);
        let number = u8::try_from(agent).expect("few agents");
        let chain = self.books.chain(agent, epoch);
        let (has, newest) = chain.map_or((0, 0), |chain| (chain.size(), chain.newest()));
        if batch.first > has && !self.is(Mutant::WritesGaps) {
            return Ok(Err(Bad::Gap));
        }
        let known = if self.is(Mutant::WritesTwice) {
            0
        } else {
            index(has.saturating_sub(batch.first)).min(batch.leaves.len())
        };
        let is_known = |(number, leaf): (usize, &Leaf)| {
            chain.is_some_and(|chain| chain.leaves[index(batch.first) + number].hash == leaf.hash)
        };
        let checks = !self.is(Mutant::SkipsChain);
        if checks && !batch.leaves[..known].iter().enumerate().all(is_known) {
            return Ok(Err(Bad::Parted));
        }
        let new = &batch.leaves[known..];
        let Some(last) = new.last() else { return Ok(Ok(())) };
        let end = batch.first + batch.leaves.len() as u64;
        if checks {
            let mut before = newest;
            let follows =
                new.iter().all(|leaf| leaf.is_whole() && std::mem::replace(&mut before, leaf.hash) == leaf.before);
            let is_signed = batch.signature == group_signature(agent, epoch, end, last.hash);
            self.real_batch(batch, follows && is_signed)?;
            if !follows || !is_signed {
                return Ok(Err(Bad::Parted));
            }
            let cosign = chain.map_or_else(
                || keyhaven_protocol::statement::Cosign::new(chain_id(number, epoch)),
                |chain| chain.cosign,
            );
            let swapped = cosign.swap(head(has, newest), head(end, last.hash));
            match swapped {
                Ok(swapped) => {
                    self.books.record(Op::Head(number, epoch, swapped.newest()));
                }
                Err(_) => return Ok(Err(Bad::Parted)),
            }
        } else {
            let unseen = head(end, last.hash);
            self.books.record(Op::Head(number, epoch, unseen));
        }
        let written = if self.is(Mutant::CommitsHalves) { new.len().div_ceil(2) } else { new.len() };
        for leaf in &new[..written] {
            let at = self.books.chain(agent, epoch).map_or(0, |chain| chain.size());
            let audited = self.books.record(Op::Leaf(number, epoch, *leaf));
            self.real_audit(number, epoch, at, leaf, audited)?;
            let line = self.settle_leaf(hub, number, epoch, at, leaf, audited)?;
            self.seen.leaves += 1;
            lines.of(number, epoch).2.push(line);
        }
        let most = &mut self.most[agent];
        most.resize(most.len().max(epoch as usize + 1), 0);
        most[epoch as usize] = most[epoch as usize].max(end - (new.len() - written) as u64);
        if written < new.len()
            && let Some(link) = &mut self.links[agent][hub]
        {
            link.down.push_back(Down::Ack { next: end, statement: None });
        }
        Ok(Ok(()))
    }

    /// One statement for each chain that has lines.
    fn state(&mut self, lines: Lines) -> Result<(), String> {
        for (agent, epoch, mut lines, mut earlier) in lines.of {
            earlier.sort_by_key(|line| line.number);
            if self.is(Mutant::StatesGaps) && lines.len() > 1 {
                lines.pop();
            }
            if self.is(Mutant::StatesLess) {
                for settled in lines.iter_mut().filter_map(|line| line.settled.as_mut()) {
                    settled.credit = NanoUsd(settled.credit.0 / 2);
                }
            }
            let Some(chain) = self.books.chain(usize::from(agent), epoch) else { continue };
            let statement = Rc::new(Statement {
                chain: chain.id,
                number: chain.stated.statements,
                before: chain.stated.hash,
                first_leaf: chain.stated.leaves,
                at_unix_ms: self.now,
                signing_key: 0,
                lines,
                earlier,
            });
            let hash = statement_hash(&statement);
            self.real_state(&statement, hash)?;
            self.books.record(Op::Stated(agent, epoch, statement, hash));
        }
        Ok(())
    }

    /// What calls under way have cost so far is written down.
    pub(crate) fn observe(&mut self, hub: usize) {
        if !self.hubs[hub].works() {
            return;
        }
        self.turn(hub);
        let boot = self.hubs[hub].boot;
        let mut wrote = false;
        for which in 0..self.hubs[hub].sold.len() {
            let sold = self.hubs[hub].sold[which];
            let list = (sold.unit * i64::from(sold.units)).min(sold.ticket.ceiling);
            if list <= sold.written && sold.is_in_holds || sold.units == 0 {
                continue;
            }
            let call = sold.ticket.call;
            self.books.record(Op::Hold(HoldRow { call, boot, ticket: sold.ticket, list }));
            let truth = &mut self.truth[call as usize];
            truth.observed_max = truth.observed_max.max(list);
            let sold = &mut self.hubs[hub].sold[which];
            sold.written = list;
            sold.is_in_holds = true;
            wrote = true;
        }
        if wrote {
            self.end_transaction(hub);
        }
        self.tell(hub);
    }
}
