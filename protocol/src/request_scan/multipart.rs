//! A strict, streaming reader of `multipart/form-data` (RFC 7578): bytes in at any cut,
//! parts out.
//!
//! Invariant: the same bytes give the same parts and the same verdict however they are
//! cut, in memory that does not grow with the body; what two readers could take apart
//! differently is refused.

use super::ScanError;
use super::part_head::PartHead;

/// The most bytes of one part's headers.
pub(super) const PART_HEAD_BYTES_MAX: usize = 4096;

/// The most parts of one body.
pub(super) const PARTS_MAX: u32 = 256;

/// What the reader met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartEvent<'a> {
    /// A part begins.
    Begin(&'a PartHead),
    /// More of its content.
    Data(&'a [u8]),
    /// The part is over.
    End,
}

/// The reader. Feed it, then finish it.
#[derive(Debug, Clone)]
pub(super) struct MultipartScan {
    /// `--` and the boundary.
    delimiter: Vec<u8>,
    state: State,
    head: Vec<u8>,
    parts: u32,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first delimiter, of which this many bytes were seen.
    Opening(usize),
    /// Two bytes that say whether it was the last delimiter.
    AfterDelimiter(Option<u8>),
    /// The headers of a part.
    Head,
    /// Content.
    Content,
    /// Content, or a delimiter of which this many bytes were seen after a break.
    Break(LineBreak, usize),
    /// The end, or the line break that most clients add to it.
    Epilogue(usize),
}

/// What stands before a delimiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineBreak {
    /// Nothing: the content begins here.
    Begin,
    Cr,
    Lf,
    CrLf,
}

impl LineBreak {
    const fn bytes(self) -> &'static [u8] {
        match self {
            Self::Begin => b"",
            Self::Cr => b"\r",
            Self::Lf => b"\n",
            Self::CrLf => b"\r\n",
        }
    }
}

impl MultipartScan {
    /// A reader of parts between these boundaries.
    pub(super) fn new(boundary: &str) -> Self {
        let delimiter = format!("--{boundary}").into_bytes();
        Self { delimiter, state: State::Opening(0), head: Vec::new(), parts: 0 }
    }

    /// Reads the next bytes and shows `visit` what they complete.
    ///
    /// # Errors
    /// When the body is no well-formed form, or when `visit` refuses.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        mut visit: impl FnMut(PartEvent<'_>) -> Result<(), ScanError>,
    ) -> Result<(), ScanError> {
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            let taken = self.step(byte, rest, &mut visit)?;
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Says that no more bytes come.
    ///
    /// # Errors
    /// When the body is not complete.
    pub(super) fn finish(&self) -> Result<(), ScanError> {
        match self.state {
            State::Epilogue(0 | 2) => Ok(()),
            State::Opening(_)
            | State::AfterDelimiter(_)
            | State::Head
            | State::Content
            | State::Break(..)
            | State::Epilogue(_) => Err(malformed("the form, which breaks off")),
        }
    }

    /// What it keeps of the body.
    #[cfg(test)]
    pub(super) fn bytes_held(&self) -> usize {
        self.delimiter.capacity() + self.head.capacity()
    }

    /// Takes one or more bytes from the front of `rest`, whose first is `byte`; none, when
    /// it only ends what might have been a delimiter.
    fn step(
        &mut self,
        byte: u8,
        rest: &[u8],
        visit: &mut impl FnMut(PartEvent<'_>) -> Result<(), ScanError>,
    ) -> Result<usize, ScanError> {
        match self.state {
            State::Opening(seen) => self.opening(byte, seen)?,
            State::AfterDelimiter(first) => self.after_delimiter(byte, first)?,
            State::Head => self.head(byte, visit)?,
            State::Content => return self.content(byte, rest, visit),
            State::Break(line_break, seen) => return self.line_break(byte, line_break, seen, visit),
            State::Epilogue(seen) if b"\r\n".get(seen) == Some(&byte) => self.state = State::Epilogue(seen + 1),
            State::Epilogue(_) => return Err(malformed("the form, which goes on after its end")),
        }
        Ok(1)
    }

    fn opening(&mut self, byte: u8, seen: usize) -> Result<(), ScanError> {
        if self.delimiter.get(seen) != Some(&byte) {
            return Err(malformed("the form, which does not begin with its boundary"));
        }
        let whole = seen + 1 == self.delimiter.len();
        self.state = if whole { State::AfterDelimiter(None) } else { State::Opening(seen + 1) };
        Ok(())
    }

    fn after_delimiter(&mut self, byte: u8, first: Option<u8>) -> Result<(), ScanError> {
        self.state = match (first, byte) {
            (None, b'\r' | b'-') => State::AfterDelimiter(Some(byte)),
            (Some(b'\r'), b'\n') => {
                self.parts += 1;
                self.head.clear();
                State::Head
            }
            (Some(b'-'), b'-') => State::Epilogue(0),
            _ => return Err(malformed("the form: something follows a boundary on its line")),
        };
        if self.parts > PARTS_MAX {
            return Err(malformed("the form, which has too many parts"));
        }
        Ok(())
    }

    fn head(
        &mut self,
        byte: u8,
        visit: &mut impl FnMut(PartEvent<'_>) -> Result<(), ScanError>,
    ) -> Result<(), ScanError> {
        if self.head.len() == PART_HEAD_BYTES_MAX {
            return Err(malformed("the form: a part's headers are too long"));
        }
        self.head.push(byte);
        if self.head == b"\r\n" {
            return Err(malformed("the form: a part has no headers"));
        }
        if let Some(lines) = self.head.strip_suffix(b"\r\n\r\n") {
            let head = PartHead::parse(lines)?;
            self.state = State::Break(LineBreak::Begin, 0);
            visit(PartEvent::Begin(&head))?;
        }
        Ok(())
    }

    fn content(
        &mut self,
        byte: u8,
        rest: &[u8],
        visit: &mut impl FnMut(PartEvent<'_>) -> Result<(), ScanError>,
    ) -> Result<usize, ScanError> {
        let line_break = match byte {
            b'\r' => LineBreak::Cr,
            b'\n' => LineBreak::Lf,
            _ => {
                let len = plain_run(rest);
                visit(PartEvent::Data(rest.get(..len).unwrap_or_default()))?;
                return Ok(len);
            }
        };
        self.state = State::Break(line_break, 0);
        Ok(1)
    }

    /// After a line break: the delimiter, or content that begins like it.
    fn line_break(
        &mut self,
        byte: u8,
        line_break: LineBreak,
        seen: usize,
        visit: &mut impl FnMut(PartEvent<'_>) -> Result<(), ScanError>,
    ) -> Result<usize, ScanError> {
        if line_break == LineBreak::Cr && seen == 0 && byte == b'\n' {
            self.state = State::Break(LineBreak::CrLf, 0);
            return Ok(1);
        }
        if self.delimiter.get(seen) != Some(&byte) {
            self.state = State::Content;
            let begun = self.delimiter.get(..seen).unwrap_or_default();
            for piece in [line_break.bytes(), begun].into_iter().filter(|piece| !piece.is_empty()) {
                visit(PartEvent::Data(piece))?;
            }
            return Ok(0);
        }
        if seen + 1 < self.delimiter.len() {
            self.state = State::Break(line_break, seen + 1);
            return Ok(1);
        }
        // Lenient readers would end the part here, strict ones would not.
        if line_break != LineBreak::CrLf {
            return Err(malformed("the form: a boundary does not stand after a line's end"));
        }
        self.state = State::AfterDelimiter(None);
        visit(PartEvent::End)?;
        Ok(1)
    }
}

/// How many bytes from the front hold no line break. Whole blocks first, without a branch
/// per byte, so that the compiler uses vector instructions.
fn plain_run(bytes: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let stop = |byte: &u8| u8::from(*byte == b'\r') | u8::from(*byte == b'\n');
    let blocks = bytes.chunks_exact(BLOCK);
    let len = BLOCK * blocks.take_while(|block| block.iter().fold(0, |found, byte| found | stop(byte)) == 0).count();
    let rest = bytes.get(len..).unwrap_or_default();
    len + rest.iter().take_while(|byte| stop(byte) == 0).count()
}

const fn malformed(what: &'static str) -> ScanError {
    ScanError::Malformed { what }
}

#[cfg(test)]
mod tests;
