//! What the hub reads once at its start: addresses, bounds, timeouts.
//!
//! Invariant: `etc/hub.yaml` shows every field with its default, and parses to
//! exactly [`Config::default`].

use std::fmt;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use keyhaven_daemon::config::default_data_dir;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::telemetry::LogFormat;
use keyhaven_protocol::ErrorCode;
use serde::Deserialize;
use serde::Serialize;

/// What environment variables of the hub begin with, before `_` and the path
/// of the field: `KEYHAVEN_HUB_CONSUMER_LISTEN`.
pub const ENV_PREFIX: &str = "KEYHAVEN_HUB";

/// The hub's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where keys and database live. Default: null, that is
    /// `/var/lib/keyhaven/hub` for root and `$XDG_DATA_HOME/keyhaven/hub` or
    /// `~/.local/share/keyhaven/hub` for everybody else.
    pub data_dir: Option<PathBuf>,
    /// Where the hub keeps its books and its registry.
    pub database: Database,
    /// The listener for consumers' calls.
    pub consumer: Consumer,
    /// The listener for agents' links.
    pub tunnel: Tunnel,
    /// The listener for health, metrics and status.
    pub admin: Admin,
    /// How long and how often one call may try.
    pub calls: Calls,
    /// What the operator decides about owners' money.
    pub owners: Owners,
    /// What one link, and all links together, may take.
    pub limits: Limits,
    /// What is logged, to stderr.
    pub log: Log,
}

/// Where the hub keeps its books and its registry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// A database on a MariaDB or MySQL server, `mysql://user:password@host:port/database`, which
    /// may be shared by several hubs. Refused on the command line, where everybody on the machine
    /// can read it. Default: null, SQLite in `hub.db` in the data directory.
    pub url: Option<DatabaseUrl>,
}

/// The address of a database, which may hold a password and is therefore never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// All of it, for the one who connects.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[secret]")
    }
}

/// The listener for consumers' calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Consumer {
    /// IP address and port. Default: `127.0.0.1:9000`.
    pub listen: SocketAddr,
    /// PEM certificate chain for HTTPS; needs `tls_key_file`. Default: null, plain HTTP.
    pub tls_certificate_file: Option<PathBuf>,
    /// PEM private key for HTTPS; needs `tls_certificate_file`. Default: null, plain HTTP.
    pub tls_key_file: Option<PathBuf>,
    /// Bytes of one request's body. Bodies pass in pieces, so that a large one costs no
    /// memory; vendors take up to 16 images of 50 MB at once. Default: 1073741824 (1 GiB).
    pub request_body_bytes_max: u64,
    /// Bytes of one request's line and headers. Default: 65536 (64 KiB).
    pub request_head_bytes_max: u64,
    /// Bytes of bodies that all calls together hold back for the scan or keep for another attempt.
    /// Default: 268435456 (256 MiB).
    pub held_body_bytes_max: u64,
    /// Bytes of one body that may come before its `model`. Default: 67108864 (64 MiB).
    pub held_body_bytes_per_call_max: u64,
    /// Seconds without a byte after which a request that is still arriving, or
    /// an idle connection, is given up. Default: 60.
    pub request_idle_timeout_s: u64,
    /// Seconds without a byte taken after which a consumer that does not read
    /// its answer is given up. Default: 300.
    pub response_stall_timeout_s: u64,
    /// Connections at once; more wait in the kernel's queue. Default: 10000.
    pub connections_max: u32,
    /// The base URL consumers use, for the commands that print one, such as
    /// `https://llm.example.org`. Default: null, made of `listen`.
    pub public_url: Option<String>,
}

/// The listener for agents' links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tunnel {
    /// IP address and port. Default: `127.0.0.1:9010`.
    pub listen: SocketAddr,
    /// `host:port` where agents reach `listen` from outside; it goes into join
    /// tokens. Default: null, `listen` itself.
    pub public_address: Option<String>,
    /// PEM private key of this listener, for instance the backup key brought
    /// back. Default: null, `tunnel.key` in the data directory.
    pub key_file: Option<PathBuf>,
    /// Handshakes under way at once; more connections wait in the kernel's
    /// queue. Default: 256.
    pub handshakes_max: u32,
    /// Seconds from accepting a connection to an authenticated link. Default: 10.
    pub handshake_timeout_s: u64,
}

/// The listener for health, metrics and status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// IP address and port; without authentication, so keep it on loopback.
    /// Default: `127.0.0.1:9020`.
    pub listen: SocketAddr,
    /// Agents that have series of their own in `/metrics`; the others share one.
    /// Default: 100.
    pub link_series_max: u32,
}

/// How long and how often one call may try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Calls {
    /// Seconds from the whole request to the vendor's response head. Default: 600.
    pub vendor_head_timeout_s: u64,
    /// Seconds without a byte of a response that has begun. Default: 300.
    pub vendor_idle_timeout_s: u64,
    /// Seconds without a byte either way of a realtime WebSocket. Default: 3600.
    pub realtime_idle_timeout_s: u64,
    /// Seconds that calls under way get to end when the hub is told to stop. Default: 30.
    pub drain_grace_s: u64,
    /// Seconds that a call which no agent can serve now waits for one that left a moment
    /// ago or has not come back since the hub's own start. 0: none. Default: 5.
    pub agent_wait_s: u64,
    /// Calls that wait for an agent at once; more are refused. Default: 1000.
    pub agent_waits_max: u32,
    /// Bytes of one request's body that are kept until the vendor answers, so that the call
    /// can be tried again with another agent; a larger one is tried once. They count among
    /// `consumer.held_body_bytes_max`, of which they take half at most. 0: no call is tried
    /// again once its body has begun to leave. Default: 4194304 (4 MiB).
    pub replayed_body_bytes: u64,
}

/// What the operator decides about owners' money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Owners {
    /// Nano-USD that each agent is given on each day, UTC, for work that this hub did not see and
    /// has no record of having forgotten. 0: such work earns nothing. Default: 0.
    pub orphan_budget_nano_usd: i64,
    /// Hours that a credit waits before it is paid out. Default: 72.
    pub payout_wait_h: u64,
}

/// What one link, and all links together, may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Calls at once on one link. Default: 4096.
    pub link_streams_max: u32,
    /// New calls a second on one link, on average; more are refused, each by itself.
    /// Default: 50000.
    pub link_opens_per_second_max: u32,
    /// Calls a second that either side breaks off on one link, on average; above it, new
    /// ones are refused. Default: 5000.
    pub link_resets_per_second_max: u32,
    /// Bytes that agents of all links together may have sent, or may still send, without
    /// a consumer having read them; above it, new credit is small. Default: 536870912 (512 MiB).
    pub link_bytes_max: u64,
}

/// What is logged, to stderr.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`, or filters such as
    /// `info,keyhaven_hub::dispatch=debug`. Default: `info`.
    pub level: String,
    /// `human` or `json`. Default: `human`.
    pub format: LogFormat,
}

impl Default for Consumer {
    fn default() -> Self {
        Self {
            listen: loopback(9000),
            tls_certificate_file: None,
            tls_key_file: None,
            request_body_bytes_max: 1 << 30,
            request_head_bytes_max: 64 << 10,
            held_body_bytes_max: 256 << 20,
            held_body_bytes_per_call_max: 64 << 20,
            request_idle_timeout_s: 60,
            response_stall_timeout_s: 300,
            connections_max: 10_000,
            public_url: None,
        }
    }
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            listen: loopback(9010),
            public_address: None,
            key_file: None,
            handshakes_max: 256,
            handshake_timeout_s: 10,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: loopback(9020), link_series_max: 100 }
    }
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            vendor_head_timeout_s: 600,
            vendor_idle_timeout_s: 300,
            realtime_idle_timeout_s: 3600,
            drain_grace_s: 30,
            agent_wait_s: 5,
            agent_waits_max: 1000,
            replayed_body_bytes: 4 << 20,
        }
    }
}

impl Default for Owners {
    fn default() -> Self {
        Self { orphan_budget_nano_usd: 0, payout_wait_h: 72 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            link_streams_max: 4096,
            link_opens_per_second_max: 50_000,
            link_resets_per_second_max: 5000,
            link_bytes_max: 512 << 20,
        }
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
        self.data_dir.clone().unwrap_or_else(|| default_data_dir("hub"))
    }

    /// What join tokens name as the hub's address.
    pub fn tunnel_address(&self) -> String {
        self.tunnel.public_address.clone().unwrap_or_else(|| self.tunnel.listen.to_string())
    }

    /// The base URL that consumers use.
    pub fn consumer_url(&self) -> String {
        let scheme = if self.consumer.tls_certificate_file.is_some() { "https" } else { "http" };
        self.consumer.public_url.clone().unwrap_or_else(|| format!("{scheme}://{}", self.consumer.listen))
    }

    /// Whether the hub listens beyond this machine for consumers or agents.
    pub fn listens_beyond_loopback(&self) -> bool {
        !(self.consumer.listen.ip().is_loopback() && self.tunnel.listen.ip().is_loopback())
    }

    /// The rules between fields, which types alone cannot say.
    ///
    /// # Errors
    /// [`ErrorCode::ConfigInvalid`], naming the field.
    pub fn check(&self) -> Result<(), Failure> {
        let invalid = |detail: String| Err(Failure::new(ErrorCode::ConfigInvalid, detail));
        if self.consumer.tls_certificate_file.is_some() != self.consumer.tls_key_file.is_some() {
            return invalid("consumer.tls_certificate_file and consumer.tls_key_file go together".to_owned());
        }
        if let Some(address) = &self.tunnel.public_address
            && !is_host_and_port(address)
        {
            return invalid(format!("tunnel.public_address: {address:?} is not host:port"));
        }
        if let Some(url) = &self.consumer.public_url
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            return invalid(format!("consumer.public_url: {url:?} begins with neither http:// nor https://"));
        }
        if self.owners.orphan_budget_nano_usd < 0 {
            return invalid("owners.orphan_budget_nano_usd must not be below 0".to_owned());
        }
        let fields = serde_json::to_value(self).unwrap_or_default();
        match out_of_range("", &fields) {
            Some(detail) => invalid(detail),
            None => Ok(()),
        }
    }
}

impl Calls {
    /// From the whole request to the vendor's response head.
    pub const fn vendor_head_timeout(&self) -> Duration {
        Duration::from_secs(self.vendor_head_timeout_s)
    }

    /// Without a byte of a response that has begun.
    pub const fn vendor_idle_timeout(&self) -> Duration {
        Duration::from_secs(self.vendor_idle_timeout_s)
    }

    /// Without a byte either way of a WebSocket.
    pub const fn realtime_idle_timeout(&self) -> Duration {
        Duration::from_secs(self.realtime_idle_timeout_s)
    }

    /// What a call waits for an agent that is expected.
    pub const fn agent_wait(&self) -> Duration {
        Duration::from_secs(self.agent_wait_s)
    }

    /// What calls under way get when the hub is told to stop.
    pub const fn drain_grace(&self) -> Duration {
        Duration::from_secs(self.drain_grace_s)
    }
}

impl Consumer {
    /// Without a byte taken of an answer.
    pub const fn response_stall_timeout(&self) -> Duration {
        Duration::from_secs(self.response_stall_timeout_s)
    }

    /// Without a byte of a request that is still arriving.
    pub const fn request_idle_timeout(&self) -> Duration {
        Duration::from_secs(self.request_idle_timeout_s)
    }
}

impl Tunnel {
    /// From accepting a connection to an authenticated link.
    pub const fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(self.handshake_timeout_s)
    }
}

/// A day: longer waits are mistakes, and far longer ones overflow clocks.
const TIMEOUT_S_MAX: u64 = 86_400;

/// A number's name ends in its unit, and the unit says what makes sense: no
/// timeout is 0 or longer than a day, no bound is 0.
fn out_of_range(path: &str, value: &serde_json::Value) -> Option<String> {
    if let Some(fields) = value.as_object() {
        return fields.iter().find_map(|(name, inner)| {
            let separator = if path.is_empty() { "" } else { "." };
            out_of_range(&format!("{path}{separator}{name}"), inner)
        });
    }
    let number = value.as_u64()?;
    if number == 0 && (path.ends_with("_timeout_s") || path.ends_with("_max")) {
        return Some(format!("{path} must be at least 1"));
    }
    if number > TIMEOUT_S_MAX && path.ends_with("_s") {
        return Some(format!("{path} must be at most {TIMEOUT_S_MAX}"));
    }
    None
}

/// Whether the text is `host:port` with a port that can be dialled.
pub fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-'),
    };
    host_fits && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
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
            let wanted = if name == "listen" { 3 } else { 1 };
            assert_eq!(lines.count(), wanted, "{name} in etc/hub.yaml");
        }
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hub.yaml");
        std::fs::write(&path, "consumer:\n  lissten: 127.0.0.1:1\n").unwrap();

        assert!(load::<Config>(&source(Some(&path), &[])).is_err());
    }

    #[test]
    fn fields_that_contradict_each_other_are_refused_by_name() {
        let refusals = [
            ("consumer.tls_key_file", "/k.pem", "go together"),
            ("tunnel.public_address", "hub.example.org", "public_address"),
            ("tunnel.public_address", "a b:9010", "public_address"),
            ("consumer.public_url", "example.org", "public_url"),
            ("tunnel.handshakes_max", "0", "tunnel.handshakes_max"),
            ("tunnel.handshake_timeout_s", "0", "at least"),
            ("calls.vendor_head_timeout_s", "18446744073709551615", "at most"),
        ];
        for (path, value, told) in refusals {
            let flags = [(path.to_owned(), value.to_owned())];
            let config = load::<Config>(&source(None, &flags)).unwrap().config;

            let failure = config.check().unwrap_err().to_string();

            assert!(failure.contains(told), "{path}={value}: {failure}");
        }
    }

    #[test]
    fn addresses_follow_the_listeners_until_they_are_given() {
        let mut config = Config::default();
        assert_eq!(config.tunnel_address(), "127.0.0.1:9010");
        assert_eq!(config.consumer_url(), "http://127.0.0.1:9000");
        assert!(!config.listens_beyond_loopback());

        config.tunnel.public_address = Some("hub.example.org:443".to_owned());
        config.consumer.public_url = Some("https://llm.example.org".to_owned());
        config.consumer.listen = "0.0.0.0:9000".parse().unwrap();

        assert_eq!(config.tunnel_address(), "hub.example.org:443");
        assert_eq!(config.consumer_url(), "https://llm.example.org");
        assert!(config.listens_beyond_loopback());
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["a:1", "hub.example.org:9010", "10.0.0.1:65535", "[::1]:9"] {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in ["", "a", ":1", "a:0", "a:65536", "::1:9", "[x]:9", "u@a:1"] {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }

    fn shipped_file() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc/hub.yaml")
    }

    fn source<'a>(file: Option<&'a Path>, flags: &'a [(String, String)]) -> Source<'a> {
        Source { env_prefix: ENV_PREFIX, file, flags, env: &|_| None, ignored_env: &[] }
    }

    fn field_names(value: &serde_json::Value, names: &mut Vec<String>) {
        for (name, inner) in value.as_object().into_iter().flatten() {
            if !names.contains(name) {
                names.push(name.clone());
            }
            field_names(inner, names);
        }
    }
}
