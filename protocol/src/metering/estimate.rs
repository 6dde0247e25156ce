//! What is taken where a vendor did not say: bytes for tokens, and time for output.
//!
//! Invariant: an estimate is made of what both sides saw, and of nothing else.

use crate::demand::Demand;
use crate::price::Sku;
use crate::usage::Counter;
use crate::usage::Form;
use crate::usage::Meter;
use crate::usage::Meters;
use crate::usage::Reading;

/// Bytes of text that are taken for a token.
pub const BYTES_PER_TOKEN: u64 = 4;

/// Tokens that an image is taken for.
pub const IMAGE_TOKENS: u64 = 1_000;

/// Bytes of audio and files, as they were sent, that are taken for a token.
pub const MEDIA_BYTES_PER_TOKEN: u64 = 1_600;

/// Bytes of audio that are taken for a millisecond, where time is what costs.
pub const MEDIA_BYTES_PER_MILLI: u64 = 16;

/// The hub's measure may be so much longer than the agent's own: its clock starts first.
const LONGER_MS_MAX: u32 = 1_000;

/// It may be so much shorter: the way from the hub.
const SHORTER_MS_MAX: u32 = 5_000;

/// How long the agent takes a request to have been under way: what the hub said with its
/// ABORT (0 is nothing), if it fits the agent's own measure; and whether it did.
pub const fn agreed_elapsed_ms(own_ms: u32, said_ms: u32) -> (u32, bool) {
    let too_long = said_ms > own_ms.saturating_add(LONGER_MS_MAX);
    let too_short = said_ms < own_ms.saturating_sub(SHORTER_MS_MAX);
    if said_ms == 0 || too_long || too_short { (own_ms, false) } else { (said_ms, true) }
}

/// Adds to what was stated what is not known, with the time that output may have been made
/// in, if it counts. Says whether anything had to be added.
pub(super) fn complete(
    meters: &mut Meters,
    form: Form,
    sku: Option<&Sku>,
    demand: &Demand,
    reading: &Reading,
    elapsed_ms: u32,
) -> bool {
    if form == Form::Transcription && costs_by_time(sku) {
        let unknown = reading.counters.get(Counter::AudioMillis).is_none();
        if unknown {
            meters.set(Meter::AudioMillis, demand.media_bytes.div_ceil(MEDIA_BYTES_PER_MILLI));
        }
        return unknown;
    }
    let input_unknown = reading.counters.get(Counter::Input).is_none();
    if input_unknown {
        add_input(meters, form, sku, demand);
    }
    let unknown_output = output_meter(form).filter(|_| !reading.output_final);
    if let Some(meter) = unknown_output {
        let by_time = sku.map_or(0, |sku| u64::from(elapsed_ms) * u64::from(sku.abort_tokens_per_second) / 1_000);
        let by_text = reading.text_bytes.div_ceil(BYTES_PER_TOKEN);
        let most = output_max(sku, demand);
        meters.set(meter, by_text.max(by_time).max(meters.get(meter)).min(most));
    }
    input_unknown || unknown_output.is_some()
}

fn costs_by_time(sku: Option<&Sku>) -> bool {
    sku.is_some_and(|sku| sku.rates.iter().any(|rate| rate.meter == Meter::AudioMillis))
}

fn add_input(meters: &mut Meters, form: Form, sku: Option<&Sku>, demand: &Demand) {
    let media = demand.media_bytes.div_ceil(MEDIA_BYTES_PER_TOKEN);
    let images = demand.images.saturating_mul(IMAGE_TOKENS);
    let text = demand.text_bytes.div_ceil(BYTES_PER_TOKEN).saturating_add(images);
    if form == Form::Transcription {
        meters.set(Meter::AudioInput, media);
        return meters.set(Meter::Input, text);
    }
    let all = text.saturating_add(media);
    let most = sku.and_then(|sku| sku.context_tokens).unwrap_or(u64::MAX);
    meters.set(Meter::Input, all.min(most));
}

/// What an answer in this form is made of, if it is made by the token.
const fn output_meter(form: Form) -> Option<Meter> {
    match form {
        Form::Completions | Form::DeepSeekCompletions | Form::Responses | Form::Transcription | Form::Messages => {
            Some(Meter::Output)
        }
        Form::Images => Some(Meter::ImageOutput),
        Form::Speech => Some(Meter::AudioOutput),
        Form::Embeddings | Form::Realtime => None,
    }
}

fn output_max(sku: Option<&Sku>, demand: &Demand) -> u64 {
    let one = demand.output_tokens.or(sku.and_then(|sku| sku.output_tokens_max));
    one.map_or(u64::MAX, |one| one.saturating_mul(demand.answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hubs_measure_of_time_counts_only_near_the_agents_own() {
        assert_eq!(agreed_elapsed_ms(10_000, 10_000), (10_000, true));
        assert_eq!(agreed_elapsed_ms(10_000, 11_000), (11_000, true));
        assert_eq!(agreed_elapsed_ms(10_000, 11_001), (10_000, false));
        assert_eq!(agreed_elapsed_ms(10_000, 5_000), (5_000, true));
        assert_eq!(agreed_elapsed_ms(10_000, 4_999), (10_000, false));
        assert_eq!(agreed_elapsed_ms(0, 0), (0, false));
        assert_eq!(agreed_elapsed_ms(u32::MAX, u32::MAX), (u32::MAX, true));
    }
}
