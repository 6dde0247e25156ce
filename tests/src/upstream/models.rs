//! Which models the upstream knows, and its lists of them.
//!
//! Invariant: a model with `unknown` in its name, or not of the vendor's family, does not exist.

use super::answer::quoted;
use super::vendor::Form;

const OPENAI: [&str; 13] = [
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-4.1-mini",
    "o4-mini",
    "gpt-3.5-turbo-instruct",
    "text-embedding-3-small",
    "gpt-image-1",
    "gpt-4o-mini-tts",
    "gpt-4o-transcribe",
    "whisper-1",
    "gpt-realtime",
    "dall-e-3",
    "tts-1",
];
const ANTHROPIC: [&str; 3] = ["claude-opus-4-5-20251101", "claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001"];
const DEEPSEEK: [&str; 3] = ["deepseek-chat", "deepseek-reasoner", "deepseek-flash"];

/// The name the answer gives for a model, or `None` when there is no such model.
pub(super) fn answered_name(form: Form, model: &str) -> Option<String> {
    let family = match form {
        Form::OpenAi => ["gpt-", "o1", "o3", "o4", "text-embedding-", "dall-e-", "tts-", "whisper-"].as_slice(),
        // A deployment has any name its owner gave it.
        Form::Azure => [""].as_slice(),
        Form::Anthropic => ["claude-"].as_slice(),
        Form::DeepSeek => ["deepseek-"].as_slice(),
        Form::DeepSeekAnthropic => ["deepseek-", "claude"].as_slice(),
    };
    let known = family.iter().any(|prefix| model.starts_with(prefix));
    if !known || model.is_empty() || model.contains("unknown") {
        return None;
    }
    Some(match (form, model) {
        (Form::OpenAi | Form::Azure, "gpt-4o") => "gpt-4o-2024-08-06".to_owned(),
        (Form::OpenAi | Form::Azure, "gpt-4o-mini") => "gpt-4o-mini-2024-07-18".to_owned(),
        (Form::OpenAi, "gpt-4.1-mini") => "gpt-4.1-mini-2025-04-14".to_owned(),
        (Form::Anthropic, "claude-sonnet-4-5") => "claude-sonnet-4-5-20250929".to_owned(),
        (Form::DeepSeekAnthropic, name) if name.starts_with("claude-opus") => "deepseek-v4-pro".to_owned(),
        (Form::DeepSeekAnthropic, name) if name.starts_with("claude") => "deepseek-flash".to_owned(),
        (_, name) => name.to_owned(),
    })
}

pub(super) fn list(form: Form) -> String {
    let names = match form {
        Form::OpenAi | Form::Azure => OPENAI.as_slice(),
        Form::Anthropic => ANTHROPIC.as_slice(),
        Form::DeepSeek | Form::DeepSeekAnthropic => DEEPSEEK.as_slice(),
    };
    let entries: Vec<_> = names.iter().map(|name| entry(form, name)).collect();
    let entries = entries.join(",");
    if form.is_anthropic() {
        let first = names.first().copied().map_or("null".into(), quoted);
        let last = names.last().copied().map_or("null".into(), quoted);
        return format!(r#"{{"data":[{entries}],"has_more":false,"first_id":{first},"last_id":{last}}}"#);
    }
    format!(r#"{{"object":"list","data":[{entries}]}}"#)
}

pub(super) fn one(form: Form, model: &str) -> Option<String> {
    answered_name(form, model).map(|_| entry(form, model))
}

fn entry(form: Form, model: &str) -> String {
    let id = quoted(model);
    match form {
        Form::OpenAi => format!(r#"{{"id":{id},"object":"model","created":1715367049,"owned_by":"system"}}"#),
        Form::Azure => {
            format!(r#"{{"id":{id},"object":"model","created":1715367049,"owned_by":"system","status":"succeeded"}}"#)
        }
        Form::DeepSeek | Form::DeepSeekAnthropic => {
            format!(r#"{{"id":{id},"object":"model","owned_by":"deepseek"}}"#)
        }
        Form::Anthropic => {
            format!(r#"{{"type":"model","id":{id},"display_name":{id},"created_at":"2025-09-29T00:00:00Z"}}"#)
        }
    }
}
