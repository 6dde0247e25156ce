//! Thousands of agents in one process: each with its own identity and its own real link.
//!
//! They dial, prove, offer and serve as agents do, with the agent's own dialling and the link
//! that ships; what they lack is a vault and a vendor: they answer by themselves.
//!
//! Invariant: one link for each identity, dialled again with full jitter when it is lost.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use bytes::BytesMut;
use ed25519_dalek::SigningKey;
use http::HeaderMap;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use keyhaven_agent::link::Caller;
use keyhaven_agent::link::LinkError;
use keyhaven_agent::link::dial;
use keyhaven_agent::link::new_instance;
use keyhaven_agent::vault::identity::Identity;
use keyhaven_daemon::link;
use keyhaven_daemon::link::LinkEvents;
use keyhaven_daemon::link::LinkHandle;
use keyhaven_daemon::link::LinkStream;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::frame::Drain;
use keyhaven_protocol::frame::Egress;
use keyhaven_protocol::frame::Enrolment;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::HeldTable;
use keyhaven_protocol::frame::Offer;
use keyhaven_protocol::frame::Prices;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::join_token::JoinToken;
use keyhaven_protocol::link::Incoming;
use keyhaven_protocol::link::Limits;
use keyhaven_protocol::link::LinkFault;
use keyhaven_protocol::link::Side;
use keyhaven_protocol::provider::Provider;
use serde::Deserialize;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::clock::monotonic_ns;
use crate::model::MODEL;
use crate::model::Model;

/// Handshakes under way at once when the fleet is first brought up; afterwards, none is held back.
const DIALLING_FIRST_MAX: usize = 64;

/// The waits between attempts, as agents are configured by default.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

const SLICE_BYTES: usize = 64 * 1024;

const ANSWER: &str = r#"{"id":"chatcmpl-bench","object":"chat.completion","choices":[]}"#;

/// What the process is told.
#[derive(Debug, clap::Args)]
pub(crate) struct FleetOrders {
    /// A join token a line.
    #[arg(long)]
    tokens: PathBuf,
}

/// Where the fleet can be asked how it is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct FleetAddress {
    pub(crate) status: SocketAddr,
}

/// How the fleet is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct FleetStatus {
    /// Links that are up.
    pub(crate) linked: usize,
    /// Agents that served a call.
    pub(crate) served: usize,
    /// When each link that came up after the time asked for did so, in order.
    pub(crate) came_up_ns: Vec<u64>,
    /// Attempts that the hub refused, since ever.
    pub(crate) refused: usize,
    /// The last reason.
    pub(crate) refusal: String,
}

#[derive(Default)]
struct Log {
    linked: usize,
    served: HashSet<usize>,
    came_up_ns: Vec<u64>,
    refused: usize,
    refusal: String,
    held: Vec<HeldTable>,
}

struct Fleet {
    log: Mutex<Log>,
    first: Semaphore,
    tasks: Tasks,
    slice: Bytes,
}

impl Fleet {
    fn note<T>(&self, change: impl FnOnce(&mut Log) -> T) -> T {
        change(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Keeps a link for each token until the process is ended.
pub(crate) async fn serve(orders: FleetOrders, tasks: Tasks) -> Result<()> {
    let tokens = std::fs::read_to_string(&orders.tokens)?;
    let tokens = tokens.lines().map(JoinToken::decode).collect::<Result<Vec<_>, _>>()?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = FleetAddress { status: listener.local_addr()? };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&address)?)?;
    let fleet = Arc::new(Fleet {
        log: Mutex::default(),
        first: Semaphore::new(DIALLING_FIRST_MAX),
        tasks: tasks.clone(),
        slice: Bytes::from(vec![b'x'; SLICE_BYTES]),
    });
    for (number, token) in tokens.into_iter().enumerate() {
        tasks.spawn("agent", keep_linked(fleet.clone(), number, token));
    }
    loop {
        let (mut socket, _) = listener.accept().await?;
        let (read, mut write) = socket.split();
        let mut line = String::new();
        BufReader::new(read).read_line(&mut line).await?;
        let since = line.trim().parse().unwrap_or(0);
        let status = fleet.note(|log| log.status(since));
        write.write_all(&serde_json::to_vec(&status)?).await?;
    }
}

impl Log {
    fn status(&self, since_ns: u64) -> FleetStatus {
        let came_up_ns = self.came_up_ns.iter().copied().filter(|at| *at > since_ns).collect();
        let (linked, served, refused) = (self.linked, self.served.len(), self.refused);
        FleetStatus { linked, served, came_up_ns, refused, refusal: self.refusal.clone() }
    }
}

async fn keep_linked(fleet: Arc<Fleet>, number: usize, token: JoinToken) {
    let key = SigningKey::from_bytes(&token.secret);
    let identity = Identity {
        agent: token.agent,
        fleet: token.fleet,
        hub_address: token.hub_address.clone(),
        pins: token.pins.clone(),
        hub_key: token.hub_key,
        public_key: key.verifying_key().to_bytes(),
    };
    let Ok(instance) = new_instance() else { return };
    let caller = Caller { identity: &identity, key: &key, egress: Egress::Loopback, instance };
    let mut enrolment = Some(Enrolment { token: token.token, secret: Hex(token.secret) });
    let mut failures = 0;
    loop {
        let dialled = {
            let held_back = if enrolment.is_some() { fleet.first.acquire().await.ok() } else { None };
            let dialled = dial(caller, enrolment.clone()).await;
            drop(held_back);
            dialled
        };
        match dialled {
            Ok(dialled) => {
                enrolment = None;
                failures = 0;
                let handle = LinkHandle::new(Side::Agent, Limits::default());
                let held = fleet.note(|log| log.held.clone());
                handle.send_control(FrameKind::Prices, &Prices::Held(held).encode());
                handle.send_control(FrameKind::Offer, &to_json(&offer(number)));
                fleet.note(|log| {
                    log.linked += 1;
                    log.came_up_ns.push(monotonic_ns());
                });
                link::run(dialled.socket, &handle, Serve { fleet: fleet.clone(), number, handle: handle.clone() })
                    .await;
                fleet.note(|log| log.linked -= 1);
            }
            Err(LinkError::Refused { code, message, .. }) => fleet.note(|log| {
                log.refused += 1;
                log.refusal = format!("{code}: {message}");
            }),
            Err(_) => {}
        }
        tokio::time::sleep(jitter(failures)).await;
        failures += 1;
    }
}

/// Between nothing and a bound that doubles.
fn jitter(failures: u32) -> Duration {
    let bound = BACKOFF_FIRST.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
    let random = u128::from(RandomState::new().hash_one(failures));
    let micros = (random * bound.as_micros()) >> 64;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

fn offer(number: usize) -> Offer {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&(number as u64).to_be_bytes());
    let model = format!(r#"{{"id":"{}","object":"model"}}"#, MODEL);
    let models = RawValue::from_string(model).into_iter().collect();
    Offer { vendor_key: VendorKeyId(id), provider: Provider::OpenAi, resource: None, models }
}

struct Serve {
    fleet: Arc<Fleet>,
    number: usize,
    handle: LinkHandle,
}

impl LinkEvents for Serve {
    fn opened(&mut self, stream: LinkStream, _open: Bytes) {
        self.fleet.note(|log| log.served.insert(self.number));
        let slice = self.fleet.slice.clone();
        self.fleet.tasks.spawn("call", async move {
            // A consumer that leaves is the benchmark's own.
            let _ = answer(stream, slice).await;
        });
    }

    /// Any table of prices is held as soon as its last part is here.
    fn control(&mut self, frame: &Frame) -> Result<(), LinkFault> {
        if frame.kind == FrameKind::Prices.number()
            && let Ok(Prices::Part(part)) = Prices::decode(frame.payload.clone())
            && part.offset as usize + part.bytes.len() == part.packed_bytes as usize
        {
            let table = HeldTable { version: part.version, hash: part.hash };
            let held = self.fleet.note(|log| {
                if !log.held.contains(&table) {
                    log.held.push(table);
                }
                log.held.clone()
            });
            self.handle.send_control(FrameKind::Prices, &Prices::Held(held).encode());
        }
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}

async fn answer(stream: LinkStream, slice: Bytes) -> Result<()> {
    let mut request = BytesMut::new();
    while let Incoming::Data(data) = std::future::poll_fn(|cx| stream.poll_data(cx)).await {
        request.extend_from_slice(&data);
    }
    let Model::Bulk { bytes } = Model::of_request(&request) else {
        let body = Bytes::from_static(ANSWER.as_bytes());
        return Ok(stream.respond(head(body.len() as u64)?, body, true)?);
    };
    stream.send_head(head(bytes)?)?;
    let mut left = bytes;
    while left > 0 {
        let length = slice.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.capacity().await?;
        stream.send_data(slice.slice(..length))?;
        left -= length as u64;
    }
    Ok(stream.finish(Bytes::new())?)
}

fn head(bytes: u64) -> Result<Bytes> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    Ok(ResponseHead { status: StatusCode::OK, headers }.encode()?)
}
