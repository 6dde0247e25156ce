//! The rules: what is owed for an answer that was read so far, when the call ends so.
//!
//! Invariant: while the consumer is there, nothing is owed but what the vendor stated, or
//! ended without stating; nothing at all is owed for a request that was not sent.

use super::Asked;
use super::Ending;
use super::Figure;
use super::Outcome;
use super::Rule;
use super::bill::bill;
use super::bill::bill_of_other;
use super::estimate;
use crate::usage::Doubt;
use crate::usage::Form;
use crate::usage::Meter;
use crate::usage::Meters;
use crate::usage::Reading;

/// What was seen of an answer.
pub(super) struct Seen<'a> {
    pub(super) form: Form,
    /// Its status says that it is one; true as well when there was none yet.
    pub(super) accepted: bool,
    /// Nothing in it could state usage: it is no JSON.
    pub(super) opaque: bool,
    pub(super) reading: &'a Reading,
    pub(super) response_bytes: u64,
}

/// The figure of a call.
pub(super) fn judge(seen: &Seen<'_>, asked: &Asked<'_>, ending: Ending) -> Figure {
    let outcome = outcome(seen, asked, ending);
    let mut figure = Figure::nothing(outcome, seen.response_bytes);
    figure.model.clone_from(&seen.reading.model);
    figure.doubts = seen.reading.doubts;
    if outcome == Outcome::NotSent {
        return figure;
    }
    figure.rule = rule(seen, asked, outcome, ending);
    let (stated, contradictions) = Meters::of(seen.form, &seen.reading.counters);
    match figure.rule {
        Rule::Nothing => return figure,
        Rule::Stated => {
            figure.doubts.add_all(contradictions);
            figure.meters = stated;
            if !seen.reading.heard.is_empty() {
                add_heard(&mut figure, seen, asked);
            }
        }
        Rule::Delivered => {
            figure.doubts.add_all(contradictions);
            figure.meters = output_of(&stated);
        }
        Rule::Left | Rule::Unstated => {
            figure.doubts.add_all(contradictions);
            figure.meters = stated;
            estimate_rest(&mut figure, seen, asked, ending);
        }
        Rule::Requested => {
            figure.meters.set(Meter::Characters, asked.demand.map_or(0, |demand| demand.characters));
        }
    }
    put_bill(&mut figure, seen, asked);
    figure
}

fn outcome(seen: &Seen<'_>, asked: &Asked<'_>, ending: Ending) -> Outcome {
    let left_early = matches!(ending, Ending::ConsumerLeft { .. }) && asked.demand.is_none();
    if ending == Ending::NotSent || (left_early && seen.form != Form::Realtime) {
        return Outcome::NotSent;
    }
    if !seen.accepted || seen.reading.failed {
        return Outcome::Failed;
    }
    match ending {
        Ending::Complete if is_over(seen, ending) => Outcome::Complete,
        Ending::Complete | Ending::Broke => Outcome::Broke,
        Ending::ConsumerLeft { .. } => Outcome::ConsumerLeft,
        Ending::NotSent => Outcome::NotSent,
    }
}

/// Whether the vendor has said all that it meant to say.
fn is_over(seen: &Seen<'_>, ending: Ending) -> bool {
    let unread = seen.opaque || seen.reading.doubts.has(Doubt::Undecodable);
    let clean_end = ending == Ending::Complete && (seen.reading.finished || unread || seen.form == Form::Realtime);
    seen.reading.ended || clean_end
}

fn rule(seen: &Seen<'_>, asked: &Asked<'_>, outcome: Outcome, ending: Ending) -> Rule {
    let reading = seen.reading;
    let stated = !reading.counters.is_empty() || !reading.heard.is_empty();
    if seen.form == Form::Realtime {
        // Each answer of a session is a whole one with a statement of its own.
        return if stated { Rule::Stated } else { Rule::Nothing };
    }
    let over = is_over(seen, ending);
    match (over && stated, outcome) {
        (true, _) => Rule::Stated,
        (false, Outcome::Failed | Outcome::Broke) => delivered(seen),
        (false, Outcome::NotSent) => Rule::Nothing,
        (false, Outcome::Complete | Outcome::ConsumerLeft) if is_counted_in_request(seen, asked) => Rule::Requested,
        (false, Outcome::Complete | Outcome::ConsumerLeft) if asked.demand.is_none() => Rule::Nothing,
        (false, Outcome::ConsumerLeft) if !over => Rule::Left,
        (false, Outcome::Complete | Outcome::ConsumerLeft) => Rule::Unstated,
    }
}

/// The consumer was there, and got a part: the output of that part, as far as it was stated.
fn delivered(seen: &Seen<'_>) -> Rule {
    let has_text = match seen.form {
        Form::Images | Form::Speech => true,
        Form::Completions
        | Form::DeepSeekCompletions
        | Form::Responses
        | Form::Embeddings
        | Form::Transcription
        | Form::Realtime
        | Form::Messages => seen.reading.text_bytes > 0,
    };
    let (stated, _) = Meters::of(seen.form, &seen.reading.counters);
    if has_text && output_of(&stated).iter().next().is_some() { Rule::Delivered } else { Rule::Nothing }
}

/// Speech that costs by the character states nothing and needs not to.
fn is_counted_in_request(seen: &Seen<'_>, asked: &Asked<'_>) -> bool {
    let sku = asked.prices.sku(asked.provider, asked.model);
    let by_character = sku.is_some_and(|sku| sku.rates.iter().any(|rate| rate.meter == Meter::Characters));
    seen.form == Form::Speech && by_character
}

fn output_of(stated: &Meters) -> Meters {
    let mut output = Meters::default();
    for meter in [Meter::Output, Meter::AudioOutput, Meter::ImageOutput] {
        output.set(meter, stated.get(meter));
    }
    output
}

fn add_heard(figure: &mut Figure, seen: &Seen<'_>, asked: &Asked<'_>) {
    // What was heard is stated as transcriptions are.
    let (heard, contradictions) = Meters::of(Form::Transcription, &seen.reading.heard);
    figure.doubts.add_all(contradictions);
    figure.heard_model.clone_from(&seen.reading.heard_model);
    figure.heard = heard;
    let billed = bill_of_other(asked, figure.heard_model.as_deref(), &heard);
    figure.doubts.add_all(billed.doubts);
    figure.lines = billed.bill.lines;
    figure.list = billed.bill.list_nano_usd;
}

fn estimate_rest(figure: &mut Figure, seen: &Seen<'_>, asked: &Asked<'_>, ending: Ending) {
    let Some(demand) = asked.demand else { return };
    let elapsed_ms = match (figure.rule, ending) {
        (Rule::Left, Ending::ConsumerLeft { elapsed_ms }) => elapsed_ms,
        _ => 0,
    };
    let sku = asked.prices.sku(asked.provider, asked.model);
    let estimated = estimate::complete(&mut figure.meters, seen.form, sku, demand, seen.reading, elapsed_ms);
    if figure.rule == Rule::Unstated {
        figure.doubts.add(Doubt::Unstated);
    } else if estimated {
        figure.elapsed_ms = elapsed_ms;
    } else {
        // Everything had been said when the consumer left.
        figure.rule = Rule::Stated;
    }
}

fn put_bill(figure: &mut Figure, seen: &Seen<'_>, asked: &Asked<'_>) {
    let billed = bill(asked, figure.model.as_deref(), seen.reading, &figure.meters);
    figure.doubts.add_all(billed.doubts);
    figure.tier = billed.tier;
    if figure.lines.is_empty() {
        figure.lines = billed.bill.lines;
    } else {
        figure.lines.extend(billed.bill.lines);
    }
    let sum = figure.list.plus(billed.bill.list_nano_usd).unwrap_or(asked.ceiling.max(billed.bill.list_nano_usd));
    figure.list = sum.min(asked.ceiling);
    if sum > asked.ceiling {
        figure.doubts.add(Doubt::OverCeiling);
    }
}
