//! Published tables, verified: a hub's signing key may have been replaced since.
//!
//! Invariant: a table is believed if any key of the hub's list signed it, and leaves with the
//! signature of the newest.

use keyhaven_protocol::price::PriceTable;
use keyhaven_protocol::price::TableError;

use crate::keys::Signer;
use crate::store::price_tables::Published;

/// The table.
///
/// # Errors
/// When no key of the list signed it, and those of [`PriceTable::decode_signed`].
pub(super) fn table(published: &Published, signer: &Signer) -> Result<PriceTable, TableError> {
    let mut refused = TableError::NotSigned;
    for key in signer.list().keys().rev() {
        match PriceTable::decode_signed(&published.table_bytes, &published.signature, key) {
            Ok(table) => return Ok(table),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}
