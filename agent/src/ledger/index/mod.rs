//! The SQLite index behind the log: what it all comes to, found quickly.
//!
//! It can be thrown away: whatever state of it is found, an older one or none, the log brings it
//! up to date. It is written after the log, off the way of calls.
//!
//! Invariant: it says nothing that is not in the log, and stands at an entry's end, whole entries
//! at a time.

mod load;
mod queries;
mod write;

pub use queries::Claim;
pub use queries::ClaimClass;
pub use queries::Earnings;
pub use queries::ModelEarnings;
pub(super) use queries::OpenAttempt;
pub(super) use queries::Reading;
pub(super) use queries::open_beside;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::chain::Group;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Kind as LeafKind;
use keyhaven_protocol::leaf::Leaf;
use keyhaven_protocol::signing::Hash;
use keyhaven_protocol::signing::hash_of;
use keyhaven_protocol::statement::Cosigned;
use keyhaven_protocol::statement::Stated;
use keyhaven_protocol::statement::Statement;
use rusqlite::Connection;

use super::check::Said;
use super::disk::Disk;
use super::entry::Kind;
use super::error::LedgerError;
use super::error::Place;
use super::scan::Entry;
use super::scan::Scan;
use super::scan::Step;
use super::segment::Header;

/// The file in the chain's folder.
pub(super) const FILE_NAME: &str = "index.db";

/// The layout of the tables: another one is thrown away.
const FORMAT: i64 = 1;

/// What is said where the log ends before the place that the index has read up to.
const LOST: &str = "the log ends here no longer: what was durable is lost";

/// Entries of one transaction while much is read.
const ENTRIES_PER_TRANSACTION: usize = 2_000;

/// A leaf that has no line yet, or waits for its second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unstated {
    /// Its hash.
    pub(super) hash: Hash,
    /// The attempt whose end it is, or that it corrects.
    pub(super) about: Option<(CallId, u8)>,
}

/// How far the log was read, and where its chain stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) chain: ChainId,
    /// The entry that comes next.
    pub(super) place: Place,
    pub(super) head: Head,
    pub(super) stated: Stated,
    /// The newest of this epoch.
    pub(super) cosigned: Option<Cosigned>,
}

/// The index, for its one writer.
pub(super) struct Index {
    connection: Connection,
    cursor: Option<Cursor>,
    /// By number, of the cursor's epoch.
    unstated: BTreeMap<u64, Unstated>,
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Index(Arc::from(error.to_string()))
    }
}

impl Index {
    /// The index in this file, or in memory without one. One that cannot be read, is of another
    /// layout or not of this log is emptied.
    ///
    /// # Errors
    /// The file cannot be made, or the log not be read.
    pub(super) fn open(file: Option<&Path>, disk: &dyn Disk) -> Result<Self, LedgerError> {
        let Some(file) = file else { return Self::empty(Connection::open_in_memory()?) };
        match Self::open_as_it_is(file, disk) {
            Ok(Some(index)) => Ok(index),
            Err(damaged @ LedgerError::Damaged { .. }) => Err(damaged),
            Ok(None) | Err(_) => {
                for suffix in ["", "-wal", "-shm"] {
                    let mut name = file.as_os_str().to_owned();
                    name.push(suffix);
                    // Where it was not there, or stays, opening it tells.
                    let _ = std::fs::remove_file(name);
                }
                Self::empty(Connection::open(file)?)
            }
        }
    }

    fn open_as_it_is(file: &Path, disk: &dyn Disk) -> Result<Option<Self>, LedgerError> {
        let connection = Connection::open(file)?;
        write::prepare(&connection)?;
        if load::format(&connection)? != FORMAT {
            return Ok(None);
        }
        let cursor = load::cursor(&connection)?;
        let mut index = Self { connection, cursor, unstated: BTreeMap::new() };
        if index.is_of(disk)? { index.refill(disk).map(|()| Some(index)) } else { Ok(None) }
    }

    fn empty(connection: Connection) -> Result<Self, LedgerError> {
        write::prepare(&connection)?;
        write::create_tables(&connection, FORMAT)?;
        Ok(Self { connection, cursor: None, unstated: BTreeMap::new() })
    }

    /// How far it has read.
    pub(super) const fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    /// Leaves that have no last line yet.
    pub(super) const fn unstated(&self) -> &BTreeMap<u64, Unstated> {
        &self.unstated
    }

    /// For questions.
    pub(super) const fn reading(&self) -> Reading<'_> {
        Reading::new(&self.connection)
    }

    /// All that it says, to be compared.
    #[cfg(test)]
    pub(super) fn rows(&self) -> Vec<String> {
        let mut rows = vec![format!("{:?} {:?}", self.cursor, self.unstated)];
        for table in ["cursor", "open_leaf", "spot", "attempt", "hub_key", "payout"] {
            let mut find = self.connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let columns = find.column_count();
            let mut found = find.query([]).unwrap();
            while let Some(row) = found.next().unwrap() {
                let values: Vec<_> = (0..columns).map(|at| row.get::<_, rusqlite::types::Value>(at).unwrap()).collect();
                rows.push(format!("{table} {values:?}"));
            }
        }
        rows
    }

    /// Reads the log on, up to a place or to its end. `told` hears how far, now and then.
    ///
    /// # Errors
    /// The log is damaged, or the index cannot be written. It is to be opened again then: what it
    /// holds in memory may be ahead of its tables.
    pub(super) fn follow(
        &mut self,
        disk: &dyn Disk,
        until: Option<Place>,
        mut told: impl FnMut(Place),
    ) -> Result<(), LedgerError> {
        let segments = super::scan::segments(disk)?;
        let mut scan = match &self.cursor {
            Some(cursor) => Scan::from(disk, segments, cursor.place),
            None => Scan::new(disk, segments),
        };
        if let Some(until) = until {
            scan = scan.until(until);
        }
        let mut entries = 0;
        loop {
            match scan.step()? {
                Step::Segment(header) => self.begin_segment(&header)?,
                Step::Entry(entry) => {
                    if entries == 0 {
                        write::begin(&self.connection)?;
                    }
                    self.take(&entry)?;
                    entries += 1;
                    if entries == ENTRIES_PER_TRANSACTION {
                        self.commit()?;
                        told(entry.place);
                        entries = 0;
                    }
                }
                // What is wrong at the log's end is for its owner to cut off, or still being written.
                Step::End(_) if entries > 0 => return self.commit(),
                Step::End(_) => return Ok(()),
            }
        }
    }

    fn commit(&mut self) -> Result<(), LedgerError> {
        if let Some(cursor) = &self.cursor {
            write::cursor(&self.connection, cursor)?;
        }
        write::commit(&self.connection)
    }

    fn begin_segment(&mut self, header: &Header) -> Result<(), LedgerError> {
        let place = Place { segment: header.segment(), offset: super::segment::HEADER_BYTES as u64 };
        match &mut self.cursor {
            Some(cursor) if cursor.chain == header.chain && cursor.head == header.before => cursor.place = place,
            Some(cursor) if cursor.chain == header.chain => {
                let why = "it does not go on where the segment before ended".to_owned();
                return Err(LedgerError::Damaged { place: Place { offset: 0, ..place }, why });
            }
            _ => {
                self.cursor = Some(Cursor {
                    chain: header.chain,
                    place,
                    head: header.before,
                    stated: Stated::NOTHING,
                    cosigned: None,
                });
                self.unstated.clear();
            }
        }
        Ok(())
    }

    fn take(&mut self, entry: &Entry) -> Result<(), LedgerError> {
        let Some(cursor) = &mut self.cursor else {
            return Err(LedgerError::Damaged { place: entry.place, why: "an entry before any header".to_owned() });
        };
        let said = said(entry, cursor.head).map_err(|why| LedgerError::Damaged { place: entry.place, why })?;
        let epoch = cursor.chain.epoch;
        if let Some((first, _)) = said.leaves.first() {
            write::spot(&self.connection, epoch, first.number, entry.place)?;
        }
        for (leaf, hash) in &said.leaves {
            write::leaf(&self.connection, leaf)?;
            let about = match leaf.event.kind() {
                LeafKind::Close | LeafKind::Adjust => leaf.event.attempt(),
                LeafKind::Open
                | LeafKind::Part
                | LeafKind::Payout
                | LeafKind::KeyRotation
                | LeafKind::HubKey
                | LeafKind::Epoch => None,
            };
            self.unstated.insert(leaf.number, Unstated { hash: *hash, about });
            cursor.head = Head { size: leaf.number + 1, hash: *hash };
        }
        for (statement, bytes) in said.statements {
            write::statement(&self.connection, &statement, &self.unstated)?;
            advance(&mut cursor.stated, &statement, hash_of(&bytes));
            let later = self.unstated.split_off(&cursor.stated.leaves);
            let stated = std::mem::replace(&mut self.unstated, later);
            self.unstated.extend(stated.into_iter().filter(|(number, _)| cursor.stated.open.contains(number)));
        }
        cursor.cosigned = said.cosigned.last().copied().or(cursor.cosigned);
        cursor.place = Place { offset: entry.end, ..entry.place };
        Ok(())
    }

    /// Whether the log has, where the index stands, what the index says. It is written after the
    /// log: where it has seen more than there is, the log's end is lost.
    fn is_of(&self, disk: &dyn Disk) -> Result<bool, LedgerError> {
        let Some(cursor) = &self.cursor else { return Ok(true) };
        let lost = |why: &str| Err(LedgerError::Damaged { place: cursor.place, why: why.to_owned() });
        let segment = cursor.place.segment;
        let segments = super::scan::segments(disk)?;
        if !segments.contains(&segment) {
            return if segments.last().is_some_and(|last| *last > segment) { Ok(false) } else { lost(LOST) };
        }
        let Some(header) = super::scan::header_of(disk, segment)? else { return lost("no header of this segment") };
        if header.chain != cursor.chain {
            return Ok(false);
        }
        if disk.size(&segment.name()).map_err(LedgerError::folder(segment.name()))? < cursor.place.offset {
            return lost(LOST);
        }
        if cursor.head.size == header.before.size {
            return Ok(cursor.head == header.before);
        }
        let Some((_, spot)) = self.reading().spot(cursor.chain.epoch, cursor.head.size - 1)? else { return Ok(false) };
        let Some(group) = group_at(disk, spot)? else { return lost("a group that was durable cannot be read") };
        let last = group.leaves().last().map(|leaf| Leaf::hash(leaf));
        Ok(last == Some(cursor.head.hash) && group.end() == cursor.head.size)
    }

    /// Reads again the leaves that have no last line yet.
    fn refill(&mut self, disk: &dyn Disk) -> Result<(), LedgerError> {
        let Some(cursor) = self.cursor.clone() else { return Ok(()) };
        let mut wanted: Vec<u64> = cursor.stated.open.iter().copied().collect();
        wanted.extend(cursor.stated.leaves..cursor.head.size);
        let mut next = wanted.into_iter().peekable();
        while let Some(number) = next.next() {
            let damaged = |why: &str| LedgerError::Damaged { place: cursor.place, why: why.to_owned() };
            let spot = self.reading().spot(cursor.chain.epoch, number)?;
            let (_, spot) = spot.ok_or_else(|| damaged("a group is missing"))?;
            let group = group_at(disk, spot)?.ok_or_else(|| damaged("a group is missing"))?;
            let mut keep = |at: u64| {
                let bytes =
                    usize::try_from(at.checked_sub(group.first())?).ok().and_then(|at| group.leaves().get(at))?;
                let leaf = Leaf::decode(bytes).ok()?;
                let is_figure = matches!(leaf.event.kind(), LeafKind::Close | LeafKind::Adjust);
                let about = leaf.event.attempt().filter(|_| is_figure);
                self.unstated.insert(at, Unstated { hash: Leaf::hash(bytes), about });
                Some(())
            };
            keep(number).ok_or_else(|| damaged("a leaf cannot be read again"))?;
            while let Some(number) = next.next_if(|number| *number < group.end()) {
                keep(number).ok_or_else(|| damaged("a leaf cannot be read again"))?;
            }
        }
        Ok(())
    }
}

/// The group of the entry at a place.
///
/// # Errors
/// The file cannot be read.
pub(super) fn group_at(disk: &dyn Disk, place: Place) -> Result<Option<Group>, LedgerError> {
    Ok(group_bytes_at(disk, place)?.and_then(|bytes| Group::decode(&bytes).ok()))
}

/// Its bytes.
///
/// # Errors
/// The file cannot be read.
pub(super) fn group_bytes_at(disk: &dyn Disk, place: Place) -> Result<Option<Vec<u8>>, LedgerError> {
    let Step::Entry(entry) = Scan::from(disk, Vec::new(), place).step()? else { return Ok(None) };
    Ok(entry.items.into_iter().find(|(kind, _)| *kind == Kind::Group).map(|(_, bytes)| bytes))
}

/// What an entry says, without its signatures: whoever wrote it verified them.
fn said(entry: &Entry, head: Head) -> Result<Said, String> {
    let mut said = Said::default();
    for (kind, bytes) in &entry.items {
        match kind {
            Kind::Group => {
                let group = Group::decode(bytes).map_err(|error| error.to_string())?;
                let mut at = head;
                for bytes in group.leaves() {
                    let leaf = Leaf::decode(bytes).map_err(|error| error.to_string())?;
                    if leaf.number != at.size || leaf.before != at.hash {
                        return Err(format!("leaf {} does not follow the one before", leaf.number));
                    }
                    at = at.after(bytes);
                    said.leaves.push((leaf, at.hash));
                }
            }
            Kind::Statement => {
                let statement = Statement::decode(bytes).map_err(|error| error.to_string())?;
                said.statements.push((statement, bytes.clone()));
            }
            Kind::Cosigned => said.cosigned.push(Cosigned::decode(bytes).map_err(|error| error.to_string())?),
        }
    }
    Ok(said)
}

/// A statement that was verified before it was written.
fn advance(stated: &mut Stated, statement: &Statement, hash: Hex<32>) {
    stated.statements = statement.number.saturating_add(1);
    stated.hash = hash;
    for earlier in &statement.earlier {
        stated.open.remove(&earlier.number);
    }
    let mut number = statement.first_leaf;
    for line in &statement.lines {
        if line.reason == keyhaven_protocol::statement::Reason::Open {
            stated.open.insert(number);
        }
        number = number.saturating_add(1);
    }
    stated.leaves = number;
}
