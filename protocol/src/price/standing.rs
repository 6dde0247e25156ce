//! By what factor of the list price somebody pays or is paid: a consumer's zone, an owner's tier.
//!
//! Invariant: a factor is set by the operator or there is none; nothing is sold by a default.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

/// What a consumer pays, as a factor of the list price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zone {
    /// Less than the usual.
    Discount,
    /// The usual one.
    Standard,
    /// More than the usual.
    Premium,
}

/// What an owner gets, as a ratio of the list price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerTier {
    /// Less than the usual.
    Basic,
    /// The usual one.
    Standard,
    /// More than the usual.
    Preferred,
}

/// A name that is none of the known ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is none of {0}")]
pub struct UnknownName(&'static str);

impl Zone {
    /// Every zone.
    pub const ALL: [Self; 3] = [Self::Discount, Self::Standard, Self::Premium];

    /// Its name in commands, files and the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discount => "discount",
            Self::Standard => "standard",
            Self::Premium => "premium",
        }
    }
}

impl OwnerTier {
    /// Every tier.
    pub const ALL: [Self; 3] = [Self::Basic, Self::Standard, Self::Preferred];

    /// Its name in commands, files and the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Standard => "standard",
            Self::Preferred => "preferred",
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for OwnerTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Zone {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.into_iter().find(|zone| zone.name() == text);
        found.ok_or(UnknownName("discount, standard, premium"))
    }
}

impl FromStr for OwnerTier {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.into_iter().find(|tier| tier.name() == text);
        found.ok_or(UnknownName("basic, standard, preferred"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_no_other_is_known() {
        assert!(Zone::ALL.iter().all(|zone| zone.name().parse() == Ok(*zone)));
        assert!(OwnerTier::ALL.iter().all(|tier| tier.name().parse() == Ok(*tier)));
        assert_eq!("gold".parse::<Zone>().unwrap_err().to_string(), "it is none of discount, standard, premium");
        assert!("premium".parse::<OwnerTier>().is_err());
    }
}
