//! The archive key: it seals who pays for a call, and opens it when the database was lost.
//!
//! Invariant: the key is in its file and in this process, and nowhere else.

use std::path::Path;

use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::sealed::ArchiveKey;
use serde::Deserialize;
use serde::Serialize;
use zeroize::Zeroizing;

use super::KeysError;
use super::file_error;
use super::write_secret;

/// The archive key in the data directory.
pub const ARCHIVE_KEY_FILE: &str = "archive.key";

/// By which sealed texts name the first key.
const FIRST: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    schema: Schema,
    number: u32,
    key: Hex<32>,
}

#[derive(Serialize, Deserialize)]
enum Schema {
    #[serde(rename = "keyhaven/archive-key/v1")]
    V1,
}

/// Makes the first one.
pub(super) fn make(dir: &Path) -> Result<(), KeysError> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *key).map_err(|_| KeysError::Generate)?;
    let stored = Stored { schema: Schema::V1, number: FIRST, key: Hex(*key) };
    let json = serde_json::to_vec_pretty(&stored).map(Zeroizing::new).map_err(|_| KeysError::Generate)?;
    write_secret(&dir.join(ARCHIVE_KEY_FILE), &json)
}

pub(super) fn load(dir: &Path) -> Result<ArchiveKey, KeysError> {
    let path = dir.join(ARCHIVE_KEY_FILE);
    let json = std::fs::read(&path).map(Zeroizing::new).map_err(file_error(&path))?;
    let stored: Stored =
        serde_json::from_slice(&json).map_err(|_| KeysError::Malformed { path, wanted: "archive key" })?;
    Ok(ArchiveKey::new(stored.number, Zeroizing::new(stored.key.0)))
}
