//! Answers that no vendor should give.
//!
//! Invariant: none of them stalls a meter, makes it panic or costs more than the ceiling.

use super::*;
use crate::usage::Doubt;
use crate::usage::Tap;
use crate::usage::samples::events;
use crate::usage::samples::gzip;

#[test]
fn numbers_that_are_none_or_absurd_are_flagged_and_stay_below_the_ceiling() {
    let (prices, demand) = (table(), demand());
    let asked = asked(&prices, &demand);
    let stated = |usage: &str| {
        let body = format!(r#"{{"choices":[{{"finish_reason":"stop"}}],"usage":{{{usage}}}}}"#);
        figure(Form::Completions, Shape::Json, body.as_bytes(), &asked, Ending::Complete)
    };

    let negative = stated(r#""prompt_tokens":-5,"completion_tokens":20"#);
    assert!(negative.doubts.has(Doubt::BadNumber) && negative.list == NanoUsd(100), "{negative:?}");
    let huge = stated(r#""prompt_tokens":18446744073709551615,"completion_tokens":18446744073709551615"#);
    assert!(huge.doubts.has(Doubt::OverCeiling) && huge.list == CEILING, "{huge:?}");
    let torn = stated(r#""prompt_tokens":5,"completion_tokens":5,"total_tokens":99"#);
    assert!(torn.doubts.has(Doubt::Contradiction) && torn.list == NanoUsd(30), "{torn:?}");
    let new = stated(r#""prompt_tokens":5,"completion_tokens":5,"thoughts":99"#);
    assert!(new.doubts.has(Doubt::UnknownUsage) && new.list == NanoUsd(30), "{new:?}");
}

#[test]
fn usage_that_is_stated_twice_counts_once() {
    let (prices, demand) = (table(), demand());
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":20}}"#;
    let body = events(&[usage, usage, usage, "[DONE]"]);

    let figure = figure(Form::Completions, Shape::Events, &body, &asked(&prices, &demand), Ending::Complete);

    assert_eq!((figure.list, figure.rule), (NanoUsd(200), Rule::Stated));
}

#[test]
fn a_huge_event_a_bomb_and_garbage_are_metered_by_rule() {
    let (prices, demand) = (table(), demand());
    let asked = asked(&prices, &demand);
    let mut huge = br#"data: {"choices":[{"delta":{"content":""#.to_vec();
    huge.resize(16 * 1024 * 1024, b'x');
    huge.extend(b"\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":20}}\n\ndata: [DONE]\n\n");
    let huge = figure(Form::Completions, Shape::Events, &huge, &asked, Ending::Complete);
    assert_eq!((huge.rule, huge.list), (Rule::Stated, NanoUsd(200)));

    let mut bomb = CallMeter::new(Form::Completions);
    bomb.head(StatusCode::OK, &headers(Shape::Events, Some("gzip")));
    bomb.feed(&gzip(&vec![b' '; 90 * 1024 * 1024]));
    let bomb = bomb.finish(&asked, Ending::Complete);
    assert!(bomb.doubts.has(Doubt::Undecodable) && bomb.doubts.has(Doubt::Unstated), "{bomb:?}");

    let mut unknown = CallMeter::new(Form::Completions);
    unknown.head(StatusCode::OK, &headers(Shape::Json, Some("br")));
    let unknown = unknown.finish(&asked, Ending::Complete);
    assert!(unknown.doubts.has(Doubt::Undecodable) && unknown.rule == Rule::Unstated, "{unknown:?}");

    let garbage = figure(Form::Completions, Shape::Json, b"\xff\xfe{{]", &asked, Ending::Complete);
    assert!(garbage.doubts.has(Doubt::Unreadable) && garbage.list == NanoUsd::ZERO, "{garbage:?}");
    let early = CallMeter::new(Form::Completions);
    let mut no_head = early;
    no_head.feed(b"bytes before any head");
    assert_eq!(no_head.finish(&asked, Ending::Broke).response_bytes, 0);
}

#[test]
fn the_state_of_a_meter_fits_its_bound_however_long_the_answer_is() {
    // Besides it there is the inflate state, and of the agent what its link has queued.
    let state = size_of::<CallMeter>() + size_of::<Tap>();
    assert!(state < 8 * 1024, "{state} bytes");

    // All that may hang on it: four names of a model or its like.
    let (prices, demand) = (table(), demand());
    let mut meter = CallMeter::new(Form::Completions);
    meter.head(StatusCode::OK, &headers(Shape::Events, None));
    let name = "m".repeat(100_000);
    for _ in 0..100 {
        meter.feed(&events(&[&format!(r#"{{"model":"{name}","service_tier":"{name}"}}"#)]));
    }
    let figure = meter.finish(&asked(&prices, &demand), Ending::Broke);
    assert!(figure.model.is_none_or(|model| model.len() <= 128));
}

#[test]
fn no_answer_leads_to_a_panic_two_figures_or_more_than_the_ceiling() {
    let prices = table();
    bolero::check!().with_type::<(u8, u8, u8, u8, u32, Vec<u8>)>().for_each(
        |(form, kind, end, step, number, bytes)| {
            let form = Form::ALL[usize::from(*form) % Form::ALL.len()];
            let shape = [Shape::Json, Shape::Events, Shape::Session, Shape::Opaque][usize::from(*kind) % 4];
            let coding = [None, Some("gzip"), Some("deflate"), Some("zstd")][usize::from(*kind / 4) % 4];
            let ending =
                [Ending::Complete, Ending::ConsumerLeft { elapsed_ms: *number }, Ending::Broke, Ending::NotSent]
                    [usize::from(*end) % 4];
            let demand = Demand {
                text_bytes: u64::MAX,
                images: u64::from(*number),
                media_bytes: u64::from(*number),
                ..demand()
            };
            let asked = Asked { ceiling: NanoUsd(1_000), ..asked(&prices, &demand) };
            let begin = || {
                let mut meter = CallMeter::new(form);
                let status = if end & 64 == 0 { status_of(shape) } else { StatusCode::IM_A_TEAPOT };
                meter.head(status, &headers(shape, coding));
                meter
            };
            let (mut whole, mut cut) = (begin(), begin());
            whole.feed(bytes);
            bytes.chunks(usize::from(*step).max(1)).for_each(|piece| cut.feed(piece));

            assert!(whole.so_far(&asked) <= asked.ceiling);
            let figure = whole.finish(&asked, ending);
            assert!(figure.list <= asked.ceiling && figure.list >= NanoUsd::ZERO);
            assert_eq!(figure, cut.finish(&asked, ending));
        },
    );
}
