//! What a new table changes, for the person who publishes it.
//!
//! Invariant: two tables without a difference sell everything at the same prices.

use std::collections::BTreeMap;

use keyhaven_protocol::money::PicoUsd;
use keyhaven_protocol::price::PriceTable;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::price::Sku;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::usage::Meter;
use serde::Serialize;

/// A model that two tables treat differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelDiff {
    /// Its vendor.
    pub provider: Provider,
    /// Its name.
    pub model: String,
    /// What becomes of it.
    pub change: Change,
}

/// What becomes of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is sold now.
    Added,
    /// It is not sold any more.
    Removed,
    /// Its prices or bounds change.
    Changed {
        /// The prices that differ.
        rates: Vec<RateDiff>,
        /// Whether context, longest output, surcharges or the rate for aborted calls differ.
        bounds: bool,
    },
}

/// A price that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RateDiff {
    /// Of what.
    pub meter: Meter,
    /// In which class of service.
    pub tier: ServiceTier,
    /// For calls with more tokens in than this.
    pub above_input_tokens: u64,
    /// Before, if there was one.
    pub from_pico_usd: Option<PicoUsd>,
    /// After, if there is one.
    pub to_pico_usd: Option<PicoUsd>,
}

/// What publishing `new` in place of `old` changes, by vendor and model.
pub fn diff(old: Option<&PriceTable>, new: &PriceTable) -> Vec<ModelDiff> {
    let (before, after) = (old.map(models).unwrap_or_default(), models(new));
    let mut names: Vec<_> = before.keys().chain(after.keys()).copied().collect();
    names.sort_unstable();
    names.dedup();
    let changes = names.into_iter().filter_map(|(provider, model)| {
        let change = match (before.get(&(provider, model)), after.get(&(provider, model))) {
            (None, Some(_)) => Change::Added,
            (Some(_), None) => Change::Removed,
            (Some(before), Some(after)) => changed(before, after)?,
            (None, None) => return None,
        };
        Some(ModelDiff { provider, model: model.to_owned(), change })
    });
    changes.collect()
}

fn models(table: &PriceTable) -> BTreeMap<(Provider, &str), &Sku> {
    let of = |(provider, models): (&Provider, _)| {
        let provider = *provider;
        let models: &BTreeMap<String, Sku> = models;
        models.iter().map(move |(model, sku)| ((provider, model.as_str()), sku)).collect::<Vec<_>>()
    };
    table.models.iter().flat_map(of).collect()
}

fn changed(before: &Sku, after: &Sku) -> Option<Change> {
    let bounds = |sku: &Sku| (sku.context_tokens, sku.output_tokens_max, sku.abort_tokens_per_second, sku.surcharges);
    let prices = |sku: &Sku| sku.rates.iter().map(|rate| (rate.key(), rate.pico_usd)).collect::<BTreeMap<_, _>>();
    let (old, new) = (prices(before), prices(after));
    let mut keys: Vec<_> = old.keys().chain(new.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    let rates = keys.into_iter().filter(|key| old.get(key) != new.get(key)).map(|key| {
        let (meter, tier, above_input_tokens) = key;
        let (from_pico_usd, to_pico_usd) = (old.get(&key).copied(), new.get(&key).copied());
        RateDiff { meter, tier, above_input_tokens, from_pico_usd, to_pico_usd }
    });
    let change = Change::Changed { rates: rates.collect(), bounds: bounds(before) != bounds(after) };
    (before != after).then_some(change)
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::price::Rate;
    use keyhaven_protocol::price::Surcharges;

    use super::*;

    #[test]
    fn every_difference_is_named_and_nothing_else() {
        let old = table(&[("same", 1), ("dearer", 1), ("gone", 1)]);
        let new = table(&[("same", 1), ("dearer", 2), ("new", 1)]);

        let changes = diff(Some(&old), &new);

        let dearer = Change::Changed {
            rates: vec![RateDiff {
                meter: Meter::Input,
                tier: ServiceTier::Standard,
                above_input_tokens: 0,
                from_pico_usd: Some(PicoUsd(1)),
                to_pico_usd: Some(PicoUsd(2)),
            }],
            bounds: false,
        };
        let expected = [("dearer", dearer), ("gone", Change::Removed), ("new", Change::Added)];
        let expected =
            expected.map(|(model, change)| ModelDiff { provider: Provider::OpenAi, model: model.to_owned(), change });
        assert_eq!(changes, expected);
        assert!(diff(Some(&old), &old).is_empty());
        assert_eq!(diff(None, &old).len(), 3);
    }

    #[test]
    fn another_bound_is_a_difference_too() {
        let old = table(&[("m", 1)]);
        let mut new = old.clone();
        new.models.get_mut(&Provider::OpenAi).unwrap().get_mut("m").unwrap().context_tokens = Some(7);

        assert_eq!(diff(Some(&old), &new)[0].change, Change::Changed { rates: Vec::new(), bounds: true });
    }

    fn table(prices: &[(&str, i64)]) -> PriceTable {
        let sku = |price| Sku {
            context_tokens: None,
            output_tokens_max: None,
            abort_tokens_per_second: 1,
            surcharges: Surcharges::NONE,
            rates: vec![Rate {
                meter: Meter::Input,
                tier: ServiceTier::Standard,
                above_input_tokens: 0,
                pico_usd: PicoUsd(price),
            }],
        };
        let models = prices.iter().map(|(model, price)| ((*model).to_owned(), sku(*price))).collect();
        PriceTable {
            version: 1,
            valid_from_unix_ms: 0,
            source: String::new(),
            models: BTreeMap::from([(Provider::OpenAi, models)]),
        }
    }
}
