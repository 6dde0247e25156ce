//! From TLS to a WebSocket: one HTTP/1.1 upgrade, asked for and checked.
//!
//! Invariant: not a byte that comes behind the hub's answer is lost.

use bytes::Bytes;
use http::HeaderName;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use keyhaven_daemon::link::Socket;
use keyhaven_protocol::handshake::TUNNEL_PATH;
use keyhaven_protocol::provider::websocket::proof_of;
use keyhaven_protocol::websocket::Role;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use super::dial::HUB_NAME;
use super::dial::Tls;

/// The hub's answer is short.
const ANSWER_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("HTTP: {0}")]
    Request(#[from] http::Error),
    #[error("the hub answered {0} where it should open a tunnel")]
    Refused(StatusCode),
    #[error("the hub's answer opens no WebSocket")]
    NoWebSocket,
}

pub(super) async fn upgrade(stream: Tls) -> Result<Socket<Tls>, UpgradeError> {
    let key = generate_key();
    let request = Request::get(TUNNEL_PATH)
        .header(header::HOST, HUB_NAME)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(ANSWER_HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    let ask = async {
        let response = sender.send_request(request).await?;
        check(&response, &key)?;
        Ok(hyper::upgrade::on(response).await?)
    };
    let drive = async { Ok::<_, UpgradeError>(connection.with_upgrades().await?) };
    let (upgraded, ()) = tokio::try_join!(ask, drive)?;
    let parts = upgraded.downcast::<TokioIo<Tls>>().map_err(|_| UpgradeError::NoWebSocket)?;
    Ok(Socket::new(parts.io.into_inner(), Role::Client, parts.read_buf))
}

fn check(response: &Response<Incoming>, key: &str) -> Result<(), UpgradeError> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(UpgradeError::Refused(response.status()));
    }
    let text = |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
    let upgraded = text(header::UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    let proved = text(header::SEC_WEBSOCKET_ACCEPT) == Some(proof_of(key.as_bytes()).as_str());
    // No extension was offered, so none can be agreed to.
    let plain = !response.headers().contains_key(header::SEC_WEBSOCKET_EXTENSIONS);
    if upgraded && proved && plain { Ok(()) } else { Err(UpgradeError::NoWebSocket) }
}
