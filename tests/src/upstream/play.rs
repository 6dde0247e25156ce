//! The plays: what the upstream does other than answer properly, asked for in `x-kit-play`.
//!
//! Invariant: a word that is not known is an error, so that a misspelt test cannot pass.

use std::time::Duration;

/// The header that asks for a play. It travels through hub and agent untouched.
pub const PLAY_HEADER: &str = "x-kit-play";
/// The header that names a test's call. It travels through hub and agent untouched.
pub const CASE_HEADER: &str = "x-kit-case";

/// One way to break off or spoil the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Half of the head, then the connection closes.
    CutHead,
    /// A declared length, half of the body, then the connection closes.
    CutBody,
    /// The connection closes in the middle of a chunk.
    CutChunk,
    /// Never answers; the connection stays open.
    StallHead,
    /// Stops in the middle of the body; the connection stays open.
    StallBody,
    /// Answers with bytes that are not HTTP.
    Garbage,
    /// A good head and a good chunk, then a chunk size that is not one.
    GarbageChunk,
    /// Half of the body, then TCP RST.
    Reset,
    /// TCP RST instead of an answer.
    ResetHead,
    /// `content-length: 12abc`.
    BadContentLength,
    /// Two `content-length` headers that differ.
    TwoContentLengths,
    /// A head of 1 MiB.
    HugeHead,
    /// No framing: the body ends with the connection.
    ToEnd,
    /// `101 Switching Protocols` that nobody asked for.
    Switch,
    /// The vendor ends its direction instead of answering, and goes on reading.
    HalfCloseHead,
    /// The vendor ends its direction in the middle of the body, and goes on reading.
    HalfCloseBody,
    /// A WebSocket accepted with another key's answer.
    BadAccept,
    /// A WebSocket accepted without an answer to its key.
    NoAccept,
    /// A WebSocket accepted with compression that was not offered.
    Extension,
    /// A WebSocket accepted with a subprotocol that was not offered.
    OtherProtocol,
}

/// What the answer is compressed with, if the request accepts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`.
    Gzip,
    /// `deflate` (zlib).
    Deflate,
}

/// When the answer is given relative to the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// Answers after the head, then reads the upload and goes on.
    GoOn,
    /// Answers after the head with `connection: close` and closes.
    Close,
}

/// Everything a request asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Play {
    /// How the answer is spoilt.
    pub fault: Option<Fault>,
    /// Answer with this status in the vendor's error shape.
    pub status: Option<u16>,
    /// Number of content pieces.
    pub chunks: Option<usize>,
    /// Pause before each piece after the first.
    pub gap: Option<Duration>,
    /// Body bytes (exact for a plain answer, of text for a streamed one).
    pub big: Option<usize>,
    /// Content pieces of so many bytes without an end, as fast as they are taken.
    pub endless: Option<usize>,
    /// The same, but so many, each beginning with its number.
    pub pieces: Option<(usize, usize)>,
    /// One byte at a time, with this pause between.
    pub slow: Option<Duration>,
    /// Each piece waits until the test releases it.
    pub step: bool,
    /// Compress.
    pub coding: Option<Coding>,
    /// Send `100 Continue` first, asked for or not.
    pub continue_first: bool,
    /// End a chunked body with trailers.
    pub trailers: bool,
    /// Say `connection: close` and close after the answer.
    pub close: bool,
    /// Answer before the upload ends.
    pub early: Option<Early>,
    /// Do not read the upload for this long after the head.
    pub stall_upload: Option<Duration>,
    /// Do not read the upload before the test releases it, as a step of the case.
    pub hold_upload: bool,
    /// A stream that reports an error half-way, inside a 200.
    pub error_in_stream: bool,
    /// Realtime: a ping before each event.
    pub pings: bool,
    /// Realtime: each event in pieces, with pings between.
    pub fragments: bool,
    /// Realtime: close with this code after the first response.
    pub close_code: Option<u16>,
}

impl Play {
    /// Reads the words of the header: separated by commas or blanks.
    ///
    /// # Errors
    /// The word that is not a play.
    pub fn parse(words: &str) -> Result<Self, String> {
        let mut play = Self::default();
        for word in words.split([',', ' ']).filter(|word| !word.is_empty()) {
            play.add(word).ok_or_else(|| format!("{word:?} is not a play"))?;
        }
        Ok(play)
    }

    fn add(&mut self, word: &str) -> Option<()> {
        let (name, numbers) = split_numbers(word)?;
        match (name, numbers.as_slice()) {
            ("status", [status]) => self.status = Some(u16::try_from(*status).ok()?),
            ("chunks", [count, gap_ms]) => {
                self.chunks = Some(usize::try_from(*count).ok()?);
                self.gap = Some(Duration::from_millis(*gap_ms));
            }
            ("big", [bytes]) => self.big = Some(usize::try_from(*bytes).ok()?),
            ("endless", [bytes]) => self.endless = Some(usize::try_from(*bytes).ok()?),
            ("pieces", [bytes, count]) => {
                self.pieces = Some((usize::try_from(*bytes).ok()?, usize::try_from(*count).ok()?));
            }
            ("slow", []) => self.slow = Some(Duration::from_millis(50)),
            ("slow", [ms]) => self.slow = Some(Duration::from_millis(*ms)),
            ("stall-upload", [ms]) => self.stall_upload = Some(Duration::from_millis(*ms)),
            ("hold-upload", []) => self.hold_upload = true,
            ("step", []) => self.step = true,
            ("gzip", []) => self.coding = Some(Coding::Gzip),
            ("deflate", []) => self.coding = Some(Coding::Deflate),
            ("continue", [100]) => self.continue_first = true,
            ("trailers", []) => self.trailers = true,
            ("close", [code]) => self.close_code = Some(u16::try_from(*code).ok()?),
            ("pings", []) => self.pings = true,
            ("fragments", []) => self.fragments = true,
            ("close", []) => self.close = true,
            ("early", []) => self.early = Some(Early::GoOn),
            ("early-close", []) => self.early = Some(Early::Close),
            ("error-in-stream", []) => self.error_in_stream = true,
            (name, []) => self.fault = Some(fault(name)?),
            _ => return None,
        }
        Some(())
    }
}

fn fault(name: &str) -> Option<Fault> {
    let known = [
        ("cut-head", Fault::CutHead),
        ("cut-body", Fault::CutBody),
        ("cut-chunk", Fault::CutChunk),
        ("stall-head", Fault::StallHead),
        ("stall-body", Fault::StallBody),
        ("garbage", Fault::Garbage),
        ("garbage-chunk", Fault::GarbageChunk),
        ("reset", Fault::Reset),
        ("reset-head", Fault::ResetHead),
        ("bad-content-length", Fault::BadContentLength),
        ("two-content-lengths", Fault::TwoContentLengths),
        ("huge-head", Fault::HugeHead),
        ("to-end", Fault::ToEnd),
        ("switch-101", Fault::Switch),
        ("half-close-head", Fault::HalfCloseHead),
        ("half-close-body", Fault::HalfCloseBody),
        ("bad-accept", Fault::BadAccept),
        ("no-accept", Fault::NoAccept),
        ("extension", Fault::Extension),
        ("other-protocol", Fault::OtherProtocol),
    ];
    let same = |(word, _): &&(&str, Fault)| *word == name;
    known.iter().find(same).map(|(_, fault)| *fault)
}

/// `chunks-5-20` is `chunks` with 5 and 20; words with a fixed number in them are names.
fn split_numbers(word: &str) -> Option<(&str, Vec<u64>)> {
    match word {
        "100-continue" => return Some(("continue", vec![100])),
        "switch-101" => return Some((word, Vec::new())),
        _ => {}
    }
    let digit = word.find(|character: char| character.is_ascii_digit());
    let Some(digit) = digit else {
        return Some((word, Vec::new()));
    };
    let name = word[..digit].strip_suffix('-')?;
    let numbers: Result<_, _> = word[digit..].split('-').map(str::parse).collect();
    Some((name, numbers.ok()?))
}
