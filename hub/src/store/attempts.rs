//! What chains say of attempts, which of their CLOSE leaves wait, what attempts were credited, and
//! what owners took less for them.
//!
//! Invariant: an attempt is credited once; what waits is there until its leaf has its second line.

use std::collections::HashMap;
use std::collections::HashSet;

use keyhaven_protocol::chain::Attempt;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::id::HubNodeId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::settle::Shares;
use keyhaven_protocol::signing::Hash;
use keyhaven_protocol::statement::Reason;

use super::Store;
use super::StoreError;
use super::amount;
use super::bytes;
use super::chains::small;
use super::engine::REPORT_TIME_MAX;
use super::engine::Row;
use super::engine::Rows;
use super::engine::Update;
use super::engine::marks;
use super::engine::query;
use super::ledger::Batch;
use super::maybe_bytes;
use super::number;
use super::time;

/// An attempt as one chain tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptRow {
    /// What its leaves say.
    pub said: Attempt,
    /// Zone and tier of its ticket.
    pub shares: Shares,
    /// The boot that ordered it.
    pub boot: BootId,
    /// The node of the hub that did.
    pub hub_node: HubNodeId,
    /// The number of its OPEN leaf, which holds the ticket.
    pub open_leaf: u64,
    /// CLOSE had a figure, or an ADJUST gave one.
    pub has_figure: bool,
    /// How much of the answer CLOSE says left the agent.
    pub response_bytes: u64,
}

/// A CLOSE leaf that waits for its call's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenLeaf {
    /// Of whose chain.
    pub agent: AgentId,
    /// Of which of them.
    pub epoch: u32,
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: Hash,
    /// The call.
    pub call: CallId,
    /// The attempt at it.
    pub attempt: u8,
    /// Since when it waits.
    pub since_unix_ms: u64,
}

/// Who paid a credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer {
    /// The consumer.
    Consumer,
    /// The operator, for what nobody saw.
    OrphanBudget,
    /// Nobody: it was 0.
    Nobody,
}

/// What an attempt was credited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreditRow {
    /// The call.
    pub call: CallId,
    /// The attempt at it.
    pub attempt: u8,
    /// Whose.
    pub agent: AgentId,
    /// By a leaf of which chain.
    pub epoch: u32,
    /// That leaf's number.
    pub number: u64,
    /// Why so much.
    pub reason: Reason,
    /// By whom.
    pub paid_by: Payer,
    /// The figure that the consumer was charged, if any.
    pub hub: Option<NanoUsd>,
    /// The figure of the leaf, if it had one.
    pub agent_list: Option<NanoUsd>,
    /// The list cost that was settled.
    pub list: NanoUsd,
    /// What the owner got.
    pub credit: NanoUsd,
    /// Zone and tier that it was settled by.
    pub shares: Shares,
    /// Whose money it was, if a consumer's.
    pub account: Option<AccountId>,
    /// When it was booked.
    pub at_unix_ms: u64,
}

/// What an owner takes less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoweringRow {
    /// By a leaf of whose chain.
    pub agent: AgentId,
    /// Of which of them.
    pub epoch: u32,
    /// That leaf's number.
    pub number: u64,
    /// The call.
    pub call: CallId,
    /// The attempt at it.
    pub attempt: u8,
    /// The list cost that is settled now.
    pub list: NanoUsd,
    /// What the owner gave back, below 0.
    pub owner: NanoUsd,
    /// When.
    pub at_unix_ms: u64,
}

impl Payer {
    /// As the database and documents name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::OrphanBudget => "orphan_budget",
            Self::Nobody => "nobody",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Consumer, Self::OrphanBudget, Self::Nobody].into_iter().find(|payer| payer.name() == name)
    }
}

const CREDIT_COLUMNS: &str = "SELECT call_id, attempt, agent_id, epoch, number, reason, paid_by, hub_nano_usd, \
                              agent_nano_usd, list_nano_usd, credit_nano_usd, zone_ppm, tier_ppm, account_id, \
                              at_unix_ms FROM credits";

const OPEN_COLUMNS: &str =
    "SELECT agent_id, epoch, number, leaf_hash, call_id, attempt, since_unix_ms FROM open_leaves";

impl Store {
    /// What the attempts of a call were credited.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn credits_of(&self, call: CallId) -> Result<Vec<CreditRow>, StoreError> {
        let rows = query(format!("{CREDIT_COLUMNS} WHERE call_id = ? ORDER BY attempt"))
            .bind(call.0)
            .fetch_all(&self.database)
            .await?;
        rows.iter().map(credit_of).collect()
    }

    /// What an agent was credited, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn credits_to(&self, agent: AgentId) -> Result<Vec<CreditRow>, StoreError> {
        let rows = query(format!("{CREDIT_COLUMNS} WHERE agent_id = ? ORDER BY at_unix_ms, epoch, number"))
            .bind(agent.0)
            .within(REPORT_TIME_MAX)
            .fetch_all(&self.database)
            .await?;
        rows.iter().map(credit_of).collect()
    }

    /// What an agent's owner took less, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn lowerings_by(&self, agent: AgentId) -> Result<Vec<LoweringRow>, StoreError> {
        let statement = "SELECT agent_id, epoch, number, call_id, attempt, list_nano_usd, owner_nano_usd, at_unix_ms \
                         FROM lowerings WHERE agent_id = ? ORDER BY at_unix_ms, epoch, number";
        let rows = query(statement).bind(agent.0).within(REPORT_TIME_MAX).fetch_all(&self.database).await?;
        rows.iter().map(lowering_of).collect()
    }

    /// The CLOSE leaf's bytes of the attempt at a call that this agent closed first.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn close_leaf(&self, credit: &CreditRow) -> Result<Option<Vec<u8>>, StoreError> {
        let row = query("SELECT bytes FROM leaves WHERE agent_id = ? AND epoch = ? AND number = ?")
            .bind(credit.agent.0)
            .bind(i64::from(credit.epoch))
            .bind(time(credit.number)?)
            .fetch_optional(&self.database)
            .await?;
        row.map(|row| row.try_get("bytes")).transpose()
    }

    /// Leaves that wait, the oldest first, as many as this.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn open_leaves(&self, most: u32) -> Result<Vec<OpenLeaf>, StoreError> {
        let rows = query(format!("{OPEN_COLUMNS} ORDER BY since_unix_ms, agent_id, epoch, number LIMIT ?"))
            .bind(i64::from(most))
            .fetch_all(&self.database)
            .await?;
        rows.iter().map(open_leaf_of).collect()
    }
}

impl Batch {
    /// What a chain says of these attempts, as far as it says anything.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn attempts(
        &mut self,
        agent: AgentId,
        epoch: u32,
        calls: &[CallId],
    ) -> Result<HashMap<(CallId, u8), AttemptRow>, StoreError> {
        let statement = "SELECT call_id, attempt, ticket_hash, boot_id, hub_node, zone_ppm, tier_ppm, \
                         ceiling_nano_usd, open_leaf, parts, so_far_nano_usd, closed_hash, closed_nano_usd, \
                         has_figure, response_bytes FROM attempts WHERE agent_id = ? AND epoch = ? AND call_id";
        let Some(among) = among(statement, calls) else { return Ok(HashMap::new()) };
        let mut asked = query(among.sql).bind(agent.0).bind(i64::from(epoch));
        for call in among.calls {
            asked = asked.bind(call.0);
        }
        let rows = asked.fetch_all(&mut self.change).await?;
        let attempts = rows.iter().map(|row| {
            let attempt = (CallId(bytes(row, "call_id")?), small(row, "attempt")?);
            Ok((attempt, attempt_of(row)?))
        });
        attempts.collect()
    }

    /// Writes down what a chain says of attempts now.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::TimeOutOfRange`].
    pub async fn put_attempts(
        &mut self,
        agent: AgentId,
        epoch: u32,
        attempts: &[((CallId, u8), AttemptRow)],
    ) -> Result<(), StoreError> {
        let batch = self.number()?;
        let mut rows = Rows::new(
            "INSERT INTO attempts (agent_id, epoch, call_id, attempt, ticket_hash, boot_id, hub_node, zone_ppm, \
             tier_ppm, ceiling_nano_usd, open_leaf, parts, so_far_nano_usd, closed_hash, closed_nano_usd, \
             has_figure, response_bytes, batch)",
        );
        for ((call, attempt), row) in attempts {
            let said = &row.said;
            rows.push([
                agent.0.into(),
                i64::from(epoch).into(),
                call.0.into(),
                i64::from(*attempt).into(),
                (&said.ticket.0[..]).into(),
                row.boot.0.into(),
                row.hub_node.0.into(),
                i64::from(row.shares.zone.0).into(),
                i64::from(row.shares.tier.0).into(),
                said.ceiling.0.into(),
                time(row.open_leaf)?.into(),
                i64::from(said.parts).into(),
                said.so_far.0.into(),
                said.closed.as_ref().map(|(hash, _)| &hash.0[..]).into(),
                said.closed.map(|(_, list)| list.0).into(),
                i64::from(row.has_figure).into(),
                i64::try_from(row.response_bytes).unwrap_or(i64::MAX).into(),
                batch.into(),
            ]);
        }
        let updates =
            ["parts", "so_far_nano_usd", "closed_hash", "closed_nano_usd", "has_figure", "response_bytes", "batch"];
        rows.upsert("agent_id, epoch, call_id, attempt", &updates.map(Update::Set), &mut self.change).await
    }

    /// Leaves that wait for the end of one of these calls.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn open_leaves_of(&mut self, calls: &[CallId]) -> Result<Vec<OpenLeaf>, StoreError> {
        let Some(among) = among(&format!("{OPEN_COLUMNS} WHERE call_id"), calls) else { return Ok(Vec::new()) };
        let sql = format!("{} ORDER BY agent_id, epoch, number", among.sql);
        let rows = among.calls.fold(query(sql), |asked, call| asked.bind(call.0)).fetch_all(&mut self.change).await?;
        rows.iter().map(open_leaf_of).collect()
    }

    /// Lets leaves wait.
    ///
    /// # Errors
    /// [`StoreError::Query`], or [`StoreError::Exists`] if one waits already.
    pub async fn insert_open_leaves(&mut self, leaves: &[OpenLeaf]) -> Result<(), StoreError> {
        let mut rows =
            Rows::new("INSERT INTO open_leaves (agent_id, epoch, number, leaf_hash, call_id, attempt, since_unix_ms)");
        for leaf in leaves {
            rows.push([
                leaf.agent.0.into(),
                i64::from(leaf.epoch).into(),
                time(leaf.number)?.into(),
                (&leaf.hash.0[..]).into(),
                leaf.call.0.into(),
                i64::from(leaf.attempt).into(),
                time(leaf.since_unix_ms)?.into(),
            ]);
        }
        rows.insert(&mut self.change).await
    }

    /// A leaf waits no longer.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn delete_open_leaf(&mut self, leaf: &OpenLeaf) -> Result<(), StoreError> {
        query("DELETE FROM open_leaves WHERE agent_id = ? AND epoch = ? AND number = ?")
            .bind(leaf.agent.0)
            .bind(i64::from(leaf.epoch))
            .bind(time(leaf.number)?)
            .execute(&mut self.change)
            .await?;
        Ok(())
    }

    /// What attempts at these calls were credited.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn credits(&mut self, calls: &[CallId]) -> Result<HashMap<(CallId, u8), CreditRow>, StoreError> {
        let Some(among) = among(&format!("{CREDIT_COLUMNS} WHERE call_id"), calls) else { return Ok(HashMap::new()) };
        let asked = among.calls.fold(query(among.sql), |asked, call| asked.bind(call.0));
        let rows = asked.fetch_all(&mut self.change).await?;
        rows.iter().map(|row| credit_of(row).map(|credit| ((credit.call, credit.attempt), credit))).collect()
    }

    /// Writes down what attempts are credited.
    ///
    /// # Errors
    /// [`StoreError::Query`], or [`StoreError::Exists`] if one was credited before.
    pub async fn insert_credits(&mut self, credits: &[CreditRow]) -> Result<(), StoreError> {
        let batch = self.number()?;
        let mut rows = Rows::new(
            "INSERT INTO credits (call_id, attempt, agent_id, epoch, number, reason, paid_by, hub_nano_usd, \
             agent_nano_usd, list_nano_usd, credit_nano_usd, zone_ppm, tier_ppm, account_id, at_unix_ms, batch)",
        );
        for credit in credits {
            rows.push([
                credit.call.0.into(),
                i64::from(credit.attempt).into(),
                credit.agent.0.into(),
                i64::from(credit.epoch).into(),
                time(credit.number)?.into(),
                i64::from(credit.reason.number()).into(),
                credit.paid_by.name().into(),
                credit.hub.map(|hub| hub.0).into(),
                credit.agent_list.map(|list| list.0).into(),
                credit.list.0.into(),
                credit.credit.0.into(),
                i64::from(credit.shares.zone.0).into(),
                i64::from(credit.shares.tier.0).into(),
                credit.account.map(|account| account.0).into(),
                time(credit.at_unix_ms)?.into(),
                batch.into(),
            ]);
        }
        rows.insert(&mut self.change).await
    }

    /// What the operator's budget for what nobody saw has paid to an agent since this time.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn orphans_paid(&mut self, agent: AgentId, since_unix_ms: u64) -> Result<NanoUsd, StoreError> {
        let statement = "SELECT CAST(COALESCE(SUM(credit_nano_usd), 0) AS SIGNED) AS paid FROM credits \
                         WHERE agent_id = ? AND at_unix_ms >= ? AND paid_by = 'orphan_budget'";
        let row = query(statement).bind(agent.0).bind(time(since_unix_ms)?).fetch_one(&mut self.change).await?;
        amount(&row, "paid")
    }

    /// The list cost that stands for each of these calls' attempts, where an owner lowered it.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn lowered(&mut self, calls: &[CallId]) -> Result<HashMap<(CallId, u8), NanoUsd>, StoreError> {
        let statement = "SELECT call_id, attempt, MIN(list_nano_usd) AS list_nano_usd FROM lowerings WHERE call_id";
        let Some(among) = among(statement, calls) else { return Ok(HashMap::new()) };
        let sql = format!("{} GROUP BY call_id, attempt", among.sql);
        let rows = among.calls.fold(query(sql), |asked, call| asked.bind(call.0)).fetch_all(&mut self.change).await?;
        let lowered = rows
            .iter()
            .map(|row| Ok(((CallId(bytes(row, "call_id")?), small(row, "attempt")?), amount(row, "list_nano_usd")?)));
        lowered.collect()
    }

    /// Writes down what owners take less.
    ///
    /// # Errors
    /// [`StoreError::Query`], or [`StoreError::Exists`] if the leaf lowered something before.
    pub async fn insert_lowerings(&mut self, lowerings: &[LoweringRow]) -> Result<(), StoreError> {
        let batch = self.number()?;
        let mut rows = Rows::new(
            "INSERT INTO lowerings (agent_id, epoch, number, call_id, attempt, list_nano_usd, owner_nano_usd, \
             at_unix_ms, batch)",
        );
        for lowering in lowerings {
            rows.push([
                lowering.agent.0.into(),
                i64::from(lowering.epoch).into(),
                time(lowering.number)?.into(),
                lowering.call.0.into(),
                i64::from(lowering.attempt).into(),
                lowering.list.0.into(),
                lowering.owner.0.into(),
                time(lowering.at_unix_ms)?.into(),
                batch.into(),
            ]);
        }
        rows.insert(&mut self.change).await
    }

    /// The records of these calls, as JSON, as far as they are over.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn records(&mut self, calls: &[CallId]) -> Result<HashMap<CallId, String>, StoreError> {
        let Some(among) = among("SELECT call_id, record FROM calls WHERE call_id", calls) else {
            return Ok(HashMap::new());
        };
        let asked = among.calls.fold(query(among.sql), |asked, call| asked.bind(call.0));
        let rows = asked.fetch_all(&mut self.change).await?;
        rows.iter().map(|row| Ok((CallId(bytes(row, "call_id")?), row.try_get("record")?))).collect()
    }

    /// Which of these calls the database knows as under way.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn held_among(&mut self, calls: &[CallId]) -> Result<HashSet<CallId>, StoreError> {
        let Some(among) = among("SELECT call_id FROM holds WHERE call_id", calls) else { return Ok(HashSet::new()) };
        let asked = among.calls.fold(query(among.sql), |asked, call| asked.bind(call.0));
        let rows = asked.fetch_all(&mut self.change).await?;
        rows.iter().map(|row| bytes(row, "call_id").map(CallId)).collect()
    }
}

/// A statement about some calls, and the values for its places.
struct Among<'a> {
    sql: String,
    calls: std::iter::Take<std::iter::Chain<std::slice::Iter<'a, CallId>, std::iter::Repeat<&'a CallId>>>,
}

/// As many places as a power of two, so that there are few texts of a statement. None: no calls.
fn among<'a>(until: &str, calls: &'a [CallId]) -> Option<Among<'a>> {
    let first = calls.first()?;
    let places = calls.len().next_power_of_two();
    let sql = format!("{until} IN ({})", marks(places));
    Some(Among { sql, calls: calls.iter().chain(std::iter::repeat(first)).take(places) })
}

fn attempt_of(row: &Row) -> Result<AttemptRow, StoreError> {
    let closed_hash = maybe_bytes(row, "closed_hash")?.map(Hex);
    let closed_list: Option<i64> = row.try_get("closed_nano_usd")?;
    let said = Attempt {
        ticket: Hex(bytes(row, "ticket_hash")?),
        ceiling: amount(row, "ceiling_nano_usd")?,
        parts: small(row, "parts")?,
        so_far: amount(row, "so_far_nano_usd")?,
        closed: closed_hash.zip(closed_list.map(NanoUsd)),
    };
    Ok(AttemptRow {
        said,
        shares: shares_of(row)?,
        boot: BootId(bytes(row, "boot_id")?),
        hub_node: HubNodeId(bytes(row, "hub_node")?),
        open_leaf: number(row, "open_leaf")?,
        has_figure: number(row, "has_figure")? != 0,
        response_bytes: number(row, "response_bytes")?,
    })
}

fn shares_of(row: &Row) -> Result<Shares, StoreError> {
    Ok(Shares { zone: Ppm(small(row, "zone_ppm")?), tier: Ppm(small(row, "tier_ppm")?) })
}

fn open_leaf_of(row: &Row) -> Result<OpenLeaf, StoreError> {
    Ok(OpenLeaf {
        agent: AgentId(bytes(row, "agent_id")?),
        epoch: small(row, "epoch")?,
        number: number(row, "number")?,
        hash: Hex(bytes(row, "leaf_hash")?),
        call: CallId(bytes(row, "call_id")?),
        attempt: small(row, "attempt")?,
        since_unix_ms: number(row, "since_unix_ms")?,
    })
}

fn credit_of(row: &Row) -> Result<CreditRow, StoreError> {
    let paid_by: String = row.try_get("paid_by")?;
    let maybe = |column| Ok::<_, StoreError>(row.try_get::<Option<i64>>(column)?.map(NanoUsd));
    Ok(CreditRow {
        call: CallId(bytes(row, "call_id")?),
        attempt: small(row, "attempt")?,
        agent: AgentId(bytes(row, "agent_id")?),
        epoch: small(row, "epoch")?,
        number: number(row, "number")?,
        reason: Reason::from_number(small(row, "reason")?).ok_or(StoreError::Damaged { column: "reason" })?,
        paid_by: Payer::from_name(&paid_by).ok_or(StoreError::Damaged { column: "paid_by" })?,
        hub: maybe("hub_nano_usd")?,
        agent_list: maybe("agent_nano_usd")?,
        list: amount(row, "list_nano_usd")?,
        credit: amount(row, "credit_nano_usd")?,
        shares: shares_of(row)?,
        account: maybe_bytes(row, "account_id")?.map(AccountId),
        at_unix_ms: number(row, "at_unix_ms")?,
    })
}

fn lowering_of(row: &Row) -> Result<LoweringRow, StoreError> {
    Ok(LoweringRow {
        agent: AgentId(bytes(row, "agent_id")?),
        epoch: small(row, "epoch")?,
        number: number(row, "number")?,
        call: CallId(bytes(row, "call_id")?),
        attempt: small(row, "attempt")?,
        list: amount(row, "list_nano_usd")?,
        owner: amount(row, "owner_nano_usd")?,
        at_unix_ms: number(row, "at_unix_ms")?,
    })
}
