//! What can go wrong with the vault, and which code a person sees for it.
//!
//! Invariant: no variant carries a secret, so every error may be printed.

use std::io;
use std::path::PathBuf;

use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::VendorKeyId;

/// A failure of the vault. It is always the fault of the agent's side.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The passphrase or the key file does not open it.
    #[error("{why}")]
    Locked {
        /// What was tried.
        why: String,
    },
    /// The file is not what a vault of ours wrote.
    #[error("{}: {why}", path.display())]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// What does not hold.
        why: String,
    },
    /// A key file that others could read protects nothing.
    #[error("{} has mode {mode:04o}: group or others could read it", path.display())]
    KeyFileExposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is no key with this id.
    #[error("no key {id} in this vault")]
    KeyUnknown {
        /// What was asked for.
        id: VendorKeyId,
    },
    /// A key was asked for on behalf of a host it is not bound to.
    #[error("key {id} is bound to another host than {host:?}")]
    HostRefused {
        /// The key that stays closed.
        id: VendorKeyId,
        /// The host that will not get it.
        host: String,
    },
    /// What was given as a vendor's key cannot be one.
    #[error("not a vendor's API key: {why}")]
    KeyMalformed {
        /// Which rule it breaks. Never the text itself.
        why: &'static str,
    },
    /// What was given as a vendor's key was made for somebody else.
    #[error("it is {whose}")]
    KeyForeign {
        /// What it looks like.
        whose: &'static str,
        /// What to do about it.
        fix: &'static str,
    },
    /// An Azure resource, suffix or deployment is missing, malformed or out of place.
    #[error("{why}")]
    ResourceMalformed {
        /// Which rule it breaks.
        why: String,
    },
    /// A label that would not survive a table or a terminal.
    #[error("a label has 1 to 64 printable characters")]
    LabelMalformed,
    /// The owner did not state the right to use the key.
    #[error("the right to use this key was not attested")]
    AttestationMissing,
    /// There is a vault already where one should be made.
    #[error("{} exists already", path.display())]
    Exists {
        /// The vault's file.
        path: PathBuf,
    },
    /// There is no vault where one should be opened.
    #[error("{} does not exist", path.display())]
    Absent {
        /// Where the vault's file would be.
        path: PathBuf,
    },
    /// The agent has no identity yet.
    #[error("this vault holds no identity: the agent has not joined a hub")]
    NotJoined,
    /// The signing key does not belong to the identity it came with.
    #[error("the signing key does not belong to the identity's public key")]
    IdentityMismatch,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Random,
    /// A file could not be read or written.
    #[error("{}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl VaultError {
    /// The row of the error table that a person is shown.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Locked { .. } | Self::KeyFileExposed { .. } => ErrorCode::VaultLocked,
            Self::Damaged { .. } => ErrorCode::VaultDamaged,
            Self::KeyUnknown { .. } => ErrorCode::VaultKeyUnknown,
            Self::HostRefused { .. } => ErrorCode::AgentRefused,
            Self::KeyMalformed { .. } | Self::KeyForeign { .. } => ErrorCode::VendorKeyMalformed,
            Self::ResourceMalformed { .. } => ErrorCode::ResourceMalformed,
            Self::LabelMalformed => ErrorCode::UsageInvalid,
            Self::AttestationMissing => ErrorCode::AttestationMissing,
            Self::Absent { .. } | Self::NotJoined => ErrorCode::NotJoined,
            Self::IdentityMismatch | Self::Random => ErrorCode::Internal,
            Self::Exists { .. } | Self::Io { .. } => ErrorCode::DataDirUnusable,
        }
    }

    /// What helps against just this, where the code's own fix is too general.
    pub const fn fix(&self) -> Option<&'static str> {
        match self {
            Self::KeyForeign { fix, .. } => Some(fix),
            Self::Locked { .. }
            | Self::Damaged { .. }
            | Self::KeyFileExposed { .. }
            | Self::KeyUnknown { .. }
            | Self::HostRefused { .. }
            | Self::KeyMalformed { .. }
            | Self::ResourceMalformed { .. }
            | Self::LabelMalformed
            | Self::AttestationMissing
            | Self::Exists { .. }
            | Self::Absent { .. }
            | Self::NotJoined
            | Self::IdentityMismatch
            | Self::Random
            | Self::Io { .. } => None,
        }
    }
}

impl From<&VaultError> for Failure {
    fn from(error: &VaultError) -> Self {
        let source = std::error::Error::source(error);
        let detail = match source {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let failure = Self::new(error.code(), detail);
        match error.fix() {
            Some(fix) => failure.fix(fix),
            None => failure,
        }
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        Self::from(&error)
    }
}
