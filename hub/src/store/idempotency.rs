//! Which call a consumer's idempotency key stands for.
//!
//! Invariant: of two calls that enter the same key at the same time, one learns of the other.

use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::id::CallId;

use super::Store;
use super::StoreError;
use super::bytes;
use super::engine::query;
use super::time;

/// An idempotency key of one account: its hash, for it may say something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// Whose.
    pub account: AccountId,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
}

/// What a key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// The call.
    pub call: CallId,
    /// The process that had it.
    pub boot: BootId,
}

impl Store {
    /// Enters what a key stands for, unless it stands for something already: that is told then.
    ///
    /// # Errors
    /// The database's.
    pub async fn enter_idempotency_key(
        &self,
        key: IdempotencyKey,
        entered: Entered,
        now_unix_ms: u64,
    ) -> Result<Option<Entered>, StoreError> {
        let mut tx = self.database.begin().await?;
        let statement =
            "INSERT INTO idempotency (account_id, key_hash, call_id, boot_id, at_unix_ms) VALUES (?, ?, ?, ?, ?)";
        let inserted = query(statement)
            .bind(&key.account.0[..])
            .bind(&key.hash[..])
            .bind(&entered.call.0[..])
            .bind(&entered.boot.0[..])
            .bind(time(now_unix_ms)?)
            .execute(&mut tx)
            .await;
        match inserted {
            Ok(_) => tx.commit().await.map(|()| None),
            Err(StoreError::Exists) => {
                tx.rollback().await?;
                self.entered(key).await
            }
            Err(error) => Err(error),
        }
    }

    /// Lets a key stand for another call, if it still stands for this one.
    ///
    /// # Errors
    /// The database's.
    pub async fn re_enter_idempotency_key(
        &self,
        key: IdempotencyKey,
        before: CallId,
        entered: Entered,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let statement = "UPDATE idempotency SET call_id = ?, boot_id = ?, at_unix_ms = ? \
                         WHERE account_id = ? AND key_hash = ? AND call_id = ?";
        let mut tx = self.database.begin().await?;
        let changed = query(statement)
            .bind(&entered.call.0[..])
            .bind(&entered.boot.0[..])
            .bind(time(now_unix_ms)?)
            .bind(&key.account.0[..])
            .bind(&key.hash[..])
            .bind(&before.0[..])
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(changed == 1)
    }

    /// Forgets the keys that were entered before this time.
    ///
    /// # Errors
    /// The database's.
    pub async fn forget_idempotency_keys(&self, before_unix_ms: u64) -> Result<(), StoreError> {
        let mut tx = self.database.begin().await?;
        let statement = query("DELETE FROM idempotency WHERE at_unix_ms < ?").bind(time(before_unix_ms)?);
        statement.execute(&mut tx).await?;
        tx.commit().await
    }

    async fn entered(&self, key: IdempotencyKey) -> Result<Option<Entered>, StoreError> {
        let row = query("SELECT call_id, boot_id FROM idempotency WHERE account_id = ? AND key_hash = ?")
            .bind(&key.account.0[..])
            .bind(&key.hash[..])
            .fetch_optional(&self.database)
            .await?;
        row.map(|row| {
            let (call, boot) = (CallId(bytes(&row, "call_id")?), BootId(bytes(&row, "boot_id")?));
            Ok(Entered { call, boot })
        })
        .transpose()
    }
}
