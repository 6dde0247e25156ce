//! `agent top`: the live links in a table that stays on the screen.
//!
//! Invariant: a row fits into 80 columns, whatever an agent is called and whatever it does.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use clap::ValueEnum;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::terminal::printable;
use keyhaven_protocol::ErrorCode;
use serde::Serialize;
use serde_json::Value;

use crate::cli::admin_client;
use crate::cli::status;
use crate::cli::text;
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  keyhaven-hub agent top
  keyhaven-hub agent top --sort received --interval 5s
  keyhaven-hub --json agent top --once | jq '.links[] | select(.streams > 100) | .name'

Rates are those of the last interval; at first, and with --once, those since each link began.
SENT and RECV are body bytes to and from the agent. QUEUE is how long data waits for its turn,
on average. STALLS counts calls that waited for a reader, ABORTS those that either side broke off.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct TopArgs {
    /// How often to look again: 1s, 10s, 1m.
    #[arg(long, default_value = "2s", value_parser = text::duration)]
    interval: Duration,
    /// What to sort by; the largest first, names in their order.
    #[arg(long, value_enum, default_value_t = Sort::Calls)]
    sort: Sort,
    /// Agents to show.
    #[arg(long, default_value_t = 20)]
    rows: usize,
    /// Show it once and end.
    #[arg(long)]
    once: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// Calls a second.
    Calls,
    /// Calls under way.
    Streams,
    /// Bytes a second to the agent.
    Sent,
    /// Bytes a second from the agent.
    Received,
    /// The round trip.
    Rtt,
    /// The mean wait in the queue.
    Queue,
    /// Credit stalls.
    Stalls,
    /// Aborts, both ways.
    Aborts,
    /// The agent's name.
    Name,
}

pub(super) async fn run(output: Output, config: &Config, args: TopArgs) -> anyhow::Result<()> {
    let on_screen = !output.is_json() && std::io::stdout().is_terminal() && !args.once;
    let mut before: Option<Look> = None;
    loop {
        let look = Look::take(config).await?;
        let mut frame = Frame::of(&look, before.as_ref(), args.sort);
        frame.links.truncate(args.rows);
        let clear = if on_screen { "\x1b[H\x1b[2J" } else { "" };
        let end = if args.once || on_screen { "" } else { "\n" };
        output.emit("agent-top", &frame, || format!("{clear}{}{end}", frame.to_text()))?;
        if args.once {
            return Ok(());
        }
        before = Some(look);
        tokio::time::sleep(args.interval.max(Duration::from_millis(100))).await;
    }
}

/// What the hub said at one moment.
struct Look {
    at_unix_ms: u64,
    links: Vec<Value>,
}

impl Look {
    async fn take(config: &Config) -> Result<Self, Failure> {
        let admin = config.admin.listen;
        let Some(answer) = admin_client::links(admin).await? else {
            return Err(Failure::new(ErrorCode::NotRunning, "nothing listens on admin.listen").at(admin.to_string()));
        };
        Ok(Self { at_unix_ms: unix_ms_now(), links: status::links(&answer).cloned().collect() })
    }
}

/// What is shown at one moment.
#[derive(Serialize)]
struct Frame {
    at_unix_ms: u64,
    linked: usize,
    streams: u64,
    calls_per_minute: u64,
    sent_bytes_per_s: u64,
    received_bytes_per_s: u64,
    links: Vec<Row>,
}

#[derive(Debug, Clone, Serialize)]
struct Row {
    agent_id: String,
    name: String,
    link_id: u64,
    state: String,
    streams: u64,
    calls: u64,
    calls_per_minute: u64,
    sent_bytes_per_s: u64,
    received_bytes_per_s: u64,
    rtt_us: Option<u64>,
    queue_us: u64,
    credit_stalls: u64,
    aborts: u64,
}

impl Frame {
    fn of(look: &Look, before: Option<&Look>, sort: Sort) -> Self {
        let known: HashMap<u64, &Value> =
            before.iter().flat_map(|look| &look.links).map(|link| (number(link, "link_id"), link)).collect();
        let since_ms = before.map(|before| look.at_unix_ms.saturating_sub(before.at_unix_ms));
        let row = |link: &Value| {
            let last = known.get(&number(link, "link_id")).copied();
            let began = look.at_unix_ms.saturating_sub(number(link, "linked_unix_ms"));
            Row::of(link, last, last.and(since_ms).unwrap_or(began))
        };
        let mut links: Vec<Row> = look.links.iter().map(row).collect();
        links.sort_by(|one, other| one.name.cmp(&other.name));
        links.sort_by_key(|row| Reverse(row.weight(sort)));
        Self {
            at_unix_ms: look.at_unix_ms,
            linked: links.len(),
            streams: links.iter().map(|row| row.streams).sum(),
            calls_per_minute: links.iter().map(|row| row.calls_per_minute).sum(),
            sent_bytes_per_s: links.iter().map(|row| row.sent_bytes_per_s).sum(),
            received_bytes_per_s: links.iter().map(|row| row.received_bytes_per_s).sum(),
            links,
        }
    }

    fn to_text(&self) -> String {
        let mut shown = format!(
            "{}  {} linked, {} calls under way\n{} calls/s, sent {}/s, received {}/s\n\n",
            text::time(self.at_unix_ms),
            self.linked,
            self.streams,
            per_second(self.calls_per_minute),
            bytes(self.sent_bytes_per_s),
            bytes(self.received_bytes_per_s),
        );
        // A String takes every write.
        let _ = writeln!(
            shown,
            "{:<14} {:<5} {:>7} {:>5} {:>7} {:>7} {:>6} {:>6} {:>6} {:>6}",
            "AGENT", "STATE", "CALLS/S", "CALLS", "SENT/S", "RECV/S", "RTT", "QUEUE", "STALLS", "ABORTS"
        );
        for row in &self.links {
            let _ = writeln!(
                shown,
                "{:<14} {:<5} {:>7} {:>5} {:>7} {:>7} {:>6} {:>6} {:>6} {:>6}",
                clipped(&row.name, 14),
                clipped(&row.state, 5),
                clipped(&per_second(row.calls_per_minute), 7),
                count(row.streams),
                bytes(row.sent_bytes_per_s),
                bytes(row.received_bytes_per_s),
                row.rtt_us.map_or_else(|| "-".to_owned(), micros),
                micros(row.queue_us),
                count(row.credit_stalls),
                count(row.aborts),
            );
        }
        let hidden = self.linked - self.links.len();
        if self.linked == 0 {
            shown += "no agent is linked\n";
        } else if hidden > 0 {
            let _ = writeln!(shown, "... and {hidden} more; show them with --rows {}", self.linked);
        }
        shown
    }
}

impl Row {
    fn of(link: &Value, last: Option<&Value>, since_ms: u64) -> Self {
        let grown = |field: &str| number(link, field).saturating_sub(last.map_or(0, |last| number(last, field)));
        let per_s = |count: u64| count.saturating_mul(1000) / since_ms.max(1);
        let word = |field: &str| printable(link[field].as_str().unwrap_or("-"));
        Self {
            agent_id: word("agent_id"),
            name: word("name"),
            link_id: number(link, "link_id"),
            state: word("state"),
            streams: number(link, "streams"),
            calls: number(link, "calls"),
            calls_per_minute: grown("calls").saturating_mul(60_000) / since_ms.max(1),
            sent_bytes_per_s: per_s(grown("data_sent_bytes")),
            received_bytes_per_s: per_s(grown("data_received_bytes")),
            rtt_us: link["rtt_us"].as_u64(),
            queue_us: number(link, "queue_us"),
            credit_stalls: number(link, "credit_stalls"),
            aborts: number(link, "aborts_sent") + number(link, "aborts_received"),
        }
    }

    /// Names are in order already.
    fn weight(&self, sort: Sort) -> u64 {
        match sort {
            Sort::Calls => self.calls_per_minute,
            Sort::Streams => self.streams,
            Sort::Sent => self.sent_bytes_per_s,
            Sort::Received => self.received_bytes_per_s,
            Sort::Rtt => self.rtt_us.unwrap_or(0),
            Sort::Queue => self.queue_us,
            Sort::Stalls => self.credit_stalls,
            Sort::Aborts => self.aborts,
            Sort::Name => 0,
        }
    }
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or(0)
}

/// With one decimal.
fn per_second(per_minute: u64) -> String {
    format!("{}.{}", per_minute / 60, per_minute % 60 / 6)
}

/// At most so many characters; a dot where something is missing.
fn clipped(text: &str, most: usize) -> String {
    let one_line: String = text.chars().filter(|char| *char != '\n').collect();
    if one_line.chars().count() <= most {
        return one_line;
    }
    one_line.chars().take(most - 1).chain(['.']).collect()
}

/// In at most five characters.
fn count(count: u64) -> String {
    scaled(count, &["", "k", "M", "G", "T"])
}

/// In at most six characters.
fn bytes(bytes: u64) -> String {
    scaled(bytes, &["B", "kB", "MB", "GB", "TB"])
}

/// In at most six characters.
fn micros(micros: u64) -> String {
    scaled(micros, &["us", "ms", "s"])
}

/// One to three digits with the unit that fits; beyond the last unit, all nines.
fn scaled(number: u64, units: &[&str]) -> String {
    const STEP: u64 = 1000;
    let mut whole = number;
    let mut tenth = 0;
    for (at, unit) in units.iter().enumerate() {
        if whole < STEP {
            return if at == 0 || whole >= 100 { format!("{whole}{unit}") } else { format!("{whole}.{tenth}{unit}") };
        }
        tenth = whole % STEP * 10 / STEP;
        whole /= STEP;
    }
    format!("999{}", units.last().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_of_the_interval_and_at_first_of_the_links_whole_life() {
        let first = look(10_000, vec![link(1, "office", 100, 0)]);
        let second = look(12_000, vec![link(1, "office", 130, 4_000), link(2, "new", 5, 0)]);

        let began = Frame::of(&first, None, Sort::Calls);
        let next = Frame::of(&second, Some(&first), Sort::Calls);

        assert_eq!(began.links[0].calls_per_minute, 600);
        let rates: Vec<(&str, u64, u64)> =
            next.links.iter().map(|row| (&*row.name, row.calls_per_minute, row.sent_bytes_per_s)).collect();
        assert_eq!(rates, [("office", 900, 2_000), ("new", 25, 0)]);
        assert_eq!(per_second(next.calls_per_minute), "15.4");
    }

    #[test]
    fn rows_are_sorted_by_what_was_asked_and_then_by_name() {
        let look = look(10_000, vec![link(1, "b", 9, 1), link(2, "c", 50, 1), link(3, "a", 9, 7)]);
        let order = |sort| Frame::of(&look, None, sort).links.iter().map(|row| row.name.clone()).collect::<String>();

        assert_eq!(order(Sort::Calls), "cab");
        assert_eq!(order(Sort::Sent), "abc");
        assert_eq!(order(Sort::Name), "abc");
    }

    #[test]
    fn every_row_fits_into_eighty_columns_and_obeys_no_agent() {
        let mut long = link(1, &"n\u{1b}[2Jam\ne".repeat(20), u64::MAX / 20_000, u64::MAX / 2_000);
        for field in ["streams", "queue_us", "rtt_us", "credit_stalls", "aborts_sent"] {
            long[field] = json!(u64::MAX / 4);
        }
        long["state"] = json!("something new");
        let frame = Frame::of(&look(1, vec![long, json!({})]), None, Sort::Calls);

        let text = frame.to_text();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        assert_eq!(text.lines().count(), 6, "{text}");
    }

    #[test]
    fn what_is_hidden_is_counted() {
        let links = (0..30).map(|number| link(number, &format!("a{number}"), 0, 0)).collect();
        let mut frame = Frame::of(&look(10_000, links), None, Sort::Calls);
        frame.links.truncate(4);

        assert!(frame.to_text().ends_with("... and 26 more; show them with --rows 30\n"), "{}", frame.to_text());
        let nobody = Frame::of(&look(1, Vec::new()), None, Sort::Calls);
        assert!(nobody.to_text().ends_with("no agent is linked\n"));
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0, 7, 999, 1_000, 1_234, 99_949, 123_456, 9_999_999, u64::MAX].map(micros);
        assert_eq!(shown, ["0us", "7us", "999us", "1.0ms", "1.2ms", "99.9ms", "123ms", "9.9s", "999s"]);
        assert_eq!([bytes(1_500_000), count(12_345)], ["1.5MB", "12.3k"]);
    }

    fn look(at_unix_ms: u64, links: Vec<Value>) -> Look {
        Look { at_unix_ms, links }
    }

    fn link(number: u64, name: &str, calls: u64, sent: u64) -> Value {
        json!({
            "agent_id": "ag_01", "name": name, "link_id": number, "linked_unix_ms": 0, "state": "open",
            "streams": 2, "calls": calls, "data_sent_bytes": sent, "data_received_bytes": 3,
            "rtt_us": 310, "queue_us": 12, "credit_stalls": 1, "aborts_sent": 1, "aborts_received": 2,
        })
    }
}
