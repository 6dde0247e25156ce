//! A signed table made small for its way to agents, and opened again.
//!
//! Invariant: no parcel opens into more than [`TABLE_BYTES_MAX`].

use std::io::Read as _;

use ed25519_dalek::VerifyingKey;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::bufread::GzEncoder;

use super::PriceTable;
use super::TABLE_BYTES_MAX;
use super::TableError;

/// The bytes of a table, as gzip.
///
/// # Errors
/// [`TableError::Unreadable`] when they cannot be packed.
pub fn pack(table_bytes: &[u8]) -> Result<Vec<u8>, TableError> {
    let mut packed = Vec::new();
    let read = GzEncoder::new(table_bytes, Compression::best()).read_to_end(&mut packed);
    read.map_err(|error| TableError::Unreadable(error.to_string()))?;
    Ok(packed)
}

/// The table that the hub with this key signed and packed.
///
/// # Errors
/// When it cannot be unpacked, or for the reasons of [`PriceTable::decode_signed`].
pub fn unpack_signed(packed: &[u8], signature: &[u8; 64], key: &VerifyingKey) -> Result<PriceTable, TableError> {
    let mut bytes = Vec::new();
    let bound = u64::try_from(TABLE_BYTES_MAX).unwrap_or(u64::MAX);
    let read = GzDecoder::new(packed).take(bound + 1).read_to_end(&mut bytes);
    read.map_err(|error| TableError::Unreadable(error.to_string()))?;
    PriceTable::decode_signed(&bytes, signature, key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ed25519_dalek::SigningKey;

    use super::*;

    #[test]
    fn a_table_comes_out_as_it_went_in_and_only_with_the_hubs_signature() {
        let (hub, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let table = table();
        let (packed, signature) = (pack(&table.encode()).unwrap(), table.sign(&hub));

        assert_eq!(unpack_signed(&packed, &signature, &hub.verifying_key()), Ok(table));
        assert_eq!(unpack_signed(&packed, &signature, &other.verifying_key()), Err(TableError::NotSigned));
        let cut = unpack_signed(&packed[..packed.len() - 9], &signature, &hub.verifying_key());
        assert!(matches!(cut, Err(TableError::Unreadable(_))));
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let hub = SigningKey::from_bytes(&[1; 32]);
        let bomb = pack(&vec![b' '; 64 * TABLE_BYTES_MAX]).unwrap();

        assert!(bomb.len() < 1024 * 1024);
        assert_eq!(unpack_signed(&bomb, &[0; 64], &hub.verifying_key()), Err(TableError::NotSigned));
    }

    #[test]
    fn no_bytes_lead_to_a_panic() {
        let key = SigningKey::from_bytes(&[1; 32]).verifying_key();
        bolero::check!().with_iterations(2_000).for_each(|bytes: &[u8]| {
            let _ = unpack_signed(bytes, &[0; 64], &key);
        });
    }

    fn table() -> PriceTable {
        PriceTable { version: 1, valid_from_unix_ms: 5, source: "test".to_owned(), models: BTreeMap::new() }
    }
}
