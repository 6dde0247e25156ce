//! Join tokens: made once, redeemed by one key, dead after the first heartbeat.
//!
//! Invariant: of all keys that present the same token at most one is ever
//! bound, and it is the one that the agent is known by from then on.

use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::TokenId;
use sha2::Digest;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::Store;
use super::StoreError;
use super::bytes;
use super::engine::Row;
use super::engine::Tx;
use super::engine::query;
use super::maybe_bytes;
use super::number;
use super::time;

/// A token to be written down. The secret itself never is.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its id.
    pub id: TokenId,
    /// The agent that the token makes, or lets follow the hub's new keys.
    pub agent: AgentId,
    /// [`secret_hash`] of the secret in the token.
    pub secret_hash: [u8; 32],
    /// Now.
    pub created_unix_ms: u64,
    /// From when on it is refused.
    pub expires_unix_ms: u64,
}

/// How far a token has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// Nobody has presented it.
    Issued,
    /// One key has presented it and may do so again.
    Bound,
    /// The agent has proved a heartbeat; the token is dead.
    Used,
}

/// A token as it is in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Its agent.
    pub agent: AgentId,
    /// [`secret_hash`] of its secret.
    pub secret_hash: [u8; 32],
    /// When it was made.
    pub created_unix_ms: u64,
    /// From when on it is refused.
    pub expires_unix_ms: u64,
    /// The key that presented it first.
    pub bound_public_key: Option<[u8; 32]>,
    /// How far it has come.
    pub state: TokenState,
}

/// What a good token makes of the key that presented it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeemed {
    /// The agent's id.
    pub agent: AgentId,
    /// What the operator calls it.
    pub name: String,
}

/// Why a token is refused.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// There is no such token, or the secret is not its secret.
    #[error("there is no such join token")]
    Unknown,
    /// It came too late.
    #[error("the join token has expired")]
    Expired,
    /// It was used, or another key presented it first.
    #[error("the join token was already used")]
    Used,
    /// The agent was revoked before it could join.
    #[error("the agent was revoked")]
    Revoked,
    /// The database failed; the token may be presented again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is stored of a token's secret.
pub fn secret_hash(secret: &[u8; 32]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

impl Store {
    /// Writes down one more token for an agent that exists.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn insert_token(&self, token: &NewToken) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        token.insert(&mut change).await?;
        change.commit().await?;
        Ok(())
    }

    /// One token by its id.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn token(&self, id: TokenId) -> Result<Option<Token>, StoreError> {
        let statement = "SELECT id, agent_id, secret_hash, created_unix_ms, expires_unix_ms, \
                         bound_public_key, state FROM join_tokens WHERE id = ?";
        let row = query(statement).bind(&id.0[..]).fetch_optional(&self.database).await?;
        row.as_ref().map(token_of).transpose()
    }

    /// All tokens of one agent, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn tokens_of(&self, agent: AgentId) -> Result<Vec<Token>, StoreError> {
        let statement = "SELECT id, agent_id, secret_hash, created_unix_ms, expires_unix_ms, \
                         bound_public_key, state FROM join_tokens WHERE agent_id = ? \
                         ORDER BY created_unix_ms, id";
        let rows = query(statement).bind(&agent.0[..]).fetch_all(&self.database).await?;
        rows.iter().map(token_of).collect()
    }

    /// Binds the token and its agent to the key that presents it. The same key
    /// may come back until [`Store::mark_joined`]; any other is refused.
    ///
    /// A wrong secret is told apart from a spent token only for who knows the
    /// secret, and costs no write.
    ///
    /// # Errors
    /// Every [`RedeemError`].
    pub async fn redeem(
        &self,
        id: TokenId,
        secret: &[u8; 32],
        public_key: &[u8; 32],
        now_unix_ms: u64,
    ) -> Result<Redeemed, RedeemError> {
        let token = self.token(id).await?.ok_or(RedeemError::Unknown)?;
        if !bool::from(secret_hash(secret).ct_eq(&token.secret_hash)) {
            return Err(RedeemError::Unknown);
        }
        if token.state == TokenState::Used {
            return Err(RedeemError::Used);
        }
        if now_unix_ms >= token.expires_unix_ms {
            return Err(RedeemError::Expired);
        }
        let mut change = self.change().await?;
        if !bind_token(&mut change, id, public_key).await? {
            return Err(RedeemError::Used);
        }
        if !bind_agent(&mut change, token.agent, public_key).await? {
            change.rollback().await?;
            return Err(self.why_agent_refuses(token.agent).await?);
        }
        let name = agent_name(&mut change, token.agent).await?;
        change.commit().await?;
        Ok(Redeemed { agent: token.agent, name })
    }

    /// The first heartbeat on a link made with this token: the token is used,
    /// an invited agent becomes active. Doing it again changes nothing.
    ///
    /// # Errors
    /// [`RedeemError::Used`] if another key has the token, [`RedeemError::Unknown`].
    pub async fn mark_joined(&self, id: TokenId, public_key: &[u8; 32], now_unix_ms: u64) -> Result<(), RedeemError> {
        let token = self.token(id).await?.ok_or(RedeemError::Unknown)?;
        let mut change = self.change().await?;
        if !use_token(&mut change, id, public_key).await? {
            return Err(RedeemError::Used);
        }
        activate_agent(&mut change, token.agent, now_unix_ms).await?;
        change.commit().await?;
        Ok(())
    }

    async fn why_agent_refuses(&self, agent: AgentId) -> Result<RedeemError, StoreError> {
        let revoked = self.agent(agent).await?.is_none_or(|agent| agent.state == super::agents::AgentState::Revoked);
        Ok(if revoked { RedeemError::Revoked } else { RedeemError::Used })
    }
}

impl NewToken {
    pub(super) async fn insert(&self, change: &mut Tx) -> Result<(), StoreError> {
        let statement = "INSERT INTO join_tokens \
                         (id, agent_id, secret_hash, created_unix_ms, expires_unix_ms, state) \
                         VALUES (?, ?, ?, ?, ?, 'issued')";
        query(statement)
            .bind(&self.id.0[..])
            .bind(&self.agent.0[..])
            .bind(&self.secret_hash[..])
            .bind(time(self.created_unix_ms)?)
            .bind(time(self.expires_unix_ms)?)
            .execute(change)
            .await?;
        Ok(())
    }
}

async fn bind_token(change: &mut Tx, id: TokenId, public_key: &[u8; 32]) -> Result<bool, StoreError> {
    let statement = "UPDATE join_tokens SET bound_public_key = ?, state = 'bound' \
                     WHERE id = ? AND state <> 'used' \
                     AND (bound_public_key IS NULL OR bound_public_key = ?)";
    let done = query(statement).bind(&public_key[..]).bind(&id.0[..]).bind(&public_key[..]).execute(change).await?;
    Ok(done == 1)
}

async fn bind_agent(change: &mut Tx, agent: AgentId, public_key: &[u8; 32]) -> Result<bool, StoreError> {
    let statement = "UPDATE agents SET public_key = ? WHERE id = ? AND state <> 'revoked' \
                     AND (public_key IS NULL OR public_key = ?)";
    let done = query(statement).bind(&public_key[..]).bind(&agent.0[..]).bind(&public_key[..]).execute(change).await?;
    Ok(done == 1)
}

async fn agent_name(change: &mut Tx, agent: AgentId) -> Result<String, StoreError> {
    let row = query("SELECT name FROM agents WHERE id = ?").bind(&agent.0[..]).fetch_one(change).await?;
    row.try_get("name")
}

async fn use_token(change: &mut Tx, id: TokenId, public_key: &[u8; 32]) -> Result<bool, StoreError> {
    let statement = "UPDATE join_tokens SET state = 'used' WHERE id = ? AND bound_public_key = ?";
    let done = query(statement).bind(&id.0[..]).bind(&public_key[..]).execute(change).await?;
    Ok(done == 1)
}

async fn activate_agent(change: &mut Tx, agent: AgentId, now_unix_ms: u64) -> Result<(), StoreError> {
    let statement = "UPDATE agents SET state = 'active', first_linked_unix_ms = ?, \
                     last_seen_unix_ms = ? WHERE id = ? AND state = 'invited'";
    query(statement).bind(time(now_unix_ms)?).bind(time(now_unix_ms)?).bind(&agent.0[..]).execute(change).await?;
    Ok(())
}

fn token_of(row: &Row) -> Result<Token, StoreError> {
    let state: String = row.try_get("state")?;
    Ok(Token {
        id: TokenId(bytes(row, "id")?),
        agent: AgentId(bytes(row, "agent_id")?),
        secret_hash: bytes(row, "secret_hash")?,
        created_unix_ms: number(row, "created_unix_ms")?,
        expires_unix_ms: number(row, "expires_unix_ms")?,
        bound_public_key: maybe_bytes(row, "bound_public_key")?,
        state: match state.as_str() {
            "issued" => TokenState::Issued,
            "bound" => TokenState::Bound,
            "used" => TokenState::Used,
            _ => return Err(StoreError::Damaged { column: "state" }),
        },
    })
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::on_every_engine;
    use crate::on_every_engine_threaded;
    use crate::store::Home;
    use crate::store::agents::AgentState;

    on_every_engine![
        the_first_key_joins_and_the_token_is_dead_after_the_heartbeat,
        the_same_key_may_retry_until_its_first_heartbeat_and_no_other_may,
        every_refusal_is_its_own_and_changes_nothing,
        a_revoked_agents_token_binds_nothing,
        another_token_of_a_joined_agent_is_good_for_its_own_key_only,
    ];

    on_every_engine_threaded![of_fifty_keys_that_present_one_token_at_once_exactly_one_wins];

    const ID: TokenId = TokenId([1; 16]);
    const AGENT: AgentId = AgentId([7; 16]);
    const SECRET: [u8; 32] = [42; 32];
    const KEY: [u8; 32] = [3; 32];
    const OTHER_KEY: [u8; 32] = [4; 32];

    async fn the_first_key_joins_and_the_token_is_dead_after_the_heartbeat(home: Home) {
        let store = invited(&home).await;

        let redeemed = store.redeem(ID, &SECRET, &KEY, 1500).await.unwrap();
        assert_eq!(redeemed.agent, AGENT);
        assert_eq!(redeemed.name, "office");
        let bound = store.agent(AGENT).await.unwrap().unwrap();
        assert_eq!(bound.public_key, Some(KEY));
        assert_eq!(bound.state, AgentState::Invited);

        store.mark_joined(ID, &KEY, 1600).await.unwrap();
        let joined = store.agent(AGENT).await.unwrap().unwrap();
        assert_eq!(joined.state, AgentState::Active);
        assert_eq!(joined.first_linked_unix_ms, Some(1600));

        let again = store.redeem(ID, &SECRET, &KEY, 1700).await;
        assert!(matches!(again, Err(RedeemError::Used)));
        store.mark_joined(ID, &KEY, 1800).await.unwrap();
        let same = store.agent(AGENT).await.unwrap().unwrap();
        assert_eq!(same.first_linked_unix_ms, Some(1600));
    }

    async fn the_same_key_may_retry_until_its_first_heartbeat_and_no_other_may(home: Home) {
        let store = invited(&home).await;
        store.redeem(ID, &SECRET, &KEY, 1500).await.unwrap();

        store.redeem(ID, &SECRET, &KEY, 1501).await.unwrap();
        let other = store.redeem(ID, &SECRET, &OTHER_KEY, 1502).await;
        let others_heartbeat = store.mark_joined(ID, &OTHER_KEY, 1503).await;

        assert!(matches!(other, Err(RedeemError::Used)));
        assert!(matches!(others_heartbeat, Err(RedeemError::Used)));
        let agent = store.agent(AGENT).await.unwrap().unwrap();
        assert_eq!(agent.public_key, Some(KEY));
    }

    async fn every_refusal_is_its_own_and_changes_nothing(home: Home) {
        let store = invited(&home).await;
        let before = store.revision().await.unwrap();

        let unknown = store.redeem(TokenId([9; 16]), &SECRET, &KEY, 1500).await;
        let wrong_secret = store.redeem(ID, &[0; 32], &KEY, 1500).await;
        let expired = store.redeem(ID, &SECRET, &KEY, 2000).await;
        let never_bound = store.mark_joined(ID, &KEY, 1500).await;

        assert!(matches!(unknown, Err(RedeemError::Unknown)));
        assert!(matches!(wrong_secret, Err(RedeemError::Unknown)));
        assert!(matches!(expired, Err(RedeemError::Expired)));
        assert!(matches!(never_bound, Err(RedeemError::Used)));
        assert_eq!(store.revision().await.unwrap(), before);
        let token = store.token(ID).await.unwrap().unwrap();
        assert_eq!(token.state, TokenState::Issued);
    }

    async fn a_revoked_agents_token_binds_nothing(home: Home) {
        let store = invited(&home).await;
        store.revoke_agent(AGENT).await.unwrap();

        let refused = store.redeem(ID, &SECRET, &KEY, 1500).await;

        assert!(matches!(refused, Err(RedeemError::Revoked)));
        let token = store.token(ID).await.unwrap().unwrap();
        assert_eq!(token.bound_public_key, None);
    }

    async fn another_token_of_a_joined_agent_is_good_for_its_own_key_only(home: Home) {
        let store = invited(&home).await;
        store.redeem(ID, &SECRET, &KEY, 1500).await.unwrap();
        store.mark_joined(ID, &KEY, 1500).await.unwrap();
        let second = TokenId([2; 16]);
        store.insert_token(&token(second)).await.unwrap();

        let thief = store.redeem(second, &SECRET, &OTHER_KEY, 1600).await;
        let owner = store.redeem(second, &SECRET, &KEY, 1600).await;

        assert!(matches!(thief, Err(RedeemError::Used)));
        assert_eq!(owner.unwrap().agent, AGENT);
        let states: Vec<_> = store.tokens_of(AGENT).await.unwrap();
        let states: Vec<_> = states.iter().map(|token| token.state).collect();
        assert_eq!(states, [TokenState::Used, TokenState::Bound]);
    }

    async fn of_fifty_keys_that_present_one_token_at_once_exactly_one_wins(home: Home) {
        let store = invited(&home).await;

        let outcomes = join_all((0..50u8).map(|n| {
            let store = store.clone();
            async move { (n, store.redeem(ID, &SECRET, &[n; 32], 1500).await) }
        }))
        .await;

        let mut winners = Vec::new();
        for (n, outcome) in outcomes {
            match outcome {
                Ok(_) => winners.push(n),
                Err(RedeemError::Used) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(winners.len(), 1);
        let agent = store.agent(AGENT).await.unwrap().unwrap();
        assert_eq!(agent.public_key, Some([winners[0]; 32]));
    }

    fn token(id: TokenId) -> NewToken {
        NewToken { id, agent: AGENT, secret_hash: secret_hash(&SECRET), created_unix_ms: 1000, expires_unix_ms: 2000 }
    }

    async fn invited(home: &Home) -> Store {
        let store = home.open().await;
        store.invite_agent("office", &token(ID)).await.unwrap();
        store
    }
}
