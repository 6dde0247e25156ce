//! The proof that opens a link: what the agent signs, and how the hub checks it.
//!
//! ```text
//! "keyhaven/agent-auth/v1\0" | TLS exporter 32 | hub nonce 32 | fleet 16 | agent 16 | version u16
//! | egress u8 | instance 16 | ledger epoch u32, size u64, head 32, statements u64
//! | cosigned head: length u32 and bytes | token id 16 and secret 32, or nothing
//! ```
//!
//! Invariant: a signature recorded or relayed from one TLS connection is worthless on another.

use ed25519_dalek::Signature;
use ed25519_dalek::Signer;
use ed25519_dalek::SigningKey;
use ed25519_dalek::VerifyingKey;

use crate::ErrorCode;
use crate::frame::Auth;
use crate::frame::Challenge;
use crate::frame::Egress;
use crate::frame::Enrolment;
use crate::frame::LedgerHead;
use crate::hex::Hex;
use crate::hex::HexBytes;
use crate::id::AgentId;
use crate::id::FleetId;
use crate::version;

/// Label of the TLS exporter (RFC 9266, `tls-exporter` channel binding).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// Keying material exported from the TLS connection on both sides.
pub type ChannelBinding = [u8; 32];

/// The path of the WebSocket on the tunnel listener.
pub const TUNNEL_PATH: &str = "/keyhaven/tunnel";

const DOMAIN: &[u8] = b"keyhaven/agent-auth/v1\0";

/// Why a challenge or an answer to it is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// No common version.
    #[error("no common protocol version")]
    Version,
    /// The challenge is of another fleet than the agent was enrolled in.
    #[error("the hub is of another fleet")]
    Fleet,
    /// The signature does not hold for this connection, nonce, agent and key.
    #[error("the signature does not hold")]
    Signature,
}

impl HandshakeError {
    /// The code that the other side and the log see.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Version => ErrorCode::VersionUnsupported,
            Self::Fleet | Self::Signature => ErrorCode::HandshakeRefused,
        }
    }
}

/// What the agent knows of itself when it answers a challenge.
#[derive(Debug)]
pub struct Identity<'a> {
    /// The agent's id.
    pub agent: AgentId,
    /// The fleet it belongs to.
    pub fleet: FleetId,
    /// Its key.
    pub key: &'a SigningKey,
    /// What it can reach.
    pub egress: Egress,
    /// This start of its process.
    pub instance: Hex<16>,
    /// Where its ledger stands.
    pub ledger: LedgerHead,
    /// The newest head of it that a hub cosigned, or nothing.
    pub cosigned: HexBytes,
    /// The join token's proof, while enrolling.
    pub enrolment: Option<Enrolment>,
}

/// The agent's answer to a challenge.
///
/// # Errors
/// `Version` or `Fleet` when this hub cannot be talked to.
pub fn answer(
    challenge: &Challenge,
    binding: &ChannelBinding,
    identity: Identity<'_>,
    software: &str,
) -> Result<Auth, HandshakeError> {
    let version = version::negotiate(&challenge.versions).ok_or(HandshakeError::Version)?;
    if challenge.fleet != identity.fleet {
        return Err(HandshakeError::Fleet);
    }
    let mut auth = Auth {
        version,
        agent: identity.agent,
        public_key: Hex(identity.key.verifying_key().to_bytes()),
        signature: Hex([0; 64]),
        enrolment: identity.enrolment,
        egress: identity.egress,
        instance: identity.instance,
        ledger: identity.ledger,
        cosigned: identity.cosigned,
        software: software.to_owned(),
    };
    let transcript = auth_transcript(challenge, binding, &auth);
    auth.signature = Hex(identity.key.sign(&transcript).to_bytes());
    Ok(auth)
}

/// The hub's check of an answer. That the key belongs to the agent is the caller's to check.
///
/// # Errors
/// `Version` for a version the hub did not offer, `Signature` when the proof does not hold.
pub fn verify(challenge: &Challenge, binding: &ChannelBinding, auth: &Auth) -> Result<(), HandshakeError> {
    if !challenge.versions.contains(&auth.version) {
        return Err(HandshakeError::Version);
    }
    let key = VerifyingKey::from_bytes(&auth.public_key.0).map_err(|_| HandshakeError::Signature)?;
    let transcript = auth_transcript(challenge, binding, auth);
    key.verify_strict(&transcript, &Signature::from_bytes(&auth.signature.0)).map_err(|_| HandshakeError::Signature)
}

/// The bytes that AUTH signs.
pub fn auth_transcript(challenge: &Challenge, binding: &ChannelBinding, auth: &Auth) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(DOMAIN);
    out.extend_from_slice(binding);
    out.extend_from_slice(&challenge.nonce.0);
    out.extend_from_slice(&challenge.fleet.0);
    out.extend_from_slice(&auth.agent.0);
    out.extend_from_slice(&auth.version.to_be_bytes());
    out.push(match auth.egress {
        Egress::Official => 0,
        Egress::Loopback => 1,
    });
    out.extend_from_slice(&auth.instance.0);
    out.extend_from_slice(&auth.ledger.epoch.to_be_bytes());
    out.extend_from_slice(&auth.ledger.size.to_be_bytes());
    out.extend_from_slice(&auth.ledger.head.0);
    out.extend_from_slice(&auth.ledger.statements.to_be_bytes());
    out.extend_from_slice(&u32::try_from(auth.cosigned.0.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&auth.cosigned.0);
    if let Some(enrolment) = &auth.enrolment {
        out.extend_from_slice(&enrolment.token.0);
        out.extend_from_slice(&enrolment.secret.0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TokenId;

    const BINDING: ChannelBinding = [7; 32];

    #[test]
    fn an_answer_holds_on_its_own_connection_only() {
        let auth = answer(&challenge(), &BINDING, identity(&key(), None), "test").unwrap();

        assert_eq!(verify(&challenge(), &BINDING, &auth), Ok(()));
        assert_eq!(verify(&challenge(), &[8; 32], &auth), Err(HandshakeError::Signature), "relayed");
        let replay = Challenge { nonce: Hex([4; 32]), ..challenge() };
        assert_eq!(verify(&replay, &BINDING, &auth), Err(HandshakeError::Signature), "replayed");
    }

    #[test]
    fn no_field_of_an_answer_can_be_changed() {
        let enrolment = Enrolment { token: TokenId([5; 16]), secret: Hex([6; 32]) };
        let auth = answer(&challenge(), &BINDING, identity(&key(), Some(enrolment)), "test").unwrap();
        let other_key = SigningKey::from_bytes(&[9; 32]).verifying_key().to_bytes();

        let changed = [
            Auth { agent: AgentId([0; 16]), ..auth.clone() },
            Auth { public_key: Hex(other_key), ..auth.clone() },
            Auth { enrolment: None, ..auth.clone() },
            Auth { egress: Egress::Loopback, ..auth.clone() },
            Auth { instance: Hex([1; 16]), ..auth.clone() },
            Auth { ledger: LedgerHead { size: 1, ..LedgerHead::EMPTY }, ..auth.clone() },
            Auth { ledger: LedgerHead { statements: 1, ..LedgerHead::EMPTY }, ..auth.clone() },
            Auth { cosigned: HexBytes(vec![1]), ..auth.clone() },
        ];

        assert_eq!(verify(&challenge(), &BINDING, &auth), Ok(()));
        for auth in changed {
            assert_eq!(verify(&challenge(), &BINDING, &auth), Err(HandshakeError::Signature));
        }
    }

    #[test]
    fn a_version_that_was_not_offered_is_refused_on_both_sides() {
        let old = Challenge { versions: vec![0], ..challenge() };
        assert_eq!(answer(&old, &BINDING, identity(&key(), None), "test"), Err(HandshakeError::Version));

        let auth = answer(&challenge(), &BINDING, identity(&key(), None), "test").unwrap();
        let forced = Auth { version: 2, ..auth };
        assert_eq!(verify(&challenge(), &BINDING, &forced), Err(HandshakeError::Version));
    }

    #[test]
    fn an_agent_does_not_answer_a_hub_of_another_fleet() {
        let foreign = Challenge { fleet: FleetId([1; 16]), ..challenge() };

        assert_eq!(answer(&foreign, &BINDING, identity(&key(), None), "test"), Err(HandshakeError::Fleet));
    }

    #[test]
    fn any_bytes_for_the_handshake_frames_are_refused_without_a_panic() {
        bolero::check!().with_iterations(2_000).for_each(|bytes: &[u8]| {
            let _ = crate::frame::from_json::<Challenge>(bytes);
            if let Ok(auth) = crate::frame::from_json::<Auth>(bytes) {
                assert!(verify(&challenge(), &BINDING, &auth).is_err());
            }
        });
    }

    fn challenge() -> Challenge {
        Challenge { versions: vec![1], nonce: Hex([3; 32]), fleet: FleetId([2; 16]), software: "test".into() }
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[1; 32])
    }

    fn identity(key: &SigningKey, enrolment: Option<Enrolment>) -> Identity<'_> {
        Identity {
            agent: AgentId([4; 16]),
            fleet: FleetId([2; 16]),
            key,
            egress: Egress::Official,
            instance: Hex([0; 16]),
            ledger: LedgerHead::EMPTY,
            cosigned: HexBytes::default(),
            enrolment,
        }
    }
}
