//! The two things that open a vault: a passphrase, or a key file beside it.
//!
//! Invariant: a key file that group or others could read opens nothing.

use std::fs::File;
use std::io::ErrorKind;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;

use argon2::Algorithm;
use argon2::Argon2;
use argon2::Params;
use argon2::Version;
use keyhaven_daemon::files::write_atomically;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use serde::Deserialize;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::vault::error::VaultError;
use crate::vault::seal::Bytes;
use crate::vault::seal::Canonical;
use crate::vault::seal::SealingKey;
use crate::vault::seal::fill_random;

const PASSPHRASE_MEMORY_KIB: u32 = 64 * 1024;
const PASSPHRASE_PASSES: u32 = 3;
const PASSPHRASE_LANES: u32 = 1;
/// A file that asks for more than this was not written by us.
const PASSPHRASE_MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSPHRASE_PASSES_MAX: u32 = 16;
const PASSPHRASE_LANES_MAX: u32 = 4;

/// What protects a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// A passphrase, stretched by Argon2id. Nothing on the disk opens the vault.
    Passphrase,
    /// The file `vault.key` beside the vault. Who can read both has the keys.
    KeyFile,
}

impl Backend {
    /// How it is named on the command line and in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::KeyFile => "key-file",
        }
    }
}

/// What the caller brings to open a vault.
pub enum Unlock {
    /// The passphrase. It prints as a redacted secret.
    Passphrase(SecretString),
    /// The key file in the vault's own directory.
    KeyFile,
}

impl std::fmt::Debug for Unlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Unlock::{:?}", self.backend())
    }
}

impl Unlock {
    /// The backend it opens.
    pub const fn backend(&self) -> Backend {
        match self {
            Self::Passphrase(_) => Backend::Passphrase,
            Self::KeyFile => Backend::KeyFile,
        }
    }
}

/// How the data key is wrapped, as it is stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Kek {
    Passphrase { memory_kib: u32, passes: u32, lanes: u32, salt: Bytes },
    KeyFile {},
}

impl Kek {
    /// Parameters for a new vault. Makes the key file if that is the backend.
    pub(crate) fn create(dir: &Path, unlock: &Unlock) -> Result<Self, VaultError> {
        match unlock {
            Unlock::Passphrase(_) => {
                let mut salt = vec![0; 16];
                fill_random(&mut salt)?;
                Ok(Self::Passphrase {
                    memory_kib: PASSPHRASE_MEMORY_KIB,
                    passes: PASSPHRASE_PASSES,
                    lanes: PASSPHRASE_LANES,
                    salt: Bytes(salt),
                })
            }
            Unlock::KeyFile => {
                create_key_file(&key_file_path(dir))?;
                Ok(Self::KeyFile {})
            }
        }
    }

    pub(crate) const fn backend(&self) -> Backend {
        match self {
            Self::Passphrase { .. } => Backend::Passphrase,
            Self::KeyFile {} => Backend::KeyFile,
        }
    }

    /// The key that wraps the data key.
    pub(crate) fn derive(&self, dir: &Path, unlock: &Unlock) -> Result<SealingKey, VaultError> {
        match (self, unlock) {
            (Self::Passphrase { memory_kib, passes, lanes, salt }, Unlock::Passphrase(passphrase)) => {
                stretch(*memory_kib, *passes, *lanes, &salt.0, passphrase)
            }
            (Self::KeyFile {}, Unlock::KeyFile) => read_key_file(&key_file_path(dir)),
            (Self::Passphrase { .. }, Unlock::KeyFile) | (Self::KeyFile {}, Unlock::Passphrase(_)) => {
                Err(VaultError::Locked {
                    why: format!("it is sealed by {}, not by {}", self.backend().name(), unlock.backend().name()),
                })
            }
        }
    }

    pub(crate) fn canonical(&self, into: Canonical) -> Canonical {
        match self {
            Self::Passphrase { memory_kib, passes, lanes, salt } => into
                .text("passphrase")
                .number(u64::from(*memory_kib))
                .number(u64::from(*passes))
                .number(u64::from(*lanes))
                .bytes(&salt.0),
            Self::KeyFile {} => into.text("key-file"),
        }
    }
}

/// Where the key file of the vault in `dir` is.
pub fn key_file_path(dir: &Path) -> PathBuf {
    dir.join("vault.key")
}

/// The permission bits that would let somebody else in, if there are any.
pub(crate) fn exposed_mode(file: &File) -> std::io::Result<Option<u32>> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        Ok((mode & 0o077 != 0).then_some(mode))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        Ok(None)
    }
}

fn stretch(
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: &[u8],
    passphrase: &SecretString,
) -> Result<SealingKey, VaultError> {
    let unusable = || VaultError::Locked { why: "its passphrase parameters are out of bounds".to_owned() };
    let in_bounds =
        memory_kib <= PASSPHRASE_MEMORY_KIB_MAX && passes <= PASSPHRASE_PASSES_MAX && lanes <= PASSPHRASE_LANES_MAX;
    if !in_bounds {
        return Err(unusable());
    }
    let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(|_| unusable())?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.expose_secret().as_bytes(), salt, key.as_mut_slice())
        .map_err(|_| unusable())?;
    Ok(SealingKey::new(key))
}

/// A key file that a crash left behind before its vault was written is used
/// again: overwriting it could lock a vault that is being restored.
fn create_key_file(path: &Path) -> Result<(), VaultError> {
    match read_key_file(path) {
        Ok(_) => Ok(()),
        Err(VaultError::Locked { .. }) if !path.exists() => {
            let key = SealingKey::random()?;
            write_atomically(path, key.bytes(), 0o600)
                .map_err(|source| VaultError::Io { path: path.to_owned(), source })
        }
        Err(error) => Err(error),
    }
}

fn read_key_file(path: &Path) -> Result<SealingKey, VaultError> {
    let io = |source| VaultError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(VaultError::Locked { why: format!("the key file {} is missing", path.display()) });
        }
        Err(error) => return Err(io(error)),
    };
    if let Some(mode) = exposed_mode(&file).map_err(io)? {
        return Err(VaultError::KeyFileExposed { path: path.to_owned(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(64));
    file.take(33).read_to_end(&mut bytes).map_err(io)?;
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return Err(VaultError::Locked { why: format!("the key file {} does not hold 32 bytes", path.display()) });
    }
    key.copy_from_slice(&bytes);
    Ok(SealingKey::new(key))
}
