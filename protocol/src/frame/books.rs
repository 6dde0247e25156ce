//! ACK, NEED and KEYS: what the hub says of a ledger that came into its books, and its own keys.
//!
//! ```text
//! ACK:  [next u64, statement as bytes, cosigned head as bytes]
//! NEED: [next u64]
//! KEYS: [number of the first entry u32, [entry as bytes, ...]]
//! ```
//!
//! Deterministic CBOR, as the records inside. RECEIPT and CLAIM, the other way, carry a
//! [`crate::chain::Group`].
//!
//! Invariant: nothing in them is believed before the records inside were verified.

use bytes::Bytes;

use crate::cbor::CborError;
use crate::cbor::Reader;
use crate::cbor::Writer;
use crate::key_list::ENTRIES_MAX;
use crate::key_list::ENTRY_BYTES_MAX;
use crate::statement::COSIGNED_BYTES_MAX;
use crate::statement::STATEMENT_BYTES_MAX;

/// The longest ACK, in bytes.
pub const ACK_BYTES_MAX: usize = STATEMENT_BYTES_MAX + 1024;

/// The most entries of the list of keys in one frame.
pub const KEYS_IN_FRAME_MAX: usize = 64;

/// The payload of ACK: so many leaves are in the books, and the hub's word for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The first leaf that the books do not have.
    pub next: u64,
    /// A signed [`crate::statement::Statement`].
    pub statement: Vec<u8>,
    /// A [`crate::statement::Cosigned`] head, of the leaves before `next` or of more.
    pub cosigned: Vec<u8>,
}

/// The payload of NEED: go on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The first leaf that the books do not have.
    pub next: u64,
}

/// The payload of KEYS: a run of the hub's list of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The number of the first entry.
    pub first: u32,
    /// Entries of a [`crate::key_list::KeyList`], one after the other.
    pub entries: Vec<Vec<u8>>,
}

impl Ack {
    /// The payload.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.array(3).unsigned(self.next).bytes(&self.statement).bytes(&self.cosigned);
        writer.finish().into()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it does not follow the layout.
    pub fn decode(payload: &[u8]) -> Result<Self, CborError> {
        let mut reader = Reader::new(payload);
        reader.array_of(3, "ack")?;
        let next = reader.unsigned("next")?;
        let statement = reader.bytes(STATEMENT_BYTES_MAX, "statement")?.to_vec();
        let cosigned = reader.bytes(COSIGNED_BYTES_MAX, "cosigned head")?.to_vec();
        reader.end()?;
        Ok(Self { next, statement, cosigned })
    }
}

impl Need {
    /// The payload.
    pub fn encode(self) -> Bytes {
        let mut writer = Writer::default();
        writer.array(1).unsigned(self.next);
        writer.finish().into()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it does not follow the layout.
    pub fn decode(payload: &[u8]) -> Result<Self, CborError> {
        let mut reader = Reader::new(payload);
        reader.array_of(1, "need")?;
        let next = reader.unsigned("next")?;
        reader.end()?;
        Ok(Self { next })
    }
}

impl Keys {
    /// The payloads that carry a whole list.
    pub fn of_list<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Vec<Bytes> {
        let entries: Vec<Vec<u8>> = entries.into_iter().map(<[u8]>::to_vec).collect();
        let mut first = 0;
        let mut payloads = Vec::new();
        for run in entries.chunks(KEYS_IN_FRAME_MAX) {
            payloads.push(Self { first, entries: run.to_vec() }.encode());
            first += u32::try_from(run.len()).expect("chunks have a bound");
        }
        payloads
    }

    /// The payload.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.array(2).unsigned(self.first).array(self.entries.len());
        for entry in &self.entries {
            writer.bytes(entry);
        }
        writer.finish().into()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it does not follow the layout.
    pub fn decode(payload: &[u8]) -> Result<Self, CborError> {
        let mut reader = Reader::new(payload);
        reader.array_of(2, "keys")?;
        let first = reader.unsigned("first entry")?;
        let count = reader.array(KEYS_IN_FRAME_MAX, "entries")?;
        if count == 0 || first >= ENTRIES_MAX {
            return Err(CborError::Field("entries"));
        }
        let entry = |_| reader.bytes(ENTRY_BYTES_MAX, "entry").map(<[u8]>::to_vec);
        let entries = (0..count).map(entry).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { first, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameKind;
    use crate::key_list::samples::list;

    #[test]
    fn what_is_written_reads_back_within_the_bounds_of_its_frame() {
        let ack =
            Ack { next: u64::MAX, statement: vec![1; STATEMENT_BYTES_MAX], cosigned: vec![2; COSIGNED_BYTES_MAX] };
        let keys = Keys { first: ENTRIES_MAX - 1, entries: vec![vec![3; ENTRY_BYTES_MAX]; KEYS_IN_FRAME_MAX] };
        let need = Need { next: u64::MAX };

        assert!(ack.encode().len() <= FrameKind::Ack.payload_bytes_max());
        assert!(keys.encode().len() <= FrameKind::Keys.payload_bytes_max());
        assert!(need.encode().len() <= FrameKind::Need.payload_bytes_max());
        assert_eq!(Ack::decode(&ack.encode()), Ok(ack));
        assert_eq!(Keys::decode(&keys.encode()), Ok(keys));
        assert_eq!(Need::decode(&need.encode()), Ok(need));
    }

    #[test]
    fn what_is_cut_or_goes_on_or_is_beyond_the_bounds_is_refused() {
        let ack = Ack { next: 7, statement: vec![1; 40], cosigned: vec![2; 40] }.encode();
        let keys = Keys { first: 1, entries: vec![vec![3; 40]; 2] }.encode();
        let need = Need { next: 300 }.encode();

        for end in 0..ack.len() {
            assert!(Ack::decode(&ack[..end]).is_err());
        }
        for end in 0..keys.len() {
            assert!(Keys::decode(&keys[..end]).is_err());
        }
        for end in 0..need.len() {
            assert!(Need::decode(&need[..end]).is_err());
        }
        let longer = |payload: &Bytes| [&payload[..], &[0]].concat();
        assert_eq!(Ack::decode(&longer(&ack)), Err(CborError::Trailing));
        assert_eq!(Keys::decode(&longer(&keys)), Err(CborError::Trailing));
        assert_eq!(Need::decode(&longer(&need)), Err(CborError::Trailing));
        let beyond = Ack { next: 7, statement: vec![1; STATEMENT_BYTES_MAX + 1], cosigned: Vec::new() };
        assert_eq!(Ack::decode(&beyond.encode()), Err(CborError::Field("statement")));
        for entries in [Vec::new(), vec![vec![1]; KEYS_IN_FRAME_MAX + 1]] {
            assert_eq!(Keys::decode(&Keys { first: 0, entries }.encode()), Err(CborError::Field("entries")));
        }
        let after_the_last = Keys { first: ENTRIES_MAX, entries: vec![vec![1]] };
        assert_eq!(Keys::decode(&after_the_last.encode()), Err(CborError::Field("entries")));
    }

    #[test]
    fn a_list_travels_in_as_many_frames_as_it_needs() {
        let list = list(3);
        let [one] = &Keys::of_list(list.entries())[..] else { panic!("one frame") };
        let keys = Keys::decode(one).unwrap();
        assert_eq!((keys.first, keys.entries.len()), (0, 3));

        let long = vec![vec![9_u8; 4]; KEYS_IN_FRAME_MAX + 1];
        let payloads = Keys::of_list(long.iter().map(Vec::as_slice));
        let firsts: Vec<u32> = payloads.iter().map(|payload| Keys::decode(payload).unwrap().first).collect();
        assert_eq!(firsts, [0, 64]);
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic_or_are_what_would_be_written() {
        bolero::check!().with_iterations(5_000).for_each(|bytes: &[u8]| {
            if let Ok(ack) = Ack::decode(bytes) {
                assert_eq!(ack.encode(), bytes);
            }
            if let Ok(need) = Need::decode(bytes) {
                assert_eq!(need.encode(), bytes);
            }
            if let Ok(keys) = Keys::decode(bytes) {
                assert_eq!(keys.encode(), bytes);
            }
        });
    }
}
