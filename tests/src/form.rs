//! Every endpoint that consumers may call through an agent, with a proper request for each.
//!
//! Invariant: written down from the vendors' documents, not taken from the code under test; a test
//! compares the numbers, so that a new endpoint is tried by everything that tries all.

use crate::upstream::vendor::Vendor;
use serde_json::Value;
use serde_json::json;

/// Between the parts of the kit's forms.
pub const BOUNDARY: &str = "kit--boundary";

/// What a model is asked.
const GREETING: &str = "Grüezi 🙂";

/// The form of errors that a consumer's SDK reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// `{"error":{"message","type","param","code"}}`: OpenAI and DeepSeek.
    OpenAi,
    /// `{"error":{"code","message"}}`.
    Azure,
    /// `{"type":"error","error":{"type","message"},"request_id"}`.
    Anthropic,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Chat completions.
    Chat,
    /// Completions of a text.
    Completion,
    /// OpenAI's responses.
    Response,
    /// Vectors.
    Embedding,
    /// Images from a text.
    Image,
    /// Images from images, as a form.
    Edit,
    /// Speech from text.
    Speech,
    /// Text from speech, as a form.
    Transcription,
    /// English from speech, as a form.
    Translation,
    /// Messages.
    Messages,
    /// How many tokens messages are.
    Count,
}

impl Kind {
    /// Whether the request's body is a form in parts.
    #[must_use]
    pub const fn is_multipart(self) -> bool {
        match self {
            Self::Edit | Self::Transcription | Self::Translation => true,
            Self::Chat
            | Self::Completion
            | Self::Response
            | Self::Embedding
            | Self::Image
            | Self::Speech
            | Self::Messages
            | Self::Count => false,
        }
    }

    /// Fields beside `model`.
    fn fields(self, stream: bool) -> Value {
        let messages = json!([{"role": "user", "content": GREETING}]);
        match self {
            Self::Messages => json!({"messages": messages, "max_tokens": 64, "stream": stream}),
            Self::Chat => with_usage(stream, json!({"messages": messages, "max_tokens": 64})),
            Self::Completion => with_usage(stream, json!({"prompt": GREETING, "max_tokens": 64})),
            Self::Response => {
                json!({"input": GREETING, "max_output_tokens": 64, "store": false, "stream": stream})
            }
            Self::Embedding => json!({"input": GREETING}),
            Self::Image | Self::Edit => json!({"prompt": GREETING, "stream": stream}),
            Self::Speech => {
                let format = if stream { "sse" } else { "audio" };
                json!({"input": GREETING, "voice": "marin", "stream_format": format})
            }
            Self::Transcription => json!({"language": "de", "stream": stream}),
            Self::Translation => json!({"temperature": 0}),
            Self::Count => json!({"messages": messages}),
        }
    }
}

/// A stream that states its usage, so that the hub has nothing to ask for in its consumer's name.
fn with_usage(stream: bool, mut fields: Value) -> Value {
    fields["stream"] = stream.into();
    if stream {
        fields["stream_options"] = json!({"include_usage": true});
    }
    fields
}

macro_rules! forms {
    ($($(#[$doc:meta])* $name:ident = $number:literal: $vendor:ident $errors:ident $kind:ident, $model:literal, $target:literal;)*) => {
        /// An endpoint as consumers call it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Form { $($(#[$doc])* $name,)* }

        impl Form {
            /// All of them.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$name),*];

            /// The endpoint's number on the tunnel.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* }
            }

            /// The request target that names the vendor.
            #[must_use]
            pub const fn target(self) -> &'static str {
                match self { $(Self::$name => $target,)* }
            }

            /// Whose endpoint it is.
            #[must_use]
            pub const fn vendor(self) -> Vendor {
                match self { $(Self::$name => Vendor::$vendor,)* }
            }

            /// The form of its errors.
            #[must_use]
            pub const fn errors(self) -> Errors {
                match self { $(Self::$name => Errors::$errors,)* }
            }

            /// What is asked for.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)* }
            }

            /// A model it knows.
            #[must_use]
            pub const fn model(self) -> &'static str {
                match self { $(Self::$name => $model,)* }
            }
        }
    };
}

forms! {
    /// OpenAI chat completions.
    OpenAi = 101: OpenAi OpenAi Chat, "gpt-4o", "/via/openai/v1/chat/completions";
    /// OpenAI completions.
    OpenAiCompletions = 104: OpenAi OpenAi Completion, "gpt-3.5-turbo-instruct", "/via/openai/v1/completions";
    /// OpenAI responses.
    OpenAiResponses = 105: OpenAi OpenAi Response, "gpt-4o", "/via/openai/v1/responses";
    /// OpenAI embeddings.
    OpenAiEmbeddings = 106: OpenAi OpenAi Embedding, "text-embedding-3-small", "/via/openai/v1/embeddings";
    /// OpenAI images.
    OpenAiImages = 107: OpenAi OpenAi Image, "gpt-image-1", "/via/openai/v1/images/generations";
    /// OpenAI image edits.
    OpenAiEdits = 108: OpenAi OpenAi Edit, "gpt-image-1", "/via/openai/v1/images/edits";
    /// OpenAI speech.
    OpenAiSpeech = 109: OpenAi OpenAi Speech, "gpt-4o-mini-tts", "/via/openai/v1/audio/speech";
    /// OpenAI transcriptions.
    OpenAiTranscriptions = 110: OpenAi OpenAi Transcription, "gpt-4o-transcribe", "/via/openai/v1/audio/transcriptions";
    /// OpenAI translations.
    OpenAiTranslations = 111: OpenAi OpenAi Translation, "whisper-1", "/via/openai/v1/audio/translations";
    /// Azure chat completions, by deployment.
    AzureDeployment = 201: Azure Azure Chat, "gpt-4o", "/via/azure/kit/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";
    /// Azure chat completions, v1 API.
    AzureV1 = 202: Azure Azure Chat, "gpt-4o", "/via/azure/kit/openai/v1/chat/completions";
    /// Azure completions, by deployment.
    AzureDeploymentCompletions = 204: Azure Azure Completion, "gpt-4o", "/via/azure/kit/openai/deployments/gpt-4o/completions?api-version=2024-10-21";
    /// Azure embeddings, by deployment.
    AzureDeploymentEmbeddings = 205: Azure Azure Embedding, "gpt-4o", "/via/azure/kit/openai/deployments/gpt-4o/embeddings?api-version=2024-10-21";
    /// Azure images, by deployment.
    AzureDeploymentImages = 206: Azure Azure Image, "gpt-4o", "/via/azure/kit/openai/deployments/gpt-4o/images/generations?api-version=2024-10-21";
    /// Azure image edits, by deployment.
    AzureDeploymentEdits = 207: Azure Azure Edit, "gpt-4o", "/via/azure/kit/openai/deployments/gpt-4o/images/edits?api-version=2024-10-21";
    /// Azure speech, by deployment.
    AzureDeploymentSpeech = 208: Azure Azure Speech, "gpt-4o", "/via/azure/kit/openai/deployments/gpt-4o/audio/speech?api-version=2024-10-21";
    /// Azure transcriptions, by deployment.
    AzureDeploymentTranscriptions = 209: Azure Azure Transcription, "gpt-4o", "/via/azure/kit/openai/deployments/gpt-4o/audio/transcriptions?api-version=2024-10-21";
    /// Azure translations, by deployment.
    AzureDeploymentTranslations = 210: Azure Azure Translation, "gpt-4o", "/via/azure/kit/openai/deployments/gpt-4o/audio/translations?api-version=2024-10-21";
    /// Azure responses, dated API.
    AzureDatedResponses = 211: Azure Azure Response, "gpt-4o", "/via/azure/kit/openai/responses?api-version=2025-04-01-preview";
    /// Azure completions, v1 API.
    AzureCompletions = 213: Azure Azure Completion, "gpt-4o", "/via/azure/kit/openai/v1/completions";
    /// Azure responses, v1 API.
    AzureResponses = 214: Azure Azure Response, "gpt-4o", "/via/azure/kit/openai/v1/responses";
    /// Azure embeddings, v1 API.
    AzureEmbeddings = 215: Azure Azure Embedding, "gpt-4o", "/via/azure/kit/openai/v1/embeddings";
    /// Azure images, v1 API.
    AzureImages = 216: Azure Azure Image, "gpt-4o", "/via/azure/kit/openai/v1/images/generations";
    /// Azure image edits, v1 API.
    AzureEdits = 217: Azure Azure Edit, "gpt-4o", "/via/azure/kit/openai/v1/images/edits";
    /// Azure speech, v1 API.
    AzureSpeech = 218: Azure Azure Speech, "gpt-4o", "/via/azure/kit/openai/v1/audio/speech";
    /// Azure transcriptions, v1 API.
    AzureTranscriptions = 219: Azure Azure Transcription, "gpt-4o", "/via/azure/kit/openai/v1/audio/transcriptions";
    /// Azure translations, v1 API.
    AzureTranslations = 220: Azure Azure Translation, "gpt-4o", "/via/azure/kit/openai/v1/audio/translations";
    /// Anthropic messages.
    Anthropic = 301: Anthropic Anthropic Messages, "claude-haiku-4-5-20251001", "/via/anthropic/v1/messages";
    /// Anthropic's count of tokens.
    AnthropicCount = 304: Anthropic Anthropic Count, "claude-haiku-4-5-20251001", "/via/anthropic/v1/messages/count_tokens";
    /// DeepSeek chat completions.
    DeepSeek = 401: DeepSeek OpenAi Chat, "deepseek-chat", "/via/deepseek/chat/completions";
    /// DeepSeek messages.
    DeepSeekMessages = 402: DeepSeek Anthropic Messages, "deepseek-chat", "/via/deepseek/anthropic/v1/messages";
    /// DeepSeek chat completions that go on with a prefix.
    DeepSeekPrefix = 405: DeepSeek OpenAi Chat, "deepseek-chat", "/via/deepseek/beta/chat/completions";
    /// DeepSeek completions that fill in.
    DeepSeekFill = 406: DeepSeek OpenAi Completion, "deepseek-chat", "/via/deepseek/beta/completions";
}

impl Form {
    /// One of each vendor's ways, for what costs too much time with all.
    pub const FEW: [Self; 6] = [
        Self::OpenAi,
        Self::AzureDeployment,
        Self::OpenAiTranscriptions,
        Self::Anthropic,
        Self::DeepSeek,
        Self::DeepSeekMessages,
    ];

    /// Those whose requests are JSON.
    #[must_use]
    pub fn json() -> Vec<Self> {
        Self::ALL.into_iter().filter(|form| !form.kind().is_multipart()).collect()
    }

    /// The type of its body.
    #[must_use]
    pub fn content_type(self) -> String {
        if self.kind().is_multipart() {
            return format!("multipart/form-data; boundary={BOUNDARY}");
        }
        "application/json".to_owned()
    }

    /// A proper body, model first.
    #[must_use]
    pub fn body(self, stream: bool) -> Vec<u8> {
        let content = if self.kind().is_multipart() { "a sound, or a picture" } else { GREETING };
        self.filled(stream, content, true)
    }

    /// A proper body of exactly this many bytes: a long text or a large file, the model first or last.
    #[must_use]
    pub fn sized_body(self, bytes: usize, model_first: bool) -> Vec<u8> {
        let room = bytes.saturating_sub(self.filled(false, "", model_first).len());
        let filler = "é".repeat(room / 2) + &"x".repeat(room % 2);
        self.filled(false, &filler, model_first)
    }

    fn filled(self, stream: bool, content: &str, model_first: bool) -> Vec<u8> {
        let fields = self.kind().fields(stream);
        if self.kind().is_multipart() {
            return self.parts(&fields, content, model_first);
        }
        let model = format!("\"model\":\"{}\"", self.model());
        let rest = fields.to_string().replacen(GREETING, content, 1);
        let rest = rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
        if model_first { format!("{{{model},{rest}}}") } else { format!("{{{rest},{model}}}") }.into_bytes()
    }

    fn parts(self, fields: &Value, content: &str, model_first: bool) -> Vec<u8> {
        let mut body = Vec::new();
        let mut part = |head: String, content: &[u8]| {
            body.extend(format!("--{BOUNDARY}\r\ncontent-disposition: form-data; {head}\r\n\r\n").into_bytes());
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        };
        if model_first {
            part("name=\"model\"".to_owned(), self.model().as_bytes());
        }
        for (name, value) in fields.as_object().into_iter().flatten() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            part(format!("name=\"{name}\""), text.as_bytes());
        }
        let name = if self.kind() == Kind::Edit { "image" } else { "file" };
        let kind = if self.kind() == Kind::Edit { "image/png" } else { "audio/mpeg" };
        part(format!("name=\"{name}\"; filename=\"a.bin\"\r\ncontent-type: {kind}"), content.as_bytes());
        if !model_first {
            part("name=\"model\"".to_owned(), self.model().as_bytes());
        }
        body.extend(format!("--{BOUNDARY}--\r\n").into_bytes());
        body
    }
}
