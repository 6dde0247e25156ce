//! What an agent metered, on its way to whoever settles the call.
//!
//! Invariant: a figure counts only for a call that is under way on the link it came by, and once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use keyhaven_protocol::id::CallId;
use keyhaven_protocol::leaf::Metered;
use tokio::sync::oneshot;

/// One attempt at a call.
type Attempt = (CallId, u8);

/// The attempts under way on one link whose figures are still to come.
#[derive(Default)]
pub(super) struct Receipts {
    expected: Mutex<HashMap<Attempt, oneshot::Sender<Metered>>>,
}

/// What the agent metered of one attempt, as soon as it has come.
pub struct ExpectedReceipt {
    receipts: Arc<Receipts>,
    attempt: Attempt,
    receiver: oneshot::Receiver<Metered>,
}

impl Receipts {
    pub(super) fn expect(self: &Arc<Self>, call: CallId, attempt: u8) -> ExpectedReceipt {
        let (sender, receiver) = oneshot::channel();
        let attempt = (call, attempt);
        self.lock().insert(attempt, sender);
        ExpectedReceipt { receipts: self.clone(), attempt, receiver }
    }

    /// Whether somebody waits for it.
    pub(super) fn deliver(&self, call: CallId, attempt: u8, metered: Metered) -> bool {
        let expected = self.lock().remove(&(call, attempt));
        expected.is_some_and(|expected| expected.send(metered).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Attempt, oneshot::Sender<Metered>>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ExpectedReceipt {
    /// The figure, if it has come.
    pub fn at_hand(&mut self) -> Option<Metered> {
        self.receiver.try_recv().ok()
    }

    /// The figure, if it comes within this time.
    pub async fn within(&mut self, time: Duration) -> Option<Metered> {
        tokio::time::timeout(time, &mut self.receiver).await.ok()?.ok()
    }
}

impl Drop for ExpectedReceipt {
    fn drop(&mut self) {
        self.receipts.lock().remove(&self.attempt);
    }
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::metering::Outcome;
    use keyhaven_protocol::metering::Rule;
    use keyhaven_protocol::money::NanoUsd;
    use keyhaven_protocol::price::ServiceTier;
    use keyhaven_protocol::usage::Doubts;
    use keyhaven_protocol::usage::Meters;

    use super::*;

    #[tokio::test]
    async fn a_figure_reaches_who_expects_it_and_nobody_else() {
        let receipts = Arc::new(Receipts::default());
        let mut first = receipts.expect(CallId([1; 16]), 1);
        let mut second = receipts.expect(CallId([1; 16]), 2);

        assert!(!receipts.deliver(CallId([2; 16]), 1, metered()), "no such call");
        assert!(receipts.deliver(CallId([1; 16]), 2, metered()));
        assert!(!receipts.deliver(CallId([1; 16]), 2, metered()), "it came already");

        assert_eq!(first.at_hand(), None);
        assert_eq!(second.within(Duration::from_secs(1)).await, Some(metered()));
        drop(first);
        assert!(!receipts.deliver(CallId([1; 16]), 1, metered()), "nobody waits any more");
        drop(second);
        assert!(receipts.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_come_is_waited_for_no_longer_than_said() {
        let receipts = Arc::new(Receipts::default());
        let mut expected = receipts.expect(CallId([1; 16]), 1);

        assert_eq!(expected.within(Duration::from_secs(2)).await, None);
    }

    fn metered() -> Metered {
        Metered {
            outcome: Outcome::Complete,
            rule: Rule::Stated,
            doubts: Doubts::default(),
            list: NanoUsd(5),
            response_bytes: 7,
            elapsed_ms: 0,
            tier: ServiceTier::Standard,
            meters: Meters::default(),
            model: None,
            heard: Meters::default(),
            heard_model: None,
        }
    }
}
