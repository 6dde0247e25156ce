//! What links did and do, in numbers: link by link for as long as they are up, and in all.
//!
//! Invariant: totals never go back; a link that is gone is in the totals and nowhere else.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use keyhaven_daemon::link::LinkStats;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::link::AbortCounts;
use keyhaven_protocol::settle::Verdict;

use super::live_link::LiveLink;

/// The label of all agents that have no series of their own.
const OTHERS: &str = "(others)";

/// The metric of the byte budget that all links share.
const COMMITTED_BYTES: &str = "keyhaven_agent_gateway_committed_bytes";

/// Every link that is up, fenced ones too, and the sum of those that are gone.
#[derive(Default)]
pub(super) struct Insight {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    up: BTreeMap<u64, Arc<LiveLink>>,
    gone: Figures,
}

/// The numbers of one link, or of several together.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Links.
    pub links: u64,
    /// The longest of the last measured round trips, in microseconds.
    pub rtt_micros: Option<u64>,
    /// The longest of the mean queue delays, in microseconds.
    pub queue_micros: u64,
    /// Calls under way.
    pub streams: u64,
    /// Calls begun.
    pub calls: u64,
    /// Body bytes sent to agents.
    pub sent_bytes: u64,
    /// Body bytes received from agents.
    pub received_bytes: u64,
    /// Times a call had data and no credit.
    pub credit_stalls: u64,
    /// ABORTs sent first, by reason.
    pub aborts_sent: BTreeMap<&'static str, u64>,
    /// ABORTs received first, by reason.
    pub aborts_received: BTreeMap<&'static str, u64>,
    /// Calls of which agents metered more than the hub.
    pub metered_above: u64,
    /// Calls of which they metered less.
    pub metered_below: u64,
}

impl Figures {
    /// The numbers of one link.
    pub fn of(stats: &LinkStats) -> Self {
        let counters = &stats.counters;
        Self {
            links: 1,
            rtt_micros: stats.rtt_micros,
            queue_micros: counters.queue_delay.mean_micros,
            streams: u64::try_from(stats.streams).unwrap_or(u64::MAX),
            calls: counters.opened,
            sent_bytes: counters.data_sent_bytes,
            received_bytes: counters.data_received_bytes,
            credit_stalls: counters.credit_stalls,
            aborts_sent: by_reason(&counters.aborts_sent),
            aborts_received: by_reason(&counters.aborts_received),
            metered_above: 0,
            metered_below: 0,
        }
    }

    fn of_link(link: &LiveLink) -> Self {
        let (metered_above, metered_below) = link.disputes();
        Self { metered_above, metered_below, ..Self::of(&link.handle.stats()) }
    }

    fn add(&mut self, other: &Self) {
        self.links += other.links;
        self.rtt_micros = self.rtt_micros.max(other.rtt_micros);
        self.queue_micros = self.queue_micros.max(other.queue_micros);
        self.streams += other.streams;
        self.calls += other.calls;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.credit_stalls += other.credit_stalls;
        self.metered_above += other.metered_above;
        self.metered_below += other.metered_below;
        for (all, more) in
            [(&mut self.aborts_sent, &other.aborts_sent), (&mut self.aborts_received, &other.aborts_received)]
        {
            more.iter().for_each(|(reason, count)| *all.entry(reason).or_default() += count);
        }
    }
}

/// The reasons that occurred.
fn by_reason(counts: &AbortCounts) -> BTreeMap<&'static str, u64> {
    counts.iter().filter(|(_, count)| *count > 0).map(|(reason, count)| (AbortReason::name(reason), count)).collect()
}

impl Insight {
    /// A link is up.
    pub(super) fn began(&self, link: &Arc<LiveLink>) {
        self.lock().up.insert(link.number, link.clone());
    }

    /// A link is gone: what it did is kept in the totals.
    pub(super) fn ended(&self, link: &LiveLink) {
        let mut state = self.lock();
        if state.up.remove(&link.number).is_some() {
            let past = Figures::of_link(link);
            state.gone.add(&Figures { links: 0, rtt_micros: None, queue_micros: 0, streams: 0, ..past });
        }
    }

    /// Every link that is up, the oldest first.
    pub(super) fn links(&self) -> Vec<Arc<LiveLink>> {
        self.lock().up.values().cloned().collect()
    }

    /// The metrics in Prometheus' text format. The agents that are linked longest have series
    /// of their own, as many as `series_max` says; the others share one.
    pub(super) fn metrics(&self, series_max: usize, committed_bytes: usize) -> String {
        let (links, mut total) = {
            let state = self.lock();
            (state.up.values().cloned().collect::<Vec<_>>(), state.gone.clone())
        };
        let mut agents: Vec<(&str, Figures)> = Vec::new();
        let mut others = Figures::default();
        let mut places: HashMap<AgentId, usize> = HashMap::new();
        for link in &links {
            let figures = Figures::of_link(link);
            total.add(&figures);
            let place = *places.entry(link.agent).or_insert(agents.len());
            match agents.get_mut(place) {
                Some((_, known)) => known.add(&figures),
                None if place < series_max => agents.push((&link.name, figures)),
                None => others.add(&figures),
            }
        }
        if others.links > 0 {
            agents.push((OTHERS, others));
        }
        let labelled: Vec<(String, Figures)> =
            agents.into_iter().map(|(name, figures)| (format!("agent=\"{}\"", escaped(name)), figures)).collect();
        let mut text = String::new();
        for family in OF_LINKS {
            family.write(&mut text, &labelled);
        }
        for family in OF_ALL {
            family.write(&mut text, &[(String::new(), total.clone())]);
        }
        // A String takes every write.
        let _ = writeln!(text, "# TYPE {COMMITTED_BYTES} gauge\n{COMMITTED_BYTES} {committed_bytes}");
        text
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One metric with all its series.
struct Family {
    name: &'static str,
    kind: &'static str,
    /// Labels beside the agent's, and the value.
    samples: fn(&Figures) -> Vec<(String, String)>,
}

const OF_LINKS: &[Family] = &[
    Family { name: "keyhaven_agent_gateway_link_rtt_seconds", kind: "gauge", samples: rtt },
    Family { name: "keyhaven_agent_gateway_link_queue_delay_seconds", kind: "gauge", samples: queue_delay },
    Family { name: "keyhaven_agent_gateway_link_streams", kind: "gauge", samples: streams },
    Family { name: "keyhaven_agent_gateway_link_calls_total", kind: "counter", samples: calls },
    Family { name: "keyhaven_agent_gateway_link_bytes_total", kind: "counter", samples: bytes },
    Family { name: "keyhaven_agent_gateway_link_credit_stalls_total", kind: "counter", samples: credit_stalls },
    Family { name: "keyhaven_agent_gateway_link_aborts_total", kind: "counter", samples: aborts },
    Family { name: "keyhaven_agent_gateway_link_disputes_total", kind: "counter", samples: disputes },
];

const OF_ALL: &[Family] = &[
    Family { name: "keyhaven_agent_gateway_streams", kind: "gauge", samples: streams },
    Family { name: "keyhaven_agent_gateway_calls_total", kind: "counter", samples: calls },
    Family { name: "keyhaven_agent_gateway_bytes_total", kind: "counter", samples: bytes },
    Family { name: "keyhaven_agent_gateway_credit_stalls_total", kind: "counter", samples: credit_stalls },
    Family { name: "keyhaven_agent_gateway_aborts_total", kind: "counter", samples: aborts },
    Family { name: "keyhaven_agent_gateway_disputes_total", kind: "counter", samples: disputes },
];

fn rtt(figures: &Figures) -> Vec<(String, String)> {
    figures.rtt_micros.into_iter().map(|micros| (String::new(), seconds(micros))).collect()
}

fn queue_delay(figures: &Figures) -> Vec<(String, String)> {
    vec![(String::new(), seconds(figures.queue_micros))]
}

fn streams(figures: &Figures) -> Vec<(String, String)> {
    vec![(String::new(), figures.streams.to_string())]
}

fn calls(figures: &Figures) -> Vec<(String, String)> {
    vec![(String::new(), figures.calls.to_string())]
}

fn bytes(figures: &Figures) -> Vec<(String, String)> {
    [("sent", figures.sent_bytes), ("received", figures.received_bytes)]
        .map(|(direction, bytes)| (format!("direction=\"{direction}\""), bytes.to_string()))
        .into()
}

fn credit_stalls(figures: &Figures) -> Vec<(String, String)> {
    vec![(String::new(), figures.credit_stalls.to_string())]
}

fn aborts(figures: &Figures) -> Vec<(String, String)> {
    let both = [("sent", &figures.aborts_sent), ("received", &figures.aborts_received)];
    let samples = both.into_iter().flat_map(|(direction, counts)| {
        counts
            .iter()
            .map(move |(reason, count)| (format!("direction=\"{direction}\",reason=\"{reason}\""), count.to_string()))
    });
    samples.collect()
}

fn disputes(figures: &Figures) -> Vec<(String, String)> {
    [(Verdict::AgentAbove, figures.metered_above), (Verdict::AgentBelow, figures.metered_below)]
        .map(|(verdict, count)| (format!("verdict=\"{}\"", verdict.name()), count.to_string()))
        .into()
}

impl Family {
    fn write(&self, text: &mut String, rows: &[(String, Figures)]) {
        // A String takes every write.
        let _ = writeln!(text, "# TYPE {} {}", self.name, self.kind);
        for (agent, figures) in rows {
            for (labels, value) in (self.samples)(figures) {
                let between = if agent.is_empty() || labels.is_empty() { "" } else { "," };
                let all = format!("{agent}{between}{labels}");
                let braced = if all.is_empty() { all } else { format!("{{{all}}}") };
                let _ = writeln!(text, "{}{braced} {value}", self.name);
            }
        }
    }
}

fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

fn escaped(name: &str) -> String {
    name.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use keyhaven_daemon::link::LinkHandle;
    use keyhaven_daemon::link::LinkStream;
    use keyhaven_protocol::frame::BodyLength;
    use keyhaven_protocol::frame::Egress;
    use keyhaven_protocol::frame::OpenHead;
    use keyhaven_protocol::hex::Hex;
    use keyhaven_protocol::id::CallId;
    use keyhaven_protocol::id::VendorKeyId;
    use keyhaven_protocol::link::Limits;
    use keyhaven_protocol::link::Side;

    use super::*;
    use crate::agent_gateway::Entering;

    #[test]
    fn agents_beyond_the_bound_share_one_series_and_totals_hold_all() {
        let insight = Insight::default();
        let links: Vec<Arc<LiveLink>> = (1..=5).map(|number| link(number, number)).collect();
        links.iter().for_each(|link| insight.began(link));
        let _calls: Vec<LinkStream> = links.iter().map(|link| call(link)).collect();

        let text = insight.metrics(2, 7);

        for line in [
            r#"keyhaven_agent_gateway_link_calls_total{agent="a1"} 1"#,
            r#"keyhaven_agent_gateway_link_calls_total{agent="a2"} 1"#,
            r#"keyhaven_agent_gateway_link_calls_total{agent="(others)"} 3"#,
            r#"keyhaven_agent_gateway_link_bytes_total{agent="a1",direction="sent"} 0"#,
            "keyhaven_agent_gateway_calls_total 5",
            "keyhaven_agent_gateway_streams 5",
            "keyhaven_agent_gateway_committed_bytes 7",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} in\n{text}");
        }
        assert!(!text.contains("\"a3\""));
    }

    #[test]
    fn the_series_of_a_link_that_is_gone_go_with_it_and_its_past_stays_in_the_totals() {
        let insight = Insight::default();
        let link = link(1, 1);
        insight.began(&link);
        let _call = call(&link);

        insight.ended(&link);
        insight.ended(&link);

        let text = insight.metrics(10, 0);
        assert!(!text.contains("agent="), "{text}");
        assert!(text.contains("keyhaven_agent_gateway_calls_total 1\n"), "{text}");
        assert!(text.contains("keyhaven_agent_gateway_streams 0\n"), "{text}");
    }

    #[test]
    fn who_meters_otherwise_is_named_and_stays_in_the_totals() {
        let insight = Insight::default();
        let (liar, honest) = (link(1, 1), link(2, 2));
        [&liar, &honest].into_iter().for_each(|link| insight.began(link));
        for verdict in [Verdict::AgentAbove, Verdict::AgentAbove, Verdict::AgentBelow, Verdict::Short, Verdict::Open] {
            liar.note_verdict(verdict);
        }
        honest.note_verdict(Verdict::Agreed);

        let linked = insight.metrics(10, 0);
        insight.ended(&liar);
        let gone = insight.metrics(10, 0);

        for line in [
            r#"keyhaven_agent_gateway_link_disputes_total{agent="a1",verdict="agent_above"} 2"#,
            r#"keyhaven_agent_gateway_link_disputes_total{agent="a1",verdict="agent_below"} 1"#,
            r#"keyhaven_agent_gateway_link_disputes_total{agent="a2",verdict="agent_above"} 0"#,
        ] {
            assert!(linked.lines().any(|there| there == line), "{line} in\n{linked}");
        }
        assert!(gone.contains("keyhaven_agent_gateway_disputes_total{verdict=\"agent_above\"} 2\n"), "{gone}");
        assert!(!gone.contains("\"a1\""), "{gone}");
    }

    #[test]
    fn aborts_are_told_by_direction_and_reason() {
        let one = Figures { aborts_sent: [("consumer_gone", 2)].into(), ..Figures::default() };
        let mut both = Figures { aborts_received: [("busy", 1)].into(), ..Figures::default() };
        both.add(&one);
        both.add(&one);
        let mut text = String::new();

        Family { name: "aborts_total", kind: "counter", samples: aborts }
            .write(&mut text, &[("a=\"b\"".to_owned(), both)]);

        let sent = r#"aborts_total{a="b",direction="sent",reason="consumer_gone"} 4"#;
        let received = r#"aborts_total{a="b",direction="received",reason="busy"} 1"#;
        assert_eq!(text, format!("# TYPE aborts_total counter\n{sent}\n{received}\n"));
    }

    #[test]
    fn two_links_of_one_agent_are_one_series_and_names_cannot_break_the_format() {
        let insight = Insight::default();
        [link(1, 1), link(2, 1)].iter().for_each(|link| insight.began(link));

        let text = insight.metrics(10, 0);

        assert_eq!(text.matches("keyhaven_agent_gateway_link_streams{").count(), 1, "{text}");
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
        assert_eq!(seconds(1_002_003), "1.002003");
    }

    fn link(number: u64, agent: u64) -> Arc<LiveLink> {
        let handle = LinkHandle::new(Side::Hub, Limits::default());
        let mut id = [0; 16];
        id[..8].copy_from_slice(&agent.to_be_bytes());
        let (name, egress, instance) = (format!("a{agent}"), Egress::Official, Hex([0; 16]));
        let entering = Entering { agent: AgentId(id), name, egress, instance, handle, accepts: true };
        Arc::new(LiveLink::new(entering, number, 0))
    }

    fn call(link: &LiveLink) -> LinkStream {
        let open = OpenHead {
            call: CallId([1; 16]),
            vendor_key: VendorKeyId([1; 16]),
            endpoint: 101,
            parameter: None,
            query: None,
            body: BodyLength::None,
            ticket: None,
            headers: HeaderMap::new(),
        };
        link.handle.open(&open).unwrap()
    }
}
