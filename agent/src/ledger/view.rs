//! The ledger as a command reads it, beside a running agent or without one.
//!
//! Invariant: nothing is written, and what the agent is writing at this moment is no fault.

use std::collections::VecDeque;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use keyhaven_protocol::chain::Audit;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::hex::HexBytes;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::key_list::KeyList;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Leaf;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::signing::Hash;
use keyhaven_protocol::statement::Cosigned;
use keyhaven_protocol::statement::Statement;
use serde::Serialize;

use super::DIR_NAME;
use super::check::Check;
use super::check::Said;
use super::disk::Disk;
use super::disk::Folder;
use super::entry::Kind;
use super::error::LedgerError;
use super::error::Place;
use super::index::Claim;
use super::index::Earnings;
use super::index::FILE_NAME;
use super::index::Index;
use super::index::Reading;
use super::index::open_beside;
use super::scan::Scan;
use super::scan::Step;
use super::scan::header_of;
use super::scan::segments;
use super::segment::SegmentId;

/// A ledger that is read.
pub struct View {
    disk: Arc<dyn Disk>,
    index_file: Option<PathBuf>,
}

/// What a ledger that holds comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The newest epoch.
    pub epoch: u32,
    /// How many chains there are.
    pub epochs: u32,
    /// Leaves of all of them.
    pub leaves: u64,
    /// Signatures over their groups.
    pub groups: u64,
    /// Statements of the hub.
    pub statements: u64,
    /// Leaves of the newest chain that the hub cosigned.
    pub cosigned: u64,
    /// Leaves of the newest chain.
    pub size: u64,
    /// The hash of the newest leaf.
    pub head: Option<Hash>,
    /// The key that signs, as the ledger names it.
    pub key: Option<HexBytes>,
    /// Whether the hub's keys are in the ledger: without them tickets, statements and cosigned
    /// heads are read and not verified.
    pub hub_keys: u32,
    /// Attempts of the newest chain without an end.
    pub open: u64,
    /// Bytes at the end that are no whole entry: being written, or cut off by the next start.
    pub unfinished_bytes: u64,
}

/// One line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Line {
    /// A leaf.
    Leaf {
        /// Of which chain.
        epoch: u32,
        /// Its number there.
        number: u64,
        /// When, in milliseconds since 1970, by the agent's clock.
        at_unix_ms: u64,
        /// Which kind.
        kind: &'static str,
        /// The call that it is about.
        call: Option<CallId>,
        /// The attempt at it.
        attempt: Option<u8>,
        /// What it says about the cost at list prices, in nano-USD: the ceiling in OPEN.
        list: Option<NanoUsd>,
        /// Its hash.
        hash: Hash,
        /// The leaf.
        bytes: HexBytes,
    },
    /// The agent's signature over all leaves so far.
    Group {
        /// Of which chain.
        epoch: u32,
        /// After so many leaves.
        size: u64,
        /// The signed record.
        bytes: HexBytes,
    },
    /// A statement of the hub.
    Statement {
        /// About which chain.
        epoch: u32,
        /// Its number there.
        number: u64,
        /// The number of the leaf that its first line is about.
        first_leaf: u64,
        /// How many lines it has.
        lines: u64,
        /// The statement.
        bytes: HexBytes,
    },
    /// A head that the hub cosigned.
    Cosigned {
        /// Of which chain.
        epoch: u32,
        /// After so many leaves.
        size: u64,
        /// The cosigned head.
        bytes: HexBytes,
    },
}

impl View {
    /// The ledgers in a data directory, by the names of their folders.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn names(data_dir: &Path) -> Result<Vec<String>, LedgerError> {
        let dir = data_dir.join(DIR_NAME);
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(LedgerError::folder(dir.display().to_string())(error)),
        };
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| segments(&Folder::new(&dir.join(name))).is_ok_and(|segments| !segments.is_empty()));
        names.sort();
        Ok(names)
    }

    /// One of them.
    pub fn open(data_dir: &Path, name: &str) -> Self {
        let dir = data_dir.join(DIR_NAME).join(name);
        Self::on_disk(Arc::new(Folder::new(&dir)), Some(dir.join(FILE_NAME)))
    }

    /// A ledger on any disk.
    pub fn on_disk(disk: Arc<dyn Disk>, index_file: Option<PathBuf>) -> Self {
        Self { disk, index_file }
    }

    /// Verifies all of it: every leaf, signature, ticket, statement and cosigned head. `told` hears
    /// now and then how many leaves that were.
    ///
    /// # Errors
    /// Where it does not hold.
    pub fn verify(&self, mut told: impl FnMut(u64)) -> Result<Verified, LedgerError> {
        let segments = segments(&*self.disk)?;
        let first = segments.first().copied().ok_or(LedgerError::Absent)?;
        let header = header_of(&*self.disk, first)?.ok_or_else(|| LedgerError::Damaged {
            place: Place { segment: first, offset: 0 },
            why: "no header of this segment".to_owned(),
        })?;
        let mut verifying = Verifying::new(Check::segment(&header));
        if first.first != 0 {
            let why = "the beginning of the epoch is missing".to_owned();
            return Err(LedgerError::Damaged { place: Place { segment: first, offset: 0 }, why });
        }
        let mut scan = Scan::new(&*self.disk, segments);
        let mut end = None;
        loop {
            match scan.step()? {
                Step::Segment(header) => verifying.segment(&header)?,
                Step::Entry(entry) => {
                    let before = verifying.found.leaves;
                    let said = verifying.check.entry(&entry)?;
                    verifying.entry(said, entry.place)?;
                    end = Some(Place { offset: entry.end, ..entry.place });
                    if before / 20_000 != verifying.found.leaves / 20_000 {
                        told(verifying.found.leaves);
                    }
                }
                Step::End(rest) => {
                    let unfinished = rest.map(|(place, why)| self.unfinished(place, why)).transpose()?;
                    verifying.found.unfinished_bytes = unfinished.unwrap_or(0);
                    return Ok(verifying.finish(end));
                }
            }
        }
    }

    /// Everything that is in it, in order.
    ///
    /// # Errors
    /// It cannot be read, or the lines not be written.
    pub fn lines<E: From<LedgerError>>(&self, mut each: impl FnMut(Line) -> Result<(), E>) -> Result<(), E> {
        let segments = segments(&*self.disk)?;
        if segments.is_empty() {
            return Err(LedgerError::Absent.into());
        }
        let mut scan = Scan::new(&*self.disk, segments);
        loop {
            match scan.step()? {
                Step::Segment(_) => {}
                Step::Entry(entry) => {
                    for (kind, bytes) in entry.items {
                        let lines = lines_of(kind, bytes).ok_or_else(|| LedgerError::Damaged {
                            place: entry.place,
                            why: "an item cannot be read".to_owned(),
                        })?;
                        lines.into_iter().try_for_each(&mut each)?;
                    }
                }
                Step::End(_) => return Ok(()),
            }
        }
    }

    /// The newest leaves, so many at most, the oldest of them first.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn newest(&self, most: usize) -> Result<Vec<Line>, LedgerError> {
        // Segments are read from the newest on until there is enough.
        let mut before = segments(&*self.disk)?;
        if before.is_empty() {
            return Err(LedgerError::Absent);
        }
        let mut leaves = VecDeque::new();
        while leaves.len() < most
            && let Some(segment) = before.pop()
        {
            let mut here = self.newest_of(segment, most - leaves.len())?;
            here.append(&mut leaves);
            leaves = here;
        }
        Ok(leaves.into())
    }

    fn newest_of(&self, segment: SegmentId, most: usize) -> Result<VecDeque<Line>, LedgerError> {
        let mut scan = Scan::new(&*self.disk, vec![segment]);
        let mut leaves = VecDeque::new();
        loop {
            match scan.step()? {
                Step::Segment(_) => {}
                Step::Entry(entry) => {
                    let lines = entry.items.into_iter().filter_map(|(kind, bytes)| lines_of(kind, bytes)).flatten();
                    leaves.extend(lines.filter(|line| matches!(line, Line::Leaf { .. })));
                    leaves.drain(..leaves.len().saturating_sub(most));
                }
                Step::End(_) => return Ok(leaves),
            }
        }
    }

    /// What the owner earned.
    ///
    /// # Errors
    /// Neither index nor log can be read.
    pub fn earnings(&self, told: impl FnMut(Place)) -> Result<Earnings, LedgerError> {
        self.ask(told, |reading| reading.earnings())
    }

    /// Attempts that are not paid as they were metered, so many at most.
    ///
    /// # Errors
    /// Neither index nor log can be read.
    pub fn claims(&self, most: u32, told: impl FnMut(Place)) -> Result<Vec<Claim>, LedgerError> {
        self.ask(told, |reading| reading.claims(most))
    }

    /// Asks the index, or one that is made from the log for this question.
    fn ask<T>(
        &self,
        told: impl FnMut(Place),
        question: impl Fn(&Reading<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        if segments(&*self.disk)?.is_empty() {
            return Err(LedgerError::Absent);
        }
        let file = self.index_file.as_deref().filter(|file| file.exists());
        let asked = file.map(|file| open_beside(file).and_then(|index| question(&Reading::new(&index))));
        if let Some(Ok(answer)) = asked {
            return Ok(answer);
        }
        let mut index = Index::open(None, &*self.disk)?;
        index.follow(&*self.disk, None, told)?;
        question(&index.reading())
    }

    /// How many bytes are behind the last whole entry.
    fn unfinished(&self, place: Place, why: &str) -> Result<u64, LedgerError> {
        let name = place.segment.name();
        let size = self.disk.size(&name).map_err(LedgerError::folder(&name))?;
        let bytes = usize::try_from(size.saturating_sub(place.offset)).unwrap_or(usize::MAX);
        let rest = self.disk.read(&name, place.offset, bytes).map_err(LedgerError::folder(&name))?;
        if rest.get(1..).is_some_and(super::entry::is_in) {
            return Err(LedgerError::Damaged { place, why: why.to_owned() });
        }
        Ok(size.saturating_sub(place.offset))
    }
}

/// A verification under way.
struct Verifying {
    check: Check,
    found: Verified,
    keys: Option<KeyList>,
    /// None where the hub's keys were not known when the chain began to have attempts.
    audit: Option<Audit>,
    open: std::collections::HashSet<(CallId, u8)>,
}

impl Verifying {
    fn new(check: Check) -> Self {
        let found = Verified { epochs: 1, ..Verified::default() };
        Self { check, found, keys: None, audit: None, open: std::collections::HashSet::new() }
    }

    fn segment(&mut self, header: &super::segment::Header) -> Result<(), LedgerError> {
        let epoch = self.check.chain().epoch;
        if header.before != Head::EMPTY || header.chain.epoch != epoch {
            self.check.next_segment(header)?;
        }
        if header.chain.epoch != epoch {
            self.found.epochs += 1;
            self.found.cosigned = 0;
            self.open.clear();
            self.audit = self.keys.clone().map(|keys| Audit::new(header.chain, keys));
        }
        Ok(())
    }

    fn entry(&mut self, said: Said, place: Place) -> Result<(), LedgerError> {
        let damaged = |why: String| LedgerError::Damaged { place, why };
        self.found.groups += u64::from(!said.leaves.is_empty());
        for (leaf, hash) in &said.leaves {
            self.leaf(leaf, *hash).map_err(|why| damaged(format!("leaf {}: {why}", leaf.number)))?;
        }
        for (statement, bytes) in &said.statements {
            self.statement(statement, bytes).map_err(damaged)?;
        }
        for cosigned in &said.cosigned {
            self.cosigned(cosigned).map_err(damaged)?;
        }
        Ok(())
    }

    fn leaf(&mut self, leaf: &Leaf, hash: Hash) -> Result<(), String> {
        self.found.leaves += 1;
        if let Event::HubKey(entry) = &leaf.event {
            self.hub_key(entry)?;
        }
        if let Some(audit) = &mut self.audit {
            audit.take(&leaf.event, hash).map_err(|error| error.to_string())?;
        }
        match &leaf.event {
            Event::Open(_) => self.open.extend(leaf.event.attempt()),
            Event::Close(close) => drop(self.open.remove(&(close.call, close.attempt))),
            Event::Adjust(_)
            | Event::Part(_)
            | Event::Payout(_)
            | Event::KeyRotation(_)
            | Event::HubKey(_)
            | Event::Epoch(_) => {}
        }
        Ok(())
    }

    fn hub_key(&mut self, entry: &[u8]) -> Result<(), String> {
        let chain: ChainId = self.check.chain();
        match &mut self.keys {
            Some(keys) => drop(keys.take(entry).map_err(|error| error.to_string())?),
            None => {
                let keys = KeyList::begin(chain.fleet, entry).map_err(|error| error.to_string())?;
                // Attempts that were opened before could not be audited, nor can their ends.
                self.audit = self.open.is_empty().then(|| Audit::new(chain, keys.clone()));
                self.keys = Some(keys);
            }
        }
        self.found.hub_keys += 1;
        Ok(())
    }

    fn statement(&mut self, statement: &Statement, bytes: &[u8]) -> Result<(), String> {
        self.found.statements += 1;
        let Some(keys) = &self.keys else { return Ok(()) };
        // That it follows the one before was checked; here the signature counts.
        let mut before = keyhaven_protocol::statement::Stated {
            statements: statement.number,
            hash: statement.before,
            leaves: statement.first_leaf,
            open: statement.earlier.iter().map(|earlier| earlier.number).collect(),
        };
        let hashes = self.check.hashes();
        let verified = before.take(bytes, &statement.chain, keys, 0, |number| hashes.get(&number).copied());
        verified.map(drop).map_err(|error| format!("statement {}: {error}", statement.number))
    }

    fn cosigned(&mut self, cosigned: &Cosigned) -> Result<(), String> {
        self.found.cosigned = cosigned.head.size;
        let Some(keys) = &self.keys else { return Ok(()) };
        let key = keys.key(cosigned.signing_key).ok_or("a head is cosigned with a key that is not in the list")?;
        cosigned.verify(key).map_err(|_| "the cosignature of a head does not hold".to_owned())
    }

    fn finish(mut self, end: Option<Place>) -> Verified {
        let head = self.check.head();
        self.found.epoch = self.check.chain().epoch;
        self.found.size = head.size;
        self.found.head = end.map(|_| head.hash);
        self.found.key = Some(HexBytes(self.check.key().as_bytes().to_vec()));
        self.found.open = self.open.len() as u64;
        self.found
    }
}

fn lines_of(kind: Kind, bytes: Vec<u8>) -> Option<Vec<Line>> {
    match kind {
        Kind::Group => {
            let group = keyhaven_protocol::chain::Group::decode(&bytes).ok()?;
            let mut lines = Vec::with_capacity(group.leaves().len() + 1);
            for bytes in group.leaves() {
                lines.push(leaf_line(&Leaf::decode(bytes).ok()?, bytes));
            }
            let epoch = group.leaves().first().and_then(|leaf| Leaf::decode(leaf).ok())?.epoch;
            lines.push(Line::Group { epoch, size: group.end(), bytes: HexBytes(group.record().to_vec()) });
            Some(lines)
        }
        Kind::Statement => {
            let Statement { chain, number, first_leaf, lines, earlier, .. } = Statement::decode(&bytes).ok()?;
            let lines = (lines.len() + earlier.len()) as u64;
            Some(vec![Line::Statement { epoch: chain.epoch, number, first_leaf, lines, bytes: HexBytes(bytes) }])
        }
        Kind::Cosigned => {
            let Cosigned { chain, head, .. } = Cosigned::decode(&bytes).ok()?;
            Some(vec![Line::Cosigned { epoch: chain.epoch, size: head.size, bytes: HexBytes(bytes) }])
        }
    }
}

fn leaf_line(leaf: &Leaf, bytes: &[u8]) -> Line {
    let list = match &leaf.event {
        Event::Open(ticket) => Some(ticket.ticket().ceiling),
        Event::Close(close) => close.metered.as_ref().map(|metered| metered.list),
        Event::Adjust(adjust) => Some(adjust.list),
        Event::Part(part) => Some(part.metered.list),
        Event::Payout(payout) => Some(payout.amount),
        Event::KeyRotation(_) | Event::HubKey(_) | Event::Epoch(_) => None,
    };
    let about = leaf.event.attempt();
    Line::Leaf {
        epoch: leaf.epoch,
        number: leaf.number,
        at_unix_ms: leaf.at_unix_ms,
        kind: leaf.event.kind().name(),
        call: about.map(|(call, _)| call),
        attempt: about.map(|(_, attempt)| attempt),
        list,
        hash: Leaf::hash(bytes),
        bytes: HexBytes(bytes.to_vec()),
    }
}
