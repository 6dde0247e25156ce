//! The one task of a link: reads messages, hands frames to the state machine, wakes
//! those who wait, and writes the batches the state machine pulls together.
//!
//! Invariant: at most one batch is staged between the state machine and the socket.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Drain;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::Refuse;
use keyhaven_protocol::frame::StreamId;
use keyhaven_protocol::frame::put_frame;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::link::Event;
use keyhaven_protocol::link::LinkFault;
use keyhaven_protocol::link::Micros;
use keyhaven_protocol::link::Silent;
use keyhaven_protocol::websocket::WebSocketFault;
use tokio::io::AsyncBufRead;
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use tokio::time::Sleep;
use tokio::time::sleep_until;

use super::Closing;
use super::LinkHandle;
use super::LinkStream;
use super::Socket;
use super::SocketError;
use super::State;
use super::Wakers;
use super::pool;

/// Messages read before it is the writer's turn.
const READS_PER_TURN: usize = 32;

/// Streams from which on the pump lets other tasks run before it writes.
const BUSY_STREAMS_MIN: usize = 5;

/// Room for so many wakers is kept between turns.
const GATHERED_MAX: usize = 32;

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
    /// The peer does not speak WebSocket as it should.
    #[error(transparent)]
    WebSocket(WebSocketFault),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Socket(#[source] io::Error),
}

impl From<SocketError> for LinkEnd {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Closed => Self::ClosedByPeer,
            SocketError::Fault(fault) => Self::WebSocket(fault),
            SocketError::Io(error) => Self::Socket(error),
        }
    }
}

/// Drives a link until it ends, then aborts what was left of its streams.
pub async fn run<S, E>(socket: Socket<S>, handle: &LinkHandle, events: E) -> LinkEnd
where
    S: AsyncBufRead + AsyncWrite + Unpin + Send,
    E: LinkEvents,
{
    let now = handle.shared.now();
    handle.shared.lock().link.ping(now);
    let mut pump = Pump {
        socket,
        handle,
        events,
        wakes: Vec::new(),
        news: Vec::new(),
        was_full: false,
        waited: false,
        timer: Box::pin(sleep_until(Instant::now())),
        timer_at: Micros(0),
    };
    let end = poll_fn(|cx| pump.poll(cx)).await;
    pump.lose();
    pump.say_goodbye(&end).await;
    end
}

struct Pump<'a, S, E> {
    socket: Socket<S>,
    handle: &'a LinkHandle,
    events: E,
    /// Those to wake and what to tell, gathered under the lock for when it is open again.
    wakes: Vec<Waker>,
    news: Vec<News>,
    /// The socket did not take all of the last batch at once.
    was_full: bool,
    waited: bool,
    timer: Pin<Box<Sleep>>,
    timer_at: Micros,
}

/// What the owner of the link is told.
enum News {
    Opened(StreamId, Bytes),
    Control(Frame),
    PeerDrains(Drain),
}

impl<S, E> Pump<'_, S, E>
where
    S: AsyncBufRead + AsyncWrite + Unpin + Send,
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
            Closing::No | Closing::WhenIdle => {
                if state.link.stream_count() == 0 {
                    state.rest();
                    drop(state);
                    (self.wakes, self.news) = (Vec::new(), Vec::new());
                }
                Ok(())
            }
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        for _ in 0..READS_PER_TURN {
            match self.socket.poll_receive(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(batch) => self.receive(batch?)?,
            }
        }
        // More may be there: come back after the writer had its turn.
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn receive(&mut self, batch: Bytes) -> Result<(), LinkEnd> {
        let now = self.handle.shared.now();
        let result = {
            let mut state = self.handle.shared.lock();
            let result = state.link.receive_batch(batch, now).map_err(LinkEnd::Fault);
            state.gather(&mut self.wakes, &mut self.news);
            result
        };
        match (result, self.tell()) {
            (_, Some(end)) => Err(end),
            (result, None) => result,
        }
    }

    /// Tells everybody what was gathered. Returns the end of the link, if it was announced.
    fn tell(&mut self) -> Option<LinkEnd> {
        self.wakes.drain(..).for_each(Waker::wake);
        let mut end = None;
        for news in self.news.drain(..) {
            match news {
                News::Opened(id, open) => {
                    let stream = LinkStream::new(self.handle.shared.clone(), id);
                    self.events.opened(stream, open);
                }
                News::Control(frame) if frame.kind == FrameKind::Refuse.number() => {
                    end = Some(LinkEnd::Refused(Refuse::read(&frame.payload)));
                }
                News::Control(frame) => {
                    if let Err(fault) = self.events.control(&frame) {
                        end = Some(LinkEnd::Fault(fault));
                    }
                }
                News::PeerDrains(drain) => self.events.peer_drains(&drain),
            }
        }
        // One crowd should not be remembered by a link that is quiet ever after.
        if self.wakes.capacity() > GATHERED_MAX {
            self.wakes = Vec::new();
        }
        if self.news.capacity() > GATHERED_MAX {
            self.news = Vec::new();
        }
        end
    }

    /// The streams are lost, and all who wait for them are told.
    fn lose(&mut self) {
        {
            let mut state = self.handle.shared.lock();
            state.link.lose();
            state.gather(&mut self.wakes, &mut self.news);
        }
        // The link is over already, whatever else was announced.
        let _ = self.tell();
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
            if self.socket.has_unsent() {
                match self.socket.poll_sent(cx) {
                    Poll::Pending => {
                        self.was_full = true;
                        return Ok(false);
                    }
                    Poll::Ready(sent) => sent.map_err(LinkEnd::Socket)?,
                }
            }
            match self.next_batch() {
                Some(batch) => self.socket.stage(batch),
                None => return Ok(true),
            }
        }
    }

    /// The next batch, in a buffer of the pool; none when nothing waits.
    fn next_batch(&mut self) -> Option<BytesMut> {
        let now = self.handle.shared.now();
        let batch = {
            let mut state = self.handle.shared.lock();
            if std::mem::take(&mut self.was_full) {
                state.link.wrote(now);
            }
            // A turn may bring nothing, of a stream that has gone meanwhile; others may follow.
            let mut batch = None;
            while state.link.has_frames() && batch.as_ref().is_none_or(BytesMut::is_empty) {
                state.link.next_batch(batch.get_or_insert_with(pool::take), now);
            }
            state.staged_bytes = batch.as_ref().map_or(0, BytesMut::len);
            state.gather(&mut self.wakes, &mut self.news);
            batch
        };
        // Only what came can announce the end of the link.
        let _ = self.tell();
        let batch = batch?;
        if batch.is_empty() {
            pool::give_back(batch);
            return None;
        }
        Some(batch)
    }

    /// Says what is left to say, to a peer that still reads.
    async fn say_goodbye(&mut self, end: &LinkEnd) {
        let last_words = match end {
            // Frames of the link that had not left: after the loss of the streams, nothing else is.
            LinkEnd::Closed => self.next_batch().unwrap_or_default(),
            LinkEnd::Fault(_) | LinkEnd::WebSocket(_) => {
                let code = ErrorCode::LinkProtocol.to_string();
                let refuse = Refuse { code, message: end.to_string(), retry_after_ms: 0 };
                let mut words = BytesMut::new();
                put_frame(&mut words, FrameKind::Refuse, 0, &to_json(&refuse));
                words
            }
            LinkEnd::ClosedByPeer | LinkEnd::Refused(_) => BytesMut::new(),
            // Nobody is there to hear it.
            LinkEnd::Silent(_) | LinkEnd::Socket(_) => return,
        };
        let goodbye = async {
            if !last_words.is_empty() {
                self.socket.send(&last_words).await?;
            }
            self.socket.close().await
        };
        // The link is over either way; a peer that does not take the goodbye is not waited for.
        let _ = tokio::time::timeout(GOODBYE_TIME_MAX, goodbye).await;
    }
}

impl State {
    /// A quiet link holds no memory for what once was.
    fn rest(&mut self) {
        self.link.rest();
        if self.wakers.is_empty() {
            self.wakers = HashMap::new();
        }
    }

    /// Moves what happened to where it can be told without the lock.
    fn gather(&mut self, wakes: &mut Vec<Waker>, news: &mut Vec<News>) {
        while let Some(event) = self.link.next_event() {
            match event {
                Event::Readable(id) => {
                    wakes.extend(self.wakers.get_mut(&id).and_then(|waiting| waiting.reader.take()));
                }
                Event::Writable(id) => {
                    wakes.extend(self.wakers.get_mut(&id).and_then(|waiting| waiting.writer.take()));
                }
                Event::Aborted(id) => {
                    if let Some(waiting) = self.wakers.get_mut(&id).map(std::mem::take) {
                        wakes.extend(waiting.all());
                    }
                }
                Event::Opened(id) => news.push(News::Opened(id, self.link.take_head(id).unwrap_or_default())),
                Event::Control(frame) => news.push(News::Control(frame)),
                Event::PeerDrains(drain) => news.push(News::PeerDrains(drain)),
            }
        }
    }
}

/// Whatever ends the task of a link, those who wait for its streams are told.
impl<S, E> Drop for Pump<'_, S, E> {
    fn drop(&mut self) {
        let waiting: Vec<Wakers> = {
            let mut state = self.handle.shared.lock();
            state.link.lose();
            state.wakers.values_mut().map(std::mem::take).collect()
        };
        waiting.into_iter().flat_map(Wakers::all).for_each(Waker::wake);
    }
}
