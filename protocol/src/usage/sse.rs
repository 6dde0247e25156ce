//! Server-sent events taken apart: which bytes are data of which event.
//!
//! Invariant: nothing is kept of a line but how far its field name matched.

/// What a stream of events is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Data of the present event; further parts may follow.
    Data(&'a [u8]),
    /// The present event is over.
    EventEnd,
}

/// Where in a line the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// So many bytes of the field name `data` have matched.
    Name(usize),
    /// After `data:`: one space is dropped.
    Space,
    Data,
    /// Another field, or a comment.
    Other,
}

const NAME: &[u8] = b"data";
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The reader.
#[derive(Debug, Clone)]
pub(super) struct SseScan {
    place: Place,
    /// The last byte was a carriage return: a line feed after it is part of it.
    after_return: bool,
    /// So many bytes of a byte order mark have come; at the very beginning only.
    mark: Option<usize>,
    has_data: bool,
}

impl SseScan {
    pub(super) fn new() -> Self {
        Self { place: Place::Name(0), after_return: false, mark: Some(0), has_data: false }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], visit: &mut impl FnMut(Part<'_>)) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if std::mem::take(&mut self.after_return) && byte == b'\n' {
                bytes = rest;
                continue;
            }
            if let Some(seen) = self.mark {
                let matches = MARK.get(seen) == Some(&byte);
                self.mark = (matches && seen + 1 < MARK.len()).then_some(seen + 1);
                if matches {
                    bytes = rest;
                    continue;
                }
            }
            bytes = match self.place {
                Place::Data | Place::Other => self.run(bytes, visit),
                Place::Name(_) | Place::Space => self.byte(byte, bytes, rest, visit),
            };
        }
    }

    /// A run up to the end of the line.
    fn run<'a>(&mut self, bytes: &'a [u8], visit: &mut impl FnMut(Part<'_>)) -> &'a [u8] {
        let end = memchr::memchr2(b'\n', b'\r', bytes);
        let (run, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        if self.place == Place::Data && !run.is_empty() {
            visit(Part::Data(run));
        }
        let Some((&byte, rest)) = rest.split_first() else { return rest };
        self.end_line(byte, visit);
        rest
    }

    fn byte<'a>(&mut self, byte: u8, all: &'a [u8], rest: &'a [u8], visit: &mut impl FnMut(Part<'_>)) -> &'a [u8] {
        match (self.place, byte) {
            (_, b'\n' | b'\r') => {
                self.end_line(byte, visit);
                rest
            }
            (Place::Name(matched), b':') if matched == NAME.len() => {
                self.begin_data(visit);
                rest
            }
            (Place::Name(matched), _) if NAME.get(matched) == Some(&byte) => {
                self.place = Place::Name(matched + 1);
                rest
            }
            (Place::Name(_), _) => {
                self.place = Place::Other;
                all
            }
            (Place::Space, _) => {
                self.place = Place::Data;
                if byte == b' ' { rest } else { all }
            }
            (Place::Data | Place::Other, _) => rest,
        }
    }

    /// Several data lines of one event are joined by a line feed.
    fn begin_data(&mut self, visit: &mut impl FnMut(Part<'_>)) {
        if self.has_data {
            visit(Part::Data(b"\n"));
        }
        self.has_data = true;
        self.place = Place::Space;
    }

    fn end_line(&mut self, byte: u8, visit: &mut impl FnMut(Part<'_>)) {
        self.after_return = byte == b'\r';
        let empty = self.place == Place::Name(0);
        self.place = Place::Name(0);
        if empty && std::mem::take(&mut self.has_data) {
            visit(Part::EventEnd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_in_every_form_that_clients_accept() {
        let forms = [
            ("data: a\n\n", vec!["a"]),
            ("data:a\r\n\r\ndata: b\r\n\r\n", vec!["a", "b"]),
            ("data: a\r\rdata: b\r\r", vec!["a", "b"]),
            ("\u{feff}data: a\n\n", vec!["a"]),
            (": keep-alive\n\ndata: a\n\n", vec!["a"]),
            ("event: x\ndata: a\nid: 7\n\n", vec!["a"]),
            ("data: a\ndata:  b\n\n", vec!["a\n b"]),
            ("data\n\ndata: a\n\n", vec!["a"]),
            ("database: x\ndat: y\n\n", vec![]),
            ("data: unfinished", vec![]),
            ("\n\n\ndata:\n\n", vec![""]),
        ];
        for (text, expected) in forms {
            assert_eq!(events(text.as_bytes(), &[]), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(text in "(data: ?|: |event:|[ab\r\n]){0,40}", cuts in proptest::collection::vec(0_usize..9, 0..20)) {
            prop_assert_eq!(events(text.as_bytes(), &cuts), events(text.as_bytes(), &[]));
        }
    }

    fn events(bytes: &[u8], cuts: &[usize]) -> Vec<String> {
        let mut scan = SseScan::new();
        let mut events = Vec::new();
        let mut event = Vec::new();
        let mut rest = bytes;
        let mut feed = |piece: &[u8]| {
            scan.feed(piece, &mut |part| match part {
                Part::Data(data) => event.extend_from_slice(data),
                Part::EventEnd => events.push(String::from_utf8(std::mem::take(&mut event)).unwrap()),
            });
        };
        for cut in cuts {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            feed(piece);
            rest = after;
        }
        feed(rest);
        events
    }
}
