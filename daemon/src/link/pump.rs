//! The one task of a link: reads messages, hands frames to the state machine, wakes
//! those who wait, and writes the batches the state machine pulls together.
//!
//! Invariant: at most one batch is staged between the state machine and the socket.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use futures_util::Sink;
use futures_util::SinkExt;
use futures_util::Stream;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Drain;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::Refuse;
use keyhaven_protocol::frame::put_frame;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::link::Event;
use keyhaven_protocol::link::LinkFault;
use keyhaven_protocol::link::Micros;
use keyhaven_protocol::link::Silent;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use tokio::time::Sleep;
use tokio::time::sleep_until;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::Message;

use super::Closing;
use super::LinkHandle;
use super::LinkStream;
use super::Wakers;

/// Messages read before it is the writer's turn.
const READS_PER_TURN: usize = 32;

/// Streams from which on the pump lets other tasks run before it writes.
const BUSY_STREAMS_MIN: usize = 5;

/// How long a closing link may take to say goodbye.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(1);

/// What the owner of a link does about what comes in. Called from the link's task: it
/// must not block.
pub trait LinkEvents: Send {
    /// The peer opened a stream with this encoded OPEN (agent only).
    fn opened(&mut self, stream: LinkStream, open: Bytes);
    /// A frame of the link that the state machine does not answer itself.
    fn control(&mut self, frame: &Frame) -> Result<(), LinkFault>;
    /// The peer drains.
    fn peer_drains(&mut self, drain: &Drain);
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    /// This side closed it.
    #[error("closed")]
    Closed,
    /// The peer closed it without giving a reason.
    #[error("closed by the other side")]
    ClosedByPeer,
    /// The peer refused to go on.
    #[error("refused by the other side: {}", .0.message)]
    Refused(Refuse),
    /// The peer broke the protocol.
    #[error(transparent)]
    Fault(#[from] LinkFault),
    /// The peer fell silent.
    #[error(transparent)]
    Silent(#[from] Silent),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Socket(#[source] Box<tungstenite::Error>),
}

/// Drives a link until it ends, then aborts what was left of its streams.
pub async fn run<S, E>(socket: WebSocketStream<S>, handle: &LinkHandle, events: E) -> LinkEnd
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    E: LinkEvents,
{
    let now = handle.shared.now();
    handle.shared.lock().link.ping(now);
    let mut pump = Pump {
        socket,
        handle,
        events,
        batch: BytesMut::new(),
        flushing: false,
        was_full: false,
        waited: false,
        timer: Box::pin(sleep_until(Instant::now())),
        timer_at: Micros(0),
    };
    let end = poll_fn(|cx| pump.poll(cx)).await;
    handle.shared.lock().link.lose();
    pump.handle_events();
    pump.say_goodbye(&end).await;
    end
}

struct Pump<'a, S, E> {
    socket: WebSocketStream<S>,
    handle: &'a LinkHandle,
    events: E,
    batch: BytesMut,
    flushing: bool,
    /// The socket did not take all of the last batch at once.
    was_full: bool,
    waited: bool,
    timer: Pin<Box<Sleep>>,
    timer_at: Micros,
}

impl<S, E> Pump<'_, S, E>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    E: LinkEvents,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LinkEnd> {
        self.handle.shared.pump.register(cx.waker());
        if self.lets_others_add() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    /// Every other time on a busy link. A woken pump runs before the tasks that were ready
    /// earlier; what they are about to send would leave in a message, a TLS record and a
    /// system call each.
    fn lets_others_add(&mut self) -> bool {
        let busy = self.handle.shared.lock().link.stream_count() >= BUSY_STREAMS_MIN;
        self.waited = busy && !self.waited;
        self.waited
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        self.read(cx)?;
        self.watch_time(cx)?;
        let all_written = self.write(cx)?;
        self.handle_events();
        let mut state = self.handle.shared.lock();
        match state.closing {
            // What is left to say goes with the goodbye, which does not wait for a peer that
            // does not read.
            Closing::Now => Err(LinkEnd::Closed),
            Closing::WhenIdle if all_written && state.link.is_idle() => {
                if let Some(refuse) = state.parting.take() {
                    state.link.send_control(FrameKind::Refuse, &to_json(&refuse));
                }
                Err(LinkEnd::Closed)
            }
            Closing::No | Closing::WhenIdle => Ok(()),
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        for _ in 0..READS_PER_TURN {
            match Pin::new(&mut self.socket).poll_next(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => return Err(LinkEnd::ClosedByPeer),
                Poll::Ready(Some(Err(error))) => return Err(LinkEnd::Socket(Box::new(error))),
                Poll::Ready(Some(Ok(Message::Binary(batch)))) => self.receive(batch)?,
                Poll::Ready(Some(Ok(Message::Close(_)))) => return Err(LinkEnd::ClosedByPeer),
                Poll::Ready(Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {
                    // Ours are binary; WebSocket's own pings are answered by the library.
                }
            }
        }
        // More may be there: come back after the writer had its turn.
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn receive(&mut self, batch: Bytes) -> Result<(), LinkEnd> {
        let now = self.handle.shared.now();
        let result = self.handle.shared.lock().link.receive_batch(batch, now).map_err(LinkEnd::Fault);
        let refused = self.handle_events();
        match (result, refused) {
            (_, Some(end)) => Err(end),
            (result, None) => result,
        }
    }

    /// Tells everybody what happened. Returns the end of the link, if it was announced.
    fn handle_events(&mut self) -> Option<LinkEnd> {
        let mut end = None;
        let mut wakes: Vec<Waker> = Vec::new();
        loop {
            let (event, open) = {
                let mut state = self.handle.shared.lock();
                let state = &mut *state;
                let Some(event) = state.link.next_event() else { break };
                let mut open = None;
                match &event {
                    Event::Readable(id) => {
                        wakes.extend(state.wakers.get_mut(id).and_then(|wakers| wakers.reader.take()))
                    }
                    Event::Writable(id) => {
                        wakes.extend(state.wakers.get_mut(id).and_then(|wakers| wakers.writer.take()))
                    }
                    Event::Aborted(id) => {
                        if let Some(waiting) = state.wakers.get_mut(id) {
                            wakes.extend(
                                [waiting.reader.take(), waiting.writer.take(), waiting.watcher.take()]
                                    .into_iter()
                                    .flatten(),
                            );
                        }
                    }
                    Event::Opened(id) => open = state.link.take_head(*id),
                    Event::Control(_) | Event::PeerDrains(_) => {}
                }
                (event, open)
            };
            match event {
                Event::Opened(id) => {
                    let stream = LinkStream::new(self.handle.shared.clone(), id);
                    self.events.opened(stream, open.unwrap_or_default());
                }
                Event::Control(frame) if frame.kind == FrameKind::Refuse.number() => {
                    end = Some(LinkEnd::Refused(Refuse::read(&frame.payload)));
                }
                Event::Control(frame) => {
                    if let Err(fault) = self.events.control(&frame) {
                        end = Some(LinkEnd::Fault(fault));
                    }
                }
                Event::PeerDrains(drain) => self.events.peer_drains(&drain),
                Event::Readable(_) | Event::Writable(_) | Event::Aborted(_) => {}
            }
        }
        wakes.into_iter().for_each(Waker::wake);
        end
    }

    fn watch_time(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        loop {
            let now = self.handle.shared.now();
            let wake_at = {
                let mut state = self.handle.shared.lock();
                state.link.on_time(now)?;
                state.link.next_wake()
            };
            // A timer that is too early does no harm; one that is too late would.
            if self.timer_at <= now || wake_at < self.timer_at {
                self.timer_at = wake_at.max(now.plus(1_000));
                let from_now = Duration::from_micros(self.timer_at.since(now));
                self.timer.as_mut().reset(Instant::now() + from_now);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.timer_at = Micros(0);
        }
    }

    /// Writes batches until nothing waits (true) or the socket is full (false).
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        loop {
            if self.flushing {
                match Pin::new(&mut self.socket).poll_flush(cx) {
                    Poll::Pending => {
                        self.was_full = true;
                        return Ok(false);
                    }
                    Poll::Ready(Err(error)) => return Err(LinkEnd::Socket(Box::new(error))),
                    Poll::Ready(Ok(())) => self.flushing = false,
                }
            }
            {
                let now = self.handle.shared.now();
                let mut state = self.handle.shared.lock();
                if std::mem::take(&mut self.was_full) {
                    state.link.wrote(now);
                }
                if !state.link.has_frames() {
                    return Ok(true);
                }
                state.link.next_batch(&mut self.batch, now);
            }
            if self.batch.is_empty() {
                continue;
            }
            let message = Message::Binary(self.batch.split().freeze());
            Pin::new(&mut self.socket).start_send(message).map_err(|error| LinkEnd::Socket(Box::new(error)))?;
            self.flushing = true;
        }
    }

    /// Says what is left to say, to a peer that still reads.
    async fn say_goodbye(&mut self, end: &LinkEnd) {
        let last_words = match end {
            LinkEnd::Closed => self.frames_left(),
            LinkEnd::Fault(_) => {
                let code = ErrorCode::LinkProtocol.to_string();
                let refuse = Refuse { code, message: end.to_string(), retry_after_ms: 0 };
                put_frame(&mut self.batch, FrameKind::Refuse, 0, &to_json(&refuse));
                self.batch.split().freeze()
            }
            LinkEnd::ClosedByPeer | LinkEnd::Refused(_) | LinkEnd::Silent(_) | LinkEnd::Socket(_) => Bytes::new(),
        };
        let goodbye = async {
            if !last_words.is_empty() {
                self.socket.send(Message::Binary(last_words)).await?;
            }
            self.socket.close(None).await
        };
        // The link is over either way; a peer that does not take the goodbye is not waited for.
        let _ = tokio::time::timeout(GOODBYE_TIME_MAX, goodbye).await;
    }

    /// Frames of the link that had not left: after the loss of the streams, nothing else is.
    fn frames_left(&mut self) -> Bytes {
        let now = self.handle.shared.now();
        self.handle.shared.lock().link.next_batch(&mut self.batch, now);
        self.batch.split().freeze()
    }
}

/// Whatever ends the task of a link, those who wait for its streams are told.
impl<S, E> Drop for Pump<'_, S, E> {
    fn drop(&mut self) {
        let wakers: Vec<Wakers> = {
            let mut state = self.handle.shared.lock();
            state.link.lose();
            state.wakers.values_mut().map(std::mem::take).collect()
        };
        let waiting = wakers.into_iter().flat_map(|wakers| [wakers.reader, wakers.writer, wakers.watcher]);
        waiting.flatten().for_each(Waker::wake);
    }
}
