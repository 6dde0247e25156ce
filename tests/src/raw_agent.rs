//! The tunnel by hand: every step of an agent's link on its own, in any order and as wrong as a
//! test wants it.
//!
//! Invariant: nothing is sent that a test did not ask for; WebSocket's own closing excepted.

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use bytes::Bytes;
use bytes::BytesMut;
use ed25519_dalek::SigningKey;
use futures_util::SinkExt;
use futures_util::StreamExt;
use keyhaven_daemon::tls::channel_binding;
use keyhaven_protocol::frame::Auth;
use keyhaven_protocol::frame::Challenge;
use keyhaven_protocol::frame::Egress;
use keyhaven_protocol::frame::Enrolment;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::LedgerHead;
use keyhaven_protocol::frame::Refuse;
use keyhaven_protocol::frame::from_json;
use keyhaven_protocol::frame::next_frame;
use keyhaven_protocol::frame::put_frame;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::handshake;
use keyhaven_protocol::handshake::ChannelBinding;
use keyhaven_protocol::handshake::Identity;
use keyhaven_protocol::handshake::TUNNEL_PATH;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::hex::HexBytes;
use keyhaven_protocol::join_token::JoinToken;
use rustls::ClientConfig;
use rustls::DigitallySignedStruct;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::ServerName;
use rustls_pki_types::UnixTime;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// How long the hub may take for one message.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent that is nothing but its token and its key.
pub struct RawAgent {
    /// What it was invited with.
    pub token: JoinToken,
    /// Its key.
    pub key: SigningKey,
    /// What it claims to reach.
    pub egress: Egress,
}

/// A WebSocket on the tunnel listener, at whatever stage.
pub struct RawLink {
    /// The connection.
    pub socket: WebSocketStream<TlsStream<TcpStream>>,
    /// What both ends of this connection, and no others, know.
    pub binding: ChannelBinding,
    waiting: Bytes,
}

/// What became of a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// WELCOME.
    Welcome,
    /// REFUSE with this code.
    Refused(String),
    /// The hub closed without a word.
    Closed,
}

impl RawAgent {
    /// An agent with a token as the hub printed it, and a key made of one number.
    ///
    /// # Errors
    /// When the token is damaged.
    pub fn new(token: &str, key: u8) -> Result<Self> {
        let token = JoinToken::decode(token)?;
        Ok(Self { token, key: SigningKey::from_bytes(&[key; 32]), egress: Egress::Loopback })
    }

    /// The token's own proof.
    #[must_use]
    pub fn enrolment(&self) -> Enrolment {
        Enrolment { token: self.token.token, secret: Hex(self.token.secret) }
    }

    /// The answer to a challenge, as the real agent would give it.
    ///
    /// # Errors
    /// When the hub is of another fleet or version.
    pub fn answer(
        &self,
        challenge: &Challenge,
        binding: &ChannelBinding,
        enrolment: Option<Enrolment>,
    ) -> Result<Auth> {
        // Each link as if the process had been started anew for it.
        let mut instance = [0; 16];
        instance.copy_from_slice(&challenge.nonce.0[..16]);
        let identity = Identity {
            agent: self.token.agent,
            fleet: self.token.fleet,
            key: &self.key,
            egress: self.egress,
            instance: Hex(instance),
            ledger: LedgerHead::EMPTY,
            cosigned: HexBytes::default(),
            enrolment,
        };
        Ok(handshake::answer(challenge, binding, identity, "raw")?)
    }

    /// Connects and proves itself, by the token if it is to enrol.
    ///
    /// # Errors
    /// When the connection fails before the verdict.
    pub async fn prove(&self, tunnel: SocketAddr, enrol: bool) -> Result<(RawLink, Verdict)> {
        let mut link = RawLink::open(tunnel).await?;
        let challenge = link.challenge().await?;
        let auth = self.answer(&challenge, &link.binding, enrol.then(|| self.enrolment()))?;
        let verdict = link.present(&auth).await?;
        Ok((link, verdict))
    }

    /// The same, and it must be welcome.
    ///
    /// # Errors
    /// When it is not.
    pub async fn link(&self, tunnel: SocketAddr, enrol: bool) -> Result<RawLink> {
        match self.prove(tunnel, enrol).await? {
            (link, Verdict::Welcome) => Ok(link),
            (_, other) => bail!("not welcome: {other:?}"),
        }
    }

    /// Enrols, answers the first ping, and leaves when the hub has noted it: a whole join.
    ///
    /// # Errors
    /// When it is not let in.
    pub async fn join(&self, tunnel: SocketAddr) -> Result<()> {
        let mut link = self.link(tunnel, true).await?;
        link.answer_ping().await?;
        // A ping of our own comes back only after the hub has read the answer to its own.
        link.send_frame(FrameKind::Ping, 0, &[7; 8]).await?;
        while link.frame().await?.context("the hub closed")?.kind != FrameKind::Pong.number() {}
        Ok(())
    }
}

impl RawLink {
    /// TCP, TLS without a look at the key, and the upgrade.
    ///
    /// # Errors
    /// When one of them fails.
    pub async fn open(tunnel: SocketAddr) -> Result<Self> {
        let stream = tls(tunnel).await?;
        let binding = channel_binding(stream.get_ref().1)?;
        let url = format!("wss://keyhaven.invalid{TUNNEL_PATH}");
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await?;
        Ok(Self { socket, binding, waiting: Bytes::new() })
    }

    /// The hub's CHALLENGE.
    ///
    /// # Errors
    /// When something else comes.
    pub async fn challenge(&mut self) -> Result<Challenge> {
        let frame = self.frame().await?.context("the hub closed")?;
        Ok(from_json(&frame.payload)?)
    }

    /// Sends an AUTH and waits for what becomes of it.
    ///
    /// # Errors
    /// When something else comes.
    pub async fn present(&mut self, auth: &Auth) -> Result<Verdict> {
        self.send_frame(FrameKind::Auth, 0, &to_json(auth)).await?;
        self.verdict().await
    }

    /// What becomes of what was sent.
    ///
    /// # Errors
    /// When neither WELCOME nor REFUSE nor the end comes.
    pub async fn verdict(&mut self) -> Result<Verdict> {
        let Some(frame) = self.frame().await? else { return Ok(Verdict::Closed) };
        match FrameKind::from_number(frame.kind) {
            Some(FrameKind::Welcome) => Ok(Verdict::Welcome),
            Some(FrameKind::Refuse) => {
                let refuse: Refuse = from_json(&frame.payload)?;
                Ok(Verdict::Refused(refuse.code))
            }
            _ => bail!("an unexpected frame {:#04x}", frame.kind),
        }
    }

    /// The next frame but KEYS, which every hub says first; none when the hub has closed, however.
    ///
    /// # Errors
    /// When nothing comes, or no frames.
    pub async fn frame(&mut self) -> Result<Option<Frame>> {
        loop {
            match next_frame(&mut self.waiting)? {
                Some(frame) if frame.kind == FrameKind::Keys.number() => continue,
                Some(frame) => return Ok(Some(frame)),
                None => {}
            }
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.context("the hub says nothing")?;
            match message {
                Some(Ok(Message::Binary(batch))) => self.waiting = batch,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(None),
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            }
        }
    }

    /// The next frame that is not a ping; pings are answered.
    ///
    /// # Errors
    /// When nothing comes, or no frames.
    pub async fn frame_of_call(&mut self) -> Result<Option<Frame>> {
        loop {
            match self.frame().await? {
                Some(frame) if frame.kind == FrameKind::Ping.number() => {
                    self.send_frame(FrameKind::Pong, 0, &frame.payload).await?;
                }
                Some(frame) if frame.kind == FrameKind::Pong.number() => {}
                other => return Ok(other),
            }
        }
    }

    /// Waits for the hub's first ping and answers it: the heartbeat.
    ///
    /// # Errors
    /// When something else comes.
    pub async fn answer_ping(&mut self) -> Result<()> {
        let ping = self.frame().await?.context("the hub closed")?;
        if ping.kind != FrameKind::Ping.number() {
            bail!("no ping but {:#04x}", ping.kind);
        }
        self.send_frame(FrameKind::Pong, 0, &ping.payload).await
    }

    /// Waits until the hub has closed the connection, whatever else comes before.
    ///
    /// # Errors
    /// When it does not.
    pub async fn until_closed(&mut self) -> Result<()> {
        while self.frame().await?.is_some() {}
        Ok(())
    }

    /// Sends one frame in a message of its own.
    ///
    /// # Errors
    /// When the connection does not take it.
    pub async fn send_frame(&mut self, kind: FrameKind, stream: u32, payload: &[u8]) -> Result<()> {
        let mut out = BytesMut::new();
        put_frame(&mut out, kind, stream, payload);
        self.send(out.freeze()).await
    }

    /// Sends these bytes as one binary message.
    ///
    /// # Errors
    /// When the connection does not take it.
    pub async fn send(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.socket.send(Message::Binary(bytes)).await?)
    }
}

/// A frame of any kind, flags and claimed length, true or not.
#[must_use]
pub fn odd_frame(kind: u8, flags: u8, claimed_bytes: u32, stream: u32, payload: &[u8]) -> Bytes {
    let mut out = vec![kind, flags];
    out.extend_from_slice(&claimed_bytes.to_be_bytes()[1..]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out.into()
}

/// TLS with the tunnel listener, whoever it is.
///
/// # Errors
/// When the handshake fails.
pub async fn tls(tunnel: SocketAddr) -> Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    let stream = TcpStream::connect(tunnel).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("keyhaven.invalid")?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

/// Accepts every server: what the tests look at is what the hub does.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
