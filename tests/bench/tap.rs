//! What metering costs by itself: answers read by the tap in this process, on one core, and one
//! plain call metered and billed as hub and agent do it.
//!
//! Invariant: what is read was made before the clock starts, and is read in pieces as a link brings it.

use std::io::Write;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use keyhaven_hub::pricing::litellm;
use keyhaven_protocol::demand::Demand;
use keyhaven_protocol::metering::Asked;
use keyhaven_protocol::metering::CallMeter;
use keyhaven_protocol::metering::Ending;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::price::PriceTable;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::usage::Coding;
use keyhaven_protocol::usage::Form;
use keyhaven_protocol::usage::Shape;
use keyhaven_protocol::usage::Tap;
use keyhaven_tests::prices;

use crate::answer::Stock;
use crate::figures::Figures;
use crate::figures::per_second;
use crate::model::MODEL;

/// How long each is measured.
const TIME: Duration = Duration::from_millis(500);

/// Bytes that are fed at once.
const PIECE_BYTES: usize = 16 * 1024;

/// How long an answer is.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Who pays for it: the figures stand in the column of our own peer.
const OURS: &str = "keyhaven";

/// Takes all of it; what a call's CPU time is must have been measured before.
pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    let event = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-bench","service_tier":"default","choices":[{"index":0,"delta":{"content":" hello"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"abcdef"}"#;
    let events = format!("{event}\n\n").repeat(ANSWER_BYTES / event.len()).into_bytes();
    let text = "A bridge that nobody crosses is still worth its paint.\\n".repeat(ANSWER_BYTES / 56);
    let whole = format!(
        r#"{{"model":"gpt-bench","choices":[{{"message":{{"content":"{text}"}}}}],"usage":{{"prompt_tokens":1,"completion_tokens":2}}}}"#
    );
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&events)?;
    let gzip = gzip.finish()?;
    for (name, shape, coding, bytes, read) in [
        ("events", Shape::Events, Coding::Identity, &events, events.len()),
        ("json", Shape::Json, Coding::Identity, &whole.clone().into_bytes(), whole.len()),
        ("gzip", Shape::Events, Coding::Gzip, &gzip, events.len()),
    ] {
        let speed = throughput(shape, coding, bytes, read)?;
        figures.note(format!("tap_{name}_bytes_per_second"), OURS, speed);
    }
    let of_a_call = metered_call()?;
    figures.note("tap_call_ns", OURS, of_a_call);
    for part in ["hub", "agent"] {
        if let Some(all) = figures.median(&format!("cpu_per_call_32_{part}_ns"), OURS) {
            figures.note(format!("tap_{part}_share_hundredths"), OURS, of_a_call * 10_000 / all.max(1));
        }
    }
    Ok(())
}

/// Bytes of the answer, undone, that are read in a second.
fn throughput(shape: Shape, coding: Coding, bytes: &[u8], read: usize) -> Result<u64> {
    let (began, mut total) = (Instant::now(), 0);
    while began.elapsed() < TIME {
        let mut tap = Tap::new(Form::Completions, shape, Some(coding));
        bytes.chunks(PIECE_BYTES).for_each(|piece| tap.feed(piece));
        anyhow::ensure!(tap.finish(true).doubts.is_empty(), "the tap cannot read the benchmark's answer");
        total += u64::try_from(read)?;
    }
    Ok(per_second(total, nanos(began.elapsed())))
}

/// What one side spends on a plain call of 1 KiB, its bill included, in nanoseconds.
fn metered_call() -> Result<u64> {
    let imported = litellm::import(prices::table().to_string().as_bytes()).context("the kit's prices")?;
    let prices = PriceTable { version: 1, valid_from_unix_ms: 0, source: String::new(), models: imported.models };
    let answer = Stock::new().json;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let demand = Demand { text_bytes: 200, ..Demand::NOTHING };
    let (ceiling, provider) = (NanoUsd(1_000_000_000), Provider::OpenAi);
    let asked = Asked { prices: &prices, provider, model: MODEL, demand: Some(&demand), ceiling };
    let (began, mut calls) = (Instant::now(), 0_u64);
    while began.elapsed() < TIME {
        let mut meter = CallMeter::new(Form::Completions);
        meter.head(StatusCode::OK, &headers);
        meter.feed(&answer);
        anyhow::ensure!(meter.finish(&asked, Ending::Complete).list > NanoUsd::ZERO, "the call costs nothing");
        calls += 1;
    }
    Ok(nanos(began.elapsed()) / calls.max(1))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
