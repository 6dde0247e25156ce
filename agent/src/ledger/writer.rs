//! The log's one writer: what waits becomes durable together, under one signature.
//!
//! Invariant: nobody is told that a leaf is durable before its entry was synced, and after the
//! first error nothing is written any more.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use keyhaven_protocol::chain::Chain;
use keyhaven_protocol::chain::ChainError;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::chain::GROUP_LEAVES_BYTES_MAX;
use keyhaven_protocol::chain::GROUP_LEAVES_MAX;
use keyhaven_protocol::chain::Group;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::leaf::EpochReason;
use keyhaven_protocol::leaf::EpochStart;
use keyhaven_protocol::leaf::Event;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Leaf;
use keyhaven_protocol::signing::Hash;
use keyhaven_protocol::statement::Stated;
use tokio::sync::oneshot;
use tracing::error;

use super::LeafId;
use super::Shared;
use super::disk::Disk;
use super::entry;
use super::entry::Kind;
use super::entry::NOTES_MAX;
use super::error::LedgerError;
use super::error::Place;
use super::error::cause_of;
use super::index::Unstated;
use super::live::Attempt;
use super::live::Live;
use super::live::Waiting;
use super::live::What;
use super::log::Log;
use super::segment::Header;

type Told = oneshot::Sender<Result<LeafId, LedgerError>>;

/// What writes the log. Its owner runs it in a thread of its own.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) chain: Chain,
    pub(super) key: SigningKey,
    /// None until the first epoch begins.
    pub(super) log: Option<Log>,
    pub(super) segment_bytes_max: u64,
    pub(super) now_unix_ms: fn() -> u64,
}

/// What becomes durable together.
#[derive(Default)]
struct Batch {
    leaves: Vec<Written>,
    leaves_bytes: usize,
    /// Leaves of it that were waiting.
    waited: usize,
    notes: Vec<(Kind, Vec<u8>)>,
    told: Vec<(Option<u64>, Told)>,
}

/// Whether a leaf found room in its group.
enum Fits {
    /// With this number.
    Yes(u64),
    /// It comes first in the next one.
    No(Box<Event>),
}

/// A leaf, chained.
struct Written {
    bytes: Vec<u8>,
    hash: Hash,
    about: Option<(CallId, u8)>,
    opens: Option<(CallId, u8)>,
}

impl Writer {
    /// Writes until the ledger is closed and nothing waits, or until it fails.
    pub fn run(mut self) {
        while self.shared.wait_for_work() {
            if self.step().is_err() {
                return;
            }
        }
    }

    /// Writes one entry of what waits now; whether there was anything.
    ///
    /// # Errors
    /// The ledger has failed, for good.
    pub fn step(&mut self) -> Result<bool, LedgerError> {
        let Some(waiting) = self.shared.take_waiting() else { return Ok(false) };
        match self.write(waiting) {
            Ok(()) => Ok(true),
            Err(error) => {
                error!("the ledger cannot be written, and no calls are taken: {error}");
                self.shared.fail(&error);
                Err(error)
            }
        }
    }

    fn write(&mut self, waiting: Vec<Waiting>) -> Result<(), LedgerError> {
        let mut batch = Batch::default();
        let mut waiting = waiting.into_iter();
        while let Some(Waiting { what, told }) = waiting.next() {
            let number = match what {
                What::Leaf(event) => match self.chain_up(*event, &mut batch)? {
                    Fits::Yes(number) => {
                        batch.waited += 1;
                        Some(number)
                    }
                    Fits::No(event) => {
                        let left = Waiting { what: What::Leaf(event), told };
                        self.shared.put_back([left].into_iter().chain(waiting).collect());
                        break;
                    }
                },
                What::Note(kind, bytes) => {
                    batch.notes.push((kind, bytes));
                    None
                }
                What::Epoch(reason, at_least) => {
                    self.begin_epoch(reason, at_least, &mut batch)?;
                    Some(0)
                }
            };
            batch.told.extend(told.map(|told| (number, told)));
        }
        let place = self.store(&batch)?;
        self.publish(batch, place);
        Ok(())
    }

    /// Makes the event the chain's next leaf, if the group has room for it.
    fn chain_up(&mut self, event: Event, batch: &mut Batch) -> Result<Fits, ChainError> {
        let before = self.chain.clone();
        let number = before.head().size;
        let attempt = event.attempt();
        let opens = attempt.filter(|_| matches!(event, Event::Open(_)));
        let about = attempt.filter(|_| matches!(event, Event::Close(_) | Event::Adjust(_)));
        let bytes = self.chain.append((self.now_unix_ms)(), event)?;
        if batch.leaves_bytes + bytes.len() > GROUP_LEAVES_BYTES_MAX {
            self.chain = before;
            let leaf = Leaf::decode(&bytes).map_err(|error| ChainError::Unreadable { number, error })?;
            return Ok(Fits::No(Box::new(leaf.event)));
        }
        batch.leaves_bytes += bytes.len();
        batch.leaves.push(Written { bytes, hash: self.chain.head().hash, about, opens });
        Ok(Fits::Yes(number))
    }

    /// Puts the batch into the log, durably: where it begins.
    fn store(&mut self, batch: &Batch) -> Result<Place, LedgerError> {
        let leaves: Vec<Vec<u8>> = batch.leaves.iter().map(|leaf| leaf.bytes.clone()).collect();
        let has_leaves = !leaves.is_empty();
        let group = if has_leaves {
            let signed = Group::sign(&self.chain.id(), &self.key, leaves, self.chain.head());
            let signed = signed.map_err(|error| LedgerError::Failed(format!("a group: {error}").into()))?;
            Some(signed.encode())
        } else {
            None
        };
        let mut items: Vec<(Kind, &[u8])> = group.iter().map(|group| (Kind::Group, group.as_slice())).collect();
        items.extend(batch.notes.iter().map(|(kind, bytes)| (*kind, bytes.as_slice())));
        let entry = entry::encode(&items);
        self.put(&entry, has_leaves, batch).map_err(|error| LedgerError::Failed(cause_of(&error).into()))
    }

    fn put(&mut self, entry: &[u8], has_leaves: bool, batch: &Batch) -> std::io::Result<Place> {
        let before = self.shared.lock().head;
        let chain = self.chain.id();
        // The first leaf of the batch is the first of the epoch: the chain began in this batch.
        let begins = batch.leaves.len() as u64 == self.chain.head().size;
        let before = if begins { Head::EMPTY } else { before };
        let bytes_before = self.log.as_ref().map_or(0, |log| log.end().offset);
        let header = Header { chain, before, bytes_before, key: self.key.verifying_key() };
        match &mut self.log {
            Some(log) if has_leaves && (begins || log.is_full(self.segment_bytes_max)) => log.rotate(&header)?,
            Some(_) => {}
            None => self.log = Some(Log::begin(self.disk.clone(), &header)?),
        }
        let Some(log) = &mut self.log else { unreachable!("it was just begun") };
        log.write(entry, has_leaves)
    }

    fn publish(&self, batch: Batch, place: Place) {
        let (chain, head) = (self.chain.id(), self.chain.head());
        let mut live = self.shared.lock();
        let first = head.size - batch.leaves.len() as u64;
        if !batch.leaves.is_empty() {
            live.groups.insert(first, place);
        }
        for (number, leaf) in (first..).zip(batch.leaves) {
            live.unstated.insert(number, Unstated { hash: leaf.hash, about: leaf.about });
            if let Some(attempt) = leaf.opens.and_then(|opens| live.attempts.get_mut(&opens)) {
                attempt.opened = Some((number, place));
            }
        }
        live.leaves_waiting = live.leaves_waiting.saturating_sub(batch.waited);
        live.head = head;
        live.end = self.log.as_ref().map_or(place, Log::end);
        live.writing_since = None;
        drop(live);
        self.shared.tell_durable(chain.epoch, head.size);
        for (number, told) in batch.told {
            // Who has stopped waiting needs no word.
            let _ = told.send(Ok(LeafId { epoch: chain.epoch, number: number.unwrap_or(head.size) }));
        }
    }

    /// Goes over to a new chain. What the hub has not stated is said again there, so that it can
    /// still be paid: the leaves that the hub lacks have numbers that it never heard of.
    fn begin_epoch(&mut self, reason: EpochReason, at_least: u32, batch: &mut Batch) -> Result<(), LedgerError> {
        let (old, head) = (self.chain.id(), self.chain.head());
        let is_first = head == Head::EMPTY;
        let epoch = if is_first { at_least } else { old.epoch.saturating_add(1).max(at_least) };
        let again = self.said_again()?;
        self.chain = Chain::new(ChainId { epoch, ..old });
        let start = EpochStart {
            fleet: old.fleet,
            purpose: old.purpose,
            key: Hex(self.key.verifying_key().to_bytes()),
            reason,
            previous: (!is_first).then_some((old.epoch, head)),
        };
        self.chain_up(Event::Epoch(start), batch)?;
        let mut live = self.shared.lock();
        live.chain = self.chain.id();
        (live.stated, live.cosigned) = (Stated::NOTHING, None);
        live.unstated.clear();
        live.groups.clear();
        live.leaves_waiting += again.len();
        for event in again.into_iter().rev() {
            live.waiting.push_front(Waiting { what: What::Leaf(Box::new(event)), told: None });
        }
        Ok(())
    }

    /// OPEN, and CLOSE where there is one, of every attempt whose end is not settled, in order.
    fn said_again(&self) -> Result<Vec<Event>, LedgerError> {
        let (attempts, groups, unstated) = {
            let live = self.shared.lock();
            (live.attempts.clone(), live.groups.clone(), live.unstated.clone())
        };
        let mut opened: Vec<((CallId, u8), Attempt, u64, Place)> = attempts
            .into_iter()
            .filter_map(|(key, attempt)| attempt.opened.map(|(number, place)| (key, attempt, number, place)))
            .collect();
        opened.sort_unstable_by_key(|(_, _, number, _)| *number);
        let mut events = Vec::new();
        for (key, attempt, number, place) in opened {
            events.extend(self.event_at(place, number)?);
            let close = unstated.iter().find(|(_, leaf)| attempt.is_closed && leaf.about == Some(key));
            let place =
                close.and_then(|(close, _)| groups.range(..=*close).next_back().map(|(_, place)| (*close, *place)));
            if let Some((number, place)) = place {
                events.extend(self.event_at(place, number)?);
            }
        }
        Ok(events)
    }

    fn event_at(&self, place: Place, number: u64) -> Result<Option<Event>, LedgerError> {
        let group = super::index::group_at(&*self.disk, place)?;
        let leaf = group
            .as_ref()
            .and_then(|group| group.leaves().get(usize::try_from(number.checked_sub(group.first())?).ok()?));
        Ok(leaf.and_then(|leaf| Leaf::decode(leaf).ok()).map(|leaf| leaf.event))
    }
}

impl Drop for Writer {
    /// Whoever waits for a writer that is gone, for whatever reason, is told.
    fn drop(&mut self) {
        if !self.shared.is_done() {
            self.shared.fail(&LedgerError::Failed("the ledger's writer has ended".into()));
        }
    }
}

/// What goes into one entry, from the front of what waits.
pub(super) fn next_batch(live: &mut Live) -> Vec<Waiting> {
    let (mut batch, mut leaves, mut notes) = (Vec::new(), 0, 0);
    while let Some(next) = live.waiting.front() {
        match &next.what {
            What::Leaf(_) => leaves += 1,
            What::Note(..) => notes += 1,
            // A chain begins with an entry of its own.
            What::Epoch(..) if batch.is_empty() => leaves = GROUP_LEAVES_MAX,
            What::Epoch(..) => break,
        }
        if leaves > GROUP_LEAVES_MAX || notes > NOTES_MAX {
            break;
        }
        batch.extend(live.waiting.pop_front());
    }
    batch
}
