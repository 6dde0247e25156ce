//! From a TCP connection to a WebSocket: TLS with the hub's own key, one HTTP upgrade.
//!
//! Invariant: what a connection allocates before its proof is bounded in number, size and time.

use std::cell::Cell;
use std::sync::Arc;

use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use keyhaven_daemon::link::ReadAhead;
use keyhaven_daemon::link::Socket;
use keyhaven_daemon::link::prepare;
use keyhaven_daemon::tls;
use keyhaven_protocol::handshake::ChannelBinding;
use keyhaven_protocol::handshake::TUNNEL_PATH;
use keyhaven_protocol::provider::websocket::proof_of;
use keyhaven_protocol::websocket::Role;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;
use tracing::warn;

use super::AgentGateway;
use super::handshake;
use super::session;

type Tls = TlsStream<ReadAhead<TcpStream>>;

pub(super) type Tunnel = Socket<Tls>;

/// A request line and headers of an upgrade are short.
const UPGRADE_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Why a connection did not become a WebSocket.
#[derive(Debug, thiserror::Error)]
enum AcceptError {
    #[error("TLS: {0}")]
    Tls(#[from] std::io::Error),
    #[error("TLS: {0}")]
    Binding(#[from] tls::TlsError),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("it asked for no tunnel")]
    NoUpgrade,
}

pub(super) async fn accept_loop(gateway: Arc<AgentGateway>, listener: TcpListener) {
    let leaving = gateway.tasks.leaving();
    loop {
        let next = async {
            let permit = gateway.handshakes.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (Ok(permit), accepted) = (tokio::select! {
            biased;
            () = leaving.cancelled() => return,
            next = next => next,
        }) else {
            return;
        };
        match accepted {
            Ok((stream, _)) => {
                gateway.tasks.spawn("tunnel-handshake", shake_hands(gateway.clone(), stream, permit));
            }
            Err(error) => {
                // Out of file descriptors, mostly: accepting again at once would spin.
                warn!(%error, "a link could not be accepted: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

/// The handshakes end in this task; the link lives in another, which does not carry the
/// memory of these futures for the rest of its life.
async fn shake_hands(gateway: Arc<AgentGateway>, stream: TcpStream, permit: OwnedSemaphorePermit) {
    let deadline = gateway.config.tunnel.handshake_timeout();
    let shaken = tokio::time::timeout(deadline, async {
        let (mut socket, binding) = upgrade(&gateway, stream).await?;
        let proved = handshake::prove(&gateway, &mut socket, &binding).await;
        Ok::<_, AcceptError>((socket, proved))
    })
    .await;
    drop(permit);
    match shaken {
        Err(_) => debug!("a connection did not prove itself in time"),
        Ok(Err(error)) => debug!(%error, "a connection did not become a tunnel: {error}"),
        Ok(Ok((_, Err(refused)))) => debug!(error.code = %refused.code, "a link was refused: {refused}"),
        Ok(Ok((socket, Ok(proved)))) => {
            gateway.tasks.spawn("link", session::run(gateway.clone(), Box::new(socket), proved));
        }
    }
}

async fn upgrade(gateway: &AgentGateway, stream: TcpStream) -> Result<(Tunnel, ChannelBinding), AcceptError> {
    prepare(&stream)?;
    let stream = TlsAcceptor::from(gateway.tls.clone()).accept(ReadAhead::new(stream)).await?;
    let binding = tls::channel_binding(stream.get_ref().1)?;
    let (sender, receiver) = oneshot::channel();
    let sender = Cell::new(Some(sender));
    let service = service_fn(move |request| {
        let response = answer_upgrade(request, &sender);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .max_buf_size(UPGRADE_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await?;
    let upgraded = receiver.await.map_err(|_| AcceptError::NoUpgrade)?.await?;
    let parts = upgraded.downcast::<TokioIo<Tls>>().map_err(|_| AcceptError::NoUpgrade)?;
    Ok((Socket::new(parts.io.into_inner(), Role::Server, parts.read_buf), binding))
}

/// Extensions are never agreed to, so permessage-deflate is refused by silence, as RFC 6455 has it.
fn answer_upgrade(
    mut request: Request<Incoming>,
    sender: &Cell<Option<oneshot::Sender<OnUpgrade>>>,
) -> Response<Empty<Bytes>> {
    let accepted = accept_key(&request).zip(sender.take());
    let Some((accept, sender)) = accepted else {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = StatusCode::NOT_FOUND;
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        return response;
    };
    // The receiver waits in `upgrade`; it is gone only if the whole handshake was given up.
    let _ = sender.send(hyper::upgrade::on(&mut request));
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .body(Empty::new())
        .expect("constant names, and base64 is a header value")
}

fn accept_key<B>(request: &Request<B>) -> Option<String> {
    let headers = request.headers();
    let is = |name: header::HeaderName, wanted: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.eq_ignore_ascii_case(wanted))
    };
    let asked = request.method() == Method::GET && request.uri().path() == TUNNEL_PATH;
    let wanted = asked && is(header::UPGRADE, "websocket") && is(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| wanted)?;
    Some(proof_of(key.as_bytes()))
}
