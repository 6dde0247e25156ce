//! What a link counts, for the operator.
//!
//! Invariant: counting never changes what the link does.

use crate::frame::AbortReason;

/// Counters of a link since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Streams opened.
    pub opened: u64,
    /// Streams the peer opened beyond a limit, answered with ABORT `busy`.
    pub opens_refused: u64,
    /// DATA bytes sent.
    pub data_sent_bytes: u64,
    /// DATA bytes received.
    pub data_received_bytes: u64,
    /// ABORT frames sent first (not in answer to one).
    pub aborts_sent: AbortCounts,
    /// ABORT frames received first (not in answer to one).
    pub aborts_received: AbortCounts,
    /// Times a stream had data and no credit.
    pub credit_stalls: u64,
    /// RECEIPT frames sent.
    pub receipts_sent: u64,
    /// RECEIPT frames received.
    pub receipts_received: u64,
    /// How long data waited for its turn.
    pub queue_delay: QueueDelay,
}

/// How many aborts for which reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortCounts([u64; AbortReason::ALL.len()]);

impl AbortCounts {
    /// How many for this reason.
    pub fn of(&self, reason: AbortReason) -> u64 {
        self.iter().find(|(counted, _)| *counted == reason).map_or(0, |(_, count)| count)
    }

    /// How many for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (AbortReason, u64)> {
        AbortReason::ALL.into_iter().zip(self.0)
    }

    pub(super) fn add(&mut self, reason: AbortReason) {
        for (counted, count) in AbortReason::ALL.into_iter().zip(&mut self.0) {
            *count += u64::from(counted == reason);
        }
    }
}

impl Default for AbortCounts {
    fn default() -> Self {
        Self([0; AbortReason::ALL.len()])
    }
}

/// Time from "queued, with credit" to "put into a batch", in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueDelay {
    /// The last one.
    pub last_micros: u64,
    /// Moving average: each new one weighs an eighth.
    pub mean_micros: u64,
    /// The longest one.
    pub max_micros: u64,
}

impl QueueDelay {
    pub(super) fn measured(&mut self, micros: u64) {
        self.last_micros = micros;
        self.mean_micros = self.mean_micros - self.mean_micros / 8 + micros / 8;
        self.max_micros = self.max_micros.max(micros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aborts_are_counted_by_reason() {
        let mut counts = AbortCounts::default();
        for reason in [AbortReason::Busy, AbortReason::ConsumerGone, AbortReason::Busy] {
            counts.add(reason);
        }

        assert_eq!((counts.of(AbortReason::Busy), counts.of(AbortReason::Protocol), counts.total()), (2, 0, 3));
    }

    #[test]
    fn the_mean_delay_follows_what_is_measured() {
        let mut delay = QueueDelay::default();
        (0..100).for_each(|_| delay.measured(8_000));
        delay.measured(80);

        assert!((6_900..8_000).contains(&delay.mean_micros), "{delay:?}");
        assert_eq!((delay.last_micros, delay.max_micros), (80, 8_000));
    }
}
