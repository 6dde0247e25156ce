//! Content codings undone on the copy: gzip and deflate, across any cut.
//!
//! Invariant: at most one window of decoded bytes exists at a time, and a stream that
//! expands beyond reason is given up.

use flate2::Decompress;
use flate2::FlushDecompress;
use flate2::Status;

/// A content coding that can be undone. The agent offers vendors no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// None.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950, or as some send it RFC 1951.
    Deflate,
}

impl Coding {
    /// The coding that a `content-encoding` header names; `None` for one that cannot be undone.
    pub fn of(header: &[u8]) -> Option<Self> {
        let name = header.trim_ascii();
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if name.is_empty() || is("identity") {
            Some(Self::Identity)
        } else if is("gzip") || is("x-gzip") {
            Some(Self::Gzip)
        } else if is("deflate") {
            Some(Self::Deflate)
        } else {
            None
        }
    }
}

/// Decoded bytes that need no reason: an answer may be all white space.
const FREE_BYTES: u64 = 64 * 1024 * 1024;

/// Beyond them, decoded bytes for each encoded one. Text of models stays below 20.
const RATIO_MAX: u64 = 200;

/// The stream is not what its coding says, or expands beyond reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Undecodable;

/// Decoded at once.
const WINDOW_BYTES: usize = 8 * 1024;

/// Undoes one coding.
pub(super) struct Decoding {
    state: State,
    inflate: Option<Box<Decompress>>,
    encoded_bytes: u64,
    decoded_bytes: u64,
}

/// What the next byte is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Identity,
    GzipHead(GzipHead),
    GzipBody,
    /// So many bytes of checksum and length are still to come. They are the reader's to check.
    GzipTail(u8),
    /// The first byte, until the second tells whether it is RFC 1950 or RFC 1951.
    Undecided(Option<u8>),
    Deflate,
    /// What follows is ignored by whoever reads it.
    Over,
}

/// Where in a member's head (RFC 1952, section 2.3) the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GzipHead {
    part: GzipPart,
    flags: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GzipPart {
    /// One of the ten bytes that are always there.
    Fixed(u8),
    ExtraLengthLow,
    ExtraLengthHigh(u8),
    Extra(u16),
    Name,
    Comment,
    Check(u8),
}

const FLAG_CHECK: u8 = 2;
const FLAG_EXTRA: u8 = 4;
const FLAG_NAME: u8 = 8;
const FLAG_COMMENT: u8 = 16;
const GZIP_TAIL_BYTES: u8 = 8;

impl GzipHead {
    const START: Self = Self { part: GzipPart::Fixed(0), flags: 0 };

    /// The place after this byte; `None` when the body begins there.
    fn next(self, byte: u8) -> Result<Option<Self>, Undecodable> {
        let mut flags = self.flags;
        let part = match self.part {
            GzipPart::Fixed(at) => {
                let fits = match at {
                    0 => byte == 0x1f,
                    1 => byte == 0x8b,
                    2 => byte == 8,
                    _ => true,
                };
                if !fits {
                    return Err(Undecodable);
                }
                if at == 3 {
                    flags = byte;
                }
                if at < 9 { Some(GzipPart::Fixed(at + 1)) } else { None }
            }
            GzipPart::ExtraLengthLow => Some(GzipPart::ExtraLengthHigh(byte)),
            GzipPart::ExtraLengthHigh(low) => match u16::from_le_bytes([low, byte]) {
                0 => None,
                length => Some(GzipPart::Extra(length)),
            },
            GzipPart::Extra(left) => (left > 1).then(|| GzipPart::Extra(left - 1)),
            GzipPart::Name => (byte != 0).then_some(GzipPart::Name),
            GzipPart::Comment => (byte != 0).then_some(GzipPart::Comment),
            GzipPart::Check(at) => (at == 0).then_some(GzipPart::Check(1)),
        };
        Ok(part.map_or_else(|| Self { part: self.part, flags }.optional(), |part| Some(Self { part, flags })))
    }

    /// The next optional part that the flags announce.
    fn optional(self) -> Option<Self> {
        let optional = [
            (FLAG_EXTRA, GzipPart::ExtraLengthLow),
            (FLAG_NAME, GzipPart::Name),
            (FLAG_COMMENT, GzipPart::Comment),
            (FLAG_CHECK, GzipPart::Check(0)),
        ];
        let (flag, part) = optional.into_iter().find(|(flag, _)| self.flags & flag != 0)?;
        Some(Self { part, flags: self.flags & !flag })
    }
}

impl Decoding {
    pub(super) fn new(coding: Coding) -> Self {
        let state = match coding {
            Coding::Identity => State::Identity,
            Coding::Gzip => State::GzipHead(GzipHead::START),
            Coding::Deflate => State::Undecided(None),
        };
        Self { state, inflate: None, encoded_bytes: 0, decoded_bytes: 0 }
    }

    /// The same at the same place, where nothing is under way that cannot be copied.
    pub(super) fn fork(&self) -> Option<Self> {
        let Self { state, inflate, encoded_bytes, decoded_bytes } = self;
        let (state, encoded_bytes, decoded_bytes) = (*state, *encoded_bytes, *decoded_bytes);
        inflate.is_none().then_some(Self { state, inflate: None, encoded_bytes, decoded_bytes })
    }

    /// Gives `visit` all that these bytes decode to, in pieces.
    pub(super) fn feed(&mut self, mut bytes: &[u8], visit: &mut impl FnMut(&[u8])) -> Result<(), Undecodable> {
        self.encoded_bytes = self.encoded_bytes.saturating_add(wide(bytes.len()));
        while let Some((&byte, rest)) = bytes.split_first() {
            bytes = match self.state {
                State::Identity => {
                    visit(bytes);
                    return Ok(());
                }
                State::Over => return Ok(()),
                State::GzipHead(head) => {
                    self.state = match head.next(byte) {
                        Ok(next) => next.map_or_else(|| self.begin_inflate(false), State::GzipHead),
                        // After a whole member, clients take no notice of what is none.
                        Err(Undecodable) if self.inflate.is_some() => State::Over,
                        Err(undecodable) => return Err(undecodable),
                    };
                    rest
                }
                State::GzipTail(left) => {
                    self.state = if left > 1 { State::GzipTail(left - 1) } else { State::GzipHead(GzipHead::START) };
                    rest
                }
                State::Undecided(None) => {
                    self.state = State::Undecided(Some(byte));
                    rest
                }
                State::Undecided(Some(first)) => {
                    let is_zlib = first & 0x0f == 8 && u16::from_be_bytes([first, byte]).is_multiple_of(31);
                    self.begin_inflate(is_zlib);
                    self.state = State::Deflate;
                    self.inflate(&[first], visit)?;
                    bytes
                }
                State::GzipBody | State::Deflate => self.inflate(bytes, visit)?,
            };
        }
        Ok(())
    }

    fn begin_inflate(&mut self, zlib_head: bool) -> State {
        match &mut self.inflate {
            Some(inflate) => inflate.reset(zlib_head),
            None => self.inflate = Some(Box::new(Decompress::new(zlib_head))),
        }
        State::GzipBody
    }

    /// Decodes as far as the deflate stream goes; returns what comes after it.
    fn inflate<'a>(&mut self, mut bytes: &'a [u8], visit: &mut impl FnMut(&[u8])) -> Result<&'a [u8], Undecodable> {
        let Some(inflate) = &mut self.inflate else { return Err(Undecodable) };
        let mut window = [0; WINDOW_BYTES];
        loop {
            let (read, written) = (inflate.total_in(), inflate.total_out());
            let status = inflate.decompress(bytes, &mut window, FlushDecompress::None).map_err(|_| Undecodable)?;
            let taken = usize::try_from(inflate.total_in() - read).map_err(|_| Undecodable)?;
            let made = usize::try_from(inflate.total_out() - written).map_err(|_| Undecodable)?;
            bytes = bytes.get(taken..).unwrap_or_default();
            visit(window.get(..made).unwrap_or_default());
            self.decoded_bytes = self.decoded_bytes.saturating_add(wide(made));
            if self.decoded_bytes > FREE_BYTES.saturating_add(self.encoded_bytes.saturating_mul(RATIO_MAX)) {
                return Err(Undecodable);
            }
            if status == Status::StreamEnd {
                self.state = if self.state == State::GzipBody { State::GzipTail(GZIP_TAIL_BYTES) } else { State::Over };
                return Ok(bytes);
            }
            // A window that was not filled means that everything is out that could come out.
            if bytes.is_empty() && made < WINDOW_BYTES {
                return Ok(bytes);
            }
            if taken == 0 && made == 0 {
                return Err(Undecodable);
            }
        }
    }
}

fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::DeflateEncoder;
    use flate2::write::GzEncoder;
    use flate2::write::ZlibEncoder;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_coding_is_undone_at_every_cut() {
        let text = "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"}}]}\n\n".repeat(9);
        for (coding, encoded) in encodings(text.as_bytes()) {
            for cut in 0..=encoded.len() {
                let (before, after) = encoded.split_at(cut);
                assert_eq!(decoded(coding, &[before, after]).unwrap(), text.as_bytes(), "{coding:?} {cut}");
            }
            let single: Vec<&[u8]> = encoded.chunks(1).collect();
            assert_eq!(decoded(coding, &single).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn members_one_after_the_other_are_one_text() {
        let [(_, mut encoded), ..] = encodings(b"one ");
        let [(_, second), ..] = encodings(b"two");
        encoded.extend(second);

        assert_eq!(decoded(Coding::Gzip, &[&encoded]).unwrap(), b"one two");
    }

    #[test]
    fn what_follows_the_last_member_is_passed_over() {
        let [(_, mut encoded), ..] = encodings(b"text");
        encoded.extend([0; 9]);

        assert_eq!(decoded(Coding::Gzip, &[&encoded]).unwrap(), b"text");
    }

    #[test]
    fn optional_parts_of_a_gzip_head_are_passed_over() {
        let mut encoder = flate2::GzBuilder::new()
            .filename("name")
            .comment("comment")
            .extra(vec![7; 300])
            .write(Vec::new(), Compression::fast());
        encoder.write_all(b"text").unwrap();
        let encoded = encoder.finish().unwrap();

        let single: Vec<&[u8]> = encoded.chunks(1).collect();
        assert_eq!(decoded(Coding::Gzip, &single).unwrap(), b"text");
    }

    #[test]
    fn what_is_not_the_coding_is_undecodable() {
        assert_eq!(decoded(Coding::Gzip, &[b"{\"a\":1}"]), Err(Undecodable));
        assert_eq!(decoded(Coding::Deflate, &[b"\xff\xff\xff\xff"]), Err(Undecodable));
    }

    #[test]
    fn a_bomb_is_given_up() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        for _ in 0..200 {
            encoder.write_all(&vec![b' '; 1024 * 1024]).unwrap();
        }
        let encoded = encoder.finish().unwrap();
        let mut decoding = Decoding::new(Coding::Gzip);
        let mut bytes = 0_u64;

        let end = decoding.feed(&encoded, &mut |piece| bytes += wide(piece.len()));

        assert_eq!(end, Err(Undecodable));
        assert!(bytes < FREE_BYTES + wide(encoded.len()) * RATIO_MAX + 2 * wide(WINDOW_BYTES));
    }

    #[test]
    fn names_of_codings() {
        assert_eq!(Coding::of(b""), Some(Coding::Identity));
        assert_eq!(Coding::of(b" GZIP"), Some(Coding::Gzip));
        assert_eq!(Coding::of(b"deflate"), Some(Coding::Deflate));
        assert_eq!(Coding::of(b"br"), None);
        assert_eq!(Coding::of(b"gzip, gzip"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_lead_to_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), coding in 0..2_u8) {
            let coding = if coding == 0 { Coding::Gzip } else { Coding::Deflate };
            let mut bytes = bytes;
            if coding == Coding::Gzip {
                bytes.splice(0..0, [0x1f, 0x8b, 8]);
            }
            let _ = decoded(coding, &[&bytes]);
        }
    }

    fn encodings(text: &[u8]) -> [(Coding, Vec<u8>); 3] {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(text).unwrap();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(text).unwrap();
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
        raw.write_all(text).unwrap();
        [
            (Coding::Gzip, gzip.finish().unwrap()),
            (Coding::Deflate, zlib.finish().unwrap()),
            (Coding::Deflate, raw.finish().unwrap()),
        ]
    }

    fn decoded(coding: Coding, pieces: &[&[u8]]) -> Result<Vec<u8>, Undecodable> {
        let mut decoding = Decoding::new(coding);
        let mut out = Vec::new();
        for piece in pieces {
            decoding.feed(piece, &mut |decoded| out.extend_from_slice(decoded))?;
        }
        Ok(out)
    }
}
