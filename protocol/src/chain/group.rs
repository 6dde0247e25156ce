//! A group: the leaves that became durable together, and the agent's signature over the head after
//! them. It is what the log stores, what travels, and what the books take in one piece.
//!
//! ```text
//! [number of the first leaf u64, [leaf as bytes, ...], the group's signed record as bytes]
//! ```
//!
//! Invariant: one group has one sequence of bytes, within [`GROUP_BYTES_MAX`], and is verified as a
//! whole or not at all.

use ed25519_dalek::SigningKey;

use super::ChainError;
use super::ChainId;
use super::Verifier;
use crate::cbor::CborError;
use crate::cbor::Reader;
use crate::cbor::Writer;
use crate::hex::Hex;
use crate::leaf::Head;
use crate::leaf::LEAF_BYTES_MAX;
use crate::leaf::Leaf;
use crate::signing::Domain;

/// The most leaves of one group.
pub const GROUP_LEAVES_MAX: usize = 120;

/// The most bytes of its leaves together.
pub const GROUP_LEAVES_BYTES_MAX: usize = 60 * 1024;

/// The longest group, in bytes.
pub const GROUP_BYTES_MAX: usize = 64 * 1024;

const FIELDS: usize = 3;
const BODY_BYTES_MAX: usize = 128;
const RECORD_BYTES_MAX: usize = 256;

/// Leaves, and the signed record that closes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    first: u64,
    leaves: Vec<Vec<u8>>,
    record: Vec<u8>,
}

impl Group {
    /// Signs these leaves, which end with this head.
    ///
    /// # Errors
    /// When there are none, too many or too long ones, or more than the head counts.
    pub fn sign(id: &ChainId, key: &SigningKey, leaves: Vec<Vec<u8>>, head: Head) -> Result<Self, CborError> {
        let first = u64::try_from(leaves.len()).ok().and_then(|count| head.size.checked_sub(count));
        let first = first.ok_or(CborError::Field("leaves"))?;
        let body = id.head_body(head);
        let record = Domain::Group.record(&body, &Domain::Group.sign(key, &body));
        Self { first, leaves, record }.bounded()
    }

    /// Its bytes, as they are stored and sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.array(FIELDS).unsigned(self.first).array(self.leaves.len());
        for leaf in &self.leaves {
            writer.bytes(leaf);
        }
        writer.bytes(&self.record);
        writer.finish()
    }

    /// Reads a group. That the agent signed it is [`Self::verify`]'s to say.
    ///
    /// # Errors
    /// When the bytes are not those of a group.
    pub fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        if bytes.len() > GROUP_BYTES_MAX {
            return Err(CborError::Field("length"));
        }
        let mut reader = Reader::new(bytes);
        reader.array_of(FIELDS, "group")?;
        let first = reader.unsigned("first leaf")?;
        let count = reader.array(GROUP_LEAVES_MAX, "leaves")?;
        let leaf = |_| reader.bytes(LEAF_BYTES_MAX, "leaf").map(<[u8]>::to_vec);
        let leaves = (0..count).map(leaf).collect::<Result<_, _>>()?;
        let record = reader.bytes(RECORD_BYTES_MAX, "record")?.to_vec();
        reader.end()?;
        Domain::Group.split(&record, BODY_BYTES_MAX)?;
        Self { first, leaves, record }.bounded()
    }

    /// Takes it as the next of the chain, whole or not at all: what its leaves say.
    ///
    /// # Errors
    /// When it is not the next, or the agent did not sign it; then the verifier stands where it stood.
    pub fn verify(&self, verifier: &mut Verifier) -> Result<Vec<Leaf>, ChainError> {
        let expected = verifier.head().size;
        if self.first != expected {
            return Err(ChainError::Gap { expected, found: self.first });
        }
        let mut after = verifier.clone();
        let leaves = self.leaves.iter().map(|leaf| after.leaf(leaf)).collect::<Result<Vec<_>, _>>()?;
        let unsigned = |_| ChainError::Signature(after.head().size);
        let (body, signature) = Domain::Group.split(&self.record, BODY_BYTES_MAX).map_err(unsigned)?;
        // The record is kept as it came, so it must say what was verified and nothing else.
        if body != after.id.head_body(after.head()) {
            return Err(ChainError::Signature(after.head().size));
        }
        after.group(&signature)?;
        *verifier = after;
        Ok(leaves)
    }

    /// A group as a store keeps it, in parts.
    ///
    /// # Errors
    /// When they are not those of one.
    pub fn of_parts(first: u64, leaves: Vec<Vec<u8>>, record: Vec<u8>) -> Result<Self, CborError> {
        Domain::Group.split(&record, BODY_BYTES_MAX)?;
        Self { first, leaves, record }.bounded()
    }

    /// The agent's signature of the head after it. That it holds is [`Self::verify`]'s to say.
    ///
    /// # Errors
    /// When the record is not one; never of a group that was read.
    pub fn signature(&self) -> Result<Hex<64>, CborError> {
        Domain::Group.split(&self.record, BODY_BYTES_MAX).map(|(_, signature)| signature)
    }

    /// The number of its first leaf.
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// The number of the leaf that comes after it.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(u64::try_from(self.leaves.len()).unwrap_or(u64::MAX))
    }

    /// Its leaves, as they were hashed.
    pub fn leaves(&self) -> &[Vec<u8>] {
        &self.leaves
    }

    /// The signed record that closes it.
    pub fn record(&self) -> &[u8] {
        &self.record
    }

    fn bounded(self) -> Result<Self, CborError> {
        let bytes = self.leaves.iter().map(Vec::len).sum::<usize>();
        let is_within = (1..=GROUP_LEAVES_MAX).contains(&self.leaves.len())
            && bytes <= GROUP_LEAVES_BYTES_MAX
            && self.leaves.iter().all(|leaf| leaf.len() <= LEAF_BYTES_MAX);
        if !is_within || self.first.checked_add(u64::try_from(self.leaves.len()).unwrap_or(u64::MAX)).is_none() {
            return Err(CborError::Field("leaves"));
        }
        Ok(self)
    }
}
