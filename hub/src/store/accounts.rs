//! Consumers' accounts and what was paid into them.
//!
//! Invariant: a reference is booked once, whatever is asked for again.

use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::price::Zone;

use super::Store;
use super::StoreError;
use super::amount;
use super::bytes;
use super::engine::Row;
use super::engine::query;
use super::ledger::Batch;
use super::ledger::EntryId;
use super::maybe_number;
use super::number;
use super::time;

/// The account of keys that were made without one; the first tables have it.
pub const DEFAULT_ACCOUNT: AccountId = AccountId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// An account as it is in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// What the operator calls it; unique.
    pub name: String,
    /// What its calls cost.
    pub zone: Zone,
    /// When it was made.
    pub created_unix_ms: u64,
    /// Since when its keys are refused, if they are.
    pub blocked_unix_ms: Option<u64>,
}

/// Money that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deposit {
    /// What tells this payment from all others.
    pub reference: String,
    /// Whose it is.
    pub account: AccountId,
    /// How much.
    pub amount: NanoUsd,
    /// When it was booked.
    pub at_unix_ms: u64,
}

impl Store {
    /// Adds an account. Its name must be new.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Exists`].
    pub async fn insert_account(&self, account: &Account) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        let statement = "INSERT INTO accounts (id, name, zone, created_unix_ms, blocked_unix_ms) \
                         VALUES (?, ?, ?, ?, ?)";
        query(statement)
            .bind(&account.id.0[..])
            .bind(&account.name)
            .bind(account.zone.name())
            .bind(time(account.created_unix_ms)?)
            .bind(account.blocked_unix_ms.map(time).transpose()?)
            .execute(&mut change)
            .await?;
        change.commit().await?;
        Ok(())
    }

    /// All accounts, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        let statement = "SELECT id, name, zone, created_unix_ms, blocked_unix_ms FROM accounts \
                         ORDER BY created_unix_ms, id";
        let rows = query(statement).fetch_all(&self.database).await?;
        rows.iter().map(account_of).collect()
    }

    /// Puts an account into a zone, and blocks it or not. False: there is none.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::TimeOutOfRange`].
    pub async fn set_account(
        &self,
        id: AccountId,
        zone: Zone,
        blocked_unix_ms: Option<u64>,
    ) -> Result<bool, StoreError> {
        let mut change = self.change().await?;
        let done = query("UPDATE accounts SET zone = ?, blocked_unix_ms = ? WHERE id = ?")
            .bind(zone.name())
            .bind(blocked_unix_ms.map(time).transpose()?)
            .bind(&id.0[..])
            .execute(&mut change)
            .await?;
        change.commit().await?;
        Ok(done == 1)
    }

    /// What was paid into an account, the newest last.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn deposits(&self, account: AccountId) -> Result<Vec<Deposit>, StoreError> {
        let statement = "SELECT reference, account_id, nano_usd, at_unix_ms FROM deposits \
                         WHERE account_id = ? ORDER BY at_unix_ms, reference";
        let rows = query(statement).bind(&account.0[..]).fetch_all(&self.database).await?;
        rows.iter().map(deposit_of).collect()
    }
}

impl Batch {
    /// The zone of an account; the standard one of an account that is not there.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn zone_of(&mut self, account: AccountId) -> Result<Zone, StoreError> {
        let row =
            query("SELECT zone FROM accounts WHERE id = ?").bind(account.0).fetch_optional(&mut self.change).await?;
        let Some(row) = row else { return Ok(Zone::Standard) };
        let zone: String = row.try_get("zone")?;
        zone.parse().map_err(|_| StoreError::Damaged { column: "zone" })
    }

    /// Blocks an account, unless it is blocked; whoever follows the revision is told.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::TimeOutOfRange`].
    pub async fn block_account(&mut self, account: AccountId, now_unix_ms: u64) -> Result<(), StoreError> {
        query("UPDATE revision SET value = value + 1 WHERE id = 1").execute(&mut self.change).await?;
        query("UPDATE accounts SET blocked_unix_ms = ? WHERE id = ? AND blocked_unix_ms IS NULL")
            .bind(time(now_unix_ms)?)
            .bind(account.0)
            .execute(&mut self.change)
            .await?;
        Ok(())
    }

    /// The deposit of this reference, if it was booked.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn deposit(&mut self, reference: &str) -> Result<Option<Deposit>, StoreError> {
        let statement = "SELECT reference, account_id, nano_usd, at_unix_ms FROM deposits WHERE reference = ?";
        let row = query(statement).bind(reference).fetch_optional(&mut self.change).await?;
        row.as_ref().map(deposit_of).transpose()
    }

    /// Writes down a deposit whose entry is in this batch.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Exists`].
    pub async fn insert_deposit(&mut self, deposit: &Deposit, entry: EntryId) -> Result<(), StoreError> {
        let statement = "INSERT INTO deposits (reference, account_id, nano_usd, entry_id, at_unix_ms) \
                         VALUES (?, ?, ?, ?, ?)";
        query(statement)
            .bind(&deposit.reference)
            .bind(&deposit.account.0[..])
            .bind(deposit.amount.0)
            .bind(&entry.0[..])
            .bind(time(deposit.at_unix_ms)?)
            .execute(&mut self.change)
            .await?;
        Ok(())
    }
}

fn account_of(row: &Row) -> Result<Account, StoreError> {
    let zone: String = row.try_get("zone")?;
    Ok(Account {
        id: AccountId(bytes(row, "id")?),
        name: row.try_get("name")?,
        zone: zone.parse().map_err(|_| StoreError::Damaged { column: "zone" })?,
        created_unix_ms: number(row, "created_unix_ms")?,
        blocked_unix_ms: maybe_number(row, "blocked_unix_ms")?,
    })
}

fn deposit_of(row: &Row) -> Result<Deposit, StoreError> {
    Ok(Deposit {
        reference: row.try_get("reference")?,
        account: AccountId(bytes(row, "account_id")?),
        amount: amount(row, "nano_usd")?,
        at_unix_ms: number(row, "at_unix_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::on_every_engine;
    use crate::store::Home;

    on_every_engine![
        the_default_account_is_there_from_the_first,
        an_account_is_listed_as_it_was_added_and_as_it_was_set,
    ];

    async fn the_default_account_is_there_from_the_first(home: Home) {
        let store = home.open().await;

        let accounts = store.accounts().await.unwrap();

        assert_eq!(accounts.len(), 1);
        assert_eq!((accounts[0].id, accounts[0].name.as_str()), (DEFAULT_ACCOUNT, "default"));
    }

    async fn an_account_is_listed_as_it_was_added_and_as_it_was_set(home: Home) {
        let store = home.open().await;
        let id = AccountId([5; 16]);
        let account =
            Account { id, name: "acme".to_owned(), zone: Zone::Premium, created_unix_ms: 7, blocked_unix_ms: None };
        store.insert_account(&account).await.unwrap();
        let same_name = Account { id: AccountId([6; 16]), ..account.clone() };
        assert!(matches!(store.insert_account(&same_name).await, Err(StoreError::Exists)));
        assert_eq!(store.accounts().await.unwrap()[1], account);

        assert!(store.set_account(id, Zone::Discount, Some(9)).await.unwrap());
        assert!(!store.set_account(AccountId([6; 16]), Zone::Discount, None).await.unwrap());

        let set = Account { zone: Zone::Discount, blocked_unix_ms: Some(9), ..account };
        assert_eq!(store.accounts().await.unwrap()[1], set);
    }
}
