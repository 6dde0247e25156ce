//! Databases on servers that speak MySQL's protocol: MariaDB and MySQL.
//!
//! Invariant: a connection that did not answer, or was left in the middle of something, is closed
//! and never used again.

mod server;

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use sqlx::ConnectOptions;
use sqlx::Executor;
use sqlx::MySqlConnection;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::mysql::MySqlDatabaseError;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

use super::CONNECTION_TIME_MAX;
use super::STATEMENT_TIME_MAX;
use super::Statement;
use super::statement::Each;
use super::within;
use crate::store::StoreError;

pub(super) use server::open;

/// Connections at once of one process: its writer, a few readers, a few changes.
const CONNECTIONS_MAX: usize = 8;

/// A connection that was not used for so long is not trusted: firewalls forget it silently.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);

/// How every connection begins. What is read in a transaction is what was committed a moment
/// ago, and nothing is cut off or made up to fit a column.
const SESSION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                       SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO', \
                       innodb_lock_wait_timeout = 5, lock_wait_timeout = 30";

/// Connections to one database. Cheap to clone.
#[derive(Clone)]
pub(in crate::store) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    options: MySqlConnectOptions,
    slots: Arc<Semaphore>,
    idle: Mutex<Vec<(Instant, MySqlConnection)>>,
}

/// A connection for a while. It goes back only from its own methods, once all is answered.
pub(crate) struct Lent {
    connection: Option<MySqlConnection>,
    /// It was made for this, so that a failure is no sign of its age.
    is_fresh: bool,
    shared: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
}

impl Pool {
    fn new(options: MySqlConnectOptions) -> Self {
        let (slots, idle) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Mutex::default());
        Self { shared: Arc::new(Shared { options, slots, idle }) }
    }

    pub(super) async fn begin(&self) -> Result<Lent, StoreError> {
        self.begin_with("START TRANSACTION").await
    }

    pub(super) async fn snapshot(&self) -> Result<Lent, StoreError> {
        // Both hold for this transaction only.
        let mut lent = self.begin_with("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
        lent.command("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
        Ok(lent)
    }

    async fn begin_with(&self, sql: &'static str) -> Result<Lent, StoreError> {
        loop {
            let mut lent = self.lend().await?;
            match lent.command(sql).await {
                Ok(()) => return Ok(lent),
                Err(error) if lent.is_fresh || !error.lost_connection() => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Runs a statement that changes nothing; again on a new connection where an old one was dead.
    pub(super) async fn read(&self, statement: &Statement<'_>, each: &mut Each<'_>) -> Result<u64, StoreError> {
        loop {
            let mut lent = self.lend().await?;
            let mut given = false;
            let ran = lent
                .run(statement, &mut |row| {
                    given = true;
                    each(row)
                })
                .await;
            match ran {
                Err(error) if !lent.is_fresh && !given && error.lost_connection() => {}
                ran => {
                    lent.give_back();
                    return ran;
                }
            }
        }
    }

    pub(super) fn close(&self) {
        self.shared.slots.close();
        self.shared.idle().clear();
    }

    async fn lend(&self) -> Result<Lent, StoreError> {
        within(CONNECTION_TIME_MAX, async {
            let slot = self.shared.slots.clone().acquire_owned().await;
            let slot = slot.map_err(|_| StoreError::Query(sqlx::Error::PoolClosed))?;
            let (connection, is_fresh) = match self.shared.take_idle() {
                Some(connection) => (connection, false),
                None => (connect(&self.shared.options).await?, true),
            };
            Ok(Lent { connection: Some(connection), is_fresh, shared: self.shared.clone(), _slot: slot })
        })
        .await
    }
}

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, MySqlConnection)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self) -> Option<MySqlConnection> {
        let mut idle = self.idle();
        idle.retain(|(since, _)| since.elapsed() < IDLE_TIME_MAX);
        Some(idle.pop()?.1)
    }
}

impl Lent {
    pub(super) async fn run(&mut self, statement: &Statement<'_>, each: &mut Each<'_>) -> Result<u64, StoreError> {
        // Taken out: who stops waiting for this drops the connection with it.
        let mut connection = self.connection.take().ok_or(StoreError::Query(sqlx::Error::PoolClosed))?;
        let ran = within(statement.time_max(), statement.run_on_mysql(&mut connection, each)).await;
        if !ran.as_ref().is_err_and(StoreError::breaks_connection) {
            self.connection = Some(connection);
        }
        ran
    }

    pub(super) async fn commit(self) -> Result<(), StoreError> {
        self.last_command("COMMIT").await
    }

    pub(super) async fn rollback(self) -> Result<(), StoreError> {
        self.last_command("ROLLBACK").await
    }

    async fn last_command(mut self, sql: &'static str) -> Result<(), StoreError> {
        self.command(sql).await?;
        self.give_back();
        Ok(())
    }

    async fn command(&mut self, sql: &'static str) -> Result<(), StoreError> {
        let mut connection = self.connection.take().ok_or(StoreError::Query(sqlx::Error::PoolClosed))?;
        within(STATEMENT_TIME_MAX, async { Ok(connection.execute(sql).await?) }).await?;
        self.connection = Some(connection);
        Ok(())
    }

    fn give_back(mut self) {
        if let Some(connection) = self.connection.take()
            && !self.shared.slots.is_closed()
        {
            self.shared.idle().push((Instant::now(), connection));
        }
    }
}

async fn connect(options: &MySqlConnectOptions) -> Result<MySqlConnection, StoreError> {
    within(CONNECTION_TIME_MAX, async {
        let mut connection = options.connect().await?;
        connection.execute(sqlx::raw_sql(SESSION)).await?;
        Ok(connection)
    })
    .await
}

impl StoreError {
    /// What the driver said, if this is about that.
    const fn of_driver(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Query(error) => Some(error),
            Self::File { .. }
            | Self::Open { .. }
            | Self::Server { .. }
            | Self::Settings { .. }
            | Self::Newer { .. }
            | Self::TimedOut { .. }
            | Self::Migrate(_)
            | Self::Exists
            | Self::Damaged { .. }
            | Self::Fenced
            | Self::TimeOutOfRange => None,
        }
    }

    /// The server said that the connection ends, or just ended it.
    fn lost_connection(&self) -> bool {
        let Some(error) = self.of_driver() else { return false };
        let ended = matches!(number_of(error), Some(1053 | 1152..=1161 | 1184 | 1927 | 4031));
        ended || matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_))
    }

    /// Nothing more can be asked on the connection that gave this error: it is lost, or an answer
    /// to it was not read to its end.
    fn breaks_connection(&self) -> bool {
        let is_whole = self.of_driver().is_some_and(|error| error.as_database_error().is_some());
        !(is_whole || matches!(self, Self::Exists)) || self.lost_connection()
    }

    /// It may do better if it is tried again as a whole: another transaction was in the way
    /// (1205, 1213), the cluster was not ready (1047), there were too many connections (1040), or
    /// this one was lost. Who waited until the time was over has no time to wait again.
    pub(in crate::store) fn is_passing(&self) -> bool {
        let number = self.of_driver().and_then(number_of);
        matches!(number, Some(1040 | 1047 | 1205 | 1213)) || self.lost_connection()
    }
}

fn number_of(error: &sqlx::Error) -> Option<u16> {
    Some(error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lent")
    }
}
