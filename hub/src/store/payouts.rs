//! Money that owners were paid.
//!
//! Invariant: a batch of payouts is made once under its reference, and an agent is in it once.

use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::PayoutId;
use keyhaven_protocol::money::NanoUsd;

use super::Store;
use super::StoreError;
use super::amount;
use super::bytes;
use super::chains::small;
use super::engine::Row;
use super::engine::Rows;
use super::engine::query;
use super::ledger::Batch;
use super::ledger::EntryId;
use super::number;
use super::time;

/// One owner's payout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayoutRow {
    /// Its number, by which the owner's ledger names it.
    pub id: PayoutId,
    /// The batch that it is in, as the operator calls it.
    pub reference: String,
    /// Whose agent earned it.
    pub agent: AgentId,
    /// It is for leaves of this chain and those before it.
    pub epoch: u32,
    /// Of that chain, for the leaves before this one.
    pub leaves: u64,
    /// How much.
    pub amount: NanoUsd,
    /// The entry that booked it.
    pub entry: EntryId,
    /// When.
    pub at_unix_ms: u64,
}

const COLUMNS: &str = "SELECT id, reference, agent_id, epoch, leaves, nano_usd, entry_id, at_unix_ms FROM payouts";

impl Store {
    /// Payouts to an agent's owner, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn payouts_to(&self, agent: AgentId) -> Result<Vec<PayoutRow>, StoreError> {
        let rows = query(format!("{COLUMNS} WHERE agent_id = ? ORDER BY at_unix_ms, id"))
            .bind(agent.0)
            .fetch_all(&self.database)
            .await?;
        rows.iter().map(payout_of).collect()
    }
}

impl Batch {
    /// The payouts of one batch.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn payouts(&mut self, reference: &str) -> Result<Vec<PayoutRow>, StoreError> {
        let rows = query(format!("{COLUMNS} WHERE reference = ? ORDER BY agent_id"))
            .bind(reference)
            .fetch_all(&mut self.change)
            .await?;
        rows.iter().map(payout_of).collect()
    }

    /// The payout with this number.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn payout(&mut self, id: PayoutId) -> Result<Option<PayoutRow>, StoreError> {
        let row = query(format!("{COLUMNS} WHERE id = ?")).bind(id.0).fetch_optional(&mut self.change).await?;
        row.as_ref().map(payout_of).transpose()
    }

    /// What an owner was credited, or given in a dispute, at this time or before.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn earned_until(&mut self, agent: AgentId, until_unix_ms: u64) -> Result<NanoUsd, StoreError> {
        let statement = "SELECT CAST(COALESCE(SUM(postings.nano_usd), 0) AS SIGNED) AS earned FROM postings \
                         JOIN entries ON entries.id = postings.entry_id \
                         WHERE side = 'owner' AND owner = ? AND kind IN ('credit', 'resolution') AND at_unix_ms <= ?";
        let row = query(statement).bind(agent.0).bind(time(until_unix_ms)?).fetch_one(&mut self.change).await?;
        amount(&row, "earned")
    }

    /// What was ever taken from an owner's account: lowered, or paid out. 0 or less.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn taken_from(&mut self, agent: AgentId) -> Result<NanoUsd, StoreError> {
        let statement = "SELECT CAST(COALESCE(SUM(postings.nano_usd), 0) AS SIGNED) AS taken FROM postings \
                         JOIN entries ON entries.id = postings.entry_id \
                         WHERE side = 'owner' AND owner = ? AND kind IN ('lowering', 'payout')";
        let row = query(statement).bind(agent.0).fetch_one(&mut self.change).await?;
        amount(&row, "taken")
    }

    /// Writes down payouts whose entries are in this batch.
    ///
    /// # Errors
    /// [`StoreError::Query`], or [`StoreError::Exists`] if an agent is in the batch already.
    pub async fn insert_payouts(&mut self, payouts: &[PayoutRow]) -> Result<(), StoreError> {
        let batch = self.number()?;
        let mut rows = Rows::new(
            "INSERT INTO payouts (id, reference, agent_id, epoch, leaves, nano_usd, entry_id, at_unix_ms, batch)",
        );
        for payout in payouts {
            rows.push([
                payout.id.0.into(),
                (&payout.reference).into(),
                payout.agent.0.into(),
                i64::from(payout.epoch).into(),
                time(payout.leaves)?.into(),
                payout.amount.0.into(),
                payout.entry.0.into(),
                time(payout.at_unix_ms)?.into(),
                batch.into(),
            ]);
        }
        rows.insert(&mut self.change).await
    }
}

fn payout_of(row: &Row) -> Result<PayoutRow, StoreError> {
    Ok(PayoutRow {
        id: PayoutId(bytes(row, "id")?),
        reference: row.try_get("reference")?,
        agent: AgentId(bytes(row, "agent_id")?),
        epoch: small(row, "epoch")?,
        leaves: number(row, "leaves")?,
        amount: amount(row, "nano_usd")?,
        entry: EntryId(bytes(row, "entry_id")?),
        at_unix_ms: number(row, "at_unix_ms")?,
    })
}
