//! What leaves and ends of calls settle in the books.
//!
//! Invariant: [`charge`], [`credit`] and [`lower`] decide; what is here says what is known, and
//! books what they say, once by key.

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

use crate::books::ChargeRow;
use crate::books::CreditRow;
use crate::books::Entry;
use crate::books::Key;
use crate::books::Op;
use crate::books::Source;
use crate::books::Waiting;
use crate::mutant::Mutant;
use crate::records::Figure;
use crate::records::Leaf;
use crate::records::Said;
use crate::records::Ticket;
use crate::records::wide;
use crate::world::World;

/// Lines that a transaction made, by chain.
#[derive(Default)]
pub(crate) struct Lines {
    pub(crate) of: Vec<(u8, u32, Vec<Line>, Vec<EarlierLine>)>,
}

impl World {
    /// What a leaf settles, and what the statement says of it.
    pub(crate) fn settle_leaf(
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
    pub(crate) fn decide(&mut self, hub: usize, lines: &mut Lines) -> Result<(), String> {
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

    pub(crate) fn charge(&mut self, ticket: &Ticket, row: ChargeRow) -> Moves {
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
}

impl Lines {
    pub(crate) fn of(&mut self, agent: u8, epoch: u32) -> &mut (u8, u32, Vec<Line>, Vec<EarlierLine>) {
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
