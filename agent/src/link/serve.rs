//! Keeps a link up: dials with backoff, serves its streams, dials again; on DRAIN it dials
//! the replacement while the old link finishes.
//!
//! Invariant: the task of a link ends with the link, and every stream it opened is served
//! or refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::link;
use keyhaven_daemon::link::LinkEnd;
use keyhaven_daemon::link::LinkEvents;
use keyhaven_daemon::link::LinkHandle;
use keyhaven_daemon::link::LinkStream;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Drain;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::Keys;
use keyhaven_protocol::frame::PriceParts;
use keyhaven_protocol::frame::Prices;
use keyhaven_protocol::frame::Withdraw;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::link::AbortCounts;
use keyhaven_protocol::link::Counters;
use keyhaven_protocol::link::Limits;
use keyhaven_protocol::link::LinkFault;
use keyhaven_protocol::link::Side;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::error;
use tracing::info;
use tracing::warn;

use super::backoff::Backoff;
use super::dial::Caller;
use super::dial::Dialled;
use super::dial::LinkError;
use super::dial::dial;
use crate::hub_keys::HubKeys;
use crate::offers::Offers;
use crate::prices::Parcel;
use crate::prices::PriceStore;
use crate::provider::Egress;
use crate::relay::Relay;
use crate::status::LinkState;
use crate::status::LinkStatus;
use crate::status::Traffic;
use crate::vault::running::SharedVault;

/// A link that lived so long was good.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// What a link may take to tell the hub of the calls that the end of the agent cut off.
const LAST_WORDS_TIME_MAX: Duration = Duration::from_secs(2);

/// Price tables that came over a link and wait for the disk. A hub sends a few at most.
const PARCELS_MAX: usize = 8;

/// Everything that keeps the link up.
pub struct Linker {
    /// Who this agent is, and its keys.
    pub vault: SharedVault,
    /// What it can reach.
    pub egress: Egress,
    /// What serves its calls.
    pub relay: Arc<Relay>,
    /// What it offers.
    pub offers: Offers,
    /// The keys that its hub signs with.
    pub hub_keys: HubKeys,
    /// The price tables that its calls may name.
    pub prices: PriceStore,
    /// How it looks from outside.
    pub view: LinkView,
    /// The waits between attempts: first and most.
    pub backoff: (Duration, Duration),
    /// What a link may take to finish its calls when the agent stops.
    pub drain_grace: Duration,
    /// This start of the process.
    pub instance: Hex<16>,
    /// Where its tasks live.
    pub tasks: Tasks,
}

/// The link as `status.json` shows it. Clones share it.
#[derive(Clone)]
pub struct LinkView {
    shared: Arc<Mutex<View>>,
    changed: Arc<Notify>,
}

struct View {
    state: LinkState,
    since_unix_ms: u64,
    last_error: Option<ErrorCode>,
    handle: Option<LinkHandle>,
}

impl Default for LinkView {
    fn default() -> Self {
        let view = View { state: LinkState::Connecting, since_unix_ms: unix_ms_now(), last_error: None, handle: None };
        Self { shared: Arc::new(Mutex::new(view)), changed: Arc::default() }
    }
}

impl LinkView {
    /// The link's state now.
    pub fn status(&self) -> LinkStatus {
        let view = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let stats = view.handle.as_ref().map(LinkHandle::stats);
        LinkStatus {
            state: view.state,
            since_unix_ms: view.since_unix_ms,
            last_error: view.last_error.map(|code| code.to_string()),
            rtt_us: stats.and_then(|stats| stats.rtt_micros),
            streams: stats.map_or(0, |stats| u32::try_from(stats.streams).unwrap_or(u32::MAX)),
            traffic: stats.map(|stats| traffic(&stats.counters)),
        }
    }

    /// Waits until something happened since this returned last: the link came or went, a frame
    /// of the link itself came, a call began. What calls do later is not told.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn tell_change(&self) {
        self.changed.notify_one();
    }

    fn set(&self, state: LinkState, error: Option<ErrorCode>, handle: Option<LinkHandle>) {
        let mut view = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if view.state != state {
            view.since_unix_ms = unix_ms_now();
        }
        view.state = state;
        view.last_error = match state {
            LinkState::Linked => None,
            LinkState::Connecting | LinkState::Draining => error.or(view.last_error),
        };
        view.handle = handle;
        drop(view);
        self.tell_change();
    }
}

fn traffic(counters: &Counters) -> Traffic {
    let by_reason = |counts: &AbortCounts| {
        let counted = counts.iter().filter(|(_, count)| *count > 0);
        counted.map(|(reason, count)| (reason.name().to_owned(), count)).collect()
    };
    Traffic {
        opened: counters.opened,
        opens_refused: counters.opens_refused,
        sent_bytes: counters.data_sent_bytes,
        received_bytes: counters.data_received_bytes,
        credit_stalls: counters.credit_stalls,
        queue_delay_last_us: counters.queue_delay.last_micros,
        queue_delay_mean_us: counters.queue_delay.mean_micros,
        queue_delay_max_us: counters.queue_delay.max_micros,
        aborts_sent: by_reason(&counters.aborts_sent),
        aborts_received: by_reason(&counters.aborts_received),
    }
}

/// What the task of a link tells the one that dials.
enum News {
    Drains(Duration),
    Ended(LinkEnd, Duration),
}

impl Linker {
    /// Keeps a link up until the agent drains.
    ///
    /// # Errors
    /// When the hub says that trying again is of no use.
    pub async fn run(self: Arc<Self>) -> Result<(), Failure> {
        let draining = self.tasks.draining();
        let mut backoff = Backoff::new(self.backoff.0, self.backoff.1);
        loop {
            let mut asked = Duration::ZERO;
            let dialled = tokio::select! {
                biased;
                () = draining.cancelled() => return Ok(()),
                dialled = self.dial() => dialled,
            };
            match dialled {
                Ok(dialled) => {
                    let Some(news) = self.live(dialled).await else { return Ok(()) };
                    let (lived, drains) = match news {
                        News::Drains(lived) => (lived, true),
                        News::Ended(end, lived) => {
                            asked = self.say_ended(end)?;
                            (lived, false)
                        }
                    };
                    if lived >= GOOD_AFTER {
                        backoff.reset();
                        if drains {
                            // The replacement comes up while the old link still works.
                            continue;
                        }
                    }
                }
                Err(error) if error.is_final() => return Err(error.into()),
                Err(error) => {
                    warn!(error.code = %error.code(), "no link to the hub: {error}");
                    self.view.set(LinkState::Connecting, Some(error.code()), None);
                    asked = error.retry_after();
                }
            }
            // Without random bytes the wait is the shortest, which is safe, only less polite.
            let wait = backoff.next(getrandom::u64().unwrap_or_default()).max(asked);
            tokio::select! {
                biased;
                () = draining.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn dial(&self) -> Result<Dialled, LinkError> {
        let (identity, key) = {
            let vault = self.vault.read();
            let identity =
                vault.identity().ok_or_else(|| LinkError::Protocol("the vault holds no identity".to_owned()))?;
            let key = vault.signing_key().map_err(|error| LinkError::Protocol(error.to_string()))?;
            (identity, key)
        };
        let caller = Caller { identity: &identity, key: &key, egress: self.egress.declared(), instance: self.instance };
        dial(caller, None).await
    }

    /// Serves a link in a task of its own; returns when a replacement is wanted, or with
    /// none when the agent drains and the link is done.
    async fn live(self: &Arc<Self>, dialled: Dialled) -> Option<News> {
        let limits = Limits::default();
        let handle = LinkHandle::new(Side::Agent, limits);
        let (sender, mut news) = mpsc::channel(4);
        info!(link.id = dialled.welcome.link, "linked to the hub");
        self.view.set(LinkState::Linked, None, Some(handle.clone()));
        self.tasks.spawn("link", serve(self.clone(), dialled, handle.clone(), sender));
        let draining = self.tasks.draining();
        tokio::select! {
            biased;
            () = draining.cancelled() => {
                self.view.set(LinkState::Draining, None, Some(handle));
                None
            }
            news = news.recv() => {
                let news = news.unwrap_or(News::Ended(LinkEnd::Closed, Duration::ZERO));
                let handle = matches!(news, News::Drains(_)).then_some(handle);
                self.view.set(LinkState::Connecting, None, handle);
                Some(news)
            }
        }
    }

    /// Notes how a link ended. Returns how long the hub asked to be left alone.
    fn say_ended(&self, end: LinkEnd) -> Result<Duration, Failure> {
        let why = end.to_string();
        let (code, asked) = match end {
            LinkEnd::Refused(refuse) => {
                let refused = LinkError::refused(refuse);
                (refused.code(), refused.retry_after())
            }
            LinkEnd::Fault(_) | LinkEnd::WebSocket(_) => (ErrorCode::LinkProtocol, Duration::ZERO),
            LinkEnd::Closed | LinkEnd::ClosedByPeer | LinkEnd::Silent(_) | LinkEnd::Socket(_) => {
                (ErrorCode::HubUnreachable, Duration::ZERO)
            }
        };
        warn!(error.code = %code, "the link ended: {why}");
        if code == ErrorCode::AgentRevoked {
            return Err(Failure::new(code, ""));
        }
        self.view.set(LinkState::Connecting, Some(code), None);
        Ok(asked)
    }
}

/// The task of one link.
async fn serve(linker: Arc<Linker>, dialled: Dialled, handle: LinkHandle, news: mpsc::Sender<News>) {
    let began = Instant::now();
    let (parcels, arriving) = mpsc::channel(PARCELS_MAX);
    let (keys_news, keys_to_save) = mpsc::channel(1);
    let parts = PriceParts::default();
    let events = Events { linker: linker.clone(), news: news.clone(), began, parts, parcels, keys_news };
    let keep_keys = keep_keys(&linker.hub_keys, keys_to_save);
    // First what is held, then what is offered: the hub sells nothing where its prices are not known.
    let say_held = say_held(&linker.prices, &handle);
    let keep_prices = keep_prices(&linker.prices, arriving);
    let keep_offers = offer(&linker.offers, &handle);
    let obey = async {
        linker.tasks.draining().cancelled().await;
        handle.drain(&Drain { deadline_ms: u64::try_from(linker.drain_grace.as_millis()).unwrap_or(u64::MAX) });
        linker.tasks.stopping().cancelled().await;
        // What is left is aborted now, and the link closes when the hub has heard of it; a
        // hub that does not listen is not waited for.
        tokio::time::sleep(LAST_WORDS_TIME_MAX).await;
        handle.close();
    };
    let others = async { tokio::join!(keep_keys, say_held, keep_prices, keep_offers, obey) };
    let end = tokio::select! {
        end = link::run(dialled.socket, &handle, events) => end,
        _ = others => LinkEnd::Closed,
    };
    // Nobody listens any more when this link was replaced or the agent drains.
    let _ = news.send(News::Ended(end, began.elapsed())).await;
}

/// Sends what is offered, now and whenever it changes.
async fn offer(offers: &Offers, handle: &LinkHandle) {
    let mut changed = offers.changed();
    let mut offered: HashMap<VendorKeyId, Bytes> = HashMap::new();
    loop {
        let now: HashMap<VendorKeyId, Bytes> = offers.frames().into_iter().collect();
        for gone in offered.keys().filter(|key| !now.contains_key(key)) {
            handle.send_control(FrameKind::Withdraw, &to_json(&Withdraw { vendor_key: *gone }));
        }
        for (_, payload) in now.iter().filter(|(key, payload)| offered.get(key) != Some(payload)) {
            handle.send_control(FrameKind::Offer, payload);
        }
        offered = now;
        if changed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Says which price tables are held, now and whenever one came.
async fn say_held(prices: &PriceStore, handle: &LinkHandle) {
    let mut changed = prices.changed();
    loop {
        handle.send_control(FrameKind::Prices, &Prices::Held(prices.held()).encode());
        if changed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Takes the tables that come, one after the other.
async fn keep_prices(prices: &PriceStore, mut arriving: mpsc::Receiver<Parcel>) {
    while let Some(parcel) = arriving.recv().await {
        let (prices, version) = (prices.clone(), parcel.table.version);
        match tokio::task::spawn_blocking(move || prices.keep(&parcel)).await {
            Ok(Ok(())) => info!("prices of version {version} are known here"),
            Ok(Err(error)) => warn!("{error}"),
            Err(error) => warn!("the price table {version} was not taken: {error}"),
        }
    }
    std::future::pending().await
}

/// Writes the hub's keys down whenever there are new ones.
async fn keep_keys(hub_keys: &HubKeys, mut news: mpsc::Receiver<()>) {
    while let Some(()) = news.recv().await {
        let keys = hub_keys.clone();
        match tokio::task::spawn_blocking(move || keys.save()).await {
            Ok(Ok(())) => info!("the hub's signing keys are written down"),
            // They hold in memory, and the hub says them again on the next link.
            Ok(Err(error)) => warn!("{error}"),
            Err(error) => warn!("the hub's signing keys were not written down: {error}"),
        }
    }
    std::future::pending().await
}

struct Events {
    linker: Arc<Linker>,
    news: mpsc::Sender<News>,
    began: Instant,
    parts: PriceParts,
    parcels: mpsc::Sender<Parcel>,
    /// There are new keys to write down. Full means that this will be done.
    keys_news: mpsc::Sender<()>,
}

impl LinkEvents for Events {
    fn opened(&mut self, stream: LinkStream, open: Bytes) {
        self.linker.view.tell_change();
        let relay = self.linker.relay.clone();
        // Its state is kilobytes, which spawning would copy several times.
        self.linker.tasks.spawn("call", Box::pin(relay.serve(stream, open)));
    }

    fn control(&mut self, frame: &Frame) -> Result<(), LinkFault> {
        // Answers to pings above all: a round trip was measured.
        self.linker.view.tell_change();
        if frame.kind == FrameKind::Keys.number() {
            let keys = Keys::decode(&frame.payload).map_err(|_| LinkFault::Malformed(FrameKind::Keys))?;
            self.take_keys(&keys);
            return Ok(());
        }
        if frame.kind != FrameKind::Prices.number() {
            return Ok(());
        }
        let malformed = |_| LinkFault::Malformed(FrameKind::Prices);
        let part = match Prices::decode(frame.payload.clone()).map_err(malformed)? {
            Prices::Part(part) => part,
            Prices::Held(_) => return Err(LinkFault::Misplaced(FrameKind::Prices)),
        };
        if let Some((table, signature, packed)) = self.parts.take(part).map_err(malformed)? {
            self.parcels.try_send(Parcel { table, signature, packed }).map_err(|_| LinkFault::Flood)?;
        }
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {
        info!("the hub drains this link; dialling a new one");
        // Full means that the one who dials already knows.
        let _ = self.news.try_send(News::Drains(self.began.elapsed()));
    }
}

impl Events {
    /// At once and in memory, so that what these keys sign can be verified when it comes next.
    fn take_keys(&self, keys: &Keys) {
        match self.linker.hub_keys.take(keys) {
            Ok(true) => {
                let _ = self.keys_news.try_send(());
            }
            Ok(false) => {}
            Err(error) => error!(error.code = %error.code(), "{error}"),
        }
    }
}
