//! Whether the peer is there. Any frame counts; pings go out only when it is quiet.
//!
//! Invariant: a dead peer is noticed within 5 s with work in flight (12 s on a path with a
//! long round trip) and 45 s without, and one that still takes what we send is not dead.

use super::Micros;
use super::Side;

const SECOND: u64 = 1_000_000;

/// The peer has not been heard for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nothing was heard from the other side for {quiet_ms} ms")]
pub struct Silent {
    /// For how long.
    pub quiet_ms: u64,
}

/// How long to wait, in microseconds.
struct Patience {
    quiet_before_ping: u64,
    unanswered_before_dead: u64,
}

#[derive(Debug)]
pub(super) struct Liveness {
    side: Side,
    heard_at: Micros,
    wrote_at: Micros,
    pinged_at: Option<Micros>,
    nonce: u64,
    rtt_micros: Option<u64>,
}

impl Liveness {
    pub(super) fn new(side: Side, now: Micros) -> Self {
        Self { side, heard_at: now, wrote_at: now, pinged_at: None, nonce: 0, rtt_micros: None }
    }

    pub(super) fn heard(&mut self, now: Micros) {
        self.heard_at = now;
    }

    pub(super) fn wrote(&mut self, now: Micros) {
        self.wrote_at = now;
    }

    pub(super) fn ping(&mut self, now: Micros) -> u64 {
        self.pinged_at = Some(now);
        self.nonce += 1;
        self.nonce
    }

    pub(super) fn pong(&mut self, nonce: u64, now: Micros) {
        if nonce == self.nonce
            && let Some(pinged_at) = self.pinged_at.take()
        {
            self.rtt_micros = Some(now.since(pinged_at));
        }
    }

    pub(super) fn rtt_micros(&self) -> Option<u64> {
        self.rtt_micros
    }

    pub(super) fn next_wake(&self, busy: bool) -> Micros {
        let patience = self.patience(busy);
        match self.unanswered_ping() {
            Some(pinged_at) => pinged_at.max(self.wrote_at).plus(patience.unanswered_before_dead),
            None => self.heard_at.plus(patience.quiet_before_ping),
        }
    }

    /// A ping's nonce, if one is due.
    pub(super) fn on_time(&mut self, busy: bool, now: Micros) -> Result<Option<u64>, Silent> {
        let patience = self.patience(busy);
        let quiet = now.since(self.heard_at);
        match self.unanswered_ping() {
            Some(pinged_at) if now.since(pinged_at.max(self.wrote_at)) >= patience.unanswered_before_dead => {
                Err(Silent { quiet_ms: quiet / 1000 })
            }
            Some(_) => Ok(None),
            None if quiet >= patience.quiet_before_ping => Ok(Some(self.ping(now))),
            None => Ok(None),
        }
    }

    /// When the last ping went out, if nothing at all was heard since.
    fn unanswered_ping(&self) -> Option<Micros> {
        self.pinged_at.filter(|pinged_at| *pinged_at >= self.heard_at)
    }

    /// The agent asks first, so that on an idle link only one side does. A path on which an
    /// answer takes a second is given several.
    fn patience(&self, busy: bool) -> Patience {
        let slow_path = self.rtt_micros.unwrap_or(0).saturating_mul(3).min(10 * SECOND);
        match (busy, self.side) {
            (true, _) => Patience { quiet_before_ping: 2 * SECOND, unanswered_before_dead: slow_path.max(3 * SECOND) },
            (false, Side::Agent) => Patience { quiet_before_ping: 25 * SECOND, unanswered_before_dead: 15 * SECOND },
            (false, Side::Hub) => Patience { quiet_before_ping: 35 * SECOND, unanswered_before_dead: 10 * SECOND },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_peer_is_pinged_once_and_then_given_up() {
        let mut liveness = Liveness::new(Side::Agent, Micros(0));

        assert_eq!(liveness.on_time(true, Micros(SECOND)), Ok(None));
        assert_eq!(liveness.on_time(true, Micros(2 * SECOND)), Ok(Some(1)));
        assert_eq!(liveness.on_time(true, Micros(3 * SECOND)), Ok(None));
        assert_eq!(liveness.on_time(true, Micros(5 * SECOND)), Err(Silent { quiet_ms: 5000 }));
    }

    #[test]
    fn a_peer_that_takes_what_we_write_is_not_given_up() {
        let mut liveness = Liveness::new(Side::Agent, Micros(0));
        liveness.on_time(true, Micros(2 * SECOND)).unwrap();
        liveness.wrote(Micros(4 * SECOND));

        assert_eq!(liveness.on_time(true, Micros(6 * SECOND)), Ok(None));
        assert_eq!(liveness.next_wake(true), Micros(7 * SECOND));
        assert!(liveness.on_time(true, Micros(7 * SECOND)).is_err());
    }

    #[test]
    fn any_frame_keeps_a_peer_alive_and_a_pong_measures_the_round_trip() {
        let mut liveness = Liveness::new(Side::Hub, Micros(0));
        let nonce = liveness.on_time(true, Micros(2 * SECOND)).unwrap().unwrap();
        liveness.heard(Micros(2 * SECOND + 700));
        liveness.pong(nonce, Micros(2 * SECOND + 700));

        assert_eq!(liveness.rtt_micros(), Some(700));
        assert_eq!(liveness.on_time(true, Micros(4 * SECOND)), Ok(None));
    }

    #[test]
    fn a_stream_that_begins_on_a_long_idle_link_does_not_make_the_peer_late_at_once() {
        let mut liveness = Liveness::new(Side::Hub, Micros(0));

        let verdict = liveness.on_time(true, Micros(30 * SECOND));

        assert!(verdict.is_ok(), "{verdict:?}");
    }
}
