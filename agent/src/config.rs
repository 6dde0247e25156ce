//! What the agent reads once at its start: where it lives, bounds, timeouts.
//!
//! Invariant: `etc/agent.yaml` shows every field with its default, and parses
//! to exactly [`Config::default`]. No field names a host to send keys to.

use std::path::PathBuf;
use std::time::Duration;

use keyhaven_daemon::config::default_data_dir;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::telemetry::LogFormat;
use keyhaven_protocol::ErrorCode;
use serde::Deserialize;
use serde::Serialize;

/// What environment variables of the agent begin with, before `_` and the path
/// of the field: `KEYHAVEN_AGENT_LOG_LEVEL`.
pub const ENV_PREFIX: &str = "KEYHAVEN_AGENT";

const TIMEOUT_S_MAX: u64 = 86_400;
const CONCURRENT_MAX: u32 = 100_000;
/// The whole list price.
const TIER_MIN_PPM_MAX: u32 = 1_000_000;

/// The agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the vault and the status file live. Default: null, that is
    /// `/var/lib/keyhaven/agent` for root and `$XDG_DATA_HOME/keyhaven/agent`
    /// or `~/.local/share/keyhaven/agent` for everybody else.
    pub data_dir: Option<PathBuf>,
    /// How the vault is opened.
    pub vault: VaultAccess,
    /// Calls to the vendors.
    pub calls: Calls,
    /// The link to the hub.
    pub link: Link,
    /// What is logged, to stderr.
    pub log: Log,
}

/// How the vault is opened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaultAccess {
    /// A file whose first line is the passphrase. Default: null, ask on the terminal.
    pub passphrase_file: Option<PathBuf>,
}

/// Calls to the vendors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Calls {
    /// Seconds to a TCP and TLS connection with the vendor. Default: 10.
    pub vendor_connect_timeout_s: u64,
    /// Seconds from the whole request to the vendor's response head. Default: 600.
    pub vendor_head_timeout_s: u64,
    /// Seconds without a byte of a response that has begun, of a request that has not
    /// ended, or of a WebSocket in either direction. Default: 300.
    pub vendor_idle_timeout_s: u64,
    /// Calls under way at once. Default: 1000.
    pub concurrent_max: u32,
    /// Seconds that calls under way get to end when the agent is told to stop. Default: 30.
    pub drain_grace_s: u64,
    /// The least that the owner takes for a call, in millionths of the list price, such as 800000.
    /// Default: 0, whatever the hub gives.
    pub tier_min_ppm: u32,
}

/// The link to the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Milliseconds: the upper bound of the first random pause. Default: 100.
    pub backoff_first_ms: u64,
    /// Seconds: the upper bound that doubling stops at. Default: 30.
    pub backoff_max_s: u64,
}

/// What is logged, to stderr.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`, or filters such as
    /// `info,keyhaven_agent::link=debug`. Default: `info`.
    pub level: String,
    /// `human` or `json`. Default: `human`.
    pub format: LogFormat,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            vendor_connect_timeout_s: 10,
            vendor_head_timeout_s: 600,
            vendor_idle_timeout_s: 300,
            concurrent_max: 1000,
            drain_grace_s: 30,
            tier_min_ppm: 0,
        }
    }
}

impl Default for Link {
    fn default() -> Self {
        Self { backoff_first_ms: 100, backoff_max_s: 30 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Human }
    }
}

impl Config {
    /// The data directory in force, the platform's default included.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| default_data_dir("agent"))
    }

    /// Refuses values that each parse but cannot be meant.
    ///
    /// # Errors
    /// A bound of zero, or a timeout longer than a day.
    pub fn check(&self) -> Result<(), Failure> {
        let invalid = |detail: String| Err(Failure::new(ErrorCode::ConfigInvalid, detail));
        let calls = &self.calls;
        for (path, value, max) in [
            ("calls.vendor_connect_timeout_s", calls.vendor_connect_timeout_s, TIMEOUT_S_MAX),
            ("calls.vendor_head_timeout_s", calls.vendor_head_timeout_s, TIMEOUT_S_MAX),
            ("calls.vendor_idle_timeout_s", calls.vendor_idle_timeout_s, TIMEOUT_S_MAX),
            ("calls.concurrent_max", u64::from(calls.concurrent_max), u64::from(CONCURRENT_MAX)),
            ("calls.drain_grace_s", calls.drain_grace_s, TIMEOUT_S_MAX),
            ("link.backoff_first_ms", self.link.backoff_first_ms, TIMEOUT_S_MAX * 1000),
            ("link.backoff_max_s", self.link.backoff_max_s, TIMEOUT_S_MAX),
        ] {
            if value == 0 || value > max {
                return invalid(format!("{path} must be from 1 to {max}"));
            }
        }
        if calls.tier_min_ppm > TIER_MIN_PPM_MAX {
            return invalid(format!("calls.tier_min_ppm must be from 0 to {TIER_MIN_PPM_MAX}"));
        }
        Ok(())
    }
}

impl Calls {
    /// To a TCP and TLS connection with the vendor.
    pub const fn vendor_connect_timeout(&self) -> Duration {
        Duration::from_secs(self.vendor_connect_timeout_s)
    }

    /// From the whole request to the vendor's response head.
    pub const fn vendor_head_timeout(&self) -> Duration {
        Duration::from_secs(self.vendor_head_timeout_s)
    }

    /// Without a byte of a response, of a request that has not ended, or of a WebSocket.
    pub const fn vendor_idle_timeout(&self) -> Duration {
        Duration::from_secs(self.vendor_idle_timeout_s)
    }

    /// From being told to stop to cutting off the calls that are left.
    pub const fn drain_grace(&self) -> Duration {
        Duration::from_secs(self.drain_grace_s)
    }
}

impl Link {
    /// The upper bound of the first random pause.
    pub const fn backoff_first(&self) -> Duration {
        Duration::from_millis(self.backoff_first_ms)
    }

    /// The upper bound that doubling stops at.
    pub const fn backoff_max(&self) -> Duration {
        Duration::from_secs(self.backoff_max_s)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use keyhaven_daemon::config::Source;
    use keyhaven_daemon::config::load;

    use super::*;

    #[test]
    fn the_shipped_file_parses_to_exactly_the_defaults() {
        let path = shipped_file();

        let loaded = load::<Config>(&source(Some(&path), &[])).unwrap();

        assert_eq!(loaded.config, Config::default());
        loaded.config.check().unwrap();
    }

    #[test]
    fn the_shipped_file_names_every_field_once() {
        let text = std::fs::read_to_string(shipped_file()).unwrap();
        let defaults = serde_json::to_value(Config::default()).unwrap();
        let mut names = Vec::new();
        field_names(&defaults, &mut names);

        for name in names {
            let lines = text.lines().filter(|line| line.trim_start().starts_with(&format!("{name}:")));
            assert_eq!(lines.count(), 1, "{name} in etc/agent.yaml");
        }
    }

    #[test]
    fn an_unknown_field_is_refused_above_all_one_that_would_name_a_host() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        for text in ["calls:\n  openai_host: evil.example\n", "hub: evil.example:9010\n"] {
            std::fs::write(&path, text).unwrap();

            assert!(load::<Config>(&source(Some(&path), &[])).is_err(), "{text}");
        }
    }

    #[test]
    fn zero_and_absurd_bounds_are_refused_by_name() {
        for (path, value) in [
            ("calls.concurrent_max", "0"),
            ("calls.vendor_head_timeout_s", "18446744073709551615"),
            ("link.backoff_first_ms", "0"),
        ] {
            let flags = [(path.to_owned(), value.to_owned())];
            let config = load::<Config>(&source(None, &flags)).unwrap().config;

            assert!(config.check().unwrap_err().to_string().contains(path));
        }
    }

    fn shipped_file() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc/agent.yaml")
    }

    fn source<'a>(file: Option<&'a Path>, flags: &'a [(String, String)]) -> Source<'a> {
        Source { env_prefix: ENV_PREFIX, file, flags, env: &|_| None, ignored_env: &[] }
    }

    fn field_names(value: &serde_json::Value, into: &mut Vec<String>) {
        let Some(object) = value.as_object() else {
            return;
        };
        for (name, value) in object {
            into.push(name.clone());
            field_names(value, into);
        }
    }
}
