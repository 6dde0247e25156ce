//! The vault: vendor keys and the agent's identity, sealed at rest.
//!
//! Invariant: a vendor key leaves the vault only for the one exact host it was
//! bound to when its owner added it.

mod document;
pub mod error;
pub mod host;
pub mod identity;
pub mod key;
pub mod lookout;
pub mod running;
mod seal;
pub mod unlock;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use ed25519_dalek::SigningKey;
use keyhaven_daemon::files::make_private_dir;
use keyhaven_daemon::files::wait_for_turn;
use keyhaven_daemon::files::write_atomically;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::VendorKeyId;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use sha2::Digest as _;
use sha2::Sha256;

use crate::vault::document::Document;
use crate::vault::error::VaultError;
use crate::vault::host::Account;
use crate::vault::identity::Identity;
use crate::vault::key::KeyInfo;
use crate::vault::key::NewKey;
use crate::vault::seal::SealingKey;
use crate::vault::seal::fill_random;
use crate::vault::unlock::Backend;
use crate::vault::unlock::Kek;
use crate::vault::unlock::Unlock;
use crate::vault::unlock::key_file_path;

/// A vault of thousands of keys is far smaller.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// An open vault. Its secrets stay sealed in memory and are opened one by one, for their use.
pub struct Vault {
    dir: PathBuf,
    data_key: SealingKey,
    document: Document,
    seen: Stamp,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault")
            .field("dir", &self.dir)
            .field("backend", &self.backend())
            .field("keys", &self.document.keys.len())
            .finish_non_exhaustive()
    }
}

impl Vault {
    /// Whether there is a vault in this data directory.
    pub fn exists(dir: &Path) -> bool {
        file_path(dir).exists()
    }

    /// What the vault in `dir` is opened with.
    ///
    /// # Errors
    /// There is no vault, or its file is damaged.
    pub fn backend_of(dir: &Path) -> Result<Backend, VaultError> {
        Ok(read(dir)?.0.kek.backend())
    }

    /// Makes an empty vault. The directory is made too, for its owner alone.
    ///
    /// # Errors
    /// There is a vault already, or the directory cannot be written to.
    pub fn create(dir: &Path, unlock: &Unlock) -> Result<Self, VaultError> {
        create_dir(dir)?;
        let _guard = lock(dir)?;
        if Self::exists(dir) {
            return Err(VaultError::Exists { path: file_path(dir) });
        }
        let kek = Kek::create(dir, unlock)?;
        let wrapping = kek.derive(dir, unlock)?;
        let data_key = SealingKey::random()?;
        let mut vault_id = vec![0; 16];
        fill_random(&mut vault_id)?;
        let document = Document::new(vault_id, kek, &wrapping, &data_key)?;
        let seen = write(dir, &document)?;
        Ok(Self { dir: dir.to_owned(), data_key, document, seen })
    }

    /// Opens the vault in `dir`.
    ///
    /// # Errors
    /// There is none, it does not open with this passphrase or key file, or
    /// its file was changed by somebody else.
    pub fn open(dir: &Path, unlock: &Unlock) -> Result<Self, VaultError> {
        let (document, seen) = read(dir)?;
        let wrapping = document.kek.derive(dir, unlock)?;
        let Some(data_key) = document.unwrap_data_key(&wrapping) else {
            return Err(VaultError::Locked {
                why: match document.kek.backend() {
                    Backend::Passphrase => "the passphrase is wrong".to_owned(),
                    Backend::KeyFile => {
                        format!("{} is not its key file", key_file_path(dir).display())
                    }
                },
            });
        };
        if !document.verify(&data_key) {
            return Err(edited(dir));
        }
        Ok(Self { dir: dir.to_owned(), data_key, document, seen })
    }

    /// What protects this vault. Every command that opens one says so.
    pub fn backend(&self) -> Backend {
        self.document.kek.backend()
    }

    /// What may be shown of each key, in the order they were added.
    pub fn keys(&self) -> Vec<KeyInfo> {
        self.document.keys.iter().map(|record| record.info()).collect()
    }

    /// What may be shown of one key, if there is such a key.
    pub fn key_info(&self, id: VendorKeyId) -> Option<KeyInfo> {
        self.document.key(id).map(|record| record.info())
    }

    /// The same, without a copy for each call.
    pub(crate) fn shared_info(&self, id: VendorKeyId) -> Option<Arc<KeyInfo>> {
        self.document.key(id).map(|record| record.shared_info().clone())
    }

    /// Seals a key and binds it to its host for ever.
    ///
    /// # Errors
    /// The key, its label or its Azure names are malformed, the right to use
    /// it was not attested, or the file cannot be written.
    pub fn add_key(&mut self, new: NewKey) -> Result<KeyInfo, VaultError> {
        let host = new.account.host()?;
        let secret = new.secret.expose_secret();
        key::check_text(secret, new.account.provider())?;
        let label = key::label_of(&new.label, &new.account)?;
        let attestation = new.attestation.ok_or(VaultError::AttestationMissing)?;
        let mut id = [0; 16];
        fill_random(&mut id)?;
        let provider = new.account.provider();
        let (resource, deployments) = match new.account {
            Account::Azure { resource, deployments, suffix: _ } => (Some(resource), deployments),
            Account::OpenAi | Account::Anthropic | Account::DeepSeek => (None, Vec::new()),
        };
        let info = KeyInfo {
            id: VendorKeyId(id),
            provider,
            host,
            resource,
            deployments,
            label,
            masked: key::mask(secret),
            added_unix_ms: new.added_unix_ms,
            attestation,
        };
        self.change(|document, data_key| document.add_key(&info, secret.as_bytes(), data_key))?;
        Ok(info)
    }

    /// Forgets a key.
    ///
    /// # Errors
    /// There is no such key, or the file cannot be written.
    pub fn remove_key(&mut self, id: VendorKeyId) -> Result<KeyInfo, VaultError> {
        let mut removed = None;
        self.change(|document, _| {
            let record = document.key(id).ok_or(VaultError::KeyUnknown { id })?;
            removed = Some(record.info());
            document.keys.retain(|record| record.id != id);
            Ok(())
        })?;
        removed.ok_or(VaultError::KeyUnknown { id })
    }

    /// Opens one key, for one request to the host it is bound to. It is wiped
    /// when the caller drops it.
    ///
    /// # Errors
    /// There is no such key, or it is bound to another host.
    pub fn open_key(&self, id: VendorKeyId, host: &str) -> Result<SecretString, VaultError> {
        let record = self.document.key(id).ok_or(VaultError::KeyUnknown { id })?;
        let info = record.shared_info();
        if info.host != host || !host::is_official(info.provider, info.resource.as_deref(), &info.host) {
            return Err(VaultError::HostRefused { id, host: host.chars().take(255).collect() });
        }
        let plain = self.document.open_key(record, &self.data_key).ok_or_else(|| edited(&self.dir))?;
        let text = std::str::from_utf8(&plain).map_err(|_| edited(&self.dir))?;
        Ok(SecretString::from(text))
    }

    /// Who this agent is, once it has joined.
    pub fn identity(&self) -> Option<Identity> {
        self.document.identity.as_ref().and_then(|record| record.identity())
    }

    /// Stores who this agent is, and its signing key, sealed. `repin` replaces
    /// the first and keeps the second.
    ///
    /// # Errors
    /// The key is not the identity's, or the file cannot be written.
    pub fn set_identity(&mut self, identity: &Identity, signing_key: &SigningKey) -> Result<(), VaultError> {
        if signing_key.verifying_key().as_bytes() != &identity.public_key {
            return Err(VaultError::IdentityMismatch);
        }
        let secret = zeroize::Zeroizing::new(signing_key.to_bytes());
        self.change(|document, data_key| document.set_identity(identity, &secret, data_key))
    }

    /// The signing key with which this vault joins as `agent`: the same one each time, so
    /// that a join which was cut off after the hub had bound the token can be repeated.
    pub fn joining_key(&self, agent: AgentId) -> SigningKey {
        let mut hash = Sha256::new();
        hash.update(b"keyhaven/agent-signing-key/v1\0");
        hash.update(self.data_key.bytes());
        hash.update(agent.0);
        SigningKey::from_bytes(&hash.finalize().into())
    }

    /// Opens the agent's signing key. It is wiped when the caller drops it.
    ///
    /// # Errors
    /// The agent has not joined.
    pub fn signing_key(&self) -> Result<SigningKey, VaultError> {
        let record = self.document.identity.as_ref().ok_or(VaultError::NotJoined)?;
        let plain = self.document.open_signing_key(record, &self.data_key).ok_or_else(|| edited(&self.dir))?;
        SigningKey::try_from(plain.as_slice()).map_err(|_| edited(&self.dir))
    }

    /// Where its file is.
    pub fn path(&self) -> PathBuf {
        file_path(&self.dir)
    }

    /// Takes over what another process wrote, such as `key add` beside a
    /// running agent. Returns whether anything changed. On an error the vault
    /// stays as it was.
    ///
    /// # Errors
    /// The file is gone, was changed by somebody else, or is another vault's.
    pub fn reload_if_changed(&mut self) -> Result<bool, VaultError> {
        let path = file_path(&self.dir);
        let metadata = std::fs::metadata(&path).map_err(|error| read_failed(&self.dir, error))?;
        if Stamp::of(&metadata) == self.seen {
            return Ok(false);
        }
        self.reload()?;
        Ok(true)
    }

    fn reload(&mut self) -> Result<(), VaultError> {
        let (document, seen) = read(&self.dir)?;
        if !document.same_vault(&self.document) || !document.verify(&self.data_key) {
            return Err(edited(&self.dir));
        }
        self.document = document;
        self.seen = seen;
        Ok(())
    }

    /// Applies one change to what the file holds now, not to what it held when
    /// it was opened: another process may have written in between.
    fn change(
        &mut self,
        apply: impl FnOnce(&mut Document, &SealingKey) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let _guard = lock(&self.dir)?;
        self.reload()?;
        let mut document = self.document.clone();
        apply(&mut document, &self.data_key)?;
        document.reseal(&self.data_key)?;
        self.seen = write(&self.dir, &document)?;
        self.document = document;
        Ok(())
    }
}

/// What tells two states of the file apart without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Self { modified: metadata.modified().ok(), bytes: metadata.len(), inode }
    }
}

/// Where the vault of a data directory is.
pub fn file_path(dir: &Path) -> PathBuf {
    dir.join("vault.json")
}

/// Held while the file is read, changed and written. Released by the drop of the file.
fn lock(dir: &Path) -> Result<File, VaultError> {
    let path = dir.join("vault.lock");
    wait_for_turn(&path).map_err(|source| VaultError::Io { path, source })
}

fn read(dir: &Path) -> Result<(Document, Stamp), VaultError> {
    let path = file_path(dir);
    let failed = |error| read_failed(dir, error);
    let file = File::open(&path).map_err(failed)?;
    let seen = Stamp::of(&file.metadata().map_err(failed)?);
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    let document = Document::parse(&bytes).map_err(|why| VaultError::Damaged { path, why })?;
    Ok((document, seen))
}

fn write(dir: &Path, document: &Document) -> Result<Stamp, VaultError> {
    let path = file_path(dir);
    write_atomically(&path, &document.to_bytes(), 0o600)
        .and_then(|()| std::fs::metadata(&path))
        .map(|metadata| Stamp::of(&metadata))
        .map_err(|source| VaultError::Io { path, source })
}

/// Makes the data directory, for its owner alone, unless it is there.
///
/// # Errors
/// It cannot be made.
pub fn create_dir(dir: &Path) -> Result<(), VaultError> {
    make_private_dir(dir).map_err(|source| VaultError::Io { path: dir.to_owned(), source })
}

fn read_failed(dir: &Path, source: std::io::Error) -> VaultError {
    let path = file_path(dir);
    if source.kind() == ErrorKind::NotFound { VaultError::Absent { path } } else { VaultError::Io { path, source } }
}

fn edited(dir: &Path) -> VaultError {
    VaultError::Damaged {
        path: file_path(dir),
        why: "its seal does not hold: it was damaged, edited or replaced".to_owned(),
    }
}
