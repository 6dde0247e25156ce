//! Prices out of LiteLLM's published table (`model_prices_and_context_window_backup.json`
//! in the litellm package).
//!
//! Invariant: a field that says what something costs and is not understood here keeps its
//! model out of the table, with the reason.

use std::collections::BTreeMap;

use keyhaven_protocol::money::BadPrice;
use keyhaven_protocol::money::PicoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::Rate;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::price::Sku;
use keyhaven_protocol::price::Surcharges;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::usage::Meter;
use serde_json::value::RawValue;

/// What a call that its consumer left is taken to have made per second, for every model:
/// the published table says nothing of speed.
const ABORT_TOKENS_PER_SECOND: u32 = 100;

/// What came out of a published table.
#[derive(Debug, Default)]
pub struct Imported {
    /// The models that can be sold.
    pub models: BTreeMap<Provider, BTreeMap<String, Sku>>,
    /// Models of our vendors that cannot, and why.
    pub skipped: BTreeMap<String, Skipped>,
}

/// Why a model is not taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Skipped {
    /// Nothing that an endpoint of ours sells.
    #[error("its mode is {0:?}, which is not sold")]
    Mode(String),
    /// A price that depends on where a deployment stands, or on how it was bought.
    #[error("its price holds for one region or plan only")]
    Regional,
    /// The owner's own model.
    #[error("it is a fine-tuned model")]
    FineTuned,
    /// A price whose meaning is not known here.
    #[error("the meaning of {0:?} is not known")]
    UnknownField(String),
    /// A price that is none.
    #[error("{field}: {error}")]
    Price {
        /// Where it stands.
        field: String,
        /// What is wrong with it.
        error: BadPrice,
    },
    /// It is counted in something that no answer states.
    #[error("it is sold by {0}, which vendors' answers do not state")]
    Unit(&'static str),
    /// There is no price at all.
    #[error("it has no price")]
    NoPrice,
    /// The same model stands in the table twice, with different prices.
    #[error("it stands in the table twice, with different prices")]
    Twice,
    /// Not the object it should be.
    #[error("its entry cannot be read")]
    Unreadable,
}

/// The file is no table of LiteLLM.
#[derive(Debug, thiserror::Error)]
#[error("it is not LiteLLM's table of prices: {0}")]
pub struct NoTable(#[from] serde_json::Error);

type Entry = BTreeMap<String, Box<RawValue>>;

/// Reads the published table.
///
/// # Errors
/// When it is no such table at all.
pub fn import(json: &[u8]) -> Result<Imported, NoTable> {
    let entries: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(json)?;
    let mut imported = Imported::default();
    for (name, entry) in entries {
        let Ok(entry) = serde_json::from_str::<Entry>(entry.get()) else {
            imported.skipped.insert(name, Skipped::Unreadable);
            continue;
        };
        let Some(provider) = text(&entry, "litellm_provider").as_deref().and_then(provider) else { continue };
        if let Err(skipped) = imported.take(provider, &name, &entry) {
            imported.skipped.insert(name, skipped);
        }
    }
    imported.drop_disputed();
    Ok(imported)
}

impl Imported {
    fn take(&mut self, provider: Provider, name: &str, entry: &Entry) -> Result<(), Skipped> {
        let model = model(provider, name)?;
        let sku = sku(provider, entry)?;
        let models = self.models.entry(provider).or_default();
        let known = models.entry(model.to_owned()).or_insert_with(|| sku.clone());
        if *known == sku { Ok(()) } else { Err(Skipped::Twice) }
    }

    /// Whichever of two prices came first, neither is certain.
    fn drop_disputed(&mut self) {
        for (name, skipped) in &self.skipped {
            if *skipped == Skipped::Twice {
                for (provider, models) in &mut self.models {
                    models.remove(
                        name.strip_prefix(provider.name()).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name),
                    );
                }
            }
        }
    }
}

fn provider(name: &str) -> Option<Provider> {
    match name {
        "openai" | "text-completion-openai" => Some(Provider::OpenAi),
        "azure" => Some(Provider::Azure),
        "anthropic" => Some(Provider::Anthropic),
        "deepseek" => Some(Provider::DeepSeek),
        _ => None,
    }
}

/// The vendor's own name for the model.
fn model(provider: Provider, name: &str) -> Result<&str, Skipped> {
    let own = name.strip_prefix(provider.name()).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name);
    if own.starts_with("ft:") {
        return Err(Skipped::FineTuned);
    }
    // What stands in front, such as `eu/`, `us/` or `1024-x-1024/`, is a condition of the price.
    if own.contains('/') { Err(Skipped::Regional) } else { Ok(own) }
}

fn sku(provider: Provider, entry: &Entry) -> Result<Sku, Skipped> {
    let mode = text(entry, "mode").unwrap_or_default();
    if !SOLD_MODES.contains(&mode.as_str()) {
        return Err(Skipped::Mode(mode));
    }
    let mut rates: BTreeMap<(Meter, ServiceTier, u64), PicoUsd> = BTreeMap::new();
    let mut surcharges = Surcharges::NONE;
    for (field, value) in entry {
        match meaning(field, &mode) {
            Meaning::Price(meter, tier, above) => {
                let price = price(field, value)?;
                // DeepSeek's cache writes itself, and no answer states it: some entries say 0, some nothing.
                if provider == Provider::DeepSeek && meter == Meter::CacheWrite && price == PicoUsd(0) {
                    continue;
                }
                rates.insert((meter, tier, above), price);
            }
            Meaning::Searches => {
                if let Some(price) = searches(field, value)? {
                    rates.insert((Meter::WebSearch, ServiceTier::Standard, 0), price);
                }
            }
            Meaning::Surcharges => surcharges = read_surcharges(field, value)?,
            Meaning::Unit(unit) => return Err(Skipped::Unit(unit)),
            Meaning::NotSold | Meaning::NoPrice => {}
            Meaning::Unknown => return Err(Skipped::UnknownField(field.clone())),
        }
    }
    if !rates.keys().any(|(_, tier, above)| *tier == ServiceTier::Standard && *above == 0) {
        return Err(Skipped::NoPrice);
    }
    complete(&mut rates);
    let rates = rates.into_iter().map(|((meter, tier, above_input_tokens), pico_usd)| Rate {
        meter,
        tier,
        above_input_tokens,
        pico_usd,
    });
    Ok(Sku {
        context_tokens: count(entry, "max_input_tokens"),
        output_tokens_max: count(entry, "max_output_tokens"),
        abort_tokens_per_second: ABORT_TOKENS_PER_SECOND,
        surcharges,
        rates: rates.collect(),
    })
}

/// Where a vendor has no price of its own for what a cache had a part in, it is input like
/// any other. A search costs the same in every class of service.
fn complete(rates: &mut BTreeMap<(Meter, ServiceTier, u64), PicoUsd>) {
    let inputs: Vec<_> =
        rates.iter().filter(|((meter, ..), _)| *meter == Meter::Input).map(|(key, price)| (*key, *price)).collect();
    for ((_, tier, above), price) in inputs {
        for meter in [Meter::CachedInput, Meter::CacheWrite] {
            rates.entry((meter, tier, above)).or_insert(price);
        }
        if let Some(search) = rates.get(&(Meter::WebSearch, ServiceTier::Standard, 0)).copied() {
            rates.entry((Meter::WebSearch, tier, 0)).or_insert(search);
        }
    }
}

const SOLD_MODES: [&str; 8] = [
    "chat",
    "completion",
    "responses",
    "embedding",
    "image_generation",
    "audio_transcription",
    "audio_speech",
    "realtime",
];

/// What a field of an entry means to us.
enum Meaning {
    /// The price of one unit.
    Price(Meter, ServiceTier, u64),
    /// The price of a search of the web, by the size of what it finds.
    Searches,
    /// What the fast mode and the region add.
    Surcharges,
    /// The price of a unit that no answer states.
    Unit(&'static str),
    /// A price of something that is refused.
    NotSold,
    /// No price.
    NoPrice,
    /// A price of what?
    Unknown,
}

fn meaning(field: &str, mode: &str) -> Meaning {
    let says_price =
        ["cost", "price", "pricing", "multiplier", "provider_specific_entry"].iter().any(|word| field.contains(word));
    if !says_price {
        return Meaning::NoPrice;
    }
    match field {
        "search_context_cost_per_query" => return Meaning::Searches,
        "provider_specific_entry" => return Meaning::Surcharges,
        "input_cost_per_character" => return Meaning::Price(Meter::Characters, ServiceTier::Standard, 0),
        "input_cost_per_image" | "input_cost_per_pixel" | "output_cost_per_pixel" => return Meaning::Unit("the picture"),
        "output_cost_per_video_per_second" => return Meaning::Unit("the second of video"),
        "input_cost_per_query" => return Meaning::Unit("the query"),
        "input_cost_per_second" if mode == "audio_transcription" => {
            return Meaning::Price(Meter::AudioMillis, ServiceTier::Standard, 0);
        }
        // The table states a second of audio twice, as input and as output.
        "output_cost_per_second" if mode == "audio_transcription" => return Meaning::NotSold,
        // The same sound that its answers state in tokens.
        "output_cost_per_second" if mode == "audio_speech" => return Meaning::NotSold,
        "input_cost_per_second" | "output_cost_per_second" => return Meaning::Unit("the second"),
        // What a region or a plan adds is asked for by headers and fields that are refused.
        "regional_processing_uplift_multiplier_eu"
        | "regional_processing_uplift_multiplier_us"
        // A discount at night is the owner's gain.
        | "off_peak_pricing"
        // The same as `cache_read_input_token_cost`.
        | "input_cost_per_token_cache_hit"
        // The price of audio that a cache takes in; realtime states none.
        | "cache_creation_input_audio_token_cost"
        | "code_interpreter_cost_per_session" => return Meaning::NotSold,
        _ => {}
    }
    let (field, tier) = tier_of(field);
    let Some(tier) = tier else { return Meaning::NotSold };
    let (field, hour) = match field.strip_suffix("_above_1hr") {
        Some(field) => (field, true),
        None => (field, false),
    };
    if field.contains("_above_12hr") {
        return Meaning::NotSold;
    }
    let Some((field, above)) = threshold_of(field) else { return Meaning::Unknown };
    let (field, hour) = match field.strip_suffix("_above_1hr") {
        Some(field) => (field, true),
        None => (field, hour),
    };
    let meter = match (field, hour) {
        ("input_cost_per_token", false) => Meter::Input,
        ("output_cost_per_token", false) => Meter::Output,
        ("cache_read_input_token_cost", false) => Meter::CachedInput,
        ("cache_creation_input_token_cost", false) => Meter::CacheWrite,
        ("cache_creation_input_token_cost", true) => Meter::CacheWrite1h,
        ("input_cost_per_audio_token", false) => Meter::AudioInput,
        ("cache_read_input_audio_token_cost", false) => Meter::CachedAudioInput,
        ("output_cost_per_audio_token", false) => Meter::AudioOutput,
        ("input_cost_per_image_token", false) => Meter::ImageInput,
        ("cache_read_input_image_token_cost", false) => Meter::CachedImageInput,
        ("output_cost_per_image_token", false) => Meter::ImageOutput,
        _ => return Meaning::Unknown,
    };
    Meaning::Price(meter, tier, above)
}

/// The class of service at the end of a field's name; `None` for one that is not sold.
fn tier_of(field: &str) -> (&str, Option<ServiceTier>) {
    let ends = [
        ("_priority", Some(ServiceTier::Priority)),
        ("_flex", Some(ServiceTier::Flex)),
        ("_batches", None),
        ("_ultrafast", None),
        ("_decisions", None),
    ];
    let found = ends.into_iter().find_map(|(end, tier)| field.strip_suffix(end).map(|rest| (rest, tier)));
    found.unwrap_or((field, Some(ServiceTier::Standard)))
}

/// The `_above_272k_tokens` at the end of a field's name.
fn threshold_of(field: &str) -> Option<(&str, u64)> {
    let Some(rest) = field.strip_suffix("k_tokens") else { return Some((field, 0)) };
    let (field, thousands) = rest.rsplit_once("_above_")?;
    Some((field, thousands.parse::<u64>().ok()?.checked_mul(1000)?))
}

fn price(field: &str, value: &RawValue) -> Result<PicoUsd, Skipped> {
    value.get().parse().map_err(|error| Skipped::Price { field: field.to_owned(), error })
}

/// The shares that `provider_specific_entry` names, such as `{"us": 1.1, "fast": 2.0}`.
fn read_surcharges(field: &str, value: &RawValue) -> Result<Surcharges, Skipped> {
    let shares: Entry = serde_json::from_str(value.get()).map_err(|_| Skipped::UnknownField(field.to_owned()))?;
    let mut surcharges = Surcharges::NONE;
    for (name, value) in &shares {
        let name = format!("{field}.{name}");
        let share = Some(share(&name, value)?);
        match name.rsplit('.').next() {
            Some("us") => surcharges.us = share,
            Some("fast") => surcharges.fast = share,
            _ => return Err(Skipped::UnknownField(name)),
        }
    }
    Ok(surcharges)
}

/// A factor as parts per million, exactly.
fn share(field: &str, value: &RawValue) -> Result<Ppm, Skipped> {
    let bad = |error| Skipped::Price { field: field.to_owned(), error };
    // A price is read to the trillionth: a millionth of that scale is a part per million.
    let PicoUsd(trillionths) = price(field, value)?;
    if trillionths % 1_000_000 != 0 {
        return Err(bad(BadPrice::TooFine));
    }
    u32::try_from(trillionths / 1_000_000).map(Ppm).map_err(|_| bad(BadPrice::TooLarge))
}

/// One price of a search, where it does not depend on the size of what is found.
fn searches(field: &str, value: &RawValue) -> Result<Option<PicoUsd>, Skipped> {
    let sizes: Entry = serde_json::from_str(value.get()).map_err(|_| Skipped::UnknownField(field.to_owned()))?;
    let mut prices = Vec::new();
    for value in sizes.values() {
        prices.push(price(field, value)?);
    }
    prices.dedup();
    Ok(if let [only] = prices[..] { Some(only) } else { None })
}

fn text(entry: &Entry, field: &str) -> Option<String> {
    serde_json::from_str(entry.get(field)?.get()).ok()
}

fn count(entry: &Entry, field: &str) -> Option<u64> {
    serde_json::from_str(entry.get(field)?.get()).ok()
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::money::NanoUsd;

    use super::*;

    #[test]
    fn a_model_is_taken_over_with_every_price_that_is_sold() {
        let sku = one(
            "gpt-x",
            r#"{"litellm_provider":"openai","mode":"chat","max_input_tokens":400000,"max_output_tokens":128000,
                "input_cost_per_token":2.5e-06,"input_cost_per_token_batches":1.25e-06,"input_cost_per_token_priority":4.25e-06,
                "input_cost_per_token_above_272k_tokens":5e-06,"input_cost_per_token_above_272k_tokens_flex":1e-06,
                "cache_read_input_token_cost":1.25e-06,"output_cost_per_token":0.00001,
                "supports_vision":true,"source":"somewhere"}"#,
        )
        .unwrap();

        let rate = |meter, tier, above| {
            let found = sku.rates.iter().find(|rate| rate.key() == (meter, tier, above));
            found.map(|rate| rate.pico_usd.0)
        };
        assert_eq!(rate(Meter::Input, ServiceTier::Standard, 0), Some(2_500_000));
        assert_eq!(rate(Meter::Input, ServiceTier::Priority, 0), Some(4_250_000));
        assert_eq!(rate(Meter::Input, ServiceTier::Standard, 272_000), Some(5_000_000));
        assert_eq!(rate(Meter::Input, ServiceTier::Flex, 272_000), Some(1_000_000));
        assert_eq!(rate(Meter::CachedInput, ServiceTier::Standard, 0), Some(1_250_000));
        assert_eq!(rate(Meter::CachedInput, ServiceTier::Priority, 0), Some(4_250_000), "no price of its own");
        assert_eq!(rate(Meter::CacheWrite, ServiceTier::Standard, 0), Some(2_500_000), "no price of its own");
        assert_eq!((sku.context_tokens, sku.output_tokens_max), (Some(400_000), Some(128_000)));
    }

    #[test]
    fn a_cache_for_an_hour_has_its_own_price_at_every_size() {
        let sku = one(
            "claude-x",
            r#"{"litellm_provider":"anthropic","mode":"chat","input_cost_per_token":3e-06,"output_cost_per_token":1.5e-05,
                "cache_creation_input_token_cost":3.75e-06,"cache_creation_input_token_cost_above_1hr":6e-06,
                "cache_creation_input_token_cost_above_1hr_above_100k_tokens":1.2e-05,
                "search_context_cost_per_query":{"search_context_size_high":0.01,"search_context_size_low":0.01}}"#,
        )
        .unwrap();

        let hour: Vec<(u64, i64)> = (sku.rates.iter().filter(|rate| rate.meter == Meter::CacheWrite1h))
            .map(|rate| (rate.above_input_tokens, rate.pico_usd.0))
            .collect();
        assert_eq!(hour, [(0, 6_000_000), (100_000, 12_000_000)]);
        let search = sku.rates.iter().find(|rate| rate.meter == Meter::WebSearch).unwrap();
        assert_eq!(search.pico_usd.times_rounded(1), Ok(NanoUsd(10_000_000)));
    }

    #[test]
    fn a_second_of_audio_is_billed_once() {
        let whisper = one(
            "whisper-1",
            r#"{"litellm_provider":"openai","mode":"audio_transcription","input_cost_per_second":0.0001,"output_cost_per_second":0.0001}"#,
        )
        .unwrap();

        assert_eq!(whisper.rates.len(), 1);
        assert_eq!(whisper.rates[0].meter, Meter::AudioMillis);
    }

    #[test]
    fn speech_is_sold_by_the_character() {
        let tts =
            one("tts", r#"{"litellm_provider":"openai","mode":"audio_speech","input_cost_per_character":1.5e-05}"#);

        assert_eq!(tts.unwrap().rates[0].meter, Meter::Characters);
    }

    #[test]
    fn what_the_fast_mode_and_the_region_add_is_taken_over_exactly() {
        let sku = one(
            "claude-x",
            r#"{"litellm_provider":"anthropic","mode":"chat","input_cost_per_token":5e-06,"provider_specific_entry":{"us":1.1,"fast":2.0}}"#,
        );

        assert_eq!(sku.unwrap().surcharges, Surcharges { fast: Some(Ppm(2_000_000)), us: Some(Ppm(1_100_000)) });
    }

    #[test]
    fn a_search_costs_the_same_in_every_class_of_service() {
        let sku = one(
            "gpt-x",
            r#"{"litellm_provider":"openai","mode":"chat","input_cost_per_token":5e-06,"input_cost_per_token_priority":1e-05,
                "search_context_cost_per_query":{"search_context_size_high":0.01,"search_context_size_low":0.01}}"#,
        )
        .unwrap();

        let searches = sku.rates.iter().filter(|rate| rate.meter == Meter::WebSearch);
        assert_eq!(searches.map(|rate| rate.tier).collect::<Vec<_>>(), [ServiceTier::Standard, ServiceTier::Priority]);
    }

    #[test]
    fn speech_is_sold_by_the_token_that_its_answers_state() {
        let speech = one(
            "gpt-x-tts",
            r#"{"litellm_provider":"openai","mode":"audio_speech","input_cost_per_token":6e-07,"output_cost_per_audio_token":1.2e-05,"output_cost_per_second":0.00025}"#,
        )
        .unwrap();

        assert!(speech.rates.iter().any(|rate| rate.meter == Meter::AudioOutput));
        assert!(speech.rates.iter().all(|rate| rate.meter != Meter::AudioMillis));
    }

    #[test]
    fn a_cache_that_writes_itself_for_nothing_is_no_other_price() {
        let entry = |more: &str| {
            format!(r#"{{"litellm_provider":"deepseek","mode":"chat","input_cost_per_token":2e-06{more}}}"#)
        };
        let json = format!(
            r#"{{"deepseek-chat":{},"deepseek/deepseek-chat":{}}}"#,
            entry(""),
            entry(r#","cache_creation_input_token_cost":0.0"#)
        );

        let imported = import(json.as_bytes()).unwrap();

        assert_eq!(imported.models[&Provider::DeepSeek].len(), 1, "{:?}", imported.skipped);
    }

    #[test]
    fn what_cannot_be_sold_exactly_is_left_out_with_the_reason() {
        let chat =
            |more: &str| format!(r#"{{"litellm_provider":"openai","mode":"chat","input_cost_per_token":1e-06{more}}}"#);
        let skipped = |name: &str, entry: &str| one(name, entry).unwrap_err();

        assert_eq!(
            skipped("x", &chat(r#","input_cost_per_dream":1"#)),
            Skipped::UnknownField("input_cost_per_dream".to_owned())
        );
        assert_eq!(
            skipped("x", &chat(r#","output_cost_per_token":-1"#)),
            Skipped::Price { field: "output_cost_per_token".to_owned(), error: BadPrice::Negative }
        );
        assert_eq!(skipped("ft:x", &chat("")), Skipped::FineTuned);
        assert_eq!(skipped("eu/x", &chat("")), Skipped::Regional);
        assert_eq!(
            skipped("x", r#"{"litellm_provider":"openai","mode":"video_generation"}"#),
            Skipped::Mode("video_generation".to_owned())
        );
        assert_eq!(skipped("x", r#"{"litellm_provider":"openai","mode":"chat"}"#), Skipped::NoPrice);
        assert_eq!(
            skipped("x", &chat(r#","provider_specific_entry":{"us":1.1,"mars":2}"#)),
            Skipped::UnknownField("provider_specific_entry.mars".to_owned())
        );
    }

    #[test]
    fn one_model_under_two_names_is_taken_if_its_prices_agree() {
        let table = |other: &str| {
            let entry = |price: &str| {
                format!(r#"{{"litellm_provider":"deepseek","mode":"chat","input_cost_per_token":{price}}}"#)
            };
            let json = format!(r#"{{"deepseek-chat":{},"deepseek/deepseek-chat":{}}}"#, entry("1e-06"), entry(other));
            import(json.as_bytes()).unwrap()
        };

        assert_eq!(table("0.000001").models[&Provider::DeepSeek].len(), 1);
        let differ = table("2e-06");
        assert!(differ.models[&Provider::DeepSeek].is_empty());
        assert_eq!(differ.skipped["deepseek/deepseek-chat"], Skipped::Twice);
    }

    #[test]
    fn other_vendors_are_passed_over_and_other_files_refused() {
        let imported =
            import(br#"{"sample_spec":{"litellm_provider":"one of"},"m":{"litellm_provider":"bedrock"},"n":3}"#)
                .unwrap();

        assert!(imported.models.is_empty());
        assert_eq!(imported.skipped.keys().collect::<Vec<_>>(), ["n"]);
        assert!(import(b"[]").is_err());
        assert!(import(b"").is_err());
    }

    fn one(name: &str, entry: &str) -> Result<Sku, Skipped> {
        let imported = import(format!(r#"{{{name:?}:{entry}}}"#).as_bytes()).unwrap();
        match imported.skipped.into_values().next() {
            Some(skipped) => Err(skipped),
            None => Ok(imported.models.into_values().next().unwrap().into_values().next().unwrap()),
        }
    }
}
