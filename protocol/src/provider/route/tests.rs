//! Tests of routing: every listed path, and every way to miss one.
//!
//! Invariant: whatever is routed leads to a listed vendor path.

use super::*;
use http::HeaderValue;
use proptest::prelude::*;

const NONE: &[&str] = &[];

#[test]
fn every_consumer_path_finds_its_vendors() {
    use Endpoint as E;
    let cases: &[(&Method, &str, &[&str], &[Endpoint])] = &[
        (&Method::POST, "/v1/chat/completions", NONE, &[E::OpenAiChat, E::AzureChat, E::DeepSeekChat]),
        (&Method::POST, "/chat/completions", NONE, &[E::OpenAiChat, E::AzureChat, E::DeepSeekChat]),
        (&Method::POST, "/chat/completions", &["api-key"], &[E::AzureChat]),
        (
            &Method::POST,
            "/v1/chat/completions",
            &["anthropic-version"],
            &[E::OpenAiChat, E::AzureChat, E::DeepSeekChat],
        ),
        (&Method::POST, "/v1/messages", NONE, &[E::AnthropicMessages]),
        (&Method::POST, "/v1/messages", &["api-key"], &[E::AnthropicMessages]),
        (&Method::POST, "/messages", NONE, &[E::AnthropicMessages]),
        (&Method::POST, "/v1/v1/messages", NONE, &[E::AnthropicMessages]),
        (&Method::POST, "/anthropic/v1/messages", NONE, &[E::DeepSeekMessages]),
        (&Method::POST, "/anthropic/messages", &["anthropic-version"], &[E::DeepSeekMessages]),
        (&Method::POST, "/openai/v1/chat/completions", NONE, &[E::AzureChat]),
        (&Method::GET, "/v1/models", NONE, &[E::OpenAiModels, E::AzureModels, E::DeepSeekModels]),
        (&Method::GET, "/models", &["anthropic-version"], &[E::AnthropicModels]),
        (&Method::GET, "/models", &["anthropic-version", "api-key"], &[E::AnthropicModels]),
        (&Method::GET, "/v1/models", &["api-key"], &[E::AzureModels]),
        (&Method::GET, "/openai/v1/models", NONE, &[E::AzureModels]),
        (&Method::GET, "/v1/models/gpt-4o", NONE, &[E::OpenAiModel, E::DeepSeekModel]),
        (&Method::GET, "/models/claude-x", &["anthropic-version"], &[E::AnthropicModel]),
        (&Method::POST, "/via/openai/chat/completions", &["api-key"], &[E::OpenAiChat]),
        (&Method::POST, "/via/deepseek/v1/chat/completions", NONE, &[E::DeepSeekChat]),
        (&Method::POST, "/via/deepseek/anthropic/v1/messages", NONE, &[E::DeepSeekMessages]),
        (&Method::POST, "/via/anthropic/v1/v1/messages", NONE, &[E::AnthropicMessages]),
        (&Method::GET, "/via/anthropic/models", NONE, &[E::AnthropicModels]),
        (&Method::POST, "/via/azure/res/v1/chat/completions", NONE, &[E::AzureChat]),
        (&Method::POST, "/v1/completions", NONE, &[E::OpenAiCompletions, E::AzureCompletions]),
        (&Method::POST, "/responses", NONE, &[E::OpenAiResponses, E::AzureResponses]),
        (&Method::POST, "/openai/responses", NONE, &[E::AzurePreviewResponses]),
        (&Method::POST, "/openai/v1/responses", NONE, &[E::AzureResponses]),
        (&Method::POST, "/v1/embeddings", &["api-key"], &[E::AzureEmbeddings]),
        (&Method::POST, "/images/edits", NONE, &[E::OpenAiImageEdits, E::AzureImageEdits]),
        (&Method::POST, "/v1/images/generations", NONE, &[E::OpenAiImages, E::AzureImages]),
        (&Method::POST, "/v1/audio/speech", NONE, &[E::OpenAiSpeech, E::AzureSpeech]),
        (&Method::POST, "/audio/transcriptions", NONE, &[E::OpenAiTranscriptions, E::AzureTranscriptions]),
        (&Method::POST, "/via/openai/audio/translations", NONE, &[E::OpenAiTranslations]),
        (&Method::POST, "/openai/deployments/d/audio/speech", NONE, &[E::AzureDeploymentSpeech]),
        (&Method::POST, "/via/azure/res/openai/deployments/d/images/edits", NONE, &[E::AzureDeploymentImageEdits]),
        (&Method::GET, "/v1/realtime", NONE, &[E::OpenAiRealtime, E::AzureRealtime]),
        (&Method::GET, "/realtime", &["api-key"], &[E::AzureRealtime]),
        (&Method::GET, "/openai/realtime", NONE, &[E::AzurePreviewRealtime]),
        (&Method::GET, "/openai/v1/realtime", NONE, &[E::AzureRealtime]),
        (&Method::GET, "/via/azure/res/openai/realtime", NONE, &[E::AzurePreviewRealtime]),
        (&Method::POST, "/v1/messages/count_tokens", NONE, &[E::AnthropicCountTokens]),
        (&Method::POST, "/via/anthropic/v1/messages/count_tokens", NONE, &[E::AnthropicCountTokens]),
        (&Method::POST, "/beta/completions", NONE, &[E::DeepSeekBetaCompletions]),
        (&Method::POST, "/via/deepseek/beta/chat/completions", NONE, &[E::DeepSeekBetaChat]),
    ];
    for (method, path, names, expected) in cases {
        let found = route(method, path, &headers(names)).unwrap();
        let endpoints: Vec<Endpoint> = found.candidates.iter().map(|c| c.endpoint).collect();
        assert_eq!(endpoints, *expected, "{path} {names:?}");
    }
}

#[test]
fn the_deployment_and_the_azure_resource_are_taken_from_the_path() {
    let path = "/via/azure/My-Res1/openai/deployments/gpt-4.1/chat/completions";

    let found = post(path).unwrap();

    assert_eq!(found.azure_resource.as_deref(), Some("my-res1"));
    assert_eq!(found.shape, ErrorShape::Azure);
    assert_eq!(
        found.candidates,
        [Candidate { endpoint: Endpoint::AzureDeploymentChat, parameter: Some("gpt-4.1".to_owned()) }]
    );
}

#[test]
fn an_azure_resource_is_one_dns_label() {
    let long = "a".repeat(64);
    for bad in ["", "a.b", "a:1", "a@b", "a%2e", "a.", "-a", "a-", "a_b", "ä", "..", &long] {
        assert_eq!(azure_resource(bad), None, "{bad}");
        let path = format!("/via/azure/{bad}/openai/v1/chat/completions");
        assert!(post(&path).is_err(), "{path}");
    }
    assert_eq!(azure_resource("Res-1").as_deref(), Some("res-1"));
    assert!(azure_resource(&"a".repeat(63)).is_some());
}

#[test]
fn path_tricks_are_unknown_paths() {
    for path in [
        "",
        "/",
        "*",
        "v1/chat/completions",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/v1/chat%2fcompletions",
        "/v1/chat%2Fcompletions",
        "/%761/chat/completions",
        "/v1/../v1/chat/completions",
        "/v1/./chat/completions",
        "/V1/chat/completions",
        "/v1/Chat/completions",
        "/v1/chat/completions?x",
        "/v1/chat/completions#x",
        "/v1/chat/completions\0",
        "/v1/chat\\completions",
        "/v1/chat/completions;a=b",
        "/v1/v1/chat/completions",
        "/openai/deployments//chat/completions",
        "/openai/deployments/../chat/completions",
        "/openai/deployments/a%2fb/chat/completions",
        "/openai/deployments/a/b/chat/completions",
        "/openai/deployments/{deployment}/chat/completions",
        "/via/openai",
        "/via/openai/",
        "/via/OpenAI/v1/chat/completions",
        "/via/openai//v1/chat/completions",
        "/via/mistral/v1/chat/completions",
        "/via/openai/v1/messages",
        "/via/anthropic/v1/chat/completions",
        "/via/azure/openai.azure.com/openai/v1/chat/completions",
        "/via/azure",
        "/v1/files",
        "/v1/batches",
        "/v1/responses/resp_1",
        "/v1/messages/batches",
        "/v1/audio/voices",
        "/v1/images/variations",
        "/v1/realtime/client_secrets",
    ] {
        let error = post(path).unwrap_err();
        assert_eq!(error.code(), ErrorCode::EndpointUnknown, "{path}");
        assert_eq!(error.status(), StatusCode::NOT_FOUND);
    }
}

#[test]
fn another_method_is_refused_and_the_right_one_named() {
    let all = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "post", "X"];
    for name in all {
        let method = Method::from_bytes(name.as_bytes()).unwrap();
        let error = route(&method, "/v1/messages", &HeaderMap::new()).unwrap_err();

        assert_eq!(error.allow(), Some("POST"), "{name}");
        assert_eq!(error.shape(), ErrorShape::Anthropic);
        assert_eq!(error.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
    let error = route(&Method::HEAD, "/v1/models", &HeaderMap::new()).unwrap_err();
    assert_eq!(error.allow(), Some("GET"));
    assert_eq!(error.to_string(), "this endpoint does not take that method; it takes GET");
}

#[test]
fn an_unknown_path_is_answered_in_the_likely_form() {
    let shape = |path, names: &[&'static str]| route(&Method::POST, path, &headers(names)).unwrap_err().shape();

    assert_eq!(shape("/x", NONE), ErrorShape::OpenAi);
    assert_eq!(shape("/x", &["anthropic-version"]), ErrorShape::Anthropic);
    assert_eq!(shape("/via/anthropic/x", NONE), ErrorShape::Anthropic);
    assert_eq!(shape("/x", &["api-key"]), ErrorShape::Azure);
    assert_eq!(shape("/openai/x", NONE), ErrorShape::Azure);
    assert_eq!(shape("/via/deepseek/x", NONE), ErrorShape::DeepSeek);
    assert_eq!(shape("/via/deepseek/x", &["anthropic-version"]), ErrorShape::Anthropic);
}

#[test]
fn a_wrong_base_url_is_told_the_right_one() {
    let root = "the base URL is the hub's address alone, without a path";
    let cases = [
        ("/v1/chat/completions/chat/completions", "the base URL ends in `/v1`"),
        ("/v1/v1/chat/completions", "the base URL ends in `/v1`"),
        ("//v1/chat/completions/", "the base URL ends in `/v1`"),
        ("/V1/Chat/Completions", "the base URL ends in `/v1`"),
        ("/api/v1/chat/completions", "the base URL ends in `/v1`"),
        ("/v1/messages/v1/messages", root),
        ("/anthropic/v1/messages/v1/messages", "the base URL ends in `/anthropic`"),
        ("/openai/v1/chat/completions/chat/completions", "the base URL ends in `/openai/v1`"),
        ("/deployments/d/chat/completions", root),
        ("/via/openai/v1/chat/completions/chat/completions", "the base URL ends in `/via/openai/v1`"),
        ("/via/anthropic/v1/messages/v1/messages", "the base URL ends in `/via/anthropic`"),
        ("/via/azure/openai/deployments/d/chat/completions", "the base URL begins with `/via/azure/<resource>`"),
    ];
    for (path, expected) in cases {
        let RouteError::UnknownPath { hint, .. } = post(path).unwrap_err() else {
            panic!("{path} is not unknown");
        };
        assert_eq!(hint.as_deref(), Some(expected), "{path}");
    }
    let misspelt = "/via/OpenAI/v1/chat/completions";
    for path in ["/v1/files", "/", misspelt, &format!("/{}/models", "a/".repeat(200))] {
        let RouteError::UnknownPath { hint, .. } = post(path).unwrap_err() else {
            panic!("{path} is not unknown");
        };
        assert_eq!(hint, None, "{path}");
    }
}

#[test]
fn a_single_candidate_needs_no_model() {
    let found = post("/v1/messages").unwrap();

    let candidate = found.resolve(None, |_, _| false).unwrap();

    assert_eq!(candidate.endpoint, Endpoint::AnthropicMessages);
}

#[test]
fn the_models_family_decides_whoever_lists_it() {
    let found = post("/v1/chat/completions").unwrap();
    let endpoint = |model, listed: fn(Provider, &str) -> bool| found.resolve(Some(model), listed).map(|it| it.endpoint);

    for listed in [|_, _: &str| false, |_, _: &str| true, |provider, _: &str| provider == Provider::Azure] {
        assert_eq!(endpoint("gpt-4o", listed), Ok(Endpoint::OpenAiChat));
        assert_eq!(endpoint("deepseek-chat", listed), Ok(Endpoint::DeepSeekChat));
    }
}

#[test]
fn a_model_of_no_family_goes_to_the_one_vendor_that_offers_it() {
    let found = post("/v1/chat/completions").unwrap();
    let ambiguous = Err(RouteError::Ambiguous { shape: ErrorShape::OpenAi });
    let azure = |provider, _: &str| provider == Provider::Azure;

    let candidate = found.resolve(Some("our-deployment"), azure).unwrap();

    assert_eq!(candidate.endpoint, Endpoint::AzureChat);
    assert_eq!(found.resolve(Some("llama"), |_, _| true), ambiguous);
    assert_eq!(found.resolve(Some("llama"), |_, _| false), ambiguous);
    assert_eq!(found.resolve(Some("claude-x"), |_, _| false), ambiguous, "of a family that is no candidate");
    assert_eq!(found.resolve(None, |_, _| true), ambiguous);
}

#[test]
fn a_model_in_the_path_counts_as_the_model() {
    let found = route(&Method::GET, "/v1/models/deepseek-chat", &HeaderMap::new()).unwrap();

    let candidate = found.resolve(None, |_, _| false).unwrap();

    assert_eq!(candidate.endpoint, Endpoint::DeepSeekModel);
    assert_eq!(candidate.parameter.as_deref(), Some("deepseek-chat"));
}

#[test]
fn an_ambiguous_call_is_told_the_explicit_form() {
    let error = RouteError::Ambiguous { shape: ErrorShape::OpenAi };

    assert_eq!(error.status(), StatusCode::NOT_FOUND);
    assert!(error.to_string().contains("/via/openai"));
}

proptest! {
    #[test]
    fn a_known_path_with_one_byte_changed_reaches_only_listed_paths(
        row in 0..Endpoint::ALL.len(), at in 0_usize..64, byte in 0x20_u8..0x7f,
    ) {
        let template = Endpoint::ALL[row].template().replace(['{', '}'], "");
        let mut path = template.into_bytes();
        let at = at % path.len();
        path[at] = byte;
        let path = String::from_utf8(path).unwrap();

        only_listed_paths_result(&path);
    }
}

#[test]
fn any_bytes_are_routed_without_panic_to_listed_paths_only() {
    bolero::check!().with_iterations(5_000).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        only_listed_paths_result(&text);
        only_listed_paths_result(&format!("/via/{text}/v1/chat/completions"));
        only_listed_paths_result(&format!("/openai/deployments/{text}/chat/completions"));
    });
}

fn only_listed_paths_result(path: &str) {
    for method in [Method::GET, Method::POST] {
        for names in [NONE, &["anthropic-version"], &["api-key"]] {
            let Ok(found) = route(&method, path, &headers(names)) else {
                continue;
            };
            assert!(!found.candidates.is_empty());
            for candidate in &found.candidates {
                let parameter = candidate.parameter.as_deref();
                let sent = candidate.endpoint.vendor_path(parameter).unwrap();
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._:-".contains(&byte);
                assert!(sent.bytes().all(plain), "{path} -> {sent}");
                assert!(sent.split('/').skip(1).all(|s| !matches!(s, "" | "." | "..")));
                assert_eq!(candidate.endpoint.method(), method);
            }
        }
    }
}

fn post(path: &str) -> Result<Route, RouteError> {
    route(&Method::POST, path, &HeaderMap::new())
}

fn headers(names: &[&'static str]) -> HeaderMap {
    let values = names.iter().map(|name| {
        let name = http::HeaderName::from_static(name);
        (name, HeaderValue::from_static("x"))
    });
    values.collect()
}
