//! Speech from text, and text from speech.
//!
//! Invariant: what was heard is named by its length and hash, so that one lost byte would show.

use super::answer::Answer;
use super::answer::quoted;
use super::headers;
use super::multipart::Fields;
use super::question;
use super::refusal::Refusal;
use super::reply::Asked;
use super::reply::BIG_MARK;
use super::route::Place;
use crate::http1::sha256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;
use serde_json::json;

/// Bytes of speech for each character, and at least.
const SPEECH_BYTES: usize = 24 << 10;
const SPEECH_PIECE_BYTES: usize = 4 << 10;

pub(super) fn speech(asked: &Asked<'_>, place: Place<'_>, object: &Value, seed: &str) -> Result<Answer, Refusal> {
    question::model(asked.form, object["model"].as_str(), place)?;
    let input = object["input"].as_str().ok_or(Refusal::Field("input"))?;
    object["voice"].as_str().or(object["voice"]["id"].as_str()).ok_or(Refusal::Field("voice"))?;
    let sound = noise(seed, asked.play.big.unwrap_or(SPEECH_BYTES));
    let pieces = match asked.play.chunks {
        Some(count) => sound.len().div_ceil(count.max(1)).max(1),
        None => SPEECH_PIECE_BYTES,
    };
    if object["stream_format"] == "sse" {
        let mut events: Vec<String> = sound
            .chunks(pieces)
            .map(|piece| json!({"type": "speech.audio.delta", "audio": STANDARD.encode(piece)}))
            .map(|data| format!("data: {data}\n\n"))
            .collect();
        let usage = json!({"input_tokens": input.len(), "output_tokens": 101, "total_tokens": input.len() + 101});
        events.push(format!("data: {}\n\n", json!({"type": "speech.audio.done", "usage": usage})));
        if asked.play.error_in_stream {
            events.pop();
            events.push(super::chat::STREAM_ERROR.to_owned());
        }
        return Ok(Answer::stream(asked.form, seed, events));
    }
    let kind = match object["response_format"].as_str().unwrap_or("mp3") {
        "opus" => "audio/opus",
        "aac" => "audio/aac",
        "flac" => "audio/flac",
        "wav" => "audio/wav",
        "pcm" => "audio/pcm",
        _ => "audio/mpeg",
    };
    let pieces = sound.chunks(pieces).map(Bytes::copy_from_slice).collect();
    Ok(Answer::bytes(headers::of(asked.form, seed, 200), kind, pieces))
}

pub(super) fn transcription(
    asked: &Asked<'_>,
    place: Place<'_>,
    fields: &Fields<'_>,
    seed: &str,
) -> Result<Answer, Refusal> {
    let text = heard(asked, place, fields, "Grüezi")?;
    if fields.text("stream").as_deref() == Some("true") {
        return Ok(Answer::stream(asked.form, seed, transcript(asked, &text)));
    }
    Ok(written(asked, fields, seed, &text, "transcribe"))
}

pub(super) fn translation(
    asked: &Asked<'_>,
    place: Place<'_>,
    fields: &Fields<'_>,
    seed: &str,
) -> Result<Answer, Refusal> {
    let text = heard(asked, place, fields, "Hello")?;
    Ok(written(asked, fields, seed, &text, "translate"))
}

fn heard(asked: &Asked<'_>, place: Place<'_>, fields: &Fields<'_>, greeting: &str) -> Result<String, Refusal> {
    question::model(asked.form, fields.text("model").as_deref(), place)?;
    let files = fields.files("file");
    let [file] = files.as_slice() else {
        return Err(Refusal::Field("file"));
    };
    let name = file.filename.as_deref().unwrap_or_default();
    Ok(format!("{greeting}, 東京: {name} of {} bytes, {}", file.body.len(), sha256(file.body)))
}

fn written(asked: &Asked<'_>, fields: &Fields<'_>, seed: &str, text: &str, task: &str) -> Answer {
    let form = asked.form;
    let text = if asked.play.big.is_some() { BIG_MARK } else { text };
    let format = fields.text("response_format").unwrap_or_else(|| "json".to_owned());
    let plain = |body: String| Answer::json(form, 200, seed, body).typed("text/plain; charset=utf-8");
    match format.as_str() {
        "text" => plain(format!("{text}\n")),
        "srt" => plain(format!("1\n00:00:00,000 --> 00:00:07,000\n{text}\n\n")),
        "vtt" => plain(format!("WEBVTT\n\n00:00:00.000 --> 00:00:07.000\n{text}\n\n")),
        "verbose_json" => {
            let segment = json!({
                "id": 0, "seek": 0, "start": 0.0, "end": 7.0, "text": text, "tokens": [50364, 50414],
                "temperature": 0.0, "avg_logprob": -0.25, "compression_ratio": 1.5, "no_speech_prob": 0.01,
            });
            let body = json!({
                "task": task, "language": "german", "duration": 7.0, "text": text, "segments": [segment],
                "usage": {"type": "duration", "seconds": 7},
            });
            Answer::json(form, 200, seed, body.to_string().replacen(BIG_MARK, "", usize::from(text == BIG_MARK)))
        }
        _ => {
            let usage = json!({
                "type": "tokens", "input_tokens": 70, "output_tokens": 12, "total_tokens": 82,
                "input_token_details": {"text_tokens": 0, "audio_tokens": 70},
            });
            let usage = if fields.text("model").as_deref() == Some("whisper-1") {
                json!({"type": "duration", "seconds": 7})
            } else {
                usage
            };
            Answer::json(form, 200, seed, format!(r#"{{"text":{},"usage":{usage}}}"#, quoted(text)))
        }
    }
}

fn transcript(asked: &Asked<'_>, text: &str) -> Vec<String> {
    let words = question::words(text, asked.play, true);
    let event = |data: Value| format!("data: {data}\n\n");
    let delta = |word: &String| event(json!({"type": "transcript.text.delta", "delta": word, "logprobs": []}));
    let mut events: Vec<String> = words.iter().map(delta).collect();
    if asked.play.error_in_stream {
        events.push(super::chat::STREAM_ERROR.to_owned());
        return events;
    }
    let usage = json!({
        "type": "tokens", "input_tokens": 70, "output_tokens": words.len(), "total_tokens": 70 + words.len(),
        "input_token_details": {"text_tokens": 0, "audio_tokens": 70},
    });
    events.push(event(json!({"type": "transcript.text.done", "text": words.concat(), "usage": usage})));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

/// Bytes of every value, the same for the same seed.
fn noise(seed: &str, bytes: usize) -> Vec<u8> {
    let seed = seed.as_bytes();
    let mut state: u32 =
        seed.iter().fold(2_166_136_261, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(16_777_619));
    let mut noise = Vec::with_capacity(bytes + 4);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        noise.extend(state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}
