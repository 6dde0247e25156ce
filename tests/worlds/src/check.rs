//! Whether the books say what really happened, to the nano-dollar.
//!
//! Invariant: amounts are worked out again here, from what was sold, served and written in the
//! ledgers, in arithmetic of its own; nothing is taken over from the books' decisions.

use keyhaven_protocol::statement::Reason;

use crate::books::AGENTS;
use crate::books::Balances;
use crate::books::CONSUMERS;
use crate::books::ChargeRow;
use crate::books::Entry;
use crate::books::Key;
use crate::books::Source;
use crate::records::Leaf;
use crate::records::Said;
use crate::records::Ticket;
use crate::records::head;
use crate::records::index;
use crate::truth::ATTEMPTS;
use crate::truth::Call;
use crate::world::World;

/// What a chain in the books says of an attempt.
#[derive(Debug, Clone, Copy)]
struct Claimed {
    epoch: u32,
    /// The hash of the leaf that stands.
    stands: u64,
    /// None: the agent died with it.
    list: Option<i64>,
    /// What the owner took less.
    lowered: Option<i64>,
}

/// All that is known of an attempt.
#[derive(Debug, Clone, Default)]
struct Attempt {
    claims: Vec<Claimed>,
    /// The chain whose claim was decided.
    decided: Option<u32>,
    /// What the owner got for it.
    credit: i64,
}

impl Attempt {
    fn credited(&self) -> Option<&Claimed> {
        self.claims.iter().find(|claim| Some(claim.epoch) == self.decided)
    }
}

/// What the hub paid beyond what it took.
#[derive(Debug, Clone, Copy, Default)]
struct Loss {
    orphans: i64,
    subsidy: i64,
}

impl World {
    pub(crate) fn check(&mut self) -> Result<(), String> {
        self.check_entries()?;
        self.check_delivery()?;
        let attempts = self.attempts()?;
        let (expected, loss) = self.expect(&attempts)?;
        let found = self.books.balances;
        if found != expected {
            return Err(format!("the books have {found:?}, and {expected:?} is right"));
        }
        if loss.orphans > self.rates.budget * 3 || found.margin < -(loss.orphans + loss.subsidy) {
            return Err(format!("the hub lost {}, with {loss:?}", -found.margin));
        }
        self.check_rest()?;
        (0..AGENTS).try_for_each(|agent| self.check_agent(agent))
    }

    /// Every entry sums to zero and is booked once; balances are their sums.
    fn check_entries(&self) -> Result<(), String> {
        let mut keys: Vec<(u8, u64, u64)> = Vec::with_capacity(self.books.entries.len());
        let mut sums = Balances { consumers: [self.rates.deposit; CONSUMERS], ..Balances::default() };
        for Entry { key, consumer, owner, moves } in &self.books.entries {
            if moves.sum() != 0 {
                return Err(format!("{key:?} sums to {}", moves.sum()));
            }
            sums.consumers[usize::from(*consumer)] += moves.consumer.0;
            sums.owners[usize::from(*owner)] += moves.owner.0;
            sums.owed += moves.owed.0;
            sums.suspense += moves.suspense.0;
            sums.margin += moves.margin.0;
            keys.push(match *key {
                Key::Charge(call) => (0, call.into(), 0),
                Key::Credit(call, attempt) => (1, call.into(), attempt.into()),
                Key::Lowering(epoch, agent, number) => (2, u64::from(epoch) << 8 | u64::from(agent), number),
                Key::Return(entry) => (3, entry as u64, 0),
            });
        }
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|two| two[0] == two[1]) {
            return Err(format!("the entry {:?} is booked twice", twice[0]));
        }
        if sums == self.books.balances { Ok(()) } else { Err("balances are not the sums of their entries".to_owned()) }
    }

    /// Who got bytes got them after OPEN was durable, and all of it after CLOSE was; an attempt is
    /// served once, and a key.
    fn check_delivery(&self) -> Result<(), String> {
        for (number, call) in self.truth.iter().enumerate() {
            for attempt in &call.attempts {
                let is_honest = !self.agents[usize::from(attempt.agent)].cheats;
                if is_honest && attempt.left && !attempt.open_durable {
                    return Err(format!("bytes of call {number} left before its OPEN was durable"));
                }
                if is_honest && attempt.end_left && !attempt.close_durable {
                    return Err(format!("the end of call {number} left before its CLOSE was durable"));
                }
                if attempt.served > 1 {
                    return Err(format!("call {number} was served twice by agent {}", attempt.agent));
                }
            }
        }
        let twice = self.served_keys.iter().find(|calls| calls.len() > 1 && self.seen.rollbacks == 0);
        twice.map_or(Ok(()), |calls| Err(format!("one key was served as calls {calls:?}")))
    }

    /// What the chains in the books say, by call and attempt, with what was credited.
    fn attempts(&self) -> Result<Vec<Attempt>, String> {
        let mut attempts = vec![Attempt::default(); self.truth.len() * ATTEMPTS];
        let at = |call: u32, attempt: u8| call as usize * ATTEMPTS + usize::from(attempt) - 1;
        for (agent, chains) in self.books.chains.iter().enumerate() {
            for (epoch, chain) in (0_u32..).zip(chains) {
                let mut opened: Vec<Ticket> = Vec::new();
                for leaf in &chain.leaves {
                    match leaf.said {
                        Said::Epoch => {}
                        Said::Open(ticket) => {
                            let is_known =
                                opened.iter().any(|other| (other.call, other.attempt) == (ticket.call, ticket.attempt));
                            if ticket.is_signed() && usize::from(ticket.agent) == agent && !is_known {
                                opened.push(ticket);
                            }
                        }
                        Said::Close { call, attempt, ticket, figure } => {
                            let open = opened.iter().rev().find(|open| (open.call, open.attempt) == (call, attempt));
                            let Some(open) = open.filter(|open| open.hash() == ticket) else { continue };
                            let list = figure.map(|figure| figure.list);
                            let known = &mut attempts[at(call, attempt)].claims;
                            if list.unwrap_or(0) <= open.ceiling && known.iter().all(|claim| claim.epoch != epoch) {
                                known.push(Claimed { epoch, stands: leaf.hash, list, lowered: None });
                            }
                        }
                        Said::Adjust { call, attempt, corrects, list } => {
                            let Some(attempt) = attempts.get_mut(at(call, attempt)) else { continue };
                            let claim = attempt.claims.iter_mut().find(|claim| claim.epoch == epoch);
                            let Some(claim) = claim.filter(|claim| claim.stands == corrects) else { continue };
                            if list < claim.lowered.or(claim.list).unwrap_or(0) {
                                claim.lowered = Some(list);
                                claim.stands = leaf.hash;
                            }
                        }
                    }
                }
            }
        }
        for (row, tries) in self.books.calls.iter().zip(attempts.chunks_mut(ATTEMPTS)) {
            for (credit, attempt) in row.credits.iter().zip(tries) {
                attempt.decided = credit.map(|credit| credit.epoch);
            }
        }
        for entry in &self.books.entries {
            match entry.key {
                Key::Credit(call, attempt) => attempts[at(call, attempt)].credit += entry.moves.owner.0,
                Key::Lowering(epoch, agent, number) => {
                    let chain = self.books.chain(usize::from(agent), epoch).ok_or("a lowering of no chain")?;
                    let Some(Said::Adjust { call, attempt, .. }) =
                        chain.leaves.get(index(number)).map(|leaf| leaf.said)
                    else {
                        return Err("a lowering of no ADJUST".to_owned());
                    };
                    attempts[at(call, attempt)].credit += entry.moves.owner.0;
                }
                Key::Charge(_) | Key::Return(_) => {}
            }
        }
        Ok(attempts)
    }

    /// What the books should have, after all suspense was given back.
    fn expect(&self, attempts: &[Attempt]) -> Result<(Balances, Loss), String> {
        let mut all = Balances { consumers: [self.rates.deposit; CONSUMERS], ..Balances::default() };
        let mut loss = Loss::default();
        for (number, call) in self.truth.iter().enumerate() {
            let tries = &attempts[number * ATTEMPTS..(number + 1) * ATTEMPTS];
            let charge = self.books.calls.get(number).and_then(|row| row.charge);
            check_charge(number, call, charge, tries)?;
            for (which, (attempt, tried)) in call.attempts.iter().zip(tries).enumerate() {
                let charge = charge.filter(|charge| usize::from(charge.attempt) == which + 1);
                let owner = usize::from(attempt.agent);
                all.owners[owner] += tried.credit;
                let Some(charge) = charge else {
                    // Nobody paid for it but the operator, and then all that was claimed.
                    let claims = tried.claims.iter().map(|claim| claim.lowered.or(claim.list).unwrap_or(0));
                    let fits = tried.credit == 0
                        || claims.into_iter().any(|list| share(list, call.tier, false) == tried.credit);
                    if !fits {
                        return Err(format!(
                            "call {number}, attempt {}: credited {} for nothing",
                            which + 1,
                            tried.credit
                        ));
                    }
                    loss.orphans += tried.credit;
                    all.margin -= tried.credit;
                    continue;
                };
                let settled = settled(call, &charge, tried).map_err(|fault| format!("call {number}: {fault}"))?;
                let paid = share(settled.unwrap_or(charge.list), call.zone, true);
                let earned = share(settled.unwrap_or(charge.list), call.tier, false);
                all.consumers[usize::from(call.consumer)] -= paid;
                all.margin += paid - earned;
                loss.subsidy += (earned - paid).max(0);
                if settled.is_none() {
                    all.owed += earned;
                }
            }
        }
        Ok((all, loss))
    }

    /// Nothing is held, leased or waited for, and no account is overdrawn without a cause.
    fn check_rest(&mut self) -> Result<(), String> {
        for consumer in 0..CONSUMERS {
            let balance = self.books.balances.consumers[consumer];
            if self.books.available(consumer) != balance {
                return Err(format!(
                    "of consumer {consumer} {} stays leased",
                    balance - self.books.available(consumer)
                ));
            }
            if let Some(hub) = self.hubs.iter().position(|hub| hub.held[consumer] != 0) {
                return Err(format!("hub {hub} holds {} of consumer {consumer}", self.hubs[hub].held[consumer]));
            }
            if balance < 0 {
                self.seen.negative_accounts += 1;
                let forgot = self.seen.rollbacks + self.seen.swept > 0;
                if !forgot {
                    return Err(format!("consumer {consumer} has {balance}, and no hub forgot anything"));
                }
            }
        }
        if self.books.boots.iter().flatten().any(|boot| boot.ended.is_none()) {
            return Err("a process is not ended".to_owned());
        }
        Ok(())
    }

    /// The books have the ledger's leaves, and the owner has the hub's word for every one of them
    /// and for all that was earned.
    fn check_agent(&mut self, number: usize) -> Result<(), String> {
        for chain in &self.books.chains[number] {
            let mut before = 0;
            let follows = |leaf: &Leaf| leaf.is_whole() && std::mem::replace(&mut before, leaf.hash) == leaf.before;
            if !chain.leaves.iter().all(follows) || chain.cosign.newest() != head(chain.size(), chain.newest()) {
                return Err(format!("what is in the books of agent {number} is no chain that was cosigned"));
            }
        }
        let agent = &self.agents[number];
        self.seen.restated += u64::from(agent.restated);
        if agent.cheats {
            return Ok(());
        }
        let chain = self.books.chain(number, agent.epoch).ok_or("a chain is not in the books")?;
        if chain.leaves != agent.log {
            return Err(format!(
                "the books have other leaves than agent {number}: {} of {}",
                chain.leaves.len(),
                agent.log.len()
            ));
        }
        if agent.restated > 0 && self.seen.rollbacks == 0 {
            return Err(format!("the hub took back what it had stated to agent {number}"));
        }
        let count = |is: fn(&Said) -> bool| agent.log.iter().filter(|leaf| is(&leaf.said)).count();
        if count(|said| matches!(said, Said::Open(_))) != count(|said| matches!(said, Said::Close { .. })) {
            return Err(format!("agent {number} has attempts that are not opened and closed once"));
        }
        let mut earned: Vec<((u32, u8), i64)> = Vec::new();
        for (at, (leaf, told)) in agent.log.iter().zip(&agent.told).enumerate() {
            let Some(told) = told.filter(|told| told.reason != Reason::Open) else {
                return Err(format!("agent {number} was not told what became of leaf {at}"));
            };
            match (leaf.said, told.credit) {
                (Said::Close { call, attempt, .. }, Some(credit)) => earned.push(((call, attempt), credit)),
                (Said::Adjust { call, attempt, .. }, Some(credit)) => {
                    earned.iter_mut().filter(|(of, _)| *of == (call, attempt)).for_each(|(_, earned)| *earned = credit);
                }
                _ => {}
            }
        }
        let earned: i64 = earned.iter().map(|(_, credit)| credit).sum();
        let has = self.books.balances.owners[number];
        let is_whole = agent.past.is_empty();
        if is_whole && earned != has {
            return Err(format!("agent {number} was told of {earned}, and has {has}"));
        }
        Ok(())
    }
}

/// Whether a call is charged what it should be.
fn check_charge(number: usize, call: &Call, charge: Option<ChargeRow>, tries: &[Attempt]) -> Result<(), String> {
    let say = |what: &str| Err(format!("call {number} {what}: {call:?}, {charge:?}, {tries:?}"));
    let claims = |attempt: u8, list: i64| {
        let claims = tries[usize::from(attempt) - 1].claims.iter();
        claims
            .into_iter()
            .any(|claim| (claim.lowered.or(claim.list).unwrap_or(0)..=claim.list.unwrap_or(0)).contains(&list))
    };
    let Some(charge) = charge else {
        let costs = call.got > 0 || call.ended.is_some_and(|(_, list)| list > 0);
        // Leaves that came and were decided say what it cost; where none did, they are lost.
        let decided = tries.iter().filter_map(Attempt::credited);
        let is_claimed = decided.into_iter().any(|claim| claim.lowered.or(claim.list).unwrap_or(0) > 0);
        let is_undecided = tries.iter().any(|attempt| !attempt.claims.is_empty() && attempt.decided.is_none());
        let is_lost = call.is_forgettable && !is_claimed && !is_undecided;
        return if costs && !is_lost { say("is not charged") } else { Ok(()) };
    };
    match charge.source {
        Source::Hub if call.ended != Some((charge.attempt, charge.list)) => say("is charged other than by its meter"),
        Source::Sweeper if !call.is_forgettable || charge.list > call.observed_max => say("is swept wrongly"),
        Source::Leaf if !call.is_forgettable => say("is charged by a leaf though nobody forgot it"),
        Source::Leaf if !claims(charge.attempt, charge.list) => say("is charged other than by its leaf"),
        Source::Hub | Source::Sweeper | Source::Leaf if charge.list > call.ceiling => say("is over its ceiling"),
        Source::Hub | Source::Sweeper | Source::Leaf => Ok(()),
    }
}

/// The list cost that is settled for the attempt that was charged, by the claim that was credited;
/// none while no leaf came.
fn settled(call: &Call, charge: &ChargeRow, tried: &Attempt) -> Result<Option<i64>, String> {
    let say = |what: &str| Err(format!("an attempt {what}: {call:?}, {charge:?}, {tried:?}"));
    let Some(claim) = tried.credited() else {
        return match (tried.claims.is_empty(), tried.credit) {
            (true, 0) => Ok(None),
            (true, _) => say("is credited without a leaf"),
            (false, _) => say("has a leaf and no credit"),
        };
    };
    let least = claim.list.map_or(charge.list, |list| list.min(charge.list));
    let settled = least.min(claim.lowered.unwrap_or(i64::MAX)).max(0);
    if share(settled, call.tier, false) == tried.credit { Ok(Some(settled)) } else { say("is credited wrongly") }
}

/// A share of an amount, in whole nano-dollars.
fn share(amount: i64, ppm: u32, up: bool) -> i64 {
    let (exact, whole) = (i128::from(amount) * i128::from(ppm), 1_000_000);
    let cut = exact / whole + i128::from(up && exact % whole != 0);
    i64::try_from(cut).expect("small amounts")
}
