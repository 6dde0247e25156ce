//! The sample vendor's refusals, each in its vendor's shape.
//!
//! Invariant: a refusal repeats neither the key nor the body it was sent.

use http::Response;
use http::StatusCode;

use super::answer;
use super::answer::Pieces;
use super::answer::quoted;
use super::desk::Vendor;
use super::prompt::Lacking;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No key, a wrong one, or not where this vendor looks for it.
    Key,
    /// Nothing is served at this path.
    Path,
    /// Something is, with another method.
    Method,
    /// The body is longer than any of the demo's.
    Length,
    /// The body lacks something.
    Lacking(Lacking),
}

impl Refusal {
    const fn status(self) -> StatusCode {
        match self {
            Self::Key => StatusCode::UNAUTHORIZED,
            Self::Path => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Length => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Lacking(_) => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) fn into_response(self, vendor: Vendor, seed: &str) -> Response<Pieces> {
        let body = match vendor {
            Vendor::OpenAi => self.openai(),
            Vendor::Azure => self.azure(),
            Vendor::DeepSeek => self.deepseek(),
            Vendor::Anthropic | Vendor::DeepSeekAnthropic => self.anthropic(seed),
        };
        answer::json(vendor, self.status(), seed, body)
    }

    fn openai(self) -> String {
        let (message, param, code) = match self {
            Self::Key => ("Incorrect API key provided.".to_owned(), "null", r#""invalid_api_key""#),
            Self::Path => ("Invalid URL: the sample vendor has nothing there.".to_owned(), "null", "null"),
            Self::Method => ("Not allowed with this method.".to_owned(), "null", r#""method_not_supported""#),
            Self::Length => ("The request is too large for the sample vendor.".to_owned(), "null", "null"),
            Self::Lacking(Lacking::Json) => {
                ("We could not parse the JSON body of your request.".to_owned(), "null", "null")
            }
            Self::Lacking(Lacking::Field(name)) => {
                let message = format!("Missing required parameter: '{name}'.");
                return openai_shape(
                    &message,
                    "invalid_request_error",
                    &quoted(name),
                    r#""missing_required_parameter""#,
                );
            }
        };
        openai_shape(&message, "invalid_request_error", param, code)
    }

    fn azure(self) -> String {
        let (code, message) = match self {
            Self::Key => ("401", "Access denied due to invalid subscription key."),
            Self::Path => ("404", "Resource not found"),
            Self::Method => ("405", "Method not allowed"),
            Self::Length | Self::Lacking(_) => return self.openai(),
        };
        format!(r#"{{"error":{{"code":{},"message":{}}}}}"#, quoted(code), quoted(message))
    }

    fn deepseek(self) -> String {
        let (message, kind) = match self {
            Self::Key => ("Authentication Fails, your api key is invalid", "authentication_error"),
            Self::Path => ("Not Found", "invalid_request_error"),
            Self::Method => ("Method Not Allowed", "invalid_request_error"),
            Self::Length => ("The request is too large", "invalid_request_error"),
            Self::Lacking(Lacking::Json) => ("Failed to parse the request body as JSON", "invalid_request_error"),
            Self::Lacking(Lacking::Field(name)) => {
                let message = format!("Failed to deserialize the JSON body: missing field `{name}`");
                return openai_shape(&message, "invalid_request_error", "null", r#""invalid_request_error""#);
            }
        };
        openai_shape(message, kind, "null", r#""invalid_request_error""#)
    }

    fn anthropic(self, seed: &str) -> String {
        let (kind, message) = match self {
            Self::Key => ("authentication_error", "invalid x-api-key".to_owned()),
            Self::Path => ("not_found_error", "Not found".to_owned()),
            Self::Method => ("invalid_request_error", "Method Not Allowed".to_owned()),
            Self::Length => ("request_too_large", "The request is too large".to_owned()),
            Self::Lacking(Lacking::Json) => ("invalid_request_error", "The request body is not valid JSON".to_owned()),
            Self::Lacking(Lacking::Field(name)) => ("invalid_request_error", format!("{name}: Field required")),
        };
        let (kind, message) = (quoted(kind), quoted(&message));
        format!(r#"{{"type":"error","error":{{"type":{kind},"message":{message}}},"request_id":"req_{seed}"}}"#)
    }
}

fn openai_shape(message: &str, kind: &str, param: &str, code: &str) -> String {
    let (message, kind) = (quoted(message), quoted(kind));
    format!(r#"{{"error":{{"message":{message},"type":{kind},"param":{param},"code":{code}}}}}"#)
}
