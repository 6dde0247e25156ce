//! The judge of a realtime session: what each message of a consumer asks for, read from the
//! raw bytes as they pass.
//!
//! Invariant: the bytes that would complete a message that is refused are never passed on,
//! and a vendor does nothing with an incomplete message.

use super::error::ScanError;
use super::judge::Judge;
use crate::json_scan::JsonScan;
use crate::provider::endpoint::Endpoint;
use crate::provider::policy::field::Vendors;
use crate::provider::policy::form::Form;
use crate::websocket::Role;
use crate::websocket::messages::MessageScan;
use crate::websocket::messages::Part;

/// The scan of what a consumer says in one session.
#[derive(Debug, Clone)]
pub struct SessionScan {
    frames: MessageScan,
    /// Boxed: calls that are no session carry the place for it too.
    message: Box<Message>,
    failed: Option<ScanError>,
}

#[derive(Debug, Clone)]
struct Message {
    json: JsonScan,
    judge: Judge,
    fresh: Judge,
}

impl SessionScan {
    /// A scan of a session at this endpoint.
    pub fn new(endpoint: Endpoint) -> Self {
        let provider = endpoint.provider();
        let fresh = Judge::new(Form::Session, provider, Vendors::one(provider));
        let message = Box::new(Message { json: JsonScan::new(), judge: fresh.clone(), fresh });
        Self { frames: MessageScan::new(Role::Client), message, failed: None }
    }

    /// Judges the next bytes, before they are passed on.
    ///
    /// # Errors
    /// When they must not be; from then on always.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        let Self { frames, message, failed } = self;
        super::once(failed, || {
            let mut verdict = Ok(());
            let framed = frames.feed(bytes, &mut |part| {
                if verdict.is_ok() {
                    verdict = message.take(part);
                }
            });
            verdict.and(framed.map_err(|fault| ScanError::Malformed { what: fault.what() }))
        })
    }
}

impl Message {
    fn take(&mut self, part: Part<'_>) -> Result<(), ScanError> {
        let Self { json, judge, fresh } = self;
        match part {
            Part::Text(text) => {
                let mut refusal = Ok(());
                let read = json.feed(text, |spot, event| super::keep_first(&mut refusal, judge, spot, &event));
                super::first(refusal, read)
            }
            Part::TextEnd => {
                let mut refusal = Ok(());
                let read = json.finish(|spot, event| super::keep_first(&mut refusal, judge, spot, &event));
                *json = JsonScan::new();
                judge.clone_from(fresh);
                super::first(refusal, read)
            }
            Part::Binary => Err(ScanError::Malformed { what: "a realtime session is spoken in text messages" }),
            Part::Close => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_sdk_says_in_a_session_passes() {
        let messages = [
            r#"{"type":"session.update","session":{"type":"realtime","model":"gpt-realtime","instructions":"Be brief.","output_modalities":["audio"],"audio":{"input":{"transcription":{"model":"whisper-1","prompt":"names"},"turn_detection":{"type":"server_vad"}},"output":{"voice":"marin"}},"tools":[{"type":"function","name":"f","parameters":{"type":"object","properties":{"file_id":{"type":"string"},"prompt":{}}}}],"tool_choice":"auto","prompt":null}}"#,
            r#"{"event_id":"e1","type":"conversation.item.create","previous_item_id":"i0","item":{"type":"message","role":"user","content":[{"type":"input_text","text":"hi"},{"type":"input_image","image_url":"data:image/png;base64,aGk="}]}}"#,
            r#"{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"c","output":"{}"}}"#,
            r#"{"type":"input_audio_buffer.append","audio":"aGVsbG8="}"#,
            r#"{"type":"response.create","response":{"conversation":"none","metadata":{"prompt":"x"},"input":[{"type":"item_reference","id":"i0"}],"max_output_tokens":"inf"}}"#,
            r#"{"type":"response.create"}"#,
            r#"{"type":"something.new"}"#,
            r#"{"type":"response.cancel","response_id":"r"}"#,
            r#"{"type":"conversation.item.truncate","item_id":"i","content_index":0,"audio_end_ms":5}"#,
        ];
        let mut scan = SessionScan::new(Endpoint::OpenAiRealtime);
        for message in messages {
            assert_eq!(scan.feed(&frame(0x81, message.as_bytes())), Ok(()), "{message}");
        }
        assert_eq!(scan.feed(&frame(0x89, b"ping")), Ok(()));
        assert_eq!(scan.feed(&frame(0x88, &[3, 232])), Ok(()));
    }

    #[test]
    fn what_belongs_to_the_owners_account_is_refused_before_its_message_is_whole() {
        let messages = [
            r#"{"type":"session.update","session":{"prompt":{"id":"pmpt_1"}}}"#,
            r#"{"type":"session.update","session":{"pro\u006dpt":{"id":"pmpt_1"}}}"#,
            r#"{"type":"response.create","response":{"prompt":{"id":"pmpt_1"}}}"#,
            r#"{"type":"session.update","session":{"tools":[{"type":"mcp","server_label":"x"}]}}"#,
            r#"{"type":"session.update","session":{"tools":[{"server_url":"https://x"}]}}"#,
            r#"{"type":"session.update","session":{"tracing":"auto"}}"#,
            r#"{"type":"conversation.item.create","item":{"type":"mcp_approval_response","approve":true}}"#,
            r#"{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"input_image","file_id":"f"}]}}"#,
            r#"{"type":"response.create","response":{"conversation":"conv_1"}}"#,
            r#"{"type":"something.new","session":{"prompt":{}}}"#,
            r#"{"type":7}"#,
            r#"{"type":"session.update","extra":{}}"#,
            r#"{"type":"session.update","type":"response.create"}"#,
            "[]",
            "hello",
            "",
        ];
        for message in messages {
            let bytes = frame(0x81, message.as_bytes());
            let mut scan = SessionScan::new(Endpoint::OpenAiRealtime);
            let refused = scan.feed(&bytes);
            assert!(refused.is_err(), "{message}");
            assert_eq!(scan.feed(&frame(0x81, b"{}")), refused, "a refusal is final");
        }
        assert!(SessionScan::new(Endpoint::AzureRealtime).feed(&frame(0x82, b"x")).is_err());
        assert!(SessionScan::new(Endpoint::AzureRealtime).feed(&[0x81, 1, b'x']).is_err());
    }

    #[test]
    fn one_message_knows_nothing_of_the_one_before() {
        let mut scan = SessionScan::new(Endpoint::OpenAiRealtime);
        for _ in 0..3 {
            let update = br#"{"type":"session.update","session":{"model":"gpt-realtime"}}"#;
            assert_eq!(scan.feed(&frame(0x81, update)), Ok(()));
        }
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            key in prop_oneof!["prompt", "model", "tracing", "instructions", "[a-z]{0,6}"],
            value in prop_oneof!["null", "\"x\"", "\\{\\}", "\\[1\\]", "7"],
            cuts in proptest::collection::vec(0_usize..40, 0..6),
        ) {
            let bytes = frame(0x81, format!(r#"{{"type":"session.update","session":{{"{key}":{value}}}}}"#).as_bytes());
            let whole = SessionScan::new(Endpoint::OpenAiRealtime).feed(&bytes);
            let mut scan = SessionScan::new(Endpoint::OpenAiRealtime);
            let mut rest = &bytes[..];
            let mut result = Ok(());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                result = result.and_then(|()| scan.feed(piece));
                rest = after;
            }
            prop_assert_eq!(result.and_then(|()| scan.feed(rest)), whole);
        }
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let length = u16::try_from(payload.len()).unwrap();
        let mut frame = vec![first, 0x80 | 126];
        if length < 126 {
            frame[1] = 0x80 | u8::try_from(length).unwrap();
        } else {
            frame.extend(length.to_be_bytes());
        }
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }
}
