//! Deterministic CBOR (RFC 8949, 4.2.1) of what is signed and kept: arrays, integers, bytes,
//! texts, booleans and null, each in the one way it may be written.
//!
//! Invariant: what a reader takes, a writer would have written with the same bytes; it never
//! reads past its bytes and never allocates more than it was given.

const MAJOR_UNSIGNED: u8 = 0;
const MAJOR_NEGATIVE: u8 = 1;
const MAJOR_BYTES: u8 = 2;
const MAJOR_TEXT: u8 = 3;
const MAJOR_ARRAY: u8 = 4;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// An item reaches beyond the bytes.
    #[error("the record ends inside an item")]
    Truncated,
    /// Bytes are left after the last item.
    #[error("the record goes on after its last item")]
    Trailing,
    /// An item that could have been written shorter, or of a kind that is never written.
    #[error("the record is not written in its one canonical form")]
    NotCanonical,
    /// An item of another kind or length than the layout has here, or beyond its range.
    #[error("the field {0} holds a value it may not hold")]
    Field(&'static str),
}

/// Puts items one after another.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An array of so many items, which follow. The first is its domain tag.
    pub fn record(tag: &str, items: usize) -> Self {
        let mut writer = Self { out: Vec::with_capacity(256) };
        writer.array(items + 1);
        writer.text(tag);
        writer
    }

    /// An array of so many items, which follow.
    pub fn array(&mut self, items: usize) -> &mut Self {
        self.head(MAJOR_ARRAY, wide(items))
    }

    /// A number.
    pub fn unsigned(&mut self, number: impl Into<u64>) -> &mut Self {
        self.head(MAJOR_UNSIGNED, number.into())
    }

    /// A number that may be below 0.
    pub fn signed(&mut self, number: i64) -> &mut Self {
        match u64::try_from(number) {
            Ok(number) => self.head(MAJOR_UNSIGNED, number),
            Err(_) => self.head(MAJOR_NEGATIVE, (!number).unsigned_abs()),
        }
    }

    /// Bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.head(MAJOR_BYTES, wide(bytes.len()));
        self.out.extend_from_slice(bytes);
        self
    }

    /// A text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.head(MAJOR_TEXT, wide(text.len()));
        self.out.extend_from_slice(text.as_bytes());
        self
    }

    /// Yes or no.
    pub fn boolean(&mut self, value: bool) -> &mut Self {
        self.out.push(if value { TRUE } else { FALSE });
        self
    }

    /// Nothing.
    pub fn null(&mut self) -> &mut Self {
        self.out.push(NULL);
        self
    }

    /// What there is by `put`, or null.
    pub fn optional<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) -> &mut Self {
        match value {
            Some(value) => put(self, value),
            None => {
                self.null();
            }
        }
        self
    }

    /// All of it.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    fn head(&mut self, major: u8, argument: u64) -> &mut Self {
        let major = major << 5;
        let bytes = argument.to_be_bytes();
        if let [.., last @ 0..=23] = bytes
            && argument <= 23
        {
            self.out.push(major | last);
        } else if u8::try_from(argument).is_ok() {
            self.out.push(major | 24);
            self.out.extend_from_slice(&bytes[7..]);
        } else if u16::try_from(argument).is_ok() {
            self.out.push(major | 25);
            self.out.extend_from_slice(&bytes[6..]);
        } else if u32::try_from(argument).is_ok() {
            self.out.push(major | 26);
            self.out.extend_from_slice(&bytes[4..]);
        } else {
            self.out.push(major | 27);
            self.out.extend_from_slice(&bytes);
        }
        self
    }
}

/// Takes items off the front of a record. Every one is named, for errors.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads these items.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Reads the items of a record: an array of exactly so many, behind its domain tag.
    ///
    /// # Errors
    /// When it is another record, or none.
    pub fn record(bytes: &'a [u8], tag: &str, items: usize) -> Result<Self, CborError> {
        let mut reader = Self::new(bytes);
        reader.array_of(items + 1, "record")?;
        if reader.text(tag.len(), "tag")? != tag {
            return Err(CborError::Field("tag"));
        }
        Ok(reader)
    }

    /// How many items an array has, at most so many.
    ///
    /// # Errors
    /// When the next item is something else.
    pub fn array(&mut self, items_max: usize, field: &'static str) -> Result<usize, CborError> {
        let items = self.head(MAJOR_ARRAY, field)?;
        usize::try_from(items).ok().filter(|items| *items <= items_max).ok_or(CborError::Field(field))
    }

    /// The beginning of an array of exactly so many items.
    ///
    /// # Errors
    /// When the next item is something else.
    pub fn array_of(&mut self, items: usize, field: &'static str) -> Result<(), CborError> {
        let found = self.array(items, field)?;
        if found == items { Ok(()) } else { Err(CborError::Field(field)) }
    }

    /// A number that fits.
    ///
    /// # Errors
    /// When the next item is something else.
    pub fn unsigned<T: TryFrom<u64>>(&mut self, field: &'static str) -> Result<T, CborError> {
        T::try_from(self.head(MAJOR_UNSIGNED, field)?).map_err(|_| CborError::Field(field))
    }

    /// A number that may be below 0.
    ///
    /// # Errors
    /// When the next item is something else.
    pub fn signed(&mut self, field: &'static str) -> Result<i64, CborError> {
        let is_negative = self.rest.first().is_some_and(|first| first >> 5 == MAJOR_NEGATIVE);
        if !is_negative {
            return self.unsigned(field);
        }
        let below = i64::try_from(self.head(MAJOR_NEGATIVE, field)?).map_err(|_| CborError::Field(field))?;
        Ok(!below)
    }

    /// Bytes, at most so many.
    ///
    /// # Errors
    /// When the next item is something else.
    pub fn bytes(&mut self, bytes_max: usize, field: &'static str) -> Result<&'a [u8], CborError> {
        let count = self.head(MAJOR_BYTES, field)?;
        self.take(count, bytes_max, field)
    }

    /// Exactly `N` bytes.
    ///
    /// # Errors
    /// When the next item is something else.
    pub fn array_bytes<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], CborError> {
        self.bytes(N, field)?.try_into().map_err(|_| CborError::Field(field))
    }

    /// A text of at most so many bytes.
    ///
    /// # Errors
    /// When the next item is something else.
    pub fn text(&mut self, bytes_max: usize, field: &'static str) -> Result<&'a str, CborError> {
        let count = self.head(MAJOR_TEXT, field)?;
        let bytes = self.take(count, bytes_max, field)?;
        std::str::from_utf8(bytes).map_err(|_| CborError::Field(field))
    }

    /// Yes or no.
    ///
    /// # Errors
    /// When the next item is something else.
    pub fn boolean(&mut self, field: &'static str) -> Result<bool, CborError> {
        let (first, rest) = self.rest.split_first().ok_or(CborError::Truncated)?;
        let value = match *first {
            FALSE => false,
            TRUE => true,
            _ => return Err(CborError::Field(field)),
        };
        self.rest = rest;
        Ok(value)
    }

    /// What `read` makes of the next item, or none if it is null.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, CborError>,
    ) -> Result<Option<T>, CborError> {
        if let [NULL, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(None);
        }
        read(self).map(Some)
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// When something is.
    pub const fn end(self) -> Result<(), CborError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CborError::Trailing) }
    }

    fn head(&mut self, major: u8, field: &'static str) -> Result<u64, CborError> {
        let (first, rest) = self.rest.split_first().ok_or(CborError::Truncated)?;
        if first >> 5 != major {
            return Err(CborError::Field(field));
        }
        let (argument, rest) = match first & 0x1f {
            small @ 0..=23 => (u64::from(small), rest),
            24 => longer::<1>(rest, 24)?,
            25 => longer::<2>(rest, 1 << 8)?,
            26 => longer::<4>(rest, 1 << 16)?,
            27 => longer::<8>(rest, 1 << 32)?,
            _ => return Err(CborError::NotCanonical),
        };
        self.rest = rest;
        Ok(argument)
    }

    fn take(&mut self, count: u64, bytes_max: usize, field: &'static str) -> Result<&'a [u8], CborError> {
        let count = usize::try_from(count).ok().filter(|count| *count <= bytes_max).ok_or(CborError::Field(field))?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CborError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// An argument of `N` bytes, which must need them: `least` is the smallest that does.
fn longer<const N: usize>(rest: &[u8], least: u64) -> Result<(u64, &[u8]), CborError> {
    let (bytes, rest) = rest.split_first_chunk::<N>().ok_or(CborError::Truncated)?;
    let argument = bytes.iter().fold(0, |argument: u64, byte| (argument << 8) | u64::from(*byte));
    if argument < least { Err(CborError::NotCanonical) } else { Ok((argument, rest)) }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).expect("no target has wider addresses than 64 bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_standard_are_written_and_read() {
        // RFC 8949, appendix A.
        for (number, hex) in [
            (0_u64, "00"),
            (23, "17"),
            (24, "1818"),
            (255, "18ff"),
            (256, "190100"),
            (1_000, "1903e8"),
            (65_536, "1a00010000"),
            (1_000_000, "1a000f4240"),
            (4_294_967_296, "1b0000000100000000"),
            (u64::MAX, "1bffffffffffffffff"),
        ] {
            let mut writer = Writer::default();
            writer.unsigned(number);
            let bytes = writer.finish();
            assert_eq!(hex_of(&bytes), hex);
            assert_eq!(Reader::new(&bytes).unsigned("n"), Ok(number));
        }
        for (number, hex) in [(-1, "20"), (-10, "29"), (-100, "3863"), (-1_000, "3903e7"), (10, "0a")] {
            let mut writer = Writer::default();
            writer.signed(number);
            let bytes = writer.finish();
            assert_eq!(hex_of(&bytes), hex);
            assert_eq!(Reader::new(&bytes).signed("n"), Ok(number));
        }
        let mut writer = Writer::default();
        writer.array(2).text("\u{fc}").bytes(&[1, 2, 3, 4]).boolean(true).null();
        assert_eq!(hex_of(&writer.finish()), "8262c3bc4401020304f5f6");
    }

    #[test]
    fn what_could_be_shorter_or_is_never_written_is_refused() {
        let not_canonical =
            ["1800", "1817", "190000", "1900ff", "1a0000ffff", "1b00000000ffffffff", "1c", "1f", "1d00", "1e"];
        for hex in not_canonical {
            let bytes = bytes_of(hex);
            assert_eq!(Reader::new(&bytes).unsigned::<u64>("n"), Err(CborError::NotCanonical), "{hex}");
        }
        // Indefinite lengths, lengths that could be shorter, maps, tags, floats, undefined.
        for hex in ["5f", "5800", "7f", "7800", "9f", "9800", "a0", "c0", "f7", "f90000", "fb0000000000000000", "f818"]
        {
            let bytes = bytes_of(hex);
            assert!(Reader::new(&bytes).bytes(9, "b").is_err(), "{hex}");
            assert!(Reader::new(&bytes).text(9, "t").is_err(), "{hex}");
            assert!(Reader::new(&bytes).array(9, "a").is_err(), "{hex}");
            assert!(Reader::new(&bytes).signed("n").is_err(), "{hex}");
            assert!(Reader::new(&bytes).boolean("y").is_err(), "{hex}");
            assert!(Reader::new(&bytes).optional(|reader| reader.unsigned::<u64>("n")).is_err(), "{hex}");
        }
        let not_a_text = bytes_of("61ff");
        assert_eq!(Reader::new(&not_a_text).text(9, "t"), Err(CborError::Field("t")));
        let too_low = bytes_of("3b8000000000000000");
        assert_eq!(Reader::new(&too_low).signed("n"), Err(CborError::Field("n")));
    }

    #[test]
    fn lengths_are_believed_only_as_far_as_there_are_bytes() {
        let bytes = bytes_of("5bffffffffffffffff00");

        assert_eq!(Reader::new(&bytes).bytes(usize::MAX, "b"), Err(CborError::Truncated));
        assert_eq!(Reader::new(&bytes).bytes(1 << 20, "b"), Err(CborError::Field("b")));
    }

    #[test]
    fn a_record_is_told_from_another() {
        let mut writer = Writer::record("kh/a/1", 1);
        writer.unsigned(7_u8);
        let bytes = writer.finish();

        assert_eq!(Reader::record(&bytes, "kh/a/1", 1).and_then(|mut r| r.unsigned("n")), Ok(7_u8));
        assert_eq!(Reader::record(&bytes, "kh/b/1", 1).err(), Some(CborError::Field("tag")));
        assert_eq!(Reader::record(&bytes, "kh/a/1", 2).err(), Some(CborError::Field("record")));
    }

    /// Any item that is ever written.
    #[derive(Debug, Clone, PartialEq)]
    enum Item {
        Number(i64),
        Large(u64),
        Bytes(Vec<u8>),
        Text(String),
        Boolean(bool),
        Null,
        Array(Vec<Item>),
    }

    fn item() -> impl Strategy<Value = Item> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Item::Number),
            (-300_i64..300).prop_map(Item::Number),
            (u64::MAX / 2 + 1..=u64::MAX).prop_map(Item::Large),
            proptest::collection::vec(any::<u8>(), 0..300).prop_map(Item::Bytes),
            ".{0,30}".prop_map(Item::Text),
            any::<bool>().prop_map(Item::Boolean),
            Just(Item::Null),
        ];
        leaf.prop_recursive(3, 30, 30, |inner| proptest::collection::vec(inner, 0..30).prop_map(Item::Array))
    }

    fn put(writer: &mut Writer, item: &Item) {
        match item {
            Item::Number(number) => writer.signed(*number),
            Item::Large(number) => writer.unsigned(*number),
            Item::Bytes(bytes) => writer.bytes(bytes),
            Item::Text(text) => writer.text(text),
            Item::Boolean(value) => writer.boolean(*value),
            Item::Null => writer.null(),
            Item::Array(items) => {
                writer.array(items.len());
                items.iter().for_each(|item| put(writer, item));
                writer
            }
        };
    }

    /// The same as the library has it.
    fn of_library(item: &Item) -> ciborium::Value {
        match item {
            Item::Number(number) => ciborium::Value::Integer((*number).into()),
            Item::Large(number) => ciborium::Value::Integer((*number).into()),
            Item::Bytes(bytes) => ciborium::Value::Bytes(bytes.clone()),
            Item::Text(text) => ciborium::Value::Text(text.clone()),
            Item::Boolean(value) => ciborium::Value::Bool(*value),
            Item::Null => ciborium::Value::Null,
            Item::Array(items) => ciborium::Value::Array(items.iter().map(of_library).collect()),
        }
    }

    /// Reads whatever item comes next.
    fn any_item(reader: &mut Reader<'_>, depth: usize) -> Result<Item, CborError> {
        let mut tried = reader.clone();
        if tried.optional(|_| Err::<(), _>(CborError::Truncated)).is_ok() {
            *reader = tried;
            return Ok(Item::Null);
        }
        let mut tried = reader.clone();
        if let Ok(value) = tried.boolean("y") {
            *reader = tried;
            return Ok(Item::Boolean(value));
        }
        let mut tried = reader.clone();
        if let Ok(number) = tried.signed("n") {
            *reader = tried;
            return Ok(Item::Number(number));
        }
        let mut tried = reader.clone();
        if let Ok(number) = tried.unsigned("n") {
            *reader = tried;
            return Ok(Item::Large(number));
        }
        let mut tried = reader.clone();
        if let Ok(bytes) = tried.bytes(usize::MAX, "b") {
            *reader = tried;
            return Ok(Item::Bytes(bytes.to_vec()));
        }
        let mut tried = reader.clone();
        if let Ok(text) = tried.text(usize::MAX, "t") {
            *reader = tried;
            return Ok(Item::Text(text.to_owned()));
        }
        let items = reader.array(64, "a")?;
        if depth == 0 {
            return Err(CborError::Field("a"));
        }
        (0..items).map(|_| any_item(reader, depth - 1)).collect::<Result<_, _>>().map(Item::Array)
    }

    proptest! {
        #[test]
        fn items_read_back_and_are_written_as_an_independent_library_writes_them(item in item()) {
            let mut writer = Writer::default();
            put(&mut writer, &item);
            let bytes = writer.finish();
            let mut by_library = Vec::new();
            ciborium::into_writer(&of_library(&item), &mut by_library).unwrap();

            prop_assert_eq!(&bytes, &by_library);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(any_item(&mut reader, 9), Ok(item));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn whatever_is_read_would_be_written_with_the_same_bytes() {
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            let mut reader = Reader::new(bytes);
            if let Ok(item) = any_item(&mut reader, 9) {
                let mut writer = Writer::default();
                put(&mut writer, &item);
                let read = bytes.len() - reader.rest.len();
                assert_eq!(writer.finish(), bytes[..read]);
            }
        });
    }

    fn hex_of(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn bytes_of(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }
}
