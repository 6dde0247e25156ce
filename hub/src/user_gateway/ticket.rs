//! The ticket of one attempt: the hub's signed order to an agent.
//!
//! Invariant: who pays is in it only sealed, under a nonce that was never used.

use bytes::Bytes;
use keyhaven_protocol::metering::METER_RULES;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::sealed::NONCE_BYTES;
use keyhaven_protocol::sealed::Payer;
use keyhaven_protocol::sealed::SealedFor;
use keyhaven_protocol::ticket::DEADLINE_MS_MAX;
use keyhaven_protocol::ticket::MODEL_BYTES_MAX;
use keyhaven_protocol::ticket::Ticket;

use super::UserGateway;
use super::order::Order;
use crate::agent_gateway::Seat;

/// An attempt that cannot be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unordered {
    /// The name of the model is longer than a ticket holds.
    #[error("the model's name is too long")]
    Model,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    NoRandom,
}

/// What orders this attempt at this seat.
pub(super) fn ticket_of(
    gateway: &UserGateway,
    order: &Order,
    seat: &Seat,
    attempt: u8,
    tier: Ppm,
) -> Result<Bytes, Unordered> {
    let keys = &gateway.keys;
    let priced_as = order.priced_as();
    if priced_as.len() > MODEL_BYTES_MAX {
        return Err(Unordered::Model);
    }
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|_| Unordered::NoRandom)?;
    let at = SealedFor { fleet: keys.fleet(), call: order.call(), attempt };
    let payer = order.payer();
    let payer = Payer { account: payer.account, key: payer.key, zone: order.zone(), hold: order.held() };
    let ticket = Ticket {
        fleet: at.fleet,
        hub_node: keys.node(),
        boot: gateway.books.boot(),
        signing_key: keys.signer().number(),
        call: at.call,
        attempt,
        agent: seat.link.agent,
        vendor_key: seat.vendor_key,
        endpoint: order.endpoint().number(),
        model: priced_as.to_owned(),
        price_version: order.priced().version(),
        price_hash: order.priced().hash(),
        meter_rules: METER_RULES,
        zone: order.zone(),
        tier,
        ceiling: order.ceiling(),
        deadline_ms: DEADLINE_MS_MAX,
        payer: keys.archive_key().seal_payer(&payer, at, nonce),
    };
    Ok(Bytes::copy_from_slice(ticket.sign(keys.signing_key()).bytes()))
}
