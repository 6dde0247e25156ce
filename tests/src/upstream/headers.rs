//! The headers vendors send, those that name the key's owner included.
//!
//! Invariant: every value that names the owner contains [`OWNER_MARK`], so that a test finds a leak
//! by searching for one word.

use super::vendor::Form;

/// In every header value and error text that names the key's owner.
pub const OWNER_MARK: &str = "kit-owner";

/// Headers every answer carries that must reach the consumer unchanged.
pub const SURVIVING: [(&str, &str); 3] =
    [("x-kit-duplicate", "a"), ("x-kit-duplicate", "b"), ("x-kit-unknown", "Kept As Is; q=\"1\"")];

pub(super) fn of(form: Form, seed: &str, status: u16) -> Vec<(String, String)> {
    let id = &seed[..24];
    let request_id = format!("req_{id}");
    let cookie = format!("__cf_bm={OWNER_MARK}-{id}; path=/; HttpOnly; Secure; SameSite=None");
    let ray = format!("{}-{OWNER_MARK}", &seed[..16]);
    let owner = |prefix: &str| format!("{prefix}{OWNER_MARK}");
    let mut headers: Vec<(&str, String)> = vec![("date", "Fri, 20 Nov 2026 12:00:00 GMT".into())];
    match form {
        Form::OpenAi => headers.extend([
            ("x-request-id", request_id),
            ("openai-organization", owner("org-")),
            ("openai-project", owner("proj_")),
            ("openai-processing-ms", "217".into()),
            ("openai-version", "2020-10-01".into()),
            ("x-envoy-upstream-service-time", "231".into()),
            ("x-ratelimit-limit-requests", "10000".into()),
            ("x-ratelimit-limit-tokens", "200000".into()),
            ("x-ratelimit-remaining-requests", "9999".into()),
            ("x-ratelimit-remaining-tokens", "199988".into()),
            ("x-ratelimit-reset-requests", "6ms".into()),
            ("x-ratelimit-reset-tokens", "3ms".into()),
            ("access-control-expose-headers", "X-Request-ID".into()),
            ("cf-cache-status", "DYNAMIC".into()),
            ("cf-ray", ray),
            ("set-cookie", cookie),
            ("set-cookie", format!("_cfuvid={OWNER_MARK}; path=/")),
            ("server", "cloudflare".into()),
            ("alt-svc", "h3=\":443\"; ma=86400".into()),
        ]),
        Form::Azure => headers.extend([
            ("x-request-id", request_id),
            ("apim-request-id", owner("apim-")),
            ("x-ms-region", owner("East US ")),
            ("x-ms-deployment-name", owner("deployment-")),
            ("x-ms-client-request-id", owner("client-")),
            ("x-ms-rai-invoked", "true".into()),
            ("azureml-model-session", owner("d012-")),
            ("x-ratelimit-limit-requests", "2500".into()),
            ("x-ratelimit-limit-tokens", "250000".into()),
            ("x-ratelimit-remaining-requests", "2499".into()),
            ("x-ratelimit-remaining-tokens", "249988".into()),
            ("x-ratelimit-reset-requests", "1".into()),
            ("x-ratelimit-reset-tokens", "1".into()),
            ("x-accel-buffering", "no".into()),
        ]),
        Form::Anthropic => headers.extend([
            ("request-id", request_id),
            ("anthropic-organization-id", owner("org-")),
            ("anthropic-ratelimit-requests-limit", "4000".into()),
            ("anthropic-ratelimit-requests-remaining", "3999".into()),
            ("anthropic-ratelimit-requests-reset", "2026-11-20T12:00:00Z".into()),
            ("anthropic-ratelimit-input-tokens-limit", "400000".into()),
            ("anthropic-ratelimit-input-tokens-remaining", "399000".into()),
            ("anthropic-ratelimit-output-tokens-limit", "80000".into()),
            ("anthropic-ratelimit-output-tokens-remaining", "79000".into()),
            ("cf-cache-status", "DYNAMIC".into()),
            ("cf-ray", ray),
            ("set-cookie", cookie),
            ("server", "cloudflare".into()),
            ("x-robots-tag", "none".into()),
        ]),
        Form::DeepSeek | Form::DeepSeekAnthropic => headers.extend([
            ("x-ds-trace-id", id.to_owned()),
            ("set-cookie", format!("HWWAFSESID={OWNER_MARK}; path=/")),
            ("access-control-allow-credentials", "true".into()),
            ("cf-ray", ray),
            ("server", "cloudflare".into()),
        ]),
    }
    if status == 429 || status == 503 || status == 529 {
        headers.push(("retry-after", "17".into()));
    }
    let strict = "max-age=31536000; includeSubDomains; preload";
    headers.push(("strict-transport-security", strict.into()));
    headers.push(("x-content-type-options", "nosniff".into()));
    headers.extend(SURVIVING.map(|(name, value)| (name, value.to_owned())));
    headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
