//! The keys that sign in the fleet's name: the one in use, the public list of all there were, and
//! the offline root.
//!
//! Invariant: the list in the file only grows; a key signs only once its entry is in it, and the
//! root is written once and read for one entry at a time.

use std::fmt;
use std::path::Path;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use keyhaven_daemon::files::write_atomically;
use keyhaven_protocol::hex::HexBytes;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::key_list::KeyEntry;
use keyhaven_protocol::key_list::KeyList;
use keyhaven_protocol::key_list::KeyListError;
use serde::Deserialize;
use serde::Serialize;

use super::KeysError;
use super::file_error;
use super::write_secret;

/// The key that signs tickets, statements and price tables.
pub const SIGNING_KEY_FILE: &str = "signing.key";
/// The public list of all signing keys.
pub const SIGNING_LIST_FILE: &str = "signing-keys.json";
/// The root of the list, as long as nobody has taken it away.
pub const ROOT_KEY_FILE: &str = "root.key";
/// A new key whose entry is about to be, or has just been, written into the list.
const NEXT_KEY_FILE: &str = "signing-next.key";

/// Signs in the fleet's name, with the newest key of its list.
#[derive(Clone)]
pub struct Signer {
    key: SigningKey,
    list: KeyList,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    schema: Schema,
    entries: Vec<HexBytes>,
}

#[derive(Serialize, Deserialize)]
enum Schema {
    #[serde(rename = "keyhaven/signing-keys/v1")]
    V1,
}

impl Signer {
    pub(super) fn load(dir: &Path, fleet: FleetId) -> Result<Self, KeysError> {
        let list = read_list(dir, fleet)?;
        let newest = list.newest();
        let path = dir.join(SIGNING_KEY_FILE);
        let key = read_key(&path)?;
        if is_newest(&key, &list) {
            return Ok(Self { key, list });
        }
        // A rotation that was cut off after the list was written.
        match read_key(&dir.join(NEXT_KEY_FILE)) {
            Ok(key) if is_newest(&key, &list) => Ok(Self { key, list }),
            Ok(_) | Err(_) => Err(KeysError::NotNewest { path, newest }),
        }
    }

    /// The key that signs now.
    pub const fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Its number in the list.
    pub fn number(&self) -> u32 {
        self.list.newest()
    }

    /// All keys that ever signed, and this one.
    pub const fn list(&self) -> &KeyList {
        &self.list
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("number", &self.number()).finish_non_exhaustive()
    }
}

/// Makes the root, the first key and the list of it.
pub(super) fn make(dir: &Path, root_file: &Path, fleet: FleetId) -> Result<(), KeysError> {
    let (root, key) = (new_key()?, new_key()?);
    let entry = KeyEntry::first(fleet, &root.verifying_key(), &key.verifying_key());
    let entry = entry.encode(&entry.sign(&root), &entry.sign(&key), None);
    write_key(root_file, &root)?;
    write_list(dir, &[entry.as_slice()])?;
    write_key(&dir.join(SIGNING_KEY_FILE), &key)
}

/// The list is what counts: before it is written nothing has changed, and after it the new key is
/// there under one of its two names.
pub(super) fn rotate(dir: &Path, root_file: &Path, fleet: FleetId) -> Result<Signer, KeysError> {
    let Signer { key: old, mut list } = Signer::load(dir, fleet)?;
    let root = read_key(root_file)?;
    if root.verifying_key() != *list.root() {
        return Err(KeysError::OtherRoot { path: root_file.to_path_buf() });
    }
    let (current, next) = (dir.join(SIGNING_KEY_FILE), dir.join(NEXT_KEY_FILE));
    // What an earlier rotation left under its other name must not be overwritten.
    write_key(&current, &old)?;
    let key = new_key()?;
    write_key(&next, &key)?;
    let entry = list.next_entry(&key.verifying_key());
    let entry = entry.encode(&entry.sign(&root), &entry.sign(&key), Some(&entry.sign(&old)));
    list.append(&entry).map_err(list_error(dir))?;
    write_list(dir, &list.entries().collect::<Vec<_>>())?;
    write_key(&current, &key)?;
    std::fs::remove_file(&next).map_err(file_error(&next))?;
    Ok(Signer { key, list })
}

fn read_list(dir: &Path, fleet: FleetId) -> Result<KeyList, KeysError> {
    let path = dir.join(SIGNING_LIST_FILE);
    let json = std::fs::read(&path).map_err(file_error(&path))?;
    let malformed = || KeysError::Malformed { path: path.clone(), wanted: "list of signing keys" };
    let Stored { schema: Schema::V1, entries } = serde_json::from_slice(&json).map_err(|_| malformed())?;
    let mut entries = entries.iter().map(|entry| entry.0.as_slice());
    let mut list = KeyList::begin(fleet, entries.next().ok_or_else(malformed)?).map_err(list_error(dir))?;
    entries.try_for_each(|entry| list.append(entry).map(drop)).map_err(list_error(dir))?;
    Ok(list)
}

fn write_list(dir: &Path, entries: &[&[u8]]) -> Result<(), KeysError> {
    let entries = entries.iter().map(|entry| HexBytes(entry.to_vec())).collect();
    let mut json =
        serde_json::to_vec_pretty(&Stored { schema: Schema::V1, entries }).map_err(|_| KeysError::Generate)?;
    json.push(b'\n');
    let path = dir.join(SIGNING_LIST_FILE);
    write_atomically(&path, &json, 0o600).map_err(file_error(&path))
}

fn list_error(dir: &Path) -> impl FnOnce(KeyListError) -> KeysError {
    let path = dir.join(SIGNING_LIST_FILE);
    |source| KeysError::List { path, source }
}

fn is_newest(key: &SigningKey, list: &KeyList) -> bool {
    list.key(list.newest()) == Some(&key.verifying_key())
}

fn new_key() -> Result<SigningKey, KeysError> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|_| KeysError::Generate)?;
    Ok(SigningKey::from_bytes(&seed))
}

fn write_key(path: &Path, key: &SigningKey) -> Result<(), KeysError> {
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeysError::Generate)?;
    write_secret(path, pem.as_bytes())
}

fn read_key(path: &Path) -> Result<SigningKey, KeysError> {
    let pem = std::fs::read_to_string(path).map(zeroize::Zeroizing::new).map_err(file_error(path))?;
    SigningKey::from_pkcs8_pem(&pem)
        .map_err(|_| KeysError::Malformed { path: path.to_path_buf(), wanted: "Ed25519 private key in PKCS #8 PEM" })
}
