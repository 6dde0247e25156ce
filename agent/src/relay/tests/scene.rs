//! A relay between a hub that only opens streams and a vendor that only sends bytes.
//!
//! Invariant: link, TLS and sockets are the real ones; nothing in between is made up.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use http::HeaderMap;
use http::HeaderValue;
use http::header;
use keyhaven_daemon::link;
use keyhaven_daemon::link::LinkEvents;
use keyhaven_daemon::link::LinkHandle;
use keyhaven_daemon::link::LinkStream;
use keyhaven_daemon::link::Socket;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::frame::Drain;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::HeldTable;
use keyhaven_protocol::frame::Keys;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::frame::Receipt;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::id::HubNodeId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::key_list::KeyEntry;
use keyhaven_protocol::link::Incoming;
use keyhaven_protocol::link::Limits;
use keyhaven_protocol::link::LinkFault;
use keyhaven_protocol::link::Side;
use keyhaven_protocol::metering::METER_RULES;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::PicoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::PriceTable;
use keyhaven_protocol::price::Rate;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::price::Sku;
use keyhaven_protocol::price::Surcharges;
use keyhaven_protocol::price::pack;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::provider::endpoint::Endpoint;
use keyhaven_protocol::sealed::ArchiveKey;
use keyhaven_protocol::sealed::Charge;
use keyhaven_protocol::sealed::SealedFor;
use keyhaven_protocol::ticket::Seen as SeenAttempts;
use keyhaven_protocol::ticket::Ticket;
use keyhaven_protocol::usage::Meter;
use keyhaven_protocol::websocket::Role;
use secrecy::SecretString;
use tokio::io::BufReader;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::config::Calls;
use crate::hub_keys::HubKeys;
use crate::offers::Offers;
use crate::orders::Orders;
use crate::prices::Parcel;
use crate::prices::PriceStore;
use crate::provider::VendorClient;
use crate::provider::fake_vendor::FakeVendor;
use crate::provider::fake_vendor::Guest;
use crate::relay::Relay;
use crate::vault::Vault;
use crate::vault::host::Account;
use crate::vault::key::Attestation;
use crate::vault::key::NewKey;
use crate::vault::running::SharedVault;
use crate::vault::unlock::Unlock;

/// Longer than anything here takes.
pub(super) const LONG: Duration = Duration::from_secs(20);

const FLEET: FleetId = FleetId([1; 16]);
pub(super) const AGENT: AgentId = AgentId([5; 16]);

/// A body that every check finds allowed.
pub(super) const QUESTION: &str = r#"{"model":"gpt-5","messages":[]}"#;

/// The begin of an allowed body that any number of letters may follow.
pub(super) const ENDLESS: &str = r#"{"model":"gpt-5","messages":[{"role":"user","content":""#;

pub(super) struct Scene {
    pub(super) vendor: FakeVendor,
    pub(super) hub: LinkHandle,
    pub(super) offers: Offers,
    pub(super) stopping: CancellationToken,
    pub(super) tasks: Tasks,
    /// What the agent says it metered.
    pub(super) receipts: tokio::sync::Mutex<mpsc::Receiver<Receipt>>,
    relay: Arc<Relay>,
    pub(super) key: VendorKeyId,
    calls: AtomicU8,
    vault: SharedVault,
    _dir: tempfile::TempDir,
}

/// What the hub saw of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) status: Option<u16>,
    pub(super) body: String,
    /// `None`: it ended as it should.
    pub(super) broke: Option<AbortReason>,
}

impl Scene {
    pub(super) async fn new() -> Self {
        Self::with(Calls::default()).await
    }

    /// One that waits a second at most in every phase.
    pub(super) async fn impatient() -> Self {
        let calls = Calls {
            vendor_connect_timeout_s: 1,
            vendor_head_timeout_s: 1,
            vendor_idle_timeout_s: 1,
            ..Calls::default()
        };
        Self::with(calls).await
    }

    pub(super) async fn with(calls: Calls) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut vault = Vault::create(dir.path(), &Unlock::KeyFile).unwrap();
        let new = NewKey {
            account: Account::OpenAi,
            label: String::new(),
            secret: SecretString::from("sk-0123456789"),
            attestation: Some(Attestation { text: "mine".to_owned(), at_unix_ms: 0 }),
            added_unix_ms: 0,
        };
        let key = vault.add_key(new).unwrap().id;
        let vault = SharedVault::new(vault);
        let vendor = FakeVendor::listen().await;
        let (offers, stopping, tasks) = (Offers::new(&vault), CancellationToken::new(), Tasks::new());
        let hub_keys = hub_keys(dir.path());
        let prices = prices(dir.path(), hub_keys.clone());
        let tier_floor = Ppm(calls.tier_min_ppm);
        let orders = Orders::new(AGENT, hub_keys, prices.clone(), tier_floor, SeenAttempts::default());
        let relay =
            Relay::new(vault.clone(), &vendor.egress(), calls, offers.clone(), orders, prices, stopping.clone());
        let (sender, receipts) = mpsc::channel(64);
        let hub = link_up(relay.clone(), &tasks, sender);
        let receipts = receipts.into();
        Self { vendor, hub, offers, stopping, tasks, receipts, relay, key, calls: AtomicU8::new(7), vault, _dir: dir }
    }

    /// Follows the vault and asks the vendor, as a running agent does.
    pub(super) fn follow(&self) {
        let client = VendorClient::new(&self.vendor.egress(), LONG);
        self.offers.follow(self.vault.clone(), client, &self.tasks);
    }

    /// A call whose request is yet to be sent.
    pub(super) fn open(&self, body: BodyLength) -> LinkStream {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.open_as(Endpoint::OpenAiChat, None, headers, body)
    }

    pub(super) fn open_as(
        &self,
        endpoint: Endpoint,
        query: Option<&str>,
        headers: HeaderMap,
        body: BodyLength,
    ) -> LinkStream {
        let ticket = self.ticket(endpoint);
        let signed = Bytes::copy_from_slice(ticket.clone().sign(&hub_key()).bytes());
        self.open_by(&ticket, query, headers, body, Some(signed))
    }

    /// An order that this agent takes, for a call of its own.
    pub(super) fn ticket(&self, endpoint: Endpoint) -> Ticket {
        let call = CallId([self.calls.fetch_add(1, Ordering::Relaxed); 16]);
        Ticket { call, endpoint: endpoint.number(), vendor_key: self.key, ..ticket(endpoint) }
    }

    /// The call of an order that came with these bytes in the place of its ticket.
    pub(super) fn open_by(
        &self,
        order: &Ticket,
        query: Option<&str>,
        headers: HeaderMap,
        body: BodyLength,
        ticket: Option<Bytes>,
    ) -> LinkStream {
        let open = OpenHead {
            call: order.call,
            vendor_key: order.vendor_key,
            endpoint: order.endpoint,
            parameter: None,
            query: query.map(str::to_owned),
            body,
            ticket,
            headers,
        };
        self.hub.open(&open).unwrap()
    }

    /// The next receipt, as if it were of the first call.
    pub(super) async fn receipt(&self) -> Receipt {
        let mut receipts = self.receipts.lock().await;
        let receipt = timeout(LONG, receipts.recv()).await.expect("there was no receipt").unwrap();
        Receipt { call: CallId([7; 16]), ..receipt }
    }

    /// A call with its whole request.
    pub(super) fn ask(&self, body: &str) -> LinkStream {
        let call = self.open(BodyLength::Known(body.len() as u64));
        call.send_last(Bytes::copy_from_slice(body.as_bytes()), Bytes::new()).unwrap();
        call
    }

    /// The vendor's side of such a call: a connection on which it was read.
    pub(super) async fn asked(&self) -> Guest {
        let mut guest = self.vendor.accept().await;
        guest.read_head().await;
        guest.read_exact(QUESTION.len()).await;
        guest
    }

    /// What the hub sees when the vendor answers with these bytes and keeps the connection.
    pub(super) async fn answered(&self, answer: &str) -> (Seen, Guest) {
        let call = self.ask(QUESTION);
        let mut guest = self.asked().await;
        guest.say(answer).await;
        (seen(&call).await, guest)
    }

    /// Waits until the agent saw what the vendor did on the connections it keeps.
    pub(super) async fn noticed(&self) {
        let swept = async {
            while self.relay.idle_connections() > 0 {
                self.relay.sweep();
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, swept).await.expect("a connection stays that should not");
    }

    /// Another call is served in order, and whether on this connection.
    pub(super) async fn is_reused(&self, guest: &mut Guest) -> bool {
        let call = self.ask(QUESTION);
        let fine = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine";
        let reused = tokio::select! {
            mut other = self.vendor.accept() => {
                other.read_head().await;
                other.read_exact(QUESTION.len()).await;
                other.say(fine).await;
                false
            }
            true = guest.begins_head() => {
                guest.read_head().await;
                guest.read_exact(QUESTION.len()).await;
                guest.say(fine).await;
                true
            }
        };
        assert_eq!(seen(&call).await, Seen { status: Some(200), body: "fine".to_owned(), broke: None });
        reused
    }
}

/// What the hub sees of a call until it is over.
pub(super) async fn seen(call: &LinkStream) -> Seen {
    let head = match timeout(LONG, call.head()).await.expect("the call never ended") {
        Ok(head) => ResponseHead::decode(head).unwrap(),
        Err(abort) => return refused(abort.reason),
    };
    let (body, broke) = body(call).await;
    Seen { status: Some(head.status.as_u16()), body, broke }
}

/// The body of an answer whose head was seen, and why it did not end as it should.
pub(super) async fn body(call: &LinkStream) -> (String, Option<AbortReason>) {
    let mut body = Vec::new();
    let broke = loop {
        match timeout(LONG, poll_fn(|cx| call.poll_data(cx))).await.expect("the answer never ended") {
            Incoming::Data(data) => body.extend_from_slice(&data),
            Incoming::End(_) => break None,
            Incoming::Aborted(abort) => break Some(abort.reason),
            Incoming::Pending => unreachable!("poll_data waits"),
        }
    };
    (String::from_utf8(body).unwrap(), broke)
}

/// A call that was refused before any head.
pub(super) fn refused(reason: AbortReason) -> Seen {
    Seen { status: None, body: String::new(), broke: Some(reason) }
}

fn link_up(relay: Arc<Relay>, tasks: &Tasks, receipts: mpsc::Sender<Receipt>) -> LinkHandle {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let (hub, agent) = (LinkHandle::new(Side::Hub, Limits::default()), LinkHandle::new(Side::Agent, Limits::default()));
    let hub_socket = Socket::new(BufReader::new(near), Role::Server, Bytes::new());
    let agent_socket = Socket::new(BufReader::new(far), Role::Client, Bytes::new());
    let driven = hub.clone();
    tasks.spawn("hub", async move {
        link::run(hub_socket, &driven, Hub { receipts }).await;
    });
    let events = Serving { relay, tasks: tasks.clone() };
    tasks.spawn("agent", async move {
        link::run(agent_socket, &agent, events).await;
    });
    hub
}

/// What calls are sold by here: $1 for a million tokens in, $2 for a million out.
pub(super) fn price_table() -> PriceTable {
    let rate = |meter, pico_usd| Rate {
        meter,
        tier: ServiceTier::Standard,
        above_input_tokens: 0,
        pico_usd: PicoUsd(pico_usd),
    };
    let sku = Sku {
        context_tokens: Some(100_000),
        output_tokens_max: Some(10_000),
        abort_tokens_per_second: 100,
        rates: vec![rate(Meter::Input, 1_000_000), rate(Meter::Output, 2_000_000)],
        surcharges: Surcharges::NONE,
    };
    let models = ["gpt-5", "gpt-realtime"].map(|model| (model.to_owned(), sku.clone()));
    let models = BTreeMap::from([(Provider::OpenAi, BTreeMap::from(models))]);
    PriceTable { version: 7, valid_from_unix_ms: 0, source: "test".to_owned(), models }
}

/// A ticket of the first call, for which there is no key yet.
pub(super) fn ticket(endpoint: Endpoint) -> Ticket {
    let model = if endpoint == Endpoint::OpenAiRealtime { "gpt-realtime" } else { "gpt-5" };
    let at = SealedFor { fleet: FLEET, call: CallId([7; 16]), attempt: 2 };
    let payer = Charge { account: AccountId([1; 16]), amount: NanoUsd(1) };
    Ticket {
        fleet: FLEET,
        hub_node: HubNodeId([2; 16]),
        boot: BootId([3; 16]),
        signing_key: 0,
        call: at.call,
        attempt: at.attempt,
        agent: AGENT,
        vendor_key: VendorKeyId([0; 16]),
        endpoint: endpoint.number(),
        model: model.to_owned(),
        price_version: 7,
        price_hash: price_table().hash(),
        meter_rules: METER_RULES,
        zone: Ppm(1_150_000),
        tier: Ppm(800_000),
        ceiling: NanoUsd(1_000_000_000),
        deadline_ms: 3_600_000,
        payer: ArchiveKey::new(1, Zeroizing::new([4; 32])).seal_charge(&payer, at, [5; 24]),
    }
}

pub(super) fn hub_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn hub_keys(dir: &std::path::Path) -> HubKeys {
    let (key, root) = (hub_key(), SigningKey::from_bytes(&[2; 32]));
    let entry = KeyEntry::first(FLEET, &root.verifying_key(), &key.verifying_key());
    let entry = entry.encode(&entry.sign(&root), &entry.sign(&key), None);
    let keys = HubKeys::open(&dir.join("hub-keys"), FLEET, &key.verifying_key().to_bytes()).unwrap();
    assert!(keys.take(&Keys { first: 0, entries: vec![entry] }).unwrap());
    keys
}

fn prices(dir: &std::path::Path, hub_keys: HubKeys) -> PriceStore {
    let (key, table) = (hub_key(), price_table());
    let store = PriceStore::open(&dir.join("prices"), hub_keys).unwrap();
    let parcel = Parcel {
        table: HeldTable { version: table.version, hash: table.hash() },
        signature: table.sign(&key),
        packed: pack(&table.encode()).unwrap().into(),
    };
    store.keep(&parcel).unwrap();
    store
}

struct Hub {
    receipts: mpsc::Sender<Receipt>,
}

impl LinkEvents for Hub {
    fn opened(&mut self, _stream: LinkStream, _open: Bytes) {}

    fn control(&mut self, frame: &Frame) -> Result<(), LinkFault> {
        if frame.kind == FrameKind::Receipt.number() {
            let receipt = Receipt::decode(frame.payload.clone()).unwrap();
            // Who does not look at them does not take them.
            let _ = self.receipts.try_send(receipt);
        }
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}

struct Serving {
    relay: Arc<Relay>,
    tasks: Tasks,
}

impl LinkEvents for Serving {
    fn opened(&mut self, stream: LinkStream, open: Bytes) {
        self.tasks.spawn("call", self.relay.clone().serve(stream, open));
    }

    fn control(&mut self, _frame: &Frame) -> Result<(), LinkFault> {
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}
