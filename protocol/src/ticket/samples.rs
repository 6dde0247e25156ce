//! A ticket for tests.
//!
//! Invariant: it is the one of `vectors/ticket.hex`.

use zeroize::Zeroizing;

use super::SignedTicket;
use super::Ticket;
use crate::hex::Hex;
use crate::id::AccountId;
use crate::id::AgentId;
use crate::id::ApiKeyId;
use crate::id::BootId;
use crate::id::CallId;
use crate::id::FleetId;
use crate::id::HubNodeId;
use crate::id::VendorKeyId;
use crate::key_list::samples::hub_key;
use crate::money::NanoUsd;
use crate::money::Ppm;
use crate::sealed::ArchiveKey;
use crate::sealed::Payer;
use crate::sealed::SealedFor;

pub(crate) const AGENT: AgentId = AgentId([5; 16]);

/// Signed with the key of the number that it names, whether or not a list has it.
pub(crate) fn signed(ticket: Ticket) -> SignedTicket {
    let key = hub_key(ticket.signing_key);
    ticket.sign(&key)
}

/// A ticket of fleet 1 for [`AGENT`], for call 4.
pub(crate) fn ticket() -> Ticket {
    let at = SealedFor { fleet: FleetId([1; 16]), call: CallId([4; 16]), attempt: 1 };
    Ticket {
        fleet: at.fleet,
        hub_node: HubNodeId([2; 16]),
        boot: BootId([3; 16]),
        signing_key: 0,
        call: at.call,
        attempt: at.attempt,
        agent: AGENT,
        vendor_key: VendorKeyId([6; 16]),
        endpoint: 101,
        model: "gpt-5-mini".to_owned(),
        price_version: 7,
        price_hash: Hex([8; 32]),
        meter_rules: 1,
        zone: Ppm(1_150_000),
        tier: Ppm(800_000),
        ceiling: NanoUsd(2_000_000),
        deadline_ms: 600_000,
        payer: archive_key().seal_payer(&payer(), at, [9; 24]),
    }
}

pub(super) fn archive_key() -> ArchiveKey {
    ArchiveKey::new(1, Zeroizing::new([11; 32]))
}

pub(super) fn payer() -> Payer {
    let (account, key) = (AccountId([12; 16]), ApiKeyId([13; 16]));
    Payer { account, key, zone: Ppm(1_150_000), hold: NanoUsd(2_300_000) }
}
