//! One vendor key: what the owner gives, and what may be shown of it.
//!
//! Invariant: of a key's text at most the first three and the last four
//! characters are ever shown, and none of a short one.

use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::provider::Provider;
use secrecy::SecretString;
use serde::Deserialize;
use serde::Serialize;

use crate::vault::error::VaultError;
use crate::vault::host::Account;
use crate::vault::host::Deployment;

const KEY_BYTES_MIN: usize = 8;
const KEY_BYTES_MAX: usize = 512;
const SHOWN_FROM_CHARS: usize = 20;
const LABEL_CHARS_MAX: usize = 64;

/// The owner's statement that the key is theirs to use and within the vendor's terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// The words that were agreed to.
    pub text: String,
    /// When, by the agent's own clock.
    pub at_unix_ms: u64,
}

/// A key on its way into the vault.
#[derive(Debug)]
pub struct NewKey {
    /// The vendor's account it opens; decides the one host it is bound to.
    pub account: Account,
    /// A name for the owner's eyes. Empty: the vendor's name, or the resource's.
    pub label: String,
    /// The key itself.
    pub secret: SecretString,
    /// Without it the key is refused.
    pub attestation: Option<Attestation>,
    /// When it is added, by the agent's own clock.
    pub added_unix_ms: u64,
}

/// What may be shown of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// How the owner and the hub name it.
    pub id: VendorKeyId,
    /// The vendor it belongs to.
    pub provider: Provider,
    /// The one host that may see it.
    pub host: String,
    /// The Azure resource.
    pub resource: Option<String>,
    /// The Azure deployments that may be called.
    pub deployments: Vec<Deployment>,
    /// The owner's name for it.
    pub label: String,
    /// A few characters of it, to tell keys apart.
    pub masked: String,
    /// When it was added.
    pub added_unix_ms: u64,
    /// What the owner stated about it.
    pub attestation: Attestation,
}

impl KeyInfo {
    /// The model whose prices hold for this name: behind a deployment, the one that the owner
    /// stated.
    pub fn model_behind<'a>(&'a self, name: &'a str) -> &'a str {
        let stated = self.deployments.iter().find(|deployment| deployment.name() == name);
        stated.map_or(name, Deployment::model)
    }
}

/// Whether this can be sent to this vendor as a credential at all.
pub(crate) fn check_text(text: &str, provider: Provider) -> Result<(), VaultError> {
    let malformed = |why| Err(VaultError::KeyMalformed { why });
    if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&text.len()) {
        return malformed("it has fewer than 8 or more than 512 characters");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return malformed("it holds spaces or characters that are not visible ASCII");
    }
    if text.contains(['"', '\'', '`']) {
        return malformed("it holds quotes");
    }
    refuse_foreign(text, provider)
}

/// Who pastes the wrong secret must not hand it to a vendor it was not made for.
fn refuse_foreign(text: &str, provider: Provider) -> Result<(), VaultError> {
    let foreign = |whose, fix| Err(VaultError::KeyForeign { whose, fix });
    if text.starts_with("kh_sk_") {
        return foreign(
            "a hub's API key for consumers",
            "give the vendor's own key, from the vendor's console; a hub's key belongs into a consumer's SDK",
        );
    }
    if text.starts_with("kh1_") {
        return foreign(
            "a join token",
            "give the vendor's own key, from the vendor's console; join with the token by `keyhaven-agent join -`",
        );
    }
    if text.starts_with("sk-ant-") && provider != Provider::Anthropic {
        return foreign("a key of Anthropic", "add it with `keyhaven-agent key add anthropic`");
    }
    if ["sk-proj-", "sk-svcacct-"].iter().any(|begin| text.starts_with(begin)) && provider != Provider::OpenAi {
        return foreign("a key of OpenAI", "add it with `keyhaven-agent key add openai`");
    }
    Ok(())
}

/// The label as it is stored.
pub(crate) fn label_of(given: &str, account: &Account) -> Result<String, VaultError> {
    let given = given.trim();
    if given.is_empty() {
        return Ok(match account {
            Account::Azure { resource, .. } => resource.clone(),
            Account::OpenAi | Account::Anthropic | Account::DeepSeek => account.provider().name().to_owned(),
        });
    }
    if given.chars().count() > LABEL_CHARS_MAX || given.chars().any(char::is_control) {
        return Err(VaultError::LabelMalformed);
    }
    Ok(given.to_owned())
}

/// `sk-…wxyz`; nothing of a key so short that this would tell much of it.
pub(crate) fn mask(text: &str) -> String {
    if text.len() < SHOWN_FROM_CHARS || !text.is_ascii() {
        return "…".to_owned();
    }
    format!("{}…{}", &text[..3], &text[text.len() - 4..])
}

#[cfg(test)]
mod tests {
    use keyhaven_daemon::failure::Failure;
    use keyhaven_protocol::ErrorCode;

    use super::*;

    #[test]
    fn a_mask_shows_seven_characters_of_a_long_key_and_none_of_a_short_one() {
        assert_eq!(mask("sk-abcdefghijklmnopqrstuvwxyz"), "sk-…wxyz");
        assert_eq!(mask("sk-abcdefghijklmnop"), "…");
    }

    #[test]
    fn a_pasted_key_with_anything_around_it_is_refused() {
        let check_text = |text: &str| check_text(text, Provider::OpenAi);
        assert!(check_text("sk-proj-0123456789_-.~+/=").is_ok());
        for bad in ["", "short", "sk-abc defghi", "\"sk-abcdefghi\"", "sk-abcdefghi\n", "sk-äbcdefghi"] {
            assert!(check_text(bad).is_err(), "{bad:?}");
        }
        assert!(check_text(&"k".repeat(513)).is_err());
    }

    #[test]
    fn a_secret_that_was_made_for_somebody_else_is_refused() {
        let refused = |text: &str, provider| matches!(check_text(text, provider), Err(VaultError::KeyForeign { .. }));

        for provider in Provider::ALL.iter().copied() {
            assert!(refused("kh_sk_0123456789", provider), "{provider}");
            assert!(refused("kh1_0123456789", provider), "{provider}");
            assert_eq!(refused("sk-ant-api03-0123", provider), provider != Provider::Anthropic, "{provider}");
            assert_eq!(refused("sk-proj-0123456789", provider), provider != Provider::OpenAi, "{provider}");
            assert!(!refused("sk-0123456789abcdef", provider), "{provider}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do_and_not_what_was_pasted() {
        let refused = check_text("sk-ant-PLANTED", Provider::OpenAi).unwrap_err();

        let failure = Failure::from(&refused);

        assert_eq!(
            failure,
            Failure::new(ErrorCode::VendorKeyMalformed, "it is a key of Anthropic")
                .fix("add it with `keyhaven-agent key add anthropic`")
        );
    }

    #[test]
    fn a_label_cannot_write_to_the_terminal() {
        assert!(label_of("work\u{1b}[2J", &Account::OpenAi).is_err());
        assert_eq!(label_of("  ", &Account::DeepSeek).unwrap(), "deepseek");
    }
}
