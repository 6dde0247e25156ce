//! The order of measurements: every peer gets its turn before any of them is measured again.
//!
//! Invariant: what is measured while others use the machine is measured again, a few times.

use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use keyhaven_daemon::cli::Output;

use crate::cancels::Phase;
use crate::cancels::cancels;
use crate::cpu;
use crate::figures::Figures;
use crate::figures::per_second;
use crate::load::Measured;
use crate::load::Script;
use crate::plan::Plan;
use crate::plan::Row;
use crate::probes;
use crate::saturate::Crowd;
use crate::saturate::Direction;
use crate::seen::After;
use crate::spent::Spent;
use crate::spent::Used;
use crate::street::Peer;
use crate::street::Street;
use crate::wire::Observer;

/// Others' CPU use above which a measurement is taken again: a share of one core, in percent.
const OTHERS_PERCENT_MAX: u64 = 15;

/// How often one measurement is taken again.
const REPEATS_MAX: usize = 3;

const CONNECTIONS: [u32; 3] = [1, 32, 256];

/// Before each measurement of load.
const WARMING: Duration = Duration::from_secs(1);

/// Streams that saturate a peer while another one is looked at.
const SATURATING: usize = 4;

/// One large request; a consumer's may have 64 MiB.
const UPLOAD_BYTES: usize = 60_000_000;

/// Between two looks at whether the upstream has seen the last of a crowd.
const SETTLING: Duration = Duration::from_millis(200);

/// Measures every row that compares peers.
pub(crate) async fn compare(street: &Street, plan: &Plan, output: Output, figures: &mut Figures) -> Result<()> {
    let scripts = street.peers.iter().map(Script::for_peer).collect::<Result<Vec<_>>>()?;
    for round in 1..=plan.rounds {
        if plan.has(Row::Load) {
            for connections in CONNECTIONS {
                for (peer, script) in street.peers.iter().zip(&scripts) {
                    output.note(&format!("round {round}: {} with {connections} connections", peer.name));
                    undisturbed(street, plan, What::Load(peer, script, connections), figures).await?;
                }
            }
        }
        for row in [Row::FirstByte, Row::NewStreams, Row::Events, Row::Bulk, Row::Fairness, Row::Cancel] {
            if plan.has(row) {
                output.note(&format!("round {round}: {row:?}"));
                for peer in &street.peers {
                    undisturbed(street, plan, What::Probe(peer, row), figures).await?;
                }
            }
        }
    }
    if plan.has(Row::Cancel) {
        own_cancels(street, plan, output, figures).await?;
    }
    Ok(())
}

/// What is measured in one go.
#[derive(Clone, Copy)]
enum What<'a> {
    Load(&'a Peer, &'a Script, u32),
    Probe(&'a Peer, Row),
}

/// Measures once, and again while others use the machine.
async fn undisturbed(street: &Street, plan: &Plan, what: What<'_>, figures: &mut Figures) -> Result<()> {
    for attempt in 0..=REPEATS_MAX {
        let mut draft = Figures::default();
        let spent = match what {
            What::Load(peer, script, connections) => load(street, plan, peer, script, connections, &mut draft).await?,
            What::Probe(peer, row) => {
                let used = Used::now(peer);
                probe(street, plan, peer, row, &mut draft).await?;
                used.until_now(peer)
            }
        };
        let disturbed = spent.others_percent() > OTHERS_PERCENT_MAX;
        let again = disturbed && attempt < REPEATS_MAX && figures.disturbances().0 < plan.repeats;
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

async fn load(
    street: &Street,
    plan: &Plan,
    peer: &Peer,
    script: &Script,
    connections: u32,
    figures: &mut Figures,
) -> Result<Spent> {
    // Connections to the vendor are made once, and not in every three seconds of a day.
    let warm = script.run(peer, connections, WARMING).await?;
    figures.note_failed_calls(peer, warm.errors);
    let mut observer = Observer::connect(street.upstream.plain).await?;
    let answered_before = observer.seen().await?.calls;
    let used = Used::now(peer);
    let measured = script.run(peer, connections, plan.load).await?;
    let spent = used.until_now(peer);
    let answered = observer.seen().await?.calls - answered_before;
    figures.note_failed_calls(peer, measured.errors);
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

async fn probe(street: &Street, plan: &Plan, peer: &Peer, row: Row, figures: &mut Figures) -> Result<()> {
    let name = peer.name;
    match row {
        Row::FirstByte => {
            figures.note_latencies("first_byte", name, probes::first_bytes(peer, plan.serial_calls).await?);
        }
        Row::NewStreams => {
            figures.note_latencies("new_streams", name, probes::new_streams(peer, plan.bursts).await?);
        }
        Row::Events => {
            figures.note_latencies("event_1", name, probes::events(peer, 1, plan.events_1, 5_000).await?);
            figures.note_latencies("event_64", name, probes::events(peer, 64, plan.events_64, 20_000).await?);
        }
        Row::Bulk => bulk(plan, peer, figures).await?,
        Row::Fairness => {
            for (direction, metric) in [(Direction::Down, "fair_down"), (Direction::Up, "fair_up")] {
                let (late, moved) = probes::fairness(peer, direction, SATURATING, plan.events_1).await?;
                figures.note_latencies(&format!("event_{metric}"), name, late);
                figures.note(format!("{metric}_bytes_per_second"), name, moved);
            }
        }
        Row::Cancel => {
            let mut observer = Observer::connect(street.upstream.plain).await?;
            for phase in Phase::ALL {
                let (latencies, lost) = cancels(&mut observer, peer, phase, plan.cancels).await?;
                figures.note_latencies(phase.metric(), name, latencies);
                note_lost(figures, phase.metric(), name, lost);
            }
        }
        Row::Load
        | Row::SlowPath
        | Row::FarPath
        | Row::Fleet
        | Row::IdleAgent
        | Row::Stalls
        | Row::Drain
        | Row::DeadPeer
        | Row::Tap => {}
    }
    Ok(())
}

async fn bulk(plan: &Plan, peer: &Peer, figures: &mut Figures) -> Result<()> {
    let used = Used::now(peer);
    let took_ns = probes::download(peer, plan.bulk_bytes).await?;
    let spent = used.until_now(peer);
    figures.note("download_bytes_per_second", peer.name, per_second(plan.bulk_bytes, took_ns));
    let used = Used::now(peer);
    let took_ns = probes::upload(peer, UPLOAD_BYTES).await?;
    let spent_up = used.until_now(peer);
    figures.note("upload_bytes_per_second", peer.name, per_second(UPLOAD_BYTES as u64, took_ns));
    if !peer.parts.is_empty() {
        figures.note("download_cpu_ns", peer.name, spent.parts_ns.iter().sum());
        figures.note("upload_cpu_ns", peer.name, spent_up.parts_ns.iter().sum());
        let resident = peer.parts.iter().map(|part| cpu::resident_kib(&part.pids)).sum();
        figures.note("resident_after_bulk_kib", peer.name, resident);
    }
    Ok(())
}

/// Many cancels through Keyhaven, in every phase, alone and beside saturating streams.
async fn own_cancels(street: &Street, plan: &Plan, output: Output, figures: &mut Figures) -> Result<()> {
    let peer = street.keyhaven();
    let mut observer = Observer::connect(street.upstream.plain).await?;
    for phase in Phase::ALL {
        output.note(&format!("{} x {}", plan.own_cancels, phase.metric()));
        let (latencies, lost) = cancels(&mut observer, peer, phase, plan.own_cancels).await?;
        let metric = format!("many_{}", phase.metric());
        figures.note_latencies(&metric, peer.name, latencies);
        figures.note(format!("{metric}_count"), peer.name, plan.own_cancels as u64);
        note_lost(figures, &metric, peer.name, lost);
    }
    for phase in Phase::ALL {
        output.note(&format!("{} under {SATURATING} downloads", phase.metric()));
        let calls_before = observer.seen().await?.calls;
        let crowd = Crowd::gather(peer, Direction::Down, SATURATING)?;
        // Its calls must not be taken for those that are cancelled.
        observer.seen_after(After::Calls(calls_before + SATURATING as u64 - 1)).await?.context("no crowd gathered")?;
        let cancelled = cancels(&mut observer, peer, phase, plan.cancels).await;
        crowd.dismiss()?;
        let (latencies, lost) = cancelled?;
        let metric = format!("busy_{}", phase.metric());
        figures.note_latencies(&metric, peer.name, latencies);
        note_lost(figures, &metric, peer.name, lost);
        // The upstream sees the crowd leave, too: that must not count for the next phase.
        settle(&mut observer).await?;
    }
    Ok(())
}

fn note_lost(figures: &mut Figures, metric: &str, peer: &'static str, lost: u64) {
    figures.note(format!("{metric}_lost"), peer, lost);
    figures.note_errors(format!("lost of {metric} through {peer}"), lost);
}

/// Waits until the upstream has seen the last of those who left.
async fn settle(observer: &mut Observer) -> Result<()> {
    let mut before = observer.seen().await?.drops;
    loop {
        tokio::time::sleep(SETTLING).await;
        let now = observer.seen().await?.drops;
        if now == before {
            return Ok(());
        }
        before = now;
    }
}
