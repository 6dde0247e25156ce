//! The hub's signed answer to a batch of leaves.
//!
//! ```text
//! body:      [fleet 16, purpose u8, agent 16, epoch u32, number u64, hash of the statement before (32; zeros at 0),
//!             first leaf u64, at unix ms u64, signing key u32, [lines], [lines of earlier leaves]]
//! line:      [leaf hash 32, reason u8, settled | null]
//! earlier:   [leaf number u64, line]
//! settled:   [[meter u8, quantity u64, ...], [what was heard, the same], response bytes u64, list nano-USD u64] as the
//!            hub metered it, or null; then list cost u64, credit u64, charge: sealed bytes | null
//! statement: ["kh/statement/1", body as bytes, signature 64]
//! ```
//!
//! Every leaf of the chain has exactly one line, in order; one of a call that the hub still meters
//! says `open`, and gets exactly one more line when the call has ended. Statements of a chain are a
//! chain of their own, so that a hub cannot take one back; a rebuilt hub believes them before the
//! leaves.
//!
//! Invariant: a line never credits more than its own list cost, statements leave no leaf out, and
//! what was settled once is never settled again.

mod cosign;
mod line;

pub use cosign::COSIGNED_BYTES_MAX;
pub use cosign::Cosign;
pub use cosign::CosignError;
pub use cosign::Cosigned;
pub use line::EarlierLine;
pub use line::HubMetered;
pub use line::Line;
pub use line::Reason;
pub use line::Settled;

use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;

use crate::cbor::CborError;
use crate::cbor::Reader;
use crate::cbor::Writer;
use crate::chain::ChainId;
use crate::chain::GROUP_LEAVES_MAX;
use crate::hex::Hex;
use crate::id::AgentId;
use crate::id::FleetId;
use crate::key_list::KeyList;
use crate::leaf::Purpose;
use crate::signing::Domain;
use crate::signing::Hash;
use crate::signing::hash_of;

/// The longest statement, in bytes.
pub const STATEMENT_BYTES_MAX: usize = 64 * 1024;

/// The most lines of one, those of earlier leaves included: a group's leaves fit into it.
pub const LINES_MAX: usize = GROUP_LEAVES_MAX;

/// The most leaves of a chain that may be open at once.
pub const OPEN_LEAVES_MAX: usize = 65_536;

const FIELDS: usize = 11;

/// What a statement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Of which chain's leaves.
    pub chain: ChainId,
    /// Its number: 0, 1, 2 and so on.
    pub number: u64,
    /// The hash of the statement before; zeros at number 0.
    pub before: Hash,
    /// The number of the leaf that the first line is about.
    pub first_leaf: u64,
    /// When, by the hub's clock, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// The number of the key that signs, in the fleet's list.
    pub signing_key: u32,
    /// One for each leaf, in order; there may be none where earlier ones have.
    pub lines: Vec<Line>,
    /// Of leaves that an earlier statement called open, ascending by number.
    pub earlier: Vec<EarlierLine>,
}

/// Where a chain of statements stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// How many statements there are.
    pub statements: u64,
    /// The hash of the newest; zeros before the first.
    pub hash: Hash,
    /// How many leaves they are about.
    pub leaves: u64,
    /// The numbers of those that wait for their second line.
    pub open: BTreeSet<u64>,
}

/// Why a statement is not the hub's next word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Not the bytes of a statement.
    #[error("it is no statement: {0}")]
    Unreadable(#[from] CborError),
    /// About another chain.
    #[error("it is about another chain")]
    OtherChain,
    /// The list has no such key, or it was replaced before.
    #[error("it is signed with the key {0}, which may not sign")]
    Key(u32),
    /// Forged, or damaged.
    #[error("its signature does not hold")]
    Signature,
    /// Statements are missing, or one comes twice.
    #[error("statement {found} stands where {expected} belongs")]
    Gap {
        /// What belongs there.
        expected: u64,
        /// What stands there.
        found: u64,
    },
    /// It does not contain the hash of the statement before.
    #[error("it does not follow the statement before")]
    Broken,
    /// It leaves leaves out, or states some again.
    #[error("it begins with leaf {found}, and leaf {expected} comes next")]
    Leaves {
        /// What comes next.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// It is about another leaf than the agent wrote.
    #[error("it is about another leaf {0} than was written")]
    OtherLeaf(u64),
    /// It settles an earlier leaf that waits for nothing.
    #[error("it settles leaf {0}, which is not open")]
    NotOpen(u64),
    /// More leaves are open than may be.
    #[error("more than {OPEN_LEAVES_MAX} leaves are open")]
    TooManyOpen,
}

impl Statement {
    /// Signs it, with the key that [`Self::signing_key`] names.
    ///
    /// # Errors
    /// When it has no lines or too many, or says of a leaf what may not be said of it.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, CborError> {
        self.check()?;
        let body = self.body();
        Ok(Domain::Statement.record(&body, &Domain::Statement.sign(key, &body)))
    }

    /// Reads a statement. That the fleet signed it is [`Stated::take`]'s to say.
    ///
    /// # Errors
    /// When the bytes are not those of a statement.
    pub fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        let (body, _) = Domain::Statement.split(bytes, STATEMENT_BYTES_MAX)?;
        Self::read(body)
    }

    fn body(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.array(FIELDS).bytes(&self.chain.fleet.0).unsigned(self.chain.purpose.number());
        writer.bytes(&self.chain.agent.0).unsigned(self.chain.epoch).unsigned(self.number).bytes(&self.before.0);
        writer.unsigned(self.first_leaf).unsigned(self.at_unix_ms).unsigned(self.signing_key);
        writer.array(self.lines.len());
        self.lines.iter().for_each(|line| line.write(&mut writer));
        writer.array(self.earlier.len());
        self.earlier.iter().for_each(|line| line.write(&mut writer));
        writer.finish()
    }

    fn read(body: &[u8]) -> Result<Self, CborError> {
        let mut reader = Reader::new(body);
        reader.array_of(FIELDS, "body")?;
        let fleet = FleetId(reader.array_bytes("fleet")?);
        let purpose = Purpose::from_number(reader.unsigned("purpose")?).ok_or(CborError::Field("purpose"))?;
        let agent = AgentId(reader.array_bytes("agent")?);
        let chain = ChainId { fleet, purpose, agent, epoch: reader.unsigned("epoch")? };
        let (number, before) = (reader.unsigned("number")?, Hex(reader.array_bytes("before")?));
        let (first_leaf, at_unix_ms) = (reader.unsigned("first leaf")?, reader.unsigned("time")?);
        let signing_key = reader.unsigned("signing key")?;
        let count = reader.array(LINES_MAX, "lines")?;
        let lines = (0..count).map(|_| Line::read(&mut reader)).collect::<Result<_, _>>()?;
        let count = reader.array(LINES_MAX, "earlier lines")?;
        let earlier = (0..count).map(|_| EarlierLine::read(&mut reader)).collect::<Result<_, _>>()?;
        reader.end()?;
        let statement = Self { chain, number, before, first_leaf, at_unix_ms, signing_key, lines, earlier };
        statement.check()?;
        Ok(statement)
    }

    /// What holds for every statement, whatever came before it.
    fn check(&self) -> Result<(), CborError> {
        if !(1..=LINES_MAX).contains(&(self.lines.len() + self.earlier.len())) {
            return Err(CborError::Field("lines"));
        }
        if self.lines.iter().any(|line| line.reason == Reason::Open && line.settled.is_some()) {
            return Err(CborError::Field("settled"));
        }
        let ascends = self.earlier.is_sorted_by(|one, next| one.number < next.number);
        let is_before = self.earlier.last().is_none_or(|last| last.number < self.first_leaf);
        let is_closed = self.earlier.iter().all(|earlier| earlier.line.reason != Reason::Open);
        if ascends && is_before && is_closed { Ok(()) } else { Err(CborError::Field("earlier lines")) }
    }
}

impl Stated {
    /// No statement yet.
    pub const NOTHING: Self = Self { statements: 0, hash: Hex([0; 32]), leaves: 0, open: BTreeSet::new() };

    /// Takes the hub's next statement about this chain. `leaf` is the hash of the agent's own
    /// leaf of a number; where it has none, as after a loss, the statement is believed.
    ///
    /// # Errors
    /// When it is not the next one, forged, or about other leaves.
    pub fn take(
        &mut self,
        bytes: &[u8],
        chain: &ChainId,
        keys: &KeyList,
        oldest_key: u32,
        leaf: impl Fn(u64) -> Option<Hash>,
    ) -> Result<Statement, StatementError> {
        let (body, signature) = Domain::Statement.split(bytes, STATEMENT_BYTES_MAX)?;
        let statement = Statement::read(body)?;
        if statement.chain != *chain || chain.fleet != keys.fleet() {
            return Err(StatementError::OtherChain);
        }
        let number = statement.signing_key;
        let key = keys.key(number).filter(|_| number >= oldest_key).ok_or(StatementError::Key(number))?;
        Domain::Statement.verify(key, body, &signature).map_err(|_| StatementError::Signature)?;
        self.follow(&statement, hash_of(bytes), leaf)?;
        Ok(statement)
    }

    /// Takes a statement of which it is known that the fleet signed it, about this chain; the
    /// hash is that of its bytes.
    ///
    /// # Errors
    /// When it is not the next one, or about other leaves.
    pub fn follow(
        &mut self,
        statement: &Statement,
        hash: Hash,
        leaf: impl Fn(u64) -> Option<Hash>,
    ) -> Result<(), StatementError> {
        if statement.number != self.statements {
            return Err(StatementError::Gap { expected: self.statements, found: statement.number });
        }
        if statement.before != self.hash {
            return Err(StatementError::Broken);
        }
        if statement.first_leaf != self.leaves {
            return Err(StatementError::Leaves { expected: self.leaves, found: statement.first_leaf });
        }
        let (leaves, open) = self.lines(statement, leaf)?;
        *self = Self { statements: self.statements.saturating_add(1), hash, leaves, open };
        Ok(())
    }

    /// How many leaves are stated after these lines, and which of them are open.
    fn lines(
        &self,
        statement: &Statement,
        leaf: impl Fn(u64) -> Option<Hash>,
    ) -> Result<(u64, BTreeSet<u64>), StatementError> {
        let is_other = |number, line: &Line| leaf(number).is_some_and(|leaf| leaf != line.leaf);
        let mut open = self.open.clone();
        for EarlierLine { number, line } in &statement.earlier {
            if !open.remove(number) {
                return Err(StatementError::NotOpen(*number));
            }
            if is_other(*number, line) {
                return Err(StatementError::OtherLeaf(*number));
            }
        }
        let mut number = statement.first_leaf;
        for line in &statement.lines {
            if is_other(number, line) {
                return Err(StatementError::OtherLeaf(number));
            }
            if line.reason == Reason::Open {
                open.insert(number);
            }
            number = number.checked_add(1).ok_or(CborError::Field("first leaf"))?;
        }
        if open.len() > OPEN_LEAVES_MAX { Err(StatementError::TooManyOpen) } else { Ok((number, open)) }
    }
}

#[cfg(test)]
mod tests;
