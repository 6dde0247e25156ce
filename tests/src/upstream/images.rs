//! Images made and edited, plain and streamed.
//!
//! Invariant: the bytes of every image that came in are in what goes out, as a hash.

use super::answer::Answer;
use super::question;
use super::refusal::Refusal;
use super::reply::Asked;
use super::reply::BIG_MARK;
use super::reply::Content;
use super::reply::not_json;
use super::route::Place;
use crate::http1::sha256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::json;

/// What both ways of asking come to.
struct Wish {
    kind: &'static str,
    prompt: String,
    count: u64,
    stream: bool,
    partial: u64,
    /// Of all that came in.
    seen: String,
}

pub(super) fn generation(asked: &Asked<'_>, place: Place<'_>, object: &Value, seed: &str) -> Result<Answer, Refusal> {
    model(asked, place, object["model"].as_str())?;
    let wish = Wish {
        kind: "image_generation",
        prompt: object["prompt"].as_str().ok_or(Refusal::Field("prompt"))?.to_owned(),
        count: object["n"].as_u64().unwrap_or(1),
        stream: object["stream"] == true,
        partial: object["partial_images"].as_u64().unwrap_or(0),
        seen: String::new(),
    };
    Ok(paint(asked, &wish, seed))
}

pub(super) fn edit(asked: &Asked<'_>, place: Place<'_>, content: &Content<'_>, seed: &str) -> Result<Answer, Refusal> {
    let wish = match content {
        Content::Form(fields) => {
            model(asked, place, fields.text("model").as_deref())?;
            let images = fields.files("image");
            if images.is_empty() {
                return Err(Refusal::Field("image"));
            }
            let number = |name: &str| fields.text(name).and_then(|text| text.parse().ok());
            let hashes: Vec<String> = images.iter().map(|image| sha256(image.body)).collect();
            Wish {
                kind: "image_edit",
                prompt: fields.text("prompt").ok_or(Refusal::Field("prompt"))?,
                count: number("n").unwrap_or(1),
                stream: fields.text("stream").as_deref() == Some("true"),
                partial: number("partial_images").unwrap_or(0),
                seen: hashes.join(" "),
            }
        }
        Content::Json(object) => {
            model(asked, place, object["model"].as_str())?;
            let images = object["images"].as_array().filter(|images| !images.is_empty());
            let images = images.ok_or(Refusal::Field("images"))?;
            Wish {
                kind: "image_edit",
                prompt: object["prompt"].as_str().ok_or(Refusal::Field("prompt"))?.to_owned(),
                count: object["n"].as_u64().unwrap_or(1),
                stream: object["stream"] == true,
                partial: object["partial_images"].as_u64().unwrap_or(0),
                seen: sha256(Value::from(images.clone()).to_string().as_bytes()),
            }
        }
        Content::Neither => return Err(not_json(asked)),
    };
    Ok(paint(asked, &wish, seed))
}

/// Images are made without a model's name, too.
fn model(asked: &Asked<'_>, place: Place<'_>, named: Option<&str>) -> Result<(), Refusal> {
    question::model(asked.form, named.or(Some("gpt-image-1")), place).map(|_| ())
}

fn paint(asked: &Asked<'_>, wish: &Wish, seed: &str) -> Answer {
    let usage = json!({
        "input_tokens": wish.prompt.len(), "output_tokens": 196, "total_tokens": wish.prompt.len() + 196,
        "input_tokens_details": {"text_tokens": wish.prompt.len(), "image_tokens": 0},
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 196},
    });
    if !wish.stream {
        let big = asked.play.big.is_some();
        let data: Vec<Value> = (0..wish.count)
            .map(|place| json!({"b64_json": if big { BIG_MARK.to_owned() } else { picture(wish, seed, place) }}))
            .take(if big { 1 } else { 10 })
            .collect();
        let body = json!({
            "created": super::chat::CREATED, "background": "opaque", "output_format": "png", "quality": "low",
            "size": "1024x1024", "data": data, "usage": usage,
        });
        return Answer::json(asked.form, 200, seed, body.to_string());
    }
    let kind = wish.kind;
    let event = |name: String, more: Value| {
        let mut data = json!({
            "type": name, "created_at": super::chat::CREATED, "size": "1024x1024", "quality": "low",
            "background": "opaque", "output_format": "png",
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            data[field] = value.clone();
        }
        format!("event: {name}\ndata: {data}\n\n")
    };
    let mut events: Vec<String> = (0..asked.play.chunks.and_then(|n| u64::try_from(n).ok()).unwrap_or(wish.partial))
        .map(|place| {
            let more = json!({"b64_json": picture(wish, seed, place), "partial_image_index": place});
            event(format!("{kind}.partial_image"), more)
        })
        .collect();
    if asked.play.error_in_stream {
        events.push(super::chat::STREAM_ERROR.to_owned());
    } else {
        let done = json!({"b64_json": picture(wish, seed, 99), "usage": usage});
        events.push(event(format!("{kind}.completed"), done));
    }
    Answer::stream(asked.form, seed, events)
}

fn picture(wish: &Wish, seed: &str, place: u64) -> String {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.extend(sha256(format!("{seed}{place}{}{}", wish.prompt, wish.seen).as_bytes()).into_bytes());
    STANDARD.encode(bytes)
}
