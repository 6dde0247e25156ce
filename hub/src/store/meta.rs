//! Facts about the database itself, one row each.
//!
//! Invariant: a name has at most one value.

use sqlx::Row;

use super::Store;
use super::StoreError;

/// The fleet that this database belongs to.
pub const FLEET: &str = "fleet";

impl Store {
    /// The value of one fact.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn meta(&self, name: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT value FROM meta WHERE name = ?").bind(name).fetch_optional(&self.pool).await?;
        row.map(|row| row.try_get("value").map_err(StoreError::from)).transpose()
    }

    /// Sets one fact, whether or not it was known.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn put_meta(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        sqlx::query("DELETE FROM meta WHERE name = ?").bind(name).execute(&mut *change).await?;
        sqlx::query("INSERT INTO meta (name, value) VALUES (?, ?)")
            .bind(name)
            .bind(value)
            .execute(&mut *change)
            .await?;
        change.commit().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fact_is_absent_then_set_then_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        assert_eq!(store.meta(FLEET).await.unwrap(), None);

        store.put_meta(FLEET, "one").await.unwrap();
        store.put_meta(FLEET, "two").await.unwrap();

        assert_eq!(store.meta(FLEET).await.unwrap().as_deref(), Some("two"));
        assert_eq!(store.revision().await.unwrap(), 2);
    }
}
