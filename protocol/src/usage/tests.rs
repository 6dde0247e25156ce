//! Every form, in the shapes that vendors document, at every cut.
//!
//! Invariant: what a case states is known beforehand, and is read at every cut.

use proptest::prelude::*;

use super::samples::Case;
use super::samples::cases;
use super::samples::events;
use super::samples::gzip;
use super::*;

#[test]
fn usage_is_exact_in_every_form_at_every_cut_plain_and_compressed() {
    for case in cases() {
        let expected = whole(&case, &case.body, Coding::Identity);
        check(&case, &expected);
        for cut in 0..=case.body.len() {
            let (before, after) = case.body.split_at(cut);
            assert_eq!(read(&case, Coding::Identity, &[before, after], true), expected, "{} {cut}", case.name);
        }
        let single: Vec<&[u8]> = case.body.chunks(1).collect();
        assert_eq!(read(&case, Coding::Identity, &single, true), expected, "{}", case.name);

        let packed = gzip(&case.body);
        for cut in 0..=packed.len() {
            let (before, after) = packed.split_at(cut);
            assert_eq!(read(&case, Coding::Gzip, &[before, after], true), expected, "{} gzip {cut}", case.name);
        }
    }
}

#[test]
fn an_answer_that_breaks_off_reads_the_same_however_it_was_cut_before() {
    for case in cases() {
        for end in 0..case.body.len() {
            let begun = &case.body[..end];
            let at_once = read(&case, Coding::Identity, &[begun], false);
            let single: Vec<&[u8]> = begun.chunks(1).collect();
            assert_eq!(read(&case, Coding::Identity, &single, false), at_once, "{} {end}", case.name);
        }
    }
}

#[test]
fn anthropics_first_figures_stand_until_later_ones_replace_them() {
    let body = events(&[
        r#"{"type":"message_start","message":{"model":"claude-x","usage":{"input_tokens":34824,"output_tokens":1}}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":3883,"cache_read_input_tokens":30464,"output_tokens":12}}"#,
    ]);
    let early = body.len() - 4;

    let broken = read_events(Form::Messages, &body[..early], false);
    let full = read_events(Form::Messages, &body, true);

    assert_eq!(meters(Form::Messages, &broken), [(Meter::Input, 34824), (Meter::Output, 1)], "no half of an object");
    assert_eq!(meters(Form::Messages, &full), [(Meter::Input, 3883), (Meter::CachedInput, 30464), (Meter::Output, 12)]);
    assert!(full.finished && !full.ended, "message_stop has not come");
    assert_eq!(full.text_bytes, 2);
}

#[test]
fn an_explicit_zero_replaces_and_an_absent_number_does_not() {
    let body = events(&[
        r#"{"type":"message_start","message":{"usage":{"input_tokens":9,"cache_read_input_tokens":7,"output_tokens":1}}}"#,
        r#"{"type":"message_delta","delta":{},"usage":{"input_tokens":0,"output_tokens":5}}"#,
    ]);

    let reading = read_events(Form::Messages, &body, true);

    assert_eq!(reading.counters.get(Counter::Input), Some(0));
    assert_eq!(reading.counters.get(Counter::Cached), Some(7));
    assert_eq!(reading.counters.get(Counter::WebSearches), None);
}

#[test]
fn a_split_by_time_stays_when_only_its_total_is_restated() {
    let body = events(&[
        r#"{"type":"message_start","message":{"usage":{"input_tokens":1,"cache_creation_input_tokens":300,"cache_creation":{"ephemeral_5m_input_tokens":100,"ephemeral_1h_input_tokens":200},"output_tokens":1}}}"#,
        r#"{"type":"message_delta","delta":{},"usage":{"cache_creation_input_tokens":350,"output_tokens":2}}"#,
    ]);

    let reading = read_events(Form::Messages, &body, true);

    assert_eq!(
        meters(Form::Messages, &reading),
        [(Meter::Input, 1), (Meter::CacheWrite, 150), (Meter::CacheWrite1h, 200), (Meter::Output, 2)]
    );
}

#[test]
fn an_error_inside_a_stream_is_seen() {
    let openai =
        read_events(Form::Completions, &events(&[r#"{"error":{"message":"boom","type":"server_error"}}"#]), true);
    let anthropic =
        read_events(Form::Messages, &events(&[r#"{"type":"error","error":{"type":"overloaded_error"}}"#]), true);
    let responses = read_events(Form::Responses, &events(&[r#"{"type":"error","code":"x","message":"m"}"#]), true);

    for reading in [openai, anthropic, responses] {
        assert!(reading.failed && !reading.ended && reading.counters.is_empty(), "{reading:?}");
    }
}

#[test]
fn usage_that_no_table_names_is_seen_unless_it_is_zero() {
    let usage = |text: &str| {
        let body = format!(r#"{{"usage":{{"prompt_tokens":1,"completion_tokens":2,{text}}}}}"#);
        read_json(Form::Completions, body.as_bytes()).doubts
    };

    assert!(usage(r#""new_tokens":7"#).has(Doubt::UnknownUsage));
    assert!(usage(r#""deep":{"er":[{"still":0.5}]}"#).has(Doubt::UnknownUsage));
    assert!(usage(r#""prompt_tokens_details":{"video_tokens":3}"#).has(Doubt::UnknownUsage));
    assert!(usage(r#""new_tokens":0,"prompt_tokens_details":null,"words":"many","flag":true"#).is_empty());
}

#[test]
fn numbers_that_are_none_are_doubted_and_leave_nothing() {
    for bad in ["-1", "1.5", "1e3", "18446744073709551616", "\"7\"", "123456789012345678901234567890"] {
        let body = format!(r#"{{"usage":{{"prompt_tokens":{bad},"completion_tokens":2}}}}"#);
        let reading = read_json(Form::Completions, body.as_bytes());

        assert!(reading.doubts.has(Doubt::BadNumber), "{bad}");
        assert_eq!(reading.counters.get(Counter::Input), None, "{bad}");
        assert_eq!(reading.counters.get(Counter::Output), Some(2));
    }
}

#[test]
fn figures_that_contradict_each_other_are_doubted() {
    let contradicts = |form: Form, body: &str| {
        let reading = read_json(form, body.as_bytes());
        Meters::of(form, &reading.counters).1.has(Doubt::Contradiction)
    };

    assert!(contradicts(Form::Completions, r#"{"usage":{"prompt_tokens":5,"completion_tokens":5,"total_tokens":11}}"#));
    assert!(contradicts(
        Form::Completions,
        r#"{"usage":{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":6}}}"#
    ));
    assert!(contradicts(
        Form::DeepSeekCompletions,
        r#"{"usage":{"prompt_tokens":5,"completion_tokens":1,"prompt_cache_hit_tokens":3,"prompt_cache_miss_tokens":3}}"#
    ));
    assert!(contradicts(
        Form::Messages,
        r#"{"usage":{"input_tokens":5,"output_tokens":1,"cache_creation_input_tokens":1,"cache_creation":{"ephemeral_1h_input_tokens":2}}}"#
    ));
    assert!(!contradicts(Form::Messages, r#"{"usage":{"input_tokens":5,"output_tokens":1}}"#));
}

#[test]
fn a_cache_read_and_written_in_one_go_bills_no_negative_input() {
    let body = r#"{"usage":{"prompt_tokens":100,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":80,"cache_write_tokens":60}}}"#;

    let reading = read_json(Form::Completions, body.as_bytes());

    assert_eq!(
        meters(Form::Completions, &reading),
        [(Meter::CachedInput, 80), (Meter::CacheWrite, 60), (Meter::Output, 1)]
    );
}

#[test]
fn a_huge_event_a_bomb_and_garbage_neither_stall_nor_panic() {
    let mut huge = br#"data: {"choices":[{"delta":{"content":""#.to_vec();
    huge.resize(16 * 1024 * 1024, b'x');
    huge.extend(b"\"}}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n");
    let reading = read_events(Form::Completions, &huge, true);
    assert_eq!(reading.counters.get(Counter::Output), Some(4));
    assert!(reading.text_bytes > 16_000_000 && reading.doubts.is_empty());

    let mut tap = Tap::new(Form::Completions, Shape::Events, Some(Coding::Gzip));
    tap.feed(&gzip(&vec![b' '; 90 * 1024 * 1024]));
    assert!(tap.finish(true).doubts.has(Doubt::Undecodable));

    let invalid = read_events(Form::Completions, b"data: {\"model\":\"\xff\"}\n\ndata: {\"model\":\"m\"}\n\n", true);
    assert!(invalid.doubts.has(Doubt::Unreadable));
    assert_eq!(invalid.model.as_deref(), Some("m"), "the next event is read again");

    let unknown_coding = Tap::new(Form::Completions, Shape::Json, Coding::of(b"br")).finish(true);
    assert!(unknown_coding.doubts.has(Doubt::Undecodable));
}

#[test]
fn the_state_of_a_tap_fits_its_bound() {
    assert!(size_of::<Tap>() < 8 * 1024, "{}", size_of::<Tap>());
}

#[test]
fn what_states_no_usage_reads_as_nothing() {
    let mut tap = Tap::new(Form::Speech, Shape::of(b"audio/mpeg"), Some(Coding::Identity));
    tap.feed(b"{\"usage\":{\"input_tokens\":1}}");

    assert_eq!(tap.finish(true), Reading::default());
    assert_eq!(Shape::of(b"Application/JSON; charset=utf-8"), Shape::Json);
    assert_eq!(Shape::of(b"text/event-stream;x"), Shape::Events);
}

proptest! {
    #[test]
    fn no_bytes_lead_to_a_panic_and_cuts_change_nothing(
        pieces in proptest::collection::vec("(data: ?)?[\\[\\]{}\",:0-9.e\\-a-z \n\r]{0,24}", 0..8),
        form in 0..9_usize,
        shape in 0..3_usize,
    ) {
        let shape = [Shape::Json, Shape::Events, Shape::Session][shape];
        let form = Form::ALL[form];
        let body = pieces.concat();
        let mut at_once = Tap::new(form, shape, Some(Coding::Identity));
        at_once.feed(body.as_bytes());
        let mut cut = Tap::new(form, shape, Some(Coding::Identity));
        for piece in &pieces {
            cut.feed(piece.as_bytes());
        }
        prop_assert_eq!(at_once.finish(true), cut.finish(true));
    }
}

#[test]
fn no_bytes_lead_to_a_panic() {
    bolero::check!().with_type::<(u8, u8, u8, Vec<u8>)>().for_each(|(form, shape, coding, bytes)| {
        let form = Form::ALL[usize::from(*form) % Form::ALL.len()];
        let shape = [Shape::Json, Shape::Events, Shape::Session, Shape::Opaque][usize::from(*shape) % 4];
        let coding = [Coding::Identity, Coding::Gzip, Coding::Deflate][usize::from(*coding) % 3];
        let mut tap = Tap::new(form, shape, Some(coding));
        tap.feed(bytes);
        let reading = tap.finish(true);
        let _ = Meters::of(form, &reading.counters);
        let _ = Meters::of(form, &reading.heard);
    });
}

fn check(case: &Case, reading: &Reading) {
    let name = case.name;
    assert_eq!(meters(case.form, reading), case.meters, "{name}");
    assert_eq!(reading.model.as_deref(), case.model, "{name}");
    assert!(reading.ended && !reading.failed, "{name}: {reading:?}");
    assert!(reading.finished || case.form == Form::Realtime, "{name}: {reading:?}");
    assert!(reading.doubts.is_empty(), "{name}: {reading:?}");
    assert!(Meters::of(case.form, &reading.counters).1.is_empty(), "{name}: {reading:?}");
}

fn meters(form: Form, reading: &Reading) -> Vec<(Meter, u64)> {
    Meters::of(form, &reading.counters).0.iter().collect()
}

fn whole(case: &Case, body: &[u8], coding: Coding) -> Reading {
    read(case, coding, &[body], true)
}

fn read(case: &Case, coding: Coding, pieces: &[&[u8]], whole: bool) -> Reading {
    let mut tap = Tap::new(case.form, case.shape, Some(coding));
    for piece in pieces {
        tap.feed(piece);
    }
    tap.finish(whole)
}

fn read_events(form: Form, body: &[u8], whole: bool) -> Reading {
    let mut tap = Tap::new(form, Shape::Events, Some(Coding::Identity));
    tap.feed(body);
    tap.finish(whole)
}

fn read_json(form: Form, body: &[u8]) -> Reading {
    let mut tap = Tap::new(form, Shape::Json, Some(Coding::Identity));
    tap.feed(body);
    tap.finish(true)
}

#[test]
fn what_a_session_heard_is_another_models_bill() {
    let case = cases().into_iter().find(|case| case.form == Form::Realtime).unwrap();

    let reading = whole(&case, &case.body, Coding::Identity);

    assert_eq!(reading.heard_model.as_deref(), Some("whisper-1"));
    assert_eq!(reading.heard.get(Counter::AudioMillis), Some(2500));
    assert_eq!(reading.counters.get(Counter::AudioMillis), None);
}
