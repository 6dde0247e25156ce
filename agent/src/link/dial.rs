//! From an address to a welcomed link: TCP, TLS with a pinned key, WebSocket, the proof.
//!
//! Invariant: nothing is said to a server whose key is not pinned, and the proof is worth
//! something on this very connection only.

use std::time::Duration;

use bytes::BytesMut;
use ed25519_dalek::SigningKey;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::link::ReadAhead;
use keyhaven_daemon::link::Socket;
use keyhaven_daemon::link::SocketError;
use keyhaven_daemon::link::prepare;
use keyhaven_daemon::tls;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Challenge;
use keyhaven_protocol::frame::Egress;
use keyhaven_protocol::frame::Enrolment;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::LedgerHead;
use keyhaven_protocol::frame::Refuse;
use keyhaven_protocol::frame::Welcome;
use keyhaven_protocol::frame::from_json;
use keyhaven_protocol::frame::next_frame;
use keyhaven_protocol::frame::put_frame;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::handshake;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::hex::HexBytes;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::upgrade::upgrade;
use crate::vault::identity::Identity;

/// From the first packet to WELCOME.
const DIAL_TIME_MAX: Duration = Duration::from_secs(15);

/// The longest a hub may ask to be left alone.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// What certificates and HTTP call the hub; only its key matters.
pub(super) const HUB_NAME: &str = "keyhaven.invalid";

pub(super) type Tls = TlsStream<ReadAhead<TcpStream>>;

/// A link that was welcomed.
pub struct Dialled {
    /// The WebSocket, nothing on it but the handshake.
    pub socket: Socket<TlsStream<ReadAhead<TcpStream>>>,
    /// What the hub said.
    pub welcome: Welcome,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection, or it broke before WELCOME.
    #[error("{0}")]
    Unreachable(String),
    /// The server's key is not pinned.
    #[error("the server at {0} has another key")]
    Pin(String),
    /// The hub refused, with a code of the shared table where it knows one.
    #[error("{message}")]
    Refused {
        /// Why.
        code: ErrorCode,
        /// In the hub's words.
        message: String,
        /// Not before then is another attempt of any use.
        retry_after: Duration,
    },
    /// The hub is not one this agent can talk to.
    #[error(transparent)]
    Handshake(#[from] handshake::HandshakeError),
    /// The hub does not follow the protocol.
    #[error("{0}")]
    Protocol(String),
}

impl LinkError {
    /// The code for status, logs and exit.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Unreachable(_) => ErrorCode::HubUnreachable,
            Self::Pin(_) => ErrorCode::PinMismatch,
            Self::Refused { code, .. } => *code,
            Self::Handshake(error) => error.code(),
            Self::Protocol(_) => ErrorCode::LinkProtocol,
        }
    }

    /// What a REFUSE means.
    pub fn refused(refuse: Refuse) -> Self {
        let code = refuse.code.parse().unwrap_or(ErrorCode::HandshakeRefused);
        let retry_after = Duration::from_millis(refuse.retry_after_ms).min(RETRY_AFTER_MAX);
        Self::Refused { code, message: refuse.message, retry_after }
    }

    /// How long the hub asked to be left alone.
    pub const fn retry_after(&self) -> Duration {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Unreachable(_) | Self::Pin(_) | Self::Handshake(_) | Self::Protocol(_) => Duration::ZERO,
        }
    }

    /// Whether trying again could ever help without somebody doing something.
    pub const fn is_final(&self) -> bool {
        matches!(
            self.code(),
            ErrorCode::AgentRevoked | ErrorCode::TokenUsed | ErrorCode::TokenExpired | ErrorCode::TokenUnknown
        )
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// Who dials.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// Who this agent is, and which hub it trusts.
    pub identity: &'a Identity,
    /// Its key.
    pub key: &'a SigningKey,
    /// What it can reach.
    pub egress: Egress,
    /// This start of its process.
    pub instance: Hex<16>,
}

/// A random name for one start of a process.
///
/// # Errors
/// When the system gives no random bytes.
pub fn new_instance() -> Result<Hex<16>, LinkError> {
    let mut instance = [0; 16];
    let filled = getrandom::fill(&mut instance);
    filled.map_err(|_| LinkError::Protocol("the system gave no random bytes".to_owned()))?;
    Ok(Hex(instance))
}

/// Dials the hub and proves who this agent is.
///
/// # Errors
/// [`LinkError`], by whose fault it is.
pub async fn dial(caller: Caller<'_>, enrolment: Option<Enrolment>) -> Result<Dialled, LinkError> {
    let late = |_| LinkError::Unreachable(format!("{} did not answer in time", caller.identity.hub_address));
    tokio::time::timeout(DIAL_TIME_MAX, shake_hands(caller, enrolment)).await.map_err(late)?
}

async fn shake_hands(caller: Caller<'_>, enrolment: Option<Enrolment>) -> Result<Dialled, LinkError> {
    let Caller { identity, key, egress, instance } = caller;
    let stream = connect(identity).await?;
    let protocol = |error: &dyn std::fmt::Display| LinkError::Protocol(error.to_string());
    let binding = tls::channel_binding(stream.get_ref().1).map_err(|error| protocol(&error))?;
    let mut socket = upgrade(stream).await.map_err(|error| protocol(&error))?;

    let challenge = receive(&mut socket).await?;
    let challenge: Challenge = expect(challenge, FrameKind::Challenge)?;
    let mine = handshake::Identity {
        agent: identity.agent,
        fleet: identity.fleet,
        key,
        egress,
        instance,
        ledger: LedgerHead::EMPTY,
        cosigned: HexBytes::default(),
        enrolment,
    };
    let auth = handshake::answer(&challenge, &binding, mine, env!("CARGO_PKG_VERSION"))?;
    let mut out = BytesMut::new();
    put_frame(&mut out, FrameKind::Auth, 0, &to_json(&auth));
    socket.send(&out).await.map_err(|error| protocol(&error))?;

    let welcome = receive(&mut socket).await?;
    let welcome = expect(welcome, FrameKind::Welcome)?;
    Ok(Dialled { socket, welcome })
}

async fn connect(identity: &Identity) -> Result<Tls, LinkError> {
    let address = &identity.hub_address;
    let unreachable = |error: std::io::Error| LinkError::Unreachable(format!("{address}: {error}"));
    let stream = TcpStream::connect(address.as_str()).await.map_err(unreachable)?;
    prepare(&stream).map_err(unreachable)?;
    let config = tls::tunnel_client(identity.pins.clone()).map_err(|error| LinkError::Protocol(error.to_string()))?;
    let name = ServerName::try_from(HUB_NAME).map_err(|error| LinkError::Protocol(error.to_string()))?;
    TlsConnector::from(config).connect(name, ReadAhead::new(stream)).await.map_err(|error| {
        if error.to_string().contains(tls::PIN_MISMATCH) { LinkError::Pin(address.clone()) } else { unreachable(error) }
    })
}

async fn receive(socket: &mut Socket<Tls>) -> Result<Frame, LinkError> {
    let protocol = |what: String| LinkError::Protocol(what);
    let mut batch = socket.receive().await.map_err(|error| match error {
        SocketError::Closed => LinkError::Unreachable("the hub closed the connection".to_owned()),
        SocketError::Fault(fault) => protocol(fault.to_string()),
        SocketError::Io(error) => LinkError::Unreachable(error.to_string()),
    })?;
    let frame = next_frame(&mut batch).map_err(|error| protocol(error.to_string()))?;
    let frame = frame.ok_or_else(|| protocol("the hub sent an empty message".to_owned()))?;
    if frame.kind == FrameKind::Refuse.number() {
        return Err(LinkError::refused(Refuse::read(&frame.payload)));
    }
    Ok(frame)
}

fn expect<T: serde::de::DeserializeOwned>(frame: Frame, kind: FrameKind) -> Result<T, LinkError> {
    let fits = frame.kind == kind.number() && frame.payload.len() <= kind.payload_bytes_max();
    let read = Some(frame).filter(|_| fits).and_then(|frame| from_json(&frame.payload).ok());
    read.ok_or_else(|| LinkError::Protocol(format!("the hub sent no {kind:?}")))
}
