//! Who pays what, one rule a test.
//!
//! Invariant: each figure here can be checked by hand.

use super::*;
use crate::demand::TierAsked;
use crate::usage::Doubt;
use crate::usage::samples::events;

const LEFT: Ending = Ending::ConsumerLeft { elapsed_ms: 2_000 };

const CHUNK: &str = r#"{"model":"asked","choices":[{"delta":{"content":"Hello, you"},"finish_reason":null}]}"#;
const STOP: &str = r#"{"model":"asked","choices":[{"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120}}"#;

/// 100 tokens in at 1, 20 out at 5 nano-USD.
const STATED: NanoUsd = NanoUsd(200);

#[test]
fn what_the_vendor_stated_is_what_a_whole_answer_costs() {
    let (prices, demand) = (table(), demand());

    let figure = chat(&[CHUNK, STOP, USAGE, "[DONE]"], &asked(&prices, &demand), Ending::Complete);

    assert_eq!((figure.outcome, figure.rule, figure.list), (Outcome::Complete, Rule::Stated, STATED));
    assert_eq!(figure.lines.iter().map(|line| line.nano_usd.0).sum::<i64>(), STATED.0);
    assert!(figure.doubts.is_empty() && !figure.is_estimated());
}

#[test]
fn a_consumer_that_left_pays_for_its_request_and_for_the_time() {
    let (prices, demand) = (table(), demand());
    let asked = asked(&prices, &demand);

    // 4,000 bytes of text and two images; two seconds of 100 tokens.
    let before_head = CallMeter::new(Form::Completions).finish(&asked, LEFT);
    let midway = chat(&[CHUNK], &asked, LEFT);
    let long_text = chat(&[&CHUNK.replace("you", &"x".repeat(9_993))], &asked, LEFT);

    for figure in [&before_head, &midway] {
        assert_eq!(quantities(&figure.meters), [(Meter::Input, 3_000), (Meter::Output, 200)]);
        assert_eq!((figure.outcome, figure.rule, figure.list), (Outcome::ConsumerLeft, Rule::Left, NanoUsd(4_000)));
        assert!(figure.is_estimated() && figure.elapsed_ms == 2_000);
    }
    assert_eq!(long_text.meters.get(Meter::Output), 2_500, "10,000 bytes of text");
}

#[test]
fn an_estimate_stays_below_what_was_asked_for() {
    let (prices, few) = (table(), Demand { output_tokens: Some(7), answers: 3, ..demand() });
    let (many, vast) = (Demand { output_tokens: None, ..demand() }, Demand { text_bytes: u64::MAX, ..demand() });
    let long = Ending::ConsumerLeft { elapsed_ms: u32::MAX };

    let output = |demand: &Demand| chat(&[CHUNK], &asked(&prices, demand), long).meters.get(Meter::Output);

    assert_eq!(output(&few), 21);
    assert_eq!(output(&many), 50_000, "what the model can make");
    assert_eq!(chat(&[CHUNK], &asked(&prices, &vast), long).meters.get(Meter::Input), 100_000, "its window");
    let capped = Asked { ceiling: NanoUsd(17), ..asked(&prices, &many) };
    let figure = chat(&[CHUNK], &capped, long);
    assert!(figure.list == NanoUsd(17) && figure.doubts.has(Doubt::OverCeiling));
}

#[test]
fn what_anthropic_said_at_the_beginning_is_not_estimated_again() {
    let (prices, demand) = (table(), demand());
    let start = r#"{"type":"message_start","message":{"model":"asked","usage":{"input_tokens":50,"cache_read_input_tokens":700,"output_tokens":1}}}"#;

    let figure = messages(&[start], &asked(&prices, &demand), LEFT);

    assert_eq!(quantities(&figure.meters), [(Meter::Input, 50), (Meter::CachedInput, 700), (Meter::Output, 200)]);
    assert_eq!(figure.rule, Rule::Left);
}

#[test]
fn everything_stated_before_the_consumer_left_is_no_estimate() {
    let (prices, demand) = (table(), demand());

    let figure = chat(&[CHUNK, STOP, USAGE], &asked(&prices, &demand), LEFT);

    assert_eq!((figure.outcome, figure.rule, figure.list), (Outcome::ConsumerLeft, Rule::Stated, STATED));
    assert_eq!(figure.elapsed_ms, 0);
}

#[test]
fn a_request_that_was_not_sent_costs_nothing_whoever_ended_it() {
    let (prices, demand) = (table(), demand());
    let not_sent = Asked { demand: None, ..asked(&prices, &demand) };

    for ending in [LEFT, Ending::NotSent] {
        let figure = chat(&[CHUNK], &not_sent, ending);
        assert_eq!((figure.outcome, figure.list), (Outcome::NotSent, NanoUsd::ZERO), "{ending:?}");
    }
}

#[test]
fn a_consumer_that_stayed_pays_for_no_input_and_no_estimate_when_the_answer_broke_off() {
    let (prices, demand) = (table(), demand());
    let asked = asked(&prices, &demand);
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":50,"output_tokens":1}}}"#;
    let text = r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hello"}}"#;
    let delta = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":12}}"#;

    let unstated = chat(&[CHUNK, CHUNK], &asked, Ending::Broke);
    let nothing_said = messages(&[start], &asked, Ending::Broke);
    let begun = messages(&[start, text], &asked, Ending::Broke);
    let nearly = messages(&[start, text, delta], &asked, Ending::Broke);
    let before_head = CallMeter::new(Form::Completions).finish(&asked, Ending::Broke);

    for figure in [&unstated, &nothing_said, &before_head] {
        assert_eq!((figure.outcome, figure.rule, figure.list), (Outcome::Broke, Rule::Nothing, NanoUsd::ZERO));
    }
    assert_eq!((begun.rule, quantities(&begun.meters)), (Rule::Delivered, vec![(Meter::Output, 1)]));
    assert_eq!((nearly.rule, quantities(&nearly.meters)), (Rule::Delivered, vec![(Meter::Output, 12)]));
}

#[test]
fn a_stream_that_ends_in_order_before_its_mark_broke_off() {
    let (prices, demand) = (table(), demand());
    let asked = asked(&prices, &demand);

    let cut = chat(&[CHUNK], &asked, Ending::Complete);
    let unmarked = chat(&[CHUNK, STOP, USAGE], &asked, Ending::Complete);

    assert_eq!((cut.outcome, cut.list), (Outcome::Broke, NanoUsd::ZERO));
    assert_eq!((unmarked.outcome, unmarked.rule, unmarked.list), (Outcome::Complete, Rule::Stated, STATED));
}

#[test]
fn an_error_costs_nothing_unless_usage_is_stated() {
    let (prices, demand) = (table(), demand());
    let asked = asked(&prices, &demand);
    let error = r#"{"error":{"message":"boom","type":"server_error"}}"#;
    let refused = |body: &str, ending| {
        let mut meter = CallMeter::new(Form::Completions);
        meter.head(StatusCode::BAD_REQUEST, &headers(Shape::Json, None));
        meter.feed(body.as_bytes());
        meter.finish(&asked, ending)
    };
    let with_usage = r#"{"error":{},"usage":{"prompt_tokens":100,"completion_tokens":20}}"#;

    for figure in [
        refused(error, Ending::Complete),
        refused(error, LEFT),
        chat(&[CHUNK, error], &asked, Ending::Complete),
        chat(&[CHUNK, error, "[DONE]"], &asked, Ending::Complete),
        chat(&[error], &asked, LEFT),
    ] {
        assert_eq!((figure.outcome, figure.rule, figure.list), (Outcome::Failed, Rule::Nothing, NanoUsd::ZERO));
    }
    let stated = refused(with_usage, Ending::Complete);
    assert_eq!((stated.outcome, stated.rule, stated.list), (Outcome::Failed, Rule::Stated, STATED));
}

#[test]
fn usage_that_was_not_delivered_is_estimated_without_time_and_seen() {
    let (prices, demand) = (table(), demand());

    let figure = chat(&[CHUNK, STOP, "[DONE]"], &asked(&prices, &demand), Ending::Complete);

    assert_eq!((figure.outcome, figure.rule, figure.elapsed_ms), (Outcome::Complete, Rule::Unstated, 0));
    assert_eq!(quantities(&figure.meters), [(Meter::Input, 3_000), (Meter::Output, 3)]);
    assert!(figure.is_estimated() && figure.doubts.has(Doubt::Unstated));
}

#[test]
fn of_all_prices_that_fit_the_lowest_counts() {
    let (prices, demand) = (table(), demand());
    let asked = asked(&prices, &demand);
    let answered = |model: &str, tier: &str| {
        let usage = USAGE.replacen('{', &format!(r#"{{"model":"{model}","service_tier":"{tier}","#), 1);
        chat(&[CHUNK, STOP, &usage, "[DONE]"], &asked, Ending::Complete)
    };

    let (cheap, dear) = (answered("cheap", "default"), answered("dear", "default"));
    assert_eq!((cheap.list, dear.list), (NanoUsd(100), STATED));
    assert!(cheap.doubts.has(Doubt::OtherModel) && dear.doubts.has(Doubt::OtherModel));
    let (dated, sibling) = (answered("asked-2026-01-01", "default"), answered("asked-mini", "default"));
    assert!(dated.doubts.is_empty() && sibling.doubts.has(Doubt::OtherModel));
    assert_eq!(sibling.list, STATED);
    let (priority, unknown) = (answered(MODEL, "priority"), answered(MODEL, "scale"));
    assert_eq!((priority.list, priority.tier), (STATED, ServiceTier::Standard), "it was not asked for");
    assert!(unknown.list == STATED && unknown.doubts.has(Doubt::UnknownTier));
}

#[test]
fn the_class_of_service_that_was_asked_for_costs_what_it_costs_when_it_was_given() {
    let (prices, demand) = (table(), Demand { tier: TierAsked::Auto, ..demand() });
    let asked = asked(&prices, &demand);
    let answered = |tier: &str| {
        let usage = USAGE.replacen('{', &format!(r#"{{"service_tier":"{tier}","#), 1);
        let figure = chat(&[CHUNK, STOP, &usage, "[DONE]"], &asked, Ending::Complete);
        (figure.list, figure.tier)
    };

    assert_eq!(answered("priority"), (NanoUsd(2 * STATED.0), ServiceTier::Priority));
    assert_eq!(answered("default"), (STATED, ServiceTier::Standard));
}

#[test]
fn what_has_no_price_is_not_billed_and_is_seen() {
    let (prices, demand) = (table(), demand());
    let unknown = Asked { model: "nobody-sells-this", ..asked(&prices, &demand) };
    let whisper = Asked { model: "whisper-1", ..asked(&prices, &demand) };

    let anonymous = [r#"{"choices":[{"finish_reason":"stop"}]}"#, USAGE, "[DONE]"];
    let nothing = chat(&anonymous, &unknown, Ending::Complete);
    let azure = chat(&anonymous, &Asked { provider: Provider::Azure, ..unknown }, Ending::Complete);
    let body = br#"{"text":"hi","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":4,"audio_tokens":10},"output_tokens":45}}"#;
    let odd = figure(Form::Transcription, Shape::Json, body, &whisper, Ending::Complete);

    for figure in [&nothing, &azure, &odd] {
        assert!(figure.doubts.has(Doubt::Unpriced) && figure.list == NanoUsd::ZERO, "{figure:?}");
    }
}

#[test]
fn speech_by_the_character_is_counted_in_its_request() {
    let (prices, demand) = (table(), demand());
    let asked = Asked { model: "tts-1", ..asked(&prices, &demand) };
    let spoken = |ending| figure(Form::Speech, Shape::Opaque, b"\xff\xfbaudio", &asked, ending);

    for figure in [spoken(Ending::Complete), spoken(LEFT), CallMeter::new(Form::Speech).finish(&asked, LEFT)] {
        assert_eq!((figure.rule, quantities(&figure.meters)), (Rule::Requested, vec![(Meter::Characters, 900)]));
        assert_eq!((figure.list, figure.is_estimated()), (NanoUsd(900 * 14), false));
    }
    assert_eq!(spoken(Ending::Broke).list, NanoUsd::ZERO);
}

#[test]
fn a_transcription_that_nobody_waited_for_is_estimated_by_its_file() {
    let (prices, demand) = (table(), Demand { text_bytes: 0, images: 0, media_bytes: 32_000, ..demand() });
    let by_time = Asked { model: "whisper-1", ..asked(&prices, &demand) };

    let timed = CallMeter::new(Form::Transcription).finish(&by_time, LEFT);
    let by_token = CallMeter::new(Form::Transcription).finish(&asked(&prices, &demand), LEFT);

    assert_eq!(quantities(&timed.meters), [(Meter::AudioMillis, 2_000)]);
    assert_eq!(quantities(&by_token.meters), [(Meter::Output, 200), (Meter::AudioInput, 20)]);
}

#[test]
fn a_session_pays_for_each_answer_and_for_what_was_written_down() {
    let (prices, demand) = (table(), demand());
    let asked = Asked { demand: None, ..asked(&prices, &demand) };
    let case = crate::usage::samples::cases().into_iter().find(|case| case.form == Form::Realtime).unwrap();

    let figure = figure(Form::Realtime, Shape::Session, &case.body, &asked, LEFT);

    assert_eq!((figure.rule, quantities(&figure.meters)), (Rule::Stated, case.meters.to_vec()));
    assert_eq!(quantities(&figure.heard), [(Meter::AudioMillis, 2_500)]);
    assert_eq!(figure.heard_model.as_deref(), Some("whisper-1"));
    let session: u64 = case.meters.iter().map(|(meter, count)| u64::from(meter.number()) * count).sum();
    assert_eq!(u64::try_from(figure.list.0), Ok(session + 30), "2.5 seconds at 12");
    assert_eq!(figure.lines.len(), case.meters.len() + 1);
}

#[test]
fn usage_is_worth_waiting_for_between_the_last_word_and_the_statement() {
    let waits = |data: &[&str]| {
        let mut meter = CallMeter::new(Form::Completions);
        meter.head(StatusCode::OK, &headers(Shape::Events, None));
        meter.feed(&events(data));
        meter.awaits_usage()
    };

    assert!(!waits(&[CHUNK]) && waits(&[CHUNK, STOP]));
    assert!(!waits(&[CHUNK, STOP, USAGE]) && !waits(&[CHUNK, STOP, "[DONE]"]));
    assert!(!CallMeter::new(Form::Completions).awaits_usage());
}

#[test]
fn what_a_call_has_cost_so_far_is_what_it_would_cost_if_it_broke_off() {
    let (prices, demand) = (table(), demand());
    let asked = asked(&prices, &demand);
    let mut meter = CallMeter::new(Form::Completions);
    assert_eq!(meter.so_far(&asked), NanoUsd::ZERO);
    meter.head(StatusCode::OK, &headers(Shape::Events, None));
    meter.feed(&events(&[CHUNK, STOP, USAGE]));

    assert_eq!(meter.so_far(&asked), NanoUsd(100), "the output that was stated");
    meter.feed(&events(&["[DONE]"]));
    assert_eq!(meter.so_far(&asked), STATED);
}

fn chat(data: &[&str], asked: &Asked<'_>, ending: Ending) -> Figure {
    figure(Form::Completions, Shape::Events, &events(data), asked, ending)
}

fn messages(data: &[&str], asked: &Asked<'_>, ending: Ending) -> Figure {
    figure(Form::Messages, Shape::Events, &events(data), asked, ending)
}
