//! What the index says about itself when it is opened.
//!
//! Invariant: a value that was never written is an error, and the index is then thrown away.

use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Purpose;
use keyhaven_protocol::statement::Cosigned;
use keyhaven_protocol::statement::Stated;
use rusqlite::Connection;
use rusqlite::OptionalExtension as _;
use rusqlite::Row;

use super::Cursor;
use crate::ledger::error::LedgerError;
use crate::ledger::error::Place;
use crate::ledger::segment::SegmentId;

/// The layout of its tables; 0 in a new file.
pub(super) fn format(connection: &Connection) -> Result<i64, LedgerError> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// How far it has read the log.
pub(super) fn cursor(connection: &Connection) -> Result<Option<Cursor>, LedgerError> {
    let mut rows = connection.prepare(
        "SELECT fleet, purpose, agent, epoch, segment_epoch, segment_first, byte, size, head, statements, stated_hash,
                stated_leaves, cosigned FROM cursor",
    )?;
    let Some(mut cursor) = rows.query_row([], |row| Ok(read(row))).optional()?.transpose()? else { return Ok(None) };
    let mut open = connection.prepare("SELECT leaf FROM open_leaf")?;
    for leaf in open.query_map([], |row| row.get::<_, i64>(0))? {
        cursor.stated.open.insert(count(leaf?)?);
    }
    Ok(Some(cursor))
}

fn read(row: &Row<'_>) -> Result<Cursor, LedgerError> {
    let strange = || LedgerError::Index("a value that was never written".into());
    let purpose = Purpose::from_number(row.get(1)?).ok_or_else(strange)?;
    let chain = ChainId { fleet: FleetId(row.get(0)?), purpose, agent: AgentId(row.get(2)?), epoch: row.get(3)? };
    let segment = SegmentId { epoch: row.get(4)?, first: count(row.get(5)?)? };
    let cosigned: Option<Vec<u8>> = row.get(12)?;
    Ok(Cursor {
        chain,
        place: Place { segment, offset: count(row.get(6)?)? },
        head: Head { size: count(row.get(7)?)?, hash: Hex(row.get(8)?) },
        stated: Stated {
            statements: count(row.get(9)?)?,
            hash: Hex(row.get(10)?),
            leaves: count(row.get(11)?)?,
            open: std::collections::BTreeSet::new(),
        },
        cosigned: cosigned.map(|bytes| Cosigned::decode(&bytes)).transpose().map_err(|_| strange())?,
    })
}

/// A count as Rust has them.
pub(super) fn count(number: i64) -> Result<u64, LedgerError> {
    u64::try_from(number).map_err(|_| LedgerError::Index("a count below 0".into()))
}
