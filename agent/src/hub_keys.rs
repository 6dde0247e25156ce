//! The hub's signing keys, as far as this agent knows them: in memory and in a file of the data
//! directory.
//!
//! Invariant: every key in it is led back to the key of the join token, and a list that was
//! taken only grows.

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::RwLock;

use ed25519_dalek::VerifyingKey;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::files::write_atomically;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Keys;
use keyhaven_protocol::hex::HexBytes;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::key_list::Appended;
use keyhaven_protocol::key_list::KeyList;
use keyhaven_protocol::key_list::KeyListError;
use serde::Deserialize;
use serde::Serialize;
use tokio::sync::watch;
use tracing::warn;

/// The list in the data directory.
pub const FILE_NAME: &str = "hub-keys.json";

/// Why the hub's keys are not taken.
#[derive(Debug, thiserror::Error)]
pub enum HubKeysError {
    /// The file cannot be written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The list does not hold, or is not the one that the join token named.
    #[error("the hub's signing keys were not taken: {0}")]
    List(#[from] KeyListError),
    /// What the join token said is no key.
    #[error("the hub's signing key in the vault is none")]
    HubKey,
}

impl HubKeysError {
    /// The code for logs and exit.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::File { .. } | Self::HubKey => ErrorCode::DataDirUnusable,
            Self::List(_) => ErrorCode::HubKeysRefused,
        }
    }
}

impl From<HubKeysError> for Failure {
    fn from(error: HubKeysError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// The keys. Clones share them.
#[derive(Clone)]
pub struct HubKeys {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    fleet: FleetId,
    /// The key of the join token.
    trusted: VerifyingKey,
    known: RwLock<Known>,
    /// Who writes the file does so alone.
    writing: Mutex<()>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Known {
    list: Option<Arc<KeyList>>,
    /// The beginning of a list whose trusted key has not come yet.
    begun: Option<KeyList>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    schema: Schema,
    entries: Vec<HexBytes>,
}

#[derive(Serialize, Deserialize)]
enum Schema {
    #[serde(rename = "keyhaven/hub-keys/v1")]
    V1,
}

impl HubKeys {
    /// The keys in this file, if there are any of this fleet that lead to the key of the join
    /// token. Others are not used: the hub says its keys again on every link.
    ///
    /// # Errors
    /// [`HubKeysError::HubKey`].
    pub fn open(path: &Path, fleet: FleetId, hub_key: &[u8; 32]) -> Result<Self, HubKeysError> {
        let trusted = VerifyingKey::from_bytes(hub_key).map_err(|_| HubKeysError::HubKey)?;
        let list = match std::fs::read(path) {
            Ok(json) => read(&json, fleet, hub_key),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        let list = list.unwrap_or_else(|why| {
            warn!("{} is of no use: {why}", path.display());
            None
        });
        let known = Known { list: list.map(Arc::new), begun: None };
        let shared = Shared {
            path: path.to_owned(),
            fleet,
            trusted,
            known: RwLock::new(known),
            writing: Mutex::new(()),
            changed: watch::Sender::new(()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Takes entries that came, in memory; whether they were news, which are then to be
    /// [saved](Self::save).
    ///
    /// # Errors
    /// One of them does not hold: nothing changed.
    pub fn take(&self, keys: &Keys) -> Result<bool, HubKeysError> {
        let mut known = self.shared.known.write().unwrap_or_else(PoisonError::into_inner);
        let Some(list) = known.list.clone() else {
            let begun = self.begin(known.begun.take(), keys)?;
            let is_anchored = begun.has(self.shared.trusted.as_bytes());
            match is_anchored {
                true => known.list = Some(Arc::new(begun)),
                false => known.begun = Some(begun),
            }
            drop(known);
            self.shared.changed.send_replace(());
            return Ok(is_anchored);
        };
        let mut longer = KeyList::clone(&list);
        let mut is_news = false;
        for entry in &keys.entries {
            is_news |= longer.append(entry)? == Appended::New;
        }
        if is_news {
            known.list = Some(Arc::new(longer));
            drop(known);
            self.shared.changed.send_replace(());
        }
        Ok(is_news)
    }

    /// Writes what is known into the file, and waits for the disk.
    ///
    /// # Errors
    /// [`HubKeysError::File`].
    pub fn save(&self) -> Result<(), HubKeysError> {
        let Shared { path, writing, .. } = &*self.shared;
        let _alone = writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(list) = self.list() else { return Ok(()) };
        let entries = list.entries().map(|entry| HexBytes(entry.to_vec())).collect();
        let json = serde_json::to_vec_pretty(&Stored { schema: Schema::V1, entries }).map_err(io::Error::from);
        let written = json.and_then(|json| write_atomically(path, &json, 0o600));
        written.map_err(|source| HubKeysError::File { path: path.clone(), source })
    }

    /// The list, once the hub has said one that holds.
    pub fn list(&self) -> Option<Arc<KeyList>> {
        self.shared.known.read().unwrap_or_else(PoisonError::into_inner).list.clone()
    }

    /// The key that signs now, as far as is known.
    pub fn newest(&self) -> VerifyingKey {
        let newest = self.list().and_then(|list| list.key(list.newest()).copied());
        newest.unwrap_or(self.shared.trusted)
    }

    /// All keys that ever signed, the newest first; the one of the join token as long as there is no list.
    pub fn ever(&self) -> Vec<VerifyingKey> {
        self.list().map_or_else(|| vec![self.shared.trusted], |list| list.keys().rev().copied().collect())
    }

    /// Changes whenever entries were taken.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    fn begin(&self, begun: Option<KeyList>, keys: &Keys) -> Result<KeyList, HubKeysError> {
        let mut entries = keys.entries.iter();
        let mut list = match (begun, keys.first) {
            // The hub may begin anew on every link.
            (None, _) | (Some(_), 0) => {
                let first = entries.next().ok_or(KeyListError::NotAnchored)?;
                KeyList::begin(self.shared.fleet, first)?
            }
            (Some(begun), _) => begun,
        };
        for entry in entries {
            list.append(entry)?;
        }
        Ok(list)
    }
}

impl fmt::Debug for HubKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let newest = self.list().map(|list| list.newest());
        f.debug_struct("HubKeys").field("path", &self.shared.path).field("newest", &newest).finish_non_exhaustive()
    }
}

fn read(json: &[u8], fleet: FleetId, trusted: &[u8; 32]) -> Result<Option<KeyList>, String> {
    let Stored { schema: Schema::V1, entries } = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let entries = entries.iter().map(|entry| entry.0.as_slice());
    KeyList::anchored(fleet, trusted, entries).map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use ed25519_dalek::SigningKey;
    use keyhaven_protocol::key_list::KeyEntry;
    use keyhaven_protocol::signing::BadSignature;

    use super::*;

    const FLEET: FleetId = FleetId([1; 16]);

    #[test]
    fn a_list_that_leads_to_the_token_is_kept_over_restarts() {
        let home = tempfile::tempdir().unwrap();
        let keys = open(home.path(), 0);
        assert_eq!((keys.newest(), keys.ever().len()), (key(0).verifying_key(), 1), "the token's own key");
        let mut changed = keys.changed();

        assert!(keys.take(&sent(0, 2)).unwrap());
        keys.save().unwrap();

        assert!(changed.has_changed().unwrap());
        changed.mark_unchanged();
        let restarted = open(home.path(), 0);
        for keys in [&keys, &restarted] {
            assert_eq!((keys.newest(), keys.ever().len()), (key(1).verifying_key(), 2));
            assert!(!keys.take(&sent(0, 2)).unwrap(), "nothing new");
        }
        assert!(!changed.has_changed().unwrap());
        assert_eq!(home.path().join(FILE_NAME).metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_list_grows_by_what_comes_and_never_shrinks() {
        let home = tempfile::tempdir().unwrap();
        let keys = open(home.path(), 0);

        assert!(keys.take(&sent(0, 1)).unwrap());
        assert!(keys.take(&sent(1, 3)).unwrap());
        assert!(!keys.take(&sent(0, 1)).unwrap(), "a hub that was set back");

        assert_eq!(keys.newest(), key(2).verifying_key());
        let gap = keys.take(&sent(4, 5));
        assert!(matches!(gap, Err(HubKeysError::List(KeyListError::Gap { expected: 3, found: 4 }))), "{gap:?}");
    }

    #[test]
    fn a_list_is_believed_only_when_it_has_the_key_of_the_token() {
        let home = tempfile::tempdir().unwrap();
        let keys = open(home.path(), 2);

        assert!(!keys.take(&sent(0, 2)).unwrap());
        assert!(keys.list().is_none());
        assert_eq!(keys.newest(), key(2).verifying_key());
        keys.save().unwrap();
        assert!(!home.path().join(FILE_NAME).exists());
        assert!(keys.take(&sent(2, 4)).unwrap());
        assert_eq!(keys.newest(), key(3).verifying_key());
    }

    #[test]
    fn entries_that_do_not_hold_change_nothing() {
        let home = tempfile::tempdir().unwrap();
        let keys = open(home.path(), 0);
        keys.take(&sent(0, 1)).unwrap();
        let mut forged = sent(1, 2);
        let last = forged.entries[0].len() - 1;
        forged.entries[0][last] ^= 1;

        let refused = keys.take(&forged).unwrap_err();

        assert!(matches!(refused, HubKeysError::List(KeyListError::Signature(BadSignature))), "{refused}");
        assert_eq!(refused.code(), ErrorCode::HubKeysRefused);
        assert_eq!(keys.newest(), key(0).verifying_key());
        assert!(keys.take(&sent(1, 2)).unwrap());
    }

    #[test]
    fn a_file_of_another_hub_or_that_was_damaged_is_not_used() {
        let home = tempfile::tempdir().unwrap();
        let keys = open(home.path(), 0);
        keys.take(&sent(0, 2)).unwrap();
        keys.save().unwrap();

        assert!(open(home.path(), 7).list().is_none(), "the list does not have the key of this token");
        std::fs::write(home.path().join(FILE_NAME), b"{").unwrap();
        let damaged = open(home.path(), 0);
        assert!(damaged.list().is_none());
        assert!(damaged.take(&sent(0, 2)).unwrap(), "the hub says them again");
    }

    fn open(home: &Path, trusted: u8) -> HubKeys {
        HubKeys::open(&home.join(FILE_NAME), FLEET, &key(trusted).verifying_key().to_bytes()).unwrap()
    }

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number + 1; 32])
    }

    /// What a hub says of its keys from one number to before another.
    fn sent(from: u8, to: u8) -> Keys {
        let root = SigningKey::from_bytes(&[99; 32]);
        let first = KeyEntry::first(FLEET, &root.verifying_key(), &key(0).verifying_key());
        let first = first.encode(&first.sign(&root), &first.sign(&key(0)), None);
        let mut list = KeyList::begin(FLEET, &first).unwrap();
        for number in 1..to {
            let entry = list.next_entry(&key(number).verifying_key());
            let (own, before) = (entry.sign(&key(number)), entry.sign(&key(number - 1)));
            list.append(&entry.encode(&entry.sign(&root), &own, Some(&before))).unwrap();
        }
        let entries = list.entries().skip(from.into()).map(<[u8]>::to_vec).collect();
        Keys { first: from.into(), entries }
    }
}
