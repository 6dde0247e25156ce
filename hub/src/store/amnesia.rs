//! When this hub may have forgotten calls that it sold, and proofs that an agent signed two
//! histories.
//!
//! Invariant: what was noted is never taken back.

use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::BootId;

use super::Store;
use super::StoreError;
use super::bytes;
use super::chains::small;
use super::engine::Row;
use super::engine::Rows;
use super::engine::query;
use super::ledger::Batch;
use super::ledger::EntryId;
use super::maybe_bytes;
use super::number;
use super::time;

/// A time of which this hub may have forgotten calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amnesia {
    /// The boot whose calls these are; none: every boot's.
    pub boot: Option<BootId>,
    /// Why.
    pub why: AmnesiaCause,
    /// Calls that began at this time or later.
    pub from_unix_ms: u64,
    /// And at this time or before.
    pub to_unix_ms: u64,
    /// When this was noted.
    pub noted_unix_ms: u64,
}

/// Why a hub may have forgotten calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmnesiaCause {
    /// A process ended without writing down what it knew.
    UncleanStop,
    /// An agent holds a head that this hub cosigned and its database does not have.
    Rollback,
    /// The database was made again.
    Rebuild,
}

/// Two histories of one chain, as they are kept for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForkRow {
    /// Whose chain.
    pub agent: AgentId,
    /// Which of them.
    pub epoch: u32,
    /// After so many leaves the two differ.
    pub at_leaf: u64,
    /// The proof, as JSON.
    pub proof: String,
    /// When it was found.
    pub noted_unix_ms: u64,
}

impl AmnesiaCause {
    /// As the database and documents name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UncleanStop => "unclean_stop",
            Self::Rollback => "rollback",
            Self::Rebuild => "rebuild",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::UncleanStop, Self::Rollback, Self::Rebuild].into_iter().find(|why| why.name() == name)
    }
}

impl Amnesia {
    /// Whether a call that this boot sold, and that began then, may have been forgotten.
    pub fn covers(&self, boot: BootId, began_unix_ms: u64) -> bool {
        let is_of_boot = self.boot.is_none_or(|forgetful| forgetful == boot);
        is_of_boot && (self.from_unix_ms..=self.to_unix_ms).contains(&began_unix_ms)
    }
}

impl Store {
    /// Every time of which this hub may have forgotten calls, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn amnesia(&self) -> Result<Vec<Amnesia>, StoreError> {
        self.read_all(COLUMNS, amnesia_of).await
    }

    /// Every proof of two histories, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn fork_proofs(&self) -> Result<Vec<ForkRow>, StoreError> {
        let statement = "SELECT agent_id, epoch, at_leaf, proof, noted_unix_ms FROM fork_proofs ORDER BY noted_unix_ms";
        self.read_all(statement, fork_of).await
    }

    /// When a boot began.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn boot_started(&self, boot: BootId) -> Result<Option<u64>, StoreError> {
        let row =
            query("SELECT started_unix_ms FROM boots WHERE id = ?").bind(boot.0).fetch_optional(&self.database).await?;
        row.map(|row| number(&row, "started_unix_ms")).transpose()
    }
}

const COLUMNS: &str =
    "SELECT boot_id, why, from_unix_ms, to_unix_ms, noted_unix_ms FROM amnesia ORDER BY noted_unix_ms";

impl Batch {
    /// Notes that calls may have been forgotten.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::TimeOutOfRange`].
    pub async fn insert_amnesia(&mut self, amnesia: &Amnesia) -> Result<(), StoreError> {
        let mut rows = Rows::new("INSERT INTO amnesia (id, boot_id, why, from_unix_ms, to_unix_ms, noted_unix_ms)");
        rows.push([
            EntryId::new().0.into(),
            amnesia.boot.map(|boot| boot.0).into(),
            amnesia.why.name().into(),
            time(amnesia.from_unix_ms)?.into(),
            time(amnesia.to_unix_ms)?.into(),
            time(amnesia.noted_unix_ms)?.into(),
        ]);
        rows.insert(&mut self.change).await
    }

    /// Every time of which this hub may have forgotten calls, as of this batch.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn amnesia(&mut self) -> Result<Vec<Amnesia>, StoreError> {
        let rows = query(COLUMNS).fetch_all(&mut self.change).await?;
        rows.iter().map(amnesia_of).collect()
    }

    /// Keeps a proof, unless there is one of this place.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::TimeOutOfRange`].
    pub async fn keep_fork_proof(&mut self, fork: &ForkRow) -> Result<bool, StoreError> {
        let known = query("SELECT at_leaf FROM fork_proofs WHERE agent_id = ? AND epoch = ? AND at_leaf = ?")
            .bind(fork.agent.0)
            .bind(i64::from(fork.epoch))
            .bind(time(fork.at_leaf)?)
            .fetch_optional(&mut self.change)
            .await?;
        if known.is_some() {
            return Ok(false);
        }
        let mut rows = Rows::new("INSERT INTO fork_proofs (agent_id, epoch, at_leaf, proof, noted_unix_ms)");
        rows.push([
            fork.agent.0.into(),
            i64::from(fork.epoch).into(),
            time(fork.at_leaf)?.into(),
            (&fork.proof).into(),
            time(fork.noted_unix_ms)?.into(),
        ]);
        rows.insert(&mut self.change).await?;
        Ok(true)
    }

    /// Whether there is a proof against this agent.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn has_forked(&mut self, agent: AgentId) -> Result<bool, StoreError> {
        let statement = "SELECT COUNT(*) AS found FROM fork_proofs WHERE agent_id = ?";
        Ok(number(&query(statement).bind(agent.0).fetch_one(&mut self.change).await?, "found")? > 0)
    }

    /// Refuses an agent's links until then; whoever follows the revision is told.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::TimeOutOfRange`].
    pub async fn suspend_agent(&mut self, agent: AgentId, until_unix_ms: u64) -> Result<(), StoreError> {
        query("UPDATE revision SET value = value + 1 WHERE id = 1").execute(&mut self.change).await?;
        query("UPDATE agents SET suspended_until_unix_ms = ? WHERE id = ?")
            .bind(time(until_unix_ms)?)
            .bind(agent.0)
            .execute(&mut self.change)
            .await?;
        Ok(())
    }
}

fn amnesia_of(row: &Row) -> Result<Amnesia, StoreError> {
    let why: String = row.try_get("why")?;
    Ok(Amnesia {
        boot: maybe_bytes(row, "boot_id")?.map(BootId),
        why: AmnesiaCause::from_name(&why).ok_or(StoreError::Damaged { column: "why" })?,
        from_unix_ms: number(row, "from_unix_ms")?,
        to_unix_ms: number(row, "to_unix_ms")?,
        noted_unix_ms: number(row, "noted_unix_ms")?,
    })
}

fn fork_of(row: &Row) -> Result<ForkRow, StoreError> {
    Ok(ForkRow {
        agent: AgentId(bytes(row, "agent_id")?),
        epoch: small(row, "epoch")?,
        at_leaf: number(row, "at_leaf")?,
        proof: row.try_get("proof")?,
        noted_unix_ms: number(row, "noted_unix_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::on_every_engine;
    use crate::store::Home;

    on_every_engine![what_may_be_forgotten_and_what_forked_is_noted_for_good,];

    async fn what_may_be_forgotten_and_what_forked_is_noted_for_good(home: Home) {
        let store = home.open().await;
        let boot = BootId([3; 16]);
        let stop = Amnesia {
            boot: Some(boot),
            why: AmnesiaCause::UncleanStop,
            from_unix_ms: 5,
            to_unix_ms: 9,
            noted_unix_ms: 9,
        };
        let rollback =
            Amnesia { boot: None, why: AmnesiaCause::Rollback, from_unix_ms: 20, to_unix_ms: 30, noted_unix_ms: 31 };
        let fork = ForkRow { agent: AgentId([1; 16]), epoch: 2, at_leaf: 7, proof: "{}".to_owned(), noted_unix_ms: 40 };
        let mut batch = store.begin_batch(None, 1).await.unwrap();
        for amnesia in [&stop, &rollback] {
            batch.insert_amnesia(amnesia).await.unwrap();
        }
        assert!(batch.keep_fork_proof(&fork).await.unwrap());
        assert!(!batch.keep_fork_proof(&ForkRow { noted_unix_ms: 41, ..fork.clone() }).await.unwrap());
        batch.commit(None, 1).await.unwrap();

        assert_eq!(store.amnesia().await.unwrap(), [stop, rollback]);
        assert_eq!(store.fork_proofs().await.unwrap(), [fork]);
        let other = BootId([4; 16]);
        let covered = |amnesia: &Amnesia, boot, times: [u64; 4]| times.map(|at| amnesia.covers(boot, at));
        assert_eq!(covered(&stop, boot, [4, 5, 9, 10]), [false, true, true, false]);
        assert_eq!(covered(&stop, other, [4, 5, 9, 10]), [false; 4]);
        assert_eq!(covered(&rollback, other, [19, 20, 30, 31]), [false, true, true, false]);
    }
}
