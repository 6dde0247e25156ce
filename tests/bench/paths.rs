//! Rows of paths that are slow or long: the tunnel leads through a relay, the rest does not.
//!
//! Invariant: both tunnels go through relays of the same kind, one after the other.

use std::time::Duration;

use anyhow::Result;
use keyhaven_daemon::cli::Output;
use keyhaven_tests::relay::Path;
use keyhaven_tests::relay::Relay;
use tempfile::TempDir;

use crate::figures::Figures;
use crate::figures::Latencies;
use crate::figures::per_second;
use crate::keyhaven::Keyhaven;
use crate::keyhaven::VENDOR_KEY;
use crate::model::Model;
use crate::plan::Plan;
use crate::plan::Row;
use crate::probes;
use crate::rathole::Program;
use crate::rathole::Rathole;
use crate::rathole::Service;
use crate::saturate::Crowd;
use crate::saturate::Direction;
use crate::street::Peer;
use crate::street::start_upstream;
use crate::street::until_it_answers;
use crate::upstream::Addresses;
use crate::wire::Call;

const SLOW: Path = Path { bytes_per_second: Some(10_000_000), delay: Duration::from_millis(15), ..Path::CLEAR };

const FAR: Path = Path { bytes_per_second: Some(40_000_000), delay: Duration::from_millis(50), ..Path::CLEAR };

/// Downloads that fill the slow path.
const DOWNLOADS: usize = 2;

/// How long they fill it before anybody looks.
const FILLING: Duration = Duration::from_secs(2);

const FAR_BYTES: u64 = 200_000_000;

/// Measures both rows, as far as they are wanted.
pub(crate) async fn measure(
    plan: &Plan,
    rathole: Option<&Program>,
    log_level: &str,
    output: Output,
    figures: &mut Figures,
) -> Result<()> {
    let (_process, upstream) = start_upstream().await?;
    for (row, path) in [(Row::SlowPath, SLOW), (Row::FarPath, FAR)] {
        if !plan.has(row) {
            continue;
        }
        output.note(&format!("{row:?}"));
        if let Some(program) = rathole {
            let dir = tempfile::Builder::new().prefix("keyhaven-bench-").tempdir()?;
            let (peer, _ends) = through_rathole(program, &dir, &upstream, path).await?;
            probe(row, &peer, figures).await?;
        }
        let mut relay = None;
        let keyhaven = Keyhaven::start(&upstream, log_level, |tunnel| {
            let started = Relay::start(tunnel, path)?;
            let listen = started.addr();
            relay = Some(started);
            Ok(listen)
        });
        let keyhaven = keyhaven.await?;
        probe(row, &keyhaven.peer, figures).await?;
    }
    Ok(())
}

async fn through_rathole(
    program: &Program,
    dir: &TempDir,
    upstream: &Addresses,
    path: Path,
) -> Result<(Peer, (Rathole, Option<Relay>))> {
    let service = Service::to(upstream.plain)?;
    let mut relay = None;
    let rathole = Rathole::start(program, dir.path(), &[service], |server| {
        let started = Relay::start(server, path)?;
        let listen = started.addr();
        relay = Some(started);
        Ok(listen)
    })?;
    let peer = Peer { name: "rathole", addr: service.listen, key: VENDOR_KEY.to_owned(), parts: Vec::new() };
    until_it_answers(&peer).await?;
    Ok((peer, (rathole, relay)))
}

async fn probe(row: Row, peer: &Peer, figures: &mut Figures) -> Result<()> {
    if row == Row::FarPath {
        let mut call = Call::connect(peer, Model::Bulk { bytes: FAR_BYTES }).await?;
        // The first half is what windows need to grow.
        let took_ns = call.second_half().await?;
        figures.note("far_bytes_per_second", peer.name, per_second(FAR_BYTES / 2, took_ns));
        return Ok(());
    }
    let alone = probes::events(peer, 1, 200, 5_000).await?;
    let crowd = Crowd::gather(peer, Direction::Down, DOWNLOADS)?;
    tokio::time::sleep(FILLING).await;
    let before = crowd.moved();
    let began = crate::clock::monotonic_ns();
    let under = probes::events(peer, 1, 400, 5_000).await;
    let took_ns = crate::clock::monotonic_ns() - began;
    let moved = crowd.dismiss()? - before;
    note(peer, alone, under?, figures);
    figures.note("slow_bytes_per_second", peer.name, per_second(moved, took_ns));
    Ok(())
}

fn note(peer: &Peer, alone: Latencies, under: Latencies, figures: &mut Figures) {
    figures.note_latencies("slow_alone", peer.name, alone);
    figures.note_latencies("slow_under", peer.name, under);
    figures.note("slow_added_p50_ns", peer.name, under.p50_ns.saturating_sub(alone.p50_ns));
}
