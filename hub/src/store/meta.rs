//! Facts about the database itself, one row each.
//!
//! Invariant: a name has at most one value.

use super::Store;
use super::StoreError;
use super::engine::query;

/// The fleet that this database belongs to.
pub const FLEET: &str = "fleet";

impl Store {
    /// The value of one fact.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn meta(&self, name: &str) -> Result<Option<String>, StoreError> {
        let row = query("SELECT value FROM meta WHERE name = ?").bind(name).fetch_optional(&self.database).await?;
        row.map(|row| row.try_get("value")).transpose()
    }

    /// Sets one fact, whether or not it was known.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn put_meta(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        query("DELETE FROM meta WHERE name = ?").bind(name).execute(&mut change).await?;
        query("INSERT INTO meta (name, value) VALUES (?, ?)").bind(name).bind(value).execute(&mut change).await?;
        change.commit().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::on_every_engine;
    use crate::store::Home;

    on_every_engine![a_fact_is_absent_then_set_then_replaced,];

    async fn a_fact_is_absent_then_set_then_replaced(home: Home) {
        let store = home.open().await;
        assert_eq!(store.meta(FLEET).await.unwrap(), None);

        store.put_meta(FLEET, "one").await.unwrap();
        store.put_meta(FLEET, "two").await.unwrap();

        assert_eq!(store.meta(FLEET).await.unwrap().as_deref(), Some("two"));
        assert_eq!(store.revision().await.unwrap(), 2);
    }
}
