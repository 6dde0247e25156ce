//! The prices that calls are sold at: the table in force, those that will be, zones and tiers;
//! in memory, following the database.
//!
//! Invariant: nothing is on the board that the hub did not sign or the operator did not set.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::time::Duration;

use bytes::Bytes;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::HeldTable;
use keyhaven_protocol::frame::PayloadError;
use keyhaven_protocol::frame::parts_of;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::OwnerTier;
use keyhaven_protocol::price::PriceTable;
use keyhaven_protocol::price::TableError;
use keyhaven_protocol::price::Zone;
use keyhaven_protocol::price::pack;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;
use tracing::info;

use super::signed;
use crate::keys::Signer;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::price_tables::Published;

/// How soon the database is read again when it could not be.
const RETRY: Duration = Duration::from_secs(1);

/// So far the clock may be set back without a table in force getting lost.
const CLOCK_STEP_MAX_MS: u64 = 60_000;

/// Why the board cannot be brought up to date; it stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table in it that this hub did not write.
    #[error("the published prices of version {version} cannot be used: {source}")]
    Table {
        /// Its version.
        version: u32,
        /// What is wrong with it.
        #[source]
        source: TableError,
    },
    /// A table that no frame carries.
    #[error("the published prices of version {version} are too long for agents")]
    TooLong {
        /// Its version.
        version: u32,
    },
}

impl From<BoardError> for Failure {
    fn from(error: BoardError) -> Self {
        match error {
            BoardError::Store(error) => error.into(),
            BoardError::Table { .. } | BoardError::TooLong { .. } => {
                Self::new(ErrorCode::StoreFailed, error.to_string())
            }
        }
    }
}

/// A published table.
pub struct Priced {
    /// The prices.
    pub table: PriceTable,
    /// Version and hash: what calls and agents name it by.
    pub named: HeldTable,
    /// The payloads of PRICES that carry it.
    pub parts: Vec<Bytes>,
}

/// The board and the task that keeps it fresh. Cheap to clone.
#[derive(Clone)]
pub struct Prices {
    shared: Arc<Shared>,
}

struct Shared {
    board: RwLock<Arc<Board>>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Board {
    /// The one in force a minute before this was read, and those with a higher version; the newest first.
    tables: Vec<Arc<Priced>>,
    zones: HashMap<Zone, Ppm>,
    tiers: HashMap<OwnerTier, Ppm>,
    agent_tiers: HashMap<AgentId, OwnerTier>,
}

impl Prices {
    /// Reads the database once, and again from then on in a task whenever `revision` changes.
    ///
    /// # Errors
    /// The first reading failed.
    pub async fn start(
        store: Store,
        signer: Signer,
        revision: watch::Receiver<u64>,
        tasks: &Tasks,
    ) -> Result<Self, BoardError> {
        let board = read(&store, &signer, &Board::default(), unix_ms_now()).await?;
        let shared = Arc::new(Shared { board: RwLock::new(Arc::new(board)), changed: watch::Sender::new(()) });
        let prices = Self { shared };
        let stop = tasks.stopping();
        tasks.spawn_until_stop("prices", prices.clone().follow(store, signer, revision, stop));
        Ok(prices)
    }

    /// The table in force: of those whose time has come, the one with the highest version.
    pub fn in_force(&self, now_unix_ms: u64) -> Option<Arc<Priced>> {
        let board = self.board();
        board.tables.iter().find(|priced| priced.table.valid_from_unix_ms <= now_unix_ms).cloned()
    }

    /// What consumers of this zone pay, if it is set.
    pub fn zone(&self, zone: Zone) -> Option<Ppm> {
        self.board().zones.get(&zone).copied()
    }

    /// What the owner of this agent gets, if its tier is set.
    pub fn tier(&self, agent: AgentId) -> Option<Ppm> {
        let board = self.board();
        let tier = board.agent_tiers.get(&agent).copied().unwrap_or(OwnerTier::Standard);
        board.tiers.get(&tier).copied()
    }

    /// The table in force and those that will be: what agents must hold.
    pub fn to_sell_at(&self, now_unix_ms: u64) -> Vec<Arc<Priced>> {
        let board = self.board();
        let newer = board.tables.iter().take_while(|priced| priced.table.valid_from_unix_ms > now_unix_ms);
        // The one in force goes first.
        self.in_force(now_unix_ms).into_iter().chain(newer.cloned()).collect()
    }

    /// When another table comes in force, as far as is known.
    pub fn next_change(&self, now_unix_ms: u64) -> Option<u64> {
        let board = self.board();
        let newer = board.tables.iter().take_while(|priced| priced.table.valid_from_unix_ms > now_unix_ms);
        newer.map(|priced| priced.table.valid_from_unix_ms).min()
    }

    /// Changes whenever something was published or set.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    fn board(&self) -> Arc<Board> {
        self.shared.board.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn follow(self, store: Store, signer: Signer, mut revision: watch::Receiver<u64>, stop: CancellationToken) {
        // What changed while the first board was read is read at once.
        revision.mark_changed();
        let mut failed = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY), if failed => {}
                result = revision.changed() => if result.is_err() { return },
            }
            let board = match read(&store, &signer, &self.board(), unix_ms_now()).await {
                Ok(board) => board,
                Err(error) => {
                    if !failed {
                        error!(%error, "prices, zones and tiers stay as they were last known: {error}");
                    }
                    failed = true;
                    continue;
                }
            };
            if failed {
                info!("prices, zones and tiers follow the database again");
                failed = false;
            }
            if !board.is_like(&self.board()) {
                *self.shared.board.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(board);
                self.shared.changed.send_replace(());
            }
        }
    }
}

impl fmt::Debug for Prices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let board = self.board();
        let versions: Vec<u32> = board.tables.iter().map(|priced| priced.named.version).collect();
        f.debug_struct("Prices").field("versions", &versions).field("zones", &board.zones).finish_non_exhaustive()
    }
}

impl Board {
    fn is_like(&self, other: &Self) -> bool {
        let names = |board: &Self| board.tables.iter().map(|priced| priced.named).collect::<Vec<_>>();
        names(self) == names(other)
            && self.zones == other.zones
            && self.tiers == other.tiers
            && self.agent_tiers == other.agent_tiers
    }
}

/// Tables that are on the old board are not read again: a published one never changes.
async fn read(store: &Store, signer: &Signer, old: &Board, now_unix_ms: u64) -> Result<Board, BoardError> {
    let mut board = Board {
        zones: store.zones().await?.into_iter().collect(),
        tiers: store.tiers().await?.into_iter().collect(),
        agent_tiers: store.agent_tiers().await?.into_iter().collect(),
        ..Board::default()
    };
    for version in store.price_versions().await? {
        let known = old.tables.iter().find(|priced| priced.named.version == version).cloned();
        let priced = match known {
            Some(priced) => priced,
            None => {
                let Some(published) = store.prices(Some(version)).await? else { continue };
                Arc::new(Priced::open(&published, signer)?)
            }
        };
        let is_settled = priced.table.valid_from_unix_ms.saturating_add(CLOCK_STEP_MAX_MS) <= now_unix_ms;
        board.tables.push(priced);
        if is_settled {
            break;
        }
    }
    Ok(board)
}

impl Priced {
    /// The version of the table.
    pub const fn version(&self) -> u32 {
        self.named.version
    }

    /// The hash of the table.
    pub const fn hash(&self) -> Hex<32> {
        self.named.hash
    }

    fn open(published: &Published, signer: &Signer) -> Result<Self, BoardError> {
        let version = published.version;
        let unusable = |source| BoardError::Table { version, source };
        let table = signed::table(published, signer).map_err(unusable)?;
        if table.version != version {
            return Err(unusable(TableError::NotCanonical));
        }
        let named = HeldTable { version, hash: table.hash() };
        let packed = pack(&published.table_bytes).map_err(unusable)?;
        let parts = parts_of(named, table.sign(signer.key()), &packed);
        let parts = parts.map_err(|_: PayloadError| BoardError::TooLong { version })?;
        Ok(Self { table, named, parts })
    }
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::frame::Prices as PricesFrame;
    use keyhaven_protocol::price::unpack_signed;
    use keyhaven_protocol::provider::Provider;

    use super::*;
    use crate::keys::HubKeys;
    use crate::keys::OfflineFiles;

    const AGENT: AgentId = AgentId([3; 16]);

    #[tokio::test]
    async fn nothing_is_in_force_until_its_time_has_come() {
        let house = House::new().await;
        house.publish(1, 100).await;
        house.publish(2, 200).await;
        let prices = house.board(50).await;

        let version = |now| prices.in_force(now).map(|priced| priced.version());
        assert_eq!([99, 100, 199, 200].map(version), [None, Some(1), Some(1), Some(2)]);
        let to_sell_at = |now| prices.to_sell_at(now).iter().map(|priced| priced.version()).collect::<Vec<_>>();
        assert_eq!(to_sell_at(50), [2, 1]);
        assert_eq!(to_sell_at(100), [1, 2], "what is in force goes first");
        assert_eq!(to_sell_at(200), [2]);
        assert_eq!([50, 100, 200].map(|now| prices.next_change(now)), [Some(100), Some(200), None]);
    }

    /// A table that was announced and then taken back by an older one's prices never comes.
    #[tokio::test]
    async fn a_higher_version_in_force_ends_what_was_announced_before_it() {
        let house = House::new().await;
        house.publish(1, 100).await;
        house.publish(2, 500).await;
        house.publish(3, 300).await;
        let prices = house.board(150).await;

        let version = |now| prices.in_force(now).map(|priced| priced.version());
        assert_eq!([299, 300, 499, 500, 9_999].map(version), [Some(1), Some(3), Some(3), Some(3), Some(3)]);
        assert_eq!(prices.next_change(150), Some(300));
        assert_eq!(prices.next_change(300), None, "version 2 is not waited for");
        assert_eq!(prices.to_sell_at(300).len(), 1);
    }

    #[tokio::test]
    async fn tables_before_the_one_in_force_are_not_kept() {
        let house = House::new().await;
        for version in 1..=5 {
            house.publish(version, u64::from(version) * 100_000).await;
        }

        let board = read(&house.store, &house.signer(), &Board::default(), 390_000).await.unwrap();

        let versions: Vec<u32> = board.tables.iter().map(|priced| priced.version()).collect();
        assert_eq!(versions, [5, 4, 3]);
    }

    #[tokio::test]
    async fn zones_and_tiers_are_unset_until_the_operator_sets_them() {
        let house = House::new().await;
        let prices = house.board(1).await;
        assert_eq!((prices.zone(Zone::Standard), prices.tier(AGENT)), (None, None));

        house.store.put_zone(Zone::Standard, Ppm(1_150_000), false).await.unwrap();
        house.store.put_tier(OwnerTier::Standard, Ppm(800_000), false).await.unwrap();
        let prices = house.board(1).await;

        assert_eq!((prices.zone(Zone::Standard), prices.tier(AGENT)), (Some(Ppm(1_150_000)), Some(Ppm(800_000))));
        assert_eq!(prices.zone(Zone::Premium), None);
    }

    #[tokio::test]
    async fn a_running_hub_follows_what_is_published_and_set() {
        let house = House::new().await;
        let revision = watch::Sender::new(0);
        let tasks = Tasks::new();
        let started = Prices::start(house.store.clone(), house.signer(), revision.subscribe(), &tasks).await;
        let prices = started.unwrap();
        let mut changed = prices.changed();

        house.publish(1, 100).await;
        revision.send_replace(1);
        changed.changed().await.unwrap();
        assert_eq!(prices.in_force(100).unwrap().version(), 1);
        house.store.put_zone(Zone::Discount, Ppm(1_000_000), false).await.unwrap();
        revision.send_replace(2);
        changed.changed().await.unwrap();

        assert_eq!(prices.zone(Zone::Discount), Some(Ppm(1_000_000)));
        tasks.shut_down(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_table_that_somebody_else_wrote_is_not_sold_at() {
        let house = House::new().await;
        house.publish(1, 100).await;
        let mut forged = house.published(2, 200);
        forged.signature = [7; 64];
        house.store.publish_prices(&forged).await.unwrap();

        let read = read(&house.store, &house.signer(), &Board::default(), 150).await;

        assert!(matches!(read, Err(BoardError::Table { version: 2, source: TableError::NotSigned })));
    }

    /// What was published before a rotation stays in force, and agents get it by the key that they still take.
    #[tokio::test]
    async fn a_table_of_a_replaced_key_is_sold_at_and_leaves_with_the_signature_of_the_new_one() {
        let mut house = House::new().await;
        house.publish(1, 100).await;
        let root = house.dir.path().join(crate::keys::ROOT_KEY_FILE);
        HubKeys::rotate(house.dir.path(), &root).unwrap();
        house.keys = HubKeys::load(house.dir.path(), None).unwrap();
        house.publish(2, 200).await;

        let board = house.board(150).await.board();

        let versions: Vec<u32> = board.tables.iter().map(|priced| priced.version()).collect();
        assert_eq!(versions, [2, 1]);
        let key = house.keys.signing_key().verifying_key();
        for priced in &board.tables {
            let Ok(PricesFrame::Part(part)) = PricesFrame::decode(priced.parts[0].clone()) else { panic!("a part") };
            assert!(unpack_signed(&part.bytes, &part.signature, &key).is_ok(), "{}", priced.version());
        }
    }

    struct House {
        dir: tempfile::TempDir,
        store: Store,
        keys: HubKeys,
    }

    impl House {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            HubKeys::init(dir.path(), OfflineFiles::default()).unwrap();
            let (store, keys) = (Store::open(dir.path()).await.unwrap(), HubKeys::load(dir.path(), None).unwrap());
            Self { dir, store, keys }
        }

        fn signer(&self) -> Signer {
            self.keys.signer().clone()
        }

        fn published(&self, version: u32, valid_from_unix_ms: u64) -> Published {
            let models = [(Provider::OpenAi, Default::default())].into();
            let table = PriceTable { version, valid_from_unix_ms, source: "test".to_owned(), models };
            Published {
                version,
                hash: table.hash().0,
                table_bytes: table.encode(),
                signature: table.sign(self.keys.signing_key()),
                published_unix_ms: 1,
            }
        }

        async fn publish(&self, version: u32, valid_from_unix_ms: u64) {
            self.store.publish_prices(&self.published(version, valid_from_unix_ms)).await.unwrap();
        }

        async fn board(&self, now_unix_ms: u64) -> Prices {
            let board = read(&self.store, &self.signer(), &Board::default(), now_unix_ms).await.unwrap();
            let shared = Shared { board: RwLock::new(Arc::new(board)), changed: watch::Sender::new(()) };
            Prices { shared: Arc::new(shared) }
        }
    }
}
