//! Price tables: the draft that a person looks at, and all that were ever published.
//!
//! Invariant: a published version is never changed and never taken back.

use super::Store;
use super::StoreError;
use super::bytes;
use super::engine::Row;
use super::engine::query;
use super::number;
use super::time;

/// A published table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its version.
    pub version: u32,
    /// SHA-256 of its bytes.
    pub hash: [u8; 32],
    /// The one form of the table.
    pub table_bytes: Vec<u8>,
    /// The hub's signature over the hash.
    pub signature: [u8; 64],
    /// When it was published.
    pub published_unix_ms: u64,
}

impl Store {
    /// Keeps a table as the draft, in place of an earlier one.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::TimeOutOfRange`].
    pub async fn put_price_draft(&self, table_bytes: &[u8], now_unix_ms: u64) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        query("DELETE FROM price_draft").execute(&mut change).await?;
        query("INSERT INTO price_draft (id, table_bytes, imported_unix_ms) VALUES (1, ?, ?)")
            .bind(table_bytes)
            .bind(time(now_unix_ms)?)
            .execute(&mut change)
            .await?;
        change.commit().await?;
        Ok(())
    }

    /// The draft, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn price_draft(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let row = query("SELECT table_bytes FROM price_draft").fetch_optional(&self.database).await?;
        row.map(|row| row.try_get("table_bytes")).transpose()
    }

    /// Adds a table to those that were published, and drops the draft. A version that is
    /// there already is [`StoreError::Exists`].
    ///
    /// # Errors
    /// [`StoreError::Query`], [`StoreError::Exists`] or [`StoreError::TimeOutOfRange`].
    pub async fn publish_prices(&self, table: &Published) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        let statement = "INSERT INTO price_tables (version, hash, table_bytes, signature, published_unix_ms) \
                         VALUES (?, ?, ?, ?, ?)";
        query(statement)
            .bind(i64::from(table.version))
            .bind(&table.hash[..])
            .bind(&table.table_bytes)
            .bind(&table.signature[..])
            .bind(time(table.published_unix_ms)?)
            .execute(&mut change)
            .await?;
        query("DELETE FROM price_draft").execute(&mut change).await?;
        change.commit().await?;
        Ok(())
    }

    /// The versions that were published, the newest first.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn price_versions(&self) -> Result<Vec<u32>, StoreError> {
        let rows = query("SELECT version FROM price_tables ORDER BY version DESC").fetch_all(&self.database).await?;
        rows.iter().map(version_of).collect()
    }

    /// The published table of this version, or the newest.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn prices(&self, version: Option<u32>) -> Result<Option<Published>, StoreError> {
        let statement = "SELECT version, hash, table_bytes, signature, published_unix_ms FROM price_tables \
                         WHERE version = COALESCE(?, (SELECT MAX(version) FROM price_tables))";
        let row = query(statement).bind(version.map(i64::from)).fetch_optional(&self.database).await?;
        row.as_ref().map(published_of).transpose()
    }
}

fn published_of(row: &Row) -> Result<Published, StoreError> {
    Ok(Published {
        version: version_of(row)?,
        hash: bytes(row, "hash")?,
        table_bytes: row.try_get("table_bytes")?,
        signature: bytes(row, "signature")?,
        published_unix_ms: number(row, "published_unix_ms")?,
    })
}

fn version_of(row: &Row) -> Result<u32, StoreError> {
    u32::try_from(number(row, "version")?).map_err(|_| StoreError::Damaged { column: "version" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::on_every_engine;
    use crate::store::Home;

    on_every_engine![a_draft_is_replaced_and_gone_once_it_was_published, versions_stay_and_the_newest_is_found,];

    async fn a_draft_is_replaced_and_gone_once_it_was_published(home: Home) {
        let store = home.open().await;
        assert_eq!(store.price_draft().await.unwrap(), None);

        store.put_price_draft(b"one", 1).await.unwrap();
        store.put_price_draft(b"two", 2).await.unwrap();
        assert_eq!(store.price_draft().await.unwrap().as_deref(), Some(&b"two"[..]));
        store.publish_prices(&table(1)).await.unwrap();

        assert_eq!(store.price_draft().await.unwrap(), None);
    }

    async fn versions_stay_and_the_newest_is_found(home: Home) {
        let store = home.open().await;
        assert_eq!(store.prices(None).await.unwrap(), None);
        for version in [1, 3, 2] {
            store.publish_prices(&table(version)).await.unwrap();
        }

        assert_eq!(store.price_versions().await.unwrap(), [3, 2, 1]);
        assert_eq!(store.prices(None).await.unwrap(), Some(table(3)));
        assert_eq!(store.prices(Some(1)).await.unwrap(), Some(table(1)));
        assert_eq!(store.prices(Some(9)).await.unwrap(), None);
        assert!(matches!(store.publish_prices(&table(2)).await, Err(StoreError::Exists)));
    }

    fn table(version: u8) -> Published {
        Published {
            version: version.into(),
            hash: [version; 32],
            table_bytes: vec![version],
            signature: [version; 64],
            published_unix_ms: 5,
        }
    }
}
