//! What load alone does not show: added latency, streams, fairness, large bodies.
//!
//! Invariant: every probe makes a fixed number of calls and fails when one of them does.

use std::time::Instant;

use anyhow::Result;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::clock::monotonic_ns;
use crate::figures::Latencies;
use crate::figures::per_second;
use crate::model::Model;
use crate::saturate::Crowd;
use crate::saturate::Direction;
use crate::street::Peer;
use crate::wire;
use crate::wire::Call;

/// Connections that are made at once.
const NEW_STREAMS: usize = 64;

/// Calls one after the other on one connection: time to the first byte.
pub(crate) async fn first_bytes(peer: &Peer, calls: usize) -> Result<Latencies> {
    let mut call = Call::connect(peer, Model::Json).await?;
    // The first one makes connections.
    call.timed().await?;
    let mut first = Vec::with_capacity(calls);
    for _ in 0..calls {
        first.push(call.timed().await?.0);
    }
    Ok(Latencies::of(first))
}

/// Connections that are made and used at once: time from the beginning of all to each one's
/// first byte.
pub(crate) async fn new_streams(peer: &Peer, times: usize) -> Result<Latencies> {
    let mut taken = Vec::with_capacity(times * NEW_STREAMS);
    for _ in 0..times {
        let mut calls = JoinSet::new();
        let began = monotonic_ns();
        for _ in 0..NEW_STREAMS {
            let peer = peer.clone();
            calls.spawn(async move {
                Call::connect(&peer, Model::Json).await?.first_byte().await?;
                anyhow::Ok(monotonic_ns() - began)
            });
        }
        while let Some(done) = calls.join_next().await {
            taken.push(done??);
        }
    }
    Ok(Latencies::of(taken))
}

/// Streams at once: how late events are.
pub(crate) async fn events(peer: &Peer, streams: usize, count: u64, every_us: u64) -> Result<Latencies> {
    let mut calls = JoinSet::new();
    for _ in 0..streams {
        let mut call = Call::connect(peer, Model::Events { count, every_us }).await?;
        calls.spawn(async move { call.events(count).await });
    }
    let mut late = Vec::new();
    while let Some(done) = calls.join_next().await {
        late.extend(done??);
    }
    Ok(Latencies::of(late))
}

/// One large answer: nanoseconds to its last byte.
pub(crate) async fn download(peer: &Peer, bytes: u64) -> Result<u64> {
    Ok(Call::connect(peer, Model::Bulk { bytes }).await?.timed().await?.1)
}

/// One large request: nanoseconds to the answer.
pub(crate) async fn upload(peer: &Peer, bytes: usize) -> Result<u64> {
    let request = wire::request(peer, &Model::Json.request_body_of(bytes));
    let mut call = Call::with_request(TcpStream::connect(peer.addr).await?, request);
    Ok(call.timed().await?.1)
}

/// How late the events of one stream are while others saturate the same peer, and how
/// many bytes a second those moved.
pub(crate) async fn fairness(
    peer: &Peer,
    direction: Direction,
    saturating: usize,
    count: u64,
) -> Result<(Latencies, u64)> {
    let crowd = Crowd::gather(peer, direction, saturating)?;
    let began = Instant::now();
    let late = events(peer, 1, count, 5_000).await;
    let took_ns = u64::try_from(began.elapsed().as_nanos())?;
    let bytes = crowd.dismiss()?;
    Ok((late?, per_second(bytes, took_ns)))
}
