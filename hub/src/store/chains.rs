//! Chains of agents' leaves as the books have them: where each stands, its leaves, the groups they
//! came in, the statements about them.
//!
//! Invariant: a chain goes on only from where it stands; leaves, groups and statements are
//! inserted in the transaction that moves it, and never changed.

use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Kind;
use keyhaven_protocol::signing::Hash;

use super::Store;
use super::StoreError;
use super::bytes;
use super::engine::REPORT_TIME_MAX;
use super::engine::Row;
use super::engine::Rows;
use super::engine::Statement;
use super::engine::query;
use super::ledger::Batch;
use super::number;
use super::time;

/// Where a chain stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainRow {
    /// Whose.
    pub agent: AgentId,
    /// Which of the agent's chains.
    pub epoch: u32,
    /// All its leaves: the newest head, which is cosigned.
    pub head: Head,
    /// The key that signs what comes next.
    pub agent_key: [u8; 32],
    /// The oldest key of the hub that may still order in it.
    pub oldest_hub_key: u32,
    /// The newest cosigned head, as bytes.
    pub cosigned: Vec<u8>,
    /// How many statements there are.
    pub statements: u64,
    /// The hash of the newest.
    pub statement_hash: Hash,
    /// Leaves that wait for their second line.
    pub open_leaves: u64,
    /// When it moved last.
    pub written_unix_ms: u64,
}

/// A leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafRow {
    /// Its number in the chain.
    pub number: u64,
    /// Its hash.
    pub hash: Hash,
    /// What it is about.
    pub kind: Kind,
    /// The attempt that it is about, if it is about one.
    pub attempt: Option<(CallId, u8)>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What the agent signed of leaves that came together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRow {
    /// The number of its first leaf.
    pub first: u64,
    /// The number of the leaf after its last.
    pub next: u64,
    /// The signed record.
    pub record: Vec<u8>,
}

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementRow {
    /// Its number in the chain of statements.
    pub number: u64,
    /// The leaf that its first line is about.
    pub first_leaf: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// When it was made.
    pub at_unix_ms: u64,
}

const CHAIN_COLUMNS: &str = "SELECT agent_id, epoch, size, head, agent_key, oldest_hub_key, cosigned, statements, \
                             statement_hash, open_leaves, written_unix_ms FROM agent_chains";

const LEAF_COLUMNS: &str = "SELECT number, hash, kind, call_id, attempt, bytes FROM leaves";

impl Store {
    /// One chain.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn chain(&self, agent: AgentId, epoch: u32) -> Result<Option<ChainRow>, StoreError> {
        let row = query(format!("{CHAIN_COLUMNS} WHERE agent_id = ? AND epoch = ?"))
            .bind(agent.0)
            .bind(i64::from(epoch))
            .fetch_optional(&self.database)
            .await?;
        row.as_ref().map(chain_of).transpose()
    }

    /// The newest chain of an agent.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn newest_chain(&self, agent: AgentId) -> Result<Option<ChainRow>, StoreError> {
        let row = query(format!("{CHAIN_COLUMNS} WHERE agent_id = ? ORDER BY epoch DESC LIMIT 1"))
            .bind(agent.0)
            .fetch_optional(&self.database)
            .await?;
        row.as_ref().map(chain_of).transpose()
    }

    /// Every chain, by agent and epoch.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn chains(&self) -> Result<Vec<ChainRow>, StoreError> {
        let rows = query(format!("{CHAIN_COLUMNS} ORDER BY agent_id, epoch"))
            .within(REPORT_TIME_MAX)
            .fetch_all(&self.database)
            .await?;
        rows.iter().map(chain_of).collect()
    }

    /// The hash of the leaf with this number.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn leaf_hash(&self, agent: AgentId, epoch: u32, leaf: u64) -> Result<Option<Hash>, StoreError> {
        let row = query("SELECT hash FROM leaves WHERE agent_id = ? AND epoch = ? AND number = ?")
            .bind(agent.0)
            .bind(i64::from(epoch))
            .bind(time(leaf)?)
            .fetch_optional(&self.database)
            .await?;
        row.map(|row| bytes(&row, "hash").map(Hex)).transpose()
    }

    /// Leaves of a chain from this number on, as many as this.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn leaves_from(
        &self,
        agent: AgentId,
        epoch: u32,
        first: u64,
        most: u32,
    ) -> Result<Vec<LeafRow>, StoreError> {
        let rows = leaves_from(agent, epoch, first, most)?.within(REPORT_TIME_MAX).fetch_all(&self.database).await?;
        rows.iter().map(leaf_of).collect()
    }

    /// Groups of a chain that end after this leaf, as many as this.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn groups_after(
        &self,
        agent: AgentId,
        epoch: u32,
        leaf: u64,
        most: u32,
    ) -> Result<Vec<GroupRow>, StoreError> {
        let rows = groups_after(agent, epoch, leaf, most)?.fetch_all(&self.database).await?;
        rows.iter().map(group_of).collect()
    }

    /// Statements about a chain from this number on, as many as this.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn statements_from(
        &self,
        agent: AgentId,
        epoch: u32,
        first: u64,
        most: u32,
    ) -> Result<Vec<StatementRow>, StoreError> {
        let rows = statements_from(agent, epoch, first, most)?.fetch_all(&self.database).await?;
        rows.iter().map(statement_of).collect()
    }
}

impl Batch {
    /// One chain, as of this batch.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn chain(&mut self, agent: AgentId, epoch: u32) -> Result<Option<ChainRow>, StoreError> {
        let row = query(format!("{CHAIN_COLUMNS} WHERE agent_id = ? AND epoch = ?"))
            .bind(agent.0)
            .bind(i64::from(epoch))
            .fetch_optional(&mut self.change)
            .await?;
        row.as_ref().map(chain_of).transpose()
    }

    /// The newest chain of an agent, as of this batch.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn newest_chain(&mut self, agent: AgentId) -> Result<Option<ChainRow>, StoreError> {
        let row = query(format!("{CHAIN_COLUMNS} WHERE agent_id = ? ORDER BY epoch DESC LIMIT 1"))
            .bind(agent.0)
            .fetch_optional(&mut self.change)
            .await?;
        row.as_ref().map(chain_of).transpose()
    }

    /// Moves a chain on from where it stood. False: it stands elsewhere.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::TimeOutOfRange`].
    pub async fn swap_chain(&mut self, from: Option<&ChainRow>, to: &ChainRow) -> Result<bool, StoreError> {
        let batch = self.number()?;
        let Some(from) = from else {
            let mut rows = Rows::new(
                "INSERT INTO agent_chains (agent_id, epoch, size, head, agent_key, oldest_hub_key, cosigned, \
                 statements, statement_hash, open_leaves, written_unix_ms, batch)",
            );
            rows.push([
                to.agent.0.into(),
                i64::from(to.epoch).into(),
                time(to.head.size)?.into(),
                (&to.head.hash.0[..]).into(),
                (&to.agent_key[..]).into(),
                i64::from(to.oldest_hub_key).into(),
                (&to.cosigned).into(),
                time(to.statements)?.into(),
                (&to.statement_hash.0[..]).into(),
                time(to.open_leaves)?.into(),
                time(to.written_unix_ms)?.into(),
                batch.into(),
            ]);
            rows.insert(&mut self.change).await?;
            return Ok(true);
        };
        let statement = "UPDATE agent_chains SET size = ?, head = ?, agent_key = ?, oldest_hub_key = ?, cosigned = ?, \
                         statements = ?, statement_hash = ?, open_leaves = ?, written_unix_ms = ?, batch = ? \
                         WHERE agent_id = ? AND epoch = ? AND size = ? AND head = ? AND statements = ?";
        let done = query(statement)
            .bind(time(to.head.size)?)
            .bind(&to.head.hash.0[..])
            .bind(&to.agent_key[..])
            .bind(i64::from(to.oldest_hub_key))
            .bind(&to.cosigned)
            .bind(time(to.statements)?)
            .bind(&to.statement_hash.0[..])
            .bind(time(to.open_leaves)?)
            .bind(time(to.written_unix_ms)?)
            .bind(batch)
            .bind(to.agent.0)
            .bind(i64::from(to.epoch))
            .bind(time(from.head.size)?)
            .bind(&from.head.hash.0[..])
            .bind(time(from.statements)?)
            .execute(&mut self.change)
            .await?;
        Ok(done == 1)
    }

    /// Inserts leaves, and what was signed of them.
    ///
    /// # Errors
    /// [`StoreError::Query`], or [`StoreError::Exists`] if one is there already.
    pub async fn insert_leaves(
        &mut self,
        agent: AgentId,
        epoch: u32,
        leaves: &[LeafRow],
        group: &GroupRow,
    ) -> Result<(), StoreError> {
        let batch = self.number()?;
        let mut rows =
            Rows::new("INSERT INTO leaves (agent_id, epoch, number, hash, kind, call_id, attempt, bytes, batch)");
        for leaf in leaves {
            rows.push([
                agent.0.into(),
                i64::from(epoch).into(),
                time(leaf.number)?.into(),
                (&leaf.hash.0[..]).into(),
                i64::from(leaf.kind.number()).into(),
                leaf.attempt.map(|(call, _)| call.0).into(),
                i64::from(leaf.attempt.map_or(0, |(_, attempt)| attempt)).into(),
                (&leaf.bytes).into(),
                batch.into(),
            ]);
        }
        rows.insert(&mut self.change).await?;
        let mut rows = Rows::new("INSERT INTO leaf_groups (agent_id, epoch, next_leaf, first_leaf, record, batch)");
        rows.push([
            agent.0.into(),
            i64::from(epoch).into(),
            time(group.next)?.into(),
            time(group.first)?.into(),
            (&group.record).into(),
            batch.into(),
        ]);
        rows.insert(&mut self.change).await
    }

    /// Leaves of a chain from this number on, as many as this, as of this batch.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn leaves_from(
        &mut self,
        agent: AgentId,
        epoch: u32,
        first: u64,
        most: u32,
    ) -> Result<Vec<LeafRow>, StoreError> {
        let rows = leaves_from(agent, epoch, first, most)?.fetch_all(&mut self.change).await?;
        rows.iter().map(leaf_of).collect()
    }

    /// Groups of a chain that end after this leaf, as many as this, as of this batch.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn groups_after(
        &mut self,
        agent: AgentId,
        epoch: u32,
        leaf: u64,
        most: u32,
    ) -> Result<Vec<GroupRow>, StoreError> {
        let rows = groups_after(agent, epoch, leaf, most)?.fetch_all(&mut self.change).await?;
        rows.iter().map(group_of).collect()
    }

    /// Statements about a chain from this number on, as many as this, as of this batch.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn statements_from(
        &mut self,
        agent: AgentId,
        epoch: u32,
        first: u64,
        most: u32,
    ) -> Result<Vec<StatementRow>, StoreError> {
        let rows = statements_from(agent, epoch, first, most)?.fetch_all(&mut self.change).await?;
        rows.iter().map(statement_of).collect()
    }

    /// Inserts a statement.
    ///
    /// # Errors
    /// [`StoreError::Query`], or [`StoreError::Exists`] if one of this number is there already.
    pub async fn insert_statement(
        &mut self,
        agent: AgentId,
        epoch: u32,
        statement: &StatementRow,
    ) -> Result<(), StoreError> {
        let mut rows =
            Rows::new("INSERT INTO statements (agent_id, epoch, number, first_leaf, bytes, at_unix_ms, batch)");
        rows.push([
            agent.0.into(),
            i64::from(epoch).into(),
            time(statement.number)?.into(),
            time(statement.first_leaf)?.into(),
            (&statement.bytes).into(),
            time(statement.at_unix_ms)?.into(),
            self.number()?.into(),
        ]);
        rows.insert(&mut self.change).await
    }
}

fn leaves_from(agent: AgentId, epoch: u32, first: u64, most: u32) -> Result<Statement<'static>, StoreError> {
    Ok(query(format!("{LEAF_COLUMNS} WHERE agent_id = ? AND epoch = ? AND number >= ? ORDER BY number LIMIT ?"))
        .bind(agent.0)
        .bind(i64::from(epoch))
        .bind(time(first)?)
        .bind(i64::from(most)))
}

fn groups_after(agent: AgentId, epoch: u32, leaf: u64, most: u32) -> Result<Statement<'static>, StoreError> {
    let statement = "SELECT first_leaf, next_leaf, record FROM leaf_groups \
                     WHERE agent_id = ? AND epoch = ? AND next_leaf > ? ORDER BY next_leaf LIMIT ?";
    Ok(query(statement).bind(agent.0).bind(i64::from(epoch)).bind(time(leaf)?).bind(i64::from(most)))
}

fn statements_from(agent: AgentId, epoch: u32, first: u64, most: u32) -> Result<Statement<'static>, StoreError> {
    let statement = "SELECT number, first_leaf, bytes, at_unix_ms FROM statements \
                     WHERE agent_id = ? AND epoch = ? AND number >= ? ORDER BY number LIMIT ?";
    Ok(query(statement).bind(agent.0).bind(i64::from(epoch)).bind(time(first)?).bind(i64::from(most)))
}

fn chain_of(row: &Row) -> Result<ChainRow, StoreError> {
    Ok(ChainRow {
        agent: AgentId(bytes(row, "agent_id")?),
        epoch: small(row, "epoch")?,
        head: Head { size: number(row, "size")?, hash: Hex(bytes(row, "head")?) },
        agent_key: bytes(row, "agent_key")?,
        oldest_hub_key: small(row, "oldest_hub_key")?,
        cosigned: row.try_get("cosigned")?,
        statements: number(row, "statements")?,
        statement_hash: Hex(bytes(row, "statement_hash")?),
        open_leaves: number(row, "open_leaves")?,
        written_unix_ms: number(row, "written_unix_ms")?,
    })
}

fn leaf_of(row: &Row) -> Result<LeafRow, StoreError> {
    let call: Option<Vec<u8>> = row.try_get("call_id")?;
    let call: Option<[u8; 16]> =
        call.map(TryInto::try_into).transpose().map_err(|_| StoreError::Damaged { column: "call_id" })?;
    let attempt = small(row, "attempt")?;
    Ok(LeafRow {
        number: number(row, "number")?,
        hash: Hex(bytes(row, "hash")?),
        kind: Kind::from_number(small(row, "kind")?).ok_or(StoreError::Damaged { column: "kind" })?,
        attempt: call.map(|call| (CallId(call), attempt)),
        bytes: row.try_get("bytes")?,
    })
}

fn group_of(row: &Row) -> Result<GroupRow, StoreError> {
    Ok(GroupRow { first: number(row, "first_leaf")?, next: number(row, "next_leaf")?, record: row.try_get("record")? })
}

fn statement_of(row: &Row) -> Result<StatementRow, StoreError> {
    Ok(StatementRow {
        number: number(row, "number")?,
        first_leaf: number(row, "first_leaf")?,
        bytes: row.try_get("bytes")?,
        at_unix_ms: number(row, "at_unix_ms")?,
    })
}

/// A number that fits into less than 64 bits.
pub(super) fn small<T: TryFrom<i64>>(row: &Row, column: &'static str) -> Result<T, StoreError> {
    let value: i64 = row.try_get(column)?;
    T::try_from(value).map_err(|_| StoreError::Damaged { column })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::on_every_engine;
    use crate::store::Home;

    on_every_engine![
        a_chain_moves_only_from_where_it_stands,
        leaves_groups_and_statements_are_inserted_once_and_read_back_in_order,
    ];

    const AGENT: AgentId = AgentId([5; 16]);

    async fn a_chain_moves_only_from_where_it_stands(home: Home) {
        let store = home.open().await;
        let first = chain(2, 1);
        let mut batch = store.begin_batch(None, 1).await.unwrap();
        assert_eq!(batch.chain(AGENT, 3).await.unwrap(), None);
        assert!(batch.swap_chain(None, &first).await.unwrap());
        batch.commit(None, 1).await.unwrap();

        let next = chain(5, 2);
        let mut batch = store.begin_batch(None, 2).await.unwrap();
        assert!(!batch.swap_chain(Some(&chain(3, 1)), &next).await.unwrap(), "another size");
        let other_head = ChainRow { head: Head { size: 2, hash: Hex([9; 32]) }, ..first.clone() };
        assert!(!batch.swap_chain(Some(&other_head), &next).await.unwrap(), "another hash");
        assert!(!batch.swap_chain(Some(&chain(2, 0)), &next).await.unwrap(), "another statement");
        assert!(batch.swap_chain(Some(&first), &next).await.unwrap());
        batch.commit(None, 2).await.unwrap();

        assert_eq!(store.chain(AGENT, 3).await.unwrap(), Some(next.clone()));
        assert_eq!(store.newest_chain(AGENT).await.unwrap(), Some(next.clone()));
        assert_eq!(store.newest_chain(AgentId([6; 16])).await.unwrap(), None);
        assert_eq!(store.chains().await.unwrap(), [next]);
        let mut batch = store.begin_batch(None, 3).await.unwrap();
        assert!(matches!(batch.swap_chain(None, &first).await, Err(StoreError::Exists)), "a chain begins once");
    }

    async fn leaves_groups_and_statements_are_inserted_once_and_read_back_in_order(home: Home) {
        let store = home.open().await;
        let leaves = [leaf(0, None), leaf(1, Some((CallId([7; 16]), 2)))];
        let group = GroupRow { first: 0, next: 2, record: vec![1; 200] };
        let statement = StatementRow { number: 0, first_leaf: 0, bytes: vec![3; 70_000], at_unix_ms: 9 };
        let mut batch = store.begin_batch(None, 1).await.unwrap();
        batch.insert_leaves(AGENT, 3, &leaves, &group).await.unwrap();
        batch.insert_statement(AGENT, 3, &statement).await.unwrap();
        assert_eq!(batch.leaves_from(AGENT, 3, 1, 9).await.unwrap(), leaves[1..]);
        assert_eq!(batch.groups_after(AGENT, 3, 1, 9).await.unwrap(), std::slice::from_ref(&group));
        batch.commit(None, 1).await.unwrap();

        let mut again = store.begin_batch(None, 2).await.unwrap();
        assert!(matches!(again.insert_leaves(AGENT, 3, &leaves, &group).await, Err(StoreError::Exists)));
        drop(again);
        let mut again = store.begin_batch(None, 2).await.unwrap();
        assert!(matches!(again.insert_statement(AGENT, 3, &statement).await, Err(StoreError::Exists)));
        drop(again);

        assert_eq!(store.leaves_from(AGENT, 3, 0, 9).await.unwrap(), leaves);
        assert_eq!(store.leaves_from(AGENT, 3, 0, 1).await.unwrap(), leaves[..1]);
        assert_eq!(store.leaf_hash(AGENT, 3, 1).await.unwrap(), Some(Hex([1; 32])));
        assert_eq!(store.leaf_hash(AGENT, 2, 1).await.unwrap(), None);
        assert_eq!(store.groups_after(AGENT, 3, 2, 9).await.unwrap(), []);
        assert_eq!(store.statements_from(AGENT, 3, 0, 9).await.unwrap(), [statement]);
        assert_eq!(store.statements_from(AGENT, 3, 1, 9).await.unwrap(), []);
    }

    fn chain(size: u64, statements: u64) -> ChainRow {
        ChainRow {
            agent: AGENT,
            epoch: 3,
            head: Head { size, hash: Hex([1; 32]) },
            agent_key: [2; 32],
            oldest_hub_key: 4,
            cosigned: vec![5; 220],
            statements,
            statement_hash: Hex([6; 32]),
            open_leaves: 1,
            written_unix_ms: 7,
        }
    }

    fn leaf(number: u8, attempt: Option<(CallId, u8)>) -> LeafRow {
        LeafRow {
            number: number.into(),
            hash: Hex([number; 32]),
            kind: Kind::Close,
            attempt,
            bytes: vec![number; 2048],
        }
    }
}
