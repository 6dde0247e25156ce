//! From a consumer's method, path and headers to the endpoint that is meant.
//!
//! Invariant: a route names listed endpoints only; what matches no listed path
//! byte for byte reaches no vendor.

use super::Provider;
use super::endpoint::Endpoint;
use super::family::family;
use super::native_error::ErrorShape;
use super::native_error::status_of;
use crate::ErrorCode;
use http::HeaderMap;
use http::Method;
use http::StatusCode;

/// The longest path that is looked at for a hint.
const HINT_PATH_BYTES_MAX: usize = 256;

/// One endpoint that a request may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The vendor's endpoint.
    pub endpoint: Endpoint,
    /// The parameter in its path: a deployment or a model.
    pub parameter: Option<String>,
}

/// Everything that a request's path and headers say about where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The endpoints that it may mean; at least one, at most one per vendor.
    pub candidates: Vec<Candidate>,
    /// The Azure resource of `/via/azure/<resource>`, in lower case. It selects
    /// an owner's offer and never builds a host.
    pub azure_resource: Option<String>,
    /// The form in which the consumer's SDK expects errors.
    pub shape: ErrorShape,
}

/// Why a request has no endpoint. Prints as the message for the consumer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No endpoint has this path.
    #[error("{}; {}", ErrorCode::EndpointUnknown.cause(), .hint.as_deref().unwrap_or(ErrorCode::EndpointUnknown.fix()))]
    UnknownPath {
        /// The form of the answer.
        shape: ErrorShape,
        /// What to change, when the path shows it.
        hint: Option<String>,
    },
    /// The path is known, but not with this method.
    #[error("{}; it takes {allow}", ErrorCode::MethodNotAllowed.cause())]
    Method {
        /// The form of the answer.
        shape: ErrorShape,
        /// The methods it takes, as the `allow` header states them.
        allow: String,
    },
    /// Several vendors remain.
    #[error("{}; {}", ErrorCode::VendorAmbiguous.cause(), ErrorCode::VendorAmbiguous.fix())]
    Ambiguous {
        /// The form of the answer.
        shape: ErrorShape,
    },
}

impl RouteError {
    /// The form in which to answer.
    pub const fn shape(&self) -> ErrorShape {
        match self {
            Self::UnknownPath { shape, .. } | Self::Method { shape, .. } | Self::Ambiguous { shape } => *shape,
        }
    }

    /// The code that the consumer sees.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownPath { .. } => ErrorCode::EndpointUnknown,
            Self::Method { .. } => ErrorCode::MethodNotAllowed,
            Self::Ambiguous { .. } => ErrorCode::VendorAmbiguous,
        }
    }

    /// The HTTP status of the answer.
    pub fn status(&self) -> StatusCode {
        status_of(self.code())
    }

    /// The `allow` header of the answer.
    pub fn allow(&self) -> Option<&str> {
        match self {
            Self::Method { allow, .. } => Some(allow),
            Self::UnknownPath { .. } | Self::Ambiguous { .. } => None,
        }
    }
}

/// Finds what a request may mean. `path` is the raw path, without its query.
///
/// # Errors
/// When no endpoint has this path, or not with this method.
pub fn route(method: &Method, path: &str, headers: &HeaderMap) -> Result<Route, RouteError> {
    let Some(target) = Target::parse(path) else {
        return Err(unknown_path(path, None, headers));
    };
    let matched = target.matching();
    if matched.is_empty() {
        return Err(unknown_path(path, Some(&target), headers));
    }

    let takes = |candidate: &&Candidate| candidate.endpoint.method() == *method;
    let callable: Vec<Candidate> = matched.iter().filter(takes).cloned().collect();
    if callable.is_empty() {
        let matched = chosen_by_headers(matched, headers);
        return Err(RouteError::Method { shape: shape_of(&matched), allow: methods_of(&matched) });
    }

    let candidates = chosen_by_headers(callable, headers);
    Ok(Route { shape: shape_of(&candidates), azure_resource: target.azure_resource, candidates })
}

impl Route {
    /// The one endpoint that is meant, once the body has named the model;
    /// where the path names it, that counts when `model` is `None`.
    ///
    /// A single candidate is it. Of several, the one whose documented family the
    /// model belongs to; for a model of no family, the one vendor that offers it
    /// (`listed`).
    ///
    /// # Errors
    /// [`RouteError::Ambiguous`] when that leaves none or several.
    pub fn resolve(
        &self,
        model: Option<&str>,
        listed: impl Fn(Provider, &str) -> bool,
    ) -> Result<Candidate, RouteError> {
        let ambiguous = RouteError::Ambiguous { shape: self.shape };
        if let [only] = self.candidates.as_slice() {
            return Ok(only.clone());
        }
        let in_path = || {
            let first = self.candidates.first()?;
            first.parameter.as_deref()
        };
        let Some(model) = model.or_else(in_path) else {
            return Err(ambiguous);
        };

        // The documented family comes first: an agent may list whatever it likes, and must
        // not be able to draw another vendor's calls to itself by it.
        let of_family = family(model);
        if let Some(candidate) =
            self.candidates.iter().find(|candidate| Some(candidate.endpoint.provider()) == of_family)
        {
            return Ok(candidate.clone());
        }
        let mut offering = self.candidates.iter().filter(|candidate| listed(candidate.endpoint.provider(), model));
        match (offering.next(), offering.next()) {
            (Some(only), None) => Ok(only.clone()),
            (None | Some(_), _) => Err(ambiguous),
        }
    }
}

/// An Azure resource's name in lower case: one DNS label and nothing else.
pub fn azure_resource(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let label =
        (1..=63).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('-') && !text.ends_with('-');
    label.then(|| text.to_ascii_lowercase())
}

/// A path taken apart: the vendor it names, if any, and the rest.
struct Target<'a> {
    provider: Option<Provider>,
    azure_resource: Option<String>,
    /// What stands before `rest`.
    via: &'a str,
    rest: &'a str,
}

impl<'a> Target<'a> {
    /// `None` when the path begins as an explicit form but is none.
    fn parse(path: &'a str) -> Option<Self> {
        let Some(explicit) = path.strip_prefix("/via/") else {
            return Some(Self { provider: None, azure_resource: None, via: "", rest: path });
        };
        let (name, mut rest) = split_segment(explicit);
        let provider: Provider = name.parse().ok()?;
        let mut resource = None;
        if provider == Provider::Azure {
            let (label, after) = split_segment(rest.strip_prefix('/')?);
            resource = Some(azure_resource(label)?);
            rest = after;
        }
        Some(Self { provider: Some(provider), azure_resource: resource, via: path.strip_suffix(rest)?, rest })
    }

    fn matching(&self) -> Vec<Candidate> {
        matching(self.rest, self.provider)
    }
}

/// The endpoints whose consumer paths include `path`, whatever the method.
fn matching(path: &str, provider: Option<Provider>) -> Vec<Candidate> {
    let all = Endpoint::ALL.iter().copied();
    all.filter(|endpoint| provider.is_none_or(|named| endpoint.provider() == named))
        .filter_map(|endpoint| {
            let parameter = endpoint.matches(path)?.map(str::to_owned);
            Some(Candidate { endpoint, parameter })
        })
        .collect()
}

/// Narrows the candidates by the two headers that tell vendors apart.
///
/// Anthropic requires `anthropic-version`, so its SDKs always send it, and a
/// request without it on a shared path is meant for one of the others. A
/// header that fits none of the candidates says nothing.
fn chosen_by_headers(candidates: Vec<Candidate>, headers: &HeaderMap) -> Vec<Candidate> {
    let anthropic = |candidate: &Candidate| candidate.endpoint.error_shape() == ErrorShape::Anthropic;
    let (of_anthropic, mut others): (Vec<_>, Vec<_>) = candidates.into_iter().partition(anthropic);
    let wants_anthropic = headers.contains_key("anthropic-version");
    if !of_anthropic.is_empty() && (wants_anthropic || others.is_empty()) {
        return of_anthropic;
    }

    let azure = |candidate: &Candidate| candidate.endpoint.provider() == Provider::Azure;
    if headers.contains_key("api-key") && others.iter().any(azure) {
        others.retain(azure);
    }
    others
}

/// The form of the first candidate; the table's order makes it OpenAI's where
/// several vendors share a path.
fn shape_of(candidates: &[Candidate]) -> ErrorShape {
    let first = candidates.first();
    first.map_or(ErrorShape::OpenAi, |candidate| candidate.endpoint.error_shape())
}

fn methods_of(candidates: &[Candidate]) -> String {
    let mut methods: Vec<String> = Vec::new();
    for candidate in candidates {
        let method = candidate.endpoint.method().to_string();
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    methods.join(", ")
}

fn unknown_path(path: &str, target: Option<&Target<'_>>, headers: &HeaderMap) -> RouteError {
    RouteError::UnknownPath { shape: unknown_shape(path, headers), hint: hint(path, target) }
}

/// The form to answer in when the path says little: what the caller most
/// likely is.
fn unknown_shape(path: &str, headers: &HeaderMap) -> ErrorShape {
    let begins = |start: &str| path.starts_with(start);
    if headers.contains_key("anthropic-version") || begins("/via/anthropic/") {
        ErrorShape::Anthropic
    } else if begins("/openai/") || begins("/via/azure/") || headers.contains_key("api-key") {
        ErrorShape::Azure
    } else if begins("/via/deepseek/") {
        ErrorShape::DeepSeek
    } else {
        ErrorShape::OpenAi
    }
}

/// What the base URL should have been, when the path ends like a known one.
fn hint(path: &str, target: Option<&Target<'_>>) -> Option<String> {
    if path.len() > HINT_PATH_BYTES_MAX {
        return None;
    }
    // A path that begins as an explicit form but is none: the list of the forms says more.
    let target = target?;
    if target.azure_resource.as_deref() == Some("openai") {
        return Some("the base URL begins with `/via/azure/<resource>`".to_owned());
    }
    let endpoint = nearest(&tidied(target.rest), target.provider)?;
    let base = endpoint.base();
    Some(match (target.via, base) {
        ("", "") => "the base URL is the hub's address alone, without a path".to_owned(),
        (via, base) => format!("the base URL ends in `{via}{base}`"),
    })
}

/// The endpoint that a wrong path was meant for: one whose path it ends with.
/// Where it begins with one too, that was pasted as the base URL, and counts.
fn nearest(path: &str, provider: Option<Provider>) -> Option<Endpoint> {
    let known = |path: &str| matching(path, provider).first().map(|first| first.endpoint);
    if path.starts_with("/deployments/") {
        return known(&format!("/openai{path}"));
    }
    let slashes = || path.match_indices('/').map(|(at, _)| path.split_at(at));
    let ending = slashes().find_map(|(_, ending)| known(ending))?;
    let pasted = slashes().rev().find_map(|(beginning, _)| known(beginning));
    Some(pasted.unwrap_or(ending))
}

/// The path without doubled or trailing slashes, in lower case.
fn tidied(path: &str) -> String {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    segments.fold(String::new(), |tidy, segment| tidy + "/" + &segment.to_ascii_lowercase())
}

/// The first segment, and the rest with its slash.
fn split_segment(path: &str) -> (&str, &str) {
    let end = path.find('/').unwrap_or(path.len());
    path.split_at(end)
}

#[cfg(test)]
mod tests;
