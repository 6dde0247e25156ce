//! What the calls of one consumer's connection share with it.
//!
//! Invariant: the connection's place is free only when the last of them is done with it.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::OwnedSemaphorePermit;

use super::silence::Timer;
use super::watched_stream::Departure;

/// One consumer's connection, seen from its calls and from its socket.
#[derive(Clone)]
pub(super) struct Connection {
    shared: Arc<Shared>,
}

/// The same as long as one call on it lasts.
pub(super) struct OnCall {
    connection: Connection,
}

struct Shared {
    calls: AtomicUsize,
    flushes: AtomicU64,
    waker: AtomicWaker,
    is_tunnel: AtomicBool,
    departure: Departure,
    peer: IpAddr,
    /// The timer that is lent to whoever waits.
    timer: Mutex<Option<Timer>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn new(place: OwnedSemaphorePermit, departure: Departure, peer: IpAddr) -> Self {
        let shared = Shared {
            calls: AtomicUsize::new(0),
            flushes: AtomicU64::new(0),
            waker: AtomicWaker::new(),
            is_tunnel: AtomicBool::new(false),
            departure,
            peer,
            timer: Mutex::new(None),
            _place: place,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Where it comes from.
    pub(super) fn peer(&self) -> IpAddr {
        self.shared.peer
    }

    /// A call begins on it.
    pub(super) fn begin_call(&self) -> OnCall {
        self.shared.calls.fetch_add(1, Ordering::AcqRel);
        OnCall { connection: self.clone() }
    }

    /// Ready when it had no call, and nothing left it, for so long.
    pub(super) async fn quiet_for(&self, time: Duration) {
        loop {
            let flushes = self.flushes();
            tokio::time::sleep(time).await;
            if self.shared.calls.load(Ordering::Acquire) == 0 && self.flushes() == flushes {
                return;
            }
        }
    }

    /// Waits until its consumer has ended it, whether anybody reads it or not.
    pub(super) async fn departed(&self) {
        self.shared.departure.noticed().await;
    }

    /// How often it was flushed to its end so far.
    pub(super) fn flushes(&self) -> u64 {
        self.shared.flushes.load(Ordering::Acquire)
    }

    /// Ready when it was flushed again since there were so many.
    pub(super) fn poll_flushed_since(&self, flushes: u64, cx: &Context<'_>) -> Poll<()> {
        self.shared.waker.register(cx.waker());
        if self.flushes() > flushes { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Everything that was handed to it has left the process.
    pub(super) fn was_flushed(&self) {
        self.shared.flushes.fetch_add(1, Ordering::Release);
        self.shared.waker.wake();
    }

    /// Its timer, if nobody has it.
    pub(super) fn lend_timer(&self) -> Option<Timer> {
        self.shared.timer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Its timer, or one made beside it, for whoever waits next.
    pub(super) fn give_back(&self, timer: Timer) {
        *self.shared.timer.lock().unwrap_or_else(PoisonError::into_inner) = Some(timer);
    }

    /// From now on it carries a WebSocket's bytes: each side ends by itself.
    pub(super) fn becomes_a_tunnel(&self) {
        self.shared.is_tunnel.store(true, Ordering::Release);
    }

    /// Whether it carries a WebSocket's bytes.
    pub(super) fn is_tunnel(&self) -> bool {
        self.shared.is_tunnel.load(Ordering::Acquire)
    }
}

impl Deref for OnCall {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for OnCall {
    fn drop(&mut self) {
        self.connection.shared.calls.fetch_sub(1, Ordering::AcqRel);
    }
}
