//! The allow-list: every vendor endpoint a call may reach, one row each.
//!
//! Invariant: a path sent to a vendor is one of these templates with a checked
//! parameter; a wire number, once given, is never given to another endpoint.

mod metering;

use super::Provider;
use super::headers::AuthForm;
use super::native_error::ErrorShape;
use http::Method;

pub use metering::Metering;

/// The most bytes of query string that are passed on.
pub const QUERY_BYTES_MAX: usize = 2048;

/// The most bytes of a path parameter.
pub const PARAMETER_BYTES_MAX: usize = 128;

/// What the request's body must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// No body at all.
    Empty,
    /// One JSON object.
    Json,
    /// A form in parts, `multipart/form-data`.
    Multipart,
    /// Either of the two; the content type says which.
    JsonOrMultipart,
    /// The connection becomes a WebSocket.
    WebSocket,
}

/// Who answers the consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The vendor, through an agent.
    Vendor,
    /// The hub, from what its agents offer.
    Hub,
}

/// One row of the table.
struct Row {
    provider: Provider,
    method: Method,
    path: &'static str,
    body: BodyKind,
    auth: AuthForm,
    errors: ErrorShape,
    answer: Answer,
    base: &'static str,
    also: &'static [&'static str],
    /// Whether `path`, and with it each of `also`, has a `{parameter}`.
    has_parameter: bool,
}

macro_rules! endpoints {
    ($(
        $(#[$doc:meta])*
        $name:ident = $number:literal {
            provider: $provider:ident, auth: $auth:ident, errors: $errors:ident, answer: $answer:ident,
            call: $method:ident $path:literal, body: $body:ident,
            base: $base:literal, also: [$($also:literal),*],
        }
    )*) => {
        /// An endpoint of a vendor that calls may reach.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Endpoint {
            $($(#[$doc])* $name,)*
        }

        impl Endpoint {
            /// The whole table. Where one consumer path has several vendors,
            /// their order here is the order of the candidates.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* }
            }

            fn row(self) -> &'static Row {
                match self {
                    $(Self::$name => {
                        static ROW: Row = Row {
                        provider: Provider::$provider,
                        method: Method::$method,
                        path: $path,
                        body: BodyKind::$body,
                        auth: AuthForm::$auth,
                        errors: ErrorShape::$errors,
                        answer: Answer::$answer,
                        base: $base,
                        also: &[$($also),*],
                        has_parameter: names_parameter($path),
                        };
                        &ROW
                    })*
                }
            }
        }
    };
}

// `call` is what the vendor documents. `base` is the path of the base URL that
// the vendor's own SDK is given. `also` are further consumer paths: a base URL
// with and without `/v1`, and for SDKs that add `/v1` themselves, both at once.
// Numbers: OpenAI 1xx, Azure 2xx, Anthropic 3xx, DeepSeek 4xx.
endpoints! {
    /// OpenAI chat completions.
    OpenAiChat = 101 {
        provider: OpenAi, auth: Bearer, errors: OpenAi, answer: Vendor,
        call: POST "/v1/chat/completions", body: Json,
        base: "/v1", also: ["/chat/completions"],
    }
    /// OpenAI's list of models.
    OpenAiModels = 102 {
        provider: OpenAi, auth: Bearer, errors: OpenAi, answer: Hub,
        call: GET "/v1/models", body: Empty,
        base: "/v1", also: ["/models"],
    }
    /// One model of OpenAI.
    OpenAiModel = 103 {
        provider: OpenAi, auth: Bearer, errors: OpenAi, answer: Hub,
        call: GET "/v1/models/{model}", body: Empty,
        base: "/v1", also: ["/models/{model}"],
    }
    /// OpenAI completions, the old form.
    OpenAiCompletions = 104 {
        provider: OpenAi, auth: Bearer, errors: OpenAi, answer: Vendor,
        call: POST "/v1/completions", body: Json,
        base: "/v1", also: ["/completions"],
    }
    /// OpenAI responses.
    OpenAiResponses = 105 {
        provider: OpenAi, auth: Bearer, errors: OpenAi, answer: Vendor,
        call: POST "/v1/responses", body: Json,
        base: "/v1", also: ["/responses"],
    }
    /// OpenAI embeddings.
    OpenAiEmbeddings = 106 {
        provider: OpenAi, auth: Bearer, errors: OpenAi, answer: Vendor,
        call: POST "/v1/embeddings", body: Json,
        base: "/v1", also: ["/embeddings"],
    }
    /// OpenAI images from text.
    OpenAiImages = 107 {
        provider: OpenAi, auth: Bearer, errors: OpenAi, answer: Vendor,
        call: POST "/v1/images/generations", body: Json,
        base: "/v1", also: ["/images/generations"],
    }
    /// OpenAI images from images.
    OpenAiImageEdits = 108 {
        provider: OpenAi, auth: Bearer, errors: OpenAi, answer: Vendor,
        call: POST "/v1/images/edits", body: JsonOrMultipart,
        base: "/v1", also: ["/images/edits"],
    }
    /// OpenAI speech from text.
    OpenAiSpeech = 109 {
        provider: OpenAi, auth: Bearer, errors: OpenAi, answer: Vendor,
        call: POST "/v1/audio/speech", body: Json,
        base: "/v1", also: ["/audio/speech"],
    }
    /// OpenAI text from speech.
    OpenAiTranscriptions = 110 {
        provider: OpenAi, auth: Bearer, errors: OpenAi, answer: Vendor,
        call: POST "/v1/audio/transcriptions", body: Multipart,
        base: "/v1", also: ["/audio/transcriptions"],
    }
    /// OpenAI English text from speech.
    OpenAiTranslations = 111 {
        provider: OpenAi, auth: Bearer, errors: OpenAi, answer: Vendor,
        call: POST "/v1/audio/translations", body: Multipart,
        base: "/v1", also: ["/audio/translations"],
    }
    /// OpenAI realtime; the model is in the query.
    OpenAiRealtime = 112 {
        provider: OpenAi, auth: Bearer, errors: OpenAi, answer: Vendor,
        call: GET "/v1/realtime", body: WebSocket,
        base: "/v1", also: ["/realtime"],
    }
    /// Azure chat completions of one deployment, with `api-version`.
    AzureDeploymentChat = 201 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/deployments/{deployment}/chat/completions", body: Json,
        base: "", also: [],
    }
    /// Azure chat completions of the v1 API; the deployment is the `model`.
    AzureChat = 202 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/v1/chat/completions", body: Json,
        base: "/openai/v1", also: ["/v1/chat/completions", "/chat/completions"],
    }
    /// Azure's list of models, v1 API.
    AzureModels = 203 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Hub,
        call: GET "/openai/v1/models", body: Empty,
        base: "/openai/v1", also: ["/v1/models", "/models"],
    }
    /// Azure completions, by deployment.
    AzureDeploymentCompletions = 204 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/deployments/{deployment}/completions", body: Json,
        base: "", also: [],
    }
    /// Azure embeddings, by deployment.
    AzureDeploymentEmbeddings = 205 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/deployments/{deployment}/embeddings", body: Json,
        base: "", also: [],
    }
    /// Azure images from text, by deployment.
    AzureDeploymentImages = 206 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/deployments/{deployment}/images/generations", body: Json,
        base: "", also: [],
    }
    /// Azure images from images, by deployment.
    AzureDeploymentImageEdits = 207 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/deployments/{deployment}/images/edits", body: JsonOrMultipart,
        base: "", also: [],
    }
    /// Azure speech from text, by deployment.
    AzureDeploymentSpeech = 208 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/deployments/{deployment}/audio/speech", body: Json,
        base: "", also: [],
    }
    /// Azure text from speech, by deployment.
    AzureDeploymentTranscriptions = 209 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/deployments/{deployment}/audio/transcriptions", body: Multipart,
        base: "", also: [],
    }
    /// Azure English text from speech, by deployment.
    AzureDeploymentTranslations = 210 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/deployments/{deployment}/audio/translations", body: Multipart,
        base: "", also: [],
    }
    /// Azure responses, with `api-version`.
    AzurePreviewResponses = 211 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/responses", body: Json,
        base: "", also: [],
    }
    /// Azure realtime, with `api-version`; the deployment is in the query.
    AzurePreviewRealtime = 212 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: GET "/openai/realtime", body: WebSocket,
        base: "", also: [],
    }
    /// Azure completions, v1 API.
    AzureCompletions = 213 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/v1/completions", body: Json,
        base: "/openai/v1", also: ["/v1/completions", "/completions"],
    }
    /// Azure responses, v1 API.
    AzureResponses = 214 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/v1/responses", body: Json,
        base: "/openai/v1", also: ["/v1/responses", "/responses"],
    }
    /// Azure embeddings, v1 API.
    AzureEmbeddings = 215 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/v1/embeddings", body: Json,
        base: "/openai/v1", also: ["/v1/embeddings", "/embeddings"],
    }
    /// Azure images from text, v1 API.
    AzureImages = 216 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/v1/images/generations", body: Json,
        base: "/openai/v1", also: ["/v1/images/generations", "/images/generations"],
    }
    /// Azure images from images, v1 API.
    AzureImageEdits = 217 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/v1/images/edits", body: JsonOrMultipart,
        base: "/openai/v1", also: ["/v1/images/edits", "/images/edits"],
    }
    /// Azure speech from text, v1 API.
    AzureSpeech = 218 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/v1/audio/speech", body: Json,
        base: "/openai/v1", also: ["/v1/audio/speech", "/audio/speech"],
    }
    /// Azure text from speech, v1 API.
    AzureTranscriptions = 219 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/v1/audio/transcriptions", body: Multipart,
        base: "/openai/v1", also: ["/v1/audio/transcriptions", "/audio/transcriptions"],
    }
    /// Azure English text from speech, v1 API.
    AzureTranslations = 220 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: POST "/openai/v1/audio/translations", body: Multipart,
        base: "/openai/v1", also: ["/v1/audio/translations", "/audio/translations"],
    }
    /// Azure realtime, v1 API; the deployment is the query's `model`.
    AzureRealtime = 221 {
        provider: Azure, auth: ApiKey, errors: Azure, answer: Vendor,
        call: GET "/openai/v1/realtime", body: WebSocket,
        base: "/openai/v1", also: ["/v1/realtime", "/realtime"],
    }
    /// Anthropic messages.
    AnthropicMessages = 301 {
        provider: Anthropic, auth: XApiKey, errors: Anthropic, answer: Vendor,
        call: POST "/v1/messages", body: Json,
        base: "", also: ["/messages", "/v1/v1/messages"],
    }
    /// Anthropic's list of models.
    AnthropicModels = 302 {
        provider: Anthropic, auth: XApiKey, errors: Anthropic, answer: Hub,
        call: GET "/v1/models", body: Empty,
        base: "", also: ["/models", "/v1/v1/models"],
    }
    /// One model of Anthropic.
    AnthropicModel = 303 {
        provider: Anthropic, auth: XApiKey, errors: Anthropic, answer: Hub,
        call: GET "/v1/models/{model}", body: Empty,
        base: "", also: ["/models/{model}", "/v1/v1/models/{model}"],
    }
    /// How many tokens messages would have.
    AnthropicCountTokens = 304 {
        provider: Anthropic, auth: XApiKey, errors: Anthropic, answer: Vendor,
        call: POST "/v1/messages/count_tokens", body: Json,
        base: "", also: ["/messages/count_tokens", "/v1/v1/messages/count_tokens"],
    }
    /// DeepSeek chat completions, the OpenAI form.
    DeepSeekChat = 401 {
        provider: DeepSeek, auth: Bearer, errors: DeepSeek, answer: Vendor,
        call: POST "/chat/completions", body: Json,
        base: "", also: ["/v1/chat/completions"],
    }
    /// DeepSeek messages, the Anthropic form.
    DeepSeekMessages = 402 {
        provider: DeepSeek, auth: XApiKey, errors: Anthropic, answer: Vendor,
        call: POST "/anthropic/v1/messages", body: Json,
        base: "/anthropic", also: ["/anthropic/messages", "/anthropic/v1/v1/messages"],
    }
    /// DeepSeek's list of models.
    DeepSeekModels = 403 {
        provider: DeepSeek, auth: Bearer, errors: DeepSeek, answer: Hub,
        call: GET "/models", body: Empty,
        base: "", also: ["/v1/models"],
    }
    /// One model of DeepSeek.
    DeepSeekModel = 404 {
        provider: DeepSeek, auth: Bearer, errors: DeepSeek, answer: Hub,
        call: GET "/models/{model}", body: Empty,
        base: "", also: ["/v1/models/{model}"],
    }
    /// DeepSeek chat completions with features under test.
    DeepSeekBetaChat = 405 {
        provider: DeepSeek, auth: Bearer, errors: DeepSeek, answer: Vendor,
        call: POST "/beta/chat/completions", body: Json,
        base: "/beta", also: [],
    }
    /// DeepSeek completions, fill in the middle.
    DeepSeekBetaCompletions = 406 {
        provider: DeepSeek, auth: Bearer, errors: DeepSeek, answer: Vendor,
        call: POST "/beta/completions", body: Json,
        base: "/beta", also: [],
    }
}

impl Endpoint {
    /// The endpoint with this wire number.
    pub fn from_number(number: u16) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|endpoint| endpoint.number() == number)
    }

    /// Whose endpoint it is.
    pub fn provider(self) -> Provider {
        self.row().provider
    }

    /// The one method it takes.
    pub fn method(self) -> Method {
        self.row().method.clone()
    }

    /// The vendor's path, with at most one `{parameter}`.
    pub fn template(self) -> &'static str {
        self.row().path
    }

    /// What the request's body must be.
    pub fn body(self) -> BodyKind {
        self.row().body
    }

    /// In which header the vendor takes the key.
    pub fn auth(self) -> AuthForm {
        self.row().auth
    }

    /// The form of the vendor's own errors.
    pub fn error_shape(self) -> ErrorShape {
        self.row().errors
    }

    /// Whether the hub answers from what agents offer. Agents call such an
    /// endpoint only for themselves, to test a key or to learn its models.
    pub fn served_by_hub(self) -> bool {
        self.row().answer == Answer::Hub
    }

    /// Whether the vendor's path carries a parameter.
    pub fn has_parameter(self) -> bool {
        self.row().has_parameter
    }

    /// The path to send to the vendor, built from the template alone.
    ///
    /// `None` when the parameter is missing, superfluous or not plain. It is
    /// checked here again because at the agent it comes from the hub.
    pub fn vendor_path(&self, parameter: Option<&str>) -> Option<String> {
        let template = self.template();
        match (split_template(template), parameter) {
            (None, None) => Some(template.to_owned()),
            (Some((before, after)), Some(text)) if is_parameter(text) => Some(format!("{before}{text}{after}")),
            (None, Some(_)) | (Some(_), None | Some(_)) => None,
        }
    }

    /// The path of the base URL that the vendor's own SDK is given.
    pub(super) fn base(self) -> &'static str {
        self.row().base
    }

    /// The parameter, if any, with which `path` is one of the paths that
    /// consumers may use for this endpoint; `None` when it is none of them.
    pub(super) fn matches(self, path: &str) -> Option<Option<&str>> {
        let row = self.row();
        let mut templates = std::iter::once(&row.path).chain(row.also);
        // Most templates are plain paths, and every request is compared with all of them.
        if !row.has_parameter {
            return templates.any(|template| *template == path).then_some(None);
        }
        templates.find_map(|template| match_template(template, path))
    }
}

/// Whether a query string may be passed on: bounded, visible ASCII, no `#`.
pub fn is_allowed_query(query: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    query.len() <= QUERY_BYTES_MAX && query.bytes().all(plain)
}

/// Whether text may stand for a parameter: one plain path segment.
fn is_parameter(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    (1..=PARAMETER_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain) && text != "." && text != ".."
}

fn match_template<'a>(template: &str, path: &'a str) -> Option<Option<&'a str>> {
    let Some((before, after)) = split_template(template) else {
        return (template == path).then_some(None);
    };
    let parameter = path.strip_prefix(before)?.strip_suffix(after)?;
    is_parameter(parameter).then_some(Some(parameter))
}

const fn names_parameter(template: &str) -> bool {
    let bytes = template.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'{' {
            return true;
        }
        at += 1;
    }
    false
}

/// What stands before and after the `{parameter}`.
fn split_template(template: &str) -> Option<(&str, &str)> {
    let (before, rest) = template.split_once('{')?;
    let (_, after) = rest.split_once('}')?;
    Some((before, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_path_of_an_endpoint_has_the_parameter_or_none_has() {
        for endpoint in Endpoint::ALL {
            let row = endpoint.row();
            let paths = std::iter::once(&row.path).chain(row.also);
            assert!(paths.into_iter().all(|path| path.contains('{') == row.has_parameter), "{endpoint:?}");
        }
    }

    #[test]
    fn numbers_are_unique_and_lead_back_to_their_endpoint() {
        let mut seen = HashSet::new();
        for endpoint in Endpoint::ALL {
            assert!(seen.insert(endpoint.number()));
            assert_eq!(Endpoint::from_number(endpoint.number()), Some(*endpoint));
        }
        assert_eq!(Endpoint::from_number(0), None);
        assert_eq!(Endpoint::from_number(u16::MAX), None);
    }

    #[test]
    fn the_wire_numbers_are_frozen() {
        let numbers: Vec<u16> = Endpoint::ALL.iter().map(|row| row.number()).collect();

        let frozen = (101..=112).chain(201..=221).chain(301..=304).chain(401..=406);
        assert_eq!(numbers, frozen.collect::<Vec<u16>>());
    }

    #[test]
    fn every_template_is_a_plain_path_with_at_most_one_parameter() {
        for endpoint in Endpoint::ALL {
            let row = endpoint.row();
            for template in std::iter::once(&row.path).chain(row.also) {
                assert!(template.starts_with('/') && !template.ends_with('/'));
                assert!(!template.contains("//") && !template.contains('%'));
                assert!(template.matches('{').count() <= 1);
                assert_eq!(
                    template.contains('{'),
                    row.path.contains('{'),
                    "{template}: every form carries the parameter, or none does"
                );
            }
            assert!(row.path.starts_with(row.base));
        }
    }

    #[test]
    fn no_consumer_path_means_two_endpoints_of_one_vendor() {
        let mut seen = HashSet::new();
        for endpoint in Endpoint::ALL {
            let row = endpoint.row();
            for template in std::iter::once(&row.path).chain(row.also) {
                assert!(seen.insert((row.provider, row.method.clone(), *template)), "{template}");
            }
        }
    }

    #[test]
    fn the_vendor_path_is_the_template_with_its_parameter() {
        let chat = Endpoint::AzureDeploymentChat;

        assert_eq!(
            chat.vendor_path(Some("gpt-4.1_eu")).as_deref(),
            Some("/openai/deployments/gpt-4.1_eu/chat/completions")
        );
        assert_eq!(Endpoint::OpenAiChat.vendor_path(None).as_deref(), Some("/v1/chat/completions"));
    }

    #[test]
    fn a_parameter_that_is_not_one_plain_segment_builds_no_path() {
        let long = "a".repeat(PARAMETER_BYTES_MAX + 1);
        let bad = ["", ".", "..", "a/b", "a%2fb", "a b", "a?b", "a#b", "ä", "a\\b", "a\n", &long];
        for parameter in bad {
            let path = Endpoint::AzureDeploymentChat.vendor_path(Some(parameter));
            assert_eq!(path, None, "{parameter:?}");
        }
        assert_eq!(Endpoint::AzureDeploymentChat.vendor_path(None), None);
        assert_eq!(Endpoint::OpenAiChat.vendor_path(Some("x")), None);
    }

    #[test]
    fn only_reads_of_models_are_served_by_the_hub() {
        for endpoint in Endpoint::ALL {
            let reads_models = endpoint.template().contains("/models");
            assert_eq!(endpoint.served_by_hub(), reads_models);
            assert_eq!(endpoint.body() == BodyKind::Empty, reads_models);
        }
    }

    #[test]
    fn a_query_is_bounded_and_visible() {
        assert!(is_allowed_query(""));
        assert!(is_allowed_query("api-version=2024-10-21&x=%20"));
        assert!(is_allowed_query(&"a".repeat(QUERY_BYTES_MAX)));
        assert!(!is_allowed_query(&"a".repeat(QUERY_BYTES_MAX + 1)));
        for bad in ["a b", "a\tb", "a\r\nb", "ä", "a#b", "\u{7f}", "\0"] {
            assert!(!is_allowed_query(bad), "{bad:?}");
        }
    }
}
