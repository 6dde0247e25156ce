//! Lists of keys for tests.
//!
//! Invariant: the same number is the same key everywhere.

use ed25519_dalek::SigningKey;

use super::Appended;
use super::KeyEntry;
use super::KeyList;
use crate::id::FleetId;

/// The hub's key of this number.
pub(crate) fn hub_key(number: u32) -> SigningKey {
    let mut seed = [10; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_bytes(&seed)
}

pub(super) fn root_key() -> SigningKey {
    SigningKey::from_bytes(&[2; 32])
}

/// So many keys of fleet 1: [`hub_key`] by number.
pub(crate) fn list(keys: u32) -> KeyList {
    let (fleet, root, first) = (FleetId([1; 16]), root_key(), hub_key(0));
    let entry = KeyEntry::first(fleet, &root.verifying_key(), &first.verifying_key());
    let mut list = KeyList::begin(fleet, &entry.encode(&entry.sign(&root), &entry.sign(&first), None)).unwrap();
    for number in 1..keys {
        let (before, key) = (hub_key(number - 1), hub_key(number));
        let entry = list.next_entry(&key.verifying_key());
        let bytes = entry.encode(&entry.sign(&root), &entry.sign(&key), Some(&entry.sign(&before)));
        assert_eq!(list.append(&bytes), Ok(Appended::New));
    }
    list
}
