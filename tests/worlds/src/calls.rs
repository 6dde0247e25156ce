//! Calls: asked, ordered, served, delivered, tried again, left.
//!
//! Invariant: what leaves an agent leaves by [`Agent::out`]; what a hub meters is what came to it.

use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;

use crate::agent::Agent;
use crate::agent::Out;
use crate::agent::Running;
use crate::books::AGENTS;
use crate::books::CONSUMERS;
use crate::books::Op;
use crate::hub::Ended;
use crate::hub::Sold;
use crate::mutant::Mutant;
use crate::records::Said;
use crate::records::Ticket;
use crate::records::call_id;
use crate::truth::ATTEMPTS;
use crate::truth::Call;
use crate::world::Down;
use crate::world::Up;
use crate::world::World;
use keyhaven_protocol::ledger_sync::Release;

/// What is leased at least.
const SLICE: i64 = 100_000;

/// Calls under way in one hub.
const SOLD_MAX: usize = 12;

impl World {
    /// A consumer asks: with a key that was used before, or a new one.
    pub(crate) fn ask(&mut self, hub: usize) {
        if !self.hubs[hub].works() || self.hubs[hub].sold.len() >= SOLD_MAX || !self.is_busy {
            return;
        }
        self.asked += 1;
        let retries = self.keys > 0 && self.happens(self.rates.retry);
        let key = if retries { self.random.below_u32(self.keys) } else { self.keys };
        if retries {
            self.turn(hub);
            if self.books.keys.get(key as usize).copied().flatten().is_some() && !self.is(Mutant::ServesKeysTwice) {
                self.seen.replayed_keys += 1;
                return;
            }
        }
        let call = u32::try_from(self.truth.len()).expect("few calls");
        let unit = 1 + self.random.amount(9_999);
        // A subsidised zone may be below what owners get.
        let zone = if self.rates.subsidy { 700_000 } else { 1_000_000 } + self.random.below_u32(300_000);
        let tier = 1_000_000 - self.random.below_u32(300_000);
        let consumer = u8::try_from(self.random.below(CONSUMERS)).expect("few consumers");
        let ceiling = unit * (1 + self.random.amount(6));
        let held = NanoUsd(ceiling).share_rounded_up(Ppm(zone)).expect("small amounts").0;
        if !self.take_money(hub, usize::from(consumer), held) {
            self.seen.refused_holds += 1;
            return;
        }
        if !retries {
            self.keys += 1;
            self.served_keys.push(Vec::new());
        }
        self.turn(hub);
        self.books.record(Op::Key(key, call));
        self.end_transaction(hub);
        self.served_keys[key as usize].push(call);
        self.seen.requests += 1;
        let boot = self.hubs[hub].boot;
        self.truth.push(Call { consumer, boot, unit, zone, tier, ceiling, ..Call::default() });
        let ticket = Ticket { call, attempt: 0, agent: 0, consumer, boot: 0, zone, tier, ceiling, signature: 0 };
        let sold = Sold { ticket, held, unit, units: 0, written: 0, is_in_holds: false, is_left: false, before: 0 };
        self.try_next(hub, sold);
    }

    /// Orders the next attempt, or gives the hold back.
    fn try_next(&mut self, hub: usize, mut sold: Sold) {
        let call = sold.ticket.call as usize;
        let attempt = usize::from(sold.ticket.attempt);
        let tried: Vec<u8> = self.truth[call].attempts[..attempt].iter().map(|attempt| attempt.agent).collect();
        let from = self.random.below(AGENTS);
        let agents = (0..AGENTS).map(|step| (from + step) % AGENTS);
        let fits = |agent: &usize| {
            self.links[*agent][hub].is_some() && tried.iter().all(|tried| usize::from(*tried) != *agent)
        };
        let agent = agents.into_iter().find(fits).filter(|_| attempt < ATTEMPTS);
        let Some(agent) = agent else {
            self.end(hub, sold, None);
            return;
        };
        if attempt > 0 {
            self.seen.failovers += 1;
            if self.is(Mutant::ChargesAttempts) {
                sold.before += sold.unit;
            }
        }
        self.seen.attempts += 1;
        let number = u8::try_from(attempt + 1).expect("few attempts");
        let boot = self.hubs[hub].boot;
        let agent_number = u8::try_from(agent).expect("few agents");
        sold.ticket = Ticket { attempt: number, agent: agent_number, boot, ..sold.ticket }.signed();
        self.truth[call].attempts[attempt].agent = agent_number;
        self.real_ticket(&sold.ticket);
        if let Some(link) = &mut self.links[agent][hub] {
            link.down.push_back(Down::Open(sold.ticket));
        }
        self.hubs[hub].sold.push(sold);
    }

    /// A call is over for this hub: with a figure, or unanswered.
    fn end(&mut self, hub: usize, sold: Sold, list: Option<i64>) {
        let Sold { ticket, held, units, .. } = sold;
        if let Some(list) = list {
            self.truth[ticket.call as usize].ended = Some((ticket.attempt, list));
        }
        let list = list.map(|list| list + sold.before);
        if list.is_none() && !sold.is_in_holds {
            self.hubs[hub].held[usize::from(ticket.consumer)] -= held;
            return;
        }
        self.hubs[hub].ended.push_back(Ended { ticket, held, list, bytes: units });
    }

    fn metered(sold: &Sold) -> i64 {
        (sold.unit * i64::from(sold.units)).min(sold.ticket.ceiling)
    }

    /// Takes it from what this process has leased, or leases more.
    fn take_money(&mut self, hub: usize, consumer: usize, amount: i64) -> bool {
        let free = self.hubs[hub].leased[consumer] - self.hubs[hub].held[consumer];
        if free < amount {
            self.turn(hub);
            let free = self.hubs[hub].leased[consumer] - self.hubs[hub].held[consumer];
            let available = if self.is(Mutant::SharesLeases) {
                self.books.balances.consumers[consumer]
            } else {
                self.books.available(consumer)
            };
            let more = available.min(SLICE.max(amount - free));
            if free + more < amount {
                return false;
            }
            self.hubs[hub].leased[consumer] += more.max(0);
            self.write_lease(hub, consumer);
            self.end_transaction(hub);
        }
        self.hubs[hub].held[consumer] += amount;
        true
    }

    pub(crate) fn write_lease(&mut self, hub: usize, consumer: usize) {
        let number = u8::try_from(consumer).expect("few consumers");
        self.books.record(Op::Lease(self.hubs[hub].boot, number, self.hubs[hub].leased[consumer]));
    }

    /// The consumer of one of the calls under way leaves.
    pub(crate) fn consumer_leaves(&mut self, hub: usize) {
        if !self.hubs[hub].works() || self.hubs[hub].sold.is_empty() || !self.happens(self.rates.leave) {
            return;
        }
        let which = self.random.below(self.hubs[hub].sold.len());
        let sold = &mut self.hubs[hub].sold[which];
        if !std::mem::replace(&mut sold.is_left, true) {
            self.seen.left += 1;
            let Ticket { call, attempt, agent, .. } = sold.ticket;
            if let Some(link) = &mut self.links[usize::from(agent)][hub] {
                link.down.push_back(Down::Abort { call, attempt });
            }
        }
    }

    /// An order comes to an agent.
    pub(crate) fn order(&mut self, agent: usize, hub: usize, ticket: Ticket, is_again: bool) -> Result<(), String> {
        let is_let_in = self.admits(agent, &ticket)?;
        if !is_let_in {
            self.seen.orders_refused += 1;
            let Ticket { call, attempt, .. } = ticket;
            // An order that comes twice is refused on a stream of its own.
            if !is_again {
                self.push_up(agent, hub, Up::Refused { call, attempt });
            }
            return Ok(());
        }
        if !ticket.is_signed() || usize::from(ticket.agent) != agent {
            return Err(format!("agent {agent} serves an order that is not its hub's"));
        }
        let truth = &mut self.truth[ticket.call as usize];
        truth.attempts[usize::from(ticket.attempt) - 1].served += 1;
        let unit = truth.unit;
        let total = self.random.below_u32(7);
        let open = self.append(agent, Said::Open(ticket));
        self.agents[agent].running.push(Running {
            ticket,
            open,
            release: Release::opened(open),
            hub: Some(hub),
            total,
            made: 0,
            sent: 0,
            unit,
            is_refused: false,
            is_aborted: false,
            close: None,
        });
        Ok(())
    }

    /// Somebody on the way to an agent orders what the hub did not: of nobody, or of another.
    pub(crate) fn order_falsely(&mut self, agent: usize, hub: usize) {
        let Some(other) = self.hubs[hub].sold.last().map(|sold| sold.ticket) else { return };
        let agent_number = u8::try_from(agent).expect("few agents");
        let ticket = Ticket { agent: agent_number, attempt: 3, ..other }.forged(self.random.next());
        if let Some(link) = &mut self.links[agent][hub] {
            self.seen.false_orders += 1;
            link.down.push_back(Down::Open(ticket));
        }
    }

    fn admits(&mut self, agent: usize, ticket: &Ticket) -> Result<bool, String> {
        let is_ours = ticket.is_signed() && usize::from(ticket.agent) == agent;
        let of = &self.agents[agent];
        if !of.half.may_open() || of.is_stalled {
            return Ok(false);
        }
        let (call, attempt) = (call_id(ticket.call), ticket.attempt);
        if self.real.is_some() {
            let is_let_in = is_ours && of.seen.clone().insert(call, attempt);
            self.real_admits(agent, ticket, is_let_in)?;
        }
        let is_forged = !is_ours && self.is(Mutant::ServesForged);
        let is_new = (is_ours || is_forged) && self.agents[agent].seen.insert(call, attempt);
        Ok(is_new || is_ours && self.is(Mutant::ServesTwice))
    }

    pub(crate) fn append(&mut self, agent: usize, said: Said) -> u64 {
        let at = self.now ^ self.random.next() << 40;
        let number = self.agents[agent].append(at, said);
        if self.is(Mutant::TellsDurableEarly) {
            self.agents[agent].half.durable(number + 1);
        }
        number
    }

    /// The vendor of one of the attempts that run sends something.
    pub(crate) fn vendor(&mut self, agent: usize) {
        let running = self.agents[agent].running.len();
        if running > 0 {
            let which = self.random.below(running);
            self.vendor_sends(agent, which);
        }
    }

    pub(crate) fn vendor_sends(&mut self, agent: usize, which: usize) {
        let fate = self.random.below(32);
        let running = &mut self.agents[agent].running[which];
        if running.close.is_some() {
            return;
        }
        if running.made == 0 && fate == 0 {
            running.is_refused = true;
        } else if running.made < running.total && fate != 1 {
            running.made = running.total.min(running.made + 1 + u32::from(fate > 16));
            if running.made < running.total {
                return;
            }
        }
        self.close(agent, which);
    }

    fn close(&mut self, agent: usize, which: usize) {
        let figure = self.agents[agent].running[which].figure();
        let figure = if self.agents[agent].cheats {
            let ticket = self.agents[agent].running[which].ticket;
            self.cheated_figure(figure, &ticket)
        } else {
            figure
        };
        let at = self.now ^ self.random.next() << 40;
        self.agents[agent].close(at, which, Some(figure));
        if self.is(Mutant::TellsDurableEarly) {
            let size = self.agents[agent].log.len() as u64;
            self.agents[agent].half.durable(size);
        }
    }

    /// ABORT comes to an agent. An attempt that is closed stays as it is.
    pub(crate) fn abort(&mut self, agent: usize, call: u32, attempt: u8) {
        let same = |running: &Running| running.ticket.call == call && running.ticket.attempt == attempt;
        let Some(which) = self.agents[agent].running.iter().position(same) else { return };
        let running = &mut self.agents[agent].running[which];
        if running.close.is_none() {
            running.is_aborted = true;
            self.close(agent, which);
        }
    }

    /// What may leave, leaves.
    pub(crate) fn flush(&mut self, agent: usize) {
        let mut which = 0;
        while which < self.agents[agent].running.len() {
            if !self.flush_one(agent, which) {
                which += 1;
            }
        }
    }

    /// Whether the attempt is gone.
    fn flush_one(&mut self, agent: usize, which: usize) -> bool {
        let durable = self.agents[agent].durable;
        let running = self.agents[agent].running[which];
        let Some(hub) = running.hub else {
            let is_over = running.close.is_some();
            if is_over {
                self.agents[agent].running.swap_remove(which);
            }
            return is_over;
        };
        let assumed = match self.setting.mutant {
            Some(Mutant::BytesBeforeOpen) => durable.max(running.open + 1),
            Some(Mutant::EndBeforeClose) => running.close.map_or(durable, |close| durable.max(close + 1)),
            _ => durable,
        };
        let Some(out) = Agent::out(&running, assumed) else { return false };
        let Ticket { call, attempt, .. } = running.ticket;
        let truth = &mut self.truth[call as usize].attempts[usize::from(attempt) - 1];
        truth.left = true;
        truth.open_durable = running.open < durable;
        if out != Out::Bytes(running.made) {
            truth.end_left |= out == Out::End;
            truth.close_durable = running.close.is_some_and(|close| close < durable);
        }
        match out {
            Out::Bytes(units) => {
                self.agents[agent].running[which].sent = units;
                self.push_up(agent, hub, Up::Bytes { call, attempt, units });
                return false;
            }
            Out::End => self.push_up(agent, hub, Up::End { call, attempt }),
            Out::Echo => self.push_up(agent, hub, Up::Echo { call, attempt }),
            Out::Refused => self.push_up(agent, hub, Up::Refused { call, attempt }),
        }
        self.agents[agent].running.swap_remove(which);
        true
    }

    fn push_up(&mut self, agent: usize, hub: usize, message: Up) {
        if let Some(link) = &mut self.links[agent][hub] {
            link.up.push_back(message);
        }
    }

    fn position(&self, hub: usize, agent: usize, call: u32, attempt: u8) -> Option<usize> {
        let same = |sold: &Sold| {
            sold.ticket.call == call && sold.ticket.attempt == attempt && usize::from(sold.ticket.agent) == agent
        };
        self.hubs[hub].sold.iter().position(same)
    }

    /// Something of an answer comes to a hub.
    pub(crate) fn answer(&mut self, agent: usize, hub: usize, message: &Up) {
        match *message {
            Up::Bytes { call, attempt, units } => {
                let Some(which) = self.position(hub, agent, call, attempt) else { return };
                let sold = &mut self.hubs[hub].sold[which];
                sold.units = sold.units.max(units);
                if !sold.is_left {
                    self.truth[call as usize].got = units;
                }
            }
            Up::End { call, attempt } | Up::Echo { call, attempt } => {
                let Some(which) = self.position(hub, agent, call, attempt) else { return };
                let sold = self.hubs[hub].sold.swap_remove(which);
                if !sold.is_left && matches!(message, Up::End { .. }) {
                    self.truth[call as usize].got_end = true;
                }
                self.end(hub, sold, Some(Self::metered(&sold)));
            }
            Up::Refused { call, attempt } => {
                let Some(which) = self.position(hub, agent, call, attempt) else { return };
                let sold = self.hubs[hub].sold.swap_remove(which);
                self.unanswered(hub, sold);
            }
            Up::Claim(_) => {}
        }
    }

    /// An attempt came to nothing: the next one, if the consumer is there and got nothing.
    fn unanswered(&mut self, hub: usize, sold: Sold) {
        if sold.units == 0 && !sold.is_left {
            self.try_next(hub, sold);
        } else {
            self.end(hub, sold, Some(Self::metered(&sold)));
        }
    }

    /// The link is gone on which calls were under way.
    pub(crate) fn link_lost(&mut self, agent: usize, hub: usize) {
        let of_agent = |sold: &Sold| usize::from(sold.ticket.agent) == agent;
        while let Some(which) = self.hubs[hub].sold.iter().position(of_agent) {
            let sold = self.hubs[hub].sold.swap_remove(which);
            self.unanswered(hub, sold);
        }
    }
}
