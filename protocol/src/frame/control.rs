//! Control frames: JSON, unknown fields ignored, so that a newer peer may say more.
//!
//! Invariant: a field, once published, keeps its name and its meaning.

use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::ErrorCode;
use crate::hex::Hex;
use crate::hex::HexBytes;
use crate::id::AgentId;
use crate::id::FleetId;
use crate::id::TokenId;
use crate::id::VendorKeyId;
use crate::provider::Provider;

use super::wire::PayloadError;

/// CHALLENGE: what the agent must sign, and which versions the hub speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Protocol versions the hub speaks, newest first.
    pub versions: Vec<u16>,
    /// Fresh random bytes.
    pub nonce: Hex<32>,
    /// The hub's fleet.
    pub fleet: FleetId,
    /// The hub's software version, for logs.
    pub software: String,
}

/// AUTH: who the agent is, and the proof, bound to this TLS connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auth {
    /// The protocol version chosen from the challenge.
    pub version: u16,
    /// Who says so.
    pub agent: AgentId,
    /// The agent's Ed25519 verifying key.
    pub public_key: Hex<32>,
    /// Over [`crate::handshake::auth_transcript`].
    pub signature: Hex<64>,
    /// With a join token: its id and secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<Enrolment>,
    /// Which upstreams this build of the agent can reach.
    pub egress: Egress,
    /// Random for every start of the process: tells a second copy from the same agent that
    /// dials again.
    pub instance: Hex<16>,
    /// Where the agent's ledger stands.
    pub ledger: LedgerHead,
    /// The newest head of it that a hub cosigned: a [`crate::statement::Cosigned`], of this epoch or of one
    /// before; empty when there is none.
    #[serde(default, skip_serializing_if = "HexBytes::is_empty")]
    pub cosigned: HexBytes,
    /// The agent's software version, for logs.
    pub software: String,
}

/// The proof that a join token is held.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Which token.
    pub token: TokenId,
    /// Its secret.
    pub secret: Hex<32>,
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Enrolment({}, [secret])", self.token)
    }
}

/// Which upstreams an agent can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// The vendors' official hosts only.
    Official,
    /// Loopback stand-ins only: a demo or a test.
    Loopback,
}

/// Where a ledger's hash chain stands. All zero before the first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerHead {
    /// The chain's epoch.
    pub epoch: u32,
    /// Records in it.
    pub size: u64,
    /// The newest record's hash.
    pub head: Hex<32>,
    /// The hub's statements about it that are kept here.
    pub statements: u64,
}

impl LedgerHead {
    /// A chain without records.
    pub const EMPTY: Self = Self { epoch: 0, size: 0, head: Hex([0; 32]), statements: 0 };
}

/// WELCOME: the link is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The hub's number of this link; larger is newer.
    pub link: u64,
    /// The first leaf of the agent's ledger that the books do not have.
    pub next: u64,
}

/// REFUSE: why the link closes now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refuse {
    /// A code of the shared table, such as `KH-E1005`.
    pub code: String,
    /// For a person.
    pub message: String,
    /// Not before so many milliseconds should the other side try again; 0: as usual.
    #[serde(default)]
    pub retry_after_ms: u64,
}

impl Refuse {
    /// Reads the payload of REFUSE, whatever it is: a refusal that cannot be read is one
    /// too. What the other side wrote for people is cut, and stripped of what a terminal or
    /// a log would take for more than text.
    pub fn read(payload: &[u8]) -> Self {
        let refuse = from_json(payload).unwrap_or_else(|_| Self {
            code: ErrorCode::LinkProtocol.to_string(),
            message: "a REFUSE that cannot be read".to_owned(),
            retry_after_ms: 0,
        });
        let plain = |text: &str, most| text.chars().filter(|char| !char.is_control()).take(most).collect();
        Self { code: plain(&refuse.code, 16), message: plain(&refuse.message, 200), ..refuse }
    }
}

/// DRAIN: this link ends when its streams are over. The agent dials another; an agent's own
/// DRAIN says that it wants no new streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// After so many milliseconds the rest is aborted.
    pub deadline_ms: u64,
}

/// OFFER: a vendor key that calls may use. Replaces an earlier offer of the same key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Offer {
    /// The key's id; the key itself never leaves the agent.
    pub vendor_key: VendorKeyId,
    /// Whose API it opens.
    pub provider: Provider,
    /// Azure: the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Models the vendor lists for this key, as the vendor's own JSON objects, in its
    /// order. Azure: one `{"id": deployment}` per deployment the owner named.
    #[serde(default)]
    pub models: Vec<Box<RawValue>>,
}

/// WITHDRAW: an offer that no longer holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdraw {
    /// Which one.
    pub vendor_key: VendorKeyId,
}

/// Writes a control frame's payload.
pub fn to_json<T: Serialize>(control: &T) -> Bytes {
    serde_json::to_vec(control).expect("control frames have string keys and no failing fields").into()
}

/// Reads a control frame's payload.
///
/// # Errors
/// When it is not the JSON of such a frame.
pub fn from_json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, PayloadError> {
    serde_json::from_slice(payload).map_err(|_| PayloadError::Field("json"))
}
