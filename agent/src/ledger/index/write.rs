//! Every statement that writes the index.
//!
//! Invariant: an amount is written as the leaf or the statement says it, never worked out here.

use std::collections::BTreeMap;

use keyhaven_protocol::id::CallId;
use keyhaven_protocol::leaf::Close;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Leaf;
use keyhaven_protocol::statement::Line;
use keyhaven_protocol::statement::Statement;
use rusqlite::Connection;
use rusqlite::params;

use super::Cursor;
use super::Unstated;
use crate::ledger::error::LedgerError;
use crate::ledger::error::Place;

const TABLES: &str = "
CREATE TABLE cursor (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    fleet BLOB NOT NULL, purpose INTEGER NOT NULL, agent BLOB NOT NULL, epoch INTEGER NOT NULL,
    segment_epoch INTEGER NOT NULL, segment_first INTEGER NOT NULL, byte INTEGER NOT NULL,
    size INTEGER NOT NULL, head BLOB NOT NULL,
    statements INTEGER NOT NULL, stated_hash BLOB NOT NULL, stated_leaves INTEGER NOT NULL,
    cosigned BLOB
) STRICT;
CREATE TABLE open_leaf (leaf INTEGER PRIMARY KEY) STRICT;
CREATE TABLE spot (
    epoch INTEGER NOT NULL, first INTEGER NOT NULL, segment_first INTEGER NOT NULL, byte INTEGER NOT NULL,
    PRIMARY KEY (epoch, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE attempt (
    call BLOB NOT NULL, attempt INTEGER NOT NULL,
    epoch INTEGER NOT NULL, opened INTEGER NOT NULL, opened_ms INTEGER NOT NULL,
    ticket BLOB NOT NULL, model TEXT NOT NULL, ceiling INTEGER NOT NULL, tier INTEGER NOT NULL,
    parts INTEGER NOT NULL, so_far INTEGER NOT NULL,
    closed INTEGER, closed_ms INTEGER, list INTEGER,
    reason INTEGER, hub_list INTEGER, settled_list INTEGER, credit INTEGER,
    PRIMARY KEY (call, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX attempt_open ON attempt (opened) WHERE closed IS NULL;
CREATE TABLE hub_key (number INTEGER PRIMARY KEY, entry BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE payout (
    epoch INTEGER NOT NULL, leaf INTEGER NOT NULL, payout BLOB NOT NULL, amount INTEGER NOT NULL,
    method TEXT NOT NULL, reference TEXT NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (epoch, leaf)
) STRICT, WITHOUT ROWID;
";

/// How the connection works: durable enough, since the log is the truth.
pub(super) fn prepare(connection: &Connection) -> Result<(), LedgerError> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// The tables of an empty index.
pub(super) fn create_tables(connection: &Connection, format: i64) -> Result<(), LedgerError> {
    connection.execute_batch(TABLES)?;
    connection.pragma_update(None, "user_version", format)?;
    Ok(())
}

pub(super) fn begin(connection: &Connection) -> Result<(), LedgerError> {
    Ok(connection.execute_batch("BEGIN IMMEDIATE")?)
}

pub(super) fn commit(connection: &Connection) -> Result<(), LedgerError> {
    Ok(connection.execute_batch("COMMIT")?)
}

/// How far the log was read.
pub(super) fn cursor(connection: &Connection, cursor: &Cursor) -> Result<(), LedgerError> {
    let mut put = connection.prepare_cached(
        "INSERT OR REPLACE INTO cursor VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    let Cursor { chain, place, head, stated, cosigned } = cursor;
    put.execute(params![
        chain.fleet.0,
        chain.purpose.number(),
        chain.agent.0,
        chain.epoch,
        place.segment.epoch,
        integer(place.segment.first)?,
        integer(place.offset)?,
        integer(head.size)?,
        head.hash.0,
        integer(stated.statements)?,
        stated.hash.0,
        integer(stated.leaves)?,
        cosigned.as_ref().map(|cosigned| cosigned.encode()),
    ])?;
    connection.prepare_cached("DELETE FROM open_leaf")?.execute([])?;
    for leaf in &stated.open {
        connection.prepare_cached("INSERT INTO open_leaf VALUES (?1)")?.execute([integer(*leaf)?])?;
    }
    Ok(())
}

/// Where a group is.
pub(super) fn spot(connection: &Connection, epoch: u32, first: u64, place: Place) -> Result<(), LedgerError> {
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO spot VALUES (?1, ?2, ?3, ?4)")?;
    put.execute(params![epoch, integer(first)?, integer(place.segment.first)?, integer(place.offset)?])?;
    Ok(())
}

/// What a leaf changes.
pub(super) fn leaf(connection: &Connection, leaf: &Leaf) -> Result<(), LedgerError> {
    let (number, at_ms) = (integer(leaf.number)?, integer(leaf.at_unix_ms)?);
    match &leaf.event {
        Event::Open(signed) => {
            let ticket = signed.ticket();
            // In a later epoch it is said again, of leaves that the hub has not heard of.
            let mut put = connection.prepare_cached(
                "INSERT OR REPLACE INTO attempt (call, attempt, epoch, opened, opened_ms, ticket, model, ceiling, tier, parts, so_far)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, 0)",
            )?;
            put.execute(params![
                ticket.call.0,
                ticket.attempt,
                leaf.epoch,
                number,
                at_ms,
                signed.hash().0,
                ticket.model,
                ticket.ceiling.0,
                ticket.tier.0,
            ])?;
        }
        Event::Close(close) => closed(connection, close, number, at_ms)?,
        Event::Part(part) => {
            let mut put = connection
                .prepare_cached("UPDATE attempt SET parts = ?3, so_far = ?4 WHERE call = ?1 AND attempt = ?2")?;
            put.execute(params![part.call.0, part.attempt, part.part, part.metered.list.0])?;
        }
        Event::Adjust(adjust) => {
            let mut put = connection.prepare_cached("UPDATE attempt SET list = ?3 WHERE call = ?1 AND attempt = ?2")?;
            put.execute(params![adjust.call.0, adjust.attempt, adjust.list.0])?;
        }
        Event::Payout(payout) => {
            let mut put = connection.prepare_cached("INSERT INTO payout VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
            let (method, reference) = (&payout.method, &payout.reference);
            put.execute(params![leaf.epoch, number, payout.payout.0, payout.amount.0, method, reference, at_ms])?;
        }
        Event::HubKey(entry) => {
            let mut put = connection
                .prepare_cached("INSERT OR IGNORE INTO hub_key (number, entry) SELECT count(*), ?1 FROM hub_key")?;
            put.execute([entry])?;
        }
        Event::KeyRotation(_) | Event::Epoch(_) => {}
    }
    Ok(())
}

fn closed(connection: &Connection, close: &Close, number: i64, at_ms: i64) -> Result<(), LedgerError> {
    let mut put = connection.prepare_cached(
        "UPDATE attempt SET closed = ?3, closed_ms = ?4, list = coalesce(?5, so_far) WHERE call = ?1 AND attempt = ?2",
    )?;
    let list = close.metered.as_ref().map(|metered| metered.list.0);
    put.execute(params![close.call.0, close.attempt, number, at_ms, list])?;
    Ok(())
}

/// What the hub says became of leaves.
pub(super) fn statement(
    connection: &Connection,
    statement: &Statement,
    unstated: &BTreeMap<u64, Unstated>,
) -> Result<(), LedgerError> {
    let numbered = (statement.first_leaf..).zip(&statement.lines);
    let earlier = statement.earlier.iter().map(|earlier| (earlier.number, &earlier.line));
    for (number, said) in earlier.chain(numbered) {
        if let Some((call, attempt)) = unstated.get(&number).and_then(|leaf| leaf.about) {
            line(connection, call, attempt, said)?;
        }
    }
    Ok(())
}

fn line(connection: &Connection, call: CallId, attempt: u8, line: &Line) -> Result<(), LedgerError> {
    let mut put = connection.prepare_cached(
        "UPDATE attempt SET reason = ?3, hub_list = coalesce(?4, hub_list), settled_list = coalesce(?5, settled_list), credit = coalesce(?6, credit)
         WHERE call = ?1 AND attempt = ?2",
    )?;
    let settled = line.settled.as_ref();
    put.execute(params![
        call.0,
        attempt,
        line.reason.number(),
        settled.and_then(|settled| settled.hub.as_ref()).map(|hub| hub.list.0),
        settled.map(|settled| settled.list.0),
        settled.map(|settled| settled.credit.0),
    ])?;
    Ok(())
}

/// A number as SQLite has them.
pub(super) fn integer(number: u64) -> Result<i64, LedgerError> {
    i64::try_from(number).map_err(|_| LedgerError::Index(format!("{number} is beyond what is ever counted").into()))
}
