//! Leaves for tests.
//!
//! Invariant: [`samples`] holds every kind, and is what `vectors/leaves.hex` holds.

use super::Adjust;
use super::AdjustReason;
use super::Close;
use super::EpochReason;
use super::EpochStart;
use super::Event;
use super::Head;
use super::KeyRotation;
use super::Leaf;
use super::Metered;
use super::Part;
use super::Payout;
use super::Purpose;
use crate::hex::Hex;
use crate::id::AgentId;
use crate::id::CallId;
use crate::id::FleetId;
use crate::id::PayoutId;
use crate::metering::Outcome;
use crate::metering::Rule;
use crate::money::NanoUsd;
use crate::price::ServiceTier;
use crate::ticket::samples::signed;
use crate::ticket::samples::ticket;
use crate::usage::Doubts;
use crate::usage::Meter;
use crate::usage::Meters;

/// One leaf of every kind, and of CLOSE one with and one without a figure.
pub(crate) fn samples() -> Vec<Leaf> {
    let lost = Close {
        status: None,
        vendor_ended: false,
        metered: None,
        request_digest: None,
        response_digest: None,
        vendor_request: None,
        ..close()
    };
    let part = Part { call: CallId([4; 16]), attempt: 1, ticket: Hex([8; 32]), part: 1, metered: realtime() };
    let adjust = Adjust {
        call: CallId([4; 16]),
        attempt: 1,
        corrects: Hex([9; 32]),
        list: NanoUsd(1_000),
        reason: AdjustReason::VendorRefund,
    };
    let payout = Payout {
        payout: PayoutId([10; 16]),
        leaves_before: 5,
        amount: NanoUsd(12_000_000),
        method: "csv".to_owned(),
        reference: "transfer 17".to_owned(),
    };
    let rotation = KeyRotation { key: Hex([11; 32]), proof: Hex([12; 64]) };
    let events = [
        Event::Epoch(epoch_start()),
        Event::Open(signed(ticket())),
        Event::Close(close()),
        Event::Close(lost),
        Event::Part(part),
        Event::Adjust(adjust),
        Event::Payout(payout),
        Event::KeyRotation(rotation),
        Event::HubKey(vec![13; 40]),
        Event::Epoch(EpochStart {
            reason: EpochReason::Restored,
            previous: Some((2, Head { size: 77, hash: Hex([14; 32]) })),
            ..epoch_start()
        }),
    ];
    events.into_iter().enumerate().map(|(number, event)| leaf(number.try_into().unwrap(), event)).collect()
}

pub(crate) fn close() -> Close {
    Close {
        call: CallId([4; 16]),
        attempt: 1,
        ticket: signed(ticket()).hash(),
        status: Some(200),
        vendor_ended: true,
        metered: Some(metered()),
        request_bytes: 321,
        vendor_bytes: 4_096,
        request_digest: Some(Hex([15; 32])),
        response_digest: Some(Hex([16; 32])),
        vendor_request: Some(Hex([17; 32])),
        lasted_ms: 1_234,
    }
}

pub(crate) fn metered() -> Metered {
    let mut meters = Meters::default();
    meters.set(Meter::Input, 1_000);
    meters.set(Meter::CachedInput, 24);
    meters.set(Meter::Output, 500);
    Metered {
        outcome: Outcome::Complete,
        rule: Rule::Stated,
        doubts: Doubts::default(),
        tier: ServiceTier::Standard,
        model: Some("gpt-5-mini-2025-08-07".to_owned()),
        meters,
        heard_model: None,
        heard: Meters::default(),
        list: NanoUsd(1_250_600),
        response_bytes: 4_000,
        elapsed_ms: 0,
    }
}

fn realtime() -> Metered {
    let mut heard = Meters::default();
    heard.set(Meter::AudioMillis, 61_000);
    Metered {
        outcome: Outcome::ConsumerLeft,
        rule: Rule::Left,
        doubts: Doubts::from_bits(3),
        heard_model: Some("gpt-4o-transcribe".to_owned()),
        heard,
        elapsed_ms: 61_000,
        ..metered()
    }
}

fn epoch_start() -> EpochStart {
    let key = Hex([18; 32]);
    EpochStart { fleet: FleetId([1; 16]), purpose: Purpose::Calls, key, reason: EpochReason::First, previous: None }
}

pub(super) fn leaf(number: u64, event: Event) -> Leaf {
    let (agent, before) = (AgentId([5; 16]), Hex([19; 32]));
    Leaf { agent, epoch: 3, number, before, at_unix_ms: 1_800_000_000_000, event }
}

pub(crate) fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
