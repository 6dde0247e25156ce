//! A consumer leaves, in each phase of a call: how soon the vendor's connection is closed.
//!
//! Invariant: one call at a time, so that every drop at the upstream belongs to it; a drop
//! that never comes is a lost cancel and fails the benchmark.

use anyhow::Result;
use anyhow::bail;
use tokio::net::TcpStream;

use crate::clock::monotonic_ns;
use crate::figures::Latencies;
use crate::model::Model;
use crate::seen::After;
use crate::seen::Seen;
use crate::street::Peer;
use crate::wire;
use crate::wire::Call;
use crate::wire::Observer;

/// A request of which half is sent; that is more than any socket on the way holds back, and more than a
/// hub waits for to know what the call may cost (`calls.replayed_body_bytes`, 4 MiB).
const UPLOAD_BYTES: usize = 9 * 1024 * 1024;

/// A hub withholds the last piece of a request until its scan agrees.
const WITHHELD_BYTES: usize = 128 * 1024;

/// In which phase of a call the consumer leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The request is complete, the vendor has not answered.
    BeforeHead,
    /// Half of the request has been sent.
    MidUpload,
    /// Events are coming.
    MidStream,
    /// Half of an answer of known length has come.
    NonStream,
}

impl Phase {
    /// In the order of a call.
    pub(crate) const ALL: [Self; 4] = [Self::BeforeHead, Self::MidUpload, Self::MidStream, Self::NonStream];

    /// As the metrics call it.
    pub(crate) const fn metric(self) -> &'static str {
        match self {
            Self::BeforeHead => "cancel_before_head",
            Self::MidUpload => "cancel_mid_upload",
            Self::MidStream => "cancel_mid_stream",
            Self::NonStream => "cancel_non_stream",
        }
    }
}

/// A consumer leaves, again and again: how long until the upstream sees it, and how often
/// it never did.
pub(crate) async fn cancels(
    observer: &mut Observer,
    peer: &Peer,
    phase: Phase,
    times: usize,
) -> Result<(Latencies, u64)> {
    let mut taken = Vec::with_capacity(times);
    let mut lost = 0;
    let mut before = observer.seen().await?;
    for _ in 0..times {
        let call = begin(observer, peer, phase, &before).await?;
        let left = monotonic_ns();
        drop(call);
        match observer.seen_after(After::Drops(before.drops)).await? {
            Some(after) => {
                taken.push(after.last_drop_ns.saturating_sub(left));
                before = after;
            }
            None => {
                lost += 1;
                before = observer.seen().await?;
            }
        }
    }
    Ok((Latencies::of(taken), lost))
}

/// A call that has reached its phase.
async fn begin(observer: &mut Observer, peer: &Peer, phase: Phase, before: &Seen) -> Result<Call> {
    match phase {
        Phase::MidStream => {
            let mut call = Call::connect(peer, Model::Events { count: 100_000, every_us: 5_000 }).await?;
            call.first_event().await?;
            Ok(call)
        }
        Phase::NonStream => {
            let mut call = Call::connect(peer, Model::Half).await?;
            call.first_piece().await?;
            Ok(call)
        }
        Phase::BeforeHead => {
            let mut call = Call::connect(peer, Model::Silent).await?;
            call.send().await?;
            arrived(observer, peer, After::Calls(before.calls)).await?;
            Ok(call)
        }
        Phase::MidUpload => {
            let body = Model::Json.request_body_of(UPLOAD_BYTES);
            let mut call = Call::with_request(TcpStream::connect(peer.addr).await?, wire::request(peer, &body));
            call.send_to(UPLOAD_BYTES / 2).await?;
            // All but what may wait on the way for more to come, so that the figure is the
            // cancel's and not the upload's.
            let most = (UPLOAD_BYTES / 2 - WITHHELD_BYTES) as u64;
            arrived(observer, peer, After::BodyBytes(before.body_bytes + most)).await?;
            Ok(call)
        }
    }
}

async fn arrived(observer: &mut Observer, peer: &Peer, after: After) -> Result<()> {
    if observer.seen_after(after).await?.is_none() {
        bail!("a call through {} did not reach the upstream", peer.name);
    }
    Ok(())
}
