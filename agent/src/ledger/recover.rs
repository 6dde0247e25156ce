//! What a start finds, and what it makes of it.
//!
//! Invariant: an entry whose end was durable is there afterwards, or the start fails; what is cut
//! off was the last write of all, unfinished.

use std::path::Path;
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::leaf::Head;

use super::check::Check;
use super::disk::Disk;
use super::entry;
use super::error::LedgerError;
use super::error::Place;
use super::index::Cursor;
use super::index::Index;
use super::scan::Scan;
use super::scan::Step;
use super::scan::header_of;
use super::scan::segments;
use super::segment::HEADER_BYTES;
use super::segment::Header;
use super::segment::SegmentId;

/// A write that was not finished when the agent or its machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutOff {
    /// Where it began.
    pub place: Place,
    /// How many bytes of it there were.
    pub bytes: u64,
}

/// A log that was there.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) cursor: Cursor,
    pub(super) cut_off: Option<CutOff>,
}

/// Brings log and index into order; none if there is no log yet.
///
/// # Errors
/// The folder cannot be used, or what was durable is damaged.
pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    chain: ChainId,
    key: &VerifyingKey,
    index_file: Option<&Path>,
) -> Result<Option<Recovered>, LedgerError> {
    let mut index = Index::open(index_file, &**disk)?;
    let mut segments = segments(&**disk)?;
    let mut cut_off = drop_unfinished_segment(&**disk, &mut segments, index.cursor())?;
    let Some(last) = segments.last().copied() else { return Ok(None) };
    let place = |offset| Place { segment: last, offset };
    let header = header_of(&**disk, last)?
        .ok_or_else(|| LedgerError::Damaged { place: place(0), why: "no header of this segment".to_owned() })?;
    if (ChainId { epoch: chain.epoch, ..header.chain }) != chain {
        return Err(LedgerError::Damaged { place: place(0), why: "it is the ledger of another agent".to_owned() });
    }
    let from = index.cursor().map(|cursor| cursor.place).filter(|place| place.segment == last);
    cut_off = cut_unfinished_entry(&**disk, from.unwrap_or(place(HEADER_BYTES as u64)))?.or(cut_off);
    index.follow(&**disk, None, |_| {})?;
    let Some(cursor) = index.cursor().cloned() else { return Ok(None) };
    let signed_by = verify(&**disk, &segments, &index, &cursor)?;
    if signed_by != *key {
        return Err(LedgerError::Damaged {
            place: cursor.place,
            why: "another key signs it than the vault's".to_owned(),
        });
    }
    Ok(Some(Recovered { index, cursor, cut_off }))
}

/// Takes away a last segment whose header never became durable, and one that begins an epoch whose
/// first leaf did not: that epoch was never begun.
fn drop_unfinished_segment(
    disk: &dyn Disk,
    segments: &mut Vec<SegmentId>,
    known: Option<&Cursor>,
) -> Result<Option<CutOff>, LedgerError> {
    let Some(last) = segments.last().copied() else { return Ok(None) };
    let (place, name) = (Place { segment: last, offset: 0 }, last.name());
    let bytes = disk.size(&name).map_err(LedgerError::folder(&name))?;
    let is_whole = header_of(disk, last)?.is_some();
    if is_whole && (last.first > 0 || entry::is_in(&read_all(disk, &name, 0)?)) {
        return Ok(None);
    }
    if known.is_some_and(|known| known.place.segment >= last) || entry::is_in(&read_all(disk, &name, 0)?) {
        return Err(LedgerError::Damaged { place, why: "no header of this segment".to_owned() });
    }
    disk.remove(&name).and_then(|()| disk.sync_names()).map_err(LedgerError::folder(&name))?;
    segments.pop();
    Ok(Some(CutOff { place, bytes }))
}

/// Cuts off what is behind the last whole entry of the last segment.
fn cut_unfinished_entry(disk: &dyn Disk, from: Place) -> Result<Option<CutOff>, LedgerError> {
    let mut scan = Scan::from(disk, Vec::new(), from);
    let (place, why) = loop {
        match scan.step()? {
            Step::Segment(_) | Step::Entry(_) => {}
            Step::End(None) => return Ok(None),
            Step::End(Some(found)) => break found,
        }
    };
    let name = place.segment.name();
    let rest = read_all(disk, &name, place.offset)?;
    // One entry is durable before the next is begun, so behind an unfinished one there is none.
    if rest.get(1..).is_some_and(entry::is_in) {
        return Err(LedgerError::Damaged { place, why: why.to_owned() });
    }
    disk.cut(&name, place.offset).map_err(LedgerError::folder(&name))?;
    Ok(Some(CutOff { place, bytes: rest.len() as u64 }))
}

/// Verifies leaves and signatures from the newest cosigned head on, or else from the epoch's
/// beginning: which key signs what comes next.
fn verify(
    disk: &dyn Disk,
    segments: &[SegmentId],
    index: &Index,
    cursor: &Cursor,
) -> Result<VerifyingKey, LedgerError> {
    let (mut check, mut scan) = match cosigned(disk, index, cursor)? {
        Some((header, head, place)) => {
            (Check::trusted(header.chain, head, header.key), Scan::from(disk, segments.to_vec(), place))
        }
        None => {
            let first = SegmentId { epoch: cursor.chain.epoch, first: 0 };
            let missing =
                |why: &str| LedgerError::Damaged { place: Place { segment: first, offset: 0 }, why: why.to_owned() };
            let header = header_of(disk, first)?.ok_or_else(|| missing("the beginning of the epoch is missing"))?;
            let place = Place { segment: first, offset: HEADER_BYTES as u64 };
            (Check::segment(&header), Scan::from(disk, segments.to_vec(), place))
        }
    };
    loop {
        match scan.step()? {
            Step::Segment(header) => check.next_segment(&header)?,
            Step::Entry(entry) => drop(check.entry(&entry)?),
            Step::End(_) if check.head() == cursor.head => return Ok(*check.key()),
            Step::End(_) => {
                let why = "the index has seen another end of it".to_owned();
                return Err(LedgerError::Damaged { place: cursor.place, why });
            }
        }
    }
}

/// The newest cosigned head, where the log goes on behind it, and that segment's header.
fn cosigned(disk: &dyn Disk, index: &Index, cursor: &Cursor) -> Result<Option<(Header, Head, Place)>, LedgerError> {
    let Some(cosigned) = &cursor.cosigned else { return Ok(None) };
    let place = if cosigned.head.size == cursor.head.size {
        Some(cursor.place)
    } else {
        index.reading().spot(cursor.chain.epoch, cosigned.head.size)?.map(|(_, place)| place)
    };
    let Some(place) = place else { return Ok(None) };
    let begins_there = place == cursor.place
        || super::index::group_at(disk, place)?.is_some_and(|group| group.first() == cosigned.head.size);
    let header = header_of(disk, place.segment)?.filter(|_| begins_there);
    Ok(header.map(|header| (header, cosigned.head, place)))
}

fn read_all(disk: &dyn Disk, name: &str, from: u64) -> Result<Vec<u8>, LedgerError> {
    let bytes = disk.size(name).map_err(LedgerError::folder(name))?.saturating_sub(from);
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    disk.read(name, from, bytes).map_err(LedgerError::folder(name))
}
