//! The agent's ledger: every attempt that it served, durable before its bytes and its end leave.
//!
//! ```text
//! relay ── append(OPEN, CLOSE) ──▶ what waits ──▶ writer: chain, sign, write, sync ──▶ the log
//! link  ── take_ack(statement) ──▶                            │ durable
//! link  ◀── group_at(next) ── the log ◀── follower ──▶ index (SQLite) ──▶ the owner's commands
//! ```
//!
//! One folder holds one chain for a fleet and a purpose, epoch after epoch. The log is the truth; the
//! index is made from it and may be thrown away. `docs/LEDGER.md` has the formats.
//!
//! Invariant: what was told to be durable is there after any crash, and after the first error of
//! the disk nothing is taken any more.

mod check;
mod disk;
mod entry;
mod error;
mod follower;
mod index;
mod live;
mod log;
mod open;
mod recover;
mod scan;
mod segment;
mod view;
mod writer;

#[cfg(test)]
mod tests;

pub use disk::Disk;
pub use disk::Folder;
pub use error::LedgerError;
pub use error::Place;
pub use follower::Follower;
pub use index::Claim;
pub use index::ClaimClass;
pub use index::Earnings;
pub use index::ModelEarnings;
pub use open::Opened;
pub use open::Owner;
pub use open::Settings;
pub use recover::CutOff;
pub use view::Line;
pub use view::Verified;
pub use view::View;
pub use writer::Writer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use keyhaven_daemon::files::DirLock;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::key_list::KeyList;
use keyhaven_protocol::leaf::EpochReason;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::statement::Cosigned;
use keyhaven_protocol::statement::Statement;
use keyhaven_protocol::statement::StatementError;
use tokio::sync::oneshot;
use tokio::sync::watch;

use entry::Kind;
use index::Reading;
use live::Live;
use live::Waiting;
use live::What;

/// The folder of ledgers in the data directory.
pub const DIR_NAME: &str = "ledger";

/// Bounds of what the ledger takes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Leaves that the hub has said nothing about: with more, no attempt is opened.
    pub unacked_max: u64,
    /// What may be credited and not paid out: with more, no attempt is opened.
    pub unpaid_max: Option<NanoUsd>,
    /// Leaves that wait for the disk: with more, no attempt is opened.
    pub waiting_max: usize,
    /// How long the disk may take for one write before no attempt is opened.
    pub stall_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { unacked_max: 100_000, unpaid_max: None, waiting_max: 8_192, stall_max: Duration::from_secs(5) }
    }
}

/// A leaf, by its place in the chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafId {
    /// Of which chain.
    pub epoch: u32,
    /// Its number there.
    pub number: u64,
}

/// How much of the newest chain is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// Which chain.
    pub epoch: u32,
    /// How many of its leaves.
    pub size: u64,
}

/// A leaf that was taken and is on its way to the disk.
#[derive(Debug)]
pub struct Pending {
    told: oneshot::Receiver<Result<LeafId, LedgerError>>,
    shared: Arc<Shared>,
}

/// What came of an acknowledgement.
#[derive(Debug)]
pub enum Taken {
    /// A new statement, which is on its way into the log.
    New(Box<Statement>),
    /// One that was taken before.
    Known,
}

/// The ledger of a running agent. Clones share it.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
}

/// What the ledger, its writer and its follower share.
pub(crate) struct Shared {
    live: Mutex<Live>,
    /// Something waits, or it is closing.
    work: Condvar,
    /// Something became durable, or it is closing.
    written: Condvar,
    durable: watch::Sender<Durable>,
    failed: watch::Sender<Option<Arc<str>>>,
    limits: Limits,
    trusted_key: [u8; 32],
    index_file: Option<std::path::PathBuf>,
    /// Keeps other processes out.
    _lock: Option<DirLock>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Ledger {
    /// Takes a leaf; it is durable when [`Pending::durable`] says so. A CLOSE of an attempt that is
    /// open is never refused for want of room. PARTs are numbered here.
    ///
    /// # Errors
    /// It may not follow, an owner's limit is reached, or the ledger works no more.
    pub fn append(&self, event: Event) -> Result<Pending, LedgerError> {
        let mut live = self.shared.lock();
        let event = live.take(event, &self.shared.limits)?;
        Ok(self.enqueue(&mut live, What::Leaf(Box::new(event))))
    }

    /// Whether an attempt may be opened now.
    ///
    /// # Errors
    /// Why not.
    pub fn may_open(&self) -> Result<(), LedgerError> {
        self.shared.lock().may_open(&self.shared.limits)
    }

    /// Goes over to a new chain, because the hub knows more of this one, or another history of it.
    /// Attempts whose end the hub has not stated are said again there.
    ///
    /// # Errors
    /// The ledger works no more.
    pub fn begin_epoch(&self, reason: EpochReason, at_least: u32) -> Result<Pending, LedgerError> {
        let mut live = self.shared.lock();
        live.check_works()?;
        Ok(self.enqueue(&mut live, What::Epoch(reason, at_least)))
    }

    /// Takes the hub's statement and the head that it cosigned, verifies both, and puts them into
    /// the log.
    ///
    /// # Errors
    /// They are not the hub's, or not about this chain.
    pub fn take_ack(&self, statement: &[u8], cosigned: Option<&[u8]>) -> Result<Taken, LedgerError> {
        let cosigned = cosigned.map(Cosigned::decode).transpose();
        let cosigned = cosigned.map_err(|_| LedgerError::Cosigned("it cannot be read"))?;
        let mut live = self.shared.lock();
        live.check_works()?;
        let before = live.cosigned;
        let is_newer = cosigned.map_or(Ok(false), |cosigned| live.cosign(cosigned))?;
        let stated = live.state(statement);
        match stated {
            Ok(stated) => {
                self.enqueue(&mut live, What::Note(Kind::Statement, statement.to_vec()));
                self.enqueue_cosigned(&mut live, cosigned.filter(|_| is_newer));
                Ok(Taken::New(Box::new(stated)))
            }
            Err(LedgerError::Statement(StatementError::Gap { expected, found })) if found < expected => {
                self.enqueue_cosigned(&mut live, cosigned.filter(|_| is_newer));
                Ok(Taken::Known)
            }
            Err(error) => {
                live.cosigned = before;
                Err(error)
            }
        }
    }

    fn enqueue_cosigned(&self, live: &mut Live, cosigned: Option<Cosigned>) {
        if let Some(cosigned) = cosigned {
            self.enqueue(live, What::Note(Kind::Cosigned, cosigned.encode()));
        }
    }

    /// Takes entries of the fleet's list of keys, from any number on; new ones become leaves.
    /// Returns the list.
    ///
    /// # Errors
    /// They do not continue the list, or do not lead to the key of the join token.
    pub fn take_keys(&self, entries: &[Vec<u8>]) -> Result<KeyList, LedgerError> {
        let mut live = self.shared.lock();
        live.check_works()?;
        let (list, new) = match &live.keys {
            Some(known) => {
                let mut list = known.clone();
                let mut new = Vec::new();
                for entry in entries {
                    if list.append(entry)? == keyhaven_protocol::key_list::Appended::New {
                        new.push(entry.clone());
                    }
                }
                (list, new)
            }
            None => {
                let all = entries.iter().map(Vec::as_slice);
                (KeyList::anchored(live.chain.fleet, &self.shared.trusted_key, all)?, entries.to_vec())
            }
        };
        for entry in new {
            self.enqueue(&mut live, What::Leaf(Box::new(Event::HubKey(entry))));
        }
        live.keys = Some(list.clone());
        Ok(list)
    }

    /// The fleet's keys, as far as they are recorded.
    pub fn keys(&self) -> Option<KeyList> {
        self.shared.lock().keys.clone()
    }

    /// Attempts that were opened, the newest ones, so many at most: none of them is opened again.
    ///
    /// # Errors
    /// The index cannot be asked.
    pub fn seen(&self, most: u32) -> Result<Vec<(CallId, u8)>, LedgerError> {
        let open: Vec<_> = self.shared.lock().attempts.keys().copied().collect();
        let mut seen = self.ask(|reading| reading.newest_attempts(most))?.unwrap_or_default();
        seen.extend(open);
        Ok(seen)
    }

    /// How much is durable, and word of every change.
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.shared.durable.subscribe()
    }

    /// Why the ledger works no more, once it does not.
    pub fn failed(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared.failed.subscribe()
    }

    /// Which chain, where it stands durably, and the newest head of it that the hub cosigned.
    pub fn head(&self) -> (ChainId, Head, Option<Cosigned>) {
        let live = self.shared.lock();
        (live.chain, live.head, live.cosigned)
    }

    /// Leaves that the hub has said nothing about.
    pub fn unacked(&self) -> u64 {
        self.shared.lock().unacked()
    }

    /// What was credited and not paid out.
    pub fn unpaid(&self) -> NanoUsd {
        self.shared.lock().unpaid()
    }

    /// The durable group with this leaf of the newest chain, as it travels; none if there is no
    /// such leaf.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn group_at(&self, leaf: u64) -> Result<Option<Vec<u8>>, LedgerError> {
        let (epoch, place) = {
            let live = self.shared.lock();
            if leaf >= live.head.size {
                return Ok(None);
            }
            (live.chain.epoch, live.groups.range(..=leaf).next_back().map(|(_, place)| *place))
        };
        let held = |place: Option<Place>| {
            let group = place.map(|place| index::group_bytes_at(&*self.disk, place)).transpose()?.flatten();
            Ok::<_, LedgerError>(group.filter(|bytes| group_holds(bytes, leaf)))
        };
        if let Some(group) = held(place)? {
            return Ok(Some(group));
        }
        let place = self.ask(|reading| reading.spot(epoch, leaf))?.flatten().map(|(_, place)| place);
        match held(place)? {
            Some(group) => Ok(Some(group)),
            // The index is behind.
            None => self.find_group(epoch, leaf),
        }
    }

    /// Looks for a group in the log itself.
    fn find_group(&self, epoch: u32, leaf: u64) -> Result<Option<Vec<u8>>, LedgerError> {
        let segments = scan::segments(&*self.disk)?;
        let holds = |segment: &&segment::SegmentId| segment.epoch == epoch && segment.first <= leaf;
        let Some(segment) = segments.iter().rev().find(holds).copied() else { return Ok(None) };
        let mut scan = scan::Scan::new(&*self.disk, vec![segment]).until(self.shared.lock().end);
        loop {
            match scan.step()? {
                scan::Step::Segment(_) => {}
                scan::Step::Entry(entry) => {
                    let group = entry.items.into_iter().find(|(kind, _)| *kind == Kind::Group);
                    if let Some((_, bytes)) = group.filter(|(_, bytes)| group_holds(bytes, leaf)) {
                        return Ok(Some(bytes));
                    }
                }
                scan::Step::End(_) => return Ok(None),
            }
        }
    }

    /// Nothing is taken any more; what waits is still written, and then writer and follower end.
    pub fn close(&self) {
        self.shared.close();
    }

    fn ask<T>(&self, question: impl FnOnce(&Reading<'_>) -> Result<T, LedgerError>) -> Result<Option<T>, LedgerError> {
        let Some(file) = &self.shared.index_file else { return Ok(None) };
        let connection = index::open_beside(file)?;
        question(&Reading::new(&connection)).map(Some)
    }

    fn enqueue(&self, live: &mut Live, what: What) -> Pending {
        let (tell, told) = oneshot::channel();
        if matches!(what, What::Leaf(_)) {
            live.leaves_waiting += 1;
        }
        live.waiting.push_back(Waiting { what, told: Some(tell) });
        self.shared.work.notify_one();
        Pending { told, shared: self.shared.clone() }
    }
}

impl Pending {
    /// Waits until the leaf is durable: which one it is.
    ///
    /// # Errors
    /// It may not be durable, and nothing more will be.
    pub async fn durable(self) -> Result<LeafId, LedgerError> {
        match self.told.await {
            Ok(told) => told,
            Err(_) => Err(self.shared.why_not()),
        }
    }

    /// Whether it is durable already.
    ///
    /// # Errors
    /// As [`Self::durable`].
    pub fn is_durable(&mut self) -> Result<Option<LeafId>, LedgerError> {
        match self.told.try_recv() {
            Ok(told) => told.map(Some),
            Err(oneshot::error::TryRecvError::Empty) => Ok(None),
            Err(oneshot::error::TryRecvError::Closed) => Err(self.shared.why_not()),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something waits to be written; not once it is closed and nothing does.
    fn wait_for_work(&self) -> bool {
        let mut live = self.lock();
        while live.waiting.is_empty() && !live.is_closing {
            live = self.work.wait(live).unwrap_or_else(PoisonError::into_inner);
        }
        !live.waiting.is_empty()
    }

    /// What goes into the next entry.
    fn take_waiting(&self) -> Option<Vec<Waiting>> {
        let mut live = self.lock();
        let batch = writer::next_batch(&mut live);
        if batch.is_empty() {
            return None;
        }
        live.writing_since = Some(Instant::now());
        Some(batch)
    }

    /// Whether nothing is left to be written, and nothing comes any more.
    fn is_done(&self) -> bool {
        let live = self.lock();
        live.failed.is_some() || (live.is_closing && live.waiting.is_empty())
    }

    fn put_back(&self, waiting: VecDeque<Waiting>) {
        let mut live = self.lock();
        let later = std::mem::replace(&mut live.waiting, waiting);
        live.waiting.extend(later);
    }

    fn tell_durable(&self, epoch: u32, size: u64) {
        self.durable.send_replace(Durable { epoch, size });
        self.written.notify_all();
    }

    /// Nothing is taken any more, and whoever waits is told.
    fn fail(&self, error: &LedgerError) {
        let why: Arc<str> = error.to_string().into();
        let mut live = self.lock();
        live.failed = Some(why.clone());
        live.is_closing = true;
        live.writing_since = None;
        let waiting = std::mem::take(&mut live.waiting);
        drop(live);
        // Dropped after the reason is there for whoever is woken by it.
        drop(waiting);
        self.failed.send_replace(Some(why));
        self.written.notify_all();
    }

    fn close(&self) {
        self.lock().is_closing = true;
        self.work.notify_all();
        self.written.notify_all();
    }

    fn why_not(&self) -> LedgerError {
        self.lock().check_works().err().unwrap_or(LedgerError::Closed)
    }
}

fn group_holds(bytes: &[u8], leaf: u64) -> bool {
    keyhaven_protocol::chain::Group::decode(bytes).is_ok_and(|group| (group.first()..group.end()).contains(&leaf))
}
