//! The vendors' forms of answers: where in them the numbers stand.
//!
//! Invariant: a number inside a usage object that no table names is seen as unknown, and
//! never passed over.

use std::sync::LazyLock;

use super::Counter;

/// A form of answer. Azure answers in OpenAI's forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Chat completions, and the legacy completions, of OpenAI and of those who follow it.
    Completions,
    /// The same from DeepSeek.
    DeepSeekCompletions,
    /// OpenAI responses.
    Responses,
    /// OpenAI embeddings.
    Embeddings,
    /// OpenAI images.
    Images,
    /// OpenAI speech: audio, or events.
    Speech,
    /// OpenAI transcriptions and translations.
    Transcription,
    /// OpenAI realtime: each message is one JSON text.
    Realtime,
    /// Anthropic messages.
    Messages,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Completions,
        Self::DeepSeekCompletions,
        Self::Responses,
        Self::Embeddings,
        Self::Images,
        Self::Speech,
        Self::Transcription,
        Self::Realtime,
        Self::Messages,
    ];
}

/// What a value in an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// On the way to something.
    Way,
    /// A usage object: every number in it must be known.
    Usage,
    Count(Counter),
    /// Seconds, as a decimal.
    Seconds,
    /// The same of the model that only writes down what a realtime session heard.
    HeardCount(Counter),
    HeardSeconds,
    /// Known, and of no weight.
    Known,
    Model,
    HeardModel,
    Tier,
    Speed,
    Region,
    /// The type of an event.
    Kind,
    /// Text for the consumer.
    Text,
    /// Why the model stopped.
    Finish,
    Error,
}

/// Stands for every element of an array.
const EACH: &str = "[]";

type Row = (&'static str, What);

/// Source: `types/completion_usage.py` and `types/chat` of the openai package, 3.51.0.
const COMPLETIONS: &[Row] = &[
    ("model", What::Model),
    ("service_tier", What::Tier),
    ("error", What::Error),
    ("choices.[].finish_reason", What::Finish),
    ("choices.[].text", What::Text),
    ("choices.[].delta.content", What::Text),
    ("choices.[].delta.refusal", What::Text),
    ("choices.[].delta.reasoning_content", What::Text),
    ("choices.[].delta.function_call.arguments", What::Text),
    ("choices.[].delta.tool_calls.[].function.name", What::Text),
    ("choices.[].delta.tool_calls.[].function.arguments", What::Text),
    ("choices.[].delta.tool_calls.[].custom.input", What::Text),
    ("choices.[].delta.audio.transcript", What::Text),
    ("choices.[].message.content", What::Text),
    ("choices.[].message.refusal", What::Text),
    ("choices.[].message.reasoning_content", What::Text),
    ("choices.[].message.function_call.arguments", What::Text),
    ("choices.[].message.tool_calls.[].function.name", What::Text),
    ("choices.[].message.tool_calls.[].function.arguments", What::Text),
    ("choices.[].message.tool_calls.[].custom.input", What::Text),
    ("choices.[].message.audio.transcript", What::Text),
    ("usage", What::Usage),
    ("usage.prompt_tokens", What::Count(Counter::Input)),
    ("usage.completion_tokens", What::Count(Counter::Output)),
    ("usage.total_tokens", What::Count(Counter::Total)),
    ("usage.prompt_tokens_details.cached_tokens", What::Count(Counter::Cached)),
    ("usage.prompt_tokens_details.cache_write_tokens", What::Count(Counter::CacheWrite)),
    ("usage.prompt_tokens_details.audio_tokens", What::Count(Counter::InputAudio)),
    ("usage.prompt_tokens_details.image_tokens", What::Count(Counter::InputImage)),
    ("usage.prompt_tokens_details.text_tokens", What::Count(Counter::InputText)),
    ("usage.completion_tokens_details.reasoning_tokens", What::Count(Counter::Reasoning)),
    ("usage.completion_tokens_details.audio_tokens", What::Count(Counter::OutputAudio)),
    ("usage.completion_tokens_details.text_tokens", What::Count(Counter::OutputText)),
    // Both are inside `completion_tokens` already, and billed like the rest of it.
    ("usage.completion_tokens_details.accepted_prediction_tokens", What::Known),
    ("usage.completion_tokens_details.rejected_prediction_tokens", What::Known),
];

/// Source: DeepSeek's API reference, "Create chat completion", 2026-11. Its hit and miss
/// say what the other names say once more.
const DEEPSEEK: &[Row] = &[
    ("usage.prompt_cache_hit_tokens", What::Count(Counter::Cached)),
    ("usage.prompt_cache_miss_tokens", What::Count(Counter::CacheMiss)),
    ("usage.prompt_tokens_details.cached_tokens", What::Known),
];

/// Source: `types/responses` of the openai package, 3.51.0. A stream carries the response
/// in its first and last events, one level deeper.
const RESPONSES: &[Row] = &[
    ("type", What::Kind),
    ("model", What::Model),
    ("service_tier", What::Tier),
    ("error", What::Error),
    ("code", What::Known),
    ("delta", What::Text),
    ("status", What::Finish),
    ("output.[].content.[].text", What::Text),
    ("output.[].content.[].refusal", What::Text),
    ("output.[].summary.[].text", What::Text),
    ("output.[].name", What::Text),
    ("output.[].arguments", What::Text),
    ("output.[].input", What::Text),
    ("usage", What::Usage),
    ("usage.input_tokens", What::Count(Counter::Input)),
    ("usage.output_tokens", What::Count(Counter::Output)),
    ("usage.total_tokens", What::Count(Counter::Total)),
    ("usage.input_tokens_details.cached_tokens", What::Count(Counter::Cached)),
    ("usage.input_tokens_details.cache_write_tokens", What::Count(Counter::CacheWrite)),
    ("usage.input_tokens_details.cache_write_tokens_details.ttl_30m_tokens", What::Known),
    ("usage.input_tokens_details.cache_write_tokens_details.ttl_12h_tokens", What::Known),
    ("usage.output_tokens_details.reasoning_tokens", What::Count(Counter::Reasoning)),
    ("response.model", What::Model),
    ("response.service_tier", What::Tier),
    ("response.error", What::Error),
    ("response.usage", What::Usage),
    ("response.usage.input_tokens", What::Count(Counter::Input)),
    ("response.usage.output_tokens", What::Count(Counter::Output)),
    ("response.usage.total_tokens", What::Count(Counter::Total)),
    ("response.usage.input_tokens_details.cached_tokens", What::Count(Counter::Cached)),
    ("response.usage.input_tokens_details.cache_write_tokens", What::Count(Counter::CacheWrite)),
    ("response.usage.input_tokens_details.cache_write_tokens_details.ttl_30m_tokens", What::Known),
    ("response.usage.input_tokens_details.cache_write_tokens_details.ttl_12h_tokens", What::Known),
    ("response.usage.output_tokens_details.reasoning_tokens", What::Count(Counter::Reasoning)),
];

/// Source: `types/create_embedding_response.py` of the openai package, 3.51.0.
const EMBEDDINGS: &[Row] = &[
    ("model", What::Model),
    ("error", What::Error),
    ("usage", What::Usage),
    ("usage.prompt_tokens", What::Count(Counter::Input)),
    ("usage.total_tokens", What::Count(Counter::Total)),
];

/// Source: `types/images_response.py` and `types/image_gen_completed_event.py` of the
/// openai package, 3.51.0. `svg_usage` is another model's bill and not known here.
const IMAGES: &[Row] = &[
    ("type", What::Kind),
    ("error", What::Error),
    ("svg_usage", What::Usage),
    ("usage", What::Usage),
    ("usage.input_tokens", What::Count(Counter::Input)),
    ("usage.output_tokens", What::Count(Counter::Output)),
    ("usage.total_tokens", What::Count(Counter::Total)),
    ("usage.input_tokens_details.text_tokens", What::Count(Counter::InputText)),
    ("usage.input_tokens_details.image_tokens", What::Count(Counter::InputImage)),
    ("usage.output_tokens_details.text_tokens", What::Count(Counter::OutputText)),
    ("usage.output_tokens_details.image_tokens", What::Count(Counter::OutputImage)),
];

/// Source: `types/audio` of the openai package, 3.51.0.
const AUDIO: &[Row] = &[
    ("type", What::Kind),
    ("error", What::Error),
    ("text", What::Text),
    ("usage", What::Usage),
    ("usage.input_tokens", What::Count(Counter::Input)),
    ("usage.output_tokens", What::Count(Counter::Output)),
    ("usage.total_tokens", What::Count(Counter::Total)),
    ("usage.input_token_details.text_tokens", What::Count(Counter::InputText)),
    ("usage.input_token_details.audio_tokens", What::Count(Counter::InputAudio)),
    ("usage.seconds", What::Seconds),
];

/// Source: `types/realtime` of the openai package, 3.51.0.
const REALTIME: &[Row] = &[
    ("type", What::Kind),
    ("delta", What::Text),
    ("session.model", What::Model),
    ("session.audio.input.transcription.model", What::HeardModel),
    ("response.usage", What::Usage),
    ("response.usage.input_tokens", What::Count(Counter::Input)),
    ("response.usage.output_tokens", What::Count(Counter::Output)),
    ("response.usage.total_tokens", What::Count(Counter::Total)),
    ("response.usage.input_token_details.text_tokens", What::Count(Counter::InputText)),
    ("response.usage.input_token_details.audio_tokens", What::Count(Counter::InputAudio)),
    ("response.usage.input_token_details.image_tokens", What::Count(Counter::InputImage)),
    ("response.usage.input_token_details.cached_tokens", What::Count(Counter::Cached)),
    ("response.usage.input_token_details.cached_tokens_details.text_tokens", What::Count(Counter::CachedText)),
    ("response.usage.input_token_details.cached_tokens_details.audio_tokens", What::Count(Counter::CachedAudio)),
    ("response.usage.input_token_details.cached_tokens_details.image_tokens", What::Count(Counter::CachedImage)),
    ("response.usage.output_token_details.text_tokens", What::Count(Counter::OutputText)),
    ("response.usage.output_token_details.audio_tokens", What::Count(Counter::OutputAudio)),
    ("usage", What::Usage),
    ("usage.input_tokens", What::HeardCount(Counter::Input)),
    ("usage.output_tokens", What::HeardCount(Counter::Output)),
    ("usage.total_tokens", What::HeardCount(Counter::Total)),
    ("usage.input_token_details.text_tokens", What::HeardCount(Counter::InputText)),
    ("usage.input_token_details.audio_tokens", What::HeardCount(Counter::InputAudio)),
    ("usage.seconds", What::HeardSeconds),
];

/// Source: `types/usage.py`, `types/message_delta_usage.py` of the anthropic package,
/// 2.10.0. `message_start` carries the message one level deeper.
const MESSAGES: &[Row] = &[
    ("type", What::Kind),
    ("model", What::Model),
    ("error", What::Error),
    ("stop_reason", What::Finish),
    ("content.[].text", What::Text),
    ("content.[].thinking", What::Text),
    ("content_block.text", What::Text),
    ("content_block.name", What::Text),
    ("delta.text", What::Text),
    ("delta.thinking", What::Text),
    ("delta.partial_json", What::Text),
    ("delta.stop_reason", What::Finish),
    ("usage", What::Usage),
    ("usage.input_tokens", What::Count(Counter::Input)),
    ("usage.output_tokens", What::Count(Counter::Output)),
    ("usage.cache_creation_input_tokens", What::Count(Counter::CacheWrite)),
    ("usage.cache_read_input_tokens", What::Count(Counter::Cached)),
    ("usage.cache_creation.ephemeral_5m_input_tokens", What::Count(Counter::CacheWrite5m)),
    ("usage.cache_creation.ephemeral_1h_input_tokens", What::Count(Counter::CacheWrite1h)),
    ("usage.output_tokens_details.thinking_tokens", What::Count(Counter::Reasoning)),
    ("usage.server_tool_use.web_search_requests", What::Count(Counter::WebSearches)),
    ("usage.server_tool_use.web_fetch_requests", What::Count(Counter::WebFetches)),
    ("usage.service_tier", What::Tier),
    ("usage.speed", What::Speed),
    ("usage.inference_geo", What::Region),
    ("message.model", What::Model),
    ("message.usage", What::Usage),
    ("message.usage.input_tokens", What::Count(Counter::Input)),
    ("message.usage.output_tokens", What::Count(Counter::Output)),
    ("message.usage.cache_creation_input_tokens", What::Count(Counter::CacheWrite)),
    ("message.usage.cache_read_input_tokens", What::Count(Counter::Cached)),
    ("message.usage.cache_creation.ephemeral_5m_input_tokens", What::Count(Counter::CacheWrite5m)),
    ("message.usage.cache_creation.ephemeral_1h_input_tokens", What::Count(Counter::CacheWrite1h)),
    ("message.usage.output_tokens_details.thinking_tokens", What::Count(Counter::Reasoning)),
    ("message.usage.server_tool_use.web_search_requests", What::Count(Counter::WebSearches)),
    ("message.usage.server_tool_use.web_fetch_requests", What::Count(Counter::WebFetches)),
    ("message.usage.service_tier", What::Tier),
    ("message.usage.speed", What::Speed),
    ("message.usage.inference_geo", What::Region),
];

impl Form {
    fn rows(self) -> [&'static [Row]; 2] {
        match self {
            Self::Completions => [COMPLETIONS, &[]],
            Self::DeepSeekCompletions => [COMPLETIONS, DEEPSEEK],
            Self::Responses => [RESPONSES, &[]],
            Self::Embeddings => [EMBEDDINGS, &[]],
            Self::Images => [IMAGES, &[]],
            Self::Speech | Self::Transcription => [AUDIO, &[]],
            Self::Realtime => [REALTIME, &[]],
            Self::Messages => [MESSAGES, &[]],
        }
    }

    /// The types of events after which no more output comes, and with which the answer is
    /// whole.
    pub(super) const fn last_events(self) -> &'static [&'static str] {
        match self {
            Self::Completions | Self::DeepSeekCompletions | Self::Embeddings | Self::Realtime => &[],
            Self::Responses => &["response.completed", "response.incomplete", "response.failed"],
            Self::Images => &["image_generation.completed", "image_edit.completed"],
            Self::Speech => &["speech.audio.done"],
            Self::Transcription => &["transcript.text.done"],
            Self::Messages => &["message_stop"],
        }
    }

    /// The paths as a tree, built once.
    pub(super) fn tree(self) -> &'static Tree {
        static TREES: [LazyLock<Tree>; 9] = [
            LazyLock::new(|| Tree::of(Form::Completions)),
            LazyLock::new(|| Tree::of(Form::DeepSeekCompletions)),
            LazyLock::new(|| Tree::of(Form::Responses)),
            LazyLock::new(|| Tree::of(Form::Embeddings)),
            LazyLock::new(|| Tree::of(Form::Images)),
            LazyLock::new(|| Tree::of(Form::Speech)),
            LazyLock::new(|| Tree::of(Form::Transcription)),
            LazyLock::new(|| Tree::of(Form::Realtime)),
            LazyLock::new(|| Tree::of(Form::Messages)),
        ];
        let [completions, deepseek, responses, embeddings, images, speech, transcription, realtime, messages] = &TREES;
        match self {
            Self::Completions => completions,
            Self::DeepSeekCompletions => deepseek,
            Self::Responses => responses,
            Self::Embeddings => embeddings,
            Self::Images => images,
            Self::Speech => speech,
            Self::Transcription => transcription,
            Self::Realtime => realtime,
            Self::Messages => messages,
        }
    }
}

/// The paths of one form.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    what: What,
    /// Inside a usage object, where every number must be known.
    closed: bool,
    children: Vec<(&'static str, Place)>,
}

/// Where in a tree a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: nothing here matters.
    Outside,
    /// Inside a usage object, under a name that no table has.
    Unknown,
    Node(usize),
}

impl Tree {
    pub(super) const ROOT: Place = Place::Node(0);

    fn of(form: Form) -> Self {
        let mut tree = Self { nodes: vec![Node { what: What::Way, closed: false, children: Vec::new() }] };
        for (path, what) in form.rows().into_iter().flatten() {
            let at = path.split('.').fold(0, |at, name| tree.child_or_new(at, name));
            if let Some(node) = tree.nodes.get_mut(at) {
                node.what = *what;
                node.closed |= *what == What::Usage;
            }
        }
        tree
    }

    fn child_or_new(&mut self, at: usize, name: &'static str) -> usize {
        if let Place::Node(child) = self.child(Place::Node(at), name.as_bytes()) {
            return child;
        }
        let new = self.nodes.len();
        let closed = self.nodes.get(at).is_some_and(|node| node.closed);
        self.nodes.push(Node { what: What::Way, closed, children: Vec::new() });
        if let Some(node) = self.nodes.get_mut(at) {
            node.children.push((name, Place::Node(new)));
        }
        new
    }

    /// The place of a member, or with [`Tree::EACH`] of an element.
    pub(super) fn child(&self, at: Place, name: &[u8]) -> Place {
        let Place::Node(at) = at else { return at };
        let Some(node) = self.nodes.get(at) else { return Place::Outside };
        let found = node.children.iter().find(|(child, _)| child.as_bytes() == name);
        match found {
            Some((_, place)) => *place,
            None if node.closed => Place::Unknown,
            None => Place::Outside,
        }
    }

    pub(super) const EACH: &'static [u8] = EACH.as_bytes();

    pub(super) fn what(&self, at: Place) -> Option<What> {
        match at {
            Place::Node(at) => self.nodes.get(at).map(|node| node.what),
            Place::Outside | Place::Unknown => None,
        }
    }
}
