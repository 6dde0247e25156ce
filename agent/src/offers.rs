//! What the agent offers: one offer per key of the vault, with the models its vendor lists.
//!
//! Invariant: a key that its vendor rejects, or whose account cannot pay, is not offered;
//! one whose vendor cannot be asked is, since calls will tell.

mod follow;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::Offer;
use keyhaven_protocol::frame::to_json;
use keyhaven_protocol::id::VendorKeyId;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;
use tracing::warn;

use crate::provider::ListError;
use crate::provider::declared_models;
use crate::status::KeyState;
use crate::status::OfferStatus;
use crate::vault::key::KeyInfo;
use crate::vault::running::SharedVault;

/// How often a vendor is asked for its models again.
const MODELS_REFRESH: Duration = Duration::from_secs(3600);

/// How soon, when it could not be asked.
const MODELS_RETRY: Duration = Duration::from_secs(30);

/// How soon at the earliest a key is asked again because calls with it are refused: many
/// calls may be refused at once.
const RECHECK_PAUSE: Duration = Duration::from_secs(3);

/// How long a key rests whose account cannot pay. Its list of models would not tell.
const EXHAUSTED_REST: Duration = Duration::from_secs(300);

/// What a call learned about its key from the vendor's refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The vendor does not accept the key: its models tell whether that is so for all calls.
    Rejected,
    /// The vendor accepts the key, but the account has nothing left to pay with.
    Exhausted,
}

/// The offers of this agent. Clones share them.
#[derive(Clone)]
pub struct Offers {
    shared: Arc<Shared>,
}

struct Shared {
    keys: Mutex<HashMap<VendorKeyId, Known>>,
    changed: watch::Sender<()>,
    /// A key is to be asked for its models, earlier than was known.
    due: Notify,
}

struct Known {
    info: KeyInfo,
    models: Vec<Box<RawValue>>,
    state: KeyState,
    ask_at: Instant,
    asked_at: Option<Instant>,
    being_asked: bool,
}

impl Offers {
    /// What the vault holds now; the vendors have not been asked yet.
    pub fn new(vault: &SharedVault) -> Self {
        let shared = Shared { keys: Mutex::default(), changed: watch::Sender::new(()), due: Notify::new() };
        let offers = Self { shared: Arc::new(shared) };
        offers.take_over(vault.read().keys());
        offers
    }

    /// Changes whenever the offers did.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// An OFFER payload for every key that may be used.
    pub fn frames(&self) -> Vec<(VendorKeyId, Bytes)> {
        let keys = self.lock();
        let usable = keys.values().filter(|key| key.is_usable());
        usable.map(|key| (key.info.id, key.payload())).collect()
    }

    /// For `status.json`.
    pub fn status(&self) -> Vec<OfferStatus> {
        let mut status: Vec<OfferStatus> = self.lock().values().map(Known::status).collect();
        status.sort_by_key(|offer| offer.key);
        status
    }

    /// A call with this key was refused because of the key or its account.
    pub fn trouble(&self, id: VendorKeyId, trouble: Trouble) {
        let mut keys = self.lock();
        let Some(known) = keys.get_mut(&id).filter(|known| known.is_usable()) else { return };
        match trouble {
            Trouble::Rejected => {
                let earliest = known.asked_at.map_or_else(Instant::now, |asked_at| asked_at + RECHECK_PAUSE);
                known.ask_at = known.ask_at.min(earliest);
                drop(keys);
            }
            Trouble::Exhausted => {
                let (label, provider) = (&known.info.label, known.info.provider.title());
                warn!(vendor_key.id = %id, "{provider} key {label}: the account cannot pay; not offered for a while");
                known.state = KeyState::Exhausted;
                known.ask_at = Instant::now() + EXHAUSTED_REST;
                drop(keys);
                self.shared.changed.send_replace(());
            }
        }
        self.shared.due.notify_one();
    }

    /// Keeps what is known of keys that stay, forgets those that went, notes those that came.
    fn take_over(&self, infos: Vec<KeyInfo>) {
        let mut keys = self.lock();
        let mut before = std::mem::take(&mut *keys);
        for info in infos {
            let id = info.id;
            let known = before.remove(&id).filter(|known| known.info == info);
            keys.insert(id, known.unwrap_or_else(|| Known::new(info)));
        }
        drop(keys);
        self.shared.changed.send_replace(());
        self.shared.due.notify_one();
    }

    /// A key whose vendor is to be asked now. It is not given again before [`Offers::note`].
    fn next_due(&self) -> Option<KeyInfo> {
        let now = Instant::now();
        let mut keys = self.lock();
        let known = keys.values_mut().find(|known| !known.being_asked && known.ask_at <= now)?;
        known.being_asked = true;
        Some(known.info.clone())
    }

    /// When the next vendor is to be asked.
    fn next_ask_at(&self) -> Option<Instant> {
        self.lock().values().filter(|known| !known.being_asked).map(|known| known.ask_at).min()
    }

    /// What a vendor answered about the key as it was then.
    fn note(&self, info: &KeyInfo, answer: Result<Vec<Box<RawValue>>, ListError>) {
        let mut keys = self.lock();
        let Some(known) = keys.get_mut(&info.id).filter(|known| known.info == *info) else { return };
        let now = Instant::now();
        known.being_asked = false;
        known.asked_at = Some(now);
        let (state, wait) = match &answer {
            // Which models a key can call that may not list them, calls will tell.
            Ok(_) | Err(ListError::MayNotList(_)) => (KeyState::Ok, MODELS_REFRESH),
            Err(ListError::Rejected(_)) => (KeyState::Rejected, MODELS_REFRESH),
            Err(ListError::Unreachable(_) | ListError::Vault(_)) => (KeyState::Unreachable, MODELS_RETRY),
        };
        if state != known.state || state == KeyState::Ok {
            say(&known.info, &answer);
        }
        // An answer that was on its way when a call found the account empty says nothing of it.
        if known.state != KeyState::Exhausted || known.ask_at <= now {
            known.state = state;
            known.ask_at = now + wait;
        }
        match answer {
            Ok(models) => known.models = models,
            Err(ListError::MayNotList(_)) => known.models = declared_models(&known.info),
            // It lists what it last listed.
            Err(ListError::Rejected(_) | ListError::Unreachable(_) | ListError::Vault(_)) => {}
        }
        drop(keys);
        self.shared.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VendorKeyId, Known>> {
        self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn new(info: KeyInfo) -> Self {
        let ask_at = Instant::now();
        Self { info, models: Vec::new(), state: KeyState::Ok, ask_at, asked_at: None, being_asked: false }
    }

    fn is_usable(&self) -> bool {
        match self.state {
            KeyState::Ok | KeyState::Unreachable => true,
            KeyState::Rejected | KeyState::Exhausted => false,
        }
    }

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
        let (_dir, offers, key) = offers(Account::OpenAi);

        offers.note(&key, Err(ListError::MayNotList(StatusCode::FORBIDDEN)));
        let least = (offers.frames().len(), offers.status()[0].state, offers.status()[0].models);
        offers.note(&key, Err(ListError::Rejected(StatusCode::UNAUTHORIZED)));

        assert_eq!(least, (1, KeyState::Ok, 0));
        assert_eq!((offers.frames().len(), offers.status()[0].state), (0, KeyState::Rejected));
    }

    #[test]
    fn deployments_that_the_owner_named_are_offered_though_the_key_may_not_list_any() {
        let deployments = vec!["prod=gpt-4o".parse().unwrap()];
        let resource = "acme".to_owned();
        let (_dir, offers, key) = offers(Account::Azure { resource, suffix: AzureSuffix::OpenAi, deployments });

        offers.note(&key, Err(ListError::MayNotList(StatusCode::FORBIDDEN)));

        assert_eq!(offers.status()[0].models, 1);
        let payload: serde_json::Value = serde_json::from_slice(&offers.frames()[0].1).unwrap();
        assert_eq!(payload["models"][0], serde_json::json!({ "id": "prod", "object": "model", "model": "gpt-4o" }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_calls_find_rejected_is_asked_again_at_once_but_not_for_each_call() {
        let (_dir, offers, key) = offers(Account::OpenAi);
        assert_eq!(offers.next_due().map(|due| due.id), Some(key.id));
        offers.note(&key, Ok(Vec::new()));
        tokio::time::advance(RECHECK_PAUSE).await;

        offers.trouble(key.id, Trouble::Rejected);
        let first = offers.next_due();
        offers.note(&key, Ok(Vec::new()));
        offers.trouble(key.id, Trouble::Rejected);
        let second = offers.next_due();
        tokio::time::advance(RECHECK_PAUSE).await;

        assert_eq!((first.is_some(), second), (true, None));
        assert!(offers.next_due().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_whose_account_cannot_pay_rests_and_is_offered_again() {
        let (_dir, offers, key) = offers(Account::OpenAi);
        offers.next_due().unwrap();

        offers.trouble(key.id, Trouble::Exhausted);
        // The list was asked for before the call was refused; it tells nothing of the account.
        offers.note(&key, Ok(Vec::new()));
        let resting = (offers.frames().len(), offers.status()[0].state, offers.next_due());
        tokio::time::advance(EXHAUSTED_REST).await;
        let again = offers.next_due();
        offers.note(&key, Ok(Vec::new()));

        assert_eq!(resting, (0, KeyState::Exhausted, None));
        assert_eq!(again.map(|due| due.id), Some(key.id));
        assert_eq!((offers.frames().len(), offers.status()[0].state), (1, KeyState::Ok));
    }

    #[tokio::test]
    async fn an_answer_about_a_key_as_it_was_before_is_not_taken() {
        let (_dir, offers, key) = offers(Account::OpenAi);
        let before = KeyInfo { label: "renamed since".to_owned(), ..key.clone() };

        offers.note(&before, Err(ListError::Rejected(StatusCode::UNAUTHORIZED)));

        assert_eq!(offers.status()[0].state, KeyState::Ok);
    }

    fn offers(account: Account) -> (tempfile::TempDir, Offers, KeyInfo) {
        let dir = tempfile::tempdir().unwrap();
        let mut vault = Vault::create(dir.path(), &Unlock::KeyFile).unwrap();
        let new = NewKey {
            account,
            label: String::new(),
            secret: SecretString::from("sk-0123456789"),
            attestation: Some(Attestation { text: "mine".to_owned(), at_unix_ms: 0 }),
            added_unix_ms: 0,
        };
        let key = vault.add_key(new).unwrap();
        (dir, Offers::new(&SharedVault::new(vault)), key)
    }
}
