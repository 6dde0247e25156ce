//! How much memory a tap takes, counted by the allocator, whatever and however much it reads.
//!
//! Invariant: one test in this process, so that nothing else is counted; what is read is made before.

use flate2::Compression;
use flate2::write::DeflateEncoder;
use flate2::write::GzEncoder;
use keyhaven_protocol::usage::Coding;
use keyhaven_protocol::usage::Form;
use keyhaven_protocol::usage::Shape;
use keyhaven_protocol::usage::Tap;
use peak_alloc::PeakAlloc;
use std::io::Write;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// What the reader of one answer may take, with the tap itself.
const STATE_BYTES_MAX: usize = 64 * 1024;

/// What undoing gzip and deflate takes beside it: a window of 32 KiB and tables.
const INFLATE_BYTES_MAX: usize = 64 * 1024;

/// How long each answer is, and the one that is a single event.
const ANSWER_BYTES: usize = 1024 * 1024;
const EVENT_BYTES: usize = 16 * 1024 * 1024;

/// Bytes fed at once, as they come off a link.
const PIECE_BYTES: usize = 16 * 1024;

#[test]
fn a_tap_takes_no_more_memory_the_longer_and_the_stranger_its_answer_is() {
    for (name, shape, answer) in answers() {
        let coded = [
            (Coding::Identity, answer.clone()),
            (Coding::Gzip, encoded(GzEncoder::new(Vec::new(), Compression::fast()), &answer, GzEncoder::finish)),
            (
                Coding::Deflate,
                encoded(DeflateEncoder::new(Vec::new(), Compression::fast()), &answer, DeflateEncoder::finish),
            ),
        ];
        for (coding, bytes) in coded {
            // Forms differ in what they look for in the same JSON, not in how it was coded.
            let forms = if coding == Coding::Identity { &Form::ALL[..] } else { &Form::ALL[..1] };
            for form in forms {
                let most = STATE_BYTES_MAX + if coding == Coding::Identity { 0 } else { INFLATE_BYTES_MAX };
                let before = ALLOCATED.current_usage();
                ALLOCATED.reset_peak_usage();
                let mut tap = Tap::new(*form, shape, Some(coding));
                for piece in bytes.chunks(PIECE_BYTES) {
                    tap.feed(piece);
                }
                let reading = tap.finish(true);
                let taken = ALLOCATED.peak_usage().saturating_sub(before) + size_of::<Tap>();
                assert!(taken <= most, "{taken} bytes for {name}, {form:?}, {coding:?}: {:?}", reading.doubts);
            }
        }
    }
    // The count counts.
    ALLOCATED.reset_peak_usage();
    let before = ALLOCATED.current_usage();
    drop(vec![0_u8; STATE_BYTES_MAX]);
    assert!(ALLOCATED.peak_usage() - before >= STATE_BYTES_MAX);
}

/// Long answers, each long in another way.
fn answers() -> Vec<(&'static str, Shape, Vec<u8>)> {
    let usual =
        r#"data: {"id":"c1","model":"gpt-4o","choices":[{"index":0,"delta":{"content":"hello"}}],"usage":null}"#;
    let usage = r#"data: {"usage":{"prompt_tokens":3,"completion_tokens":4,"input_tokens":5,"output_tokens":6}}"#;
    let repeat = |text: &str| text.as_bytes().repeat((ANSWER_BYTES / text.len()).max(1));
    let around =
        |before: &str, middle: &str, after: &str| [before.as_bytes(), &repeat(middle), after.as_bytes()].concat();
    vec![
        ("many events", Shape::Events, repeat(&format!("{usual}\n\n"))),
        ("usage again and again", Shape::Events, repeat(&format!("{usage}\n\n"))),
        (
            "one event",
            Shape::Events,
            around("data: {\"choices\":[{\"delta\":{\"content\":\"", &"x".repeat(EVENT_BYTES), "\"}}]}\n\n"),
        ),
        ("one line without an end", Shape::Events, repeat("data: ")),
        ("an event in many lines", Shape::Events, around("", "data: [1,\n", "data: 2]\n\n")),
        ("comments", Shape::Events, repeat(": keep-alive\n\n")),
        ("one string", Shape::Json, around(r#"{"model":"#, r"\u00e9\n", "\"}")),
        ("one name", Shape::Json, around("{\"", "usage", "\":1}")),
        ("many names", Shape::Json, around("{\"usage\":{", r#""input_tokens":1,"#, "\"a\":2}}")),
        ("one number", Shape::Json, around(r#"{"usage":{"prompt_tokens":1"#, "0", "}}")),
        ("depth", Shape::Json, repeat(r#"{"usage":["#)),
        ("a model's name", Shape::Json, around(r#"{"model":""#, "gpt", "\"}")),
        ("white space", Shape::Json, repeat(" \n")),
        ("garbage", Shape::Json, repeat("}]\u{1f}\\\"")),
        ("sound", Shape::Opaque, repeat("\u{0}\u{1}")),
        ("garbage for frames", Shape::Session, repeat("\u{81}\u{7f}")),
        ("messages", Shape::Session, frames()),
    ]
}

/// A vendor's side of a session: text messages without an end.
fn frames() -> Vec<u8> {
    let text = br#"{"type":"response.output_audio.delta","response_id":"r","delta":"UklGRg=="}"#;
    let mut frame = vec![0x81, u8::try_from(text.len()).expect("a short message")];
    frame.extend_from_slice(text);
    frame.repeat(ANSWER_BYTES / frame.len())
}

fn encoded<W: Write>(mut encoder: W, bytes: &[u8], finish: fn(W) -> std::io::Result<Vec<u8>>) -> Vec<u8> {
    encoder.write_all(bytes).expect("memory takes every write");
    finish(encoder).expect("memory takes every write")
}
