//! The end of the log: where the next entry goes.
//!
//! Invariant: what [`Log::write`] gave back is durable; after an error nothing more is written.

use std::io;
use std::sync::Arc;

use super::disk::Disk;
use super::error::Place;
use super::segment::HEADER_BYTES;
use super::segment::Header;
use super::segment::SegmentId;

/// The log, for its one writer.
pub(super) struct Log {
    disk: Arc<dyn Disk>,
    segment: SegmentId,
    name: String,
    bytes: u64,
    has_leaves: bool,
}

impl Log {
    /// Begins a segment, durably.
    pub(super) fn begin(disk: Arc<dyn Disk>, header: &Header) -> io::Result<Self> {
        let segment = header.segment();
        let name = segment.name();
        disk.create(&name)?;
        disk.append(&name, &header.encode())?;
        disk.sync(&name)?;
        disk.sync_names()?;
        Ok(Self { disk, segment, name, bytes: HEADER_BYTES as u64, has_leaves: false })
    }

    /// Goes on at the end of a segment.
    pub(super) fn resume(disk: Arc<dyn Disk>, end: Place, has_leaves: bool) -> Self {
        let Place { segment, offset } = end;
        Self { disk, segment, name: segment.name(), bytes: offset, has_leaves }
    }

    /// Where the next entry goes.
    pub(super) const fn end(&self) -> Place {
        Place { segment: self.segment, offset: self.bytes }
    }

    /// Whether the next leaves belong into a segment of their own. A segment without leaves is
    /// never full: the next one would have its name.
    pub(super) const fn is_full(&self, segment_bytes_max: u64) -> bool {
        self.has_leaves && self.bytes >= segment_bytes_max
    }

    /// Goes over to a new segment.
    pub(super) fn rotate(&mut self, header: &Header) -> io::Result<()> {
        *self = Self::begin(self.disk.clone(), header)?;
        Ok(())
    }

    /// Writes an entry, and comes back when it is durable: where it begins.
    pub(super) fn write(&mut self, entry: &[u8], has_leaves: bool) -> io::Result<Place> {
        let place = self.end();
        self.disk.append(&self.name, entry)?;
        self.disk.sync(&self.name)?;
        self.bytes += entry.len() as u64;
        self.has_leaves |= has_leaves;
        Ok(place)
    }
}
