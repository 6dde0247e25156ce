//! Tickets and leaves with stubs for hashes and signatures: 64 bits that are mixed, with a secret
//! for signatures.
//!
//! Invariant: who does not have the secret makes no signature that holds, and a leaf that was
//! changed has another hash; [`crate::real`] does the same with the formats and the keys of
//! `docs/LEDGER.md`.

use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::leaf::Adjust;
use keyhaven_protocol::leaf::AdjustReason;
use keyhaven_protocol::leaf::Close;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Metered;
use keyhaven_protocol::metering::Outcome;
use keyhaven_protocol::metering::Rule;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::settle::Shares;
use keyhaven_protocol::settle::Terms;
use keyhaven_protocol::signing::Hash;
use keyhaven_protocol::usage::Doubts;
use keyhaven_protocol::usage::Meters;

use crate::random::mix;

/// What stands for the hub's signing key.
const FLEET: u64 = 0x5eed_0f1e_e7c0_ffee;

/// The hub's order for one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) call: u32,
    pub(crate) attempt: u8,
    pub(crate) agent: u8,
    pub(crate) consumer: u8,
    /// The start of the hub's process that signs.
    pub(crate) boot: u16,
    pub(crate) zone: u32,
    pub(crate) tier: u32,
    pub(crate) ceiling: i64,
    pub(crate) signature: u64,
}

/// What a leaf says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// The chain begins.
    Epoch,
    Open(Ticket),
    Close {
        call: u32,
        attempt: u8,
        /// Its hash.
        ticket: u64,
        /// None: the agent's process died.
        figure: Option<Figure>,
    },
    Adjust {
        call: u32,
        attempt: u8,
        /// The hash of the leaf that stands.
        corrects: u64,
        list: i64,
    },
}

/// What an agent metered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) list: i64,
    pub(crate) bytes: u32,
}

/// A leaf in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) said: Said,
    /// When it was written: two leaves that say the same are two.
    pub(crate) at: u64,
    pub(crate) before: u64,
    pub(crate) hash: u64,
}

impl Ticket {
    pub(crate) fn signed(self) -> Self {
        Self { signature: self.mixed(FLEET), ..self }
    }

    /// Made by somebody who does not have the key.
    pub(crate) fn forged(self, guess: u64) -> Self {
        Self { signature: self.mixed(guess | 1 << 63 | 1), ..self }
    }

    pub(crate) fn is_signed(&self) -> bool {
        self.signature == self.mixed(FLEET)
    }

    pub(crate) const fn hash(&self) -> u64 {
        mix(self.signature ^ 0x7c)
    }

    pub(crate) const fn terms(&self) -> Terms {
        let shares = Shares { zone: Ppm(self.zone), tier: Ppm(self.tier) };
        Terms { shares, ceiling: NanoUsd(self.ceiling) }
    }

    fn mixed(&self, secret: u64) -> u64 {
        let ids = u64::from(self.call) << 32
            | u64::from(self.attempt) << 24
            | u64::from(self.agent) << 16
            | u64::from(self.consumer) << 8;
        let shares = u64::from(self.zone) << 32 | u64::from(self.tier);
        mix(mix(mix(secret ^ ids) ^ shares) ^ self.ceiling.unsigned_abs() ^ u64::from(self.boot) << 48)
    }
}

impl Leaf {
    pub(crate) fn after(before: u64, at: u64, said: Said) -> Self {
        Self { said, at, before, hash: hash(before, at, &said) }
    }

    /// Whether it has the hash that its contents give.
    pub(crate) fn is_whole(&self) -> bool {
        self.hash == hash(self.before, self.at, &self.said)
    }
}

fn hash(before: u64, at: u64, said: &Said) -> u64 {
    let says = match said {
        Said::Epoch => 1,
        Said::Open(ticket) => ticket.signature ^ 2,
        Said::Close { call, attempt, ticket, figure } => {
            let list = figure.map_or(3, |figure| mix(figure.list.unsigned_abs() << 20 ^ u64::from(figure.bytes)));
            mix(u64::from(*call) << 8 | u64::from(*attempt)) ^ ticket ^ list
        }
        Said::Adjust { call, attempt, corrects, list } => {
            mix(u64::from(*call) << 8 | u64::from(*attempt)) ^ corrects ^ mix(list.unsigned_abs())
        }
    };
    mix(mix(before ^ mix(says)) ^ at)
}

/// A CLOSE as the shipped types have it.
pub(crate) fn close(call: u32, attempt: u8, ticket: Hash, figure: Option<Figure>) -> Close {
    Close {
        call: call_id(call),
        attempt,
        ticket,
        status: figure.map(|_| 200),
        vendor_ended: figure.is_some(),
        metered: figure.map(metered),
        request_bytes: 1,
        vendor_bytes: 1,
        request_digest: None,
        response_digest: None,
        vendor_request: None,
        lasted_ms: 1,
    }
}

/// An ADJUST as the shipped types have it.
pub(crate) fn adjust(call: u32, attempt: u8, corrects: Hash, list: i64) -> Adjust {
    Adjust { call: call_id(call), attempt, corrects, list: NanoUsd(list), reason: AdjustReason::OwnError }
}

fn metered(figure: Figure) -> Metered {
    Metered {
        outcome: Outcome::Complete,
        rule: Rule::Stated,
        doubts: Doubts::default(),
        tier: ServiceTier::Standard,
        model: None,
        meters: Meters::default(),
        heard_model: None,
        heard: Meters::default(),
        list: NanoUsd(figure.list),
        response_bytes: figure.bytes.into(),
        elapsed_ms: 0,
    }
}

/// An agent's signature of a head of its chain.
pub(crate) const fn group_signature(agent: usize, epoch: u32, size: u64, hash: u64) -> u64 {
    mix(mix(agent as u64 ^ 0xa9e7) ^ mix(hash ^ (epoch as u64) << 40 ^ size))
}

/// A stub as the shipped types want a hash.
pub(crate) fn wide(hash: u64) -> Hash {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&hash.to_be_bytes());
    Hex(bytes)
}

/// The stub of a wide hash.
pub(crate) fn narrow(hash: &Hash) -> u64 {
    u64::from_be_bytes(*hash.0.first_chunk().expect("32 bytes are more than 8"))
}

/// The head of a chain of so many leaves.
pub(crate) fn head(size: u64, newest: u64) -> Head {
    if size == 0 { Head::EMPTY } else { Head { size, hash: wide(newest) } }
}

/// Ids of calls sort by time.
pub(crate) fn call_id(call: u32) -> CallId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&call.to_be_bytes());
    CallId(bytes)
}

/// A number of a leaf as an index.
pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).expect("a simulated ledger is short")
}
