//! The hub's price book: a draft to look at, and the tables that were published.
//!
//! Invariant: what is published is signed, and has the next version.

use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::price::PriceTable;
use keyhaven_protocol::price::TableError;

use super::litellm;
use super::signed;
use crate::keys::HubKeys;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::price_tables::Published;

/// So long before new prices are in force they are known: agents get them meanwhile.
pub const LEAD_MS: u64 = 10_000;

/// When new prices are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// After [`LEAD_MS`]; at once where nothing is sold yet; and never later than prices that
    /// were announced before, so that these are not in force for a moment.
    Usual,
    /// At once. Agents take no calls until they have them.
    Now,
}

/// What cannot be done with the price book.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table in the database is not one this hub wrote.
    #[error("the stored table: {0}")]
    Stored(#[from] TableError),
    /// Nothing was imported since the last publication.
    #[error("there is no draft to publish")]
    NoDraft,
    /// No such version.
    #[error("there is no published table {version}")]
    NoVersion {
        /// The version.
        version: u32,
    },
    /// A table without a single model.
    #[error("the file has no price that can be sold")]
    Empty,
    /// The file.
    #[error(transparent)]
    NoTable(#[from] litellm::NoTable),
    /// More versions than can be counted.
    #[error("there are too many versions")]
    TooMany,
}

impl From<BookError> for Failure {
    fn from(error: BookError) -> Self {
        match error {
            BookError::Store(error) => error.into(),
            BookError::Stored(_) | BookError::TooMany => Self::new(ErrorCode::StoreFailed, error.to_string()),
            BookError::NoDraft => {
                Self::new(ErrorCode::UsageInvalid, error.to_string()).fix("import one: keyhaven-hub price import FILE")
            }
            BookError::NoVersion { .. } | BookError::Empty | BookError::NoTable(_) => {
                Self::new(ErrorCode::UsageInvalid, error.to_string())
            }
        }
    }
}

/// The price book of one hub.
pub struct PriceBook<'a> {
    store: &'a Store,
    keys: &'a HubKeys,
}

impl<'a> PriceBook<'a> {
    /// The book in this database, signed with these keys.
    pub fn new(store: &'a Store, keys: &'a HubKeys) -> Self {
        Self { store, keys }
    }

    /// Makes LiteLLM's table the draft. Returns it, and what was left out.
    ///
    /// # Errors
    /// When the file is no such table, has no price, or the database fails.
    pub async fn import(
        &self,
        json: &[u8],
        source: &str,
        now_unix_ms: u64,
    ) -> Result<(PriceTable, Vec<(String, litellm::Skipped)>), BookError> {
        let litellm::Imported { mut models, skipped } = litellm::import(json)?;
        models.retain(|_, models| !models.is_empty());
        if models.is_empty() {
            return Err(BookError::Empty);
        }
        let draft = PriceTable { version: 0, valid_from_unix_ms: 0, source: source.to_owned(), models };
        self.store.put_price_draft(&draft.encode(), now_unix_ms).await?;
        Ok((draft, skipped.into_iter().collect()))
    }

    /// The draft, if there is one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn draft(&self) -> Result<Option<PriceTable>, BookError> {
        let bytes = self.store.price_draft().await?;
        Ok(bytes.map(|bytes| PriceTable::decode(&bytes)).transpose()?)
    }

    /// The published table of this version, or the newest; its signature is checked.
    ///
    /// # Errors
    /// When there is no such version, or the database was changed by somebody else.
    pub async fn published(&self, version: Option<u32>) -> Result<Option<PriceTable>, BookError> {
        let found = self.store.prices(version).await?;
        match (found, version) {
            (None, Some(version)) => Err(BookError::NoVersion { version }),
            (None, None) => Ok(None),
            (Some(found), _) => Ok(Some(signed::table(&found, self.keys.signer())?)),
        }
    }

    /// The table in force: of those whose time has come, the one with the highest version.
    ///
    /// # Errors
    /// When the database fails or was changed by somebody else.
    pub async fn in_force(&self, now_unix_ms: u64) -> Result<Option<PriceTable>, BookError> {
        for version in self.store.price_versions().await? {
            let table = self.published(Some(version)).await?;
            if let Some(table) = table.filter(|table| table.valid_from_unix_ms <= now_unix_ms) {
                return Ok(Some(table));
            }
        }
        Ok(None)
    }

    /// Puts the draft in force.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub async fn publish(&self, begins: Begins, now_unix_ms: u64) -> Result<PriceTable, BookError> {
        let draft = self.draft().await?.ok_or(BookError::NoDraft)?;
        self.put_in_force(draft, begins, now_unix_ms).await
    }

    /// Puts the prices of an earlier version in force again, as a new version: calls that
    /// were sold under the versions between keep theirs.
    ///
    /// # Errors
    /// When there is no such version, or the database fails.
    pub async fn roll_back(&self, version: u32, begins: Begins, now_unix_ms: u64) -> Result<PriceTable, BookError> {
        let earlier = self.published(Some(version)).await?.ok_or(BookError::NoVersion { version })?;
        self.put_in_force(earlier, begins, now_unix_ms).await
    }

    async fn put_in_force(
        &self,
        prices: PriceTable,
        begins: Begins,
        now_unix_ms: u64,
    ) -> Result<PriceTable, BookError> {
        let newest = self.store.prices(None).await?.map_or(0, |newest| newest.version);
        let version = newest.checked_add(1).ok_or(BookError::TooMany)?;
        let valid_from_unix_ms = match begins {
            Begins::Now => now_unix_ms,
            Begins::Usual => self.after_lead(now_unix_ms).await?,
        };
        let table = PriceTable { version, valid_from_unix_ms, ..prices };
        let published = Published {
            version,
            hash: table.hash().0,
            table_bytes: table.encode(),
            signature: table.sign(self.keys.signing_key()),
            published_unix_ms: now_unix_ms,
        };
        self.store.publish_prices(&published).await?;
        Ok(table)
    }

    async fn after_lead(&self, now_unix_ms: u64) -> Result<u64, BookError> {
        let mut begins = now_unix_ms.saturating_add(LEAD_MS);
        for version in self.store.price_versions().await? {
            let Some(announced) = self.published(Some(version)).await? else { continue };
            if announced.valid_from_unix_ms <= now_unix_ms {
                return Ok(begins);
            }
            begins = begins.min(announced.valid_from_unix_ms);
        }
        // Nothing is in force: nobody is served whom the wait would help.
        Ok(now_unix_ms)
    }
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::provider::Provider;

    use super::*;
    use crate::keys::OfflineFiles;

    #[tokio::test]
    async fn a_draft_is_published_once_and_an_earlier_version_comes_back_as_a_new_one() {
        let (dir, store) = house().await;
        let keys = HubKeys::load(dir.path(), None).unwrap();
        let book = PriceBook::new(&store, &keys);
        assert!(matches!(book.publish(Begins::Usual, 1).await, Err(BookError::NoDraft)));

        let (draft, skipped) = book.import(&litellm("1e-06"), "a table", 1).await.unwrap();
        let first = book.publish(Begins::Usual, 10).await.unwrap();
        book.import(&litellm("2e-06"), "a table", 11).await.unwrap();
        let second = book.publish(Begins::Now, 20).await.unwrap();
        let third = book.roll_back(1, Begins::Now, 30).await.unwrap();

        assert_eq!((first.version, second.version, third.version), (1, 2, 3));
        assert_eq!((first.valid_from_unix_ms, third.valid_from_unix_ms), (10, 30));
        assert_eq!((&draft.models, &third.models), (&first.models, &first.models));
        assert_ne!(first.models, second.models);
        assert_eq!(skipped.len(), 1);
        assert_eq!(book.published(None).await.unwrap(), Some(third));
        assert_eq!(book.published(Some(2)).await.unwrap(), Some(second));
        assert!(matches!(book.published(Some(9)).await, Err(BookError::NoVersion { version: 9 })));
        assert!(matches!(book.publish(Begins::Now, 40).await, Err(BookError::NoDraft)), "the draft is gone");
    }

    #[tokio::test]
    async fn agents_have_time_to_get_new_prices_and_what_was_taken_back_is_never_in_force() {
        let (dir, store) = house().await;
        let keys = HubKeys::load(dir.path(), None).unwrap();
        let book = PriceBook::new(&store, &keys);
        let in_force = async |now| book.in_force(now).await.unwrap().map(|table| table.version);
        assert_eq!(in_force(1).await, None);

        book.import(&litellm("1e-06"), "a table", 1).await.unwrap();
        let first = book.publish(Begins::Usual, 100).await.unwrap();
        book.import(&litellm("2e-06"), "a table", 101).await.unwrap();
        let second = book.publish(Begins::Usual, 200).await.unwrap();
        let third = book.roll_back(1, Begins::Usual, 300).await.unwrap();

        assert_eq!(first.valid_from_unix_ms, 100, "nobody was served before");
        assert_eq!(second.valid_from_unix_ms, 200 + LEAD_MS);
        assert_eq!(third.valid_from_unix_ms, second.valid_from_unix_ms);
        assert_eq!(in_force(199 + LEAD_MS).await, Some(1));
        assert_eq!(in_force(200 + LEAD_MS).await, Some(3));
        assert_eq!(book.roll_back(2, Begins::Now, 400).await.unwrap().valid_from_unix_ms, 400);
        assert_eq!(in_force(400).await, Some(4));
        assert_eq!(in_force(9 * LEAD_MS).await, Some(4), "what was announced before it never comes");
    }

    #[tokio::test]
    async fn a_table_that_somebody_changed_in_the_database_is_not_used() {
        let (dir, store) = house().await;
        let keys = HubKeys::load(dir.path(), None).unwrap();
        let forged = PriceTable {
            version: 1,
            valid_from_unix_ms: 1,
            source: "mine".to_owned(),
            models: [(Provider::OpenAi, Default::default())].into(),
        };
        let published = Published {
            version: 1,
            hash: forged.hash().0,
            table_bytes: forged.encode(),
            signature: [7; 64],
            published_unix_ms: 1,
        };
        store.publish_prices(&published).await.unwrap();

        let read = PriceBook::new(&store, &keys).published(None).await;

        assert!(matches!(read, Err(BookError::Stored(TableError::NotSigned))));
    }

    #[tokio::test]
    async fn a_file_without_a_price_leaves_the_draft_alone() {
        let (dir, store) = house().await;
        let keys = HubKeys::load(dir.path(), None).unwrap();
        let book = PriceBook::new(&store, &keys);
        book.import(&litellm("1e-06"), "a table", 1).await.unwrap();

        assert!(matches!(book.import(b"{}", "empty", 2).await, Err(BookError::Empty)));
        assert!(matches!(book.import(b"[]", "none", 2).await, Err(BookError::NoTable(_))));
        assert_eq!(book.draft().await.unwrap().unwrap().source, "a table");
    }

    async fn house() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        HubKeys::init(dir.path(), OfflineFiles::default()).unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        (dir, store)
    }

    fn litellm(price: &str) -> Vec<u8> {
        format!(
            r#"{{"gpt-x":{{"litellm_provider":"openai","mode":"chat","input_cost_per_token":{price}}},
                "sora":{{"litellm_provider":"openai","mode":"video_generation"}}}}"#
        )
        .into_bytes()
    }
}
