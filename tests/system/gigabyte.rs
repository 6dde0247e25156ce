//! A gigabyte down, and an eighth of one up, through real processes.
//!
//! Invariant: every byte arrives, in its place, and the memory of hub and agent does not follow the
//! size of a body.

use crate::footprint::Footprint;
use crate::footprint::print;
use crate::scene::Scene;
use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use keyhaven_tests::ca::TestCa;
use keyhaven_tests::consumer_call::Call;
use keyhaven_tests::consumer_call::chunk;
use keyhaven_tests::form::Form;
use keyhaven_tests::http1::hex;
use keyhaven_tests::http1::recorder::Message;
use keyhaven_tests::raw_client::RawClient;
use keyhaven_tests::upstream::Upstream;
use keyhaven_tests::upstream::settings::Settings;
use sha2::Digest;
use sha2::Sha256;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

const GIGABYTE: usize = 1 << 30;
const MEGABYTE: usize = 1 << 20;

/// What is tried up: both sides read every byte of it, which without optimisation takes long.
const UP: usize = 128 * MEGABYTE;

/// And as JSON, of which they read more.
const JSON: usize = 16 * MEGABYTE;

/// By so much hub and agent may grow while a body passes, whatever its size: a window of 4 MiB and
/// what is on its way in a few more buffers, on both sides of each.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_arrives_whole_and_leaves_no_trace_in_memory() -> Result<()> {
    let scene = scene().await?;
    for (form, bytes, chunked) in [(Form::OpenAiTranscriptions, UP, false), (Form::OpenAi, JSON, true)] {
        let case = format!("{form:?}-{chunked}");
        let call = Call::new(form, &scene.api_key).case(&case).play("status-422");
        let before = Footprint::of(&scene)?;
        let began = Instant::now();
        let mut client = RawClient::connect(scene.hub.consumer).await?;
        let sending = send_large(&mut client, form, &call, bytes, chunked);
        let (sent, grown) = while_watched(&scene, before, sending).await?;
        let answer = client.answer().await?;

        print(&format!("{bytes} bytes up, {case}, in {:?}: {grown:?}", began.elapsed()));
        assert_eq!(answer.head.status(), 422, "{}", String::from_utf8_lossy(&answer.body));
        let seen = scene.upstream.exchange_of(&case).await?;
        assert!(seen.request.complete);
        assert_eq!((seen.request.body_bytes, seen.request.body_sha256()), (bytes as u64, sent));
        stays_small(grown)?;
    }
    scene.unharmed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_down_arrives_whole_and_leaves_no_trace_in_memory() -> Result<()> {
    let scene = scene().await?;
    let pieces = GIGABYTE / (64 << 10);
    let call = Call::new(Form::OpenAi, &scene.api_key).case("down").play(&format!("pieces-65536-{pieces}"));
    let before = Footprint::of(&scene)?;
    let began = Instant::now();
    let mut client = RawClient::connect(scene.hub.consumer).await?;
    client.send(&call.bytes()).await?;
    let (answer, grown) = while_watched(&scene, before, client.answer()).await?;

    let seen = scene.upstream.exchange_of("down").await?;
    print(&format!("{GIGABYTE} bytes down in {:?}: {grown:?}", began.elapsed()));
    let sent: &Message = seen.response().context("no answer was sent")?;
    assert!(answer.complete);
    assert_eq!((answer.head.status(), answer.body_bytes), (200, GIGABYTE as u64));
    assert_eq!(answer.body_sha256(), sent.body_sha256());
    stays_small(grown)?;
    scene.unharmed().await
}

async fn scene() -> Result<Scene> {
    let settings = Settings { keep_bytes_max: MEGABYTE, ..Settings::default() };
    let upstream = Upstream::start_with(settings, Arc::new(TestCa::new()?))?;
    let scene = Scene::build_before(upstream, Ok).await?;
    // What the first large body makes stays.
    let call = Call::new(Form::OpenAi, &scene.api_key).body(Form::OpenAi.sized_body(MEGABYTE / 2, true));
    let answer = RawClient::connect(scene.hub.consumer).await?.ask(&call.bytes()).await?;
    ensure!(answer.head.status() == 200, "{}", String::from_utf8_lossy(&answer.body));
    Ok(scene)
}

/// Sends a body of exactly so many bytes, of which no two pieces are alike; returns its SHA-256.
async fn send_large(client: &mut RawClient, form: Form, call: &Call, bytes: usize, chunked: bool) -> Result<String> {
    let framing =
        if chunked { "transfer-encoding: chunked\r\n".to_owned() } else { format!("content-length: {bytes}\r\n") };
    client.send(&call.head(&framing)).await?;
    let small = form.sized_body(64 << 10, true);
    let filler: &[u8] = "é".as_bytes();
    let begins = small.windows(filler.len()).position(|bytes| bytes == filler).context("no filler")?;
    let ends = small.windows(filler.len()).rposition(|bytes| bytes == filler).context("no filler")? + filler.len();
    let (begin, end) = (&small[..begins], &small[ends..]);
    let mut left = bytes - begin.len() - end.len();
    let mut hash = Sha256::new();
    let mut number = 0;
    let mut next = begin.to_vec();
    loop {
        hash.update(&next);
        let framed = if chunked { chunk(&next) } else { next };
        client.send(&framed).await?;
        if left == 0 {
            break;
        }
        next = numbered(number, left.min(MEGABYTE));
        left -= next.len();
        number += 1;
        if left == 0 {
            next.extend_from_slice(end);
        }
    }
    if chunked {
        client.send(b"0\r\n\r\n").await?;
    }
    Ok(hex(&hash.finalize()))
}

/// Text that begins with its number.
fn numbered(number: usize, bytes: usize) -> Vec<u8> {
    let mut piece = format!("{number:09}").into_bytes();
    piece.resize(bytes.max(piece.len()), b'x');
    piece.truncate(bytes);
    piece
}

/// The most that hub and agent grow while something happens.
async fn while_watched<T>(
    scene: &Scene,
    before: Footprint,
    happens: impl Future<Output = Result<T>>,
) -> Result<(T, Footprint)> {
    let mut happens = std::pin::pin!(happens);
    let mut most = Footprint { hub_bytes: 0, agent_bytes: 0 };
    loop {
        let grown = Footprint::of(scene)?.grown_since(before);
        most.hub_bytes = most.hub_bytes.max(grown.hub_bytes);
        most.agent_bytes = most.agent_bytes.max(grown.agent_bytes);
        if let Ok(done) = tokio::time::timeout(LOOK_AGAIN, &mut happens).await {
            return Ok((done?, most));
        }
    }
}

fn stays_small(grown: Footprint) -> Result<()> {
    ensure!(grown.hub_bytes < GROWTH_BYTES_MAX && grown.agent_bytes < GROWTH_BYTES_MAX, "{grown:?}");
    Ok(())
}
