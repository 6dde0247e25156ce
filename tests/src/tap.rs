//! A TCP relay that records: what a real client sends and gets, at the client's end.
//!
//! Invariant: changes nothing and adds nothing; bytes are recorded before they are passed on, so
//! what a client has received is in the record.

use crate::http1::Side;
use crate::http1::recorder::Message;
use crate::http1::recorder::Recorder;
use crate::stage;
use crate::stage::Stage;
use crate::upstream::play::CASE_HEADER;
use anyhow::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::tcp::OwnedWriteHalf;

const KEEP_BYTES_MAX: usize = 64 << 20;

/// Both directions of one connection.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// From the client.
    pub requests: Recorder,
    /// From the server.
    pub responses: Recorder,
}

/// One request and what came back.
#[derive(Debug, Clone)]
pub struct Call {
    /// Number of the connection, in order of arrival.
    pub connection: usize,
    /// The `x-kit-case` header.
    pub case: Option<String>,
    /// The request.
    pub request: Message,
    /// The final response, as far as it came.
    pub response: Option<Message>,
}

type Connections = Arc<Mutex<Vec<Recorded>>>;

/// The running relay; dropping it closes every connection.
pub struct Tap {
    addr: SocketAddr,
    connections: Connections,
    _stage: Stage,
}

impl Tap {
    /// Relays from a new loopback port to `target`.
    ///
    /// # Errors
    /// When no port or no thread can be had.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let (listener, addr) = stage::listen()?;
        let connections = Connections::default();
        let all = Arc::clone(&connections);
        let stage = Stage::open("kit-tap", move || {
            stage::accept(listener, move |client| relay(client, target, Arc::clone(&all)))
        })?;
        Ok(Self { addr, connections, _stage: stage })
    }

    /// Where clients connect to.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All connections so far.
    #[must_use]
    pub fn connections(&self) -> Vec<Recorded> {
        lock(&self.connections).clone()
    }

    /// All calls so far, by connection and then in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let connections = lock(&self.connections);
        let numbered = connections.iter().enumerate();
        numbered.flat_map(|(connection, recorded)| calls(connection, recorded)).collect()
    }

    /// The calls of one case.
    #[must_use]
    pub fn calls_of(&self, case: &str) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.case.as_deref() == Some(case));
        calls
    }
}

fn calls(connection: usize, recorded: &Recorded) -> Vec<Call> {
    let last = |message: &&Message| message.head.status() >= 200 || message.head.status() == 101;
    let mut responses = recorded.responses.messages().iter().filter(last);
    let requests = recorded.requests.messages().iter();
    requests
        .map(|request| Call {
            connection,
            case: request.head.first(CASE_HEADER),
            request: request.clone(),
            response: responses.next().cloned(),
        })
        .collect()
}

async fn relay(client: TcpStream, target: SocketAddr, all: Connections) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = server.set_nodelay(true);
    let place = {
        let mut all = lock(&all);
        all.push(Recorded {
            requests: Recorder::new(Side::Request, KEEP_BYTES_MAX),
            responses: Recorder::new(Side::Response, KEEP_BYTES_MAX),
        });
        all.len() - 1
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = pass(from_client, to_server, |bytes| {
        let mut all = lock(&all);
        if let Some(recorded) = all.get_mut(place) {
            record_requests(recorded, bytes);
        }
    });
    let down = pass(from_server, to_client, |bytes| {
        if let Some(recorded) = lock(&all).get_mut(place) {
            match bytes {
                Some(bytes) => record_responses(recorded, bytes),
                None => recorded.responses.end(true),
            }
        }
    });
    // An end passes on as an end; a failure of one direction ends both.
    let _ = tokio::try_join!(up, down);
}

fn record_requests(recorded: &mut Recorded, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else {
        return recorded.requests.end(true);
    };
    let before = recorded.requests.messages().len();
    recorded.requests.push(bytes);
    for request in &recorded.requests.messages()[before..] {
        recorded.responses.expect_answer_to(request.head.method());
    }
}

fn record_responses(recorded: &mut Recorded, bytes: &[u8]) {
    let before = recorded.responses.messages().len();
    recorded.responses.push(bytes);
    let new = recorded.responses.messages()[before..].iter();
    if new.into_iter().any(|response| response.head.status() == 101) {
        recorded.requests.upgraded();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, record: impl Fn(Option<&[u8]>)) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            record(None);
            return to.shutdown().await;
        }
        record(Some(&buffer[..count]));
        to.write_all(&buffer[..count]).await?;
    }
}

fn lock(connections: &Connections) -> MutexGuard<'_, Vec<Recorded>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}
