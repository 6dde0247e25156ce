//! What a JSON request asks a model for.
//!
//! Invariant: refuses what its vendor refuses, in the vendor's order: model, then fields.

use super::answer::Prompt;
use super::models;
use super::play::Play;
use super::refusal::Refusal;
use super::reply::Asked;
use super::reply::BIG_MARK;
use super::route::Place;
use super::vendor::Form;
use serde_json::Value;

const BIG_WORD_BYTES: usize = 8 << 10;

/// Chat and messages.
pub(super) fn prompt(asked: &Asked<'_>, object: &Value, place: Place<'_>, seed: &str) -> Result<Prompt, Refusal> {
    let form = asked.form;
    let model = model(form, object["model"].as_str(), place)?;
    anthropic_head(asked)?;
    if form.is_anthropic() && object.get("max_tokens").and_then(Value::as_u64).is_none() {
        return Err(Refusal::Field("max_tokens"));
    }
    let messages = object.get("messages").and_then(Value::as_array);
    let messages = messages.ok_or(Refusal::Field("messages"))?;
    let last = messages.last().ok_or(Refusal::Field("messages"))?;
    let result = tool_result(last);
    let text = match &result {
        Some(result) => format!("The tool says {result}. Fin, naïve 東京 🙂."),
        None => format!("You said: {} — café, 東京, 🙂.", text_of(&last["content"])),
    };
    let tool = tool(object).filter(|_| result.is_none());
    Ok(asking(asked, object, seed, model, &text, tool, &object["messages"]))
}

/// The prompt whose answer is this text.
pub(super) fn asking(
    asked: &Asked<'_>,
    object: &Value,
    seed: &str,
    model: String,
    text: &str,
    tool: Option<String>,
    input: &Value,
) -> Prompt {
    let stream = object.get("stream") == Some(&Value::Bool(true));
    Prompt {
        seed: seed.to_owned(),
        model,
        stream,
        include_usage: object["stream_options"]["include_usage"] == Value::Bool(true),
        tool,
        words: words(text, asked.play, stream),
        input_tokens: input.to_string().len().div_ceil(4),
        error_in_stream: asked.play.error_in_stream,
    }
}

/// The name the answer gives to the model that was asked for, or to the deployment's.
pub(super) fn model(form: Form, named: Option<&str>, place: Place<'_>) -> Result<String, Refusal> {
    let model = place.deployment.or(named).ok_or(Refusal::Field("model"))?;
    models::answered_name(form, model).ok_or_else(|| Refusal::NoSuchModel(model.to_owned()))
}

/// What Anthropic wants to see in a head.
pub(super) fn anthropic_head(asked: &Asked<'_>) -> Result<(), Refusal> {
    if !asked.form.is_anthropic() {
        return Ok(());
    }
    if asked.head.first("anthropic-version").is_none() {
        return Err(Refusal::Field("anthropic-version"));
    }
    let betas = asked.head.all("anthropic-beta").join(",");
    match betas.split(',').map(str::trim).find(|beta| beta.contains("unknown")) {
        // DeepSeek does not look at betas.
        Some(beta) if asked.form == Form::Anthropic => Err(Refusal::Beta(beta.to_owned())),
        _ => Ok(()),
    }
}

pub(super) fn words(text: &str, play: &Play, stream: bool) -> Vec<String> {
    match (play.big, play.chunks) {
        (Some(_), _) if !stream => vec![BIG_MARK.to_owned()],
        (Some(bytes), _) => {
            let full = std::iter::repeat_n("x".repeat(BIG_WORD_BYTES), bytes / BIG_WORD_BYTES);
            let rest = "x".repeat(bytes % BIG_WORD_BYTES);
            full.chain(Some(rest).filter(|rest| !rest.is_empty())).collect()
        }
        (None, Some(count)) if stream => (0..count).map(|place| format!("w{place} ")).collect(),
        _ => text.split_inclusive(' ').map(str::to_owned).collect(),
    }
}

/// The tool to call: the first one offered, unless that is forbidden.
pub(super) fn tool(object: &Value) -> Option<String> {
    let first = object.get("tools")?.as_array()?.first()?;
    let name = first["function"]["name"].as_str();
    let chosen = object["tool_choice"] != "none";
    name.or_else(|| first["name"].as_str()).filter(|_| chosen).map(str::to_owned)
}

fn tool_result(message: &Value) -> Option<String> {
    if message["role"] == "tool" {
        return Some(text_of(&message["content"]));
    }
    let blocks = message["content"].as_array()?;
    let result = blocks.iter().find(|block| block["type"] == "tool_result")?;
    Some(text_of(&result["content"]))
}

/// The text in a message's content; of media its size, so that a lost byte would show.
pub(super) fn text_of(content: &Value) -> String {
    if let Some(text) = content.as_str() {
        return text.to_owned();
    }
    let parts = content.as_array().into_iter().flatten();
    parts.map(|part| part["text"].as_str().map_or_else(|| media(part), str::to_owned)).collect()
}

fn media(part: &Value) -> String {
    let named = [&part["image_url"]["url"], &part["image_url"], &part["source"]["data"], &part["input_audio"]["data"]];
    let data = named.into_iter().find_map(Value::as_str).unwrap_or_default();
    if data.is_empty() { String::new() } else { format!("[{} characters]", data.len()) }
}
