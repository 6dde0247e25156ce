//! Who may call and who may link, in memory: a snapshot of the database that
//! follows every change within a quarter of a second.
//!
//! Invariant: a lookup never waits for the database unless the key is unknown,
//! and unknown keys together cost at most one query per [`REFRESH_INTERVAL_MIN`].

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::price::Zone;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing::warn;

use crate::api_key;
use crate::key_policy::Payer;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::accounts::Account;
use crate::store::agents::Agent;

/// How often the database is asked for its revision.
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The least time between two questions, however many unknown keys come.
pub const REFRESH_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// How long an unknown key waits for an answer; then it is refused.
const REFRESH_TIME_MAX: Duration = Duration::from_secs(2);

/// How often uses of keys are written down.
const USES_INTERVAL: Duration = Duration::from_secs(5);

/// The snapshot and the task that keeps it fresh. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

struct Shared {
    snapshot: RwLock<Arc<Snapshot>>,
    /// The revision of the snapshot; agents' links watch it.
    changed: watch::Sender<u64>,
    /// Somebody wants a refresh before the next poll.
    wanted: Notify,
    /// Refreshes begun, and refreshes ended: who asks for one must not be
    /// answered by one that had already begun.
    begun: AtomicU64,
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct Snapshot {
    revision: u64,
    keys: HashMap<[u8; 32], Arc<KnownKey>>,
    agents: HashMap<AgentId, Arc<Agent>>,
}

struct KnownKey {
    payer: Arc<Payer>,
    revoked: bool,
    /// When it was last used; 0 is never since the last writing. Every snapshot
    /// has the same one, so that no use is lost when a new snapshot comes.
    used_unix_ms: Arc<AtomicU64>,
}

impl Directory {
    /// Reads the database once and follows it in a task from then on.
    ///
    /// # Errors
    /// The first reading failed.
    pub async fn start(store: Store, tasks: &Tasks) -> Result<Self, StoreError> {
        Self::start_writing_every(USES_INTERVAL, store, tasks).await
    }

    async fn start_writing_every(uses_interval: Duration, store: Store, tasks: &Tasks) -> Result<Self, StoreError> {
        let snapshot = read(&store, &Snapshot::default()).await?;
        let shared = Arc::new(Shared {
            changed: watch::Sender::new(snapshot.revision),
            snapshot: RwLock::new(Arc::new(snapshot)),
            wanted: Notify::new(),
            begun: AtomicU64::new(0),
            ended: watch::Sender::new(0),
        });
        let directory = Self { shared };
        let follower = directory.clone();
        tasks.spawn_until_stop("directory", follower.follow(store.clone(), tasks.stopping()));
        // Apart from the follower: a writer waits for other writers, a revocation must not.
        let writer = directory.clone();
        tasks.spawn_until_stop("uses-of-keys", writer.write_uses(uses_interval, store, tasks.stopping()));
        Ok(directory)
    }

    /// Who pays for calls of this key, if it is good. A key made a moment ago is
    /// good at once: an unknown one is looked for in the database first. What the
    /// key may do is the payer's to say.
    pub async fn authenticate(&self, key: &str) -> Option<Arc<Payer>> {
        let hash = api_key::hash_of_presented(key)?;
        let known = match self.key(&hash) {
            Some(known) => known,
            None => {
                self.refresh().await;
                self.key(&hash)?
            }
        };
        if known.revoked {
            return None;
        }
        known.used_unix_ms.store(unix_ms_now(), Ordering::Relaxed);
        Some(known.payer.clone())
    }

    /// One agent, as of the last change. Its `last_seen_unix_ms` may be older.
    pub fn agent(&self, id: AgentId) -> Option<Arc<Agent>> {
        self.snapshot().agents.get(&id).cloned()
    }

    /// All agents, in no particular order.
    pub fn agents(&self) -> Vec<Arc<Agent>> {
        self.snapshot().agents.values().cloned().collect()
    }

    /// Changes whenever the snapshot did; its value is the revision.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Waits until the snapshot is as new as this call, or for two seconds.
    pub async fn refresh(&self) {
        let wanted = self.shared.begun.load(Ordering::SeqCst) + 1;
        let mut ended = self.shared.ended.subscribe();
        self.shared.wanted.notify_one();
        // Neither a database that hangs nor a hub that stops is the caller's
        // to handle: it goes on with the snapshot that there is.
        let _ = tokio::time::timeout(REFRESH_TIME_MAX, ended.wait_for(|n| *n >= wanted)).await;
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        let guard = self.shared.snapshot.read();
        guard.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn key(&self, hash: &[u8; 32]) -> Option<Arc<KnownKey>> {
        self.snapshot().keys.get(hash).cloned()
    }

    async fn follow(self, store: Store, stop: CancellationToken) {
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut trouble = Trouble::default();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.shared.wanted.notified() => {}
                _ = poll.tick() => {}
            }
            let begun_at = Instant::now();
            trouble.note(self.refresh_once(&store).await);
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(begun_at + REFRESH_INTERVAL_MIN) => {}
            }
        }
    }

    async fn refresh_once(&self, store: &Store) -> Result<(), StoreError> {
        let number = self.shared.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let outcome = self.read_if_changed(store).await;
        self.shared.ended.send_replace(number);
        outcome
    }

    async fn read_if_changed(&self, store: &Store) -> Result<(), StoreError> {
        let old = self.snapshot();
        if store.revision().await? == old.revision {
            return Ok(());
        }
        let new = read(store, &old).await?;
        let revision = new.revision;
        let mut guard = (self.shared.snapshot.write()).unwrap_or_else(PoisonError::into_inner);
        *guard = Arc::new(new);
        drop(guard);
        self.shared.changed.send_replace(revision);
        Ok(())
    }

    async fn write_uses(self, every: Duration, store: Store, stop: CancellationToken) {
        let mut failed = false;
        loop {
            let stopped = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = tokio::time::sleep(every) => false,
            };
            let written = self.write_uses_once(&store).await;
            if let (Err(error), false) = (&written, failed) {
                warn!(%error, "when keys were used last is not written down for now: {error}");
            }
            failed = written.is_err();
            if stopped {
                return;
            }
        }
    }

    /// What cannot be written down is kept for the next time.
    async fn write_uses_once(&self, store: &Store) -> Result<(), StoreError> {
        let snapshot = self.snapshot();
        let taken = snapshot.keys.values().map(|key| (key, key.used_unix_ms.swap(0, Ordering::Relaxed)));
        let taken: Vec<(&Arc<KnownKey>, u64)> = taken.filter(|(_, used_unix_ms)| *used_unix_ms > 0).collect();
        if taken.is_empty() {
            return Ok(());
        }
        let uses: Vec<(ApiKeyId, u64)> =
            taken.iter().map(|(key, used_unix_ms)| (key.payer.key, *used_unix_ms)).collect();
        let written = store.api_keys_used(&uses).await;
        if written.is_err() {
            for (key, used_unix_ms) in taken {
                // A later use may have come meanwhile.
                key.used_unix_ms.fetch_max(used_unix_ms, Ordering::Relaxed);
            }
        }
        written
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.snapshot();
        f.debug_struct("Directory")
            .field("revision", &snapshot.revision)
            .field("keys", &snapshot.keys.len())
            .field("agents", &snapshot.agents.len())
            .finish()
    }
}

/// Says once that the database does not answer, and once that it does again.
#[derive(Default)]
struct Trouble {
    since: Option<Instant>,
}

impl Trouble {
    fn note(&mut self, outcome: Result<(), StoreError>) {
        match (outcome, self.since) {
            (Err(error), None) => {
                warn!(%error, "keys and agents stay as they were last known: {error}");
                self.since = Some(Instant::now());
            }
            (Ok(()), Some(since)) => {
                let outage_s = since.elapsed().as_secs();
                info!(outage_s, "keys and agents follow the database again after {outage_s} s");
                self.since = None;
            }
            (Err(_), Some(_)) | (Ok(()), None) => {}
        }
    }
}

/// The revision is read first: what changes while the rest is read raises it
/// again and is read by the next refresh.
async fn read(store: &Store, old: &Snapshot) -> Result<Snapshot, StoreError> {
    let revision = store.revision().await?;
    let mut snapshot = Snapshot { revision, ..Snapshot::default() };
    let accounts: HashMap<AccountId, Account> =
        store.accounts().await?.into_iter().map(|account| (account.id, account)).collect();
    for row in store.api_keys().await? {
        let used_unix_ms = old.keys.get(&row.key_hash).map(|key| key.used_unix_ms.clone()).unwrap_or_default();
        let account = accounts.get(&row.account);
        let payer = Payer {
            account: row.account,
            key: row.id,
            zone: account.map_or(Zone::Standard, |account| account.zone),
            is_blocked: account.is_none_or(|account| account.blocked_unix_ms.is_some()),
            policy: row.policy,
        };
        let known = KnownKey { payer: Arc::new(payer), revoked: row.revoked_unix_ms.is_some(), used_unix_ms };
        snapshot.keys.insert(row.key_hash, Arc::new(known));
    }
    for agent in store.agents().await? {
        // Most stay as they were: those are shared, so that they are there once.
        let known = old.agents.get(&agent.id).filter(|known| ***known == agent).cloned();
        snapshot.agents.insert(agent.id, known.unwrap_or_else(|| Arc::new(agent)));
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::id::TokenId;
    use sqlx::ConnectOptions;
    use sqlx::Executor;
    use sqlx::sqlite::SqliteConnectOptions;

    use super::*;
    use crate::api_key::NewApiKey;
    use crate::key_policy::KeyPolicy;
    use crate::store::FILE_NAME;
    use crate::store::accounts::DEFAULT_ACCOUNT;
    use crate::store::agents::AgentState;
    use crate::store::api_keys::ApiKey;
    use crate::store::join_tokens::NewToken;

    #[tokio::test]
    async fn a_key_works_the_moment_it_was_made_and_stops_when_it_is_revoked() {
        let (_dir, store, tasks, directory) = directory().await;
        let key = add_key(&store, 1).await;

        assert_eq!(directory.authenticate(key.reveal()).await.unwrap().key, ApiKeyId([1; 16]));

        let mut changed = directory.changed();
        changed.mark_unchanged();
        store.revoke_api_key(ApiKeyId([1; 16]), 5).await.unwrap();
        changed.changed().await.unwrap();
        assert!(directory.authenticate(key.reveal()).await.is_none());
        tasks.shut_down(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn who_stayed_as_he_was_is_there_once_however_often_the_rest_changes() {
        let (_dir, store, tasks, directory) = directory().await;
        for number in [1, 2] {
            let token = NewToken {
                id: TokenId([number; 16]),
                agent: AgentId([number; 16]),
                secret_hash: [0; 32],
                created_unix_ms: 1,
                expires_unix_ms: 2,
            };
            store.invite_agent(&format!("agent-{number}"), &token).await.unwrap();
        }
        directory.refresh().await;
        let before = [1, 2].map(|number| directory.agent(AgentId([number; 16])).unwrap());

        store.revoke_agent(AgentId([2; 16])).await.unwrap();
        directory.refresh().await;

        let after = [1, 2].map(|number| directory.agent(AgentId([number; 16])).unwrap());
        assert!(Arc::ptr_eq(&before[0], &after[0]));
        assert_eq!(after[1].state, AgentState::Revoked);
        tasks.shut_down(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_revoked_agent_is_seen_by_who_watches() {
        let (_dir, store, tasks, directory) = directory().await;
        let id = AgentId([2; 16]);
        let token =
            NewToken { id: TokenId([2; 16]), agent: id, secret_hash: [0; 32], created_unix_ms: 1, expires_unix_ms: 2 };
        store.invite_agent("office", &token).await.unwrap();
        directory.refresh().await;
        assert_eq!(directory.agent(id).unwrap().state, AgentState::Invited);
        assert_eq!(directory.agents().len(), 1);

        let mut changed = directory.changed();
        changed.mark_unchanged();
        store.revoke_agent(id).await.unwrap();
        changed.changed().await.unwrap();

        assert_eq!(directory.agent(id).unwrap().state, AgentState::Revoked);
        tasks.shut_down(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_flood_of_unknown_keys_does_not_reach_the_database() {
        let (_dir, _store, tasks, directory) = directory().await;
        let begun = Instant::now();

        let keys: Vec<_> = (0..500).map(|_| NewApiKey::generate().unwrap()).collect();
        let asked = keys.iter().map(|key| directory.authenticate(key.reveal()));
        let answers = futures_util::future::join_all(asked).await;

        let refreshes = directory.shared.begun.load(Ordering::SeqCst);
        let most = begun.elapsed().as_millis() / REFRESH_INTERVAL_MIN.as_millis() + 2;
        assert!(answers.iter().all(Option::is_none));
        assert!(u128::from(refreshes) <= most, "{refreshes} of {most}");
        tasks.shut_down(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn what_cannot_be_a_key_asks_nobody() {
        let (_dir, _store, tasks, directory) = directory().await;
        tasks.shut_down(Duration::ZERO).await;
        let begun = Instant::now();

        assert!(directory.authenticate("sk-of-a-vendor").await.is_none());

        assert!(begun.elapsed() < REFRESH_TIME_MAX);
    }

    #[tokio::test]
    async fn uses_are_written_down_by_the_time_the_hub_has_stopped() {
        let (_dir, store, tasks, directory) = directory().await;
        let key = add_key(&store, 1).await;
        directory.authenticate(key.reveal()).await.unwrap();

        tasks.shut_down(Duration::ZERO).await;

        let listed = store.api_keys().await.unwrap();
        assert!(listed[0].last_used_unix_ms.is_some());
    }

    #[tokio::test]
    async fn uses_that_cannot_be_written_down_are_kept_for_the_next_time() {
        let (_dir, store, tasks, directory) = directory().await;
        let [key, _] = [add_key(&store, 1).await, add_key(&store, 2).await];
        directory.refresh().await;
        directory.authenticate(key.reveal()).await.unwrap();
        let known = directory.key(&key.hash()).unwrap();
        let used_unix_ms = known.used_unix_ms.load(Ordering::Relaxed);
        let other = directory.snapshot().keys.values().find(|key| key.payer.key == ApiKeyId([2; 16])).unwrap().clone();
        // No database takes such a time.
        other.used_unix_ms.store(u64::MAX, Ordering::Relaxed);

        let refused = directory.write_uses_once(&store).await;

        assert!(refused.is_err());
        assert_eq!(known.used_unix_ms.load(Ordering::Relaxed), used_unix_ms);
        other.used_unix_ms.store(0, Ordering::Relaxed);
        directory.write_uses_once(&store).await.unwrap();
        assert_eq!(store.api_keys().await.unwrap()[0].last_used_unix_ms, Some(used_unix_ms));
        tasks.shut_down(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_use_between_two_snapshots_is_not_lost() {
        let (_dir, store, tasks, directory) = directory().await;
        let key = add_key(&store, 1).await;
        directory.refresh().await;
        let before = directory.key(&key.hash()).unwrap();

        add_key(&store, 2).await;
        directory.refresh().await;
        before.used_unix_ms.store(7, Ordering::Relaxed);

        assert_eq!(directory.key(&key.hash()).unwrap().used_unix_ms.load(Ordering::Relaxed), 7);
        tasks.shut_down(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_revocation_does_not_wait_for_uses_to_be_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let tasks = Tasks::new();
        let often = Duration::from_millis(10);
        let directory = Directory::start_writing_every(often, store.clone(), &tasks).await.unwrap();
        let [used, revoked] = [add_key(&store, 1).await, add_key(&store, 2).await];
        directory.refresh().await;

        // Another program writes for long, and revokes a key meanwhile.
        let mut other = SqliteConnectOptions::new().filename(dir.path().join(FILE_NAME)).connect().await.unwrap();
        other.execute("BEGIN IMMEDIATE").await.unwrap();
        directory.authenticate(used.reveal()).await.unwrap();
        directory.refresh().await;
        let known = directory.key(&used.hash()).unwrap();
        while known.used_unix_ms.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(often).await;
        }
        other
            .execute("UPDATE api_keys SET revoked_unix_ms = 1 WHERE id = x'02020202020202020202020202020202'")
            .await
            .unwrap();
        other.execute("UPDATE revision SET value = value + 1").await.unwrap();
        other.execute("COMMIT").await.unwrap();
        other.execute("BEGIN IMMEDIATE").await.unwrap();
        let begun = Instant::now();
        let mut changed = directory.changed();
        let seen = changed.wait_for(|revision| *revision >= 3);
        let in_time = tokio::time::timeout(Duration::from_secs(2), seen).await.is_ok();

        assert!(in_time, "{:?}", begun.elapsed());
        assert!(directory.authenticate(revoked.reveal()).await.is_none());
        other.execute("ROLLBACK").await.unwrap();
        tasks.shut_down(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_database_that_is_gone_leaves_the_last_snapshot_in_force() {
        let (_dir, store, tasks, directory) = directory().await;
        let key = add_key(&store, 1).await;
        directory.refresh().await;

        store.close().await;
        directory.refresh().await;

        assert!(directory.authenticate(key.reveal()).await.is_some());
        tasks.shut_down(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn debug_shows_counts_only() {
        let (_dir, store, tasks, directory) = directory().await;
        add_key(&store, 1).await;
        directory.refresh().await;

        assert_eq!(format!("{directory:?}"), "Directory { revision: 1, keys: 1, agents: 0 }");
        tasks.shut_down(Duration::ZERO).await;
    }

    async fn directory() -> (tempfile::TempDir, Store, Tasks, Directory) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let tasks = Tasks::new();
        let directory = Directory::start(store.clone(), &tasks).await.unwrap();
        (dir, store, tasks, directory)
    }

    async fn add_key(store: &Store, n: u8) -> NewApiKey {
        let key = NewApiKey::generate().unwrap();
        let row = ApiKey {
            id: ApiKeyId([n; 16]),
            name: "web".to_owned(),
            account: DEFAULT_ACCOUNT,
            policy: KeyPolicy::default(),
            key_hash: key.hash(),
            masked: key.masked(),
            created_unix_ms: 1,
            revoked_unix_ms: None,
            last_used_unix_ms: None,
        };
        store.insert_api_key(&row).await.unwrap();
        key
    }
}
