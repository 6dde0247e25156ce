//! Which fields the requests of each endpoint may have: every one that the vendors
//! document, from their SDKs' types, with what it means.
//!
//! Invariant: a field that no table names is refused. Vendors refuse it too, except
//! DeepSeek, which ignores it; there the names of the form it imitates pass, and others
//! do not: what is ignored today may cost tomorrow.

use super::field::AZURE;
use super::field::Bound;
use super::field::DEEPSEEK;
use super::field::Field;
use super::field::MODEL;
use super::field::OPENAI;
use super::field::STREAM;
use super::field::Why;
use super::field::checked;
use super::field::costs;
use super::field::free;
use super::field::off;
use super::field::priced;
use super::field::refused;
use super::field::text;
use super::field::whole;
use super::place::Place;
use crate::provider::endpoint::BodyKind;
use crate::provider::endpoint::Endpoint;

/// The form of a request: endpoints of one form share a table of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// No body.
    Nothing,
    /// Chat completions.
    Chat,
    /// Completions, the old form, and fill in the middle.
    Completions,
    /// Responses.
    Responses,
    /// Embeddings.
    Embeddings,
    /// Images from text.
    Images,
    /// Images from images.
    ImageEdits,
    /// Speech from text.
    Speech,
    /// Text from speech.
    Transcriptions,
    /// English text from speech.
    Translations,
    /// Messages.
    Messages,
    /// How many tokens messages would have.
    CountTokens,
    /// One message of a consumer in a realtime session.
    Session,
}

impl Form {
    /// Every form that has fields.
    pub const ALL: &'static [Self] = &[
        Self::Chat,
        Self::Completions,
        Self::Responses,
        Self::Embeddings,
        Self::Images,
        Self::ImageEdits,
        Self::Speech,
        Self::Transcriptions,
        Self::Translations,
        Self::Messages,
        Self::CountTokens,
        Self::Session,
    ];

    /// The form of an endpoint's requests.
    pub const fn of(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::OpenAiChat
            | Endpoint::AzureDeploymentChat
            | Endpoint::AzureChat
            | Endpoint::DeepSeekChat
            | Endpoint::DeepSeekBetaChat => Self::Chat,
            Endpoint::OpenAiCompletions
            | Endpoint::AzureDeploymentCompletions
            | Endpoint::AzureCompletions
            | Endpoint::DeepSeekBetaCompletions => Self::Completions,
            Endpoint::OpenAiResponses | Endpoint::AzurePreviewResponses | Endpoint::AzureResponses => Self::Responses,
            Endpoint::OpenAiEmbeddings | Endpoint::AzureDeploymentEmbeddings | Endpoint::AzureEmbeddings => {
                Self::Embeddings
            }
            Endpoint::OpenAiImages | Endpoint::AzureDeploymentImages | Endpoint::AzureImages => Self::Images,
            Endpoint::OpenAiImageEdits | Endpoint::AzureDeploymentImageEdits | Endpoint::AzureImageEdits => {
                Self::ImageEdits
            }
            Endpoint::OpenAiSpeech | Endpoint::AzureDeploymentSpeech | Endpoint::AzureSpeech => Self::Speech,
            Endpoint::OpenAiTranscriptions
            | Endpoint::AzureDeploymentTranscriptions
            | Endpoint::AzureTranscriptions => Self::Transcriptions,
            Endpoint::OpenAiTranslations | Endpoint::AzureDeploymentTranslations | Endpoint::AzureTranslations => {
                Self::Translations
            }
            Endpoint::AnthropicMessages | Endpoint::DeepSeekMessages => Self::Messages,
            Endpoint::AnthropicCountTokens => Self::CountTokens,
            Endpoint::OpenAiModels
            | Endpoint::OpenAiModel
            | Endpoint::OpenAiRealtime
            | Endpoint::AzureModels
            | Endpoint::AzurePreviewRealtime
            | Endpoint::AzureRealtime
            | Endpoint::AnthropicModels
            | Endpoint::AnthropicModel
            | Endpoint::DeepSeekModels
            | Endpoint::DeepSeekModel => Self::Nothing,
        }
    }

    /// Its fields. Rows of one name stand together, and differ in their vendors.
    pub const fn fields(self) -> &'static [Field] {
        match self {
            Self::Nothing => &[],
            Self::Chat => CHAT,
            Self::Completions => COMPLETIONS,
            Self::Responses => RESPONSES,
            Self::Embeddings => EMBEDDINGS,
            Self::Images => IMAGES,
            Self::ImageEdits => IMAGE_EDITS,
            Self::Speech => SPEECH,
            Self::Transcriptions => TRANSCRIPTIONS,
            Self::Translations => TRANSLATIONS,
            Self::Messages => MESSAGES,
            Self::CountTokens => COUNT_TOKENS,
            Self::Session => SESSION,
        }
    }

    /// Two names for one thing, of which a request may use one.
    pub const fn conflict(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Chat => Some(("max_tokens", "max_completion_tokens")),
            Self::Nothing
            | Self::Completions
            | Self::Responses
            | Self::Embeddings
            | Self::Images
            | Self::ImageEdits
            | Self::Speech
            | Self::Transcriptions
            | Self::Translations
            | Self::Messages
            | Self::CountTokens
            | Self::Session => None,
        }
    }

    /// Whether the requests of this endpoint, or the messages of its sessions, have it.
    pub fn is_spoken_at(self, endpoint: Endpoint) -> bool {
        match self {
            Self::Session => endpoint.body() == BodyKind::WebSocket,
            Self::Nothing
            | Self::Chat
            | Self::Completions
            | Self::Responses
            | Self::Embeddings
            | Self::Images
            | Self::ImageEdits
            | Self::Speech
            | Self::Transcriptions
            | Self::Translations
            | Self::Messages
            | Self::CountTokens => Self::of(endpoint) == self,
        }
    }

    /// What it is called in the document.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Nothing => "no body",
            Self::Chat => "Chat completions",
            Self::Completions => "Completions",
            Self::Responses => "Responses",
            Self::Embeddings => "Embeddings",
            Self::Images => "Image generations",
            Self::ImageEdits => "Image edits",
            Self::Speech => "Speech",
            Self::Transcriptions => "Transcriptions",
            Self::Translations => "Translations",
            Self::Messages => "Messages",
            Self::CountTokens => "Count tokens",
            Self::Session => "Realtime messages",
        }
    }
}

/// More tokens than any model has.
const TOKENS_MOST: u64 = 10_000_000;

/// The most choices that vendors give for one prompt.
const COPIES_MOST: u64 = 128;

/// The most calls of server tools in one call of ours.
const TOOL_CALLS_MOST: u64 = 1000;

const OPENAI_TIERS: &[&str] = &["auto", "default", "flex", "priority", "fast"];
const AZURE_TIERS: &[&str] = &["auto", "default", "priority"];
const DEEPSEEK_TIERS: &[&str] = &["auto", "default"];
const ANTHROPIC_TIERS: &[&str] = &["auto", "standard_only"];
const SPEEDS: &[&str] = &["standard", "fast"];
const AUDIO_FORMATS: &[&str] = &["mp3", "opus", "aac", "flac", "wav", "pcm"];
// Not `svg`: a second model writes it.
const IMAGE_FORMATS: &[&str] = &["png", "webp", "jpeg", "gif"];
const IMAGE_QUALITIES: &[&str] = &["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"];
const LEVELS: &[&str] = &["low", "medium", "high"];

const OPENAI_TIER: Field = priced("service_tier", Bound::Tier, OPENAI_TIERS).of(OPENAI);
const AZURE_TIER: Field = priced("service_tier", Bound::Tier, AZURE_TIERS).of(AZURE);

const CHAT: &[Field] = &[
    MODEL,
    STREAM,
    costs("messages", Bound::Input).at(Place::ChatMessage),
    whole("max_tokens", Bound::Output, TOKENS_MOST),
    whole("max_completion_tokens", Bound::Output, TOKENS_MOST),
    whole("n", Bound::Copies, COPIES_MOST),
    costs("tools", Bound::Tools).at(Place::ChatTool),
    costs("functions", Bound::Tools).at(Place::Function),
    OPENAI_TIER,
    AZURE_TIER,
    priced("service_tier", Bound::Tier, DEEPSEEK_TIERS).of(DEEPSEEK),
    costs("audio", Bound::Medium).at(Place::Audio),
    costs("modalities", Bound::Medium),
    costs("prediction", Bound::Prediction),
    costs("reasoning_effort", Bound::Effort),
    costs("thinking", Bound::Effort).of(DEEPSEEK),
    costs("response_format", Bound::Input).at(Place::Format),
    costs("prompt_cache_options", Bound::CacheWrite),
    costs("prompt_cache_retention", Bound::CacheWrite),
    free("prompt_cache_key"),
    free("stream_options").object(Place::StreamOptions),
    free("temperature"),
    free("top_p"),
    free("frequency_penalty"),
    free("presence_penalty"),
    free("logit_bias").at(Place::Own),
    free("logprobs"),
    free("top_logprobs"),
    free("stop"),
    free("seed"),
    free("tool_choice"),
    free("parallel_tool_calls"),
    free("function_call"),
    free("verbosity"),
    free("metadata").at(Place::Own),
    free("moderation").at(Place::Moderation),
    free("safety_identifier"),
    free("user"),
    free("user_id").of(DEEPSEEK),
    free("user_security_context").at(Place::Own).of(AZURE),
    off("store", Why::Keeps),
    refused("web_search_options", Why::Unbounded),
    refused("data_sources", Why::Connector),
];

const COMPLETIONS: &[Field] = &[
    MODEL,
    STREAM,
    costs("prompt", Bound::Input),
    costs("suffix", Bound::Input),
    whole("max_tokens", Bound::Output, TOKENS_MOST),
    whole("n", Bound::Copies, COPIES_MOST),
    whole("best_of", Bound::Copies, COPIES_MOST),
    free("echo"),
    free("logprobs"),
    free("stream_options").object(Place::StreamOptions),
    free("temperature"),
    free("top_p"),
    free("frequency_penalty"),
    free("presence_penalty"),
    free("logit_bias").at(Place::Own),
    free("stop"),
    free("seed"),
    free("user"),
];

const RESPONSES: &[Field] = &[
    MODEL,
    STREAM,
    costs("input", Bound::Input).at(Place::Item),
    costs("instructions", Bound::Input),
    whole("max_output_tokens", Bound::Output, TOKENS_MOST),
    whole("max_tool_calls", Bound::ToolCalls, TOOL_CALLS_MOST),
    costs("tools", Bound::Tools).at(Place::ResponseTool),
    OPENAI_TIER,
    AZURE_TIER,
    costs("reasoning", Bound::Effort),
    costs("text", Bound::Input).at(Place::Format),
    costs("context_management", Bound::Effort),
    costs("prompt_cache_options", Bound::CacheWrite),
    costs("prompt_cache_retention", Bound::CacheWrite),
    free("prompt_cache_key"),
    free("image"),
    free("include"),
    free("metadata").at(Place::Own),
    free("moderation").at(Place::Moderation),
    free("parallel_tool_calls"),
    free("safety_identifier"),
    free("store"),
    free("stream_options"),
    free("temperature"),
    free("tool_choice"),
    free("top_logprobs"),
    free("top_p"),
    free("truncation"),
    free("user"),
    off("background", Why::Background),
    refused("conversation", Why::Stored),
    refused("previous_response_id", Why::Stored),
    refused("prompt", Why::Stored),
    refused("access_programs", Why::Organisation),
];

const EMBEDDINGS: &[Field] =
    &[MODEL, costs("input", Bound::Input), free("dimensions"), free("encoding_format"), free("user")];

const IMAGES: &[Field] = &[
    MODEL,
    STREAM,
    costs("prompt", Bound::Input),
    whole("n", Bound::Copies, COPIES_MOST),
    costs("size", Bound::Image),
    priced("quality", Bound::Image, IMAGE_QUALITIES),
    priced("complexity", Bound::Image, LEVELS),
    whole("partial_images", Bound::Image, 3),
    whole("frame_count", Bound::Image, 100),
    checked("output_format", IMAGE_FORMATS),
    free("background"),
    free("frame_duration_ms"),
    free("moderation"),
    free("output_compression"),
    free("response_format"),
    free("safety_identifier"),
    free("style"),
    free("user"),
    refused("svg", Why::OtherModel),
];

const IMAGE_EDITS: &[Field] = &[
    MODEL,
    STREAM,
    costs("image", Bound::Input).file(),
    costs("images", Bound::Input),
    costs("mask", Bound::Input).file(),
    costs("markup", Bound::Input).file(),
    costs("prompt", Bound::Input),
    whole("n", Bound::Copies, COPIES_MOST),
    costs("size", Bound::Image),
    priced("quality", Bound::Image, IMAGE_QUALITIES),
    priced("complexity", Bound::Image, LEVELS),
    priced("input_fidelity", Bound::Input, &["high", "low"]),
    whole("partial_images", Bound::Image, 3),
    whole("frame_count", Bound::Image, 100),
    checked("output_format", IMAGE_FORMATS),
    free("background"),
    free("frame_duration_ms"),
    free("moderation"),
    free("output_compression"),
    free("response_format"),
    free("safety_identifier"),
    free("user"),
    refused("svg", Why::OtherModel),
];

const SPEECH: &[Field] = &[
    MODEL,
    costs("input", Bound::Input),
    costs("instructions", Bound::Input),
    text("voice"),
    checked("response_format", AUDIO_FORMATS),
    checked("stream_format", &["sse", "audio"]),
    free("speed"),
];

const TRANSCRIPTIONS: &[Field] = &[
    MODEL,
    STREAM,
    costs("file", Bound::Audio).file(),
    costs("prompt", Bound::Input),
    costs("known_speaker_references", Bound::Audio).many(),
    free("known_speaker_names").many(),
    free("chunking_strategy").many(),
    free("include").many(),
    free("keywords").many(),
    free("language"),
    free("languages").many(),
    free("response_format"),
    free("temperature"),
    free("timestamp_granularities").many(),
];

const TRANSLATIONS: &[Field] = &[
    MODEL,
    costs("file", Bound::Audio).file(),
    costs("prompt", Bound::Input),
    free("response_format"),
    free("temperature"),
];

const MESSAGES: &[Field] = &[
    MODEL,
    STREAM,
    costs("messages", Bound::Input).at(Place::Message),
    costs("system", Bound::Input).at(Place::Block),
    whole("max_tokens", Bound::Output, TOKENS_MOST),
    costs("tools", Bound::Tools).at(Place::MessageTool),
    costs("thinking", Bound::Effort),
    costs("output_config", Bound::Effort).at(Place::Format),
    costs("output_format", Bound::Input).at(Place::Format),
    costs("context_management", Bound::Effort),
    costs("compaction", Bound::Effort),
    costs("cache_control", Bound::CacheWrite),
    priced("service_tier", Bound::Tier, ANTHROPIC_TIERS),
    priced("speed", Bound::Tier, SPEEDS),
    costs("inference_geo", Bound::Tier),
    free("metadata").at(Place::Own),
    free("stop_sequences"),
    free("temperature"),
    free("top_k"),
    free("top_p"),
    free("tool_choice"),
    refused("container", Why::Machine),
    refused("mcp_servers", Why::Connector),
    refused("thread", Why::Stored),
    refused("diagnostics", Why::Stored),
    refused("fallbacks", Why::OtherModel),
    refused("fallback_credit_token", Why::Organisation),
    refused("billing_policy", Why::Organisation),
];

const COUNT_TOKENS: &[Field] = &[
    MODEL,
    costs("messages", Bound::Input).at(Place::Message),
    costs("system", Bound::Input).at(Place::Block),
    costs("tools", Bound::Tools).at(Place::MessageTool),
    free("thinking"),
    free("output_config").at(Place::Format),
    free("output_format").at(Place::Format),
    free("context_management"),
    free("compaction"),
    free("cache_control"),
    priced("speed", Bound::Tier, SPEEDS),
    free("tool_choice"),
    refused("mcp_servers", Why::Connector),
    refused("billing_policy", Why::Organisation),
];

/// Source: `types/realtime` of the openai package, 3.51.0, and the transcription sessions
/// of Azure's preview.
const SESSION: &[Field] = &[
    // One that the vendor does not know it refuses itself; whatever it is, its fields are judged.
    text("type"),
    costs("session", Bound::Input).at(Place::Session),
    costs("response", Bound::Input).at(Place::Session),
    costs("item", Bound::Input).at(Place::SessionItem),
    costs("audio", Bound::Input),
    free("event_id"),
    free("response_id"),
    free("item_id"),
    free("previous_item_id"),
    free("content_index"),
    free("audio_end_ms"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Provider;
    use crate::provider::policy::field::Part;
    use crate::provider::policy::field::Vendors;

    #[test]
    fn a_name_means_one_thing_for_one_vendor() {
        for form in Form::ALL {
            let fields = form.fields();
            for (at, field) in fields.iter().enumerate() {
                assert!(!field.vendors.is_none());
                let first = fields.iter().position(|other| other.name == field.name).unwrap();
                let between = &fields[first..at];
                assert!(between.iter().all(|other| other.name == field.name), "{form:?} {}", field.name);
                let apart = between.iter().all(|other| other.vendors.both(field.vendors).is_none());
                assert!(apart, "{form:?} {}", field.name);
            }
            assert!(fields.len() <= 64, "the set of fields seen is 64 bits");
        }
    }

    #[test]
    fn a_form_has_fields_where_its_endpoints_have_bodies() {
        for endpoint in Endpoint::ALL {
            let form = Form::of(*endpoint);
            let has_body = !matches!(endpoint.body(), BodyKind::Empty | BodyKind::WebSocket);
            assert_eq!(form != Form::Nothing, has_body, "{endpoint:?}");
            assert_eq!(form.fields().contains(&MODEL), has_body);
            let files = form.fields().iter().any(|field| field.part == Part::File);
            let parts = matches!(endpoint.body(), BodyKind::Multipart | BodyKind::JsonOrMultipart);
            assert_eq!(files, parts, "{endpoint:?}");
        }
    }

    #[test]
    fn endpoints_that_share_a_path_share_a_form() {
        for one in Endpoint::ALL {
            for other in Endpoint::ALL {
                if one.method() == other.method() && other.matches(one.template()).is_some() {
                    assert_eq!(Form::of(*one), Form::of(*other), "{one:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn each_vendor_has_a_table_of_its_own_tiers() {
        let of = |provider| {
            let mut rows = CHAT.iter().filter(|field| field.name == "service_tier");
            rows.find(|field| field.vendors.has(provider)).unwrap().takes
        };

        assert_ne!(of(Provider::OpenAi), of(Provider::Azure));
        assert_ne!(of(Provider::Azure), of(Provider::DeepSeek));
        assert!(Vendors::ALL.has(Provider::Anthropic) && !DEEPSEEK.has(Provider::OpenAi));
    }
}
