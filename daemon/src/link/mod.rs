//! The tunnel's driver: one task per link moves frames between a WebSocket and the
//! protocol's state machine; calls hold [`LinkStream`]s of it.
//!
//! Invariant: the lock around the state machine is never held across an await or a wake.

mod pool;
mod pump;
mod read_ahead;
mod socket;
mod stream;
mod tcp;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Waker;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use keyhaven_protocol::frame::Drain;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::frame::PayloadError;
use keyhaven_protocol::frame::Refuse;
use keyhaven_protocol::frame::StreamId;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::link::Counters;
use keyhaven_protocol::link::Limits;
use keyhaven_protocol::link::Link;
use keyhaven_protocol::link::Micros;
use keyhaven_protocol::link::OpenRefused;
use keyhaven_protocol::link::Side;
use tokio::time::Instant;

pub use pump::LinkEnd;
pub use pump::LinkEvents;
pub use pump::run;
pub use read_ahead::ReadAhead;
pub use socket::Socket;
pub use socket::SocketError;
pub use stream::LinkStream;
pub use tcp::prepare;
pub use tcp::stage_little;

/// One end of a live link. Clones share it.
#[derive(Clone)]
pub struct LinkHandle {
    shared: Arc<Shared>,
}

struct Shared {
    side: Side,
    began: Instant,
    state: Mutex<State>,
    pump: AtomicWaker,
}

struct State {
    link: Link,
    wakers: HashMap<StreamId, Wakers>,
    closing: Closing,
    /// The batch that the pump has taken and the socket has not.
    staged_bytes: usize,
    /// What the peer is told when a link that was retired closes.
    parting: Option<Refuse>,
}

/// Who waits for what on one stream: at most one reader, one writer and one watcher.
#[derive(Default)]
struct Wakers {
    reader: Option<Waker>,
    writer: Option<Waker>,
    watcher: Option<Waker>,
}

/// Whether and when this side closes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Closing {
    No,
    WhenIdle,
    Now,
}

/// What a link looks like from outside.
#[derive(Debug, Clone, Copy)]
pub struct LinkStats {
    /// The last measured round trip, in microseconds.
    pub rtt_micros: Option<u64>,
    /// Streams that are not over.
    pub streams: usize,
    /// Body bytes that wait in this process: to be read, to be sent, or on their way out.
    pub buffered_bytes: usize,
    /// Since the link began.
    pub counters: Counters,
}

/// Why a call could not be put on the link.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The link takes no new streams.
    #[error(transparent)]
    Refused(#[from] OpenRefused),
    /// The call's head does not fit a frame.
    #[error("the call's head cannot be encoded: {0}")]
    Head(#[from] PayloadError),
}

impl Wakers {
    fn all(self) -> impl Iterator<Item = Waker> {
        [self.reader, self.writer, self.watcher].into_iter().flatten()
    }
}

impl LinkHandle {
    /// A link whose handshake is done; [`run`] drives it.
    pub fn new(side: Side, limits: Limits) -> Self {
        let state = State {
            link: Link::new(side, limits, Micros(0)),
            wakers: HashMap::new(),
            closing: Closing::No,
            staged_bytes: 0,
            parting: None,
        };
        Self {
            shared: Arc::new(Shared {
                side,
                began: Instant::now(),
                state: Mutex::new(state),
                pump: AtomicWaker::new(),
            }),
        }
    }

    /// Puts a call on the link.
    ///
    /// # Errors
    /// When the link takes no new streams or the head does not fit a frame.
    pub fn open(&self, head: &OpenHead) -> Result<LinkStream, OpenError> {
        let head = head.encode()?;
        if head.len() > FrameKind::Open.payload_bytes_max() {
            return Err(OpenError::Head(PayloadError::Field("headers")));
        }
        let now = self.shared.now();
        let id = {
            let mut state = self.shared.lock();
            if state.closing != Closing::No {
                return Err(OpenRefused::Draining.into());
            }
            state.link.open(head, now)?
        };
        self.shared.pump.wake();
        Ok(LinkStream::new(self.shared.clone(), id))
    }

    /// Sends a frame of the link itself.
    pub fn send_control(&self, kind: FrameKind, payload: &Bytes) {
        self.shared.act(|state| state.link.send_control(kind, payload));
    }

    /// Opens or takes no new streams from now on, tells the peer, and closes when the
    /// last stream is over.
    pub fn drain(&self, drain: &Drain) {
        let now = self.shared.now();
        self.shared.act(|state| {
            state.link.drain(drain, now);
            state.closing = state.closing.max(Closing::WhenIdle);
        });
    }

    /// Opens no new streams from now on and closes when the last stream is over, without
    /// a word to the peer: a newer link has taken over.
    pub fn retire(&self) {
        self.shared.act(|state| state.closing = state.closing.max(Closing::WhenIdle));
    }

    /// The same, and tells the peer why when it closes.
    pub fn retire_saying(&self, refuse: &Refuse) {
        self.shared.act(|state| {
            state.closing = state.closing.max(Closing::WhenIdle);
            state.parting = Some(refuse.clone());
        });
    }

    /// Closes now, telling the peer why.
    pub fn refuse(&self, refuse: &Refuse) {
        self.shared.act(|state| {
            state.link.send_control(FrameKind::Refuse, &to_json(refuse));
            state.closing = Closing::Now;
        });
    }

    /// Closes now.
    pub fn close(&self) {
        self.shared.act(|state| state.closing = Closing::Now);
    }

    /// Whether calls can be put on the link.
    pub fn is_open(&self) -> bool {
        let state = self.shared.lock();
        state.closing == Closing::No && !state.link.is_draining()
    }

    /// What the link looks like now.
    pub fn stats(&self) -> LinkStats {
        let state = self.shared.lock();
        LinkStats {
            rtt_micros: state.link.rtt_micros(),
            streams: state.link.stream_count(),
            buffered_bytes: state.link.buffered_bytes() + state.staged_bytes,
            counters: state.link.counters(),
        }
    }
}

impl Shared {
    fn now(&self) -> Micros {
        Micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and lets the pump see what it means.
    fn act<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.pump.wake();
        result
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
