//! A network path between two sockets: so many bytes a second, so long on the way.
//!
//! Invariant: what goes in comes out in order and never early; what waits at the narrow end
//! is bounded, as in a small router, so that senders feel the path and not its buffers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::time::sleep_until;

const PIECE_BYTES: usize = 4 * 1024;

/// What the kernel may take in for us before the path does.
const RECEIVE_BYTES: u32 = 32 * 1024;

const BACKLOG: u32 = 128;

/// Timers fire up to this late; the path does not lose throughput by it.
const LATENESS: Duration = Duration::from_millis(4);

/// A path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    /// In each direction, for all connections together.
    pub(crate) bytes_per_second: u64,
    /// In each direction.
    pub(crate) delay: Duration,
}

/// A running relay; dropping it cuts every connection.
pub(crate) struct Relay {
    /// Where it is entered.
    pub(crate) listen: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// When the narrow end is free again.
#[derive(Clone)]
struct Narrow {
    free_at: Arc<Mutex<Instant>>,
    bytes_per_second: u64,
}

impl Relay {
    /// Starts a thread that relays to `to`.
    pub(crate) fn start(to: SocketAddr, path: Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _within = runtime.enter();
            let socket = narrow_socket()?;
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            socket.listen(BACKLOG)?
        };
        let listen = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    // Stopped or dropped, it is over.
                    _ = stopped => {}
                    _ = accept(listener, to, path) => {}
                }
            });
        });
        Ok(Self { listen, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of it was printed by itself.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, path: Path) -> Result<()> {
    let (up, down) = (Narrow::new(path), Narrow::new(path));
    let mut connections = JoinSet::new();
    loop {
        let (from, _) = listener.accept().await?;
        let (up, down) = (up.clone(), down.clone());
        connections.spawn(async move {
            let Ok((from, to)) = ends(from, to).await else { return };
            let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
            tokio::join!(carry(from_read, to_write, up, path), carry(to_read, from_write, down, path));
        });
    }
}

/// A socket that takes little in; what a listener accepts is like the listener.
fn narrow_socket() -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    Ok(socket)
}

async fn ends(from: TcpStream, to: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let to = narrow_socket()?.connect(to).await?;
    for end in [&from, &to] {
        end.set_nodelay(true)?;
    }
    Ok((from, to))
}

/// One direction of one connection.
async fn carry(read: OwnedReadHalf, write: OwnedWriteHalf, narrow: Narrow, path: Path) {
    let under_way = u128::from(path.bytes_per_second) * path.delay.as_micros() / 1_000_000;
    let pieces = usize::try_from(under_way).unwrap_or(usize::MAX) / PIECE_BYTES;
    let (sender, receiver) = mpsc::channel(pieces + 16);
    tokio::join!(enter(read, sender, narrow, path.delay), leave(write, receiver));
}

async fn enter(mut read: OwnedReadHalf, sender: mpsc::Sender<(Instant, Vec<u8>)>, narrow: Narrow, delay: Duration) {
    let mut buffer = vec![0; PIECE_BYTES];
    while let Ok(count @ 1..) = read.read(&mut buffer).await {
        let through_at = narrow.pass(count);
        sleep_until(through_at).await;
        // Time that is made up for at the narrow end shortens nobody's way.
        if sender.send((through_at.max(Instant::now()) + delay, buffer[..count].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn leave(mut write: OwnedWriteHalf, mut receiver: mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Some((at, piece)) = receiver.recv().await {
        sleep_until(at).await;
        if write.write_all(&piece).await.is_err() {
            return;
        }
    }
    // The other end may have closed already.
    let _ = write.shutdown().await;
}

impl Narrow {
    fn new(path: Path) -> Self {
        Self { free_at: Arc::new(Mutex::new(Instant::now())), bytes_per_second: path.bytes_per_second }
    }

    /// When so many bytes are through, if they come now.
    fn pass(&self, bytes: usize) -> Instant {
        let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *free_at = (*free_at).max(now.checked_sub(LATENESS).unwrap_or(now)) + takes;
        *free_at
    }
}
