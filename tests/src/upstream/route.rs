//! From a request to the answer its vendor would give.
//!
//! Invariant: paths match exactly; nothing is decoded, folded or forgiven.

use super::answer::Answer;
use super::answer::Prompt;
use super::chat;
use super::messages;
use super::models;
use super::play::Play;
use super::refusal::Refusal;
use super::refusal::refuse;
use super::vendor::Form;
use crate::http1::Head;
use crate::http1::sha256;
use bytes::Bytes;
use serde_json::Value;

/// Stands for the filler of a big plain answer until its length is known.
const BIG_MARK: &str = "@kit-big@";
const FILLER: Bytes = Bytes::from_static(&[b'x'; 64 << 10]);
const BIG_WORD_BYTES: usize = 8 << 10;

/// A request, read in full, with its path as the vendor sees it.
pub(super) struct Asked<'a> {
    pub(super) form: Form,
    pub(super) head: &'a Head,
    pub(super) target: &'a str,
    pub(super) body: &'a [u8],
    pub(super) play: &'a Play,
    pub(super) authorised: bool,
}

enum Place<'a> {
    Chat { deployment: Option<&'a str> },
    Messages,
    Models,
    Model(&'a str),
}

pub(super) fn answer(asked: &Asked<'_>) -> Answer {
    let object = serde_json::from_slice::<Value>(asked.body).ok().filter(Value::is_object);
    let seed = seed(asked, object.as_ref());
    match find(asked, object, &seed) {
        Ok(answer) => answer,
        Err(refusal) => refuse(asked.form, &seed, &refusal),
    }
}

fn find(asked: &Asked<'_>, object: Option<Value>, seed: &str) -> Result<Answer, Refusal> {
    if !asked.authorised {
        return Err(Refusal::Key);
    }
    let place = place(asked).ok_or(Refusal::NoSuchPath)?;
    let form = asked.form;
    let method = asked.head.method();
    let expected = match place {
        Place::Chat { .. } | Place::Messages => "POST",
        Place::Models | Place::Model(_) => "GET",
    };
    if method != expected {
        return Err(Refusal::Method(method.to_owned()));
    }
    if let Some(status) = asked.play.status {
        return Err(Refusal::Status(status));
    }
    let deployment = match place {
        Place::Models => return Ok(Answer::json(form, 200, seed, models::list(form))),
        Place::Model(model) => {
            let entry = models::one(form, model);
            let entry = entry.ok_or_else(|| Refusal::NoSuchModel(model.to_owned()))?;
            return Ok(Answer::json(form, 200, seed, entry));
        }
        Place::Chat { deployment } => deployment,
        Place::Messages => None,
    };
    let object = object.ok_or(Refusal::NotJson)?;
    let prompt = prompt(asked, &object, deployment, seed)?;
    let answer = match place {
        Place::Messages => messages::answer(form, &prompt),
        Place::Chat { .. } | Place::Models | Place::Model(_) => chat::answer(form, &prompt),
    };
    Ok(shaped(answer, asked.play))
}

fn place<'a>(asked: &Asked<'a>) -> Option<Place<'a>> {
    let (path, query) = asked.target.split_once('?').unwrap_or((asked.target, ""));
    match asked.form {
        Form::OpenAi => chat_place(path.strip_prefix("/v1")?),
        Form::Azure => {
            if let Some(rest) = path.strip_prefix("/openai/v1") {
                return chat_place(rest);
            }
            let dated =
                query.split('&').any(|pair| pair.strip_prefix("api-version=").is_some_and(|date| !date.is_empty()));
            let rest = path.strip_prefix("/openai").filter(|_| dated)?;
            if rest == "/models" {
                return Some(Place::Models);
            }
            let rest = rest.strip_prefix("/deployments/")?;
            let (deployment, rest) = rest.split_once('/')?;
            let deployment = Some(deployment).filter(|name| !name.is_empty());
            (rest == "chat/completions").then_some(Place::Chat { deployment })
        }
        Form::Anthropic => messages_place(path.strip_prefix("/v1")?),
        Form::DeepSeekAnthropic => messages_place(path.strip_prefix("/anthropic/v1")?),
        Form::DeepSeek => chat_place(path.strip_prefix("/v1").unwrap_or(path)),
    }
}

fn chat_place(path: &str) -> Option<Place<'_>> {
    match path {
        "/chat/completions" => Some(Place::Chat { deployment: None }),
        _ => models_place(path),
    }
}

fn messages_place(path: &str) -> Option<Place<'_>> {
    match path {
        "/messages" => Some(Place::Messages),
        _ => models_place(path),
    }
}

fn models_place(path: &str) -> Option<Place<'_>> {
    if path == "/models" {
        return Some(Place::Models);
    }
    let model = path.strip_prefix("/models/")?;
    (!model.is_empty() && !model.contains('/')).then_some(Place::Model(model))
}

fn prompt(asked: &Asked<'_>, object: &Value, deployment: Option<&str>, seed: &str) -> Result<Prompt, Refusal> {
    let form = asked.form;
    let model = match deployment {
        Some(deployment) => deployment,
        None => object.get("model").and_then(Value::as_str).ok_or(Refusal::Field("model"))?,
    };
    let answered = models::answered_name(form, model);
    let model = answered.ok_or_else(|| Refusal::NoSuchModel(model.to_owned()))?;
    if form.is_anthropic() && asked.head.first("anthropic-version").is_none() {
        return Err(Refusal::Field("anthropic-version"));
    }
    if form.is_anthropic() && object.get("max_tokens").and_then(Value::as_u64).is_none() {
        return Err(Refusal::Field("max_tokens"));
    }
    let messages = object.get("messages").and_then(Value::as_array);
    let messages = messages.ok_or(Refusal::Field("messages"))?;
    let last = messages.last().ok_or(Refusal::Field("messages"))?;
    let result = tool_result(last);
    let stream = object.get("stream") == Some(&Value::Bool(true));
    let text = match &result {
        Some(result) => format!("The tool says {result}. Fin, naïve 東京 🙂."),
        None => format!("You said: {} — café, 東京, 🙂.", text_of(&last["content"])),
    };
    Ok(Prompt {
        seed: seed.to_owned(),
        model,
        stream,
        include_usage: object["stream_options"]["include_usage"] == Value::Bool(true),
        tool: tool(object).filter(|_| result.is_none()),
        words: words(&text, asked.play, stream),
        input_tokens: object["messages"].to_string().len().div_ceil(4),
        error_in_stream: asked.play.error_in_stream,
    })
}

fn words(text: &str, play: &Play, stream: bool) -> Vec<String> {
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

fn shaped(answer: Answer, play: &Play) -> Answer {
    if let Some(bytes) = play.big {
        return fill(answer, bytes);
    }
    let count = play.chunks.or(play.step.then_some(4));
    match count {
        Some(count) => answer.cut_into(count),
        None => answer,
    }
}

/// Puts filler where the mark is, so that the body has exactly `bytes` bytes.
fn fill(mut answer: Answer, bytes: usize) -> Answer {
    let [whole] = answer.pieces.as_slice() else {
        return answer;
    };
    let mark = whole.windows(BIG_MARK.len()).position(|window| window == BIG_MARK.as_bytes());
    let Some(mark) = mark else { return answer };
    let whole = whole.clone();
    let mut missing = bytes.saturating_sub(whole.len() - BIG_MARK.len());
    let mut pieces = vec![whole.slice(..mark)];
    while missing > 0 {
        let piece = FILLER.slice(..missing.min(FILLER.len()));
        missing -= piece.len();
        pieces.push(piece);
    }
    pieces.push(whole.slice(mark + BIG_MARK.len()..));
    answer.pieces = pieces;
    answer
}

/// The same question has the same seed, whether or not it asks for usage.
fn seed(asked: &Asked<'_>, object: Option<&Value>) -> String {
    let path = asked.target.split('?').next().unwrap_or_default();
    let body = match object.cloned() {
        Some(mut object) => {
            if let Some(fields) = object.as_object_mut() {
                fields.remove("stream_options");
            }
            object.to_string().into_bytes()
        }
        None => asked.body.to_vec(),
    };
    sha256(&[path.as_bytes(), b"\n", &body].concat())
}

fn tool(object: &Value) -> Option<String> {
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

fn text_of(content: &Value) -> String {
    if let Some(text) = content.as_str() {
        return text.to_owned();
    }
    let parts = content.as_array().into_iter().flatten();
    parts.filter_map(|part| part["text"].as_str()).collect()
}
