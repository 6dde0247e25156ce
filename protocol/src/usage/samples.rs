//! Answers in every form, in the shapes that vendors document.
//!
//! Invariant: they are written here by hand; nothing in them is anybody's data.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::Form;
use super::Meter;
use super::Shape;

/// An answer, and what it states.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) form: Form,
    pub(crate) shape: Shape,
    pub(crate) body: Vec<u8>,
    pub(crate) meters: &'static [(Meter, u64)],
    pub(crate) model: Option<&'static str>,
}

/// One of every form, whole and in events.
pub(crate) fn cases() -> Vec<Case> {
    let chat_usage = r#""usage":{"prompt_tokens":1200,"completion_tokens":77,"total_tokens":1277,"prompt_tokens_details":{"cached_tokens":1024,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":64,"audio_tokens":0,"accepted_prediction_tokens":3,"rejected_prediction_tokens":1}}"#;
    let chat = [
        r#"{"id":"c1","object":"chat.completion.chunk","model":"gpt-4o-2024-08-06","service_tier":"default","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null,"obfuscation":"x1"}"#,
        r#"{"id":"c1","choices":[{"index":0,"delta":{"content":"Grüße \ud83d\ude00"},"finish_reason":null}],"usage":null}"#,
        r#"{"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#,
        &format!(r#"{{"id":"c1","choices":[],{chat_usage}}}"#),
        "[DONE]",
    ];
    let anthropic = "event: message_start\ndata:{\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"claude-sonnet-4-5\",\"usage\":{\"input_tokens\":50,\"cache_creation_input_tokens\":300,\"cache_read_input_tokens\":700,\"cache_creation\":{\"ephemeral_5m_input_tokens\":100,\"ephemeral_1h_input_tokens\":200},\"output_tokens\":1,\"service_tier\":\"standard\"}}}\n\n\
        event: ping\r\ndata: {\"type\": \"ping\"}\r\n\r\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}   }\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":20,\"server_tool_use\":{\"web_search_requests\":2,\"web_fetch_requests\":1}}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let responses = [
        r#"{"type":"response.created","response":{"id":"r","model":"gpt-5","status":"in_progress","usage":null}}"#,
        r#"{"type":"response.output_text.delta","delta":"Hi"}"#,
        r#"{"response":{"id":"r","model":"gpt-5-2025-08-07","status":"completed","service_tier":"priority","usage":{"input_tokens":10,"input_tokens_details":{"cached_tokens":4,"cache_write_tokens":2},"output_tokens":30,"output_tokens_details":{"reasoning_tokens":20},"total_tokens":40}},"type":"response.completed"}"#,
    ];
    let realtime = [
        r#"{"type":"session.created","session":{"model":"gpt-realtime","audio":{"input":{"transcription":{"model":"whisper-1"}}}}}"#,
        r#"{"type":"response.done","response":{"id":"a","usage":{"total_tokens":150,"input_tokens":100,"output_tokens":50,"input_token_details":{"cached_tokens":30,"text_tokens":40,"audio_tokens":60,"cached_tokens_details":{"text_tokens":10,"audio_tokens":20}},"output_token_details":{"text_tokens":20,"audio_tokens":30}}}}"#,
        r#"{"type":"response.created","response":{"id":"b","usage":{"input_tokens":999}}}"#,
        r#"{"type":"conversation.item.input_audio_transcription.completed","transcript":"hi","usage":{"type":"duration","seconds":2.5}}"#,
        r#"{"response":{"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3,"input_token_details":{"text_tokens":1},"output_token_details":{"text_tokens":2}}},"type":"response.done"}"#,
    ];
    vec![
        Case {
            name: "chat stream",
            form: Form::Completions,
            shape: Shape::Events,
            body: events(&chat),
            meters: &[(Meter::Input, 176), (Meter::CachedInput, 1024), (Meter::Output, 77)],
            model: Some("gpt-4o-2024-08-06"),
        },
        Case {
            name: "chat",
            form: Form::Completions,
            shape: Shape::Json,
            body: format!("\n\n {{\"model\":\"gpt-4o\",\"choices\":[{{\"message\":{{\"content\":\"Hi\"}},\"finish_reason\":\"stop\"}}],{chat_usage}}}  \n").into_bytes(),
            meters: &[(Meter::Input, 176), (Meter::CachedInput, 1024), (Meter::Output, 77)],
            model: Some("gpt-4o"),
        },
        Case {
            name: "chat with audio",
            form: Form::Completions,
            shape: Shape::Json,
            body: br#"{"model":"gpt-audio","usage":{"prompt_tokens":30,"completion_tokens":90,"total_tokens":120,"prompt_tokens_details":{"audio_tokens":20,"text_tokens":10},"completion_tokens_details":{"audio_tokens":70,"text_tokens":20}}}"#.to_vec(),
            meters: &[(Meter::Input, 10), (Meter::Output, 20), (Meter::AudioInput, 20), (Meter::AudioOutput, 70)],
            model: Some("gpt-audio"),
        },
        Case {
            name: "deepseek stream",
            form: Form::DeepSeekCompletions,
            shape: Shape::Events,
            body: [b": keep-alive\n\n: keep-alive\n\n".to_vec(), events(&[
                r#"{"model":"deepseek-chat","choices":[{"index":0,"delta":{"reasoning_content":"hm"},"finish_reason":null}]}"#,
                r#"{"model":"deepseek-chat","choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":1200,"completion_tokens":77,"total_tokens":1277,"prompt_tokens_details":{"cached_tokens":1024},"prompt_cache_hit_tokens":1024,"prompt_cache_miss_tokens":176,"completion_tokens_details":{"reasoning_tokens":3}}}"#,
                "[DONE]",
            ])].concat(),
            meters: &[(Meter::Input, 176), (Meter::CachedInput, 1024), (Meter::Output, 77)],
            model: Some("deepseek-chat"),
        },
        Case {
            name: "anthropic stream",
            form: Form::Messages,
            shape: Shape::Events,
            body: anthropic.as_bytes().to_vec(),
            meters: &[
                (Meter::Input, 50),
                (Meter::CachedInput, 700),
                (Meter::CacheWrite, 100),
                (Meter::CacheWrite1h, 200),
                (Meter::Output, 20),
                (Meter::WebSearch, 2),
            ],
            model: Some("claude-sonnet-4-5"),
        },
        Case {
            name: "anthropic",
            form: Form::Messages,
            shape: Shape::Json,
            body: br#"{"type":"message","model":"claude-haiku","content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","usage":{"input_tokens":5,"output_tokens":3,"output_tokens_details":{"thinking_tokens":2},"inference_geo":"us","speed":"standard"}}"#.to_vec(),
            meters: &[(Meter::Input, 5), (Meter::Output, 3)],
            model: Some("claude-haiku"),
        },
        Case {
            name: "responses stream",
            form: Form::Responses,
            shape: Shape::Events,
            body: events(&responses),
            meters: &[(Meter::Input, 4), (Meter::CachedInput, 4), (Meter::CacheWrite, 2), (Meter::Output, 30)],
            model: Some("gpt-5-2025-08-07"),
        },
        Case {
            name: "responses",
            form: Form::Responses,
            shape: Shape::Json,
            body: br#"{"object":"response","status":"completed","error":null,"model":"gpt-5","output":[{"type":"message","content":[{"type":"output_text","text":"Hi"}]}],"usage":{"input_tokens":10,"output_tokens":3,"total_tokens":13}}"#.to_vec(),
            meters: &[(Meter::Input, 10), (Meter::Output, 3)],
            model: Some("gpt-5"),
        },
        Case {
            name: "embeddings",
            form: Form::Embeddings,
            shape: Shape::Json,
            body: br#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-2e-3]}],"model":"text-embedding-3-small","usage":{"prompt_tokens":8,"total_tokens":8}}"#.to_vec(),
            meters: &[(Meter::Input, 8)],
            model: Some("text-embedding-3-small"),
        },
        Case {
            name: "images",
            form: Form::Images,
            shape: Shape::Json,
            body: br#"{"created":1,"data":[{"b64_json":"aGk="}],"usage":{"input_tokens":60,"input_tokens_details":{"text_tokens":10,"image_tokens":50},"output_tokens":1056,"total_tokens":1116}}"#.to_vec(),
            meters: &[(Meter::Input, 10), (Meter::ImageInput, 50), (Meter::ImageOutput, 1056)],
            model: None,
        },
        Case {
            name: "images stream",
            form: Form::Images,
            shape: Shape::Events,
            body: events(&[
                r#"{"type":"image_generation.partial_image","b64_json":"aGk="}"#,
                r#"{"type":"image_generation.completed","b64_json":"aGk=","usage":{"input_tokens":10,"input_tokens_details":{"text_tokens":10,"image_tokens":0},"output_tokens":1056,"total_tokens":1066}}"#,
            ]),
            meters: &[(Meter::Input, 10), (Meter::ImageOutput, 1056)],
            model: None,
        },
        Case {
            name: "speech stream",
            form: Form::Speech,
            shape: Shape::Events,
            body: events(&[
                r#"{"type":"speech.audio.delta","audio":"aGk="}"#,
                r#"{"type":"speech.audio.done","usage":{"input_tokens":12,"output_tokens":90,"total_tokens":102}}"#,
            ]),
            meters: &[(Meter::Input, 12), (Meter::AudioOutput, 90)],
            model: None,
        },
        Case {
            name: "transcription by tokens",
            form: Form::Transcription,
            shape: Shape::Json,
            body: br#"{"text":"hi","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":4,"audio_tokens":10},"output_tokens":45,"total_tokens":59}}"#.to_vec(),
            meters: &[(Meter::Input, 4), (Meter::Output, 45), (Meter::AudioInput, 10)],
            model: None,
        },
        Case {
            name: "transcription by time",
            form: Form::Transcription,
            shape: Shape::Json,
            body: br#"{"text":"hi","usage":{"type":"duration","seconds":7.0001}}"#.to_vec(),
            meters: &[(Meter::AudioMillis, 7001)],
            model: None,
        },
        Case {
            name: "transcription stream",
            form: Form::Transcription,
            shape: Shape::Events,
            body: events(&[
                r#"{"type":"transcript.text.delta","delta":"h"}"#,
                r#"{"type":"transcript.text.done","text":"hi","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":0,"audio_tokens":14},"output_tokens":4,"total_tokens":18}}"#,
            ]),
            meters: &[(Meter::Output, 4), (Meter::AudioInput, 14)],
            model: None,
        },
        Case {
            name: "realtime",
            form: Form::Realtime,
            shape: Shape::Session,
            body: session(&realtime),
            meters: &[
                (Meter::Input, 31),
                (Meter::CachedInput, 10),
                (Meter::Output, 22),
                (Meter::AudioInput, 40),
                (Meter::CachedAudioInput, 20),
                (Meter::AudioOutput, 30),
            ],
            model: Some("gpt-realtime"),
        },
    ]
}

/// A stream of events with this data.
pub(crate) fn events(data: &[&str]) -> Vec<u8> {
    data.iter().map(|data| format!("data: {data}\n\n")).collect::<String>().into_bytes()
}

/// The same compressed.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn session(messages: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.push(0x81);
        bytes.push(126);
        bytes.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
        bytes.extend(message.as_bytes());
    }
    bytes.extend([0x88, 2, 3, 232]);
    bytes
}
