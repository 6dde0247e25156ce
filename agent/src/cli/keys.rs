//! `key add|list|test|remove`: the vendor keys in the vault.
//!
//! Invariant: a key enters by prompt or standard input, and leaves masked.

use clap::Args;
use clap::Subcommand;
use keyhaven_daemon::cli::confirm;
use keyhaven_daemon::cli::somebody_answers;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::provider::Provider;
use secrecy::SecretString;
use serde::Serialize;

use crate::cli::Context;
use crate::cli::prompt;
use crate::cli::shown;
use crate::cli::vault_access;
use crate::cli::vault_access::NewVault;
use crate::provider::Egress;
use crate::provider::TestedKey;
use crate::vault::Vault;
use crate::vault::host::Account;
use crate::vault::host::AzureSuffix;
use crate::vault::host::Deployment;
use crate::vault::key::Attestation;
use crate::vault::key::KeyInfo;
use crate::vault::key::NewKey;
use crate::vault::unlock::Backend;

/// What the owner agrees to. It is stored, word for word, with the key.
const ATTESTATION: &str = "This key is mine to use, and serving calls of others with it is within the vendor's terms.";

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Add a key; it is asked for without an echo, or read from standard input.
    Add(AddArguments),
    /// What the vault holds, masked.
    List,
    /// Ask each vendor for its models with the key.
    Test {
        /// One key, by id or label. Without one: all.
        key: Option<String>,
    },
    /// Forget a key.
    Remove {
        /// The key, by id or label.
        key: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// openai, azure, anthropic or deepseek
    provider: Provider,
    /// Azure: the resource, that is the label before the suffix.
    #[arg(long, value_name = "NAME")]
    resource: Option<String>,
    /// Azure: the domain the resource is under. Default: openai.azure.com
    #[arg(long, value_name = "DOMAIN", value_parser = suffix)]
    suffix: Option<AzureSuffix>,
    /// Azure: a deployment that may be called, and the model behind it, whose prices hold; without one the
    /// deployment's name is the model's. May be given several times.
    #[arg(long = "deployment", value_name = "NAME[=MODEL]")]
    deployments: Vec<Deployment>,
    /// A name for your own eyes. Default: the vendor's or the resource's.
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
    /// State that the key is yours to use and within the vendor's terms.
    #[arg(long)]
    attest: bool,
    /// What protects the vault, if there is none yet.
    #[arg(long, value_name = "KIND")]
    vault: Option<NewVault>,
}

pub(crate) async fn run(context: &Context, command: KeyCommand, egress: &Egress) -> anyhow::Result<()> {
    match command {
        KeyCommand::Add(given) => add(context, given),
        KeyCommand::List => list(context),
        KeyCommand::Test { key } => test(context, key.as_deref(), egress).await,
        KeyCommand::Remove { key, yes, dry_run } => remove(context, &key, yes, dry_run),
    }
}

#[derive(Serialize)]
struct OneKey<'a> {
    vault: Backend,
    key: &'a KeyInfo,
}

fn add(context: &Context, given: AddArguments) -> anyhow::Result<()> {
    let account = account(&given)?;
    // Refused before anybody types a key.
    let host = account.host()?;
    let attestation = Some(attest(context, given.attest)?);
    let mut vault = vault_access::open_or_create(context, given.vault)?;
    let secret = ask_for_key(account.provider(), &host)?;
    let key =
        vault.add_key(NewKey { account, label: given.label, secret, attestation, added_unix_ms: unix_ms_now() })?;
    let answer = OneKey { vault: vault.backend(), key: &key };
    context.output.emit("key-added", &answer, || {
        format!(
            "added {} ({}, {}), bound to {}\na running agent offers it within seconds; `keyhaven-agent key test` tries it",
            key.id, key.label, key.masked, key.host
        )
    })?;
    Ok(())
}

fn account(given: &AddArguments) -> Result<Account, Failure> {
    let about_azure = given.resource.is_some() || given.suffix.is_some() || !given.deployments.is_empty();
    let plain = |account| {
        if about_azure {
            return Err(super::usage("--resource, --suffix and --deployment are for azure only"));
        }
        Ok(account)
    };
    match given.provider {
        Provider::OpenAi => plain(Account::OpenAi),
        Provider::Anthropic => plain(Account::Anthropic),
        Provider::DeepSeek => plain(Account::DeepSeek),
        Provider::Azure => Ok(Account::Azure {
            resource: given
                .resource
                .as_ref()
                .ok_or_else(|| super::usage("azure needs --resource NAME"))?
                .to_ascii_lowercase(),
            suffix: given.suffix.unwrap_or_default(),
            deployments: given.deployments.clone(),
        }),
    }
}

fn attest(context: &Context, given: bool) -> anyhow::Result<Attestation> {
    let agreed = if given {
        context.output.note(&format!("attested: {ATTESTATION}"));
        true
    } else {
        somebody_answers() && confirm(&format!("{ATTESTATION}\nDo you confirm this?"))?
    };
    if !agreed {
        return Err(Failure::new(ErrorCode::AttestationMissing, "").into());
    }
    Ok(Attestation { text: ATTESTATION.to_owned(), at_unix_ms: unix_ms_now() })
}

fn ask_for_key(provider: Provider, host: &str) -> anyhow::Result<SecretString> {
    use std::io::IsTerminal as _;
    if std::io::stdin().is_terminal() {
        return Ok(prompt::secret(&format!("{} key for {host}: ", provider.title()))?);
    }
    prompt::stdin_to_end()
        .map_err(|error| Failure::new(ErrorCode::VendorKeyMalformed, error.to_string()).at("standard input").into())
}

#[derive(Serialize)]
struct AllKeys {
    vault: Backend,
    keys: Vec<KeyInfo>,
}

fn list(context: &Context) -> anyhow::Result<()> {
    let vault = existing(context)?;
    let answer = AllKeys { vault: vault.backend(), keys: vault.keys() };
    context.output.emit("keys", &answer, || {
        if answer.keys.is_empty() {
            return "no keys; add one with `keyhaven-agent key add openai`".to_owned();
        }
        let rows = answer
            .keys
            .iter()
            .map(|key| {
                vec![
                    key.id.to_string(),
                    key.label.clone(),
                    key.host.clone(),
                    key.masked.clone(),
                    day(key.added_unix_ms),
                    super::join(key.deployments.iter()),
                ]
            })
            .collect();
        table(&["id", "label", "host", "key", "added", "deployments"], rows)
    })?;
    Ok(())
}

#[derive(Serialize)]
struct Tested {
    id: VendorKeyId,
    provider: Provider,
    host: String,
    /// The vendor accepts the key.
    ok: bool,
    /// `null` where they are not known.
    models: Option<Vec<String>>,
    error: Option<String>,
}

#[derive(Serialize)]
struct AllTested {
    vault: Backend,
    keys: Vec<Tested>,
}

async fn test(context: &Context, named: Option<&str>, egress: &Egress) -> anyhow::Result<()> {
    let vault = existing(context)?;
    let keys = match named {
        Some(name) => vec![find(&vault, name)?],
        None => vault.keys(),
    };
    let mut tested = Vec::new();
    let mut first_error = None;
    for key in keys {
        let result = crate::provider::test_key(egress, &vault, key.id).await;
        let (models, error) = match result {
            Ok(TestedKey::Lists(models)) => (Some(models), None),
            Ok(TestedKey::MayNotList) => (None, None),
            Err(error) => {
                let shown = format!("{error:#}");
                first_error.get_or_insert(error);
                (None, Some(shown))
            }
        };
        tested.push(Tested { id: key.id, provider: key.provider, host: key.host, ok: error.is_none(), models, error });
    }
    let answer = AllTested { vault: vault.backend(), keys: tested };
    context.output.emit("keys-tested", &answer, || tested_text(&answer.keys))?;
    match first_error {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

fn tested_text(keys: &[Tested]) -> String {
    if keys.is_empty() {
        return "no keys to test".to_owned();
    }
    let rows = keys
        .iter()
        .map(|key| {
            vec![
                key.id.to_string(),
                key.host.clone(),
                match (&key.error, &key.models) {
                    (Some(error), _) => error.clone(),
                    (None, Some(models)) => format!("ok, {} models", models.len()),
                    (None, None) => "accepted, but may not list models".to_owned(),
                },
            ]
        })
        .collect();
    table(&["id", "host", "result"], rows)
}

fn remove(context: &Context, name: &str, yes: bool, dry_run: bool) -> anyhow::Result<()> {
    let mut vault = existing(context)?;
    let key = find(&vault, name)?;
    let what = format!("{} ({}, {}, {})", key.id, key.label, key.host, key.masked);
    if dry_run {
        context.output.emit("key-would-be-removed", &OneKey { vault: vault.backend(), key: &key }, || {
            format!("would remove {what}")
        })?;
        return Ok(());
    }
    let agreed = yes || (somebody_answers() && confirm(&format!("Remove {what}?"))?);
    if !agreed {
        return Err(super::usage("nothing was removed").fix("confirm the question, or give --yes").into());
    }
    let removed = vault.remove_key(key.id)?;
    context
        .output
        .emit("key-removed", &OneKey { vault: vault.backend(), key: &removed }, || format!("removed {what}"))?;
    Ok(())
}

fn existing(context: &Context) -> anyhow::Result<Vault> {
    if !Vault::exists(&context.dir) {
        return Err(Failure::new(ErrorCode::NotJoined, "there is no vault here yet")
            .at(shown(&context.dir))
            .fix("run `keyhaven-agent join` or `keyhaven-agent key add`; is --data-dir the right one?")
            .into());
    }
    vault_access::open(context)
}

/// One key by its id, or by its label if no other has the same.
fn find(vault: &Vault, name: &str) -> Result<KeyInfo, Failure> {
    let keys = vault.keys();
    if let Ok(id) = name.parse::<VendorKeyId>()
        && let Some(key) = keys.iter().find(|key| key.id == id)
    {
        return Ok(key.clone());
    }
    let mut labelled = keys.iter().filter(|key| key.label == name);
    match (labelled.next(), labelled.next()) {
        (Some(key), None) => Ok(key.clone()),
        (Some(_), Some(_)) => Err(Failure::new(ErrorCode::VaultKeyUnknown, "several keys have this label")
            .fix("name it by its id; `keyhaven-agent key list` prints the ids")),
        (None, _) => Err(Failure::new(ErrorCode::VaultKeyUnknown, "")),
    }
}

fn suffix(text: &str) -> Result<AzureSuffix, String> {
    AzureSuffix::ALL
        .into_iter()
        .find(|suffix| suffix.domain() == text)
        .ok_or_else(|| format!("one of {}", super::join(AzureSuffix::ALL.iter().map(|suffix| suffix.domain()))))
}

/// The day of a moment, UTC.
fn day(unix_ms: u64) -> String {
    i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map(|moment| moment.strftime("%Y-%m-%d").to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_azure_is_refused_for_others_and_needed_for_azure() {
        assert!(account(&given(Provider::OpenAi, Some("acme"))).is_err());
        assert!(account(&given(Provider::Azure, None)).is_err());
        let azure = account(&given(Provider::Azure, Some("ACME"))).unwrap();
        assert_eq!(azure.host().unwrap(), "acme.openai.azure.com");
    }

    #[test]
    fn a_key_is_found_by_its_id_or_by_a_label_of_its_own() {
        let home = tempfile::tempdir().unwrap();
        let mut vault = Vault::create(home.path(), &crate::vault::unlock::Unlock::KeyFile).unwrap();
        let [one, _, _] = ["one", "two", "two"].map(|label| {
            vault
                .add_key(NewKey {
                    account: Account::OpenAi,
                    label: label.to_owned(),
                    secret: SecretString::from("sk-0123456789"),
                    attestation: Some(Attestation { text: "mine".to_owned(), at_unix_ms: 0 }),
                    added_unix_ms: 0,
                })
                .unwrap()
        });

        assert_eq!(find(&vault, "one").unwrap(), one);
        assert_eq!(find(&vault, &one.id.to_string()).unwrap(), one);
        assert!(find(&vault, "two").is_err());
        assert!(find(&vault, "three").is_err());
    }

    #[test]
    fn a_key_without_the_right_to_list_models_is_told_from_one_that_lists_none() {
        let tested = |models| Tested {
            id: VendorKeyId([1; 16]),
            provider: Provider::OpenAi,
            host: "api.openai.com".to_owned(),
            ok: true,
            models,
            error: None,
        };

        let text = tested_text(&[tested(None), tested(Some(Vec::new()))]);

        assert!(text.contains("accepted, but may not list models") && text.contains("ok, 0 models"), "{text}");
    }

    #[test]
    fn a_moment_is_shown_as_a_day() {
        assert_eq!(day(1_795_000_000_000), "2026-11-18");
    }

    fn given(provider: Provider, resource: Option<&str>) -> AddArguments {
        AddArguments {
            provider,
            resource: resource.map(str::to_owned),
            suffix: None,
            deployments: Vec::new(),
            label: String::new(),
            attest: true,
            vault: None,
        }
    }
}
