//! The one host each vendor key is bound to.
//!
//! Invariant: no host is ever built from what a hub or a consumer sent; it is
//! fixed when the owner adds the key.

use std::fmt;
use std::str::FromStr;

use keyhaven_protocol::provider::Provider;
use serde::Deserialize;
use serde::Serialize;

use crate::vault::error::VaultError;

/// The domains under which Azure serves models. The owner chooses one per key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AzureSuffix {
    /// `<resource>.openai.azure.com`
    #[default]
    #[serde(rename = "openai.azure.com")]
    OpenAi,
    /// `<resource>.cognitiveservices.azure.com`
    #[serde(rename = "cognitiveservices.azure.com")]
    CognitiveServices,
    /// `<resource>.services.ai.azure.com`
    #[serde(rename = "services.ai.azure.com")]
    AiServices,
}

impl AzureSuffix {
    /// Every suffix there is.
    pub const ALL: [Self; 3] = [Self::OpenAi, Self::CognitiveServices, Self::AiServices];

    /// The domain, without a leading dot.
    pub const fn domain(self) -> &'static str {
        match self {
            Self::OpenAi => "openai.azure.com",
            Self::CognitiveServices => "cognitiveservices.azure.com",
            Self::AiServices => "services.ai.azure.com",
        }
    }
}

/// A deployment at Azure, as the owner states it: `NAME` or `NAME=MODEL`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Deployment {
    name: String,
    model: Option<String>,
}

/// A text that states no deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is neither NAME nor NAME=MODEL, in letters, digits, hyphens, dots and underscores")]
pub struct BadDeployment;

impl Deployment {
    /// What calls name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model behind it, whose prices hold: what the owner states, else the deployment's own
    /// name.
    pub fn model(&self) -> &str {
        self.model.as_deref().unwrap_or(&self.name)
    }
}

impl fmt::Display for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.model {
            Some(model) => write!(f, "{}={model}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl FromStr for Deployment {
    type Err = BadDeployment;

    fn from_str(text: &str) -> Result<Self, BadDeployment> {
        let (name, model) = text.split_once('=').map_or((text, None), |(name, model)| (name, Some(model)));
        let fits = is_deployment(name) && model.is_none_or(is_deployment);
        fits.then(|| Self { name: name.to_owned(), model: model.map(str::to_owned) }).ok_or(BadDeployment)
    }
}

impl TryFrom<String> for Deployment {
    type Error = BadDeployment;

    fn try_from(text: String) -> Result<Self, BadDeployment> {
        text.parse()
    }
}

impl From<Deployment> for String {
    fn from(deployment: Deployment) -> Self {
        deployment.to_string()
    }
}

/// Which account of a vendor a key opens. Azure has one host per resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// `api.openai.com`
    OpenAi,
    /// A resource of the owner's at Azure.
    Azure {
        /// The one DNS label before the suffix.
        resource: String,
        /// The domain the resource lives under.
        suffix: AzureSuffix,
        /// The deployments that may be called. Empty: the hub cannot route by model.
        deployments: Vec<Deployment>,
    },
    /// `api.anthropic.com`
    Anthropic,
    /// `api.deepseek.com`
    DeepSeek,
}

impl Account {
    /// The vendor it belongs to.
    pub const fn provider(&self) -> Provider {
        match self {
            Self::OpenAi => Provider::OpenAi,
            Self::Azure { .. } => Provider::Azure,
            Self::Anthropic => Provider::Anthropic,
            Self::DeepSeek => Provider::DeepSeek,
        }
    }

    /// The exact host that may see the key.
    ///
    /// # Errors
    /// The Azure resource is not a name Azure would give.
    pub fn host(&self) -> Result<String, VaultError> {
        match self {
            Self::OpenAi => Ok("api.openai.com".to_owned()),
            Self::Anthropic => Ok("api.anthropic.com".to_owned()),
            Self::DeepSeek => Ok("api.deepseek.com".to_owned()),
            Self::Azure { resource, suffix, deployments: _ } => {
                if !is_dns_label(resource) {
                    return Err(VaultError::ResourceMalformed {
                        why: format!("{:?} is not one DNS label of a to z, 0 to 9 and hyphens", clip(resource)),
                    });
                }
                Ok(format!("{resource}.{}", suffix.domain()))
            }
        }
    }
}

/// Whether a stored host is one that keys of this vendor may be bound to.
pub(crate) fn is_official(provider: Provider, resource: Option<&str>, host: &str) -> bool {
    match (provider, resource) {
        (Provider::OpenAi, None) => host == "api.openai.com",
        (Provider::Anthropic, None) => host == "api.anthropic.com",
        (Provider::DeepSeek, None) => host == "api.deepseek.com",
        (Provider::Azure, Some(resource)) => {
            is_dns_label(resource)
                && AzureSuffix::ALL.iter().any(|suffix| host == format!("{resource}.{}", suffix.domain()))
        }
        (Provider::OpenAi | Provider::Anthropic | Provider::DeepSeek, Some(_)) | (Provider::Azure, None) => false,
    }
}

fn is_dns_label(text: &str) -> bool {
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| lower(byte) || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_deployment(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=64).contains(&text.len()) && text.bytes().all(allowed) && text.bytes().any(|byte| byte != b'.')
}

fn clip(text: &str) -> String {
    text.chars().take(72).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn azure(resource: &str) -> Account {
        Account::Azure {
            resource: resource.to_owned(),
            suffix: AzureSuffix::default(),
            deployments: vec!["gpt-4o".parse().unwrap()],
        }
    }

    #[test]
    fn an_azure_resource_is_one_dns_label_and_nothing_else() {
        assert_eq!(azure("acme-eu2").host().unwrap(), "acme-eu2.openai.azure.com");
        let too_long = "a".repeat(64);
        for bad in
            ["", "-a", "a-", "a.b", "A", "a:443", "a@b", "a%2e", "a/", "a b", "ä", "evil.example#", too_long.as_str()]
        {
            assert!(azure(bad).host().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_deployment_cannot_climb_out_of_its_path() {
        for bad in ["..", ".", "a/b", "a%2fb", "", "a b", "a?b"] {
            assert!(bad.parse::<Deployment>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_model_behind_a_deployment_is_stated_or_has_its_name() {
        let stated: Deployment = "prod=gpt-4o-2024-08-06".parse().unwrap();
        let own: Deployment = "gpt-4o".parse().unwrap();

        assert_eq!((stated.name(), stated.model()), ("prod", "gpt-4o-2024-08-06"));
        assert_eq!((own.name(), own.model()), ("gpt-4o", "gpt-4o"));
        assert_eq!([&stated, &own].map(ToString::to_string), ["prod=gpt-4o-2024-08-06", "gpt-4o"]);
        for bad in ["prod=", "=gpt-4o", "a=b=c", "a=b/c"] {
            assert!(bad.parse::<Deployment>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_host_is_official_only_for_its_own_vendor_and_resource() {
        assert!(is_official(Provider::OpenAi, None, "api.openai.com"));
        assert!(!is_official(Provider::OpenAi, None, "api.openai.com."));
        assert!(!is_official(Provider::OpenAi, None, "api.anthropic.com"));
        assert!(!is_official(Provider::Azure, None, "acme.openai.azure.com"));
        for suffix in AzureSuffix::ALL {
            let host = format!("acme.{}", suffix.domain());
            assert!(is_official(Provider::Azure, Some("acme"), &host));
            assert!(!is_official(Provider::Azure, Some("other"), &host));
        }
    }
}
