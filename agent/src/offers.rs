//! What the agent offers: one offer per key of the vault, with the models its vendor lists.
//!
//! Invariant: a key that its vendor rejects is not offered; one whose vendor cannot be
//! asked is, since calls will tell.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::Offer;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::id::VendorKeyId;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;
use tracing::warn;

use crate::provider::ListError;
use crate::provider::VendorClient;
use crate::provider::declared_models;
use crate::provider::list_models;
use crate::status::KeyState;
use crate::status::OfferStatus;
use crate::vault::key::KeyInfo;
use crate::vault::running::SharedVault;

/// How often the vault's file is looked at.
const VAULT_POLL: Duration = Duration::from_secs(1);

/// How often a vendor is asked for its models again.
const MODELS_REFRESH: Duration = Duration::from_secs(3600);

/// How soon, when it could not be asked.
const MODELS_RETRY: Duration = Duration::from_secs(30);

/// The offers of this agent. Clones share them.
#[derive(Clone)]
pub struct Offers {
    shared: Arc<Shared>,
}

struct Shared {
    keys: Mutex<HashMap<VendorKeyId, Known>>,
    changed: watch::Sender<u64>,
}

struct Known {
    info: KeyInfo,
    models: Vec<Box<RawValue>>,
    state: KeyState,
    ask_at: Instant,
}

impl Offers {
    /// What the vault holds now; the vendors have not been asked yet.
    pub fn new(vault: &SharedVault) -> Self {
        let shared = Shared { keys: Mutex::default(), changed: watch::Sender::new(0) };
        let offers = Self { shared: Arc::new(shared) };
        offers.take_over(vault.read().keys());
        offers
    }

    /// Follows the vault's file and asks the vendors, until the agent stops.
    pub fn follow(&self, vault: SharedVault, client: VendorClient<Empty<Bytes>>, tasks: &Tasks) {
        tasks.spawn_until_stop("offers", follow(self.clone(), vault, client, tasks.stopping()));
    }

    /// Changes whenever the offers did.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// An OFFER payload for every key that may be used.
    pub fn frames(&self) -> Vec<(VendorKeyId, Bytes)> {
        let keys = self.lock();
        let usable = keys.values().filter(|key| key.state != KeyState::Rejected);
        usable.map(|key| (key.info.id, key.payload())).collect()
    }

    /// For `status.json`.
    pub fn status(&self) -> Vec<OfferStatus> {
        let mut status: Vec<OfferStatus> = self.lock().values().map(Known::status).collect();
        status.sort_by_key(|offer| offer.key);
        status
    }

    /// Keeps what is known of keys that stay, forgets those that went, notes those that came.
    fn take_over(&self, infos: Vec<KeyInfo>) {
        let mut keys = self.lock();
        let mut before = std::mem::take(&mut *keys);
        for info in infos {
            let id = info.id;
            let known = before.remove(&id).filter(|known| known.info == info);
            let known = known.unwrap_or_else(|| Known {
                info,
                models: Vec::new(),
                state: KeyState::Ok,
                ask_at: Instant::now(),
            });
            keys.insert(id, known);
        }
        drop(keys);
        self.shared.changed.send_modify(|version| *version += 1);
    }

    fn due(&self) -> Vec<KeyInfo> {
        let now = Instant::now();
        self.lock().values().filter(|key| key.ask_at <= now).map(|key| key.info.clone()).collect()
    }

    fn note(&self, id: VendorKeyId, answer: Result<Vec<Box<RawValue>>, ListError>) {
        let mut keys = self.lock();
        let Some(known) = keys.get_mut(&id) else { return };
        let (state, wait) = match &answer {
            // Which models a key can call that may not list them, calls will tell.
            Ok(_) | Err(ListError::MayNotList(_)) => (KeyState::Ok, MODELS_REFRESH),
            Err(ListError::Rejected(_)) => (KeyState::Rejected, MODELS_REFRESH),
            Err(ListError::Unreachable(_) | ListError::Vault(_)) => (KeyState::Unreachable, MODELS_RETRY),
        };
        if state != known.state || state == KeyState::Ok {
            say(&known.info, &answer);
        }
        known.state = state;
        known.ask_at = Instant::now() + wait;
        match answer {
            Ok(models) => known.models = models,
            Err(ListError::MayNotList(_)) => known.models = declared_models(&known.info),
            // It lists what it last listed.
            Err(ListError::Rejected(_) | ListError::Unreachable(_) | ListError::Vault(_)) => {}
        }
        drop(keys);
        self.shared.changed.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VendorKeyId, Known>> {
        self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The offer, with as many models as fit the frame.
    fn payload(&self) -> Bytes {
        let mut offer = Offer {
            vendor_key: self.info.id,
            provider: self.info.provider,
            resource: self.info.resource.clone(),
            models: self.models.clone(),
        };
        loop {
            let payload = to_json(&offer);
            if payload.len() <= FrameKind::Offer.payload_bytes_max() {
                return payload;
            }
            offer.models.truncate(offer.models.len() / 2);
        }
    }

    fn status(&self) -> OfferStatus {
        OfferStatus {
            key: self.info.id,
            provider: self.info.provider,
            resource: self.info.resource.clone(),
            models: u32::try_from(self.models.len()).unwrap_or(u32::MAX),
            state: self.state,
        }
    }
}

async fn follow(
    offers: Offers,
    vault: SharedVault,
    client: VendorClient<Empty<Bytes>>,
    stop: tokio_util::sync::CancellationToken,
) {
    loop {
        for info in offers.due() {
            let secret = vault.read().open_key(info.id, &info.host);
            let answer = match secret {
                Ok(secret) => list_models(&client, &info, &secret).await,
                Err(error) => Err(ListError::Vault(error)),
            };
            offers.note(info.id, answer);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(VAULT_POLL) => {}
        }
        let reloaded = vault.reload_if_changed();
        match reloaded {
            Ok(true) => offers.take_over(vault.read().keys()),
            Ok(false) => {}
            Err(error) => warn!("the vault's new file is not taken over: {error}"),
        }
    }
}

fn say(info: &KeyInfo, answer: &Result<Vec<Box<RawValue>>, ListError>) {
    let (label, provider) = (&info.label, info.provider.title());
    match answer {
        Ok(models) => info!(vendor_key.id = %info.id, "{provider} key {label} lists {} models", models.len()),
        Err(error) => warn!(vendor_key.id = %info.id, "{provider} key {label}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use secrecy::SecretString;

    use super::*;
    use crate::vault::Vault;
    use crate::vault::host::Account;
    use crate::vault::host::AzureSuffix;
    use crate::vault::key::Attestation;
    use crate::vault::key::NewKey;
    use crate::vault::unlock::Unlock;

    #[test]
    fn a_key_that_may_not_list_models_stays_on_offer_and_a_rejected_one_does_not() {
        let (_dir, offers, id) = offers(Account::OpenAi);

        offers.note(id, Err(ListError::MayNotList(StatusCode::FORBIDDEN)));
        let least = (offers.frames().len(), offers.status()[0].state, offers.status()[0].models);
        offers.note(id, Err(ListError::Rejected(StatusCode::UNAUTHORIZED)));

        assert_eq!(least, (1, KeyState::Ok, 0));
        assert_eq!((offers.frames().len(), offers.status()[0].state), (0, KeyState::Rejected));
    }

    #[test]
    fn deployments_that_the_owner_named_are_offered_though_the_key_may_not_list_any() {
        let deployments = vec!["gpt-4o".to_owned()];
        let resource = "acme".to_owned();
        let (_dir, offers, id) = offers(Account::Azure { resource, suffix: AzureSuffix::OpenAi, deployments });

        offers.note(id, Err(ListError::MayNotList(StatusCode::FORBIDDEN)));

        assert_eq!(offers.status()[0].models, 1);
    }

    fn offers(account: Account) -> (tempfile::TempDir, Offers, VendorKeyId) {
        let dir = tempfile::tempdir().unwrap();
        let mut vault = Vault::create(dir.path(), &Unlock::KeyFile).unwrap();
        let new = NewKey {
            account,
            label: String::new(),
            secret: SecretString::from("sk-0123456789"),
            attestation: Some(Attestation { text: "mine".to_owned(), at_unix_ms: 0 }),
            added_unix_ms: 0,
        };
        let id = vault.add_key(new).unwrap().id;
        (dir, Offers::new(&SharedVault::new(vault)), id)
    }
}
