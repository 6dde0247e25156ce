//! Our errors in the vendors' own JSON, so that official SDKs understand them.
//!
//! Invariant: every answer carries our code, and its status, type and retry
//! advice agree with each other.

use crate::ErrorCode;
use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;
use http::header::ALLOW;
use http::header::CONNECTION;
use http::header::CONTENT_TYPE;
use http::header::RETRY_AFTER;
use http::header::UPGRADE;
use serde::Serialize;
use std::time::Duration;

/// Whose form of error a consumer's SDK expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorShape {
    /// `{"error":{"message","type","param","code"}}`.
    OpenAi,
    /// `{"error":{"code","message"}}`, `code` being the status.
    Azure,
    /// `{"type":"error","error":{"type","message"},"request_id"}`.
    Anthropic,
    /// As OpenAI, with types of its own.
    DeepSeek,
}

/// The status of each error of the 20xx block.
const STATUSES: &[(ErrorCode, StatusCode)] = &[
    (ErrorCode::ApiKeyMissing, StatusCode::UNAUTHORIZED),
    (ErrorCode::ApiKeyUnknown, StatusCode::UNAUTHORIZED),
    (ErrorCode::EndpointUnknown, StatusCode::NOT_FOUND),
    (ErrorCode::MethodNotAllowed, StatusCode::METHOD_NOT_ALLOWED),
    (ErrorCode::VendorAmbiguous, StatusCode::NOT_FOUND),
    (ErrorCode::RequestMalformed, StatusCode::BAD_REQUEST),
    (ErrorCode::RequestTooLarge, StatusCode::PAYLOAD_TOO_LARGE),
    (ErrorCode::HeadTooLarge, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
    (ErrorCode::NoAgent, StatusCode::SERVICE_UNAVAILABLE),
    (ErrorCode::HubBusy, StatusCode::SERVICE_UNAVAILABLE),
    (ErrorCode::LinkLost, StatusCode::BAD_GATEWAY),
    (ErrorCode::VendorUnreachable, StatusCode::BAD_GATEWAY),
    (ErrorCode::VendorTimeout, StatusCode::GATEWAY_TIMEOUT),
    (ErrorCode::VendorBroke, StatusCode::BAD_GATEWAY),
    // Not 401 or 403: the consumer's own key is fine.
    (ErrorCode::OwnerRefused, StatusCode::SERVICE_UNAVAILABLE),
    // What the vendor would have answered; SDKs then honour `retry-after`.
    (ErrorCode::OwnerRateLimited, StatusCode::TOO_MANY_REQUESTS),
    (ErrorCode::AgentRefused, StatusCode::BAD_GATEWAY),
    (ErrorCode::RequestTimeout, StatusCode::REQUEST_TIMEOUT),
    (ErrorCode::HubDraining, StatusCode::SERVICE_UNAVAILABLE),
    (ErrorCode::ModelUnknown, StatusCode::NOT_FOUND),
    (ErrorCode::HttpVersion, StatusCode::HTTP_VERSION_NOT_SUPPORTED),
    (ErrorCode::FieldRefused, StatusCode::BAD_REQUEST),
    (ErrorCode::MediaTypeUnsupported, StatusCode::UNSUPPORTED_MEDIA_TYPE),
    (ErrorCode::UpgradeExpected, StatusCode::UPGRADE_REQUIRED),
    // OpenAI and Azure answer 429, see `status_in`.
    (ErrorCode::BalanceTooLow, StatusCode::PAYMENT_REQUIRED),
    (ErrorCode::BudgetDaySpent, StatusCode::PAYMENT_REQUIRED),
    (ErrorCode::BudgetMonthSpent, StatusCode::PAYMENT_REQUIRED),
    (ErrorCode::BudgetTotalSpent, StatusCode::PAYMENT_REQUIRED),
    (ErrorCode::AccountBlocked, StatusCode::FORBIDDEN),
    (ErrorCode::ApiKeyExpired, StatusCode::UNAUTHORIZED),
    (ErrorCode::AddressNotAllowed, StatusCode::FORBIDDEN),
    (ErrorCode::ModelNotAllowed, StatusCode::FORBIDDEN),
    (ErrorCode::BooksUnavailable, StatusCode::SERVICE_UNAVAILABLE),
    (ErrorCode::PricesNotSet, StatusCode::SERVICE_UNAVAILABLE),
    (ErrorCode::ModelNotPriced, StatusCode::NOT_FOUND),
    (ErrorCode::UsageUnasked, StatusCode::BAD_REQUEST),
    (ErrorCode::CallRepeated, StatusCode::CONFLICT),
    (ErrorCode::CallUnknown, StatusCode::NOT_FOUND),
    (ErrorCode::CallUnfinished, StatusCode::TOO_EARLY),
];

#[derive(Serialize)]
struct OpenAiError<'a> {
    error: OpenAiDetail<'a>,
}

#[derive(Serialize)]
struct OpenAiDetail<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

/// Azure's gateway says less than OpenAI: no type, no param.
#[derive(Serialize)]
struct AzureError<'a> {
    error: AzureDetail<'a>,
}

#[derive(Serialize)]
struct AzureDetail<'a> {
    code: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'a str,
    error: AnthropicDetail<'a>,
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct AnthropicDetail<'a> {
    r#type: &'a str,
    message: &'a str,
}

/// The body of an error, in the vendor's form. Our code stands in brackets at the end of
/// the message; `code` is the vendor's own word where it has one for the case, because
/// clients branch on it, and ours elsewhere.
pub fn native_error(
    shape: ErrorShape,
    status: StatusCode,
    code: ErrorCode,
    message: &str,
    request_id: Option<&str>,
) -> Bytes {
    let message = format!("{message} [{code}]");
    let kind =
        if is_about_money(code) && shape == ErrorShape::OpenAi { OUT_OF_QUOTA } else { error_type(shape, status) };
    let json = match shape {
        ErrorShape::OpenAi | ErrorShape::DeepSeek => {
            let code = native_code(shape, code).map_or_else(|| code.to_string(), str::to_owned);
            let error = OpenAiDetail { message: &message, r#type: kind, param: None, code: &code };
            serde_json::to_vec(&OpenAiError { error })
        }
        ErrorShape::Azure => {
            let code = if is_about_the_model(code) { "DeploymentNotFound" } else { status.as_str() };
            let error = AzureDetail { code, message: &message };
            serde_json::to_vec(&AzureError { error })
        }
        ErrorShape::Anthropic => {
            let error = AnthropicDetail { r#type: kind, message: &message };
            serde_json::to_vec(&AnthropicError { r#type: "error", error, request_id })
        }
    };
    Bytes::from(json.expect("structs of strings always serialise"))
}

/// What the vendor itself says in `code`, for the cases its clients know.
fn native_code(shape: ErrorShape, code: ErrorCode) -> Option<&'static str> {
    let deepseek = shape == ErrorShape::DeepSeek;
    if is_about_money(code) {
        return Some(if deepseek { "invalid_request_error" } else { OUT_OF_QUOTA });
    }
    if code == ErrorCode::ApiKeyMissing || code == ErrorCode::ApiKeyUnknown {
        return Some(if deepseek { "invalid_request_error" } else { "invalid_api_key" });
    }
    match (is_about_the_model(code), code == ErrorCode::OwnerRateLimited, deepseek) {
        (true, _, true) => Some("invalid_request_error"),
        (true, _, false) => Some("model_not_found"),
        (false, true, false) => Some("rate_limit_exceeded"),
        (false, _, _) => None,
    }
}

/// The headers that go with [`native_error`].
///
/// `allow` is for a refused method, `retry_after` in whole seconds, rounded up.
/// The request id is sent under the name that the vendor's SDK reads.
pub fn native_error_headers(
    shape: ErrorShape,
    code: ErrorCode,
    request_id: Option<&str>,
    retry_after: Option<Duration>,
    allow: Option<&str>,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if !should_retry(code) {
        let name = HeaderName::from_static("x-should-retry");
        headers.insert(name, HeaderValue::from_static("false"));
    }
    if code == ErrorCode::UpgradeExpected {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    if let Some(wait) = retry_after {
        let partly = u64::from(wait.subsec_nanos() > 0);
        let seconds = wait.as_secs().saturating_add(partly);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(allow) = allow.and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(ALLOW, allow);
    }
    if let Some(id) = request_id.and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(request_id_name(shape), id);
    }
    headers
}

/// The HTTP status of an error on a consumer's call. Errors outside the 20xx
/// block have no business there and become 500.
pub fn status_of(code: ErrorCode) -> StatusCode {
    let row = STATUSES.iter().find(|(listed, _)| *listed == code);
    row.map_or(StatusCode::INTERNAL_SERVER_ERROR, |(_, status)| *status)
}

/// The same in the vendor's way: where money is short, OpenAI and Azure do not answer 402, and
/// DeepSeek does not answer 404 where a call names a model that it does not know.
pub fn status_in(shape: ErrorShape, code: ErrorCode) -> StatusCode {
    match shape {
        ErrorShape::OpenAi | ErrorShape::Azure if is_about_money(code) => StatusCode::TOO_MANY_REQUESTS,
        ErrorShape::DeepSeek if code == ErrorCode::ModelNotPriced => StatusCode::BAD_REQUEST,
        ErrorShape::OpenAi | ErrorShape::Azure | ErrorShape::Anthropic | ErrorShape::DeepSeek => status_of(code),
    }
}

/// What OpenAI calls an account without money, as type and as code.
const OUT_OF_QUOTA: &str = "insufficient_quota";

/// Whether the consumer's money, or what may be spent of it, does not suffice.
fn is_about_money(code: ErrorCode) -> bool {
    let codes =
        [ErrorCode::BalanceTooLow, ErrorCode::BudgetDaySpent, ErrorCode::BudgetMonthSpent, ErrorCode::BudgetTotalSpent];
    codes.contains(&code)
}

/// Whether nobody here has, or sells, the model.
fn is_about_the_model(code: ErrorCode) -> bool {
    [ErrorCode::ModelUnknown, ErrorCode::ModelNotPriced].contains(&code)
}

/// Whether an SDK should send the same request again by itself.
pub fn should_retry(code: ErrorCode) -> bool {
    code.retryable()
}

/// The header in which the vendor's SDK looks for the request's id.
fn request_id_name(shape: ErrorShape) -> HeaderName {
    match shape {
        ErrorShape::OpenAi | ErrorShape::Azure | ErrorShape::DeepSeek => HeaderName::from_static("x-request-id"),
        ErrorShape::Anthropic => HeaderName::from_static("request-id"),
    }
}

fn error_type(shape: ErrorShape, status: StatusCode) -> &'static str {
    match shape {
        ErrorShape::OpenAi | ErrorShape::Azure => openai_type(status),
        ErrorShape::Anthropic => anthropic_type(status),
        ErrorShape::DeepSeek => deepseek_type(status),
    }
}

/// OpenAI says `invalid_request_error` for a wrong key too, and names the
/// exhausted limit (`requests`, `tokens`) as the type of a 429.
fn openai_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        429 => "requests",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

fn anthropic_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    }
}

fn deepseek_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "unknown_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use serde_json::json;

    #[test]
    fn every_error_of_a_call_has_a_status_of_its_own_choosing() {
        for code in ErrorCode::ALL {
            let of_a_call = (2000..3000).contains(&code.number());
            let listed = STATUSES.iter().filter(|(row, _)| row == code).count();
            assert_eq!(listed, usize::from(of_a_call), "{code}");
        }
        assert_eq!(status_of(ErrorCode::Internal), 500);
    }

    #[test]
    fn openai_and_deepseek_errors_have_openai_form() {
        for shape in [ErrorShape::OpenAi, ErrorShape::DeepSeek] {
            let body = parsed(shape, ErrorCode::EndpointUnknown, "no \"such\" path\n");
            assert_eq!(
                body,
                json!({"error": {
                    "message": "no \"such\" path\n [KH-E2003]",
                    "type": "invalid_request_error",
                    "param": null,
                    "code": "KH-E2003",
                }})
            );
        }
    }

    #[test]
    fn azure_errors_have_the_form_of_azures_gateway() {
        let body = parsed(ErrorShape::Azure, ErrorCode::ApiKeyUnknown, "who");

        assert_eq!(body, json!({"error": {"code": "401", "message": "who [KH-E2002]"}}));
    }

    #[test]
    fn where_a_vendor_has_a_word_for_the_case_clients_find_it() {
        let code_of = |shape, code| parsed(shape, code, "m")["error"]["code"].as_str().unwrap().to_owned();

        assert_eq!(code_of(ErrorShape::OpenAi, ErrorCode::ApiKeyUnknown), "invalid_api_key");
        assert_eq!(code_of(ErrorShape::OpenAi, ErrorCode::OwnerRateLimited), "rate_limit_exceeded");
        assert_eq!(code_of(ErrorShape::OpenAi, ErrorCode::ModelUnknown), "model_not_found");
        assert_eq!(code_of(ErrorShape::OpenAi, ErrorCode::ModelNotPriced), "model_not_found");
        assert_eq!(code_of(ErrorShape::Azure, ErrorCode::ModelNotPriced), "DeploymentNotFound");
        assert_eq!(code_of(ErrorShape::DeepSeek, ErrorCode::ModelNotPriced), "invalid_request_error");
        assert_eq!(status_in(ErrorShape::DeepSeek, ErrorCode::ModelNotPriced), 400);
        assert_eq!(code_of(ErrorShape::OpenAi, ErrorCode::HubBusy), "KH-E2010");
        assert_eq!(code_of(ErrorShape::DeepSeek, ErrorCode::ApiKeyMissing), "invalid_request_error");
    }

    #[test]
    fn anthropic_errors_have_anthropic_form() {
        let body = parsed(ErrorShape::Anthropic, ErrorCode::ApiKeyUnknown, "who");

        assert_eq!(
            body,
            json!({
                "type": "error",
                "error": {"type": "authentication_error", "message": "who [KH-E2002]"},
                "request_id": "req_1",
            })
        );
    }

    #[test]
    fn types_follow_the_status() {
        let type_of = |shape, code| {
            let body = parsed(shape, code, "m");
            body["error"]["type"].as_str().unwrap().to_owned()
        };
        let limited = ErrorCode::OwnerRateLimited;
        let busy = ErrorCode::HubBusy;

        assert_eq!(type_of(ErrorShape::OpenAi, limited), "requests");
        assert_eq!(type_of(ErrorShape::Anthropic, limited), "rate_limit_error");
        assert_eq!(type_of(ErrorShape::DeepSeek, limited), "rate_limit_error");
        assert_eq!(type_of(ErrorShape::OpenAi, busy), "server_error");
        assert_eq!(type_of(ErrorShape::Anthropic, busy), "overloaded_error");
        assert_eq!(type_of(ErrorShape::DeepSeek, ErrorCode::ApiKeyUnknown), "authentication_error");
    }

    #[test]
    fn an_account_without_money_reads_as_it_would_with_the_vendor() {
        for code in [ErrorCode::BalanceTooLow, ErrorCode::BudgetDaySpent] {
            let statuses = [ErrorShape::OpenAi, ErrorShape::Azure, ErrorShape::Anthropic, ErrorShape::DeepSeek]
                .map(|shape| status_in(shape, code).as_u16());
            let openai = parsed(ErrorShape::OpenAi, code, "m");
            let anthropic = parsed(ErrorShape::Anthropic, code, "m");
            let deepseek = parsed(ErrorShape::DeepSeek, code, "m");
            let headers = native_error_headers(ErrorShape::OpenAi, code, None, None, None);

            assert_eq!(statuses, [429, 429, 402, 402]);
            assert_eq!(openai["error"]["type"], "insufficient_quota");
            assert_eq!(openai["error"]["code"], "insufficient_quota");
            assert_eq!(anthropic["error"]["type"], "billing_error");
            assert_eq!(deepseek["error"]["type"], "unknown_error");
            assert_eq!(headers["x-should-retry"], "false");
        }
        // The owner's empty account is none of the consumer's business.
        assert_eq!(status_in(ErrorShape::OpenAi, ErrorCode::OwnerRefused), 503);
        assert_eq!(status_in(ErrorShape::OpenAi, ErrorCode::BooksUnavailable), 503);
    }

    #[test]
    fn headers_say_whether_when_and_how_to_try_again() {
        let wait = Some(Duration::from_millis(1_001));
        let busy = native_error_headers(ErrorShape::OpenAi, ErrorCode::HubBusy, Some("id1"), wait, None);
        let method =
            native_error_headers(ErrorShape::Anthropic, ErrorCode::MethodNotAllowed, Some("id2"), None, Some("POST"));

        assert_eq!(busy["content-type"], "application/json");
        assert_eq!(busy["retry-after"], "2");
        assert_eq!(busy["x-request-id"], "id1");
        assert!(!busy.contains_key("x-should-retry") && !busy.contains_key("allow"));
        assert_eq!(method["allow"], "POST");
        assert_eq!(method["x-should-retry"], "false");
        assert_eq!(method["request-id"], "id2");
        assert!(!method.contains_key("retry-after") && !method.contains_key("upgrade"));
        let upgrade = native_error_headers(ErrorShape::OpenAi, ErrorCode::UpgradeExpected, None, None, None);
        assert_eq!(
            (&upgrade["upgrade"], &upgrade["connection"]),
            (&"websocket".parse().unwrap(), &"upgrade".parse().unwrap())
        );
    }

    fn parsed(shape: ErrorShape, code: ErrorCode, message: &str) -> Value {
        let body = native_error(shape, status_in(shape, code), code, message, Some("req_1"));
        serde_json::from_slice(&body).unwrap()
    }
}
