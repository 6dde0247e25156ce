//! One call at the agent: checked against the allow-list, given the key, streamed.
//!
//! Invariant: whatever a hub asks, a key goes only to its own host, on a listed endpoint,
//! and what the vendor says about the owner's account stays here.

mod answer;
mod check;
mod exchange;
mod metered;
mod patience;
mod realtime;
mod refusal;
mod request;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::id::VendorKeyId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::config::Calls;
use crate::offers::Offers;
use crate::orders::Orders;
use crate::prices::PriceStore;
use crate::provider::Egress;
use crate::provider::VendorClient;
use crate::status::CallTotals;
use crate::vault::running::SharedVault;

use metered::Metered;
use refusal::Refusal;

pub use upload::CallBody;
pub use upload::RequestBroke;

/// Serves calls. One per agent, shared by all its links.
pub struct Relay {
    vault: SharedVault,
    client: VendorClient<Box<CallBody>>,
    calls: Calls,
    offers: Offers,
    orders: Orders,
    prices: PriceStore,
    stopping: CancellationToken,
    room: Semaphore,
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
    OwnerRefused(Refusal),
}

impl Relay {
    /// A relay that has served nothing yet. What is under way when `stopping` is cancelled
    /// is aborted.
    pub fn new(
        vault: SharedVault,
        egress: &Egress,
        calls: Calls,
        offers: Offers,
        orders: Orders,
        prices: PriceStore,
        stopping: CancellationToken,
    ) -> Arc<Self> {
        let client = VendorClient::new(egress, calls.vendor_connect_timeout());
        let room = Semaphore::new(calls.concurrent_max as usize);
        let [opened, served, aborted, refused] = [const { AtomicU64::new(0) }; 4];
        Arc::new(Self {
            vault,
            client,
            calls,
            offers,
            orders,
            prices,
            stopping,
            room,
            opened,
            served,
            aborted,
            refused,
        })
    }

    /// Waits until vendors' connections are kept that nobody uses.
    pub async fn has_idle_connections(&self) {
        self.client.has_idle().await;
    }

    /// Closes the vendors' connections that nobody needs.
    pub fn sweep(&self) {
        self.client.sweep();
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

    #[cfg(test)]
    fn idle_connections(&self) -> usize {
        self.client.idle_connections()
    }

    /// Serves one stream from its OPEN to its end.
    pub async fn serve(self: Arc<Self>, stream: LinkStream, open: Bytes) {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let Ok(open) = OpenHead::decode(open) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return stream.abort(Abort::with_detail(AbortReason::Protocol, "an OPEN did not follow its layout"));
        };
        let (call, key) = (open.call, open.vendor_key);
        let begun = self.orders.take(&open).and_then(|order| Metered::begin(&open, order, &self.prices));
        let mut metered = match begun {
            Ok(metered) => metered,
            Err(abort) => return self.note(call, key, &stream, End::Refused(abort)),
        };
        let time_max = metered.time_max();
        // What ends the call from outside drops the exchange, and with it the vendor's
        // connection, whatever it was waiting for.
        let end = tokio::select! {
            biased;
            abort = stream.aborted() => End::Aborted(abort.reason),
            () = self.stopping.cancelled() => End::Refused(Abort::new(AbortReason::Stopping)),
            () = tokio::time::sleep(time_max) => End::Refused(Abort::new(AbortReason::Deadline)),
            end = self.run(&stream, open, &mut metered) => end,
        };
        self.note(call, key, &stream, end);
        metered.settle(&stream, self.calls.vendor_idle_timeout()).await;
    }

    async fn run(&self, stream: &LinkStream, open: OpenHead, metered: &mut Metered) -> End {
        let Ok(_place) = self.room.try_acquire() else {
            return End::Refused(Abort::new(AbortReason::Busy));
        };
        let request = match request::build(&self.vault.read(), stream, &open, metered.sold_as()) {
            Ok(built) => built,
            Err(abort) => return End::Refused(abort),
        };
        metered.uploads(&request.upload);
        exchange::exchange(&self.client, &self.calls, stream, request, metered).await
    }

    fn note(&self, call: CallId, key: VendorKeyId, stream: &LinkStream, end: End) {
        match end {
            End::Served => {
                self.served.fetch_add(1, Ordering::Relaxed);
                debug!(call.id = %call, "call {call} served");
            }
            End::Aborted(reason) => {
                self.aborted.fetch_add(1, Ordering::Relaxed);
                debug!(call.id = %call, abort.reason = reason.name(), "call {call} aborted: {}", reason.name());
            }
            End::OwnerRefused(Refusal { abort, trouble }) => {
                if let Some(trouble) = trouble {
                    self.offers.trouble(key, trouble);
                }
                self.note(call, key, stream, End::Refused(abort));
            }
            End::Refused(abort) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                debug!(call.id = %call, abort.reason = abort.reason.name(), "call {call} refused: {}", abort.detail);
                stream.abort(abort);
            }
        }
    }
}

/// How a call ended whose stream takes no more.
fn gone(stream: &LinkStream) -> End {
    End::Aborted(stream.abort_received().map_or(AbortReason::Unspecified, |abort| abort.reason))
}
