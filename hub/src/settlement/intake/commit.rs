//! One group into the books: its lines, what they move, the statement and the cosigned head, all in
//! the transaction that moves the chain on.
//!
//! Invariant: a chain moves only from where it stands to where the group's signature says; a group
//! that is there already is answered again and moves nothing.

use std::collections::HashMap;
use std::collections::HashSet;

use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::settle::Shares;
use keyhaven_protocol::signing::Hash;
use keyhaven_protocol::signing::hash_of;
use keyhaven_protocol::statement::Cosign;
use keyhaven_protocol::statement::CosignError;
use keyhaven_protocol::statement::EarlierLine;
use keyhaven_protocol::statement::Line;
use keyhaven_protocol::statement::Reason;
use keyhaven_protocol::statement::Statement;

use super::super::Shared;
use super::super::writer::CrashPoint;
use super::Answer;
use super::Submitted;
use super::VerifiedGroup;
use super::credit::Bookings;
use super::credit::Closing;
use super::credit::Known;
use super::credit::refused;
use super::reader::ReadLeaf;
use crate::store::StoreError;
use crate::store::attempts::AttemptRow;
use crate::store::attempts::OpenLeaf;
use crate::store::chains::ChainRow;
use crate::store::chains::GroupRow;
use crate::store::chains::LeafRow;
use crate::store::chains::StatementRow;
use crate::store::ledger::Batch;

/// What a batch did with leaves; said only once it is committed.
#[derive(Default)]
pub(in crate::settlement) struct Done {
    pub(in crate::settlement) answers: Vec<((keyhaven_protocol::id::AgentId, u32), Answer)>,
    /// Calls whose leaves wait.
    pub(in crate::settlement) waiting: Vec<CallId>,
    /// What became of leaves.
    pub(in crate::settlement) reasons: Vec<Reason>,
}

/// What one group adds to its chain.
struct Adding<'a> {
    group: &'a VerifiedGroup,
    attempts: HashMap<(CallId, u8), AttemptRow>,
    changed: HashSet<(CallId, u8)>,
    known: Known,
    bookings: Bookings,
    open: Vec<OpenLeaf>,
    oldest_hub_key: u32,
    now_unix_ms: u64,
}

impl Shared {
    /// Takes something that came over a link into the books.
    pub(in crate::settlement) async fn commit(
        &self,
        batch: &mut Batch,
        submitted: &Submitted,
        done: &mut Done,
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        let group = match submitted {
            Submitted::Group(group) => group,
            Submitted::Fork(group) => return self.fork(batch, group, done, now_unix_ms).await,
        };
        let (agent, epoch) = (group.chain.agent, group.chain.epoch);
        let row = batch.chain(agent, epoch).await?;
        let stored = row.as_ref().map_or(Head::EMPTY, |row| row.head);
        match Cosign::stored(group.chain, stored).swap(group.from, group.to) {
            Ok(_) if group.to == stored => self.again(batch, row.as_ref(), done).await,
            Ok(cosign) => self.add(batch, group, row, cosign, done, now_unix_ms).await,
            Err(CosignError::Fork(_)) => self.fork(batch, group, done, now_unix_ms).await,
            Err(CosignError::Behind { .. }) => {
                let last = group.to.size.saturating_sub(1);
                let leaves = batch.leaves_from(agent, epoch, last, 1).await?;
                if leaves.first().is_some_and(|leaf| leaf.hash == group.to.hash) {
                    return self.again(batch, row.as_ref(), done).await;
                }
                self.fork(batch, group, done, now_unix_ms).await
            }
            Err(CosignError::Moved) => {
                done.answers.push(((agent, epoch), Answer::Lost { next: stored.size }));
                Ok(())
            }
        }
    }

    /// It is there: what was said last is said again.
    async fn again(&self, batch: &mut Batch, row: Option<&ChainRow>, done: &mut Done) -> Result<(), StoreError> {
        let Some(row) = row else { return Ok(()) };
        let Some(number) = row.statements.checked_sub(1) else { return Ok(()) };
        let statements = batch.statements_from(row.agent, row.epoch, number, 1).await?;
        for StatementRow { number, bytes: statement, .. } in statements {
            let (next, cosigned, open_leaves) = (row.head.size, row.cosigned.clone(), row.open_leaves);
            let answer = Answer::Committed { next, number, statement, cosigned, open_leaves };
            done.answers.push(((row.agent, row.epoch), answer));
        }
        Ok(())
    }

    async fn add(
        &self,
        batch: &mut Batch,
        group: &VerifiedGroup,
        row: Option<ChainRow>,
        cosign: Cosign,
        done: &mut Done,
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        let (agent, epoch) = (group.chain.agent, group.chain.epoch);
        // First: a ticket may be read again from its leaf.
        batch.insert_leaves(agent, epoch, &rows_of(group), &group_row(group)).await?;
        self.crash_at(CrashPoint::Leaves)?;
        let mut adding = self.adding(batch, group, row.as_ref(), now_unix_ms).await?;
        let mut lines = Vec::with_capacity(group.leaves.len());
        for read in &group.leaves {
            lines.push(self.line_of(batch, &mut adding, read).await?);
        }
        let Adding { attempts, changed, bookings, open, oldest_hub_key, .. } = adding;
        let changed: Vec<_> = attempts.into_iter().filter(|(attempt, _)| changed.contains(attempt)).collect();
        batch.put_attempts(agent, epoch, &changed).await?;
        batch.insert_open_leaves(&open).await?;
        bookings.write(batch).await?;
        self.crash_at(CrashPoint::Credits)?;
        let before = row.clone().unwrap_or_else(|| empty_row(group));
        let cosigned = cosign.sign(self.keys.list.newest(), &self.keys.signing).encode();
        let after = ChainRow {
            head: group.to,
            agent_key: group.key,
            oldest_hub_key,
            cosigned,
            open_leaves: before.open_leaves + open.len() as u64,
            ..before.clone()
        };
        done.reasons.extend(lines.iter().map(|line| line.reason));
        done.waiting.extend(open.iter().map(|leaf| leaf.call));
        let statement = Said { first_leaf: group.from.size, lines, earlier: Vec::new() };
        self.state(batch, row.as_ref(), after, statement, done, now_unix_ms).await
    }

    async fn adding<'a>(
        &self,
        batch: &mut Batch,
        group: &'a VerifiedGroup,
        row: Option<&ChainRow>,
        now_unix_ms: u64,
    ) -> Result<Adding<'a>, StoreError> {
        let about = group.leaves.iter().filter_map(|read| read.leaf.event.attempt().map(|(call, _)| call));
        let mut calls: Vec<CallId> = about.collect();
        calls.sort_unstable();
        calls.dedup();
        let attempts = batch.attempts(group.chain.agent, group.chain.epoch, &calls).await?;
        let mut boots: HashSet<BootId> = attempts.values().map(|row| row.boot).collect();
        boots.extend(group.leaves.iter().filter_map(|read| match &read.leaf.event {
            Event::Open(ticket) => Some(ticket.ticket().boot),
            Event::Close(_)
            | Event::Adjust(_)
            | Event::Part(_)
            | Event::Payout(_)
            | Event::KeyRotation(_)
            | Event::HubKey(_)
            | Event::Epoch(_) => None,
        }));
        let known = self.known(batch, &calls, &boots).await?;
        Ok(Adding {
            group,
            attempts,
            changed: HashSet::new(),
            known,
            bookings: Bookings::default(),
            open: Vec::new(),
            oldest_hub_key: row.map_or(0, |row| row.oldest_hub_key),
            now_unix_ms,
        })
    }

    /// What is said of a leaf.
    async fn line_of(&self, batch: &mut Batch, adding: &mut Adding<'_>, read: &ReadLeaf) -> Result<Line, StoreError> {
        let noted = Line { leaf: read.hash, reason: Reason::Noted, settled: None };
        let noted_if = |may: bool| if may { noted.clone() } else { refused(read.hash) };
        let ReadLeaf { leaf, hash, .. } = read;
        Ok(match &leaf.event {
            Event::Epoch(_) | Event::KeyRotation(_) => noted,
            Event::HubKey(entry) => noted_if(self.takes_hub_key(adding, entry)),
            Event::Open(_) => noted_if(adding.open(read)),
            Event::Part(part) => {
                let may = adding.attempt((part.call, part.attempt), |row| row.said.part(part).is_ok());
                noted_if(may)
            }
            Event::Close(close) => {
                let attempt = (close.call, close.attempt);
                let may = adding.attempt(attempt, |row| {
                    let may = row.said.close(close, *hash).is_ok();
                    if may {
                        row.has_figure = close.metered.is_some();
                        row.response_bytes = close.metered.as_ref().map_or(0, |metered| metered.response_bytes);
                    }
                    may
                });
                let Some(row) = adding.attempts.get(&attempt).copied().filter(|_| may) else {
                    return Ok(refused(*hash));
                };
                let closing = adding.closing(read, attempt);
                let (known, bookings) = (&mut adding.known, &mut adding.bookings);
                let line = self.close(batch, known, &closing, &row, bookings, adding.now_unix_ms).await?;
                if line.reason == Reason::Open {
                    adding.open.push(waiting(&closing, adding.now_unix_ms));
                }
                line
            }
            Event::Adjust(adjust) => {
                let attempt = (adjust.call, adjust.attempt);
                let may = adding.attempt(attempt, |row| {
                    let may = row.said.adjust(adjust, *hash).is_ok();
                    row.has_figure |= may;
                    may
                });
                if !may {
                    return Ok(refused(*hash));
                }
                let closing = adding.closing(read, attempt);
                adding.known.lower(&closing, adjust.list, &mut adding.bookings, adding.now_unix_ms)
            }
            Event::Payout(payout) => {
                let made = batch.payout(payout.payout).await?;
                let agent = adding.group.chain.agent;
                noted_if(made.is_some_and(|made| (made.agent, made.amount) == (agent, payout.amount)))
            }
        })
    }

    /// Whether HUBKEY may say what it says: an entry of the list, newer than the one before.
    fn takes_hub_key(&self, adding: &mut Adding<'_>, entry: &[u8]) -> bool {
        let place = self.keys.list.entries().position(|known| known == entry);
        let number = place.and_then(|place| u32::try_from(place).ok());
        let newer = number.filter(|number| adding.oldest_hub_key == 0 || *number > adding.oldest_hub_key);
        adding.oldest_hub_key = newer.unwrap_or(adding.oldest_hub_key);
        newer.is_some()
    }

    /// Signs the next statement about a chain, and moves the chain on with it.
    pub(super) async fn state(
        &self,
        batch: &mut Batch,
        from: Option<&ChainRow>,
        mut to: ChainRow,
        said: Said,
        done: &mut Done,
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        let (agent, epoch, number) = (to.agent, to.epoch, to.statements);
        let statement = Statement {
            chain: self.keys.chain(agent, epoch),
            number,
            before: to.statement_hash,
            first_leaf: said.first_leaf,
            at_unix_ms: now_unix_ms,
            signing_key: self.keys.list.newest(),
            lines: said.lines,
            earlier: said.earlier,
        };
        // Lines come from a group or a chunk, so there are as many as a statement may have.
        let bytes = statement.sign(&self.keys.signing).map_err(|_| StoreError::Damaged { column: "statement" })?;
        let row = StatementRow { number, first_leaf: said.first_leaf, bytes, at_unix_ms: now_unix_ms };
        batch.insert_statement(agent, epoch, &row).await?;
        self.crash_at(CrashPoint::Statement)?;
        to.statements += 1;
        to.statement_hash = hash_of(&row.bytes);
        to.written_unix_ms = now_unix_ms;
        if !batch.swap_chain(from, &to).await? {
            return Err(StoreError::Damaged { column: "head" });
        }
        self.crash_at(CrashPoint::Head)?;
        let (next, cosigned, open_leaves) = (to.head.size, to.cosigned, to.open_leaves);
        let answer = Answer::Committed { next, number, statement: row.bytes, cosigned, open_leaves };
        done.answers.push(((agent, epoch), answer));
        Ok(())
    }
}

/// What a statement says.
pub(super) struct Said {
    pub(super) first_leaf: u64,
    pub(super) lines: Vec<Line>,
    pub(super) earlier: Vec<EarlierLine>,
}

impl Adding<'_> {
    /// OPEN: whether it may be one.
    fn open(&mut self, read: &ReadLeaf) -> bool {
        let Event::Open(signed) = &read.leaf.event else { return false };
        let ticket = signed.ticket();
        let attempt = (ticket.call, ticket.attempt);
        if !read.is_ordered || ticket.signing_key < self.oldest_hub_key || self.attempts.contains_key(&attempt) {
            return false;
        }
        let row = AttemptRow {
            said: keyhaven_protocol::chain::Attempt::opened(signed.hash(), ticket.ceiling),
            shares: Shares { zone: ticket.zone, tier: ticket.tier },
            boot: ticket.boot,
            hub_node: ticket.hub_node,
            open_leaf: read.leaf.number,
            has_figure: false,
            response_bytes: 0,
        };
        self.attempts.insert(attempt, row);
        self.changed.insert(attempt);
        true
    }

    /// Changes what is said of an attempt, if it was opened and this says so.
    fn attempt(&mut self, attempt: (CallId, u8), change: impl FnOnce(&mut AttemptRow) -> bool) -> bool {
        let done = self.attempts.get_mut(&attempt).is_some_and(change);
        if done {
            self.changed.insert(attempt);
        }
        done
    }

    const fn closing(&self, read: &ReadLeaf, (call, attempt): (CallId, u8)) -> Closing {
        let (agent, epoch) = (self.group.chain.agent, self.group.chain.epoch);
        Closing { agent, epoch, number: read.leaf.number, leaf: read.hash, call, attempt }
    }
}

const fn waiting(closing: &Closing, since_unix_ms: u64) -> OpenLeaf {
    OpenLeaf {
        agent: closing.agent,
        epoch: closing.epoch,
        number: closing.number,
        hash: closing.leaf,
        call: closing.call,
        attempt: closing.attempt,
        since_unix_ms,
    }
}

/// A chain without leaves.
const fn empty_row(group: &VerifiedGroup) -> ChainRow {
    const NO_HASH: Hash = Hex([0; 32]);
    ChainRow {
        agent: group.chain.agent,
        epoch: group.chain.epoch,
        head: Head::EMPTY,
        agent_key: group.key,
        oldest_hub_key: 0,
        cosigned: Vec::new(),
        statements: 0,
        statement_hash: NO_HASH,
        open_leaves: 0,
        written_unix_ms: 0,
    }
}

fn rows_of(group: &VerifiedGroup) -> Vec<LeafRow> {
    let leaves = group.leaves.iter().zip(group.group.leaves());
    let rows = leaves.map(|(read, bytes)| LeafRow {
        number: read.leaf.number,
        hash: read.hash,
        kind: read.leaf.event.kind(),
        attempt: read.leaf.event.attempt(),
        bytes: bytes.clone(),
    });
    rows.collect()
}

fn group_row(group: &VerifiedGroup) -> GroupRow {
    GroupRow { first: group.group.first(), next: group.group.end(), record: group.group.record().to_vec() }
}
