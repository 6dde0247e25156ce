//! Errors in each vendor's own shape.
//!
//! Invariant: what a vendor would tell the owner (organisation, a masked key) carries
//! [`super::headers::OWNER_MARK`], because a hub must not pass it on.

use super::answer::Answer;
use super::answer::quoted;
use super::headers::OWNER_MARK;
use super::vendor::Form;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No key, a wrong one, or not in the vendor's form.
    Key,
    NoSuchPath,
    Method(String),
    /// The body is not a JSON object.
    NotJson,
    /// The body says that it is something else than what the endpoint takes.
    ContentType(String),
    /// The body is no multipart form.
    NotForm,
    /// No WebSocket was asked for where there is nothing else.
    Upgrade,
    /// A beta that does not exist.
    Beta(String),
    /// A needed field is missing or of the wrong type.
    Field(&'static str),
    NoSuchModel(String),
    /// The play asked for this status.
    Status(u16),
}

pub(super) fn refuse(form: Form, seed: &str, refusal: &Refusal) -> Answer {
    let (status, body) = match form {
        Form::OpenAi => openai(refusal),
        Form::Azure => azure(refusal),
        Form::DeepSeek => deepseek(refusal),
        Form::Anthropic | Form::DeepSeekAnthropic => anthropic(form, seed, refusal),
    };
    Answer::json(form, status, seed, body)
}

fn openai_shape(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> String {
    let or_null = |value: Option<&str>| value.map_or_else(|| "null".to_owned(), quoted);
    format!(
        "{{\n  \"error\": {{\n    \"message\": {},\n    \"type\": {},\n    \"param\": {},\n    \
         \"code\": {}\n  }}\n}}",
        quoted(message),
        quoted(kind),
        or_null(param),
        or_null(code)
    )
}

fn openai(refusal: &Refusal) -> (u16, String) {
    let invalid = "invalid_request_error";
    let limit = format!("Rate limit reached for gpt-4o in organization org-{OWNER_MARK} on RPM.");
    let wrong = format!("Incorrect API key provided: sk-{OWNER_MARK}***wxyz.");
    match refusal {
        Refusal::Key => (401, openai_shape(&wrong, invalid, None, Some("invalid_api_key"))),
        Refusal::NoSuchPath => (404, openai_shape("Invalid URL (this path is unknown)", invalid, None, None)),
        Refusal::Method(method) => (
            405,
            openai_shape(
                &format!("Not allowed to {method} here (HINT: perhaps you meant another method)"),
                invalid,
                None,
                Some("method_not_supported"),
            ),
        ),
        Refusal::NotJson => {
            (400, openai_shape("We could not parse the JSON body of your request.", invalid, None, None))
        }
        Refusal::ContentType(said) => {
            let message = format!(
                "Unsupported content type: '{said}'. This API method only accepts 'application/json' requests, but you \
                 specified the header 'Content-Type: {said}'. Please try again with a supported content type."
            );
            (400, openai_shape(&message, invalid, None, Some("unsupported_content_type")))
        }
        Refusal::NotForm => (400, openai_shape("Could not parse multipart form", invalid, None, None)),
        Refusal::Upgrade => (400, openai_shape("You must use the websocket protocol here", invalid, None, None)),
        Refusal::Beta(beta) => (400, openai_shape(&format!("Unknown beta requested: '{beta}'."), invalid, None, None)),
        Refusal::Field("model") => (400, openai_shape("you must provide a model parameter", invalid, None, None)),
        Refusal::Field(name) => (
            400,
            openai_shape(
                &format!("Missing required parameter: '{name}'."),
                invalid,
                Some(name),
                Some("missing_required_parameter"),
            ),
        ),
        Refusal::NoSuchModel(model) => (
            404,
            openai_shape(
                &format!("The model `{model}` does not exist or you do not have access to it."),
                invalid,
                None,
                Some("model_not_found"),
            ),
        ),
        Refusal::Status(status) => {
            let (message, kind, code) = match status {
                401 => (wrong.as_str(), invalid, Some("invalid_api_key")),
                403 => (
                    "Country, region, or territory not supported",
                    "request_forbidden",
                    Some("unsupported_country_region_territory"),
                ),
                402 | 429 => (limit.as_str(), "requests", Some("rate_limit_exceeded")),
                503 => ("The engine is currently overloaded", "server_error", None),
                _ => ("The server had an error while processing your request.", "server_error", None),
            };
            (*status, openai_shape(message, kind, None, code))
        }
    }
}

fn azure(refusal: &Refusal) -> (u16, String) {
    let short = |status: u16, code: &str, message: &str| {
        let body = format!(r#"{{"error":{{"code":{},"message":{}}}}}"#, quoted(code), quoted(message));
        (status, body)
    };
    match refusal {
        Refusal::Key | Refusal::Status(401) => {
            short(401, "401", &format!("Access denied due to invalid subscription key ({OWNER_MARK})."))
        }
        Refusal::NoSuchPath => short(404, "404", "Resource not found"),
        Refusal::Method(_) => short(405, "405", "Method not allowed"),
        Refusal::NoSuchModel(_) => {
            short(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
        }
        Refusal::Status(429) => {
            short(429, "429", &format!("Requests to {OWNER_MARK} have exceeded call rate limit of your tier."))
        }
        Refusal::Status(403) => short(403, "403", &format!("Access denied ({OWNER_MARK}).")),
        Refusal::NotJson
        | Refusal::ContentType(_)
        | Refusal::NotForm
        | Refusal::Upgrade
        | Refusal::Beta(_)
        | Refusal::Field(_)
        | Refusal::Status(_) => openai(refusal),
    }
}

fn deepseek(refusal: &Refusal) -> (u16, String) {
    let shape = |message: &str, kind: &str| {
        openai_shape(message, kind, None, Some("invalid_request_error")).replace("\n  ", "").replace('\n', "")
    };
    let key = format!("Authentication Fails, Your api key: ****{OWNER_MARK} is invalid");
    match refusal {
        Refusal::Key => (401, shape(&key, "authentication_error")),
        Refusal::NoSuchPath => (404, shape("Not Found", "invalid_request_error")),
        Refusal::Method(_) => (405, shape("Method Not Allowed", "invalid_request_error")),
        Refusal::ContentType(_) | Refusal::NotForm | Refusal::Upgrade | Refusal::Beta(_) => {
            (400, shape("Expected request with `Content-Type: application/json`", "invalid_request_error"))
        }
        Refusal::NotJson => (400, shape("Failed to parse the request body as JSON", "invalid_request_error")),
        Refusal::Field(name) => (
            400,
            shape(&format!("Failed to deserialize the JSON body: missing field `{name}`"), "invalid_request_error"),
        ),
        Refusal::NoSuchModel(_) => (400, shape("Model Not Exist", "invalid_request_error")),
        Refusal::Status(status) => {
            let balance = format!("Insufficient Balance ({OWNER_MARK})");
            let (message, kind) = match status {
                401 => (key.as_str(), "authentication_error"),
                402 => (balance.as_str(), "unknown_error"),
                429 => ("Rate limit reached", "rate_limit_reached_error"),
                503 => ("Service is too busy.", "service_unavailable_error"),
                _ => ("Internal server error", "server_error"),
            };
            (*status, shape(message, kind))
        }
    }
}

fn anthropic(form: Form, seed: &str, refusal: &Refusal) -> (u16, String) {
    let limit = format!("This request would exceed the rate limit of organization {OWNER_MARK}.");
    let (status, kind, message) = match refusal {
        Refusal::Key => (401, "authentication_error", format!("invalid x-api-key ({OWNER_MARK})")),
        Refusal::NoSuchPath => (404, "not_found_error", "Not found".to_owned()),
        Refusal::Method(_) => (405, "invalid_request_error", "Method Not Allowed".into()),
        Refusal::ContentType(_) | Refusal::NotForm | Refusal::Upgrade => {
            (400, "invalid_request_error", "Content type must be application/json".to_owned())
        }
        Refusal::Beta(beta) => (
            400,
            "invalid_request_error",
            format!("Unexpected value(s) `{beta}` for the `anthropic-beta` header. Please consult our documentation."),
        ),
        Refusal::NotJson => (400, "invalid_request_error", "The request body is not valid JSON".to_owned()),
        Refusal::Field(name) => (400, "invalid_request_error", format!("{name}: Field required")),
        Refusal::NoSuchModel(model) if form == Form::DeepSeekAnthropic => {
            (400, "invalid_request_error", format!("Model Not Exist: {model}"))
        }
        Refusal::NoSuchModel(model) => (404, "not_found_error", format!("model: {model}")),
        Refusal::Status(status) => {
            let (kind, message) = match status {
                401 => ("authentication_error", format!("invalid key {OWNER_MARK}")),
                402 => ("billing_error", format!("{OWNER_MARK} has no credit balance")),
                403 => ("permission_error", format!("{OWNER_MARK} may not use this model")),
                429 => ("rate_limit_error", limit),
                529 => ("overloaded_error", "Overloaded".to_owned()),
                _ => ("api_error", "Internal server error".to_owned()),
            };
            (*status, kind, message)
        }
    };
    let body = format!(
        r#"{{"type":"error","error":{{"type":{},"message":{}}},"request_id":"req_{}"}}"#,
        quoted(kind),
        quoted(&message),
        &seed[..24]
    );
    (status, body)
}
