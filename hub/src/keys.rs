//! The hub's own keys: the tunnel's, its offline backup, the signing key, and
//! the pins that join tokens carry.
//!
//! Invariant: the hub serves only with a tunnel key whose pin was in every join
//! token it ever made.

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::files::make_private_dir;
use keyhaven_daemon::files::wait_for_turn;
use keyhaven_daemon::files::write_atomically;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::pin::Pin;
use rcgen::KeyPair;
use rcgen::PublicKeyData;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde::Serialize;

/// The live tunnel key in the data directory.
pub const TUNNEL_KEY_FILE: &str = "tunnel.key";
/// The backup key, as long as nobody has taken it away.
pub const BACKUP_KEY_FILE: &str = "tunnel-backup.key";
/// The key that signs tickets and statements.
pub const SIGNING_KEY_FILE: &str = "signing.key";
/// Fleet and pins. Written last: where it is, a hub is whole.
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
    /// The file for the backup key is there already; it may be somebody's key.
    #[error("{path} exists, and is not overwritten")]
    BackupExists {
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
            Self::BackupExists { .. } => Some("name another file for --backup-key"),
            Self::Malformed { .. } => Some("restore the file from a backup"),
            Self::NotPinned { .. } => Some("put back the tunnel key that `keyhaven-hub init` made, or its backup key"),
        }
    }

    const fn code(&self) -> ErrorCode {
        match self {
            Self::File { .. } | Self::Incomplete { .. } | Self::Malformed { .. } => ErrorCode::DataDirUnusable,
            Self::Exists { .. } | Self::BackupExists { .. } => ErrorCode::KeyFileExists,
            Self::NotInitialised { .. } => ErrorCode::NotInitialised,
            Self::NotPinned { .. } => ErrorCode::PinMismatch,
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

/// Fleet and pins, as they are in [`IDENTITY_FILE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The format of this file.
    schema: Schema,
    /// The hub's fleet.
    pub fleet: FleetId,
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
    signing: SigningKey,
}

impl HubKeys {
    /// Makes the keys of a new hub in `dir`, the backup key in `backup_file`
    /// or, without one, in `dir` as well. Of several that try at once, in
    /// whatever process, one makes them.
    ///
    /// # Errors
    /// [`KeysError::Exists`], [`KeysError::Incomplete`] and
    /// [`KeysError::BackupExists`] before any key is written;
    /// [`KeysError::File`] and [`KeysError::Generate`].
    pub fn init(dir: &Path, backup_file: Option<&Path>) -> Result<Self, KeysError> {
        refuse_if_whole(dir)?;
        make_private_dir(dir).map_err(file_error(dir))?;
        let making = dir.join(MAKING_FILE);
        let _turn = wait_for_turn(&making).map_err(file_error(&making))?;
        refuse_if_occupied(dir)?;
        let backup_file = backup_file.map_or_else(|| dir.join(BACKUP_KEY_FILE), Path::to_path_buf);
        if backup_file.symlink_metadata().is_ok() {
            return Err(KeysError::BackupExists { path: backup_file });
        }
        let live = new_tunnel_key()?;
        let backup = new_tunnel_key()?;
        let signing = new_signing_key()?;
        let identity = Identity {
            schema: Schema::V1,
            fleet: FleetId(uuid::Uuid::new_v4().into_bytes()),
            live_pin: pin_of(&live),
            backup_pin: pin_of(&backup),
        };

        write_secret(&backup_file, backup.serialize_pem().as_bytes())?;
        write_secret(&dir.join(SIGNING_KEY_FILE), signing_pem(&signing)?.as_bytes())?;
        write_secret(&dir.join(TUNNEL_KEY_FILE), live.serialize_pem().as_bytes())?;
        write_secret(&dir.join(IDENTITY_FILE), &identity.to_json())?;
        Self::load(dir, None)
    }

    /// Makes the keys of a new hub in `dir`, unless there is a hub.
    ///
    /// # Errors
    /// As [`HubKeys::init`], except for [`KeysError::Exists`].
    pub fn init_if_empty(dir: &Path) -> Result<Option<Self>, KeysError> {
        match Self::init(dir, None) {
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
    /// [`KeysError::Malformed`], [`KeysError::NotPinned`] or [`KeysError::File`].
    pub fn load(dir: &Path, tunnel_key_file: Option<&Path>) -> Result<Self, KeysError> {
        let identity = Identity::load(dir)?;
        let path = tunnel_key_file.map_or_else(|| dir.join(TUNNEL_KEY_FILE), Path::to_path_buf);
        let (tunnel, tunnel_pin) = read_tunnel_key(&path)?;
        if !identity.pins().contains(&tunnel_pin) {
            return Err(KeysError::NotPinned { path, pin: tunnel_pin });
        }
        Ok(Self { identity, tunnel, tunnel_pin, signing: read_signing_key(&dir.join(SIGNING_KEY_FILE))? })
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

    /// The key that signs tickets and statements.
    pub const fn signing_key(&self) -> &SigningKey {
        &self.signing
    }

    /// What join tokens carry of the signing key.
    pub fn verifying_key(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
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
    let traces = [crate::store::FILE_NAME, TUNNEL_KEY_FILE, SIGNING_KEY_FILE, BACKUP_KEY_FILE];
    match traces.into_iter().find(is_there) {
        Some(found) => Err(KeysError::Incomplete { dir: dir.to_path_buf(), found }),
        None => Ok(()),
    }
}

fn new_tunnel_key() -> Result<KeyPair, KeysError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|_| KeysError::Generate)
}

fn new_signing_key() -> Result<SigningKey, KeysError> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).map_err(|_| KeysError::Generate)?;
    Ok(SigningKey::from_bytes(&seed))
}

fn pin_of(key: &KeyPair) -> Pin {
    Pin::of_spki(&key.subject_public_key_info())
}

fn signing_pem(key: &SigningKey) -> Result<impl std::ops::Deref<Target = String>, KeysError> {
    key.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeysError::Generate)
}

fn read_tunnel_key(path: &Path) -> Result<(PrivatePkcs8KeyDer<'static>, Pin), KeysError> {
    let malformed = || KeysError::Malformed { path: path.to_path_buf(), wanted: "PKCS #8 private key in PEM" };
    let pem = std::fs::read(path).map_err(file_error(path))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| malformed())?;
    let pair = KeyPair::try_from(&key).map_err(|_| malformed())?;
    Ok((key, pin_of(&pair)))
}

fn read_signing_key(path: &Path) -> Result<SigningKey, KeysError> {
    let pem = std::fs::read_to_string(path).map_err(file_error(path))?;
    SigningKey::from_pkcs8_pem(&pem)
        .map_err(|_| KeysError::Malformed { path: path.to_path_buf(), wanted: "Ed25519 private key in PKCS #8 PEM" })
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
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_hub_has_private_files_and_loads_as_it_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("a/hub");

        let made = HubKeys::init(&home, None).unwrap();
        let loaded = HubKeys::load(&home, None).unwrap();

        assert_eq!(loaded.identity, made.identity);
        assert_eq!(loaded.verifying_key(), made.verifying_key());
        assert_eq!(loaded.tunnel_pin(), made.pins()[0]);
        assert!(!loaded.uses_backup_key());
        assert_eq!(mode_of(&home), 0o700);
        for name in [TUNNEL_KEY_FILE, BACKUP_KEY_FILE, SIGNING_KEY_FILE, IDENTITY_FILE] {
            assert_eq!(mode_of(&home.join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn of_many_that_make_a_hub_at_once_one_does_and_all_find_the_same() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let home = dir.path().join("hub");

            let made = std::thread::scope(|threads| {
                let init = threads.spawn(|| HubKeys::init(&home, None));
                // What `serve` does.
                let first = HubKeys::init_if_empty(&home).unwrap();
                assert!(HubKeys::load(&home, None).is_ok());
                [init.join().unwrap().ok(), first]
            });

            let [made] = made.into_iter().flatten().collect::<Vec<_>>().try_into().unwrap();
            let loaded = HubKeys::load(&home, None).unwrap();
            assert_eq!(loaded.identity, made.identity);
            assert_eq!(loaded.verifying_key(), made.verifying_key());
        }
    }

    #[test]
    fn two_hubs_share_nothing() {
        let dir = tempfile::tempdir().unwrap();

        let one = HubKeys::init(&dir.path().join("one"), None).unwrap();
        let two = HubKeys::init(&dir.path().join("two"), None).unwrap();

        assert_ne!(one.fleet(), two.fleet());
        assert_ne!(one.verifying_key(), two.verifying_key());
        assert!(one.pins().iter().all(|pin| !two.pins().contains(pin)));
        assert_ne!(one.pins()[0], one.pins()[1]);
    }

    #[test]
    fn the_backup_key_brought_back_is_accepted_and_a_foreign_key_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("hub");
        let backup = dir.path().join("safe.key");
        let made = HubKeys::init(&home, Some(&backup)).unwrap();
        HubKeys::init(&dir.path().join("other"), None).unwrap();
        let foreign = dir.path().join("other").join(TUNNEL_KEY_FILE);

        let loaded = HubKeys::load(&home, Some(&backup)).unwrap();
        let refused = HubKeys::load(&home, Some(&foreign)).unwrap_err();

        assert!(!home.join(BACKUP_KEY_FILE).exists());
        assert_eq!(mode_of(&backup), 0o600);
        assert!(loaded.uses_backup_key());
        assert_eq!(loaded.tunnel_pin(), made.pins()[1]);
        assert!(matches!(refused, KeysError::NotPinned { .. }));
        assert_eq!(Failure::from(refused).code(), ErrorCode::PinMismatch);
    }

    #[test]
    fn a_second_init_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let made = HubKeys::init(dir.path(), None).unwrap();

        let again = HubKeys::init(dir.path(), None);

        assert!(matches!(again, Err(KeysError::Exists { .. })));
        assert_eq!(HubKeys::load(dir.path(), None).unwrap().identity, made.identity);
    }

    #[test]
    fn a_hub_that_lost_its_identity_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        HubKeys::init(dir.path(), None).unwrap();
        std::fs::remove_file(dir.path().join(IDENTITY_FILE)).unwrap();
        let key_before = std::fs::read(dir.path().join(TUNNEL_KEY_FILE)).unwrap();

        let init = HubKeys::init(dir.path(), None);
        let load = HubKeys::load(dir.path(), None);

        assert!(matches!(init, Err(KeysError::Incomplete { .. })));
        assert!(matches!(load, Err(KeysError::Incomplete { .. })));
        let key_after = std::fs::read(dir.path().join(TUNNEL_KEY_FILE)).unwrap();
        assert_eq!(key_after, key_before);
    }

    #[test]
    fn an_existing_file_is_never_taken_for_the_backup_key() {
        let dir = tempfile::tempdir().unwrap();
        let backup = dir.path().join("safe.key");
        std::fs::write(&backup, "somebody's key").unwrap();
        let home = dir.path().join("hub");

        let refused = HubKeys::init(&home, Some(&backup));

        assert!(matches!(refused, Err(KeysError::BackupExists { .. })));
        assert_eq!(std::fs::read(&backup).unwrap(), b"somebody's key");
        assert!(!HubKeys::exist_in(&home).unwrap());
    }

    #[test]
    fn damaged_files_are_named_and_no_key_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        for name in [TUNNEL_KEY_FILE, SIGNING_KEY_FILE, IDENTITY_FILE] {
            let home = dir.path().join(name);
            HubKeys::init(&home, None).unwrap();
            std::fs::write(home.join(name), "-----BEGIN PRIVATE KEY-----\nPLANTED\n").unwrap();

            let error = HubKeys::load(&home, None).unwrap_err();

            assert!(error.to_string().contains(name), "{error}");
            assert!(!format!("{error:?} {error}").contains("PLANTED"), "{error}");
        }
    }

    #[test]
    fn debug_shows_pins_and_no_keys() {
        let dir = tempfile::tempdir().unwrap();
        let keys = HubKeys::init(dir.path(), None).unwrap();

        let shown = format!("{keys:?}");

        assert!(shown.contains(&keys.tunnel_pin().to_string()));
        assert!(!shown.contains("signing"), "{shown}");
    }

    #[test]
    fn an_empty_directory_holds_no_hub() {
        let dir = tempfile::tempdir().unwrap();

        assert!(!HubKeys::exist_in(dir.path()).unwrap());
        let load = HubKeys::load(dir.path(), None);
        assert!(matches!(load, Err(KeysError::NotInitialised { .. })));
    }

    fn mode_of(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }
}
