//! Keeps the offers true: follows the vault's file, and asks the vendors for their models.
//!
//! Invariant: a vendor that answers slowly delays neither another vendor, nor a change of
//! the vault, nor the agent's end.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::Empty;
use keyhaven_daemon::tasks::Tasks;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Offers;
use crate::provider::ListError;
use crate::provider::VendorClient;
use crate::provider::list_models;
use crate::vault::key::KeyInfo;
use crate::vault::lookout::Lookout;
use crate::vault::running::SharedVault;

/// Vendors asked at once.
const ASKED_MAX: usize = 8;

/// How long nobody is asked when there is no key at all, or every one is being asked.
const NOTHING_DUE: Duration = Duration::from_secs(3600);

impl Offers {
    /// Follows the vault's file and asks the vendors, until the agent stops.
    pub fn follow(&self, vault: SharedVault, client: VendorClient<Empty<Bytes>>, tasks: &Tasks) {
        tasks.spawn_until_stop("vault", follow_vault(self.clone(), vault.clone(), tasks.stopping()));
        tasks.spawn_until_stop("models", ask_vendors(self.clone(), vault, client, tasks.stopping()));
    }
}

async fn follow_vault(offers: Offers, vault: SharedVault, stop: CancellationToken) {
    let path = vault.read().path();
    loop {
        // Before the look, so that nothing that changes behind it is missed.
        let lookout = Lookout::begin(&path);
        match vault.reload_if_changed() {
            Ok(true) => offers.take_over(vault.read().keys()),
            Ok(false) => {}
            Err(error) => warn!("the vault's new file is not taken over: {error}"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = lookout.wait() => {}
        }
    }
}

async fn ask_vendors(offers: Offers, vault: SharedVault, client: VendorClient<Empty<Bytes>>, stop: CancellationToken) {
    let mut asking = FuturesUnordered::new();
    loop {
        while asking.len() < ASKED_MAX
            && let Some(info) = offers.next_due()
        {
            asking.push(ask(&client, &vault, info));
        }
        let has_room = asking.len() < ASKED_MAX;
        let next = offers.next_ask_at().unwrap_or_else(|| Instant::now() + NOTHING_DUE);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some((info, answer)) = asking.next() => offers.note(&info, answer),
            () = offers.shared.due.notified() => {}
            () = tokio::time::sleep_until(next), if has_room => {}
        }
    }
}

async fn ask(
    client: &VendorClient<Empty<Bytes>>,
    vault: &SharedVault,
    info: KeyInfo,
) -> (KeyInfo, Result<Vec<Box<RawValue>>, ListError>) {
    let secret = vault.read().open_key(info.id, &info.host);
    let answer = match secret {
        Ok(secret) => list_models(client, &info, &secret).await,
        Err(error) => Err(ListError::Vault(error)),
    };
    (info, answer)
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::id::VendorKeyId;
    use secrecy::SecretString;

    use super::*;
    use crate::provider::fake_vendor::FakeVendor;
    use crate::status::KeyState;
    use crate::vault::Vault;
    use crate::vault::host::Account;
    use crate::vault::key::Attestation;
    use crate::vault::key::NewKey;
    use crate::vault::unlock::Unlock;

    #[tokio::test]
    async fn a_vendor_that_never_answers_delays_neither_others_nor_a_change_of_the_vault_nor_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut vault = Vault::create(dir.path(), &Unlock::KeyFile).unwrap();
        let [silent, rejected, removed] = [0, 1, 2].map(|number| add_key(&mut vault, number));
        let vendor = FakeVendor::listen().await;
        let shared = SharedVault::new(Vault::open(dir.path(), &Unlock::KeyFile).unwrap());
        let offers = Offers::new(&shared);
        let mut changed = offers.changed();
        let tasks = Tasks::new();
        offers.follow(shared, VendorClient::new(&vendor.egress(), Duration::from_secs(60)), &tasks);

        let mut guests = Vec::new();
        for _ in 0..3 {
            let mut guest = vendor.accept().await;
            if guest.read_head().await.contains("sk-012345678-1") {
                guest.say("HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n").await;
            }
            guests.push(guest);
        }
        let state =
            |id: VendorKeyId| offers.status().into_iter().find(|offer| offer.key == id).map(|offer| offer.state);
        changed.wait_for(|_| state(rejected) == Some(KeyState::Rejected)).await.unwrap();
        vault.remove_key(removed).unwrap();
        changed.wait_for(|_| state(removed).is_none()).await.unwrap();
        tasks.shut_down(Duration::ZERO).await;

        assert_eq!(state(silent), Some(KeyState::Ok));
        assert_eq!(tasks.running(), 0);
    }

    fn add_key(vault: &mut Vault, number: u8) -> VendorKeyId {
        let new = NewKey {
            account: Account::OpenAi,
            label: String::new(),
            secret: SecretString::from(format!("sk-012345678-{number}")),
            attestation: Some(Attestation { text: "mine".to_owned(), at_unix_ms: 0 }),
            added_unix_ms: 0,
        };
        vault.add_key(new).unwrap().id
    }
}
