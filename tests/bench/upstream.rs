//! The upstream under load: as little work per call as HTTP allows, plain and over TLS.
//!
//! Invariant: what is answered depends on nothing but the model that the request names.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::header;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keyhaven_tests::ca::TestCa;
use serde::Deserialize;
use serde::Serialize;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::answer::Answer;
use crate::answer::Stock;
use crate::model::Model;
use crate::seen::Ledger;
use crate::seen::Unfinished;

/// Where the upstream is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// In plain HTTP; also what the probes ask.
    pub(crate) plain: SocketAddr,
    /// Over TLS, with every vendor's name.
    pub(crate) tls: SocketAddr,
    /// Whom to trust there.
    pub(crate) ca_pem: PathBuf,
}

struct Upstream {
    ledger: Arc<Ledger>,
    stock: Stock,
}

/// Serves until the process is ended; prints one line of JSON that says where.
pub(crate) async fn serve() -> Result<()> {
    let ca = TestCa::new()?;
    let plain = TcpListener::bind(("127.0.0.1", 0)).await?;
    let tls = TcpListener::bind(("127.0.0.1", 0)).await?;
    let addresses = Addresses { plain: plain.local_addr()?, tls: tls.local_addr()?, ca_pem: ca.ca_pem() };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&addresses)?)?;
    let upstream = Arc::new(Upstream { ledger: Arc::default(), stock: Stock::new() });
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
    async fn respond(&self, request: Request<Incoming>) -> Response<Answer> {
        match request.uri().path() {
            "/v1/models" => return json(Answer::whole(Bytes::from(Model::list()))),
            "/seen" => {
                let seen = self.ledger.seen_after(request.uri().query()).await;
                return json(Answer::whole(Bytes::from(serde_json::to_vec(&seen).unwrap_or_default())));
            }
            _ => {}
        }
        let mut unfinished = Unfinished::begin(&self.ledger);
        let Some(body) = self.read(request.into_body()).await else {
            // Dropped: the consumer left in the middle of its request.
            return json(Answer::whole(Bytes::new()));
        };
        self.ledger.called();
        let model = Model::of_request(&body);
        match model {
            Model::Json => {
                unfinished.finish();
                json(Answer::whole(self.stock.json.clone()))
            }
            Model::Half => with_length(Answer::half(&self.stock, unfinished), self.stock.json.len() as u64),
            Model::Bulk { bytes } => with_length(Answer::bulk(&self.stock, bytes, unfinished), bytes),
            Model::Events { count, every_us } => event_stream(Answer::events(count, every_us, unfinished)),
            Model::Crumbs => event_stream(Answer::crumbs(&self.stock, unfinished)),
            Model::Silent => std::future::pending().await,
        }
    }

    /// The request's body; none if it broke off.
    async fn read(&self, mut body: Incoming) -> Option<Bytes> {
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.ok()?.into_data() else { continue };
            self.ledger.read(data.len());
            // The model stands at the beginning; megabytes are taken and not kept.
            if all.len() < Model::NAMED_WITHIN {
                all.extend_from_slice(&data);
            }
        }
        Some(all.freeze())
    }
}

fn json(answer: Answer) -> Response<Answer> {
    with_type(answer, "application/json")
}

fn event_stream(answer: Answer) -> Response<Answer> {
    with_type(answer, "text/event-stream")
}

fn with_type(answer: Answer, content_type: &'static str) -> Response<Answer> {
    let mut response = Response::new(answer);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn with_length(answer: Answer, bytes: u64) -> Response<Answer> {
    let mut response = json(answer);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    response
}
