//! The hub's database: every SQL statement, one file per table family.
//!
//! Invariant: whatever changes an agent, a join token or an API key raises the
//! revision in the same transaction, so nobody can miss a change by polling it.

pub mod accounts;
pub mod agents;
pub mod api_keys;
pub mod calls;
pub mod join_tokens;
pub mod leases;
pub mod ledger;
pub mod meta;
pub mod price_tables;
pub mod standing;

use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use futures_util::TryStreamExt;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::money::NanoUsd;
use sqlx::Row;
use sqlx::SqlSafeStr;
use sqlx::Sqlite;
use sqlx::SqlitePool;
use sqlx::Transaction;
use sqlx::migrate::Migration;
use sqlx::migrate::MigrationType;
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::sqlite::SqliteJournalMode;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::sqlite::SqliteRow;
use sqlx::sqlite::SqliteSynchronous;

/// The database's file in the data directory.
pub const FILE_NAME: &str = "hub.db";

/// What the database did not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be created, locked or read.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no database that this program can open.
    #[error("{path} cannot be opened: {source}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The tables cannot be brought to this version.
    #[error("the tables cannot be brought to this version: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A statement failed.
    #[error("database: {0}")]
    Query(#[source] sqlx::Error),
    /// A name or an id that is already taken.
    #[error("there is already one of that name")]
    Exists,
    /// A value in the database that this program never writes.
    #[error("column {column} holds a value that was never written by this program")]
    Damaged {
        /// Where.
        column: &'static str,
    },
    /// Another process has ended this one's part of the books.
    #[error("this process was taken for dead, and its budgets were given back")]
    Fenced,
    /// A time beyond what the database holds.
    #[error("a time is out of range")]
    TimeOutOfRange,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let taken = error.as_database_error().is_some_and(|inner| inner.is_unique_violation());
        if taken { Self::Exists } else { Self::Query(error) }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::File { .. } => ErrorCode::DataDirUnusable,
            StoreError::Exists => ErrorCode::UsageInvalid,
            StoreError::Open { .. }
            | StoreError::Migrate(_)
            | StoreError::Query(_)
            | StoreError::Damaged { .. }
            | StoreError::Fenced
            | StoreError::TimeOutOfRange => ErrorCode::StoreFailed,
        };
        Self::new(code, error.to_string())
    }
}

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
}

impl Store {
    /// Opens the database in the data directory, creates it if it is not there
    /// and brings its tables to this version.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Open`] or [`StoreError::Migrate`].
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE_NAME);
        let _migrating = lock_for_migration(&path).await?;
        owner_only(&path).map_err(file_error(&path))?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(BUSY_TIMEOUT)
            .connect_with(options)
            .await
            .map_err(|source| StoreError::Open { path: path.clone(), source })?;
        migrator().run(&pool).await?;
        Ok(Self { pool })
    }

    /// Every row of a statement, each read before the next is fetched: as the database keeps
    /// them, ten thousand rows take 13 MB, which the threads that had them never give back.
    async fn read_all<T>(
        &self,
        statement: &'static str,
        read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut rows = sqlx::query(statement).fetch(&self.pool);
        let mut all = Vec::new();
        while let Some(row) = rows.try_next().await? {
            all.push(read(&row)?);
        }
        Ok(all)
    }

    /// The number that every change raises.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn revision(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT value FROM revision WHERE id = 1").fetch_one(&self.pool).await?;
        number(&row, "value")
    }

    /// Ends all connections and folds the write-ahead log into the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Begins a transaction that raises the revision. Raising it first takes
    /// the write lock at once, so a later statement cannot fail on a stale read.
    async fn change(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        let mut change = self.pool.begin().await?;
        sqlx::query("UPDATE revision SET value = value + 1 WHERE id = 1").execute(&mut *change).await?;
        Ok(change)
    }
}

/// Longer than any transaction of ours, shorter than a person's patience.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks at whether another process has finished its migration.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// SQLite has one writer; a few readers beside it are enough for the hub.
const CONNECTIONS_MAX: u32 = 4;

fn migrator() -> Migrator {
    let migrations = [
        ("registry", include_str!("../../../migrations/sqlite/0001_registry.sql")),
        ("prices", include_str!("../../../migrations/sqlite/0002_prices.sql")),
        ("books", include_str!("../../../migrations/sqlite/0003_books.sql")),
        ("zones_tiers", include_str!("../../../migrations/sqlite/0004_zones_tiers.sql")),
    ];
    let numbered = (1..).zip(migrations).map(|(number, (name, statements))| {
        Migration::new(number, name.into(), MigrationType::Simple, statements.into_sql_str(), false)
    });
    Migrator::with_migrations(numbered.collect())
}

/// Two processes that open a new database at the same moment (`serve` and
/// `agent invite`) would both create its tables; the lock lets one go first.
async fn lock_for_migration(database: &Path) -> Result<File, StoreError> {
    let path = database.with_extension("db.migrating");
    let file = owner_only(&path).map_err(file_error(&path))?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < BUSY_TIMEOUT => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            Err(held) => return Err(file_error(&path)(held.into())),
        }
    }
}

/// SQLite gives its side files the mode of the main one, so only that one has
/// to exist before SQLite would create it for everybody to read.
fn owner_only(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_path_buf();
    |source| StoreError::File { path, source }
}

fn time(unix_ms: u64) -> Result<i64, StoreError> {
    i64::try_from(unix_ms).map_err(|_| StoreError::TimeOutOfRange)
}

fn number(row: &SqliteRow, column: &'static str) -> Result<u64, StoreError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| StoreError::Damaged { column })
}

fn amount(row: &SqliteRow, column: &'static str) -> Result<NanoUsd, StoreError> {
    Ok(NanoUsd(row.try_get(column)?))
}

fn maybe_number(row: &SqliteRow, column: &'static str) -> Result<Option<u64>, StoreError> {
    let value: Option<i64> = row.try_get(column)?;
    value.map(u64::try_from).transpose().map_err(|_| StoreError::Damaged { column })
}

fn bytes<const N: usize>(row: &SqliteRow, column: &'static str) -> Result<[u8; N], StoreError> {
    let value: Vec<u8> = row.try_get(column)?;
    value.try_into().map_err(|_| StoreError::Damaged { column })
}

fn maybe_bytes<const N: usize>(row: &SqliteRow, column: &'static str) -> Result<Option<[u8; N]>, StoreError> {
    let value: Option<Vec<u8>> = row.try_get(column)?;
    value.map(TryInto::try_into).transpose().map_err(|_| StoreError::Damaged { column })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn the_database_and_its_side_files_are_for_the_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        store.put_meta("fact", "value").await.unwrap();

        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();

        assert!(names.iter().any(|path| path.ends_with("hub.db-wal")));
        for path in names {
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{path:?}");
        }
    }

    #[tokio::test]
    async fn the_database_is_durable_and_strict() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();

        let pragmas = [
            ("PRAGMA journal_mode", "wal"),
            ("PRAGMA synchronous", "2"),
            ("PRAGMA foreign_keys", "1"),
            ("PRAGMA busy_timeout", "5000"),
        ];
        for (pragma, wanted) in pragmas {
            let row = sqlx::query(pragma).fetch_one(&store.pool).await.unwrap();
            let shown = row.try_get::<String, _>(0).or_else(|_| row.try_get::<i64, _>(0).map(|n| n.to_string()));
            assert_eq!(shown.unwrap(), wanted, "{pragma}");
        }
    }

    #[tokio::test]
    async fn many_may_open_a_new_database_at_once_and_later_again() {
        let dir = tempfile::tempdir().unwrap();

        let opened = futures_util::future::join_all((0..8).map(|_| Store::open(dir.path()))).await;

        for store in opened {
            assert_eq!(store.unwrap().revision().await.unwrap(), 0);
        }
        Store::open(dir.path()).await.unwrap().close().await;
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let text = "this is not a database, whatever its name says\n".repeat(100);
        std::fs::write(&path, &text).unwrap();

        let refused = Store::open(dir.path()).await;

        assert!(matches!(refused, Err(StoreError::Open { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    #[tokio::test]
    async fn a_database_of_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let statement = "INSERT INTO _sqlx_migrations \
                         (version, description, success, checksum, execution_time) \
                         VALUES (9999, 'from the future', 1, x'00', 0)";
        sqlx::query(statement).execute(&store.pool).await.unwrap();
        store.close().await;

        let refused = Store::open(dir.path()).await;

        assert!(matches!(refused, Err(StoreError::Migrate(_))));
    }

    #[tokio::test]
    async fn a_transaction_that_is_given_up_leaves_the_revision_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();

        drop(store.change().await.unwrap());

        assert_eq!(store.revision().await.unwrap(), 0);
    }
}
