//! One attempt at a call with its running bill: the answer is metered as it comes, and paid for
//! however it ends.
//!
//! Invariant: an attempt that may have cost something is settled once, by figures of the same
//! bytes at both ends, whoever lets go of it first; nothing of that delays the consumer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::demand::Demand;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::leaf::Metered;
use keyhaven_protocol::link::Incoming;
use keyhaven_protocol::metering::CallMeter;
use keyhaven_protocol::metering::Ending;
use keyhaven_protocol::metering::Outcome;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use tokio::time::Instant;
use tracing::error;
use tracing::warn;

use super::UserGateway;
use super::order::Order;
use crate::agent_gateway::ExpectedReceipt;
use crate::agent_gateway::LiveLink;
use crate::agent_gateway::Seat;
use crate::settlement::CallRecord;
use crate::settlement::Sale;

/// How long the agent's receipt is waited for once the answer is over.
const RECEIPT_TIME_MAX: Duration = Duration::from_secs(2);

/// How long the answer of a consumer that left is read on, for the usage behind its end.
const USAGE_TIME_MAX: Duration = Duration::from_secs(1);

/// And how much of it.
const USAGE_BYTES_MAX: u64 = 64 * 1024;

/// How long the agent may take to end what was aborted.
const ECHO_TIME_MAX: Duration = Duration::from_secs(5);

/// Between two notes of what a call under way has cost.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);

/// An attempt that may cost something.
pub(super) struct Tab {
    order: Box<Order>,
    sale: Sale,
    meter: CallMeter,
    receipt: ExpectedReceipt,
    link: Arc<LiveLink>,
    /// Since when the whole request is passed on, and what it asks for.
    sent: Option<(Instant, Demand)>,
    status: u16,
    /// What it has cost so far at list prices, as of then.
    observed: NanoUsd,
    observed_at: Instant,
}

/// The stream of one attempt. Whoever drops it before its end leaves the call: what was still
/// on its way is metered before the stream goes.
pub(super) struct Attempt {
    stream: LinkStream,
    gateway: Arc<UserGateway>,
    tab: Option<Box<Tab>>,
}

impl Tab {
    /// The bill of an attempt at this seat, which is opened right after.
    pub(super) fn open(mut order: Box<Order>, seat: &Seat, attempt: u8, tier: Ppm) -> Box<Self> {
        let receipt = seat.link.expect_receipt(order.call(), attempt);
        let sale = order.dispatched(seat.link.agent, attempt, tier);
        let meter = CallMeter::new(order.form());
        Box::new(Self {
            order,
            sale,
            meter,
            receipt,
            link: seat.link.clone(),
            sent: None,
            status: 0,
            observed: NanoUsd::ZERO,
            observed_at: Instant::now(),
        })
    }

    /// No agent has the call after all.
    pub(super) fn withdraw(self) -> Box<Order> {
        let mut order = self.order;
        order.withdrawn();
        order
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.meter.feed(bytes);
        let now = Instant::now();
        if now.duration_since(self.observed_at) >= OBSERVE_EVERY {
            self.observed_at = now;
            let demand = self.sent.as_ref().map(|(_, demand)| demand);
            self.observed = self.meter.so_far(&self.order.asked(demand));
            self.order.observed(self.observed);
        }
    }

    /// For how long the request has been passed on; at least 1, since 0 says nothing.
    fn elapsed_ms(&self) -> Option<u32> {
        let (since, _) = self.sent.as_ref()?;
        Some(u32::try_from(since.elapsed().as_millis()).unwrap_or(u32::MAX).max(1))
    }

    /// The call is over: settles it, now if the agent's receipt has come.
    fn end(mut self: Box<Self>, gateway: &Arc<UserGateway>, ending: Ending) {
        if let Some(receipt) = self.receipt.at_hand() {
            return self.settle(gateway, ending, Some(receipt));
        }
        let settling = gateway.clone();
        gateway.tasks.spawn("receipt", async move {
            let receipt = self.receipt.within(RECEIPT_TIME_MAX).await;
            self.settle(&settling, ending, receipt);
        });
    }

    fn settle(self: Box<Self>, gateway: &UserGateway, ending: Ending, receipt: Option<Metered>) {
        let Self { order, sale, meter, link, sent, status, .. } = *self;
        let demand = sent.as_ref().map(|(_, demand)| demand);
        // An agent that says it did not send the request says so against itself.
        let not_sent = receipt.as_ref().is_some_and(|receipt| receipt.outcome == Outcome::NotSent);
        let ending = if not_sent && meter.response_bytes() == 0 { Ending::NotSent } else { ending };
        let hub_metered = (&meter.finish(&order.asked(demand), ending)).into();
        let agent_metered = receipt.as_ref().map(Into::into);
        let (call, agent) = (sale.call, sale.agent);
        let record = match CallRecord::settled(sale, status, unix_ms_now(), hub_metered, agent_metered) {
            Ok(record) => record,
            Err(too_much) => {
                // The ceiling is within bounds, and no figure is above it.
                error!(call.id = %call, "call {call} is not settled: {too_much}");
                return;
            }
        };
        let verdict = record.settled.verdict;
        link.note_verdict(verdict);
        if verdict.is_disputed() {
            let verdict = verdict.name();
            warn!(call.id = %call, agent.id = %agent, verdict, "agent {agent} metered call {call} otherwise than the hub");
        }
        gateway.books.settle(order.into_hold(), record);
    }
}

impl Attempt {
    pub(super) fn new(stream: LinkStream, gateway: Arc<UserGateway>, tab: Option<Box<Tab>>) -> Self {
        Self { stream, gateway, tab }
    }

    /// The stream, to send on and to wait on.
    pub(super) fn stream(&self) -> &LinkStream {
        &self.stream
    }

    /// The whole request has been passed on.
    pub(super) fn request_sent(&mut self, demand: Demand) {
        if let Some(tab) = &mut self.tab {
            tab.sent.get_or_insert_with(|| (Instant::now(), demand));
        }
    }

    /// The answer's head has come.
    pub(super) fn head(&mut self, head: &ResponseHead) {
        if let Some(tab) = &mut self.tab {
            tab.status = head.status.as_u16();
            tab.meter.head(head.status, &head.headers);
        }
    }

    /// Bytes of the answer's body have come.
    pub(super) fn feed(&mut self, bytes: &Bytes) {
        if let Some(tab) = &mut self.tab {
            tab.feed(bytes);
        }
    }

    /// Whether what is left of the money may not suffice for one more answer of a session.
    pub(super) fn is_used_up(&self) -> bool {
        self.tab.as_ref().is_some_and(|tab| tab.order.is_used_up(tab.observed))
    }

    /// The answer has ended, or broke off: what came is all there is.
    pub(super) fn end(&mut self, ending: Ending) {
        if let Some(tab) = self.tab.take() {
            let ending = if tab.sent.is_none() && ending == Ending::Broke { Ending::NotSent } else { ending };
            tab.end(&self.gateway, ending);
        }
    }

    /// No agent served it: the money is there for another attempt.
    pub(super) fn withdraw(mut self) -> Option<Box<Order>> {
        self.tab.take().map(|tab| tab.withdraw())
    }

    /// The agent answered with an abort instead of a head, so it has no receipt.
    pub(super) fn refused(&mut self) {
        self.stream.abort(Abort::new(AbortReason::Protocol));
        if let Some(tab) = self.tab.take() {
            tab.settle(&self.gateway, Ending::Broke, None);
        }
    }

    /// Ends the attempt here; what the agent had sent before it knew is metered yet.
    pub(super) fn abort(&mut self, reason: AbortReason) {
        match self.tab.take() {
            Some(tab) => self.aftermath(|stream| async move { called_off(&stream, tab, reason).await }),
            None => self.stream.abort(Abort::new(reason)),
        }
    }

    /// All that was promised of the answer has been delivered; its end may not have come yet.
    pub(super) fn delivered(&mut self) {
        let Some(tab) = self.tab.take() else {
            return self.stream.abort(Abort::new(AbortReason::Finished));
        };
        let mut now = Context::from_waker(Waker::noop());
        match self.stream.poll_data(&mut now) {
            Poll::Ready(Incoming::End(_)) => tab.end(&self.gateway, Ending::Complete),
            Poll::Ready(Incoming::Data(_) | Incoming::Aborted(_) | Incoming::Pending) | Poll::Pending => {
                self.aftermath(|stream| async move { ended(&stream, tab).await });
            }
        }
    }

    /// Lets the rest of the attempt go by itself, up to its settlement.
    fn aftermath<F>(&self, rest: impl FnOnce(LinkStream) -> F)
    where
        F: Future<Output = (Box<Tab>, Ending)> + Send + 'static,
    {
        let (rest, gateway) = (rest(self.stream.clone()), self.gateway.clone());
        self.gateway.tasks.spawn("aftermath", async move {
            let (tab, ending) = rest.await;
            tab.end(&gateway, ending);
        });
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(tab) = self.tab.take() {
            self.aftermath(|stream| async move { left(&stream, tab).await });
        }
    }
}

/// What a consumer has left: read on for the usage if it is about to come, else called off.
async fn left(stream: &LinkStream, mut tab: Box<Tab>) -> (Box<Tab>, Ending) {
    if tab.meter.awaits_usage() {
        let bytes_max = tab.meter.response_bytes() + USAGE_BYTES_MAX;
        let read = read_on(stream, &mut tab, |tab| tab.meter.response_bytes() >= bytes_max);
        if let Ok(Some(ending)) = tokio::time::timeout(USAGE_TIME_MAX, read).await {
            return (tab, ending);
        }
    }
    called_off(stream, tab, AbortReason::ConsumerGone).await
}

/// What a consumer has all of: its end is next.
async fn ended(stream: &LinkStream, mut tab: Box<Tab>) -> (Box<Tab>, Ending) {
    let read = read_on(stream, &mut tab, |_| false);
    match tokio::time::timeout(RECEIPT_TIME_MAX, read).await {
        Ok(Some(ending)) => (tab, ending),
        Ok(None) | Err(_) => {
            stream.abort(Abort::new(AbortReason::Finished));
            (tab, Ending::Complete)
        }
    }
}

/// Tells the agent, and meters what it had sent before it knew.
async fn called_off(stream: &LinkStream, mut tab: Box<Tab>, reason: AbortReason) -> (Box<Tab>, Ending) {
    let elapsed_ms = tab.elapsed_ms();
    stream.abort(Abort { elapsed_ms: elapsed_ms.unwrap_or_default(), ..Abort::new(reason) });
    let ended = tokio::time::timeout(ECHO_TIME_MAX, read_on(stream, &mut tab, |_| false)).await;
    let ending = match (ended, elapsed_ms, reason) {
        (Ok(Some(Ending::Complete)), ..) => Ending::Complete,
        (_, None, _) => Ending::NotSent,
        (_, Some(elapsed_ms), AbortReason::ConsumerGone) => Ending::ConsumerLeft { elapsed_ms },
        (_, Some(_), _) => Ending::Broke,
    };
    (tab, ending)
}

/// Reads and meters until the answer is over, or there is enough of it.
async fn read_on(stream: &LinkStream, tab: &mut Tab, enough: impl Fn(&Tab) -> bool) -> Option<Ending> {
    if tab.status == 0 {
        let head = poll_fn(|cx| stream.poll_head(cx)).await;
        let Some(head) = head.ok().and_then(|head| ResponseHead::decode(head).ok()) else {
            return Some(Ending::Broke);
        };
        tab.status = head.status.as_u16();
        tab.meter.head(head.status, &head.headers);
    }
    while !enough(tab) {
        match poll_fn(|cx| stream.poll_data(cx)).await {
            Incoming::Data(data) => tab.feed(&data),
            Incoming::End(_) => return Some(Ending::Complete),
            Incoming::Aborted(_) => return Some(Ending::Broke),
            Incoming::Pending => {}
        }
    }
    None
}
