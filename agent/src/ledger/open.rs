//! Opens a ledger: what it is for, what it finds, what it is made of while the agent runs.
//!
//! Invariant: nothing is taken before the log is verified, every attempt of an earlier process is
//! closed, and no other process writes here.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;

use ed25519_dalek::SigningKey;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::files::DirLock;
use keyhaven_daemon::files::make_private_dir;
use keyhaven_protocol::chain::Chain;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::key_list::KeyList;
use keyhaven_protocol::leaf::Close;
use keyhaven_protocol::leaf::EpochReason;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Purpose;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::statement::Stated;
use tokio::sync::watch;

use super::DIR_NAME;
use super::Durable;
use super::Ledger;
use super::Limits;
use super::Shared;
use super::disk::Disk;
use super::disk::Folder;
use super::error::LedgerError;
use super::error::Place;
use super::follower::Follower;
use super::index::FILE_NAME;
use super::index::Index;
use super::index::OpenAttempt;
use super::live::Attempt;
use super::live::Live;
use super::live::Waiting;
use super::live::What;
use super::log::Log;
use super::recover::CutOff;
use super::recover::Recovered;
use super::recover::recover;
use super::segment::SegmentId;
use super::writer::Writer;

/// A segment is not begun before the one before has so many bytes.
const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Whose ledger it is.
#[derive(Clone)]
pub struct Owner {
    /// The fleet that it is for.
    pub fleet: FleetId,
    /// What is written down in it.
    pub purpose: Purpose,
    /// The agent.
    pub agent: AgentId,
    /// The agent's key, which signs.
    pub key: SigningKey,
    /// The hub's key of the join token: the list of the hub's keys must lead to it.
    pub hub_key: [u8; 32],
}

/// How it works. Tests give other values than the default.
#[derive(Clone)]
pub struct Settings {
    /// What it takes.
    pub limits: Limits,
    /// After so many bytes a segment is full.
    pub segment_bytes_max: u64,
    /// The clock of leaves, in milliseconds since 1970.
    pub now_unix_ms: fn() -> u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { limits: Limits::default(), segment_bytes_max: SEGMENT_BYTES_MAX, now_unix_ms: unix_ms_now }
    }
}

/// An open ledger. Writer and follower run in threads of their owner's, until it is closed.
pub struct Opened {
    /// For whoever writes down and asks.
    pub ledger: Ledger,
    /// Writes the log.
    pub writer: Writer,
    /// Writes the index.
    pub follower: Follower,
    /// The unfinished write that was found.
    pub cut_off: Option<CutOff>,
    /// Attempts that died with an earlier process; their CLOSE waits to be written.
    pub died: usize,
}

/// The folder of a chain in the data directory.
pub(super) fn folder(data_dir: &Path, fleet: FleetId, purpose: Purpose) -> PathBuf {
    let purpose = match purpose {
        Purpose::Calls => "calls",
        Purpose::Purchases => "purchases",
        Purpose::Trading => "trading",
    };
    data_dir.join(DIR_NAME).join(format!("{fleet}-{purpose}"))
}

impl Opened {
    /// Opens the ledger in the data directory, or begins it.
    ///
    /// # Errors
    /// Another process has it, the folder cannot be used, or what was durable is damaged.
    pub fn in_dir(data_dir: &Path, owner: Owner, settings: Settings) -> Result<Self, LedgerError> {
        let dir = folder(data_dir, owner.fleet, owner.purpose);
        make_private_dir(&dir).map_err(LedgerError::folder(dir.display().to_string()))?;
        let lock = DirLock::acquire(&dir).map_err(|error| match DirLock::is_held_elsewhere(&error) {
            true => LedgerError::Held,
            false => LedgerError::folder(dir.display().to_string())(error),
        })?;
        Self::on_disk(Arc::new(Folder::new(&dir)), Some(dir.join(FILE_NAME)), Some(lock), owner, settings)
    }

    /// The same on any disk; without a file the index is in memory.
    ///
    /// # Errors
    /// As [`Self::in_dir`].
    pub fn on_disk(
        disk: Arc<dyn Disk>,
        index_file: Option<PathBuf>,
        lock: Option<DirLock>,
        owner: Owner,
        settings: Settings,
    ) -> Result<Self, LedgerError> {
        let chain = ChainId { fleet: owner.fleet, purpose: owner.purpose, agent: owner.agent, epoch: 0 };
        let recovered = recover(&disk, chain, &owner.key.verifying_key(), index_file.as_deref())?;
        let (live, log, index, cut_off, died) = match recovered {
            Some(recovered) => resumed(&disk, &owner, recovered)?,
            None => {
                let index = Index::open(index_file.as_deref(), &*disk)?;
                let mut live = nothing(chain);
                live.waiting.push_back(Waiting { what: What::Epoch(EpochReason::First, 0), told: None });
                (live, None, index, None, Vec::new())
            }
        };
        let writing = Chain::resume(live.chain, live.head);
        let durable = Durable { epoch: live.chain.epoch, size: live.head.size };
        let shared = Arc::new(Shared {
            live: Mutex::new(live),
            work: Condvar::new(),
            written: Condvar::new(),
            durable: watch::Sender::new(durable),
            failed: watch::Sender::new(None),
            limits: settings.limits,
            trusted_key: owner.hub_key,
            index_file: index_file.clone(),
            _lock: lock,
        });
        let writer = Writer {
            shared: shared.clone(),
            disk: disk.clone(),
            chain: writing,
            key: owner.key,
            log,
            segment_bytes_max: settings.segment_bytes_max,
            now_unix_ms: settings.now_unix_ms,
        };
        let follower = Follower::new(shared.clone(), disk.clone(), index, index_file);
        let ledger = Ledger { shared, disk };
        for attempt in &died {
            ledger.append(Event::Close(died_with_the_process(attempt)))?;
        }
        Ok(Self { ledger, writer, follower, cut_off, died: died.len() })
    }
}

type Parts = (Live, Option<Log>, Index, Option<CutOff>, Vec<OpenAttempt>);

/// What a running ledger knows of the log that was there.
fn resumed(disk: &Arc<dyn Disk>, owner: &Owner, recovered: Recovered) -> Result<Parts, LedgerError> {
    let Recovered { index, cursor, cut_off } = recovered;
    let reading = index.reading();
    let epoch = cursor.chain.epoch;
    let lost = || LedgerError::Index("an attempt that is not settled has no OPEN".into());
    let mut attempts = HashMap::new();
    let mut died = reading.open_attempts()?;
    died.retain(|open| open.epoch == epoch);
    let closed = index.unstated().values().filter_map(|leaf| leaf.about);
    for (call, attempt) in closed {
        let Some(closed) = reading.attempt(call, attempt)?.filter(|closed| closed.epoch == epoch) else { continue };
        let opened = (closed.opened, reading.spot(epoch, closed.opened)?.ok_or_else(lost)?.1);
        let known = Attempt { ticket: closed.ticket, parts: 0, is_closed: true, opened: Some(opened) };
        attempts.insert((call, attempt), known);
    }
    for open in &died {
        let opened = (open.opened, reading.spot(epoch, open.opened)?.ok_or_else(lost)?.1);
        let known = Attempt { ticket: open.ticket, parts: 0, is_closed: false, opened: Some(opened) };
        attempts.insert((open.call, open.attempt), known);
    }
    let mut groups = reading.spots_from(epoch, cursor.stated.leaves)?;
    for leaf in &cursor.stated.open {
        groups.extend(reading.spot(epoch, *leaf)?);
    }
    let entries = reading.hub_keys()?;
    let keys = match entries.is_empty() {
        true => None,
        false => Some(KeyList::anchored(owner.fleet, &owner.hub_key, entries.iter().map(Vec::as_slice))?),
    };
    let (credited, paid_out) = reading.credited_and_paid_out()?;
    let has_leaves = cursor.head.size > cursor.place.segment.first;
    let log = Log::resume(disk.clone(), cursor.place, has_leaves);
    let live = Live {
        chain: cursor.chain,
        head: cursor.head,
        end: cursor.place,
        attempts,
        unstated: index.unstated().clone(),
        groups,
        stated: cursor.stated,
        cosigned: cursor.cosigned,
        keys,
        credited,
        paid_out,
        ..nothing(cursor.chain)
    };
    Ok((live, Some(log), index, cut_off, died))
}

/// A chain without leaves.
fn nothing(chain: ChainId) -> Live {
    Live {
        chain,
        head: Head::EMPTY,
        end: Place { segment: SegmentId { epoch: 0, first: 0 }, offset: 0 },
        waiting: VecDeque::new(),
        leaves_waiting: 0,
        attempts: HashMap::new(),
        unstated: BTreeMap::new(),
        groups: BTreeMap::new(),
        stated: Stated::NOTHING,
        cosigned: None,
        keys: None,
        credited: NanoUsd::ZERO,
        paid_out: NanoUsd::ZERO,
        writing_since: None,
        failed: None,
        is_closing: false,
    }
}

/// Its cost is what its last PART said, or 0; the hub's figure decides.
fn died_with_the_process(open: &OpenAttempt) -> Close {
    Close {
        call: open.call,
        attempt: open.attempt,
        ticket: open.ticket,
        status: None,
        vendor_ended: false,
        metered: None,
        request_bytes: 0,
        vendor_bytes: 0,
        request_digest: None,
        response_digest: None,
        vendor_request: None,
        lasted_ms: 0,
    }
}
