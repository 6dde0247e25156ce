//! The stream that the vendor would have sent unasked, out of the one that states its usage.
//!
//! Invariant: only a `"usage":null` of an event and the one event that states the usage with
//! no choices are taken out; where the stream is cut changes nothing, and at most one event
//! of [`EVENT_BYTES_MAX`] is held back.

use std::ops::Range;

use crate::json_scan::Event;
use crate::json_scan::JsonScan;
use crate::json_scan::Spot;

/// The longest event that is looked at; a longer one passes as it is.
pub const EVENT_BYTES_MAX: usize = 64 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The filter of one answer's server-sent events. Feed it, then finish it.
#[derive(Debug, Clone, Default)]
pub struct AssistFilter {
    /// The present event, as far as it came.
    held: Vec<u8>,
    /// Bytes of the present line.
    line_bytes: usize,
    /// The present line is a comment between events, or the present event is too long:
    /// what comes passes at once.
    passes_line: bool,
    passes_event: bool,
    after_return: AfterReturn,
    /// Something of the stream has come.
    is_begun: bool,
}

/// What becomes of a line feed that completes a line's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum AfterReturn {
    /// It would be a line's end of its own.
    #[default]
    NoReturn,
    /// It belongs to the event that is held.
    Hold,
    /// It goes where the line went.
    Pass,
    /// It goes with the event that was dropped.
    Drop,
}

/// What becomes of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Keep,
    Without(Range<usize>),
    Drop,
}

impl AssistFilter {
    /// A filter at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes, decoded and at any cut, and adds to `out` what goes on.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some((&first, rest)) = bytes.split_first() {
            let after_return = std::mem::take(&mut self.after_return);
            if first == b'\n' && after_return != AfterReturn::NoReturn {
                match after_return {
                    AfterReturn::NoReturn | AfterReturn::Drop => {}
                    AfterReturn::Hold => self.put(b"\n", out),
                    AfterReturn::Pass => out.push(b'\n'),
                }
                bytes = rest;
                continue;
            }
            let end = memchr::memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
            let (run, rest) = bytes.split_at(end);
            if !run.is_empty() {
                self.run(run, out);
            }
            bytes = match rest.split_first() {
                Some((&byte, rest)) => {
                    self.end_line(byte, out);
                    rest
                }
                None => rest,
            };
        }
    }

    /// The stream is over: what was held back goes on.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.end_event(out);
    }

    fn run(&mut self, run: &[u8], out: &mut Vec<u8>) {
        // A comment between events keeps the connection alive, and must not wait.
        if self.line_bytes == 0 && self.held.is_empty() && run.first() == Some(&b':') {
            self.passes_line = true;
        }
        self.line_bytes = self.line_bytes.saturating_add(run.len());
        self.put(run, out);
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.passes_line || self.passes_event {
            self.is_begun = true;
            out.extend_from_slice(bytes);
        } else if self.held.len().saturating_add(bytes.len()) > EVENT_BYTES_MAX {
            self.passes_event = true;
            self.is_begun = true;
            out.append(&mut self.held);
            out.extend_from_slice(bytes);
        } else {
            self.held.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self, byte: u8, out: &mut Vec<u8>) {
        let is_empty = std::mem::take(&mut self.line_bytes) == 0;
        self.put(&[byte], out);
        let passed = std::mem::take(&mut self.passes_line) || self.passes_event;
        let went = if is_empty {
            if self.end_event(out) { AfterReturn::Pass } else { AfterReturn::Drop }
        } else if passed {
            AfterReturn::Pass
        } else {
            AfterReturn::Hold
        };
        self.after_return = if byte == b'\r' { went } else { AfterReturn::NoReturn };
    }

    /// The present event is over; says whether it goes on.
    fn end_event(&mut self, out: &mut Vec<u8>) -> bool {
        self.passes_event = false;
        let mark =
            if self.is_begun { 0 } else { BYTE_ORDER_MARK.len() * usize::from(self.held.starts_with(BYTE_ORDER_MARK)) };
        self.is_begun |= !self.held.is_empty();
        let verdict = judge(&self.held, mark);
        match &verdict {
            Verdict::Keep => out.append(&mut self.held),
            Verdict::Without(range) => {
                out.extend_from_slice(self.held.get(..range.start).unwrap_or_default());
                out.extend_from_slice(self.held.get(range.end..).unwrap_or_default());
            }
            Verdict::Drop => {
                // What is no part of the event's data was not asked for with it.
                for line in lines(&self.held, mark) {
                    let text = self.held.get(line.clone()).unwrap_or_default();
                    if text.starts_with(b":") {
                        out.extend_from_slice(text);
                        out.push(b'\n');
                    }
                }
            }
        }
        self.held.clear();
        verdict != Verdict::Drop
    }
}

/// The lines of an event, without their ends, from this offset on.
fn lines(event: &[u8], from: usize) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = from;
    std::iter::from_fn(move || {
        let rest = event.get(at..).filter(|rest| !rest.is_empty())?;
        let len = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let line = at..at + len;
        let end = if rest.get(len..).unwrap_or_default().starts_with(b"\r\n") { 2 } else { 1 };
        at = line.end + end;
        Some(line)
    })
}

/// The data on a line, if it is a line of data: one space after the colon is not part of it.
fn data(event: &[u8], line: &Range<usize>) -> Option<Range<usize>> {
    let text = event.get(line.clone())?.strip_prefix(b"data:")?;
    let text = text.strip_prefix(b" ").unwrap_or(text);
    Some(line.end - text.len()..line.end)
}

fn judge(event: &[u8], mark: usize) -> Verdict {
    if memchr::memmem::find(event, b"\"usage\"").is_none() {
        return Verdict::Keep;
    }
    let mut parts = lines(event, mark).filter_map(|line| data(event, &line));
    let Some(first) = parts.next() else { return Verdict::Keep };
    let more: Vec<Range<usize>> = parts.collect();
    let mut chunk = Chunk::default();
    let mut json = JsonScan::new();
    let mut read = Ok(());
    for part in std::iter::once(&first).chain(&more) {
        if part != &first {
            read = read.and_then(|()| json.feed(b"\n", |_, _| {}));
        }
        let text = event.get(part.clone()).unwrap_or_default();
        read = read.and_then(|()| json.feed(text, |spot, event| chunk.take(spot, event)));
    }
    if read.and_then(|()| json.finish(|_, _| {})).is_err() {
        return Verdict::Keep;
    }
    match chunk.usage {
        Usage::Stated if chunk.choices == Choices::Empty => Verdict::Drop,
        // In more lines than one no vendor sends it, and nothing is taken out of it.
        Usage::Null(from, to) if more.is_empty() => {
            let text = event.get(first.clone()).unwrap_or_default();
            let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(text.len());
            let member = member(text, place(from)..place(to));
            Verdict::Without(first.start + member.start..first.start + member.end)
        }
        Usage::Absent | Usage::Null(..) | Usage::Stated | Usage::Twice => Verdict::Keep,
    }
}

/// A member with the comma that goes with it: the one behind it, with the blanks up to the
/// next member, or else the one before it.
fn member(json: &[u8], member: Range<usize>) -> Range<usize> {
    let blanks = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let behind = json.get(member.end..).unwrap_or_default();
    let gap = blanks(behind);
    if let Some(b',') = behind.get(gap) {
        let next = behind.get(gap + 1..).unwrap_or_default();
        return member.start..member.end + gap + 1 + blanks(next);
    }
    let before = json.get(..member.start).unwrap_or_default();
    let gap = before.iter().rev().take_while(|byte| byte.is_ascii_whitespace()).count();
    match before.len().checked_sub(gap + 1) {
        Some(comma) if before.get(comma) == Some(&b',') => comma..member.end,
        Some(_) | None => member,
    }
}

/// What matters of a chunk.
#[derive(Debug, Default)]
struct Chunk {
    key: Key,
    choices: Choices,
    usage: Usage,
}

#[derive(Debug, Default)]
enum Key {
    #[default]
    Other,
    Choices,
    /// Where it begins.
    Usage(u64),
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Choices {
    #[default]
    Absent,
    Empty,
    Some,
}

#[derive(Debug, Default)]
enum Usage {
    #[default]
    Absent,
    /// From where its key begins to where its value ends.
    Null(u64, u64),
    Stated,
    Twice,
}

impl Chunk {
    fn take(&mut self, spot: Spot, event: Event<'_>) {
        if spot.depth == 2 && self.choices == Choices::Empty && matches!(self.key, Key::Choices) {
            self.choices = Choices::Some;
        }
        if spot.depth != 1 {
            return;
        }
        if let Event::Key(key) = event {
            self.key = match () {
                () if key.is("choices") => Key::Choices,
                () if key.is("usage") => Key::Usage(spot.from),
                () => Key::Other,
            };
            return;
        }
        match (&self.key, &event) {
            (Key::Choices, Event::ArrayStart) => {
                let first = self.choices == Choices::Absent;
                self.choices = if first { Choices::Empty } else { Choices::Some };
            }
            (Key::Usage(from), Event::Null | Event::ObjectStart) => {
                self.usage = match (&self.usage, &event) {
                    (Usage::Absent, Event::Null) => Usage::Null(*from, spot.to),
                    (Usage::Absent, _) => Usage::Stated,
                    (Usage::Null(..) | Usage::Stated | Usage::Twice, _) => Usage::Twice,
                };
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
