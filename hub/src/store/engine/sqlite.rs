//! The embedded database: one file of the owner's.
//!
//! Invariant: what was committed survives the loss of power.

use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use sqlx::SqlSafeStr;
use sqlx::SqlitePool;
use sqlx::migrate::MigrateError;
use sqlx::migrate::Migration;
use sqlx::migrate::MigrationType;
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::sqlite::SqliteJournalMode;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::sqlite::SqliteSynchronous;

use super::CONNECTION_TIME_MAX;
use super::migrations::MIGRATIONS;
use crate::store::StoreError;

/// Between two looks at whether another process has finished its migration.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// SQLite has one writer; a few readers beside it are enough for the hub.
const CONNECTIONS_MAX: u32 = 4;

pub(super) async fn open(path: &Path) -> Result<SqlitePool, StoreError> {
    let _migrating = lock_for_migration(path).await?;
    owner_only(path).map_err(file_error(path))?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Longer than any transaction of ours, shorter than a person's patience.
        .busy_timeout(CONNECTION_TIME_MAX);
    let pool = SqlitePoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(CONNECTION_TIME_MAX)
        .connect_with(options)
        .await
        .map_err(|source| StoreError::Open { path: path.to_path_buf(), source })?;
    match migrator().run(&pool).await {
        Ok(()) => Ok(pool),
        Err(MigrateError::VersionMissing(version)) => Err(StoreError::Newer { version }),
        Err(error) => Err(error.into()),
    }
}

fn migrator() -> Migrator {
    let numbered = (1..).zip(MIGRATIONS).map(|(number, migration)| {
        let statements = migration.sqlite.into_sql_str();
        Migration::new(number, migration.name.into(), MigrationType::Simple, statements, false)
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
            Err(TryLockError::WouldBlock) if begun.elapsed() < CONNECTION_TIME_MAX => {
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
