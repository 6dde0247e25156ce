//! The query parameters of each endpoint.
//!
//! Invariant: a query that passes holds listed names only, each once, with a value whose
//! bytes every reader of URLs understands alike.

use super::PolicyError;
use super::clipped;
use super::is_fine_tuned;
use crate::provider::Provider;
use crate::provider::endpoint::BodyKind;
use crate::provider::endpoint::Endpoint;
use crate::provider::endpoint::is_allowed_query;
use crate::provider::native_error::ErrorShape;

/// A query parameter that an endpoint takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What its value must be.
    pub value: Value,
}

/// What a query parameter's value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Azure's version of the API: a date with or without `-preview`, or one word.
    ApiVersion,
    /// `true`.
    True,
    /// A model or a deployment; the endpoint cannot do without it.
    Model,
}

impl Value {
    /// In words.
    pub const fn expected(self) -> &'static str {
        match self {
            Self::ApiVersion => "a version such as 2024-10-21, 2025-04-01-preview, preview or latest",
            Self::True => "true",
            Self::Model => "one model or deployment of 1 to 256 plain characters",
        }
    }

    fn takes(self, text: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        match self {
            Self::ApiVersion => (1..=64).contains(&text.len()) && text.bytes().all(plain),
            Self::True => text == "true",
            Self::Model => model_name(text).is_some(),
        }
    }
}

const NONE: &[Parameter] = &[];
const API_VERSION: Parameter = Parameter { name: "api-version", value: Value::ApiVersion };
const AZURE: &[Parameter] = &[API_VERSION];
const BETA: &[Parameter] = &[Parameter { name: "beta", value: Value::True }];
const MODEL: Parameter = Parameter { name: "model", value: Value::Model };
const OPENAI_REALTIME: &[Parameter] = &[MODEL];
const AZURE_REALTIME: &[Parameter] = &[API_VERSION, MODEL];
const AZURE_PREVIEW_REALTIME: &[Parameter] = &[API_VERSION, Parameter { name: "deployment", value: Value::Model }];

/// What the endpoint takes in its query.
pub fn parameters(endpoint: Endpoint) -> &'static [Parameter] {
    let is_realtime = endpoint.body() == BodyKind::WebSocket;
    match endpoint.provider() {
        Provider::Azure if endpoint == Endpoint::AzurePreviewRealtime => AZURE_PREVIEW_REALTIME,
        Provider::Azure if is_realtime => AZURE_REALTIME,
        Provider::Azure => AZURE,
        Provider::OpenAi if is_realtime => OPENAI_REALTIME,
        Provider::Anthropic => BETA,
        Provider::DeepSeek if endpoint.error_shape() == ErrorShape::Anthropic => BETA,
        Provider::OpenAi | Provider::DeepSeek => NONE,
    }
}

pub(super) fn check(endpoint: Endpoint, query: Option<&str>) -> Result<(), PolicyError> {
    let takes = parameters(endpoint);
    for (at, (name, value)) in pairs(query)?.enumerate() {
        let parameter = takes.iter().find(|parameter| parameter.name == name);
        let parameter = parameter.ok_or_else(|| unknown(name, takes))?;
        if pairs(query)?.take(at).any(|(earlier, _)| earlier == name) {
            return Err(PolicyError::QueryTwice { name: parameter.name });
        }
        if parameter.value == Value::Model && model_name(value).is_some_and(|model| is_fine_tuned(&model)) {
            return Err(PolicyError::FineTuned);
        }
        if !parameter.value.takes(value) {
            return Err(PolicyError::QueryValue { name: parameter.name, expected: parameter.value.expected() });
        }
    }
    if endpoint.body() == BodyKind::WebSocket {
        needed_model(takes, query)?;
    }
    Ok(())
}

pub(super) fn model(endpoint: Endpoint, query: Option<&str>) -> Result<Option<String>, PolicyError> {
    if endpoint.body() != BodyKind::WebSocket {
        return Ok(None);
    }
    check(endpoint, query)?;
    needed_model(parameters(endpoint), query).map(Some)
}

fn needed_model(takes: &'static [Parameter], query: Option<&str>) -> Result<String, PolicyError> {
    let parameter = takes.iter().find(|parameter| parameter.value == Value::Model);
    let parameter = parameter.copied().unwrap_or(MODEL);
    let mut pairs = pairs(query)?;
    let named = pairs.find(|(name, _)| *name == parameter.name).and_then(|(_, value)| model_name(value));
    named.ok_or(PolicyError::QueryMissing { name: parameter.name, expected: parameter.value.expected() })
}

/// The parameters as they are written. Empty ones, as in `a=1&&b=2`, say nothing.
fn pairs(query: Option<&str>) -> Result<impl Iterator<Item = (&str, &str)>, PolicyError> {
    let query = query.unwrap_or_default();
    if !is_allowed_query(query) {
        return Err(PolicyError::QueryMalformed);
    }
    let parts = query.split('&').filter(|part| !part.is_empty());
    Ok(parts.map(|part| part.split_once('=').unwrap_or((part, ""))))
}

/// A model's name with `%xx` read: plain characters only, so that no reader can find a
/// second parameter in it.
fn model_name(text: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' { hex(rest.next()?, rest.next()?)? } else { byte };
        if !(byte.is_ascii_alphanumeric() || b"-._:/@".contains(&byte)) {
            return None;
        }
        name.push(char::from(byte));
    }
    (1..=256).contains(&name.len()).then_some(name)
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

fn unknown(name: &str, takes: &'static [Parameter]) -> PolicyError {
    PolicyError::QueryUnknown { name: clipped(name), takes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;

    #[test]
    fn what_official_sdks_send_passes() {
        let cases = [
            (Endpoint::OpenAiChat, None),
            (Endpoint::OpenAiChat, Some("")),
            (Endpoint::AzureDeploymentChat, Some("api-version=2024-10-21")),
            (Endpoint::AzurePreviewResponses, Some("api-version=2025-04-01-preview")),
            (Endpoint::AzureChat, Some("api-version=preview")),
            (Endpoint::AnthropicMessages, Some("beta=true")),
            (Endpoint::AnthropicCountTokens, Some("beta=true")),
            (Endpoint::OpenAiRealtime, Some("model=gpt-realtime")),
            (Endpoint::AzureRealtime, Some("model=my-realtime")),
            (Endpoint::AzurePreviewRealtime, Some("api-version=2025-04-01-preview&deployment=rt")),
        ];
        for (endpoint, query) in cases {
            assert_eq!(check(endpoint, query), Ok(()), "{endpoint:?} {query:?}");
        }
    }

    #[test]
    fn the_model_of_realtime_is_read_from_the_query() {
        let of = |endpoint, query| model(endpoint, Some(query)).unwrap();

        assert_eq!(of(Endpoint::OpenAiRealtime, "model=gpt%2Drealtime").as_deref(), Some("gpt-realtime"));
        assert_eq!(of(Endpoint::AzurePreviewRealtime, "deployment=a&api-version=1").as_deref(), Some("a"));
        assert_eq!(of(Endpoint::OpenAiChat, "model=x"), None, "elsewhere the body names it");
    }

    #[test]
    fn what_is_not_listed_is_refused_and_named() {
        let refused = |endpoint, query| check(endpoint, Some(query)).unwrap_err();
        let unknown = [
            (Endpoint::OpenAiChat, "api-version=1"),
            (Endpoint::OpenAiRealtime, "model=gpt-realtime&call_id=rtc_1"),
            (Endpoint::AzurePreviewRealtime, "deployment=a&api-key=secret"),
            (Endpoint::AzureChat, "Api-Version=1"),
            (Endpoint::AzureChat, "api%2Dversion=1"),
            (Endpoint::AnthropicMessages, "beta=true&x"),
        ];
        for (endpoint, query) in unknown {
            let error = refused(endpoint, query);
            assert!(matches!(error, PolicyError::QueryUnknown { .. }), "{query}: {error:?}");
            assert_eq!(error.code(), ErrorCode::FieldRefused);
            assert!(!error.to_string().contains("secret"));
        }
        for (endpoint, query) in [
            (Endpoint::AnthropicMessages, "beta=false"),
            (Endpoint::AzureChat, "api-version="),
            (Endpoint::AzureChat, "api-version=1;x=2"),
            (Endpoint::OpenAiRealtime, "model=a%26b"),
            (Endpoint::OpenAiRealtime, "model=a+b"),
            (Endpoint::OpenAiRealtime, "model=a%2"),
            (Endpoint::OpenAiRealtime, "model="),
        ] {
            assert!(matches!(refused(endpoint, query), PolicyError::QueryValue { .. }), "{query}");
        }
        assert_eq!(
            refused(Endpoint::AzureChat, "api-version=1&api-version=2"),
            PolicyError::QueryTwice { name: "api-version" }
        );
        assert_eq!(refused(Endpoint::OpenAiRealtime, "model=ft%3Agpt-4o:o"), PolicyError::FineTuned);
        assert_eq!(refused(Endpoint::AzureChat, "a b"), PolicyError::QueryMalformed);
    }

    #[test]
    fn realtime_needs_its_model() {
        for query in [None, Some(""), Some("intent=transcription")] {
            assert!(check(Endpoint::OpenAiRealtime, query).is_err(), "{query:?}");
        }
        let error = model(Endpoint::OpenAiRealtime, None).unwrap_err();
        assert!(matches!(error, PolicyError::QueryMissing { name: "model", .. }));
    }
}
