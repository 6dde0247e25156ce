//! Values of the headers that switch features under test on.
//!
//! Invariant: a value that is not listed is refused: what it switches on may cost, or may
//! keep something in the owner's account.

use super::PolicyError;
use super::clipped;
use crate::provider::endpoint::Endpoint;
use crate::provider::headers::element_of;
use crate::provider::native_error::ErrorShape;
use http::HeaderMap;
use http::HeaderName;

/// `anthropic-beta`, on endpoints of Anthropic's form.
pub const ANTHROPIC_BETAS: &[&str] = &[
    "advanced-tool-use-2025-11-20",
    "claude-code-20250219",
    "compact-2026-01-12",
    "compact-2026-09-04",
    "computer-use-2024-10-22",
    "computer-use-2025-01-24",
    "computer-use-2025-11-24",
    "context-1m-2025-08-07",
    "context-management-2025-06-27",
    "dev-full-thinking-2025-05-14",
    "effort-2025-11-24",
    "extended-cache-ttl-2025-04-11",
    "fast-mode-2026-02-01",
    "fine-grained-tool-streaming-2025-05-14",
    "interleaved-thinking-2025-05-14",
    "mid-conversation-output-config-2026-07-01",
    "mid-conversation-system-clear-at-2026-08-21",
    "model-context-window-exceeded-2025-08-26",
    "output-128k-2025-02-19",
    "output-300k-2026-03-24",
    "pdfs-2024-09-25",
    "prompt-caching-2024-07-31",
    "search-results-2025-06-09",
    "structured-outputs-2025-11-13",
    "task-budgets-2026-03-13",
    "thinking-binding-controls-2026-08-01",
    "thinking-display-updates-2026-08-18",
    "thinking-token-count-2026-05-13",
    "token-counting-2024-11-01",
    "token-efficient-tools-2025-02-19",
    "tool-examples-2025-10-29",
    "tool-search-tool-2025-10-19",
    "web-fetch-2025-09-10",
];

/// `openai-beta`, on endpoints of OpenAI's form.
pub const OPENAI_BETAS: &[&str] = &["realtime=v1", "responses=experimental"];

/// The header, and the values that endpoints of this form take in it.
pub const fn betas(shape: ErrorShape) -> (&'static str, &'static [&'static str]) {
    match shape {
        ErrorShape::Anthropic => ("anthropic-beta", ANTHROPIC_BETAS),
        ErrorShape::OpenAi | ErrorShape::Azure | ErrorShape::DeepSeek => ("openai-beta", OPENAI_BETAS),
    }
}

pub(super) fn check(endpoint: Endpoint, headers: &HeaderMap) -> Result<(), PolicyError> {
    let (header, listed) = betas(endpoint.error_shape());
    let unknown = |value: &str| PolicyError::BetaUnknown { header, value: clipped(value) };
    let name = HeaderName::from_static(header);
    if headers.get_all(&name).into_iter().any(|line| line.to_str().is_err()) {
        return Err(unknown(""));
    }
    let mut values = element_of(headers, &name);
    values.find(|value| !listed.contains(value)).map_or(Ok(()), |value| Err(unknown(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;
    use http::HeaderValue;

    #[test]
    fn listed_betas_pass_in_one_line_and_in_several() {
        for beta in ANTHROPIC_BETAS {
            assert_eq!(with(Endpoint::AnthropicMessages, &[("anthropic-beta", beta)]), Ok(()), "{beta}");
        }
        let several =
            [("anthropic-beta", "pdfs-2024-09-25, context-1m-2025-08-07"), ("anthropic-beta", "compact-2026-01-12")];
        assert_eq!(with(Endpoint::AnthropicCountTokens, &several), Ok(()));
        assert_eq!(with(Endpoint::OpenAiRealtime, &[("openai-beta", "realtime=v1")]), Ok(()));
        assert_eq!(with(Endpoint::OpenAiChat, &[("anthropic-beta", "x")]), Ok(()), "means nothing there");
    }

    #[test]
    fn other_betas_are_refused_and_named() {
        let refused = [
            (Endpoint::AnthropicMessages, "anthropic-beta", "files-api-2025-04-14"),
            (Endpoint::AnthropicMessages, "anthropic-beta", "skills-2025-10-02"),
            (Endpoint::AnthropicMessages, "anthropic-beta", "mcp-client-2025-11-20"),
            (Endpoint::AnthropicMessages, "anthropic-beta", "message-threads-2026-08-12"),
            (Endpoint::DeepSeekMessages, "anthropic-beta", "oauth-2025-04-20"),
            (Endpoint::OpenAiResponses, "openai-beta", "assistants=v2"),
            (Endpoint::AzureChat, "openai-beta", "Realtime=v1"),
        ];
        for (endpoint, header, value) in refused {
            let error = with(endpoint, &[(header, value)]).unwrap_err();
            assert!(error.to_string().contains(value) && error.to_string().contains(header), "{error}");
            assert_eq!(error.code(), ErrorCode::FieldRefused);
        }
        let mut foreign = HeaderMap::new();
        foreign.append("anthropic-beta", HeaderValue::from_bytes(b"pdfs-2024-09-25, \xff").unwrap());
        assert!(check(Endpoint::AnthropicMessages, &foreign).is_err());
    }

    fn with(endpoint: Endpoint, lines: &[(&'static str, &str)]) -> Result<(), PolicyError> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        check(endpoint, &headers)
    }
}
