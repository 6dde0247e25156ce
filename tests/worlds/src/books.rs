//! The database: rows, and the transactions that made them, so that it can go back in time.
//!
//! Invariant: rows change by recorded operations and by nothing else, so that the operations of
//! the first transactions give the rows of then.

use std::rc::Rc;

use keyhaven_protocol::chain::Attempt;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Purpose;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::settle::Claim;
use keyhaven_protocol::settle::Moves;
use keyhaven_protocol::settle::Stands;
use keyhaven_protocol::statement::Cosign;
use keyhaven_protocol::statement::Stated;
use keyhaven_protocol::statement::Statement;

use crate::records::Leaf;
use crate::records::Said;
use crate::records::Ticket;
use crate::records::adjust;
use crate::records::close;
use crate::records::wide;

pub(crate) const AGENTS: usize = 3;
pub(crate) const CONSUMERS: usize = 3;

/// Who decided what a call is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The hub that metered it, at its end.
    Hub,
    /// The sweeper, by what was last written of it.
    Sweeper,
    /// The leaf, after amnesia.
    Leaf,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct ChargeRow {
    pub(crate) attempt: u8,
    pub(crate) list: i64,
    pub(crate) bytes: u32,
    pub(crate) source: Source,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct CreditRow {
    pub(crate) agent: u8,
    /// Of which chain the leaf is.
    pub(crate) epoch: u32,
    pub(crate) stands: Stands,
}

/// What was last written of a call under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HoldRow {
    pub(crate) call: u32,
    pub(crate) boot: u16,
    pub(crate) ticket: Ticket,
    pub(crate) list: i64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CallRow {
    pub(crate) charge: Option<ChargeRow>,
    pub(crate) credits: [Option<CreditRow>; 3],
}

/// A start of a hub's process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BootRow {
    /// Whether it ended cleanly, when it ended.
    pub(crate) ended: Option<bool>,
    pub(crate) leases: [i64; CONSUMERS],
}

/// That the hub may have forgotten.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amnesia {
    /// Only tickets of this boot; none: of all.
    pub(crate) boot: Option<u16>,
    /// Only calls before this one.
    pub(crate) before: u32,
}

/// A CLOSE leaf whose call has not ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) ticket: Ticket,
    pub(crate) agent: u8,
    pub(crate) epoch: u32,
    pub(crate) number: u64,
    pub(crate) hash: u64,
    pub(crate) claim: Claim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Charge(u32),
    Credit(u32, u8),
    Lowering(u32, u8, u64),
    /// Of the entry with this index.
    Return(usize),
}

/// An entry of the books.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) consumer: u8,
    pub(crate) owner: u8,
    pub(crate) moves: Moves,
}

/// One chain of an agent, as far as it is committed.
#[derive(Debug, Clone)]
pub(crate) struct ChainRow {
    pub(crate) id: ChainId,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) cosign: Cosign,
    /// Calls and attempts that were opened, and what was said of them, in the same order.
    keys: Vec<(u32, u8)>,
    attempts: Vec<(Ticket, Attempt)>,
    pub(crate) stated: Stated,
    pub(crate) statements: Vec<Rc<Statement>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Balances {
    pub(crate) consumers: [i64; CONSUMERS],
    pub(crate) owners: [i64; AGENTS],
    pub(crate) owed: i64,
    pub(crate) suspense: i64,
    pub(crate) margin: i64,
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Boot(u16),
    BootEnded(u16, bool),
    Lease(u16, u8, i64),
    Key(u32, u32),
    Hold(HoldRow),
    HoldGone(u32),
    Charge(u32, ChargeRow),
    Credit(u32, u8, CreditRow),
    Entry(Entry),
    Leaf(u8, u32, Leaf),
    Head(u8, u32, Head),
    Wait(Waiting),
    WaitLess(u32, u8, u32, Claim),
    Decided(u32, u8, u64),
    Stated(u8, u32, Rc<Statement>, u64),
    Amnesia(Amnesia),
    Budget(u8, i64),
}

/// Whether a leaf may say what it says.
pub(crate) type Audited = bool;

pub(crate) struct Books {
    ops: Vec<Op>,
    /// Where each transaction ends, with a token that no other has.
    transactions: Vec<(usize, u64)>,
    deposits: [i64; CONSUMERS],
    budget: i64,
    /// Whether tickets in leaves are looked at.
    pub(crate) checks_tickets: bool,
    pub(crate) calls: Vec<CallRow>,
    pub(crate) holds: Vec<HoldRow>,
    /// By number; none: no such row.
    pub(crate) boots: Vec<Option<BootRow>>,
    pub(crate) chains: [Vec<ChainRow>; AGENTS],
    pub(crate) balances: Balances,
    pub(crate) entries: Vec<Entry>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) amnesia: Vec<Amnesia>,
    /// What is left of the orphan budget of each agent.
    pub(crate) budgets: [i64; AGENTS],
    /// Which call an Idempotency-Key began.
    pub(crate) keys: Vec<Option<u32>>,
}

impl Books {
    pub(crate) fn new(deposits: [i64; CONSUMERS], budget: i64) -> Self {
        Self {
            ops: Vec::new(),
            transactions: Vec::new(),
            deposits,
            budget,
            checks_tickets: true,
            calls: Vec::new(),
            holds: Vec::new(),
            boots: Vec::new(),
            chains: Default::default(),
            balances: Balances { consumers: deposits, ..Balances::default() },
            entries: Vec::new(),
            waiting: Vec::new(),
            amnesia: Vec::new(),
            budgets: [budget; AGENTS],
            keys: Vec::new(),
        }
    }

    /// Does it as part of the transaction under way.
    pub(crate) fn record(&mut self, op: Op) -> Audited {
        let audited = self.apply(&op);
        self.ops.push(op);
        audited
    }

    /// Ends a transaction; the token is its batch id.
    pub(crate) fn commit(&mut self, token: u64) {
        self.transactions.push((self.ops.len(), token));
    }

    /// How many transactions there are, and the newest's token.
    pub(crate) fn newest(&self) -> (usize, u64) {
        (self.transactions.len(), self.transactions.last().map_or(0, |(_, token)| *token))
    }

    /// Whether the transaction that a process saw last is still there.
    pub(crate) fn has(&self, (count, token): (usize, u64)) -> bool {
        count == 0 || self.transactions.get(count - 1).is_some_and(|(_, found)| *found == token)
    }

    pub(crate) fn transactions(&self) -> usize {
        self.transactions.len()
    }

    /// Goes back to what it was after so many transactions. Deposits are kept in a second place,
    /// and come back first.
    pub(crate) fn roll_back(&mut self, keeps: usize) {
        let end = if keeps == 0 { 0 } else { self.transactions[keeps - 1].0 };
        let mut ops = std::mem::take(&mut self.ops);
        let mut transactions = std::mem::take(&mut self.transactions);
        ops.truncate(end);
        transactions.truncate(keeps);
        *self = Self { checks_tickets: self.checks_tickets, ..Self::new(self.deposits, self.budget) };
        for op in &ops {
            self.apply(op);
        }
        self.ops = ops;
        self.transactions = transactions;
    }

    pub(crate) fn call(&self, call: u32) -> CallRow {
        self.calls.get(call as usize).copied().unwrap_or_default()
    }

    pub(crate) fn boot(&self, boot: u16) -> Option<BootRow> {
        self.boots.get(usize::from(boot)).copied().flatten()
    }

    pub(crate) fn hold(&self, call: u32) -> Option<&HoldRow> {
        self.holds.iter().find(|hold| hold.call == call)
    }

    pub(crate) fn chain(&self, agent: usize, epoch: u32) -> Option<&ChainRow> {
        self.chains[agent].get(epoch as usize)
    }

    /// What an account has beyond all that boots have leased of it.
    pub(crate) fn available(&self, consumer: usize) -> i64 {
        let leased: i64 = self.boots.iter().flatten().map(|boot| boot.leases[consumer]).sum();
        self.balances.consumers[consumer] - leased
    }

    fn apply(&mut self, op: &Op) -> Audited {
        match op {
            Op::Boot(boot) => {
                let boot = usize::from(*boot);
                self.boots.resize(self.boots.len().max(boot + 1), None);
                self.boots[boot] = Some(BootRow { ended: None, leases: [0; CONSUMERS] });
            }
            Op::BootEnded(boot, is_clean) => {
                if let Some(row) = &mut self.boots[usize::from(*boot)] {
                    row.ended = Some(*is_clean);
                }
            }
            Op::Lease(boot, consumer, amount) => {
                if let Some(row) = &mut self.boots[usize::from(*boot)] {
                    row.leases[usize::from(*consumer)] = *amount;
                }
            }
            Op::Key(key, call) => {
                let key = *key as usize;
                self.keys.resize(self.keys.len().max(key + 1), None);
                self.keys[key] = Some(*call);
            }
            Op::Hold(hold) => match self.holds.iter_mut().find(|row| row.call == hold.call) {
                Some(row) => *row = *hold,
                None => self.holds.push(*hold),
            },
            Op::HoldGone(call) => self.holds.retain(|row| row.call != *call),
            Op::Charge(call, row) => self.row(*call).charge = Some(*row),
            Op::Credit(call, attempt, row) => self.row(*call).credits[usize::from(*attempt) - 1] = Some(*row),
            Op::Entry(entry) => self.enter(entry),
            Op::Leaf(agent, epoch, leaf) => {
                let checks_tickets = self.checks_tickets;
                return self.chain_row(*agent, *epoch).add(leaf, *agent, checks_tickets);
            }
            Op::Head(agent, epoch, head) => {
                let row = self.chain_row(*agent, *epoch);
                row.cosign = Cosign::stored(row.id, *head);
            }
            Op::Wait(waiting) => self.waiting.push(*waiting),
            Op::WaitLess(call, attempt, epoch, claim) => {
                let same =
                    |row: &&mut Waiting| (row.ticket.call, row.ticket.attempt, row.epoch) == (*call, *attempt, *epoch);
                self.waiting.iter_mut().filter(same).for_each(|row| row.claim = *claim);
            }
            Op::Decided(epoch, agent, number) => {
                self.waiting.retain(|row| (row.epoch, row.agent, row.number) != (*epoch, *agent, *number));
            }
            Op::Stated(agent, epoch, statement, hash) => {
                let row = self.chain_row(*agent, *epoch);
                row.stated.follow(statement, wide(*hash), |_| None).expect("the writer made it from this row");
                row.statements.push(statement.clone());
            }
            Op::Amnesia(amnesia) => self.amnesia.push(*amnesia),
            Op::Budget(agent, left) => self.budgets[usize::from(*agent)] = *left,
        }
        true
    }

    fn enter(&mut self, entry: &Entry) {
        let Moves { consumer, owed, owner, suspense, margin } = entry.moves;
        self.balances.consumers[usize::from(entry.consumer)] += consumer.0;
        self.balances.owners[usize::from(entry.owner)] += owner.0;
        self.balances.owed += owed.0;
        self.balances.suspense += suspense.0;
        self.balances.margin += margin.0;
        self.entries.push(*entry);
    }

    fn row(&mut self, call: u32) -> &mut CallRow {
        let call = call as usize;
        self.calls.resize(self.calls.len().max(call + 1), CallRow::default());
        &mut self.calls[call]
    }

    fn chain_row(&mut self, agent: u8, epoch: u32) -> &mut ChainRow {
        let rows = &mut self.chains[usize::from(agent)];
        while rows.len() <= epoch as usize {
            rows.push(ChainRow::new(chain_id(agent, u32::try_from(rows.len()).expect("few epochs"))));
        }
        &mut rows[epoch as usize]
    }
}

impl ChainRow {
    fn new(id: ChainId) -> Self {
        Self {
            id,
            leaves: Vec::new(),
            cosign: Cosign::new(id),
            keys: Vec::new(),
            attempts: Vec::new(),
            stated: Stated::NOTHING,
            statements: Vec::new(),
        }
    }

    /// Adds a leaf; whether the shipped audit of attempts lets it say what it says.
    fn add(&mut self, leaf: &Leaf, agent: u8, checks_tickets: bool) -> Audited {
        self.leaves.push(*leaf);
        match leaf.said {
            Said::Epoch => self.leaves.len() == 1,
            Said::Open(ticket) if checks_tickets && (!ticket.is_signed() || ticket.agent != agent) => false,
            Said::Open(ticket) => {
                let is_new = self.position(ticket.call, ticket.attempt).is_none();
                if is_new {
                    self.keys.push((ticket.call, ticket.attempt));
                    self.attempts.push((ticket, Attempt::opened(wide(ticket.hash()), NanoUsd(ticket.ceiling))));
                }
                is_new
            }
            Said::Close { call, attempt, ticket, figure } => {
                let close = close(call, attempt, wide(ticket), figure);
                self.attempt(call, attempt).is_some_and(|opened| opened.close(&close, wide(leaf.hash)).is_ok())
            }
            Said::Adjust { call, attempt, corrects, list } => {
                let adjust = adjust(call, attempt, wide(corrects), list);
                self.attempt(call, attempt).is_some_and(|opened| opened.adjust(&adjust, wide(leaf.hash)).is_ok())
            }
        }
    }

    fn position(&self, call: u32, attempt: u8) -> Option<usize> {
        self.keys.iter().rposition(|key| *key == (call, attempt))
    }

    fn attempt(&mut self, call: u32, attempt: u8) -> Option<&mut Attempt> {
        self.position(call, attempt).map(|at| &mut self.attempts[at].1)
    }

    pub(crate) fn ticket(&self, call: u32, attempt: u8) -> Option<Ticket> {
        self.position(call, attempt).map(|at| self.attempts[at].0)
    }

    pub(crate) fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    pub(crate) fn newest(&self) -> u64 {
        self.leaves.last().map_or(0, |leaf| leaf.hash)
    }
}

pub(crate) fn chain_id(agent: u8, epoch: u32) -> ChainId {
    ChainId { fleet: FleetId([1; 16]), purpose: Purpose::Calls, agent: AgentId([agent + 1; 16]), epoch }
}
