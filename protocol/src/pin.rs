//! A pin: what an agent trusts instead of names, dates and authorities.
//!
//! Invariant: two pins are equal exactly when the public keys are.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;
use sha2::Digest;
use sha2::Sha256;

use crate::hex::Hex;
use crate::hex::HexParseError;

/// SHA-256 of a public key's SubjectPublicKeyInfo in DER. Prints as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pin(pub Hex<32>);

impl Pin {
    /// The pin of the key with this SubjectPublicKeyInfo (DER).
    pub fn of_spki(spki_der: &[u8]) -> Self {
        Self(Hex(Sha256::digest(spki_der).into()))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = HexParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_parses_back_from_what_it_prints() {
        let pin = Pin::of_spki(b"a key");

        assert_eq!(pin.to_string().parse(), Ok(pin));
    }
}
