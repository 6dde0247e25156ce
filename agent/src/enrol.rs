//! Joining a hub, and following one whose keys changed.
//!
//! Invariant: what is stored was proved by a heartbeat; a join that was cut off can be
//! repeated with the same token, and no other vault can use it in between.

use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::link;
use keyhaven_daemon::link::LinkEnd;
use keyhaven_daemon::link::LinkEvents;
use keyhaven_daemon::link::LinkHandle;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Drain;
use keyhaven_protocol::frame::Enrolment;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::join_token::JoinToken;
use keyhaven_protocol::link::Limits;
use keyhaven_protocol::link::LinkFault;
use keyhaven_protocol::link::Side;

use crate::link::Caller;
use crate::link::LinkError;
use crate::link::dial;
use crate::link::new_instance;
use crate::provider::Egress;
use crate::vault::Vault;
use crate::vault::identity::Identity;

const HEARTBEAT_TIME_MAX: Duration = Duration::from_secs(10);

/// Joins the hub of a token: makes the agent's key here, proves one heartbeat, and only
/// then stores who this agent is.
///
/// # Errors
/// A [`Failure`] inside: the token or this agent is refused, or the hub cannot be reached.
pub async fn join(vault: &mut Vault, token: &JoinToken, egress: &Egress) -> anyhow::Result<Identity> {
    let key = vault.joining_key(token.agent);
    let identity = identity_of(token, &key);
    let enrolment = Enrolment { token: token.token, secret: Hex(token.secret) };
    let proved = match prove_heartbeat(&identity, &key, egress, Some(enrolment)).await {
        Err(used) if used.code() == ErrorCode::TokenUsed => {
            // By this very vault, if its key is known there: it joined and was cut off before it
            // stored who it is. Otherwise somebody else used the token.
            prove_heartbeat(&identity, &key, egress, None).await.map_err(|_| used)
        }
        proved => proved,
    };
    proved.map_err(Failure::from)?;
    vault.set_identity(&identity, &key).map_err(Failure::from)?;
    Ok(identity)
}

/// Follows a hub whose address or keys changed: a token brings the new ones, the agent
/// and its key stay.
///
/// # Errors
/// A [`Failure`] inside: the token is another agent's, or the hub does not accept this one.
pub async fn repin(vault: &mut Vault, token: &JoinToken, egress: &Egress) -> anyhow::Result<Identity> {
    let known = vault.identity().ok_or_else(|| Failure::new(ErrorCode::NotJoined, ""))?;
    if (known.agent, known.fleet) != (token.agent, token.fleet) {
        let failure =
            Failure::new(ErrorCode::TokenUnknown, format!("the token is for {}, this is {}", token.agent, known.agent));
        return Err(failure
            .fix("ask the operator for `keyhaven-hub agent invite --again` with this agent's id")
            .into());
    }
    let key = vault.signing_key().map_err(Failure::from)?;
    let identity = identity_of(token, &key);
    prove_heartbeat(&identity, &key, egress, None).await.map_err(Failure::from)?;
    vault.set_identity(&identity, &key).map_err(Failure::from)?;
    Ok(identity)
}

fn identity_of(token: &JoinToken, key: &SigningKey) -> Identity {
    Identity {
        agent: token.agent,
        fleet: token.fleet,
        hub_address: token.hub_address.clone(),
        pins: token.pins.clone(),
        hub_key: token.hub_key,
        public_key: key.verifying_key().to_bytes(),
    }
}

/// Links, waits for the answer to one ping, and closes. By then the hub has heard this
/// side's answer to its own ping too, since that one went first.
async fn prove_heartbeat(
    identity: &Identity,
    key: &SigningKey,
    egress: &Egress,
    enrolment: Option<Enrolment>,
) -> Result<(), LinkError> {
    let dialled =
        dial(Caller { identity, key, egress: egress.declared(), instance: new_instance()? }, enrolment).await?;
    let handle = LinkHandle::new(Side::Agent, Limits::default());
    let events = OneBeat { handle: handle.clone(), beaten: false };
    let end = tokio::time::timeout(HEARTBEAT_TIME_MAX, link::run(dialled.socket, &handle, events)).await;
    match end {
        Ok(LinkEnd::Closed) => Ok(()),
        Ok(LinkEnd::Refused(refuse)) => Err(LinkError::refused(refuse)),
        Ok(end) => Err(LinkError::Unreachable(format!("no heartbeat: {end}"))),
        Err(_) => Err(LinkError::Unreachable("no heartbeat in time".to_owned())),
    }
}

struct OneBeat {
    handle: LinkHandle,
    beaten: bool,
}

impl LinkEvents for OneBeat {
    fn opened(&mut self, _stream: LinkStream, _open: Bytes) {
        // No offers were made, so no calls come; a stream that is dropped is refused.
    }

    fn control(&mut self, frame: &Frame) -> Result<(), LinkFault> {
        if frame.kind == FrameKind::Pong.number() && !self.beaten {
            self.beaten = true;
            self.handle.close();
        }
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}
