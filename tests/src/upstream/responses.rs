//! OpenAI's responses, plain and as a stream of named events.
//!
//! Invariant: usage comes in the last event only, and no `[DONE]` follows it.

use super::answer::Answer;
use super::answer::Prompt;
use super::chat;
use super::question;
use super::refusal::Refusal;
use super::reply::Asked;
use super::route::Place;
use super::route::What;
use serde_json::Value;
use serde_json::json;

pub(super) fn answer(asked: &Asked<'_>, object: &Value, seed: &str) -> Result<Answer, Refusal> {
    let place = Place { what: What::Responses, deployment: None };
    let model = question::model(asked.form, object["model"].as_str(), place)?;
    let input = &object["input"];
    if input.as_str().is_none_or(str::is_empty) && input.as_array().is_none_or(Vec::is_empty) {
        return Err(Refusal::Field("input"));
    }
    let last = input.as_array().and_then(|items| items.last());
    let result = last.filter(|item| item["type"] == "function_call_output");
    let text = match (result, last) {
        (Some(result), _) => format!("The tool says {}. Fin, naïve 東京 🙂.", question::text_of(&result["output"])),
        (None, Some(last)) => format!("You said: {} — café, 🙂.", question::text_of(&last["content"])),
        (None, None) => format!("You said: {} — café, 🙂.", input.as_str().unwrap_or_default()),
    };
    let tool = question::tool(object).filter(|_| result.is_none());
    let prompt = question::asking(asked, object, seed, model, &text, tool, input);
    if prompt.stream {
        return Ok(Answer::stream(asked.form, seed, stream(&prompt, object)));
    }
    let body = response(&prompt, object, "completed", &[item(&prompt, "completed")]);
    Ok(Answer::json(asked.form, 200, seed, format!("{body:#}")))
}

fn stream(prompt: &Prompt, object: &Value) -> Vec<String> {
    let mut events = Events::default();
    let begun = response(prompt, object, "in_progress", &[]);
    events.add("response.created", json!({"response": begun}));
    events.add("response.in_progress", json!({"response": begun}));
    let id = item(prompt, "in_progress")["id"].clone();
    let mut empty = item(prompt, "in_progress");
    let field = if prompt.tool.is_some() { "arguments" } else { "content" };
    empty[field] = if prompt.tool.is_some() { "".into() } else { json!([]) };
    events.add("response.output_item.added", json!({"output_index": 0, "item": empty}));
    let at = |more: Value| {
        let mut data = json!({"item_id": id, "output_index": 0});
        for (field, value) in more.as_object().into_iter().flatten() {
            data[field] = value.clone();
        }
        data
    };
    if prompt.tool.is_some() {
        let arguments = chat::arguments(prompt);
        for part in chat::fragments(&arguments) {
            events.add("response.function_call_arguments.delta", at(json!({"delta": part})));
        }
        events.add("response.function_call_arguments.done", at(json!({"arguments": arguments})));
    } else {
        let empty = json!({"type": "output_text", "annotations": [], "logprobs": [], "text": ""});
        events.add("response.content_part.added", at(json!({"content_index": 0, "part": empty})));
        for word in &prompt.words {
            let delta = json!({"content_index": 0, "delta": word, "logprobs": [], "obfuscation": &prompt.seed[..7]});
            events.add("response.output_text.delta", at(delta));
        }
        let text = prompt.text();
        events.add("response.output_text.done", at(json!({"content_index": 0, "text": text, "logprobs": []})));
        let part = json!({"type": "output_text", "annotations": [], "logprobs": [], "text": text});
        events.add("response.content_part.done", at(json!({"content_index": 0, "part": part})));
    }
    if prompt.error_in_stream {
        events.all.truncate(events.all.len() / 2);
        let error = json!({"code": "server_error", "message": "The server had an error.", "param": null});
        events.add("error", error);
        return events.all;
    }
    let done = item(prompt, "completed");
    events.add("response.output_item.done", json!({"output_index": 0, "item": done}));
    let whole = response(prompt, object, "completed", &[done]);
    events.add("response.completed", json!({"response": whole}));
    events.all
}

#[derive(Default)]
struct Events {
    all: Vec<String>,
    number: u64,
}

impl Events {
    fn add(&mut self, kind: &str, mut data: Value) {
        data["type"] = kind.into();
        data["sequence_number"] = self.number.into();
        self.number += 1;
        self.all.push(format!("event: {kind}\ndata: {data}\n\n"));
    }
}

fn item(prompt: &Prompt, status: &str) -> Value {
    match &prompt.tool {
        Some(tool) => json!({
            "id": prompt.id("fc_"), "type": "function_call", "status": status, "call_id": prompt.id("call_"),
            "name": tool, "arguments": chat::arguments(prompt),
        }),
        None => json!({
            "id": prompt.id("msg_"), "type": "message", "status": status, "role": "assistant",
            "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": prompt.text()}],
        }),
    }
}

fn response(prompt: &Prompt, object: &Value, status: &str, output: &[Value]) -> Value {
    let (input, made) = (prompt.input_tokens, prompt.output_tokens());
    let usage = json!({
        "input_tokens": input, "input_tokens_details": {"cached_tokens": input / 4, "cache_write_tokens": 0},
        "output_tokens": made, "output_tokens_details": {"reasoning_tokens": 5}, "total_tokens": input + made,
    });
    let completed = status == "completed";
    json!({
        "id": prompt.id("resp_"), "object": "response", "created_at": chat::CREATED, "status": status,
        "background": false, "error": null, "incomplete_details": null, "instructions": object["instructions"],
        "max_output_tokens": object["max_output_tokens"], "model": prompt.model, "output": output,
        "parallel_tool_calls": true, "previous_response_id": null, "reasoning": {"effort": null, "summary": null},
        "service_tier": if completed { "default" } else { "auto" }, "store": object["store"] != false,
        "temperature": 1.0, "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto",
        "tools": object.get("tools").cloned().unwrap_or_else(|| json!([])), "top_p": 1.0,
        "truncation": "disabled", "usage": if completed { usage } else { Value::Null }, "user": null, "metadata": {},
    })
}
