//! The hub's signing keys: a list that only grows.
//!
//! ```text
//! body:   [fleet 16, number u32, key 32, root key 32, hash of the body before (32; zeros at number 0)]
//! entry:  ["kh/hubkey/1", body as bytes, by the root 64, by itself 64, by the key before 64 | null at number 0]
//! ```
//!
//! Three signatures, because each stops another thief: without the offline root a stolen key
//! names no successor; without the key before a stolen root replaces nobody; without its own a
//! key could be entered that nobody holds. A key's own signature also vouches for the list up to
//! it, so that whoever has one key from a join token can be handed the rest by anybody.
//!
//! Invariant: an entry that was taken is never replaced, and every key is led back to entry 0.

#[cfg(test)]
pub(crate) mod samples;

use ed25519_dalek::SigningKey;
use ed25519_dalek::VerifyingKey;

use crate::cbor::CborError;
use crate::cbor::Reader;
use crate::cbor::Writer;
use crate::hex::Hex;
use crate::id::FleetId;
use crate::signing::BadSignature;
use crate::signing::Domain;
use crate::signing::Hash;
use crate::signing::hash_of;
use crate::signing::public_key;

/// The longest entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 512;

/// The most entries of a list.
pub const ENTRIES_MAX: u32 = 4096;

const BODY_BYTES_MAX: usize = 256;

/// What an entry says, before it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// The fleet whose key it is.
    pub fleet: FleetId,
    /// Its number: 0, 1, 2 and so on.
    pub number: u32,
    /// The key.
    pub key: Hex<32>,
    /// The offline root, the same in every entry.
    pub root: Hex<32>,
    /// The hash of the entry before; zeros at number 0.
    pub before: Hash,
}

/// The list, verified.
#[derive(Debug, Clone)]
pub struct KeyList {
    fleet: FleetId,
    root: VerifyingKey,
    /// By number; never empty.
    entries: Vec<Kept>,
}

#[derive(Debug, Clone)]
struct Kept {
    key: VerifyingKey,
    hash: Hash,
    bytes: Vec<u8>,
}

/// Whether an entry was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is the newest now.
    New,
    /// It was there.
    Known,
}

/// Why an entry is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyListError {
    /// Not the bytes of an entry.
    #[error("it is no entry of a list of keys: {0}")]
    Unreadable(#[from] CborError),
    /// Of another fleet.
    #[error("it is of another fleet")]
    Fleet,
    /// Not the next one.
    #[error("it is entry {found}, and {expected} comes next")]
    Gap {
        /// The number that comes next.
        expected: u32,
        /// Its number.
        found: u32,
    },
    /// There is another entry of this number: two lists go by the fleet's name.
    #[error("it differs from the entry {0} that is known")]
    Forked(u32),
    /// It does not follow the entry before.
    #[error("it does not follow the entry before")]
    Broken,
    /// It names another root.
    #[error("it names another root key")]
    Root,
    /// One of its signatures does not hold.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// The key that is trusted already is not in the list.
    #[error("the trusted key is not in the list")]
    NotAnchored,
}

impl KeyEntry {
    /// The first entry of a fleet.
    pub fn first(fleet: FleetId, root: &VerifyingKey, key: &VerifyingKey) -> Self {
        let (key, root) = (Hex(key.to_bytes()), Hex(root.to_bytes()));
        Self { fleet, number: 0, key, root, before: Hex([0; 32]) }
    }

    /// What is hashed and signed.
    pub fn body(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.array(5).bytes(&self.fleet.0).unsigned(self.number);
        writer.bytes(&self.key.0).bytes(&self.root.0).bytes(&self.before.0);
        writer.finish()
    }

    /// One of its signatures: the root's, its own, or that of the key before.
    pub fn sign(&self, key: &SigningKey) -> Hex<64> {
        Domain::HubKey.sign(key, &self.body())
    }

    /// The entry.
    pub fn encode(&self, by_root: &Hex<64>, by_itself: &Hex<64>, by_the_one_before: Option<&Hex<64>>) -> Vec<u8> {
        let mut writer = Writer::record(Domain::HubKey.tag(), 4);
        writer.bytes(&self.body()).bytes(&by_root.0).bytes(&by_itself.0);
        writer.optional(by_the_one_before, |writer, signature| {
            writer.bytes(&signature.0);
        });
        writer.finish()
    }

    fn read(body: &[u8]) -> Result<Self, CborError> {
        let mut reader = Reader::new(body);
        reader.array_of(5, "body")?;
        let entry = Self {
            fleet: FleetId(reader.array_bytes("fleet")?),
            number: reader.unsigned("number")?,
            key: Hex(reader.array_bytes("key")?),
            root: Hex(reader.array_bytes("root")?),
            before: Hex(reader.array_bytes("before")?),
        };
        reader.end()?;
        Ok(entry)
    }
}

impl KeyList {
    /// The list that this entry begins. Who hands it in must know from elsewhere that it is the
    /// fleet's: [`Self::anchored`].
    ///
    /// # Errors
    /// When it is not a valid entry 0 of this fleet.
    pub fn begin(fleet: FleetId, bytes: &[u8]) -> Result<Self, KeyListError> {
        let signed = SignedEntry::read(bytes)?;
        if signed.entry.fleet != fleet {
            return Err(KeyListError::Fleet);
        }
        if signed.entry.number != 0 {
            return Err(KeyListError::Gap { expected: 0, found: signed.entry.number });
        }
        if signed.entry.before != Hex([0; 32]) || signed.by_the_one_before.is_some() {
            return Err(KeyListError::Broken);
        }
        let root = public_key(&signed.entry.root, "root")?;
        let kept = signed.keep(&root, bytes)?;
        Ok(Self { fleet, root, entries: vec![kept] })
    }

    /// The list of these entries, if the trusted key is among them.
    ///
    /// # Errors
    /// When it is not, or an entry is not valid.
    pub fn anchored<'a>(
        fleet: FleetId,
        trusted: &[u8; 32],
        entries: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, KeyListError> {
        let mut entries = entries.into_iter();
        let first = entries.next().ok_or(KeyListError::NotAnchored)?;
        let mut list = Self::begin(fleet, first)?;
        for entry in entries {
            list.append(entry)?;
        }
        if list.has(trusted) { Ok(list) } else { Err(KeyListError::NotAnchored) }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// When it is not valid after those before.
    pub fn append(&mut self, bytes: &[u8]) -> Result<Appended, KeyListError> {
        let signed = SignedEntry::read(bytes)?;
        let number = signed.entry.number;
        if signed.entry.fleet != self.fleet {
            return Err(KeyListError::Fleet);
        }
        if let Some(known) = usize::try_from(number).ok().and_then(|number| self.entries.get(number)) {
            return if known.bytes == bytes { Ok(Appended::Known) } else { Err(KeyListError::Forked(number)) };
        }
        let expected = self.newest() + 1;
        if number != expected || number >= ENTRIES_MAX {
            return Err(KeyListError::Gap { expected, found: number });
        }
        let before = self.entries.last().expect("a list has an entry");
        if signed.entry.before != before.hash {
            return Err(KeyListError::Broken);
        }
        if signed.entry.root.0 != *self.root.as_bytes() {
            return Err(KeyListError::Root);
        }
        let by_the_one_before = signed.by_the_one_before.as_ref().ok_or(BadSignature)?;
        Domain::HubKey.verify(&before.key, signed.body, by_the_one_before)?;
        let kept = signed.keep(&self.root, bytes)?;
        self.entries.push(kept);
        Ok(Appended::New)
    }

    /// The same, and the entry's number.
    ///
    /// # Errors
    /// When it is not valid after those before, and not one of them.
    pub fn take(&mut self, bytes: &[u8]) -> Result<u32, KeyListError> {
        self.append(bytes)?;
        Ok(SignedEntry::read(bytes)?.entry.number)
    }

    /// What the entry after the newest says, for this key.
    pub fn next_entry(&self, key: &VerifyingKey) -> KeyEntry {
        let before = self.entries.last().map_or(Hex([0; 32]), |kept| kept.hash);
        let (key, root) = (Hex(key.to_bytes()), Hex(self.root.to_bytes()));
        KeyEntry { fleet: self.fleet, number: self.newest() + 1, key, root, before }
    }

    /// The fleet whose keys these are.
    pub const fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// The key of this number.
    pub fn key(&self, number: u32) -> Option<&VerifyingKey> {
        usize::try_from(number).ok().and_then(|number| self.entries.get(number)).map(|kept| &kept.key)
    }

    /// The root, which signs every entry.
    pub const fn root(&self) -> &VerifyingKey {
        &self.root
    }

    /// All keys, by number.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &VerifyingKey> {
        self.entries.iter().map(|kept| &kept.key)
    }

    /// Whether this key is among them.
    pub fn has(&self, key: &[u8; 32]) -> bool {
        self.keys().any(|known| known.as_bytes() == key)
    }

    /// The number of the key that signs now.
    pub fn newest(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(ENTRIES_MAX).saturating_sub(1)
    }

    /// Every entry's bytes, by number.
    pub fn entries(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(|kept| kept.bytes.as_slice())
    }
}

/// An entry as it came.
struct SignedEntry<'a> {
    entry: KeyEntry,
    body: &'a [u8],
    by_root: Hex<64>,
    by_itself: Hex<64>,
    by_the_one_before: Option<Hex<64>>,
}

impl<'a> SignedEntry<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, CborError> {
        let mut reader = Reader::record(bytes, Domain::HubKey.tag(), 4)?;
        let body = reader.bytes(BODY_BYTES_MAX, "body")?;
        let entry = KeyEntry::read(body)?;
        let by_root = Hex(reader.array_bytes("root's signature")?);
        let by_itself = Hex(reader.array_bytes("own signature")?);
        let by_the_one_before = reader.optional(|reader| reader.array_bytes("signature before").map(Hex))?;
        reader.end()?;
        Ok(Self { entry, body, by_root, by_itself, by_the_one_before })
    }

    /// Checks the signatures that every entry has.
    fn keep(&self, root: &VerifyingKey, bytes: &[u8]) -> Result<Kept, KeyListError> {
        let key = public_key(&self.entry.key, "key")?;
        Domain::HubKey.verify(root, self.body, &self.by_root)?;
        Domain::HubKey.verify(&key, self.body, &self.by_itself)?;
        Ok(Kept { key, hash: hash_of(self.body), bytes: bytes.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::samples::hub_key;
    use super::samples::list;
    use super::samples::root_key;
    use super::*;

    const FLEET: FleetId = FleetId([1; 16]);

    #[test]
    fn a_list_grows_by_entries_that_root_and_the_key_before_signed() {
        let list = list(3);

        assert_eq!(list.newest(), 2);
        for number in 0..3 {
            assert_eq!(list.key(number), Some(&hub_key(number).verifying_key()));
        }
        assert_eq!(list.key(3), None);
    }

    #[test]
    fn an_agent_that_trusts_any_of_the_keys_can_be_handed_the_whole_list() {
        let list = list(3);

        for number in 0..3 {
            let trusted = hub_key(number).verifying_key().to_bytes();
            assert_eq!(KeyList::anchored(FLEET, &trusted, list.entries()).unwrap().newest(), 2);
        }
        let stranger = SigningKey::from_bytes(&[99; 32]).verifying_key().to_bytes();
        assert_eq!(KeyList::anchored(FLEET, &stranger, list.entries()).err(), Some(KeyListError::NotAnchored));
        assert_eq!(KeyList::anchored(FLEET, &stranger, []).err(), Some(KeyListError::NotAnchored));
    }

    #[test]
    fn a_thief_of_one_key_cannot_name_a_successor() {
        let list = list(2);
        let (thief, root, newest) = (SigningKey::from_bytes(&[66; 32]), root_key(), hub_key(1));
        let entry = list.next_entry(&thief.verifying_key());
        let sign = |key: &SigningKey| entry.sign(key);

        let with_the_hubs_key = entry.encode(&sign(&thief), &sign(&thief), Some(&sign(&newest)));
        let with_the_root = entry.encode(&sign(&root), &sign(&thief), Some(&sign(&thief)));
        let without_one_before = entry.encode(&sign(&root), &sign(&thief), None);
        let of_a_key_not_held = entry.encode(&sign(&root), &sign(&root), Some(&sign(&newest)));
        let with_an_old_key = entry.encode(&sign(&root), &sign(&thief), Some(&sign(&hub_key(0))));

        for forged in [with_the_hubs_key, with_the_root, without_one_before, of_a_key_not_held, with_an_old_key] {
            assert_eq!(list.clone().append(&forged), Err(KeyListError::Signature(BadSignature)));
        }
        let honest = entry.encode(&sign(&root), &sign(&thief), Some(&sign(&newest)));
        assert_eq!(list.clone().append(&honest), Ok(Appended::New));
    }

    #[test]
    fn what_was_taken_is_never_replaced() {
        let mut list = list(2);
        let entries: Vec<Vec<u8>> = list.entries().map(<[u8]>::to_vec).collect();
        assert_eq!(list.append(&entries[1]), Ok(Appended::Known));

        let other = SigningKey::from_bytes(&[67; 32]);
        let entry =
            KeyEntry { key: Hex(other.verifying_key().to_bytes()), ..KeyEntry::read(&body(&entries[1])).unwrap() };
        let forked = entry.encode(&entry.sign(&root_key()), &entry.sign(&other), Some(&entry.sign(&hub_key(0))));
        assert_eq!(list.append(&forked), Err(KeyListError::Forked(1)));
    }

    #[test]
    fn gaps_other_fleets_other_roots_and_broken_chains_are_told_apart() {
        let list = list(2);
        let next = list.next_entry(&hub_key(2).verifying_key());
        let sign = |entry: &KeyEntry| {
            entry.encode(&entry.sign(&root_key()), &entry.sign(&hub_key(2)), Some(&entry.sign(&hub_key(1))))
        };
        let other_root = SigningKey::from_bytes(&[68; 32]).verifying_key().to_bytes();

        for (entry, expected) in [
            (KeyEntry { number: 3, ..next.clone() }, KeyListError::Gap { expected: 2, found: 3 }),
            (KeyEntry { fleet: FleetId([2; 16]), ..next.clone() }, KeyListError::Fleet),
            (KeyEntry { before: Hex([7; 32]), ..next.clone() }, KeyListError::Broken),
            (KeyEntry { root: Hex(other_root), ..next.clone() }, KeyListError::Root),
        ] {
            assert_eq!(list.clone().append(&sign(&entry)), Err(expected));
        }
        assert_eq!(list.clone().append(&sign(&next)), Ok(Appended::New));
    }

    #[test]
    fn no_bit_of_a_list_can_be_changed() {
        let list = list(2);
        let entries: Vec<Vec<u8>> = list.entries().map(<[u8]>::to_vec).collect();
        let trusted = hub_key(1).verifying_key().to_bytes();

        for (at, entry) in entries.iter().enumerate() {
            for bit in 0..entry.len() * 8 {
                let mut changed = entries.clone();
                changed[at][bit / 8] ^= 1 << (bit % 8);
                let read = KeyList::anchored(FLEET, &trusted, changed.iter().map(Vec::as_slice));
                assert!(read.is_err(), "entry {at} bit {bit}");
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic_and_a_body_is_written_as_it_was_read() {
        bolero::check!().with_iterations(2_000).for_each(|bytes: &[u8]| {
            assert!(KeyList::begin(FLEET, bytes).is_err());
            if let Ok(entry) = KeyEntry::read(bytes) {
                assert_eq!(entry.body(), bytes);
            }
        });
    }

    fn body(entry: &[u8]) -> Vec<u8> {
        SignedEntry::read(entry).unwrap().body.to_vec()
    }
}
