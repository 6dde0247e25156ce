//! What is written down of a call: what was sold, what each side metered, who paid what.
//!
//! Invariant: a record says all that its bookings were made from.

use std::collections::BTreeMap;

use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::leaf;
use keyhaven_protocol::leaf::Close;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Leaf;
use keyhaven_protocol::metering::Figure;
use keyhaven_protocol::metering::Outcome;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::TooMuch;
use keyhaven_protocol::price::Line;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::price::Zone;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::settle::Metered;
use keyhaven_protocol::settle::Settled;
use keyhaven_protocol::settle::Shares;
use keyhaven_protocol::settle::Verdict;
use keyhaven_protocol::settle::settle;
use keyhaven_protocol::usage::Doubt;
use keyhaven_protocol::usage::Doubts;
use keyhaven_protocol::usage::Meter;
use serde::Deserialize;
use serde::Serialize;

use crate::store::Store;
use crate::store::StoreError;

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
    Complete,
    /// The vendor answered with an error.
    Failed,
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
    /// What it saw become of the call.
    pub outcome: CallOutcome,
    /// How much of what.
    pub usage: BTreeMap<Meter, u64>,
    /// Realtime: how much of what of the model that wrote down what was heard.
    pub heard: BTreeMap<Meter, u64>,
    /// What that costs at list prices; an agent does not say it.
    pub lines: Vec<Line>,
    /// Their sum, or less where a ceiling came first.
    pub list_nano_usd: NanoUsd,
    /// The class of service that is billed.
    pub tier: ServiceTier,
    /// The model that the answer names.
    pub model: Option<String>,
    /// By which rule of `docs/METERING.md`.
    pub rule: String,
    /// Whether the vendor did not say all of it.
    pub estimated: bool,
    /// What makes it less than certain, as `docs/METERING.md` lists it.
    pub doubts: Vec<String>,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// The time that an estimate was made with, in milliseconds; else 0.
    pub elapsed_ms: u32,
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
    /// Who pays what, and how the figures compare as far as both are known. What the owner gets
    /// is in the books, by the leaf.
    pub settled: Settled,
}

impl CallOutcome {
    /// As records and documents name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => Outcome::Complete.name(),
            Self::Failed => Outcome::Failed.name(),
            Self::ConsumerLeft => Outcome::ConsumerLeft.name(),
            Self::Broke => Outcome::Broke.name(),
            Self::NotSent => Outcome::NotSent.name(),
            Self::HubLost => "hub_lost",
        }
    }
}

impl From<Outcome> for CallOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Complete => Self::Complete,
            Outcome::Failed => Self::Failed,
            Outcome::ConsumerLeft => Self::ConsumerLeft,
            Outcome::Broke => Self::Broke,
            Outcome::NotSent => Self::NotSent,
        }
    }
}

impl From<&Figure> for Metering {
    fn from(figure: &Figure) -> Self {
        Self {
            outcome: figure.outcome.into(),
            usage: figure.meters.iter().collect(),
            heard: figure.heard.iter().collect(),
            lines: figure.lines.clone(),
            list_nano_usd: figure.list,
            tier: figure.tier,
            model: figure.model.clone(),
            rule: figure.rule.name().to_owned(),
            estimated: figure.is_estimated(),
            doubts: names_of(figure.doubts),
            response_bytes: figure.response_bytes,
            elapsed_ms: figure.elapsed_ms,
        }
    }
}

impl From<&leaf::Metered> for Metering {
    fn from(said: &leaf::Metered) -> Self {
        Self {
            outcome: said.outcome.into(),
            usage: said.meters.iter().collect(),
            heard: said.heard.iter().collect(),
            lines: Vec::new(),
            list_nano_usd: said.list,
            tier: said.tier,
            model: said.model.clone(),
            rule: said.rule.name().to_owned(),
            estimated: said.rule.is_estimate(),
            doubts: names_of(said.doubts),
            response_bytes: said.response_bytes,
            elapsed_ms: said.elapsed_ms,
        }
    }
}

impl CallRecord {
    /// The record of a call that ended so, with what is charged for it.
    ///
    /// # Errors
    /// When an amount is beyond 64 bits.
    pub fn settled(
        sale: Sale,
        status: u16,
        ended_unix_ms: u64,
        hub_metered: Metering,
        agent_metered: Option<Metering>,
    ) -> Result<Self, TooMuch> {
        // The owner is credited by the leaf, whether or not its figure is known by now.
        let charged = settle(hub_metered.figure(), None, sale.shares)?;
        let agent = agent_metered.as_ref().map(Metering::figure);
        let verdict = agent.map_or(Verdict::Open, |agent| Verdict::of(hub_metered.figure(), agent));
        let settled = Settled { verdict, ..charged };
        let outcome = hub_metered.outcome;
        Ok(Self { sale, outcome, status, ended_unix_ms, hub_metered, agent_metered, settled })
    }
}

/// The record with what the agent's leaf says, where that came after the record was written.
///
/// # Errors
/// The database's.
pub async fn with_leaf(store: &Store, mut record: CallRecord) -> Result<CallRecord, StoreError> {
    if record.agent_metered.is_some() {
        return Ok(record);
    }
    let credits = store.credits_of(record.sale.call).await?;
    let Some(credit) = credits.iter().find(|credit| u32::from(credit.attempt) == record.sale.attempt) else {
        return Ok(record);
    };
    let leaf = store.close_leaf(credit).await?.and_then(|bytes| Leaf::decode(&bytes).ok());
    if let Some(Event::Close(Close { metered: Some(metered), .. })) = leaf.map(|leaf| leaf.event) {
        let agent = Metering::from(&metered);
        record.settled.verdict = Verdict::of(record.hub_metered.figure(), agent.figure());
        record.agent_metered = Some(agent);
    }
    Ok(record)
}

impl Metering {
    /// A part of a call's cost that somebody saw before the hub ended.
    pub(super) fn observed(list: NanoUsd) -> Self {
        Self {
            outcome: CallOutcome::HubLost,
            usage: BTreeMap::new(),
            heard: BTreeMap::new(),
            lines: Vec::new(),
            list_nano_usd: list,
            tier: ServiceTier::Standard,
            model: None,
            rule: "observed".to_owned(),
            estimated: true,
            doubts: Vec::new(),
            response_bytes: 0,
            elapsed_ms: 0,
        }
    }

    /// The part that decides who pays what.
    pub fn figure(&self) -> Metered {
        Metered { list: self.list_nano_usd, response_bytes: self.response_bytes }
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
        let counted = self.usage.iter().chain(&self.heard).filter(|(meter, _)| counts(meter.name()));
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

fn names_of(doubts: Doubts) -> Vec<String> {
    let names = [
        (Doubt::UnknownUsage, "unknown_usage"),
        (Doubt::BadNumber, "bad_number"),
        (Doubt::Contradiction, "contradiction"),
        (Doubt::Unreadable, "unreadable"),
        (Doubt::Undecodable, "undecodable"),
        (Doubt::OtherModel, "other_model"),
        (Doubt::UnknownTier, "unknown_tier"),
        (Doubt::Unpriced, "unpriced"),
        (Doubt::OverCeiling, "over_ceiling"),
        (Doubt::Unstated, "unstated"),
        (Doubt::OwnClock, "own_clock"),
    ];
    let known = names.iter().fold(0, |bits, (doubt, _)| bits | *doubt as u16);
    let mut said: Vec<String> =
        names.iter().filter(|(doubt, _)| doubts.has(*doubt)).map(|(_, name)| (*name).to_owned()).collect();
    // A newer agent may doubt more than this hub knows of.
    said.extend((doubts.bits() & !known != 0).then(|| format!("bits {}", doubts.bits() & !known)));
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubts_are_named_and_none_is_swallowed() {
        let mut doubts = Doubts::from_bits(1 << 15);
        assert_eq!(names_of(doubts), ["bits 32768"]);
        doubts.add(Doubt::OverCeiling);
        doubts.add(Doubt::BadNumber);

        assert_eq!(names_of(doubts), ["bad_number", "over_ceiling", "bits 32768"]);
    }

    #[test]
    fn tokens_are_summed_by_direction() {
        let mut metering = Metering::observed(NanoUsd(5));
        for meter in Meter::ALL {
            metering.usage.insert(*meter, 1);
        }

        let tokens = Meter::ALL.iter().filter(|meter| meter.name().ends_with("_tokens")).count();

        metering.heard.insert(Meter::Output, 4);

        assert_eq!(metering.output_tokens(), 3 + 4);
        assert_eq!(metering.input_tokens(), u64::try_from(tokens).unwrap() - 3);
        let json = serde_json::to_string(&metering).unwrap();
        assert_eq!(serde_json::from_str::<Metering>(&json).unwrap(), metering);
    }
}
