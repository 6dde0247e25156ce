//! Handover: a running hub gives its listening sockets and its data directory to the process
//! that replaces it, over a Unix socket in that directory.
//!
//! Invariant: the giver goes on as before until the taker has said that it serves, and the taker
//! serves only when the giver leaves or is gone.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::files::DirLock;
use keyhaven_protocol::ErrorCode;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::warn;

mod descriptors;

/// The socket in the data directory.
pub const HANDOVER_SOCKET: &str = "handover.sock";

/// Goes with the descriptors. A hub that hands over other things says something else.
const GREETING: &[u8] = b"keyhaven-hub hands over/1\n";

/// What the taker says when it is ready to serve.
const SERVING: &[u8] = b"serving\n";

/// What the giver says then: from now on everything is the taker's.
const LEAVING: &[u8] = b"leaving\n";

/// How long a running hub may take to answer: one that took over itself a moment ago waits
/// for its agents first.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// How long the taker may take to begin serving.
const START_TIME_MAX: Duration = Duration::from_secs(60);

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a hub was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The socket broke, or cannot be used.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// Nothing came in time.
    #[error("the other process did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// Somebody else's process is at the other end.
    #[error("the other process belongs to another user")]
    Stranger,
    /// It waited no longer, and runs on.
    #[error("it did not wait so long for this one to start")]
    GivenUp,
    /// What came is not what one hub gives to another.
    #[error("the other process hands over in another way: it is of another version")]
    Foreign,
}

/// What a hub has that only one may have.
pub struct Belongings {
    /// Where consumers are served.
    pub consumer: OwnedFd,
    /// Where agents are served.
    pub tunnel: OwnedFd,
    /// Where health, metrics and status are.
    pub admin: OwnedFd,
    /// The data directory's lock.
    pub lock: OwnedFd,
}

/// A hub's readiness to be replaced.
pub struct Offer {
    socket: UnixListener,
    belongings: Belongings,
}

/// What was taken from a running hub.
pub struct Taken {
    /// Where consumers are served.
    pub consumer: TcpListener,
    /// Where agents are served.
    pub tunnel: TcpListener,
    /// Where health, metrics and status are.
    pub admin: TcpListener,
    /// The data directory's lock.
    pub lock: DirLock,
}

/// The running hub, which goes on until it is relieved.
pub struct Predecessor {
    stream: UnixStream,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relieved {
    /// It leaves.
    Leaves,
    /// It had ended by itself.
    HadEnded,
}

impl Offer {
    /// Listens in the data directory, instead of whoever did before.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open(dir: &Path, belongings: Belongings) -> io::Result<Self> {
        let path = socket_path(dir);
        // Nobody finds the socket before it is the owner's alone.
        let unnoticed = dir.join(format!(".handover.{}", std::process::id()));
        remove_if_there(&unnoticed)?;
        let socket = UnixListener::bind(&unnoticed)?;
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&unnoticed, owner_only)?;
        std::fs::rename(&unnoticed, &path)?;
        Ok(Self { socket, belongings })
    }

    /// Ready when another process has everything and serves.
    pub async fn taken(&self) {
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => match self.give(stream).await {
                    Ok(()) => return,
                    Err(error) => warn!(%error, "a process that was to replace this hub did not: {error}"),
                },
                Err(error) => {
                    warn!(%error, "no handover: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn give(&self, mut stream: UnixStream) -> Result<(), HandoverError> {
        of_same_user(&stream)?;
        let Belongings { consumer, tunnel, admin, lock } = &self.belongings;
        descriptors::send(&stream, GREETING, [consumer, tunnel, admin, lock]).await?;
        let mut said = [0; SERVING.len()];
        within(START_TIME_MAX, stream.read_exact(&mut said)).await??;
        if said != SERVING {
            return Err(HandoverError::Foreign);
        }
        // One that was killed meanwhile takes nothing back.
        let _ = stream.write_all(LEAVING).await;
        Ok(())
    }
}

impl Predecessor {
    /// This process serves: the other one, of this data directory, leaves.
    ///
    /// # Errors
    /// When the other one runs on, whatever it says.
    pub async fn relieve(self, dir: &Path) -> Result<Relieved, HandoverError> {
        match self.say_serving().await {
            Ok(()) => Ok(Relieved::Leaves),
            Err(_) if UnixStream::connect(socket_path(dir)).await.is_err() => Ok(Relieved::HadEnded),
            Err(HandoverError::Socket(_)) => Err(HandoverError::GivenUp),
            Err(error) => Err(error),
        }
    }

    async fn say_serving(mut self) -> Result<(), HandoverError> {
        self.stream.write_all(SERVING).await?;
        let mut said = [0; LEAVING.len()];
        within(ANSWER_TIME_MAX, self.stream.read_exact(&mut said)).await??;
        if said == LEAVING { Ok(()) } else { Err(HandoverError::Foreign) }
    }
}

/// Asks the hub of this data directory for what it has. None: no hub answers there.
///
/// # Errors
/// When one does, but gives nothing that can be used.
pub async fn ask(dir: &Path) -> Result<Option<(Taken, Predecessor)>, HandoverError> {
    let stream = match UnixStream::connect(socket_path(dir)).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    of_same_user(&stream)?;
    let mut greeting = [0; GREETING.len()];
    let (length, given) = within(ANSWER_TIME_MAX, descriptors::receive(&stream, &mut greeting)).await??;
    if length == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let [consumer, tunnel, admin, lock] = given.map_err(|_| HandoverError::Foreign)?;
    if greeting != GREETING {
        return Err(HandoverError::Foreign);
    }
    let taken = Taken {
        consumer: TcpListener::from(consumer),
        tunnel: TcpListener::from(tunnel),
        admin: TcpListener::from(admin),
        lock: DirLock::take_part(File::from(lock))?,
    };
    Ok(Some((taken, Predecessor { stream })))
}

/// Removes the socket, at an orderly end without a successor.
///
/// # Errors
/// When the data directory cannot be written.
pub fn remove(dir: &Path) -> io::Result<()> {
    remove_if_there(&socket_path(dir))
}

/// Its place in a data directory.
pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join(HANDOVER_SOCKET)
}

impl From<HandoverError> for Failure {
    fn from(error: HandoverError) -> Self {
        let detail = format!("the hub that runs here cannot be replaced: {error}");
        Self::new(ErrorCode::AlreadyRunning, detail).fix("stop it first, then start this one; or try again")
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The file's mode keeps others out; this holds even if somebody changed it.
fn of_same_user(stream: &UnixStream) -> Result<(), HandoverError> {
    let ours = rustix::process::geteuid().as_raw();
    if stream.peer_cred()?.uid() == ours { Ok(()) } else { Err(HandoverError::Stranger) }
}

async fn within<T>(time: Duration, future: impl Future<Output = T>) -> Result<T, HandoverError> {
    timeout(time, future).await.map_err(|_| HandoverError::Silent(time))
}

#[cfg(test)]
mod tests;
