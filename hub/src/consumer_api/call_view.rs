//! What a consumer is shown of a call.
//!
//! Invariant: nothing of the owner is in it but how much the agent metered.

use std::collections::BTreeMap;

use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::Line;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::price::Zone;
use keyhaven_protocol::settle::Verdict;
use keyhaven_protocol::usage::Meter;
use serde::Serialize;

use crate::settlement::CallOutcome;
use crate::settlement::CallRecord;
use crate::settlement::Metering;

#[derive(Serialize)]
pub(super) struct CallView<'a> {
    id: CallId,
    model: &'a str,
    /// As the answer names it.
    answer_model: Option<&'a str>,
    endpoint: &'a str,
    outcome: CallOutcome,
    status: u16,
    began_unix_ms: u64,
    ended_unix_ms: u64,
    usage: &'a BTreeMap<Meter, u64>,
    /// Realtime: of the model that wrote down what was heard.
    heard_usage: &'a BTreeMap<Meter, u64>,
    lines: &'a [Line],
    service_tier: ServiceTier,
    price_version: u32,
    price_hash: String,
    zone: Zone,
    zone_factor_ppm: Ppm,
    list_nano_usd: NanoUsd,
    cost_nano_usd: NanoUsd,
    cost: String,
    held_nano_usd: NanoUsd,
    estimated: bool,
    rule: &'a str,
    doubts: &'a [String],
    hub_metered: SideView<'a>,
    /// None until the agent has said it.
    agent_metered: Option<SideView<'a>>,
    agreement: Verdict,
}

/// What one side metered.
#[derive(Serialize)]
struct SideView<'a> {
    list_nano_usd: NanoUsd,
    usage: &'a BTreeMap<Meter, u64>,
    estimated: bool,
    rule: &'a str,
}

impl<'a> CallView<'a> {
    pub(super) fn of(record: &'a CallRecord) -> Self {
        let (sale, hub) = (&record.sale, &record.hub_metered);
        Self {
            id: sale.call,
            model: &sale.model,
            answer_model: hub.model.as_deref(),
            endpoint: &sale.endpoint,
            outcome: record.outcome,
            status: record.status,
            began_unix_ms: sale.began_unix_ms,
            ended_unix_ms: record.ended_unix_ms,
            usage: &hub.usage,
            heard_usage: &hub.heard,
            lines: &hub.lines,
            service_tier: hub.tier,
            price_version: sale.price_version,
            price_hash: sale.price_hash.to_string(),
            zone: sale.zone,
            zone_factor_ppm: sale.shares.zone,
            list_nano_usd: hub.list_nano_usd,
            cost_nano_usd: record.settled.charge,
            cost: record.settled.charge.to_string(),
            held_nano_usd: sale.held,
            estimated: hub.estimated,
            rule: &hub.rule,
            doubts: &hub.doubts,
            hub_metered: SideView::of(hub),
            agent_metered: record.agent_metered.as_ref().map(SideView::of),
            agreement: record.settled.verdict,
        }
    }
}

impl<'a> SideView<'a> {
    fn of(metering: &'a Metering) -> Self {
        Self {
            list_nano_usd: metering.list_nano_usd,
            usage: &metering.usage,
            estimated: metering.estimated,
            rule: &metering.rule,
        }
    }
}
