//! The tunnel alone, as two processes: HTTP in, our link over TLS 1.3, plain HTTP out.
//!
//! Everything of a Keyhaven call that is not the tunnel is missing on purpose: API keys, the
//! allow-list, header rules, the request scan, dispatch, logs, metrics, the vendor's TLS. Link,
//! framing, credit, scheduling and TLS are `daemon::link` and `daemon::tls` as they ship.
//!
//! Invariant: no code here moves frames; what this costs over two HTTP libraries is the tunnel.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use anyhow::Context as _;
use anyhow::Result;
use bytes::Bytes;
use http::HeaderMap;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming as HttpBody;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
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
use keyhaven_protocol::frame::Frame as LinkFrame;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::link::Incoming;
use keyhaven_protocol::link::Limits;
use keyhaven_protocol::link::LinkFault;
use keyhaven_protocol::link::Side;
use keyhaven_protocol::pin::Pin as KeyPin;
use keyhaven_protocol::websocket::Role;
use keyhaven_tests::process::Process;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::TlsConnector;

use crate::keyhaven::START_TIME_MAX;

const HUB_NAME: &str = "keyhaven.invalid";

/// Both processes; they end when dropped.
pub(crate) struct Bare {
    /// Where it is called.
    pub(crate) listen: SocketAddr,
    hub: Process,
    agent: Process,
}

/// Where the hub's end is.
#[derive(Debug, Serialize, Deserialize)]
struct HubEnd {
    listen: SocketAddr,
    tunnel: SocketAddr,
    pin: String,
}

/// What the agent's end is told.
#[derive(Debug, clap::Args)]
pub(crate) struct AgentEnd {
    #[arg(long)]
    tunnel: SocketAddr,
    #[arg(long)]
    pin: KeyPin,
    #[arg(long)]
    upstream: SocketAddr,
}

type Link = Arc<Mutex<Option<LinkHandle>>>;

impl Bare {
    /// Starts both in front of an upstream that speaks plain HTTP.
    pub(crate) async fn start(upstream: SocketAddr) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare-hub");
        let mut hub = Process::start(command)?;
        let end: HubEnd = serde_json::from_value(hub.json_line(START_TIME_MAX).await?)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bare-agent", "--pin", &end.pin, "--tunnel", &end.tunnel.to_string()]);
        command.args(["--upstream", &upstream.to_string()]);
        Ok(Self { listen: end.listen, hub, agent: Process::start(command)? })
    }

    /// Its processes by name.
    pub(crate) fn parts(&self) -> [(&'static str, u32); 2] {
        [("hub", self.hub.pid()), ("agent", self.agent.pid())]
    }
}

/// The hub's end: serves until the process is ended.
pub(crate) async fn serve_hub(tasks: Tasks) -> Result<()> {
    let key = rcgen::KeyPair::generate()?.serialize_der();
    let key = PrivatePkcs8KeyDer::from(key);
    let acceptor = TlsAcceptor::from(tls::tunnel_server(&key)?);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let tunnel = TcpListener::bind(("127.0.0.1", 0)).await?;
    let pin = tls::pin_of_key(&key)?.to_string();
    let end = HubEnd { listen: listener.local_addr()?, tunnel: tunnel.local_addr()?, pin };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&end)?)?;
    let shared = Link::default();
    tasks.spawn("consumers", accept_consumers(listener, shared.clone(), tasks.clone()));
    loop {
        let (socket, _) = tunnel.accept().await?;
        socket.set_nodelay(true)?;
        let stream = acceptor.accept(ReadAhead::new(socket)).await?;
        // No upgrade: both ends know what follows.
        let socket = Socket::new(stream, Role::Server, Bytes::new());
        let handle = LinkHandle::new(Side::Hub, Limits::default());
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle.clone());
        // A task as in the daemons. Here, on the thread that runs `main`, it would share no
        // queue with those who wait for it, and every hand-over would wake a thread.
        tasks.spawn("link", async move {
            link::run(socket, &handle, NoEvents).await;
        });
    }
}

async fn accept_consumers(listener: TcpListener, shared: Link, tasks: Tasks) {
    while let Ok((socket, _)) = listener.accept().await {
        // Without it the kernel, not this process, would decide when a piece leaves.
        let _ = socket.set_nodelay(true);
        let shared = shared.clone();
        let service = service_fn(move |request| {
            let link = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move { Ok::<_, Infallible>(through(link, request).await.unwrap_or_else(|_| unavailable())) }
        });
        tasks.spawn("consumer", async move {
            // The consumer's leaving is what some probes are about.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn through(link: Option<LinkHandle>, request: Request<HttpBody>) -> Result<Response<Pulled>> {
    let link = link.context("no agent yet")?;
    let (head, mut body) = request.into_parts();
    let length = match body.size_hint().exact() {
        Some(0) => BodyLength::None,
        Some(length) => BodyLength::Known(length),
        None => BodyLength::Chunked,
    };
    let open = OpenHead {
        call: CallId([0; 16]),
        vendor_key: VendorKeyId([0; 16]),
        endpoint: 0,
        parameter: None,
        query: None,
        body: length,
        ticket: None,
        headers: travelling(head.headers),
    };
    // What is there already leaves in one message with the head.
    let mut first = body.frame().await.transpose()?;
    let stream = link.open(&open)?;
    while let Some(frame) = first {
        let data = frame.into_data().unwrap_or_default();
        if body.is_end_stream() {
            stream.send_last(data, Bytes::new())?;
            break;
        }
        stream.send_data(data)?;
        first = body.frame().await.transpose()?;
        stream.capacity().await?;
    }
    if !body.is_end_stream() {
        stream.finish(Bytes::new())?;
    }
    let head = stream.head().await.map_err(|abort| anyhow::anyhow!("aborted: {}", abort.reason.name()))?;
    let head = ResponseHead::decode(head)?;
    let mut response = Response::new(Pulled { stream: Some(stream) });
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

fn unavailable() -> Response<Pulled> {
    let mut response = Response::new(Pulled { stream: None });
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

/// The agent's end: dials once and serves until the process is ended.
pub(crate) async fn serve_agent(end: AgentEnd, tasks: Tasks) -> Result<()> {
    let socket = TcpStream::connect(end.tunnel).await?;
    socket.set_nodelay(true)?;
    let connector = TlsConnector::from(tls::tunnel_client(vec![end.pin])?);
    let stream = connector.connect(ServerName::try_from(HUB_NAME)?, ReadAhead::new(socket)).await?;
    let socket = Socket::new(stream, Role::Client, Bytes::new());
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1024).build(connector);
    let handle = LinkHandle::new(Side::Agent, Limits::default());
    let calls = Calls { client, upstream: end.upstream, tasks: tasks.clone() };
    let (sender, ended) = oneshot::channel();
    tasks.spawn("link", async move {
        let end = link::run(socket, &handle, calls).await;
        // Whoever starts this process ends it; then nobody asks any more.
        let _ = sender.send(end);
    });
    Err(ended.await?.into())
}

struct NoEvents;

impl LinkEvents for NoEvents {
    fn opened(&mut self, _stream: LinkStream, _open: Bytes) {}

    fn control(&mut self, _frame: &LinkFrame) -> Result<(), LinkFault> {
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}

struct Calls {
    client: Client<HttpConnector, Pulled>,
    upstream: SocketAddr,
    tasks: Tasks,
}

impl LinkEvents for Calls {
    fn opened(&mut self, stream: LinkStream, open: Bytes) {
        let (client, upstream) = (self.client.clone(), self.upstream);
        self.tasks.spawn("call", async move {
            // A stream that is dropped is aborted, and the hub's end answers 502.
            let _ = call(client, upstream, stream, open).await;
        });
    }

    fn control(&mut self, _frame: &LinkFrame) -> Result<(), LinkFault> {
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}

async fn call(
    client: Client<HttpConnector, Pulled>,
    upstream: SocketAddr,
    stream: LinkStream,
    open: Bytes,
) -> Result<()> {
    let open = OpenHead::decode(open)?;
    let body = Pulled { stream: (open.body != BodyLength::None).then(|| stream.clone()) };
    let mut request = Request::post(format!("http://{upstream}/v1/chat/completions")).body(body)?;
    *request.headers_mut() = open.headers;
    let response = tokio::select! {
        biased;
        _ = stream.aborted() => return Ok(()),
        response = client.request(request) => response?,
    };
    let (head, mut body) = response.into_parts();
    let head = ResponseHead { status: head.status, headers: travelling(head.headers) }.encode()?;
    let first = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
        Poll::Ready(Some(Ok(frame))) => Poll::Ready(frame.into_data().ok()),
        Poll::Ready(None | Some(Err(_))) | Poll::Pending => Poll::Ready(None),
    })
    .await;
    match first {
        None => stream.send_head(head)?,
        Some(data) => {
            let complete = body.is_end_stream();
            stream.respond(head, data, complete)?;
            if complete {
                return Ok(());
            }
        }
    }
    loop {
        let frame = tokio::select! {
            biased;
            _ = stream.aborted() => return Ok(()),
            frame = body.frame() => frame,
        };
        let Some(frame) = frame.transpose()? else { break };
        stream.capacity().await?;
        stream.send_data(frame.into_data().unwrap_or_default())?;
    }
    Ok(stream.finish(Bytes::new())?)
}

/// A body that is pulled off a stream.
struct Pulled {
    stream: Option<LinkStream>,
}

impl Body for Pulled {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(stream) = &self.stream else { return Poll::Ready(None) };
        Poll::Ready(match ready!(stream.poll_data(cx)) {
            Incoming::Data(data) => Some(Ok(Frame::data(data))),
            Incoming::End(_) => {
                self.stream = None;
                None
            }
            Incoming::Aborted(_) => Some(Err(io::ErrorKind::ConnectionAborted.into())),
            Incoming::Pending => return Poll::Pending,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none()
    }
}

/// Headers without those of one connection.
fn travelling(mut headers: HeaderMap) -> HeaderMap {
    for name in [header::HOST, header::CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers
}
