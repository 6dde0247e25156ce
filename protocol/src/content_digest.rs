//! Digests of prompts and answers, under a random key of the call.
//!
//! Invariant: without the call's key a digest says nothing, not even of the shortest text: the
//! key travels in OPEN, is kept apart from the ledger and is erased after the time for disputes.

use hmac::Hmac;
use hmac::KeyInit as _;
use hmac::Mac as _;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::hex::Hex;

/// Bytes of a key, which must be fresh and random for every call.
pub const KEY_BYTES: usize = 32;

/// The key of a call; wiped when dropped, never printed.
#[derive(Clone)]
pub struct ContentKey(Zeroizing<[u8; KEY_BYTES]>);

/// Whose bytes a digest is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The request's body, as it went to the vendor.
    Request,
    /// The answer's body, as it went over the link.
    Response,
}

/// A digest in the making, fed at any cut.
#[derive(Clone)]
pub struct ContentDigest(Hmac<Sha256>);

impl ContentKey {
    /// These bytes as a key.
    pub const fn new(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Self(bytes)
    }

    /// The bytes, for OPEN and for where keys are kept.
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl std::fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ContentKey([secret])")
    }
}

impl Content {
    const fn tag(self) -> &'static [u8] {
        match self {
            Self::Request => b"kh/request/1\n",
            Self::Response => b"kh/response/1\n",
        }
    }
}

impl std::fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ContentDigest")
    }
}

impl ContentDigest {
    /// The digest of nothing yet.
    pub fn new(key: &ContentKey, content: Content) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes()).expect("a key of any length is taken");
        mac.update(content.tag());
        Self(mac)
    }

    /// More of the body.
    pub fn feed(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all that was fed.
    pub fn finish(self) -> Hex<32> {
        Hex(self.0.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_digest_does_not_depend_on_how_the_body_was_cut(
            body in proptest::collection::vec(any::<u8>(), 0..400), cuts in proptest::collection::vec(0_usize..400, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.sort_unstable();
            let mut digest = ContentDigest::new(&key(1), Content::Request);
            let mut from = 0;
            for cut in cuts {
                digest.feed(&body[from..cut]);
                from = cut;
            }
            digest.feed(&body[from..]);

            prop_assert_eq!(digest.finish(), of(1, Content::Request, &body));
        }
    }

    #[test]
    fn a_short_prompt_cannot_be_guessed_from_its_digest_without_the_calls_key() {
        assert_ne!(of(1, Content::Request, b"yes"), of(2, Content::Request, b"yes"));
        assert_ne!(of(1, Content::Request, b"yes"), of(1, Content::Response, b"yes"));
        assert!(!format!("{:?}", key(1)).contains('1'));
    }

    #[test]
    fn a_digest_is_hmac_of_the_tag_and_the_body() {
        // Computed with: printf 'kh/request/1\nhello' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0101...01
        let known = "113a7770bdc3801960abcc8b3fc06912de56359a50b0155f09c8c47bdc8d77c0";

        assert_eq!(of(1, Content::Request, b"hello").to_string(), known);
    }

    fn of(id: u8, content: Content, body: &[u8]) -> Hex<32> {
        let mut digest = ContentDigest::new(&key(id), content);
        digest.feed(body);
        digest.finish()
    }

    fn key(id: u8) -> ContentKey {
        ContentKey::new(Zeroizing::new([id; 32]))
    }
}
