//! API keys of consumers: how they are made, masked and hashed.
//!
//! Invariant: a key's text exists here only between its making and its one
//! printing; everything later works on the hash.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::Digest;
use sha2::Sha256;

/// What every key begins with.
pub const PREFIX: &str = "kh_sk_";

/// Characters after the prefix: 32 random bytes in base64url.
const SECRET_CHARS: usize = 43;

/// A key that was just made. Its `Debug` shows the mask only.
pub struct NewApiKey {
    text: String,
}

impl NewApiKey {
    /// Makes a key of 32 random bytes.
    ///
    /// # Errors
    /// The system gave no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut secret = [0u8; 32];
        getrandom::fill(&mut secret)?;
        Ok(Self { text: format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret)) })
    }

    /// The key itself, to be shown once.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// What the database keeps.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(&self.text).into()
    }

    /// Four characters from each end of the secret part, for people to tell
    /// keys apart; the other 35 hold over 200 bits.
    pub fn masked(&self) -> String {
        let secret = &self.text[PREFIX.len()..];
        format!("{PREFIX}{}...{}", &secret[..4], &secret[SECRET_CHARS - 4..])
    }
}

impl fmt::Debug for NewApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewApiKey({})", self.masked())
    }
}

/// The hash to look a presented key up by; none if it cannot be one of ours.
pub fn hash_of_presented(text: &str) -> Option<[u8; 32]> {
    let secret = text.strip_prefix(PREFIX)?;
    let shaped =
        secret.len() == SECRET_CHARS && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    shaped.then(|| Sha256::digest(text).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_hashes_as_it_will_when_it_is_presented() {
        let key = NewApiKey::generate().unwrap();

        assert_eq!(hash_of_presented(key.reveal()), Some(key.hash()));
        assert_eq!(key.reveal().len(), PREFIX.len() + SECRET_CHARS);
    }

    #[test]
    fn two_keys_are_never_the_same() {
        let one = NewApiKey::generate().unwrap();
        let two = NewApiKey::generate().unwrap();

        assert_ne!(one.reveal(), two.reveal());
    }

    #[test]
    fn a_mask_shows_eight_characters_and_debug_shows_the_mask() {
        let key = NewApiKey::generate().unwrap();

        assert_eq!(key.masked().len(), "kh_sk_abcd...wxyz".len());
        assert!(key.reveal().starts_with(&key.masked()[..10]));
        assert!(key.reveal().ends_with(&key.masked()[13..]));
        assert_eq!(format!("{key:?}"), format!("NewApiKey({})", key.masked()));
    }

    #[test]
    fn what_cannot_be_a_key_of_ours_is_not_even_hashed() {
        let good = format!("{PREFIX}{}", "a".repeat(SECRET_CHARS));
        assert!(hash_of_presented(&good).is_some());

        for bad in [
            String::new(),
            "sk-proj-something-of-a-vendor".to_owned(),
            format!("{good}a"),
            good[..good.len() - 1].to_owned(),
            good.replace("aa", "é"),
            good.replacen('a', " ", 1),
        ] {
            assert!(hash_of_presented(&bad).is_none(), "{bad}");
        }
    }
}
