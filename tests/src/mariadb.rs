//! A private MariaDB for tests: started once for a test process, with a database for each test.
//!
//! Invariant: a server that was started here ends with the process that started it, however that
//! ends, and leaves nothing behind.

use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use sqlx::AssertSqlSafe;
use sqlx::ConnectOptions;
use sqlx::Connection;
use sqlx::Executor;
use sqlx::mysql::MySqlConnectOptions;

/// Names a server to use instead: `mysql://user:password@host:port/`, whose user may make
/// databases. Those that begin with `keyhaven_test_` and are a day old are dropped there.
const GIVEN: &str = "KEYHAVEN_TEST_MYSQL_URL";

/// A server takes less than a second on an idle machine.
const START_TIME_MAX: Duration = Duration::from_secs(60);

const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Ends the server and removes its files once its standard input ends, which it does with the
/// process that holds the other end.
const KEEPER: &str = r#"dir=$1; shift; "$@" >"$dir/log" 2>&1 & server=$!; echo "$server" >"$dir/started"
read -r what; kill -9 "$server"; wait "$server" 2>/dev/null; [ "$what" = stay ] || rm -rf "$dir""#;

/// A server.
#[derive(Debug)]
pub struct MariaDb {
    url: String,
    private: Option<Private>,
    databases: AtomicU32,
}

#[derive(Debug)]
struct Private {
    dir: PathBuf,
    keeper: Mutex<Option<Child>>,
}

impl MariaDb {
    /// The server of this test process: the given one, or one that is started at the first call.
    ///
    /// # Errors
    /// When there is none; the message names the fix.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<MariaDb, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| {
            let given = std::env::var(GIVEN).ok().filter(|url| !url.is_empty());
            let server = given.map_or_else(Self::start, |url| Ok(Self::new(url, None)));
            server.map_err(|error| format!("{error:#}"))
        });
        shared.as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// Starts a server in memory, where a flush costs nothing; a killed process loses nothing there.
    ///
    /// # Errors
    /// When MariaDB is not installed or does not start.
    pub fn start() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let is_ours = tempfile::tempdir_in(memory).is_ok();
        Self::start_in(if is_ours { memory.to_path_buf() } else { std::env::temp_dir() }.as_path())
    }

    /// Starts a server on the disk that this directory is on.
    ///
    /// # Errors
    /// When MariaDB is not installed or does not start.
    pub fn start_in(parent: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("keyhaven-mariadb-").tempdir_in(parent)?.keep();
        let user = user_for(&dir)?;
        let installed = installer(&dir, user).output();
        let installed = installed.map_err(|error| missing("mariadb-install-db", &error))?;
        if !installed.status.success() {
            bail!("mariadb-install-db failed: {}", String::from_utf8_lossy(&installed.stderr));
        }
        let socket = dir.join("socket").display().to_string().replace('/', "%2F");
        let url = format!("mysql://root@localhost/?socket={socket}");
        let server = Self::new(url, Some(Private { dir, keeper: Mutex::new(None) }));
        server.run()?;
        Ok(server)
    }

    fn new(url: String, private: Option<Private>) -> Self {
        Self { url, private, databases: AtomicU32::new(0) }
    }

    /// Makes an empty database and gives its URL.
    ///
    /// # Errors
    /// When the server does not make it.
    pub async fn database(&self) -> Result<String> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("keyhaven_test_{}_{number}", std::process::id());
        let mut admin = self.options()?.connect().await.context("connect to the test server")?;
        if number == 0 && self.private.is_none() {
            drop_old(&mut admin).await?;
        }
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
        admin.close().await?;
        self.url_of(&name)
    }

    /// Runs a statement as the server's administrator.
    ///
    /// # Errors
    /// The server's.
    pub async fn execute(&self, statement: String) -> Result<()> {
        let mut admin = self.options()?.connect().await.context("connect to the test server")?;
        admin.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await?;
        Ok(())
    }

    /// The URL of one of its databases.
    ///
    /// # Errors
    /// When what was given is no URL of a server.
    pub fn url_of(&self, database: &str) -> Result<String> {
        let (before, after) = self.url.split_once("://").with_context(|| format!("{GIVEN} is no URL"))?;
        let (authority, rest) = after.split_once('/').unwrap_or((after, ""));
        let options = rest.split_once('?').map(|(_, options)| format!("?{options}")).unwrap_or_default();
        Ok(format!("{before}://{authority}/{database}{options}"))
    }

    /// The process of a server that was started here.
    pub fn pid(&self) -> Option<u32> {
        u32::try_from(self.private.as_ref()?.pid().ok()?.as_raw_nonzero().get()).ok()
    }

    /// The socket of a server that was started here.
    pub fn socket(&self) -> Option<PathBuf> {
        Some(self.private.as_ref()?.dir.join("socket"))
    }

    fn options(&self) -> Result<MySqlConnectOptions> {
        self.url.parse().with_context(|| format!("{GIVEN} is no URL of a server"))
    }

    /// Ends a server that was started here, as a power cut would.
    ///
    /// # Errors
    /// When it was not started here.
    pub fn kill(&self) -> Result<()> {
        let private = self.private()?;
        kill_process(private.pid()?, Signal::KILL)?;
        let Some(mut keeper) = private.keeper().take() else { return Ok(()) };
        // Its files are needed again.
        std::io::Write::write_all(&mut keeper.stdin.take().context("the keeper has a pipe")?, b"stay\n")?;
        keeper.wait()?;
        Ok(())
    }

    /// Stops a server that was started here from answering, or lets it go on.
    ///
    /// # Errors
    /// When it was not started here.
    pub fn pause(&self, is_paused: bool) -> Result<()> {
        let signal = if is_paused { Signal::STOP } else { Signal::CONT };
        Ok(kill_process(self.private()?.pid()?, signal)?)
    }

    /// Starts the server again after [`MariaDb::kill`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn run(&self) -> Result<()> {
        let private = self.private()?;
        let _ = std::fs::remove_file(private.dir.join("socket"));
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&private.dir).args(server(&private.dir)?);
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let keeper = keeper.spawn().context("start a shell")?;
        *private.keeper() = Some(keeper);
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(private.dir.join("socket")).is_err() {
            if began.elapsed() > START_TIME_MAX {
                let log = std::fs::read_to_string(private.dir.join("log")).unwrap_or_default();
                bail!("MariaDB does not start: {log}");
            }
            std::thread::park_timeout(LOOK_AGAIN);
        }
        Ok(())
    }

    fn private(&self) -> Result<&Private> {
        self.private.as_ref().context("only a server that was started here can be ended")
    }
}

impl Private {
    fn keeper(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pid(&self) -> Result<Pid> {
        let text = std::fs::read_to_string(self.dir.join("started"))?;
        Pid::from_raw(text.trim().parse()?).context("a process has an id")
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper().take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

async fn drop_old(admin: &mut sqlx::MySqlConnection) -> Result<()> {
    let statement = "SELECT table_schema FROM information_schema.tables WHERE table_schema LIKE 'keyhaven\\_test\\_%' \
                     GROUP BY table_schema HAVING MAX(create_time) < NOW() - INTERVAL 1 DAY";
    for row in admin.fetch_all(statement).await? {
        let name: String = sqlx::Row::try_get(&row, 0)?;
        admin.execute(AssertSqlSafe(format!("DROP DATABASE {name}"))).await?;
    }
    Ok(())
}

fn installer(dir: &Path, user: Option<&str>) -> Command {
    let mut command = Command::new("mariadb-install-db");
    command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    command.arg("--innodb-log-file-size=16M").arg(format!("--datadir={}", dir.join("data").display()));
    command.args(user.map(|user| format!("--user={user}")));
    command
}

/// Everything that was said to be written survives; what only saves memory or time is off.
fn server(dir: &Path) -> Result<Vec<String>> {
    let places = ["/usr/sbin/mariadbd", "/usr/libexec/mariadbd", "/usr/local/bin/mariadbd"];
    let program = places.into_iter().find(|path| Path::new(path).exists());
    let program = program.ok_or_else(|| missing("mariadbd", &std::io::ErrorKind::NotFound.into()))?;
    let mut words = vec![program.to_owned(), "--no-defaults".to_owned()];
    for (name, value) in [("datadir", "data"), ("socket", "socket"), ("pid-file", "pid")] {
        words.push(format!("--{name}={}", dir.join(value).display()));
    }
    let settings = [
        "--skip-networking",
        "--skip-log-bin",
        "--performance-schema=OFF",
        "--max-connections=500",
        "--innodb-log-file-size=256M",
        "--innodb-buffer-pool-size=256M",
        "--innodb-flush-log-at-trx-commit=1",
    ];
    words.extend(settings.map(str::to_owned));
    words.extend(user_for(dir)?.map(|user| format!("--user={user}")));
    Ok(words)
}

/// MariaDB does not run as root: then it runs as a user that may not do anything else, and the
/// directory is given to that user.
fn user_for(dir: &Path) -> Result<Option<&'static str>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    for user in ["mysql", "nobody"] {
        let line = users.lines().find(|line| line.split(':').next() == Some(user));
        if let Some(id) = line.and_then(|line| line.split(':').nth(2)) {
            std::os::unix::fs::chown(dir, Some(id.parse()?), None)?;
            return Ok(Some(user));
        }
    }
    bail!("there is neither a user mysql nor a user nobody")
}

fn missing(program: &str, error: &std::io::Error) -> anyhow::Error {
    anyhow!("{program}: {error}: run tests/install.sh, or set {GIVEN} to mysql://user:password@host:port/")
}
