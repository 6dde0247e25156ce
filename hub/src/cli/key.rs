//! `key`: consumers' API keys.
//!
//! Invariant: a key is printed once, by the command that makes it.

use clap::Args;
use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::ApiKeyId;
use serde::Serialize;

use super::account;
use super::confirm::Consent;
use super::key_limits::Limits;
use super::text;
use crate::config::Config;
use crate::key_policy::KeyPolicy;
use crate::key_policy::Mode;
use crate::registry::Registry;
use crate::store::api_keys::ApiKey;

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key and print it, this once.
    Create {
        /// What you call it.
        #[arg(long)]
        name: String,
        /// Whose money it spends: an account's name or id.
        #[arg(long, default_value = "default")]
        account: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Change what a key may do; what is not named stays.
    Set {
        /// The key's id, or its name if only one key has it.
        id: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// List all keys, masked.
    List,
    /// Refuse a key from now on, for good.
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// The key's id, or its name if only one key has it.
    id: String,
    #[command(flatten)]
    consent: Consent,
}

pub(super) async fn run(output: Output, config: &Config, command: KeyCommand) -> anyhow::Result<()> {
    let registry = super::open(config).await?;
    let done = match command {
        KeyCommand::Create { name, account, limits } => {
            create(output, config, &registry, &name, &account, &limits).await
        }
        KeyCommand::Set { id, limits } => set(output, &registry, &id, &limits).await,
        KeyCommand::List => list(output, &registry).await,
        KeyCommand::Revoke(args) => revoke(output, &registry, args).await,
    };
    registry.store.close().await;
    done
}

async fn create(
    output: Output,
    config: &Config,
    registry: &Registry,
    name: &str,
    account: &str,
    limits: &Limits,
) -> anyhow::Result<()> {
    let account = account::find(&registry.store, account).await?;
    let policy = limits.change(&KeyPolicy::default(), unix_ms_now())?;
    let made = registry.create_api_key_for(account.id, policy, name, unix_ms_now()).await;
    let (row, key) = made.map_err(super::failure)?;
    let answer = Created {
        api_key_id: row.id,
        name: &row.name,
        account_id: row.account,
        key: key.reveal(),
        masked: &row.masked,
        base_url: config.consumer_url(),
    };
    output.emit("api-key-created", &answer, || answer.to_text())?;
    output.note("keep it now: it is not stored and cannot be shown again");
    Ok(())
}

async fn set(output: Output, registry: &Registry, wanted: &str, limits: &Limits) -> anyhow::Result<()> {
    let key = find(registry, wanted).await?;
    if limits.is_empty() {
        output.note("nothing was named, so nothing was done");
    }
    let policy = limits.change(&key.policy, unix_ms_now())?;
    registry.store.set_key_policy(key.id, &policy).await.map_err(super::failure)?;
    let key = ApiKey { policy, ..key };
    let view = KeyView::of(&key);
    output.emit("api-key", &view, || listed(std::slice::from_ref(&view)))?;
    Ok(())
}

async fn list(output: Output, registry: &Registry) -> anyhow::Result<()> {
    let keys = registry.store.api_keys().await.map_err(super::failure)?;
    let views: Vec<KeyView> = keys.iter().map(KeyView::of).collect();
    output.emit("api-keys", &views, || listed(&views))?;
    Ok(())
}

async fn revoke(output: Output, registry: &Registry, args: RevokeArgs) -> anyhow::Result<()> {
    let key = find(registry, &args.id).await?;
    if key.revoked_unix_ms.is_some() {
        output.note("it was revoked before; nothing was done");
    } else if args.consent.dry_run {
        output.note("would be revoked; nothing was done");
    } else {
        let question = format!("Revoke {} ({}) for good?", key.masked, key.name);
        args.consent.ask(&question)?;
        let revoked = registry.store.revoke_api_key(key.id, unix_ms_now()).await;
        revoked.map_err(super::failure)?;
    }
    let key = find(registry, &key.id.to_string()).await?;
    let view = KeyView::of(&key);
    output.emit("api-key", &view, || format!("{}  {}  {}", view.api_key_id, view.name, view.state))?;
    Ok(())
}

/// By id; by name if that is plain. Revoked keys give their names back.
pub(super) async fn find(registry: &Registry, wanted: &str) -> Result<ApiKey, Failure> {
    let not_found = |detail: String| Failure::new(ErrorCode::ApiKeyNotFound, detail);
    let keys = registry.store.api_keys().await?;
    if let Ok(id) = wanted.parse::<ApiKeyId>() {
        let found = keys.into_iter().find(|key| key.id == id);
        return found.ok_or_else(|| not_found(wanted.to_owned()));
    }
    let mut named = keys.into_iter().filter(|key| key.name == wanted && key.revoked_unix_ms.is_none());
    match (named.next(), named.next()) {
        (Some(key), None) => Ok(key),
        (Some(_), Some(_)) => Err(not_found(format!("several keys are named {wanted:?}"))
            .fix("give the id; `keyhaven-hub key list` prints it")),
        (None, _) => Err(not_found(format!("{wanted:?}"))),
    }
}

#[derive(Serialize)]
struct Created<'a> {
    api_key_id: ApiKeyId,
    name: &'a str,
    account_id: AccountId,
    key: &'a str,
    masked: &'a str,
    base_url: String,
}

impl Created<'_> {
    fn to_text(&self) -> String {
        format!(
            "key       {}\nid        {}\nname      {}\nbase URL  {}/v1",
            self.key, self.api_key_id, self.name, self.base_url
        )
    }
}

#[derive(Serialize)]
struct KeyView<'a> {
    api_key_id: ApiKeyId,
    name: &'a str,
    masked: &'a str,
    state: &'static str,
    account_id: AccountId,
    #[serde(flatten)]
    policy: &'a KeyPolicy,
    created_unix_ms: u64,
    revoked_unix_ms: Option<u64>,
    last_used_unix_ms: Option<u64>,
}

impl<'a> KeyView<'a> {
    fn of(key: &'a ApiKey) -> Self {
        Self {
            api_key_id: key.id,
            name: &key.name,
            masked: &key.masked,
            state: if key.revoked_unix_ms.is_some() { "revoked" } else { "active" },
            account_id: key.account,
            policy: &key.policy,
            created_unix_ms: key.created_unix_ms,
            revoked_unix_ms: key.revoked_unix_ms,
            last_used_unix_ms: key.last_used_unix_ms,
        }
    }
}

fn listed(keys: &[KeyView<'_>]) -> String {
    if keys.is_empty() {
        return "no API keys yet; make one: keyhaven-hub key create --name NAME".to_owned();
    }
    let rows = keys.iter().map(|key| {
        vec![
            key.api_key_id.to_string(),
            key.name.to_owned(),
            key.masked.to_owned(),
            key.state.to_owned(),
            limits_of(key.policy),
            text::time(key.created_unix_ms),
            text::maybe_time(key.last_used_unix_ms),
        ]
    });
    let headers = ["ID", "NAME", "KEY", "STATE", "LIMITS", "CREATED", "LAST USED"];
    table(&headers, rows.collect())
}

fn limits_of(policy: &KeyPolicy) -> String {
    let budgets = [("day", policy.budgets.day), ("month", policy.budgets.month), ("total", policy.budgets.total)];
    let mut limits: Vec<String> =
        budgets.iter().filter_map(|(of, budget)| budget.map(|budget| format!("{budget} {of}"))).collect();
    if policy.mode == Mode::Exact {
        limits.push(policy.mode.name().to_owned());
    }
    limits.extend((!policy.models.is_empty()).then(|| format!("models {}", policy.models.join(" "))));
    limits.extend((!policy.networks.is_empty()).then(|| format!("from {}", text::joined(&policy.networks))));
    limits.extend(policy.expires_unix_ms.map(|end| format!("until {}", text::time(end))));
    if limits.is_empty() { "-".to_owned() } else { limits.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::HubKeys;
    use crate::keys::OfflineFiles;
    use crate::store::accounts::DEFAULT_ACCOUNT;

    #[test]
    fn a_listed_key_is_masked_in_json_and_on_the_screen() {
        let key = ApiKey {
            id: ApiKeyId([1; 16]),
            name: "web".to_owned(),
            account: DEFAULT_ACCOUNT,
            policy: KeyPolicy::default(),
            key_hash: [7; 32],
            masked: "kh_sk_abcd...wxyz".to_owned(),
            created_unix_ms: 1_795_168_800_000,
            revoked_unix_ms: None,
            last_used_unix_ms: None,
        };

        let view = KeyView::of(&key);

        assert_eq!(
            serde_json::to_value(&view).unwrap(),
            serde_json::json!({
                "api_key_id": "ak_01010101010101010101010101010101",
                "name": "web",
                "masked": "kh_sk_abcd...wxyz",
                "state": "active",
                "account_id": "ac_00000000000000000000000000000001",
                "mode": "assist",
                "budgets": {"day": null, "month": null, "total": null},
                "models": [],
                "networks": [],
                "expires_unix_ms": null,
                "created_unix_ms": 1_795_168_800_000_u64,
                "revoked_unix_ms": null,
                "last_used_unix_ms": null,
            })
        );
        let text = listed(&[view]);
        assert!(text.contains("kh_sk_abcd...wxyz"), "{text}");
        assert!(!text.contains("0707"), "{text}");
    }

    #[tokio::test]
    async fn a_key_is_found_by_id_and_by_a_name_that_only_one_live_key_has() {
        let dir = tempfile::tempdir().unwrap();
        HubKeys::init(dir.path(), OfflineFiles::default()).unwrap();
        let registry = Registry::open(dir.path(), None).await.unwrap();
        let (one, _) = registry.create_api_key("web", 1).await.unwrap();
        let (two, _) = registry.create_api_key("web", 2).await.unwrap();

        let ambiguous = find(&registry, "web").await.unwrap_err();
        registry.store.revoke_api_key(one.id, 3).await.unwrap();
        let by_name = find(&registry, "web").await.unwrap();
        let by_id = find(&registry, &one.id.to_string()).await.unwrap();

        assert!(ambiguous.to_string().contains("several"));
        assert_eq!(by_name.id, two.id);
        assert_eq!(by_id.revoked_unix_ms, Some(3));
        assert!(find(&registry, "nobody").await.is_err());
        let unknown = ApiKeyId([9; 16]).to_string();
        assert!(find(&registry, &unknown).await.is_err());
    }
}
