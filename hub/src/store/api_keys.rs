//! API keys of consumers: shown once when they are made, kept as hashes.
//!
//! Invariant: nothing in the database lets a reader make a call.

use std::str::FromStr;

use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::money::NanoUsd;

use super::Store;
use super::StoreError;
use super::bytes;
use super::engine::Row;
use super::engine::Tx;
use super::engine::query;
use super::maybe_number;
use super::number;
use super::time;
use crate::key_policy::Budgets;
use crate::key_policy::KeyPolicy;

/// A key as it is in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// What the operator calls it; need not be unique.
    pub name: String,
    /// Whose money it spends.
    pub account: AccountId,
    /// What it may do.
    pub policy: KeyPolicy,
    /// SHA-256 of the whole key.
    pub key_hash: [u8; 32],
    /// Its first and last characters, for people to tell keys apart.
    pub masked: String,
    /// When it was made.
    pub created_unix_ms: u64,
    /// When it was revoked, if it was.
    pub revoked_unix_ms: Option<u64>,
    /// When it was last used, to within a few seconds.
    pub last_used_unix_ms: Option<u64>,
}

impl Store {
    /// Adds a key.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Exists`].
    pub async fn insert_api_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        let statement = "INSERT INTO api_keys (id, name, key_hash, masked, created_unix_ms, account_id) \
                         VALUES (?, ?, ?, ?, ?, ?)";
        query(statement)
            .bind(&key.id.0[..])
            .bind(&key.name)
            .bind(&key.key_hash[..])
            .bind(&key.masked)
            .bind(time(key.created_unix_ms)?)
            .bind(&key.account.0[..])
            .execute(&mut change)
            .await?;
        write_policy(&mut change, key.id, &key.policy).await?;
        change.commit().await?;
        Ok(())
    }

    /// All keys, the oldest first, the revoked ones included.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        let statement = "SELECT id, name, key_hash, masked, created_unix_ms, revoked_unix_ms, last_used_unix_ms, \
                         account_id, mode, budget_day_nano_usd, budget_month_nano_usd, budget_total_nano_usd, \
                         models, networks, expires_unix_ms FROM api_keys ORDER BY created_unix_ms, id";
        self.read_all(statement, api_key_of).await
    }

    /// Allows a key this from now on, and nothing that was allowed before. False: there is no
    /// such key.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::TimeOutOfRange`].
    pub async fn set_key_policy(&self, id: ApiKeyId, policy: &KeyPolicy) -> Result<bool, StoreError> {
        let mut change = self.change().await?;
        let is_there = write_policy(&mut change, id, policy).await?;
        change.commit().await?;
        Ok(is_there)
    }

    /// Revokes a key for good. False: there is none, or it was revoked already.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::TimeOutOfRange`].
    pub async fn revoke_api_key(&self, id: ApiKeyId, now_unix_ms: u64) -> Result<bool, StoreError> {
        let mut change = self.change().await?;
        let statement = "UPDATE api_keys SET revoked_unix_ms = ? \
                         WHERE id = ? AND revoked_unix_ms IS NULL";
        let done = query(statement).bind(time(now_unix_ms)?).bind(&id.0[..]).execute(&mut change).await?;
        change.commit().await?;
        Ok(done == 1)
    }

    /// Writes down when keys were used last, all of them or none. Decides
    /// nothing, so the revision stays.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::TimeOutOfRange`].
    pub async fn api_keys_used(&self, uses: &[(ApiKeyId, u64)]) -> Result<(), StoreError> {
        let statement = "UPDATE api_keys SET last_used_unix_ms = ? WHERE id = ?";
        let mut together = self.database.begin().await?;
        for (id, used_unix_ms) in uses {
            query(statement).bind(time(*used_unix_ms)?).bind(&id.0[..]).execute(&mut together).await?;
        }
        together.commit().await?;
        Ok(())
    }
}

async fn write_policy(change: &mut Tx, id: ApiKeyId, policy: &KeyPolicy) -> Result<bool, StoreError> {
    let statement = "UPDATE api_keys SET mode = ?, budget_day_nano_usd = ?, budget_month_nano_usd = ?, \
                     budget_total_nano_usd = ?, models = ?, networks = ?, expires_unix_ms = ? WHERE id = ?";
    let networks: Vec<String> = policy.networks.iter().map(ToString::to_string).collect();
    let done = query(statement)
        .bind(policy.mode.name())
        .bind(policy.budgets.day.map(|amount| amount.0))
        .bind(policy.budgets.month.map(|amount| amount.0))
        .bind(policy.budgets.total.map(|amount| amount.0))
        .bind(policy.models.join("\n"))
        .bind(networks.join("\n"))
        .bind(policy.expires_unix_ms.map(time).transpose()?)
        .bind(&id.0[..])
        .execute(change)
        .await?;
    Ok(done == 1)
}

fn api_key_of(row: &Row) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        id: ApiKeyId(bytes(row, "id")?),
        name: row.try_get("name")?,
        account: AccountId(bytes(row, "account_id")?),
        policy: policy_of(row)?,
        key_hash: bytes(row, "key_hash")?,
        masked: row.try_get("masked")?,
        created_unix_ms: number(row, "created_unix_ms")?,
        revoked_unix_ms: maybe_number(row, "revoked_unix_ms")?,
        last_used_unix_ms: maybe_number(row, "last_used_unix_ms")?,
    })
}

fn policy_of(row: &Row) -> Result<KeyPolicy, StoreError> {
    let amount = |column| row.try_get::<Option<i64>>(column).map(|amount| amount.map(NanoUsd));
    Ok(KeyPolicy {
        mode: parsed(row.try_get("mode")?, "mode")?,
        budgets: Budgets {
            day: amount("budget_day_nano_usd")?,
            month: amount("budget_month_nano_usd")?,
            total: amount("budget_total_nano_usd")?,
        },
        models: lines(row.try_get("models")?).map(str::to_owned).collect(),
        networks: lines(row.try_get("networks")?).map(|line| parsed(line, "networks")).collect::<Result<_, _>>()?,
        expires_unix_ms: maybe_number(row, "expires_unix_ms")?,
    })
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').filter(|line| !line.is_empty())
}

fn parsed<T: FromStr>(text: &str, column: &'static str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Damaged { column })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_policy::Mode;
    use crate::on_every_engine;
    use crate::store::Home;
    use crate::store::accounts::DEFAULT_ACCOUNT;

    on_every_engine![
        what_a_key_may_do_is_kept_and_replaced_as_a_whole,
        a_key_is_listed_as_it_was_added_and_revoked_once,
        two_keys_cannot_share_a_hash_but_may_share_a_name,
        a_use_is_written_down_without_raising_the_revision,
        uses_are_written_down_together_or_not_at_all,
    ];

    async fn what_a_key_may_do_is_kept_and_replaced_as_a_whole(home: Home) {
        let store = home.open().await;
        let policy = KeyPolicy {
            mode: Mode::Exact,
            budgets: Budgets { day: Some(NanoUsd(5)), month: None, total: Some(NanoUsd(7)) },
            models: vec!["gpt-4o".to_owned(), "claude-*".to_owned()],
            networks: vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
            expires_unix_ms: Some(9),
        };
        let key = ApiKey { policy: policy.clone(), ..key(1) };
        store.insert_api_key(&key).await.unwrap();
        assert_eq!(store.api_keys().await.unwrap(), std::slice::from_ref(&key));
        let before = store.revision().await.unwrap();

        assert!(store.set_key_policy(key.id, &KeyPolicy::default()).await.unwrap());
        assert!(!store.set_key_policy(ApiKeyId([9; 16]), &policy).await.unwrap());

        assert_eq!(store.api_keys().await.unwrap()[0].policy, KeyPolicy::default());
        assert!(store.revision().await.unwrap() > before);
    }

    async fn a_key_is_listed_as_it_was_added_and_revoked_once(home: Home) {
        let store = home.open().await;
        let key = key(1);
        store.insert_api_key(&key).await.unwrap();
        assert_eq!(store.api_keys().await.unwrap(), std::slice::from_ref(&key));

        assert!(store.revoke_api_key(key.id, 2000).await.unwrap());
        assert!(!store.revoke_api_key(key.id, 3000).await.unwrap());
        assert!(!store.revoke_api_key(ApiKeyId([9; 16]), 3000).await.unwrap());

        let listed = store.api_keys().await.unwrap();
        assert_eq!(listed[0].revoked_unix_ms, Some(2000));
    }

    async fn two_keys_cannot_share_a_hash_but_may_share_a_name(home: Home) {
        let store = home.open().await;
        store.insert_api_key(&key(1)).await.unwrap();
        store.insert_api_key(&key(2)).await.unwrap();

        let same_hash = ApiKey { id: ApiKeyId([3; 16]), ..key(1) };

        let refused = store.insert_api_key(&same_hash).await;
        assert!(matches!(refused, Err(StoreError::Exists)));
    }

    async fn a_use_is_written_down_without_raising_the_revision(home: Home) {
        let store = home.open().await;
        store.insert_api_key(&key(1)).await.unwrap();
        let before = store.revision().await.unwrap();

        store.api_keys_used(&[(key(1).id, 4000)]).await.unwrap();

        let listed = store.api_keys().await.unwrap();
        assert_eq!(listed[0].last_used_unix_ms, Some(4000));
        assert_eq!(store.revision().await.unwrap(), before);
    }

    async fn uses_are_written_down_together_or_not_at_all(home: Home) {
        let store = home.open().await;
        store.insert_api_key(&key(1)).await.unwrap();
        store.insert_api_key(&key(2)).await.unwrap();

        let refused = store.api_keys_used(&[(key(1).id, 4000), (key(2).id, u64::MAX)]).await;

        assert!(matches!(refused, Err(StoreError::TimeOutOfRange)));
        assert_eq!(store.api_keys().await.unwrap()[0].last_used_unix_ms, None);
        store.api_keys_used(&[(key(1).id, 4000), (key(2).id, 5000)]).await.unwrap();
        let used: Vec<_> = store.api_keys().await.unwrap().iter().map(|key| key.last_used_unix_ms).collect();
        assert_eq!(used, [Some(4000), Some(5000)]);
    }

    fn key(n: u8) -> ApiKey {
        ApiKey {
            id: ApiKeyId([n; 16]),
            name: "web".to_owned(),
            account: DEFAULT_ACCOUNT,
            policy: KeyPolicy::default(),
            key_hash: [n; 32],
            masked: "kh_sk_abcd...wxyz".to_owned(),
            created_unix_ms: 1000,
            revoked_unix_ms: None,
            last_used_unix_ms: None,
        }
    }
}
