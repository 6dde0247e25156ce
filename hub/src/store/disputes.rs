//! What the two sides of a call do not agree on: what went into suspense, and how it came out.
//!
//! Invariant: what an entry put into suspense comes out once, by an entry of its own.

use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;

use super::Store;
use super::StoreError;
use super::amount;
use super::bytes;
use super::chains::small;
use super::engine::REPORT_TIME_MAX;
use super::engine::Row;
use super::engine::Rows;
use super::engine::query;
use super::ledger::Batch;
use super::ledger::EntryId;
use super::maybe_number;
use super::number;
use super::time;

/// An amount in suspense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispute {
    /// The entry that put it there.
    pub entry: EntryId,
    /// The call.
    pub call: CallId,
    /// The attempt at it.
    pub attempt: u8,
    /// Whose agent says less.
    pub agent: AgentId,
    /// Who paid it.
    pub account: AccountId,
    /// How much.
    pub amount: NanoUsd,
    /// Since when.
    pub since_unix_ms: u64,
    /// How it ended, and when, if it did.
    pub ended: Option<(String, u64)>,
}

/// How an amount left suspense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisputeEnd {
    /// The entry that had put it there.
    pub entry: EntryId,
    /// The entry that took it out.
    pub by: EntryId,
    /// `returned`, `consumer` or `owner`.
    pub outcome: &'static str,
    /// Why, in the operator's words.
    pub note: String,
    /// When.
    pub at_unix_ms: u64,
}

const COLUMNS: &str = "SELECT disputes.entry_id AS entry_id, call_id, attempt, agent_id, account_id, nano_usd, \
                       since_unix_ms, outcome, dispute_ends.at_unix_ms AS ended_unix_ms FROM disputes \
                       LEFT JOIN dispute_ends ON dispute_ends.entry_id = disputes.entry_id";

impl Store {
    /// Disputes, the oldest first; those too that are over, if wanted.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn disputes(&self, with_ended: bool) -> Result<Vec<Dispute>, StoreError> {
        let which = if with_ended { "" } else { " WHERE outcome IS NULL" };
        let rows = query(format!("{COLUMNS}{which} ORDER BY since_unix_ms, disputes.entry_id"))
            .within(REPORT_TIME_MAX)
            .fetch_all(&self.database)
            .await?;
        rows.iter().map(dispute_of).collect()
    }
}

impl Batch {
    /// Writes down what this batch puts into suspense.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Exists`].
    pub async fn insert_disputes(&mut self, disputes: &[Dispute]) -> Result<(), StoreError> {
        let batch = self.number()?;
        let mut rows = Rows::new(
            "INSERT INTO disputes (entry_id, call_id, attempt, agent_id, account_id, nano_usd, since_unix_ms, batch)",
        );
        for dispute in disputes {
            rows.push([
                dispute.entry.0.into(),
                dispute.call.0.into(),
                i64::from(dispute.attempt).into(),
                dispute.agent.0.into(),
                dispute.account.0.into(),
                dispute.amount.0.into(),
                time(dispute.since_unix_ms)?.into(),
                batch.into(),
            ]);
        }
        rows.insert(&mut self.change).await
    }

    /// Disputes that began at this time or before and are not over, as many as this.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn disputes_until(&mut self, until_unix_ms: u64, most: u32) -> Result<Vec<Dispute>, StoreError> {
        let statement = format!(
            "{COLUMNS} WHERE outcome IS NULL AND since_unix_ms <= ? ORDER BY since_unix_ms, disputes.entry_id LIMIT ?"
        );
        let rows =
            query(statement).bind(time(until_unix_ms)?).bind(i64::from(most)).fetch_all(&mut self.change).await?;
        rows.iter().map(dispute_of).collect()
    }

    /// Disputes about a call.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn disputes_of(&mut self, call: CallId) -> Result<Vec<Dispute>, StoreError> {
        let rows = query(format!("{COLUMNS} WHERE call_id = ? ORDER BY since_unix_ms, disputes.entry_id"))
            .bind(call.0)
            .fetch_all(&mut self.change)
            .await?;
        rows.iter().map(dispute_of).collect()
    }

    /// Ends a dispute with an entry of this batch.
    ///
    /// # Errors
    /// [`StoreError::Query`], or [`StoreError::Exists`] if it is over.
    pub async fn end_dispute(&mut self, end: &DisputeEnd) -> Result<(), StoreError> {
        let batch = self.number()?;
        let mut rows = Rows::new("INSERT INTO dispute_ends (entry_id, ended_by, outcome, note, at_unix_ms, batch)");
        rows.push([
            end.entry.0.into(),
            end.by.0.into(),
            end.outcome.into(),
            (&end.note).into(),
            time(end.at_unix_ms)?.into(),
            batch.into(),
        ]);
        rows.insert(&mut self.change).await
    }
}

fn dispute_of(row: &Row) -> Result<Dispute, StoreError> {
    let outcome: Option<String> = row.try_get("outcome")?;
    Ok(Dispute {
        entry: EntryId(bytes(row, "entry_id")?),
        call: CallId(bytes(row, "call_id")?),
        attempt: small(row, "attempt")?,
        agent: AgentId(bytes(row, "agent_id")?),
        account: AccountId(bytes(row, "account_id")?),
        amount: amount(row, "nano_usd")?,
        since_unix_ms: number(row, "since_unix_ms")?,
        ended: outcome.zip(maybe_number(row, "ended_unix_ms")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::on_every_engine;
    use crate::store::Home;

    on_every_engine![a_dispute_waits_ends_once_and_stays_on_record,];

    async fn a_dispute_waits_ends_once_and_stays_on_record(home: Home) {
        let store = home.open().await;
        let dispute = Dispute {
            entry: EntryId([1; 16]),
            call: CallId([2; 16]),
            attempt: 1,
            agent: AgentId([3; 16]),
            account: AccountId([4; 16]),
            amount: NanoUsd(5),
            since_unix_ms: 10,
            ended: None,
        };
        let end = DisputeEnd {
            entry: dispute.entry,
            by: EntryId([9; 16]),
            outcome: "returned",
            note: String::new(),
            at_unix_ms: 20,
        };
        let mut batch = store.begin_batch(None, 1).await.unwrap();
        batch.insert_disputes(std::slice::from_ref(&dispute)).await.unwrap();
        assert_eq!(batch.disputes_until(9, 5).await.unwrap(), []);
        assert_eq!(batch.disputes_until(10, 5).await.unwrap(), std::slice::from_ref(&dispute));
        batch.end_dispute(&end).await.unwrap();
        assert_eq!(batch.disputes_until(10, 5).await.unwrap(), []);
        batch.commit(None, 1).await.unwrap();

        let mut again = store.begin_batch(None, 2).await.unwrap();
        assert!(matches!(again.end_dispute(&end).await, Err(StoreError::Exists)));
        drop(again);

        assert_eq!(store.disputes(false).await.unwrap(), []);
        let ended = Dispute { ended: Some(("returned".to_owned(), 20)), ..dispute };
        assert_eq!(store.disputes(true).await.unwrap(), [ended]);
    }
}
