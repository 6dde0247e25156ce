//! TLS with the official names in front of a plain upstream of other people's.
//!
//! Invariant: the only change is the path of DeepSeek's Anthropic form, which such upstreams serve
//! without its prefix.

use crate::ca::TestCa;
use crate::stage;
use crate::stage::Stage;
use anyhow::Result;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Uri;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::combinators::BoxBody;
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

type Forwarder = Client<HttpConnector, Incoming>;
type Body = BoxBody<Bytes, hyper::Error>;

/// The running front; dropping it closes every connection.
pub struct TlsFront {
    addr: SocketAddr,
    _stage: Stage,
}

impl TlsFront {
    /// Serves the authority's names and forwards to `target` in plain HTTP.
    ///
    /// # Errors
    /// When no port or no thread can be had.
    pub fn start(ca: &TestCa, target: SocketAddr) -> Result<Self> {
        let (listener, addr) = stage::listen()?;
        let tls = TlsAcceptor::from(ca.server_config());
        let stage = Stage::open("kit-tls-front", move || async move {
            let forwarder: Forwarder = Client::builder(TokioExecutor::new()).build_http();
            stage::accept(listener, move |socket| serve(tls.clone(), socket, forwarder.clone(), target)).await;
        })?;
        Ok(Self { addr, _stage: stage })
    }

    /// Where agents connect to.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }
}

async fn serve(tls: TlsAcceptor, socket: TcpStream, forwarder: Forwarder, target: SocketAddr) {
    let Ok(stream) = tls.accept(socket).await else {
        return;
    };
    let forwarder = Arc::new(forwarder);
    let service = service_fn(move |request| {
        let forwarder = Arc::clone(&forwarder);
        async move { Ok::<_, Infallible>(forward(&forwarder, request, target).await) }
    });
    // The peer's leaving is no error of the front's.
    let _ = hyper::server::conn::http1::Builder::new()
        .preserve_header_case(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn forward(forwarder: &Forwarder, request: Request<Incoming>, target: SocketAddr) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let host = head.headers.get("host").map_or(&b""[..], |host| host.as_bytes());
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if host == b"api.deepseek.com" { path.strip_prefix("/anthropic").unwrap_or(path) } else { path };
    let uri = Uri::builder().scheme("http").authority(target.to_string()).path_and_query(path).build();
    let Ok(uri) = uri else {
        return failed("the path cannot be forwarded".to_owned());
    };
    head.uri = uri;
    match forwarder.request(Request::from_parts(head, body)).await {
        Ok(response) => response.map(BodyExt::boxed),
        Err(error) => failed(format!("the upstream behind the front failed: {error}")),
    }
}

fn failed(why: String) -> Response<Body> {
    let body = Full::new(Bytes::from(why)).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
