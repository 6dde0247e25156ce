//! Every recorded form, ended at every byte in every way, metered by an agent that had
//! queued more and by a hub that was fed otherwise.
//!
//! Invariant: what the rules say is checked against the recording, not against the meter.

use bytes::Bytes;

use super::*;
use crate::usage::samples::Case;
use crate::usage::samples::cases;
use crate::usage::samples::gzip;

const ELAPSED_MS: u32 = 1_500;

const ENDINGS: [Ending; 4] =
    [Ending::Complete, Ending::ConsumerLeft { elapsed_ms: ELAPSED_MS }, Ending::Broke, Ending::NotSent];

const INPUTS: [Meter; 9] = [
    Meter::Input,
    Meter::CachedInput,
    Meter::CacheWrite,
    Meter::CacheWrite1h,
    Meter::AudioInput,
    Meter::CachedAudioInput,
    Meter::ImageInput,
    Meter::CachedImageInput,
    Meter::AudioMillis,
];

const OUTPUTS: [Meter; 3] = [Meter::Output, Meter::AudioOutput, Meter::ImageOutput];

#[test]
fn both_sides_make_the_same_figure_and_it_keeps_the_rules_wherever_the_call_ends() {
    let (prices, demand) = (table(), with_file());
    for case in cases() {
        for cut in 0..=case.body.len() {
            for ending in ENDINGS {
                let whole = ending == Ending::Complete && cut == case.body.len();
                if ending == Ending::Complete && !whole {
                    continue;
                }
                let asked = asked_for(&case, &prices, &demand);
                let agent = agent_side(&case, &case.body, None, cut, &asked, ending);
                let hub = hub_side(&case, &case.body[..cut], None, &asked, ending);

                assert_eq!(agent, hub, "{} cut at {cut}, {ending:?}", case.name);
                check(&case, cut, ending, &hub);
            }
        }
    }
}

#[test]
fn both_sides_make_the_same_figure_of_compressed_answers_wherever_the_call_ends() {
    let (prices, demand) = (table(), with_file());
    for case in cases().iter().filter(|case| case.shape != Shape::Session) {
        let body = gzip(&case.body);
        for cut in 0..=body.len() {
            for ending in ENDINGS {
                let asked = asked_for(case, &prices, &demand);
                let agent = agent_side(case, &body, Some("gzip"), cut, &asked, ending);
                let hub = hub_side(case, &body[..cut], Some("gzip"), &asked, ending);

                assert_eq!(agent, hub, "{} cut at {cut}, {ending:?}", case.name);
                assert!(hub.list <= asked.ceiling);
            }
        }
    }
}

#[test]
fn an_orderly_end_before_the_vendors_own_end_is_judged_alike_and_never_as_more_than_stated() {
    let (prices, demand) = (table(), with_file());
    for case in cases() {
        let asked = asked_for(&case, &prices, &demand);
        let full = hub_side(&case, &case.body, None, &asked, Ending::Complete);
        for cut in 0..=case.body.len() {
            let agent = agent_side(&case, &case.body, None, cut, &asked, Ending::Complete);
            let hub = hub_side(&case, &case.body[..cut], None, &asked, Ending::Complete);

            assert_eq!(agent, hub, "{} cut at {cut}", case.name);
            assert!(hub.is_estimated() || hub.list <= full.list, "{} cut at {cut}: {hub:?}", case.name);
        }
    }
}

#[test]
fn what_an_agent_foretells_is_what_it_meters_when_all_has_left() {
    let (prices, demand) = (table(), with_file());
    for case in cases() {
        let asked = asked_for(&case, &prices, &demand);
        for left in (0..=case.body.len()).step_by(13) {
            let mut meter = WireMeter::new(CallMeter::new(case.form));
            meter.queue_head(status_of(case.shape), &headers(case.shape, None));
            case.body.chunks(11).for_each(|piece| meter.queue(Bytes::copy_from_slice(piece)));
            if left > 0 {
                meter.left(left as u64);
            }
            let foretold = meter.forecast(&asked, Ending::Complete).unwrap();
            let broken = meter.forecast(&asked, Ending::Broke).unwrap();
            meter.left(case.body.len() as u64);

            assert_eq!(meter.forecast(&asked, Ending::Broke), Some(broken));
            assert_eq!(foretold, meter.finish(&asked, Ending::Complete), "{} after {left}", case.name);
        }
    }
}

#[test]
fn of_a_compressed_answer_that_has_begun_to_leave_nothing_is_foretold() {
    let (prices, demand) = (table(), with_file());
    let case = &cases()[0];
    let asked = asked_for(case, &prices, &demand);
    let body = gzip(&case.body);
    let mut meter = WireMeter::new(CallMeter::new(case.form));
    meter.queue_head(StatusCode::OK, &headers(case.shape, Some("gzip")));
    meter.queue(body.into());

    assert_eq!(meter.forecast(&asked, Ending::Complete).unwrap().rule, Rule::Stated);
    meter.left(40);
    assert_eq!(meter.forecast(&asked, Ending::Complete), None);
}

fn with_file() -> Demand {
    Demand { media_bytes: 16_000, ..demand() }
}

fn asked_for<'a>(case: &Case, prices: &'a PriceTable, demand: &'a Demand) -> Asked<'a> {
    let provider = match case.form {
        Form::Messages => Provider::Anthropic,
        Form::DeepSeekCompletions => Provider::DeepSeek,
        Form::Completions
        | Form::Responses
        | Form::Embeddings
        | Form::Images
        | Form::Speech
        | Form::Transcription
        | Form::Realtime => Provider::OpenAi,
    };
    let model = if case.meters.iter().any(|(meter, _)| *meter == Meter::AudioMillis) { "whisper-1" } else { MODEL };
    Asked { provider, model, ..asked(prices, demand) }
}

/// An agent that has queued all of the answer, of which only a part left.
fn agent_side(
    case: &Case,
    body: &[u8],
    coding: Option<&'static str>,
    cut: usize,
    asked: &Asked<'_>,
    ending: Ending,
) -> Figure {
    let mut meter = WireMeter::new(CallMeter::new(case.form));
    meter.queue_head(status_of(case.shape), &headers(case.shape, coding));
    for (at, piece) in body.chunks(17).enumerate() {
        meter.queue(Bytes::copy_from_slice(piece));
        meter.left((at * 5).min(cut) as u64);
    }
    meter.left(cut as u64);
    meter.finish(asked, ending)
}

fn hub_side(case: &Case, begun: &[u8], coding: Option<&'static str>, asked: &Asked<'_>, ending: Ending) -> Figure {
    let mut meter = CallMeter::new(case.form);
    meter.head(status_of(case.shape), &headers(case.shape, coding));
    begun.chunks(29).for_each(|piece| meter.feed(piece));
    meter.finish(asked, ending)
}

fn check(case: &Case, cut: usize, ending: Ending, figure: &Figure) {
    let at = format!("{} cut at {cut}, {ending:?}: {figure:?}", case.name);
    let stated = |meter: Meter| case.meters.iter().find(|(stated, _)| *stated == meter).map_or(0, |(_, count)| *count);
    let billed = |meter: &Meter| figure.meters.get(*meter);
    let all_stated = Meter::ALL.iter().all(|meter| billed(meter) == stated(*meter));
    let at_end = cut == case.body.len();
    assert_eq!(figure.response_bytes, cut as u64, "{at}");
    assert!(figure.list <= CEILING, "{at}");
    assert_eq!(figure.list.0 == 0, figure.meters == Meters::default(), "{at}");
    match ending {
        Ending::NotSent => {
            assert_eq!(
                (figure.outcome, figure.rule, figure.list),
                (Outcome::NotSent, Rule::Nothing, NanoUsd::ZERO),
                "{at}"
            );
        }
        Ending::Complete => {
            assert_eq!((figure.outcome, figure.rule), (Outcome::Complete, Rule::Stated), "{at}");
            assert!(all_stated, "{at}");
        }
        Ending::Broke | Ending::ConsumerLeft { .. } if case.form == Form::Realtime => {
            // Answer by answer, each as it was stated.
            assert!(!figure.is_estimated(), "{at}");
            assert!(Meter::ALL.iter().all(|meter| billed(meter) <= stated(*meter)), "{at}");
            assert!(all_stated || !at_end, "{at}");
        }
        Ending::Broke => {
            assert!(!figure.is_estimated(), "{at}");
            assert!(OUTPUTS.iter().all(|meter| billed(meter) <= stated(*meter)), "{at}");
            let whole_stream = at_end && case.shape == Shape::Events;
            assert_eq!(whole_stream, figure.rule == Rule::Stated, "{at}");
            if whole_stream {
                assert!(all_stated, "{at}");
            } else {
                assert!(INPUTS.iter().all(|meter| billed(meter) == 0), "no input: {at}");
            }
        }
        Ending::ConsumerLeft { .. } => {
            assert!(INPUTS.iter().any(|meter| billed(meter) > 0), "it was sent: {at}");
            if figure.rule == Rule::Stated {
                assert!(all_stated, "{at}");
            } else {
                assert_eq!((figure.rule, figure.elapsed_ms), (Rule::Left, ELAPSED_MS), "{at}");
                let output: u64 = OUTPUTS.iter().map(billed).sum();
                let has_output = !matches!(case.form, Form::Embeddings) && stated(Meter::AudioMillis) == 0;
                assert!(!has_output || output >= 150, "1.5 seconds at 100 tokens: {at}");
            }
        }
    }
}
