//! What a running agent tells its own command line: `status.json` in the data
//! directory, replaced by rename. A socket would count as listening.
//!
//! Invariant: a reader sees a whole file or none, and nothing secret in it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::io::ErrorKind;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::provider::Provider;
use serde::Deserialize;
use serde::Serialize;

/// The version of the format.
pub const SCHEMA: &str = "keyhaven/agent-status-file/v1";

/// How old a status may be before it is called stale: three times as old as it usually becomes.
pub const STALE_AFTER_MS: u64 = 90_000;

const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The state of a running agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: String,
    /// The running process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// When it started.
    pub started_unix_ms: u64,
    /// When this was written.
    pub written_unix_ms: u64,
    /// Who it is.
    pub agent: AgentId,
    /// The hub it dials.
    pub hub_address: String,
    /// The link to that hub.
    pub link: LinkStatus,
    /// Which upstreams it can reach.
    pub egress: EgressKind,
    /// What it offers to the hub, one per key.
    pub offers: Vec<OfferStatus>,
    /// What became of its calls since it started.
    pub calls: CallTotals,
}

/// The link to the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Whether it is up.
    pub state: LinkState,
    /// Since when it is in this state.
    pub since_unix_ms: u64,
    /// Why the last attempt or link ended, as `KH-E1001`.
    pub last_error: Option<String>,
    /// The last measured round trip, in microseconds.
    pub rtt_us: Option<u64>,
    /// Calls on it at this moment.
    pub streams: u32,
    /// What went over it since it is up; none while there is no link.
    #[serde(default)]
    pub traffic: Option<Traffic>,
}

/// What went over one link.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Calls that the hub opened.
    pub opened: u64,
    /// Those beyond a limit, answered with an abort at once.
    pub opens_refused: u64,
    /// Bytes of answers sent to the hub.
    pub sent_bytes: u64,
    /// Bytes of requests received from the hub.
    pub received_bytes: u64,
    /// Times an answer waited for credit: its consumer read more slowly than the vendor sent.
    pub credit_stalls: u64,
    /// How long data waited for its turn on the link, in microseconds: the last time.
    pub queue_delay_last_us: u64,
    /// The moving average.
    pub queue_delay_mean_us: u64,
    /// The longest time.
    pub queue_delay_max_us: u64,
    /// Calls ended by this agent, by reason.
    pub aborts_sent: BTreeMap<String, u64>,
    /// Calls ended by the hub, by reason.
    pub aborts_received: BTreeMap<String, u64>,
}

/// Whether the link is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Serving calls.
    Linked,
    /// Dialling, or pausing before the next attempt.
    Connecting,
    /// Finishing calls, taking no new ones.
    Draining,
}

/// Which upstreams an agent can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressKind {
    /// The vendors' official hosts only.
    Official,
    /// Stand-ins on loopback: a demo or a test.
    Loopback,
}

/// What one key offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferStatus {
    /// The key.
    pub key: VendorKeyId,
    /// Its vendor.
    pub provider: Provider,
    /// Its Azure resource.
    pub resource: Option<String>,
    /// How many models it can call.
    pub models: u32,
    /// What the vendor last said about the key.
    pub state: KeyState,
}

/// What the vendor last said about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It works.
    Ok,
    /// The vendor does not accept it.
    Rejected,
    /// Its account has nothing left to pay with; it rests and is tried again.
    Exhausted,
    /// The vendor could not be asked.
    Unreachable,
}

/// What became of the calls since the agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CallTotals {
    /// Opened by the hub.
    pub opened: u64,
    /// Answered by the vendor to the end.
    pub served: u64,
    /// Ended by the consumer, the hub or the link, or broken off by the vendor after its answer began.
    pub aborted: u64,
    /// Ended by this agent: not allowed, no key, no room, no usable answer, about the owner's account, or stopping.
    pub refused: u64,
}

/// The place of the status file.
#[derive(Debug, Clone)]
pub struct StatusFile {
    path: PathBuf,
    temporary: PathBuf,
}

impl StatusFile {
    /// The status file of a data directory.
    pub fn new(dir: &Path) -> Self {
        Self { path: dir.join("status.json"), temporary: dir.join(".status.json.tmp") }
    }

    /// Replaces the file. It is not flushed to the disk: after a loss of power
    /// nobody runs whose state it could tell. Only the holder of the
    /// directory's lock writes.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn write(&self, status: &Status) -> io::Result<()> {
        let bytes = serde_json::to_vec(status)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&self.temporary)?.write_all(&bytes)?;
        std::fs::rename(&self.temporary, &self.path)
    }

    /// What was last written, or `None` if nothing ever was.
    ///
    /// # Errors
    /// The file cannot be read, or is not a status.
    pub fn read(&self) -> io::Result<Option<Status>> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => Err(ErrorKind::FileTooLarge.into()),
            Ok(_) => Ok(Some(serde_json::from_slice(&std::fs::read(&self.path)?)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the file, when the agent ends in an orderly way.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl CallTotals {
    /// Calls that have not ended.
    pub const fn under_way(&self) -> u64 {
        self.opened.saturating_sub(self.served).saturating_sub(self.aborted).saturating_sub(self.refused)
    }
}

impl Status {
    /// Whether nothing in it changes unless something happens: no call is under way.
    pub const fn is_at_rest(&self) -> bool {
        self.link.streams == 0 && self.calls.under_way() == 0
    }

    /// Whether the process that wrote this is still there. A process id that
    /// was given to another program since is unmasked by the age of the file.
    pub fn is_alive(&self, now_unix_ms: u64) -> bool {
        process_exists(self.pid) && now_unix_ms.saturating_sub(self.written_unix_ms) <= STALE_AFTER_MS
    }
}

#[cfg(unix)]
fn process_exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // A process of another user may not be signalled, but it is there.
    pid.is_some_and(|pid| matches!(rustix::process::test_kill_process(pid), Ok(()) | Err(rustix::io::Errno::PERM)))
}

#[cfg(not(unix))]
fn process_exists(_pid: u32) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_back_and_is_gone_after_an_orderly_end() {
        let home = tempfile::tempdir().unwrap();
        let file = StatusFile::new(home.path());
        assert_eq!(file.read().unwrap(), None);
        let status = status(std::process::id());

        file.write(&status).unwrap();
        file.write(&status).unwrap();

        assert_eq!(file.read().unwrap(), Some(status));
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.read().unwrap(), None);
    }

    #[test]
    fn only_a_living_process_with_a_fresh_status_is_running() {
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let ended_pid = ended.id();
        ended.wait().unwrap();

        assert!(status(std::process::id()).is_alive(2_000));
        assert!(!status(std::process::id()).is_alive(1_000 + STALE_AFTER_MS + 1));
        assert!(!status(ended_pid).is_alive(2_000));
        assert!(!status(0).is_alive(2_000));
        assert!(!status(u32::MAX).is_alive(2_000));
    }

    fn status(pid: u32) -> Status {
        Status {
            schema: SCHEMA.to_owned(),
            pid,
            version: "0.1.0".to_owned(),
            started_unix_ms: 1,
            written_unix_ms: 1_000,
            agent: AgentId([1; 16]),
            hub_address: "hub.example:9010".to_owned(),
            link: LinkStatus {
                state: LinkState::Linked,
                since_unix_ms: 1,
                last_error: None,
                rtt_us: Some(900),
                streams: 3,
                traffic: Some(Traffic {
                    opened: 9,
                    aborts_received: BTreeMap::from([("consumer_gone".to_owned(), 2)]),
                    ..Traffic::default()
                }),
            },
            egress: EgressKind::Official,
            offers: vec![OfferStatus {
                key: VendorKeyId([2; 16]),
                provider: Provider::OpenAi,
                resource: None,
                models: 7,
                state: KeyState::Ok,
            }],
            calls: CallTotals::default(),
        }
    }
}
