//! A made-up connection: delay, stalls, reads and writes in pieces, and a fault at a moment
//! or a byte of its own. Time is tokio's, which the tests stop.
//!
//! Invariant: bytes arrive in order or not at all.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use bytes::Buf;
use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::time::Instant;
use tokio::time::Sleep;
use tokio::time::sleep_until;

/// Chance from a seed (SplitMix64): the same seed, the same run.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// One of so many numbers, from 0.
    pub(super) fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % count.max(1)
    }

    pub(super) fn size(&mut self, below: usize) -> usize {
        usize::try_from(self.below(u64::try_from(below).unwrap())).unwrap()
    }

    pub(super) fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.below(below))
    }

    /// Others that go on by themselves from here.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.below(u64::MAX))
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Nothing arrives any more, either way, and nobody is told.
    BlackHole(Duration),
    /// As a black hole, but only what this end (0 or 1) sends is swallowed.
    HalfOpen(Duration, usize),
    /// Both ends are told that the connection broke, when this end has sent so many bytes.
    Cut(u64, usize),
}

/// How a connection behaves when nothing is wrong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nature {
    pub(super) delay: Duration,
    pub(super) room_bytes: usize,
    /// The most that one read or write moves.
    pub(super) piece_bytes: usize,
    /// How long it may stop now and then.
    pub(super) stall_millis: u64,
}

struct Direction {
    queue: VecDeque<(Instant, Bytes)>,
    queued_bytes: usize,
    sent_bytes: u64,
    arrives: Instant,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Wire {
    nature: Nature,
    fault: Fault,
    began: Instant,
    dice: Dice,
    broken: bool,
    /// What end 0 sends, and what end 1 sends.
    directions: [Direction; 2],
}

/// One end.
pub(super) struct End {
    wire: Arc<Mutex<Wire>>,
    side: usize,
    timer: Pin<Box<Sleep>>,
}

pub(super) fn connect(nature: Nature, fault: Fault, dice: Dice) -> (End, End) {
    let now = Instant::now();
    let direction = || Direction {
        queue: VecDeque::new(),
        queued_bytes: 0,
        sent_bytes: 0,
        arrives: now,
        closed: false,
        reader: None,
        writer: None,
    };
    let directions = [direction(), direction()];
    let wire = Arc::new(Mutex::new(Wire { nature, fault, began: now, dice, broken: false, directions }));
    let end = |side| End { wire: wire.clone(), side, timer: Box::pin(sleep_until(now)) };
    (end(0), end(1))
}

impl Wire {
    fn swallows(&self, from: usize) -> bool {
        let since = match self.fault {
            Fault::BlackHole(since) => since,
            Fault::HalfOpen(since, side) if side == from => since,
            Fault::None | Fault::HalfOpen(..) | Fault::Cut(..) => return false,
        };
        self.began.elapsed() >= since
    }

    fn piece(&mut self, most: usize) -> usize {
        most.min(1 + self.dice.size(self.nature.piece_bytes))
    }

    fn wake_all(&mut self) {
        let wakers =
            self.directions.iter_mut().flat_map(|direction| [direction.reader.take(), direction.writer.take()]);
        wakers.flatten().for_each(Waker::wake);
    }
}

impl AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let from = 1 - self.side;
        let arrives = {
            let mut wire = self.wire.lock().unwrap();
            let swallowed = wire.swallows(from);
            let piece = wire.piece(buf.remaining());
            let broken = wire.broken;
            let direction = &mut wire.directions[from];
            direction.reader = Some(cx.waker().clone());
            match direction.queue.front_mut() {
                _ if swallowed => return Poll::Pending,
                Some((arrives, bytes)) if *arrives <= Instant::now() => {
                    let taken = piece.min(bytes.len());
                    buf.put_slice(&bytes[..taken]);
                    bytes.advance(taken);
                    if bytes.is_empty() {
                        direction.queue.pop_front();
                    }
                    direction.queued_bytes -= taken;
                    direction.writer.take().into_iter().for_each(Waker::wake);
                    return Poll::Ready(Ok(()));
                }
                Some((arrives, _)) => *arrives,
                None if broken => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                None if direction.closed => return Poll::Ready(Ok(())),
                None => return Poll::Pending,
            }
        };
        self.timer.as_mut().reset(arrives);
        // Ready only if time moved between the two looks at the clock.
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut wire = self.wire.lock().unwrap();
        let room = wire.nature.room_bytes - wire.directions[self.side].queued_bytes;
        if wire.broken || wire.directions[self.side].closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if room == 0 {
            wire.directions[self.side].writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut taken = wire.piece(bytes.len().min(room));
        let sent = wire.directions[self.side].sent_bytes;
        let cut = match wire.fault {
            Fault::Cut(at, side) if side == self.side => Some(at),
            Fault::None | Fault::BlackHole(_) | Fault::HalfOpen(..) | Fault::Cut(..) => None,
        };
        if let Some(at) = cut {
            taken = taken.min(usize::try_from(at.saturating_sub(sent)).unwrap());
        }
        // About as many stalls for so many bytes, however small the pieces are.
        let seldom = (45_000 / wire.nature.piece_bytes.max(1)).max(64) as u64;
        let stall = if wire.dice.below(seldom) == 0 { wire.nature.stall_millis } else { 0 };
        let stall = wire.dice.millis(stall + 1);
        let delay = wire.nature.delay;
        let direction = &mut wire.directions[self.side];
        direction.arrives = direction.arrives.max(Instant::now() + delay) + stall;
        direction.queue.push_back((direction.arrives, Bytes::copy_from_slice(&bytes[..taken])));
        direction.queued_bytes += taken;
        direction.sent_bytes += taken as u64;
        direction.reader.take().into_iter().for_each(Waker::wake);
        if cut.is_some_and(|at| sent + taken as u64 >= at) {
            wire.broken = true;
            wire.wake_all();
        }
        Poll::Ready(Ok(taken.max(1).min(bytes.len())))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire.lock().unwrap();
        wire.directions[self.side].closed = true;
        wire.wake_all();
        Poll::Ready(Ok(()))
    }
}

/// Who goes away closes; what was sent still arrives.
impl Drop for End {
    fn drop(&mut self) {
        if let Ok(mut wire) = self.wire.lock() {
            wire.directions[self.side].closed = true;
            wire.wake_all();
        }
    }
}
