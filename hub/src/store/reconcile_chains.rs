//! Whether the books and agents' chains agree: what one has and the other lacks, and what both have
//! and tell differently.
//!
//! Invariant: all of it is of one moment; a difference of figures is told with both of them and with
//! what was made of it.

use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::statement::Reason;
use serde::Deserialize;
use serde::Serialize;

use super::Store;
use super::StoreError;
use super::bytes;
use super::chains::small;
use super::engine::REPORT_TIME_MAX;
use super::engine::Row;
use super::engine::Tx;
use super::engine::query;
use super::number;
use super::time;

/// Findings that are named of each kind; the others are counted.
const NAMED_MAX: usize = 100;

/// Under this name the last report is kept.
const META: &str = "reconciled_chains";

/// A leaf is missed when its call has been over for so long.
const MISSED_MS: u64 = 60 * 60 * 1000;

/// How books and chains compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainsReconciled {
    /// When.
    pub at_unix_ms: u64,
    /// Chains that there are.
    pub chains: u64,
    /// Their leaves.
    pub leaves: u64,
    /// Attempts that were credited, with nothing too.
    pub credited: u64,
    /// Leaves that wait for their calls to end.
    pub waiting: u64,
    /// How many calls were charged an hour ago or longer, and have no leaf.
    pub missing: u64,
    /// How many leaves tell of work that the hub has no charge for.
    pub extra: u64,
    /// How many figures differ.
    pub differing: u64,
    /// How many chains are not whole in the database; that is always a fault.
    pub broken: u64,
    /// A hundred of each kind at most.
    pub findings: Vec<ChainFinding>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainFinding {
    /// Which kind.
    pub what: ChainDifference,
    /// The call, or the chain.
    pub which: String,
    /// Whose agent.
    pub agent: Option<AgentId>,
    /// What became of it, as docs/LEDGER.md names it.
    pub class: String,
    /// The hub's figure at list prices, in nano-USD.
    pub hub_nano_usd: Option<i64>,
    /// The agent's figure at list prices, in nano-USD.
    pub agent_nano_usd: Option<i64>,
}

/// Kinds of differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainDifference {
    /// The hub has a charge and the agent no leaf.
    Missing,
    /// The agent has a leaf and the hub no charge.
    Extra,
    /// Both have a figure, and not the same.
    Differing,
    /// Leaves of a chain, or its head, are not there.
    Broken,
}

impl ChainDifference {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Missing => "charged, and no leaf has come",
            Self::Extra => "a leaf of what the hub has no charge for",
            Self::Differing => "both have it, with other figures",
            Self::Broken => "a chain that is not whole",
        }
    }
}

impl Store {
    /// Compares the books with agents' chains as they are in the database.
    ///
    /// # Errors
    /// [`StoreError::Query`], [`StoreError::TimedOut`] or [`StoreError::Damaged`].
    pub async fn reconcile_chains(&self, now_unix_ms: u64) -> Result<ChainsReconciled, StoreError> {
        let mut moment = self.database.snapshot().await?;
        let mut done = ChainsReconciled {
            at_unix_ms: now_unix_ms,
            chains: count(&mut moment, "SELECT COUNT(*) AS found FROM agent_chains").await?,
            leaves: count(&mut moment, "SELECT COUNT(*) AS found FROM leaves").await?,
            credited: count(&mut moment, "SELECT COUNT(*) AS found FROM credits").await?,
            waiting: count(&mut moment, "SELECT COUNT(*) AS found FROM open_leaves").await?,
            missing: 0,
            extra: 0,
            differing: 0,
            broken: 0,
            findings: Vec::new(),
        };
        let since = time(now_unix_ms.saturating_sub(MISSED_MS))?;
        for (what, statement) in CHECKS {
            let mut asked = query(statement).within(REPORT_TIME_MAX);
            if what == ChainDifference::Missing {
                asked = asked.bind(since);
            }
            let (mut found, mut named) = (0, Vec::new());
            asked
                .each(&mut moment, |row| {
                    found += 1;
                    if named.len() < NAMED_MAX {
                        named.push(finding_of(what, &row)?);
                    }
                    Ok(())
                })
                .await?;
            *done.counted(what) = found;
            done.findings.extend(named);
        }
        moment.rollback().await?;
        Ok(done)
    }

    /// Keeps a report as the last one.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn put_reconciled_chains(&self, done: &ChainsReconciled) -> Result<(), StoreError> {
        self.put_meta(META, &serde_json::to_string(done).expect("numbers and strings are JSON")).await
    }

    /// The last report, if there ever was one.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn reconciled_chains(&self) -> Result<Option<ChainsReconciled>, StoreError> {
        let Some(text) = self.meta(META).await? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|_| StoreError::Damaged { column: "value" })
    }
}

/// Statements that return what differs: `call_id`, `agent_id`, `epoch`, `reason`, `hub`, `agent`.
const CHECKS: [(ChainDifference, &str); 4] = [
    (
        ChainDifference::Missing,
        "SELECT calls.call_id AS call_id, calls.agent_id AS agent_id, 0 AS epoch, 0 AS reason, \
         calls.list_nano_usd AS hub, NULL AS agent FROM calls LEFT JOIN credits \
         ON credits.call_id = calls.call_id AND credits.agent_id = calls.agent_id \
         WHERE calls.began_unix_ms <= ? AND calls.cost_nano_usd > 0 AND credits.call_id IS NULL ORDER BY calls.call_id",
    ),
    (
        ChainDifference::Extra,
        "SELECT call_id, agent_id, epoch, reason, hub_nano_usd AS hub, agent_nano_usd AS agent FROM credits \
         WHERE reason IN (6, 7, 8) ORDER BY call_id",
    ),
    (
        ChainDifference::Differing,
        "SELECT call_id, agent_id, epoch, reason, hub_nano_usd AS hub, agent_nano_usd AS agent FROM credits \
         WHERE hub_nano_usd <> agent_nano_usd ORDER BY call_id",
    ),
    (
        ChainDifference::Broken,
        "SELECT agent_chains.agent_id AS call_id, agent_chains.agent_id AS agent_id, agent_chains.epoch AS epoch, \
         0 AS reason, agent_chains.size AS hub, COALESCE(kept.found, 0) AS agent FROM agent_chains \
         LEFT JOIN (SELECT agent_id, epoch, COUNT(*) AS found FROM leaves GROUP BY agent_id, epoch) AS kept \
         ON kept.agent_id = agent_chains.agent_id AND kept.epoch = agent_chains.epoch \
         LEFT JOIN leaves ON leaves.agent_id = agent_chains.agent_id AND leaves.epoch = agent_chains.epoch \
         AND leaves.number = agent_chains.size - 1 \
         WHERE COALESCE(kept.found, 0) <> agent_chains.size OR leaves.hash IS NULL OR leaves.hash <> agent_chains.head",
    ),
];

impl ChainsReconciled {
    const fn counted(&mut self, what: ChainDifference) -> &mut u64 {
        match what {
            ChainDifference::Missing => &mut self.missing,
            ChainDifference::Extra => &mut self.extra,
            ChainDifference::Differing => &mut self.differing,
            ChainDifference::Broken => &mut self.broken,
        }
    }
}

async fn count(moment: &mut Tx, statement: &'static str) -> Result<u64, StoreError> {
    number(&query(statement).within(REPORT_TIME_MAX).fetch_one(moment).await?, "found")
}

fn finding_of(what: ChainDifference, row: &Row) -> Result<ChainFinding, StoreError> {
    let agent: Option<Vec<u8>> = row.try_get("agent_id")?;
    let agent = agent.and_then(|agent| agent.try_into().ok()).map(AgentId);
    let reason = Reason::from_number(small(row, "reason")?).map(Reason::name);
    let figures: [Option<i64>; 2] = [row.try_get("hub")?, row.try_get("agent")?];
    let (which, class, [hub_nano_usd, agent_nano_usd]) = match what {
        ChainDifference::Missing => (CallId(bytes(row, "call_id")?).to_string(), "no_leaf", figures),
        ChainDifference::Extra | ChainDifference::Differing => {
            (CallId(bytes(row, "call_id")?).to_string(), reason.unwrap_or_default(), figures)
        }
        ChainDifference::Broken => {
            let (epoch, [size, kept]) = (small::<u32>(row, "epoch")?, figures.map(Option::unwrap_or_default));
            (format!("epoch {epoch}: {kept} leaves of {size}"), "not_whole", [None; 2])
        }
    };
    Ok(ChainFinding { what, which, agent, class: class.to_owned(), hub_nano_usd, agent_nano_usd })
}
