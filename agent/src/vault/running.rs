//! A vault that a running agent reads while `key add` beside it may change the file.
//!
//! Invariant: nobody holds the lock across an await.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::RwLockReadGuard;

use crate::vault::Vault;
use crate::vault::error::VaultError;

/// One vault for all rooms of a running agent. Clones share it.
#[derive(Clone)]
pub struct SharedVault {
    vault: Arc<RwLock<Vault>>,
}

impl SharedVault {
    /// Shares a vault.
    pub fn new(vault: Vault) -> Self {
        Self { vault: Arc::new(RwLock::new(vault)) }
    }

    /// The vault as it was last read.
    pub fn read(&self) -> RwLockReadGuard<'_, Vault> {
        self.vault.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what another process wrote. Whether anything changed.
    ///
    /// # Errors
    /// As [`Vault::reload_if_changed`].
    pub fn reload_if_changed(&self) -> Result<bool, VaultError> {
        self.vault.write().unwrap_or_else(PoisonError::into_inner).reload_if_changed()
    }
}
