//! The vendors whose APIs travel through the tunnel.
//!
//! Invariant: a closed set; what is not listed here is refused on both sides.

pub mod endpoint;
mod family;
pub mod headers;
pub mod native_error;
pub mod policy;
pub mod route;
pub mod websocket;

use serde::Deserialize;
use serde::Serialize;

/// A vendor of language models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// `api.openai.com`.
    OpenAi,
    /// `<resource>.openai.azure.com` and its sister suffixes.
    Azure,
    /// `api.anthropic.com`.
    Anthropic,
    /// `api.deepseek.com`, in its OpenAI and its Anthropic form.
    DeepSeek,
}

impl Provider {
    /// Every vendor, in the order in which they are listed to people.
    pub const ALL: &'static [Self] = &[Self::OpenAi, Self::Azure, Self::Anthropic, Self::DeepSeek];

    /// The name in commands, configuration and `/via/<name>` paths.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Azure => "azure",
            Self::Anthropic => "anthropic",
            Self::DeepSeek => "deepseek",
        }
    }

    /// The name as the vendor writes it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::OpenAi => "OpenAI",
            Self::Azure => "Azure OpenAI",
            Self::Anthropic => "Anthropic",
            Self::DeepSeek => "DeepSeek",
        }
    }
}

impl std::fmt::Display for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Text that names no vendor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of openai, azure, anthropic, deepseek")]
pub struct UnknownProvider(String);

impl std::str::FromStr for Provider {
    type Err = UnknownProvider;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.iter().copied().find(|provider| provider.name() == text);
        named.ok_or_else(|| UnknownProvider(text.chars().take(32).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_parses_back_and_is_the_serialised_form() {
        for provider in Provider::ALL {
            let json = serde_json::to_string(provider).unwrap();

            assert_eq!(provider.name().parse(), Ok(*provider));
            assert_eq!(json, format!("{:?}", provider.name()));
        }
    }

    #[test]
    fn other_case_and_other_names_are_refused() {
        assert!("OpenAI".parse::<Provider>().is_err());
        assert!("".parse::<Provider>().is_err());
        assert!("mistral".parse::<Provider>().is_err());
    }
}
