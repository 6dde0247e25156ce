//! A consumer's WebSocket through the tunnel: raw bytes both ways, read and never changed.
//!
//! Invariant: no more is held than one piece toward the consumer; no message is completed
//! that asks for what is refused; each side's end is passed on after its last byte, and
//! whatever breaks on one side breaks the other.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Buf;
use bytes::Bytes;
use http::HeaderValue;
use http::Response;
use http::header;
use hyper::rt::Read;
use hyper::rt::ReadBuf;
use hyper::rt::Write;
use hyper::upgrade::OnUpgrade;
use hyper::upgrade::Upgraded;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::link::Incoming;
use keyhaven_protocol::metering::Ending;
use keyhaven_protocol::provider::headers::response_to_consumer;
use keyhaven_protocol::request_scan::SessionScan;
use keyhaven_protocol::websocket::CONTROL_BYTES_MAX;
use keyhaven_protocol::websocket::Role;
use keyhaven_protocol::websocket::messages::MessageScan;
use tokio::time::Instant;
use tokio::time::Sleep;

use super::Outcome;
use super::UserGateway;
use super::body::AnswerBody;
use super::connection::OnCall;
use super::response::Record;
use super::tab::Attempt;

/// Silence after one side has ended: what the other one still has to say comes at once.
const HALF_CLOSED_SILENCE_MAX: Duration = Duration::from_secs(10);

/// What is read from the consumer in one step. It is on the stack, so that a silent
/// connection holds no buffer.
const PIECE_BYTES: usize = 16 * 1024;

/// Pieces one way before everybody else gets a turn.
const PIECES_PER_TURN: usize = 16;

/// Why a session ends that may cost no more.
const USED_UP: &str = "what was set aside for this session is used up: open another one";

/// A consumer's connection that becomes a WebSocket, and the judge of what it will say.
pub(super) struct Switched {
    pub(super) consumer: OnUpgrade,
    pub(super) scan: SessionScan,
    pub(super) connection: OnCall,
}

impl UserGateway {
    /// Answers 101 and carries the bytes once the consumer's connection is its own again.
    pub(super) fn switch(
        self: &Arc<Self>,
        head: &ResponseHead,
        attempt: Attempt,
        switched: Switched,
        mut record: Record,
    ) -> Response<AnswerBody> {
        record.head_leaves(head.status);
        let mut response = Response::new(AnswerBody::ours(Bytes::new()));
        *response.status_mut() = head.status;
        let mut headers = response_to_consumer(&head.headers);
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        *response.headers_mut() = headers;
        switched.connection.becomes_a_tunnel();
        self.tasks.spawn("realtime", carry(self.clone(), switched, attempt, record));
        response
    }
}

/// Carries bytes until both sides have ended or one breaks. The connection's place is held
/// until then.
async fn carry(gateway: Arc<UserGateway>, switched: Switched, mut attempt: Attempt, mut record: Record) {
    let Switched { consumer, scan, connection: _connection } = switched;
    let switched = tokio::time::timeout(gateway.config.consumer.request_idle_timeout(), consumer);
    let ended = match switched.await {
        Ok(Ok(consumer)) => {
            let idle = gateway.config.calls.realtime_idle_timeout();
            let mut session = Session::new(consumer, scan, &mut attempt, idle);
            let stopping = gateway.tasks.stopping();
            let ended = tokio::select! {
                biased;
                () = stopping.cancelled() => Err(Broken::Here(AbortReason::Stopping)),
                ended = poll_fn(|cx| session.poll(cx)) => ended,
            };
            record.summary.request_bytes = session.from_consumer_bytes;
            record.summary.response_bytes = session.to_consumer_bytes;
            ended
        }
        Ok(Err(_)) | Err(_) => Err(Broken::Here(AbortReason::ConsumerGone)),
    };
    match ended {
        Ok(()) => {
            record.summary.outcome = Outcome::Served;
            attempt.end(Ending::Complete);
        }
        Err(Broken::Here(reason)) => attempt.abort(reason),
        Err(Broken::There(reason)) => {
            record.aborted_for = Some(reason);
            attempt.end(Ending::Broke);
        }
        Err(Broken::Refused) => {
            record.summary.outcome = Outcome::Refused;
            attempt.abort(AbortReason::RequestBroken);
        }
    }
}

/// Which side broke it, and why.
enum Broken {
    /// Here, or at the consumer: the agent is told.
    Here(AbortReason),
    /// At the agent or beyond.
    There(AbortReason),
    /// The consumer asked for what is refused; the agent has been told.
    Refused,
}

/// Both directions of one WebSocket.
struct Session<'a> {
    consumer: Upgraded,
    attempt: &'a mut Attempt,
    /// The judge of what the consumer says.
    scan: SessionScan,
    /// Where the vendor is in its frames: between two of them, one of ours may go.
    vendor: Option<MessageScan>,
    refused: bool,
    /// What the consumer has not taken yet.
    piece: Bytes,
    upstream: Direction,
    downstream: Direction,
    idle: Duration,
    moved_at: Instant,
    timer: Pin<Box<Sleep>>,
    from_consumer_bytes: u64,
    to_consumer_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Open,
    /// The last byte was passed on, its end was not.
    Ending,
    Ended,
}

impl<'a> Session<'a> {
    fn new(consumer: Upgraded, scan: SessionScan, attempt: &'a mut Attempt, idle: Duration) -> Self {
        let moved_at = Instant::now();
        Self {
            consumer,
            attempt,
            scan,
            vendor: Some(MessageScan::new(Role::Server)),
            refused: false,
            piece: Bytes::new(),
            upstream: Direction::Open,
            downstream: Direction::Open,
            idle,
            moved_at,
            timer: Box::pin(tokio::time::sleep_until(moved_at + idle)),
            from_consumer_bytes: 0,
            to_consumer_bytes: 0,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let gone = |_: io::Error| Broken::Here(AbortReason::ConsumerGone);
        if self.refused {
            return self.poll_refused(cx);
        }
        if self.upstream != Direction::Ended
            && let Poll::Ready(result) = self.poll_upstream(cx)
        {
            result.map_err(gone)?;
            self.end(|session| &mut session.upstream);
            if self.refused {
                return self.poll_refused(cx);
            }
        }
        if self.downstream != Direction::Ended
            && let Poll::Ready(result) = self.poll_downstream(cx)
        {
            result?;
            self.end(|session| &mut session.downstream);
        }
        let ended = self.upstream == Direction::Ended && self.downstream == Direction::Ended;
        if ended && self.attempt.stream().poll_sent_all(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.poll_silence(cx).map(|()| Err(Broken::Here(AbortReason::VendorTimeout)))
    }

    /// From the consumer, as the agent takes it. Ready at the consumer's end.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut piece = [MaybeUninit::uninit(); PIECE_BYTES];
        for _ in 0..PIECES_PER_TURN {
            if ready!(self.attempt.stream().poll_capacity(cx)).is_err() {
                // The other direction says what happened.
                return Poll::Ready(Ok(()));
            }
            let mut read = ReadBuf::uninit(&mut piece);
            ready!(Pin::new(&mut self.consumer).poll_read(cx, read.unfilled()))?;
            let read = read.filled();
            if read.is_empty() {
                // If the stream is over, the other direction says so too.
                let _ = self.attempt.stream().finish(Bytes::new());
                return Poll::Ready(Ok(()));
            }
            if let Err(refused) = self.scan.feed(read) {
                self.refuse(&refused.to_string());
                return Poll::Ready(Ok(()));
            }
            let _ = self.attempt.stream().send_data(Bytes::copy_from_slice(read));
            self.from_consumer_bytes += read.len() as u64;
            self.moved_at = Instant::now();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// To the consumer, as it takes it. Ready when the agent's end was passed on.
    fn poll_downstream(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let gone = |_: io::Error| Broken::Here(AbortReason::ConsumerGone);
        for _ in 0..PIECES_PER_TURN {
            ready!(self.poll_write_piece(cx)).map_err(gone)?;
            if self.attempt.is_used_up() {
                self.refuse(USED_UP);
                return self.poll_refused(cx);
            }
            if self.downstream == Direction::Ending {
                return Pin::new(&mut self.consumer).poll_shutdown(cx).map_err(gone);
            }
            match self.attempt.stream().poll_data(cx) {
                Poll::Ready(Incoming::Data(data)) => {
                    self.attempt.feed(&data);
                    self.vendor.take_if(|vendor| vendor.feed(&data, &mut |_| {}).is_err());
                    self.piece = data;
                }
                Poll::Ready(Incoming::End(_)) => self.downstream = Direction::Ending,
                Poll::Ready(Incoming::Aborted(abort)) => {
                    ready!(Pin::new(&mut self.consumer).poll_flush(cx)).map_err(gone)?;
                    return Poll::Ready(Err(Broken::There(abort.reason)));
                }
                Poll::Ready(Incoming::Pending) | Poll::Pending => {
                    ready!(Pin::new(&mut self.consumer).poll_flush(cx)).map_err(gone)?;
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The vendor hears no more of this session; the consumer is told why, if the last frame
    /// it was sent is whole.
    fn refuse(&mut self, why: &str) {
        self.refused = true;
        self.attempt.stream().abort(Abort::with_detail(AbortReason::RequestBroken, why));
        if self.piece.is_empty() && self.vendor.as_ref().is_some_and(MessageScan::is_between_frames) {
            self.piece = close_frame(why);
        }
    }

    fn poll_refused(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let told = match self.poll_write_piece(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.consumer).poll_shutdown(cx).map(drop),
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        };
        if told.is_ready() || self.poll_silence(cx).is_ready() {
            return Poll::Ready(Err(Broken::Refused));
        }
        Poll::Pending
    }

    fn poll_write_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.piece.is_empty() {
            let written = ready!(Pin::new(&mut self.consumer).poll_write(cx, &self.piece))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.piece.advance(written);
            self.to_consumer_bytes += written as u64;
            self.moved_at = Instant::now();
        }
        Poll::Ready(Ok(()))
    }

    /// One side has ended: the other has little time left to be silent in.
    fn end(&mut self, direction: impl FnOnce(&mut Self) -> &mut Direction) {
        *direction(self) = Direction::Ended;
        self.idle = self.idle.min(HALF_CLOSED_SILENCE_MAX);
        self.moved_at = Instant::now();
        self.timer.as_mut().reset(self.moved_at + self.idle);
    }

    /// The timer runs on while bytes move; when it ends it is set to where it should be.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let ends_at = self.moved_at + self.idle;
            if Instant::now() >= ends_at {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(ends_at);
        }
    }
}

/// A close frame with the code for a message that breaks the rules of the place (RFC 6455,
/// section 7.4.1), and as much of the reason as fits.
fn close_frame(reason: &str) -> Bytes {
    const POLICY_VIOLATION: [u8; 2] = 1008_u16.to_be_bytes();
    let mut end = reason.len().min(CONTROL_BYTES_MAX - POLICY_VIOLATION.len());
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = reason.get(..end).unwrap_or_default();
    let length = u8::try_from(POLICY_VIOLATION.len() + reason.len()).unwrap_or_default();
    [&[0x88, length], &POLICY_VIOLATION[..], reason.as_bytes()].concat().into()
}
