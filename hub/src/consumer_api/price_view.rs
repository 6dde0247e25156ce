//! What a consumer is shown of the prices in force.
//!
//! Invariant: prices are money per unit in the caller's zone, never a bare ratio.

use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::PriceTable;
use keyhaven_protocol::price::Rate;
use keyhaven_protocol::price::Surcharges;
use serde_json::Value;
use serde_json::json;

use crate::key_policy::Payer;
use crate::pricing::unit::sold_by;

/// The models that the key may use, with what they cost in its zone.
pub(super) fn of(table: &PriceTable, payer: &Payer, factor: Ppm) -> Value {
    let mut models = Vec::new();
    for (provider, skus) in &table.models {
        for (name, sku) in skus.iter().filter(|(name, _)| payer.policy.allows_model(name)) {
            let prices: Vec<Value> = sku.rates.iter().filter_map(|rate| price(rate, sku.surcharges, factor)).collect();
            models.push(json!({
                "provider": provider,
                "model": name,
                "context_tokens": sku.context_tokens,
                "output_tokens_max": sku.output_tokens_max,
                "prices": prices,
            }));
        }
    }
    json!({
        "version": table.version,
        "valid_from_unix_ms": table.valid_from_unix_ms,
        "source": table.source,
        "hash": table.hash(),
        "zone": payer.zone,
        "models": models,
    })
}

/// Rounded up, as a charge is; a price beyond 64 bits is not sold at.
fn price(rate: &Rate, surcharges: Surcharges, factor: Ppm) -> Option<Value> {
    let (units, unit) = sold_by(rate.meter);
    let list = |raised: Option<Ppm>| -> Option<NanoUsd> {
        let one = raised.map_or(Ok(rate.pico_usd), |share| rate.pico_usd.share_rounded(share));
        one.and_then(|one| one.times_rounded(units)).ok()
    };
    let usual = list(None)?;
    let price = usual.share_rounded_up(factor).ok()?;
    let raised = |share: Option<Ppm>| {
        let share = share.filter(|_| rate.meter.is_tokens());
        share.and_then(|share| list(Some(share))?.share_rounded_up(factor).ok()).map(|price| price.to_string())
    };
    Some(json!({
        "meter": rate.meter,
        "service_tier": rate.tier,
        "above_input_tokens": rate.above_input_tokens,
        "per": unit,
        "price": price.to_string(),
        "price_nano_usd": price,
        "list_price": usual.to_string(),
        "list_price_nano_usd": usual,
        "price_in_fast_mode": raised(surcharges.fast),
        "price_in_us_only": raised(surcharges.us),
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keyhaven_protocol::id::AccountId;
    use keyhaven_protocol::id::ApiKeyId;
    use keyhaven_protocol::money::PicoUsd;
    use keyhaven_protocol::price::ServiceTier;
    use keyhaven_protocol::price::Sku;
    use keyhaven_protocol::price::Zone;
    use keyhaven_protocol::provider::Provider;
    use keyhaven_protocol::usage::Meter;

    use super::*;
    use crate::key_policy::KeyPolicy;

    #[test]
    fn a_key_sees_what_its_models_cost_per_million_tokens_in_its_zone() {
        let rate = Rate {
            meter: Meter::Input,
            tier: ServiceTier::Standard,
            above_input_tokens: 0,
            pico_usd: PicoUsd(2_500_000),
        };
        let sku = Sku {
            context_tokens: Some(128_000),
            output_tokens_max: None,
            abort_tokens_per_second: 50,
            surcharges: Surcharges { fast: Some(Ppm(2_000_000)), us: None },
            rates: vec![rate],
        };
        let skus = BTreeMap::from([("gpt-4o".to_owned(), sku.clone()), ("o3".to_owned(), sku)]);
        let table = PriceTable {
            version: 7,
            valid_from_unix_ms: 5,
            source: "a test".to_owned(),
            models: BTreeMap::from([(Provider::OpenAi, skus)]),
        };
        let policy = KeyPolicy { models: vec!["gpt-*".to_owned()], ..KeyPolicy::default() };
        let (account, key) = (AccountId([1; 16]), ApiKeyId([1; 16]));
        let payer = Payer { account, key, zone: Zone::Premium, is_blocked: false, policy };

        let shown = of(&table, &payer, Ppm(1_150_000));

        assert_eq!((&shown["version"], &shown["zone"]), (&json!(7), &json!("premium")));
        assert_eq!(shown["models"].as_array().map(Vec::len), Some(1));
        let price = &shown["models"][0]["prices"][0];
        assert_eq!((&price["price"], &price["per"]), (&json!("$2.875"), &json!("1M tokens")));
        assert_eq!(price["list_price"], "$2.50");
        assert_eq!((&price["price_in_fast_mode"], &price["price_in_us_only"]), (&json!("$5.75"), &Value::Null));
    }
}
