//! The order of measurements: every peer gets its turn before any of them is measured again.
//!
//! Invariant: what is measured while others use the machine is measured again, a few times.

use std::time::Duration;

use anyhow::Result;
use keyhaven_daemon::cli::Output;

use crate::clock::monotonic_ns;
use crate::cpu;
use crate::cpu::Ticks;
use crate::figures::Figures;
use crate::load::Measured;
use crate::load::Script;
use crate::peers::Peer;
use crate::peers::Street;
use crate::probes;
use crate::probes::Direction;
use crate::probes::Phase;
use crate::wire;

/// Others' CPU use above which a measurement is taken again: a share of one core, in percent.
const OTHERS_PERCENT_MAX: u64 = 15;

/// How often one measurement is taken again.
const REPEATS_MAX: usize = 3;

const CONNECTIONS: [u32; 3] = [1, 32, 256];

/// How much is measured.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    load: Duration,
    serial_calls: usize,
    events_1: u64,
    events_64: u64,
    cancels: usize,
    bulk_bytes: u64,
    /// Whether disturbed measurements are taken again.
    repeats: bool,
}

impl Plan {
    /// For figures.
    pub(crate) fn full(rounds: usize) -> Self {
        Self {
            rounds: rounds.max(1),
            load: Duration::from_secs(3),
            serial_calls: 500,
            events_1: 200,
            events_64: 50,
            cancels: 100,
            bulk_bytes: 100_000_000,
            repeats: true,
        }
    }

    /// To see that everything runs.
    pub(crate) fn quick() -> Self {
        Self {
            rounds: 1,
            load: Duration::from_secs(1),
            serial_calls: 100,
            events_1: 40,
            events_64: 10,
            cancels: 10,
            bulk_bytes: 20_000_000,
            repeats: false,
        }
    }
}

/// Measures everything.
pub(crate) async fn run(street: &Street, plan: &Plan, output: Output) -> Result<Figures> {
    let mut figures = Figures::default();
    let scripts = street.peers.iter().map(Script::for_peer).collect::<Result<Vec<_>>>()?;
    for round in 1..=plan.rounds {
        for connections in CONNECTIONS {
            for (peer, script) in street.peers.iter().zip(&scripts) {
                output.note(&format!("round {round}: {} with {connections} connections", peer.name));
                undisturbed(street, plan, What::Load(peer, script, connections), &mut figures).await?;
            }
        }
        for peer in &street.peers {
            output.note(&format!("round {round}: {}'s latency and streams", peer.name));
            undisturbed(street, plan, What::Probes(peer), &mut figures).await?;
        }
    }
    Ok(figures)
}

/// Measures once, and again while others use the machine.
async fn undisturbed(street: &Street, plan: &Plan, what: What<'_>, figures: &mut Figures) -> Result<()> {
    for attempt in 0..=REPEATS_MAX {
        let mut draft = Figures::default();
        let used = Used::now(street, what.peer());
        let spent = match what {
            What::Load(peer, script, connections) => load(street, plan, peer, script, connections, &mut draft).await?,
            What::Probes(peer) => {
                probe(street, plan, peer, &mut draft).await?;
                used.until_now(street, peer)
            }
        };
        let disturbed = spent.others_percent() > OTHERS_PERCENT_MAX;
        let again = disturbed && attempt < REPEATS_MAX && plan.repeats;
        if disturbed {
            figures.note_disturbance(again);
        }
        figures.take_over(draft, again);
        if !again {
            return Ok(());
        }
    }
    Ok(())
}

/// What is measured in one go.
#[derive(Clone, Copy)]
enum What<'a> {
    Load(&'a Peer, &'a Script, u32),
    Probes(&'a Peer),
}

impl What<'_> {
    fn peer(&self) -> &Peer {
        match self {
            Self::Load(peer, ..) | Self::Probes(peer) => peer,
        }
    }
}

async fn load(
    street: &Street,
    plan: &Plan,
    peer: &Peer,
    script: &Script,
    connections: u32,
    figures: &mut Figures,
) -> Result<Spent> {
    let answered_before = wire::seen(street.upstream).await?.calls;
    let used = Used::now(street, peer);
    let measured = script.run(peer, connections, plan.load).await?;
    let spent = used.until_now(street, peer);
    let answered = wire::seen(street.upstream).await?.calls - answered_before;
    figures.note_errors(format!("failed calls through {}", peer.name), measured.errors);
    // An answer that nobody gave would be the worst of errors.
    let invented = measured.calls.saturating_sub(answered);
    figures.note_errors(format!("answers through {} that the upstream never gave", peer.name), invented);
    note_load(peer, connections, measured, &spent, figures);
    Ok(spent)
}

fn note_load(peer: &Peer, connections: u32, measured: Measured, spent: &Spent, figures: &mut Figures) {
    let calls = measured.calls.max(1);
    figures.note(
        format!("calls_per_second_{connections}"),
        peer.name,
        measured.calls * 1_000_000 / measured.micros.max(1),
    );
    figures.note(format!("latency_{connections}_p50_ns"), peer.name, measured.p50_ns);
    figures.note(format!("latency_{connections}_p99_ns"), peer.name, measured.p99_ns);
    figures.note(format!("others_percent_{connections}"), peer.name, spent.others_percent());
    if peer.parts.is_empty() {
        return;
    }
    figures.note(format!("cpu_per_call_{connections}_ns"), peer.name, spent.parts_ns.iter().sum::<u64>() / calls);
    if peer.parts.len() > 1 {
        for (part, ns) in peer.parts.iter().zip(&spent.parts_ns) {
            figures.note(format!("cpu_per_call_{connections}_{}_ns", part.name), peer.name, ns / calls);
        }
    }
    if Some(&connections) == CONNECTIONS.last() {
        let resident: Vec<u64> = peer.parts.iter().map(|part| cpu::resident_kib(&part.pids)).collect();
        figures.note("resident_kib", peer.name, resident.iter().sum());
        if peer.parts.len() > 1 {
            for (part, kib) in peer.parts.iter().zip(resident) {
                figures.note(format!("resident_{}_kib", part.name), peer.name, kib);
            }
        }
    }
}

async fn probe(street: &Street, plan: &Plan, peer: &Peer, figures: &mut Figures) -> Result<()> {
    let name = peer.name;
    figures.note_latencies("first_byte", name, probes::first_bytes(peer, plan.serial_calls).await?);
    figures.note_latencies("event_1", name, probes::events(peer, 1, plan.events_1, 5_000).await?);
    figures.note_latencies("event_64", name, probes::events(peer, 64, plan.events_64, 20_000).await?);
    let mut lost_ever = 0;
    for (phase, metric) in [(Phase::BeforeHead, "cancel_before_head"), (Phase::MidStream, "cancel_mid_stream")] {
        let (latencies, lost) = probes::cancels(street, peer, phase, plan.cancels).await?;
        figures.note_latencies(metric, name, latencies);
        lost_ever += lost;
    }
    figures.note("cancels_lost", name, lost_ever);
    figures.note_errors(format!("cancels through {name} that the upstream never saw"), lost_ever);
    let used = Used::now(street, peer);
    let took_ns = probes::bulk(peer, plan.bulk_bytes).await?;
    let spent = used.until_now(street, peer);
    figures.note("bulk_bytes_per_second", name, per_second(plan.bulk_bytes, took_ns));
    if !peer.parts.is_empty() {
        figures.note("bulk_cpu_ns", name, spent.parts_ns.iter().sum());
    }
    for (direction, metric) in [(Direction::Down, "fair_down"), (Direction::Up, "fair_up")] {
        let (late, bytes_per_second) = probes::fairness(peer, direction, plan.events_1).await?;
        figures.note_latencies(&format!("event_{metric}"), name, late);
        figures.note(format!("{metric}_bytes_per_second"), name, bytes_per_second);
    }
    Ok(())
}

fn per_second(bytes: u64, took_ns: u64) -> u64 {
    let per_second = u128::from(bytes) * 1_000_000_000 / u128::from(took_ns.max(1));
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

/// CPU time at the beginning of a measurement.
struct Used {
    at_ns: u64,
    machine: Ticks,
    ours: Ticks,
    parts: Vec<Ticks>,
}

/// CPU time of a measurement.
struct Spent {
    wall_ns: u64,
    others_ns: u64,
    parts_ns: Vec<u64>,
}

impl Used {
    fn now(street: &Street, peer: &Peer) -> Self {
        Self {
            at_ns: monotonic_ns(),
            machine: Ticks::of_machine(),
            ours: Ticks::of_all(&street.pids()),
            parts: peer.parts.iter().map(|part| Ticks::of_all(&part.pids)).collect(),
        }
    }

    fn until_now(&self, street: &Street, peer: &Peer) -> Spent {
        let now = Self::now(street, peer);
        Spent {
            wall_ns: now.at_ns - self.at_ns,
            others_ns: now.machine.ns_since(self.machine).saturating_sub(now.ours.ns_since(self.ours)),
            parts_ns: now.parts.iter().zip(&self.parts).map(|(now, then)| now.ns_since(*then)).collect(),
        }
    }
}

impl Spent {
    fn others_percent(&self) -> u64 {
        self.others_ns.saturating_mul(100) / self.wall_ns.max(1)
    }
}
