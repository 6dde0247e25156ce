//! Leaves of agents' ledgers on their way into the books.
//!
//! ```text
//! link ─▶ reader (chain, signatures) ─▶ queue ─▶ the one writer's batch ─▶ statement, cosigned head ─▶ link
//! ```
//!
//! Invariant: nothing is said to an agent that is not committed; a group is in the books as a
//! whole or not at all, and once, however often it comes.

pub(super) mod commit;
mod credit;
mod fork;
mod greet;
pub(super) mod open_leaves;
mod reader;

use std::collections::HashSet;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::key_list::KeyList;
use keyhaven_protocol::leaf::Purpose;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::sealed::ArchiveKey;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;

use super::Books;
use super::Shared;
use super::writer::CrashPoint;
use crate::store::StoreError;

pub use greet::Greeted;
pub use reader::ChainReader;
pub use reader::Read;
pub use reader::ReadError;
pub use reader::VerifiedGroup;

/// Bytes of groups that wait for the writer, of all links together. A link that has more waits
/// for room, and its agent for an ACK.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Answers that wait for one link. Each group has one, and each call that ends late one more.
const ANSWERS_MAX: usize = 4096;

/// What the books sign with in the fleet's name, and what opens who pays.
#[derive(Clone)]
pub struct BookKeys {
    /// The key that signs now; the newest of the list.
    pub signing: SigningKey,
    /// All keys that ever signed.
    pub list: Arc<KeyList>,
    /// What seals charges, and opens payers.
    pub archive: ArchiveKey,
}

/// What the operator decides about leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BookRules {
    /// What is given to each agent on each day, UTC, for work that the hub did not see.
    pub orphan_budget: NanoUsd,
}

/// What the books say of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// So many leaves are in the books, and this is said of them.
    Committed {
        /// The first leaf that is not.
        next: u64,
        /// The statement's number.
        number: u64,
        /// The statement.
        statement: Vec<u8>,
        /// The newest cosigned head.
        cosigned: Vec<u8>,
        /// Leaves of the chain that wait for another statement.
        open_leaves: u64,
    },
    /// The books stand elsewhere than the group begins: go on from there.
    Lost {
        /// The first leaf that they do not have.
        next: u64,
    },
    /// The agent signed another history; the proof is kept, and the agent suspended.
    Forked,
}

/// What is said of one chain, to whoever serves its agent. Dropped, it is said to nobody.
pub struct Answers {
    shared: Arc<Shared>,
    chain: (AgentId, u32),
    number: u64,
    receiver: mpsc::Receiver<Answer>,
}

/// Where answers of a chain go.
pub(super) struct Listener {
    number: u64,
    sender: mpsc::Sender<Answer>,
}

/// Something for the writer, in the order it came.
pub(super) enum Submitted {
    /// A group that goes on from a head.
    Group(VerifiedGroup),
    /// A group that another history has in the place of what the books have.
    Fork(VerifiedGroup),
}

/// A thing for the writer, and the room that it takes.
pub(super) struct Waiting {
    pub(super) what: Submitted,
    _room: OwnedSemaphorePermit,
}

/// Room for what waits.
pub(super) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(QUEUE_BYTES_MAX))
}

impl BookKeys {
    /// The fleet in whose name it is signed.
    pub fn fleet(&self) -> FleetId {
        self.list.fleet()
    }

    /// The chain of an agent's calls.
    pub(super) fn chain(&self, agent: AgentId, epoch: u32) -> ChainId {
        ChainId { fleet: self.fleet(), purpose: Purpose::Calls, agent, epoch }
    }
}

impl std::fmt::Debug for BookKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BookKeys").field("fleet", &self.fleet()).finish_non_exhaustive()
    }
}

impl Books {
    /// Queues a verified group for the books. Waits while too much waits already.
    pub async fn take_in(&self, group: VerifiedGroup) {
        self.shared.submit(Submitted::Group(group)).await;
    }

    /// Queues a verified group that is another history than the books have.
    pub async fn take_fork(&self, group: VerifiedGroup) {
        self.shared.submit(Submitted::Fork(group)).await;
    }

    /// What is said of a chain from now on, here and nowhere else.
    pub fn listen(&self, agent: AgentId, epoch: u32) -> Answers {
        let (sender, receiver) = mpsc::channel(ANSWERS_MAX);
        let mut state = self.shared.lock();
        state.listeners_begun += 1;
        let number = state.listeners_begun;
        state.listeners.insert((agent, epoch), Listener { number, sender });
        drop(state);
        Answers { shared: self.shared.clone(), chain: (agent, epoch), number, receiver }
    }

    /// Statements about a chain from this number on, a few at a time, with the head that is
    /// cosigned now.
    ///
    /// # Errors
    /// The database's.
    pub async fn statements(&self, agent: AgentId, epoch: u32, from: u64) -> Result<Vec<Answer>, StoreError> {
        let store = &self.shared.store;
        let rows = store.statements_from(agent, epoch, from, STATEMENTS_AT_ONCE).await?;
        let Some(chain) = store.chain(agent, epoch).await? else { return Ok(Vec::new()) };
        let answers = rows.into_iter().map(|row| Answer::Committed {
            next: chain.head.size,
            number: row.number,
            statement: row.bytes,
            cosigned: chain.cosigned.clone(),
            open_leaves: chain.open_leaves,
        });
        Ok(answers.collect())
    }
}

/// Statements that are read again at once.
const STATEMENTS_AT_ONCE: u32 = 16;

impl Shared {
    async fn submit(&self, what: Submitted) {
        let (Submitted::Group(group) | Submitted::Fork(group)) = &what;
        let bytes = group.bytes().min(u32::MAX as usize);
        let Ok(room) = self.room.clone().acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)).await else {
            return;
        };
        self.lock().submitted.push_back(Arc::new(Waiting { what, _room: room }));
        self.wake.notify_one();
    }

    /// Says something of a chain to whoever listens. Who does not listen fast enough is cut off,
    /// and comes back to what it missed.
    pub(super) fn answer(&self, agent: AgentId, epoch: u32, answer: Answer) {
        let mut state = self.lock();
        if let Some(listener) = state.listeners.get(&(agent, epoch))
            && listener.sender.try_send(answer).is_err()
        {
            state.listeners.remove(&(agent, epoch));
        }
    }

    /// Ends the writer where a test wants its process to end.
    pub(super) fn crash_at(&self, here: CrashPoint) -> Result<(), StoreError> {
        if self.crash != Some(here) {
            return Ok(());
        }
        self.lock().is_closed = true;
        Err(StoreError::TimedOut { seconds: 0 })
    }

    /// Calls of these that this process has under way, or over and not written yet.
    pub(super) fn busy_among(&self, calls: &[CallId]) -> HashSet<CallId> {
        let state = self.lock();
        calls.iter().copied().filter(|call| state.calls.contains_key(call)).collect()
    }
}

impl Answers {
    /// The next one; none once nobody says anything here any more.
    pub async fn next(&mut self) -> Option<Answer> {
        self.receiver.recv().await
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.listeners.get(&self.chain).is_some_and(|listener| listener.number == self.number) {
            state.listeners.remove(&self.chain);
        }
    }
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answers({}, {})", self.chain.0, self.chain.1)
    }
}

#[cfg(test)]
impl BookKeys {
    /// Keys for tests: always the same.
    pub(crate) fn samples() -> Self {
        use keyhaven_protocol::key_list::KeyEntry;
        let (root, signing) = (SigningKey::from_bytes(&[21; 32]), SigningKey::from_bytes(&[22; 32]));
        let entry = KeyEntry::first(FleetId([1; 16]), &root.verifying_key(), &signing.verifying_key());
        let entry = entry.encode(&entry.sign(&root), &entry.sign(&signing), None);
        let list = Arc::new(KeyList::begin(FleetId([1; 16]), &entry).unwrap());
        Self { signing, list, archive: ArchiveKey::new(1, zeroize::Zeroizing::new([23; 32])) }
    }
}
