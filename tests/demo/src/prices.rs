//! What the demo's calls cost: a dated snapshot of LiteLLM's published table.
//!
//! Invariant: prices that were published in a kept directory are left as they are.

use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_hub::pricing::book::Begins;
use keyhaven_hub::pricing::book::PriceBook;
use keyhaven_hub::registry::Registry;
use keyhaven_hub::settlement::deposit;
use keyhaven_hub::store::accounts::DEFAULT_ACCOUNT;
use keyhaven_hub::store::accounts::Deposit;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::OwnerTier;
use keyhaven_protocol::price::Zone;

/// `prices/README.md` beside it says where it is from.
const SNAPSHOT: &[u8] = include_bytes!("../prices/litellm-1.109.1.json");

/// As prices are shown.
pub(crate) const SOURCE: &str = "LiteLLM 1.109.1, as of 2026-11-20";

/// Consumers pay $1.15 for what costs $1.00 at list, and owners get $0.80 of it.
const ZONE: Ppm = Ppm(1_150_000);
const TIER: Ppm = Ppm(800_000);

/// What the demo's consumer has to spend: $100.
const BALANCE: NanoUsd = NanoUsd(100_000_000_000);

/// Publishes the snapshot, sets zone and tier and pays in for the consumer, if nothing was published yet.
///
/// # Errors
/// What the database did not do, with its code.
pub(crate) async fn publish(registry: &Registry) -> Result<(), Failure> {
    let book = PriceBook::new(&registry.store, &registry.keys);
    if book.published(None).await?.is_some() {
        return Ok(());
    }
    let now = unix_ms_now();
    book.import(SNAPSHOT, SOURCE, now).await?;
    registry.store.put_zone(Zone::Standard, ZONE, false).await?;
    registry.store.put_tier(OwnerTier::Standard, TIER, false).await?;
    book.publish(Begins::Usual, now).await?;
    let paid = Deposit { reference: "demo".to_owned(), account: DEFAULT_ACCOUNT, amount: BALANCE, at_unix_ms: now };
    deposit(&registry.store, &paid).await.map_err(|error| Failure::new(error.code(), error.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use keyhaven_hub::pricing::litellm;
    use keyhaven_protocol::price::PriceTable;
    use keyhaven_protocol::provider::Provider;

    use super::*;
    use crate::sample_vendor::SampleVendor;

    #[test]
    fn what_the_sample_vendor_has_is_priced() {
        let models = litellm::import(SNAPSHOT).unwrap().models;
        let table = PriceTable { version: 1, valid_from_unix_ms: 0, source: SOURCE.to_owned(), models };

        for (provider, model) in SampleVendor::models() {
            assert!(table.sku_for(provider, model).is_some(), "{provider}/{model}");
        }
        // What DeepSeek serves under Anthropic's names.
        assert!(table.sku_for(Provider::DeepSeek, "claude-opus-4-5").is_some());
        assert!(table.sku_for(Provider::DeepSeek, "claude-haiku-4-5").is_some());
    }
}
