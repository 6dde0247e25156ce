//! The vendor's response on its way out, piece by piece as it comes.
//!
//! Invariant: nothing is buffered here; a slow consumer stops the vendor through credit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use http::header;
use http_body::Frame;
use keyhaven_protocol::assist::AssistFilter;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::link::Incoming;
use keyhaven_protocol::metering::Ending;
use keyhaven_protocol::usage::Shape;
use metrics::counter;
use tokio::time::Instant;
use tracing::info;

use super::CallSummary;
use super::Outcome;
use super::UserGateway;
use super::connection::OnCall;
use super::meters::name;
use super::silence::Silence;
use super::tab::Attempt;
use super::upload::Upload;

/// The response broke off; the consumer's connection is cut so that it shows.
#[derive(Debug, thiserror::Error)]
#[error("the response broke off: {}", .0.name())]
pub(super) struct Truncated(pub(super) AbortReason);

/// What is handed to the consumer's connection before it has left this process. Much more would
/// make a consumer that does not read cost that much more.
const UNFLUSHED_BYTES_MAX: u64 = 16 * 1024;

/// A response being relayed, together with what is left of the request.
pub(super) struct Relayed {
    attempt: Attempt,
    upload: Option<Box<Upload>>,
    connection: OnCall,
    /// The agent watches the vendor's; this watches the agent's, and at the end the consumer's.
    silence: Silence,
    record: Record,
    phase: Phase,
    /// Bytes handed over since the connection was flushed for the last time, and which time that was.
    unflushed_bytes: u64,
    flushes: u64,
    /// Bytes still to come of a declared length.
    left: Option<u64>,
    /// Takes out of the stream what was asked for in the consumer's name.
    assist: Option<AssistFilter>,
}

/// How far the response is.
enum Phase {
    Flowing,
    /// It broke off; what came before has to leave first. Flushes there were at the break.
    Breaking(AbortReason, u64),
    Over,
}

impl Relayed {
    pub(super) fn new(
        attempt: Attempt,
        upload: Option<Box<Upload>>,
        connection: OnCall,
        idle: Duration,
        record: Record,
    ) -> Self {
        let silence = Silence::new(idle, connection.clone());
        let (phase, flushes) = (Phase::Flowing, connection.flushes());
        Self {
            attempt,
            upload,
            connection,
            silence,
            record,
            phase,
            unflushed_bytes: 0,
            flushes,
            left: None,
            assist: None,
        }
    }

    /// The stream was asked for its usage: the consumer gets what it would have been unasked.
    /// An answer that is no stream, such as an error, is the same either way.
    pub(super) fn assist(&mut self, head: &ResponseHead) {
        let is_stream =
            head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| Shape::of(kind.as_bytes()) == Shape::Events);
        let is_plain = !head.headers.contains_key(header::CONTENT_ENCODING);
        self.assist = (is_stream && is_plain).then(AssistFilter::new);
    }

    /// The head goes out now.
    pub(super) fn begin(&mut self, head: &ResponseHead) {
        self.record.head_leaves(head.status);
        let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self.left = if bodiless { Some(0) } else { declared_length(&head.headers) };
        self.count(0);
    }

    /// hyper does not ask for more once a declared length is there, so the end of such a
    /// body is its last byte and not the END that follows.
    fn count(&mut self, bytes: u64) {
        self.record.summary.response_bytes += bytes;
        self.left = self.left.map(|left| left.saturating_sub(bytes));
        if self.left == Some(0) {
            self.record.summary.outcome = Outcome::Served;
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        loop {
            match self.phase {
                Phase::Over => return Poll::Ready(None),
                Phase::Breaking(reason, flushes) => {
                    let gone =
                        self.connection.poll_flushed_since(flushes, cx).is_ready() || self.silence.poll(cx).is_ready();
                    if !gone {
                        return Poll::Pending;
                    }
                    self.phase = Phase::Over;
                    return Poll::Ready(Some(Err(Truncated(reason))));
                }
                Phase::Flowing => {
                    self.poll_upload(cx);
                    ready!(self.poll_room(cx));
                    match ready!(self.poll_incoming(cx)) {
                        Incoming::Data(data) => {
                            self.attempt.feed(&data);
                            let data = self.assisted(data);
                            if data.is_empty() {
                                continue;
                            }
                            self.count(data.len() as u64);
                            self.unflushed_bytes += data.len() as u64;
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                        Incoming::End(_) => {
                            // Trailers are not relayed: no vendor's API has any.
                            self.phase = Phase::Over;
                            self.record.summary.outcome = Outcome::Served;
                            self.attempt.end(Ending::Complete);
                            if let Some(rest) = self.held_back() {
                                return Poll::Ready(Some(Ok(rest)));
                            }
                            return Poll::Ready(None);
                        }
                        Incoming::Aborted(abort) => {
                            self.record.summary.outcome = Outcome::Aborted;
                            self.record.aborted_for = Some(abort.reason);
                            self.attempt.end(Ending::Broke);
                            self.phase = Phase::Breaking(abort.reason, self.connection.flushes());
                            if let Some(rest) = self.held_back() {
                                return Poll::Ready(Some(Ok(rest)));
                            }
                        }
                        Incoming::Pending => return Poll::Pending,
                    }
                }
            }
        }
    }

    /// What of these bytes goes on to the consumer.
    fn assisted(&mut self, data: Bytes) -> Bytes {
        let Some(assist) = &mut self.assist else { return data };
        let mut out = Vec::with_capacity(data.len());
        assist.feed(&data, &mut out);
        out.into()
    }

    /// What was not known to go on until the end.
    fn held_back(&mut self) -> Option<Frame<Bytes>> {
        let mut rest = Vec::new();
        self.assist.take()?.finish(&mut rest);
        self.count(rest.len() as u64);
        (!rest.is_empty()).then(|| Frame::data(rest.into()))
    }

    /// Waits until the connection has passed on most of what it was given.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.unflushed_bytes >= UNFLUSHED_BYTES_MAX {
            ready!(self.connection.poll_flushed_since(self.flushes, cx));
        }
        let flushes = self.connection.flushes();
        if flushes != self.flushes {
            (self.flushes, self.unflushed_bytes) = (flushes, 0);
        }
        Poll::Ready(())
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        if let Poll::Ready(incoming) = self.attempt.stream().poll_data(cx) {
            self.silence.moved();
            return Poll::Ready(incoming);
        }
        ready!(self.silence.poll(cx));
        let abort = Abort::new(AbortReason::VendorTimeout);
        self.attempt.abort(abort.reason);
        Poll::Ready(Incoming::Aborted(abort))
    }

    /// A request that is refused now, half answered, ends the response too: the abort
    /// that `Upload` sent comes back as the stream's end.
    fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Some(upload) = &mut self.upload
            && upload.poll(self.attempt.stream(), cx).is_ready()
        {
            self.record.summary.request_bytes = upload.bytes();
            if upload.was_sent() {
                self.attempt.request_sent(upload.scan().demand());
            }
            self.upload = None;
        }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        if self.left == Some(0) {
            // All of it was delivered: if the END has not come yet, nobody has left.
            self.attempt.delivered();
        }
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What is known of a call; told to those who watch when it is dropped.
pub(super) struct Record {
    pub(super) summary: CallSummary,
    began: Instant,
    pub(super) aborted_for: Option<AbortReason>,
    gateway: Arc<UserGateway>,
}

impl Record {
    pub(super) fn new(gateway: Arc<UserGateway>, summary: CallSummary) -> Self {
        gateway.served.fetch_add(1, Ordering::Relaxed);
        Self { summary, began: Instant::now(), aborted_for: None, gateway }
    }

    /// The head of the answer goes out now.
    pub(super) fn head_leaves(&mut self, status: StatusCode) {
        self.summary.status = status.as_u16();
        self.summary.first_byte_micros = self.elapsed_micros();
    }

    pub(super) fn elapsed_micros(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.summary.total_micros = self.elapsed_micros();
        let summary = &self.summary;
        let meters = &self.gateway.meters;
        meters.ended(summary.provider, summary.outcome);
        if summary.status != 0 {
            meters.began(summary.provider, Duration::from_micros(summary.first_byte_micros));
        }
        if let Some(reason) = self.aborted_for {
            counter!("keyhaven_user_gateway_aborts_total", "reason" => reason.name()).increment(1);
        }
        let outcome = summary.outcome.name();
        info!(
            call.id = %summary.call,
            call.status = summary.status,
            call.provider = name(summary.provider),
            call.attempts = summary.attempts,
            total_micros = summary.total_micros,
            "call {outcome}"
        );
        if self.gateway.calls.receiver_count() > 0 {
            // Whoever watched may have left in between, which is fine.
            let _ = self.gateway.calls.send(summary.clone());
        }
    }
}
