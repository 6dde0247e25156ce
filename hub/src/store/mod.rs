//! The hub's database: every SQL statement, one file per table family.
//!
//! Invariant: whatever changes an agent, a join token or an API key raises the
//! revision in the same transaction, so nobody can miss a change by polling it.

pub mod accounts;
pub mod agents;
pub mod amnesia;
pub mod api_keys;
pub mod attempts;
pub mod calls;
pub mod chains;
pub mod disputes;
mod engine;
pub mod idempotency;
pub mod join_tokens;
pub mod leases;
pub mod ledger;
pub mod meta;
pub mod payouts;
pub mod price_tables;
pub mod reconcile;
pub mod reconcile_chains;
pub mod standing;

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::money::NanoUsd;

use engine::Database;
use engine::Row;
use engine::Tx;
use engine::query;

pub use engine::Engine;
#[cfg(test)]
pub(crate) use engine::testing::Home;
#[cfg(test)]
pub(crate) use engine::testing::MariaDb;

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
    /// The server cannot be reached, or does not let this program in.
    #[error("the database server at {place} does not answer as it should: {source}")]
    Server {
        /// Host and port.
        place: String,
        /// Why.
        #[source]
        source: Box<StoreError>,
    },
    /// The server, or what the configuration says of it, would not do.
    #[error("{detail}")]
    Settings {
        /// What and why; never a password.
        detail: String,
    },
    /// A newer program has made the tables.
    #[error("the tables have step {version}, which this program does not know")]
    Newer {
        /// The newest step.
        version: i64,
    },
    /// The database did not answer in time; what was asked may have been done or not.
    #[error("the database did not answer within {seconds} s")]
    TimedOut {
        /// How long it had.
        seconds: u64,
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
            StoreError::Server { .. } => ErrorCode::DatabaseUnreachable,
            StoreError::Settings { .. } => ErrorCode::DatabaseUnfit,
            StoreError::Newer { .. } => ErrorCode::DatabaseNewer,
            StoreError::Open { .. }
            | StoreError::TimedOut { .. }
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
    database: Database,
}

impl Store {
    /// Opens the database in the data directory, creates it if it is not there
    /// and brings its tables to this version.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Open`], [`StoreError::Newer`] or [`StoreError::Migrate`].
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { database: Database::open_file(&data_dir.join(FILE_NAME)).await? })
    }

    /// Opens a database on a server, `mysql://user:password@host:port/database`, and brings its
    /// tables to this version.
    ///
    /// # Errors
    /// [`StoreError::Server`], [`StoreError::Settings`], [`StoreError::Newer`] or
    /// [`StoreError::Query`]; none of them holds the password.
    pub async fn open_server(url: &str) -> Result<Self, StoreError> {
        Ok(Self { database: Database::open_server(url).await? })
    }

    /// Which kind of database it is.
    pub const fn engine(&self) -> Engine {
        self.database.engine()
    }

    /// Every row of a statement, each read before the next is fetched: as the database keeps
    /// them, ten thousand rows take 13 MB, which the threads that had them never give back.
    async fn read_all<T: Send>(
        &self,
        statement: &'static str,
        read: impl Fn(&Row) -> Result<T, StoreError> + Send + Sync,
    ) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::new();
        query(statement)
            .each(&self.database, |row| {
                all.push(read(&row)?);
                Ok(())
            })
            .await?;
        Ok(all)
    }

    /// The number that every change raises.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn revision(&self) -> Result<u64, StoreError> {
        let row = query("SELECT value FROM revision WHERE id = 1").fetch_one(&self.database).await?;
        number(&row, "value")
    }

    /// Ends all connections; SQLite folds its write-ahead log into the file.
    pub async fn close(&self) {
        self.database.close().await;
    }

    /// Does something as a whole, and again from its beginning where it failed for a reason that
    /// passes: another transaction was in the way, the connection was lost. It may have been done
    /// already then, so it must be the same twice as once.
    ///
    /// # Errors
    /// What the last try gave.
    pub(crate) async fn replay<T, F>(&self, mut what: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        for pause_ms in REPLAY_PAUSES_MS {
            match what().await {
                Err(error) if error.is_passing() => {
                    tracing::debug!(%error, "again, because of: {error}");
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                }
                done => return done,
            }
        }
        what().await
    }

    /// Begins a transaction that raises the revision. Raising it first puts all changes in one
    /// order, so none can decide on a stale read.
    async fn change(&self) -> Result<Tx, StoreError> {
        let mut change = self.database.begin().await?;
        query("UPDATE revision SET value = value + 1 WHERE id = 1").execute(&mut change).await?;
        Ok(change)
    }
}

/// Before each further try: together less than a hold may wait.
const REPLAY_PAUSES_MS: [u64; 4] = [5, 20, 80, 320];

fn time(unix_ms: u64) -> Result<i64, StoreError> {
    i64::try_from(unix_ms).map_err(|_| StoreError::TimeOutOfRange)
}

fn number(row: &Row, column: &'static str) -> Result<u64, StoreError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| StoreError::Damaged { column })
}

fn amount(row: &Row, column: &'static str) -> Result<NanoUsd, StoreError> {
    Ok(NanoUsd(row.try_get(column)?))
}

fn maybe_number(row: &Row, column: &'static str) -> Result<Option<u64>, StoreError> {
    let value: Option<i64> = row.try_get(column)?;
    value.map(u64::try_from).transpose().map_err(|_| StoreError::Damaged { column })
}

fn bytes<const N: usize>(row: &Row, column: &'static str) -> Result<[u8; N], StoreError> {
    let value: Vec<u8> = row.try_get(column)?;
    value.try_into().map_err(|_| StoreError::Damaged { column })
}

fn maybe_bytes<const N: usize>(row: &Row, column: &'static str) -> Result<Option<[u8; N]>, StoreError> {
    let value: Option<Vec<u8>> = row.try_get(column)?;
    value.map(TryInto::try_into).transpose().map_err(|_| StoreError::Damaged { column })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::on_every_engine;

    on_every_engine![
        many_may_open_a_new_database_at_once_and_later_again,
        a_database_of_a_newer_version_is_refused,
        a_transaction_that_is_given_up_leaves_the_revision_alone,
    ];

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
    async fn the_file_is_durable_and_strict() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();

        let pragmas = [
            ("PRAGMA journal_mode", "wal"),
            ("PRAGMA synchronous", "2"),
            ("PRAGMA foreign_keys", "1"),
            ("PRAGMA busy_timeout", "5000"),
        ];
        for (pragma, wanted) in pragmas {
            let row = query(pragma).fetch_one(&store.database).await.unwrap();
            let name = pragma.trim_start_matches("PRAGMA ").replace("busy_", "");
            let shown = row.try_get::<String>(&name).or_else(|_| row.try_get::<i64>(&name).map(|n| n.to_string()));
            assert_eq!(shown.unwrap(), wanted, "{pragma}");
        }
    }

    async fn many_may_open_a_new_database_at_once_and_later_again(home: Home) {
        let opened = futures_util::future::join_all((0..8).map(|_| home.open())).await;

        for store in opened {
            assert_eq!(store.revision().await.unwrap(), 0);
        }
        home.open().await.close().await;
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

    async fn a_database_of_a_newer_version_is_refused(home: Home) {
        let store = home.open().await;
        let statement = match store.engine() {
            Engine::Sqlite => {
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'from the future', 1, x'00', 0)"
            }
            Engine::MySql => {
                "INSERT INTO schema_steps (number, name, hash, statements) \
                 VALUES (9999, 'from the future', REPEAT(x'00', 32), 1)"
            }
        };
        store.raw(statement).await;
        store.close().await;

        let refused = home.try_open().await.unwrap_err();

        assert!(matches!(refused, StoreError::Newer { version: 9999 }), "{refused}");
        assert_eq!(Failure::from(refused).code(), ErrorCode::DatabaseNewer);
    }

    async fn a_transaction_that_is_given_up_leaves_the_revision_alone(home: Home) {
        let store = home.open().await;

        drop(store.change().await.unwrap());

        assert_eq!(store.revision().await.unwrap(), 0);
        store.put_meta("fact", "value").await.unwrap();
    }
}
