//! Agents: who was invited, who may link, who may not any more.
//!
//! Invariant: a revoked agent stays revoked, and an agent's public key is set
//! once.

use std::fmt;

use keyhaven_protocol::id::AgentId;
use serde::Serialize;

use super::Store;
use super::StoreError;
use super::bytes;
use super::engine::Row;
use super::engine::query;
use super::join_tokens::NewToken;
use super::maybe_bytes;
use super::maybe_number;
use super::number;
use super::time;

/// Where an agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// A join token was made; nobody has proved to hold it yet.
    Invited,
    /// May link and is given calls.
    Active,
    /// May link, finishes its calls, is given no new ones.
    Draining,
    /// May not link, ever again.
    Revoked,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// What the operator calls it; unique.
    pub name: String,
    /// Where it stands.
    pub state: AgentState,
    /// The Ed25519 key it proves its links with, once it has one.
    pub public_key: Option<[u8; 32]>,
    /// When it was invited.
    pub created_unix_ms: u64,
    /// Its first heartbeat.
    pub first_linked_unix_ms: Option<u64>,
    /// Its last link or heartbeat that was written down.
    pub last_seen_unix_ms: Option<u64>,
    /// Until when its links are refused because copies of it fought over them.
    pub suspended_until_unix_ms: Option<u64>,
}

impl Store {
    /// Adds an agent with its first join token, both or neither.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the name is taken.
    pub async fn invite_agent(&self, name: &str, token: &NewToken) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        let statement = "INSERT INTO agents (id, name, state, created_unix_ms) \
                         VALUES (?, ?, 'invited', ?)";
        query(statement)
            .bind(&token.agent.0[..])
            .bind(name)
            .bind(time(token.created_unix_ms)?)
            .execute(&mut change)
            .await?;
        token.insert(&mut change).await?;
        change.commit().await?;
        Ok(())
    }

    /// All agents, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn agents(&self) -> Result<Vec<Agent>, StoreError> {
        let statement = "SELECT id, name, state, public_key, created_unix_ms, \
                         first_linked_unix_ms, last_seen_unix_ms, suspended_until_unix_ms \
                         FROM agents ORDER BY created_unix_ms, id";
        self.read_all(statement, agent_of).await
    }

    /// One agent by its id.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn agent(&self, id: AgentId) -> Result<Option<Agent>, StoreError> {
        let statement = "SELECT id, name, state, public_key, created_unix_ms, \
                         first_linked_unix_ms, last_seen_unix_ms, suspended_until_unix_ms \
                         FROM agents WHERE id = ?";
        let row = query(statement).bind(&id.0[..]).fetch_optional(&self.database).await?;
        row.as_ref().map(agent_of).transpose()
    }

    /// One agent by its name.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn agent_named(&self, name: &str) -> Result<Option<Agent>, StoreError> {
        let statement = "SELECT id, name, state, public_key, created_unix_ms, \
                         first_linked_unix_ms, last_seen_unix_ms, suspended_until_unix_ms \
                         FROM agents WHERE name = ?";
        let row = query(statement).bind(name).fetch_optional(&self.database).await?;
        row.as_ref().map(agent_of).transpose()
    }

    /// Gives an active agent no new calls from now on. False: it was not active.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn drain_agent(&self, id: AgentId) -> Result<bool, StoreError> {
        let mut change = self.change().await?;
        let statement = "UPDATE agents SET state = 'draining' WHERE id = ? AND state = 'active'";
        let done = query(statement).bind(&id.0[..]).execute(&mut change).await?;
        change.commit().await?;
        Ok(done == 1)
    }

    /// Gives a draining agent calls again. False: it was not draining.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn undrain_agent(&self, id: AgentId) -> Result<bool, StoreError> {
        let mut change = self.change().await?;
        let statement = "UPDATE agents SET state = 'active' WHERE id = ? AND state = 'draining'";
        let done = query(statement).bind(&id.0[..]).execute(&mut change).await?;
        change.commit().await?;
        Ok(done == 1)
    }

    /// Takes the right to link away for good. False: it was gone already.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn revoke_agent(&self, id: AgentId) -> Result<bool, StoreError> {
        let mut change = self.change().await?;
        let statement = "UPDATE agents SET state = 'revoked' WHERE id = ? AND state <> 'revoked'";
        let done = query(statement).bind(&id.0[..]).execute(&mut change).await?;
        change.commit().await?;
        Ok(done == 1)
    }

    /// Refuses the agent's links until then.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::TimeOutOfRange`].
    pub async fn suspend_agent(&self, id: AgentId, until_unix_ms: u64) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        let statement = "UPDATE agents SET suspended_until_unix_ms = ? WHERE id = ?";
        query(statement).bind(time(until_unix_ms)?).bind(&id.0[..]).execute(&mut change).await?;
        change.commit().await?;
        Ok(())
    }

    /// Writes down when agents were last heard of, all or none. Decides nothing,
    /// so the revision stays.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::TimeOutOfRange`].
    pub async fn agents_seen(&self, seen: &[(AgentId, u64)]) -> Result<(), StoreError> {
        let statement = "UPDATE agents SET last_seen_unix_ms = ? WHERE id = ?";
        let mut together = self.database.begin().await?;
        for (id, seen_unix_ms) in seen {
            query(statement).bind(time(*seen_unix_ms)?).bind(&id.0[..]).execute(&mut together).await?;
        }
        together.commit().await?;
        Ok(())
    }
}

impl AgentState {
    /// The word in the database, in JSON and on the screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invited => "invited",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Revoked => "revoked",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Invited, Self::Active, Self::Draining, Self::Revoked].into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for AgentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

fn agent_of(row: &Row) -> Result<Agent, StoreError> {
    let state: String = row.try_get("state")?;
    Ok(Agent {
        id: AgentId(bytes(row, "id")?),
        name: row.try_get("name")?,
        state: AgentState::parse(&state).ok_or(StoreError::Damaged { column: "state" })?,
        public_key: maybe_bytes(row, "public_key")?,
        created_unix_ms: number(row, "created_unix_ms")?,
        first_linked_unix_ms: maybe_number(row, "first_linked_unix_ms")?,
        last_seen_unix_ms: maybe_number(row, "last_seen_unix_ms")?,
        suspended_until_unix_ms: maybe_number(row, "suspended_until_unix_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::id::TokenId;

    use super::*;
    use crate::on_every_engine;
    use crate::store::Home;

    on_every_engine![
        an_invited_agent_is_found_by_id_and_by_name,
        a_name_is_taken_once_and_the_loser_leaves_nothing_behind,
        states_change_only_in_the_allowed_direction,
        a_suspension_raises_the_revision_and_a_sighting_does_not,
    ];

    async fn an_invited_agent_is_found_by_id_and_by_name(home: Home) {
        let store = home.open().await;

        invite(&store, 1, "office").await.unwrap();

        let agent = store.agent(AgentId([1; 16])).await.unwrap().unwrap();
        assert_eq!(agent.state, AgentState::Invited);
        assert_eq!(agent.public_key, None);
        assert_eq!(agent.created_unix_ms, 1000);
        let named = store.agent_named("office").await.unwrap();
        assert_eq!(named, Some(agent.clone()));
        assert_eq!(store.agents().await.unwrap(), [agent]);
        assert_eq!(store.agent(AgentId([9; 16])).await.unwrap(), None);
        assert_eq!(store.agent_named("nobody").await.unwrap(), None);
    }

    async fn a_name_is_taken_once_and_the_loser_leaves_nothing_behind(home: Home) {
        let store = home.open().await;
        invite(&store, 1, "office").await.unwrap();

        let second = invite(&store, 2, "office").await;

        assert!(matches!(second, Err(StoreError::Exists)));
        assert_eq!(store.agents().await.unwrap().len(), 1);
        assert_eq!(store.revision().await.unwrap(), 1);
    }

    async fn states_change_only_in_the_allowed_direction(home: Home) {
        let store = home.open().await;
        let id = AgentId([1; 16]);
        invite(&store, 1, "office").await.unwrap();
        assert!(!store.drain_agent(id).await.unwrap(), "invited");
        activate(&store).await;

        assert!(store.drain_agent(id).await.unwrap());
        assert!(!store.drain_agent(id).await.unwrap(), "already draining");
        assert!(store.undrain_agent(id).await.unwrap());
        assert!(!store.undrain_agent(id).await.unwrap(), "already active");
        assert!(store.revoke_agent(id).await.unwrap());
        assert!(!store.revoke_agent(id).await.unwrap(), "already revoked");
        assert!(!store.undrain_agent(id).await.unwrap(), "revoked");
        assert!(!store.drain_agent(id).await.unwrap(), "revoked");

        let agent = store.agent(id).await.unwrap().unwrap();
        assert_eq!(agent.state, AgentState::Revoked);
    }

    async fn a_suspension_raises_the_revision_and_a_sighting_does_not(home: Home) {
        let store = home.open().await;
        let id = AgentId([1; 16]);
        invite(&store, 1, "office").await.unwrap();

        store.suspend_agent(id, 5000).await.unwrap();
        let raised = store.revision().await.unwrap();
        store.agents_seen(&[(id, 4000)]).await.unwrap();

        let agent = store.agent(id).await.unwrap().unwrap();
        assert_eq!(agent.suspended_until_unix_ms, Some(5000));
        assert_eq!(agent.last_seen_unix_ms, Some(4000));
        assert_eq!(raised, 2);
        assert_eq!(store.revision().await.unwrap(), raised);
    }

    async fn invite(store: &Store, n: u8, name: &str) -> Result<(), StoreError> {
        let token = NewToken {
            id: TokenId([n; 16]),
            agent: AgentId([n; 16]),
            secret_hash: [n; 32],
            created_unix_ms: 1000,
            expires_unix_ms: 2000,
        };
        store.invite_agent(name, &token).await
    }

    async fn activate(store: &Store) {
        store.raw("UPDATE agents SET state = 'active'").await;
    }
}
