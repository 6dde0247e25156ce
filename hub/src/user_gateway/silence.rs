//! How long somebody may say nothing: one timer of the connection, lent to whoever waits.
//!
//! Invariant: a wait ends when its limit has passed since the last movement, and not before.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::Sleep;

use super::connection::Connection;

/// A timer that is set; making one and throwing it away costs more than setting it again.
pub(super) type Timer = Pin<Box<Sleep>>;

/// Waits for a silence that lasts too long.
pub(super) struct Silence {
    limit: Duration,
    connection: Connection,
    /// Since when nothing moved; none before the first look at it.
    since: Option<Instant>,
    timer: Option<Timer>,
}

impl Silence {
    pub(super) fn new(limit: Duration, connection: Connection) -> Self {
        Self { limit, connection, since: None, timer: None }
    }

    /// Something moved: the silence begins anew with the next look at it.
    pub(super) fn moved(&mut self) {
        self.since = None;
        if let Some(timer) = self.timer.take() {
            self.connection.give_back(timer);
        }
    }

    /// Ready when nothing moved for too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let ends_at = since + self.limit;
        let lent = || self.connection.lend_timer().unwrap_or_else(|| Box::pin(tokio::time::sleep_until(ends_at)));
        let timer = self.timer.get_or_insert_with(lent);
        // One that was set for somebody else may end earlier, but must not end later.
        if timer.deadline() > ends_at {
            timer.as_mut().reset(ends_at);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= ends_at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(ends_at);
        }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.moved();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use crate::user_gateway::watched_stream::Departure;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_limit_whatever_the_timer_was_set_to() {
        let connection = connection().await;
        for seconds in [60, 5, 600, 1, 60] {
            let limit = Duration::from_secs(seconds);
            let mut silence = Silence::new(limit, connection.clone());
            let began = Instant::now();

            poll_fn(|cx| silence.poll(cx)).await;

            let lasted = began.elapsed();
            assert!((limit..limit + Duration::from_millis(5)).contains(&lasted), "{seconds}: {lasted:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn movement_begins_the_silence_anew() {
        let connection = connection().await;
        let mut silence = Silence::new(Duration::from_secs(10), connection);
        let began = Instant::now();
        for _ in 0..5 {
            let looked = tokio::time::timeout(Duration::from_secs(9), poll_fn(|cx| silence.poll(cx))).await;
            assert!(looked.is_err());
            silence.moved();
        }

        poll_fn(|cx| silence.poll(cx)).await;

        assert_eq!(began.elapsed().as_secs(), 55);
    }

    async fn connection() -> Connection {
        Connection::new(
            Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap(),
            Departure::default(),
            std::net::Ipv4Addr::LOCALHOST.into(),
        )
    }
}
