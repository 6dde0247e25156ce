//! Sealing: XChaCha20-Poly1305 over one secret, bound to everything that is
//! said about it in the open.
//!
//! Invariant: plaintext and keys are wiped when dropped, and never printed.

use chacha20poly1305::Key;
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::XNonce;
use chacha20poly1305::aead::Aead;
use chacha20poly1305::aead::KeyInit;
use chacha20poly1305::aead::Payload;
use serde::Deserialize;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::vault::error::VaultError;

/// A key of 32 bytes that is wiped when dropped.
pub(crate) struct SealingKey(Zeroizing<[u8; 32]>);

impl SealingKey {
    pub(crate) fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    pub(crate) fn random() -> Result<Self, VaultError> {
        let mut bytes = Zeroizing::new([0; 32]);
        fill_random(bytes.as_mut_slice())?;
        Ok(Self(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn seal(&self, plain: &[u8], bound_to: &[u8]) -> Result<Sealed, VaultError> {
        let mut nonce = [0; 24];
        fill_random(&mut nonce)?;
        let payload = Payload { msg: plain, aad: bound_to };
        let text = self
            .cipher()
            .encrypt(&XNonce::from(nonce), payload)
            .expect("a secret is far shorter than the cipher's limit");
        Ok(Sealed { nonce: Bytes(nonce.to_vec()), text: Bytes(text) })
    }

    /// The plaintext, or `None` if key, text or what it is bound to differ.
    pub(crate) fn open(&self, sealed: &Sealed, bound_to: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let nonce: [u8; 24] = sealed.nonce.0.as_slice().try_into().ok()?;
        let payload = Payload { msg: &sealed.text.0, aad: bound_to };
        let plain = self.cipher().decrypt(&XNonce::from(nonce), payload).ok()?;
        Some(Zeroizing::new(plain))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        let key: &Key = self.0.as_slice().try_into().expect("the key has 32 bytes");
        XChaCha20Poly1305::new(key)
    }
}

/// A sealed secret, as it is stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sealed {
    pub(crate) nonce: Bytes,
    pub(crate) text: Bytes,
}

/// Bytes that are stored as base64, of which exactly one spelling is accepted.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        serializer.collect_str(&base64::engine::general_purpose::STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        let text = String::deserialize(deserializer)?;
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(Self)
            .map_err(|_| serde::de::Error::custom("not base64"))
    }
}

/// Bytes that mean one thing only: each part goes in with its length, so that
/// no two lists of parts give the same bytes.
pub(crate) struct Canonical(Vec<u8>);

impl Canonical {
    pub(crate) fn new(domain: &str) -> Self {
        Self(Vec::new()).text(domain)
    }

    pub(crate) fn bytes(mut self, part: &[u8]) -> Self {
        self.0.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.0.extend_from_slice(part);
        self
    }

    pub(crate) fn text(self, part: &str) -> Self {
        self.bytes(part.as_bytes())
    }

    pub(crate) fn number(self, part: u64) -> Self {
        self.bytes(&part.to_be_bytes())
    }

    pub(crate) fn optional(self, part: Option<&str>) -> Self {
        match part {
            Some(part) => self.number(1).text(part),
            None => self.number(0),
        }
    }

    pub(crate) fn list(self, parts: &[String]) -> Self {
        let count = u64::try_from(parts.len()).unwrap_or(u64::MAX);
        parts.iter().fold(self.number(count), |all, part| all.text(part))
    }

    pub(crate) fn sealed(self, part: &Sealed) -> Self {
        self.bytes(&part.nonce.0).bytes(&part.text.0)
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
}

pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), VaultError> {
    getrandom::fill(bytes).map_err(|_| VaultError::Random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_under_the_same_key_and_for_the_same_purpose() {
        let key = SealingKey::random().unwrap();
        let sealed = key.seal(b"secret", b"for a host").unwrap();

        assert_eq!(key.open(&sealed, b"for a host").unwrap().as_slice(), b"secret");
        assert!(key.open(&sealed, b"for another").is_none());
        assert!(SealingKey::random().unwrap().open(&sealed, b"for a host").is_none());
    }

    #[test]
    fn no_two_lists_of_parts_give_the_same_bytes() {
        let one = Canonical::new("d").text("ab").text("c").done();
        let other = Canonical::new("d").text("a").text("bc").done();

        assert_ne!(one, other);
    }
}
