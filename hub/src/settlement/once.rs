//! Calls with an idempotency key: what was sent once is not sent again.
//!
//! Invariant: of all calls of an account with one key, at most one is under way or was delivered.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::CallId;
use sha2::Digest as _;
use sha2::Sha256;
use tracing::error;

use super::Books;
use super::CallRecord;
use super::Known;
use super::Shared;
use crate::store::StoreError;
use crate::store::idempotency::Entered;
use crate::store::idempotency::IdempotencyKey;

/// So long a key stands for its call.
pub(super) const REMEMBERED: Duration = Duration::from_secs(35 * 24 * 3600);

/// The keys of calls under way in this process.
pub(super) type UnderWay = HashMap<IdempotencyKey, CallId>;

/// Holds a key for one call until it is dropped.
#[must_use = "a key that is dropped is free"]
pub struct Once {
    books: Arc<Shared>,
    key: IdempotencyKey,
}

/// Why a call with a key is not made.
#[derive(Debug)]
pub enum Repeated {
    /// The call that the key stands for is under way.
    UnderWay(CallId),
    /// It is over.
    Over(Box<CallRecord>),
    /// The process that had it ended before it wrote down what became of it.
    Lost(CallId),
    /// The database does not say.
    Unavailable,
}

impl Books {
    /// Lets the key stand for this call, unless it stands for one that is under way or was
    /// delivered. A key whose call no agent served is free again.
    ///
    /// # Errors
    /// [`Repeated`].
    pub async fn once(&self, account: AccountId, key: &[u8], call: CallId) -> Result<Once, Repeated> {
        let key = IdempotencyKey { account, hash: Sha256::digest(key).into() };
        let shared = &self.shared;
        match shared.lock().under_way.entry(key) {
            Entry::Occupied(other) => return Err(Repeated::UnderWay(*other.get())),
            Entry::Vacant(free) => drop(free.insert(call)),
        }
        let once = Once { books: shared.clone(), key };
        let boot = shared.lock().boot;
        let entered = Entered { call, boot };
        loop {
            let now = unix_ms_now();
            let entering = shared.store.enter_idempotency_key(key, entered, now).await;
            let Some(before) = entering.map_err(unavailable)? else { return Ok(once) };
            match self.record(before.call).await.map_err(unavailable)? {
                Known::UnderWay(_) => return Err(Repeated::UnderWay(before.call)),
                Known::Over(record) => return Err(Repeated::Over(record)),
                Known::Unknown if before.boot != boot => return Err(Repeated::Lost(before.call)),
                Known::Unknown => {}
            }
            let is_ours = shared.store.re_enter_idempotency_key(key, before.call, entered, now).await;
            if is_ours.map_err(unavailable)? {
                return Ok(once);
            }
        }
    }
}

fn unavailable(error: StoreError) -> Repeated {
    error!(%error, "whether an idempotency key was used is not known: {error}");
    Repeated::Unavailable
}

impl Drop for Once {
    fn drop(&mut self) {
        self.books.lock().under_way.remove(&self.key);
    }
}
