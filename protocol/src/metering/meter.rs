//! The meter of one attempt at a call, on one side.
//!
//! Invariant: it reads a copy; it can neither change, delay nor fail the answer.

use http::HeaderMap;
use http::StatusCode;
use http::header;

use super::Asked;
use super::Ending;
use super::Figure;
use super::judge::Seen;
use super::judge::judge;
use crate::money::NanoUsd;
use crate::usage::Coding;
use crate::usage::Form;
use crate::usage::Reading;
use crate::usage::Shape;
use crate::usage::Tap;

/// Meters an answer, fed with its head and the bytes of its body as they are on the link.
pub struct CallMeter {
    form: Form,
    head: Option<Head>,
    /// From the first byte on.
    tap: Option<Box<Tap>>,
    response_bytes: u64,
}

/// What of an answer's head tells how to read its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    accepted: bool,
    shape: Shape,
    coding: Option<Coding>,
}

impl CallMeter {
    /// The meter of a call that is answered in this form.
    pub const fn new(form: Form) -> Self {
        Self { form, head: None, tap: None, response_bytes: 0 }
    }

    /// The answer's head, with its headers as they are on the link.
    pub fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.begin(Head::of(status, headers));
    }

    pub(super) const fn begin(&mut self, head: Head) {
        self.head = Some(head);
    }

    /// The meter of the same call, to which nothing has come yet.
    pub(super) const fn begun(&self, head: Head) -> Self {
        Self { form: self.form, head: Some(head), tap: None, response_bytes: 0 }
    }

    /// The next bytes of its body, at any cut.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Some(head) = self.head else { return };
        self.response_bytes = self.response_bytes.saturating_add(wide(bytes.len()));
        self.tap.get_or_insert_with(|| Box::new(head.tap(self.form))).feed(bytes);
    }

    /// Bytes of the body so far.
    pub const fn response_bytes(&self) -> u64 {
        self.response_bytes
    }

    /// Whether the model has stopped and its usage, which comes behind that, has not come:
    /// worth reading on for, when the consumer has left.
    pub fn awaits_usage(&self) -> bool {
        let reading = self.tap.as_ref().map(|tap| tap.reading());
        reading.is_some_and(|reading| reading.finished && !reading.ended && !reading.output_final)
    }

    /// What the call would cost at list prices if it broke off now: what is kept of a call
    /// that is under way, in case this side dies.
    pub fn so_far(&self, asked: &Asked<'_>) -> NanoUsd {
        match &self.tap {
            Some(tap) => self.judge(tap.reading(), self.response_bytes, asked, Ending::Broke).list,
            None => NanoUsd::ZERO,
        }
    }

    /// The figure if these bytes came next and the call then ended so; none when what the
    /// meter reads is compressed, and trying would change it.
    pub fn figure_after<'b>(
        &self,
        bytes: impl Iterator<Item = &'b [u8]>,
        asked: &Asked<'_>,
        ending: Ending,
    ) -> Option<Figure> {
        let mut tap = match (&self.tap, &self.head) {
            (Some(tap), _) => Some(tap.fork()?),
            (None, head) => head.map(|head| head.tap(self.form)),
        };
        let mut response_bytes = self.response_bytes;
        if let Some(tap) = &mut tap {
            for piece in bytes {
                tap.feed(piece);
                response_bytes = response_bytes.saturating_add(wide(piece.len()));
            }
        }
        let reading = tap.map(|tap| tap.finish(ending == Ending::Complete)).unwrap_or_default();
        Some(self.judge(&reading, response_bytes, asked, ending))
    }

    /// The call is over.
    pub fn finish(mut self, asked: &Asked<'_>, ending: Ending) -> Figure {
        let tap = self.tap.take().map(|tap| *tap).or_else(|| self.head.map(|head| head.tap(self.form)));
        let reading = tap.map(|tap| tap.finish(ending == Ending::Complete)).unwrap_or_default();
        self.judge(&reading, self.response_bytes, asked, ending)
    }

    fn judge(&self, reading: &Reading, response_bytes: u64, asked: &Asked<'_>, ending: Ending) -> Figure {
        let accepted = self.head.is_none_or(|head| head.accepted);
        let opaque = self.head.is_some_and(|head| head.shape == Shape::Opaque);
        let seen = Seen { form: self.form, accepted, opaque, reading, response_bytes };
        judge(&seen, asked, ending)
    }
}

impl Head {
    pub(super) fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        let value = |name| headers.get(name).map_or(&[][..], http::HeaderValue::as_bytes);
        let shape = match status {
            StatusCode::SWITCHING_PROTOCOLS => Shape::Session,
            _ => Shape::of(value(header::CONTENT_TYPE)),
        };
        let codings = headers.get_all(header::CONTENT_ENCODING).iter().count();
        let coding = Coding::of(value(header::CONTENT_ENCODING)).filter(|_| codings <= 1);
        let accepted = status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS;
        Self { accepted, shape, coding }
    }

    fn tap(self, form: Form) -> Tap {
        Tap::new(form, self.shape, self.coding)
    }
}

fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
