//! The leaf: one record of an agent's ledger.
//!
//! ```text
//! ["kh/leaf/1", agent 16, epoch u32, number u64, hash of the leaf before (32; zeros at number 0), at unix ms u64,
//!  kind u8, [the fields of the kind]]
//! hash: SHA-256 of the byte 0 and the leaf
//! ```
//!
//! The fields of every kind are at its type below; figures are in [`Metered`].
//!
//! Invariant: stored bytes are the hashed bytes; a leaf that would be written otherwise is none.

mod event;
mod metered;

pub use event::Adjust;
pub use event::AdjustReason;
pub use event::Close;
pub use event::EpochReason;
pub use event::EpochStart;
pub use event::Event;
pub use event::KeyRotation;
pub use event::Kind;
pub use event::Part;
pub use event::Payout;
pub use event::Purpose;
pub use metered::Metered;
pub(crate) use metered::read_amount;
pub(crate) use metered::read_meters;
pub(crate) use metered::write_meters;

use sha2::Digest as _;
use sha2::Sha256;

use crate::cbor::CborError;
use crate::cbor::Reader;
use crate::cbor::Writer;
use crate::hex::Hex;
use crate::id::AgentId;
use crate::signing::Hash;

/// The longest leaf, in bytes.
pub const LEAF_BYTES_MAX: usize = 2048;

const TAG: &str = "kh/leaf/1";
const FIELDS: usize = 7;

/// Before the bytes of a leaf when it is hashed, so that no leaf is a node of a tree over leaves.
const LEAF_PREFIX: [u8; 1] = [0];

/// Where a chain stands: its newest leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Head {
    /// How many leaves it has.
    pub size: u64,
    /// The hash of the newest; zeros before the first.
    pub hash: Hash,
}

/// A record of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Whose ledger.
    pub agent: AgentId,
    /// Of which of its chains.
    pub epoch: u32,
    /// Its number in the chain: 0, 1, 2 and so on.
    pub number: u64,
    /// The hash of the leaf before.
    pub before: Hash,
    /// When, by the agent's clock, in milliseconds since 1970. No money depends on it.
    pub at_unix_ms: u64,
    /// What happened.
    pub event: Event,
}

impl Head {
    /// A chain without leaves.
    pub const EMPTY: Self = Self { size: 0, hash: Hex([0; 32]) };

    /// The head after this leaf.
    pub fn after(self, leaf: &[u8]) -> Self {
        Self { size: self.size.saturating_add(1), hash: Leaf::hash(leaf) }
    }
}

impl Leaf {
    /// The hash of a leaf's bytes.
    pub fn hash(bytes: &[u8]) -> Hash {
        Hex(Sha256::new_with_prefix(LEAF_PREFIX).chain_update(bytes).finalize().into())
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::record(TAG, FIELDS);
        writer.bytes(&self.agent.0).unsigned(self.epoch).unsigned(self.number).bytes(&self.before.0);
        writer.unsigned(self.at_unix_ms).unsigned(self.event.kind().number());
        self.event.write(&mut writer);
        writer.finish()
    }

    /// Reads a leaf.
    ///
    /// # Errors
    /// When the bytes are not those of a leaf.
    pub fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        if bytes.len() > LEAF_BYTES_MAX {
            return Err(CborError::Field("length"));
        }
        let mut reader = Reader::record(bytes, TAG, FIELDS)?;
        let (agent, epoch) = (AgentId(reader.array_bytes("agent")?), reader.unsigned("epoch")?);
        let (number, before) = (reader.unsigned("number")?, Hex(reader.array_bytes("before")?));
        let at_unix_ms = reader.unsigned("time")?;
        let kind = Kind::from_number(reader.unsigned("kind")?).ok_or(CborError::Field("kind"))?;
        let event = Event::read(kind, &mut reader)?;
        reader.end()?;
        Ok(Self { agent, epoch, number, before, at_unix_ms, event })
    }
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
