//! Groups as they come over a link: the chain they belong to, and whose signatures they carry.
//! Pure, and away from the writer: a signature takes longer to verify than a leaf to write.
//!
//! Invariant: a group that leaves here follows the one before, is signed by the agent, and it is
//! known of each of its tickets whether the fleet signed it.

use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use keyhaven_protocol::cbor::CborError;
use keyhaven_protocol::chain::ChainError;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::chain::Group;
use keyhaven_protocol::chain::Verifier;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::key_list::KeyList;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Leaf;
use keyhaven_protocol::leaf::Metered;
use keyhaven_protocol::signing::Hash;

/// Reads the groups of one chain, in their order.
#[derive(Debug, Clone)]
pub struct ChainReader {
    chain: ChainId,
    verifier: Verifier,
    keys: Arc<KeyList>,
}

/// A group whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedGroup {
    pub(super) chain: ChainId,
    /// The head that it goes on from.
    pub(super) from: Head,
    /// The head after it.
    pub(super) to: Head,
    /// The agent's key from here on.
    pub(super) key: [u8; 32],
    pub(super) leaves: Vec<ReadLeaf>,
    pub(super) group: Group,
}

/// A leaf that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReadLeaf {
    pub(super) leaf: Leaf,
    pub(super) hash: Hash,
    /// Of OPEN: the fleet signed the ticket, for this agent.
    pub(super) is_ordered: bool,
}

/// What became of a group.
#[derive(Debug)]
pub enum Read {
    /// It is the next.
    Next(Box<VerifiedGroup>),
    /// The agent signed it, and it is another history.
    Fork(Box<VerifiedGroup>),
}

/// Bytes that are no next group of this chain, nor another history of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not the bytes of a group.
    #[error("it is no group of leaves: {0}")]
    Unreadable(#[from] CborError),
    /// It does not follow, or is not signed.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl ChainReader {
    /// Goes on from a head that the books have, signed with this key from there.
    pub fn new(chain: ChainId, head: Head, key: VerifyingKey, keys: Arc<KeyList>) -> Self {
        Self { chain, verifier: Verifier::resume(chain, head, key), keys }
    }

    /// Where it stands.
    pub const fn head(&self) -> Head {
        self.verifier.head()
    }

    /// The chain.
    pub const fn chain(&self) -> ChainId {
        self.chain
    }

    /// Takes the next group.
    ///
    /// # Errors
    /// When it is neither the next one nor proof of another history. The reader stands where it
    /// stood.
    pub fn read(&mut self, group: Group) -> Result<Read, ReadError> {
        let from = self.verifier.head();
        match group.verify(&mut self.verifier) {
            Ok(leaves) => Ok(Read::Next(Box::new(self.verified(from, &self.verifier, group, leaves)))),
            Err(error) => self.other_history(group).ok_or(error.into()),
        }
    }

    /// A group that comes in the place of leaves that the books have, if the agent signed it.
    pub fn other_history(&self, group: Group) -> Option<Read> {
        let first = group.leaves().first().and_then(|leaf| Leaf::decode(leaf).ok())?;
        let from = Head { size: group.first(), hash: first.before };
        let mut elsewhere = Verifier::resume(self.chain, from, *self.verifier.key());
        let leaves = group.verify(&mut elsewhere).ok()?;
        Some(Read::Fork(Box::new(self.verified(from, &elsewhere, group, leaves))))
    }

    fn verified(&self, from: Head, after: &Verifier, group: Group, leaves: Vec<Leaf>) -> VerifiedGroup {
        let leaves = leaves.into_iter().zip(group.leaves());
        let leaves = leaves.map(|(leaf, bytes)| {
            let is_ordered = match &leaf.event {
                Event::Open(ticket) => ticket.verify(&self.keys).is_ok() && ticket.ticket().agent == self.chain.agent,
                Event::Close(_)
                | Event::Adjust(_)
                | Event::Part(_)
                | Event::Payout(_)
                | Event::KeyRotation(_)
                | Event::HubKey(_)
                | Event::Epoch(_) => true,
            };
            ReadLeaf { hash: Leaf::hash(bytes), leaf, is_ordered }
        });
        let (leaves, key) = (leaves.collect(), after.key().to_bytes());
        VerifiedGroup { chain: self.chain, from, to: after.head(), key, leaves, group }
    }
}

impl VerifiedGroup {
    /// Of which chain it is.
    pub const fn chain(&self) -> ChainId {
        self.chain
    }

    /// The head that it goes on from.
    pub const fn from(&self) -> Head {
        self.from
    }

    /// The head after it.
    pub const fn to(&self) -> Head {
        self.to
    }

    /// The figures that its CLOSE leaves say, by attempt.
    pub fn figures(&self) -> impl Iterator<Item = (CallId, u8, &Metered)> {
        self.leaves.iter().filter_map(|read| match &read.leaf.event {
            Event::Close(close) => Some((close.call, close.attempt, close.metered.as_ref()?)),
            Event::Open(_)
            | Event::Adjust(_)
            | Event::Part(_)
            | Event::Payout(_)
            | Event::KeyRotation(_)
            | Event::HubKey(_)
            | Event::Epoch(_) => None,
        })
    }

    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        2 * self.group.leaves().iter().map(|leaf| leaf.len() + 128).sum::<usize>()
    }
}
