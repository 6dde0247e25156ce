//! Messages as Anthropic gives them (and DeepSeek in its Anthropic form), plain and streamed.
//!
//! Invariant: usage in `message_delta` is cumulative and is the truth, the one in `message_start`
//! is not.

use super::answer::Answer;
use super::answer::Prompt;
use super::answer::quoted;
use super::chat::arguments;
use super::chat::fragments;
use super::question;
use super::refusal::Refusal;
use super::reply::Asked;
use super::reply::BIG_MARK;
use super::route::Place;
use super::route::What;
use super::vendor::Form;
use serde_json::Value;

pub(super) fn answer(form: Form, prompt: &Prompt) -> Answer {
    if prompt.stream {
        Answer::stream(form, &prompt.seed, stream(form, prompt))
    } else {
        Answer::json(form, 200, &prompt.seed, whole(form, prompt))
    }
}

/// How many tokens a message would be, without asking the model.
pub(super) fn count(asked: &Asked<'_>, object: &Value, seed: &str) -> Result<Answer, Refusal> {
    let place = Place { what: What::CountTokens, deployment: None };
    question::model(asked.form, object["model"].as_str(), place)?;
    question::anthropic_head(asked)?;
    if object["messages"].as_array().is_none_or(Vec::is_empty) {
        return Err(Refusal::Field("messages"));
    }
    let fields = [&object["messages"], &object["system"], &object["tools"]];
    let bytes: usize = fields.iter().filter(|field| !field.is_null()).map(|field| field.to_string().len()).sum();
    let mark = if asked.play.big.is_some() { format!(r#","kit":"{BIG_MARK}""#) } else { String::new() };
    let body = format!(r#"{{"input_tokens":{}{mark}}}"#, bytes.div_ceil(4));
    Ok(Answer::json(asked.form, 200, seed, body))
}

fn whole(form: Form, prompt: &Prompt) -> String {
    let (content, stop) = match &prompt.tool {
        Some(tool) => (
            format!(
                r#"{{"type":"text","text":"Let me look."}},{{"type":"tool_use","id":"{}","name":{},"input":{}}}"#,
                prompt.id("toolu_"),
                quoted(tool),
                arguments(prompt)
            ),
            "tool_use",
        ),
        None => (format!(r#"{{"type":"text","text":{}}}"#, quoted(&prompt.text())), "end_turn"),
    };
    let message = message(prompt, &content, &quoted(stop), prompt.output_tokens());
    // Anthropic's edge pads JSON with blanks.
    let padding = if form == Form::Anthropic { "    " } else { "" };
    format!("{message}{padding}")
}

fn stream(form: Form, prompt: &Prompt) -> Vec<String> {
    let start = message(prompt, "", "null", 1);
    let mut events = vec![event(form, "message_start", &format!(r#""message":{start}"#))];
    let text = r#"{"type":"text","text":""}"#;
    let stop = match &prompt.tool {
        Some(tool) => {
            block(form, &mut events, 0, text, &["Let me".into(), " look.".into()], text_delta);
            let input =
                format!(r#"{{"type":"tool_use","id":"{}","name":{},"input":{{}}}}"#, prompt.id("toolu_"), quoted(tool));
            let mut parts = vec![String::new()];
            parts.extend(fragments(&arguments(prompt)));
            block(form, &mut events, 1, &input, &parts, json_delta);
            "tool_use"
        }
        None => {
            block(form, &mut events, 0, text, &prompt.words, text_delta);
            "end_turn"
        }
    };
    if prompt.error_in_stream {
        events.truncate(events.len() / 2);
        events.push(event(form, "error", r#""error":{"type":"overloaded_error","message":"Overloaded"}"#));
        return events;
    }
    let usage = format!(
        r#"{{"input_tokens":{},"cache_creation_input_tokens":0,"cache_read_input_tokens":{},"output_tokens":{}}}"#,
        prompt.input_tokens,
        prompt.input_tokens / 3,
        prompt.output_tokens()
    );
    events.push(event(
        form,
        "message_delta",
        &format!(r#""delta":{{"stop_reason":"{stop}","stop_sequence":null}},"usage":{usage}"#),
    ));
    events.push(event(form, "message_stop", ""));
    events
}

fn block(form: Form, events: &mut Vec<String>, index: usize, start: &str, parts: &[String], delta: fn(&str) -> String) {
    let begin = format!(r#""index":{index},"content_block":{start}"#);
    events.push(event(form, "content_block_start", &begin));
    if index == 0 {
        events.push(event(form, "ping", ""));
    }
    for part in parts {
        let body = format!(r#""index":{index},"delta":{}"#, delta(part));
        events.push(event(form, "content_block_delta", &body));
    }
    let end = format!(r#""index":{index}"#);
    events.push(event(form, "content_block_stop", &end));
}

fn text_delta(text: &str) -> String {
    format!(r#"{{"type":"text_delta","text":{}}}"#, quoted(text))
}

fn json_delta(part: &str) -> String {
    format!(r#"{{"type":"input_json_delta","partial_json":{}}}"#, quoted(part))
}

fn event(form: Form, kind: &str, rest: &str) -> String {
    let comma = if rest.is_empty() { "" } else { "," };
    let padding = if form == Form::Anthropic { "   " } else { "" };
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{comma}{rest}{padding}}}{padding}\n\n")
}

fn message(prompt: &Prompt, content: &str, stop: &str, output_tokens: usize) -> String {
    format!(
        r#"{{"id":"{}","type":"message","role":"assistant","model":{},"content":[{content}],"stop_reason":{stop},"stop_sequence":null,"usage":{{"input_tokens":{},"cache_creation_input_tokens":0,"cache_read_input_tokens":{},"cache_creation":{{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}},"output_tokens":{output_tokens},"service_tier":"standard","inference_geo":"not_available"}}}}"#,
        prompt.id("msg_"),
        quoted(&prompt.model),
        prompt.input_tokens,
        prompt.input_tokens / 3
    )
}
