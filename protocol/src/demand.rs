//! The most that a request may use, in quantities: what a hold is made of, and what both
//! sides estimate with where the vendor states nothing.
//!
//! Invariant: every quantity is a bound from above of what the request asks for; a price is
//! no concern here.

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Bytes of the strings and numbers that a model may read, unescaped: all of the body
    /// but the model's name, metadata and media.
    pub text_bytes: u64,
    /// Tokens that their arrangement may add at most: see [`OBJECT_TOKENS`] and
    /// [`VALUE_TOKENS`] and [`VENDOR_TOOL_TOKENS`].
    pub structure_tokens: u64,
    /// Characters of the text that is to be spoken, for models that are sold by them.
    pub characters: u64,
    /// Texts that are read apart, each in a context window of its own; at least 1.
    pub inputs: u64,
    /// Images that go in.
    pub images: u64,
    /// Bytes of media that go in: files of a form, and strings of JSON as they are written.
    pub media_bytes: u64,
    /// Whether any media, file, URL or reference goes in, whose tokens nobody can count.
    pub is_media: bool,
    /// Whether audio goes in.
    pub audio_in: bool,
    /// The most tokens out that the request states, for one answer.
    pub output_tokens: Option<u64>,
    /// Bytes of a predicted output: what of it was wrong is billed as output.
    pub predicted_bytes: u64,
    /// Answers that are made, each up to the bound of the output; at least 1.
    pub answers: u64,
    /// Whether audio may come out.
    pub audio_out: bool,
    /// Searches of the web at most.
    pub web_searches: u64,
    /// Calls at most of tools that the vendor runs itself, searches included. After each
    /// the model reads all again.
    pub server_calls: u64,
    /// Whether the vendor may sum up a long conversation with a pass of its own.
    pub compacts: bool,
    /// What is asked of the prompt's cache.
    pub caches: CacheAsked,
    /// The class of service that is asked for.
    pub tier: TierAsked,
    /// Whether the dearer fast mode is asked for.
    pub is_fast: bool,
    /// Where the call is to be served.
    pub region: RegionAsked,
    /// The images that come out.
    pub image: Option<ImageDemand>,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// Whether the vendor will state the usage in this form of answer, if nothing breaks off.
    pub states_usage: bool,
}

/// Tokens that an object may add to the text in it, such as the frame of a message.
pub const OBJECT_TOKENS: u64 = 16;

/// Tokens that any other value may add to its text: quotes, a colon, a comma.
pub const VALUE_TOKENS: u64 = 4;

/// Tokens that the vendor's own description of one of its tools may have. Anthropic states
/// up to 735 for a tool and 804 for the frame around tools; this is more than any.
pub const VENDOR_TOOL_TOKENS: u64 = 4096;

/// What is asked of the prompt's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheAsked {
    /// Nothing. A vendor may still write one by itself.
    Nothing,
    /// Writing, for the usual time.
    Usual,
    /// Writing, for one hour.
    Hour,
    /// Writing for a time that has no price here.
    Other,
}

/// The class of service that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TierAsked {
    /// The usual one, or nothing is said.
    Standard,
    /// The slower and cheaper one.
    Flex,
    /// As the account is set up: the dearer one, where there is one.
    Auto,
    /// The faster and dearer one.
    Priority,
}

/// Where a call is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegionAsked {
    /// Nothing is said, or anywhere.
    Anywhere,
    /// In the United States only.
    Us,
    /// Somewhere else, for which there is no price here.
    Other,
}

/// The images that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageDemand {
    /// How large.
    pub size: ImageSize,
    /// How fine.
    pub quality: ImageQuality,
    /// Previews of each at most.
    pub partial_images: u64,
    /// Frames of each; at least 1.
    pub frames: u64,
    /// Whether it is said how much of the work is to be planning.
    pub plans: bool,
}

/// How large an image is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageSize {
    /// The vendor chooses, or nothing is said.
    Auto,
    /// In pixels.
    Pixels(u64),
    /// In words that are not known here.
    Unknown,
}

/// How fine an image is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageQuality {
    /// The vendor chooses the best, or nothing is said.
    Auto,
    /// `low`.
    Low,
    /// `medium`.
    Medium,
    /// `high`, and the names of old models.
    High,
    /// Finer than `high`.
    Finer,
}

impl Demand {
    /// A request of which nothing is known yet but that it wants one answer.
    pub const NOTHING: Self = Self {
        text_bytes: 0,
        structure_tokens: 0,
        characters: 0,
        inputs: 1,
        images: 0,
        media_bytes: 0,
        is_media: false,
        audio_in: false,
        output_tokens: None,
        predicted_bytes: 0,
        answers: 1,
        audio_out: false,
        web_searches: 0,
        server_calls: 0,
        compacts: false,
        caches: CacheAsked::Nothing,
        tier: TierAsked::Standard,
        is_fast: false,
        region: RegionAsked::Anywhere,
        image: None,
        stream: false,
        states_usage: true,
    };
}

impl Default for Demand {
    fn default() -> Self {
        Self::NOTHING
    }
}

impl ImageDemand {
    /// One image of which nothing is said.
    pub const ANY: Self =
        Self { size: ImageSize::Auto, quality: ImageQuality::Auto, partial_images: 0, frames: 1, plans: false };
}
