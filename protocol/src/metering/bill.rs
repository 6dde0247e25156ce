//! What quantities cost, when the answer may be another model's, or in another class of
//! service, than was asked for.
//!
//! Invariant: of all prices that fit, the lowest counts, and what has no price costs
//! nothing and is seen.

use super::Asked;
use crate::demand::RegionAsked;
use crate::demand::TierAsked;
use crate::money::NanoUsd;
use crate::price::Bill;
use crate::price::BillError;
use crate::price::Service;
use crate::price::ServiceTier;
use crate::price::Sku;
use crate::provider::Provider;
use crate::usage::Doubt;
use crate::usage::Doubts;
use crate::usage::Meters;
use crate::usage::Reading;

/// A bill, and the class of service that it is made for.
pub(super) struct Billed {
    pub(super) bill: Bill,
    pub(super) tier: ServiceTier,
    pub(super) doubts: Doubts,
}

/// The bill of what was used, answered by this model in this class of service.
pub(super) fn bill(asked: &Asked<'_>, answered: Option<&str>, reading: &Reading, used: &Meters) -> Billed {
    let mut doubts = Doubts::default();
    // The fast mode and the region cost more where both sides say so.
    let is_fast = asked.demand.is_some_and(|demand| demand.is_fast) && reading.speed.as_deref() == Some("fast");
    let is_us =
        asked.demand.is_some_and(|demand| demand.region == RegionAsked::Us) && reading.region.as_deref() == Some("us");
    let tier = ServiceTier::of_answer(reading.tier.as_deref()).unwrap_or_else(|| {
        doubts.add(Doubt::UnknownTier);
        ServiceTier::Standard
    });
    if answered.is_some_and(|answered| is_other(asked, answered)) {
        doubts.add(Doubt::OtherModel);
    }
    let sku = asked.prices.sku(asked.provider, asked.model);
    let other = answered.filter(|answered| *answered != asked.model);
    let other = other.and_then(|answered| asked.prices.sku(asked.provider, answered));
    let asked_tier = asked.demand.map_or(tier, |demand| dearest(demand.tier));
    let also = (asked_tier != tier).then_some(asked_tier);
    let ways = [other.map(|sku| (sku, tier)), sku.map(|sku| (sku, tier)), sku.zip(also)];
    let bills = ways
        .into_iter()
        .flatten()
        .filter_map(|(sku, tier)| Some((sku.bill(Service { tier, is_fast, is_us }, used).ok()?, tier)));
    if let Some((bill, tier)) = bills.min_by_key(|(bill, _)| bill.list_nano_usd) {
        return Billed { bill, tier, doubts };
    }
    let (bill, partly) = sku.or(other).map_or((Bill::default(), Doubt::Unpriced), |sku| priced_part(sku, tier, used));
    doubts.add(partly);
    Billed { bill, tier, doubts }
}

/// The dearest class of service that was agreed to.
const fn dearest(asked: TierAsked) -> ServiceTier {
    match asked {
        TierAsked::Standard => ServiceTier::Standard,
        TierAsked::Flex => ServiceTier::Flex,
        TierAsked::Auto | TierAsked::Priority => ServiceTier::Priority,
    }
}

/// The bill of a model that the answer names beside the one that was asked for.
pub(super) fn bill_of_other(asked: &Asked<'_>, model: Option<&str>, used: &Meters) -> Billed {
    let tier = ServiceTier::Standard;
    let sku = model.and_then(|model| asked.prices.sku(asked.provider, model));
    let mut doubts = Doubts::default();
    let bill = match sku.map(|sku| (sku, sku.bill(tier, used))) {
        Some((_, Ok(bill))) => bill,
        Some((sku, Err(_))) => {
            let (bill, partly) = priced_part(sku, tier, used);
            doubts.add(partly);
            bill
        }
        None => {
            doubts.add(Doubt::Unpriced);
            Bill::default()
        }
    };
    Billed { bill, tier, doubts }
}

/// The bill of what has a price, and why that is not all.
fn priced_part(sku: &Sku, tier: ServiceTier, used: &Meters) -> (Bill, Doubt) {
    let mut used = *used;
    loop {
        match sku.bill(tier, &used) {
            Ok(bill) => return (bill, Doubt::Unpriced),
            Err(BillError::NoPrice(meter)) => used.set(meter, 0),
            Err(BillError::NoSurcharge(_) | BillError::TooMuch(_)) => {
                return (Bill { list_nano_usd: NanoUsd(i64::MAX), ..Bill::default() }, Doubt::OverCeiling);
            }
        }
    }
}

/// Whether this name is not that of the model that was asked for, nor of a dated version
/// of it. Azure's deployments have names of their owners' choice.
fn is_other(asked: &Asked<'_>, answered: &str) -> bool {
    let name = asked.model.strip_suffix("-latest").unwrap_or(asked.model);
    let version = answered.strip_prefix(name);
    let is_version = version.is_some_and(|version| {
        let mut bytes = version.bytes();
        match (bytes.next(), bytes.next()) {
            (None, _) => true,
            (Some(b'-' | b'@'), Some(digit)) => digit.is_ascii_digit(),
            (Some(_), _) => false,
        }
    });
    asked.provider != Provider::Azure && !is_version
}
