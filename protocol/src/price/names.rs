//! Whose prices hold for the name that a consumer uses: exact names, names with and without
//! their date, and the names of others that DeepSeek takes.
//!
//! Invariant: a name that may cost one price or another has none, and is not sold.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::PriceTable;
use super::Sku;
use crate::provider::Provider;

impl PriceTable {
    /// The prices of a model by any name its vendor takes for it. For Azure that is the model
    /// behind the deployment.
    ///
    /// A name with a date is sold like the one without, and the other way round, as long as all
    /// names of the table that differ in nothing but their date have the same prices.
    pub fn sku_for(&self, provider: Provider, model: &str) -> Option<&Sku> {
        let models = self.models.get(&provider)?;
        let served = served(provider, model);
        models.get(served).or_else(|| of_any_date(models, served))
    }
}

/// The model that DeepSeek serves when it is asked for one of Anthropic's, as its documentation
/// has it; any other name stands for itself.
fn served(provider: Provider, model: &str) -> &str {
    match provider {
        Provider::DeepSeek if model.starts_with("claude-opus") => "deepseek-v4-pro",
        Provider::DeepSeek if model.starts_with("claude") => "deepseek-flash",
        Provider::DeepSeek | Provider::OpenAi | Provider::Azure | Provider::Anthropic => model,
    }
}

fn of_any_date<'a>(models: &'a BTreeMap<String, Sku>, model: &str) -> Option<&'a Sku> {
    let family = undated(model);
    let alike = models
        .range::<str, _>((Bound::Included(family), Bound::Unbounded))
        .take_while(|(name, _)| name.starts_with(family));
    let mut alike = alike.filter(|(name, _)| undated(name) == family).map(|(_, sku)| sku);
    let first = alike.next()?;
    alike.all(|sku| (&sku.rates, sku.surcharges) == (&first.rates, first.surcharges)).then_some(first)
}

/// The name without its date: `-2024-08-06` as OpenAI writes it, `-20250929` as Anthropic does.
fn undated(name: &str) -> &str {
    let cut = |pattern: &str| {
        let (family, date) = name.split_at_checked(name.len().checked_sub(pattern.len())?)?;
        let fits = |(byte, wanted): (u8, u8)| if wanted == b'0' { byte.is_ascii_digit() } else { byte == wanted };
        (!family.is_empty() && date.bytes().zip(pattern.bytes()).all(fits)).then_some(family)
    };
    cut("-2000-00-00").or_else(|| cut("-20000000")).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::PicoUsd;
    use crate::price::Rate;
    use crate::price::ServiceTier;
    use crate::price::Surcharges;
    use crate::usage::Meter;

    #[test]
    fn a_date_is_told_from_a_name() {
        let names = [
            ("gpt-4o-2024-08-06", "gpt-4o"),
            ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
            ("gpt-4o", "gpt-4o"),
            ("gpt-4-0613", "gpt-4-0613"),
            ("-20251001", "-20251001"),
            ("x-2024-08-6", "x-2024-08-6"),
            ("x-30251001", "x-30251001"),
            ("ä20251001", "ä20251001"),
            ("", ""),
        ];
        for (name, family) in names {
            assert_eq!(undated(name), family, "{name}");
        }
    }

    #[test]
    fn a_name_is_sold_by_its_own_price_first() {
        let table = table(Provider::OpenAi, &[("gpt-4o", 2), ("gpt-4o-2024-05-13", 5), ("gpt-4o-2024-08-06", 2)]);

        assert_eq!(price(&table, Provider::OpenAi, "gpt-4o"), Some(2));
        assert_eq!(price(&table, Provider::OpenAi, "gpt-4o-2024-05-13"), Some(5));
        assert_eq!(price(&table, Provider::OpenAi, "gpt-4o-2027-01-01"), None, "which of the two?");
        assert_eq!(price(&table, Provider::Azure, "gpt-4o"), None);
    }

    #[test]
    fn a_date_does_not_matter_where_no_date_changes_the_price() {
        let table = table(
            Provider::Anthropic,
            &[
                ("claude-haiku-4-5", 1),
                ("claude-haiku-4-5-20251001", 1),
                ("claude-opus-5-20260101", 9),
                ("claude-x", 7),
            ],
        );
        let price = |model| price(&table, Provider::Anthropic, model);

        assert_eq!(price("claude-haiku-4-5-20260202"), Some(1));
        assert_eq!(price("claude-opus-5"), Some(9));
        assert_eq!(price("claude-opus"), None, "a family is not its members");
        assert_eq!(price("claude-haiku-4-5-fast"), None);
        assert_eq!(price("claude-"), None);
    }

    #[test]
    fn names_of_others_cost_what_deepseek_serves_for_them() {
        let table = table(Provider::DeepSeek, &[("deepseek-v4-pro", 4), ("deepseek-flash", 1), ("deepseek-chat", 2)]);
        let price = |model| price(&table, Provider::DeepSeek, model);

        assert_eq!(price("claude-opus-4-5"), Some(4));
        assert_eq!(price("claude-haiku-4-5-20251001"), Some(1));
        assert_eq!(price("claude"), Some(1));
        assert_eq!(price("deepseek-chat"), Some(2));
        assert_eq!(price("gpt-4o"), None);
    }

    fn price(table: &PriceTable, provider: Provider, model: &str) -> Option<i64> {
        table.sku_for(provider, model).map(|sku| sku.rates[0].pico_usd.0)
    }

    fn table(provider: Provider, prices: &[(&str, i64)]) -> PriceTable {
        let sku = |price| Sku {
            context_tokens: None,
            output_tokens_max: None,
            abort_tokens_per_second: 1,
            surcharges: Surcharges::default(),
            rates: vec![Rate {
                meter: Meter::Input,
                tier: ServiceTier::Standard,
                above_input_tokens: 0,
                pico_usd: PicoUsd(price),
            }],
        };
        let models = prices.iter().map(|(model, price)| ((*model).to_owned(), sku(*price))).collect();
        PriceTable { version: 1, valid_from_unix_ms: 0, source: String::new(), models: [(provider, models)].into() }
    }
}
