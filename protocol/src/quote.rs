//! The most that a call may cost at list prices: what is held before it begins.
//!
//! Invariant: no usage that is consistent with the demand is billed above its ceiling, and
//! what has no such bound is refused with a message that says what to change.

mod bound;

use crate::ErrorCode;
use crate::demand::CacheAsked;
use crate::demand::Demand;
use crate::demand::RegionAsked;
use crate::demand::TierAsked;
use crate::money::NanoUsd;
use crate::money::Ppm;
use crate::money::TooMuch;
use crate::price::BillError;
use crate::price::Rate;
use crate::price::Service;
use crate::price::ServiceTier;
use crate::price::Sku;
use crate::price::Surcharges;
use crate::usage::Form;
use crate::usage::Meter;
use crate::usage::Meters;
use bound::Bounds;

/// How much of the request's body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKnown {
    /// All of it.
    Whole,
    /// Some of it: what is still to come may hold anything that the bounds allow.
    Coming {
        /// The bytes that its head declares, if it does.
        declared: Option<u64>,
    },
}

/// Why a call has no ceiling and is not sold. Prints as the message for the consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// Media without a bound on their tokens.
    #[error(
        "the price table does not say how much this model can read at once, so what media, files or URLs cost has no bound: send text only, or use another model"
    )]
    NoWindow,
    /// A long body before its messages have come.
    #[error("what this request costs has no bound before all of it has come: send it with a `content-length`")]
    NoLength,
    /// Output without a bound.
    #[error("the price table does not say how much this model can write, so what it costs has no bound: state {0:?}")]
    NoOutputBound(&'static str),
    /// An answer that does not say what it used.
    #[error("the answer would not state what the call used, so it cannot be billed exactly: {0}")]
    NoStatement(&'static str),
    /// A value without a price.
    #[error("{field:?} asks for something that has no price here: {fix}")]
    NoPriceFor {
        /// The field.
        field: &'static str,
        /// What to do.
        fix: &'static str,
    },
    /// A unit without a price.
    #[error("this model has no price for {} here: use another model or endpoint", .0.name())]
    NoPrice(Meter),
    /// Beyond 64 bits.
    #[error("what this request may cost is beyond any balance: state a lower bound on its output")]
    TooMuch,
}

impl QuoteError {
    /// The code that the consumer sees.
    pub const fn code(self) -> ErrorCode {
        ErrorCode::FieldRefused
    }
}

impl From<TooMuch> for QuoteError {
    fn from(_: TooMuch) -> Self {
        Self::TooMuch
    }
}

/// A quantity that is billed at one of these meters: at the dearest that has a price.
#[derive(Debug, Clone, Copy)]
struct Part {
    meters: &'static [Meter],
    quantity: u64,
}

impl Sku {
    /// The most that a call with this demand may cost at list prices.
    ///
    /// # Errors
    /// When it has no bound, or asks for something without a price.
    pub fn ceiling(&self, form: Form, demand: &Demand, body: BodyKnown) -> Result<NanoUsd, QuoteError> {
        let bounds = Bounds { sku: self, form, demand, body };
        let tiers = tiers(self, demand.tier)?;
        let mut ceiling = NanoUsd::ZERO;
        for parts in ways(&bounds)? {
            ceiling = ceiling.max(dearest(self, demand, tiers, &parts)?);
        }
        Ok(ceiling)
    }

    fn sells(&self, meter: Meter) -> bool {
        self.rates.iter().any(|rate| rate.meter == meter)
    }
}

/// The classes of service that the answer may come from.
fn tiers(sku: &Sku, asked: TierAsked) -> Result<&'static [ServiceTier], QuoteError> {
    let (tiers, needed): (&[ServiceTier], _) = match asked {
        TierAsked::Standard => (&[ServiceTier::Standard], ServiceTier::Standard),
        TierAsked::Auto => (&[ServiceTier::Standard, ServiceTier::Priority], ServiceTier::Standard),
        TierAsked::Flex => (&[ServiceTier::Standard, ServiceTier::Flex], ServiceTier::Flex),
        TierAsked::Priority => (&[ServiceTier::Standard, ServiceTier::Priority], ServiceTier::Priority),
    };
    let is_sold = sku.rates.iter().any(|rate| rate.tier == needed);
    if is_sold || needed == ServiceTier::Standard {
        Ok(tiers)
    } else {
        Err(QuoteError::NoPriceFor { field: "service_tier", fix: "leave it out, or name another tier or model" })
    }
}

/// What these quantities cost at the dearest prices that the demand allows, by the function
/// that bills.
fn dearest(sku: &Sku, demand: &Demand, tiers: &[ServiceTier], parts: &[Part]) -> Result<NanoUsd, QuoteError> {
    let is_input = |part: &&Part| part.meters.iter().any(|meter| meter.is_input_tokens());
    let input_tokens = parts.iter().filter(is_input).fold(0_u64, |sum, part| sum.saturating_add(part.quantity));
    let price = |meter: Meter| {
        let rates = sku.rates.iter().filter(|rate| rate.meter == meter && tiers.contains(&rate.tier));
        let reached = rates.filter(|rate| rate.above_input_tokens == 0 || rate.above_input_tokens < input_tokens);
        reached.map(|rate| rate.pico_usd).max()
    };
    let mut used = Meters::default();
    let mut rates: Vec<Rate> = Vec::with_capacity(parts.len());
    for part in parts.iter().filter(|part| part.quantity > 0) {
        let prices = part.meters.iter().filter_map(|meter| Some((price(*meter)?, *meter)));
        let first = part.meters.first().copied().unwrap_or(Meter::Input);
        let (pico_usd, meter) = prices.max_by_key(|(price, _)| *price).ok_or(QuoteError::NoPrice(first))?;
        used.set(meter, used.get(meter).saturating_add(part.quantity));
        rates.push(Rate { meter, tier: ServiceTier::Standard, above_input_tokens: 0, pico_usd });
    }
    let dearest = Sku { surcharges: surcharges(sku, demand)?, rates, ..*sku };
    let service =
        Service { tier: ServiceTier::Standard, is_fast: demand.is_fast, is_us: demand.region == RegionAsked::Us };
    let bill = dearest.bill(service, &used).map_err(|error| match error {
        BillError::NoPrice(meter) => QuoteError::NoPrice(meter),
        BillError::NoSurcharge(_) | BillError::TooMuch(_) => QuoteError::TooMuch,
    })?;
    // Each line of the bill to come may be rounded up by less than this.
    let rounding = i64::try_from(Meter::ALL.len()).map_err(|_| QuoteError::TooMuch)?;
    Ok(bill.list_nano_usd.plus(NanoUsd(rounding))?)
}

/// What the way of serving that is asked for adds, and never takes off.
fn surcharges(sku: &Sku, demand: &Demand) -> Result<Surcharges, QuoteError> {
    const WHOLE: Ppm = Ppm(1_000_000);
    let refused = |field| QuoteError::NoPriceFor { field, fix: "leave it out, or use another model" };
    let Surcharges { fast, us } = sku.surcharges;
    if demand.is_fast && fast.is_none() {
        return Err(refused("speed"));
    }
    match demand.region {
        RegionAsked::Anywhere => {}
        RegionAsked::Us if us.is_some() => {}
        RegionAsked::Us | RegionAsked::Other => return Err(refused("inference_geo")),
    }
    let raised = |share: Option<Ppm>| Some(share.map_or(WHOLE, |share| share.max(WHOLE)));
    Ok(Surcharges { fast: raised(fast), us: raised(us) })
}

/// The quantities that the call may use at most: in more than one way, where its answer may
/// state one or the other.
fn ways(bounds: &Bounds<'_>) -> Result<Vec<Vec<Part>>, QuoteError> {
    let Bounds { sku, form, demand, .. } = *bounds;
    if demand.caches == CacheAsked::Other {
        return Err(QuoteError::NoPriceFor {
            field: "ttl",
            fix: "leave it out, or name a time that the vendor documents",
        });
    }
    Ok(match form {
        Form::Completions | Form::DeepSeekCompletions | Form::Responses => vec![text(bounds)?],
        Form::Messages => vec![messages(bounds)?],
        Form::Embeddings => vec![vec![part(&[Meter::Input], bounds.embedded()?)]],
        Form::Images => vec![vec![
            part(&[Meter::Input, Meter::ImageInput], bounds.image_input()?),
            part(&[Meter::ImageOutput, Meter::Output], bounds.image_output()?),
        ]],
        Form::Realtime => vec![vec![part(REALTIME_INPUT, bounds.input()?), part(REALTIME_OUTPUT, bounds.output()?)]],
        Form::Speech if sku.sells(Meter::Characters) => {
            vec![vec![part(&[Meter::Characters], bounds.characters()?)]]
        }
        Form::Speech if !demand.states_usage => {
            return Err(QuoteError::NoStatement(
                "send `stream_format: \"sse\"`, or use a model that is sold by the character",
            ));
        }
        Form::Speech => vec![vec![
            part(&[Meter::Input], bounds.spoken_input()?),
            part(&[Meter::AudioOutput], bounds.spoken_output()?),
        ]],
        // What is sold by time is taken by the length of the recording where the answer does not
        // say; tokens cannot be.
        Form::Transcription if !demand.states_usage && !sku.sells(Meter::AudioMillis) => {
            return Err(QuoteError::NoStatement(
                "use `response_format` \"json\", \"verbose_json\" or \"diarized_json\", or a model that is sold by time",
            ));
        }
        Form::Transcription => transcription(bounds)?,
    })
}

const REALTIME_INPUT: &[Meter] = &[
    Meter::Input,
    Meter::CachedInput,
    Meter::AudioInput,
    Meter::CachedAudioInput,
    Meter::ImageInput,
    Meter::CachedImageInput,
];
const REALTIME_OUTPUT: &[Meter] = &[Meter::Output, Meter::AudioOutput];

const fn part(meters: &'static [Meter], quantity: u64) -> Part {
    Part { meters, quantity }
}

/// OpenAI's forms. What is read from a cache and written to it in one go is billed as both,
/// and so is cached audio, which its answers do not set apart.
fn text(bounds: &Bounds<'_>) -> Result<Vec<Part>, QuoteError> {
    let Bounds { sku, demand, .. } = *bounds;
    let input = bounds.input()?;
    let hears = demand.audio_in || (bounds.is_coming() && sku.sells(Meter::AudioInput));
    let speaks = demand.audio_out || (bounds.is_coming() && sku.sells(Meter::AudioOutput));
    if speaks && !sku.sells(Meter::AudioOutput) {
        return Err(QuoteError::NoPrice(Meter::AudioOutput));
    }
    let mut parts = vec![part(&[Meter::Input, Meter::CacheWrite], input), part(&[Meter::CachedInput], input)];
    if hears {
        parts.push(part(&[Meter::AudioInput], input));
    }
    let output: &[Meter] = if speaks { &[Meter::Output, Meter::AudioOutput] } else { &[Meter::Output] };
    parts.push(part(output, bounds.output()?));
    parts.push(part(&[Meter::WebSearch], demand.web_searches));
    Ok(parts)
}

/// Anthropic's form: each token is in one of the meters.
fn messages(bounds: &Bounds<'_>) -> Result<Vec<Part>, QuoteError> {
    let demand = bounds.demand;
    let asked = if bounds.is_coming() { CacheAsked::Hour } else { demand.caches };
    let input: &[Meter] = match asked {
        // The vendor's own tools may write what they found.
        CacheAsked::Nothing if demand.server_calls == 0 => &[Meter::Input, Meter::CachedInput],
        CacheAsked::Nothing | CacheAsked::Usual => &[Meter::Input, Meter::CachedInput, Meter::CacheWrite],
        CacheAsked::Hour | CacheAsked::Other => {
            &[Meter::CacheWrite1h, Meter::CacheWrite, Meter::Input, Meter::CachedInput]
        }
    };
    if demand.caches == CacheAsked::Hour && !bounds.sku.sells(Meter::CacheWrite1h) {
        return Err(QuoteError::NoPrice(Meter::CacheWrite1h));
    }
    Ok(vec![
        part(input, bounds.input()?),
        part(&[Meter::Output], bounds.output()?),
        part(&[Meter::WebSearch], demand.web_searches),
    ])
}

/// A transcription states tokens or time.
fn transcription(bounds: &Bounds<'_>) -> Result<Vec<Vec<Part>>, QuoteError> {
    let sku = bounds.sku;
    let mut ways = Vec::new();
    if sku.sells(Meter::Output) {
        let input = part(&[Meter::AudioInput, Meter::Input], bounds.input()?);
        ways.push(vec![input, part(&[Meter::Output], bounds.output()?)]);
    }
    if sku.sells(Meter::AudioMillis) {
        ways.push(vec![part(&[Meter::AudioMillis], bounds.heard_millis()?)]);
    }
    if ways.is_empty() { Err(QuoteError::NoPrice(Meter::AudioMillis)) } else { Ok(ways) }
}

#[cfg(test)]
mod tests;
