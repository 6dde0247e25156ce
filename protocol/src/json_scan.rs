//! A strict, streaming reader of one JSON text (RFC 8259): bytes in at any
//! cut, events out, nothing changed and nothing kept but a short prefix.
//!
//! Invariant: the same bytes give the same events and the same verdict however
//! they are cut, in memory that does not grow with the input.

mod number;
mod text;

use number::NumberPart;
use text::Capture;
use text::PartialChar;
use text::plain_run;

/// How deep arrays and objects may nest.
pub const DEPTH_MAX: u32 = 128;

/// How much of a key, string or number is kept; the rest is only counted.
pub const TEXT_BYTES_MAX: usize = 256;

/// How many follow `\u`.
const HEX_DIGITS: usize = 4;

/// A key, string or number, unescaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a> {
    /// Its first [`TEXT_BYTES_MAX`] bytes: all of it, when it is no longer.
    /// A longer one may be cut inside a character.
    pub prefix: &'a [u8],
    /// Its whole length in bytes.
    pub len: u64,
    /// Its whole length in characters.
    pub chars: u64,
}

impl<'a> Text<'a> {
    /// The whole text, unless it is longer than what is kept.
    pub fn as_str(&self) -> Option<&'a str> {
        let whole = wide(self.prefix.len()) == self.len;
        whole.then(|| std::str::from_utf8(self.prefix).ok())?
    }

    /// Whether it is exactly this.
    pub fn is(&self, expected: &str) -> bool {
        self.as_str() == Some(expected)
    }
}

/// Where the reader met something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// How deep it stands. An opening and its end have the same depth; the root value has
    /// depth 0, the members of a root object depth 1.
    pub depth: u32,
    /// The offset of its first byte in the whole text.
    pub from: u64,
    /// The offset of the byte after its last one.
    pub to: u64,
}

/// What the reader met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// `{`.
    ObjectStart,
    /// `}`.
    ObjectEnd,
    /// `[`.
    ArrayStart,
    /// `]`.
    ArrayEnd,
    /// The key of the member whose value comes next.
    Key(Text<'a>),
    /// A string value.
    String(Text<'a>),
    /// A number as it is written. Its size is not checked: `1e999` is one.
    Number(Text<'a>),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

/// What is wrong with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// A byte that may not stand here.
    #[error("unexpected byte")]
    Unexpected,
    /// A number that breaks off or has a leading zero's like.
    #[error("malformed number")]
    Number,
    /// Neither `true`, `false` nor `null`.
    #[error("unknown literal")]
    Literal,
    /// An unescaped control character in a string.
    #[error("control character in a string")]
    ControlCharacter,
    /// An escape that does not exist.
    #[error("unknown escape in a string")]
    Escape,
    /// Half of a surrogate pair.
    #[error("lone surrogate in a string")]
    Surrogate,
    /// Bytes that are not UTF-8.
    #[error("invalid UTF-8 in a string")]
    Utf8,
    /// More than [`DEPTH_MAX`] levels.
    #[error("nested too deeply")]
    TooDeep,
    /// Something after the one root value.
    #[error("data after the end")]
    Trailing,
    /// The text ended before its value did.
    #[error("the text breaks off")]
    Unfinished,
}

/// What is wrong, and where about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{fault} near byte {near}")]
pub struct JsonError {
    /// What is wrong.
    pub fault: JsonFault,
    /// Where the piece of text that shows it begins; this one may depend on
    /// the cuts.
    pub near: u64,
}

/// The reader. Feed it, then finish it.
#[derive(Debug, Clone)]
pub struct JsonScan {
    state: State,
    /// One bit per open container, the innermost lowest: 1 is an object.
    containers: u128,
    depth: u32,
    in_key: bool,
    capture: Capture,
    partial: PartialChar,
    offset: u64,
    /// Where the present piece of text begins, and where the present token began.
    here: u64,
    token_from: u64,
    failed: Option<JsonError>,
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Value,
    ValueOrArrayEnd,
    Key,
    KeyOrObjectEnd,
    Colon,
    AfterValue,
    Text,
    Escape,
    /// Hex digits of `\u`, after a high surrogate or not.
    Hex {
        digits: usize,
        value: u32,
        high: Option<u32>,
    },
    /// The `\` of the low surrogate.
    LowSlash(u32),
    /// The `u` of the low surrogate.
    LowU(u32),
    Number(NumberPart),
    Literal {
        word: Literal,
        matched: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Literal {
    True,
    False,
    Null,
}

impl Default for JsonScan {
    fn default() -> Self {
        Self::new()
    }
}

impl JsonScan {
    /// A reader at the beginning of a text.
    pub fn new() -> Self {
        Self {
            state: State::Value,
            containers: 0,
            depth: 0,
            in_key: false,
            capture: Capture::new(),
            partial: PartialChar::default(),
            offset: 0,
            here: 0,
            token_from: 0,
            failed: None,
        }
    }

    /// Reads the next bytes and shows `visit` what they complete.
    ///
    /// # Errors
    /// When the text cannot be JSON any more; from then on always.
    pub fn feed(&mut self, bytes: &[u8], mut visit: impl FnMut(Spot, Event<'_>)) -> Result<(), JsonError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            self.here = self.offset.saturating_add(wide(bytes.len() - rest.len()));
            match self.step(byte, rest, &mut visit) {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(fault) => return Err(self.fail(fault, bytes.len() - rest.len())),
            }
        }
        self.offset = self.offset.saturating_add(wide(bytes.len()));
        Ok(())
    }

    /// Says that no more bytes come.
    ///
    /// # Errors
    /// When the text is not complete, or was wrong before.
    pub fn finish(&mut self, mut visit: impl FnMut(Spot, Event<'_>)) -> Result<(), JsonError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.here = self.offset;
        // Only white space or the end tells that a number at the root is over.
        if let State::Number(part) = self.state
            && let Err(fault) = self.end_number(part, 0, &mut visit)
        {
            return Err(self.fail(fault, 0));
        }
        if self.state == State::AfterValue && self.depth == 0 {
            Ok(())
        } else {
            Err(self.fail(JsonFault::Unfinished, 0))
        }
    }

    fn fail(&mut self, fault: JsonFault, after_offset: usize) -> JsonError {
        let near = self.offset.saturating_add(wide(after_offset));
        let error = JsonError { fault, near };
        self.failed = Some(error);
        error
    }

    /// Takes one or more bytes from the front of `rest`, whose first is `byte`;
    /// none, when they only end a number.
    #[inline]
    fn step(&mut self, byte: u8, rest: &[u8], visit: &mut impl FnMut(Spot, Event<'_>)) -> Result<usize, JsonFault> {
        match self.state {
            State::Text => return self.text(byte, rest, visit),
            State::Escape => self.escape(byte)?,
            State::Hex { digits, value, high } => return self.hex(rest, digits, value, high),
            State::LowSlash(high) if byte == b'\\' => self.state = State::LowU(high),
            State::LowU(high) if byte == b'u' => self.state = hex_start(Some(high)),
            State::LowSlash(_) | State::LowU(_) => return Err(JsonFault::Surrogate),
            State::Number(part) => return self.number(part, rest, visit),
            State::Literal { word, matched } => self.literal(byte, word, matched, visit)?,
            State::Value
            | State::ValueOrArrayEnd
            | State::Key
            | State::KeyOrObjectEnd
            | State::Colon
            | State::AfterValue => {
                if is_space(byte) {
                    return Ok(rest.iter().take_while(|byte| is_space(**byte)).count());
                }
                self.structure(byte, visit)?;
            }
        }
        Ok(1)
    }

    /// A byte between the tokens that is not white space.
    #[inline]
    fn structure(&mut self, byte: u8, visit: &mut impl FnMut(Spot, Event<'_>)) -> Result<(), JsonFault> {
        match (self.state, byte) {
            (State::ValueOrArrayEnd, b']') => self.close(Event::ArrayEnd, visit),
            (State::Value | State::ValueOrArrayEnd, _) => return self.value(byte, visit),
            (State::KeyOrObjectEnd, b'}') => self.close(Event::ObjectEnd, visit),
            (State::Key | State::KeyOrObjectEnd, b'"') => self.start_text(true),
            (State::Colon, b':') => self.state = State::Value,
            (State::AfterValue, _) if self.depth == 0 => return Err(JsonFault::Trailing),
            (State::AfterValue, b',') if self.in_object() => self.state = State::Key,
            (State::AfterValue, b',') => self.state = State::Value,
            (State::AfterValue, b'}') if self.in_object() => self.close(Event::ObjectEnd, visit),
            (State::AfterValue, b']') if !self.in_object() => self.close(Event::ArrayEnd, visit),
            _ => return Err(JsonFault::Unexpected),
        }
        Ok(())
    }

    /// The first byte of a value.
    #[inline]
    fn value(&mut self, byte: u8, visit: &mut impl FnMut(Spot, Event<'_>)) -> Result<(), JsonFault> {
        match byte {
            b'"' => self.start_text(false),
            b'{' => self.open(Event::ObjectStart, visit)?,
            b'[' => self.open(Event::ArrayStart, visit)?,
            b'-' => self.start_number(byte, NumberPart::Minus),
            b'0' => self.start_number(byte, NumberPart::Zero),
            b'1'..=b'9' => self.start_number(byte, NumberPart::Integer),
            b't' => self.start_literal(Literal::True),
            b'f' => self.start_literal(Literal::False),
            b'n' => self.start_literal(Literal::Null),
            _ => return Err(JsonFault::Unexpected),
        }
        Ok(())
    }

    fn in_object(&self) -> bool {
        self.containers & 1 == 1
    }

    fn open(&mut self, event: Event<'_>, visit: &mut impl FnMut(Spot, Event<'_>)) -> Result<(), JsonFault> {
        if self.depth == DEPTH_MAX {
            return Err(JsonFault::TooDeep);
        }
        self.token_from = self.here;
        visit(self.spot(1), event);
        let is_object = event == Event::ObjectStart;
        self.containers = self.containers << 1 | u128::from(is_object);
        self.depth += 1;
        self.state = if is_object { State::KeyOrObjectEnd } else { State::ValueOrArrayEnd };
        Ok(())
    }

    /// Closes the innermost container; the states allow it only inside one.
    fn close(&mut self, event: Event<'_>, visit: &mut impl FnMut(Spot, Event<'_>)) {
        self.containers >>= 1;
        self.depth -= 1;
        self.state = State::AfterValue;
        self.token_from = self.here;
        visit(self.spot(1), event);
    }

    /// Where the token stands that ends so many bytes after the piece at hand begins.
    #[inline]
    fn spot(&self, ends_after: usize) -> Spot {
        Spot { depth: self.depth, from: self.token_from, to: self.here.saturating_add(wide(ends_after)) }
    }

    fn start_text(&mut self, in_key: bool) {
        self.capture.clear();
        self.token_from = self.here;
        self.in_key = in_key;
        self.state = State::Text;
    }

    /// A run of plain bytes, or the one byte that ends it.
    #[inline]
    fn text(&mut self, byte: u8, rest: &[u8], visit: &mut impl FnMut(Spot, Event<'_>)) -> Result<usize, JsonFault> {
        if self.partial.is_begun() {
            if let Some((whole, len)) = self.partial.push(byte)? {
                self.capture.extend_wide(whole.get(..len).unwrap_or_default());
            }
            return Ok(1);
        }
        let (len, beyond_ascii) = plain_run(rest);
        let (run, after) = rest.split_at(len);
        if beyond_ascii {
            self.wide_run(run, after.is_empty())?;
        } else {
            self.capture.extend(run);
        }
        match after.first() {
            None => return Ok(len),
            Some(b'"') => self.end_text(len + 1, visit),
            Some(b'\\') => self.state = State::Escape,
            Some(_) => return Err(JsonFault::ControlCharacter),
        }
        Ok(len + 1)
    }

    /// A run with characters beyond ASCII. Only where the bytes fed so far end
    /// may it break off inside one.
    fn wide_run(&mut self, run: &[u8], at_end: bool) -> Result<(), JsonFault> {
        let Err(error) = std::str::from_utf8(run) else {
            self.capture.extend_wide(run);
            return Ok(());
        };
        if error.error_len().is_some() || !at_end {
            return Err(JsonFault::Utf8);
        }
        let (whole, begun) = run.split_at(error.valid_up_to());
        self.capture.extend_wide(whole);
        begun.iter().try_for_each(|byte| self.partial.push(*byte).map(drop))
    }

    fn end_text(&mut self, ends_after: usize, visit: &mut impl FnMut(Spot, Event<'_>)) {
        let spot = self.spot(ends_after);
        let text = self.capture.text();
        if self.in_key {
            visit(spot, Event::Key(text));
            self.state = State::Colon;
        } else {
            visit(spot, Event::String(text));
            self.state = State::AfterValue;
        }
    }

    fn escape(&mut self, byte: u8) -> Result<(), JsonFault> {
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                self.state = hex_start(None);
                return Ok(());
            }
            _ => return Err(JsonFault::Escape),
        };
        self.capture.extend(&[plain]);
        self.state = State::Text;
        Ok(())
    }

    /// Hex digits of `\u`: all that are still needed at once, when they are
    /// there.
    fn hex(&mut self, rest: &[u8], digits: usize, mut value: u32, high: Option<u32>) -> Result<usize, JsonFault> {
        let mut taken = 0;
        for byte in rest.iter().take(HEX_DIGITS - digits) {
            let digit = char::from(*byte).to_digit(16).ok_or(JsonFault::Escape)?;
            value = value << 4 | digit;
            taken += 1;
        }
        let digits = digits + taken;
        if digits == HEX_DIGITS {
            self.unit(value, high)?;
        } else {
            self.state = State::Hex { digits, value, high };
        }
        Ok(taken)
    }

    /// One UTF-16 unit, alone or after a high surrogate.
    fn unit(&mut self, value: u32, high: Option<u32>) -> Result<(), JsonFault> {
        let scalar = match (high, value) {
            (None, 0xd800..=0xdbff) => {
                self.state = State::LowSlash(value);
                return Ok(());
            }
            (None, _) => value,
            (Some(high), 0xdc00..=0xdfff) => 0x1_0000 + ((high - 0xd800) << 10) + (value - 0xdc00),
            (Some(_), _) => return Err(JsonFault::Surrogate),
        };
        let character = char::from_u32(scalar).ok_or(JsonFault::Surrogate)?;
        let mut utf8 = [0; 4];
        self.capture.extend_wide(character.encode_utf8(&mut utf8).as_bytes());
        self.state = State::Text;
        Ok(())
    }

    fn start_number(&mut self, byte: u8, part: NumberPart) {
        self.capture.clear();
        self.token_from = self.here;
        self.capture.extend(&[byte]);
        self.state = State::Number(part);
    }

    fn number(
        &mut self,
        mut part: NumberPart,
        rest: &[u8],
        visit: &mut impl FnMut(Spot, Event<'_>),
    ) -> Result<usize, JsonFault> {
        let mut taken = 0;
        for byte in rest {
            let Some(next) = part.next(*byte) else {
                self.capture.extend(rest.get(..taken).unwrap_or_default());
                self.end_number(part, taken, visit)?;
                return Ok(taken);
            };
            part = next;
            taken += 1;
        }
        self.capture.extend(rest);
        self.state = State::Number(part);
        Ok(taken)
    }

    fn end_number(
        &mut self,
        part: NumberPart,
        ends_after: usize,
        visit: &mut impl FnMut(Spot, Event<'_>),
    ) -> Result<(), JsonFault> {
        if !part.may_end() {
            return Err(JsonFault::Number);
        }
        visit(self.spot(ends_after), Event::Number(self.capture.text()));
        self.state = State::AfterValue;
        Ok(())
    }

    fn start_literal(&mut self, word: Literal) {
        self.token_from = self.here;
        self.state = State::Literal { word, matched: 1 };
    }

    fn literal(
        &mut self,
        byte: u8,
        word: Literal,
        matched: usize,
        visit: &mut impl FnMut(Spot, Event<'_>),
    ) -> Result<(), JsonFault> {
        let (text, event) = match word {
            Literal::True => ("true", Event::Bool(true)),
            Literal::False => ("false", Event::Bool(false)),
            Literal::Null => ("null", Event::Null),
        };
        if text.as_bytes().get(matched) != Some(&byte) {
            return Err(JsonFault::Literal);
        }
        let matched = matched + 1;
        if matched < text.len() {
            self.state = State::Literal { word, matched };
        } else {
            self.state = State::AfterValue;
            visit(self.spot(1), event);
        }
        Ok(())
    }
}

const fn hex_start(high: Option<u32>) -> State {
    State::Hex { digits: 0, value: 0, high }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// A length as the wider integer of the events.
fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
