//! What this agent takes orders by: a ticket for every call that costs something, checked before
//! the vendor hears of it.
//!
//! Invariant: an attempt that costs something is served at most once, and only with a ticket of
//! the fleet for this agent, this call, this key and this endpoint.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;

use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::metering::METER_RULES;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::provider::endpoint::Metering;
use keyhaven_protocol::ticket::Gate;
use keyhaven_protocol::ticket::Order;
use keyhaven_protocol::ticket::Refusal;
use keyhaven_protocol::ticket::Seen;
use keyhaven_protocol::ticket::SignedTicket;

use crate::hub_keys::HubKeys;
use crate::prices::PriceStore;

/// The gate of one agent.
pub struct Orders {
    agent: AgentId,
    hub_keys: HubKeys,
    prices: PriceStore,
    tier_floor: Ppm,
    seen: Mutex<Seen>,
}

impl Orders {
    /// A gate that has let these attempts in before.
    pub const fn new(agent: AgentId, hub_keys: HubKeys, prices: PriceStore, tier_floor: Ppm, seen: Seen) -> Self {
        Self { agent, hub_keys, prices, tier_floor, seen: Mutex::new(seen) }
    }

    /// The order that a call came with; none for a call that is free by this agent's own table.
    ///
    /// # Errors
    /// What the hub is told in place of an answer.
    pub fn take(&self, open: &OpenHead) -> Result<Option<SignedTicket>, Abort> {
        let metering = Endpoint::from_number(open.endpoint).map(Endpoint::metering);
        let bytes = match (metering, &open.ticket) {
            (Some(Metering::Metered(_)), Some(ticket)) => ticket,
            (Some(Metering::Metered(_)), None) => return Err(Abort::new(AbortReason::TicketMissing)),
            // An endpoint that is not in the table is refused with the request.
            (Some(Metering::Free) | None, None) => return Ok(None),
            (Some(Metering::Free) | None, Some(_)) => {
                return Err(Abort::with_detail(AbortReason::TicketInvalid, "the endpoint costs nothing"));
            }
        };
        let keys = self.hub_keys.list();
        let unknown = || Abort::with_detail(AbortReason::TicketInvalid, "the hub has not said its signing keys");
        let keys = keys.ok_or_else(unknown)?;
        let gate = Gate {
            agent: self.agent,
            oldest_key: keys.newest(),
            keys,
            meter_rules: METER_RULES,
            tier_floor: self.tier_floor,
        };
        let order = Order { call: open.call, vendor_key: open.vendor_key, endpoint: open.endpoint };
        let held = |version, hash: &_| self.prices.table(version, hash).is_some();
        let signed = gate.examine(bytes, order, held).map_err(|refusal| refused(&refusal))?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.admit(signed.ticket()).map_err(|refusal| refused(&refusal))?;
        Ok(Some(signed))
    }
}

impl fmt::Debug for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orders")
            .field("agent", &self.agent)
            .field("tier_floor", &self.tier_floor)
            .finish_non_exhaustive()
    }
}

fn refused(refusal: &Refusal) -> Abort {
    let reason = match refusal {
        Refusal::Ticket(_) | Refusal::OldKey(_) | Refusal::Agent | Refusal::Differs(_) => AbortReason::TicketInvalid,
        Refusal::Prices => AbortReason::PricesUnknown,
        Refusal::MeterRules => AbortReason::RulesUnknown,
        Refusal::Tier { .. } => AbortReason::TierTooLow,
        Refusal::Seen => AbortReason::TicketSeen,
    };
    Abort::with_detail(reason, refusal.to_string())
}
