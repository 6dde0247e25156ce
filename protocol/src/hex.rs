//! Bytes that print as hex: keys, nonces, signatures, records in JSON.
//!
//! Invariant: lower-case on the way out, either case on the way in, never a wrong length.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

/// `N` bytes, in JSON as `2 * N` hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hex<const N: usize>(pub [u8; N]);

/// Any number of bytes, in JSON as twice as many hex digits.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct HexBytes(pub Vec<u8>);

/// Text that is not hex of the right length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {digits} hex digits")]
pub struct HexParseError {
    digits: usize,
}

impl HexBytes {
    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> FromStr for Hex<N> {
    type Err = HexParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = HexParseError { digits: 2 * N };
        if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(error);
        }
        let mut bytes = [0; N];
        for (byte, at) in bytes.iter_mut().zip((0..2 * N).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| error.clone())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for HexBytes {
    type Err = HexParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = HexParseError { digits: text.len().next_multiple_of(2) };
        if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(error);
        }
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| error.clone());
        (0..text.len()).step_by(2).map(byte).collect::<Result<_, _>>().map(Self)
    }
}

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_parses_back_from_what_it_prints() {
        let bytes = Hex([0x0f, 0xa0]);

        assert_eq!(bytes.to_string(), "0fa0");
        assert_eq!("0FA0".parse(), Ok(bytes));
        assert!("+f+0".parse::<Hex<2>>().is_err());
        assert!("0f".parse::<Hex<2>>().is_err());
    }

    #[test]
    fn bytes_of_any_number_parse_back_from_what_they_print() {
        for bytes in [vec![], vec![0x0f, 0xa0, 0x00]] {
            let bytes = HexBytes(bytes);
            assert_eq!(bytes.to_string().parse(), Ok(bytes.clone()));
        }
        assert_eq!("0FA0".parse(), Ok(HexBytes(vec![0x0f, 0xa0])));
        for wrong in ["0", "0fa", "+f+0", "0g", "\u{e9}"] {
            assert!(wrong.parse::<HexBytes>().is_err(), "{wrong}");
        }
    }
}
