//! The hub's own keys: the tunnel's, its offline backup, those that sign and their offline
//! root, the archive key, and the pins that join tokens carry.
//!
//! Invariant: the hub serves only with a tunnel key whose pin was in every join token it ever
//! made, and signs only with the newest key of its list.

mod archive;
mod signing;

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::files::make_private_dir;
use keyhaven_daemon::files::wait_for_turn;
use keyhaven_daemon::files::write_atomically;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::id::HubNodeId;
use keyhaven_protocol::key_list::KeyListError;
use keyhaven_protocol::pin::Pin;
use keyhaven_protocol::sealed::ArchiveKey;
use rcgen::KeyPair;
use rcgen::PublicKeyData;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde::Serialize;

pub use archive::ARCHIVE_KEY_FILE;
pub use signing::ROOT_KEY_FILE;
pub use signing::SIGNING_KEY_FILE;
pub use signing::SIGNING_LIST_FILE;
pub use signing::Signer;

/// The live tunnel key in the data directory.
pub const TUNNEL_KEY_FILE: &str = "tunnel.key";
/// The backup key, as long as nobody has taken it away.
pub const BACKUP_KEY_FILE: &str = "tunnel-backup.key";
/// Fleet, node and pins. Written last: where it is, a hub is whole.
pub const IDENTITY_FILE: &str = "identity.json";
/// Who makes the keys holds it. It is not the lock of the data directory: a hub that
/// starts would find that one taken by an `init` that only looks.
const MAKING_FILE: &str = "keys.making";

/// What is wrong with the hub's keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is a hub here already.
    #[error("{dir} holds a hub")]
    Exists {
        /// The data directory.
        dir: PathBuf,
    },
    /// There is no hub here.
    #[error("{dir} holds no {IDENTITY_FILE}")]
    NotInitialised {
        /// The data directory.
        dir: PathBuf,
    },
    /// Some files of a hub are here and others are not.
    #[error("{dir} holds {found} but no {IDENTITY_FILE}")]
    Incomplete {
        /// The data directory.
        dir: PathBuf,
        /// A file that is there.
        found: &'static str,
    },
    /// The file for a key to be taken away is there already; it may be somebody's key.
    #[error("{path} exists, and is not overwritten")]
    OfflineExists {
        /// Which file.
        path: PathBuf,
    },
    /// The file is not what its name says.
    #[error("{path} holds no {wanted}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The key would be refused by every agent.
    #[error("{path} has the pin {pin}, which no join token of this hub carries")]
    NotPinned {
        /// Which file.
        path: PathBuf,
        /// Its pin.
        pin: Pin,
    },
    /// The list of signing keys does not hold.
    #[error("{path}: {source}")]
    List {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyListError,
    },
    /// The signing key is not the newest one of the list.
    #[error("{path} is not the key of entry {newest} of the list, which signs now")]
    NotNewest {
        /// Which file.
        path: PathBuf,
        /// The newest entry.
        newest: u32,
    },
    /// The root key is another fleet's.
    #[error("{path} is not the root of this fleet's keys")]
    OtherRoot {
        /// Which file.
        path: PathBuf,
    },
    /// No key could be made.
    #[error("no key could be made")]
    Generate,
}

impl KeysError {
    /// What helps against just this, where the code's own fix is too general.
    pub const fn fix(&self) -> Option<&'static str> {
        match self {
            Self::File { .. } | Self::Exists { .. } | Self::NotInitialised { .. } | Self::Generate => None,
            Self::Incomplete { .. } => Some(
                "restore the missing files from a backup; or, if no agent ever joined this hub, \
                 empty the directory",
            ),
            Self::OfflineExists { .. } => Some("name another file for --backup-key or --root-key"),
            Self::Malformed { .. } | Self::List { .. } | Self::NotNewest { .. } => {
                Some("restore the file from a backup")
            }
            Self::OtherRoot { .. } => Some("bring the root key that `keyhaven-hub init` made"),
            Self::NotPinned { .. } => Some("put back the tunnel key that `keyhaven-hub init` made, or its backup key"),
        }
    }

    const fn code(&self) -> ErrorCode {
        match self {
            Self::File { .. } | Self::Incomplete { .. } | Self::Malformed { .. } => ErrorCode::DataDirUnusable,
            Self::Exists { .. } | Self::OfflineExists { .. } => ErrorCode::KeyFileExists,
            Self::NotInitialised { .. } => ErrorCode::NotInitialised,
            Self::NotPinned { .. } => ErrorCode::PinMismatch,
            Self::List { .. } | Self::NotNewest { .. } | Self::OtherRoot { .. } => ErrorCode::SigningKeys,
            Self::Generate => ErrorCode::Internal,
        }
    }
}

impl From<KeysError> for Failure {
    fn from(error: KeysError) -> Self {
        let failure = Self::new(error.code(), error.to_string());
        match error.fix() {
            Some(fix) => failure.fix(fix),
            None => failure,
        }
    }
}

/// Where the keys go that are to be taken away; without a file, into the data directory.
#[derive(Debug, Clone, Copy, Default)]
pub struct OfflineFiles<'a> {
    /// The backup of the tunnel's key.
    pub backup: Option<&'a Path>,
    /// The root of the signing keys.
    pub root: Option<&'a Path>,
}

/// Fleet, node and pins, as they are in [`IDENTITY_FILE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The format of this file.
    schema: Schema,
    /// The hub's fleet.
    pub fleet: FleetId,
    /// This node of it.
    pub node: HubNodeId,
    /// The pin of the tunnel key that `init` made to be used.
    pub live_pin: Pin,
    /// The pin of the key that was taken away.
    pub backup_pin: Pin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Schema {
    #[serde(rename = "keyhaven/hub-identity/v1")]
    V1,
}

/// The keys of a hub, ready to serve.
pub struct HubKeys {
    identity: Identity,
    tunnel: PrivatePkcs8KeyDer<'static>,
    tunnel_pin: Pin,
    signer: Signer,
    archive: ArchiveKey,
}

impl HubKeys {
    /// Makes the keys of a new hub in `dir`, those that are to be taken away where `offline`
    /// says. Of several that try at once, in whatever process, one makes them.
    ///
    /// # Errors
    /// [`KeysError::Exists`], [`KeysError::Incomplete`] and
    /// [`KeysError::OfflineExists`] before any key is written;
    /// [`KeysError::File`] and [`KeysError::Generate`].
    pub fn init(dir: &Path, offline: OfflineFiles<'_>) -> Result<Self, KeysError> {
        refuse_if_whole(dir)?;
        make_private_dir(dir).map_err(file_error(dir))?;
        let _turn = turn(dir)?;
        refuse_if_occupied(dir)?;
        let backup_file = offline.backup.map_or_else(|| dir.join(BACKUP_KEY_FILE), Path::to_path_buf);
        let root_file = offline.root.map_or_else(|| dir.join(ROOT_KEY_FILE), Path::to_path_buf);
        if let Some(path) = [&backup_file, &root_file].into_iter().find(|path| path.symlink_metadata().is_ok()) {
            return Err(KeysError::OfflineExists { path: path.clone() });
        }
        let live = new_tunnel_key()?;
        let backup = new_tunnel_key()?;
        let identity = Identity {
            schema: Schema::V1,
            fleet: FleetId(uuid::Uuid::new_v4().into_bytes()),
            node: HubNodeId(uuid::Uuid::new_v4().into_bytes()),
            live_pin: pin_of(&live),
            backup_pin: pin_of(&backup),
        };

        write_secret(&backup_file, backup.serialize_pem().as_bytes())?;
        signing::make(dir, &root_file, identity.fleet)?;
        archive::make(dir)?;
        write_secret(&dir.join(TUNNEL_KEY_FILE), live.serialize_pem().as_bytes())?;
        write_secret(&dir.join(IDENTITY_FILE), &identity.to_json())?;
        Self::load(dir, None)
    }

    /// Makes the keys of a new hub in `dir`, unless there is a hub.
    ///
    /// # Errors
    /// As [`HubKeys::init`], except for [`KeysError::Exists`].
    pub fn init_if_empty(dir: &Path) -> Result<Option<Self>, KeysError> {
        match Self::init(dir, OfflineFiles::default()) {
            Ok(made) => Ok(Some(made)),
            Err(KeysError::Exists { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the keys of the hub in `dir`; the tunnel key from `tunnel_key_file`
    /// if there is one, such as the backup key brought back.
    ///
    /// # Errors
    /// [`KeysError::NotInitialised`], [`KeysError::Incomplete`],
    /// [`KeysError::Malformed`], [`KeysError::NotPinned`], [`KeysError::List`],
    /// [`KeysError::NotNewest`] or [`KeysError::File`].
    pub fn load(dir: &Path, tunnel_key_file: Option<&Path>) -> Result<Self, KeysError> {
        let identity = Identity::load(dir)?;
        let path = tunnel_key_file.map_or_else(|| dir.join(TUNNEL_KEY_FILE), Path::to_path_buf);
        let (tunnel, tunnel_pin) = read_tunnel_key(&path)?;
        if !identity.pins().contains(&tunnel_pin) {
            return Err(KeysError::NotPinned { path, pin: tunnel_pin });
        }
        let signer = Signer::load(dir, identity.fleet)?;
        Ok(Self { identity, tunnel, tunnel_pin, signer, archive: archive::load(dir)? })
    }

    /// Adds a new signing key to the list, in the name of the root key in this file: from the
    /// hub's next start on it signs, and the one before is gone.
    ///
    /// # Errors
    /// [`KeysError::OtherRoot`] and what [`HubKeys::load`] fails with; nothing was changed then.
    pub fn rotate(dir: &Path, root_file: &Path) -> Result<Signer, KeysError> {
        let identity = Identity::load(dir)?;
        let _turn = turn(dir)?;
        signing::rotate(dir, root_file, identity.fleet)
    }

    /// Whether a hub lives in `dir`: `Ok(false)` only where no file of one is.
    ///
    /// # Errors
    /// [`KeysError::Incomplete`].
    pub fn exist_in(dir: &Path) -> Result<bool, KeysError> {
        match refuse_if_occupied(dir) {
            Ok(()) => Ok(false),
            Err(KeysError::Exists { .. }) => Ok(true),
            Err(other) => Err(other),
        }
    }

    /// The hub's fleet.
    pub const fn fleet(&self) -> FleetId {
        self.identity.fleet
    }

    /// What join tokens carry: the live key's pin and the backup key's.
    pub const fn pins(&self) -> [Pin; 2] {
        self.identity.pins()
    }

    /// The pin of the key in use.
    pub const fn tunnel_pin(&self) -> Pin {
        self.tunnel_pin
    }

    /// Whether the key in use is the one that was meant to stay offline.
    pub fn uses_backup_key(&self) -> bool {
        self.tunnel_pin == self.identity.backup_pin
    }

    /// The key that the tunnel's listener proves itself with.
    pub fn tunnel_key(&self) -> PrivatePkcs8KeyDer<'static> {
        self.tunnel.clone_key()
    }

    /// This node of the fleet.
    pub const fn node(&self) -> HubNodeId {
        self.identity.node
    }

    /// What signs tickets, statements and price tables.
    pub const fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The key that signs now.
    pub const fn signing_key(&self) -> &SigningKey {
        self.signer.key()
    }

    /// What seals who pays, and opens it again.
    pub const fn archive_key(&self) -> &ArchiveKey {
        &self.archive
    }

    /// What join tokens carry of the signing key.
    pub fn verifying_key(&self) -> [u8; 32] {
        self.signing_key().verifying_key().to_bytes()
    }
}

impl fmt::Debug for HubKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubKeys")
            .field("identity", &self.identity)
            .field("tunnel_pin", &self.tunnel_pin)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads fleet and pins, which are no secrets, without the keys.
    ///
    /// # Errors
    /// [`KeysError::NotInitialised`], [`KeysError::Incomplete`],
    /// [`KeysError::Malformed`] or [`KeysError::File`].
    pub fn load(dir: &Path) -> Result<Self, KeysError> {
        if !HubKeys::exist_in(dir)? {
            return Err(KeysError::NotInitialised { dir: dir.to_path_buf() });
        }
        let path = dir.join(IDENTITY_FILE);
        let bytes = std::fs::read(&path).map_err(file_error(&path))?;
        serde_json::from_slice(&bytes).map_err(|_| KeysError::Malformed { path, wanted: "fleet and pins" })
    }

    const fn pins(&self) -> [Pin; 2] {
        [self.live_pin, self.backup_pin]
    }

    fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("ids and pins are strings, and strings are JSON");
        json.push(b'\n');
        json
    }
}

/// The pin of the tunnel key in a PEM file.
///
/// # Errors
/// [`KeysError::File`] or [`KeysError::Malformed`].
pub fn pin_in_file(path: &Path) -> Result<Pin, KeysError> {
    read_tunnel_key(path).map(|(_, pin)| pin)
}

/// Whoever writes keys into `dir` does so alone as long as this is held.
fn turn(dir: &Path) -> Result<impl Sized, KeysError> {
    let making = dir.join(MAKING_FILE);
    wait_for_turn(&making).map_err(file_error(&making))
}

fn refuse_if_whole(dir: &Path) -> Result<(), KeysError> {
    match dir.join(IDENTITY_FILE).symlink_metadata() {
        Ok(_) => Err(KeysError::Exists { dir: dir.to_path_buf() }),
        Err(_) => Ok(()),
    }
}

fn refuse_if_occupied(dir: &Path) -> Result<(), KeysError> {
    refuse_if_whole(dir)?;
    let is_there = |name: &&str| dir.join(name).symlink_metadata().is_ok();
    // A database or a key without an identity is a hub that lost a file. To
    // make new keys over it would lock out its agents for good.
    let traces = [
        crate::store::FILE_NAME,
        TUNNEL_KEY_FILE,
        SIGNING_KEY_FILE,
        SIGNING_LIST_FILE,
        ARCHIVE_KEY_FILE,
        BACKUP_KEY_FILE,
        ROOT_KEY_FILE,
    ];
    match traces.into_iter().find(is_there) {
        Some(found) => Err(KeysError::Incomplete { dir: dir.to_path_buf(), found }),
        None => Ok(()),
    }
}

fn new_tunnel_key() -> Result<KeyPair, KeysError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|_| KeysError::Generate)
}

fn pin_of(key: &KeyPair) -> Pin {
    Pin::of_spki(&key.subject_public_key_info())
}

fn read_tunnel_key(path: &Path) -> Result<(PrivatePkcs8KeyDer<'static>, Pin), KeysError> {
    let malformed = || KeysError::Malformed { path: path.to_path_buf(), wanted: "PKCS #8 private key in PEM" };
    let pem = std::fs::read(path).map_err(file_error(path))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| malformed())?;
    let pair = KeyPair::try_from(&key).map_err(|_| malformed())?;
    Ok((key, pin_of(&pair)))
}

fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    write_atomically(path, bytes, 0o600).map_err(file_error(path))
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> KeysError {
    let path = path.to_path_buf();
    |source| KeysError::File { path, source }
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
