//! Which vendor a request is for, by official name or by path prefix.
//!
//! Invariant: the names here are the vendors' public ones, written down a second time on purpose:
//! the kit must not learn from the code it checks.

/// A vendor the upstream plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// `api.openai.com`.
    OpenAi,
    /// `<resource>.openai.azure.com` and `<resource>.cognitiveservices.azure.com`.
    Azure,
    /// `api.anthropic.com`.
    Anthropic,
    /// `api.deepseek.com`.
    DeepSeek,
}

impl Vendor {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::OpenAi, Self::Azure, Self::Anthropic, Self::DeepSeek];

    /// The word used as path prefix on the plain port, and in configuration.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Azure => "azure",
            Self::Anthropic => "anthropic",
            Self::DeepSeek => "deepseek",
        }
    }

    /// The official host; for Azure an example resource.
    #[must_use]
    pub const fn host(self) -> &'static str {
        match self {
            Self::OpenAi => "api.openai.com",
            Self::Azure => "kit.openai.azure.com",
            Self::Anthropic => "api.anthropic.com",
            Self::DeepSeek => "api.deepseek.com",
        }
    }

    /// The vendor with this official host; nothing else than the exact name will do.
    #[must_use]
    pub fn from_host(host: &str) -> Option<Self> {
        let azure = [".openai.azure.com", ".cognitiveservices.azure.com"];
        let resource = azure.iter().find_map(|suffix| host.strip_suffix(suffix));
        if resource.is_some_and(|label| !label.is_empty() && !label.contains('.')) {
            return Some(Self::Azure);
        }
        Self::ALL.into_iter().find(|vendor| *vendor != Self::Azure && vendor.host() == host)
    }

    /// Splits `/openai/v1/models` into the vendor and `/v1/models`.
    #[must_use]
    pub fn from_prefix(target: &str) -> Option<(Self, &str)> {
        Self::ALL.into_iter().find_map(|vendor| {
            let rest = target.strip_prefix('/')?.strip_prefix(vendor.word())?;
            rest.starts_with('/').then_some((vendor, rest))
        })
    }
}

/// The shape in which an answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    OpenAi,
    Azure,
    Anthropic,
    DeepSeek,
    DeepSeekAnthropic,
}

impl Form {
    pub(super) fn of(vendor: Vendor, path: &str) -> Self {
        match vendor {
            Vendor::OpenAi => Self::OpenAi,
            Vendor::Azure => Self::Azure,
            Vendor::Anthropic => Self::Anthropic,
            Vendor::DeepSeek if path.starts_with("/anthropic/") => Self::DeepSeekAnthropic,
            Vendor::DeepSeek => Self::DeepSeek,
        }
    }

    pub(super) const fn is_anthropic(self) -> bool {
        match self {
            Self::Anthropic | Self::DeepSeekAnthropic => true,
            Self::OpenAi | Self::Azure | Self::DeepSeek => false,
        }
    }
}
