//! What is said to an agent that says where its ledger stands.
//!
//! Invariant: an agent whose history is not that of the books gets no link; one that can prove that
//! the books went back in time is believed, and that is written down.

use ed25519_dalek::VerifyingKey;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_protocol::frame::LedgerHead;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Purpose;
use keyhaven_protocol::ledger_sync::Greeting;
use keyhaven_protocol::ledger_sync::greet;
use keyhaven_protocol::statement::Cosigned;

use super::super::Books;
use super::super::Shared;
use super::ChainReader;
use crate::store::StoreError;
use crate::store::amnesia::Amnesia;
use crate::store::amnesia::AmnesiaCause;

/// What became of it.
#[derive(Debug)]
pub enum Greeted {
    /// It goes on from here.
    Welcome {
        /// The first leaf that the books do not have.
        next: u64,
        /// Reads what comes.
        reader: Box<ChainReader>,
        /// Something is to be said of its leaves that the agent has not heard, or soon will be.
        is_owed: bool,
    },
    /// It is an older copy of itself.
    Behind,
    /// It has another history.
    Fork,
}

impl Books {
    /// What to say to an agent with this key, whose ledger stands there, and that holds this
    /// cosigned head.
    ///
    /// # Errors
    /// The database's; [`StoreError::Damaged`] too where the agent's key is none.
    pub async fn greet(
        &self,
        agent: AgentId,
        key: &[u8; 32],
        ledger: LedgerHead,
        cosigned: &[u8],
    ) -> Result<Greeted, StoreError> {
        let shared = &self.shared;
        if let Some(cosigned) = shared.own_head(agent, cosigned) {
            shared.check_rollback(agent, &cosigned).await?;
        }
        let newest = shared.store.newest_chain(agent).await?;
        let newest_epoch = newest.as_ref().map_or(0, |row| row.epoch);
        if ledger.epoch < newest_epoch {
            return Ok(Greeted::Behind);
        }
        let row = newest.filter(|row| row.epoch == ledger.epoch);
        let (head, key) = row.as_ref().map_or((Head::EMPTY, key), |row| (row.head, &row.agent_key));
        let stands = Head { size: ledger.size, hash: ledger.head };
        let known = match stands.size.checked_sub(1).filter(|_| stands.size <= head.size) {
            Some(last) => shared.store.leaf_hash(agent, ledger.epoch, last).await?,
            None => Some(Head::EMPTY.hash),
        };
        match greet(stands, head.size, |_| known) {
            Greeting::Welcome { next } => {
                let key = VerifyingKey::from_bytes(key).map_err(|_| StoreError::Damaged { column: "agent_key" })?;
                let chain = shared.keys.chain(agent, ledger.epoch);
                let reader = Box::new(ChainReader::new(chain, head, key, shared.keys.list.clone()));
                let is_owed = row.is_some_and(|row| row.statements > ledger.statements || row.open_leaves > 0);
                Ok(Greeted::Welcome { next, reader, is_owed })
            }
            Greeting::Behind { .. } => Ok(Greeted::Behind),
            Greeting::Fork { .. } => Ok(Greeted::Fork),
        }
    }

    /// A reader of a chain as the books have it now.
    ///
    /// # Errors
    /// The database's.
    pub async fn reader(&self, agent: AgentId, epoch: u32, key: &[u8; 32]) -> Result<ChainReader, StoreError> {
        let row = self.shared.store.chain(agent, epoch).await?;
        let (head, key) = row.as_ref().map_or((Head::EMPTY, key), |row| (row.head, &row.agent_key));
        let key = VerifyingKey::from_bytes(key).map_err(|_| StoreError::Damaged { column: "agent_key" })?;
        let keys = &self.shared.keys;
        Ok(ChainReader::new(keys.chain(agent, epoch), head, key, keys.list.clone()))
    }

    /// Whether the books have a leaf with this hash at this place.
    ///
    /// # Errors
    /// The database's.
    pub async fn has_leaf(&self, chain: (AgentId, u32), head: Head) -> Result<bool, StoreError> {
        let Some(last) = head.size.checked_sub(1) else { return Ok(true) };
        Ok(self.shared.store.leaf_hash(chain.0, chain.1, last).await? == Some(head.hash))
    }
}

impl Shared {
    /// The head, if this fleet cosigned it for this agent.
    fn own_head(&self, agent: AgentId, cosigned: &[u8]) -> Option<Cosigned> {
        let cosigned = Cosigned::decode(cosigned).ok()?;
        let chain = cosigned.chain;
        let is_own = chain.agent == agent && chain.fleet == self.keys.fleet() && chain.purpose == Purpose::Calls;
        let key = self.keys.list.key(cosigned.signing_key).filter(|_| is_own)?;
        cosigned.verify(key).ok()?;
        Some(cosigned)
    }

    /// A head is in the books before its signature leaves: where it is not, they went back in time.
    async fn check_rollback(&self, agent: AgentId, cosigned: &Cosigned) -> Result<(), StoreError> {
        let row = self.store.chain(agent, cosigned.chain.epoch).await?;
        if row.as_ref().is_some_and(|row| row.head.size >= cosigned.head.size) {
            return Ok(());
        }
        // What was committed after this is gone; what was committed since this boot began is not.
        let from_unix_ms = match row {
            Some(row) => row.written_unix_ms,
            None => self.store.agent(agent).await?.map_or(0, |agent| agent.created_unix_ms),
        };
        let boot = self.lock().boot;
        let to_unix_ms = self.store.boot_started(boot).await?.unwrap_or_else(unix_ms_now);
        let amnesia =
            Amnesia { boot: None, why: AmnesiaCause::Rollback, from_unix_ms, to_unix_ms, noted_unix_ms: unix_ms_now() };
        let is_noted = |known: &Amnesia| {
            known.why == amnesia.why && known.from_unix_ms <= from_unix_ms && known.to_unix_ms >= to_unix_ms
        };
        if self.store.amnesia().await?.iter().any(is_noted) {
            return Ok(());
        }
        tracing::error!(agent.id = %agent, "the database went back in time: agent {agent} holds a head that this hub cosigned and that is not in it; calls since {from_unix_ms} may be forgotten");
        let noted = self.store.replay(|| async {
            let mut batch = self.store.begin_batch(None, amnesia.noted_unix_ms).await?;
            batch.insert_amnesia(&amnesia).await?;
            batch.commit(None, amnesia.noted_unix_ms).await
        });
        noted.await
    }
}
