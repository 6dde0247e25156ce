//! Embeddings, as numbers and as the base64 that the SDKs ask for.
//!
//! Invariant: both forms are the same numbers.

use super::answer::Answer;
use super::question;
use super::refusal::Refusal;
use super::reply::Asked;
use super::reply::BIG_MARK;
use super::route::Place;
use crate::http1::sha256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::json;

const DIMENSIONS: usize = 16;

pub(super) fn answer(asked: &Asked<'_>, object: &Value, place: Place<'_>, seed: &str) -> Result<Answer, Refusal> {
    let model = question::model(asked.form, object["model"].as_str(), place)?;
    let inputs = match &object["input"] {
        Value::String(text) if !text.is_empty() => vec![object["input"].clone()],
        Value::Array(items) if !items.is_empty() => items.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            return Err(Refusal::Field("input"));
        }
    };
    let dimensions = object["dimensions"].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(DIMENSIONS);
    let as_base64 = object["encoding_format"] == "base64";
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let numbers = numbers(&format!("{seed}{index}{input}"), dimensions);
            let embedding = if as_base64 {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Value::from(STANDARD.encode(bytes))
            } else {
                numbers.iter().copied().map(Value::from).collect()
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let tokens = object["input"].to_string().len().div_ceil(4);
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    let mut body = json!({"object": "list", "data": data, "model": model, "usage": usage});
    if asked.play.big.is_some() {
        body["kit"] = BIG_MARK.into();
    }
    Ok(Answer::json(asked.form, 200, seed, body.to_string()))
}

/// Whole numbers, which every notation keeps.
fn numbers(seed: &str, count: usize) -> Vec<f32> {
    let bytes = (0..count.div_ceil(64)).flat_map(|block| sha256(format!("{seed}{block}").as_bytes()).into_bytes());
    bytes.map(f32::from).take(count).collect()
}
