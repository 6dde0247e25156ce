//! What the operator allows a key: how much money, which models, from where, until when.
//!
//! Invariant: an empty list allows all, and a list that cannot be read allows nothing.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::price::Zone;
use serde::Deserialize;
use serde::Serialize;

/// The longest list of models or networks.
pub const LIST_LENGTH_MAX: usize = 256;

/// Characters of a model's name in a list.
const MODEL_CHARS_MAX: usize = 128;

/// What a key lets the hub do to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It asks for usage where the consumer does not, and takes out again what that adds.
    #[default]
    Assist,
    /// It changes nothing.
    Exact,
}

impl Mode {
    /// As the command line, the database and documents name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Assist => "assist",
            Self::Exact => "exact",
        }
    }
}

impl FromStr for Mode {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match text {
            "assist" => Ok(Self::Assist),
            "exact" => Ok(Self::Exact),
            _ => Err(PolicyError::Mode(text.to_owned())),
        }
    }
}

/// The most that calls of one key may cost; none: as much as the account has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Budgets {
    /// On one day, UTC.
    pub day: Option<NanoUsd>,
    /// In one month, UTC.
    pub month: Option<NanoUsd>,
    /// In all.
    pub total: Option<NanoUsd>,
}

/// All that is allowed to one key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyPolicy {
    /// What may be done to its requests.
    pub mode: Mode,
    /// How much it may spend.
    pub budgets: Budgets,
    /// Models by name; one that ends in `*` stands for all that begin so. None: all.
    pub models: Vec<String>,
    /// Where calls may come from. None: from everywhere.
    pub networks: Vec<Network>,
    /// From when on it is refused.
    pub expires_unix_ms: Option<u64>,
}

impl KeyPolicy {
    /// Whether a call of this model is allowed.
    pub fn allows_model(&self, model: &str) -> bool {
        let named = |listed: &String| match listed.strip_suffix('*') {
            Some(beginning) => model.starts_with(beginning),
            None => listed == model,
        };
        self.models.is_empty() || self.models.iter().any(named)
    }

    /// Whether a call from this address is allowed.
    pub fn allows_address(&self, address: IpAddr) -> bool {
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(address))
    }
}

/// Who pays for a call: a good key, its account and what is allowed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payer {
    /// Whose money.
    pub account: AccountId,
    /// Which key.
    pub key: ApiKeyId,
    /// What its calls cost.
    pub zone: Zone,
    /// Whether the operator has blocked the account.
    pub is_blocked: bool,
    /// What the key may do.
    pub policy: KeyPolicy,
}

impl Payer {
    /// Whether a call at this time and from this address may begin.
    ///
    /// # Errors
    /// [`ErrorCode::ApiKeyExpired`], [`ErrorCode::AccountBlocked`] or
    /// [`ErrorCode::AddressNotAllowed`].
    pub fn may_call(&self, now_unix_ms: u64, address: IpAddr) -> Result<(), ErrorCode> {
        if self.policy.expires_unix_ms.is_some_and(|expires| expires <= now_unix_ms) {
            return Err(ErrorCode::ApiKeyExpired);
        }
        if self.is_blocked {
            return Err(ErrorCode::AccountBlocked);
        }
        if !self.policy.allows_address(address) {
            return Err(ErrorCode::AddressNotAllowed);
        }
        Ok(())
    }

    /// Whether a call of this model may go on.
    ///
    /// # Errors
    /// [`ErrorCode::ModelNotAllowed`].
    pub fn may_use(&self, model: &str) -> Result<(), ErrorCode> {
        if self.policy.allows_model(model) { Ok(()) } else { Err(ErrorCode::ModelNotAllowed) }
    }
}

/// Addresses that begin alike, such as `10.1.0.0/16`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Whether the address is in it. An IPv4 address is the same in IPv6's clothes.
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(mine), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.prefix_bits);
                let top = |address: std::net::Ipv4Addr| u32::from(address).checked_shr(shift).unwrap_or(0);
                top(mine) == top(other)
            }
            (IpAddr::V6(mine), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.prefix_bits);
                let top = |address: std::net::Ipv6Addr| u128::from(address).checked_shr(shift).unwrap_or(0);
                top(mine) == top(other)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

impl FromStr for Network {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let wrong = || PolicyError::Network(text.chars().take(64).collect());
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().map_err(|_| wrong())?,
            Some(_) => return Err(wrong()),
            None => bits,
        };
        if prefix_bits > bits {
            return Err(wrong());
        }
        Ok(Self { address, prefix_bits })
    }
}

impl Serialize for Network {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why something cannot be allowed as it was said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not a mode.
    #[error("{0:?} is no mode: assist or exact")]
    Mode(String),
    /// Not an address or network.
    #[error("{0:?} is no IP address and no network such as 10.1.0.0/16")]
    Network(String),
    /// Not a model's name.
    #[error("{0:?} is no model's name")]
    Model(String),
    /// Longer than any list has to be.
    #[error("a list has at most {LIST_LENGTH_MAX} names")]
    TooMany,
}

/// A model's name as a list may hold it.
///
/// # Errors
/// [`PolicyError::Model`].
pub fn model_of_list(text: &str) -> Result<String, PolicyError> {
    let fits = !text.is_empty() && text.len() <= MODEL_CHARS_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    let star_inside = text.strip_suffix('*').unwrap_or(text).contains('*');
    if fits && !star_inside { Ok(text.to_owned()) } else { Err(PolicyError::Model(text.chars().take(64).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_what_begins_alike() {
        let rows = [
            ("10.1.0.0/16", "10.1.255.3", true),
            ("10.1.0.0/16", "10.2.0.1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("10.1.0.0/16", "::ffff:10.1.0.1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
            ("::1", "::1", true),
        ];
        for (network, address, inside) in rows {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), inside, "{network} {address}");
        }
        for bad in ["", "10.1", "10.1.0.0/33", "::/129", "10.1.0.0/", "10.1.0.0/-1", "10.1.0.0/+1", "a/8"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_empty_list_allows_all_and_a_star_what_begins_so() {
        let all = KeyPolicy::default();
        let some = KeyPolicy { models: vec!["gpt-4o".to_owned(), "claude-*".to_owned()], ..KeyPolicy::default() };

        assert!(all.allows_model("anything") && all.allows_address("::1".parse().unwrap()));
        assert!(some.allows_model("gpt-4o") && some.allows_model("claude-sonnet-4-5"));
        assert!(!some.allows_model("gpt-4o-mini") && !some.allows_model("xclaude-"));
    }

    #[test]
    fn a_payer_is_stopped_by_time_block_address_and_model() {
        let policy = KeyPolicy {
            models: vec!["gpt-4o".to_owned()],
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            expires_unix_ms: Some(100),
            ..KeyPolicy::default()
        };
        let payer = Payer {
            account: AccountId([1; 16]),
            key: ApiKeyId([2; 16]),
            zone: Zone::Standard,
            is_blocked: false,
            policy,
        };
        let inside = "10.1.1.1".parse().unwrap();
        let blocked = Payer { is_blocked: true, ..payer.clone() };

        assert_eq!(payer.may_call(99, inside), Ok(()));
        assert_eq!(payer.may_call(100, inside), Err(ErrorCode::ApiKeyExpired));
        assert_eq!(payer.may_call(99, "11.1.1.1".parse().unwrap()), Err(ErrorCode::AddressNotAllowed));
        assert_eq!(blocked.may_call(99, inside), Err(ErrorCode::AccountBlocked));
        assert_eq!(payer.may_use("gpt-4o"), Ok(()));
        assert_eq!(payer.may_use("gpt-4"), Err(ErrorCode::ModelNotAllowed));
    }

    #[test]
    fn names_of_lists_are_checked() {
        for good in ["gpt-4o", "claude-*", "*", "ft:gpt-4o:x"] {
            assert!(model_of_list(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a*b", "a\n", &"a".repeat(129)] {
            assert!(model_of_list(bad).is_err(), "{bad}");
        }
        assert_eq!("exact".parse(), Ok(Mode::Exact));
        assert!("both".parse::<Mode>().is_err());
    }
}
