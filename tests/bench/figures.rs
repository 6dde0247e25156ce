//! What was measured: by metric, peer and round.
//!
//! Invariant: a figure is a whole number in the unit its metric's name ends with, and what
//! is shown of several rounds is their median.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::street::Peer;

/// Median and 99th percentile of many times, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Latencies {
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
}

/// Bytes, or anything else, per second.
pub(crate) fn per_second(count: u64, took_ns: u64) -> u64 {
    let per_second = u128::from(count) * 1_000_000_000 / u128::from(took_ns.max(1));
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

impl Latencies {
    /// Of none at all, both are 0.
    pub(crate) fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len() * percent / 100).or(times.last()).copied().unwrap_or_default();
        Self { p50_ns: at(50), p99_ns: at(99) }
    }
}

/// Every figure of a run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Metric, then peer, then rounds.
    measured: BTreeMap<String, BTreeMap<&'static str, Vec<u64>>>,
    /// Calls that failed.
    errors: BTreeMap<String, u64>,
    /// Calls that failed where nothing of ours was in the way: told, and no fault.
    errors_of_others: BTreeMap<String, u64>,
    /// Measurements that were taken again because others used the machine.
    repeated: u64,
    /// Measurements that stand although others used the machine.
    disturbed: u64,
}

impl Figures {
    /// Notes one round's figure.
    pub(crate) fn note(&mut self, metric: impl Into<String>, peer: &'static str, figure: u64) {
        self.measured.entry(metric.into()).or_default().entry(peer).or_default().push(figure);
    }

    /// Notes median and 99th percentile under `<metric>_p50_ns` and `<metric>_p99_ns`.
    pub(crate) fn note_latencies(&mut self, metric: &str, peer: &'static str, latencies: Latencies) {
        self.note(format!("{metric}_p50_ns"), peer, latencies.p50_ns);
        self.note(format!("{metric}_p99_ns"), peer, latencies.p99_ns);
    }

    /// Takes another's figures over; or, if they are to be measured again, only its failed calls.
    pub(crate) fn take_over(&mut self, other: Self, measured_again: bool) {
        for (what, count) in other.errors {
            self.note_errors(what, count);
        }
        for (what, count) in other.errors_of_others {
            *self.errors_of_others.entry(what).or_default() += count;
        }
        if !measured_again {
            for (metric, peers) in other.measured {
                let mine = self.measured.entry(metric).or_default();
                for (peer, rounds) in peers {
                    mine.entry(peer).or_default().extend(rounds);
                }
            }
        }
    }

    /// Notes failed calls, none included.
    pub(crate) fn note_errors(&mut self, what: impl Into<String>, count: u64) {
        *self.errors.entry(what.into()).or_default() += count;
    }

    /// Notes failed calls through a peer, none included.
    pub(crate) fn note_failed_calls(&mut self, peer: &Peer, count: u64) {
        let errors = if peer.is_ours() { &mut self.errors } else { &mut self.errors_of_others };
        *errors.entry(format!("failed calls through {}", peer.name)).or_default() += count;
    }

    /// Notes that others used the machine: the measurement is repeated, or stands all the same.
    pub(crate) fn note_disturbance(&mut self, repeated: bool) {
        if repeated { self.repeated += 1 } else { self.disturbed += 1 }
    }

    /// The median over the rounds.
    pub(crate) fn median(&self, metric: &str, peer: &str) -> Option<u64> {
        let mut rounds = self.measured.get(metric)?.get(peer)?.clone();
        rounds.sort_unstable();
        rounds.get(rounds.len() / 2).copied()
    }

    /// What a peer's median has more than the direct way's; 0 if it has less. A 99th
    /// percentile is compared with the direct way's 50th, whose own 99th is mostly noise.
    pub(crate) fn added(&self, metric: &str, peer: &str) -> Option<u64> {
        let direct = self.median(&metric.replace("_p99_", "_p50_"), "direct")?;
        Some(self.median(metric, peer)?.saturating_sub(direct))
    }

    /// Failed calls of the whole run, by what failed.
    pub(crate) fn failed(&self) -> Vec<String> {
        told(&self.errors)
    }

    /// The same where nothing of ours was in the way.
    pub(crate) fn failed_of_others(&self) -> Vec<String> {
        told(&self.errors_of_others)
    }

    /// How often others used the machine: repeated, and left standing.
    pub(crate) fn disturbances(&self) -> (u64, u64) {
        (self.repeated, self.disturbed)
    }
}

fn told(errors: &BTreeMap<String, u64>) -> Vec<String> {
    let failed = errors.iter().filter(|(_, count)| **count > 0);
    failed.map(|(what, count)| format!("{count} {what}")).collect()
}
