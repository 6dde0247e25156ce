//! What a leaf can be about.
//!
//! ```text
//! 1 OPEN    [ticket as bytes]
//! 2 CLOSE   [call 16, attempt u8, ticket hash 32, status u16 | null, vendor ended, figure | null, request bytes u64,
//!            vendor bytes u64, request digest 32 | null, response digest 32 | null, vendor's request id digest 32 | null,
//!            lasted ms u64]
//! 3 ADJUST  [call 16, attempt u8, hash of the leaf that said more 32, list nano-USD u64, reason u8]
//! 4 PART    [call 16, attempt u8, ticket hash 32, part u32, figure so far]
//! 5 PAYOUT  [payout 16, leaves before u64, amount nano-USD u64, method: text of at most 32, reference: at most 128]
//! 6 KEYROT  [new key 32, the new key's signature 64]
//! 7 HUBKEY  [entry of the list of keys as bytes]
//! 8 EPOCH   [fleet 16, purpose u8, agent's key 32, reason u8, [epoch u32, size u64, head 32] of the chain before | null]
//! ```
//!
//! Invariant: a number of a kind or a reason is never given to another.

use crate::cbor::CborError;
use crate::cbor::Reader;
use crate::cbor::Writer;
use crate::hex::Hex;
use crate::id::AgentId;
use crate::id::CallId;
use crate::id::FleetId;
use crate::id::PayoutId;
use crate::key_list::ENTRY_BYTES_MAX;
use crate::money::NanoUsd;
use crate::signing::Hash;
use crate::ticket::SignedTicket;
use crate::ticket::TICKET_BYTES_MAX;

use super::Head;
use super::metered::Metered;
use super::metered::read_amount;

const METHOD_BYTES_MAX: usize = 32;
const REFERENCE_BYTES_MAX: usize = 128;

/// The kinds of leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The attempt may have reached the vendor.
    Open = 1,
    /// It is over.
    Close = 2,
    /// The owner takes less for it.
    Adjust = 3,
    /// What a long call cost so far.
    Part = 4,
    /// Money that the owner got.
    Payout = 5,
    /// The agent signs with another key from here.
    KeyRotation = 6,
    /// The hub signs with another key from here.
    HubKey = 7,
    /// The chain begins.
    Epoch = 8,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The hub's order was taken: written before the first byte of the answer leaves.
    Open(SignedTicket),
    /// The attempt is over: written before the end of the answer leaves.
    Close(Close),
    /// The owner takes less for it.
    Adjust(Adjust),
    /// What a long call cost so far.
    Part(Part),
    /// Money that the owner got.
    Payout(Payout),
    /// The agent's next key.
    KeyRotation(KeyRotation),
    /// An entry of the hub's list of keys: what older keys sign from here on is void.
    HubKey(Vec<u8>),
    /// The chain begins.
    Epoch(EpochStart),
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// The call.
    pub call: CallId,
    /// The attempt at it.
    pub attempt: u8,
    /// By which ticket.
    pub ticket: Hash,
    /// The status of the vendor's answer, if there was one.
    pub status: Option<u16>,
    /// Whether the vendor's end was seen: its last event, or all of a declared length.
    pub vendor_ended: bool,
    /// What was metered; none when the agent's process died with it.
    pub metered: Option<Metered>,
    /// Bytes of the request's body that went to the vendor.
    pub request_bytes: u64,
    /// Bytes of the answer's body that came from the vendor, whether or not they went on.
    pub vendor_bytes: u64,
    /// The digest of the request's body, under the call's key.
    pub request_digest: Option<Hex<32>>,
    /// The digest of the answer's body as it went over the link, under the call's key.
    pub response_digest: Option<Hex<32>>,
    /// The digest of the vendor's own id of the request, under the call's key.
    pub vendor_request: Option<Hex<32>>,
    /// How long it took by a clock that nobody sets, in milliseconds.
    pub lasted_ms: u64,
}

/// Less than a leaf before said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjust {
    /// The call.
    pub call: CallId,
    /// The attempt at it.
    pub attempt: u8,
    /// The hash of the CLOSE, or of the ADJUST, that said more.
    pub corrects: Hash,
    /// What the owner takes it to have cost at list prices.
    pub list: NanoUsd,
    /// Why.
    pub reason: AdjustReason,
}

/// Why an owner takes less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AdjustReason {
    /// The agent metered too much.
    OwnError = 1,
    /// The vendor gave it back.
    VendorRefund = 2,
    /// A dispute ended so.
    Dispute = 3,
}

/// What a long call cost so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The call.
    pub call: CallId,
    /// The attempt at it.
    pub attempt: u8,
    /// By which ticket.
    pub ticket: Hash,
    /// Its number in the attempt, from 1.
    pub part: u32,
    /// All that was metered up to here.
    pub metered: Metered,
}

/// Money that the owner got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payout {
    /// The hub's number of it.
    pub payout: PayoutId,
    /// It is for leaves with lower numbers than this.
    pub leaves_before: u64,
    /// How much.
    pub amount: NanoUsd,
    /// By which way it came.
    pub method: String,
    /// What it is called there: a transaction's hash, a transfer's number.
    pub reference: String,
}

/// The agent's next key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRotation {
    /// The key.
    pub key: Hex<32>,
    /// Its signature, which proves that the agent has it.
    pub proof: Hex<64>,
}

/// How a chain begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochStart {
    /// The fleet that the chain is for.
    pub fleet: FleetId,
    /// What is written down in it.
    pub purpose: Purpose,
    /// The key that the agent signs it with.
    pub key: Hex<32>,
    /// Why it begins.
    pub reason: EpochReason,
    /// Epoch and head of the chain before, as far as the agent has it.
    pub previous: Option<(u32, Head)>,
}

/// What a chain is about. Chains of one agent for different purposes never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// Calls that were served, and what was paid for them.
    Calls = 1,
    /// What was bought.
    Purchases = 2,
    /// Decisions and orders of a trader.
    Trading = 3,
}

/// Why a chain begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EpochReason {
    /// It is the agent's first.
    First = 1,
    /// The agent came back from an older copy of its data.
    Restored = 2,
    /// The end of the chain before is lost or damaged.
    Damaged = 3,
    /// The chain before grew too long.
    Rotated = 4,
}

impl Kind {
    /// All of them, by number.
    pub const ALL: [Self; 8] =
        [Self::Open, Self::Close, Self::Adjust, Self::Part, Self::Payout, Self::KeyRotation, Self::HubKey, Self::Epoch];

    /// The number in leaves.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// As documents and exports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "OPEN",
            Self::Close => "CLOSE",
            Self::Adjust => "ADJUST",
            Self::Part => "PART",
            Self::Payout => "PAYOUT",
            Self::KeyRotation => "KEYROT",
            Self::HubKey => "HUBKEY",
            Self::Epoch => "EPOCH",
        }
    }
}

impl AdjustReason {
    fn from_number(number: u8) -> Option<Self> {
        [Self::OwnError, Self::VendorRefund, Self::Dispute].into_iter().find(|reason| *reason as u8 == number)
    }
}

impl Purpose {
    /// The number in leaves and signatures.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The purpose with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Calls, Self::Purchases, Self::Trading].into_iter().find(|purpose| purpose.number() == number)
    }
}

impl EpochReason {
    fn from_number(number: u8) -> Option<Self> {
        let all = [Self::First, Self::Restored, Self::Damaged, Self::Rotated];
        all.into_iter().find(|reason| *reason as u8 == number)
    }
}

impl KeyRotation {
    /// What the new key signs: its place in the chain, so that the proof is of use nowhere else.
    pub fn proof_body(agent: AgentId, epoch: u32, before: Head, key: &Hex<32>) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.array(5).bytes(&agent.0).unsigned(epoch);
        writer.unsigned(before.size).bytes(&before.hash.0).bytes(&key.0);
        writer.finish()
    }
}

impl Event {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Open(_) => Kind::Open,
            Self::Close(_) => Kind::Close,
            Self::Adjust(_) => Kind::Adjust,
            Self::Part(_) => Kind::Part,
            Self::Payout(_) => Kind::Payout,
            Self::KeyRotation(_) => Kind::KeyRotation,
            Self::HubKey(_) => Kind::HubKey,
            Self::Epoch(_) => Kind::Epoch,
        }
    }

    /// The attempt that it is about, if it is about one.
    pub fn attempt(&self) -> Option<(CallId, u8)> {
        match self {
            Self::Open(ticket) => Some((ticket.ticket().call, ticket.ticket().attempt)),
            Self::Close(close) => Some((close.call, close.attempt)),
            Self::Adjust(adjust) => Some((adjust.call, adjust.attempt)),
            Self::Part(part) => Some((part.call, part.attempt)),
            Self::Payout(_) | Self::KeyRotation(_) | Self::HubKey(_) | Self::Epoch(_) => None,
        }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        match self {
            Self::Open(ticket) => {
                writer.array(1).bytes(ticket.bytes());
            }
            Self::Close(close) => close.write(writer),
            Self::Adjust(adjust) => {
                writer.array(5).bytes(&adjust.call.0).unsigned(adjust.attempt).bytes(&adjust.corrects.0);
                writer.signed(adjust.list.0).unsigned(adjust.reason as u8);
            }
            Self::Part(part) => {
                writer.array(5).bytes(&part.call.0).unsigned(part.attempt).bytes(&part.ticket.0).unsigned(part.part);
                part.metered.write(writer);
            }
            Self::Payout(payout) => {
                writer.array(5).bytes(&payout.payout.0).unsigned(payout.leaves_before).signed(payout.amount.0);
                writer.text(&payout.method).text(&payout.reference);
            }
            Self::KeyRotation(rotation) => {
                writer.array(2).bytes(&rotation.key.0).bytes(&rotation.proof.0);
            }
            Self::HubKey(entry) => {
                writer.array(1).bytes(entry);
            }
            Self::Epoch(start) => start.write(writer),
        }
    }

    pub(super) fn read(kind: Kind, reader: &mut Reader<'_>) -> Result<Self, CborError> {
        match kind {
            Kind::Open => {
                reader.array_of(1, "fields")?;
                SignedTicket::read(reader.bytes(TICKET_BYTES_MAX, "ticket")?).map(Self::Open)
            }
            Kind::Close => Close::read(reader).map(Self::Close),
            Kind::Adjust => Adjust::read(reader).map(Self::Adjust),
            Kind::Part => Part::read(reader).map(Self::Part),
            Kind::Payout => Payout::read(reader).map(Self::Payout),
            Kind::KeyRotation => {
                reader.array_of(2, "fields")?;
                let (key, proof) = (Hex(reader.array_bytes("key")?), Hex(reader.array_bytes("proof")?));
                Ok(Self::KeyRotation(KeyRotation { key, proof }))
            }
            Kind::HubKey => {
                reader.array_of(1, "fields")?;
                Ok(Self::HubKey(reader.bytes(ENTRY_BYTES_MAX, "entry")?.to_vec()))
            }
            Kind::Epoch => EpochStart::read(reader).map(Self::Epoch),
        }
    }
}

impl Close {
    fn write(&self, writer: &mut Writer) {
        writer.array(12).bytes(&self.call.0).unsigned(self.attempt).bytes(&self.ticket.0);
        writer.optional(self.status, |writer, status| {
            writer.unsigned(status);
        });
        writer.boolean(self.vendor_ended);
        writer.optional(self.metered.as_ref(), |writer, metered| metered.write(writer));
        writer.unsigned(self.request_bytes).unsigned(self.vendor_bytes);
        for digest in [&self.request_digest, &self.response_digest, &self.vendor_request] {
            writer.optional(digest.as_ref(), |writer, digest| {
                writer.bytes(&digest.0);
            });
        }
        writer.unsigned(self.lasted_ms);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        reader.array_of(12, "fields")?;
        Ok(Self {
            call: CallId(reader.array_bytes("call")?),
            attempt: reader.unsigned("attempt")?,
            ticket: Hex(reader.array_bytes("ticket")?),
            status: reader.optional(|reader| reader.unsigned("status"))?,
            vendor_ended: reader.boolean("vendor ended")?,
            metered: reader.optional(Metered::read)?,
            request_bytes: reader.unsigned("request bytes")?,
            vendor_bytes: reader.unsigned("vendor bytes")?,
            request_digest: reader.optional(|reader| reader.array_bytes("request digest").map(Hex))?,
            response_digest: reader.optional(|reader| reader.array_bytes("response digest").map(Hex))?,
            vendor_request: reader.optional(|reader| reader.array_bytes("vendor request").map(Hex))?,
            lasted_ms: reader.unsigned("lasted")?,
        })
    }
}

impl Adjust {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        reader.array_of(5, "fields")?;
        Ok(Self {
            call: CallId(reader.array_bytes("call")?),
            attempt: reader.unsigned("attempt")?,
            corrects: Hex(reader.array_bytes("corrects")?),
            list: read_amount(reader, "list")?,
            reason: AdjustReason::from_number(reader.unsigned("reason")?).ok_or(CborError::Field("reason"))?,
        })
    }
}

impl Part {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        reader.array_of(5, "fields")?;
        Ok(Self {
            call: CallId(reader.array_bytes("call")?),
            attempt: reader.unsigned("attempt")?,
            ticket: Hex(reader.array_bytes("ticket")?),
            part: reader.unsigned("part")?,
            metered: Metered::read(reader)?,
        })
    }
}

impl Payout {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        reader.array_of(5, "fields")?;
        Ok(Self {
            payout: PayoutId(reader.array_bytes("payout")?),
            leaves_before: reader.unsigned("leaves before")?,
            amount: read_amount(reader, "amount")?,
            method: reader.text(METHOD_BYTES_MAX, "method")?.to_owned(),
            reference: reader.text(REFERENCE_BYTES_MAX, "reference")?.to_owned(),
        })
    }
}

impl EpochStart {
    fn write(&self, writer: &mut Writer) {
        writer.array(5).bytes(&self.fleet.0).unsigned(self.purpose.number()).bytes(&self.key.0);
        writer.unsigned(self.reason as u8);
        writer.optional(self.previous, |writer, (epoch, head)| {
            writer.array(3).unsigned(epoch).unsigned(head.size).bytes(&head.hash.0);
        });
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        reader.array_of(5, "fields")?;
        Ok(Self {
            fleet: FleetId(reader.array_bytes("fleet")?),
            purpose: Purpose::from_number(reader.unsigned("purpose")?).ok_or(CborError::Field("purpose"))?,
            key: Hex(reader.array_bytes("key")?),
            reason: EpochReason::from_number(reader.unsigned("reason")?).ok_or(CborError::Field("reason"))?,
            previous: reader.optional(|reader| {
                reader.array_of(3, "previous")?;
                let epoch = reader.unsigned("previous")?;
                let (size, hash) = (reader.unsigned("previous")?, Hex(reader.array_bytes("previous")?));
                Ok((epoch, Head { size, hash }))
            })?,
        })
    }
}
