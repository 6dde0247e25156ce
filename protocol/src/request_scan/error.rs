//! Why a request's body is refused.
//!
//! Invariant: names a field, a `type` or a key, clipped, and never a value of a field.

use crate::ErrorCode;
use crate::json_scan::JsonError;
use crate::provider::policy::FINE_TUNED;
use crate::provider::policy::clipped;
use crate::provider::policy::field::Why;
use crate::provider::policy::place::Marks;

/// Why a request's body is refused. Prints as the message for the consumer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Not JSON.
    #[error("the body is not valid JSON: {0}")]
    Json(#[from] JsonError),
    /// JSON, but something else than an object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A key twice: vendors differ in which one counts.
    #[error("{key:?} stands in the body twice; send it once")]
    DuplicateKey {
        /// The key, unescaped.
        key: String,
    },
    /// Two names for one thing.
    #[error("{one:?} and {other:?} say the same; send one of them")]
    Conflict {
        /// The one.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A value of the wrong type or out of its bounds.
    #[error("{key:?} must be {expected}")]
    BadValue {
        /// The key, unescaped.
        key: String,
        /// What it should be.
        expected: String,
    },
    /// A field that no table names.
    #[error("{name:?} is no field that this endpoint documents, and is not passed on; leave it out")]
    UnknownField {
        /// The field, clipped.
        name: String,
    },
    /// A field that is not served.
    #[error("{name:?} {}", .why.text())]
    Refused {
        /// The field.
        name: String,
        /// Why.
        why: Why,
    },
    /// A `type` that no list names.
    #[error("the {what} type {name:?} is not known here, and is not passed on; leave it out")]
    UnknownKind {
        /// What has this type.
        what: &'static str,
        /// The type, clipped.
        name: String,
    },
    /// A `type` that is not served.
    #[error("the {what} {name:?} {}", .why.text())]
    RefusedKind {
        /// What has this type.
        what: &'static str,
        /// The type.
        name: &'static str,
        /// Why.
        why: Why,
    },
    /// Something that is served only together with something else.
    #[error("{what} needs {:?}: {}", .needs.name().unwrap_or_default(), .needs.reason())]
    Missing {
        /// What.
        what: String,
        /// What it needs.
        needs: Marks,
    },
    /// A model that belongs to the owner's account.
    #[error("{}", FINE_TUNED)]
    FineTuned,
    /// The endpoint does not take a body of this content type.
    #[error("the content type must be {expected}")]
    ContentType {
        /// What it should be.
        expected: &'static str,
    },
    /// A form without one plain boundary.
    #[error("`multipart/form-data` needs one `boundary` of 1 to 70 plain characters, and no other parameter")]
    Boundary,
    /// Something that is not as it must be.
    #[error("malformed: {what}")]
    Malformed {
        /// What.
        what: &'static str,
    },
    /// A body where there must be none.
    #[error("this endpoint takes no body")]
    BodyUnexpected,
    /// An endpoint that was not among the candidates.
    #[error("the body was not read for this endpoint")]
    NotACandidate,
}

impl ScanError {
    /// The code that the consumer sees.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownField { .. }
            | Self::Refused { .. }
            | Self::UnknownKind { .. }
            | Self::RefusedKind { .. }
            | Self::Missing { .. }
            | Self::FineTuned => ErrorCode::FieldRefused,
            Self::ContentType { .. } => ErrorCode::MediaTypeUnsupported,
            Self::NotACandidate => ErrorCode::Internal,
            Self::Json(_)
            | Self::NotAnObject
            | Self::DuplicateKey { .. }
            | Self::Conflict { .. }
            | Self::BadValue { .. }
            | Self::Boundary
            | Self::Malformed { .. }
            | Self::BodyUnexpected => ErrorCode::RequestMalformed,
        }
    }
}

/// A name that came from outside, short enough to repeat.
pub(super) fn shown(name: &[u8]) -> String {
    clipped(&String::from_utf8_lossy(name))
}
