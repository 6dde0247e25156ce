//! What a call may ask for within an endpoint: many consumers share one owner's account,
//! and whatever costs must have a bound. Hub and agent both ask here.
//!
//! Invariant: what no table names is refused, with a message that names it and the fix.

pub mod beta;
pub mod field;
pub mod form;
pub mod kind;
pub mod place;
pub mod query;

use super::endpoint::Endpoint;
use crate::ErrorCode;
use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// Why a call's head is refused. Prints as the message for the consumer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Longer than is passed on, or bytes that a URL may not hold as they are.
    #[error("the query is too long or holds characters that must be percent-encoded")]
    QueryMalformed,
    /// A query parameter that is not on the endpoint's list.
    #[error("the query parameter {name:?} is not passed on; leave it out (this endpoint takes: {})", list(.takes))]
    QueryUnknown {
        /// The parameter, clipped.
        name: String,
        /// What the endpoint takes.
        takes: &'static [query::Parameter],
    },
    /// The same query parameter twice.
    #[error("the query parameter {name:?} stands twice; send it once")]
    QueryTwice {
        /// The parameter.
        name: &'static str,
    },
    /// A query parameter with a value it cannot have.
    #[error("the query parameter {name:?} must be {expected}")]
    QueryValue {
        /// The parameter.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A query parameter that the endpoint cannot do without.
    #[error("the query lacks {name:?}, which must be {expected}")]
    QueryMissing {
        /// The parameter.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A model that belongs to the owner's account.
    #[error("{}", FINE_TUNED)]
    FineTuned,
    /// A feature under test that is not on the list.
    #[error("`{header}: {value}` is not passed on; leave it out (`docs/FIELDS.md` lists the values that are)")]
    BetaUnknown {
        /// The header.
        header: &'static str,
        /// The value, clipped.
        value: String,
    },
    /// Two content types: vendors differ in which one counts.
    #[error("the request carries two `content-type` headers; send one")]
    ContentTypeTwice,
}

/// What a consumer is told who asks for a fine-tuned model.
pub const FINE_TUNED: &str =
    "fine-tuned models belong to the account of the key's owner and are not served; name a base model";

impl PolicyError {
    /// The code that the consumer sees.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::QueryUnknown { .. } | Self::FineTuned | Self::BetaUnknown { .. } => ErrorCode::FieldRefused,
            Self::QueryMalformed
            | Self::QueryTwice { .. }
            | Self::QueryValue { .. }
            | Self::QueryMissing { .. }
            | Self::ContentTypeTwice => ErrorCode::RequestMalformed,
        }
    }
}

/// Judges what stands beside the body: the query and the headers that switch features on.
///
/// # Errors
/// When the call must be refused.
pub fn check_head(endpoint: Endpoint, query: Option<&str>, headers: &HeaderMap) -> Result<(), PolicyError> {
    query::check(endpoint, query)?;
    if headers.get_all(CONTENT_TYPE).into_iter().nth(1).is_some() {
        return Err(PolicyError::ContentTypeTwice);
    }
    beta::check(endpoint, headers)
}

/// The model of a call that names it in its query: realtime. `None` on other endpoints.
///
/// # Errors
/// When the endpoint needs it and the query lacks it or is not allowed.
pub fn model_of_query(endpoint: Endpoint, query: Option<&str>) -> Result<Option<String>, PolicyError> {
    query::model(endpoint, query)
}

/// Whether the name is one of a fine-tuned model: `ft:...`, or `...:ft-...` of old ones.
pub fn is_fine_tuned(model: &str) -> bool {
    let begins = |start: &str| model.get(..start.len()).is_some_and(|text| text.eq_ignore_ascii_case(start));
    begins("ft:") || begins("ft-") || model.to_ascii_lowercase().contains(":ft-")
}

/// The longest name or value that an error repeats.
const SHOWN_CHARS_MAX: usize = 64;

/// Text that came from outside, short enough to repeat.
pub(crate) fn clipped(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

fn list(takes: &[query::Parameter]) -> String {
    let names: Vec<&str> = takes.iter().map(|parameter| parameter.name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn fine_tuned_models_are_told_by_their_names() {
        for model in ["ft:gpt-4o-mini:org::id", "FT:x", "ft-x", "curie:ft-org-2023", "davinci:FT-org"] {
            assert!(is_fine_tuned(model), "{model}");
        }
        for model in ["gpt-4o", "left:right", "soft-model", "deepseek-chat", "", "f"] {
            assert!(!is_fine_tuned(model), "{model}");
        }
    }

    #[test]
    fn two_content_types_are_refused() {
        let mut headers = HeaderMap::new();
        headers.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        assert_eq!(check_head(Endpoint::OpenAiChat, None, &headers), Ok(()));

        headers.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        assert_eq!(check_head(Endpoint::OpenAiChat, None, &headers), Err(PolicyError::ContentTypeTwice));
    }
}
