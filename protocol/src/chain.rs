//! The chain of an agent's leaves: how it grows, what is signed of it, how it is verified.
//!
//! ```text
//! group: ["kh/group/1", body as bytes, signature 64]
//! body:  [fleet 16, purpose u8, agent 16, epoch u32, size u64, head 32]
//! ```
//!
//! Leaves carry no signatures of their own. One signature over the head is made for each group
//! of leaves that became durable together; through the hashes it covers all before.
//!
//! Invariant: a leaf is taken only in its place, and nothing counts as signed that the agent's
//! key, as it stood before it, did not sign.

mod audit;
mod fork;
mod group;

pub use audit::Attempt;
pub use audit::Audit;
pub use audit::AuditError;
pub use fork::Branch;
pub use fork::ForkError;
pub use fork::ForkProof;
pub use group::GROUP_BYTES_MAX;
pub use group::GROUP_LEAVES_BYTES_MAX;
pub use group::GROUP_LEAVES_MAX;
pub use group::Group;

use ed25519_dalek::SigningKey;
use ed25519_dalek::VerifyingKey;

use crate::cbor::CborError;
use crate::cbor::Reader;
use crate::cbor::Writer;
use crate::id::AgentId;
use crate::id::FleetId;
use crate::leaf::EpochStart;
use crate::leaf::Event;
use crate::leaf::Head;
use crate::leaf::KeyRotation;
use crate::leaf::Leaf;
use crate::leaf::Purpose;
use crate::signing::Domain;
use crate::signing::public_key;

use crate::hex::Hex;

/// Which chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainId {
    /// The fleet that it is for.
    pub fleet: FleetId,
    /// What it is about.
    pub purpose: Purpose,
    /// Whose it is.
    pub agent: AgentId,
    /// Which one of those, from 0.
    pub epoch: u32,
}

/// A chain that grows.
#[derive(Debug, Clone)]
pub struct Chain {
    id: ChainId,
    head: Head,
}

/// Why leaves are not the chain that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not the bytes of a leaf.
    #[error("leaf {number} cannot be read: {error}")]
    Unreadable {
        /// Where.
        number: u64,
        /// Why.
        error: CborError,
    },
    /// Leaves are missing, or one comes twice.
    #[error("leaf {found} stands where {expected} belongs")]
    Gap {
        /// What belongs there.
        expected: u64,
        /// What stands there.
        found: u64,
    },
    /// Of another agent or epoch.
    #[error("leaf {0} is of another chain")]
    OtherChain(u64),
    /// It does not contain the hash of the leaf before.
    #[error("leaf {0} does not follow the leaf before")]
    Broken(u64),
    /// EPOCH begins a chain, and stands nowhere else.
    #[error("leaf {0}: EPOCH is the first leaf, and only the first")]
    Misplaced(u64),
    /// KEYROT without proof that the agent has the new key.
    #[error("leaf {0} names a key and does not prove it")]
    KeyNotProved(u64),
    /// The agent did not sign this head.
    #[error("the signature of the group that ends before leaf {0} does not hold")]
    Signature(u64),
    /// It parts from a head that is known.
    #[error("the first {0} leaves are not those that are known")]
    Differs(u64),
    /// It ends before a head that is known.
    #[error("the ledger ends before leaf {found}, and {known} leaves are known")]
    Cut {
        /// How many are known.
        known: u64,
        /// How many there are.
        found: u64,
    },
}

/// Reads a chain from a head that is trusted, and trusts what it signs.
#[derive(Debug, Clone)]
pub struct Verifier {
    id: ChainId,
    key: VerifyingKey,
    next_key: Option<VerifyingKey>,
    head: Head,
    signed: Head,
    known: Option<Head>,
}

impl ChainId {
    /// What the agent signs of a head, and the hub when it cosigns.
    pub fn head_body(&self, head: Head) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.array(6).bytes(&self.fleet.0).unsigned(self.purpose.number()).bytes(&self.agent.0);
        writer.unsigned(self.epoch).unsigned(head.size).bytes(&head.hash.0);
        writer.finish()
    }

    /// Which chain a body of [`Self::head_body`] is about, and which head of it.
    ///
    /// # Errors
    /// When the bytes are not those of one.
    pub fn read_head_body(body: &[u8]) -> Result<(Self, Head), CborError> {
        let mut reader = Reader::new(body);
        reader.array_of(6, "body")?;
        let fleet = FleetId(reader.array_bytes("fleet")?);
        let purpose = Purpose::from_number(reader.unsigned("purpose")?).ok_or(CborError::Field("purpose"))?;
        let agent = AgentId(reader.array_bytes("agent")?);
        let epoch = reader.unsigned("epoch")?;
        let head = Head { size: reader.unsigned("size")?, hash: Hex(reader.array_bytes("head")?) };
        reader.end()?;
        Ok((Self { fleet, purpose, agent, epoch }, head))
    }

    /// The agent's word for a group of leaves that ends with this head.
    pub fn sign_group(&self, key: &SigningKey, head: Head) -> Hex<64> {
        Domain::Group.sign(key, &self.head_body(head))
    }
}

impl Chain {
    /// A chain without leaves. Its first is EPOCH: [`EpochStart`] must say the same as the id.
    pub const fn new(id: ChainId) -> Self {
        Self { id, head: Head::EMPTY }
    }

    /// A chain that goes on from here.
    pub const fn resume(id: ChainId, head: Head) -> Self {
        Self { id, head }
    }

    /// Which chain it is.
    pub const fn id(&self) -> ChainId {
        self.id
    }

    /// Where it stands.
    pub const fn head(&self) -> Head {
        self.head
    }

    /// The leaf of this event, which is the newest from now on. The caller keeps the bytes: they
    /// are what was hashed.
    ///
    /// # Errors
    /// When EPOCH is not the first, or is of another chain.
    pub fn append(&mut self, at_unix_ms: u64, event: Event) -> Result<Vec<u8>, ChainError> {
        let Head { size: number, hash: before } = self.head;
        check_place(&self.id, number, &event)?;
        let leaf = Leaf { agent: self.id.agent, epoch: self.id.epoch, number, before, at_unix_ms, event }.encode();
        self.head = self.head.after(&leaf);
        Ok(leaf)
    }

    /// The event by which the agent goes over to this key, as the next leaf of the chain.
    pub fn rotation(&self, key: &SigningKey) -> Event {
        let public = Hex(key.verifying_key().to_bytes());
        let body = KeyRotation::proof_body(self.id.agent, self.id.epoch, self.head, &public);
        Event::KeyRotation(KeyRotation { key: public, proof: Domain::KeyRotation.sign(key, &body) })
    }
}

impl Verifier {
    /// Reads a chain from its first leaf, which must name this key.
    pub const fn new(id: ChainId, key: VerifyingKey) -> Self {
        Self::resume(id, Head::EMPTY, key)
    }

    /// Reads a chain from a head that is trusted, signed with this key from there.
    pub const fn resume(id: ChainId, trusted: Head, key: VerifyingKey) -> Self {
        Self { id, key, next_key: None, head: trusted, signed: trusted, known: None }
    }

    /// Demands that the chain leads through this head: the newest one that a hub cosigned.
    #[must_use]
    pub const fn through(mut self, known: Head) -> Self {
        self.known = Some(known);
        self
    }

    /// Takes the next leaf. It counts only when its group's signature was taken.
    ///
    /// # Errors
    /// When it is not the next leaf of this chain.
    pub fn leaf(&mut self, bytes: &[u8]) -> Result<Leaf, ChainError> {
        let number = self.head.size;
        let leaf = Leaf::decode(bytes).map_err(|error| ChainError::Unreadable { number, error })?;
        if leaf.agent != self.id.agent || leaf.epoch != self.id.epoch {
            return Err(ChainError::OtherChain(number));
        }
        if leaf.number != number {
            return Err(ChainError::Gap { expected: number, found: leaf.number });
        }
        if leaf.before != self.head.hash {
            return Err(ChainError::Broken(number));
        }
        check_place(&self.id, number, &leaf.event)?;
        self.take_key(&leaf.event)?;
        let head = self.head.after(bytes);
        if self.known.is_some_and(|known| known.size == head.size && known.hash != head.hash) {
            return Err(ChainError::Differs(head.size));
        }
        self.head = head;
        Ok(leaf)
    }

    /// Takes the signature of the leaves since the one before.
    ///
    /// # Errors
    /// When it does not hold for where the chain stands.
    pub fn group(&mut self, signature: &Hex<64>) -> Result<Head, ChainError> {
        let body = self.id.head_body(self.head);
        Domain::Group.verify(&self.key, &body, signature).map_err(|_| ChainError::Signature(self.head.size))?;
        self.signed = self.head;
        if let Some(key) = self.next_key.take() {
            self.key = key;
        }
        Ok(self.signed)
    }

    /// Where the chain stands: all its leaves, signed or not.
    pub const fn head(&self) -> Head {
        self.head
    }

    /// Up to where it is signed.
    pub const fn signed(&self) -> Head {
        self.signed
    }

    /// The key that signs what comes next.
    pub const fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// Nothing more comes: how far the chain is signed. Leaves after that were never durable as
    /// a group, and are for whoever wrote them to sign or to drop.
    ///
    /// # Errors
    /// When it ends before the head that it had to lead through.
    pub fn finish(self) -> Result<Head, ChainError> {
        match self.known {
            Some(known) if known.size > self.signed.size => {
                Err(ChainError::Cut { known: known.size, found: self.signed.size })
            }
            // No leaf was read up to it, so that none was compared.
            Some(known) if known.size == self.head.size && known.hash != self.head.hash => {
                Err(ChainError::Differs(known.size))
            }
            Some(_) | None => Ok(self.signed),
        }
    }

    fn take_key(&mut self, event: &Event) -> Result<(), ChainError> {
        let number = self.head.size;
        match event {
            Event::Epoch(EpochStart { key, .. }) if key.0 != *self.key.as_bytes() => {
                Err(ChainError::KeyNotProved(number))
            }
            Event::KeyRotation(rotation) => {
                let key = public_key(&rotation.key, "key").map_err(|_| ChainError::KeyNotProved(number))?;
                let body = KeyRotation::proof_body(self.id.agent, self.id.epoch, self.head, &rotation.key);
                let proved = Domain::KeyRotation.verify(&key, &body, &rotation.proof);
                proved.map_err(|_| ChainError::KeyNotProved(number))?;
                self.next_key = Some(key);
                Ok(())
            }
            Event::Epoch(_)
            | Event::Open(_)
            | Event::Close(_)
            | Event::Adjust(_)
            | Event::Part(_)
            | Event::Payout(_)
            | Event::HubKey(_) => Ok(()),
        }
    }
}

/// The hash at the end of a run of leaves, each of which follows the one before.
fn run(id: &ChainId, from: Head, leaves: &[Vec<u8>]) -> Result<Head, ChainError> {
    leaves.iter().try_fold(from, |head, bytes| {
        let leaf = Leaf::decode(bytes).map_err(|error| ChainError::Unreadable { number: head.size, error })?;
        if leaf.agent != id.agent || leaf.epoch != id.epoch {
            return Err(ChainError::OtherChain(head.size));
        }
        if leaf.number != head.size {
            return Err(ChainError::Gap { expected: head.size, found: leaf.number });
        }
        if leaf.before != head.hash { Err(ChainError::Broken(head.size)) } else { Ok(head.after(bytes)) }
    })
}

fn check_place(id: &ChainId, number: u64, event: &Event) -> Result<(), ChainError> {
    let Event::Epoch(start) = event else {
        return if number == 0 { Err(ChainError::Misplaced(number)) } else { Ok(()) };
    };
    if number != 0 {
        return Err(ChainError::Misplaced(number));
    }
    if start.fleet == id.fleet && start.purpose == id.purpose { Ok(()) } else { Err(ChainError::OtherChain(number)) }
}

#[cfg(test)]
mod tests;
