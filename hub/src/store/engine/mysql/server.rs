//! What a server must be, and its tables brought to this version.
//!
//! Invariant: a server that could lose what it said was written is refused.

use std::str::FromStr;
use std::time::Duration;

use sha2::Digest;
use sha2::Sha256;
use sqlx::Executor;
use sqlx::MySqlConnection;
use sqlx::Row;
use sqlx::mysql::MySqlConnectOptions;
use tracing::info;
use tracing::warn;

use super::Pool;
use super::connect;
use super::number_of;
use crate::store::StoreError;
use crate::store::engine::migrations::MIGRATIONS;
use crate::store::engine::migrations::Migration;
use crate::store::engine::within;

/// How long a process waits for another one that makes the tables.
const LOCK_TIME_MAX: Duration = Duration::from_secs(60);

/// How long one step of the tables may take: it may copy all of a table.
const STEP_TIME_MAX: Duration = Duration::from_secs(3600);

/// Statements that a connection keeps prepared.
const PREPARED_MAX: usize = 256;

/// The largest batch is about half of this.
const PACKET_BYTES_MIN: u64 = 4 << 20;

const PROGRESS: &str = "CREATE TABLE IF NOT EXISTS schema_steps (number BIGINT NOT NULL PRIMARY KEY, \
                        name VARCHAR(64) NOT NULL, hash BINARY(32) NOT NULL, statements BIGINT NOT NULL) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";

pub(in crate::store::engine) async fn open(url: &str) -> Result<Pool, StoreError> {
    let options = options(url)?;
    let place = format!("{}:{}", options.get_host(), options.get_port());
    let mut connection =
        connect(&options).await.map_err(|error| StoreError::Server { place, source: Box::new(error) })?;
    check(&mut connection).await?;
    migrate(&mut connection).await?;
    Ok(Pool::new(options))
}

/// Whether this names a database on a server; the error does not repeat it, for it may hold a
/// password.
pub(in crate::store::engine) fn options(url: &str) -> Result<MySqlConnectOptions, StoreError> {
    let wanted = || StoreError::Settings {
        detail: "database.url is not of the form mysql://user:password@host:port/database".to_owned(),
    };
    let rest = url.strip_prefix("mysql://").or_else(|| url.strip_prefix("mariadb://")).ok_or_else(wanted)?;
    let options = MySqlConnectOptions::from_str(&format!("mysql://{rest}")).map_err(|_| wanted())?;
    if options.get_database().is_none_or(str::is_empty) {
        return Err(wanted());
    }
    // The session is set up by ourselves.
    let options = options.pipes_as_concat(false).no_engine_substitution(false).timezone(None);
    Ok(options.charset("utf8mb4").collation("utf8mb4_bin").statement_cache_capacity(PREPARED_MAX))
}

/// Refuses a server that would not keep what it is given, or not take it.
async fn check(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    let statement = "SELECT CAST(@@version AS CHAR) AS version, \
                     CAST(@@innodb_flush_log_at_trx_commit AS SIGNED) AS flushes, \
                     CAST(@@log_bin AS SIGNED) AS has_binlog, CAST(@@sync_binlog AS SIGNED) AS syncs_binlog, \
                     CAST(@@read_only AS SIGNED) AS is_read_only, \
                     CAST(@@max_allowed_packet AS SIGNED) AS packet_bytes_max";
    let row = within(super::STATEMENT_TIME_MAX, async { Ok(connection.fetch_one(statement).await?) }).await?;
    let version: String = row.try_get("version")?;
    let number = |column: &str| row.try_get::<i64, _>(column);
    let unfit = |detail: String| Err(StoreError::Settings { detail: format!("the server ({version}) {detail}") });
    if !matches!(number("flushes")?, 1 | 3) {
        return unfit("has innodb_flush_log_at_trx_commit other than 1: a power cut would take money back".to_owned());
    }
    if number("is_read_only")? != 0 {
        return unfit("is read-only: connect to the primary".to_owned());
    }
    let packet = u64::try_from(number("packet_bytes_max")?).unwrap_or(0);
    if packet < PACKET_BYTES_MIN {
        return unfit(format!("has max_allowed_packet {packet}: at least {PACKET_BYTES_MIN} is needed"));
    }
    if number("has_binlog")? != 0 && number("syncs_binlog")? != 1 {
        warn!("the server has sync_binlog other than 1: after a power cut its replicas may have other books");
    }
    info!("the database is on {version}");
    Ok(())
}

/// Brings the tables to this version, while nobody else does.
async fn migrate(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    let waited = within(LOCK_TIME_MAX * 2, async {
        let lock = "SELECT CAST(GET_LOCK(CONCAT('keyhaven ', LEFT(SHA1(DATABASE()), 40)), ?) AS SIGNED) AS is_mine";
        let seconds = i64::try_from(LOCK_TIME_MAX.as_secs()).unwrap_or(i64::MAX);
        let row = connection.fetch_one(sqlx::query(lock).bind(seconds)).await?;
        Ok(row.try_get::<Option<i64>, _>("is_mine")?)
    });
    if waited.await? != Some(1) {
        let detail = "another process has been making the tables for a minute: see what it does".to_owned();
        return Err(StoreError::Settings { detail });
    }
    let migrated = within(STEP_TIME_MAX, steps(connection)).await;
    let release = "DO RELEASE_LOCK(CONCAT('keyhaven ', LEFT(SHA1(DATABASE()), 40)))";
    let released = within(super::STATEMENT_TIME_MAX, async { Ok(connection.execute(release).await?) }).await;
    migrated?;
    released.map(|_| ())
}

async fn steps(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    connection.execute(PROGRESS).await?;
    let rows = connection.fetch_all("SELECT number, hash, statements FROM schema_steps ORDER BY number").await?;
    let newest = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let mut done = Vec::with_capacity(rows.len());
    for row in &rows {
        let number: i64 = row.try_get("number")?;
        if number > newest {
            return Err(StoreError::Newer { version: number });
        }
        done.push((number, row.try_get::<Vec<u8>, _>("hash")?, row.try_get::<i64, _>("statements")?));
    }
    for (number, migration) in (1_i64..).zip(MIGRATIONS) {
        let hash: [u8; 32] = Sha256::digest(migration.mysql).into();
        let before = match done.iter().find(|(at, ..)| *at == number) {
            Some((_, before, _)) if before[..] != hash => {
                return Err(StoreError::Settings {
                    detail: format!("step {number} of its tables was made by another program than this"),
                });
            }
            Some((_, _, statements)) => usize::try_from(*statements).unwrap_or(usize::MAX),
            None => 0,
        };
        step(connection, number, migration, hash, before).await?;
    }
    Ok(())
}

/// Runs what is left of one step. A change of tables is its own transaction here, so each
/// statement is noted once it is done; one that was done and not noted is known by its error.
async fn step(
    connection: &mut MySqlConnection,
    number: i64,
    migration: &Migration,
    hash: [u8; 32],
    before: usize,
) -> Result<(), StoreError> {
    let statements: Vec<&str> = statements_of(migration.mysql).collect();
    for (at, statement) in statements.iter().enumerate().skip(before) {
        match connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(*statement))).await {
            Ok(_) => {}
            Err(error) if at == before && is_done_already(&error) => {}
            Err(error) => return Err(error.into()),
        }
        let note = "INSERT INTO schema_steps (number, name, hash, statements) VALUES (?, ?, ?, ?) \
                    ON DUPLICATE KEY UPDATE statements = VALUES(statements)";
        let count = i64::try_from(at + 1).unwrap_or(i64::MAX);
        let note = sqlx::query(note).bind(number).bind(migration.name).bind(&hash[..]).bind(count);
        connection.execute(note).await?;
    }
    if before < statements.len() {
        info!("the tables have step {number}, {}", migration.name);
    }
    Ok(())
}

/// Each ends with a semicolon at the end of a line.
fn statements_of(file: &str) -> impl Iterator<Item = &str> {
    file.split(";\n").map(str::trim).filter(|statement| {
        statement.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with("--"))
    })
}

/// Table, column, index or row is there.
fn is_done_already(error: &sqlx::Error) -> bool {
    matches!(number_of(error), Some(1050 | 1060 | 1061 | 1062))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Home;
    use crate::store::MariaDb;
    use crate::store::Store;

    /// What docs/OPERATING.md gives the hub's user.
    const GRANTS: &str = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, REFERENCES";

    #[test]
    fn what_is_no_address_of_a_database_is_refused_and_not_repeated() {
        for url in ["", "hunter2", "postgres://a:hunter2@h/b", "mysql://a:hunter2@h:1", "mysql://a:hunter2@h:x/b"] {
            let refused = options(url).unwrap_err();

            assert!(matches!(refused, StoreError::Settings { .. }), "{url}");
            assert!(!format!("{refused} {refused:?}").contains("hunter2"), "{url}");
        }
        let options = options("mariadb://a:b%40c@h:7/d").unwrap();
        assert_eq!((options.get_host(), options.get_port(), options.get_database()), ("h", 7, Some("d")));
    }

    #[tokio::test]
    async fn a_user_with_the_grants_of_the_manual_is_enough_and_a_wrong_password_is_not_told() {
        let server = MariaDb::start().unwrap();
        let url = server.database().await.unwrap();
        let name = url.split(['?', '/']).find(|part| part.starts_with("keyhaven_test")).unwrap();
        let user =
            format!("CREATE USER hub@localhost IDENTIFIED BY 'hunter2'; GRANT {GRANTS} ON {name}.* TO hub@localhost");
        server.execute(user).await.unwrap();
        let as_hub = |password: &str| url.replace("root@", &format!("hub:{password}@"));

        let refused = Store::open_server(&as_hub("hunter3")).await.unwrap_err();
        assert!(matches!(refused, StoreError::Server { .. }), "{refused}");
        assert!(!format!("{refused} {refused:?}").contains("hunter3"), "{refused:?}");
        let store = Store::open_server(&as_hub("hunter2")).await.unwrap();

        store.put_meta("fact", "value").await.unwrap();
        assert!(!format!("{store:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn a_server_that_could_forget_or_takes_nothing_is_refused() {
        let server = MariaDb::start().unwrap();
        let home = Home::MySql(server.database().await.unwrap());
        home.open().await.close().await;
        let rows = [
            ("innodb_flush_log_at_trx_commit = 2", "innodb_flush_log_at_trx_commit = 1", "power cut"),
            ("read_only = 1", "read_only = 0", "read-only"),
            ("max_allowed_packet = 1048576", "max_allowed_packet = 16777216", "max_allowed_packet"),
        ];
        for (wrong, right, told) in rows {
            server.execute(format!("SET GLOBAL {wrong}")).await.unwrap();

            let refused = home.try_open().await.unwrap_err();

            assert!(matches!(refused, StoreError::Settings { .. }) && refused.to_string().contains(told), "{refused}");
            server.execute(format!("SET GLOBAL {right}")).await.unwrap();
        }
        home.open().await;
    }

    #[tokio::test]
    async fn tables_that_were_left_half_made_are_finished() {
        let home = Home::mysql().await;
        let store = home.open().await;
        // One was made and not noted; of another step, nothing was.
        store.raw("UPDATE schema_steps SET statements = statements - 1 WHERE number = 3").await;
        store.raw("DROP TABLE agent_tiers").await;
        store.raw("DROP TABLE tiers").await;
        store.raw("UPDATE schema_steps SET statements = 1 WHERE number = 4").await;
        store.close().await;

        let store = home.open().await;

        assert!(store.tiers().await.unwrap().is_empty() && store.agent_tiers().await.unwrap().is_empty());
        store.raw("UPDATE schema_steps SET hash = REPEAT(x'01', 32) WHERE number = 1").await;
        assert!(matches!(home.try_open().await, Err(StoreError::Settings { .. })));
    }
}
