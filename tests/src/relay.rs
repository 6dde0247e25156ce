//! A network path between two sockets: so many bytes a second, so long on the way, in pieces
//! so large; and what happens to paths: they fall silent, are cut, and end one way only.
//!
//! Invariant: what goes in comes out in order, unchanged and never early; what waits at the
//! narrow end is bounded, as in a small router, so that senders feel the path and not its buffers.

use crate::stage;
use crate::stage::Stage;
use anyhow::Result;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::net::tcp::WriteHalf;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::sleep_until;

const PIECE_BYTES: usize = 4 * 1024;

/// What the kernel may take in for us before the path does.
const RECEIVE_BYTES: u32 = 32 * 1024;

/// Timers fire up to this late; the path does not lose throughput by it.
const LATENESS: Duration = Duration::from_millis(4);

/// Pieces that wait where no rate says how many are under way.
const PIECES_MAX: usize = 256;

/// Between two small pieces, so that whoever reads has time to take one before the next comes.
const PIECE_PAUSE: Duration = Duration::from_micros(30);

/// A path.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    /// In each direction, for all connections together; none is as fast as it goes.
    pub bytes_per_second: Option<u64>,
    /// In each direction.
    pub delay: Duration,
    /// The most that is handed over at once.
    pub piece_bytes: usize,
}

/// One of the two ways bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From whoever dialled the relay: an agent.
    Up,
    /// From where the relay leads: a hub.
    Down,
}

/// A running relay; dropping it closes every connection.
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _stage: Stage,
}

struct Shared {
    to: SocketAddr,
    path: Path,
    narrow: [Narrow; 2],
    weather: watch::Sender<Weather>,
}

/// What befell the path. Counts only grow, so that nobody misses one.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    silent: [bool; 2],
    resets: u64,
    ends: [u64; 2],
    connections: usize,
}

/// One direction of one connection.
struct Lane {
    direction: Direction,
    shared: Arc<Shared>,
    weather: watch::Receiver<Weather>,
    ends_before: u64,
}

/// When the narrow end is free again.
struct Narrow {
    free_at: Mutex<Instant>,
    bytes_per_second: Option<u64>,
}

impl Path {
    /// One that changes nothing.
    pub const CLEAR: Self = Self { bytes_per_second: None, delay: Duration::ZERO, piece_bytes: PIECE_BYTES };
}

impl Relay {
    /// Relays from a new loopback port to `to`, on a thread of its own.
    ///
    /// # Errors
    /// When no port or no thread can be had.
    pub fn start(to: SocketAddr, path: Path) -> Result<Self> {
        let (listener, addr) = stage::listen()?;
        // What a listener accepts is like the listener.
        set_socket_recv_buffer_size(&listener, RECEIVE_BYTES as usize)?;
        let narrow = [Narrow::new(path), Narrow::new(path)];
        let shared = Arc::new(Shared { to, path, narrow, weather: watch::Sender::new(Weather::default()) });
        let all = Arc::clone(&shared);
        let stage =
            Stage::open("kit-relay", move || stage::accept(listener, move |client| relay(client, Arc::clone(&all))))?;
        Ok(Self { addr, shared, _stage: stage })
    }

    /// Where it is entered.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections were accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.weather.borrow().connections
    }

    /// From now on these directions carry nothing: neither bytes nor ends nor resets. What is
    /// sent meanwhile waits, first here and then in its sender's kernel, as it would for a
    /// packet that is never acknowledged.
    pub fn silence(&self, directions: &[Direction]) {
        self.shared.weather.send_modify(|weather| {
            for direction in directions {
                weather.silent[*direction as usize] = true;
            }
        });
    }

    /// Both directions carry again, beginning with what waited.
    pub fn heal(&self) {
        self.shared.weather.send_modify(|weather| weather.silent = [false; 2]);
    }

    /// Cuts every connection there is by TCP RST at both ends; what was under way is lost.
    pub fn reset(&self) {
        self.shared.weather.send_modify(|weather| weather.resets += 1);
    }

    /// Ends this direction of every connection there is, after what was under way; the other
    /// one goes on.
    pub fn half_close(&self, direction: Direction) {
        self.shared.weather.send_modify(|weather| weather.ends[direction as usize] += 1);
    }
}

async fn relay(mut client: TcpStream, shared: Arc<Shared>) {
    shared.weather.send_modify(|weather| weather.connections += 1);
    let mut weather = shared.weather.subscribe();
    let before = *weather.borrow_and_update();
    let Ok(mut server) = dial(shared.to).await else { return };
    let is_cut = {
        let ((client_read, client_write), (server_read, server_write)) = (client.split(), server.split());
        let (up, down) = (Lane::new(Direction::Up, &shared, before), Lane::new(Direction::Down, &shared, before));
        let carried =
            async { tokio::try_join!(up.carry(client_read, server_write), down.carry(server_read, client_write)) };
        tokio::select! {
            biased;
            () = until(&mut weather, |weather| weather.resets > before.resets) => true,
            ended = carried => ended.is_err(),
        }
    };
    if is_cut {
        // One end is gone; the other learns it when the path carries again.
        until(&mut weather, |weather| weather.resets > before.resets || weather.silent == [false; 2]).await;
        for end in [client, server] {
            // Without it the close would be a proper one, which shows in the test that looks for a reset.
            let _ = end.set_zero_linger();
        }
    }
}

async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    let server = socket.connect(to).await?;
    server.set_nodelay(true)?;
    Ok(server)
}

impl Lane {
    fn new(direction: Direction, shared: &Arc<Shared>, before: Weather) -> Self {
        let weather = shared.weather.subscribe();
        Self { direction, shared: Arc::clone(shared), weather, ends_before: before.ends[direction as usize] }
    }

    async fn carry(self, read: ReadHalf<'_>, write: WriteHalf<'_>) -> io::Result<()> {
        let Path { bytes_per_second, delay, .. } = self.shared.path;
        let pieces = bytes_per_second.map_or(PIECES_MAX, |rate| {
            let under_way = u128::from(rate) * delay.as_micros() / 1_000_000;
            usize::try_from(under_way).unwrap_or(usize::MAX) / PIECE_BYTES + 16
        });
        let (sender, receiver) = mpsc::channel(pieces);
        tokio::try_join!(self.enter(read, sender), self.leave(write, receiver)).map(|_| ())
    }

    async fn enter(&self, mut read: ReadHalf<'_>, sender: mpsc::Sender<(Instant, Vec<u8>)>) -> io::Result<()> {
        let (narrow, delay) = (&self.shared.narrow[self.direction as usize], self.shared.path.delay);
        let mut weather = self.weather.clone();
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let count = tokio::select! {
                biased;
                () = until(&mut weather, |weather| weather.ends[self.direction as usize] > self.ends_before) => 0,
                count = read.read(&mut buffer) => count?,
            };
            if count == 0 {
                return Ok(());
            }
            let through_at = narrow.pass(count);
            sleep_until(through_at).await;
            // Time that is made up for at the narrow end shortens nobody's way.
            let piece = (through_at.max(Instant::now()) + delay, buffer[..count].to_vec());
            if sender.send(piece).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn leave(
        &self,
        mut write: WriteHalf<'_>,
        mut receiver: mpsc::Receiver<(Instant, Vec<u8>)>,
    ) -> io::Result<()> {
        let piece_bytes = self.shared.path.piece_bytes.max(1);
        while let Some((at, piece)) = receiver.recv().await {
            sleep_until(at).await;
            for part in piece.chunks(piece_bytes) {
                self.while_silent().await;
                write.write_all(part).await?;
                if piece_bytes < PIECE_BYTES {
                    pause().await;
                }
            }
        }
        self.while_silent().await;
        // The other end may have closed already.
        let _ = write.shutdown().await;
        Ok(())
    }

    async fn while_silent(&self) {
        until(&mut self.weather.clone(), |weather| !weather.silent[self.direction as usize]).await;
    }
}

/// Waits for such weather; it never comes once the relay is gone, but neither does anybody wait then.
async fn until(weather: &mut watch::Receiver<Weather>, is_such: impl FnMut(&Weather) -> bool) {
    // The sender lives as long as whoever waits.
    let _ = weather.wait_for(is_such).await;
}

/// Timers are a millisecond wide, which is too much for every byte.
async fn pause() {
    let began = Instant::now();
    while began.elapsed() < PIECE_PAUSE {
        tokio::task::yield_now().await;
    }
}

impl Narrow {
    fn new(path: Path) -> Self {
        Self { free_at: Mutex::new(Instant::now()), bytes_per_second: path.bytes_per_second }
    }

    /// When so many bytes are through, if they come now.
    fn pass(&self, bytes: usize) -> Instant {
        let now = Instant::now();
        let Some(bytes_per_second) = self.bytes_per_second else { return now };
        let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        *free_at = (*free_at).max(now.checked_sub(LATENESS).unwrap_or(now)) + takes;
        *free_at
    }
}
