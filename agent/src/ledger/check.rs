//! Whether a log is the chain that it should be, entry by entry.
//!
//! Invariant: what it accepted leads, leaf by leaf and signed, from where it began; statements and
//! cosigned heads in it are about that very chain, each once and in order.

use std::collections::BTreeMap;

use ed25519_dalek::VerifyingKey;
use keyhaven_protocol::chain::ChainId;
use keyhaven_protocol::chain::Group;
use keyhaven_protocol::chain::Verifier;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Leaf;
use keyhaven_protocol::signing::Hash;
use keyhaven_protocol::signing::hash_of;
use keyhaven_protocol::statement::Cosigned;
use keyhaven_protocol::statement::Statement;

use super::entry::Kind;
use super::error::LedgerError;
use super::error::Place;
use super::scan::Entry;
use super::segment::Header;

/// What an entry says, verified.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The leaves of its group, with their hashes.
    pub(super) leaves: Vec<(Leaf, Hash)>,
    /// Its statements, with their bytes.
    pub(super) statements: Vec<(Statement, Vec<u8>)>,
    /// Its cosigned heads.
    pub(super) cosigned: Vec<Cosigned>,
}

/// Follows a log from one of its segments, or from a trusted head, on.
#[derive(Clone)]
pub(super) struct Check {
    chain: ChainId,
    verifier: Verifier,
    /// The hash after each group since the newest cosigned head.
    heads: BTreeMap<u64, Hash>,
    /// The hash of each leaf that is not stated yet.
    hashes: BTreeMap<u64, Hash>,
    /// How many statements there were and the hash of the newest, if that is known.
    statements: Option<(u64, Hash)>,
    /// The first leaf of the newest statement, until the entry after it.
    stated: Option<u64>,
    cosigned: u64,
}

impl Check {
    /// From a segment's beginning. Statements are followed from the epoch's beginning only.
    pub(super) fn segment(header: &Header) -> Self {
        let is_first = header.before == Head::EMPTY;
        let mut check = Self::trusted(header.chain, header.before, header.key);
        check.statements = is_first.then_some((0, Head::EMPTY.hash));
        check
    }

    /// From a head that is trusted.
    pub(super) fn trusted(chain: ChainId, head: Head, key: VerifyingKey) -> Self {
        let verifier = Verifier::resume(chain, head, key);
        let heads = BTreeMap::from([(head.size, head.hash)]);
        Self { chain, verifier, heads, hashes: BTreeMap::new(), statements: None, stated: None, cosigned: 0 }
    }

    /// Where the chain stands.
    pub(super) const fn head(&self) -> Head {
        self.verifier.head()
    }

    /// Which chain.
    pub(super) const fn chain(&self) -> ChainId {
        self.chain
    }

    /// The hashes of leaves that no statement is about yet, and some more.
    pub(super) const fn hashes(&self) -> &BTreeMap<u64, Hash> {
        &self.hashes
    }

    /// The key that signs what comes next.
    pub(super) const fn key(&self) -> &VerifyingKey {
        self.verifier.key()
    }

    /// Takes the next segment, of this epoch or of a later one.
    ///
    /// # Errors
    /// It does not go on where the one before ended.
    pub(super) fn next_segment(&mut self, header: &Header) -> Result<(), LedgerError> {
        let place = Place { segment: header.segment(), offset: 0 };
        let damaged = |why: &str| Err(LedgerError::Damaged { place, why: why.to_owned() });
        if (ChainId { epoch: self.chain.epoch, ..header.chain }) != self.chain {
            return damaged("it is a segment of another ledger");
        }
        if header.chain.epoch != self.chain.epoch {
            if header.before != Head::EMPTY {
                return damaged("the beginning of the epoch is missing");
            }
            *self = Self::segment(header);
        } else if header.before != self.head() || header.key != *self.verifier.key() {
            return damaged("it does not go on where the segment before ended");
        }
        Ok(())
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// It is not the next one of this chain.
    pub(super) fn entry(&mut self, entry: &Entry) -> Result<Said, LedgerError> {
        let damaged = |why: String| LedgerError::Damaged { place: entry.place, why };
        let mut said = Said::default();
        if let Some(stated) = self.stated.take() {
            self.hashes = self.hashes.split_off(&stated);
        }
        for (kind, bytes) in &entry.items {
            match kind {
                Kind::Group => said.leaves = self.group(bytes).map_err(damaged)?,
                Kind::Statement => said.statements.push((self.statement(bytes).map_err(damaged)?, bytes.clone())),
                Kind::Cosigned => said.cosigned.push(self.cosigned(bytes).map_err(damaged)?),
            }
        }
        Ok(said)
    }

    fn group(&mut self, bytes: &[u8]) -> Result<Vec<(Leaf, Hash)>, String> {
        let group = Group::decode(bytes).map_err(|error| format!("a group cannot be read: {error}"))?;
        let leaves = group.verify(&mut self.verifier).map_err(|error| error.to_string())?;
        let head = self.head();
        self.heads.insert(head.size, head.hash);
        // Each leaf contains the hash of the one before it, so that only the last is left to hash.
        let hashes = leaves.iter().skip(1).map(|leaf| leaf.before).chain([head.hash]).collect::<Vec<_>>();
        self.hashes.extend(leaves.iter().map(|leaf| leaf.number).zip(hashes.iter().copied()));
        Ok(leaves.into_iter().zip(hashes).collect())
    }

    fn statement(&mut self, bytes: &[u8]) -> Result<Statement, String> {
        let statement = Statement::decode(bytes).map_err(|error| format!("a statement cannot be read: {error}"))?;
        if statement.chain != self.chain {
            return Err("a statement is about another chain".to_owned());
        }
        if self.statements.is_some_and(|(number, before)| statement.number != number || statement.before != before) {
            return Err(format!("statement {} does not follow the one before", statement.number));
        }
        self.statements = Some((statement.number.saturating_add(1), hash_of(bytes)));
        // Whoever verifies the statement still needs the hashes that it is about.
        self.stated = Some(statement.first_leaf);
        Ok(statement)
    }

    fn cosigned(&mut self, bytes: &[u8]) -> Result<Cosigned, String> {
        let cosigned = Cosigned::decode(bytes).map_err(|error| format!("a cosigned head cannot be read: {error}"))?;
        let size = cosigned.head.size;
        if cosigned.chain != self.chain || size <= self.cosigned || size > self.head().size {
            return Err(format!("a cosigned head of {size} leaves does not belong here"));
        }
        // Where reading began after the head that was cosigned, there is nothing to compare with.
        let from = self.heads.first_key_value().map_or(u64::MAX, |(size, _)| *size);
        if size >= from && self.heads.get(&size) != Some(&cosigned.head.hash) {
            return Err(format!("the cosigned head of {size} leaves is not that of this log"));
        }
        self.cosigned = size;
        self.heads = self.heads.split_off(&size);
        Ok(cosigned)
    }
}
