//! Completions of the old kind, and DeepSeek's fill-in-the-middle.
//!
//! Invariant: a usage chunk only where the vendor would send one.

use super::answer::Answer;
use super::answer::Prompt;
use super::answer::quoted;
use super::chat;
use super::question;
use super::refusal::Refusal;
use super::reply::Asked;
use super::route::Place;
use super::vendor::Form;
use serde_json::Value;

pub(super) fn answer(asked: &Asked<'_>, object: &Value, place: Place<'_>, seed: &str) -> Result<Answer, Refusal> {
    let form = asked.form;
    let model = question::model(form, object["model"].as_str(), place)?;
    let text = object["prompt"].as_str().ok_or(Refusal::Field("prompt"))?;
    let text = format!("{text} … {}, 東京, 🙂", object["suffix"].as_str().unwrap_or("café"));
    let prompt = question::asking(asked, object, seed, model, &text, None, &object["prompt"]);
    if !prompt.stream {
        let choice = choice(&prompt.text(), Some("stop"));
        let usage = format!(r#","usage":{}"#, chat::usage(form, &prompt));
        return Ok(Answer::json(form, 200, seed, body(form, &prompt, &choice, &usage) + "\n"));
    }
    Ok(Answer::stream(form, seed, stream(form, &prompt)))
}

fn stream(form: Form, prompt: &Prompt) -> Vec<String> {
    let asked_for = |rest: &str| if prompt.include_usage { rest.to_owned() } else { String::new() };
    let event = |choice: &str, rest: &str| format!("data: {}\n\n", body(form, prompt, choice, rest));
    let mut events = Vec::new();
    if form == Form::DeepSeek {
        events.push(": keep-alive\n\n".to_owned());
    }
    for word in &prompt.words {
        events.push(event(&choice(word, None), &asked_for(r#","usage":null"#)));
    }
    if prompt.error_in_stream {
        events.truncate(events.len() / 2);
        events.push(chat::STREAM_ERROR.to_owned());
        return events;
    }
    events.push(event(&choice("", Some("stop")), &asked_for(r#","usage":null"#)));
    if prompt.include_usage {
        events.push(event("", &format!(r#","usage":{}"#, chat::usage(form, prompt))));
    }
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn choice(text: &str, finish: Option<&str>) -> String {
    let finish = finish.map_or_else(|| "null".to_owned(), quoted);
    format!(r#"{{"text":{},"index":0,"logprobs":null,"finish_reason":{finish}}}"#, quoted(text))
}

fn body(form: Form, prompt: &Prompt, choice: &str, rest: &str) -> String {
    let print = if form == Form::OpenAi { "" } else { r#","system_fingerprint":"fp_kit0000001""# };
    format!(
        r#"{{"id":"{}","object":"text_completion","created":{},"model":{},"choices":[{choice}]{print}{rest}}}"#,
        prompt.id("cmpl-"),
        chat::CREATED,
        quoted(&prompt.model)
    )
}
