//! Waiting for an agent: a call that no seat fits now, while one is expected back, waits a
//! little, so that the restart of an agent or of the hub costs no call.
//!
//! Invariant: the number of waiting calls and the time of each are bounded, and a consumer
//! that leaves waits no longer.

use std::time::Duration;

use metrics::counter;
use metrics::gauge;
use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

/// The least time between two looks of one call, however fast offers come and go.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Where calls wait.
pub(super) struct WaitingRoom {
    pub(super) places: Semaphore,
    time_max: Duration,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitEnd {
    Placed,
    TimedOut,
    Full,
    Draining,
    ConsumerGone,
}

/// One call's wait; tells the metrics when it is dropped.
struct Wait<'a> {
    _place: SemaphorePermit<'a>,
    end: WaitEnd,
}

impl WaitingRoom {
    pub(super) fn new(places: u32, time_max: Duration) -> Self {
        Self { places: Semaphore::new(places as usize), time_max }
    }

    /// Looks again whenever something `changed`, until `look` finds what it looks for or the
    /// time is over; the last thing it missed is the error then.
    pub(super) async fn until<T, E>(
        &self,
        mut changed: watch::Receiver<u64>,
        draining: &CancellationToken,
        mut look: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let deadline = Instant::now() + self.time_max;
        let mut missed = match look() {
            Ok(found) => return Ok(found),
            Err(missed) => missed,
        };
        let Ok(place) = self.places.try_acquire() else {
            count(WaitEnd::Full);
            return Err(missed);
        };
        let mut wait = Wait::begin(place);
        loop {
            let looked_at = Instant::now();
            let change = async {
                // Were the roster gone, nothing would ever change.
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep_until(looked_at + LOOK_INTERVAL_MIN).await;
            };
            tokio::select! {
                biased;
                () = draining.cancelled() => {
                    wait.end = WaitEnd::Draining;
                    return Err(missed);
                }
                news = timeout_at(deadline, change) => if news.is_err() {
                    wait.end = WaitEnd::TimedOut;
                    return Err(missed);
                },
            }
            changed.borrow_and_update();
            missed = match look() {
                Ok(found) => {
                    wait.end = WaitEnd::Placed;
                    return Ok(found);
                }
                Err(missed) => missed,
            };
        }
    }
}

impl<'a> Wait<'a> {
    fn begin(place: SemaphorePermit<'a>) -> Self {
        gauge!("keyhaven_user_gateway_waiting_calls").increment(1.0);
        Self { _place: place, end: WaitEnd::ConsumerGone }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        gauge!("keyhaven_user_gateway_waiting_calls").decrement(1.0);
        count(self.end);
    }
}

fn count(end: WaitEnd) {
    let end = match end {
        WaitEnd::Placed => "placed",
        WaitEnd::TimedOut => "timed_out",
        WaitEnd::Full => "full",
        WaitEnd::Draining => "draining",
        WaitEnd::ConsumerGone => "consumer_gone",
    };
    counter!("keyhaven_user_gateway_waits_total", "end" => end).increment(1);
}
