//! From what a vendor states to what is billed: meters that do not overlap, each with a
//! price of its own.
//!
//! Invariant: every billed unit is in exactly one meter.

use super::Counter;
use super::Counters;
use super::Doubt;
use super::Doubts;
use super::Form;

/// Something that has a price. The numbers are on the wire and in ledgers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "&str", into = "&'static str")]
#[repr(u8)]
pub enum Meter {
    /// Tokens of text in, read afresh.
    Input = 1,
    /// Tokens in, read from a cache.
    CachedInput = 2,
    /// Tokens written to a cache for the vendor's usual time.
    CacheWrite = 3,
    /// Tokens written to a cache for one hour.
    CacheWrite1h = 4,
    /// Tokens of text out, hidden reasoning included.
    Output = 5,
    /// Tokens of audio in.
    AudioInput = 6,
    /// Tokens of audio in, read from a cache.
    CachedAudioInput = 7,
    /// Tokens of audio out.
    AudioOutput = 8,
    /// Tokens of images in.
    ImageInput = 9,
    /// Tokens of images in, read from a cache.
    CachedImageInput = 10,
    /// Tokens of images out.
    ImageOutput = 11,
    /// Milliseconds of audio in.
    AudioMillis = 12,
    /// Searches of the web.
    WebSearch = 13,
    /// Characters that were spoken.
    Characters = 14,
}

impl Meter {
    /// All of them, by number.
    pub const ALL: &'static [Self] = &[
        Self::Input,
        Self::CachedInput,
        Self::CacheWrite,
        Self::CacheWrite1h,
        Self::Output,
        Self::AudioInput,
        Self::CachedAudioInput,
        Self::AudioOutput,
        Self::ImageInput,
        Self::CachedImageInput,
        Self::ImageOutput,
        Self::AudioMillis,
        Self::WebSearch,
        Self::Characters,
    ];

    /// The number on the wire and in ledgers.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The meter with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|meter| meter.number() == number)
    }

    /// A short name, for bills and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Input => "input_tokens",
            Self::CachedInput => "cached_input_tokens",
            Self::CacheWrite => "cache_write_tokens",
            Self::CacheWrite1h => "cache_write_1h_tokens",
            Self::Output => "output_tokens",
            Self::AudioInput => "audio_input_tokens",
            Self::CachedAudioInput => "cached_audio_input_tokens",
            Self::AudioOutput => "audio_output_tokens",
            Self::ImageInput => "image_input_tokens",
            Self::CachedImageInput => "cached_image_input_tokens",
            Self::ImageOutput => "image_output_tokens",
            Self::AudioMillis => "audio_milliseconds",
            Self::WebSearch => "web_searches",
            Self::Characters => "characters",
        }
    }

    /// Whether it counts tokens that went in: how long a call is, which some prices depend on.
    pub const fn is_input_tokens(self) -> bool {
        match self {
            Self::Input
            | Self::CachedInput
            | Self::CacheWrite
            | Self::CacheWrite1h
            | Self::AudioInput
            | Self::CachedAudioInput
            | Self::ImageInput
            | Self::CachedImageInput => true,
            Self::Output
            | Self::AudioOutput
            | Self::ImageOutput
            | Self::AudioMillis
            | Self::WebSearch
            | Self::Characters => false,
        }
    }

    /// Whether it counts tokens at all.
    pub const fn is_tokens(self) -> bool {
        match self {
            Self::Output | Self::AudioOutput | Self::ImageOutput => true,
            Self::AudioMillis | Self::WebSearch | Self::Characters => false,
            Self::Input
            | Self::CachedInput
            | Self::CacheWrite
            | Self::CacheWrite1h
            | Self::AudioInput
            | Self::CachedAudioInput
            | Self::ImageInput
            | Self::CachedImageInput => true,
        }
    }

    const fn index(self) -> usize {
        self as usize - 1
    }
}

/// Text that names no meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no such meter")]
pub struct UnknownMeter;

impl TryFrom<&str> for Meter {
    type Error = UnknownMeter;

    fn try_from(name: &str) -> Result<Self, UnknownMeter> {
        Self::ALL.iter().copied().find(|meter| meter.name() == name).ok_or(UnknownMeter)
    }
}

impl From<Meter> for &'static str {
    fn from(meter: Meter) -> Self {
        meter.name()
    }
}

/// A quantity of every [`Meter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meters {
    quantities: [u64; Meter::ALL.len()],
}

impl Meters {
    /// The quantity of one meter.
    pub fn get(&self, meter: Meter) -> u64 {
        self.quantities.get(meter.index()).copied().unwrap_or(0)
    }

    /// The meters that are not 0, by number.
    pub fn iter(&self) -> impl Iterator<Item = (Meter, u64)> + '_ {
        Meter::ALL.iter().map(|meter| (*meter, self.get(*meter))).filter(|(_, quantity)| *quantity > 0)
    }

    /// All tokens that went in.
    pub fn input_tokens(&self) -> u64 {
        let inputs = self.iter().filter(|(meter, _)| meter.is_input_tokens());
        inputs.fold(0, |sum, (_, quantity)| sum.saturating_add(quantity))
    }

    /// Sets the quantity of one meter.
    pub fn set(&mut self, meter: Meter, quantity: u64) {
        if let Some(slot) = self.quantities.get_mut(meter.index()) {
            *slot = quantity;
        }
    }

    /// What these numbers mean for the bill in this form, and whether they contradict
    /// each other.
    pub fn of(form: Form, stated: &Counters) -> (Self, Doubts) {
        let mut meters = Self::default();
        let mut doubts = Doubts::default();
        match form {
            Form::Messages => meters.messages(stated, &mut doubts),
            Form::DeepSeekCompletions => meters.deepseek(stated, &mut doubts),
            Form::Realtime => meters.realtime(stated, &mut doubts),
            Form::Completions | Form::Responses | Form::Embeddings => meters.text(stated, &mut doubts),
            Form::Images => meters.images(stated, &mut doubts),
            Form::Speech => {
                meters.set(Meter::Input, stated.or_zero(Counter::Input));
                meters.set(Meter::AudioOutput, stated.or_zero(Counter::Output));
            }
            Form::Transcription => meters.transcription(stated, &mut doubts),
        }
        if form != Form::Messages {
            check_total(stated, &mut doubts);
        }
        (meters, doubts)
    }

    /// OpenAI: caches and audio are parts of the input, audio is a part of the output.
    fn text(&mut self, stated: &Counters, doubts: &mut Doubts) {
        let cached = stated.or_zero(Counter::Cached);
        let written = stated.or_zero(Counter::CacheWrite);
        let audio = stated.or_zero(Counter::InputAudio);
        let input = stated.or_zero(Counter::Input);
        if cached > input || written > input || audio > input {
            doubts.add(Doubt::Contradiction);
        }
        // What is read and written in one go is in both: their sum may exceed the input.
        self.set(Meter::Input, input.saturating_sub(cached).saturating_sub(written).saturating_sub(audio));
        self.set(Meter::CachedInput, cached);
        self.set(Meter::CacheWrite, written);
        self.set(Meter::AudioInput, audio);
        self.output(stated, Counter::OutputAudio, Meter::AudioOutput, doubts);
    }

    /// DeepSeek: hit and miss are all of the input.
    fn deepseek(&mut self, stated: &Counters, doubts: &mut Doubts) {
        let (input, hit) = (stated.or_zero(Counter::Input), stated.or_zero(Counter::Cached));
        let miss = stated.get(Counter::CacheMiss).unwrap_or(input.saturating_sub(hit));
        if hit.saturating_add(miss) != input {
            doubts.add(Doubt::Contradiction);
        }
        self.set(Meter::Input, miss);
        self.set(Meter::CachedInput, hit);
        self.set(Meter::Output, stated.or_zero(Counter::Output));
    }

    /// Anthropic: input, what was read from and what was written to a cache add up. The
    /// split by time comes once; what a later total has beyond it is of the usual time.
    fn messages(&mut self, stated: &Counters, doubts: &mut Doubts) {
        let split_5m = stated.or_zero(Counter::CacheWrite5m);
        let hour = stated.or_zero(Counter::CacheWrite1h);
        let written = stated.get(Counter::CacheWrite).unwrap_or(split_5m.saturating_add(hour));
        if split_5m.saturating_add(hour) > written {
            doubts.add(Doubt::Contradiction);
        }
        let hour = hour.min(written);
        self.set(Meter::Input, stated.or_zero(Counter::Input));
        self.set(Meter::CachedInput, stated.or_zero(Counter::Cached));
        self.set(Meter::CacheWrite, written - hour);
        self.set(Meter::CacheWrite1h, hour);
        self.set(Meter::Output, stated.or_zero(Counter::Output));
        self.set(Meter::WebSearch, stated.or_zero(Counter::WebSearches));
    }

    /// Realtime: text, audio and images have a price each, cached or not.
    fn realtime(&mut self, stated: &Counters, doubts: &mut Doubts) {
        let kinds = [
            (Counter::InputAudio, Counter::CachedAudio, Meter::AudioInput, Meter::CachedAudioInput),
            (Counter::InputImage, Counter::CachedImage, Meter::ImageInput, Meter::CachedImageInput),
        ];
        let (mut others, mut cached_others) = (0_u64, 0_u64);
        for (all, cached, meter, cached_meter) in kinds {
            let (all, cached) = (stated.or_zero(all), stated.or_zero(cached));
            if cached > all {
                doubts.add(Doubt::Contradiction);
            }
            self.set(meter, all.saturating_sub(cached));
            self.set(cached_meter, cached.min(all));
            others = others.saturating_add(all);
            cached_others = cached_others.saturating_add(cached);
        }
        // Text is what is left, so that no token of the total goes unbilled.
        let text = stated.or_zero(Counter::Input).checked_sub(others);
        let cached_text = stated.or_zero(Counter::Cached).checked_sub(cached_others);
        let (Some(text), Some(cached_text)) = (text, cached_text) else {
            doubts.add(Doubt::Contradiction);
            return self.output(stated, Counter::OutputAudio, Meter::AudioOutput, doubts);
        };
        let stated_text = stated.get(Counter::InputText).unwrap_or(text);
        if cached_text > text || stated_text != text {
            doubts.add(Doubt::Contradiction);
        }
        self.set(Meter::Input, text.saturating_sub(cached_text));
        self.set(Meter::CachedInput, cached_text.min(text));
        self.output(stated, Counter::OutputAudio, Meter::AudioOutput, doubts);
    }

    /// Images: the output is images, as far as nothing else is said of it.
    fn images(&mut self, stated: &Counters, doubts: &mut Doubts) {
        let (input, output) = (stated.or_zero(Counter::Input), stated.or_zero(Counter::Output));
        let (image, text) = (stated.or_zero(Counter::InputImage), stated.or_zero(Counter::OutputText));
        if image > input || text > output {
            doubts.add(Doubt::Contradiction);
        }
        self.set(Meter::Input, input.saturating_sub(image));
        self.set(Meter::ImageInput, image.min(input));
        self.set(Meter::Output, text.min(output));
        self.set(Meter::ImageOutput, output.saturating_sub(text));
    }

    /// Transcriptions: tokens, of which what is not text is audio, or time.
    fn transcription(&mut self, stated: &Counters, doubts: &mut Doubts) {
        let (input, text) = (stated.or_zero(Counter::Input), stated.or_zero(Counter::InputText));
        if text > input {
            doubts.add(Doubt::Contradiction);
        }
        self.set(Meter::Input, text.min(input));
        self.set(Meter::AudioInput, input.saturating_sub(text));
        self.set(Meter::Output, stated.or_zero(Counter::Output));
        self.set(Meter::AudioMillis, stated.or_zero(Counter::AudioMillis));
    }

    fn output(&mut self, stated: &Counters, part: Counter, meter: Meter, doubts: &mut Doubts) {
        let (output, part) = (stated.or_zero(Counter::Output), stated.or_zero(part));
        if part > output {
            doubts.add(Doubt::Contradiction);
        }
        self.set(Meter::Output, output.saturating_sub(part));
        self.set(meter, part.min(output));
    }
}

fn check_total(stated: &Counters, doubts: &mut Doubts) {
    let sum = stated.or_zero(Counter::Input).saturating_add(stated.or_zero(Counter::Output));
    if stated.get(Counter::Total).is_some_and(|total| total != sum) {
        doubts.add(Doubt::Contradiction);
    }
}
