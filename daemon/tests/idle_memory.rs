//! What a quiet link costs the process that accepts it, and what is left of a busy one
//! afterwards. The dialling ends live in another process, which is this program again.
//!
//! Invariant: figures are printed before they are judged.

use std::future::poll_fn;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Child;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use keyhaven_daemon::link;
use keyhaven_daemon::link::LinkEvents;
use keyhaven_daemon::link::LinkHandle;
use keyhaven_daemon::link::LinkStream;
use keyhaven_daemon::link::ReadAhead;
use keyhaven_daemon::link::Socket;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_daemon::tls;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::frame::Drain;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::link::Incoming;
use keyhaven_protocol::link::Limits;
use keyhaven_protocol::link::LinkFault;
use keyhaven_protocol::link::Side;
use keyhaven_protocol::pin::Pin;
use keyhaven_protocol::websocket::Role;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::ServerName;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::TlsConnector;

/// Tells the second process whom to dial, and which key to expect.
const DIAL: &str = "KEYHAVEN_IDLE_MEMORY_DIAL";

/// Links that warm everything up that is there once for all.
const WARM_LINKS: usize = 50;

const LINKS: usize = 800;

/// Of them, those that carry a burst.
const BURST_LINKS: usize = 100;

const BURST_BYTES: usize = 10 * 1024 * 1024;

const PIECE_BYTES: usize = 64 * 1024;

/// For a link on which nothing moves.
const IDLE_KIB_MAX: u64 = 16;

/// For one that was busy: usually 19 to 21, of which nothing is in use; it is what the
/// allocator does not give back.
const AFTER_BURST_KIB_MAX: u64 = 24;

/// How long one may take to become small again.
const SHRINK_TIME_MAX: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match std::env::var(DIAL) {
        Ok(whom) => runtime.block_on(dial_all(&whom)),
        // Any flag of the test runner is for others.
        Err(_) => runtime.block_on(measure()),
    }
}

async fn measure() -> Result<()> {
    let tasks = Tasks::new();
    let key = rcgen::KeyPair::generate()?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let pin = tls::pin_of_key(&key)?;
    let acceptor = TlsAcceptor::from(tls::tunnel_server(&key)?);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let _dialler = Dialler::start(listener.local_addr()?, pin)?;

    let mut links = Vec::new();
    let mut after_warm_up = 0;
    while links.len() < WARM_LINKS + LINKS {
        let (stream, _) = listener.accept().await?;
        let (sender, shaken) = tokio::sync::oneshot::channel();
        let (acceptor, spawner) = (acceptor.clone(), tasks.clone());
        tasks.spawn("handshake", async move {
            let handle = accept(stream, &acceptor, &spawner).await;
            let _ = sender.send(handle);
        });
        links.push(shaken.await??);
        if links.len() == WARM_LINKS {
            for link in &links {
                burst(link).await?;
            }
            until_heard(&links).await;
            after_warm_up = resident_kib()?;
        }
    }
    until_heard(&links).await;
    let idle = resident_kib()?;
    let idle_each = idle.saturating_sub(after_warm_up) * 1024 / u64::try_from(LINKS)?;
    say(&format!("idle: {idle_each} bytes a link ({LINKS} links)"));
    ensure!(idle_each <= IDLE_KIB_MAX * 1024, "an idle link costs {idle_each} bytes");

    for link in &links[WARM_LINKS..WARM_LINKS + BURST_LINKS] {
        burst(link).await?;
    }
    let most = AFTER_BURST_KIB_MAX * 1024;
    let began = tokio::time::Instant::now();
    loop {
        let grown = resident_kib()?.saturating_sub(idle) * 1024 / u64::try_from(BURST_LINKS)?;
        say(&format!("after a burst: {} bytes a link after {:?}", idle_each + grown, began.elapsed()));
        if idle_each + grown <= most {
            break;
        }
        ensure!(began.elapsed() < SHRINK_TIME_MAX, "a link that was busy costs {} bytes", idle_each + grown);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    links.iter().for_each(LinkHandle::close);
    tasks.shut_down(Duration::from_secs(5)).await;
    Ok(())
}

/// The link's own task does not carry the handshake's memory.
async fn accept(stream: TcpStream, acceptor: &TlsAcceptor, tasks: &Tasks) -> Result<LinkHandle> {
    link::prepare(&stream)?;
    let stream = acceptor.accept(ReadAhead::new(stream)).await?;
    let socket = Socket::new(stream, Role::Server, Bytes::new());
    let handle = LinkHandle::new(Side::Hub, Limits::default());
    let driven = handle.clone();
    tasks.spawn("link", async move {
        link::run(socket, &driven, Quiet).await;
    });
    Ok(handle)
}

async fn burst(link: &LinkHandle) -> Result<()> {
    let call = link.open(&head())?;
    call.finish(Bytes::new())?;
    let mut read = 0;
    loop {
        match poll_fn(|cx| call.poll_data(cx)).await {
            Incoming::Data(data) => read += data.len(),
            Incoming::End(_) => break,
            broken @ (Incoming::Aborted(_) | Incoming::Pending) => anyhow::bail!("the burst broke off: {broken:?}"),
        }
    }
    ensure!(read == BURST_BYTES, "{read} bytes came");
    Ok(())
}

/// Every link has had its first ping answered, so that all of them are at rest.
async fn until_heard(links: &[LinkHandle]) {
    while links.iter().any(|link| link.stats().rtt_micros.is_none()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// For the person who reads the run; the test does not depend on it.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn resident_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().next().context("VmRSS")?.parse()?)
}

/// The second process; ends with its handle.
struct Dialler(Child);

impl Dialler {
    fn start(to: SocketAddr, pin: Pin) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        Ok(Self(command.env(DIAL, format!("{to} {pin}")).spawn()?))
    }
}

impl Drop for Dialler {
    fn drop(&mut self) {
        // It has ended by itself if this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn dial_all(whom: &str) -> Result<()> {
    let (to, pin) = whom.split_once(' ').context("address and pin")?;
    let (to, pin): (SocketAddr, Pin) = (to.parse()?, pin.parse()?);
    let connector = TlsConnector::from(tls::tunnel_client(vec![pin])?);
    let tasks = Tasks::new();
    for _ in 0..WARM_LINKS + LINKS {
        let stream = TcpStream::connect(to).await?;
        link::prepare(&stream)?;
        let stream = connector.connect(ServerName::try_from("keyhaven.invalid")?, ReadAhead::new(stream)).await?;
        let socket = Socket::new(stream, Role::Client, Bytes::new());
        let handle = LinkHandle::new(Side::Agent, Limits::default());
        let vendor = Vendor { tasks: tasks.clone() };
        tasks.spawn("link", async move {
            link::run(socket, &handle, vendor).await;
        });
    }
    std::future::pending().await
}

struct Quiet;

impl LinkEvents for Quiet {
    fn opened(&mut self, _stream: LinkStream, _open: Bytes) {}

    fn control(&mut self, _frame: &Frame) -> Result<(), LinkFault> {
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}

/// Answers every call with the burst.
struct Vendor {
    tasks: Tasks,
}

impl LinkEvents for Vendor {
    fn opened(&mut self, stream: LinkStream, _open: Bytes) {
        self.tasks.spawn("burst", async move {
            // If it breaks off, the other process says so.
            let _ = answer(&stream).await;
        });
    }

    fn control(&mut self, _frame: &Frame) -> Result<(), LinkFault> {
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}

async fn answer(stream: &LinkStream) -> Result<()> {
    stream.send_head(ResponseHead { status: StatusCode::OK, headers: HeaderMap::new() }.encode()?)?;
    let piece = Bytes::from(vec![b'x'; PIECE_BYTES]);
    for _ in 0..BURST_BYTES / PIECE_BYTES {
        stream.capacity().await?;
        stream.send_data(piece.clone())?;
    }
    Ok(stream.finish(Bytes::new())?)
}

fn head() -> OpenHead {
    OpenHead {
        call: CallId([1; 16]),
        vendor_key: VendorKeyId([2; 16]),
        endpoint: 101,
        parameter: None,
        query: None,
        body: BodyLength::Chunked,
        ticket: None,
        headers: HeaderMap::new(),
    }
}
