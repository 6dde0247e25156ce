//! What the upstream saw and sent, byte for byte, with times.
//!
//! Invariant: written only by the connection that it is about, as it happens; a test may look at
//! an exchange that is still going on.

use super::play::CASE_HEADER;
use super::play::PLAY_HEADER;
use super::vendor::Vendor;
use crate::http1::Framing;
use crate::http1::Side;
use crate::http1::decoder::Event;
use crate::http1::recorder::Message;
use crate::http1::recorder::Recorder;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Instant;
use tokio::sync::watch;

/// The port an exchange came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// TLS with the official names: agents.
    Tls,
    /// Plain HTTP with a path prefix: SDKs without a hub between, and benchmarks.
    Plain,
}

/// Some bytes that passed at once.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// When.
    pub at: Instant,
    /// How many.
    pub bytes: usize,
}

/// How the peer left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It closed properly.
    End,
    /// A reset, or TLS without a goodbye.
    Error,
}

/// One request and its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Number of the connection, in order of arrival.
    pub connection: usize,
    /// The port it came in by.
    pub door: Door,
    /// Whom it was for, if that is known.
    pub vendor: Option<Vendor>,
    /// The `host` header.
    pub host: String,
    /// The `x-kit-case` header.
    pub case: Option<String>,
    /// The `x-kit-play` header.
    pub play: Option<String>,
    /// The request as it was received.
    pub request: Message,
    /// The exact bytes sent, and the answer in them.
    pub sent: Recorder,
    /// When each piece after the head was received.
    pub received_pieces: Vec<Piece>,
    /// When each piece of the answer left.
    pub sent_pieces: Vec<Piece>,
    /// When the head had been received.
    pub began_at: Instant,
    /// When the answer had been sent in full, or as far as the play goes.
    pub ended_at: Option<Instant>,
    /// When the peer was seen to have left before the answer had ended.
    pub peer_closed_at: Option<Instant>,
    /// How it left.
    pub peer_closed: Option<Closed>,
}

impl Exchange {
    /// The answer as it was sent so far; `None` before its head.
    #[must_use]
    pub fn response(&self) -> Option<&Message> {
        self.sent.messages().iter().find(|message| message.head.status() >= 200)
    }

    /// The answer that made the connection a WebSocket: its body is every byte sent after that, and
    /// the request's body every byte received.
    #[must_use]
    pub fn switched(&self) -> Option<&Message> {
        self.sent.messages().iter().find(|message| message.head.status() == 101)
    }

    /// Whether nothing more will happen in it.
    #[must_use]
    pub fn over(&self) -> bool {
        self.ended_at.is_some() || self.peer_closed_at.is_some()
    }
}

#[derive(Debug, Default)]
struct State {
    exchanges: Vec<Exchange>,
    violations: Vec<String>,
    handshake_failures: Vec<String>,
    connections: usize,
    connections_open: usize,
    calls: u64,
}

/// The record shared by all connections.
#[derive(Debug)]
pub(super) struct Log {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    keep: bool,
    keep_bytes_max: usize,
}

impl Log {
    pub(super) fn new(keep: bool, keep_bytes_max: usize) -> Self {
        Self { state: Mutex::new(State::default()), changed: watch::Sender::new(0), keep, keep_bytes_max }
    }

    pub(super) const fn keep_bytes_max(&self) -> usize {
        self.keep_bytes_max
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn connection_opened(&self) -> usize {
        let mut state = self.lock();
        state.connections += 1;
        state.connections_open += 1;
        state.connections - 1
    }

    pub(super) fn connection_closed(&self) {
        self.lock().connections_open -= 1;
        self.tell();
    }

    pub(super) fn connections_open(&self) -> usize {
        self.lock().connections_open
    }

    pub(super) fn connections(&self) -> usize {
        self.lock().connections
    }

    pub(super) fn calls(&self) -> u64 {
        self.lock().calls
    }

    pub(super) fn violation(&self, what: String) {
        self.lock().violations.push(what);
        self.tell();
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    pub(super) fn handshake_failed(&self, what: String) {
        self.lock().handshake_failures.push(what);
        self.tell();
    }

    pub(super) fn handshake_failures(&self) -> Vec<String> {
        self.lock().handshake_failures.clone()
    }

    /// A request's head has come; returns the exchange's place.
    pub(super) fn begin(
        &self,
        connection: usize,
        door: Door,
        vendor: Option<Vendor>,
        request: Message,
    ) -> Option<usize> {
        let mut state = self.lock();
        state.calls += 1;
        if !self.keep {
            return None;
        }
        let head = &request.head;
        let mut sent = Recorder::new(Side::Response, self.keep_bytes_max);
        sent.expect_answer_to(head.method());
        state.exchanges.push(Exchange {
            connection,
            door,
            vendor,
            host: head.first("host").unwrap_or_default(),
            case: head.first(CASE_HEADER),
            play: head.first(PLAY_HEADER),
            request,
            sent,
            received_pieces: Vec::new(),
            sent_pieces: Vec::new(),
            began_at: Instant::now(),
            ended_at: None,
            peer_closed_at: None,
            peer_closed: None,
        });
        let place = state.exchanges.len() - 1;
        drop(state);
        self.tell();
        Some(place)
    }

    pub(super) fn received(&self, place: Option<usize>, bytes: usize) {
        let at = Instant::now();
        self.update(place, |exchange| {
            exchange.received_pieces.push(Piece { at, bytes });
        });
    }

    pub(super) fn request_event(&self, place: Option<usize>, event: Event) {
        let keep_max = self.keep_bytes_max;
        self.update(place, |exchange| exchange.request.absorb(event, keep_max));
    }

    pub(super) fn upgraded(&self, place: Option<usize>) {
        self.update(place, |exchange| {
            exchange.request.framing = Framing::ToEnd;
            exchange.request.complete = false;
        });
    }

    pub(super) fn sent(&self, place: Option<usize>, bytes: &[u8]) {
        let at = Instant::now();
        self.update(place, |exchange| {
            exchange.sent.push(bytes);
            exchange.sent_pieces.push(Piece { at, bytes: bytes.len() });
        });
    }

    /// Nothing more will be sent, though the peer may go on.
    pub(super) fn sent_all(&self, place: Option<usize>) {
        self.update(place, |exchange| exchange.sent.end(true));
    }

    pub(super) fn ended(&self, place: Option<usize>, closes: bool) {
        let at = Instant::now();
        self.update(place, |exchange| {
            if closes {
                exchange.sent.end(true);
                exchange.request.complete |= exchange.request.framing == Framing::ToEnd;
            }
            exchange.ended_at = Some(at);
        });
    }

    pub(super) fn peer_closed(&self, place: Option<usize>, at: Instant, how: Closed) {
        self.update(place, |exchange| {
            if exchange.ended_at.is_none() && exchange.peer_closed_at.is_none() {
                exchange.peer_closed_at = Some(at);
                exchange.peer_closed = Some(how);
            }
        });
    }

    /// Looks at all exchanges.
    pub(super) fn look<T>(&self, at: impl FnOnce(&[Exchange]) -> T) -> T {
        at(&self.lock().exchanges)
    }

    fn update(&self, place: Option<usize>, change: impl FnOnce(&mut Exchange)) {
        let Some(place) = place else { return };
        if let Some(exchange) = self.lock().exchanges.get_mut(place) {
            change(exchange);
        }
        self.tell();
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked while looking must not hide what the others find.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
