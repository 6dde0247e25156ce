//! Proof that an agent signed two histories: an old backup that went on, or two copies at work.
//!
//! Invariant: anybody with the agent's key can check it, and nobody without that key can make it.

use ed25519_dalek::VerifyingKey;

use super::ChainError;
use super::ChainId;
use super::run;
use crate::hex::Hex;
use crate::leaf::Head;
use crate::leaf::Leaf;
use crate::signing::Domain;

/// One of two histories, from where they part up to a head that the agent signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Leaves from [`ForkProof::at`] on; none if the signed head is there.
    pub leaves: Vec<Vec<u8>>,
    /// The signed head.
    pub head: Head,
    /// The signature of the group that ends with it.
    pub signature: Hex<64>,
}

/// Two histories of one chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForkProof {
    /// The chain.
    pub chain: ChainId,
    /// After so many leaves the two differ.
    pub at: u64,
    /// The two.
    pub branches: [Branch; 2],
}

/// Why it proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForkError {
    /// The leaves of one history do not lead to its head.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// They lead to another head than the signed one.
    #[error("the leaves do not lead to the signed head")]
    OtherHead,
    /// The agent did not sign it.
    #[error("the signature does not hold")]
    Signature,
    /// Both are one history.
    #[error("the two histories are one")]
    Same,
}

impl ForkProof {
    /// Whether the holder of this key signed both histories.
    ///
    /// # Errors
    /// When it does not prove that.
    pub fn verify(&self, key: &VerifyingKey) -> Result<(), ForkError> {
        let [one, other] = &self.branches;
        let (one, other) = (self.parts_at(one, key)?, self.parts_at(other, key)?);
        if one == other { Err(ForkError::Same) } else { Ok(()) }
    }

    /// The hash after [`Self::at`] leaves of a history that the agent signed.
    fn parts_at(&self, branch: &Branch, key: &VerifyingKey) -> Result<Hex<32>, ForkError> {
        let hash = match branch.leaves.first() {
            None => branch.head.hash,
            Some(first) => {
                let leaf = Leaf::decode(first).map_err(|error| ChainError::Unreadable { number: self.at, error })?;
                leaf.before
            }
        };
        if run(&self.chain, Head { size: self.at, hash }, &branch.leaves)? != branch.head {
            return Err(ForkError::OtherHead);
        }
        let body = self.chain.head_body(branch.head);
        Domain::Group.verify(key, &body, &branch.signature).map_err(|_| ForkError::Signature)?;
        Ok(hash)
    }
}
