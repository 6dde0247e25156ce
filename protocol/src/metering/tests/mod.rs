//! What a figure is, after every ending, at every cut, on both sides.
//!
//! Invariant: the prices here are made up, one for each meter, so that no two can be
//! confused.

mod cuts;
mod rules;
mod strange;

use std::collections::BTreeMap;

use http::HeaderMap;
use http::HeaderValue;
use http::StatusCode;
use http::header;

use super::*;
use crate::demand::Demand;
use crate::money::NanoUsd;
use crate::money::PicoUsd;
use crate::price::PriceTable;
use crate::price::Rate;
use crate::price::ServiceTier;
use crate::price::Sku;
use crate::price::Surcharges;
use crate::provider::Provider;
use crate::usage::Form;
use crate::usage::Meter;
use crate::usage::Meters;
use crate::usage::Shape;

/// What every request here asks for.
const MODEL: &str = "asked";

/// More than anything here costs.
const CEILING: NanoUsd = NanoUsd(1_000_000_000_000);

/// Of a model, per token of the meter with number `n`: so many times `n` nano-USD.
fn sku(factor: i64, without: &[Meter]) -> Sku {
    let meters = Meter::ALL.iter().filter(|meter| !without.contains(meter));
    let rates = meters.map(|meter| Rate {
        meter: *meter,
        tier: ServiceTier::Standard,
        above_input_tokens: 0,
        pico_usd: PicoUsd(factor * 1_000 * i64::from(meter.number())),
    });
    Sku {
        context_tokens: Some(100_000),
        output_tokens_max: Some(50_000),
        abort_tokens_per_second: 100,
        surcharges: Surcharges::NONE,
        rates: rates.collect(),
    }
}

fn table() -> PriceTable {
    let by_token = &[Meter::AudioMillis, Meter::Characters];
    let mut priority = sku(1, by_token);
    for rate in sku(2, by_token).rates {
        priority.rates.push(Rate { tier: ServiceTier::Priority, ..rate });
    }
    priority.rates.sort_by_key(Rate::key);
    let models = BTreeMap::from([
        (MODEL.to_owned(), priority),
        (
            "cheap".to_owned(),
            Sku { rates: sku(1, by_token).rates.into_iter().map(halved).collect(), ..sku(1, by_token) },
        ),
        ("dear".to_owned(), sku(10, by_token)),
        ("tts-1".to_owned(), sku(1, &Meter::ALL[..13])),
        ("whisper-1".to_owned(), sku(1, &[Meter::Input, Meter::Output, Meter::AudioInput])),
    ]);
    let models = [Provider::OpenAi, Provider::Anthropic, Provider::DeepSeek].map(|provider| (provider, models.clone()));
    PriceTable { version: 7, valid_from_unix_ms: 0, source: String::new(), models: models.into() }
}

fn halved(rate: Rate) -> Rate {
    Rate { pico_usd: PicoUsd(rate.pico_usd.0 / 2), ..rate }
}

/// 4,000 bytes of text, two images, and at most 10,000 tokens out.
fn demand() -> Demand {
    Demand { text_bytes: 4_000, images: 2, output_tokens: Some(10_000), characters: 900, ..Demand::NOTHING }
}

/// A request that was sent in full.
fn asked<'a>(prices: &'a PriceTable, demand: &'a Demand) -> Asked<'a> {
    Asked { prices, provider: Provider::OpenAi, model: MODEL, demand: Some(demand), ceiling: CEILING }
}

fn headers(shape: Shape, coding: Option<&'static str>) -> HeaderMap {
    let kind = match shape {
        Shape::Json => "application/json",
        Shape::Events => "text/event-stream; charset=utf-8",
        Shape::Session | Shape::Opaque => "audio/mpeg",
    };
    let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
    if let Some(coding) = coding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    headers
}

fn status_of(shape: Shape) -> StatusCode {
    if shape == Shape::Session { StatusCode::SWITCHING_PROTOCOLS } else { StatusCode::OK }
}

/// The figure of an answer that came in one piece.
fn figure(form: Form, shape: Shape, body: &[u8], asked: &Asked<'_>, ending: Ending) -> Figure {
    let mut meter = CallMeter::new(form);
    meter.head(status_of(shape), &headers(shape, None));
    meter.feed(body);
    meter.finish(asked, ending)
}

fn quantities(meters: &Meters) -> Vec<(Meter, u64)> {
    meters.iter().collect()
}
