//! How a seat has fared lately, and how long calls should rather go elsewhere.
//!
//! Invariant: a cool-down always ends by itself; it makes a seat a late choice, never
//! unreachable.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use tokio::time::Instant;

/// A vendor that limits without saying for how long.
const LIMITED_FOR: Duration = Duration::from_secs(2);

/// The longest a vendor's `retry-after` is believed: limits are per minute, mostly.
const LIMITED_FOR_MAX: Duration = Duration::from_secs(60);

/// A key whose owner the vendor refused; the agent withdraws it if that lasts.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// The first cool-down of a seat that fails; each one doubles, up to the next line.
const FAILING_FOR_MIN: Duration = Duration::from_secs(1);
const FAILING_FOR_MAX: Duration = Duration::from_secs(30);

/// Of a thousand: how much the newest outcome weighs, and from where on a seat cools down.
/// Two failures in a row, or every second call, are enough.
const NEWEST_WEIGHS: u32 = 300;
const FAILING_FROM: u32 = 500;

/// Models that cool down at once at one seat; of more, those that end first are forgotten.
const MODELS_MAX: usize = 32;

/// What became of a call at a seat, as far as it tells about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeatOutcome {
    /// The vendor answered, and not with a fault of its own (5xx).
    Served,
    /// The vendor limits the owner's account (429), for so long if it said so.
    RateLimited(Option<Duration>),
    /// The vendor refused the owner's account, or the agent no longer holds the key.
    Refused,
    /// The vendor could not be reached, broke off or answered 5xx; or the agent failed.
    Failed,
}

impl SeatOutcome {
    /// What an ABORT that ended a call tells about its seat; none if it was not the seat's doing.
    pub fn of_abort(abort: &Abort) -> Option<Self> {
        match abort.reason {
            AbortReason::OwnerRateLimited => {
                let said = Duration::from_millis(u64::from(abort.retry_after_ms));
                Some(Self::RateLimited((!said.is_zero()).then_some(said)))
            }
            AbortReason::OwnerRefused | AbortReason::OfferUnknown => Some(Self::Refused),
            // Every call would be refused alike.
            AbortReason::RulesUnknown | AbortReason::TierTooLow => Some(Self::Refused),
            AbortReason::VendorUnreachable
            | AbortReason::VendorTimeout
            | AbortReason::VendorBroke
            | AbortReason::VendorGarbage
            | AbortReason::Protocol
            | AbortReason::FlowControl
            | AbortReason::Busy => Some(Self::Failed),
            AbortReason::Unspecified
            | AbortReason::ConsumerGone
            | AbortReason::RequestBroken
            | AbortReason::Finished
            | AbortReason::Stopping
            | AbortReason::LinkLost
            | AbortReason::Deadline
            | AbortReason::NotAllowed
            | AbortReason::PricesUnknown
            | AbortReason::TicketInvalid
            | AbortReason::TicketMissing
            | AbortReason::TicketSeen => None,
        }
    }
}

/// The recent past of one seat.
#[derive(Default)]
pub(super) struct Health {
    /// Whether there may be a cool-down: most seats never take the lock.
    cools: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Moving average of failures, of a thousand.
    failures: u32,
    /// Cool-downs in a row.
    failed_in_a_row: u32,
    whole_until: Option<Instant>,
    models: Vec<(Box<str>, Instant)>,
}

impl Health {
    /// Until when calls for this model should rather go elsewhere.
    pub(super) fn cool_until(&self, model: Option<&str>, now: Instant) -> Option<Instant> {
        if !self.cools.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.lock();
        state.forget_before(now);
        self.cools.store(state.cools(), Ordering::Relaxed);
        let limited = state.models.iter().find(|(limited, _)| Some(&**limited) == model).map(|(_, until)| *until);
        state.whole_until.max(limited)
    }

    /// Notes what became of a call.
    pub(super) fn note(&self, model: Option<&str>, outcome: SeatOutcome, now: Instant) {
        let mut state = self.lock();
        match outcome {
            SeatOutcome::Served => state.average(0),
            SeatOutcome::RateLimited(said) => {
                let until = now + said.unwrap_or(LIMITED_FOR).min(LIMITED_FOR_MAX);
                state.cool_model(model, until);
            }
            SeatOutcome::Refused => state.cool_whole(now + REFUSED_FOR),
            SeatOutcome::Failed => {
                state.average(1000);
                if state.failures >= FAILING_FROM {
                    let doubled = FAILING_FOR_MIN * (1 << state.failed_in_a_row.min(5));
                    state.failed_in_a_row += 1;
                    state.cool_whole(now + doubled.min(FAILING_FOR_MAX));
                }
            }
        }
        // Under the lock, so that the last word is the newest.
        self.cools.store(state.cools(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn cools(&self) -> bool {
        self.whole_until.is_some() || !self.models.is_empty()
    }

    fn average(&mut self, newest: u32) {
        self.failures = (self.failures * (1000 - NEWEST_WEIGHS) + newest * NEWEST_WEIGHS) / 1000;
        if self.failures < FAILING_FROM {
            self.failed_in_a_row = 0;
        }
    }

    fn cool_whole(&mut self, until: Instant) {
        self.whole_until = self.whole_until.max(Some(until));
    }

    /// A limit without a model is the whole key's.
    fn cool_model(&mut self, model: Option<&str>, until: Instant) {
        let Some(model) = model else { return self.cool_whole(until) };
        if let Some((_, limited_until)) = self.models.iter_mut().find(|(limited, _)| **limited == *model) {
            *limited_until = until.max(*limited_until);
            return;
        }
        if self.models.len() >= MODELS_MAX
            && let Some(first) = (0..self.models.len()).min_by_key(|at| self.models[*at].1)
        {
            self.models.swap_remove(first);
        }
        self.models.push((model.into(), until));
    }

    fn forget_before(&mut self, now: Instant) {
        self.whole_until = self.whole_until.filter(|until| now < *until);
        self.models.retain(|(_, until)| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Option<&str> = Some("gpt-5");

    #[test]
    fn a_limit_cools_one_model_for_as_long_as_the_vendor_said() {
        let (health, now) = (Health::default(), Instant::now());
        let said = Duration::from_secs(20);
        health.note(MODEL, SeatOutcome::RateLimited(Some(said)), now);

        assert_eq!(health.cool_until(MODEL, now), Some(now + said));
        assert_eq!(health.cool_until(Some("gpt-4"), now), None);
        assert_eq!(health.cool_until(MODEL, now + said), None);
    }

    #[test]
    fn a_limit_is_short_when_nothing_was_said_and_never_endless() {
        let (health, now) = (Health::default(), Instant::now());
        health.note(MODEL, SeatOutcome::RateLimited(None), now);
        assert_eq!(health.cool_until(MODEL, now), Some(now + LIMITED_FOR));

        health.note(MODEL, SeatOutcome::RateLimited(Some(Duration::MAX)), now);
        assert_eq!(health.cool_until(MODEL, now), Some(now + LIMITED_FOR_MAX));
    }

    #[test]
    fn one_failure_is_forgiven_and_repeated_ones_cool_longer_and_longer() {
        let (health, mut now) = (Health::default(), Instant::now());
        health.note(MODEL, SeatOutcome::Failed, now);
        assert_eq!(health.cool_until(MODEL, now), None);

        let mut last = Duration::ZERO;
        for _ in 0..10 {
            health.note(MODEL, SeatOutcome::Failed, now);
            let until = health.cool_until(Some("any other model"), now).unwrap();
            assert!(until - now >= last && until - now <= FAILING_FOR_MAX);
            last = until - now;
            now = until;
        }
        assert_eq!(last, FAILING_FOR_MAX);
    }

    #[test]
    fn a_seat_that_serves_again_is_trusted_again() {
        let (health, now) = (Health::default(), Instant::now());
        (0..10).for_each(|_| health.note(MODEL, SeatOutcome::Failed, now));
        let later = now + FAILING_FOR_MAX;
        (0..10).for_each(|_| health.note(MODEL, SeatOutcome::Served, later));
        health.note(MODEL, SeatOutcome::Failed, later);

        assert_eq!(health.cool_until(MODEL, later), None);
    }

    #[test]
    fn many_models_that_cool_down_are_bounded() {
        let (health, now) = (Health::default(), Instant::now());
        for number in 0..1000_u32 {
            let said = Duration::from_secs(30) + Duration::from_millis(u64::from(number));
            health.note(Some(&format!("m{number}")), SeatOutcome::RateLimited(Some(said)), now);
        }

        assert_eq!(health.lock().models.len(), MODELS_MAX);
        assert!(health.cool_until(Some("m999"), now).is_some());
    }

    #[test]
    fn what_was_not_the_seats_doing_says_nothing_about_it() {
        assert_eq!(SeatOutcome::of_abort(&Abort::new(AbortReason::ConsumerGone)), None);
        assert_eq!(SeatOutcome::of_abort(&Abort::new(AbortReason::LinkLost)), None);
        let limited = Abort { retry_after_ms: 1500, ..Abort::new(AbortReason::OwnerRateLimited) };
        assert_eq!(SeatOutcome::of_abort(&limited), Some(SeatOutcome::RateLimited(Some(Duration::from_millis(1500)))));
    }
}
