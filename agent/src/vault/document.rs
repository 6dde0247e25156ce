//! The vault as it lies on the disk: `vault.json`.
//!
//! Invariant: one tag under the data key covers every field, and each secret
//! is bound to all that is said about it, so an edited file does not open.

use std::sync::Arc;
use std::sync::OnceLock;

use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::pin::Pin;
use keyhaven_protocol::provider::Provider;
use serde::Deserialize;
use serde::Serialize;

use crate::vault::error::VaultError;
use crate::vault::host::Deployment;
use crate::vault::identity::Identity;
use crate::vault::key::Attestation;
use crate::vault::key::KeyInfo;
use crate::vault::seal::Bytes;
use crate::vault::seal::Canonical;
use crate::vault::seal::Sealed;
use crate::vault::seal::SealingKey;
use crate::vault::unlock::Kek;

/// The version of the format; part of everything that is sealed.
const SCHEMA: &str = "keyhaven/vault/v1";

/// The whole file. `seal` is an empty text sealed under the data key and bound to all the rest.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    schema: String,
    vault: Bytes,
    pub(crate) kek: Kek,
    data_key: Sealed,
    pub(crate) keys: Vec<KeyRecord>,
    pub(crate) identity: Option<IdentityRecord>,
    seal: Option<Sealed>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRecord {
    pub(crate) id: VendorKeyId,
    provider: Provider,
    host: String,
    resource: Option<String>,
    deployments: Vec<Deployment>,
    label: String,
    masked: String,
    added_unix_ms: u64,
    attestation: Attestation,
    secret: Sealed,
    /// What is said about the key, for every call with it.
    #[serde(skip)]
    shared: OnceLock<Arc<KeyInfo>>,
    /// The bytes that the secret is bound to. A record's fields never change.
    #[serde(skip)]
    bound_to: OnceLock<Vec<u8>>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentityRecord {
    agent: AgentId,
    fleet: FleetId,
    hub_address: String,
    pins: Vec<Pin>,
    hub_key: Bytes,
    public_key: Bytes,
    signing_key: Sealed,
}

impl Document {
    /// A new vault without keys, whose data key is wrapped for the first time.
    pub(crate) fn new(
        vault: Vec<u8>,
        kek: Kek,
        wrapping: &SealingKey,
        data_key: &SealingKey,
    ) -> Result<Self, VaultError> {
        let vault = Bytes(vault);
        let bound_to = data_key_bound_to(&vault, &kek);
        let mut document = Self {
            schema: SCHEMA.to_owned(),
            data_key: wrapping.seal(data_key.bytes(), &bound_to)?,
            vault,
            kek,
            keys: Vec::new(),
            identity: None,
            seal: None,
        };
        document.reseal(data_key)?;
        Ok(document)
    }

    /// The document in these bytes, not yet believed.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("line {}: not a vault", error.line()))?;
        if document.schema != SCHEMA {
            return Err(format!("its format is not {SCHEMA}"));
        }
        Ok(document)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a document of strings and numbers is JSON");
        bytes.push(b'\n');
        bytes
    }

    /// The data key, if `wrapping` is the key it was wrapped with.
    pub(crate) fn unwrap_data_key(&self, wrapping: &SealingKey) -> Option<SealingKey> {
        let plain = wrapping.open(&self.data_key, &data_key_bound_to(&self.vault, &self.kek))?;
        let mut bytes = zeroize::Zeroizing::new([0; 32]);
        if plain.len() != bytes.len() {
            return None;
        }
        bytes.copy_from_slice(&plain);
        Some(SealingKey::new(bytes))
    }

    /// Whether every field is as this data key last sealed it.
    pub(crate) fn verify(&self, data_key: &SealingKey) -> bool {
        self.seal.as_ref().and_then(|seal| data_key.open(seal, &self.canonical())).is_some_and(|plain| plain.is_empty())
    }

    pub(crate) fn reseal(&mut self, data_key: &SealingKey) -> Result<(), VaultError> {
        self.seal = Some(data_key.seal(&[], &self.canonical())?);
        Ok(())
    }

    /// Whether both are states of one vault.
    pub(crate) fn same_vault(&self, other: &Self) -> bool {
        self.vault == other.vault && self.data_key == other.data_key
    }

    pub(crate) fn key(&self, id: VendorKeyId) -> Option<&KeyRecord> {
        self.keys.iter().find(|key| key.id == id)
    }

    pub(crate) fn add_key(&mut self, info: &KeyInfo, secret: &[u8], data_key: &SealingKey) -> Result<(), VaultError> {
        let secret = data_key.seal(secret, &self.key_bound_to(info))?;
        self.keys.push(KeyRecord {
            id: info.id,
            provider: info.provider,
            host: info.host.clone(),
            resource: info.resource.clone(),
            deployments: info.deployments.clone(),
            label: info.label.clone(),
            masked: info.masked.clone(),
            added_unix_ms: info.added_unix_ms,
            attestation: info.attestation.clone(),
            secret,
            shared: OnceLock::new(),
            bound_to: OnceLock::new(),
        });
        Ok(())
    }

    pub(crate) fn open_key(&self, record: &KeyRecord, data_key: &SealingKey) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        data_key.open(&record.secret, record.bound_to.get_or_init(|| self.key_bound_to(record.shared_info())))
    }

    pub(crate) fn set_identity(
        &mut self,
        identity: &Identity,
        signing_key: &[u8; 32],
        data_key: &SealingKey,
    ) -> Result<(), VaultError> {
        let bound_to = self.identity_bound_to(identity);
        self.identity = Some(IdentityRecord {
            agent: identity.agent,
            fleet: identity.fleet,
            hub_address: identity.hub_address.clone(),
            pins: identity.pins.clone(),
            hub_key: Bytes(identity.hub_key.to_vec()),
            public_key: Bytes(identity.public_key.to_vec()),
            signing_key: data_key.seal(signing_key, &bound_to)?,
        });
        Ok(())
    }

    pub(crate) fn open_signing_key(
        &self,
        record: &IdentityRecord,
        data_key: &SealingKey,
    ) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        let bound_to = self.identity_bound_to(&record.identity()?);
        data_key.open(&record.signing_key, &bound_to)
    }

    fn key_bound_to(&self, info: &KeyInfo) -> Vec<u8> {
        let deployments: Vec<String> = info.deployments.iter().map(Deployment::to_string).collect();
        Canonical::new("keyhaven/vault/v1/key")
            .bytes(&self.vault.0)
            .bytes(&info.id.0)
            .text(&info.host)
            .text(info.provider.name())
            .optional(info.resource.as_deref())
            .list(&deployments)
            .text(&info.label)
            .text(&info.masked)
            .number(info.added_unix_ms)
            .text(&info.attestation.text)
            .number(info.attestation.at_unix_ms)
            .done()
    }

    fn identity_bound_to(&self, identity: &Identity) -> Vec<u8> {
        let pins: Vec<String> = identity.pins.iter().map(Pin::to_string).collect();
        Canonical::new("keyhaven/vault/v1/identity")
            .bytes(&self.vault.0)
            .bytes(&identity.agent.0)
            .bytes(&identity.fleet.0)
            .text(&identity.hub_address)
            .list(&pins)
            .bytes(&identity.hub_key)
            .bytes(&identity.public_key)
            .done()
    }

    fn canonical(&self) -> Vec<u8> {
        let count = u64::try_from(self.keys.len()).unwrap_or(u64::MAX);
        let head = Canonical::new("keyhaven/vault/v1/file")
            .bytes(&data_key_bound_to(&self.vault, &self.kek))
            .sealed(&self.data_key)
            .number(count);
        let keys =
            self.keys.iter().fold(head, |all, key| all.bytes(&self.key_bound_to(&key.info())).sealed(&key.secret));
        match &self.identity {
            None => keys.number(0).done(),
            Some(record) => {
                // An identity whose keys are not 32 bytes was never sealed by
                // us; the marker 2 makes its tag fail.
                let bound_to = record.identity().map(|known| self.identity_bound_to(&known));
                keys.number(if bound_to.is_some() { 1 } else { 2 })
                    .bytes(&bound_to.unwrap_or_default())
                    .sealed(&record.signing_key)
                    .done()
            }
        }
    }
}

impl KeyRecord {
    pub(crate) fn info(&self) -> KeyInfo {
        self.shared_info().as_ref().clone()
    }

    pub(crate) fn shared_info(&self) -> &Arc<KeyInfo> {
        let info = || KeyInfo {
            id: self.id,
            provider: self.provider,
            host: self.host.clone(),
            resource: self.resource.clone(),
            deployments: self.deployments.clone(),
            label: self.label.clone(),
            masked: self.masked.clone(),
            added_unix_ms: self.added_unix_ms,
            attestation: self.attestation.clone(),
        };
        self.shared.get_or_init(|| Arc::new(info()))
    }
}

impl IdentityRecord {
    /// `None` if a key in it is not 32 bytes long.
    pub(crate) fn identity(&self) -> Option<Identity> {
        Some(Identity {
            agent: self.agent,
            fleet: self.fleet,
            hub_address: self.hub_address.clone(),
            pins: self.pins.clone(),
            hub_key: self.hub_key.0.as_slice().try_into().ok()?,
            public_key: self.public_key.0.as_slice().try_into().ok()?,
        })
    }
}

fn data_key_bound_to(vault: &Bytes, kek: &Kek) -> Vec<u8> {
    kek.canonical(Canonical::new("keyhaven/vault/v1/data-key").bytes(&vault.0)).done()
}
