//! The task that writes the books: calls that ended, what others have cost so far, signs of
//! life.
//!
//! Invariant: what is not written stays in line, and nothing new is sold while it cannot be.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use metrics::counter;
use metrics::gauge;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::error;
use tracing::info;
use tracing::warn;

use super::Ended;
use super::Phase;
use super::Shared;
use super::booking;
use super::hold::OpenCall;
use super::hold::Unwritten;
use super::intake::Answer;
use super::intake::Submitted;
use super::intake::Waiting;
use super::intake::commit::Done;
use super::once::REMEMBERED;
use super::record::CallRecord;
use super::record::Sale;
use crate::store::StoreError;
use crate::store::calls::CallRow;
use crate::store::leases::HeldCall;
use crate::store::leases::Period;
use crate::store::leases::Purse;
use crate::store::ledger::Batch;

/// Calls in one batch. Larger ones are no faster.
const BATCH_CALLS_MAX: usize = 256;

/// Calls under way in one batch: with ten thousand of them, those that end wait no longer.
const BATCH_OBSERVATIONS_MAX: usize = 256;

/// Groups of leaves in one batch.
const BATCH_GROUPS_MAX: usize = 64;

/// How long a process that stops tries to write what is left.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Where a process may end in the middle of a batch. A value for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CrashPoint {
    /// Calls and their charges are written.
    Calls,
    /// The leaves of a group are.
    Leaves,
    /// What they are credited is.
    Credits,
    /// The statement about them is, and the chain has not moved.
    Statement,
    /// The chain has moved on.
    Head,
    /// All is written, and nothing committed.
    BeforeCommit,
    /// All is committed, and nobody knows.
    AfterCommit,
}

#[cfg(test)]
impl CrashPoint {
    pub(super) const ALL: [Self; 7] =
        [Self::Calls, Self::Leaves, Self::Credits, Self::Statement, Self::Head, Self::BeforeCommit, Self::AfterCommit];
}

/// What one batch writes.
struct Page {
    ended: Vec<Arc<Ended>>,
    /// Groups of leaves, in order.
    groups: Vec<Arc<Waiting>>,
    /// Calls that leaves wait for, and that ended without a record.
    over: Vec<CallId>,
    /// What was captured, by purse.
    captured: HashMap<Purse, i64>,
    leases: Vec<(Purse, NanoUsd)>,
    observations: Vec<(CallId, Arc<OpenCall>, Unwritten)>,
    forgotten: Vec<CallId>,
}

/// When what is due next.
struct Due {
    observe: Instant,
    alive: Instant,
}

impl Shared {
    pub(super) async fn keep(self: Arc<Self>, leaving: CancellationToken, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.pace.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due = Due { observe: Instant::now(), alive: Instant::now() + self.pace.alive };
        loop {
            let is_failing = self.lock().failure.is_some();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => {}
                () = self.wake.notified(), if !is_failing => tokio::time::sleep(self.pace.linger).await,
            }
            if self.lock().is_closed {
                return;
            }
            self.round(&mut due, leaving.is_cancelled()).await;
        }
        self.end().await;
    }

    async fn round(self: &Arc<Self>, due: &mut Due, is_leaving: bool) {
        let now = Instant::now();
        let observes = std::mem::take(&mut self.lock().observe_now) || now >= due.observe;
        if observes {
            due.observe = now + self.pace.observe;
        }
        if !self.write_all(observes).await {
            return;
        }
        if let Err(error) = self.lease_ahead().await {
            warn!(%error, "budgets are not leased ahead of need: {error}");
        }
        let unused_ms = if is_leaving { 0 } else { as_ms(self.pace.idle) };
        if let Err(error) = self.give_back_idle(unix_ms_now().saturating_sub(unused_ms)).await {
            warn!(%error, "budgets that nobody uses are not given back yet: {error}");
        }
        if now < due.alive {
            return;
        }
        due.alive = now + self.pace.alive;
        if let Err(error) = self.sign_of_life().await {
            self.failed(&error);
            return;
        }
        if let Err(error) = self.sweep(self.pace.dead).await {
            warn!(%error, "what processes left behind that died is not swept yet: {error}");
        }
        if let Err(error) = self.store.forget_idempotency_keys(unix_ms_now().saturating_sub(as_ms(REMEMBERED))).await {
            warn!(%error, "old idempotency keys are not forgotten yet: {error}");
        }
        if let Err(error) = self.look_again().await {
            warn!(%error, "leaves that wait for calls to end wait longer: {error}");
        }
        if let Err(error) = self.return_disputed(unix_ms_now()).await {
            warn!(%error, "what is disputed goes back later: {error}");
        }
    }

    /// Writes until nothing is left. False: it cannot be written now.
    async fn write_all(&self, observes: bool) -> bool {
        let mut to_observe = if observes { self.open_calls() } else { Vec::new() };
        loop {
            let mut boot = self.turn.lock().await;
            let Some(page) = self.page(&mut to_observe) else { return true };
            let written = self.store.replay(|| self.write(*boot, &page)).await;
            self.lock().writing_since = None;
            match written {
                Ok(done) => self.written(page, done),
                Err(StoreError::Fenced) => match self.begin_again().await {
                    Ok(next) => *boot = next,
                    Err(error) => {
                        self.failed(&error);
                        return false;
                    }
                },
                Err(error) => {
                    self.failed(&error);
                    self.give_up_groups(&page, &error);
                    return false;
                }
            }
        }
    }

    fn open_calls(&self) -> Vec<(CallId, Arc<OpenCall>)> {
        let state = self.lock();
        let open = state.calls.iter().filter_map(|(call, phase)| match phase {
            Phase::Open(open) => Some((*call, open.clone())),
            Phase::Ended(_) => None,
        });
        open.collect()
    }

    /// What is to be written next, if anything is; calls under way from these.
    fn page(&self, to_observe: &mut Vec<(CallId, Arc<OpenCall>)>) -> Option<Page> {
        let mut state = self.lock();
        if state.is_closed {
            return None;
        }
        let ended: Vec<_> = state.ended.iter().take(BATCH_CALLS_MAX).cloned().collect();
        let mut captured = HashMap::new();
        for ended in &ended {
            for limit in &ended.open.limits {
                *captured.entry(limit.purse).or_default() += ended.record.settled.charge.0;
            }
        }
        let leases = state.purses.leases_without(&captured);
        let mut observations = Vec::new();
        while observations.len() < BATCH_OBSERVATIONS_MAX
            && let Some((call, open)) = to_observe.pop()
        {
            observations.extend(open.unwritten().map(|unwritten| (call, open, unwritten)));
        }
        let groups = state.submitted.iter().take(BATCH_GROUPS_MAX).cloned().collect();
        let (forgotten, over) = (state.forgotten.clone(), state.over.clone());
        let page = Page { ended, groups, over, captured, leases, observations, forgotten };
        // While writing fails, even nothing is worth a try.
        if page.is_empty() && state.failure.is_none() {
            return None;
        }
        state.writing_since = Some(Instant::now());
        Some(page)
    }

    async fn write(&self, boot: BootId, page: &Page) -> Result<Done, StoreError> {
        let now_unix_ms = unix_ms_now();
        let mut done = Done::default();
        let mut batch = self.store.begin_batch(Some(boot), now_unix_ms).await?;
        let calls: Vec<CallId> = page.ended.iter().map(|ended| ended.record.sale.call).collect();
        let known = batch.calls_among(&calls).await?;
        let fresh: Vec<&CallRecord> =
            page.ended.iter().map(|ended| &ended.record).filter(|record| !known.contains(&record.sale.call)).collect();
        post(&mut batch, &fresh).await?;
        batch.set_leases(boot, &page.leases).await?;
        let mut gone = page.forgotten.clone();
        gone.extend(page.ended.iter().filter(|ended| ended.open.is_in_holds()).map(|ended| ended.record.sale.call));
        let mut held = Vec::new();
        for (call, open, unwritten) in &page.observations {
            match unwritten {
                Unwritten::Observed(sale, observed) => held.push(held_of(*call, sale, *observed, now_unix_ms)),
                Unwritten::Withdrawn => gone.extend(open.is_in_holds().then_some(*call)),
            }
        }
        batch.put_holds(boot, &held).await?;
        batch.delete_holds(&gone).await?;
        self.crash_at(CrashPoint::Calls)?;
        let over: Vec<CallId> = calls.into_iter().chain(page.over.iter().copied()).collect();
        self.settle_open(&mut batch, &over, &mut done, now_unix_ms).await?;
        for waiting in &page.groups {
            self.commit(&mut batch, &waiting.what, &mut done, now_unix_ms).await?;
        }
        self.crash_at(CrashPoint::BeforeCommit)?;
        batch.commit(Some(boot), now_unix_ms).await?;
        self.crash_at(CrashPoint::AfterCommit)?;
        Ok(done)
    }

    /// Groups that the database will never take as they are must not hold up everything else. They
    /// are forgotten here, and come again.
    fn give_up_groups(&self, page: &Page, error: &StoreError) {
        if !matches!(error, StoreError::Exists | StoreError::Damaged { .. } | StoreError::TimeOutOfRange) {
            return;
        }
        self.lock().submitted.drain(..page.groups.len());
        for waiting in &page.groups {
            let (Submitted::Group(group) | Submitted::Fork(group)) = &waiting.what;
            let (agent, next) = (group.chain().agent, group.from().size);
            error!(agent.id = %agent, %error, "leaves of agent {agent} from {next} on cannot be written down: {error}");
            self.answer(agent, group.chain().epoch, Answer::Lost { next });
        }
    }

    fn written(&self, page: Page, mut done: Done) {
        let mut state = self.lock();
        if state.failure.take().is_some() {
            info!("what calls cost is written down again");
        }
        state.purses.written(&page.captured);
        state.ended.drain(..page.ended.len());
        for ended in &page.ended {
            state.calls.remove(&ended.record.sale.call);
        }
        state.forgotten.drain(..page.forgotten.len());
        state.submitted.drain(..page.groups.len());
        state.over.drain(..page.over.len());
        for ended in &page.ended {
            state.awaited.remove(&ended.record.sale.call);
        }
        for call in std::mem::take(&mut done.waiting) {
            // It may have ended while this was written.
            if state.calls.contains_key(&call) {
                state.awaited.insert(call);
            } else {
                state.over.push(call);
            }
        }
        for (call, open, unwritten) in page.observations {
            open.is_written(&unwritten);
            if !state.calls.contains_key(&call) && open.is_in_holds() {
                // It was given back while this was written.
                state.forgotten.push(call);
            }
        }
        gauge!("keyhaven_settlement_unwritten_calls").set(as_gauge(state.ended.len()));
        gauge!("keyhaven_settlement_held_calls").set(as_gauge(state.calls.len() - state.ended.len()));
        drop(state);
        for ended in &page.ended {
            let verdict = ended.record.settled.verdict;
            counter!("keyhaven_settlement_calls_total", "verdict" => verdict.name()).increment(1);
        }
        self.say(done);
    }

    fn failed(&self, error: &StoreError) {
        let mut state = self.lock();
        gauge!("keyhaven_settlement_unwritten_calls").set(as_gauge(state.ended.len()));
        counter!("keyhaven_settlement_write_failures_total").increment(1);
        if state.failure.is_none() {
            error!(%error, "what calls cost cannot be written down, so none is sold until it can: {error}");
        }
        state.failure = Some(error.to_string());
    }

    /// Shows that this process lives, and that the database takes what it is given.
    async fn sign_of_life(&self) -> Result<(), StoreError> {
        let mut boot = self.turn.lock().await;
        let now_unix_ms = unix_ms_now();
        let signed = self.store.replay(|| async {
            self.store.begin_batch(Some(*boot), now_unix_ms).await?.commit(Some(*boot), now_unix_ms).await
        });
        match signed.await {
            Ok(()) => Ok(()),
            Err(StoreError::Fenced) => {
                *boot = self.begin_again().await?;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The last batch: all that is left, and that this boot is over. What is still under way is
    /// left to the next process.
    async fn end(self: &Arc<Self>) {
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            let is_written = self.write_all(true).await;
            if self.closes(is_written, Instant::now() >= deadline) {
                break;
            }
            tokio::time::sleep(self.pace.linger).await;
        }
        if !self.is_all_written() {
            // The next process finds it dead, and notes what may be forgotten.
            return;
        }
        if let Err(error) = self.end_boot().await {
            warn!(%error, "the end of this process is not written down; the next one finds out: {error}");
        }
    }

    /// Closes the books if nothing is left, or if there is no time.
    fn closes(&self, is_written: bool, is_late: bool) -> bool {
        let mut state = self.lock();
        let (unwritten, open) = (state.ended.len(), state.calls.len() - state.ended.len());
        let is_done = is_written && unwritten + open == 0;
        state.is_closed |= is_done || is_late;
        if is_late && !is_done {
            error!(unwritten, open, "{unwritten} calls are not written down, {open} have not ended");
        }
        state.is_closed
    }

    fn is_all_written(&self) -> bool {
        let state = self.lock();
        state.ended.is_empty() && state.calls.is_empty()
    }

    async fn end_boot(&self) -> Result<(), StoreError> {
        let boot = self.turn.lock().await;
        let now_unix_ms = unix_ms_now();
        let ended = self.store.replay(|| async {
            let mut batch = self.store.begin_batch(Some(*boot), now_unix_ms).await?;
            batch.end_leases(*boot).await?;
            batch.end_boot(*boot, u64::MAX, now_unix_ms).await?;
            batch.commit(None, now_unix_ms).await
        });
        ended.await
    }
}

impl Page {
    fn is_empty(&self) -> bool {
        self.ended.is_empty()
            && self.observations.is_empty()
            && self.forgotten.is_empty()
            && self.groups.is_empty()
            && self.over.is_empty()
    }
}

/// Writes records with their entries, and folds them into balances and spending.
pub(super) async fn post(batch: &mut Batch, records: &[&CallRecord]) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(records.len());
    let mut entries = Vec::with_capacity(records.len());
    let (mut balances, mut spending) = (BTreeMap::new(), BTreeMap::new());
    for record in records {
        rows.push(row_of(record));
        let charge = booking::of_call(record);
        for (side, amount) in charge.iter().flat_map(|entry| &entry.postings) {
            *balances.entry(*side).or_insert(0_i64) += amount.0;
        }
        entries.extend(charge);
        if record.settled.charge != NanoUsd::ZERO {
            for period in Period::of(record.sale.began_unix_ms) {
                *spending.entry((record.sale.key, period)).or_insert(0_i64) += record.settled.charge.0;
            }
        }
    }
    batch.insert_calls(&rows).await?;
    batch.insert_entries(&entries).await?;
    batch.fold_balances(&balances).await?;
    batch.fold_spending(&spending).await
}

fn held_of(call: CallId, sale: &Sale, observed: NanoUsd, seen_unix_ms: u64) -> HeldCall {
    let json = serde_json::to_string(sale).expect("strings, numbers and ids are JSON");
    HeldCall { call, observed, seen_unix_ms, json }
}

fn row_of(record: &CallRecord) -> CallRow {
    let (sale, hub) = (&record.sale, &record.hub_metered);
    CallRow {
        call: sale.call,
        account: sale.account,
        key: sale.key,
        agent: Some(sale.agent),
        model: sale.model.clone(),
        began_unix_ms: sale.began_unix_ms,
        input_tokens: hub.input_tokens(),
        output_tokens: hub.output_tokens(),
        list: hub.list_nano_usd,
        cost: record.settled.charge,
        estimated: hub.estimated,
        json: serde_json::to_string(record).expect("strings, numbers and ids are JSON"),
    }
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Counts of calls are far below where a float begins to round.
fn as_gauge(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}
