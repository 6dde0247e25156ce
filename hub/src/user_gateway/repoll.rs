//! Polls a connection again at once when it has woken itself. hyper does that for every
//! request with a body, and a scheduler that is told of such a wake calls another thread
//! to help with nothing.
//!
//! Invariant: no wake is lost; one that comes during a poll leads to another poll.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Wake;
use std::task::Waker;

use futures_util::task::AtomicWaker;

/// Polls in a row before others get their turn.
const POLLS_MAX: usize = 4;

const RESTING: u8 = 0;
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

/// A future whose wakes of itself stay inside.
pub(super) struct Repolled<F> {
    future: F,
    wakes: Arc<Wakes>,
    waker: Waker,
}

#[derive(Default)]
struct Wakes {
    state: AtomicU8,
    task: AtomicWaker,
}

impl<F: Future + Unpin> Repolled<F> {
    pub(super) fn new(future: F) -> Self {
        let wakes = Arc::new(Wakes::default());
        let waker = wakes.clone().into();
        Self { future, wakes, waker }
    }
}

impl<F: Future + Unpin> Future for Repolled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.wakes.task.register(cx.waker());
        for _ in 0..POLLS_MAX {
            this.wakes.state.store(POLLED, Ordering::SeqCst);
            let polled = Pin::new(&mut this.future).poll(&mut Context::from_waker(&this.waker));
            let woken = this.wakes.state.swap(RESTING, Ordering::SeqCst) == WOKEN;
            if polled.is_ready() || !woken {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let during_poll = |state| (state != RESTING).then_some(WOKEN);
        if self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, during_poll).is_err() {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_without_a_word_to_the_scheduler() {
        let outside = Arc::new(Counted::default());
        let mut polls = 0;
        let future = poll_fn(|cx| {
            polls += 1;
            if polls == 1 {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });

        let polled = poll(&mut Repolled::new(future), &outside);

        assert!(polled.is_pending());
        assert_eq!((polls, outside.0.load(Ordering::SeqCst)), (2, 0));
    }

    #[test]
    fn a_future_that_never_stops_waking_itself_lets_others_have_their_turn() {
        let outside = Arc::new(Counted::default());
        let future = poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });

        let polled = poll(&mut Repolled::new(future), &outside);

        assert!(polled.is_pending());
        assert_eq!(outside.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_wake_after_the_poll_reaches_the_task() {
        let outside = Arc::new(Counted::default());
        let mut kept = None;
        let mut repolled = Repolled::new(poll_fn(|cx| {
            kept = Some(cx.waker().clone());
            Poll::<()>::Pending
        }));
        assert!(poll(&mut repolled, &outside).is_pending());
        drop(repolled);

        kept.unwrap().wake();

        assert_eq!(outside.0.load(Ordering::SeqCst), 1);
    }

    fn poll<F: Future + Unpin>(future: &mut F, outside: &Arc<Counted>) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(&outside.clone().into()))
    }
}
