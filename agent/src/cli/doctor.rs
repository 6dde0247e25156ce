//! `doctor`: one row per thing that can be wrong, each with its fix.
//!
//! Invariant: it changes nothing, and shows nothing secret.

use std::fs::File;
use std::path::Path;

use keyhaven_daemon::cli::table;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use serde::Serialize;

use crate::cli::Context;
use crate::cli::hub_probe;
use crate::cli::hub_probe::Probed;
use crate::cli::shown;
use crate::cli::vault_access;
use crate::status::StatusFile;
use crate::vault::Vault;
use crate::vault::error::VaultError;
use crate::vault::file_path;
use crate::vault::identity::Identity;
use crate::vault::unlock::Backend;
use crate::vault::unlock::exposed_mode;
use crate::vault::unlock::key_file_path;

/// A clock that is further off than this makes tokens and logs misleading.
const CLOCK_SKEW_MS_MAX: u64 = 60_000;
/// 2026-01-01: no clock of a machine that runs this can be earlier.
const CLOCK_EARLIEST_UNIX_MS: u64 = 1_767_225_600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Row {
    check: &'static str,
    state: State,
    detail: String,
    fix: Option<String>,
    code: Option<String>,
    #[serde(skip)]
    error: Option<ErrorCode>,
}

impl Row {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, state: State::Ok, detail: detail.into(), fix: None, code: None, error: None }
    }

    fn warn(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { state: State::Warn, fix: Some(fix.into()), ..Self::ok(check, detail) }
    }

    fn fail(check: &'static str, code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            state: State::Fail,
            fix: Some(code.fix().to_owned()),
            code: Some(code.to_string()),
            error: Some(code),
            ..Self::ok(check, detail)
        }
    }
}

#[derive(Serialize)]
struct Report {
    healthy: bool,
    rows: Vec<Row>,
}

pub(crate) async fn run(context: &Context) -> anyhow::Result<()> {
    let mut rows = vec![directory(&context.dir)];
    rows.extend(private_files(context));
    let identity = match open(context, &mut rows) {
        Some(vault) => vault.identity(),
        None => None,
    };
    match &identity {
        Some(identity) => {
            rows.push(Row::ok("joined", format!("{} of {}", identity.agent, identity.fleet)));
            hub(identity, &mut rows).await;
        }
        None => rows.push(Row::fail("joined", ErrorCode::NotJoined, shown(&context.dir))),
    }
    rows.push(running(context));
    tell(context, rows)
}

fn directory(dir: &Path) -> Row {
    let check = "data directory";
    match File::open(dir) {
        Ok(file) if !file.metadata().is_ok_and(|metadata| metadata.is_dir()) => {
            Row::fail(check, ErrorCode::DataDirUnusable, format!("{} is not a directory", shown(dir)))
        }
        Ok(file) => match exposed_mode(&file) {
            Ok(None) => Row::ok(check, shown(dir)),
            Ok(Some(mode)) => {
                Row::warn(check, format!("{} has mode {mode:04o}", shown(dir)), format!("chmod 700 {}", shown(dir)))
            }
            Err(error) => Row::fail(check, ErrorCode::DataDirUnusable, error.to_string()),
        },
        Err(error) => Row::fail(check, ErrorCode::DataDirUnusable, format!("{}: {error}", shown(dir))),
    }
}

/// Modes of the files that must be their owner's alone.
fn private_files(context: &Context) -> Vec<Row> {
    let files = [
        Some(file_path(&context.dir)),
        Some(key_file_path(&context.dir)),
        context.config.vault.passphrase_file.clone(),
    ];
    files
        .into_iter()
        .flatten()
        .filter_map(|path| {
            let file = File::open(&path).ok()?;
            let row = match exposed_mode(&file) {
                Ok(None) => Row::ok("file mode", shown(&path)),
                Ok(Some(mode)) => Row {
                    fix: Some(format!("chmod 600 {}", shown(&path))),
                    ..Row::fail("file mode", ErrorCode::VaultLocked, format!("{} has mode {mode:04o}", shown(&path)))
                },
                Err(error) => Row::fail("file mode", ErrorCode::DataDirUnusable, error.to_string()),
            };
            Some(row)
        })
        .collect()
}

fn open(context: &Context, rows: &mut Vec<Row>) -> Option<Vault> {
    let vault = match vault_access::open(context) {
        Ok(vault) => vault,
        Err(error) => {
            rows.push(refusal("vault", &error));
            return None;
        }
    };
    rows.push(match vault.backend() {
        Backend::Passphrase => Row::ok("vault", "opens; sealed by a passphrase"),
        Backend::KeyFile => Row::warn(
            "vault",
            format!("opens; sealed by {}, which whoever copies the disk has too", shown(&key_file_path(&context.dir))),
            "keep backups of the two files apart; a vault made with --vault passphrase is stronger",
        ),
    });
    rows.push(match vault.keys().len() {
        0 => Row::warn("vendor keys", "none, so there is nothing to offer", "keyhaven-agent key add openai"),
        count => Row::ok("vendor keys", count.to_string()),
    });
    Some(vault)
}

fn refusal(check: &'static str, error: &anyhow::Error) -> Row {
    if let Some(vault) = error.downcast_ref::<VaultError>() {
        return Row::fail(check, vault.code(), vault.to_string());
    }
    let code = error.downcast_ref::<Failure>().map_or(ErrorCode::Internal, Failure::code);
    Row::fail(check, code, error.to_string())
}

async fn hub(identity: &Identity, rows: &mut Vec<Row>) {
    let address = identity.hub_address.as_str();
    let unix_ms = match hub_probe::probe(address, identity.pins.clone()).await {
        Probed::Unreachable(why) => {
            rows.push(Row::fail("hub", ErrorCode::HubUnreachable, format!("{address}: {why}")));
            None
        }
        Probed::NotTls(why) => {
            rows.push(Row::fail("hub", ErrorCode::LinkProtocol, format!("{address}: {why}")));
            None
        }
        Probed::NotPinned => {
            rows.push(Row::ok("hub", address));
            rows.push(Row::fail("pin", ErrorCode::PinMismatch, format!("{address} shows another key")));
            None
        }
        Probed::Pinned { unix_ms } => {
            rows.push(Row::ok("hub", address));
            rows.push(Row::ok("pin", "the hub holds a pinned key"));
            unix_ms
        }
    };
    rows.push(clock(unix_ms_now(), unix_ms));
}

fn clock(here_unix_ms: u64, hub_unix_ms: Option<u64>) -> Row {
    let fix = "set the clock, and keep it right with NTP";
    if here_unix_ms < CLOCK_EARLIEST_UNIX_MS {
        return Row::warn("clock", "this machine's clock is years behind", fix);
    }
    let Some(hub_unix_ms) = hub_unix_ms else {
        return Row::ok("clock", "plausible; the hub's was not seen");
    };
    let skew_ms = here_unix_ms.abs_diff(hub_unix_ms);
    if skew_ms > CLOCK_SKEW_MS_MAX {
        return Row::warn("clock", format!("{} s off the hub's", skew_ms / 1000), fix);
    }
    Row::ok("clock", "agrees with the hub's to within a minute")
}

fn running(context: &Context) -> Row {
    let check = "agent";
    let now = unix_ms_now();
    match StatusFile::new(&context.dir).read() {
        Ok(Some(status)) if status.is_alive(now) => {
            Row::ok(check, format!("process {}; see `keyhaven-agent status`", status.pid))
        }
        Ok(_) => Row::warn(check, "not running", "keyhaven-agent run"),
        Err(error) => Row::fail(check, ErrorCode::DataDirUnusable, error.to_string()),
    }
}

fn tell(context: &Context, rows: Vec<Row>) -> anyhow::Result<()> {
    let first_failure = rows.iter().find(|row| row.error.is_some());
    let failure = first_failure.and_then(|row| {
        let failure = Failure::new(row.error?, row.detail.clone()).at(row.check);
        Some(match &row.fix {
            Some(fix) => failure.fix(fix),
            None => failure,
        })
    });
    let report = Report { healthy: failure.is_none(), rows };
    context.output.emit("doctor", &report, || text(&report.rows))?;
    match failure {
        None => Ok(()),
        Some(failure) => Err(failure.into()),
    }
}

fn text(rows: &[Row]) -> String {
    let cells = rows
        .iter()
        .map(|row| {
            let state = match row.state {
                State::Ok => "ok",
                State::Warn => "warn",
                State::Fail => "fail",
            };
            vec![state.to_owned(), row.check.to_owned(), row.detail.clone(), row.fix.clone().unwrap_or_default()]
        })
        .collect();
    table(&["", "check", "found", "fix"], cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_by_the_hub_s() {
        let now = CLOCK_EARLIEST_UNIX_MS + 1_000_000;

        assert_eq!(clock(now, None).state, State::Ok);
        assert_eq!(clock(now, Some(now - 59_000)).state, State::Ok);
        assert_eq!(clock(now, Some(now + 61_000)).state, State::Warn);
        assert_eq!(clock(0, Some(0)).state, State::Warn);
    }

    #[cfg(unix)]
    #[test]
    fn a_data_directory_that_others_may_enter_is_a_warning_with_its_fix() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = tempfile::tempdir().unwrap();
        let mode = |mode| {
            std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        };

        mode(0o755);
        let open = directory(home.path());
        mode(0o700);

        assert_eq!(open.state, State::Warn);
        assert!(open.fix.unwrap().starts_with("chmod 700"));
        assert_eq!(directory(home.path()).state, State::Ok);
        assert_eq!(directory(&home.path().join("gone")).state, State::Fail);
    }
}
