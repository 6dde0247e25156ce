//! The figures for people: a table, and the goals beside them.
//!
//! Invariant: nothing is rounded in anybody's favour; a goal that is missed says so.

use crate::figures::Figures;
use crate::goals::Bound;
use crate::goals::GOALS;
use crate::street::NAMES;

/// How a figure is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    /// As it is.
    Count,
    /// Nanoseconds as microseconds.
    Micros,
    /// Nanoseconds as milliseconds.
    Millis,
    /// Bytes a second as megabytes a second.
    MegabytesPerSecond,
    /// KiB as MiB.
    Mebibytes,
    /// Bytes as KiB.
    Kibibytes,
    /// Hundredths as a number.
    Hundredths,
    /// Bytes a second as gigabytes a second.
    GigabytesPerSecond,
}

use Unit::Count;
use Unit::GigabytesPerSecond;
use Unit::Hundredths;
use Unit::Kibibytes;
use Unit::Mebibytes;
use Unit::MegabytesPerSecond;
use Unit::Micros;
use Unit::Millis;

/// A row: its title, its metric, its unit, whether only what is added to the direct way is shown.
struct Row(&'static str, &'static str, Unit, bool);

const ROWS: &[Row] = &[
    Row("calls/s, 1 connection", "calls_per_second_1", Count, false),
    Row("calls/s, 32 connections", "calls_per_second_32", Count, false),
    Row("calls/s, 256 connections", "calls_per_second_256", Count, false),
    Row("latency p50, 32 connections, ms", "latency_32_p50_ns", Millis, false),
    Row("latency p99, 32 connections, ms", "latency_32_p99_ns", Millis, false),
    Row("latency p50, 256 connections, ms", "latency_256_p50_ns", Millis, false),
    Row("latency p99, 256 connections, ms", "latency_256_p99_ns", Millis, false),
    Row("CPU per call, 1 connection, us", "cpu_per_call_1_ns", Micros, false),
    Row("CPU per call, 32 connections, us", "cpu_per_call_32_ns", Micros, false),
    Row("  of it hub", "cpu_per_call_32_hub_ns", Micros, false),
    Row("  of it agent", "cpu_per_call_32_agent_ns", Micros, false),
    Row("CPU per call, 256 connections, us", "cpu_per_call_256_ns", Micros, false),
    Row("  of it hub", "cpu_per_call_256_hub_ns", Micros, false),
    Row("  of it agent", "cpu_per_call_256_agent_ns", Micros, false),
    Row("resident memory after 256 connections, MiB", "resident_kib", Mebibytes, false),
    Row("  of it hub", "resident_hub_kib", Mebibytes, false),
    Row("  of it agent", "resident_agent_kib", Mebibytes, false),
    Row("first byte, serial, p50, us", "first_byte_p50_ns", Micros, false),
    Row("first byte, serial, p99, us", "first_byte_p99_ns", Micros, false),
    Row("  added p50", "first_byte_p50_ns", Micros, true),
    Row("  added p99", "first_byte_p99_ns", Micros, true),
    Row("64 new connections at once, first byte p50, ms", "new_streams_p50_ns", Millis, false),
    Row("64 new connections at once, first byte p99, ms", "new_streams_p99_ns", Millis, false),
    Row("event, 1 stream x 5 ms, added p50, us", "event_1_p50_ns", Micros, true),
    Row("event, 1 stream x 5 ms, added p99, us", "event_1_p99_ns", Micros, true),
    Row("event, 64 streams x 20 ms, added p50, us", "event_64_p50_ns", Micros, true),
    Row("event, 64 streams x 20 ms, added p99, us", "event_64_p99_ns", Micros, true),
    Row("100 MB answer, MB/s", "download_bytes_per_second", MegabytesPerSecond, false),
    Row("  CPU for it, ms", "download_cpu_ns", Millis, false),
    Row("60 MB request, MB/s", "upload_bytes_per_second", MegabytesPerSecond, false),
    Row("  CPU for it, ms", "upload_cpu_ns", Millis, false),
    Row("resident memory after both, MiB", "resident_after_bulk_kib", Mebibytes, false),
    Row("event under 4 downloads, p50, us", "event_fair_down_p50_ns", Micros, false),
    Row("event under 4 downloads, p99, us", "event_fair_down_p99_ns", Micros, false),
    Row("  the downloads, MB/s", "fair_down_bytes_per_second", MegabytesPerSecond, false),
    Row("event under 4 uploads, p50, us", "event_fair_up_p50_ns", Micros, false),
    Row("event under 4 uploads, p99, us", "event_fair_up_p99_ns", Micros, false),
    Row("  the uploads, MB/s", "fair_up_bytes_per_second", MegabytesPerSecond, false),
    Row("cancel before the head, p50, us", "cancel_before_head_p50_ns", Micros, false),
    Row("cancel before the head, p99, us", "cancel_before_head_p99_ns", Micros, false),
    Row("cancel in the upload, p50, us", "cancel_mid_upload_p50_ns", Micros, false),
    Row("cancel in the upload, p99, us", "cancel_mid_upload_p99_ns", Micros, false),
    Row("cancel in the stream, p50, us", "cancel_mid_stream_p50_ns", Micros, false),
    Row("cancel in the stream, p99, us", "cancel_mid_stream_p99_ns", Micros, false),
    Row("cancel in a JSON answer, p50, us", "cancel_non_stream_p50_ns", Micros, false),
    Row("cancel in a JSON answer, p99, us", "cancel_non_stream_p99_ns", Micros, false),
    Row("many cancels: in each phase", "many_cancel_before_head_count", Count, false),
    Row("  before the head, p50, us", "many_cancel_before_head_p50_ns", Micros, false),
    Row("  before the head, p99, us", "many_cancel_before_head_p99_ns", Micros, false),
    Row("  before the head, lost", "many_cancel_before_head_lost", Count, false),
    Row("  in the upload, p50, us", "many_cancel_mid_upload_p50_ns", Micros, false),
    Row("  in the upload, p99, us", "many_cancel_mid_upload_p99_ns", Micros, false),
    Row("  in the upload, lost", "many_cancel_mid_upload_lost", Count, false),
    Row("  in the stream, p50, us", "many_cancel_mid_stream_p50_ns", Micros, false),
    Row("  in the stream, p99, us", "many_cancel_mid_stream_p99_ns", Micros, false),
    Row("  in the stream, lost", "many_cancel_mid_stream_lost", Count, false),
    Row("  in a JSON answer, p50, us", "many_cancel_non_stream_p50_ns", Micros, false),
    Row("  in a JSON answer, p99, us", "many_cancel_non_stream_p99_ns", Micros, false),
    Row("  in a JSON answer, lost", "many_cancel_non_stream_lost", Count, false),
    Row("cancel under 4 downloads, before the head, p99, us", "busy_cancel_before_head_p99_ns", Micros, false),
    Row("  in the upload, p99, us", "busy_cancel_mid_upload_p99_ns", Micros, false),
    Row("  in the stream, p99, us", "busy_cancel_mid_stream_p99_ns", Micros, false),
    Row("  in a JSON answer, p99, us", "busy_cancel_non_stream_p99_ns", Micros, false),
    Row("10 MB/s, 30 ms: event alone, p50, ms", "slow_alone_p50_ns", Millis, false),
    Row("  event under 2 downloads, p50, ms", "slow_under_p50_ns", Millis, false),
    Row("  event under 2 downloads, p99, ms", "slow_under_p99_ns", Millis, false),
    Row("  the downloads, MB/s", "slow_bytes_per_second", MegabytesPerSecond, false),
    Row("40 MB/s, 100 ms: one download, MB/s", "far_bytes_per_second", MegabytesPerSecond, false),
    Row("agents in the fleet", "fleet_agents", Count, false),
    Row("  hub's memory per idle agent, KiB", "fleet_idle_bytes", Kibibytes, false),
    Row("  with the kernel's, KiB", "fleet_idle_kernel_bytes", Kibibytes, false),
    Row("  30 s after a burst of 10 MB each, KiB", "fleet_burst_bytes", Kibibytes, false),
    Row("  agents in that burst", "fleet_burst_agents", Count, false),
    Row("  hub's CPU per agent that joins, us", "fleet_link_cpu_ns", Micros, false),
    Row("  a call among them, first byte p50, us", "fleet_first_byte_p50_ns", Micros, false),
    Row("hub killed: until half are back, ms", "reconnect_p50_ns", Millis, false),
    Row("  until all are back, ms", "reconnect_all_ns", Millis, false),
    Row("  until a call is answered, ms", "reconnect_service_ns", Millis, false),
    Row("  hub's CPU per link made again, us", "reconnect_cpu_ns", Micros, false),
    Row("  attempts that were refused", "reconnect_refused", Count, false),
    Row("idle agent, resident MiB", "idle_agent_kib", Mebibytes, false),
    Row("  wake-ups per second", "idle_agent_wakeups_hundredths", Hundredths, false),
    Row("  CPU per minute, ms", "idle_agent_cpu_ns", Millis, false),
    Row("idle hub, resident MiB", "idle_hub_kib", Mebibytes, false),
    Row("stalled consumers", "stalled", Count, false),
    Row("  others' p99 before, us", "stall_before_p99_ns", Micros, false),
    Row("  others' p99 beside large answers, us", "stall_large_p99_ns", Micros, false),
    Row("    hub's memory per stalled call, KiB", "stall_large_bytes", Kibibytes, false),
    Row("  others' p99 beside 40-byte pieces, us", "stall_crumbs_p99_ns", Micros, false),
    Row("    hub's memory per stalled call, KiB", "stall_crumbs_bytes", Kibibytes, false),
    Row("  links lost", "stall_links_lost", Count, false),
    Row("calls while agents were replaced", "drain_agent_calls", Count, false),
    Row("  agents replaced", "drain_agent_times", Count, false),
    Row("  failed", "drain_agent_failed", Count, false),
    Row("  slowest call, ms", "drain_agent_slowest_ns", Millis, false),
    Row("calls while hubs were replaced", "drain_hub_calls", Count, false),
    Row("  hubs replaced", "drain_hub_times", Count, false),
    Row("  failed", "drain_hub_failed", Count, false),
    Row("  slowest call, ms", "drain_hub_slowest_ns", Millis, false),
    Row("silent agent, a stream open: noticed after, ms", "dead_busy_ns", Millis, false),
    Row("silent agent, idle: noticed after, ms", "dead_idle_ns", Millis, false),
    Row("metering on one core: events, GB/s", "tap_events_bytes_per_second", GigabytesPerSecond, false),
    Row("  events in gzip, GB/s of what they are undone", "tap_gzip_bytes_per_second", GigabytesPerSecond, false),
    Row("  one JSON answer, GB/s", "tap_json_bytes_per_second", GigabytesPerSecond, false),
    Row("  a call of 1 KiB with its bill, us", "tap_call_ns", Micros, false),
    Row("  of the hub's CPU per call, percent", "tap_hub_share_hundredths", Hundredths, false),
    Row("  of the agent's CPU per call, percent", "tap_agent_share_hundredths", Hundredths, false),
];

/// Everything, as Markdown.
pub(crate) fn to_text(figures: &Figures, rounds: usize) -> String {
    let peers = NAMES.map(|name| (name, ROWS.iter().any(|row| figures.median(row.1, name).is_some())));
    let peers: Vec<&str> = peers.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
    let mut out = format!("Medians of {rounds} rounds\n\n| | {} |\n", peers.join(" | "));
    out += &format!("|---|{}\n", "---:|".repeat(peers.len()));
    for row in ROWS {
        let shown: Vec<Option<String>> = peers.iter().map(|peer| row.show(figures, peer)).collect();
        if shown.iter().any(Option::is_some) {
            let shown: Vec<String> = shown.into_iter().map(|shown| shown.unwrap_or_else(|| "-".to_owned())).collect();
            out += &format!("| {} | {} |\n", row.0, shown.join(" | "));
        }
    }
    out += "\n| Keyhaven | goal | here | |\n|---|---:|---:|---|\n";
    for goal in GOALS {
        let Some((limit, figure, met)) = goal.judge(figures) else { continue };
        let sign = if goal.bound.is_floor() { ">=" } else { "<=" };
        let because = goal.bound.because();
        let verdict = if met { "met" } else { "missed" };
        let (limit, figure) = (goal.unit.show(limit), goal.unit.show(figure));
        out += &format!("| {} | {sign} {limit}{because} | {figure} | {verdict} |\n", goal.title);
    }
    let (repeated, disturbed) = figures.disturbances();
    out += &format!(
        "\nTaken again because others used the machine: {repeated}; left standing all the same: {disturbed}\n"
    );
    for failed in figures.failed_of_others() {
        out += &format!("No fault of ours: {failed}\n");
    }
    out
}

impl Row {
    fn show(&self, figures: &Figures, peer: &str) -> Option<String> {
        let Self(_, metric, unit, added) = self;
        let figure = if *added { figures.added(metric, peer) } else { figures.median(metric, peer) };
        figure.filter(|_| !(*added && peer == "direct")).map(|figure| unit.show(figure))
    }
}

impl Bound {
    /// What a relative bound is made of.
    fn because(&self) -> String {
        match self {
            Self::Most(_) | Self::Least(_) => String::new(),
            Self::TimesOrLess(hundredths, peer) | Self::TimesOrMore(hundredths, peer) => {
                format!(" ({} x {peer})", Hundredths.show(*hundredths))
            }
        }
    }
}

impl Unit {
    fn show(self, figure: u64) -> String {
        match self {
            Self::Count => figure.to_string(),
            Self::Micros => tenths(figure, 1_000),
            Self::Millis => tenths(figure, 1_000_000),
            Self::MegabytesPerSecond => (figure / 1_000_000).to_string(),
            Self::Mebibytes | Self::Kibibytes => tenths(figure, 1024),
            Self::Hundredths => format!("{}.{:02}", figure / 100, figure % 100),
            Self::GigabytesPerSecond => {
                format!("{}.{:02}", figure / 1_000_000_000, figure % 1_000_000_000 / 10_000_000)
            }
        }
    }
}

/// A figure in a larger unit with one digit behind the point, rounded up.
fn tenths(figure: u64, unit: u64) -> String {
    let tenths = (figure * 10).div_ceil(unit);
    format!("{}.{}", tenths / 10, tenths % 10)
}
