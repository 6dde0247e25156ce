//! What a body asks for, added up as its parts pass: lengths and numbers, and no text.
//!
//! Invariant: the sums are the same however the body is cut, need no memory that grows with
//! it, and leave out nothing that a model may read.

use super::usage_place::UsagePlace;
use super::usage_place::UsageSpots;
use crate::demand::CacheAsked;
use crate::demand::Demand;
use crate::demand::ImageDemand;
use crate::demand::ImageQuality;
use crate::demand::ImageSize;
use crate::demand::OBJECT_TOKENS;
use crate::demand::RegionAsked;
use crate::demand::TierAsked;
use crate::demand::VALUE_TOKENS;
use crate::demand::VENDOR_TOOL_TOKENS;
use crate::json_scan::Event;
use crate::json_scan::Spot;
use crate::provider::policy::form::Form;
use crate::provider::policy::place::Place;

/// The frames of an animation, when the request does not say how many.
const FRAMES_USUAL: u64 = 9;

/// The most calls of the vendor's own tools, while the request has not said how many.
const TOOL_CALLS_MOST: u64 = 1000;

/// What was counted so far.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    form: Form,
    demand: Demand,
    role: Role,
    inner: Inner,
    /// Prompts that stand beside each other.
    prompts: u64,
    copies: u64,
    /// Uses of the server tool that is being read.
    uses: u64,
    max_tool_calls: Option<u64>,
    image: ImageDemand,
    is_gif: bool,
    frames: Option<u64>,
    /// Whether the form of the answer that is asked for has a place for usage.
    has_statement: bool,
    usage: UsageSpots,
}

/// What the present field of the body is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Not read by a model.
    Unread,
    /// Text, and nothing else.
    Text,
    /// Texts that are read apart.
    Prompts,
    /// The text that is to be spoken.
    Spoken,
    Prediction,
    /// Files, or a list of media.
    Pictures,
    Recording,
    /// What comes out beside text.
    Sound,
    Modalities,
    /// What is done to a long conversation; only summing it up costs.
    Context,
    Compaction,
    Cache,
    StreamOptions,
    Number(Number),
    Word(Word),
}

impl Inner {
    /// Whether a string here is media, by its bytes or its address.
    fn is_media(self) -> bool {
        [Self::Picture, Self::Sound, Self::Media, Self::Bytes].contains(&self)
    }
}

impl Role {
    /// Whether a model may read what stands in the field.
    const fn is_read(self) -> bool {
        match self {
            Self::Text
            | Self::Prompts
            | Self::Spoken
            | Self::Prediction
            | Self::Pictures
            | Self::Recording
            | Self::Sound
            | Self::Context
            | Self::Compaction => true,
            Self::Unread | Self::Modalities | Self::Cache | Self::StreamOptions | Self::Number(_) | Self::Word(_) => {
                false
            }
        }
    }
}

/// What a number is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Output,
    Copies,
    ToolCalls,
    Previews,
    Frames,
}

/// What a word is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Tier,
    Speed,
    Region,
    Size,
    Quality,
    Planning,
    PictureFormat,
    StreamFormat,
    TranscriptFormat,
}

/// What the value that comes next inside a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inner {
    Other,
    /// An image, by its address or its bytes.
    Picture,
    Sound,
    /// A file, a film, an address: media of any kind.
    Media,
    /// Bytes of media.
    Bytes,
    /// Where a block's media come from.
    Source,
    Kind,
    CacheTime,
    CacheMark,
    Uses,
}

impl Tally {
    pub(super) const fn new(form: Form) -> Self {
        Self {
            form,
            demand: Demand::NOTHING,
            role: Role::Text,
            inner: Inner::Other,
            prompts: 0,
            copies: 1,
            uses: 0,
            max_tool_calls: None,
            image: ImageDemand::ANY,
            is_gif: false,
            frames: None,
            // Speech is sound alone, unless it is asked for as events.
            has_statement: !matches!(form, Form::Speech),
            usage: UsageSpots::new(),
        }
    }

    /// What was asked for so far, of an answer that is a stream or not. `searching` says
    /// that the tools are bounded by the body's own field.
    pub(super) fn demand(&self, stream: bool, searching: bool) -> Demand {
        let mut demand = self.demand;
        demand.inputs = self.prompts.max(1);
        demand.answers = self.copies.saturating_mul(demand.inputs);
        demand.stream = stream;
        if searching {
            let calls = self.max_tool_calls.unwrap_or(TOOL_CALLS_MOST);
            demand.server_calls = calls;
            demand.web_searches = calls;
        }
        let draws = matches!(self.form, Form::Images | Form::ImageEdits);
        let frames = self.frames.or(self.is_gif.then_some(FRAMES_USUAL)).unwrap_or(1).max(1);
        demand.image = draws.then_some(ImageDemand { frames, ..self.image });
        demand.states_usage = match self.form {
            Form::Chat | Form::Completions => !stream || self.usage.is_asked(),
            Form::Speech | Form::Transcriptions => self.has_statement,
            // Its answers are text and nothing more.
            Form::Translations => false,
            Form::Nothing
            | Form::Responses
            | Form::Embeddings
            | Form::Images
            | Form::ImageEdits
            | Form::Messages
            | Form::CountTokens
            | Form::Session => true,
        };
        if self.form == Form::Nothing {
            // A session of a socket: anything may be said in it.
            demand.is_media = true;
            demand.audio_in = true;
            demand.audio_out = true;
        }
        demand
    }

    /// Where it is said, or could be said, that a stream is to state its usage.
    pub(super) fn usage_place(&self) -> Option<UsagePlace> {
        matches!(self.form, Form::Chat | Form::Completions).then(|| self.usage.place())?
    }

    /// A field of the body begins; `is_own` when it holds the consumer's own JSON.
    pub(super) fn field(&mut self, name: &str, is_own: bool) {
        self.inner = Inner::Other;
        self.role = if is_own { Role::Unread } else { role(self.form, name) };
    }

    /// A key inside a field; `known` is its text, if it may be one that means something.
    #[inline]
    pub(super) fn key(&mut self, place: Place, len: u64, known: Option<&str>) {
        if self.role == Role::Unread {
            return;
        }
        if place == Place::Own {
            return self.add_text(len);
        }
        self.inner = known.map_or(Inner::Other, |key| inner(place, key));
    }

    /// A value: the field's own at depth 1, others deeper.
    #[inline]
    pub(super) fn value(&mut self, depth: usize, place: Place, event: &Event<'_>) {
        let inner = std::mem::replace(&mut self.inner, Inner::Other);
        if self.role == Role::Unread {
            return;
        }
        if place == Place::MessageTool && *event == Event::ObjectStart {
            self.uses = 0;
        }
        if self.role.is_read() {
            self.read(inner, event);
        }
        if *event == Event::Null {
            return;
        }
        if inner != Inner::Other {
            self.inner_value(inner, event);
        }
        if depth <= 2 {
            self.field_value(depth, event);
        }
    }

    /// Counts a value that a model may read.
    #[inline]
    fn read(&mut self, inner: Inner, event: &Event<'_>) {
        match event {
            Event::ObjectStart => {
                self.demand.structure_tokens = self.demand.structure_tokens.saturating_add(OBJECT_TOKENS);
            }
            Event::ArrayStart => self.add_text(0),
            Event::String(text) if !inner.is_media() => self.add_text(text.len),
            Event::String(_) => {}
            Event::Number(text) => self.add_text(text.len),
            Event::Bool(_) | Event::Null => self.add_text(5),
            Event::ObjectEnd | Event::ArrayEnd | Event::Key(_) => {}
        }
    }

    fn add_text(&mut self, len: u64) {
        self.demand.text_bytes = self.demand.text_bytes.saturating_add(len);
        self.demand.structure_tokens = self.demand.structure_tokens.saturating_add(VALUE_TOKENS);
        if self.role == Role::Prediction {
            self.demand.predicted_bytes = self.demand.predicted_bytes.saturating_add(len + VALUE_TOKENS);
        }
    }

    fn add_media(&mut self, len: u64) {
        self.demand.is_media = true;
        self.demand.media_bytes = self.demand.media_bytes.saturating_add(len);
    }

    fn inner_value(&mut self, inner: Inner, event: &Event<'_>) {
        let len = if let Event::String(text) = event { text.len } else { 0 };
        match inner {
            Inner::Other => {}
            Inner::Picture => {
                self.demand.images = self.demand.images.saturating_add(1);
                self.add_media(len);
            }
            Inner::Sound => {
                self.demand.audio_in = true;
                self.add_media(len);
            }
            Inner::Media | Inner::Bytes => self.add_media(len),
            Inner::Source if *event == Event::ObjectStart => self.demand.is_media = true,
            Inner::Source => {}
            Inner::Kind => {
                if let Event::String(text) = event {
                    self.kind(text.as_str().unwrap_or_default());
                }
            }
            Inner::CacheTime => {
                if let Event::String(text) = event {
                    self.cache(cache_time(text.as_str()));
                }
            }
            Inner::CacheMark => self.cache(CacheAsked::Usual),
            Inner::Uses => self.uses = number(event).unwrap_or(0),
        }
    }

    /// The `type` of an object that is neither a tool nor the consumer's own.
    fn kind(&mut self, name: &str) {
        self.demand.compacts |= self.role == Role::Context && name.starts_with("compact");
        match name {
            // Images of OpenAI's forms are counted by their `image_url`.
            "image" => {
                self.demand.images = self.demand.images.saturating_add(1);
                self.demand.is_media = true;
            }
            "audio" | "input_audio" => {
                self.demand.audio_in = true;
                self.demand.is_media = true;
            }
            "image_url"
            | "input_image"
            | "image_file"
            | "computer_screenshot"
            | "file"
            | "input_file"
            | "document"
            | "video"
            | "video_url"
            | "input_video" => self.demand.is_media = true,
            _ => {}
        }
    }

    fn cache(&mut self, asked: CacheAsked) {
        self.demand.caches = self.demand.caches.max(asked);
    }

    /// A value that a field holds itself, or in its list.
    fn field_value(&mut self, depth: usize, event: &Event<'_>) {
        let text = match event {
            Event::String(text) => text.as_str(),
            Event::ObjectStart
            | Event::ObjectEnd
            | Event::ArrayStart
            | Event::ArrayEnd
            | Event::Key(_)
            | Event::Number(_)
            | Event::Bool(_)
            | Event::Null => None,
        };
        match (self.role, depth, event) {
            (Role::Prompts, 2, Event::String(_) | Event::ArrayStart) => self.prompts = self.prompts.saturating_add(1),
            (Role::Spoken, 1, Event::String(text)) => self.demand.characters = text.chars,
            (Role::Sound, 1, _) => self.demand.audio_out = true,
            (Role::Modalities, 2, _) if text == Some("audio") => self.demand.audio_out = true,
            (Role::Cache, 1, _) => self.cache(CacheAsked::Usual),
            (Role::Compaction, 1, _) => self.demand.compacts = true,
            (Role::Pictures, 1, _) => self.demand.is_media = true,
            (_, 1, Event::Number(_)) => self.number(number(event)),
            (_, 1, Event::String(_)) => self.word(text.unwrap_or_default()),
            _ => {}
        }
    }

    fn number(&mut self, number: Option<u64>) {
        let (Role::Number(role), Some(number)) = (self.role, number) else { return };
        match role {
            // Some vendors read 0 as no bound at all.
            Number::Output => self.demand.output_tokens = Some(number).filter(|number| *number > 0),
            Number::Copies => self.copies = self.copies.max(number),
            Number::ToolCalls => self.max_tool_calls = Some(number),
            Number::Previews => self.image.partial_images = number,
            Number::Frames => self.frames = Some(number),
        }
    }

    fn word(&mut self, word: &str) {
        let Role::Word(role) = self.role else { return };
        match role {
            Word::Tier => self.demand.tier = tier(word),
            Word::Speed => self.demand.is_fast = word == "fast",
            Word::Region => self.demand.region = region(word),
            Word::Size => self.image.size = size(word),
            Word::Quality => self.image.quality = quality(word),
            Word::Planning => self.image.plans = true,
            Word::PictureFormat => self.is_gif = word == "gif",
            Word::StreamFormat => self.has_statement = word == "sse",
            Word::TranscriptFormat => self.has_statement = !matches!(word, "text" | "srt" | "vtt"),
        }
    }

    /// A tool of this kind stands in the body: what the vendor itself says of its own tools
    /// is read by the model too.
    pub(super) fn tool_kind(&mut self, name: &str) {
        if !matches!(name, "function" | "custom" | "namespace") {
            self.demand.structure_tokens = self.demand.structure_tokens.saturating_add(VENDOR_TOOL_TOKENS);
        }
    }

    /// A tool of Anthropic's form is over: what its calls may cost.
    pub(super) fn tool(&mut self, kind: &str) {
        if kind.starts_with("web_search") {
            self.demand.web_searches = self.demand.web_searches.saturating_add(self.uses);
        }
        if kind.starts_with("web_") {
            self.demand.server_calls = self.demand.server_calls.saturating_add(self.uses);
        }
    }

    /// A part of a form begins.
    pub(super) fn part(&mut self, name: &str) {
        self.field(name, false);
        if self.role == Role::Pictures {
            self.demand.images = self.demand.images.saturating_add(1);
            self.demand.is_media = true;
        } else if self.role == Role::Recording {
            self.demand.audio_in = true;
            self.demand.is_media = true;
        } else if self.role.is_read() {
            self.add_text(0);
        }
    }

    /// More content of a part.
    pub(super) fn part_data(&mut self, len: u64) {
        if matches!(self.role, Role::Pictures | Role::Recording) {
            self.add_media(len);
        } else if self.role.is_read() {
            self.demand.text_bytes = self.demand.text_bytes.saturating_add(len);
        }
    }

    /// The text of a part, if it is short.
    pub(super) fn part_text(&mut self, text: &str) {
        self.number(text.parse().ok());
        self.word(text);
    }

    /// The value of `include_usage`.
    pub(super) fn include_usage(&mut self, spot: Spot, asked: bool) {
        self.usage.include_usage(spot, asked);
    }

    /// The value of `stream_options`: an object that begins, or `null`.
    pub(super) fn stream_options(&mut self, spot: Spot, event: &Event<'_>) {
        if self.role == Role::StreamOptions {
            self.usage.options(spot, *event == Event::Null);
        }
    }

    /// A member of `stream_options`.
    pub(super) fn stream_option(&mut self) {
        self.usage.member();
    }

    /// The end of `stream_options`.
    pub(super) fn stream_options_end(&mut self, spot: Spot) {
        self.usage.options_end(spot);
    }

    /// The end of the body, which has fields or none.
    pub(super) fn end(&mut self, spot: Spot, has_fields: bool) {
        self.usage.end(spot, has_fields);
    }
}

fn number(event: &Event<'_>) -> Option<u64> {
    if let Event::Number(text) = event { text.as_str()?.parse().ok() } else { None }
}

fn role(form: Form, name: &str) -> Role {
    match (form, name) {
        (_, "model" | "stream" | "metadata") => Role::Unread,
        (Form::Completions, "prompt") | (Form::Embeddings, "input") => Role::Prompts,
        (Form::Speech, "input") => Role::Spoken,
        (Form::Chat, "prediction") => Role::Prediction,
        (Form::ImageEdits, "image" | "images" | "mask" | "markup") => Role::Pictures,
        (Form::Transcriptions | Form::Translations, "file" | "known_speaker_references") => Role::Recording,
        (_, "max_tokens" | "max_completion_tokens" | "max_output_tokens") => Role::Number(Number::Output),
        (_, "n" | "best_of") => Role::Number(Number::Copies),
        (_, "max_tool_calls") => Role::Number(Number::ToolCalls),
        (_, "service_tier") => Role::Word(Word::Tier),
        (Form::Messages, "speed") => Role::Word(Word::Speed),
        (Form::Messages, "inference_geo") => Role::Word(Word::Region),
        (Form::Messages | Form::Responses, "context_management") => Role::Context,
        (Form::Messages, "compaction") => Role::Compaction,
        (Form::Images | Form::ImageEdits, "size") => Role::Word(Word::Size),
        (Form::Images | Form::ImageEdits, "quality") => Role::Word(Word::Quality),
        (Form::Images | Form::ImageEdits, "complexity") => Role::Word(Word::Planning),
        (Form::Images | Form::ImageEdits, "partial_images") => Role::Number(Number::Previews),
        (Form::Images | Form::ImageEdits, "frame_count") => Role::Number(Number::Frames),
        (Form::Images | Form::ImageEdits, "output_format") => Role::Word(Word::PictureFormat),
        (Form::Chat, "audio") => Role::Sound,
        (Form::Chat, "modalities") => Role::Modalities,
        (Form::Chat | Form::Responses, "prompt_cache_options" | "prompt_cache_retention")
        | (Form::Messages, "cache_control") => Role::Cache,
        (Form::Speech, "stream_format") => Role::Word(Word::StreamFormat),
        (Form::Transcriptions, "response_format") => Role::Word(Word::TranscriptFormat),
        (Form::Chat | Form::Completions, "stream_options") => Role::StreamOptions,
        _ => Role::Text,
    }
}

fn inner(place: Place, key: &str) -> Inner {
    match key {
        "image_url" => Inner::Picture,
        "input_audio" | "audio_url" => Inner::Sound,
        "file" | "file_data" | "file_url" | "url" | "video" | "video_url" | "input_video" => Inner::Media,
        // Of a block that is sealed it is text.
        "data" if place != Place::Block => Inner::Bytes,
        "source" if place == Place::Block => Inner::Source,
        "type" if !place.is_tool() => Inner::Kind,
        "ttl" => Inner::CacheTime,
        "cache_control" | "prompt_cache_breakpoint" => Inner::CacheMark,
        "max_uses" if place == Place::MessageTool => Inner::Uses,
        _ => Inner::Other,
    }
}

fn cache_time(text: Option<&str>) -> CacheAsked {
    match text {
        Some("5m" | "30m") => CacheAsked::Usual,
        Some("1h") => CacheAsked::Hour,
        _ => CacheAsked::Other,
    }
}

fn tier(word: &str) -> TierAsked {
    match word {
        "flex" => TierAsked::Flex,
        "auto" => TierAsked::Auto,
        "priority" | "fast" => TierAsked::Priority,
        _ => TierAsked::Standard,
    }
}

fn region(word: &str) -> RegionAsked {
    match word {
        "global" => RegionAsked::Anywhere,
        "us" => RegionAsked::Us,
        _ => RegionAsked::Other,
    }
}

fn size(word: &str) -> ImageSize {
    let pixels = |word: &str| {
        let (width, height) = word.split_once('x')?;
        width.parse::<u64>().ok()?.checked_mul(height.parse().ok()?)
    };
    match word {
        "auto" => ImageSize::Auto,
        _ => pixels(word).map_or(ImageSize::Unknown, ImageSize::Pixels),
    }
}

fn quality(word: &str) -> ImageQuality {
    match word {
        "low" => ImageQuality::Low,
        "medium" => ImageQuality::Medium,
        "high" | "standard" | "hd" => ImageQuality::High,
        "xhigh" | "max" => ImageQuality::Finer,
        _ => ImageQuality::Auto,
    }
}
