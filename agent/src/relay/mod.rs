//! One call at the agent: checked against the allow-list, given the key, streamed.
//!
//! Invariant: whatever a hub asks, a key goes only to its own host, on a listed endpoint,
//! and what the vendor says about the owner's account stays here.

mod body;
mod refusal;
mod request;
mod respond;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::id::CallId;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::config::Calls;
use crate::provider::Egress;
use crate::provider::VendorClient;
use crate::status::CallTotals;
use crate::vault::running::SharedVault;

pub use body::CallBody;
pub use body::RequestBroke;

/// Serves calls. One per agent, shared by all its links.
pub struct Relay {
    vault: SharedVault,
    client: VendorClient<CallBody>,
    calls: Calls,
    room: Arc<Semaphore>,
    opened: AtomicU64,
    served: AtomicU64,
    aborted: AtomicU64,
    refused: AtomicU64,
}

/// How a call ended.
enum End {
    Served,
    Aborted(AbortReason),
    Refused(Abort),
}

impl Relay {
    /// A relay that has served nothing yet.
    pub fn new(vault: SharedVault, egress: &Egress, calls: Calls) -> Arc<Self> {
        let client = VendorClient::new(egress, calls.vendor_connect_timeout());
        let room = Arc::new(Semaphore::new(calls.concurrent_max as usize));
        let zero = AtomicU64::default;
        Arc::new(Self { vault, client, calls, room, opened: zero(), served: zero(), aborted: zero(), refused: zero() })
    }

    /// What became of the calls so far.
    pub fn totals(&self) -> CallTotals {
        CallTotals {
            opened: self.opened.load(Ordering::Relaxed),
            served: self.served.load(Ordering::Relaxed),
            aborted: self.aborted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Serves one stream from its OPEN to its end.
    pub async fn serve(self: Arc<Self>, stream: LinkStream, open: Bytes) {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let Ok(open) = OpenHead::decode(open) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return stream.abort(Abort::with_detail(AbortReason::Protocol, "an OPEN did not follow its layout"));
        };
        let call = open.call;
        let end = self.run(&stream, open).await;
        self.note(call, &stream, end);
        // hyper may keep the request's body, and with it the stream, as long as a vendor that
        // answered early keeps its connection.
        stream.let_go();
    }

    async fn run(&self, stream: &LinkStream, open: OpenHead) -> End {
        let Ok(_place) = self.room.clone().try_acquire_owned() else {
            return End::Refused(Abort::new(AbortReason::Busy));
        };
        let (request, progress) = match request::build(&self.vault.read(), stream, open) {
            Ok(built) => built,
            Err(abort) => return End::Refused(abort),
        };
        respond::exchange(&self.client, &self.calls, stream, request, &progress).await
    }

    fn note(&self, call: CallId, stream: &LinkStream, end: End) {
        match end {
            End::Served => {
                self.served.fetch_add(1, Ordering::Relaxed);
                debug!(call.id = %call, "call {call} served");
            }
            End::Aborted(reason) => {
                self.aborted.fetch_add(1, Ordering::Relaxed);
                debug!(call.id = %call, abort.reason = reason.name(), "call {call} aborted: {}", reason.name());
            }
            End::Refused(abort) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                debug!(call.id = %call, abort.reason = abort.reason.name(), "call {call} refused: {}", abort.detail);
                stream.abort(abort);
            }
        }
    }
}
