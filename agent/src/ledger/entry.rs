//! The log's unit: what was made durable at once.
//!
//! ```text
//! entry:  "KHLE" | bytes of the items u32 | CRC-32 of that number and the items u32 | items
//! item:   kind u8 | length u32 | bytes
//! ```
//!
//! Numbers are big-endian. One entry is written and synced before the next one is begun, so that a
//! power cut can spoil the last one only: a whole entry behind a bad one means damage.
//!
//! Invariant: an entry is read whole or not at all, in memory that its bound limits.

use keyhaven_protocol::chain::GROUP_BYTES_MAX;
use keyhaven_protocol::statement::STATEMENT_BYTES_MAX;

/// What an entry begins with.
const MARK: [u8; 4] = *b"KHLE";

/// Bytes before the items.
pub(super) const ENTRY_HEAD_BYTES: usize = 12;

const ITEM_HEAD_BYTES: usize = 5;

/// The most statements and cosigned heads of one entry.
pub(super) const NOTES_MAX: usize = 8;

/// The most bytes of items.
pub(super) const ITEMS_BYTES_MAX: usize =
    GROUP_BYTES_MAX + NOTES_MAX * STATEMENT_BYTES_MAX + (NOTES_MAX + 1) * ITEM_HEAD_BYTES;

/// What the log holds. A number is never given to another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Kind {
    /// Leaves and the agent's signature: a [`keyhaven_protocol::chain::Group`].
    Group = 1,
    /// A statement of the hub.
    Statement = 2,
    /// A head that the hub cosigned.
    Cosigned = 3,
}

/// What is in an entry, in order.
pub(super) type Items<'a> = Vec<(Kind, &'a [u8])>;

/// What stands at a place of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// An entry, with all its bytes.
    Entry {
        /// What is in it.
        items: Items<'a>,
        /// How long it is.
        bytes: usize,
    },
    /// More bytes are needed to tell: so many from its beginning.
    More(usize),
    /// None.
    Bad(&'static str),
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Group, Self::Statement, Self::Cosigned].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The bytes of an entry.
pub(super) fn encode(items: &[(Kind, &[u8])]) -> Vec<u8> {
    let length: usize = items.iter().map(|(_, bytes)| ITEM_HEAD_BYTES + bytes.len()).sum();
    let mut entry = Vec::with_capacity(ENTRY_HEAD_BYTES + length);
    entry.extend_from_slice(&MARK);
    entry.extend_from_slice(&number(length));
    entry.extend_from_slice(&[0; 4]);
    for (kind, bytes) in items {
        entry.push(*kind as u8);
        entry.extend_from_slice(&number(bytes.len()));
        entry.extend_from_slice(bytes);
    }
    let checksum = checksum(&number(length), &entry[ENTRY_HEAD_BYTES..]).to_be_bytes();
    entry[8..ENTRY_HEAD_BYTES].copy_from_slice(&checksum);
    entry
}

/// What these bytes begin with.
pub(super) fn read(bytes: &[u8]) -> Found<'_> {
    let Some((head, rest)) = bytes.split_first_chunk::<ENTRY_HEAD_BYTES>() else {
        let seen = bytes.len().min(MARK.len());
        return if bytes[..seen] == MARK[..seen] { Found::More(ENTRY_HEAD_BYTES) } else { Found::Bad("no entry") };
    };
    if head[..4] != MARK {
        return Found::Bad("no entry");
    }
    let length = [head[4], head[5], head[6], head[7]];
    let count = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if count == 0 || count > ITEMS_BYTES_MAX {
        return Found::Bad("an impossible length");
    }
    let Some(items) = rest.get(..count) else { return Found::More(ENTRY_HEAD_BYTES + count) };
    if checksum(&length, items).to_be_bytes() != head[8..] {
        return Found::Bad("a checksum that does not hold");
    }
    match read_items(items) {
        Some(items) => Found::Entry { items, bytes: ENTRY_HEAD_BYTES + count },
        None => Found::Bad("items that were never written"),
    }
}

/// Whether a whole entry begins anywhere in these bytes.
pub(super) fn is_in(bytes: &[u8]) -> bool {
    let begins = |at: &usize| bytes[*at..].starts_with(&MARK);
    (0..bytes.len()).filter(begins).any(|at| matches!(read(&bytes[at..]), Found::Entry { .. }))
}

fn read_items(mut bytes: &[u8]) -> Option<Items<'_>> {
    let mut items = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk::<ITEM_HEAD_BYTES>()?;
        let kind = Kind::from_number(head[0])?;
        let length = usize::try_from(u32::from_be_bytes([head[1], head[2], head[3], head[4]])).ok()?;
        let (item, rest) = rest.split_at_checked(length)?;
        items.push((kind, item));
        bytes = rest;
    }
    let groups = items.iter().filter(|(kind, _)| *kind == Kind::Group).count();
    (groups <= 1 && items.len() <= NOTES_MAX + 1).then_some(items)
}

fn checksum(length: &[u8; 4], items: &[u8]) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(length);
    checksum.update(items);
    checksum.finalize()
}

fn number(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("what is written is bounded by ITEMS_BYTES_MAX").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let entry = encode(&[(Kind::Group, b"leaves"), (Kind::Cosigned, b"")]);
        let items = vec![(Kind::Group, &b"leaves"[..]), (Kind::Cosigned, &b""[..])];
        assert_eq!(read(&entry), Found::Entry { items, bytes: entry.len() });

        for bit in 0..entry.len() * 8 {
            let mut flipped = entry.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(read(&flipped), Found::Entry { .. }), "bit {bit}");
            assert!(!is_in(&flipped), "bit {bit}");
        }
        for end in 0..entry.len() {
            assert!(matches!(read(&entry[..end]), Found::More(more) if more > end), "cut at {end}");
        }
    }

    #[test]
    fn an_entry_behind_rubbish_is_seen_wherever_it_begins() {
        let entry = encode(&[(Kind::Statement, b"statement")]);
        for before in 0..40 {
            let mut bytes = b"KHLEKHL".repeat(7)[..before].to_vec();
            bytes.extend_from_slice(&entry);
            assert!(is_in(&bytes));
            bytes.pop();
            assert!(!is_in(&bytes));
        }
    }

    #[test]
    fn whatever_is_read_would_be_written_with_the_same_bytes() {
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            let mut whole = bytes.to_vec();
            // A checksum is never guessed: half of the inputs get theirs.
            if bytes.len() > ENTRY_HEAD_BYTES && bytes[0].is_multiple_of(2) {
                whole[..4].copy_from_slice(&MARK);
                whole[4..8].copy_from_slice(&number(bytes.len() - ENTRY_HEAD_BYTES));
                let checksum = checksum(&number(bytes.len() - ENTRY_HEAD_BYTES), &bytes[ENTRY_HEAD_BYTES..]);
                whole[8..12].copy_from_slice(&checksum.to_be_bytes());
            }
            match read(&whole) {
                Found::Entry { items, bytes } => assert_eq!(encode(&items), whole[..bytes]),
                Found::More(more) => assert!(more > whole.len()),
                Found::Bad(_) => {}
            }
        });
    }

    proptest! {
        #[test]
        fn entries_read_back(items in proptest::collection::vec((2_u8..4, proptest::collection::vec(any::<u8>(), 0..200)), 1..8)) {
            let items: Vec<(Kind, &[u8])> =
                items.iter().map(|(kind, bytes)| (Kind::from_number(*kind).unwrap(), bytes.as_slice())).collect();
            let entry = encode(&items);

            prop_assert_eq!(read(&entry), Found::Entry { items, bytes: entry.len() });
        }
    }
}
