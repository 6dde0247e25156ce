//! The one timer of a call: set once, and moved on only when it rings and there was
//! progress meanwhile, since most calls end long before.
//!
//! Invariant: it never rings before the moment that is due, and at most once late.

use std::future::Future as _;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use tokio::time::Instant;
use tokio::time::Sleep;
use tokio::time::sleep_until;

/// A call's patience with whoever must move next.
pub(super) struct Patience {
    sleep: Pin<Box<Sleep>>,
}

impl Patience {
    /// Nothing is due before this moment.
    pub(super) fn until(first: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(first)) }
    }

    /// From now on something may be due at this moment, if that is earlier than before.
    pub(super) fn not_beyond(&mut self, due: Instant) {
        if due < self.sleep.deadline() {
            self.sleep.as_mut().reset(due);
        }
    }

    /// Ready when what `due` says has passed.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>, due: impl Fn() -> Instant) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let due = due();
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn progress_puts_off_what_is_due_and_an_earlier_moment_is_not_missed() {
        let start = Instant::now();
        let mut patience = Patience::until(start + 10 * SECOND);
        poll_fn(|cx| patience.poll_late(cx, || start + 15 * SECOND)).await;
        let put_off = start.elapsed();

        let mut patience = Patience::until(Instant::now() + 100 * SECOND);
        let early = Instant::now() + SECOND;
        patience.not_beyond(early);
        poll_fn(|cx| patience.poll_late(cx, || early)).await;

        assert_eq!((put_off, start.elapsed()), (15 * SECOND, 16 * SECOND));
    }
}
