//! What is signed, with which domain tag, and how a signed record is laid out.
//!
//! ```text
//! signed:  domain tag | line feed | SHA-256 of the body
//! record:  [domain tag, body as bytes, signature as 64 bytes]
//! ```
//!
//! Invariant: a signature made for one kind of record is worthless for every other, and what is
//! verified are the bytes that came, never bytes written again.

use ed25519_dalek::Signature;
use ed25519_dalek::Signer as _;
use ed25519_dalek::SigningKey;
use ed25519_dalek::VerifyingKey;
use sha2::Digest as _;
use sha2::Sha256;

use crate::cbor::CborError;
use crate::cbor::Reader;
use crate::cbor::Writer;
use crate::hex::Hex;

/// SHA-256 of a record.
pub type Hash = Hex<32>;

/// A signature that does not hold, whatever the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not hold")]
pub struct BadSignature;

/// Kinds of records that are signed. The tag of one is never given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// A hub's order to an agent.
    Ticket,
    /// An agent's word for a durable group of leaves.
    Group,
    /// A hub's answer to a batch of leaves.
    Statement,
    /// A hub's word that it saw a chain up to here, and no other.
    Cosignature,
    /// A hub's signing key.
    HubKey,
    /// An agent's new key, signed by itself.
    KeyRotation,
}

impl Domain {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Ticket, Self::Group, Self::Statement, Self::Cosignature, Self::HubKey, Self::KeyRotation];

    /// What its records and signatures begin with.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Ticket => "kh/ticket/1",
            Self::Group => "kh/group/1",
            Self::Statement => "kh/statement/1",
            Self::Cosignature => "kh/cosign/1",
            Self::HubKey => "kh/hubkey/1",
            Self::KeyRotation => "kh/keyrot/1",
        }
    }

    /// The signature of a body.
    pub fn sign(self, key: &SigningKey, body: &[u8]) -> Hex<64> {
        Hex(key.sign(&self.message(body)).to_bytes())
    }

    /// Checks the signature of a body.
    ///
    /// # Errors
    /// When it is not this key's, of this body, in this domain.
    pub fn verify(self, key: &VerifyingKey, body: &[u8], signature: &Hex<64>) -> Result<(), BadSignature> {
        key.verify_strict(&self.message(body), &Signature::from_bytes(&signature.0)).map_err(|_| BadSignature)
    }

    /// The record of a body and its signature.
    pub(crate) fn record(self, body: &[u8], signature: &Hex<64>) -> Vec<u8> {
        let mut writer = Writer::record(self.tag(), 2);
        writer.bytes(body).bytes(&signature.0);
        writer.finish()
    }

    /// Body and signature of a record; the signature is not checked.
    pub(crate) fn split(self, record: &[u8], body_bytes_max: usize) -> Result<(&[u8], Hex<64>), CborError> {
        let mut reader = Reader::record(record, self.tag(), 2)?;
        let body = reader.bytes(body_bytes_max, "body")?;
        let signature = Hex(reader.array_bytes("signature")?);
        reader.end()?;
        Ok((body, signature))
    }

    fn message(self, body: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(64);
        message.extend_from_slice(self.tag().as_bytes());
        message.push(b'\n');
        message.extend_from_slice(&hash_of(body).0);
        message
    }
}

/// SHA-256 of a record's bytes.
pub fn hash_of(record: &[u8]) -> Hash {
    Hex(Sha256::digest(record).into())
}

/// A key as it stands in a record.
///
/// # Errors
/// When the bytes are no key.
pub(crate) fn public_key(bytes: &Hex<32>, field: &'static str) -> Result<VerifyingKey, CborError> {
    let key = VerifyingKey::from_bytes(&bytes.0).map_err(|_| CborError::Field(field))?;
    if key.is_weak() { Err(CborError::Field(field)) } else { Ok(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_worth_something_in_its_own_domain_only() {
        let key = SigningKey::from_bytes(&[1; 32]);

        for signed in Domain::ALL {
            let signature = signed.sign(&key, b"body");
            for checked in Domain::ALL {
                let verdict = checked.verify(&key.verifying_key(), b"body", &signature);
                assert_eq!(verdict.is_ok(), signed == checked, "{signed:?} as {checked:?}");
            }
            assert_eq!(signed.verify(&key.verifying_key(), b"Body", &signature), Err(BadSignature));
        }
    }

    #[test]
    fn a_key_that_would_verify_anything_is_no_key() {
        let mut neutral = [0; 32];
        neutral[0] = 1;

        assert!(public_key(&Hex(neutral), "key").is_err());
    }
}
