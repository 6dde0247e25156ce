//! What travels through agents and only the hub's archive key opens: who pays for a call, and
//! what was charged. A hub that lost its database restores its consumers' balances from it.
//!
//! ```text
//! archive key u32 | nonce 24 | XChaCha20-Poly1305 of
//!   payer:  account 16 | key 16 | zone ppm u32 | hold nano-USD i64
//!   charge: account 16 | charge nano-USD i64
//! bound to: tag, line feed | archive key u32 | fleet 16 | call 16 | attempt u8
//! ```
//!
//! Invariant: the same consumer is sealed differently every time, in the same length, and a
//! sealed text opens for its own call and attempt only.

use chacha20poly1305::KeyInit as _;
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::XNonce;
use chacha20poly1305::aead::Aead as _;
use chacha20poly1305::aead::Payload;
use zeroize::Zeroizing;

use crate::id::AccountId;
use crate::id::ApiKeyId;
use crate::id::CallId;
use crate::id::FleetId;
use crate::money::NanoUsd;
use crate::money::Ppm;

/// Bytes of a nonce, which must be fresh and random for every seal.
pub const NONCE_BYTES: usize = 24;

/// Bytes of any sealed text, at most.
pub const SEALED_BYTES_MAX: usize = 128;

const KEY_ID_BYTES: usize = 4;
const PAYER_TAG: &[u8] = b"kh/payer/1\n";
const CHARGE_TAG: &[u8] = b"kh/charge/1\n";

/// Which attempt a text is sealed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedFor {
    /// The fleet whose archive key it is.
    pub fleet: FleetId,
    /// The call.
    pub call: CallId,
    /// Its attempt.
    pub attempt: u8,
}

/// Who pays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payer {
    /// The account.
    pub account: AccountId,
    /// The key of it that asked.
    pub key: ApiKeyId,
    /// What the account pays of the list price.
    pub zone: Ppm,
    /// What is held of its balance.
    pub hold: NanoUsd,
}

/// What was charged to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// The account.
    pub account: AccountId,
    /// How much.
    pub amount: NanoUsd,
}

/// A sealed text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

/// A key that seals and opens; its bytes are wiped when it is dropped.
#[derive(Clone)]
pub struct ArchiveKey {
    id: u32,
    key: Zeroizing<[u8; 32]>,
}

/// A text that this key does not open: of another key, another call, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the archive key does not open it")]
pub struct NotOpened;

impl Sealed {
    /// Bytes that came as a sealed text. Whether they are one only the key can tell.
    ///
    /// # Errors
    /// When they are too long or too short.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotOpened> {
        let bounds = KEY_ID_BYTES + NONCE_BYTES..=SEALED_BYTES_MAX;
        if bounds.contains(&bytes.len()) { Ok(Self(bytes.to_vec())) } else { Err(NotOpened) }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The number of the key that opens it.
    pub fn archive_key(&self) -> u32 {
        self.0.first_chunk().map_or(0, |id| u32::from_be_bytes(*id))
    }
}

impl std::fmt::Debug for ArchiveKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ArchiveKey({}, [secret])", self.id)
    }
}

impl ArchiveKey {
    /// A key and its number, by which sealed texts name it.
    pub const fn new(id: u32, key: Zeroizing<[u8; 32]>) -> Self {
        Self { id, key }
    }

    /// Seals who pays.
    pub fn seal_payer(&self, payer: &Payer, at: SealedFor, nonce: [u8; NONCE_BYTES]) -> Sealed {
        let mut plain = Zeroizing::new(Vec::with_capacity(64));
        plain.extend_from_slice(&payer.account.0);
        plain.extend_from_slice(&payer.key.0);
        plain.extend_from_slice(&payer.zone.0.to_be_bytes());
        plain.extend_from_slice(&payer.hold.0.to_be_bytes());
        self.seal(&plain, PAYER_TAG, at, nonce)
    }

    /// Opens who pays.
    ///
    /// # Errors
    /// When it was sealed by another key or for another attempt.
    pub fn open_payer(&self, sealed: &Sealed, at: SealedFor) -> Result<Payer, NotOpened> {
        let plain = self.open(sealed, PAYER_TAG, at)?;
        let mut rest = plain.as_slice();
        let payer = Payer {
            account: AccountId(take(&mut rest)?),
            key: ApiKeyId(take(&mut rest)?),
            zone: Ppm(u32::from_be_bytes(take(&mut rest)?)),
            hold: NanoUsd(i64::from_be_bytes(take(&mut rest)?)),
        };
        if rest.is_empty() { Ok(payer) } else { Err(NotOpened) }
    }

    /// Seals what was charged.
    pub fn seal_charge(&self, charge: &Charge, at: SealedFor, nonce: [u8; NONCE_BYTES]) -> Sealed {
        let mut plain = Zeroizing::new(Vec::with_capacity(32));
        plain.extend_from_slice(&charge.account.0);
        plain.extend_from_slice(&charge.amount.0.to_be_bytes());
        self.seal(&plain, CHARGE_TAG, at, nonce)
    }

    /// Opens what was charged.
    ///
    /// # Errors
    /// When it was sealed by another key or for another attempt.
    pub fn open_charge(&self, sealed: &Sealed, at: SealedFor) -> Result<Charge, NotOpened> {
        let plain = self.open(sealed, CHARGE_TAG, at)?;
        let mut rest = plain.as_slice();
        let account = AccountId(take(&mut rest)?);
        let charge = Charge { account, amount: NanoUsd(i64::from_be_bytes(take(&mut rest)?)) };
        if rest.is_empty() { Ok(charge) } else { Err(NotOpened) }
    }

    fn seal(&self, plain: &[u8], tag: &[u8], at: SealedFor, nonce: [u8; NONCE_BYTES]) -> Sealed {
        let bound_to = self.bound_to(tag, at);
        let payload = Payload { msg: plain, aad: &bound_to };
        let cipher = XChaCha20Poly1305::new(&(*self.key).into());
        let text = cipher.encrypt(&XNonce::from(nonce), payload).expect("far shorter than the cipher's limit");
        let mut sealed = Vec::with_capacity(KEY_ID_BYTES + NONCE_BYTES + text.len());
        sealed.extend_from_slice(&self.id.to_be_bytes());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&text);
        Sealed(sealed)
    }

    fn open(&self, sealed: &Sealed, tag: &[u8], at: SealedFor) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        let mut rest = sealed.0.as_slice();
        let (id, nonce) = (u32::from_be_bytes(take(&mut rest)?), take::<NONCE_BYTES>(&mut rest)?);
        if id != self.id {
            return Err(NotOpened);
        }
        let bound_to = self.bound_to(tag, at);
        let payload = Payload { msg: rest, aad: &bound_to };
        let cipher = XChaCha20Poly1305::new(&(*self.key).into());
        cipher.decrypt(&XNonce::from(nonce), payload).map(Zeroizing::new).map_err(|_| NotOpened)
    }

    fn bound_to(&self, tag: &[u8], at: SealedFor) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(tag);
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&at.fleet.0);
        out.extend_from_slice(&at.call.0);
        out.push(at.attempt);
        out
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], NotOpened> {
    let (taken, after) = rest.split_first_chunk::<N>().ok_or(NotOpened)?;
    *rest = after;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: SealedFor = SealedFor { fleet: FleetId([1; 16]), call: CallId([2; 16]), attempt: 1 };

    #[test]
    fn who_pays_opens_for_its_own_attempt_and_key_only() {
        let sealed = key(1).seal_payer(&payer(), AT, [9; 24]);

        assert_eq!(key(1).open_payer(&sealed, AT), Ok(payer()));
        for other in [
            SealedFor { fleet: FleetId([7; 16]), ..AT },
            SealedFor { call: CallId([7; 16]), ..AT },
            SealedFor { attempt: 2, ..AT },
        ] {
            assert_eq!(key(1).open_payer(&sealed, other), Err(NotOpened));
        }
        assert_eq!(key(2).open_payer(&sealed, AT), Err(NotOpened));
        let same_number = ArchiveKey::new(1, Zeroizing::new([8; 32]));
        assert_eq!(same_number.open_payer(&sealed, AT), Err(NotOpened));
    }

    #[test]
    fn a_charge_is_no_payer_and_a_payer_no_charge() {
        let charge = Charge { account: AccountId([3; 16]), amount: NanoUsd(1_152) };
        let sealed = key(1).seal_charge(&charge, AT, [9; 24]);

        assert_eq!(key(1).open_charge(&sealed, AT), Ok(charge));
        assert_eq!(key(1).open_payer(&sealed, AT), Err(NotOpened));
        assert_eq!(key(1).open_charge(&key(1).seal_payer(&payer(), AT, [9; 24]), AT), Err(NotOpened));
    }

    #[test]
    fn no_bit_of_a_sealed_text_can_be_changed_and_none_be_cut() {
        let sealed = key(1).seal_payer(&payer(), AT, [9; 24]);

        for bit in 0..sealed.0.len() * 8 {
            let mut changed = sealed.clone();
            changed.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key(1).open_payer(&changed, AT), Err(NotOpened), "bit {bit}");
        }
        for length in 0..sealed.0.len() {
            assert_eq!(key(1).open_payer(&Sealed(sealed.0[..length].to_vec()), AT), Err(NotOpened));
        }
    }

    #[test]
    fn an_owner_sees_neither_who_pays_nor_that_it_is_the_same_one_nor_how_much_is_held() {
        let rich = Payer { hold: NanoUsd(i64::MAX), ..payer() };
        let (one, other) = (key(1).seal_payer(&payer(), AT, [8; 24]), key(1).seal_payer(&rich, AT, [9; 24]));

        assert_eq!(one.bytes().len(), other.bytes().len());
        assert_eq!(one.archive_key(), 1);
        assert!(!one.bytes().windows(4).any(|window| window == [3; 4] || window == [4; 4]));
        let again = key(1).seal_payer(&payer(), AT, [9; 24]);
        assert_ne!(one.bytes()[28..], again.bytes()[28..], "another nonce");
        assert!(!format!("{:?}", key(1)).contains("5, 5"));
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic() {
        bolero::check!().with_iterations(2_000).for_each(|bytes: &[u8]| {
            if let Ok(sealed) = Sealed::from_bytes(bytes) {
                assert!(key(sealed.archive_key()).open_payer(&sealed, AT).is_err());
                assert!(key(sealed.archive_key()).open_charge(&sealed, AT).is_err());
            }
        });
    }

    fn key(id: u32) -> ArchiveKey {
        ArchiveKey::new(id, Zeroizing::new([5; 32]))
    }

    fn payer() -> Payer {
        Payer { account: AccountId([3; 16]), key: ApiKeyId([4; 16]), zone: Ppm(1_150_000), hold: NanoUsd(7) }
    }
}
