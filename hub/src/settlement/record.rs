//! What is written down of a call: what was sold, what each side metered, who paid what.
//!
//! Invariant: a record says all that its bookings were made from.

use std::collections::BTreeMap;

use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::price::Line;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::price::Zone;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::settle;
use keyhaven_protocol::settle::Settled;
use keyhaven_protocol::settle::Shares;
use keyhaven_protocol::usage::Meter;
use serde::Deserialize;
use serde::Serialize;

/// A call as it was sold to an agent: known once it is dispatched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sale {
    /// Which call.
    pub call: CallId,
    /// Who pays.
    pub account: AccountId,
    /// With which key.
    pub key: ApiKeyId,
    /// Whose agent serves it.
    pub agent: AgentId,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The vendor.
    pub provider: Provider,
    /// The endpoint, as `docs/ENDPOINTS.md` names it.
    pub endpoint: String,
    /// The model that was asked for.
    pub model: String,
    /// When the call began.
    pub began_unix_ms: u64,
    /// At which table's prices.
    pub price_version: u32,
    /// That table's hash.
    pub price_hash: Hex<32>,
    /// The consumer's zone.
    pub zone: Zone,
    /// What consumer and owner pay and get of the list price.
    pub shares: Shares,
    /// What was set aside.
    pub held: NanoUsd,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallOutcome {
    /// The vendor's end was seen.
    Served,
    /// The vendor answered with an error.
    VendorError,
    /// The consumer left.
    ConsumerLeft,
    /// The answer broke off with the consumer still there.
    Broke,
    /// It never fully reached the vendor.
    NotSent,
    /// The hub itself ended during the call.
    HubLost,
}

/// What one side metered of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metering {
    /// How much of what.
    pub usage: BTreeMap<Meter, u64>,
    /// What that costs at list prices.
    pub lines: Vec<Line>,
    /// Their sum, or less where a ceiling came first.
    pub list_nano_usd: NanoUsd,
    /// The class of service that the answer names.
    pub tier: ServiceTier,
    /// The model that the answer names.
    pub model: Option<String>,
    /// By which rule of `docs/METERING.md`.
    pub rule: String,
    /// Whether the vendor did not say all of it.
    pub estimated: bool,
    /// What in the answer contradicts itself.
    pub doubts: Vec<String>,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
}

/// All that is known of a call that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// What was sold.
    pub sale: Sale,
    /// How it ended.
    pub outcome: CallOutcome,
    /// The status that the consumer saw; 0 for none.
    pub status: u16,
    /// When it ended.
    pub ended_unix_ms: u64,
    /// What the hub metered.
    pub hub_metered: Metering,
    /// What the agent metered, if it said so.
    pub agent_metered: Option<Metering>,
    /// Who paid and got what.
    pub settled: Settled,
}

impl Metering {
    /// A part of a call's cost that somebody saw before the hub ended.
    pub(super) fn observed(list: NanoUsd) -> Self {
        Self {
            usage: BTreeMap::new(),
            lines: Vec::new(),
            list_nano_usd: list,
            tier: ServiceTier::Standard,
            model: None,
            rule: "observed".to_owned(),
            estimated: true,
            doubts: Vec::new(),
            response_bytes: 0,
        }
    }

    /// The part that decides who pays what.
    pub fn figure(&self) -> settle::Metered {
        settle::Metered { list: self.list_nano_usd, response_bytes: self.response_bytes }
    }

    /// All tokens in.
    pub fn input_tokens(&self) -> u64 {
        self.sum(|meter| !is_output(meter) && is_tokens(meter))
    }

    /// All tokens out.
    pub fn output_tokens(&self) -> u64 {
        self.sum(|meter| is_output(meter) && is_tokens(meter))
    }

    fn sum(&self, counts: impl Fn(&str) -> bool) -> u64 {
        let counted = self.usage.iter().filter(|(meter, _)| counts(meter.name()));
        counted.fold(0, |sum, (_, quantity)| sum.saturating_add(*quantity))
    }
}

/// A meter's name says what it counts, and its unit comes last.
fn is_tokens(meter: &str) -> bool {
    meter.ends_with("_tokens")
}

fn is_output(meter: &str) -> bool {
    meter.ends_with("output_tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_summed_by_direction() {
        let mut metering = Metering::observed(NanoUsd(5));
        for meter in Meter::ALL {
            metering.usage.insert(*meter, 1);
        }

        let tokens = Meter::ALL.iter().filter(|meter| meter.name().ends_with("_tokens")).count();

        assert_eq!(metering.output_tokens(), 3);
        assert_eq!(metering.input_tokens(), u64::try_from(tokens).unwrap() - 3);
        let json = serde_json::to_string(&metering).unwrap();
        assert_eq!(serde_json::from_str::<Metering>(&json).unwrap(), metering);
    }
}
