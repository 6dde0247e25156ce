//! The join token: one text that carries everything an agent needs to trust a hub and to
//! be trusted by it once. `kh1_` and base64url of:
//!
//! ```text
//! format u8 = 1 | address: length u8, ASCII host:port | pins: count u8, 32 each | hub signing key 32
//! | fleet 16 | agent 16 | token id 16 | secret 32 | expires unix ms u64 | SHA-256 of all before, first 4
//! ```
//!
//! Invariant: a damaged token is told from a wrong one before anything is dialled.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::Digest;
use sha2::Sha256;

use crate::hex::Hex;
use crate::id::AgentId;
use crate::id::FleetId;
use crate::id::TokenId;
use crate::pin::Pin;

const PREFIX: &str = "kh1_";
const FORMAT: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
const TEXT_BYTES_MAX: usize = 4096;
const PINS_MAX: usize = 8;

/// What a join token says.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Where the tunnel listens: `host:port`.
    pub hub_address: String,
    /// Keys the hub may present: the live one and the offline backup.
    pub pins: Vec<Pin>,
    /// The hub's Ed25519 key that signs tickets and statements.
    pub hub_key: [u8; 32],
    /// The hub's fleet.
    pub fleet: FleetId,
    /// The id the agent will have.
    pub agent: AgentId,
    /// The token's own id.
    pub token: TokenId,
    /// Shown once, here; the hub keeps its hash.
    pub secret: [u8; 32],
    /// When the hub stops accepting it.
    pub expires_unix_ms: u64,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinToken({} for {} at {}, [secret])", self.token, self.agent, self.hub_address)
    }
}

/// Text that is not a whole join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It begins with something else.
    #[error("a join token begins with kh1_")]
    Prefix,
    /// A character is missing, added or changed.
    #[error("the token is cut or mistyped")]
    Damaged,
    /// A newer hub made it.
    #[error("the token is of a format this version does not know")]
    Format,
}

impl JoinToken {
    /// The text to hand to the owner.
    pub fn encode(&self) -> String {
        let mut out = vec![FORMAT];
        let address = self.hub_address.as_bytes();
        out.push(u8::try_from(address.len()).expect("an address is checked when it is configured"));
        out.extend_from_slice(address);
        out.push(u8::try_from(self.pins.len()).expect("a hub has a handful of pins"));
        for pin in &self.pins {
            out.extend_from_slice(&pin.0.0);
        }
        out.extend_from_slice(&self.hub_key);
        out.extend_from_slice(&self.fleet.0);
        out.extend_from_slice(&self.agent.0);
        out.extend_from_slice(&self.token.0);
        out.extend_from_slice(&self.secret);
        out.extend_from_slice(&self.expires_unix_ms.to_be_bytes());
        let checksum = Sha256::digest(&out);
        out.extend_from_slice(&checksum[..CHECKSUM_BYTES]);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(out))
    }

    /// Reads a token, white space around it allowed.
    ///
    /// # Errors
    /// When it is not whole.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if text.len() > TEXT_BYTES_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Damaged)?;
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TokenError::Damaged)?;
        if Sha256::digest(body)[..CHECKSUM_BYTES] != checksum[..] {
            return Err(TokenError::Damaged);
        }
        let mut rest = body;
        if take::<1>(&mut rest)? != [FORMAT] {
            return Err(TokenError::Format);
        }
        let hub_address = address(&mut rest)?;
        let [pin_count] = take::<1>(&mut rest)?;
        if pin_count == 0 || usize::from(pin_count) > PINS_MAX {
            return Err(TokenError::Damaged);
        }
        let pins = (0..pin_count).map(|_| take(&mut rest).map(|bytes| Pin(Hex(bytes)))).collect::<Result<_, _>>()?;
        let token = Self {
            hub_address,
            pins,
            hub_key: take(&mut rest)?,
            fleet: FleetId(take(&mut rest)?),
            agent: AgentId(take(&mut rest)?),
            token: TokenId(take(&mut rest)?),
            secret: take(&mut rest)?,
            expires_unix_ms: u64::from_be_bytes(take(&mut rest)?),
        };
        if rest.is_empty() { Ok(token) } else { Err(TokenError::Damaged) }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], TokenError> {
    let (taken, after) = rest.split_first_chunk::<N>().ok_or(TokenError::Damaged)?;
    *rest = after;
    Ok(*taken)
}

fn address(rest: &mut &[u8]) -> Result<String, TokenError> {
    let [length] = take::<1>(rest)?;
    let (text, after) = rest.split_at_checked(length.into()).ok_or(TokenError::Damaged)?;
    *rest = after;
    if !text.iter().all(u8::is_ascii_graphic) {
        return Err(TokenError::Damaged);
    }
    String::from_utf8(text.to_vec()).map_err(|_| TokenError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_as_it_was_written() {
        let token = token();

        assert_eq!(JoinToken::decode(&format!(" {}\n", token.encode())), Ok(token));
    }

    #[test]
    fn every_single_damage_is_seen() {
        let text = token().encode();

        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert!(JoinToken::decode(&damaged).is_err(), "changed at {at}");
            assert!(JoinToken::decode(&text[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_token_never_prints_its_secret() {
        assert!(!format!("{:?}", token()).contains("0909"));
    }

    #[test]
    fn any_text_is_refused_without_a_panic() {
        bolero::check!().with_iterations(2_000).for_each(|bytes: &[u8]| {
            let text = format!("kh1_{}", URL_SAFE_NO_PAD.encode(bytes));
            let _ = JoinToken::decode(&text);
            let _ = JoinToken::decode(&String::from_utf8_lossy(bytes));
        });
    }

    fn token() -> JoinToken {
        JoinToken {
            hub_address: "hub.example:9010".into(),
            pins: vec![Pin(Hex([1; 32])), Pin(Hex([2; 32]))],
            hub_key: [3; 32],
            fleet: FleetId([4; 16]),
            agent: AgentId([5; 16]),
            token: TokenId([6; 16]),
            secret: [9; 32],
            expires_unix_ms: 1_800_000_000_000,
        }
    }
}
