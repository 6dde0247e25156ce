//! The double-entry ledger: batches of entries, their postings, and the balances.
//!
//! Invariant: entries and postings are never changed; balances and spending move in the
//! transaction that inserts what moves them.

use std::collections::BTreeMap;
use std::fmt;

use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use uuid::Uuid;

use super::Store;
use super::StoreError;
use super::amount;
use super::engine::Rows;
use super::engine::Tx;
use super::engine::Update;
use super::engine::query;
use super::leases::Period;
use super::number;
use super::time;

/// One entry's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryId(pub [u8; 16]);

impl EntryId {
    /// A new one, in order of time.
    pub fn new() -> Self {
        Self(Uuid::now_v7().into_bytes())
    }
}

impl Default for EntryId {
    fn default() -> Self {
        Self::new()
    }
}

/// Whose money a posting moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// A consumer's account.
    Consumer(AccountId),
    /// What an agent's owner has earned.
    Owner(AgentId),
    /// The hub's own.
    Margin,
    /// What the two sides of a call do not agree on.
    Suspense,
    /// What owners have earned and were not credited yet.
    Owed,
    /// What came in from outside, below 0.
    Deposits,
    /// What went to owners outside.
    Payouts,
}

impl Side {
    /// As the database names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Consumer(_) => "consumer",
            Self::Owner(_) => "owner",
            Self::Margin => "margin",
            Self::Suspense => "suspense",
            Self::Owed => "owed",
            Self::Deposits => "deposits",
            Self::Payouts => "payouts",
        }
    }

    const fn owner(self) -> [u8; 16] {
        match self {
            Self::Consumer(account) => account.0,
            Self::Owner(agent) => agent.0,
            Self::Margin | Self::Suspense | Self::Owed | Self::Deposits | Self::Payouts => [0; 16],
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A consumer pays for a call.
    Charge,
    /// An owner earns an attempt.
    Credit,
    /// Money comes in.
    Deposit,
    /// An owner takes less for an attempt.
    Lowering,
    /// What was in suspense goes back to the consumer.
    Return,
    /// What was in suspense goes where the operator decided.
    Resolution,
    /// An owner is paid.
    Payout,
}

impl EntryKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Credit => "credit",
            Self::Deposit => "deposit",
            Self::Lowering => "lowering",
            Self::Return => "return",
            Self::Resolution => "resolution",
            Self::Payout => "payout",
        }
    }
}

/// One movement of money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// What it is.
    pub kind: EntryKind,
    /// The call it is about, if it is about one.
    pub call: Option<CallId>,
    /// The attempt of the call; 0 where it is about the whole call.
    pub attempt: u32,
    /// When it was made.
    pub at_unix_ms: u64,
    /// Who gets how much; the sum is 0.
    pub postings: Vec<(Side, NanoUsd)>,
}

/// A transaction of the books, the only kind that moves money.
pub struct Batch {
    pub(super) change: Tx,
    /// Its number in the one order of all batches.
    pub number: u64,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({})", self.number)
    }
}

impl Store {
    /// Begins a batch, for the process of this boot or for a command.
    ///
    /// # Errors
    /// [`StoreError::Query`], or [`StoreError::Fenced`] if the boot was ended by another.
    pub async fn begin_batch(&self, boot: Option<BootId>, now_unix_ms: u64) -> Result<Batch, StoreError> {
        let mut change = self.database.begin().await?;
        // Writing first takes the lock that every batch takes.
        query("UPDATE ledger SET batch = batch + 1 WHERE id = 1").execute(&mut change).await?;
        if let Some(boot) = boot {
            let statement = "UPDATE boots SET seen_unix_ms = ? WHERE id = ? AND ended_unix_ms IS NULL";
            let done = query(statement).bind(time(now_unix_ms)?).bind(&boot.0[..]).execute(&mut change).await?;
            if done != 1 {
                return Err(StoreError::Fenced);
            }
        }
        let row = query("SELECT batch FROM ledger WHERE id = 1").fetch_one(&mut change).await?;
        let batch = Batch { number: number(&row, "batch")?, change };
        Ok(batch)
    }

    /// The balance of one side.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn balance(&self, side: Side) -> Result<NanoUsd, StoreError> {
        let row = query("SELECT nano_usd FROM balances WHERE side = ? AND owner = ?")
            .bind(side.name())
            .bind(&side.owner()[..])
            .fetch_optional(&self.database)
            .await?;
        row.map_or(Ok(NanoUsd::ZERO), |row| amount(&row, "nano_usd"))
    }

    /// What calls of a key have cost in this period.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn spent(&self, key: ApiKeyId, period: Period) -> Result<NanoUsd, StoreError> {
        let row = query("SELECT nano_usd FROM key_spending WHERE api_key_id = ? AND period = ?")
            .bind(&key.0[..])
            .bind(period.name())
            .fetch_optional(&self.database)
            .await?;
        row.map_or(Ok(NanoUsd::ZERO), |row| amount(&row, "nano_usd"))
    }

    /// What is wrong with the books, in words.
    ///
    /// # Errors
    /// Those of [`Store::reconcile`].
    pub async fn audit_ledger(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.reconcile(0).await?.findings.iter().map(ToString::to_string).collect())
    }
}

impl Batch {
    /// Inserts entries with their postings. Balances are folded apart.
    ///
    /// # Errors
    /// [`StoreError::Query`], or [`StoreError::Exists`] if one is there already.
    pub async fn insert_entries(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let batch = self.number()?;
        let mut rows = Rows::new("INSERT INTO entries (id, kind, call_id, attempt, batch, at_unix_ms)");
        let mut postings = Rows::new("INSERT INTO postings (entry_id, leg, side, owner, nano_usd)");
        for entry in entries {
            rows.push([
                (&entry.id.0[..]).into(),
                entry.kind.name().into(),
                entry.call.as_ref().map(|call| &call.0[..]).into(),
                i64::from(entry.attempt).into(),
                batch.into(),
                i64::try_from(entry.at_unix_ms).unwrap_or(i64::MAX).into(),
            ]);
            for (leg, (side, amount)) in (0_i64..).zip(&entry.postings) {
                let id = &entry.id.0[..];
                postings.push([id.into(), leg.into(), side.name().into(), side.owner().into(), amount.0.into()]);
            }
        }
        rows.insert(&mut self.change).await?;
        postings.insert(&mut self.change).await
    }

    /// Adds to balances.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn fold_balances(&mut self, by: &BTreeMap<Side, i64>) -> Result<(), StoreError> {
        let batch = self.number()?;
        let mut rows = Rows::new("INSERT INTO balances (side, owner, nano_usd, batch)");
        for (side, by) in by {
            rows.push([side.name().into(), side.owner().into(), (*by).into(), batch.into()]);
        }
        rows.upsert("side, owner", &[Update::Add("nano_usd"), Update::Set("batch")], &mut self.change).await
    }

    /// Adds to what calls of keys have cost in periods.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn fold_spending(&mut self, by: &BTreeMap<(ApiKeyId, Period), i64>) -> Result<(), StoreError> {
        let batch = self.number()?;
        let mut rows = Rows::new("INSERT INTO key_spending (api_key_id, period, nano_usd, batch)");
        for ((key, period), by) in by {
            rows.push([(&key.0[..]).into(), period.name().into(), (*by).into(), batch.into()]);
        }
        rows.upsert("api_key_id, period", &[Update::Add("nano_usd"), Update::Set("batch")], &mut self.change).await
    }

    /// The balance of one side, as of this batch.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn balance(&mut self, side: Side) -> Result<NanoUsd, StoreError> {
        let row = query("SELECT nano_usd FROM balances WHERE side = ? AND owner = ?")
            .bind(side.name())
            .bind(side.owner())
            .fetch_optional(&mut self.change)
            .await?;
        row.map_or(Ok(NanoUsd::ZERO), |row| amount(&row, "nano_usd"))
    }

    /// What calls of a key have cost in this period, as of this batch.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn spent(&mut self, key: ApiKeyId, period: Period) -> Result<NanoUsd, StoreError> {
        let row = query("SELECT nano_usd FROM key_spending WHERE api_key_id = ? AND period = ?")
            .bind(&key.0[..])
            .bind(period.name())
            .fetch_optional(&mut self.change)
            .await?;
        row.map_or(Ok(NanoUsd::ZERO), |row| amount(&row, "nano_usd"))
    }

    /// Makes all of it durable.
    ///
    /// # Errors
    /// [`StoreError::Query`]: it may or may not be durable.
    pub async fn commit(mut self, boot: Option<BootId>, now_unix_ms: u64) -> Result<(), StoreError> {
        let batch = self.number()?;
        query("INSERT INTO batches (number, boot_id, written_unix_ms) VALUES (?, ?, ?)")
            .bind(batch)
            .bind(boot.map(|boot| boot.0))
            .bind(time(now_unix_ms)?)
            .execute(&mut self.change)
            .await?;
        self.change.commit().await
    }

    pub(super) fn number(&self) -> Result<i64, StoreError> {
        i64::try_from(self.number).map_err(|_| StoreError::TimeOutOfRange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::on_every_engine;
    use crate::store::Home;

    on_every_engine![an_entry_is_inserted_once_and_balances_follow, an_audit_finds_what_does_not_add_up,];

    async fn an_entry_is_inserted_once_and_balances_follow(home: Home) {
        let store = home.open().await;
        let consumer = Side::Consumer(AccountId([3; 16]));
        let entry = Entry {
            id: EntryId::new(),
            kind: EntryKind::Credit,
            call: Some(CallId([4; 16])),
            attempt: 0,
            at_unix_ms: 5,
            postings: vec![(consumer, NanoUsd(-7)), (Side::Margin, NanoUsd(7))],
        };
        let mut batch = store.begin_batch(None, 5).await.unwrap();
        batch.insert_entries(std::slice::from_ref(&entry)).await.unwrap();
        let by = entry.postings.iter().map(|(side, amount)| (*side, amount.0)).collect();
        batch.fold_balances(&by).await.unwrap();
        batch.commit(None, 5).await.unwrap();

        let mut again = store.begin_batch(None, 6).await.unwrap();
        let refused = again.insert_entries(&[Entry { id: EntryId::new(), ..entry }]).await;
        drop(again);

        assert!(matches!(refused, Err(StoreError::Exists)));
        assert_eq!(store.balance(consumer).await.unwrap(), NanoUsd(-7));
        assert_eq!(store.balance(Side::Suspense).await.unwrap(), NanoUsd(0));
        assert_eq!(store.audit_ledger().await.unwrap(), Vec::<String>::new());
    }

    async fn an_audit_finds_what_does_not_add_up(home: Home) {
        let store = home.open().await;
        let entry = Entry {
            id: EntryId::new(),
            kind: EntryKind::Deposit,
            call: None,
            attempt: 0,
            at_unix_ms: 5,
            postings: vec![(Side::Deposits, NanoUsd(-7)), (Side::Margin, NanoUsd(8))],
        };
        let mut batch = store.begin_batch(None, 5).await.unwrap();
        batch.insert_entries(&[entry]).await.unwrap();
        batch.fold_balances(&BTreeMap::from([(Side::Margin, 8)])).await.unwrap();
        batch.commit(None, 5).await.unwrap();

        let findings = store.audit_ledger().await.unwrap();

        assert_eq!(findings.len(), 2, "{findings:?}");
    }
}
