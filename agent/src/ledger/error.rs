//! What the ledger does not do, and why.
//!
//! Invariant: an error names places, numbers and causes; never bytes of a leaf.

use std::io;
use std::sync::Arc;

use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::chain::ChainError;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::key_list::KeyListError;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::signing::BadSignature;
use keyhaven_protocol::statement::StatementError;

use super::segment::SegmentId;

/// Where in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which file.
    pub segment: SegmentId,
    /// At which byte of it.
    pub offset: u64,
}

/// Why something was not written down, or cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// The folder cannot be used.
    #[error("{what}: {source}")]
    Folder {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
    /// Another process writes this ledger.
    #[error("another process writes this ledger")]
    Held,
    /// There is no ledger here.
    #[error("there is no ledger yet")]
    Absent,
    /// What was durable is no longer as it was written.
    #[error("{place}: {why}")]
    Damaged {
        /// Where.
        place: Place,
        /// What is wrong there.
        why: String,
    },
    /// Writing or syncing failed. Nothing is written until the agent has started again.
    #[error("{0}")]
    Failed(Arc<str>),
    /// It was closed: the agent is stopping.
    #[error("the ledger is closed")]
    Closed,
    /// The disk has been writing for too long.
    #[error("the disk has not finished writing for {0} ms")]
    Stalled(u64),
    /// Too much waits to be written.
    #[error("{0} leaves wait to be written")]
    Full(usize),
    /// The owner's limit.
    #[error("{unacked} leaves are not acknowledged, and the owner allows {max}")]
    Unacked {
        /// So many.
        unacked: u64,
        /// So many are allowed.
        max: u64,
    },
    /// The owner's limit.
    #[error("{unpaid} are earned and not paid out, and the owner allows {max}")]
    Unpaid {
        /// So much.
        unpaid: NanoUsd,
        /// So much is allowed.
        max: NanoUsd,
    },
    /// The attempt was opened before.
    #[error("attempt {1} of {0} was opened before")]
    OpenedTwice(CallId, u8),
    /// The attempt is not open, or with another ticket.
    #[error("attempt {1} of {0} is not open")]
    NotOpen(CallId, u8),
    /// Not a leaf that may follow.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Not the hub's next statement.
    #[error("a statement was not taken: {0}")]
    Statement(#[from] StatementError),
    /// Not a cosigned head of this chain.
    #[error("a cosigned head was not taken: {0}")]
    Cosigned(&'static str),
    /// Not the hub's keys.
    #[error("the hub's keys were not taken: {0}")]
    Keys(#[from] KeyListError),
    /// The fleet's keys are not known, so that nothing of the hub can be verified.
    #[error("the hub's keys are not known yet")]
    NoKeys,
    /// The index did not do what was asked.
    #[error("index: {0}")]
    Index(Arc<str>),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", self.segment.name(), self.offset)
    }
}

impl LedgerError {
    /// What was tried in the folder, and why it failed.
    pub(super) fn folder(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Folder { what, source: Arc::new(source) }
    }

    /// Its row in the error table.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Folder { .. } => ErrorCode::DataDirUnusable,
            Self::Held => ErrorCode::AlreadyRunning,
            Self::Absent => ErrorCode::LedgerAbsent,
            Self::Damaged { .. } => ErrorCode::LedgerDamaged,
            Self::Failed(_) | Self::Closed => ErrorCode::LedgerFailed,
            Self::Stalled(_) | Self::Full(_) => ErrorCode::LedgerStalled,
            Self::Unacked { .. } | Self::Unpaid { .. } => ErrorCode::LedgerLimit,
            Self::OpenedTwice(..)
            | Self::NotOpen(..)
            | Self::Chain(_)
            | Self::Statement(_)
            | Self::Cosigned(_)
            | Self::Keys(_)
            | Self::NoKeys => ErrorCode::LinkProtocol,
            Self::Index(_) => ErrorCode::StoreFailed,
        }
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<BadSignature> for LedgerError {
    fn from(_: BadSignature) -> Self {
        Self::Cosigned("its signature does not hold")
    }
}

/// What a failed write means for its owner: the cause by its name, not by its number.
pub(super) fn cause_of(error: &io::Error) -> String {
    let known = [
        (io::ErrorKind::StorageFull, "the disk is full"),
        (io::ErrorKind::QuotaExceeded, "the disk is full for this user"),
        (io::ErrorKind::ReadOnlyFilesystem, "the disk is read-only"),
        (io::ErrorKind::PermissionDenied, "the folder is not this user's to write"),
    ];
    match known.into_iter().find(|(kind, _)| *kind == error.kind()) {
        Some((_, cause)) => format!("{cause} ({error})"),
        None => error.to_string(),
    }
}
