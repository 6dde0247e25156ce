//! Bounds of the quantities of one call, from its demand and what is known of the model.
//!
//! Invariant: each is at least what the vendor can state for such a request; where no
//! vendor says so, the number and where it comes from stand beside it.

use super::BodyKnown;
use super::QuoteError;
use crate::demand::Demand;
use crate::demand::ImageDemand;
use crate::demand::ImageQuality;
use crate::demand::ImageSize;
use crate::price::Sku;
use crate::usage::Form;

/// Tokens that a vendor may put around a prompt: its template, the frame of tools (Anthropic
/// states up to 804 tokens for it), the wish for structured output.
const FRAME_TOKENS: u64 = 1024;

/// Tokens that one search of the web may add to what the model reads. Vendors state none;
/// this is our own bound.
const SEARCH_TOKENS: u64 = 32_768;

/// Tokens that one page fetched from the web may add. Anthropic's documentation counts
/// 125,000 for a paper of 500 KB, its largest example.
const FETCH_TOKENS: u64 = 131_072;

/// Tokens of one image that goes into an image model: OpenAI documents 65 and 129 for each
/// of at most 12 tiles, and at most 6240 more for high fidelity.
const IMAGE_INPUT_TOKENS: u64 = 8192;

/// The longest prompt and the most images of one request, as OpenAI documents: 32,000
/// characters, of at most four bytes; 16 images, a mask and a markup.
const PROMPT_BYTES_MOST: u64 = 4 * 32_000;
const IMAGES_MOST: u64 = 18;

/// Tokens of one image of up to [`IMAGE_PIXELS`] that comes out. OpenAI documents 272 to 408
/// for `low`, 1056 to 1584 for `medium`, 4160 to 6240 for `high` of gpt-image-1, and its
/// calculator gives 7024 for gpt-image-2.
const IMAGE_TOKENS_LOW: u64 = 1024;
const IMAGE_TOKENS_MEDIUM: u64 = 4096;
const IMAGE_TOKENS_HIGH: u64 = 8192;

/// 1536 x 1024, up to which the numbers above hold. Beyond, up to [`IMAGE_PIXELS_MOST`],
/// they are doubled: OpenAI's calculator gives 12,329 tokens for 3584 x 2048.
const IMAGE_PIXELS: u64 = 1536 * 1024;

/// The largest image that OpenAI documents.
const IMAGE_PIXELS_MOST: u64 = 3840 * 2160;

/// Tokens of a preview, as OpenAI documents.
const PREVIEW_TOKENS: u64 = 100;

/// The fewest bytes of a second of recorded speech: the lowest rates of the formats that are
/// taken are 4.75 kbit/s (AMR in MP4), 6 (Opus) and 8 (MP3). Silence can be packed tighter.
const RECORDING_BYTES_PER_SECOND: u64 = 500;

/// Tokens of a second of audio in, as OpenAI documents for its audio models.
const HEARD_TOKENS_PER_SECOND: u64 = 10;

/// Tokens of speech that one character may take. OpenAI's prices of a minute and of a token
/// make 20 tokens a second, and people speak about 15 characters a second: this is twelve
/// times as slow.
const SPOKEN_TOKENS_PER_CHARACTER: u64 = 16;

/// What a call may use, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds<'a> {
    pub(super) sku: &'a Sku,
    pub(super) form: Form,
    pub(super) demand: &'a Demand,
    pub(super) body: BodyKnown,
}

impl Bounds<'_> {
    /// Whether more of the body is still to come.
    pub(super) const fn is_coming(&self) -> bool {
        matches!(self.body, BodyKnown::Coming { .. })
    }

    /// Tokens in: a token is at least one byte of text, and media may fill the window.
    pub(super) fn input(&self) -> Result<u64, QuoteError> {
        let Demand { text_bytes, structure_tokens, inputs, server_calls, web_searches, compacts, .. } = *self.demand;
        let window = self.sku.context_tokens.map(|window| window.saturating_mul(inputs));
        let once = if self.demand.is_media || self.is_coming() {
            window.ok_or(QuoteError::NoWindow)?
        } else {
            let text = text_bytes.saturating_add(structure_tokens).saturating_add(FRAME_TOKENS);
            text.min(window.unwrap_or(u64::MAX))
        };
        let once = if compacts { once.saturating_mul(2) } else { once };
        if server_calls == 0 {
            return Ok(once);
        }
        // After each call of a server tool the model reads all again, with what was found
        // and with what it wrote itself.
        let fetches = server_calls.saturating_sub(web_searches);
        let found = if fetches > 0 { FETCH_TOKENS } else { SEARCH_TOKENS };
        let passes = server_calls.saturating_add(1);
        let again = once.saturating_add(self.output()?).saturating_mul(passes);
        let pairs = server_calls.saturating_mul(passes) / 2;
        let all = again.saturating_add(found.saturating_mul(pairs));
        let full =
            window.map_or(u64::MAX, |window| window.saturating_mul(passes).saturating_mul(1 + u64::from(compacts)));
        Ok(all.min(full))
    }

    /// Tokens out: what the request states, or else the most that the model writes.
    pub(super) fn output(&self) -> Result<u64, QuoteError> {
        let Demand { output_tokens, answers, predicted_bytes, compacts, .. } = *self.demand;
        let field = match self.form {
            Form::Completions => "max_completion_tokens",
            Form::Responses => "max_output_tokens",
            Form::DeepSeekCompletions
            | Form::Messages
            | Form::Embeddings
            | Form::Images
            | Form::Speech
            | Form::Transcription
            | Form::Realtime => "max_tokens",
        };
        let one = output_tokens.or(self.sku.output_tokens_max).ok_or(QuoteError::NoOutputBound(field))?;
        let one = if compacts { one.saturating_mul(2) } else { one };
        Ok(one.saturating_add(predicted_bytes).saturating_mul(answers))
    }

    /// Tokens of texts to embed: nothing stands around them.
    pub(super) fn embedded(&self) -> Result<u64, QuoteError> {
        self.or_declared(self.demand.text_bytes)
    }

    /// Tokens that go into an image model.
    pub(super) fn image_input(&self) -> Result<u64, QuoteError> {
        let Demand { text_bytes, structure_tokens, images, .. } = *self.demand;
        let (text, images) = match self.body {
            BodyKnown::Whole => (text_bytes.saturating_add(structure_tokens), images),
            BodyKnown::Coming { .. } => {
                (text_bytes.max(PROMPT_BYTES_MOST).saturating_add(structure_tokens), images.max(IMAGES_MOST))
            }
        };
        Ok(text.saturating_add(FRAME_TOKENS).saturating_add(images.saturating_mul(IMAGE_INPUT_TOKENS)))
    }

    /// Tokens of the images that come out.
    pub(super) fn image_output(&self) -> Result<u64, QuoteError> {
        let image = self.demand.image.unwrap_or(ImageDemand::ANY);
        let whole = image_tokens(&image)?.saturating_mul(image.frames);
        let previews = image.partial_images.saturating_mul(PREVIEW_TOKENS);
        Ok(whole.saturating_add(previews).saturating_mul(self.demand.answers))
    }

    /// Characters to be spoken.
    pub(super) fn characters(&self) -> Result<u64, QuoteError> {
        self.or_declared(self.demand.characters)
    }

    /// Tokens of text that is to be spoken, with how.
    pub(super) fn spoken_input(&self) -> Result<u64, QuoteError> {
        let known = self.demand.text_bytes.saturating_add(self.demand.structure_tokens);
        Ok(self.or_declared(known)?.saturating_add(FRAME_TOKENS))
    }

    /// Tokens of speech.
    pub(super) fn spoken_output(&self) -> Result<u64, QuoteError> {
        let spoken = self.characters()?.saturating_mul(SPOKEN_TOKENS_PER_CHARACTER).saturating_add(FRAME_TOKENS);
        Ok(spoken.min(self.sku.output_tokens_max.unwrap_or(u64::MAX)))
    }

    /// Milliseconds of a recording.
    pub(super) fn heard_millis(&self) -> Result<u64, QuoteError> {
        let bytes = self.or_declared(self.demand.media_bytes)?;
        let packed = bytes.saturating_mul(1000) / RECORDING_BYTES_PER_SECOND;
        let window = self.sku.context_tokens.map(|tokens| tokens.saturating_mul(1000) / HEARD_TOKENS_PER_SECOND);
        // Whole seconds may be billed as begun.
        Ok(packed.min(window.unwrap_or(u64::MAX)).saturating_add(1000))
    }

    /// What was counted, or as long as more may come, what is declared.
    fn or_declared(&self, counted: u64) -> Result<u64, QuoteError> {
        match self.body {
            BodyKnown::Whole => Ok(counted),
            BodyKnown::Coming { declared } => declared.ok_or(QuoteError::NoLength),
        }
    }
}

/// Tokens of one image.
fn image_tokens(image: &ImageDemand) -> Result<u64, QuoteError> {
    let tokens = match image.quality {
        ImageQuality::Low => IMAGE_TOKENS_LOW,
        ImageQuality::Medium => IMAGE_TOKENS_MEDIUM,
        ImageQuality::High | ImageQuality::Auto => IMAGE_TOKENS_HIGH,
        ImageQuality::Finer => {
            let fix = "name \"low\", \"medium\" or \"high\"";
            return Err(QuoteError::NoPriceFor { field: "quality", fix });
        }
    };
    let tokens = match image.size {
        ImageSize::Pixels(pixels) if pixels <= IMAGE_PIXELS => tokens,
        ImageSize::Pixels(pixels) if pixels <= IMAGE_PIXELS_MOST => tokens * 2,
        ImageSize::Auto => tokens * 2,
        ImageSize::Pixels(_) | ImageSize::Unknown => {
            let fix = "name a size in pixels, up to \"3840x2160\"";
            return Err(QuoteError::NoPriceFor { field: "size", fix });
        }
    };
    Ok(if image.plans { tokens * 2 } else { tokens })
}
