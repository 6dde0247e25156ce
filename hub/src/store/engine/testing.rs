//! Databases for tests, of both kinds.
//!
//! Invariant: every test has a database of its own.

#[path = "../../../../tests/src/mariadb.rs"]
#[allow(dead_code, unreachable_pub, reason = "the test kit has it for other crates too")]
mod mariadb;

use tempfile::TempDir;

use super::Tx;
use super::query;

use crate::store::Store;
use crate::store::StoreError;
pub(crate) use mariadb::MariaDb;

/// Runs each of these functions, which take a [`Home`], as a test on either kind of database.
#[macro_export]
macro_rules! on_every_engine {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::store::Home::sqlite()).await;
            })+
        }
        mod on_mysql {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::store::Home::mysql().await).await;
            })+
        }
    };
}

/// The same, on four threads.
#[macro_export]
macro_rules! on_every_engine_threaded {
    ($($test:ident),+ $(,)?) => {
        mod threaded_on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                super::$test($crate::store::Home::sqlite()).await;
            })+
        }
        mod threaded_on_mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                super::$test($crate::store::Home::mysql().await).await;
            })+
        }
    };
}

/// Where a test keeps its database.
#[derive(Debug)]
pub(crate) enum Home {
    Sqlite(TempDir),
    MySql(String),
}

impl Home {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(crate) async fn mysql() -> Self {
        let server = tokio::task::spawn_blocking(MariaDb::shared).await.unwrap().unwrap();
        Self::MySql(server.database().await.unwrap())
    }

    /// An empty one of the same kind.
    pub(crate) async fn another(&self) -> Self {
        match self {
            Self::Sqlite(_) => Self::sqlite(),
            Self::MySql(_) => Self::mysql().await,
        }
    }

    pub(crate) async fn open(&self) -> Store {
        self.try_open().await.unwrap()
    }

    pub(crate) async fn try_open(&self) -> Result<Store, StoreError> {
        match self {
            Self::Sqlite(dir) => Store::open(dir.path()).await,
            Self::MySql(url) => Store::open_server(url).await,
        }
    }
}

impl Store {
    /// Runs a statement that no function of the store is for.
    pub(crate) async fn raw(&self, sql: &'static str) {
        let mut tx = self.database.begin().await.unwrap();
        query(sql).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub(crate) async fn begin_raw(&self) -> Tx {
        self.database.begin().await.unwrap()
    }

    pub(crate) async fn raw_in(&self, tx: &mut Tx, sql: impl Into<std::borrow::Cow<'static, str>>) {
        query(sql).execute(tx).await.unwrap();
    }

    /// Whether a transaction waits for another one on this server.
    pub(crate) async fn waits_for_a_lock(&self) -> bool {
        // The server makes this table anew only if nobody has read it for a tenth of a second.
        tokio::time::sleep(std::time::Duration::from_millis(120)).await;
        let statement = "SELECT COUNT(*) AS found FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'";
        let row = query(statement).fetch_one(&self.database).await.unwrap();
        row.try_get::<i64>("found").unwrap() > 0
    }

    /// Makes every batch fail at its end, as a full or read-only disk does.
    pub(crate) async fn refuse_batches(&self, refuse: bool) {
        self.raw(match refuse {
            true => "ALTER TABLE batches RENAME TO batches_of_a_full_disk",
            false => "ALTER TABLE batches_of_a_full_disk RENAME TO batches",
        })
        .await;
    }
}
