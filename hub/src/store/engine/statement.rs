//! One statement with its values, run on either kind of database.
//!
//! Invariant: values are bound, never written into the text.

use std::borrow::Cow;
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use sqlx::AssertSqlSafe;
use sqlx::Either;
use sqlx::Executor;
use sqlx::MySql;
use sqlx::MySqlConnection;
use sqlx::Row as _;
use sqlx::Sqlite;
use sqlx::SqliteConnection;

use super::CONNECTION_TIME_MAX;
use super::Database;
use super::MySqlRow;
use super::STATEMENT_TIME_MAX;
use super::SqliteRow;
use super::Tx;
use super::within;
use crate::store::StoreError;

/// What columns hold.
#[derive(Debug, Clone)]
pub(in crate::store) enum Value<'q> {
    Null,
    Integer(i64),
    Text(Cow<'q, str>),
    Bytes(Cow<'q, [u8]>),
}

/// A statement and its values.
#[derive(Debug)]
pub(in crate::store) struct Statement<'q> {
    sql: Cow<'static, str>,
    values: Vec<Value<'q>>,
    time_max: Duration,
}

/// A row of either kind of database.
pub(in crate::store) enum Row {
    Sqlite(SqliteRow),
    MySql(MySqlRow),
}

/// Where a statement runs.
pub(in crate::store) enum On<'c> {
    /// By itself.
    Alone(&'c Database),
    /// In a transaction.
    In(&'c mut Tx),
}

/// What is done with each row; an error ends the statement.
pub(super) type Each<'e> = dyn FnMut(Row) -> Result<(), StoreError> + Send + 'e;

/// A statement; its values are bound in the order of its `?`.
pub(in crate::store) fn query<'q>(sql: impl Into<Cow<'static, str>>) -> Statement<'q> {
    Statement { sql: sql.into(), values: Vec::new(), time_max: STATEMENT_TIME_MAX }
}

impl<'q> Statement<'q> {
    pub(in crate::store) fn bind(mut self, value: impl Into<Value<'q>>) -> Self {
        self.values.push(value.into());
        self
    }

    pub(super) fn with(sql: String, values: Vec<Value<'q>>) -> Self {
        Self { values, ..query(sql) }
    }

    /// Adds to the text.
    pub(in crate::store) fn and(mut self, sql: &str) -> Self {
        self.sql.to_mut().push_str(sql);
        self
    }

    /// Lets it take as long as this.
    pub(in crate::store) const fn within(mut self, time_max: Duration) -> Self {
        self.time_max = time_max;
        self
    }

    /// Runs it in a transaction; the number of rows that it found to change.
    pub(in crate::store) async fn execute(self, tx: &mut Tx) -> Result<u64, StoreError> {
        self.run(On::In(tx), &mut |_| Ok(())).await
    }

    pub(in crate::store) async fn fetch_all(self, on: impl Into<On<'_>>) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        self.each(on, |row| {
            rows.push(row);
            Ok(())
        })
        .await?;
        Ok(rows)
    }

    pub(in crate::store) async fn fetch_optional(self, on: impl Into<On<'_>>) -> Result<Option<Row>, StoreError> {
        Ok(self.fetch_all(on).await?.into_iter().next())
    }

    pub(in crate::store) async fn fetch_one(self, on: impl Into<On<'_>>) -> Result<Row, StoreError> {
        self.fetch_optional(on).await?.ok_or(StoreError::Query(sqlx::Error::RowNotFound))
    }

    /// Gives each row away before the next is read.
    pub(in crate::store) async fn each(
        self,
        on: impl Into<On<'_>>,
        mut each: impl FnMut(Row) -> Result<(), StoreError> + Send,
    ) -> Result<(), StoreError> {
        self.run(on.into(), &mut each).await?;
        Ok(())
    }

    /// In a box: the futures of all callers would otherwise hold those of both drivers.
    fn run<'r>(&'r self, on: On<'r>, each: &'r mut Each<'_>) -> BoxFuture<'r, Result<u64, StoreError>> {
        Box::pin(async move {
            match on {
                On::Alone(Database::Sqlite(pool)) => {
                    let mut connection = within(CONNECTION_TIME_MAX * 2, async { Ok(pool.acquire().await?) }).await?;
                    within(self.time_max, self.run_on_sqlite(&mut connection, each)).await
                }
                On::Alone(Database::MySql(pool)) => pool.read(self, each).await,
                On::In(Tx::Sqlite(transaction)) => within(self.time_max, self.run_on_sqlite(transaction, each)).await,
                On::In(Tx::MySql(lent)) => lent.run(self, each).await,
            }
        })
    }

    pub(super) const fn time_max(&self) -> Duration {
        self.time_max
    }

    async fn run_on_sqlite(&self, connection: &mut SqliteConnection, each: &mut Each<'_>) -> Result<u64, StoreError> {
        let mut query = sqlx::query::<Sqlite>(AssertSqlSafe(&*self.sql));
        for value in &self.values {
            query = match value {
                Value::Null => query.bind(None::<i64>),
                Value::Integer(number) => query.bind(number),
                Value::Text(text) => query.bind(&**text),
                Value::Bytes(bytes) => query.bind(&**bytes),
            };
        }
        let mut found = 0;
        let mut stream = connection.fetch_many(query);
        while let Some(next) = stream.try_next().await? {
            match next {
                Either::Left(done) => found += done.rows_affected(),
                Either::Right(row) => each(Row::Sqlite(row))?,
            }
        }
        Ok(found)
    }

    pub(super) async fn run_on_mysql(
        &self,
        connection: &mut MySqlConnection,
        each: &mut Each<'_>,
    ) -> Result<u64, StoreError> {
        let mut query = sqlx::query::<MySql>(AssertSqlSafe(&*self.sql));
        for value in &self.values {
            query = match value {
                Value::Null => query.bind(None::<i64>),
                Value::Integer(number) => query.bind(number),
                Value::Text(text) => query.bind(&**text),
                Value::Bytes(bytes) => query.bind(&**bytes),
            };
        }
        let mut found = 0;
        let mut stream = connection.fetch_many(query);
        while let Some(next) = stream.try_next().await? {
            match next {
                Either::Left(done) => found += done.rows_affected(),
                Either::Right(row) => each(Row::MySql(row))?,
            }
        }
        Ok(found)
    }
}

impl Row {
    pub(in crate::store) fn try_get<'r, T>(&'r self, column: &str) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite> + sqlx::Decode<'r, MySql> + sqlx::Type<MySql>,
    {
        let value = match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::MySql(row) => row.try_get(column),
        };
        Ok(value?)
    }
}

impl<'c> From<&'c Database> for On<'c> {
    fn from(database: &'c Database) -> Self {
        Self::Alone(database)
    }
}

impl<'c> From<&'c mut Tx> for On<'c> {
    fn from(tx: &'c mut Tx) -> Self {
        Self::In(tx)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl<'q> From<&'q str> for Value<'q> {
    fn from(text: &'q str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl<'q> From<&'q String> for Value<'q> {
    fn from(text: &'q String) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<'q> From<&'q [u8]> for Value<'q> {
    fn from(bytes: &'q [u8]) -> Self {
        Self::Bytes(Cow::Borrowed(bytes))
    }
}

impl<'q> From<&'q Vec<u8>> for Value<'q> {
    fn from(bytes: &'q Vec<u8>) -> Self {
        Self::Bytes(Cow::Borrowed(bytes))
    }
}

impl From<[u8; 16]> for Value<'_> {
    fn from(id: [u8; 16]) -> Self {
        Self::Bytes(Cow::Owned(id.to_vec()))
    }
}

impl<'q, T: Into<Value<'q>>> From<Option<T>> for Value<'q> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
