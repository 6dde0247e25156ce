//! Reads the log, segment after segment.
//!
//! Invariant: it holds one entry and one read-ahead in memory, however long the log is.

use super::disk::Disk;
use super::entry;
use super::entry::Found;
use super::entry::Kind;
use super::error::LedgerError;
use super::error::Place;
use super::segment::HEADER_BYTES;
use super::segment::Header;
use super::segment::SegmentId;

const READ_BYTES: usize = 1024 * 1024;

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where it begins.
    pub(super) place: Place,
    /// The byte after it.
    pub(super) end: u64,
    /// What is in it.
    pub(super) items: Vec<(Kind, Vec<u8>)>,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    /// A segment begins.
    Segment(Box<Header>),
    /// An entry of it.
    Entry(Entry),
    /// The end of the log, and what is wrong there if it does not end with an entry.
    End(Option<(Place, &'static str)>),
}

/// Goes through the log from a place.
pub(super) struct Scan<'d> {
    disk: &'d dyn Disk,
    /// Those that come, the next one last.
    segments: Vec<SegmentId>,
    reading: Option<Reading>,
    /// Nothing from here on is looked at.
    until: Option<Place>,
}

struct Reading {
    segment: SegmentId,
    name: String,
    /// Read and not taken.
    ahead: Vec<u8>,
    /// How much of it was taken.
    taken: usize,
    /// Where `ahead` begins.
    offset: u64,
}

/// The segments of the log, in order.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn segments(disk: &dyn Disk) -> Result<Vec<SegmentId>, LedgerError> {
    let names = disk.names().map_err(LedgerError::folder("the ledger's folder"))?;
    let mut segments: Vec<SegmentId> = names.iter().filter_map(|name| SegmentId::of_name(name)).collect();
    segments.sort_unstable();
    Ok(segments)
}

/// A segment's header; none if it does not begin with one of its own.
///
/// # Errors
/// The file cannot be read.
pub(super) fn header_of(disk: &dyn Disk, segment: SegmentId) -> Result<Option<Header>, LedgerError> {
    let name = segment.name();
    let bytes = disk.read(&name, 0, HEADER_BYTES).map_err(LedgerError::folder(name))?;
    Ok(Header::decode(&bytes).filter(|header| header.segment() == segment))
}

impl<'d> Scan<'d> {
    /// From the first of these segments on.
    pub(super) fn new(disk: &'d dyn Disk, mut segments: Vec<SegmentId>) -> Self {
        segments.reverse();
        Self { disk, segments, reading: None, until: None }
    }

    /// From an entry on; segments before its own are left out.
    pub(super) fn from(disk: &'d dyn Disk, segments: Vec<SegmentId>, place: Place) -> Self {
        let later = segments.into_iter().filter(|segment| *segment > place.segment).collect();
        let mut scan = Self::new(disk, later);
        scan.reading = Some(Reading::at(place));
        scan
    }

    /// Goes no further than this.
    pub(super) const fn until(mut self, place: Place) -> Self {
        self.until = Some(place);
        self
    }

    /// The next segment or entry.
    ///
    /// # Errors
    /// A file cannot be read, or something is wrong before the last segment's end.
    pub(super) fn step(&mut self) -> Result<Step, LedgerError> {
        let Some(reading) = &mut self.reading else { return self.begin() };
        let here = reading.place();
        if self.until.is_some_and(|until| here >= until) {
            return Ok(Step::End(None));
        }
        match reading.entry(self.disk)? {
            Ok(Some(entry)) => Ok(Step::Entry(entry)),
            Ok(None) if self.segments.is_empty() => Ok(Step::End(None)),
            Ok(None) => self.begin(),
            Err(why) if self.segments.is_empty() => Ok(Step::End(Some((here, why)))),
            Err(why) => Err(LedgerError::Damaged { place: here, why: why.to_owned() }),
        }
    }

    fn begin(&mut self) -> Result<Step, LedgerError> {
        let Some(segment) = self.segments.pop() else { return Ok(Step::End(None)) };
        let place = Place { segment, offset: 0 };
        if self.until.is_some_and(|until| place >= until) {
            return Ok(Step::End(None));
        }
        let Some(header) = header_of(self.disk, segment)? else {
            let why = "no header of this segment";
            return match self.segments.is_empty() {
                true => Ok(Step::End(Some((place, why)))),
                false => Err(LedgerError::Damaged { place, why: why.to_owned() }),
            };
        };
        let ended = self.reading.as_ref().map(Reading::place);
        if let Some(place) = ended.filter(|ended| ended.offset != header.bytes_before) {
            let why = "it does not end where the segment after it says".to_owned();
            return Err(LedgerError::Damaged { place, why });
        }
        self.reading = Some(Reading::at(Place { segment, offset: HEADER_BYTES as u64 }));
        Ok(Step::Segment(Box::new(header)))
    }
}

impl Reading {
    fn at(place: Place) -> Self {
        let name = place.segment.name();
        Self { segment: place.segment, name, ahead: Vec::new(), taken: 0, offset: place.offset }
    }

    fn place(&self) -> Place {
        Place { segment: self.segment, offset: self.offset + self.taken as u64 }
    }

    /// The next entry; none at the file's end; why it is none.
    fn entry(&mut self, disk: &dyn Disk) -> Result<Result<Option<Entry>, &'static str>, LedgerError> {
        let mut is_all = false;
        loop {
            let place = self.place();
            let rest = &self.ahead[self.taken..];
            let missing = match entry::read(rest) {
                Found::Entry { items, bytes } => {
                    let items = items.into_iter().map(|(kind, bytes)| (kind, bytes.to_vec())).collect();
                    self.taken += bytes;
                    return Ok(Ok(Some(Entry { place, end: place.offset + bytes as u64, items })));
                }
                Found::Bad(why) => return Ok(Err(why)),
                Found::More(needed) => needed - rest.len(),
            };
            if is_all {
                return Ok(if rest.is_empty() { Ok(None) } else { Err("half an entry") });
            }
            let wanted = missing.max(READ_BYTES);
            self.ahead.drain(..self.taken);
            (self.offset, self.taken) = (place.offset, 0);
            let from = self.offset + self.ahead.len() as u64;
            let more = disk.read(&self.name, from, wanted).map_err(LedgerError::folder(&self.name))?;
            is_all = more.len() < wanted;
            self.ahead.extend_from_slice(&more);
        }
    }
}
