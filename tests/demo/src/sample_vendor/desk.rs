//! Where the sample vendor takes a request: whose name it is for, whether the key is known, what
//! is asked.
//!
//! Invariant: the body is read only after the key was found good.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header::AUTHORIZATION;
use http::header::HOST;
use http_body_util::BodyExt;
use http_body_util::Limited;
use hyper::body::Body;
use keyhaven_protocol::provider::Provider;
use secrecy::ExposeSecret;
use secrecy::SecretString;

use super::answer;
use super::answer::Pieces;
use super::chat;
use super::messages;
use super::models;
use super::prompt::Prompt;
use super::refusal::Refusal;
use crate::random;

/// As much as the hub lets through by default.
const BODY_BYTES_MAX: usize = 64 << 20;

/// The made-up keys the sample vendor accepts, one per vendor it plays.
pub(crate) type KnownKeys = Vec<(Provider, SecretString)>;

/// The form of API that a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vendor {
    OpenAi,
    Azure,
    Anthropic,
    DeepSeek,
    DeepSeekAnthropic,
}

impl Vendor {
    fn of(host: &str, path: &str) -> Option<Self> {
        match host {
            "api.openai.com" => Some(Self::OpenAi),
            "api.anthropic.com" => Some(Self::Anthropic),
            "api.deepseek.com" if path.starts_with("/anthropic/") => Some(Self::DeepSeekAnthropic),
            "api.deepseek.com" => Some(Self::DeepSeek),
            azure => azure.ends_with(".openai.azure.com").then_some(Self::Azure),
        }
    }

    const fn provider(self) -> Provider {
        match self {
            Self::OpenAi => Provider::OpenAi,
            Self::Azure => Provider::Azure,
            Self::Anthropic => Provider::Anthropic,
            Self::DeepSeek | Self::DeepSeekAnthropic => Provider::DeepSeek,
        }
    }

    fn key(self, headers: &HeaderMap) -> Option<&str> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        match self {
            Self::OpenAi | Self::DeepSeek => text(AUTHORIZATION.as_str())?.strip_prefix("Bearer "),
            Self::Azure => text("api-key"),
            Self::Anthropic | Self::DeepSeekAnthropic => text("x-api-key"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Chat,
    Messages,
    Models,
}

/// Answers requests; clones share the keys.
#[derive(Clone)]
pub(super) struct Desk {
    keys: Arc<KnownKeys>,
}

impl Desk {
    pub(super) fn new(keys: KnownKeys) -> Self {
        Self { keys: Arc::new(keys) }
    }

    /// The answer to any request; it is always one.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<Pieces>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let seed = random::hex(12);
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let Some(vendor) = Vendor::of(host, request.uri().path()) else {
            let body = r#"{"error":"the sample vendor plays no vendor of this name"}"#.to_owned();
            return answer::json(Vendor::OpenAi, StatusCode::MISDIRECTED_REQUEST, &seed, body);
        };
        match self.serve(vendor, request, seed.clone()).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(vendor, &seed),
        }
    }

    async fn serve<B>(&self, vendor: Vendor, request: Request<B>, seed: String) -> Result<Response<Pieces>, Refusal>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if !self.knows(vendor, request.headers()) {
            return Err(Refusal::Key);
        }
        let asked = asked(vendor, request.method(), request.uri().path())?;
        if asked == Asked::Models {
            return Ok(answer::json(vendor, StatusCode::OK, &seed, models::list(vendor)));
        }
        let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|_| Refusal::Length)?.to_bytes();
        let prompt = Prompt::read(&body, vendor.provider().title(), seed).map_err(Refusal::Lacking)?;
        if prompt.stream {
            let events = if asked == Asked::Chat { chat::stream(vendor, &prompt) } else { messages::stream(&prompt) };
            return Ok(answer::events(vendor, &prompt.seed, events));
        }
        let whole = if asked == Asked::Chat { chat::whole(vendor, &prompt) } else { messages::whole(&prompt) };
        Ok(answer::json(vendor, StatusCode::OK, &prompt.seed, whole))
    }

    fn knows(&self, vendor: Vendor, headers: &HeaderMap) -> bool {
        let of_vendor = |known: &&(Provider, SecretString)| known.0 == vendor.provider();
        vendor
            .key(headers)
            .is_some_and(|given| self.keys.iter().filter(of_vendor).any(|(_, key)| key.expose_secret() == given))
    }
}

fn asked(vendor: Vendor, method: &Method, path: &str) -> Result<Asked, Refusal> {
    let asked = match (vendor, path) {
        (Vendor::OpenAi, "/v1/chat/completions")
        | (Vendor::Azure, "/openai/v1/chat/completions")
        | (Vendor::DeepSeek, "/chat/completions" | "/v1/chat/completions") => Asked::Chat,
        (Vendor::OpenAi | Vendor::Anthropic, "/v1/models")
        | (Vendor::Azure, "/openai/v1/models")
        | (Vendor::DeepSeek, "/models" | "/v1/models") => Asked::Models,
        (Vendor::Anthropic, "/v1/messages") | (Vendor::DeepSeekAnthropic, "/anthropic/v1/messages") => Asked::Messages,
        (Vendor::Azure, path) if is_deployment_chat(path) => Asked::Chat,
        (Vendor::OpenAi | Vendor::Azure | Vendor::Anthropic | Vendor::DeepSeek | Vendor::DeepSeekAnthropic, _) => {
            return Err(Refusal::Path);
        }
    };
    let wanted = if asked == Asked::Models { Method::GET } else { Method::POST };
    if *method == wanted { Ok(asked) } else { Err(Refusal::Method) }
}

fn is_deployment_chat(path: &str) -> bool {
    let deployment = path.strip_prefix("/openai/deployments/").and_then(|path| path.strip_suffix("/chat/completions"));
    deployment.is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use serde_json::Value;

    use super::*;

    const ASK: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;

    #[tokio::test]
    async fn each_vendor_refuses_a_wrong_key_in_its_own_shape() {
        for (host, path, header, pointer, wanted) in [
            ("api.openai.com", "/v1/chat/completions", "authorization", "/error/code", "invalid_api_key"),
            ("demo.openai.azure.com", "/openai/v1/chat/completions", "api-key", "/error/code", "401"),
            ("api.anthropic.com", "/v1/messages", "x-api-key", "/error/type", "authentication_error"),
            ("api.deepseek.com", "/chat/completions", "authorization", "/error/type", "authentication_error"),
            ("api.deepseek.com", "/anthropic/v1/messages", "x-api-key", "/error/type", "authentication_error"),
        ] {
            for given in ["", "wrong", "Bearer wrong", "Bearer "] {
                let (status, body) = ask("POST", host, path, header, given, ASK).await;

                assert_eq!(status, StatusCode::UNAUTHORIZED, "{host}{path} {given:?}");
                assert_eq!(body.pointer(pointer), Some(&wanted.into()), "{body}");
            }
        }
    }

    #[tokio::test]
    async fn a_key_of_one_vendor_opens_no_other() {
        let (status, _) =
            ask("POST", "api.openai.com", "/v1/chat/completions", "authorization", "Bearer deepseek-key", ASK).await;

        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn unknown_paths_methods_and_bodies_are_refused_in_the_vendors_shape() {
        let openai =
            |method, path, body| ask(method, "api.openai.com", path, "authorization", "Bearer openai-key", body);
        let (status, body) = openai("POST", "/v1/files", ASK).await;
        assert_eq!((status, &body["error"]["type"]), (StatusCode::NOT_FOUND, &"invalid_request_error".into()));
        let (status, _) = openai("GET", "/v1/chat/completions", "").await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        let (status, body) = openai("POST", "/v1/chat/completions", "{}").await;
        assert_eq!((status, &body["error"]["param"]), (StatusCode::BAD_REQUEST, &"model".into()));
        let (status, body) = ask("POST", "api.anthropic.com", "/v1/files", "x-api-key", "anthropic-key", ASK).await;
        assert_eq!((status, &body["error"]["type"]), (StatusCode::NOT_FOUND, &"not_found_error".into()));
        let (status, _) = ask("GET", "api.evil.example", "/v1/models", "authorization", "Bearer openai-key", "").await;
        assert_eq!(status, StatusCode::MISDIRECTED_REQUEST);
    }

    #[tokio::test]
    async fn every_vendor_lists_models_and_answers_in_its_own_shape() {
        for (host, path, header, key) in [
            ("api.openai.com", "/v1/models", "authorization", "Bearer openai-key"),
            ("demo.openai.azure.com", "/openai/v1/models", "api-key", "azure-key"),
            ("api.anthropic.com", "/v1/models", "x-api-key", "anthropic-key"),
            ("api.deepseek.com", "/models", "authorization", "Bearer deepseek-key"),
        ] {
            let (status, body) = ask("GET", host, path, header, key, "").await;
            assert_eq!(status, StatusCode::OK, "{host}");
            assert!(body["data"][0]["id"].is_string(), "{body}");
        }
        for (host, path, header, key, pointer) in [
            (
                "api.openai.com",
                "/v1/chat/completions",
                "authorization",
                "Bearer openai-key",
                "/choices/0/message/content",
            ),
            (
                "demo.openai.azure.com",
                "/openai/deployments/m/chat/completions",
                "api-key",
                "azure-key",
                "/choices/0/message/content",
            ),
            ("api.anthropic.com", "/v1/messages", "x-api-key", "anthropic-key", "/content/0/text"),
            (
                "api.deepseek.com",
                "/chat/completions",
                "authorization",
                "Bearer deepseek-key",
                "/choices/0/message/content",
            ),
            ("api.deepseek.com", "/anthropic/v1/messages", "x-api-key", "deepseek-key", "/content/0/text"),
        ] {
            let (status, body) = ask("POST", host, path, header, key, ASK).await;
            assert_eq!(status, StatusCode::OK, "{host}{path}");
            assert!(body.pointer(pointer).is_some_and(Value::is_string), "{body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn streams_are_events_of_json_with_usage_where_the_vendor_sends_it() {
        let usage = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}"#;
        let plain = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
        for (host, path, header, key, body, with_usage) in [
            ("api.openai.com", "/v1/chat/completions", "authorization", "Bearer openai-key", usage, true),
            ("api.openai.com", "/v1/chat/completions", "authorization", "Bearer openai-key", plain, false),
            ("demo.openai.azure.com", "/openai/v1/chat/completions", "api-key", "azure-key", usage, true),
            ("api.deepseek.com", "/chat/completions", "authorization", "Bearer deepseek-key", plain, true),
            ("api.anthropic.com", "/v1/messages", "x-api-key", "anthropic-key", plain, true),
        ] {
            let bytes =
                sent("POST", host, path, header, key, body).await.into_body().collect().await.unwrap().to_bytes();
            let text = std::str::from_utf8(&bytes).unwrap();

            let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
            let events: Vec<Value> = data.map(|data| serde_json::from_str(data).unwrap()).collect();
            let told = events.iter().any(|event| event["usage"].is_object());
            assert_eq!(told, with_usage, "{host} {text}");
            assert!(events.len() > 20, "{text}");
            assert!(text.ends_with("\n\n"));
        }
    }

    async fn ask(method: &str, host: &str, path: &str, header: &str, key: &str, body: &str) -> (StatusCode, Value) {
        let response = sent(method, host, path, header, key, body).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn sent(method: &str, host: &str, path: &str, header: &str, key: &str, body: &str) -> Response<Pieces> {
        let keys = Provider::ALL.iter().map(|vendor| (*vendor, SecretString::from(format!("{vendor}-key"))));
        let request = Request::builder().method(method).uri(path).header(HOST, host).header(header, key);
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        Desk::new(keys.collect()).answer(request).await
    }
}
