//! The upstream under load: as little work per call as HTTP allows, plain and over TLS.
//!
//! Invariant: what is answered depends on nothing but the model that the request names.

use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::header;
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keyhaven_tests::ca::TestCa;
use serde_json::json;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

use crate::clock::monotonic_ns;
use crate::model::Model;

/// The body of the plain answer, padding included.
const ANSWER_BYTES: usize = 1024;

/// One event of a stream.
const EVENT_BYTES: usize = 200;

/// A piece of a large answer.
const SLICE_BYTES: usize = 64 * 1024;

/// What happened since the start, for the probes to ask.
#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    drops: AtomicU64,
    last_drop_ns: AtomicU64,
}

struct Upstream {
    seen: Seen,
    answer: Bytes,
    slice: Bytes,
}

/// Serves until the process is ended; prints one line of JSON that says where.
pub(crate) async fn serve() -> Result<()> {
    let ca = TestCa::new()?;
    let plain = TcpListener::bind(("127.0.0.1", 0)).await?;
    let tls = TcpListener::bind(("127.0.0.1", 0)).await?;
    let line = json!({
        "plain": plain.local_addr()?,
        "tls": tls.local_addr()?,
        "ca_pem": ca.ca_pem(),
    });
    writeln!(std::io::stdout(), "{line}")?;
    let upstream =
        Arc::new(Upstream { seen: Seen::default(), answer: answer(), slice: Bytes::from(vec![b'x'; SLICE_BYTES]) });
    let acceptor = TlsAcceptor::from(ca.server_config());
    let mut listeners = JoinSet::new();
    listeners.spawn(accept(plain, None, Arc::clone(&upstream)));
    listeners.spawn(accept(tls, Some(acceptor), upstream));
    listeners.join_next().await;
    Ok(())
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, upstream: Arc<Upstream>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                // Without it the kernel, not the peer, would decide when a piece leaves.
                let _ = socket.set_nodelay(true);
                let (tls, upstream) = (tls.clone(), Arc::clone(&upstream));
                connections.spawn(async move {
                    match tls {
                        None => connection(socket, upstream).await,
                        Some(tls) => if let Ok(socket) = tls.accept(socket).await {
                            connection(socket, upstream).await;
                        }
                    }
                });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection<S>(socket: S, upstream: Arc<Upstream>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let upstream = Arc::clone(&upstream);
        async move { Ok::<_, Infallible>(upstream.respond(request).await) }
    });
    // The peer's leaving is what some probes are about.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
}

impl Upstream {
    async fn respond(self: Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        match request.uri().path() {
            "/v1/models" => return whole(Bytes::from(Model::list())),
            "/seen" => return whole(Bytes::from(self.seen.to_json())),
            _ => {}
        }
        let Ok(body) = request.into_body().collect().await else {
            return whole(Bytes::new());
        };
        let model = Model::of_request(&body.to_bytes());
        self.seen.calls.fetch_add(1, Ordering::SeqCst);
        match model {
            Model::Json => whole(self.answer.clone()),
            Model::Bulk { bytes } => {
                let mut response = Response::new(Answer::Bulk { slice: self.slice.clone(), left: bytes });
                response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
                response
            }
            Model::Events { count, every_us } => {
                let mut response = Response::new(Answer::Events(Box::new(Events::new(self, count, every_us))));
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
                response
            }
            Model::Silent => {
                let _unfinished = Unfinished { upstream: Arc::clone(&self), over: false };
                std::future::pending().await
            }
        }
    }
}

impl Seen {
    fn to_json(&self) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let (drops, last_drop_ns) = (read(&self.drops), read(&self.last_drop_ns));
        json!({ "calls": read(&self.calls), "drops": drops, "last_drop_ns": last_drop_ns }).to_string()
    }
}

/// Notes when an answer is dropped before its end.
struct Unfinished {
    upstream: Arc<Upstream>,
    over: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.over {
            // The time first: who sees the count risen reads the time of this very drop.
            self.upstream.seen.last_drop_ns.store(monotonic_ns(), Ordering::SeqCst);
            self.upstream.seen.drops.fetch_add(1, Ordering::SeqCst);
        }
    }
}

enum Answer {
    Whole(Option<Bytes>),
    Bulk { slice: Bytes, left: u64 },
    Events(Box<Events>),
}

/// Events that carry the time at which each was made.
struct Events {
    left: u64,
    every: Duration,
    next: Pin<Box<Sleep>>,
    unfinished: Unfinished,
}

impl Events {
    fn new(upstream: Arc<Upstream>, count: u64, every_us: u64) -> Self {
        let every = Duration::from_micros(every_us);
        let next = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { left: count, every, next, unfinished: Unfinished { upstream, over: false } }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.left == 0 {
            self.unfinished.over = true;
            return Poll::Ready(None);
        }
        ready!(Future::poll(self.next.as_mut(), cx));
        self.left -= 1;
        let next = self.next.deadline() + self.every;
        self.next.as_mut().reset(next.max(Instant::now()));
        Poll::Ready(Some(event()))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.get_mut() {
            Self::Whole(body) => body.take(),
            Self::Bulk { left: 0, .. } => None,
            Self::Bulk { slice, left } => {
                let length = slice.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                Some(slice.slice(..length))
            }
            Self::Events(events) => ready!(events.poll_event(cx)),
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_none(),
            Self::Bulk { left, .. } => *left == 0,
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            Self::Bulk { left, .. } => SizeHint::with_exact(*left),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

fn whole(body: Bytes) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Some(body)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn answer() -> Bytes {
    let with_content = |content: String| {
        json!({
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": Model::Json.name(),
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": content },
                "finish_reason": "stop",
            }],
            "usage": { "prompt_tokens": 60, "completion_tokens": 200, "total_tokens": 260 },
        })
        .to_string()
    };
    let padding = ANSWER_BYTES.saturating_sub(with_content(String::new()).len());
    Bytes::from(with_content("x".repeat(padding)))
}

fn event() -> Bytes {
    let mut event = format!("data: {{\"ns\":{:020},\"pad\":\"", monotonic_ns());
    let tail = "\"}\n\n";
    event.push_str(&"x".repeat(EVENT_BYTES.saturating_sub(event.len() + tail.len())));
    event.push_str(tail);
    Bytes::from(event)
}
