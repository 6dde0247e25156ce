//! A hub's one writer: charges, credits, statements and cosigned heads, a batch at a time.
//!
//! Invariant: [`charge`], [`credit`], [`lower`], [`Cosign`] and [`Stated`] decide; what is here
//! says what is known and books what they say, once by key.

use std::rc::Rc;

use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::settle::Charged;
use keyhaven_protocol::settle::Claim;
use keyhaven_protocol::settle::Credited;
use keyhaven_protocol::settle::Metered;
use keyhaven_protocol::settle::Moves;
use keyhaven_protocol::settle::Observed;
use keyhaven_protocol::settle::PaidBy;
use keyhaven_protocol::settle::Remedy;
use keyhaven_protocol::settle::Stands;
use keyhaven_protocol::settle::charge;
use keyhaven_protocol::settle::credit;
use keyhaven_protocol::settle::lower;
use keyhaven_protocol::statement::EarlierLine;
use keyhaven_protocol::statement::Line;
use keyhaven_protocol::statement::Reason;
use keyhaven_protocol::statement::Settled;
use keyhaven_protocol::statement::Statement;

use crate::books::ChargeRow;
use crate::books::CreditRow;
use crate::books::Entry;
use crate::books::HoldRow;
use crate::books::Key;
use crate::books::Op;
use crate::books::Source;
use crate::books::Waiting;
use crate::books::chain_id;
use crate::hub::Batch;
use crate::hub::Ended;
use crate::links::statement_hash;
use crate::mutant::Mutant;
use crate::records::Figure;
use crate::records::Leaf;
use crate::records::Said;
use crate::records::Ticket;
use crate::records::group_signature;
use crate::records::head;
use crate::records::index;
use crate::records::wide;
use crate::world::Down;
use crate::world::World;

/// Calls that ended, and batches of leaves, in one transaction.
const ENDED_MAX: usize = 16;
const BATCHES_MAX: usize = 6;

/// Lines that a transaction made, by chain.
#[derive(Default)]
struct Lines {
    of: Vec<(u8, u32, Vec<Line>, Vec<EarlierLine>)>,
}

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

    fn charge(&mut self, ticket: &Ticket, row: ChargeRow) -> Moves {
        let moves = charge(NanoUsd(row.list), ticket.terms().shares).expect("small amounts");
        self.books.record(Op::Charge(ticket.call, row));
        self.enter(Key::Charge(ticket.call), ticket, moves);
        moves
    }

    fn enter(&mut self, key: Key, ticket: &Ticket, moves: Moves) {
        if moves != Moves::NOTHING {
            let (consumer, owner) = (ticket.consumer, ticket.agent);
            self.books.record(Op::Entry(Entry { key, consumer, owner, moves }));
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

    /// What a leaf settles, and what the statement says of it.
    fn settle_leaf(
        &mut self,
        hub: usize,
        agent: u8,
        epoch: u32,
        number: u64,
        leaf: &Leaf,
        audited: bool,
    ) -> Result<Line, String> {
        let audited = audited || self.is(Mutant::SkipsAudit);
        let noted = |reason| Line { leaf: wide(leaf.hash), reason, settled: None };
        match leaf.said {
            Said::Epoch => Ok(noted(Reason::Noted)),
            Said::Open(_) if audited => Ok(noted(Reason::Noted)),
            Said::Open(_) => Ok(noted(self.count(Reason::Refused))),
            Said::Close { call, attempt, figure, .. } => {
                let ticket = self.books.chain(usize::from(agent), epoch).and_then(|chain| chain.ticket(call, attempt));
                let Some(ticket) = ticket.filter(|_| audited) else { return Ok(noted(self.count(Reason::Refused))) };
                let claim = claim_of(figure);
                let waiting = Waiting { ticket, agent, epoch, number, hash: leaf.hash, claim };
                let credited = self.credit(hub, &waiting)?;
                if credited.reason == Reason::Open {
                    self.books.record(Op::Wait(waiting));
                }
                Ok(line_of(leaf.hash, &credited))
            }
            Said::Adjust { call, attempt, list, .. } => {
                if !audited {
                    return Ok(noted(self.count(Reason::Refused)));
                }
                let lowered = self.lower(agent, epoch, number, call, attempt, list)?;
                self.seen.lowered += 1;
                Ok(Line { settled: lowered, ..noted(Reason::Lowered) })
            }
        }
    }

    fn count(&mut self, reason: Reason) -> Reason {
        let seen = &mut self.seen;
        let counter = match reason {
            Reason::Noted => return reason,
            Reason::Agreed => &mut seen.agreed,
            Reason::Short => &mut seen.short,
            Reason::AgentAbove => &mut seen.agent_above,
            Reason::AgentBelow => &mut seen.agent_below,
            Reason::Unobserved => &mut seen.unobserved,
            Reason::Amnesia => &mut seen.amnesia,
            Reason::OrphanBudget => &mut seen.orphan_budget,
            Reason::Late => &mut seen.late,
            Reason::Refused => &mut seen.refused,
            Reason::Lowered => &mut seen.lowered,
            Reason::Open => &mut seen.opened_lines,
            Reason::NoFigure => &mut seen.no_figure,
        };
        *counter += 1;
        reason
    }

    /// The credit of an attempt by its CLOSE leaf, booked if the call has ended.
    fn credit(&mut self, hub: usize, leaf: &Waiting) -> Result<Credited, String> {
        let Waiting { ticket, claim, agent, epoch, .. } = *leaf;
        let observed = self.observed(hub, &ticket);
        let observed = match (observed, self.setting.mutant) {
            (Observed::Nothing(_), Some(Mutant::AlwaysAmnesia)) => Observed::Nothing(Remedy::Amnesia),
            (Observed::Charged(_), Some(Mutant::CreditsByLeaf)) => Observed::Charged(Charged {
                hub: Metered { list: self.claimed(claim), response_bytes: 0 },
                is_provisional: false,
            }),
            (observed, _) => observed,
        };
        let mut credited = credit(observed, claim, ticket.terms()).map_err(|error| error.to_string())?;
        if self.is(Mutant::KeepsDifference) {
            let moves = &mut credited.credit;
            moves.margin = NanoUsd(moves.margin.0 + moves.suspense.0);
            moves.suspense = NanoUsd::ZERO;
        }
        self.count(credited.reason);
        if matches!(credited.reason, Reason::Open | Reason::Refused) {
            return Ok(credited);
        }
        if credited.charge.is_some() {
            self.real_payer(&ticket)?;
            let row = ChargeRow { attempt: ticket.attempt, list: credited.list.0, bytes: 0, source: Source::Leaf };
            self.charge(&ticket, row);
        }
        let paid_by = match self.books.call(ticket.call).charge.filter(|charge| charge.attempt == ticket.attempt) {
            Some(charge) => PaidBy::Consumer { charged: NanoUsd(charge.list) },
            None if credited.reason == Reason::OrphanBudget => PaidBy::OrphanBudget,
            None => PaidBy::Nobody,
        };
        if paid_by == PaidBy::OrphanBudget && !self.is(Mutant::EndlessBudget) {
            let left = self.books.budgets[usize::from(agent)] - credited.credit.owner.0;
            self.books.record(Op::Budget(agent, left));
        }
        let stands = Stands { paid_by, list: credited.list };
        self.books.record(Op::Credit(ticket.call, ticket.attempt, CreditRow { agent, epoch, stands }));
        self.enter(Key::Credit(ticket.call, ticket.attempt), &ticket, credited.credit);
        Ok(credited)
    }

    fn claimed(&self, claim: Claim) -> NanoUsd {
        match claim {
            Claim::Figure(figure) => figure.list,
            Claim::Died { so_far } => so_far,
            Claim::Refused => NanoUsd::ZERO,
        }
    }

    /// What this hub knows of the attempt's call.
    fn observed(&self, hub: usize, ticket: &Ticket) -> Observed {
        let row = self.books.call(ticket.call);
        if row.credits[usize::from(ticket.attempt) - 1].is_some() && !self.is(Mutant::CreditsTwice) {
            return Observed::Credited;
        }
        if let Some(charge) = row.charge {
            if charge.attempt != ticket.attempt {
                return Observed::OtherAttempt;
            }
            let hub = Metered { list: NanoUsd(charge.list), response_bytes: charge.bytes.into() };
            return Observed::Charged(Charged { hub, is_provisional: charge.source == Source::Sweeper });
        }
        if self.is_under_way(hub, ticket) && !self.is(Mutant::DecidesEarly) {
            return Observed::UnderWay;
        }
        let covers =
            |of: &crate::books::Amnesia| of.boot.is_none_or(|boot| boot == ticket.boot) && ticket.call < of.before;
        let budget = self.books.budgets[usize::from(ticket.agent)];
        Observed::Nothing(match () {
            () if self.books.amnesia.iter().any(covers) => Remedy::Amnesia,
            () if budget > 0 => Remedy::OrphanBudget(NanoUsd(budget)),
            () => Remedy::None,
        })
    }

    /// Whether the call may still be charged by a hub that metered it.
    fn is_under_way(&self, hub: usize, ticket: &Ticket) -> bool {
        let this = &self.hubs[hub];
        if this.has(ticket.call) || self.books.hold(ticket.call).is_some() {
            return true;
        }
        if this.names.contains(&ticket.boot) {
            return false;
        }
        match self.books.boot(ticket.boot) {
            Some(boot) => boot.ended.is_none(),
            // Its row was lost, and a process that lives writes it again within the time after
            // which it would count as dead.
            None => self.hubs.iter().any(|other| other.works() && other.boot == ticket.boot),
        }
    }

    /// Leaves that waited for the end of their calls.
    fn decide(&mut self, hub: usize, lines: &mut Lines) -> Result<(), String> {
        if self.is(Mutant::NeverDecides) {
            return Ok(());
        }
        for waiting in self.books.waiting.clone() {
            let has_row = self.books.call(waiting.ticket.call).charge.is_some();
            if !has_row && self.is_under_way(hub, &waiting.ticket) {
                continue;
            }
            if lines.of.iter().map(|(_, _, lines, earlier)| lines.len() + earlier.len()).sum::<usize>() > 100 {
                break;
            }
            let Waiting { agent, epoch, number, hash, .. } = waiting;
            // Its first line is not stated yet, and no statement has two of one leaf.
            let stated = self.books.chain(usize::from(agent), epoch).map_or(0, |chain| chain.stated.leaves);
            if number >= stated {
                continue;
            }
            self.books.record(Op::Decided(epoch, agent, number));
            let credited = self.credit(hub, &waiting)?;
            let line = line_of(hash, &credited);
            lines.of(agent, epoch).3.push(EarlierLine { number, line });
        }
        Ok(())
    }

    fn lower(
        &mut self,
        agent: u8,
        epoch: u32,
        number: u64,
        call: u32,
        attempt: u8,
        list: i64,
    ) -> Result<Option<Settled>, String> {
        let of_attempt = |waiting: &&Waiting| {
            let ticket = &waiting.ticket;
            (waiting.agent, waiting.epoch, ticket.call, ticket.attempt) == (agent, epoch, call, attempt)
        };
        if let Some(waiting) = self.books.waiting.iter().find(of_attempt) {
            let bytes = match waiting.claim {
                Claim::Figure(figure) => figure.response_bytes,
                Claim::Died { .. } | Claim::Refused => 0,
            };
            let claim = Claim::Figure(Metered { list: NanoUsd(list), response_bytes: bytes });
            self.books.record(Op::WaitLess(call, attempt, epoch, claim));
            return Ok(None);
        }
        let ticket = self.books.chain(usize::from(agent), epoch).and_then(|chain| chain.ticket(call, attempt));
        let row = self.books.call(call).credits[usize::from(attempt) - 1];
        let (Some(ticket), Some(row)) = (ticket, row.filter(|row| (row.agent, row.epoch) == (agent, epoch))) else {
            return Ok(None);
        };
        let shares = ticket.terms().shares;
        let mut lowered = lower(row.stands, NanoUsd(list), shares).map_err(|error| error.to_string())?;
        if self.is(Mutant::RaisesCredit) {
            lowered.moves = lowered.moves.reversed().map_err(|error| error.to_string())?;
        }
        let stands = Stands { list: lowered.list, ..row.stands };
        self.books.record(Op::Credit(call, attempt, CreditRow { agent, epoch, stands }));
        self.enter(Key::Lowering(epoch, agent, number), &ticket, lowered.moves);
        let credit = match stands.paid_by {
            PaidBy::Nobody => NanoUsd::ZERO,
            PaidBy::Consumer { .. } | PaidBy::OrphanBudget => {
                lowered.list.share_rounded_down(shares.tier).map_err(|error| error.to_string())?
            }
        };
        Ok(Some(Settled { hub: None, list: lowered.list, credit, charge: None }))
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

impl Lines {
    fn of(&mut self, agent: u8, epoch: u32) -> &mut (u8, u32, Vec<Line>, Vec<EarlierLine>) {
        let at = self.of.iter().position(|lines| (lines.0, lines.1) == (agent, epoch));
        let at = at.unwrap_or_else(|| {
            self.of.push((agent, epoch, Vec::new(), Vec::new()));
            self.of.len() - 1
        });
        &mut self.of[at]
    }
}

fn claim_of(figure: Option<Figure>) -> Claim {
    match figure {
        Some(Figure { list, bytes }) => Claim::Figure(Metered { list: NanoUsd(list), response_bytes: bytes.into() }),
        None => Claim::Died { so_far: NanoUsd::ZERO },
    }
}

fn line_of(leaf: u64, credited: &Credited) -> Line {
    let settled = Settled { hub: None, list: credited.list, credit: credited.credit.owner, charge: None };
    let is_decided = credited.reason != Reason::Open;
    Line { leaf: wide(leaf), reason: credited.reason, settled: is_decided.then_some(settled) }
}
