//! What is measured, and how much of it.
//!
//! Invariant: the quick run asserts counts and its figures mean little; every row can be run alone.

use std::time::Duration;

use clap::ValueEnum;

/// A row of the tables, or several that are taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// Calls per second, latency, CPU per call, at 1, 32 and 256 connections.
    Load,
    /// Time to the first byte of calls one after the other.
    FirstByte,
    /// Time to the first byte of 64 connections made at once.
    NewStreams,
    /// How late events are, with 1 stream and with 64.
    Events,
    /// One large answer, one large request.
    Bulk,
    /// How late events are beside four saturating streams.
    Fairness,
    /// How soon the vendor's connection is closed when a consumer leaves.
    Cancel,
    /// A path of 10 MB/s and 30 ms: events beside two downloads.
    SlowPath,
    /// A path of 40 MB/s and 100 ms: one download.
    FarPath,
    /// 10,000 agents: memory of an idle one and after a burst, the return after a hub's death.
    Fleet,
    /// An idle agent: memory, wake-ups.
    IdleAgent,
    /// 1,000 consumers that stop reading.
    Stalls,
    /// Agents and hubs that are replaced under load.
    Drain,
    /// How soon a peer that fell silent is noticed.
    DeadPeer,
    /// What metering costs by itself.
    Tap,
}

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The rows.
    pub(crate) rows: Vec<Row>,
    /// Rounds of the rows that compare peers.
    pub(crate) rounds: usize,
    /// How long wrk runs.
    pub(crate) load: Duration,
    /// Calls one after the other.
    pub(crate) serial_calls: usize,
    /// How often 64 connections are made at once.
    pub(crate) bursts: usize,
    /// Events of one stream.
    pub(crate) events_1: u64,
    /// Events of each of 64 streams.
    pub(crate) events_64: u64,
    /// Bytes of a large answer.
    pub(crate) bulk_bytes: u64,
    /// Cancels of each phase through a peer.
    pub(crate) cancels: usize,
    /// Cancels of each phase through Keyhaven.
    pub(crate) own_cancels: usize,
    /// Agents of the fleet.
    pub(crate) agents: usize,
    /// Consumers that stop reading.
    pub(crate) stalled: usize,
    /// Calls during which daemons are replaced.
    pub(crate) drain_calls: u64,
    /// How long an idle agent is watched.
    pub(crate) idle: Duration,
    /// How many disturbed measurements are taken again in the whole run.
    pub(crate) repeats: u64,
}

impl Plan {
    /// For figures.
    pub(crate) fn full() -> Self {
        Self {
            rows: Row::value_variants().to_vec(),
            rounds: 3,
            load: Duration::from_secs(3),
            serial_calls: 500,
            bursts: 20,
            events_1: 200,
            events_64: 50,
            bulk_bytes: 100_000_000,
            cancels: 100,
            own_cancels: 1000,
            agents: 10_000,
            stalled: 1000,
            drain_calls: 20_000,
            idle: Duration::from_secs(30),
            repeats: 20,
        }
    }

    /// For the counts that take long: lost cancels, failed calls.
    pub(crate) fn long() -> Self {
        Self { own_cancels: 10_000, drain_calls: 100_000, idle: Duration::from_secs(120), ..Self::full() }
    }

    /// To see that everything runs and that nothing is lost.
    pub(crate) fn quick() -> Self {
        Self {
            rows: vec![Row::Load, Row::FirstByte, Row::Events, Row::Cancel, Row::Drain, Row::Tap],
            rounds: 1,
            load: Duration::from_secs(1),
            serial_calls: 50,
            bursts: 2,
            events_1: 40,
            events_64: 10,
            bulk_bytes: 20_000_000,
            cancels: 10,
            own_cancels: 500,
            agents: 500,
            stalled: 50,
            drain_calls: 5000,
            idle: Duration::from_secs(5),
            repeats: 0,
        }
    }

    /// Whether a row is to be taken.
    pub(crate) fn has(&self, row: Row) -> bool {
        self.rows.contains(&row)
    }

    /// Whether any row compares peers.
    pub(crate) fn compares(&self) -> bool {
        self.rows.iter().any(|row| row.compares())
    }
}

impl Row {
    /// Whether it is taken through every peer in turn.
    pub(crate) const fn compares(self) -> bool {
        match self {
            Self::Load
            | Self::FirstByte
            | Self::NewStreams
            | Self::Events
            | Self::Bulk
            | Self::Fairness
            | Self::Cancel => true,
            Self::SlowPath
            | Self::FarPath
            | Self::Fleet
            | Self::IdleAgent
            | Self::Stalls
            | Self::Drain
            | Self::DeadPeer
            | Self::Tap => false,
        }
    }
}
