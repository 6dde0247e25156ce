//! What an operator does with a hub's keys and database: invite agents, make
//! API keys.
//!
//! Invariant: a secret leaves here once, to its caller; the database gets its hash.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::id::TokenId;
use keyhaven_protocol::join_token::JoinToken;
use keyhaven_protocol::price::Zone;
use uuid::Uuid;

use crate::api_key::NewApiKey;
use crate::config::Database;
use crate::key_policy::KeyPolicy;
use crate::keys::HubKeys;
use crate::keys::KeysError;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::accounts::Account;
use crate::store::accounts::DEFAULT_ACCOUNT;
use crate::store::agents::Agent;
use crate::store::agents::AgentState;
use crate::store::api_keys::ApiKey;
use crate::store::join_tokens::NewToken;
use crate::store::join_tokens::secret_hash;
use crate::store::meta;

/// How long a join token is good when nothing else is said.
pub const INVITATION_TTL: Duration = Duration::from_secs(15 * 60);

/// The longest a join token may be good.
pub const INVITATION_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Characters of an agent's or a key's name.
const NAME_CHARS_MAX: usize = 64;

/// Bytes of the address in a join token: its length is one byte there.
const ADDRESS_BYTES_MAX: usize = 255;

/// What cannot be done with a hub's keys and database.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys and database are of two hubs.
    #[error("the database belongs to fleet {database}, the keys to {keys}")]
    OtherFleet {
        /// What the database says.
        database: String,
        /// What the keys say.
        keys: FleetId,
    },
    /// Not a name that people can read and type.
    #[error(
        "{name:?} is not a name: 1 to {NAME_CHARS_MAX} characters, none of them a control character, no white space at the ends, not of the form of an id"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// Another agent has the name.
    #[error("an agent named {name:?} exists")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Another account has the name.
    #[error("an account named {name:?} exists")]
    AccountTaken {
        /// The name.
        name: String,
    },
    /// Not an address that agents can dial.
    #[error("{address:?} is not host:port")]
    Address {
        /// What was given.
        address: String,
    },
    /// A token that would never, or nearly always, be good.
    #[error("a join token is good for at least a second and at most 30 days")]
    Ttl,
    /// A revoked agent gets no new token.
    #[error("agent {id} is revoked")]
    Revoked {
        /// The agent.
        id: AgentId,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    NoRandom,
}

impl RegistryError {
    /// What helps against just this, where the code's own fix is too general.
    pub const fn fix(&self) -> Option<&'static str> {
        match self {
            Self::Keys(error) => error.fix(),
            Self::OtherFleet { .. } => Some("put database and keys of the same hub together"),
            Self::NameTaken { .. } => Some("choose another name, or give --again"),
            Self::AccountTaken { .. } => Some("choose another name"),
            Self::Revoked { .. } => Some("invite a new agent instead"),
            Self::Store(_) | Self::Name { .. } | Self::Address { .. } | Self::Ttl | Self::NoRandom => None,
        }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let fix = error.fix();
        let code = match error {
            RegistryError::Keys(error) => return error.into(),
            RegistryError::Store(error) => return error.into(),
            RegistryError::OtherFleet { .. } => ErrorCode::DataDirUnusable,
            RegistryError::Name { .. }
            | RegistryError::NameTaken { .. }
            | RegistryError::AccountTaken { .. }
            | RegistryError::Address { .. }
            | RegistryError::Ttl => ErrorCode::UsageInvalid,
            RegistryError::Revoked { .. } => ErrorCode::AgentRevoked,
            RegistryError::NoRandom => ErrorCode::Internal,
        };
        let failure = Self::new(code, error.to_string());
        match fix {
            Some(fix) => failure.fix(fix),
            None => failure,
        }
    }
}

/// A hub's keys and database, opened together.
#[derive(Debug)]
pub struct Registry {
    /// The hub's keys.
    pub keys: Arc<HubKeys>,
    /// The hub's database.
    pub store: Store,
}

/// An agent that was invited, and the token that says so.
#[derive(Debug)]
pub struct Invitation {
    /// The agent's id.
    pub agent: AgentId,
    /// The agent's name.
    pub name: String,
    /// What to hand to the owner; holds a secret.
    pub token: JoinToken,
}

impl Registry {
    /// Opens a hub's keys and the database in its data directory; the tunnel key from
    /// `tunnel_key_file` if there is one.
    ///
    /// # Errors
    /// [`RegistryError::Keys`], [`RegistryError::Store`] or [`RegistryError::OtherFleet`].
    pub async fn open(data_dir: &Path, tunnel_key_file: Option<&Path>) -> Result<Self, RegistryError> {
        Self::open_with(data_dir, tunnel_key_file, &Database::default()).await
    }

    /// The same with the database where the configuration has it.
    ///
    /// # Errors
    /// [`RegistryError::Keys`], [`RegistryError::Store`] or [`RegistryError::OtherFleet`].
    pub async fn open_with(
        data_dir: &Path,
        tunnel_key_file: Option<&Path>,
        database: &Database,
    ) -> Result<Self, RegistryError> {
        let keys = Arc::new(HubKeys::load(data_dir, tunnel_key_file)?);
        let store = match &database.url {
            Some(url) => Store::open_server(url.reveal()).await?,
            None => Store::open(data_dir).await?,
        };
        belongs_together(&keys, &store).await?;
        Ok(Self { keys, store })
    }

    /// Makes an agent and its first join token. Without a name it gets one.
    ///
    /// # Errors
    /// [`RegistryError::Name`], [`RegistryError::NameTaken`],
    /// [`RegistryError::Address`], [`RegistryError::Ttl`] and the database's.
    pub async fn invite(
        &self,
        name: Option<&str>,
        address: &str,
        ttl: Duration,
        now_unix_ms: u64,
    ) -> Result<Invitation, RegistryError> {
        let agent = AgentId(Uuid::now_v7().into_bytes());
        let name = match name {
            Some(name) => checked_name(name, AgentId::PREFIX)?,
            None => default_name(agent),
        };
        let (token, row) = self.new_token(agent, address, ttl, now_unix_ms)?;
        match self.store.invite_agent(&name, &row).await {
            Ok(()) => Ok(Invitation { agent, name, token }),
            Err(StoreError::Exists) => Err(RegistryError::NameTaken { name }),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes another token for an agent that exists: because the first expired,
    /// or for `repin`. A joined agent's own key alone can use it.
    ///
    /// # Errors
    /// [`RegistryError::Revoked`], [`RegistryError::Address`],
    /// [`RegistryError::Ttl`] and the database's.
    pub async fn invite_again(
        &self,
        agent: &Agent,
        address: &str,
        ttl: Duration,
        now_unix_ms: u64,
    ) -> Result<Invitation, RegistryError> {
        if agent.state == AgentState::Revoked {
            return Err(RegistryError::Revoked { id: agent.id });
        }
        let (token, row) = self.new_token(agent.id, address, ttl, now_unix_ms)?;
        self.store.insert_token(&row).await?;
        Ok(Invitation { agent: agent.id, name: agent.name.clone(), token })
    }

    /// Makes an API key of the default account, with nothing forbidden to it.
    ///
    /// # Errors
    /// [`RegistryError::Name`] and the database's.
    pub async fn create_api_key(&self, name: &str, now_unix_ms: u64) -> Result<(ApiKey, NewApiKey), RegistryError> {
        self.create_api_key_for(DEFAULT_ACCOUNT, KeyPolicy::default(), name, now_unix_ms).await
    }

    /// Makes an API key of an account that exists.
    ///
    /// # Errors
    /// [`RegistryError::Name`] and the database's.
    pub async fn create_api_key_for(
        &self,
        account: AccountId,
        policy: KeyPolicy,
        name: &str,
        now_unix_ms: u64,
    ) -> Result<(ApiKey, NewApiKey), RegistryError> {
        let key = NewApiKey::generate().map_err(|_| RegistryError::NoRandom)?;
        let row = ApiKey {
            id: ApiKeyId(Uuid::now_v7().into_bytes()),
            name: checked_name(name, ApiKeyId::PREFIX)?,
            account,
            policy,
            key_hash: key.hash(),
            masked: key.masked(),
            created_unix_ms: now_unix_ms,
            revoked_unix_ms: None,
            last_used_unix_ms: None,
        };
        self.store.insert_api_key(&row).await?;
        Ok((row, key))
    }

    /// Makes an account for a consumer.
    ///
    /// # Errors
    /// [`RegistryError::Name`], [`RegistryError::AccountTaken`] and the database's.
    pub async fn create_account(&self, name: &str, zone: Zone, now_unix_ms: u64) -> Result<Account, RegistryError> {
        let account = Account {
            id: AccountId(Uuid::now_v7().into_bytes()),
            name: checked_name(name, AccountId::PREFIX)?,
            zone,
            created_unix_ms: now_unix_ms,
            blocked_unix_ms: None,
        };
        match self.store.insert_account(&account).await {
            Ok(()) => Ok(account),
            Err(StoreError::Exists) => Err(RegistryError::AccountTaken { name: account.name }),
            Err(error) => Err(error.into()),
        }
    }

    fn new_token(
        &self,
        agent: AgentId,
        address: &str,
        ttl: Duration,
        now_unix_ms: u64,
    ) -> Result<(JoinToken, NewToken), RegistryError> {
        if !crate::config::is_host_and_port(address) || address.len() > ADDRESS_BYTES_MAX {
            return Err(RegistryError::Address { address: address.to_owned() });
        }
        let ttl_ms = u64::try_from(ttl.as_millis()).map_err(|_| RegistryError::Ttl)?;
        if ttl < Duration::from_secs(1) || ttl > INVITATION_TTL_MAX {
            return Err(RegistryError::Ttl);
        }
        let mut secret = [0u8; 32];
        getrandom::fill(&mut secret).map_err(|_| RegistryError::NoRandom)?;
        let token = JoinToken {
            hub_address: address.to_owned(),
            pins: self.keys.pins().to_vec(),
            hub_key: self.keys.verifying_key(),
            fleet: self.keys.fleet(),
            agent,
            token: TokenId(Uuid::now_v7().into_bytes()),
            secret,
            expires_unix_ms: now_unix_ms.saturating_add(ttl_ms),
        };
        let row = NewToken {
            id: token.token,
            agent,
            secret_hash: secret_hash(&token.secret),
            created_unix_ms: now_unix_ms,
            expires_unix_ms: token.expires_unix_ms,
        };
        Ok((token, row))
    }
}

async fn belongs_together(keys: &HubKeys, store: &Store) -> Result<(), RegistryError> {
    let fleet = keys.fleet();
    match store.meta(meta::FLEET).await? {
        Some(database) if database == fleet.to_string() => Ok(()),
        Some(database) => Err(RegistryError::OtherFleet { database, keys: fleet }),
        None => Ok(store.put_meta(meta::FLEET, &fleet.to_string()).await?),
    }
}

/// The random end of the id: its beginning is the time, alike for many.
fn default_name(agent: AgentId) -> String {
    let text = agent.to_string();
    format!("agent-{}", &text[text.len() - 8..])
}

fn checked_name(name: &str, id_prefix: &str) -> Result<String, RegistryError> {
    let fits = (1..=NAME_CHARS_MAX).contains(&name.chars().count())
        && name.trim() == name
        && !name.chars().any(char::is_control)
        && !name.starts_with(id_prefix);
    if fits {
        Ok(name.to_owned())
    } else {
        Err(RegistryError::Name { name: name.chars().take(NAME_CHARS_MAX + 1).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OfflineFiles;

    const ADDRESS: &str = "hub.example.org:9010";

    #[tokio::test]
    async fn an_invitation_carries_what_an_agent_must_know_and_can_be_redeemed() {
        let (_dir, registry) = registry().await;

        let invited = registry.invite(Some("office"), ADDRESS, INVITATION_TTL, 1000).await.unwrap();

        let token = JoinToken::decode(&invited.token.encode()).unwrap();
        assert_eq!(token.hub_address, ADDRESS);
        assert_eq!(token.pins, registry.keys.pins());
        assert_eq!(token.hub_key, registry.keys.verifying_key());
        assert_eq!(token.fleet, registry.keys.fleet());
        assert_eq!(token.expires_unix_ms, 1000 + 15 * 60 * 1000);
        let redeemed = registry.store.redeem(token.token, &token.secret, &[1; 32], 1001).await.unwrap();
        assert_eq!(redeemed.agent, invited.agent);
        assert_eq!(redeemed.name, "office");
    }

    #[tokio::test]
    async fn an_agent_without_a_name_gets_one_of_its_own() {
        let (_dir, registry) = registry().await;

        let one = invite(&registry, None).await.unwrap();
        let two = invite(&registry, None).await.unwrap();

        assert!(one.name.starts_with("agent-"));
        assert_ne!(one.name, two.name);
    }

    #[tokio::test]
    async fn names_addresses_and_times_are_checked_before_anything_is_written() {
        let (_dir, registry) = registry().await;
        invite(&registry, Some("taken")).await.unwrap();
        let long = "x".repeat(65);

        for name in ["", " a", "a\n", "ag_0123", "taken", &long] {
            assert!(invite(&registry, Some(name)).await.is_err(), "{name:?}");
        }
        for address in ["", "hub", "hub:0", "a b:1"] {
            let refused = registry.invite(None, address, INVITATION_TTL, 1).await;
            assert!(refused.is_err(), "{address:?}");
        }
        for ttl in [Duration::ZERO, INVITATION_TTL_MAX * 2, Duration::MAX] {
            let refused = registry.invite(None, ADDRESS, ttl, 1).await;
            assert!(matches!(refused, Err(RegistryError::Ttl)), "{ttl:?}");
        }
        assert_eq!(registry.store.agents().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn another_token_is_of_the_same_agent_unless_it_is_revoked() {
        let (_dir, registry) = registry().await;
        let first = invite(&registry, None).await.unwrap();
        let agent = registry.store.agent(first.agent).await.unwrap().unwrap();

        let again = registry.invite_again(&agent, ADDRESS, INVITATION_TTL, 2).await.unwrap();

        assert_eq!(again.agent, first.agent);
        assert_ne!(again.token.token, first.token.token);
        registry.store.revoke_agent(agent.id).await.unwrap();
        let revoked = registry.store.agent(agent.id).await.unwrap().unwrap();
        let refused = registry.invite_again(&revoked, ADDRESS, INVITATION_TTL, 3).await;
        assert!(matches!(refused, Err(RegistryError::Revoked { .. })));
    }

    #[tokio::test]
    async fn the_database_never_holds_what_would_let_a_reader_in() {
        let (dir, registry) = registry().await;
        let (_, key) = registry.create_api_key("web", 1).await.unwrap();
        let invited = invite(&registry, None).await.unwrap();
        registry.store.close().await;

        let file = std::fs::read(dir.path().join(crate::store::FILE_NAME)).unwrap();

        let holds = |needle: &[u8]| file.windows(needle.len()).any(|part| part == needle);
        assert!(holds(&key.hash()));
        assert!(!holds(key.reveal().as_bytes()));
        assert!(!holds(&invited.token.secret));
    }

    #[tokio::test]
    async fn keys_and_database_of_two_hubs_are_refused() {
        let (one, registry) = registry().await;
        registry.store.close().await;
        let other = tempfile::tempdir().unwrap();
        HubKeys::init(other.path(), OfflineFiles::default()).unwrap();
        let file = crate::store::FILE_NAME;
        std::fs::copy(one.path().join(file), other.path().join(file)).unwrap();

        let refused = Registry::open(other.path(), None).await;

        assert!(matches!(refused, Err(RegistryError::OtherFleet { .. })));
    }

    async fn registry() -> (tempfile::TempDir, Registry) {
        let dir = tempfile::tempdir().unwrap();
        HubKeys::init(dir.path(), OfflineFiles::default()).unwrap();
        let registry = Registry::open(dir.path(), None).await.unwrap();
        (dir, registry)
    }

    async fn invite(registry: &Registry, name: Option<&str>) -> Result<Invitation, RegistryError> {
        registry.invite(name, ADDRESS, INVITATION_TTL, 1).await
    }
}
