//! From a request to the answer its vendor would give.
//!
//! Invariant: the answer depends on what was asked only, never on which way it came or on the
//! boundary of a form.

use super::answer::Answer;
use super::audio;
use super::chat;
use super::completions;
use super::embeddings;
use super::images;
use super::messages;
use super::models;
use super::multipart::Fields;
use super::play::Play;
use super::question;
use super::realtime::Session;
use super::refusal::Refusal;
use super::refusal::refuse;
use super::responses;
use super::route;
use super::route::Place;
use super::route::What;
use super::vendor::Form;
use crate::http1::Head;
use crate::http1::sha256;
use bytes::Bytes;
use serde_json::Value;

/// Stands for the filler of a big plain answer until its length is known.
pub(super) const BIG_MARK: &str = "@kit-big@";
const FILLER: Bytes = Bytes::from_static(&[b'x'; 64 << 10]);

/// A request, read in full, with its path as the vendor sees it.
pub(super) struct Asked<'a> {
    pub(super) form: Form,
    pub(super) head: &'a Head,
    pub(super) target: &'a str,
    pub(super) body: &'a [u8],
    pub(super) play: &'a Play,
    pub(super) authorised: bool,
}

/// What a body was understood as.
pub(super) enum Content<'a> {
    Json(Value),
    Form(Fields<'a>),
    Neither,
}

/// What the vendor does.
pub(super) enum Reply {
    Answer(Answer),
    /// Becomes a realtime session.
    Switch(Box<Session>),
}

impl Asked<'_> {
    fn content_type(&self) -> String {
        self.head.first("content-type").unwrap_or_default()
    }
}

pub(super) fn reply(asked: &Asked<'_>) -> Reply {
    let content = content(asked);
    let seed = seed(asked, &content);
    match find(asked, content, &seed) {
        Ok(reply) => reply,
        Err(refusal) => Reply::Answer(refuse(asked.form, &seed, &refusal)),
    }
}

fn find(asked: &Asked<'_>, content: Content<'_>, seed: &str) -> Result<Reply, Refusal> {
    if !asked.authorised {
        return Err(Refusal::Key);
    }
    let place = route::place(asked.form, asked.target).ok_or(Refusal::NoSuchPath)?;
    let method = asked.head.method();
    if method != place.what.method() {
        return Err(Refusal::Method(method.to_owned()));
    }
    if let Some(status) = asked.play.status {
        return Err(Refusal::Status(status));
    }
    if place.what == What::Realtime {
        return Session::open(asked, place, seed).map(|session| Reply::Switch(Box::new(session)));
    }
    let answer = answer(asked, place, content, seed)?;
    Ok(Reply::Answer(shaped(answer, asked.play)))
}

fn answer(asked: &Asked<'_>, place: Place<'_>, content: Content<'_>, seed: &str) -> Result<Answer, Refusal> {
    let form = asked.form;
    match place.what {
        What::Models => return Ok(Answer::json(form, 200, seed, models::list(form))),
        What::Model(model) => {
            let entry = models::one(form, model);
            let entry = entry.ok_or_else(|| Refusal::NoSuchModel(model.to_owned()))?;
            return Ok(Answer::json(form, 200, seed, entry));
        }
        What::Transcriptions => return audio::transcription(asked, place, &fields(content)?, seed),
        What::Translations => return audio::translation(asked, place, &fields(content)?, seed),
        What::ImageEdits => return images::edit(asked, place, &content, seed),
        What::Chat
        | What::Completions
        | What::Responses
        | What::Embeddings
        | What::ImageGenerations
        | What::Speech
        | What::Realtime
        | What::Messages
        | What::CountTokens => {}
    }
    let Content::Json(object) = content else {
        return Err(not_json(asked));
    };
    match place.what {
        What::Completions => completions::answer(asked, &object, place, seed),
        What::Responses => responses::answer(asked, &object, seed),
        What::Embeddings => embeddings::answer(asked, &object, place, seed),
        What::ImageGenerations => images::generation(asked, place, &object, seed),
        What::Speech => audio::speech(asked, place, &object, seed),
        What::CountTokens => messages::count(asked, &object, seed),
        What::Messages => Ok(messages::answer(form, &question::prompt(asked, &object, place, seed)?)),
        What::Chat
        | What::Realtime
        | What::ImageEdits
        | What::Transcriptions
        | What::Translations
        | What::Models
        | What::Model(_) => Ok(chat::answer(form, &question::prompt(asked, &object, place, seed)?)),
    }
}

fn fields(content: Content<'_>) -> Result<Fields<'_>, Refusal> {
    match content {
        Content::Form(fields) => Ok(fields),
        Content::Json(_) | Content::Neither => Err(Refusal::NotForm),
    }
}

/// Why a body is no JSON object: because it does not say so, or because it is none.
pub(super) fn not_json(asked: &Asked<'_>) -> Refusal {
    let said = asked.content_type();
    if said.is_empty() || said.starts_with("application/json") { Refusal::NotJson } else { Refusal::ContentType(said) }
}

fn content<'a>(asked: &Asked<'a>) -> Content<'a> {
    let said = asked.content_type();
    if said.starts_with("multipart/form-data") {
        return Fields::read(&said, asked.body).map_or(Content::Neither, Content::Form);
    }
    let as_json = said.starts_with("application/json") || (said.is_empty() && asked.body.starts_with(b"{"));
    let object = serde_json::from_slice::<Value>(asked.body).ok().filter(Value::is_object);
    object.filter(|_| as_json).map_or(Content::Neither, Content::Json)
}

/// The same question has the same seed, whether or not it asks for usage.
fn seed(asked: &Asked<'_>, content: &Content<'_>) -> String {
    let path = asked.target.split('?').next().unwrap_or_default();
    let body = match content {
        Content::Json(object) => {
            let mut object = object.clone();
            if let Some(fields) = object.as_object_mut() {
                fields.remove("stream_options");
            }
            object.to_string().into_bytes()
        }
        Content::Form(fields) => fields.canonical().to_string().into_bytes(),
        Content::Neither => asked.body.to_vec(),
    };
    sha256(&[path.as_bytes(), b"\n", &body].concat())
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
