//! The ticket: a hub's signed order to serve one attempt of a call.
//!
//! ```text
//! body:   [fleet 16, hub node 16, boot 16, signing key u32, call 16, attempt u8, agent 16, vendor key 16,
//!          endpoint u16, model: text of at most 256 bytes, price version u32, price hash 32, meter rules u16,
//!          zone ppm u32, tier ppm u32, ceiling nano-USD u64, deadline ms u32, payer: sealed bytes]
//! ticket: ["kh/ticket/1", body as bytes, signature 64]
//! ```
//!
//! Invariant: it says all by which the attempt is settled, so that any hub can settle it from
//! the agent's copy; who pays is sealed, so that the owner cannot link calls.

mod gate;

pub use gate::Gate;
pub use gate::Order;
pub use gate::Refusal;
pub use gate::Seen;

use ed25519_dalek::SigningKey;

use crate::cbor::CborError;
use crate::cbor::Reader;
use crate::cbor::Writer;
use crate::hex::Hex;
use crate::id::AgentId;
use crate::id::BootId;
use crate::id::CallId;
use crate::id::FleetId;
use crate::id::HubNodeId;
use crate::id::VendorKeyId;
use crate::key_list::KeyList;
use crate::money::NanoUsd;
use crate::money::Ppm;
use crate::sealed::SEALED_BYTES_MAX;
use crate::sealed::Sealed;
use crate::sealed::SealedFor;
use crate::signing::Domain;
use crate::signing::Hash;
use crate::signing::hash_of;

/// The longest ticket, in bytes.
pub const TICKET_BYTES_MAX: usize = 1024;

/// The longest name of a model, in bytes.
pub const MODEL_BYTES_MAX: usize = 256;

/// A call is tried so often at most.
pub const ATTEMPTS_MAX: u8 = 3;

/// The longest deadline: a day, in milliseconds.
pub const DEADLINE_MS_MAX: u32 = 24 * 60 * 60 * 1000;

const FIELDS: usize = 18;
const BODY_BYTES_MAX: usize = 900;

/// What a ticket says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The fleet that orders.
    pub fleet: FleetId,
    /// The node of it.
    pub hub_node: HubNodeId,
    /// This start of the node's process.
    pub boot: BootId,
    /// The number of the key that signs, in the fleet's list.
    pub signing_key: u32,
    /// The call.
    pub call: CallId,
    /// Which try of the call, from 1.
    pub attempt: u8,
    /// Who is to serve it.
    pub agent: AgentId,
    /// With which of its keys.
    pub vendor_key: VendorKeyId,
    /// At which endpoint, by number.
    pub endpoint: u16,
    /// The model that is asked for, and by whose prices the attempt is sold.
    pub model: String,
    /// The version of the price table.
    pub price_version: u32,
    /// Its hash.
    pub price_hash: Hash,
    /// The version of the rules by which both sides meter.
    pub meter_rules: u16,
    /// What the consumer pays of the list price.
    pub zone: Ppm,
    /// What the owner gets of the list price.
    pub tier: Ppm,
    /// The most that the attempt may cost, at list prices.
    pub ceiling: NanoUsd,
    /// For so long the order stands, in milliseconds after it came.
    pub deadline_ms: u32,
    /// Who pays, for the hub's archive key.
    pub payer: Sealed,
}

/// A ticket with the bytes it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTicket {
    ticket: Ticket,
    bytes: Vec<u8>,
}

/// Why a ticket is no order of this fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Not the bytes of a ticket.
    #[error("it is no ticket: {0}")]
    Unreadable(#[from] CborError),
    /// Of another fleet.
    #[error("it is of another fleet")]
    Fleet,
    /// The list has no such key.
    #[error("it is signed with the key {0}, which is not known")]
    UnknownKey(u32),
    /// Forged, or damaged.
    #[error("its signature does not hold")]
    Signature,
}

impl Ticket {
    /// Signs it, with the key that [`Self::signing_key`] names.
    pub fn sign(self, key: &SigningKey) -> SignedTicket {
        let body = self.body();
        let bytes = Domain::Ticket.record(&body, &Domain::Ticket.sign(key, &body));
        SignedTicket { ticket: self, bytes }
    }

    /// What [`Self::payer`] is sealed for.
    pub const fn sealed_for(&self) -> SealedFor {
        SealedFor { fleet: self.fleet, call: self.call, attempt: self.attempt }
    }

    /// Whether the order has run out, so long after it came by a clock that nobody sets: the
    /// attempt is then not begun, or ended.
    pub fn is_over(&self, since_ms: u64) -> bool {
        since_ms >= u64::from(self.deadline_ms)
    }

    fn body(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.array(FIELDS).bytes(&self.fleet.0).bytes(&self.hub_node.0).bytes(&self.boot.0);
        writer.unsigned(self.signing_key).bytes(&self.call.0).unsigned(self.attempt).bytes(&self.agent.0);
        writer.bytes(&self.vendor_key.0).unsigned(self.endpoint).text(&self.model);
        writer.unsigned(self.price_version).bytes(&self.price_hash.0).unsigned(self.meter_rules);
        writer.unsigned(self.zone.0).unsigned(self.tier.0).signed(self.ceiling.0);
        writer.unsigned(self.deadline_ms).bytes(self.payer.bytes());
        writer.finish()
    }

    fn read(body: &[u8]) -> Result<Self, CborError> {
        let mut reader = Reader::new(body);
        reader.array_of(FIELDS, "body")?;
        let ticket = Self {
            fleet: FleetId(reader.array_bytes("fleet")?),
            hub_node: HubNodeId(reader.array_bytes("hub node")?),
            boot: BootId(reader.array_bytes("boot")?),
            signing_key: reader.unsigned("signing key")?,
            call: CallId(reader.array_bytes("call")?),
            attempt: reader.unsigned("attempt")?,
            agent: AgentId(reader.array_bytes("agent")?),
            vendor_key: VendorKeyId(reader.array_bytes("vendor key")?),
            endpoint: reader.unsigned("endpoint")?,
            model: reader.text(MODEL_BYTES_MAX, "model")?.to_owned(),
            price_version: reader.unsigned("price version")?,
            price_hash: Hex(reader.array_bytes("price hash")?),
            meter_rules: reader.unsigned("meter rules")?,
            zone: Ppm(reader.unsigned("zone")?),
            tier: Ppm(reader.unsigned("tier")?),
            ceiling: NanoUsd(
                i64::try_from(reader.unsigned::<u64>("ceiling")?).map_err(|_| CborError::Field("ceiling"))?,
            ),
            deadline_ms: reader.unsigned("deadline")?,
            payer: Sealed::from_bytes(reader.bytes(SEALED_BYTES_MAX, "payer")?)
                .map_err(|_| CborError::Field("payer"))?,
        };
        reader.end()?;
        if !(1..=ATTEMPTS_MAX).contains(&ticket.attempt) {
            return Err(CborError::Field("attempt"));
        }
        if !(1..=DEADLINE_MS_MAX).contains(&ticket.deadline_ms) {
            return Err(CborError::Field("deadline"));
        }
        Ok(ticket)
    }
}

impl SignedTicket {
    /// Reads a ticket. That the fleet signed it is [`Self::verify`]'s to say.
    ///
    /// # Errors
    /// When the bytes are not those of a ticket.
    pub fn read(bytes: &[u8]) -> Result<Self, CborError> {
        let (body, _) = Domain::Ticket.split(bytes, BODY_BYTES_MAX)?;
        Ok(Self { ticket: Ticket::read(body)?, bytes: bytes.to_vec() })
    }

    /// Whether the fleet of this list signed it.
    ///
    /// # Errors
    /// When it did not.
    pub fn verify(&self, keys: &KeyList) -> Result<(), TicketError> {
        if self.ticket.fleet != keys.fleet() {
            return Err(TicketError::Fleet);
        }
        let number = self.ticket.signing_key;
        let key = keys.key(number).ok_or(TicketError::UnknownKey(number))?;
        let (body, signature) = Domain::Ticket.split(&self.bytes, BODY_BYTES_MAX)?;
        Domain::Ticket.verify(key, body, &signature).map_err(|_| TicketError::Signature)
    }

    /// What it says.
    pub const fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// As it travels and is kept.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// By which leaves and statements name it.
    pub fn hash(&self) -> Hash {
        hash_of(&self.bytes)
    }
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
