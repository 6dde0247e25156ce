//! An owner, a hub that orders and states, and a ledger between them.
//!
//! Invariant: everything that is signed here is signed as the real sides do.

use std::path::PathBuf;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::chain::Group;
use keyhaven_protocol::chain::Verifier;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::id::HubNodeId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::key_list::KeyEntry;
use keyhaven_protocol::leaf::Close;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Leaf;
use keyhaven_protocol::leaf::Metered;
use keyhaven_protocol::leaf::Part;
use keyhaven_protocol::leaf::Purpose;
use keyhaven_protocol::metering::Outcome;
use keyhaven_protocol::metering::Rule;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::sealed::Sealed;
use keyhaven_protocol::statement::Cosign;
use keyhaven_protocol::statement::Line;
use keyhaven_protocol::statement::Reason;
use keyhaven_protocol::statement::Settled;
use keyhaven_protocol::statement::Stated;
use keyhaven_protocol::statement::Statement;
use keyhaven_protocol::ticket::SignedTicket;
use keyhaven_protocol::ticket::Ticket;
use keyhaven_protocol::usage::Doubts;
use keyhaven_protocol::usage::Meter;
use keyhaven_protocol::usage::Meters;

use crate::ledger::Disk;
use crate::ledger::Ledger;
use crate::ledger::LedgerError;
use crate::ledger::Limits;
use crate::ledger::Opened;
use crate::ledger::Owner;
use crate::ledger::Pending;
use crate::ledger::Settings;

pub(super) const FLEET: FleetId = FleetId([1; 16]);
pub(super) const AGENT: AgentId = AgentId([5; 16]);

pub(super) fn owner() -> Owner {
    let hub_key = hub_key().verifying_key().to_bytes();
    Owner { fleet: FLEET, purpose: Purpose::Calls, agent: AGENT, key: agent_key(), hub_key }
}

pub(super) fn agent_key() -> SigningKey {
    SigningKey::from_bytes(&[33; 32])
}

pub(super) fn hub_key() -> SigningKey {
    SigningKey::from_bytes(&[40; 32])
}

/// The fleet's list of keys.
pub(super) fn key_entry() -> Vec<u8> {
    let root = SigningKey::from_bytes(&[41; 32]);
    let entry = KeyEntry::first(FLEET, &root.verifying_key(), &hub_key().verifying_key());
    entry.encode(&entry.sign(&root), &entry.sign(&hub_key()), None)
}

/// Segments of a few entries.
pub(super) fn small_segments() -> Settings {
    Settings { segment_bytes_max: 2_000, now_unix_ms: || 1_800_000_000_000, limits: Limits::default() }
}

pub(super) fn open(disk: Arc<dyn Disk>, index: Option<PathBuf>, settings: Settings) -> Result<Opened, LedgerError> {
    Opened::on_disk(disk, index, None, owner(), settings)
}

/// The order for a call.
pub(super) fn ticket(call: u64) -> SignedTicket {
    let call = call_id(call);
    let ticket = Ticket {
        fleet: FLEET,
        hub_node: HubNodeId([2; 16]),
        boot: BootId([3; 16]),
        signing_key: 0,
        call,
        attempt: 1,
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
        payer: Sealed::from_bytes(&[9; 88]).unwrap(),
    };
    ticket.sign(&hub_key())
}

pub(super) fn call_id(call: u64) -> CallId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&call.to_be_bytes());
    CallId(id)
}

/// The order is taken.
pub(super) fn opened(call: u64) -> Event {
    Event::Open(ticket(call))
}

/// It is over, and cost so much.
pub(super) fn closed(call: u64, list: i64) -> Event {
    Event::Close(Close {
        call: call_id(call),
        attempt: 1,
        ticket: ticket(call).hash(),
        status: Some(200),
        vendor_ended: true,
        metered: Some(metered(list)),
        request_bytes: 321,
        vendor_bytes: 4_096,
        request_digest: Some(Hex([15; 32])),
        response_digest: Some(Hex([16; 32])),
        vendor_request: Some(Hex([17; 32])),
        lasted_ms: 1_234,
    })
}

/// It cost so much up to here.
pub(super) fn part(call: u64, list: i64) -> Event {
    Event::Part(Part { call: call_id(call), attempt: 1, ticket: ticket(call).hash(), part: 0, metered: metered(list) })
}

fn metered(list: i64) -> Metered {
    let mut meters = Meters::default();
    meters.set(Meter::Input, 1_000);
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
        list: NanoUsd(list),
        response_bytes: 4_000,
        elapsed_ms: 0,
    }
}

/// The hub: what it has of one chain.
#[derive(Clone)]
pub(super) struct Hub {
    chain: Option<ChainId>,
    stated: Stated,
    verifier: Option<(Verifier, Cosign)>,
    /// What it says of every CLOSE.
    pub(super) reason: Reason,
    /// What it has said.
    pub(super) said: Vec<(Vec<u8>, Vec<u8>)>,
    /// What it has credited.
    pub(super) credited: NanoUsd,
}

impl Hub {
    pub(super) fn new() -> Self {
        Self {
            chain: None,
            stated: Stated::NOTHING,
            verifier: None,
            reason: Reason::Agreed,
            said: Vec::new(),
            credited: NanoUsd::ZERO,
        }
    }

    /// Of which chain it has leaves.
    pub(super) fn chain(&self) -> Option<ChainId> {
        self.chain
    }

    /// How many leaves it has.
    pub(super) fn leaves(&self) -> u64 {
        self.stated.leaves
    }

    /// Takes the next group, and says so: a statement and a cosigned head.
    pub(super) fn take(&mut self, ledger: &Ledger) -> Option<(Vec<u8>, Vec<u8>)> {
        let group = ledger.group_at(self.stated.leaves).unwrap()?;
        let (chain, _, _) = ledger.head();
        self.chain = Some(chain);
        let (verifier, cosign) = self
            .verifier
            .get_or_insert_with(|| (Verifier::new(chain, agent_key().verifying_key()), Cosign::new(chain)));
        let from = verifier.head();
        let leaves = Group::decode(&group).unwrap().verify(verifier).unwrap();
        *cosign = cosign.swap(from, verifier.head()).unwrap();
        let lines: Vec<Line> = leaves.iter().map(|leaf| line(leaf, self.reason)).collect();
        let credits = lines.iter().filter_map(|line| line.settled.as_ref()).map(|settled| settled.credit.0);
        self.credited = NanoUsd(self.credited.0 + credits.sum::<i64>());
        let statement = Statement {
            chain,
            number: self.stated.statements,
            before: self.stated.hash,
            first_leaf: self.stated.leaves,
            at_unix_ms: 1_800_000_000_001,
            signing_key: 0,
            lines,
            earlier: Vec::new(),
        };
        let bytes = statement.sign(&hub_key()).unwrap();
        let keys = keyhaven_protocol::key_list::KeyList::begin(FLEET, &key_entry()).unwrap();
        self.stated.take(&bytes, &chain, &keys, 0, |_| None).unwrap();
        self.said.push((bytes, cosign.sign(0, &hub_key()).encode()));
        self.said.last().cloned()
    }

    /// Takes all that is durable, and tells the ledger.
    pub(super) fn take_all(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        while let Some((statement, cosigned)) = self.take(ledger) {
            ledger.take_ack(&statement, Some(&cosigned))?;
        }
        Ok(())
    }

    /// Says again all that it has said, as after a lost link.
    pub(super) fn say_again(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        for (statement, cosigned) in &self.said {
            ledger.take_ack(statement, Some(cosigned))?;
        }
        Ok(())
    }

    /// Where its copy of the chain stands.
    pub(super) fn head(&self) -> Head {
        self.verifier.as_ref().map_or(Head::EMPTY, |(verifier, _)| verifier.head())
    }
}

fn line(leaf: &Leaf, reason: Reason) -> Line {
    let hash = Leaf::hash(&leaf.encode());
    match &leaf.event {
        Event::Close(close) => {
            let list = close.metered.as_ref().map_or(NanoUsd::ZERO, |metered| metered.list);
            let credit = if reason == Reason::Unobserved { NanoUsd::ZERO } else { NanoUsd(list.0 * 8 / 10) };
            let settled = (reason != Reason::Open).then_some(Settled { hub: None, list, credit, charge: None });
            Line { leaf: hash, reason, settled }
        }
        Event::Open(_)
        | Event::Adjust(_)
        | Event::Part(_)
        | Event::Payout(_)
        | Event::KeyRotation(_)
        | Event::HubKey(_)
        | Event::Epoch(_) => Line { leaf: hash, reason: Reason::Noted, settled: None },
    }
}

/// Writes all that waits.
pub(super) fn write_all(opened: &mut Opened) -> Result<(), LedgerError> {
    while opened.writer.step()? {}
    Ok(())
}

/// Takes it, writes it, and checks that it was told to be durable.
pub(super) fn written(opened: &mut Opened, event: Event) -> Result<crate::ledger::LeafId, LedgerError> {
    let mut pending: Pending = opened.ledger.append(event)?;
    write_all(opened)?;
    Ok(pending.is_durable()?.expect("it was written"))
}
