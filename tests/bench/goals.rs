//! What we hold ourselves to.
//!
//! Invariant: a goal is a bound of our own or a multiple of what a peer did in the same run.

use crate::figures::Figures;
use crate::report::Unit;

/// A goal for Keyhaven.
pub(crate) struct Goal {
    /// As the table says it.
    pub(crate) title: &'static str,
    /// Of which peer: Keyhaven, or its tunnel alone.
    peer: &'static str,
    metric: &'static str,
    /// Only what is added to the direct way.
    added: bool,
    /// How figure and bound are shown.
    pub(crate) unit: Unit,
    /// What is good enough.
    pub(crate) bound: Bound,
}

/// What is good enough.
pub(crate) enum Bound {
    /// Not more.
    Most(u64),
    /// Not less.
    Least(u64),
    /// Not more than so many hundredths of the same metric of that peer.
    TimesOrLess(u64, &'static str),
    /// Not less than so many hundredths of the same metric of that peer.
    TimesOrMore(u64, &'static str),
}

use Bound::Least;
use Bound::Most;
use Bound::TimesOrLess;
use Bound::TimesOrMore;
use Unit::Count;
use Unit::Hundredths;
use Unit::Kibibytes;
use Unit::Mebibytes;
use Unit::MegabytesPerSecond;
use Unit::Micros;
use Unit::Millis;

const fn own(title: &'static str, metric: &'static str, unit: Unit, bound: Bound) -> Goal {
    Goal { title, peer: "keyhaven", metric, added: false, unit, bound }
}

const fn bare(title: &'static str, metric: &'static str, unit: Unit, bound: Bound) -> Goal {
    Goal { title, peer: "bare tunnel", metric, added: false, unit, bound }
}

const fn added(title: &'static str, metric: &'static str, unit: Unit, bound: Bound) -> Goal {
    Goal { title, peer: "keyhaven", metric, added: true, unit, bound }
}

/// All of them, in the order of the tables.
pub(crate) const GOALS: &[Goal] = &[
    own("calls/s, 32 connections", "calls_per_second_32", Count, Least(8_000)),
    own("calls/s, 32 connections", "calls_per_second_32", Count, TimesOrMore(130, "nginx+rathole+TLS")),
    bare("bare tunnel, calls/s, 32 connections", "calls_per_second_32", Count, TimesOrMore(130, "nginx+rathole")),
    bare("bare tunnel, calls/s, 256 connections", "calls_per_second_256", Count, TimesOrMore(130, "nginx+rathole")),
    bare("bare tunnel, calls/s, 32 connections", "calls_per_second_32", Count, TimesOrMore(85, "rathole")),
    own("CPU per call, everything on, us", "cpu_per_call_32_ns", Micros, Most(150_000)),
    bare("bare tunnel, CPU per call, us", "cpu_per_call_32_ns", Micros, Most(28_000)),
    own("latency p99, 256 connections, ms", "latency_256_p99_ns", Millis, TimesOrLess(100, "rathole")),
    own("latency p99, 256 connections, ms", "latency_256_p99_ns", Millis, TimesOrLess(10, "nginx+rathole+TLS")),
    added("added to the first byte, p50, us", "first_byte_p50_ns", Micros, Most(90_000)),
    added("added to the first byte, p99, us", "first_byte_p99_ns", Micros, Most(3_000_000)),
    own("64 new connections, first byte p50, ms", "new_streams_p50_ns", Millis, Most(2_000_000)),
    added("added per event, 1 stream, p50, us", "event_1_p50_ns", Micros, Most(45_000)),
    added("added per event, 1 stream, p99, us", "event_1_p99_ns", Micros, Most(110_000)),
    added("added per event, 64 streams, p50, us", "event_64_p50_ns", Micros, Most(150_000)),
    bare(
        "bare tunnel, 100 MB answer, MB/s",
        "download_bytes_per_second",
        MegabytesPerSecond,
        TimesOrMore(90, "rathole"),
    ),
    own("event p99 under 4 downloads, us", "event_fair_down_p99_ns", Micros, Most(2_000_000)),
    own("event p99 under 4 downloads, us", "event_fair_down_p99_ns", Micros, TimesOrLess(25, "rathole")),
    own("the downloads, MB/s", "fair_down_bytes_per_second", MegabytesPerSecond, TimesOrMore(80, "rathole")),
    own("event p99 under 4 uploads, us", "event_fair_up_p99_ns", Micros, Most(2_000_000)),
    own("event p99 under 4 uploads, us", "event_fair_up_p99_ns", Micros, TimesOrLess(25, "rathole")),
    own("the uploads, MB/s", "fair_up_bytes_per_second", MegabytesPerSecond, TimesOrMore(80, "rathole")),
    own("cancel before the head, p50, us", "many_cancel_before_head_p50_ns", Micros, Most(200_000)),
    own("cancel before the head, p99, us", "many_cancel_before_head_p99_ns", Micros, Most(1_000_000)),
    own("cancel in the upload, p50, us", "many_cancel_mid_upload_p50_ns", Micros, Most(200_000)),
    own("cancel in the upload, p99, us", "many_cancel_mid_upload_p99_ns", Micros, Most(1_000_000)),
    own("cancel in the stream, p50, us", "many_cancel_mid_stream_p50_ns", Micros, Most(200_000)),
    own("cancel in the stream, p99, us", "many_cancel_mid_stream_p99_ns", Micros, Most(1_000_000)),
    own("cancel in a JSON answer, p50, us", "many_cancel_non_stream_p50_ns", Micros, Most(200_000)),
    own("cancel in a JSON answer, p99, us", "many_cancel_non_stream_p99_ns", Micros, Most(1_000_000)),
    own("cancel before the head under 4 downloads, p99, us", "busy_cancel_before_head_p99_ns", Micros, Most(5_000_000)),
    own("cancel in the upload under 4 downloads, p99, us", "busy_cancel_mid_upload_p99_ns", Micros, Most(5_000_000)),
    own("cancel in the stream under 4 downloads, p99, us", "busy_cancel_mid_stream_p99_ns", Micros, Most(5_000_000)),
    own("cancel in a JSON answer under 4 downloads, p99, us", "busy_cancel_non_stream_p99_ns", Micros, Most(5_000_000)),
    own("10 MB/s, 30 ms: added under 2 downloads, p50, ms", "slow_added_p50_ns", Millis, Most(10_000_000)),
    own("40 MB/s, 100 ms: one download, MB/s", "far_bytes_per_second", MegabytesPerSecond, Least(36_000_000)),
    own("hub's memory per idle agent, KiB", "fleet_idle_bytes", Kibibytes, Most(16 * 1024)),
    own("  with the kernel's, KiB", "fleet_idle_kernel_bytes", Kibibytes, Most(22 * 1024)),
    own("  30 s after a burst, KiB", "fleet_burst_bytes", Kibibytes, Most(20 * 1024)),
    own("hub killed: until a call is answered, ms", "reconnect_service_ns", Millis, Most(300_000_000)),
    own("hub killed: until all agents are back, ms", "reconnect_all_ns", Millis, Most(5_000_000_000)),
    own("hub killed: attempts refused", "reconnect_refused", Count, Most(0)),
    own("idle agent, resident MiB", "idle_agent_kib", Mebibytes, Most(10 * 1024)),
    own("idle agent, wake-ups per second", "idle_agent_wakeups_hundredths", Hundredths, Most(10)),
    own("p99 beside stalled large answers, us", "stall_large_p99_ns", Micros, TimesOrLess(120, "before")),
    own("  hub's memory per stalled call, KiB", "stall_large_bytes", Kibibytes, Most(64 * 1024)),
    own("p99 beside stalled 40-byte pieces, us", "stall_crumbs_p99_ns", Micros, TimesOrLess(120, "before")),
    own("  hub's memory per stalled call, KiB", "stall_crumbs_bytes", Kibibytes, Most(64 * 1024)),
    own("  links lost", "stall_links_lost", Count, Most(0)),
    own("calls failed while agents were replaced", "drain_agent_failed", Count, Most(0)),
    own("calls failed while hubs were replaced", "drain_hub_failed", Count, Most(0)),
    own("silent agent, a stream open, noticed after, ms", "dead_busy_ns", Millis, Most(5_500_000_000)),
    own("silent agent, idle, noticed after, ms", "dead_idle_ns", Millis, Most(45_500_000_000)),
];

impl Goal {
    /// What was measured.
    pub(crate) fn figure(&self, figures: &Figures) -> Option<u64> {
        if self.added { figures.added(self.metric, self.peer) } else { figures.median(self.metric, self.peer) }
    }

    /// The bound as a figure, and whether it was kept; none without the peer's figure.
    pub(crate) fn judge(&self, figures: &Figures) -> Option<(u64, u64, bool)> {
        let figure = self.figure(figures)?;
        let limit = match self.bound {
            Most(limit) | Least(limit) => limit,
            TimesOrLess(hundredths, peer) | TimesOrMore(hundredths, peer) => {
                figures.median(self.metric, peer)? * hundredths / 100
            }
        };
        let met = if self.bound.is_floor() { figure >= limit } else { figure <= limit };
        Some((limit, figure, met))
    }
}

impl Bound {
    /// Whether more is better.
    pub(crate) const fn is_floor(&self) -> bool {
        match self {
            Least(_) | TimesOrMore(..) => true,
            Most(_) | TimesOrLess(..) => false,
        }
    }
}
