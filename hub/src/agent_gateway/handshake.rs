//! The proof: challenge, answer, and whether this agent may link now.
//!
//! Invariant: WELCOME is sent only after the signature held on this very connection and
//! the key belongs to the agent it names.

use std::time::Duration;

use bytes::BytesMut;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::link::LinkHandle;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Auth;
use keyhaven_protocol::frame::Challenge;
use keyhaven_protocol::frame::Egress;
use keyhaven_protocol::frame::Enrolment;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::Welcome;
use keyhaven_protocol::frame::from_json;
use keyhaven_protocol::frame::next_frame;
use keyhaven_protocol::frame::put_frame;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::handshake;
use keyhaven_protocol::handshake::ChannelBinding;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::TokenId;
use keyhaven_protocol::link::Side;
use keyhaven_protocol::version;
use tracing::info;
use tracing::warn;

use super::AgentGateway;
use super::accept::Tunnel;
use super::ledger::Standing;
use super::live_link::Entering;
use super::refusal;
use super::roster::Entered;
use super::shut_out;
use super::takes_calls;
use crate::settlement::Greeted;
use crate::store::agents::Agent;
use crate::store::agents::AgentState;
use crate::store::join_tokens::RedeemError;

/// How long a refused agent may take to go.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(1);

/// A link that has been welcomed and entered in the roster.
pub(super) struct Proved {
    pub(super) entered: Entered,
    pub(super) public_key: [u8; 32],
    /// The token to mark as used at the first heartbeat.
    pub(super) enrolled_with: Option<TokenId>,
    /// Where its ledger stands.
    pub(super) standing: Standing,
}

/// Why a link was refused; the agent was told, if it still listened.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(super) struct Refused {
    pub(super) code: ErrorCode,
    detail: String,
}

impl Refused {
    fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

pub(super) async fn prove(
    gateway: &AgentGateway,
    socket: &mut Tunnel,
    binding: &ChannelBinding,
) -> Result<Proved, Refused> {
    match admit(gateway, socket, binding).await {
        Ok(proved) => {
            let welcome = Welcome { link: proved.entered.link.number, next: proved.standing.next };
            send(socket, FrameKind::Welcome, &to_json(&welcome)).await?;
            Ok(proved)
        }
        Err(refused) => {
            // Whether the agent hears it or not, it is refused.
            let _ = send(socket, FrameKind::Refuse, &to_json(&refusal(refused.code))).await;
            let _ = tokio::time::timeout(GOODBYE_TIME_MAX, socket.close()).await;
            Err(refused)
        }
    }
}

async fn admit(gateway: &AgentGateway, socket: &mut Tunnel, binding: &ChannelBinding) -> Result<Proved, Refused> {
    let challenge = challenge(gateway)?;
    send(socket, FrameKind::Challenge, &to_json(&challenge)).await?;
    let frame = receive(socket).await?;
    if frame.kind != FrameKind::Auth.number() || frame.payload.len() > FrameKind::Auth.payload_bytes_max() {
        return Err(Refused::new(ErrorCode::LinkProtocol, "the first frame was no AUTH"));
    }
    let auth: Auth =
        from_json(&frame.payload).map_err(|_| Refused::new(ErrorCode::LinkProtocol, "AUTH cannot be read"))?;
    handshake::verify(&challenge, binding, &auth).map_err(|error| Refused::new(error.code(), error.to_string()))?;
    if auth.egress == Egress::Loopback && gateway.config.listens_beyond_loopback() {
        return Err(Refused::new(ErrorCode::EgressNotOfficial, "an agent with loopback upstreams"));
    }
    let (agent, enrolled_with) = match &auth.enrolment {
        Some(enrolment) => (enrol(gateway, &auth, enrolment).await?, Some(enrolment.token)),
        None => {
            let agent = known(gateway, &auth).await?;
            let token = heartbeat_lost(gateway, &agent).await?;
            (agent, token)
        }
    };
    let standing = greet(gateway, &auth, &agent).await?;
    let entered = enter(gateway, &auth, &agent).await?;
    // Who was shut out a moment ago may have been in no list of links at that moment.
    if let Some(code) = gateway.directory.agent(agent.id).and_then(|agent| shut_out(&agent)) {
        return Err(Refused::new(code, code.cause()));
    }
    let software = auth.software.chars().filter(|char| char.is_ascii_graphic()).take(32).collect::<String>();
    info!(agent.id = %agent.id, link.id = entered.link.number, "agent {} {software} linked", agent.name);
    Ok(Proved { entered, public_key: auth.public_key.0, enrolled_with, standing })
}

/// Where its ledger goes on. Asked before an older link is fenced: a copy with another history
/// must not take the place of the one that the books know.
async fn greet(gateway: &AgentGateway, auth: &Auth, agent: &Agent) -> Result<Standing, Refused> {
    let greeted = gateway.books.greet(agent.id, &auth.public_key.0, auth.ledger, &auth.cosigned.0).await;
    match greeted.map_err(|error| Refused::new(ErrorCode::StoreFailed, error.to_string()))? {
        Greeted::Welcome { next, reader, is_owed } => {
            let (public_key, statements) = (auth.public_key.0, auth.ledger.statements);
            Ok(Standing { reader, next, statements, is_owed, public_key })
        }
        Greeted::Behind => Err(Refused::new(ErrorCode::LedgerBehind, "its ledger is an older copy of itself")),
        Greeted::Fork => Err(Refused::new(ErrorCode::LedgerForked, "its ledger is another history")),
    }
}

fn challenge(gateway: &AgentGateway) -> Result<Challenge, Refused> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|_| Refused::new(ErrorCode::Internal, "the system gave no random bytes"))?;
    Ok(Challenge {
        versions: version::SUPPORTED.to_vec(),
        nonce: Hex(nonce),
        fleet: gateway.registry.keys.fleet(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

async fn enrol(gateway: &AgentGateway, auth: &Auth, enrolment: &Enrolment) -> Result<Agent, Refused> {
    let now = unix_ms_now();
    let redeemed = gateway.registry.store.redeem(enrolment.token, &enrolment.secret.0, &auth.public_key.0, now).await;
    let redeemed = redeemed.map_err(|error| {
        let code = match &error {
            RedeemError::Unknown => ErrorCode::TokenUnknown,
            RedeemError::Expired => ErrorCode::TokenExpired,
            RedeemError::Used => ErrorCode::TokenUsed,
            RedeemError::Revoked => ErrorCode::AgentRevoked,
            RedeemError::Store(_) => ErrorCode::StoreFailed,
        };
        Refused::new(code, error.to_string())
    })?;
    if redeemed.agent != auth.agent {
        return Err(Refused::new(ErrorCode::HandshakeRefused, "the token is of another agent"));
    }
    let agent = gateway
        .registry
        .store
        .agent(auth.agent)
        .await
        .map_err(|error| Refused::new(ErrorCode::StoreFailed, error.to_string()))?;
    agent.ok_or_else(|| Refused::new(ErrorCode::TokenUnknown, "the token is of no agent"))
}

async fn known(gateway: &AgentGateway, auth: &Auth) -> Result<Agent, Refused> {
    if let Ok(agent) = check(gateway, auth) {
        return Ok(agent);
    }
    // The agent may have joined, or been let in again, a moment ago.
    gateway.directory.refresh().await;
    check(gateway, auth)
}

/// The token of an agent that is still invited although its key is bound: it joined, and
/// this hub ended before it wrote the heartbeat down. This link's heartbeat makes up for it.
async fn heartbeat_lost(gateway: &AgentGateway, agent: &Agent) -> Result<Option<TokenId>, Refused> {
    if agent.state != AgentState::Invited {
        return Ok(None);
    }
    let tokens = gateway.registry.store.tokens_of(agent.id).await;
    let tokens = tokens.map_err(|error| Refused::new(ErrorCode::StoreFailed, error.to_string()))?;
    let bound =
        tokens.iter().find(|token| token.bound_public_key.is_some() && token.bound_public_key == agent.public_key);
    let bound = bound.ok_or_else(|| Refused::new(ErrorCode::HandshakeRefused, "the agent has not joined"))?;
    Ok(Some(bound.id))
}

fn check(gateway: &AgentGateway, auth: &Auth) -> Result<Agent, Refused> {
    let refused = |detail: &str| Err(Refused::new(ErrorCode::HandshakeRefused, detail));
    let Some(agent) = gateway.directory.agent(auth.agent) else {
        return refused("there is no such agent");
    };
    if agent.public_key != Some(auth.public_key.0) {
        return refused("the key is not the agent's");
    }
    match shut_out(&agent) {
        Some(code) => Err(Refused::new(code, code.cause())),
        None => Ok((*agent).clone()),
    }
}

/// Enters the link in the roster, which fences the agent's older one.
async fn enter(gateway: &AgentGateway, auth: &Auth, agent: &Agent) -> Result<Entered, Refused> {
    let handle = LinkHandle::new(Side::Hub, gateway.limits.clone());
    let entering = Entering {
        agent: agent.id,
        name: agent.name.clone(),
        egress: auth.egress,
        instance: auth.instance,
        handle,
        accepts: takes_calls(agent.state),
    };
    match gateway.roster.enter(entering, unix_ms_now()) {
        Ok(link) => Ok(gateway.roster.hold(link)),
        Err(fought) => {
            warn!(agent.id = %agent.id, "copies of agent {} fight over its link; it is suspended", agent.name);
            let suspended = gateway.registry.store.suspend_agent(agent.id, fought.until_unix_ms).await;
            suspended.map_err(|error| Refused::new(ErrorCode::StoreFailed, error.to_string()))?;
            Err(Refused::new(ErrorCode::AgentSuspended, "copies of the agent fight over its link"))
        }
    }
}

async fn send(socket: &mut Tunnel, kind: FrameKind, payload: &[u8]) -> Result<(), Refused> {
    let mut out = BytesMut::new();
    put_frame(&mut out, kind, 0, payload);
    let sent = socket.send(&out).await;
    sent.map_err(|error| Refused::new(ErrorCode::LinkProtocol, error.to_string()))
}

async fn receive(socket: &mut Tunnel) -> Result<Frame, Refused> {
    let refused = |detail: String| Refused::new(ErrorCode::LinkProtocol, detail);
    let mut batch = socket.receive().await.map_err(|error| refused(error.to_string()))?;
    let frame = next_frame(&mut batch).map_err(|error| refused(error.to_string()))?;
    frame.filter(|_| batch.is_empty()).ok_or_else(|| refused("not one frame".to_owned()))
}
