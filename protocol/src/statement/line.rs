//! What a statement says of one leaf.
//!
//! Invariant: credit is never more than the list cost it is of, and a number of a reason is
//! never given to another.

use crate::cbor::CborError;
use crate::cbor::Reader;
use crate::cbor::Writer;
use crate::hex::Hex;
use crate::leaf::read_amount;
use crate::leaf::read_meters;
use crate::leaf::write_meters;
use crate::money::NanoUsd;
use crate::sealed::SEALED_BYTES_MAX;
use crate::sealed::Sealed;
use crate::signing::Hash;
use crate::usage::Meters;

/// One leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its hash.
    pub leaf: Hash,
    /// What became of it.
    pub reason: Reason,
    /// The money, if it is about money.
    pub settled: Option<Settled>,
}

/// The second line of a leaf that an earlier statement called open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlierLine {
    /// The leaf's number.
    pub number: u64,
    /// What became of it.
    pub line: Line,
}

/// What became of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// It moves no money: OPEN, PART, keys, the beginning of a chain.
    Noted = 1,
    /// Hub and agent metered the same.
    Agreed = 2,
    /// The hub saw fewer bytes than the agent sent: its figure is paid, and nobody is at fault.
    Short = 3,
    /// The agent's figure is higher, of no more bytes: the hub's is paid.
    AgentAbove = 4,
    /// The agent's figure is lower and is paid; the rest waits in suspense.
    AgentBelow = 5,
    /// The hub saw nothing of it: nothing is paid.
    Unobserved = 6,
    /// The hub saw nothing of it, and its own record says that it may have forgotten.
    Amnesia = 7,
    /// The hub saw nothing of it, and it is paid out of what the operator gives for such.
    OrphanBudget = 8,
    /// It came after the consumer's charge was final: paid by what was recorded then.
    Late = 9,
    /// It may not say what it says: no ticket, over its ceiling, closed twice.
    Refused = 10,
    /// The owner takes less.
    Lowered = 11,
    /// The call has not ended at the hub: a line of a later statement says what became of it.
    Open = 12,
    /// The agent's process died with the attempt, and the leaf has no figure: the hub's is paid.
    NoFigure = 13,
}

/// The money of one leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// What the hub metered, if it saw any of it.
    pub hub: Option<HubMetered>,
    /// The list cost that is settled.
    pub list: NanoUsd,
    /// What the owner gets of it.
    pub credit: NanoUsd,
    /// What the consumer paid, for the hub's archive key.
    pub charge: Option<Sealed>,
}

/// What the hub metered of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubMetered {
    /// What is billed.
    pub meters: Meters,
    /// Realtime: what is billed of the model that wrote down what was heard.
    pub heard: Meters,
    /// Bytes of the answer's body that came over the link.
    pub response_bytes: u64,
    /// What that costs at list prices.
    pub list: NanoUsd,
}

impl Reason {
    /// All of them, by number.
    pub const ALL: [Self; 13] = [
        Self::Noted,
        Self::Agreed,
        Self::Short,
        Self::AgentAbove,
        Self::AgentBelow,
        Self::Unobserved,
        Self::Amnesia,
        Self::OrphanBudget,
        Self::Late,
        Self::Refused,
        Self::Lowered,
        Self::Open,
        Self::NoFigure,
    ];

    /// The number in statements.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.number() == number)
    }

    /// As records, exports and documents name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Noted => "noted",
            Self::Agreed => "agreed",
            Self::Short => "short",
            Self::AgentAbove => "agent_above",
            Self::AgentBelow => "agent_below",
            Self::Unobserved => "unobserved",
            Self::Amnesia => "amnesia",
            Self::OrphanBudget => "orphan_budget",
            Self::Late => "late",
            Self::Refused => "refused",
            Self::Lowered => "lowered",
            Self::Open => "open",
            Self::NoFigure => "no_figure",
        }
    }
}

impl Line {
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.array(3).bytes(&self.leaf.0).unsigned(self.reason.number());
        writer.optional(self.settled.as_ref(), |writer, settled| settled.write(writer));
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        reader.array_of(3, "line")?;
        let leaf = Hex(reader.array_bytes("leaf")?);
        let reason = Reason::from_number(reader.unsigned("reason")?).ok_or(CborError::Field("reason"))?;
        Ok(Self { leaf, reason, settled: reader.optional(Settled::read)? })
    }
}

impl EarlierLine {
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.array(2).unsigned(self.number);
        self.line.write(writer);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        reader.array_of(2, "earlier line")?;
        Ok(Self { number: reader.unsigned("leaf number")?, line: Line::read(reader)? })
    }
}

impl Settled {
    fn write(&self, writer: &mut Writer) {
        writer.array(4);
        writer.optional(self.hub.as_ref(), |writer, hub| {
            writer.array(4);
            write_meters(writer, &hub.meters);
            write_meters(writer, &hub.heard);
            writer.unsigned(hub.response_bytes).signed(hub.list.0);
        });
        writer.signed(self.list.0).signed(self.credit.0);
        writer.optional(self.charge.as_ref(), |writer, charge| {
            writer.bytes(charge.bytes());
        });
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        reader.array_of(4, "settled")?;
        let hub = reader.optional(|reader| {
            reader.array_of(4, "hub")?;
            let (meters, heard) = (read_meters(reader)?, read_meters(reader)?);
            let (response_bytes, list) = (reader.unsigned("response bytes")?, read_amount(reader, "hub's list")?);
            Ok(HubMetered { meters, heard, response_bytes, list })
        })?;
        let (list, credit) = (read_amount(reader, "list")?, read_amount(reader, "credit")?);
        if credit > list {
            return Err(CborError::Field("credit"));
        }
        let charge = reader.optional(|reader| {
            let sealed = reader.bytes(SEALED_BYTES_MAX, "charge")?;
            Sealed::from_bytes(sealed).map_err(|_| CborError::Field("charge"))
        })?;
        Ok(Self { hub, list, credit, charge })
    }
}
