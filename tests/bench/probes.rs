//! What load alone does not show: added latency, streams, fairness, cancellation, large answers.
//!
//! Invariant: every probe makes a fixed number of calls and fails when one of them does.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use anyhow::bail;
use tokio::task::JoinSet;

use crate::clock::monotonic_ns;
use crate::figures::Latencies;
use crate::model::Model;
use crate::peers::Peer;
use crate::peers::Street;
use crate::wire;
use crate::wire::Call;

/// How long the upstream may take to see that a consumer left.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(5);

const LOOK_AGAIN: Duration = Duration::from_micros(500);

/// Connections that saturate a peer while another one streams.
const SATURATING: usize = 4;

/// One upload of many; a consumer's request may have 64 MiB.
const UPLOAD_BYTES: usize = 16 * 1024 * 1024;

/// In which phase of a call the consumer leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The vendor has not answered.
    BeforeHead,
    /// Events are coming.
    MidStream,
}

/// Which way the saturating streams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
}

/// Calls one after the other on one connection: time to the first byte.
pub(crate) async fn first_bytes(peer: &Peer, calls: usize) -> Result<Latencies> {
    let mut call = Call::connect(peer, Model::Json).await?;
    // The first one makes connections.
    call.timed().await?;
    let mut first = Vec::with_capacity(calls);
    for _ in 0..calls {
        first.push(call.timed().await?.0);
    }
    Ok(Latencies::of(first))
}

/// Streams at once: how late events are.
pub(crate) async fn events(peer: &Peer, streams: usize, count: u64, every_us: u64) -> Result<Latencies> {
    let mut calls = JoinSet::new();
    for _ in 0..streams {
        let mut call = Call::connect(peer, Model::Events { count, every_us }).await?;
        calls.spawn(async move { call.events(count).await });
    }
    let mut late = Vec::new();
    while let Some(done) = calls.join_next().await {
        late.extend(done??);
    }
    Ok(Latencies::of(late))
}

/// A consumer leaves, again and again: nanoseconds until the upstream sees it, and how
/// often it never did.
pub(crate) async fn cancels(street: &Street, peer: &Peer, phase: Phase, times: usize) -> Result<(Latencies, u64)> {
    let mut taken = Vec::with_capacity(times);
    let mut lost = 0;
    for _ in 0..times {
        let before = wire::seen(street.upstream).await?;
        let call = begin(street, peer, phase, before.calls).await?;
        let left = monotonic_ns();
        drop(call);
        match dropped(street, before.drops).await? {
            Some(at) => taken.push(at.saturating_sub(left)),
            None => lost += 1,
        }
    }
    Ok((Latencies::of(taken), lost))
}

/// A call that has reached its phase.
async fn begin(street: &Street, peer: &Peer, phase: Phase, calls_before: u64) -> Result<Call> {
    match phase {
        Phase::MidStream => {
            let mut call = Call::connect(peer, Model::Events { count: 100_000, every_us: 5_000 }).await?;
            call.first_event().await?;
            Ok(call)
        }
        Phase::BeforeHead => {
            let mut call = Call::connect(peer, Model::Silent).await?;
            call.send().await?;
            let began = Instant::now();
            while wire::seen(street.upstream).await?.calls == calls_before {
                if began.elapsed() > CANCEL_TIME_MAX {
                    bail!("a call through {} did not reach the upstream", peer.name);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(call)
        }
    }
}

async fn dropped(street: &Street, drops_before: u64) -> Result<Option<u64>> {
    let began = Instant::now();
    while began.elapsed() < CANCEL_TIME_MAX {
        let seen = wire::seen(street.upstream).await?;
        if seen.drops > drops_before {
            return Ok(Some(seen.last_drop_ns));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(None)
}

/// One large answer: nanoseconds to its last byte.
pub(crate) async fn bulk(peer: &Peer, bytes: u64) -> Result<u64> {
    Ok(Call::connect(peer, Model::Bulk { bytes }).await?.timed().await?.1)
}

/// How late the events of one stream are while others saturate the same peer, and how
/// many bytes a second those moved.
pub(crate) async fn fairness(peer: &Peer, direction: Direction, count: u64) -> Result<(Latencies, u64)> {
    let crowd = Crowd::gather(peer, direction)?;
    let began = Instant::now();
    let late = events(peer, 1, count, 5_000).await;
    let micros = u64::try_from(began.elapsed().as_micros())?.max(1);
    let bytes = crowd.dismiss()?;
    Ok((late?, bytes.saturating_mul(1_000_000) / micros))
}

/// Saturating connections, on threads so that they do not delay the reader of the events.
struct Crowd {
    over: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
    sockets: Vec<TcpStream>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crowd {
    fn gather(peer: &Peer, direction: Direction) -> Result<Self> {
        let mut crowd = Self { over: Arc::default(), moved: Arc::default(), sockets: Vec::new(), threads: Vec::new() };
        let request = Arc::new(match direction {
            Direction::Down => wire::request(peer, &Model::Bulk { bytes: 1 << 40 }.request_body()),
            Direction::Up => wire::request(peer, &upload()),
        });
        for _ in 0..SATURATING {
            let mut socket = TcpStream::connect(peer.addr)?;
            crowd.sockets.push(socket.try_clone()?);
            let (over, moved, request) = (crowd.over.clone(), crowd.moved.clone(), request.clone());
            crowd.threads.push(thread::spawn(move || match direction {
                Direction::Down => download(&mut socket, &request, &moved),
                Direction::Up => upload_again_and_again(&mut socket, &request, &over, &moved),
            }));
        }
        Ok(crowd)
    }

    /// Ends all connections; the bytes they moved, or an error when one had ended by itself.
    fn dismiss(self) -> Result<u64> {
        let ended = self.threads.iter().filter(|thread| thread.is_finished()).count();
        self.over.store(true, Ordering::SeqCst);
        let bytes = self.moved.load(Ordering::SeqCst);
        for socket in &self.sockets {
            // It may be gone already, which was counted above.
            let _ = socket.shutdown(Shutdown::Both);
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        if ended > 0 {
            bail!("{ended} of {SATURATING} saturating connections ended by themselves");
        }
        Ok(bytes)
    }
}

fn download(socket: &mut TcpStream, request: &[u8], moved: &AtomicU64) {
    let mut buffer = vec![0; 256 * 1024];
    if socket.write_all(request).is_ok() {
        while let Ok(read @ 1..) = socket.read(&mut buffer) {
            moved.fetch_add(read as u64, Ordering::Relaxed);
        }
    }
}

fn upload_again_and_again(socket: &mut TcpStream, request: &[u8], over: &AtomicBool, moved: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while !over.load(Ordering::SeqCst) {
        for piece in request.chunks(64 * 1024) {
            if socket.write_all(piece).is_err() {
                return;
            }
            moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        // The answer is one of 1 KiB: it comes whole, or in two reads of which the second
        // is taken for the next one's beginning, which does no harm here.
        match socket.read(&mut buffer) {
            Ok(read @ 12..) if buffer[..read].starts_with(b"HTTP/1.1 200") => {}
            Ok(read @ 1..) if !buffer[..read].starts_with(b"HTTP/1.1") => {}
            Ok(_) | Err(_) => return,
        }
    }
}

fn upload() -> String {
    let content = "x".repeat(UPLOAD_BYTES);
    let model = Model::Json.name();
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{content}"}}]}}"#)
}
