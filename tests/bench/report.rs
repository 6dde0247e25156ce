//! The figures for people: a table, ratios, and the goals beside them.
//!
//! Invariant: nothing is rounded in anybody's favour; a goal that is missed says so.

use crate::figures::Figures;

const PEERS: [&str; 3] = ["direct", "nginx", "keyhaven"];

/// How a figure is shown.
#[derive(Clone, Copy)]
enum Unit {
    Count,
    Micros,
    Millis,
    MegabytesPerSecond,
    Mebibytes,
}

/// A row: its title, its metric, whether only what is added to the direct way is shown.
struct Row(&'static str, &'static str, Unit, bool);

const ROWS: &[Row] = &[
    Row("calls/s, 1 connection", "calls_per_second_1", Unit::Count, false),
    Row("calls/s, 32 connections", "calls_per_second_32", Unit::Count, false),
    Row("calls/s, 256 connections", "calls_per_second_256", Unit::Count, false),
    Row("latency p50, 32 connections, ms", "latency_32_p50_ns", Unit::Millis, false),
    Row("latency p99, 32 connections, ms", "latency_32_p99_ns", Unit::Millis, false),
    Row("latency p50, 256 connections, ms", "latency_256_p50_ns", Unit::Millis, false),
    Row("latency p99, 256 connections, ms", "latency_256_p99_ns", Unit::Millis, false),
    Row("CPU per call, 1 connection, us", "cpu_per_call_1_ns", Unit::Micros, false),
    Row("CPU per call, 32 connections, us", "cpu_per_call_32_ns", Unit::Micros, false),
    Row("  of it hub", "cpu_per_call_32_hub_ns", Unit::Micros, false),
    Row("  of it agent", "cpu_per_call_32_agent_ns", Unit::Micros, false),
    Row("CPU per call, 256 connections, us", "cpu_per_call_256_ns", Unit::Micros, false),
    Row("  of it hub", "cpu_per_call_256_hub_ns", Unit::Micros, false),
    Row("  of it agent", "cpu_per_call_256_agent_ns", Unit::Micros, false),
    Row("resident memory after 256 connections, MiB", "resident_kib", Unit::Mebibytes, false),
    Row("  of it hub", "resident_hub_kib", Unit::Mebibytes, false),
    Row("  of it agent", "resident_agent_kib", Unit::Mebibytes, false),
    Row("first byte, serial, p50, us", "first_byte_p50_ns", Unit::Micros, false),
    Row("first byte, serial, p99, us", "first_byte_p99_ns", Unit::Micros, false),
    Row("  added p50", "first_byte_p50_ns", Unit::Micros, true),
    Row("  added p99", "first_byte_p99_ns", Unit::Micros, true),
    Row("event, 1 stream x 5 ms, added p50, us", "event_1_p50_ns", Unit::Micros, true),
    Row("event, 1 stream x 5 ms, added p99, us", "event_1_p99_ns", Unit::Micros, true),
    Row("event, 64 streams x 20 ms, added p50, us", "event_64_p50_ns", Unit::Micros, true),
    Row("event, 64 streams x 20 ms, added p99, us", "event_64_p99_ns", Unit::Micros, true),
    Row("event under 4 downloads, p50, us", "event_fair_down_p50_ns", Unit::Micros, false),
    Row("event under 4 downloads, p99, us", "event_fair_down_p99_ns", Unit::Micros, false),
    Row("  the downloads, MB/s", "fair_down_bytes_per_second", Unit::MegabytesPerSecond, false),
    Row("event under 4 uploads, p50, us", "event_fair_up_p50_ns", Unit::Micros, false),
    Row("event under 4 uploads, p99, us", "event_fair_up_p99_ns", Unit::Micros, false),
    Row("  the uploads, MB/s", "fair_up_bytes_per_second", Unit::MegabytesPerSecond, false),
    Row("cancel before the head, p50, us", "cancel_before_head_p50_ns", Unit::Micros, false),
    Row("cancel before the head, p99, us", "cancel_before_head_p99_ns", Unit::Micros, false),
    Row("cancel in the stream, p50, us", "cancel_mid_stream_p50_ns", Unit::Micros, false),
    Row("cancel in the stream, p99, us", "cancel_mid_stream_p99_ns", Unit::Micros, false),
    Row("cancels lost", "cancels_lost", Unit::Count, false),
    Row("100 MB answer, MB/s", "bulk_bytes_per_second", Unit::MegabytesPerSecond, false),
    Row("  CPU for it, ms", "bulk_cpu_ns", Unit::Millis, false),
];

/// A goal: its text, the metric, whether added, the bound, whether it is a floor.
struct Goal(&'static str, &'static str, Unit, bool, Bound);

enum Bound {
    AtMost(u64),
    AtLeast(u64),
}

const GOALS: &[Goal] = &[
    Goal("calls/s, 32 connections", "calls_per_second_32", Unit::Count, false, Bound::AtLeast(8_000)),
    Goal(
        "CPU hub + agent per call, everything on, us",
        "cpu_per_call_32_ns",
        Unit::Micros,
        false,
        Bound::AtMost(150_000),
    ),
    Goal("CPU hub + agent per call, bare tunnel, us", "cpu_per_call_32_ns", Unit::Micros, false, Bound::AtMost(28_000)),
    Goal("latency p99, 256 connections, ms", "latency_256_p99_ns", Unit::Millis, false, Bound::AtMost(10_000_000)),
    Goal("added to the first byte, p50, us", "first_byte_p50_ns", Unit::Micros, true, Bound::AtMost(90_000)),
    Goal("added to the first byte, p99, us", "first_byte_p99_ns", Unit::Micros, true, Bound::AtMost(3_000_000)),
    Goal("added per event, 1 stream, p50, us", "event_1_p50_ns", Unit::Micros, true, Bound::AtMost(45_000)),
    Goal("added per event, 1 stream, p99, us", "event_1_p99_ns", Unit::Micros, true, Bound::AtMost(110_000)),
    Goal("added per event, 64 streams, p50, us", "event_64_p50_ns", Unit::Micros, true, Bound::AtMost(150_000)),
    Goal("event p99 under 4 downloads, us", "event_fair_down_p99_ns", Unit::Micros, false, Bound::AtMost(2_000_000)),
    Goal("event p99 under 4 uploads, us", "event_fair_up_p99_ns", Unit::Micros, false, Bound::AtMost(2_000_000)),
    Goal("cancel before the head, p50, us", "cancel_before_head_p50_ns", Unit::Micros, false, Bound::AtMost(200_000)),
    Goal("cancel before the head, p99, us", "cancel_before_head_p99_ns", Unit::Micros, false, Bound::AtMost(1_000_000)),
    Goal("cancel in the stream, p50, us", "cancel_mid_stream_p50_ns", Unit::Micros, false, Bound::AtMost(200_000)),
    Goal("cancel in the stream, p99, us", "cancel_mid_stream_p99_ns", Unit::Micros, false, Bound::AtMost(1_000_000)),
    Goal("cancels lost", "cancels_lost", Unit::Count, false, Bound::AtMost(0)),
];

/// Everything, as Markdown.
pub(crate) fn to_text(figures: &Figures, rounds: usize) -> String {
    let mut out = format!("Medians of {rounds} rounds\n\n| | direct | nginx | Keyhaven |\n|---|---:|---:|---:|\n");
    for Row(title, metric, unit, added) in ROWS {
        let shown = PEERS.map(|peer| {
            let figure = if *added { figures.added(metric, peer) } else { figures.median(metric, peer) };
            let figure = figure.filter(|_| !(*added && peer == "direct"));
            figure.map_or_else(|| "-".to_owned(), |figure| unit.show(figure))
        });
        out += &format!("| {title} | {} |\n", shown.join(" | "));
    }
    out += "\n| Keyhaven's calls/s | of direct | of nginx |\n|---|---:|---:|\n";
    for connections in [1, 32, 256] {
        let metric = format!("calls_per_second_{connections}");
        let ratio = |to: &str| ratio(figures.median(&metric, "keyhaven"), figures.median(&metric, to));
        out += &format!("| {connections} connections | {} | {} |\n", ratio("direct"), ratio("nginx"));
    }
    out += "\n| Keyhaven | goal | here | |\n|---|---:|---:|---|\n";
    for Goal(title, metric, unit, added, bound) in GOALS {
        let figure = if *added { figures.added(metric, "keyhaven") } else { figures.median(metric, "keyhaven") };
        let Some(figure) = figure else { continue };
        let (sign, limit, met) = match bound {
            Bound::AtMost(limit) => ("<=", *limit, figure <= *limit),
            Bound::AtLeast(limit) => (">=", *limit, figure >= *limit),
        };
        let verdict = if met { "met" } else { "missed" };
        out += &format!("| {title} | {sign} {} | {} | {verdict} |\n", unit.show(limit), unit.show(figure));
    }
    let (repeated, disturbed) = figures.disturbances();
    out += &format!(
        "\nTaken again because others used the machine: {repeated}; left standing all the same: {disturbed}\n"
    );
    out
}

impl Unit {
    fn show(self, figure: u64) -> String {
        match self {
            Self::Count => figure.to_string(),
            Self::Micros => tenths(figure, 1_000),
            Self::Millis => tenths(figure, 1_000_000),
            Self::MegabytesPerSecond => (figure / 1_000_000).to_string(),
            Self::Mebibytes => tenths(figure, 1024),
        }
    }
}

/// A figure in a larger unit with one digit behind the point, rounded up.
fn tenths(figure: u64, unit: u64) -> String {
    let tenths = (figure * 10).div_ceil(unit);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A ratio with two digits behind the point, rounded down.
fn ratio(figure: Option<u64>, to: Option<u64>) -> String {
    match (figure, to) {
        (Some(figure), Some(to @ 1..)) => {
            let hundredths = figure * 100 / to;
            format!("{}.{:02}", hundredths / 100, hundredths % 100)
        }
        _ => "-".to_owned(),
    }
}
