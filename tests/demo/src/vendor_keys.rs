//! The keys in the demo's vault: made up at random, or one real one that its owner gave.
//!
//! Invariant: a real key and made-up ones are never in one vault, so that no real key is ever sent
//! to a stand-in; and no real key is removed.

use keyhaven_agent::vault::Vault;
use keyhaven_agent::vault::host::Account;
use keyhaven_agent::vault::host::AzureSuffix;
use keyhaven_agent::vault::key::Attestation;
use keyhaven_agent::vault::key::KeyInfo;
use keyhaven_agent::vault::key::NewKey;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::provider::Provider;
use secrecy::SecretString;

use crate::arguments::RealVendor;
use crate::arguments::UpstreamHost;
use crate::arguments::UpstreamRoute;
use crate::random;
use crate::sample_vendor::KnownKeys;
use crate::sample_vendor::SampleVendor;

/// The Azure resource, where nobody names another.
const RESOURCE: &str = "demo";

/// What stands in place of an attestation; the mark of a made-up key.
const MADE_UP: &str =
    "keyhaven-demo made this key up at random; it opens nothing anywhere, and nobody attested anything.";

/// A real key and its owner's word for it.
#[derive(Debug)]
pub(crate) struct RealKey {
    /// The key.
    pub(crate) secret: SecretString,
    /// The owner's word.
    pub(crate) attestation: Attestation,
}

/// The accounts that the sample vendor plays.
pub(crate) fn sample_accounts() -> Vec<Account> {
    let azure = Account::Azure {
        resource: RESOURCE.to_owned(),
        suffix: AzureSuffix::OpenAi,
        deployments: SampleVendor::azure_deployments(),
    };
    vec![Account::OpenAi, azure, Account::Anthropic, Account::DeepSeek]
}

/// One account of each vendor, Azure's at the host that is mapped: one for each resource that is
/// named, else one for the resource `demo`. Which deployments there are only the upstream knows.
pub(crate) fn mapped_accounts(routes: &[UpstreamRoute]) -> Vec<Account> {
    let mut named = Vec::new();
    let mut starred = None;
    for route in routes {
        if let UpstreamHost::Azure { resource, suffix } = &route.host {
            match resource {
                Some(resource) => named.push((resource.clone(), *suffix)),
                None => starred = starred.or(Some(*suffix)),
            }
        }
    }
    if named.is_empty() {
        named.push((RESOURCE.to_owned(), starred.unwrap_or_default()));
    }
    let azure =
        named.into_iter().map(|(resource, suffix)| Account::Azure { resource, suffix, deployments: Vec::new() });
    [Account::OpenAi, Account::Anthropic, Account::DeepSeek].into_iter().chain(azure).collect()
}

/// The first Azure resource among the accounts.
pub(crate) fn azure_resource(accounts: &[Account]) -> Option<String> {
    accounts.iter().find_map(|account| match account {
        Account::Azure { resource, .. } => Some(resource.clone()),
        Account::OpenAi | Account::Anthropic | Account::DeepSeek => None,
    })
}

/// Fills the vault with made-up keys, in place of those of an earlier demo, and tells which.
///
/// # Errors
/// The vault holds a real key, or cannot be written.
pub(crate) fn put_made_up(vault: &mut Vault, accounts: Vec<Account>) -> Result<KnownKeys, Failure> {
    if let Some(real) = real_keys(vault).first() {
        return Err(refused(real, "keys that are made up"));
    }
    for earlier in vault.keys() {
        vault.remove_key(earlier.id)?;
    }
    let mut known = Vec::new();
    for account in accounts {
        let (provider, secret) = (account.provider(), made_up(account.provider()));
        let attestation = Attestation { text: MADE_UP.to_owned(), at_unix_ms: unix_ms_now() };
        add(vault, account, secret.clone(), attestation)?;
        known.push((provider, secret));
    }
    Ok(known)
}

/// Whether the vault holds a real key of this vendor, so that nobody needs to be asked.
pub(crate) fn has_real(vault: &Vault, vendor: RealVendor) -> bool {
    real_keys(vault).iter().any(|key| key.provider == vendor.provider())
}

/// Puts a real key in the vault, or leaves the one that is there.
///
/// # Errors
/// The vault holds a real key of another vendor, the key is malformed, or the vault cannot be
/// written.
pub(crate) fn put_real(vault: &mut Vault, vendor: RealVendor, given: Option<RealKey>) -> Result<(), Failure> {
    let account = match vendor {
        RealVendor::Openai => Account::OpenAi,
        RealVendor::Anthropic => Account::Anthropic,
        RealVendor::Deepseek => Account::DeepSeek,
    };
    let title = vendor.provider().title();
    if let Some(other) = real_keys(vault).iter().find(|key| key.provider != vendor.provider()) {
        return Err(refused(other, &format!("a key of {title}")));
    }
    for made_up in vault.keys().iter().filter(|key| is_made_up(key)) {
        vault.remove_key(made_up.id)?;
    }
    let Some(given) = given else { return Ok(()) };
    add(vault, account, given.secret, given.attestation)
}

fn add(vault: &mut Vault, account: Account, secret: SecretString, attestation: Attestation) -> Result<(), Failure> {
    let attestation = Some(attestation);
    vault.add_key(NewKey { account, label: String::new(), secret, attestation, added_unix_ms: unix_ms_now() })?;
    Ok(())
}

fn real_keys(vault: &Vault) -> Vec<KeyInfo> {
    vault.keys().into_iter().filter(|key| !is_made_up(key)).collect()
}

fn is_made_up(key: &KeyInfo) -> bool {
    key.attestation.text == MADE_UP
}

fn refused(real: &KeyInfo, wanted: &str) -> Failure {
    let detail = format!("its vault holds a real key for {}, and this demo needs {wanted}", real.host);
    Failure::new(ErrorCode::DataDirUnusable, detail)
        .at("--data-dir")
        .fix("give another --data-dir, or none for a temporary one")
}

/// A key in the vendor's form that nobody gave out.
fn made_up(provider: Provider) -> SecretString {
    SecretString::from(match provider {
        Provider::OpenAi => format!("sk-proj-{}", random::url_safe(156)),
        Provider::Azure => random::hex(16),
        Provider::Anthropic => format!("sk-ant-api03-{}AA", random::url_safe(93)),
        Provider::DeepSeek => format!("sk-{}", random::hex(16)),
    })
}

#[cfg(test)]
mod tests {
    use keyhaven_agent::vault::unlock::Unlock;

    use super::*;

    #[test]
    fn every_vendor_has_a_made_up_key_and_a_second_demo_makes_new_ones() {
        let (_dir, mut vault) = vault();

        let first = put_made_up(&mut vault, sample_accounts()).unwrap();
        let second = put_made_up(&mut vault, sample_accounts()).unwrap();

        assert_eq!((first.len(), second.len(), vault.keys().len()), (4, 4, 4));
        for (provider, _) in &second {
            assert!(vault.keys().iter().any(|key| key.provider == *provider));
        }
    }

    #[test]
    fn real_and_made_up_keys_never_meet_and_real_ones_stay() {
        let (_dir, mut vault) = vault();
        put_made_up(&mut vault, sample_accounts()).unwrap();

        put_real(&mut vault, RealVendor::Openai, Some(real())).unwrap();
        assert_eq!(vault.keys().len(), 1);
        assert!(has_real(&vault, RealVendor::Openai) && !has_real(&vault, RealVendor::Deepseek));
        assert!(put_made_up(&mut vault, sample_accounts()).is_err());
        assert!(put_real(&mut vault, RealVendor::Deepseek, Some(real())).is_err());
        put_real(&mut vault, RealVendor::Openai, None).unwrap();
        assert_eq!(vault.keys().len(), 1);
    }

    #[test]
    fn azures_key_is_for_the_mapped_host() {
        for (maps, hosts) in [
            (&["api.openai.com=127.0.0.1:1"][..], &["demo.openai.azure.com"][..]),
            (&["*.openai.azure.com=127.0.0.1:1"], &["demo.openai.azure.com"]),
            (&["*.services.ai.azure.com=127.0.0.1:1"], &["demo.services.ai.azure.com"]),
            (
                &["*.openai.azure.com=127.0.0.1:1", "acme.cognitiveservices.azure.com=127.0.0.1:1"],
                &["acme.cognitiveservices.azure.com"],
            ),
            (
                &["one.openai.azure.com=127.0.0.1:1", "two.openai.azure.com=127.0.0.1:1"],
                &["one.openai.azure.com", "two.openai.azure.com"],
            ),
        ] {
            let routes: Vec<UpstreamRoute> = maps.iter().map(|map| map.parse().unwrap()).collect();

            let accounts = mapped_accounts(&routes);

            let azure = accounts.iter().filter(|account| account.provider() == Provider::Azure);
            assert_eq!(azure.map(|account| account.host().unwrap()).collect::<Vec<_>>(), hosts, "{maps:?}");
            assert_eq!(azure_resource(&accounts).as_deref(), hosts[0].split('.').next());
        }
    }

    fn vault() -> (tempfile::TempDir, Vault) {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::create(dir.path(), &Unlock::KeyFile).unwrap();
        (dir, vault)
    }

    fn real() -> RealKey {
        let attestation = Attestation { text: "mine".to_owned(), at_unix_ms: 1 };
        RealKey { secret: SecretString::from("sk-0123456789"), attestation }
    }
}
