//! The price tables that the hub's calls may name, in memory and in the data directory's `prices/`.
//!
//! Invariant: a table is held only if the hub signed it, with its newest key when it came, and never changed.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::RwLock;

use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::files::make_private_dir;
use keyhaven_daemon::files::write_atomically;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::HeldTable;
use keyhaven_protocol::frame::PACKED_BYTES_MAX;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::price::PriceTable;
use keyhaven_protocol::price::TableError;
use keyhaven_protocol::price::unpack_signed;
use tokio::sync::watch;
use tracing::warn;

use crate::hub_keys::HubKeys;

/// The directory in the data directory.
pub const DIR_NAME: &str = "prices";

/// Tables that are kept, the newest ones: a call names the one that was in force when it began.
const KEPT_MAX: usize = 16;

/// What the kept tables may have in the directory together.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;

const SIGNATURE_BYTES: usize = 64;

const SUFFIX: &str = ".prices";

/// Why a table is not held.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    /// The directory or a file in it.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What came is no table of this hub.
    #[error("a price table was not taken: {0}")]
    Table(#[from] TableError),
    /// It is another table than it was said to be.
    #[error("a price table was not taken: it is not version {version} with the hash that was named")]
    Misnamed {
        /// What it was said to be.
        version: u32,
    },
    /// A newer table pushed it out at once.
    #[error("a price table was not taken: version {version} is too old")]
    TooOld {
        /// Its version.
        version: u32,
    },
}

impl From<PricesError> for Failure {
    fn from(error: PricesError) -> Self {
        Self::new(ErrorCode::DataDirUnusable, error.to_string())
    }
}

/// A table as it came over the link.
pub struct Parcel {
    /// What it is said to be.
    pub table: HeldTable,
    /// The hub's signature.
    pub signature: [u8; SIGNATURE_BYTES],
    /// The table, packed.
    pub packed: Bytes,
}

/// The tables that are held. Clones share them.
#[derive(Clone)]
pub struct PriceStore {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    hub_keys: HubKeys,
    tables: RwLock<BTreeMap<(u32, [u8; 32]), Kept>>,
    /// Who writes into the directory does so alone.
    writing: Mutex<()>,
    changed: watch::Sender<()>,
}

#[derive(Clone)]
struct Kept {
    table: Arc<PriceTable>,
    file_bytes: usize,
}

impl PriceStore {
    /// The store in this directory, which is made if it is not there. What is in it and cannot
    /// be used is removed: the hub sends again what it needs.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(dir: &Path, hub_keys: HubKeys) -> Result<Self, PricesError> {
        make_private_dir(dir).map_err(at(dir))?;
        let mut tables = BTreeMap::new();
        let ever = hub_keys.ever();
        for entry in std::fs::read_dir(dir).map_err(at(dir))? {
            let path = entry.map_err(at(dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !name.ends_with(SUFFIX) {
                // What a crash left of a file that was being written has such a name.
                if name.ends_with(".tmp") {
                    let _ = std::fs::remove_file(&path);
                }
                continue;
            }
            match load(&path, &ever) {
                Ok((held, kept)) => {
                    tables.insert((held.version, held.hash.0), kept);
                }
                Err(error) => {
                    warn!("a price table in {} is of no use and removed: {error}", path.display());
                    std::fs::remove_file(&path).map_err(at(&path))?;
                }
            }
        }
        let shared = Shared {
            dir: dir.to_owned(),
            hub_keys,
            tables: RwLock::new(tables),
            writing: Mutex::new(()),
            changed: watch::Sender::new(()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The table with this version and this hash, if it is held.
    pub fn table(&self, version: u32, hash: &Hex<32>) -> Option<Arc<PriceTable>> {
        self.read().get(&(version, hash.0)).map(|kept| kept.table.clone())
    }

    /// All tables that are held, the newest last.
    pub fn held(&self) -> Vec<HeldTable> {
        self.read().keys().map(|(version, hash)| HeldTable { version: *version, hash: Hex(*hash) }).collect()
    }

    /// Changes whenever a table came, whether or not it was taken: the hub is to be told what is held.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// Takes a table that came: verified, then in the directory, then held. It writes to the disk
    /// and waits for that.
    ///
    /// # Errors
    /// It is not held.
    pub fn keep(&self, parcel: &Parcel) -> Result<(), PricesError> {
        let kept = self.take(parcel);
        self.shared.changed.send_replace(());
        kept
    }

    fn take(&self, parcel: &Parcel) -> Result<(), PricesError> {
        let HeldTable { version, hash } = parcel.table;
        let _alone = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.table(version, &hash).is_some() {
            return Ok(());
        }
        let table = unpack_signed(&parcel.packed, &parcel.signature, &self.shared.hub_keys.newest())?;
        if table.version != version || table.hash() != hash {
            return Err(PricesError::Misnamed { version });
        }
        let bytes = [&parcel.signature[..], &parcel.packed].concat();
        let mut tables = self.read().clone();
        tables.insert((version, hash.0), Kept { table: Arc::new(table), file_bytes: bytes.len() });
        let dropped = cut(&mut tables);
        if dropped.contains(&(version, hash.0)) {
            return Err(PricesError::TooOld { version });
        }
        let path = self.path(version, &hash.0);
        write_atomically(&path, &bytes, 0o600).map_err(at(&path))?;
        *self.shared.tables.write().unwrap_or_else(PoisonError::into_inner) = tables;
        for (version, hash) in dropped {
            let path = self.path(version, &hash);
            // It is not held any more; a file that stays is counted again when the agent starts.
            if let Err(error) = std::fs::remove_file(&path) {
                warn!("an old price table stays behind: {}: {error}", path.display());
            }
        }
        Ok(())
    }

    fn path(&self, version: u32, hash: &[u8; 32]) -> PathBuf {
        self.shared.dir.join(format!("{version:010}-{}{SUFFIX}", Hex(*hash)))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<(u32, [u8; 32]), Kept>> {
        self.shared.tables.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PriceStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PriceStore").field("dir", &self.shared.dir).field("tables", &self.read().len()).finish()
    }
}

/// Drops the oldest versions until the rest may be kept.
fn cut(tables: &mut BTreeMap<(u32, [u8; 32]), Kept>) -> Vec<(u32, [u8; 32])> {
    let mut dropped = Vec::new();
    let bytes = |tables: &BTreeMap<_, Kept>| tables.values().map(|kept| kept.file_bytes).sum::<usize>();
    while tables.len() > KEPT_MAX || bytes(tables) > KEPT_BYTES_MAX {
        let Some((oldest, _)) = tables.pop_first() else { break };
        dropped.push(oldest);
    }
    dropped
}

/// A table from the disk: it was verified when it came, perhaps by a key that was replaced since.
fn load(path: &Path, ever: &[VerifyingKey]) -> Result<(HeldTable, Kept), PricesError> {
    let bytes_max = u64::try_from(SIGNATURE_BYTES + PACKED_BYTES_MAX).unwrap_or(u64::MAX);
    if std::fs::metadata(path).map_err(at(path))?.len() > bytes_max {
        return Err(at(path)(io::ErrorKind::FileTooLarge.into()));
    }
    let bytes = std::fs::read(path).map_err(at(path))?;
    let Some((signature, packed)) = bytes.split_first_chunk() else {
        return Err(at(path)(io::ErrorKind::UnexpectedEof.into()));
    };
    let signed_by = |key: &VerifyingKey| unpack_signed(packed, signature, key);
    let table = ever.iter().map(signed_by).find(Result::is_ok).unwrap_or(Err(TableError::NotSigned))?;
    let held = HeldTable { version: table.version, hash: table.hash() };
    Ok((held, Kept { table: Arc::new(table), file_bytes: bytes.len() }))
}

fn at(path: &Path) -> impl Fn(io::Error) -> PricesError {
    let path = path.to_owned();
    move |source| PricesError::File { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use ed25519_dalek::SigningKey;
    use keyhaven_protocol::id::FleetId;
    use keyhaven_protocol::price::pack;

    use super::*;

    #[test]
    fn a_table_is_held_at_once_and_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path());
        let mut changed = store.changed();
        let parcel = parcel(&hub(), 7);

        store.keep(&parcel).unwrap();
        store.keep(&parcel).unwrap();

        assert!(changed.has_changed().unwrap());
        changed.mark_unchanged();
        for store in [store, open(home.path())] {
            assert_eq!(store.held(), [parcel.table]);
            assert_eq!(store.table(7, &parcel.table.hash).unwrap().version, 7);
            assert!(store.table(8, &parcel.table.hash).is_none());
            assert!(store.table(7, &Hex([0; 32])).is_none());
        }
        let files: Vec<_> = std::fs::read_dir(home.path().join(DIR_NAME)).unwrap().map(Result::unwrap).collect();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_the_hub_did_not_sign_or_named_wrongly_is_not_held_and_the_hub_is_told() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path());
        let good = parcel(&hub(), 7);
        let other_version = HeldTable { version: 8, ..good.table };
        let other_hash = HeldTable { hash: Hex([1; 32]), ..good.table };
        let mut changed = store.changed();

        let forged = store.keep(&parcel(&SigningKey::from_bytes(&[9; 32]), 7));
        let misnamed = [other_version, other_hash]
            .map(|table| store.keep(&Parcel { table, signature: good.signature, packed: good.packed.clone() }));

        assert!(matches!(forged, Err(PricesError::Table(TableError::NotSigned))));
        assert!(misnamed.iter().all(|kept| matches!(kept, Err(PricesError::Misnamed { .. }))), "{misnamed:?}");
        assert!(changed.has_changed().unwrap());
        changed.mark_unchanged();
        assert!(store.held().is_empty());
        assert_eq!(std::fs::read_dir(home.path().join(DIR_NAME)).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_was_changed_or_cut_is_removed_and_the_others_stay() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path());
        for version in [1, 2, 3] {
            store.keep(&parcel(&hub(), version)).unwrap();
        }
        let path = |version: u32| store.path(version, &store.held()[version as usize - 1].hash.0);
        let mut changed = std::fs::read(path(1)).unwrap();
        changed[100] ^= 1;
        std::fs::write(path(1), changed).unwrap();
        std::fs::write(path(2), b"short").unwrap();
        std::fs::write(home.path().join(DIR_NAME).join(".x.prices.1.0.tmp"), b"left by a crash").unwrap();
        std::fs::write(home.path().join(DIR_NAME).join("README"), b"not ours").unwrap();

        let again = open(home.path());

        assert_eq!(again.held().iter().map(|held| held.version).collect::<Vec<_>>(), [3]);
        let mut left: Vec<_> =
            std::fs::read_dir(home.path().join(DIR_NAME)).unwrap().map(|e| e.unwrap().path()).collect();
        left.sort();
        assert_eq!(left, [path(3), home.path().join(DIR_NAME).join("README")]);
    }

    #[test]
    fn only_the_newest_tables_are_kept() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path());
        let many = u32::try_from(KEPT_MAX).unwrap() + 3;
        for version in 1..=many {
            store.keep(&parcel(&hub(), version)).unwrap();
        }

        let versions = |store: &PriceStore| store.held().iter().map(|held| held.version).collect::<Vec<_>>();
        assert_eq!(versions(&store), (4..=many).collect::<Vec<_>>());
        assert_eq!(versions(&open(home.path())), versions(&store));
        assert!(matches!(store.keep(&parcel(&hub(), 1)), Err(PricesError::TooOld { version: 1 })));
    }

    #[test]
    fn a_table_that_cannot_be_written_is_not_held() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path());
        std::fs::remove_dir(home.path().join(DIR_NAME)).unwrap();

        assert!(matches!(store.keep(&parcel(&hub(), 1)), Err(PricesError::File { .. })));
        assert!(store.held().is_empty());
    }

    fn open(home: &Path) -> PriceStore {
        let keys = HubKeys::open(&home.join("keys"), FleetId([1; 16]), &hub().verifying_key().to_bytes()).unwrap();
        PriceStore::open(&home.join(DIR_NAME), keys).unwrap()
    }

    fn hub() -> SigningKey {
        SigningKey::from_bytes(&[1; 32])
    }

    fn parcel(key: &SigningKey, version: u32) -> Parcel {
        let source = "test".to_owned();
        let table = PriceTable { version, valid_from_unix_ms: 5, source, models: BTreeMap::new() };
        Parcel {
            table: HeldTable { version, hash: table.hash() },
            signature: table.sign(key),
            packed: pack(&table.encode()).unwrap().into(),
        }
    }
}
