//! A gateway on a free port, agents that do what the test says, and consumers.
//!
//! Invariant: every scene has a database, a roster and a port of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;
use keyhaven_daemon::link::LinkEvents;
use keyhaven_daemon::link::LinkHandle;
use keyhaven_daemon::link::LinkStream;
use keyhaven_daemon::link::Socket;
use keyhaven_daemon::link::run;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::Drain;
use keyhaven_protocol::frame::Egress;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::link::Incoming;
use keyhaven_protocol::link::Limits;
use keyhaven_protocol::link::LinkFault;
use keyhaven_protocol::link::Side;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::OwnerTier;
use keyhaven_protocol::price::Zone;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::websocket::Role;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use tokio::sync::mpsc;

use crate::agent_gateway::Entering;
use crate::agent_gateway::LiveLink;
use crate::agent_gateway::Roster;
use crate::api_key::NewApiKey;
use crate::config::Config;
use crate::directory::Directory;
use crate::key_policy::KeyPolicy;
use crate::keys::HubKeys;
use crate::keys::OfflineFiles;
use crate::pricing::board::Prices;
use crate::pricing::book::Begins;
use crate::pricing::book::PriceBook;
use crate::settlement::BookKeys;
use crate::settlement::BookRules;
use crate::settlement::Books;
use crate::settlement::Others;
use crate::settlement::deposit;
use crate::store::Store;
use crate::store::accounts::DEFAULT_ACCOUNT;
use crate::store::accounts::Deposit;
use crate::store::api_keys::ApiKey;
use crate::user_gateway::CallSummary;
use crate::user_gateway::Till;
use crate::user_gateway::UserGateway;

/// Nothing in these tests takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Scene {
    pub(super) gateway: Arc<UserGateway>,
    pub(super) keys: Arc<HubKeys>,
    pub(super) roster: Roster,
    pub(super) tasks: Tasks,
    pub(super) consumer: SocketAddr,
    pub(super) key: String,
    calls: broadcast::Receiver<CallSummary>,
    _dir: TempDir,
}

/// An agent's end of a link.
pub(super) struct Agent {
    pub(super) live: Arc<LiveLink>,
    pub(super) link: LinkHandle,
    opened: mpsc::Receiver<(OpenHead, LinkStream)>,
}

/// A consumer's connection.
pub(super) struct Consumer {
    pub(super) socket: TcpStream,
    pub(super) came: Vec<u8>,
}

impl Scene {
    pub(super) async fn build() -> Self {
        Self::build_as(Config::default()).await
    }

    pub(super) async fn build_as(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        HubKeys::init(dir.path(), OfflineFiles::default()).unwrap();
        let keys = Arc::new(HubKeys::load(dir.path(), None).unwrap());
        let store = Store::open(dir.path()).await.unwrap();
        let key = NewApiKey::generate().unwrap();
        let row = ApiKey {
            id: ApiKeyId([1; 16]),
            name: "test".to_owned(),
            account: DEFAULT_ACCOUNT,
            policy: KeyPolicy::default(),
            key_hash: key.hash(),
            masked: key.masked(),
            created_unix_ms: 1,
            revoked_unix_ms: None,
            last_used_unix_ms: None,
        };
        store.insert_api_key(&row).await.unwrap();
        stock(&store, &keys).await;
        let directory = Directory::start(store.clone(), &tasks).await.unwrap();
        let prices = Prices::start(store.clone(), keys.signer().clone(), directory.changed(), &tasks).await.unwrap();
        let books = Books::start(store, Others::None, BookKeys::samples(), BookRules::default(), &tasks).await.unwrap();
        let (summaries, calls) = broadcast::channel(64);
        let roster = Roster::new();
        let till = Till { prices, books, keys: keys.clone() };
        let gateway = UserGateway::new(config, directory, roster.clone(), till, summaries, tasks.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let consumer = listener.local_addr().unwrap();
        gateway.serve(listener, None);
        Self { gateway, keys, roster, tasks, consumer, key: key.reveal().to_owned(), calls, _dir: dir }
    }

    /// An agent that offers OpenAI with these models.
    pub(super) async fn agent(&self, number: u8, models: &[&str]) -> Agent {
        let agent = self.link(number).await;
        self.offer(&agent, models);
        agent
    }

    /// An agent that offers nothing yet.
    pub(super) async fn link(&self, number: u8) -> Agent {
        let (near, far) = tokio::io::duplex(256 * 1024);
        let (sender, opened) = mpsc::channel(64);
        let hub = self.drive(Side::Hub, near, None);
        let link = self.drive(Side::Agent, far, Some(sender));
        let entering = Entering {
            agent: AgentId([number; 16]),
            name: format!("agent-{number}"),
            egress: Egress::Official,
            instance: Hex([number; 16]),
            handle: hub,
            accepts: true,
        };
        let live = self.roster.enter(entering, 1).unwrap();
        Agent { live, link, opened }
    }

    pub(super) fn offer(&self, agent: &Agent, models: &[&str]) {
        let models: Vec<_> = models.iter().map(|id| json!({ "id": id })).collect();
        let vendor_key = VendorKeyId(agent.live.agent.0);
        let offer = json!({ "vendor_key": vendor_key, "provider": Provider::OpenAi, "models": models });
        self.roster.offer(&agent.live, offer.to_string().as_bytes()).unwrap();
    }

    fn drive(
        &self,
        side: Side,
        io: tokio::io::DuplexStream,
        opened: Option<mpsc::Sender<(OpenHead, LinkStream)>>,
    ) -> LinkHandle {
        let handle = LinkHandle::new(side, Limits::default());
        let role = if side == Side::Hub { Role::Server } else { Role::Client };
        let socket = Socket::new(BufReader::new(io), role, Bytes::new());
        let driven = handle.clone();
        self.tasks.spawn("link", async move {
            run(socket, &driven, Opened { opened }).await;
        });
        handle
    }

    /// The head of a chat completion with a body of this length.
    pub(super) fn chat_head(&self, length: usize) -> String {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n",
            self.key
        )
    }

    pub(super) async fn connect(&self) -> Consumer {
        Consumer { socket: TcpStream::connect(self.consumer).await.unwrap(), came: Vec::new() }
    }

    /// A consumer that asks for a WebSocket.
    pub(super) async fn ask_realtime(&self) -> Consumer {
        let mut consumer = self.connect().await;
        let head = format!(
            "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-extensions: permessage-deflate\r\n\r\n",
            self.key
        );
        consumer.send(head.as_bytes()).await;
        consumer
    }

    /// A consumer that has sent a whole chat completion.
    pub(super) async fn ask(&self, body: &str) -> Consumer {
        let mut consumer = self.connect().await;
        consumer.send(format!("{}{body}", self.chat_head(body.len())).as_bytes()).await;
        consumer
    }

    /// What is told of the next call that ends.
    pub(super) async fn summary(&mut self) -> CallSummary {
        tokio::time::timeout(PATIENCE, self.calls.recv()).await.unwrap().unwrap()
    }
}

impl Agent {
    /// The next call, once its OPEN is here.
    pub(super) async fn call(&mut self) -> (OpenHead, LinkStream) {
        tokio::time::timeout(PATIENCE, self.opened.recv()).await.unwrap().unwrap()
    }

    /// The same with its whole body.
    pub(super) async fn whole_call(&mut self) -> (OpenHead, Vec<u8>, LinkStream) {
        let (open, stream) = self.call().await;
        let (body, end) = read_all(&stream).await;
        assert_eq!(end, None);
        (open, body, stream)
    }

    /// No call has come.
    pub(super) fn is_unasked(&mut self) -> bool {
        self.opened.try_recv().is_err()
    }
}

impl Consumer {
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        tokio::time::timeout(PATIENCE, self.socket.write_all(bytes)).await.unwrap().unwrap();
    }

    /// Leaves by TCP RST; dropping leaves properly.
    pub(super) fn reset(self) {
        self.socket.set_zero_linger().unwrap();
    }

    /// Reads until what came holds this.
    pub(super) async fn until(&mut self, wanted: &[u8]) {
        while !self.came.windows(wanted.len()).any(|window| window == wanted) {
            assert!(self.read().await > 0, "the end came first: {}", self.text());
        }
    }

    /// The next answer, whole: its head and its body.
    pub(super) async fn answer(&mut self) -> (String, Vec<u8>) {
        self.until(b"\r\n\r\n").await;
        let end = self.came.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(self.came[..end].to_vec()).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.unwrap_or_else(|| panic!("no length in {head}")).parse().unwrap();
        while self.came.len() < end + length {
            assert!(self.read().await > 0, "the end came first: {}", self.text());
        }
        let body = self.came[end..end + length].to_vec();
        self.came.drain(..end + length);
        (head, body)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.came).into_owned()
    }

    /// Reads once; 0 at the end, however it came.
    pub(super) async fn read(&mut self) -> usize {
        let mut piece = vec![0; 64 * 1024];
        let read = tokio::time::timeout(PATIENCE, self.socket.read(&mut piece)).await.unwrap().unwrap_or(0);
        self.came.extend_from_slice(&piece[..read]);
        read
    }
}

struct Opened {
    opened: Option<mpsc::Sender<(OpenHead, LinkStream)>>,
}

impl LinkEvents for Opened {
    fn opened(&mut self, stream: LinkStream, open: Bytes) {
        let call = (OpenHead::decode(open).unwrap(), stream);
        self.opened.as_ref().unwrap().try_send(call).unwrap_or_else(|_| panic!("nobody takes the call"));
    }

    fn control(&mut self, _frame: &Frame) -> Result<(), LinkFault> {
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}

pub(super) fn head(status: u16, headers: &[(&'static str, &'static str)]) -> Bytes {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    ResponseHead { status: StatusCode::from_u16(status).unwrap(), headers: map }.encode().unwrap()
}

/// Answers with a body of known length.
pub(super) fn answer(stream: &LinkStream, status: u16, length: &'static str, body: &'static str) {
    stream.respond(head(status, &[("content-length", length)]), Bytes::from_static(body.as_bytes()), true).unwrap();
}

pub(super) async fn read_all(stream: &LinkStream) -> (Vec<u8>, Option<Abort>) {
    let mut read = Vec::new();
    loop {
        let incoming = tokio::time::timeout(PATIENCE, std::future::poll_fn(|cx| stream.poll_data(cx))).await;
        match incoming.unwrap() {
            Incoming::Data(data) => read.extend_from_slice(&data),
            Incoming::End(_) => return (read, None),
            Incoming::Aborted(abort) => return (read, Some(abort)),
            Incoming::Pending => unreachable!("poll_data never says so"),
        }
    }
}

pub(super) async fn aborted(stream: &LinkStream) -> AbortReason {
    tokio::time::timeout(PATIENCE, stream.aborted()).await.unwrap().reason
}

/// The next call of any agent.
pub(super) async fn next_call(agents: &mut [Agent]) -> (usize, LinkStream) {
    let calls = agents.iter_mut().enumerate().map(|(at, agent)| Box::pin(async move { (at, agent.call().await.1) }));
    futures_util::future::select_all(calls).await.0
}

/// Looks again and again, giving everybody else a turn in between.
pub(super) async fn until(reached: impl Fn() -> bool) {
    let looking = async {
        while !reached() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap();
}

/// Prices for every model that these tests name, and money for their consumer.
async fn stock(store: &Store, keys: &HubKeys) {
    let entry = |mode: &str| {
        json!({
            "litellm_provider": "openai",
            "mode": mode,
            "max_input_tokens": 128_000,
            "max_output_tokens": 16_384,
            "input_cost_per_token": 2e-6,
            "output_cost_per_token": 8e-6,
            "input_cost_per_audio_token": 3e-5,
            "output_cost_per_audio_token": 6e-5,
        })
    };
    let table = json!({
        "gpt-9": entry("chat"),
        "gpt-4": entry("chat"),
        "made-up": entry("chat"),
        "gpt-realtime": entry("realtime"),
        "whisper-1": json!({"litellm_provider": "openai", "mode": "audio_transcription", "input_cost_per_second": 1e-4}),
    });
    let book = PriceBook::new(store, keys);
    book.import(table.to_string().as_bytes(), "made up for tests", 1).await.unwrap();
    book.publish(Begins::Now, 1).await.unwrap();
    store.put_zone(Zone::Standard, Ppm(1_000_000), false).await.unwrap();
    store.put_tier(OwnerTier::Standard, Ppm(800_000), false).await.unwrap();
    let money = Deposit {
        reference: "test".to_owned(),
        account: DEFAULT_ACCOUNT,
        amount: NanoUsd(1_000_000_000_000),
        at_unix_ms: 1,
    };
    deposit(store, &money).await.unwrap();
}
