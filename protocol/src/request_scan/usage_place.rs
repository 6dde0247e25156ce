//! Where in a body it is said, or could be said, that a stream is to state its usage.
//!
//! Invariant: offsets count bytes of the body as it came, and are the same at any cut.

use crate::json_scan::Spot;

/// Where `stream_options.include_usage` stands or could stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsagePlace {
    /// The body has no `stream_options`: this is the offset of its last brace.
    Absent {
        /// The offset of the brace.
        end: u64,
        /// Whether the body has fields, after which a comma is needed.
        has_fields: bool,
    },
    /// `stream_options` is `null`, from the one offset up to the other.
    Null {
        /// Where it begins.
        from: u64,
        /// The offset after it.
        to: u64,
    },
    /// `stream_options` has no `include_usage`: this is the offset of its closing brace.
    Within {
        /// The offset of the brace.
        end: u64,
        /// Whether it has other members, after which a comma is needed.
        has_members: bool,
    },
    /// `include_usage` has a value, from the one offset up to the other.
    Said {
        /// Where it begins.
        from: u64,
        /// The offset after it.
        to: u64,
        /// Whether it is `true`.
        asked: bool,
    },
}

/// What was seen of it so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct UsageSpots {
    place: Option<UsagePlace>,
    has_members: bool,
    is_open: bool,
}

impl UsageSpots {
    pub(super) const fn new() -> Self {
        Self { place: None, has_members: false, is_open: false }
    }

    pub(super) const fn place(&self) -> Option<UsagePlace> {
        self.place
    }

    pub(super) const fn is_asked(&self) -> bool {
        matches!(self.place, Some(UsagePlace::Said { asked: true, .. }))
    }

    pub(super) fn options(&mut self, spot: Spot, is_null: bool) {
        if is_null {
            self.place = Some(UsagePlace::Null { from: spot.from, to: spot.to });
        } else {
            self.is_open = true;
        }
    }

    pub(super) fn member(&mut self) {
        self.has_members = true;
    }

    pub(super) fn include_usage(&mut self, spot: Spot, asked: bool) {
        self.place = Some(UsagePlace::Said { from: spot.from, to: spot.to, asked });
    }

    pub(super) fn options_end(&mut self, spot: Spot) {
        if std::mem::take(&mut self.is_open) && self.place.is_none() {
            self.place = Some(UsagePlace::Within { end: spot.from, has_members: self.has_members });
        }
    }

    pub(super) fn end(&mut self, spot: Spot, has_fields: bool) {
        if self.place.is_none() {
            self.place = Some(UsagePlace::Absent { end: spot.from, has_fields });
        }
    }
}
