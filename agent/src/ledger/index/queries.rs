//! Every question that the index answers.
//!
//! Invariant: nothing is written here, so that a command may ask beside a running agent.

use std::collections::BTreeMap;
use std::path::Path;

use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::signing::Hash;
use keyhaven_protocol::statement::Reason;
use rusqlite::Connection;
use rusqlite::OpenFlags;
use rusqlite::Row;
use rusqlite::params;
use serde::Serialize;

use super::load::count;
use super::write::integer;
use crate::ledger::error::LedgerError;
use crate::ledger::error::Place;
use crate::ledger::segment::SegmentId;

/// What the owner earned, in nano-USD.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Earnings {
    /// Attempts that were ended.
    pub attempts: u64,
    /// What they cost at list prices, as this agent metered them.
    pub list: NanoUsd,
    /// What the hub credited.
    pub credited: NanoUsd,
    /// What was paid out of that.
    pub paid_out: NanoUsd,
    /// What was not.
    pub unpaid: NanoUsd,
    /// Ended attempts that the hub has not said anything about.
    pub waiting_attempts: u64,
    /// What those cost at list prices.
    pub waiting_list: NanoUsd,
    /// Attempts with two figures that differ by more than a shorter reading.
    pub disputed_attempts: u64,
    /// By how much the higher figures are above the lower ones.
    pub disputed_difference: NanoUsd,
    /// By model, the most credited first.
    pub models: Vec<ModelEarnings>,
}

/// What one model earned, in nano-USD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelEarnings {
    /// As tickets name it.
    pub model: String,
    /// Attempts that were ended.
    pub attempts: u64,
    /// What they cost at list prices, as this agent metered them.
    pub list: NanoUsd,
    /// What the hub credited.
    pub credited: NanoUsd,
}

/// Why an attempt is not paid as it was metered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimClass {
    /// It has no end in the ledger: it is under way.
    Open,
    /// The hub has not said anything about its end, or meters it still.
    Unacknowledged,
    /// The hub pays nothing.
    Unpaid,
    /// Both metered it, and differently.
    Disputed,
    /// The hub saw fewer bytes; its figure is paid, and nobody is at fault.
    Short,
}

/// An attempt that is not paid as it was metered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// The call.
    pub call: CallId,
    /// The attempt at it.
    pub attempt: u8,
    /// As the ticket names it.
    pub model: String,
    /// Why it is listed.
    pub class: ClaimClass,
    /// The hub's reason, by its name.
    pub reason: Option<&'static str>,
    /// The number of the leaf that ends it, or else of the one that opened it.
    pub leaf: u64,
    /// The epoch of that leaf.
    pub epoch: u32,
    /// When that was, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// What it costs at list prices, as this agent metered it.
    pub list: NanoUsd,
    /// The same as the hub metered it.
    pub hub_list: Option<NanoUsd>,
    /// What the hub credited.
    pub credit: Option<NanoUsd>,
}

/// An attempt, by its OPEN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) struct OpenAttempt {
    pub(in crate::ledger) call: CallId,
    pub(in crate::ledger) attempt: u8,
    /// The epoch and number of its OPEN.
    pub(in crate::ledger) epoch: u32,
    pub(in crate::ledger) opened: u64,
    /// By which ticket.
    pub(in crate::ledger) ticket: Hash,
}

/// A connection that is asked.
pub(in crate::ledger) struct Reading<'c> {
    connection: &'c Connection,
}

/// Opens an index that another process writes.
pub(in crate::ledger) fn open_beside(file: &Path) -> Result<Connection, LedgerError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}

impl<'c> Reading<'c> {
    /// Asks by this connection.
    pub(in crate::ledger) const fn new(connection: &'c Connection) -> Self {
        Self { connection }
    }

    /// The group that holds a leaf: the number of its first one, and its entry.
    pub(in crate::ledger) fn spot(&self, epoch: u32, leaf: u64) -> Result<Option<(u64, Place)>, LedgerError> {
        let mut find = self.connection.prepare_cached(
            "SELECT first, segment_first, byte FROM spot WHERE epoch = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1",
        )?;
        let mut rows = find.query(params![epoch, integer(leaf)?])?;
        rows.next()?.map(|row| spot_of(epoch, row)).transpose()
    }

    /// The group that holds a leaf, and all after it.
    pub(in crate::ledger) fn spots_from(&self, epoch: u32, leaf: u64) -> Result<BTreeMap<u64, Place>, LedgerError> {
        let first = self.spot(epoch, leaf)?.map_or(leaf, |(first, _)| first);
        let mut find =
            self.connection.prepare("SELECT first, segment_first, byte FROM spot WHERE epoch = ?1 AND first >= ?2")?;
        let mut rows = find.query(params![epoch, integer(first)?])?;
        let mut spots = BTreeMap::new();
        while let Some(row) = rows.next()? {
            spots.extend([spot_of(epoch, row)?]);
        }
        Ok(spots)
    }

    /// Attempts without an end, in the order in which they were opened.
    pub(in crate::ledger) fn open_attempts(&self) -> Result<Vec<OpenAttempt>, LedgerError> {
        let mut find = self.connection.prepare(
            "SELECT call, attempt, epoch, opened, ticket FROM attempt WHERE closed IS NULL ORDER BY epoch, opened",
        )?;
        let mut rows = find.query([])?;
        let mut open = Vec::new();
        while let Some(row) = rows.next()? {
            open.push(attempt_of(row)?);
        }
        Ok(open)
    }

    /// Where an attempt was opened.
    pub(in crate::ledger) fn attempt(&self, call: CallId, attempt: u8) -> Result<Option<OpenAttempt>, LedgerError> {
        let mut find = self.connection.prepare_cached(
            "SELECT call, attempt, epoch, opened, ticket FROM attempt WHERE call = ?1 AND attempt = ?2",
        )?;
        let mut rows = find.query(params![call.0, attempt])?;
        rows.next()?.map(attempt_of).transpose()
    }

    /// The newest attempts, so many at most.
    pub(in crate::ledger) fn newest_attempts(&self, most: u32) -> Result<Vec<(CallId, u8)>, LedgerError> {
        let mut find =
            self.connection.prepare("SELECT call, attempt FROM attempt ORDER BY call DESC, attempt DESC LIMIT ?1")?;
        let rows = find.query_map([most], |row| Ok((CallId(row.get(0)?), row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The hub's keys that were recorded.
    pub(in crate::ledger) fn hub_keys(&self) -> Result<Vec<Vec<u8>>, LedgerError> {
        let mut find = self.connection.prepare("SELECT entry FROM hub_key ORDER BY number")?;
        let rows = find.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What was credited, and what of that was paid out.
    pub(in crate::ledger) fn credited_and_paid_out(&self) -> Result<(NanoUsd, NanoUsd), LedgerError> {
        let sum = |sql: &str| self.connection.query_row(sql, [], |row| row.get(0)).map(NanoUsd);
        Ok((sum("SELECT coalesce(sum(credit), 0) FROM attempt")?, sum("SELECT coalesce(sum(amount), 0) FROM payout")?))
    }

    /// What the owner earned.
    pub(in crate::ledger) fn earnings(&self) -> Result<Earnings, LedgerError> {
        let (credited, paid_out) = self.credited_and_paid_out()?;
        let mut find = self.connection.prepare(
            "SELECT model, count(*), sum(list), coalesce(sum(credit), 0) FROM attempt WHERE closed IS NOT NULL
             GROUP BY model ORDER BY 4 DESC, 3 DESC, 1",
        )?;
        let rows =
            find.query_map([], |row| Ok((row.get(0)?, row.get(1)?, NanoUsd(row.get(2)?), NanoUsd(row.get(3)?))))?;
        let model = |(model, attempts, list, credited)| {
            Ok::<_, LedgerError>(ModelEarnings { model, attempts: count(attempts)?, list, credited })
        };
        let models = rows.map(|row| model(row?)).collect::<Result<Vec<_>, _>>()?;
        let pair = |sql: &str, reasons: [u8; 2]| {
            let row = self.connection.query_row(sql, reasons, |row| Ok((row.get(0)?, NanoUsd(row.get(1)?))))?;
            Ok::<_, LedgerError>((count(row.0)?, row.1))
        };
        let (waiting_attempts, waiting_list) = pair(
            "SELECT count(*), coalesce(sum(list), 0) FROM attempt
             WHERE closed IS NOT NULL AND (reason IS NULL OR reason IN (?1, ?2))",
            [Reason::Open.number(), Reason::Open.number()],
        )?;
        let (disputed_attempts, disputed_difference) = pair(
            "SELECT count(*), coalesce(sum(abs(list - coalesce(hub_list, settled_list, 0))), 0) FROM attempt
             WHERE reason IN (?1, ?2)",
            [Reason::AgentAbove.number(), Reason::AgentBelow.number()],
        )?;
        Ok(Earnings {
            attempts: models.iter().map(|model| model.attempts).sum(),
            list: NanoUsd(self.connection.query_row(
                "SELECT coalesce(sum(list), 0) FROM attempt WHERE closed IS NOT NULL",
                [],
                |row| row.get(0),
            )?),
            credited,
            paid_out,
            unpaid: NanoUsd(credited.0.saturating_sub(paid_out.0)),
            waiting_attempts,
            waiting_list,
            disputed_attempts,
            disputed_difference,
            models,
        })
    }

    /// Attempts that are not paid as they were metered, the oldest first, so many at most.
    pub(in crate::ledger) fn claims(&self, most: u32) -> Result<Vec<Claim>, LedgerError> {
        let mut find = self.connection.prepare(
            "SELECT call, attempt, model, epoch, opened, opened_ms, closed, closed_ms, list, reason, hub_list, credit
             FROM attempt ORDER BY epoch, opened",
        )?;
        let mut rows = find.query([])?;
        let mut claims = Vec::new();
        while let Some(row) = rows.next()? {
            let list: Option<i64> = row.get(8)?;
            let reason: Option<u8> = row.get(9)?;
            let credit: Option<i64> = row.get(11)?;
            let closed: Option<i64> = row.get(6)?;
            let reason = reason.and_then(Reason::from_number);
            let Some(class) = class(closed.is_some(), list.unwrap_or(0), reason, credit.unwrap_or(0)) else { continue };
            let (leaf, at_ms) = match closed {
                Some(closed) => (closed, row.get::<_, Option<i64>>(7)?.unwrap_or(0)),
                None => (row.get(4)?, row.get(5)?),
            };
            claims.push(Claim {
                call: CallId(row.get(0)?),
                attempt: row.get(1)?,
                model: row.get(2)?,
                class,
                reason: reason.map(Reason::name),
                leaf: count(leaf)?,
                epoch: row.get(3)?,
                at_unix_ms: count(at_ms)?,
                list: NanoUsd(list.unwrap_or(0)),
                hub_list: row.get::<_, Option<i64>>(10)?.map(NanoUsd),
                credit: credit.map(NanoUsd),
            });
            if claims.len() >= usize::try_from(most).unwrap_or(usize::MAX) {
                break;
            }
        }
        Ok(claims)
    }
}

fn spot_of(epoch: u32, row: &Row<'_>) -> Result<(u64, Place), LedgerError> {
    let segment = SegmentId { epoch, first: count(row.get(1)?)? };
    Ok((count(row.get(0)?)?, Place { segment, offset: count(row.get(2)?)? }))
}

fn attempt_of(row: &Row<'_>) -> Result<OpenAttempt, LedgerError> {
    Ok(OpenAttempt {
        call: CallId(row.get(0)?),
        attempt: row.get(1)?,
        epoch: row.get(2)?,
        opened: count(row.get(3)?)?,
        ticket: Hex(row.get(4)?),
    })
}

/// The class of an attempt; none if it is paid as it was metered, or was for nothing.
fn class(is_closed: bool, list: i64, reason: Option<Reason>, credit: i64) -> Option<ClaimClass> {
    match reason {
        _ if !is_closed => Some(ClaimClass::Open),
        None | Some(Reason::Open) => Some(ClaimClass::Unacknowledged),
        Some(Reason::AgentAbove | Reason::AgentBelow) => Some(ClaimClass::Disputed),
        Some(Reason::Short) => Some(ClaimClass::Short),
        Some(
            Reason::Unobserved
            | Reason::Amnesia
            | Reason::OrphanBudget
            | Reason::Late
            | Reason::Refused
            | Reason::NoFigure,
        ) if list > 0 && credit == 0 => Some(ClaimClass::Unpaid),
        Some(
            Reason::Noted
            | Reason::Agreed
            | Reason::Unobserved
            | Reason::Amnesia
            | Reason::OrphanBudget
            | Reason::Late
            | Reason::Refused
            | Reason::NoFigure
            | Reason::Lowered,
        ) => None,
    }
}
