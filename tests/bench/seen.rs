//! What the upstream has seen: bytes and calls that were read, and answers that were dropped.
//!
//! Invariant: the counters only rise, and who waits for one to rise is woken when it does.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use tokio::sync::watch;

use crate::clock::monotonic_ns;

/// How long one question may wait for its answer.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What the upstream has seen so far.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Bytes of chat completions' bodies.
    pub(crate) body_bytes: u64,
    /// Chat completions that were read to their end.
    pub(crate) calls: u64,
    /// Calls that ended before their end, on whatever side of it.
    pub(crate) drops: u64,
    /// When the last of those did.
    pub(crate) last_drop_ns: u64,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// More than so many bytes of bodies.
    BodyBytes(u64),
    /// More than so many read calls.
    Calls(u64),
    /// More than so many drops.
    Drops(u64),
}

/// The upstream's counters.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    seen: watch::Sender<Seen>,
}

impl After {
    /// As a query.
    pub(crate) fn to_query(self) -> String {
        match self {
            Self::BodyBytes(count) => format!("body_bytes={count}"),
            Self::Calls(count) => format!("calls={count}"),
            Self::Drops(count) => format!("drops={count}"),
        }
    }

    /// Whether that has come to pass.
    pub(crate) fn holds(self, seen: &Seen) -> bool {
        match self {
            Self::BodyBytes(count) => seen.body_bytes > count,
            Self::Calls(count) => seen.calls > count,
            Self::Drops(count) => seen.drops > count,
        }
    }

    fn of_query(query: &str) -> Option<Self> {
        let (name, count) = query.split_once('=')?;
        let count = count.parse().ok()?;
        match name {
            "body_bytes" => Some(Self::BodyBytes(count)),
            "calls" => Some(Self::Calls(count)),
            "drops" => Some(Self::Drops(count)),
            _ => None,
        }
    }
}

impl Ledger {
    /// So much more of a request's body has come.
    pub(crate) fn read(&self, bytes: usize) {
        self.seen.send_modify(|seen| seen.body_bytes += bytes as u64);
    }

    /// A request was read to its end.
    pub(crate) fn called(&self) {
        self.seen.send_modify(|seen| seen.calls += 1);
    }

    /// What was seen: at once, or when what the query waits for has come, or late.
    pub(crate) async fn seen_after(&self, query: Option<&str>) -> Seen {
        if let Some(after) = query.and_then(After::of_query) {
            let mut watched = self.seen.subscribe();
            // Too late is told apart by the numbers.
            let _ = tokio::time::timeout(WAIT_MAX, watched.wait_for(|seen| after.holds(seen))).await;
        }
        *self.seen.borrow()
    }
}

/// Notes when a call is dropped before its end.
#[derive(Debug)]
pub(crate) struct Unfinished {
    ledger: Arc<Ledger>,
    over: bool,
}

impl Unfinished {
    /// A call that begins.
    pub(crate) fn begin(ledger: &Arc<Ledger>) -> Self {
        Self { ledger: Arc::clone(ledger), over: false }
    }

    /// It came to its end.
    pub(crate) fn finish(&mut self) {
        self.over = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.over {
            let now = monotonic_ns();
            self.ledger.seen.send_modify(|seen| {
                seen.drops += 1;
                seen.last_drop_ns = now;
            });
        }
    }
}
