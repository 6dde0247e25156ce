//! A realtime session as OpenAI and Azure hold it (the GA events), and how it can go wrong.
//!
//! Invariant: events are a function of what was asked; only how they are cut and when they come
//! depends on the play.

use super::headers;
use super::perform::After;
use super::play::Fault;
use super::play::Play;
use super::question;
use super::refusal::Refusal;
use super::reply::Asked;
use super::route;
use super::route::Place;
use super::vendor::Form;
use super::websocket;
use super::websocket::Frame;
use super::websocket::Opcode;
use super::wire::Gone;
use super::wire::Wire;
use crate::http1::sha256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Bytes of one piece when a message is sent in pieces.
const FRAGMENT_BYTES: usize = 700;

/// A session that may begin.
pub(super) struct Session {
    form: Form,
    seed: String,
    model: String,
    accept: String,
    protocol: Option<String>,
    play: Play,
    number: u64,
    audio: Vec<u8>,
    heard: Vec<String>,
    pongs: usize,
    pings: usize,
}

impl Session {
    /// Judges a handshake.
    ///
    /// # Errors
    /// Why the vendor would refuse it.
    pub(super) fn open(asked: &Asked<'_>, place: Place<'_>, seed: &str) -> Result<Self, Refusal> {
        let key = websocket::key(asked.head).ok_or(Refusal::Upgrade)?;
        let query = asked.target.split_once('?').map_or("", |(_, query)| query);
        let model = question::model(asked.form, route::parameter(query, "model"), place)?;
        let protocol = websocket::protocols(asked.head).into_iter().find(|protocol| protocol == "realtime");
        Ok(Self {
            form: asked.form,
            seed: sha256(format!("{seed}{model}").as_bytes()),
            model,
            accept: websocket::accept(&key),
            protocol,
            play: asked.play.clone(),
            number: 0,
            audio: Vec::new(),
            heard: Vec::new(),
            pongs: 0,
            pings: 0,
        })
    }

    /// Speaks until one side has had enough.
    pub(super) async fn run(mut self, wire: &mut Wire, steps: &Arc<Semaphore>) -> Result<After, Gone> {
        match self.play.fault {
            Some(Fault::StallHead) => return Err(wire.until_gone().await),
            Some(Fault::ResetHead) => return Ok(After::Reset),
            Some(Fault::HalfCloseHead) => {
                wire.end_of_ours().await?;
                return Err(wire.until_gone().await);
            }
            Some(Fault::CutHead) => {
                let head = self.head();
                wire.send(&head[..head.len() / 2]).await?;
                return Ok(After::Close);
            }
            _ => {}
        }
        wire.send(&self.head()).await?;
        let refused = [Fault::BadAccept, Fault::NoAccept, Fault::Extension, Fault::OtherProtocol, Fault::Switch];
        if self.play.fault.is_some_and(|fault| refused.contains(&fault)) {
            return Err(wire.until_gone().await);
        }
        wire.upgraded();
        let created = self.event("session.created", json!({"session": self.session()}));
        match self.play.fault {
            Some(Fault::CutBody | Fault::CutChunk) => {
                let bytes = websocket::frame(Opcode::Text, true, created.to_string().as_bytes());
                wire.send(&bytes[..bytes.len() / 2]).await?;
                return Ok(After::Close);
            }
            Some(Fault::Garbage | Fault::GarbageChunk) => {
                wire.send(b"\xff\xff\xff\xffnot a frame").await?;
                return Err(wire.until_gone().await);
            }
            _ => {}
        }
        self.say(wire, &created).await?;
        match self.play.fault {
            Some(Fault::Reset) => return Ok(After::Reset),
            Some(Fault::StallBody) => return Err(wire.until_gone().await),
            Some(Fault::HalfCloseBody) => {
                wire.end_of_ours().await?;
                return Err(wire.until_gone().await);
            }
            _ => {}
        }
        self.converse(wire, steps).await
    }

    async fn converse(&mut self, wire: &mut Wire, steps: &Arc<Semaphore>) -> Result<After, Gone> {
        loop {
            let message = match self.message(wire).await? {
                Ok(message) => message,
                Err(closing) => {
                    wire.send(&closing).await?;
                    return Ok(After::Close);
                }
            };
            let asked: Value = serde_json::from_slice(&message).unwrap_or_default();
            for (place, event) in self.answers(&asked).into_iter().enumerate() {
                if self.play.step {
                    // The semaphore is never closed.
                    if let Ok(permit) = wire.wait(steps.acquire()).await? {
                        permit.forget();
                    }
                }
                if let Some(gap) = self.play.gap.filter(|_| place > 0) {
                    wire.pause(gap).await?;
                }
                self.say(wire, &event).await?;
            }
            if let Some(code) = self.play.close_code.filter(|_| asked["type"] == "response.create") {
                let closing = websocket::close(code, "the kit has had enough");
                wire.send(&websocket::frame(Opcode::Close, true, &closing)).await?;
                // What comes back is the client's echo, and then its end.
                while self.message(wire).await?.is_ok() {}
                return Ok(After::Close);
            }
        }
    }

    /// The next message of the client, or the frame with which to close.
    async fn message(&mut self, wire: &mut Wire) -> Result<Result<Vec<u8>, Vec<u8>>, Gone> {
        let mut message = Vec::new();
        loop {
            let frame = match websocket::next_frame(&mut wire.inbox) {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    wire.fill().await?;
                    continue;
                }
                Err(why) => return Ok(Err(websocket::frame(Opcode::Close, true, &websocket::close(1002, &why)))),
            };
            let Frame { last, opcode, payload } = frame;
            match opcode {
                Opcode::Close => return Ok(Err(websocket::frame(Opcode::Close, true, &payload))),
                Opcode::Ping => wire.send(&websocket::frame(Opcode::Pong, true, &payload)).await?,
                Opcode::Pong => self.pongs += 1,
                Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                    message.extend(payload);
                    if last {
                        return Ok(Ok(message));
                    }
                }
            }
        }
    }

    async fn say(&mut self, wire: &mut Wire, event: &Value) -> Result<(), Gone> {
        let text = event.to_string();
        if self.play.pings {
            self.pings += 1;
            let ping = format!("kit {}", self.pings);
            wire.send(&websocket::frame(Opcode::Ping, true, ping.as_bytes())).await?;
        }
        if !self.play.fragments {
            return wire.send(&websocket::frame(Opcode::Text, true, text.as_bytes())).await;
        }
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(FRAGMENT_BYTES).collect();
        for (place, piece) in pieces.iter().enumerate() {
            let opcode = if place == 0 { Opcode::Text } else { Opcode::Continuation };
            wire.send(&websocket::frame(opcode, place + 1 == pieces.len(), piece)).await?;
            // A control frame may stand between the pieces of a message.
            if place + 1 < pieces.len() {
                wire.send(&websocket::frame(Opcode::Ping, true, b"between")).await?;
            }
        }
        Ok(())
    }

    fn head(&self) -> Vec<u8> {
        let mut head = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n".to_owned();
        let upgrade = if self.play.fault == Some(Fault::Switch) { "kit" } else { "websocket" };
        head += &format!("upgrade: {upgrade}\r\n");
        match self.play.fault {
            Some(Fault::NoAccept) => {}
            Some(Fault::BadAccept) => head += "sec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n",
            _ => head += &format!("sec-websocket-accept: {}\r\n", self.accept),
        }
        match (self.play.fault, &self.protocol) {
            (Some(Fault::OtherProtocol), _) => head += "sec-websocket-protocol: kit-other\r\n",
            (_, Some(protocol)) => head += &format!("sec-websocket-protocol: {protocol}\r\n"),
            (_, None) => {}
        }
        if self.play.fault == Some(Fault::Extension) {
            head += "sec-websocket-extensions: permessage-deflate\r\n";
        }
        for (name, value) in headers::of(self.form, &self.seed, 101) {
            head += &format!("{name}: {value}\r\n");
        }
        (head + "\r\n").into_bytes()
    }

    /// What follows an event of the client.
    fn answers(&mut self, asked: &Value) -> Vec<Value> {
        match asked["type"].as_str().unwrap_or_default() {
            "session.update" => {
                let mut session = self.session();
                for (field, value) in asked["session"].as_object().into_iter().flatten() {
                    session[field] = value.clone();
                }
                vec![self.event("session.updated", json!({"session": session}))]
            }
            "conversation.item.create" => {
                let mut item = asked["item"].clone();
                let text = item["content"].as_array().into_iter().flatten().map(|part| part["text"].as_str());
                self.heard.push(text.flatten().collect());
                item["id"] = self.id("item_").into();
                item["object"] = "realtime.item".into();
                item["status"] = "completed".into();
                ["conversation.item.added", "conversation.item.done"]
                    .map(|kind| self.event(kind, json!({"previous_item_id": null, "item": item})))
                    .to_vec()
            }
            "input_audio_buffer.append" => {
                let audio = STANDARD.decode(asked["audio"].as_str().unwrap_or_default());
                self.audio.extend(audio.unwrap_or_default());
                Vec::new()
            }
            "input_audio_buffer.commit" => {
                let heard = format!("{} bytes, {}", self.audio.len(), sha256(&std::mem::take(&mut self.audio)));
                self.heard.push(heard.clone());
                let item = self.id("item_");
                let usage = json!({
                    "type": "tokens", "input_tokens": 40, "output_tokens": 9, "total_tokens": 49,
                    "input_token_details": {"text_tokens": 0, "audio_tokens": 40},
                });
                let transcript = json!({"item_id": item, "content_index": 0, "transcript": heard, "usage": usage});
                vec![
                    self.event("input_audio_buffer.committed", json!({"previous_item_id": null, "item_id": item})),
                    self.event("conversation.item.input_audio_transcription.completed", transcript),
                ]
            }
            "response.create" => self.response(asked),
            "response.cancel" => vec![self.error("no active response", "response_cancel_not_active")],
            other => vec![self.error(&format!("Invalid value: '{other}'."), "invalid_value")],
        }
    }

    fn response(&mut self, asked: &Value) -> Vec<Value> {
        let audio = asked["response"]["output_modalities"] == json!(["audio"]);
        let text = format!("You said: {} — pongs {} of {}.", self.heard.join(" / "), self.pongs, self.pings);
        let words = question::words(&text, &self.play, true);
        let (response, item) = (self.id("resp_"), self.id("item_"));
        let shell = |status: &str, output: Value, usage: Value| {
            json!({"response": {
                "object": "realtime.response", "id": response, "status": status, "status_details": null,
                "output": output, "conversation_id": "conv_kit", "max_output_tokens": "inf", "usage": usage,
            }})
        };
        let of = |more: Value| {
            let mut data = json!({"response_id": response, "item_id": item, "output_index": 0, "content_index": 0});
            for (field, value) in more.as_object().into_iter().flatten() {
                data[field] = value.clone();
            }
            data
        };
        let made = |status: &str, content: Value| {
            json!({"id": item, "object": "realtime.item", "type": "message", "status": status,
                "role": "assistant", "content": content})
        };
        let mut events = vec![
            self.event("response.created", shell("in_progress", json!([]), Value::Null)),
            self.event(
                "response.output_item.added",
                json!({"response_id": response, "output_index": 0, "item": made("in_progress", json!([]))}),
            ),
        ];
        let kind = if audio { "audio_transcript" } else { "text" };
        for word in &words {
            if audio {
                let sound = STANDARD.encode(sha256(word.as_bytes()));
                events.push(self.event("response.output_audio.delta", of(json!({"delta": sound}))));
            }
            events.push(self.event(&format!("response.output_{kind}.delta"), of(json!({"delta": word}))));
        }
        if audio {
            events.push(self.event("response.output_audio.done", of(json!({}))));
        }
        let whole = words.concat();
        let field = if audio { "transcript" } else { "text" };
        events.push(self.event(&format!("response.output_{kind}.done"), of(json!({field: whole}))));
        let content = json!([{"type": if audio { "output_audio" } else { "output_text" }, field: whole}]);
        let done = made("completed", content);
        events.push(
            self.event("response.output_item.done", json!({"response_id": response, "output_index": 0, "item": done})),
        );
        if self.play.error_in_stream {
            events.truncate(events.len() / 2);
            events.push(self.error("The server had an error.", "server_error"));
            return events;
        }
        let usage = json!({
            "total_tokens": 30 + words.len(), "input_tokens": 30, "output_tokens": words.len(),
            "input_token_details": {"text_tokens": 30, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 0,
                "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}},
            "output_token_details": {"text_tokens": words.len(), "audio_tokens": 0},
        });
        events.push(self.event("response.done", shell("completed", json!([done]), usage)));
        let limit = json!({"name": "tokens", "limit": 40000, "remaining": 39000, "reset_seconds": 1});
        events.push(self.event("rate_limits.updated", json!({"rate_limits": [limit]})));
        events
    }

    fn session(&self) -> Value {
        json!({
            "type": "realtime", "object": "realtime.session", "id": format!("sess_{}", &self.seed[..16]),
            "model": self.model, "output_modalities": ["audio"], "instructions": "Be brief: é 東京 🙂",
            "tools": [], "tool_choice": "auto", "max_output_tokens": "inf", "tracing": null, "truncation": "auto",
            "expires_at": super::chat::CREATED + 3600,
            "audio": {
                "input": {"format": {"type": "audio/pcm", "rate": 24000}, "transcription": null,
                    "turn_detection": null},
                "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin", "speed": 1.0},
            },
        })
    }

    fn error(&mut self, message: &str, code: &str) -> Value {
        let error = json!({
            "type": "invalid_request_error", "code": code, "message": message, "param": "type", "event_id": null,
        });
        self.event("error", json!({"error": error}))
    }

    fn event(&mut self, kind: &str, mut data: Value) -> Value {
        data["type"] = kind.into();
        data["event_id"] = self.id("event_").into();
        data
    }

    fn id(&mut self, prefix: &str) -> String {
        self.number += 1;
        format!("{prefix}{}{:04}", &self.seed[..12], self.number)
    }
}
