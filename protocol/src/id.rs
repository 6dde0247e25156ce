//! Identifiers. Ids never mix: a [`CallId`] is not an [`AgentId`].
//!
//! Invariant: every id prints with its own prefix and parses back only from it.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

/// Text that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id of the form {prefix}<32 lower-case hex digits>")]
pub struct IdParseError {
    text: String,
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// What the printed form begins with.
            pub const PREFIX: &'static str = $prefix;
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                fmt::Display::fmt(uuid::Uuid::from_bytes(self.0).as_simple(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let error = || IdParseError { text: text.chars().take(64).collect(), prefix: $prefix };
                let hex = text.strip_prefix($prefix).ok_or_else(error)?;
                if hex.len() != 32 || hex.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(error());
                }
                let parsed = uuid::Uuid::try_parse(hex).map_err(|_| error())?;
                Ok(Self(*parsed.as_bytes()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// One consumer request, as the consumer, the hub and the agent all name it.
    /// A UUIDv7, so that ids sort by time.
    CallId,
    "call_"
);
id!(
    /// One agent, from its invitation to its revocation.
    AgentId,
    "ag_"
);
id!(
    /// All hubs that share one database: a ticket of one fleet means nothing in another.
    FleetId,
    "fl_"
);
id!(
    /// One join token.
    TokenId,
    "jt_"
);
id!(
    /// One API key of a consumer at the hub.
    ApiKeyId,
    "ak_"
);
id!(
    /// One account of a consumer at the hub: whose money its keys spend.
    AccountId,
    "ac_"
);
id!(
    /// One node of a fleet: a hub's data directory or database seat, whatever process serves it.
    HubNodeId,
    "hn_"
);
id!(
    /// One start of a hub node's process.
    BootId,
    "bt_"
);
id!(
    /// Money that an owner was paid.
    PayoutId,
    "po_"
);
id!(
    /// One vendor key in an agent's vault. Its owner knows it by this id; the hub sees it in offers.
    VendorKeyId,
    "vk_"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_parses_back_from_what_it_prints_and_from_no_other_kind() {
        let id = AgentId([0xab; 16]);

        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().parse::<CallId>().is_err());
        assert!("ag_ABABABABABABABABABABABABABABABAB".parse::<AgentId>().is_err());
        assert!("ag_".parse::<AgentId>().is_err());
    }
}
