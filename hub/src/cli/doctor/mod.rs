//! `doctor`: what could keep a hub from serving, row by row, with its fix.
//!
//! Invariant: it changes nothing that `serve` would not change, and makes no hub.

mod report;

use std::net::SocketAddr;
use std::path::Path;

use keyhaven_daemon::cli::Output;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use tokio::net::TcpListener;

use super::admin_client;
use crate::config::Config;
use crate::keys::ARCHIVE_KEY_FILE;
use crate::keys::BACKUP_KEY_FILE;
use crate::keys::HubKeys;
use crate::keys::IDENTITY_FILE;
use crate::keys::ROOT_KEY_FILE;
use crate::keys::SIGNING_KEY_FILE;
use crate::keys::TUNNEL_KEY_FILE;
use crate::registry::Registry;
use crate::store;
use crate::user_gateway::ConsumerTls;
use report::Report;
use report::Row;
use report::Verdict;

pub(super) async fn run(output: Output, config: &Config) -> anyhow::Result<()> {
    let rows = examine(config).await;
    let worst = rows.iter().find(|row| row.result == Verdict::Fail);
    let failed = worst.map(|row| (row.code.unwrap_or(ErrorCode::Internal), row.check));
    let answer = Report::of(rows);
    output.emit("doctor", &answer, || answer.to_text())?;
    match failed {
        None => Ok(()),
        Some((code, check)) => {
            let detail = format!("{} of {} checks failed, first: {check}", answer.fail, answer.rows.len());
            Err(Failure::new(code, detail).fix("do what the failed rows say").into())
        }
    }
}

async fn examine(config: &Config) -> Vec<Row> {
    let dir = config.data_dir();
    let mut rows = vec![data_dir(&dir)];
    rows.extend(file_modes(&dir));
    rows.push(keys(config, &dir));
    rows.push(backup_key(&dir));
    rows.push(root_key(&dir));
    rows.extend(database_and_clock(config, &dir).await);
    rows.push(disk(&dir));
    rows.push(certificate(config));
    rows.push(exposure(config));
    rows.push(invitations(config));
    rows.extend(ports(config).await);
    rows
}

fn data_dir(dir: &Path) -> Row {
    let shown = dir.display();
    match mode_of(dir) {
        Err(error) => Row::fail(
            "data directory",
            ErrorCode::NotInitialised,
            format!("{shown}: {error}"),
            "run `keyhaven-hub init` or `keyhaven-hub serve`".to_owned(),
        ),
        Ok(mode) if mode & 0o077 != 0 => Row::warn(
            "data directory",
            format!("{shown} is open to others (mode {mode:o})"),
            format!("chmod 700 {shown}"),
        ),
        Ok(_) => Row::ok("data directory", format!("{shown}")),
    }
}

/// One row for each file that others may read; none if all is well.
fn file_modes(dir: &Path) -> Vec<Row> {
    let names = [
        TUNNEL_KEY_FILE,
        BACKUP_KEY_FILE,
        SIGNING_KEY_FILE,
        ROOT_KEY_FILE,
        ARCHIVE_KEY_FILE,
        IDENTITY_FILE,
        store::FILE_NAME,
    ];
    let open = names.into_iter().filter_map(|name| {
        let path = dir.join(name);
        let mode = mode_of(&path).ok()?;
        (mode & 0o077 != 0).then(|| {
            Row::fail(
                "file modes",
                ErrorCode::DataDirUnusable,
                format!("{} can be read by others (mode {mode:o})", path.display()),
                format!("chmod 600 {}", path.display()),
            )
        })
    });
    open.collect()
}

fn keys(config: &Config, dir: &Path) -> Row {
    match HubKeys::load(dir, config.tunnel.key_file.as_deref()) {
        Ok(keys) if keys.uses_backup_key() => Row::warn(
            "keys",
            "the backup key is in use, and agents have no other to fall back on".to_owned(),
            "plan new pins for the agents: they trust this key and the lost one only".to_owned(),
        ),
        Ok(keys) => Row::ok("keys", format!("the tunnel key has the pin {}", keys.tunnel_pin())),
        Err(error) => Row::failed("keys", error.fix(), &error.into()),
    }
}

fn backup_key(dir: &Path) -> Row {
    let path = dir.join(BACKUP_KEY_FILE);
    if path.exists() {
        return Row::warn(
            "backup key",
            "it is still in the data directory, where whoever takes the live key takes it too".to_owned(),
            format!("move {} to a place that is not this machine", path.display()),
        );
    }
    Row::ok("backup key", "not in the data directory".to_owned())
}

fn root_key(dir: &Path) -> Row {
    let path = dir.join(ROOT_KEY_FILE);
    if path.exists() {
        return Row::warn(
            "root key",
            "it is still in the data directory, where whoever takes the signing key takes it too".to_owned(),
            format!("move {} to a place that is not this machine", path.display()),
        );
    }
    Row::ok("root key", "not in the data directory".to_owned())
}

async fn database_and_clock(config: &Config, dir: &Path) -> Vec<Row> {
    if config.database.url.is_none() && !dir.join(store::FILE_NAME).exists() {
        let row = Row::ok("database", "not made yet; `serve` makes it".to_owned());
        return vec![row, clock(unix_ms_now(), 0)];
    }
    let opened = Registry::open_with(dir, config.tunnel.key_file.as_deref(), &config.database).await;
    let registry = match opened {
        Ok(registry) => registry,
        Err(error) => {
            return vec![Row::failed("database", error.fix(), &error.into()), clock(unix_ms_now(), 0)];
        }
    };
    let newest = newest_unix_ms(&registry).await;
    registry.store.close().await;
    match newest {
        Ok(newest) => {
            let database = Row::ok("database", "opens and answers".to_owned());
            vec![database, clock(unix_ms_now(), newest)]
        }
        Err(error) => vec![Row::failed("database", None, &error.into())],
    }
}

async fn newest_unix_ms(registry: &Registry) -> Result<u64, store::StoreError> {
    let agents = registry.store.agents().await?;
    let keys = registry.store.api_keys().await?;
    let of_agents = agents.iter().map(|agent| agent.last_seen_unix_ms.unwrap_or(agent.created_unix_ms));
    let of_keys = keys.iter().map(|key| key.last_used_unix_ms.unwrap_or(key.created_unix_ms));
    Ok(of_agents.chain(of_keys).max().unwrap_or(0))
}

/// Nothing asks the network for the time; what was written down before cannot
/// be later than now.
fn clock(now_unix_ms: u64, newest_unix_ms: u64) -> Row {
    const WRITTEN_UNIX_MS: u64 = 1_760_000_000_000;
    const SLACK_MS: u64 = 60_000;
    let shown = super::text::time(now_unix_ms);
    let fix = "set the clock, and let the system keep it (timedatectl set-ntp true)".to_owned();
    if now_unix_ms < WRITTEN_UNIX_MS {
        let told = format!("{shown} is before this program was written");
        return Row::fail("clock", ErrorCode::Internal, told, fix);
    }
    if now_unix_ms.saturating_add(SLACK_MS) < newest_unix_ms {
        let newest = super::text::time(newest_unix_ms);
        return Row::warn("clock", format!("it is {shown}, but the database has {newest}"), fix);
    }
    Row::ok("clock", shown)
}

#[cfg(unix)]
fn disk(dir: &Path) -> Row {
    const FREE_BYTES_MIN: u64 = 100 << 20;
    match rustix::fs::statvfs(dir) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let shown = format!("{} MiB free", free >> 20);
            if free < FREE_BYTES_MIN {
                return Row::warn("disk", shown, "make room where the data directory is".to_owned());
            }
            Row::ok("disk", shown)
        }
        Err(error) => Row::warn("disk", error.to_string(), "check the data directory".to_owned()),
    }
}

#[cfg(not(unix))]
fn disk(_dir: &Path) -> Row {
    Row::ok("disk", "not checked on this system".to_owned())
}

fn certificate(config: &Config) -> Row {
    let consumer = &config.consumer;
    let (Some(chain), Some(key)) = (&consumer.tls_certificate_file, &consumer.tls_key_file) else {
        return Row::ok("certificate", "none: consumers use plain HTTP".to_owned());
    };
    match ConsumerTls::load(chain, key) {
        Ok(_) => Row::ok("certificate", chain.display().to_string()),
        Err(error) => Row::fail(
            "certificate",
            ErrorCode::ConfigInvalid,
            format!("{}: {error}", chain.display()),
            "give PEM files: the chain, the server's certificate first, and the private key to it".to_owned(),
        ),
    }
}

fn exposure(config: &Config) -> Row {
    if !config.admin.listen.ip().is_loopback() {
        return Row::warn(
            "exposure",
            format!("admin.listen is {}, and it asks nobody for a password", config.admin.listen),
            "listen on 127.0.0.1, or let nobody else reach it".to_owned(),
        );
    }
    if !config.consumer.listen.ip().is_loopback() && config.consumer.tls_certificate_file.is_none() {
        return Row::warn(
            "exposure",
            format!("consumers send keys in the clear to {}", config.consumer.listen),
            "set consumer.tls_certificate_file and tls_key_file, or put a TLS proxy in front".to_owned(),
        );
    }
    Row::ok("exposure", "nothing is open without TLS beyond this machine".to_owned())
}

fn invitations(config: &Config) -> Row {
    let address = config.tunnel_address();
    let host_is_local = config.tunnel.public_address.is_none()
        && (config.tunnel.listen.ip().is_loopback() || config.tunnel.listen.ip().is_unspecified());
    if host_is_local {
        return Row::warn(
            "invitations",
            format!("join tokens would say {address}, which no other machine can dial"),
            "set tunnel.public_address once agents are to come from elsewhere".to_owned(),
        );
    }
    Row::ok("invitations", format!("join tokens say {address}"))
}

async fn ports(config: &Config) -> Vec<Row> {
    let running = match admin_client::status(config.admin.listen).await {
        Ok(status) => status.is_some(),
        Err(failure) => return vec![Row::failed("ports", None, &failure)],
    };
    let listeners = [
        ("consumer port", config.consumer.listen),
        ("tunnel port", config.tunnel.listen),
        ("admin port", config.admin.listen),
    ];
    let mut rows = Vec::new();
    for (check, address) in listeners {
        rows.push(port(check, address, running).await);
    }
    rows
}

/// A running hub has its ports, so they must be taken; otherwise they must be free.
async fn port(check: &'static str, address: SocketAddr, running: bool) -> Row {
    match (TcpListener::bind(address).await, running) {
        (Ok(_), false) => Row::ok(check, format!("{address} is free")),
        (Err(_), true) => Row::ok(check, format!("{address} is in use, and the hub runs")),
        (Ok(_), true) => Row::fail(
            check,
            ErrorCode::ListenFailed,
            format!("the hub runs, but not on {address}"),
            "restart it: the configuration changed since it started".to_owned(),
        ),
        (Err(error), false) => Row::fail(
            check,
            ErrorCode::ListenFailed,
            format!("{address}: {error}"),
            ErrorCode::ListenFailed.fix().to_owned(),
        ),
    }
}

#[cfg(unix)]
fn mode_of(path: &Path) -> std::io::Result<u32> {
    use std::os::unix::fs::PermissionsExt;
    Ok(path.metadata()?.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn mode_of(path: &Path) -> std::io::Result<u32> {
    path.metadata().map(|_| 0o600)
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::keys::OfflineFiles;

    #[tokio::test]
    async fn a_new_hub_is_healthy_but_for_the_keys_to_take_away_and_the_loopback_address() {
        let (_dir, config) = hub().await;

        let rows = examine(&config).await;

        assert_eq!(checks(&rows, Verdict::Fail), Vec::<&str>::new(), "{rows:?}");
        let warned = checks(&rows, Verdict::Warn);
        assert_eq!(warned, ["backup key", "root key", "invitations"], "{rows:?}");
        assert!(rows.iter().all(|row| (row.result == Verdict::Ok) == row.fix.is_none()));
    }

    #[tokio::test]
    async fn no_hub_is_a_failure_and_none_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let config = config_in(&dir.path().join("none")).await;

        let rows = examine(&config).await;

        assert_eq!(checks(&rows, Verdict::Fail), ["data directory", "keys"]);
        assert!(!dir.path().join("none").exists());
        let ended = run(Output::new(true), &config).await.unwrap_err();
        let failure = ended.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.code(), ErrorCode::NotInitialised);
    }

    #[tokio::test]
    async fn files_that_others_may_read_are_named_with_their_fix() {
        let (_dir, config) = hub().await;
        let key = config.data_dir().join(SIGNING_KEY_FILE);
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();

        let rows = examine(&config).await;

        let row = rows.iter().find(|row| row.result == Verdict::Fail).unwrap();
        assert_eq!(row.check, "file modes");
        assert_eq!(row.fix, Some(format!("chmod 600 {}", key.display())));
    }

    #[tokio::test]
    async fn a_key_that_no_agent_trusts_fails() {
        let (_dir, config) = hub().await;
        let other = tempfile::tempdir().unwrap();
        HubKeys::init(other.path(), OfflineFiles::default()).unwrap();
        let foreign = other.path().join(TUNNEL_KEY_FILE);
        std::fs::copy(foreign, config.data_dir().join(TUNNEL_KEY_FILE)).unwrap();

        let rows = examine(&config).await;

        let failed = rows.iter().find(|row| row.check == "keys").unwrap();
        assert_eq!(failed.code, Some(ErrorCode::PinMismatch));
    }

    #[tokio::test]
    async fn a_damaged_database_fails() {
        let (_dir, config) = hub().await;
        let text = "no database, whatever its name says\n".repeat(200);
        std::fs::write(config.data_dir().join(store::FILE_NAME), text).unwrap();

        let rows = examine(&config).await;

        assert_eq!(checks(&rows, Verdict::Fail), ["database"], "{rows:?}");
    }

    #[tokio::test]
    async fn a_port_that_another_program_has_fails() {
        let (_dir, mut config) = hub().await;
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        config.tunnel.listen = taken.local_addr().unwrap();

        let rows = examine(&config).await;

        assert_eq!(checks(&rows, Verdict::Fail), ["tunnel port"]);
    }

    #[test]
    fn a_clock_that_went_back_is_noticed() {
        let now = 1_795_168_800_000;

        assert_eq!(clock(now, now).result, Verdict::Ok);
        assert_eq!(clock(now, now + 3_600_000).result, Verdict::Warn);
        assert_eq!(clock(0, 0).result, Verdict::Fail);
    }

    #[test]
    fn what_is_open_beyond_this_machine_is_warned_about() {
        let mut config = Config::default();
        assert_eq!(exposure(&config).result, Verdict::Ok);

        config.consumer.listen = "0.0.0.0:9000".parse().unwrap();
        assert_eq!(exposure(&config).result, Verdict::Warn);
        config.consumer.tls_certificate_file = Some("chain.pem".into());
        config.consumer.tls_key_file = Some("key.pem".into());
        assert_eq!(exposure(&config).result, Verdict::Ok);
        config.admin.listen = "0.0.0.0:9020".parse().unwrap();
        assert_eq!(exposure(&config).result, Verdict::Warn);
    }

    #[test]
    fn a_certificate_that_cannot_be_read_fails() {
        let mut config = Config::default();
        assert_eq!(certificate(&config).result, Verdict::Ok);

        config.consumer.tls_certificate_file = Some("/nowhere/chain.pem".into());
        config.consumer.tls_key_file = Some("/nowhere/key.pem".into());

        assert_eq!(certificate(&config).result, Verdict::Fail);
    }

    #[test]
    fn a_certificate_is_well_with_its_own_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let other = rcgen::KeyPair::generate().unwrap();
        let signed = rcgen::CertificateParams::new(["hub.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("chain.pem"), signed.pem()).unwrap();
        std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(path("other.pem"), other.serialize_pem()).unwrap();
        let mut config = Config::default();
        config.consumer.tls_certificate_file = Some(path("chain.pem"));

        config.consumer.tls_key_file = Some(path("key.pem"));
        assert_eq!(certificate(&config).result, Verdict::Ok);
        config.consumer.tls_key_file = Some(path("other.pem"));
        let row = certificate(&config);

        assert_eq!(row.result, Verdict::Fail, "{row:?}");
    }

    async fn hub() -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("hub");
        let config = config_in(&home).await;
        HubKeys::init(&home, OfflineFiles::default()).unwrap();
        let registry = Registry::open(&home, None).await.unwrap();
        registry.store.close().await;
        (dir, config)
    }

    async fn config_in(dir: &Path) -> Config {
        let mut config = Config { data_dir: Some(dir.to_path_buf()), ..Config::default() };
        config.consumer.listen = free_port().await;
        config.tunnel.listen = free_port().await;
        config.admin.listen = free_port().await;
        config
    }

    async fn free_port() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    fn checks(rows: &[Row], wanted: Verdict) -> Vec<&'static str> {
        let found = rows.iter().filter(|row| row.result == wanted);
        found.map(|row| row.check).collect()
    }
}
