//! The two kinds of database: embedded SQLite, and servers that speak MySQL's protocol.
//!
//! Invariant: a statement is written once and means the same on both, and no wait for either is
//! without end.

mod migrations;
mod mysql;
mod rows;
mod sqlite;
mod statement;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::MySql;
use sqlx::Sqlite;
use sqlx::SqlitePool;
use sqlx::Transaction;

use super::StoreError;

pub(super) use rows::Rows;
pub(super) use rows::Update;
pub(super) use rows::marks;
pub(super) use statement::Row;
pub(super) use statement::Statement;
pub(super) use statement::Value;
pub(super) use statement::query;

/// The longest that a statement or a commit may take. Reports over all calls have longer.
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(10);

/// The longest that a report over everything may take.
pub(super) const REPORT_TIME_MAX: Duration = Duration::from_secs(300);

/// The longest that anything waits for a connection.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(5);

/// Which kind a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// A file in the data directory.
    Sqlite,
    /// A server: MariaDB or MySQL.
    MySql,
}

/// An open database. Cheap to clone.
#[derive(Clone)]
pub(super) enum Database {
    Sqlite(SqlitePool),
    MySql(mysql::Pool),
}

/// A transaction. Dropped before it is committed, it changes nothing.
pub(crate) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    MySql(mysql::Lent),
}

impl Database {
    /// Opens the file in a data directory, and makes it if it is not there.
    pub(super) async fn open_file(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::Sqlite(sqlite::open(path).await?))
    }

    /// Opens a database on a server. It exists; its tables are made if they do not.
    pub(super) async fn open_server(url: &str) -> Result<Self, StoreError> {
        Ok(Self::MySql(mysql::open(url).await?))
    }

    pub(super) const fn engine(&self) -> Engine {
        match self {
            Self::Sqlite(_) => Engine::Sqlite,
            Self::MySql(_) => Engine::MySql,
        }
    }

    /// Begins a transaction. On SQLite it has the only right to write from here on.
    pub(super) async fn begin(&self) -> Result<Tx, StoreError> {
        let begun: BoxFuture<'_, _> = match self {
            Self::Sqlite(pool) => Box::pin(async { Ok(Tx::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?)) }),
            Self::MySql(pool) => Box::pin(async { Ok(Tx::MySql(pool.begin().await?)) }),
        };
        begun.await
    }

    /// Begins a transaction that reads all of it as it is at one moment, and writes nothing.
    pub(super) async fn snapshot(&self) -> Result<Tx, StoreError> {
        match self {
            Self::Sqlite(pool) => {
                let tx = within(CONNECTION_TIME_MAX * 2, async { Ok(pool.begin().await?) }).await?;
                Ok(Tx::Sqlite(tx))
            }
            Self::MySql(pool) => Ok(Tx::MySql(pool.snapshot().await?)),
        }
    }

    /// Ends all connections; SQLite folds its write-ahead log into the file.
    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::MySql(pool) => pool.close(),
        }
    }
}

impl Tx {
    pub(super) const fn engine(&self) -> Engine {
        match self {
            Self::Sqlite(_) => Engine::Sqlite,
            Self::MySql(_) => Engine::MySql,
        }
    }

    /// Makes all of it durable. After an error it may or may not be.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(transaction) => within(STATEMENT_TIME_MAX, async { Ok(transaction.commit().await?) }).await,
            Self::MySql(lent) => lent.commit().await,
        }
    }

    /// Undoes all of it.
    pub(super) async fn rollback(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(transaction) => within(STATEMENT_TIME_MAX, async { Ok(transaction.rollback().await?) }).await,
            Self::MySql(lent) => lent.rollback().await,
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.engine(), f)
    }
}

/// What this gives, or an error once the time is over.
async fn within<T>(limit: Duration, what: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, what).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::TimedOut { seconds: limit.as_secs() }),
    }
}

/// What MySQL's row has in common with SQLite's is what [`Row`] offers.
type MySqlRow = <MySql as sqlx::Database>::Row;
type SqliteRow = <Sqlite as sqlx::Database>::Row;
