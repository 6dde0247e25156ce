//! From a CLOSE leaf to what is booked and said of it: what the hub knows of the attempt, what
//! `settle` makes of both, and the entries of that.
//!
//! Invariant: what is booked is what [`settle::credit`] and [`settle::lower`] say, of what stands
//! in the same transaction.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;

use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Leaf;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::price::Zone;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::sealed;
use keyhaven_protocol::sealed::Charge;
use keyhaven_protocol::sealed::NONCE_BYTES;
use keyhaven_protocol::sealed::Sealed;
use keyhaven_protocol::sealed::SealedFor;
use keyhaven_protocol::settle;
use keyhaven_protocol::settle::Charged;
use keyhaven_protocol::settle::Claim;
use keyhaven_protocol::settle::Credited;
use keyhaven_protocol::settle::Metered;
use keyhaven_protocol::settle::Moves;
use keyhaven_protocol::settle::Observed;
use keyhaven_protocol::settle::PaidBy;
use keyhaven_protocol::settle::Remedy;
use keyhaven_protocol::settle::Stands;
use keyhaven_protocol::settle::Terms;
use keyhaven_protocol::signing::Hash;
use keyhaven_protocol::statement::HubMetered;
use keyhaven_protocol::statement::Line;
use keyhaven_protocol::statement::Reason;
use keyhaven_protocol::statement::Settled;
use keyhaven_protocol::ticket::SignedTicket;
use keyhaven_protocol::ticket::Ticket;
use keyhaven_protocol::usage::Meter;
use keyhaven_protocol::usage::Meters;

use super::super::Shared;
use super::super::record::CallOutcome;
use super::super::record::CallRecord;
use super::super::record::Metering;
use super::super::record::Sale;
use super::super::writer::post;
use crate::store::StoreError;
use crate::store::amnesia::Amnesia;
use crate::store::attempts::AttemptRow;
use crate::store::attempts::CreditRow;
use crate::store::attempts::LoweringRow;
use crate::store::attempts::Payer;
use crate::store::disputes::Dispute;
use crate::store::ledger::Batch;
use crate::store::ledger::Entry;
use crate::store::ledger::EntryId;
use crate::store::ledger::EntryKind;
use crate::store::ledger::Side;

/// A day, in milliseconds.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A CLOSE leaf to be credited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    pub(super) agent: AgentId,
    pub(super) epoch: u32,
    pub(super) number: u64,
    pub(super) leaf: Hash,
    pub(super) call: CallId,
    pub(super) attempt: u8,
}

/// What the books know of some calls, in one transaction.
pub(super) struct Known {
    records: HashMap<CallId, CallRecord>,
    credits: HashMap<(CallId, u8), CreditRow>,
    lowered: HashMap<(CallId, u8), NanoUsd>,
    under_way: HashSet<CallId>,
    /// Boots of other processes that have not ended.
    living: HashSet<BootId>,
    amnesia: Vec<Amnesia>,
}

/// What leaves make the books write, gathered.
#[derive(Default)]
pub(super) struct Bookings {
    pub(super) credits: Vec<CreditRow>,
    lowerings: Vec<LoweringRow>,
    entries: Vec<Entry>,
    disputes: Vec<Dispute>,
}

impl Shared {
    /// What is known of these calls, whose attempts these boots ordered.
    pub(super) async fn known(
        &self,
        batch: &mut Batch,
        calls: &[CallId],
        boots: &HashSet<BootId>,
    ) -> Result<Known, StoreError> {
        let mut records = HashMap::new();
        for (call, json) in batch.records(calls).await? {
            let record = serde_json::from_str(&json).map_err(|_| StoreError::Damaged { column: "record" })?;
            records.insert(call, record);
        }
        let mut under_way = batch.held_among(calls).await?;
        under_way.extend(self.busy_among(calls));
        let own = self.lock().own_boots.clone();
        let mut living = HashSet::new();
        for boot in boots.iter().filter(|boot| !own.contains(boot)) {
            if batch.lives(*boot).await? {
                living.insert(*boot);
            }
        }
        let (credits, lowered) = (batch.credits(calls).await?, batch.lowered(calls).await?);
        Ok(Known { records, credits, lowered, under_way, living, amnesia: batch.amnesia().await? })
    }

    /// Decides on a CLOSE leaf: the line for it. [`Reason::Open`]: it waits.
    pub(super) async fn close(
        &self,
        batch: &mut Batch,
        known: &mut Known,
        closing: &Closing,
        row: &AttemptRow,
        bookings: &mut Bookings,
        now_unix_ms: u64,
    ) -> Result<Line, StoreError> {
        let claim = claim_of(row);
        let observed = self.observed(batch, known, closing, row, bookings, now_unix_ms).await?;
        let record = known.records.get(&closing.call);
        let is_charged = matches!(observed, Observed::Charged(_));
        // The charge was made by these, so the credit must be.
        let shares = record.filter(|_| is_charged).map_or(row.shares, |record| record.sale.shares);
        let terms = Terms { shares, ceiling: row.said.ceiling };
        let Ok(mut credited) = settle::credit(observed, claim, terms) else {
            // Amounts beyond 64 bits: nothing that a hub ordered.
            return Ok(refused(closing.leaf));
        };
        let mut payer = None;
        if credited.charge.is_some() {
            payer = self.charge_forgotten(batch, closing, row, credited.list, now_unix_ms).await?;
            if payer.is_none() {
                let nothing = Observed::Nothing(Remedy::None);
                let Ok(unpaid) = settle::credit(nothing, claim, terms) else { return Ok(refused(closing.leaf)) };
                credited = unpaid;
            }
        }
        if let Some(record) = &payer {
            known.records.insert(closing.call, record.clone());
        }
        let record = payer.as_ref().or_else(|| known.records.get(&closing.call).filter(|_| is_charged));
        let line = self.line(closing, &credited, is_charged, record);
        if books_a_row(credited.reason) {
            let credit = credit_row(closing, row, &credited, &observed, record, shares, now_unix_ms);
            known.credits.insert((closing.call, closing.attempt), credit);
            bookings.credit(credit, &credited.credit);
        }
        Ok(line)
    }

    /// What the hub knows of the attempt.
    async fn observed(
        &self,
        batch: &mut Batch,
        known: &Known,
        closing: &Closing,
        row: &AttemptRow,
        bookings: &Bookings,
        now_unix_ms: u64,
    ) -> Result<Observed, StoreError> {
        if known.credits.contains_key(&(closing.call, closing.attempt)) {
            return Ok(Observed::Credited);
        }
        if let Some(record) = known.records.get(&closing.call) {
            let sale = &record.sale;
            if sale.attempt != u32::from(closing.attempt) || sale.agent != closing.agent {
                return Ok(Observed::OtherAttempt);
            }
            let is_provisional = record.outcome == CallOutcome::HubLost;
            return Ok(Observed::Charged(Charged { hub: record.hub_metered.figure(), is_provisional }));
        }
        if known.under_way.contains(&closing.call) || known.living.contains(&row.boot) {
            return Ok(Observed::UnderWay);
        }
        let began_unix_ms = began(closing.call);
        if known.amnesia.iter().any(|amnesia| amnesia.covers(row.boot, began_unix_ms)) {
            return Ok(Observed::Nothing(Remedy::Amnesia));
        }
        if self.rules.orphan_budget <= NanoUsd::ZERO {
            return Ok(Observed::Nothing(Remedy::None));
        }
        let today = now_unix_ms - now_unix_ms % DAY_MS;
        let paid = batch.orphans_paid(closing.agent, today).await?.0.saturating_add(bookings.orphans(closing.agent));
        let left = NanoUsd(self.rules.orphan_budget.0.saturating_sub(paid));
        Ok(Observed::Nothing(Remedy::OrphanBudget(left)))
    }

    /// Charges the payer of a ticket for a call that this hub forgot. None: nobody can be charged.
    async fn charge_forgotten(
        &self,
        batch: &mut Batch,
        closing: &Closing,
        row: &AttemptRow,
        list: NanoUsd,
        now_unix_ms: u64,
    ) -> Result<Option<CallRecord>, StoreError> {
        let leaves = batch.leaves_from(closing.agent, closing.epoch, row.open_leaf, 1).await?;
        let Some(signed) = leaves.first().and_then(|leaf| ticket_in(&leaf.bytes)) else { return Ok(None) };
        let ticket = signed.ticket();
        let Ok(payer) = self.keys.archive.open_payer(&ticket.payer, ticket.sealed_for()) else {
            tracing::error!(call.id = %closing.call, "who pays for call {} cannot be opened: it needs archive key {}", closing.call, ticket.payer.archive_key());
            return Ok(None);
        };
        let zone = batch.zone_of(payer.account).await?;
        let sale = sale_of(ticket, &payer, zone, row);
        let seen = Metering::observed(list);
        let Ok(record) = CallRecord::settled(sale, 0, now_unix_ms, seen, None) else { return Ok(None) };
        post(batch, &[&record]).await?;
        let left = batch.balance(Side::Consumer(payer.account)).await?;
        if left < NanoUsd::ZERO {
            tracing::warn!(account.id = %payer.account, "account {} owes {left} for what this hub forgot; it is blocked", payer.account);
            batch.block_account(payer.account, now_unix_ms).await?;
        }
        Ok(Some(record))
    }

    fn line(&self, closing: &Closing, credited: &Credited, is_observed: bool, record: Option<&CallRecord>) -> Line {
        let reason = credited.reason;
        if matches!(reason, Reason::Open | Reason::Refused) {
            return Line { leaf: closing.leaf, reason, settled: None };
        }
        let hub = record.filter(|_| is_observed).map(|record| hub_metered(&record.hub_metered));
        let charge = record.map(|record| (record.sale.account, record.settled.charge));
        let at = SealedFor { fleet: self.keys.fleet(), call: closing.call, attempt: closing.attempt };
        let charge = charge.and_then(|(account, amount)| self.seal(&Charge { account, amount }, at));
        let settled = Settled { hub, list: credited.list, credit: credited.credit.owner, charge };
        Line { leaf: closing.leaf, reason, settled: Some(settled) }
    }

    /// None where the system gave no random bytes: a charge that could be linked is not said.
    fn seal(&self, charge: &Charge, at: SealedFor) -> Option<Sealed> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).ok()?;
        Some(self.keys.archive.seal_charge(charge, at, nonce))
    }
}

impl Known {
    /// Decides on an ADJUST leaf that its chain allows: the line for it.
    pub(super) fn lower(&mut self, closing: &Closing, to: NanoUsd, bookings: &mut Bookings, now_unix_ms: u64) -> Line {
        let attempt = (closing.call, closing.attempt);
        let line = |settled| Line { leaf: closing.leaf, reason: Reason::Lowered, settled };
        // Not credited yet: the lower figure is the claim then.
        let Some(credit) = self.credits.get(&attempt) else { return line(None) };
        if (credit.agent, credit.epoch) != (closing.agent, closing.epoch) {
            return refused(closing.leaf);
        }
        let paid_by = match credit.paid_by {
            Payer::Consumer => PaidBy::Consumer { charged: credit.hub.unwrap_or(credit.list) },
            Payer::OrphanBudget => PaidBy::OrphanBudget,
            Payer::Nobody => PaidBy::Nobody,
        };
        let stands = Stands { paid_by, list: self.lowered.get(&attempt).copied().unwrap_or(credit.list) };
        let (Ok(lowered), Ok(owner)) =
            (settle::lower(stands, to, credit.shares), stands.list.min(to).share_rounded_down(credit.shares.tier))
        else {
            return refused(closing.leaf);
        };
        self.lowered.insert(attempt, lowered.list);
        let owner = if paid_by == PaidBy::Nobody { NanoUsd::ZERO } else { owner };
        bookings.lower(closing, credit, &lowered, now_unix_ms);
        line(Some(Settled { hub: None, list: lowered.list, credit: owner, charge: None }))
    }
}

impl Bookings {
    fn credit(&mut self, credit: CreditRow, moves: &Moves) {
        self.credits.push(credit);
        let call = (Some(credit.call), credit.attempt);
        let entry = entry(EntryKind::Credit, call, credit.at_unix_ms, moves, credit.account, credit.agent);
        self.take(entry, credit.call, credit.attempt, credit.agent, credit.account, moves.suspense);
    }

    fn lower(&mut self, closing: &Closing, credit: &CreditRow, lowered: &settle::Lowered, at_unix_ms: u64) {
        let Closing { agent, epoch, number, call, attempt, .. } = *closing;
        let (list, owner) = (lowered.list, lowered.moves.owner);
        self.lowerings.push(LoweringRow { agent, epoch, number, call, attempt, list, owner, at_unix_ms });
        // Named by its leaf: of one attempt there may be several.
        let entry = entry(EntryKind::Lowering, (None, attempt), at_unix_ms, &lowered.moves, credit.account, agent);
        self.take(entry, call, attempt, agent, credit.account, lowered.moves.suspense);
    }

    fn take(
        &mut self,
        entry: Option<Entry>,
        call: CallId,
        attempt: u8,
        agent: AgentId,
        account: Option<AccountId>,
        amount: NanoUsd,
    ) {
        let Some(entry) = entry else { return };
        if let Some(account) = account.filter(|_| amount > NanoUsd::ZERO) {
            let (since_unix_ms, id) = (entry.at_unix_ms, entry.id);
            self.disputes.push(Dispute {
                entry: id,
                call,
                attempt,
                agent,
                account,
                amount,
                since_unix_ms,
                ended: None,
            });
        }
        self.entries.push(entry);
    }

    /// What the operator's budget pays to an agent in this batch.
    fn orphans(&self, agent: AgentId) -> i64 {
        let paid = self.credits.iter().filter(|row| row.agent == agent && row.paid_by == Payer::OrphanBudget);
        paid.fold(0, |sum, row| sum.saturating_add(row.credit.0))
    }

    /// Writes all of it.
    pub(super) async fn write(&self, batch: &mut Batch) -> Result<(), StoreError> {
        batch.insert_credits(&self.credits).await?;
        batch.insert_lowerings(&self.lowerings).await?;
        batch.insert_entries(&self.entries).await?;
        batch.insert_disputes(&self.disputes).await?;
        let mut by = BTreeMap::new();
        for (side, amount) in self.entries.iter().flat_map(|entry| &entry.postings) {
            *by.entry(*side).or_insert(0_i64) += amount.0;
        }
        batch.fold_balances(&by).await
    }
}

/// The line of a leaf that may not say what it says.
pub(super) const fn refused(leaf: Hash) -> Line {
    Line { leaf, reason: Reason::Refused, settled: None }
}

/// When a call began, by its id.
pub(super) fn began(call: CallId) -> u64 {
    let [a, b, c, d, e, f, ..] = call.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// What a chain claims for an attempt that is closed.
fn claim_of(row: &AttemptRow) -> Claim {
    let list = row.said.closed.map_or(row.said.so_far, |(_, list)| list);
    match row.has_figure {
        true => Claim::Figure(Metered { list, response_bytes: row.response_bytes }),
        false => Claim::Died { so_far: list },
    }
}

/// Whether an attempt is credited by this, be it with nothing. What is refused, or waits, is not.
const fn books_a_row(reason: Reason) -> bool {
    match reason {
        Reason::Agreed
        | Reason::Short
        | Reason::AgentAbove
        | Reason::AgentBelow
        | Reason::Unobserved
        | Reason::Amnesia
        | Reason::OrphanBudget
        | Reason::Late
        | Reason::NoFigure => true,
        Reason::Noted | Reason::Refused | Reason::Lowered | Reason::Open => false,
    }
}

fn credit_row(
    closing: &Closing,
    row: &AttemptRow,
    credited: &Credited,
    observed: &Observed,
    record: Option<&CallRecord>,
    shares: settle::Shares,
    at_unix_ms: u64,
) -> CreditRow {
    let paid_by = match (credited.reason, observed) {
        (Reason::OrphanBudget, _) => Payer::OrphanBudget,
        (Reason::Amnesia, _) | (_, Observed::Charged(_)) => Payer::Consumer,
        (_, Observed::UnderWay | Observed::OtherAttempt | Observed::Credited | Observed::Nothing(_)) => Payer::Nobody,
    };
    CreditRow {
        call: closing.call,
        attempt: closing.attempt,
        agent: closing.agent,
        epoch: closing.epoch,
        number: closing.number,
        reason: credited.reason,
        paid_by,
        hub: record.map(|record| record.hub_metered.list_nano_usd),
        agent_list: row.said.closed.map(|(_, list)| list).filter(|_| row.has_figure),
        list: credited.list,
        credit: credited.credit.owner,
        shares,
        account: record.map(|record| record.sale.account),
        at_unix_ms,
    }
}

/// None: nothing moves.
fn entry(
    kind: EntryKind,
    (call, attempt): (Option<CallId>, u8),
    at_unix_ms: u64,
    moves: &Moves,
    account: Option<AccountId>,
    agent: AgentId,
) -> Option<Entry> {
    let sides = [
        (account.map(Side::Consumer), moves.consumer),
        (Some(Side::Owed), moves.owed),
        (Some(Side::Owner(agent)), moves.owner),
        (Some(Side::Suspense), moves.suspense),
        (Some(Side::Margin), moves.margin),
    ];
    let moved = sides.into_iter().filter(|(_, amount)| *amount != NanoUsd::ZERO);
    let postings: Vec<_> = moved.filter_map(|(side, amount)| side.map(|side| (side, amount))).collect();
    let entry = Entry { id: EntryId::new(), kind, call, attempt: attempt.into(), at_unix_ms, postings };
    (!entry.postings.is_empty()).then_some(entry)
}

fn hub_metered(metering: &Metering) -> HubMetered {
    let meters = |usage: &BTreeMap<Meter, u64>| {
        let mut meters = Meters::default();
        usage.iter().for_each(|(meter, quantity)| meters.set(*meter, *quantity));
        meters
    };
    HubMetered {
        meters: meters(&metering.usage),
        heard: meters(&metering.heard),
        response_bytes: metering.response_bytes,
        list: metering.list_nano_usd.max(NanoUsd::ZERO),
    }
}

fn ticket_in(leaf: &[u8]) -> Option<SignedTicket> {
    let Event::Open(ticket) = Leaf::decode(leaf).ok()?.event else { return None };
    Some(ticket)
}

/// The sale as its ticket tells it.
fn sale_of(ticket: &Ticket, payer: &sealed::Payer, zone: Zone, row: &AttemptRow) -> Sale {
    let endpoint = Endpoint::from_number(ticket.endpoint);
    Sale {
        call: ticket.call,
        account: payer.account,
        key: payer.key,
        agent: ticket.agent,
        attempt: ticket.attempt.into(),
        provider: endpoint.map_or(Provider::OpenAi, Endpoint::provider),
        endpoint: endpoint.map_or_else(String::new, |known| format!("{} {}", known.method(), known.template())),
        model: ticket.model.clone(),
        began_unix_ms: began(ticket.call),
        price_version: ticket.price_version,
        price_hash: ticket.price_hash,
        zone,
        shares: row.shares,
        held: payer.hold,
    }
}
