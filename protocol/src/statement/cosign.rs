//! The hub's word that it saw a chain up to a head, and no other chain in its place.
//!
//! ```text
//! body:          [fleet 16, purpose u8, agent 16, epoch u32, size u64, head 32], as the agent signs it of a group
//! cosigned head: ["kh/cosign/1", body as bytes, signing key u32, signature 64]
//! ```
//!
//! Invariant: of one chain, two different heads of one size are never cosigned, and no head
//! that is not ahead of the newest: whoever keeps the state keeps it before the signature leaves.

use ed25519_dalek::SigningKey;
use ed25519_dalek::VerifyingKey;

use crate::cbor::CborError;
use crate::cbor::Reader;
use crate::cbor::Writer;
use crate::chain::ChainId;
use crate::hex::Hex;
use crate::leaf::Head;
use crate::signing::BadSignature;
use crate::signing::Domain;

/// The longest cosigned head, in bytes.
pub const COSIGNED_BYTES_MAX: usize = 256;

const BODY_BYTES_MAX: usize = 128;

/// A cosigned head, as the agent keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cosigned {
    /// The chain.
    pub chain: ChainId,
    /// Its head.
    pub head: Head,
    /// The number of the hub's key.
    pub signing_key: u32,
    /// The hub's signature.
    pub signature: Hex<64>,
}

/// The newest head of one chain that was cosigned. It is a value to be swapped: what
/// [`Self::swap`] gives is written to the store only where this is still what stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cosign {
    chain: ChainId,
    newest: Head,
}

/// Why a head is not cosigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CosignError {
    /// Another head of this size was cosigned: there are two histories.
    #[error("another head of {0} leaves was cosigned")]
    Fork(u64),
    /// A longer chain was cosigned: an old copy of the agent, or a late message.
    #[error("{newest} leaves were cosigned, and this head has {found}")]
    Behind {
        /// How many were cosigned.
        newest: u64,
        /// How many this head has.
        found: u64,
    },
    /// The leaves that were verified begin elsewhere: another hub was faster. Look again.
    #[error("the newest cosigned head is another than the leaves begin at")]
    Moved,
}

impl Cosign {
    /// No head of this chain yet.
    pub const fn new(chain: ChainId) -> Self {
        Self { chain, newest: Head::EMPTY }
    }

    /// As it was stored.
    pub const fn stored(chain: ChainId, newest: Head) -> Self {
        Self { chain, newest }
    }

    /// The newest cosigned head.
    pub const fn newest(&self) -> Head {
        self.newest
    }

    /// Goes on to a head that verified leaves lead to, beginning after `from`. The same head
    /// again is no change, whatever it is from.
    ///
    /// # Errors
    /// When it is not ahead, or another history.
    pub fn swap(self, from: Head, to: Head) -> Result<Self, CosignError> {
        if to == self.newest {
            return Ok(self);
        }
        if to.size == self.newest.size {
            return Err(CosignError::Fork(to.size));
        }
        if to.size < self.newest.size {
            return Err(CosignError::Behind { newest: self.newest.size, found: to.size });
        }
        if from.size == self.newest.size && from.hash != self.newest.hash {
            return Err(CosignError::Fork(from.size));
        }
        if from != self.newest {
            return Err(CosignError::Moved);
        }
        Ok(Self { newest: to, ..self })
    }

    /// The signature of what is stored now; the same whenever it is made.
    pub fn sign(&self, signing_key: u32, key: &SigningKey) -> Cosigned {
        let signature = Domain::Cosignature.sign(key, &self.chain.head_body(self.newest));
        Cosigned { chain: self.chain, head: self.newest, signing_key, signature }
    }
}

impl Cosigned {
    /// As it travels and is kept.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::record(Domain::Cosignature.tag(), 3);
        writer.bytes(&self.chain.head_body(self.head)).unsigned(self.signing_key).bytes(&self.signature.0);
        writer.finish()
    }

    /// Reads a cosigned head. That the hub signed it is [`Self::verify`]'s to say.
    ///
    /// # Errors
    /// When the bytes are not those of one.
    pub fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        let mut reader = Reader::record(bytes, Domain::Cosignature.tag(), 3)?;
        let (chain, head) = ChainId::read_head_body(reader.bytes(BODY_BYTES_MAX, "body")?)?;
        let (signing_key, signature) = (reader.unsigned("signing key")?, Hex(reader.array_bytes("signature")?));
        reader.end()?;
        Ok(Self { chain, head, signing_key, signature })
    }

    /// Whether the hub's key of [`Self::signing_key`] signed it.
    ///
    /// # Errors
    /// When it did not.
    pub fn verify(&self, key: &VerifyingKey) -> Result<(), BadSignature> {
        Domain::Cosignature.verify(key, &self.chain.head_body(self.head), &self.signature)
    }
}
