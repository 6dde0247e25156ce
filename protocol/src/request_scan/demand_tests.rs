//! What bodies ask for, at every cut, and with the endpoint known from the beginning or not.
//!
//! Invariant: the demand of a body is a function of its bytes alone.

use super::served_tests;
use super::tests::form_of;
use super::tests::multipart;
use super::tests::scanned;
use super::*;
use crate::demand::CacheAsked;
use crate::demand::ImageQuality;
use crate::demand::ImageSize;
use crate::demand::RegionAsked;
use crate::demand::TierAsked;
use crate::provider::route::route;
use Endpoint as E;

/// Bodies of the other forms.
const OTHERS: &[(Endpoint, &str)] = &[
    (
        E::OpenAiCompletions,
        r#"{"model":"m","prompt":["a",[1,2],"ü"],"best_of":2,"n":1,"max_tokens":16,"suffix":"s","stream":true,"stream_options":{"include_obfuscation":false,"\u0069nclude_usage":false}}"#,
    ),
    (E::AzureEmbeddings, r#"{"input":["a","b"],"model":"m","dimensions":256}"#),
    (
        E::OpenAiImages,
        r#"{"prompt":"a cat","model":"m","n":2,"size":"1024x1536","quality":"high","output_format":"gif","partial_images":2,"complexity":"low"}"#,
    ),
    (
        E::OpenAiImageEdits,
        r#"{"model":"m","prompt":"x","images":[{"image_url":"data:image/png;base64,AA=="}],"mask":{"image_url":"https://example.com/m.png"}}"#,
    ),
    (E::OpenAiSpeech, r#"{"input":"Grüße \u00e4\ud83d\ude00","model":"m","voice":"v","stream_format":"sse"}"#),
];

#[test]
fn no_cut_changes_the_demand_and_neither_does_when_the_endpoint_is_known() {
    let mut bodies: Vec<(Endpoint, &str, &str)> = Vec::new();
    bodies.extend(served_tests::CHAT.iter().map(|body| (E::OpenAiChat, "/v1/chat/completions", *body)));
    bodies.extend(served_tests::RESPONSES.iter().map(|body| (E::OpenAiResponses, "/v1/responses", *body)));
    bodies.extend(served_tests::MESSAGES.iter().map(|body| (E::AnthropicMessages, "/v1/messages", *body)));
    bodies.extend(OTHERS.iter().map(|(endpoint, body)| (*endpoint, endpoint.template(), *body)));
    for (endpoint, path, body) in bodies {
        let whole = scanned(endpoint, body).unwrap();
        let expected = (whole.demand(), whole.usage_place());
        let candidates = route(&http::Method::POST, path, &http::HeaderMap::new()).unwrap().candidates;
        for cut in 0..=body.len() {
            let (head, tail) = body.as_bytes().split_at(cut);
            let mut known = RequestScan::new(endpoint, None).unwrap();
            known.feed(head).unwrap();
            known.feed(tail).unwrap();
            known.finish().unwrap();
            assert_eq!((known.demand(), known.usage_place()), expected, "{cut} {body}");

            let mut agreed = RequestScan::for_candidates(&candidates, None).unwrap();
            agreed.feed(head).unwrap();
            agreed.agree(endpoint).unwrap();
            agreed.feed(tail).unwrap();
            agreed.finish().unwrap();
            assert_eq!((agreed.demand(), agreed.usage_place()), expected, "{cut} {body}");
        }
        let mut bytes = RequestScan::new(endpoint, None).unwrap();
        body.as_bytes().chunks(1).for_each(|byte| bytes.feed(byte).unwrap());
        bytes.finish().unwrap();
        assert_eq!((bytes.demand(), bytes.usage_place()), expected, "{body}");
    }
}

#[test]
fn no_cut_changes_the_demand_of_a_form() {
    let form = form_of(&[
        ("model", None, "gpt-image-2"),
        ("prompt", None, "a\r\nhat"),
        ("n", None, "3"),
        ("quality", None, "low"),
        ("image[]", Some("a.png"), "12\r\n--x"),
        ("image[]", Some("b.png"), "345"),
        ("mask", Some("m.png"), "\r\n"),
    ]);
    let expected = multipart(E::OpenAiImageEdits, &form).unwrap().demand();
    assert_eq!((expected.images, expected.media_bytes, expected.answers), (3, 7 + 3 + 2, 3));
    assert_eq!(expected.image.unwrap().quality, ImageQuality::Low);
    assert_eq!(expected.text_bytes, 6, "neither numbers nor words that are no prompt");
    for cut in 0..=form.len() {
        let (head, tail) = form.split_at(cut);
        let content_type = http::HeaderValue::from_static("multipart/form-data; boundary=b");
        let mut scan = RequestScan::new(E::OpenAiImageEdits, Some(&content_type)).unwrap();
        scan.feed(head).unwrap();
        scan.feed(tail).unwrap();
        scan.finish().unwrap();
        assert_eq!(scan.demand(), expected, "{cut}");
    }
}

#[test]
fn text_is_counted_unescaped_and_names_and_metadata_are_not() {
    let plain = demand(E::OpenAiChat, r#"{"messages":[{"role":"user","content":"aé"}]}"#);
    let escaped = demand(
        E::OpenAiChat,
        r#"{"messages":[{"role":"user","content":"\u0061\u00e9"}],"model":"gpt-4o","stream":true,"metadata":{"a":"b"},"logit_bias":{"7":1}}"#,
    );

    assert_eq!(plain.text_bytes, 4 + 3);
    assert_eq!((escaped.text_bytes, escaped.structure_tokens), (plain.text_bytes, plain.structure_tokens));
    // The body and the message are objects; the list, the role and the content are values.
    assert_eq!(plain.structure_tokens, 2 * 16 + 3 * 4);
}

#[test]
fn a_schema_counts_with_its_keys() {
    let body = |schema: &str| {
        format!(r#"{{"tools":[{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}]}}"#)
    };

    let (empty, some) = (demand(E::OpenAiChat, &body("{}")), demand(E::OpenAiChat, &body(r#"{"file_data":[true]}"#)));

    assert_eq!(some.text_bytes - empty.text_bytes, 9 + 5);
    assert!(!some.is_media);
}

#[test]
fn media_is_found_at_any_depth_and_not_taken_for_text() {
    let chat = |part: &str| demand(E::OpenAiChat, &format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}]}}"#));
    let image = chat(r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}"#);
    assert_eq!((image.images, image.media_bytes, image.is_media, image.audio_in), (1, 26, true, false));
    let audio = chat(r#"{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}"#);
    assert_eq!((audio.images, audio.media_bytes, audio.is_media, audio.audio_in), (0, 4, true, true));
    let file = chat(r#"{"type":"file","file":{"filename":"a","file_data":"AAAAAA"}}"#);
    assert_eq!((file.media_bytes, file.is_media), (6, true));
    assert!(!chat(r#"{"type":"text","text":"https://example.com/a.png"}"#).is_media);

    let block = |block: &str| {
        demand(E::AnthropicMessages, &format!(r#"{{"messages":[{{"role":"user","content":[{block}]}}]}}"#))
    };
    let nested = block(
        r#"{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}"#,
    );
    assert_eq!((nested.images, nested.media_bytes, nested.is_media), (1, 4, true));
    assert!(block(r#"{"type":"document","source":{"type":"text","media_type":"text/plain","data":"x"}}"#).is_media);
    assert!(!block(r#"{"type":"redacted_thinking","data":"AAAA"}"#).is_media);
    assert!(!block(r#"{"type":"search_result","source":"a book","title":"t","content":[]}"#).is_media);

    let item = |item: &str| demand(E::OpenAiResponses, &format!(r#"{{"input":[{item}]}}"#));
    let screen = item(
        r#"{"type":"computer_call_output","call_id":"c","output":{"type":"computer_screenshot","image_url":"data:x"}}"#,
    );
    assert_eq!((screen.images, screen.media_bytes, screen.is_media), (1, 6, true));
    assert!(item(r#"{"role":"user","content":[{"type":"input_file","file_url":"https://x"}]}"#).is_media);
    assert!(item(r#"{"role":"user","content":[{"type":"input_image"}]}"#).is_media, "by its type alone");
}

#[test]
fn the_numbers_of_a_request_are_read() {
    let chat = demand(
        E::OpenAiChat,
        r#"{"max_completion_tokens":512,"n":3,"service_tier":"flex","prediction":{"type":"content","content":"abc"}}"#,
    );
    assert_eq!((chat.output_tokens, chat.answers, chat.tier), (Some(512), 3, TierAsked::Flex));
    assert_eq!(chat.predicted_bytes, (7 + 4) + (3 + 4));
    let completions = demand(E::OpenAiCompletions, OTHERS[0].1);
    assert_eq!((completions.inputs, completions.answers, completions.output_tokens), (3, 6, Some(16)));
    let one = demand(E::OpenAiCompletions, r#"{"prompt":[1,2,3],"max_tokens":0}"#);
    assert_eq!((one.inputs, one.answers, one.output_tokens), (1, 1, None));
    assert_eq!(demand(E::AzureEmbeddings, OTHERS[1].1).inputs, 2);
    let image = demand(E::OpenAiImages, OTHERS[2].1);
    let drawn = image.image.unwrap();
    assert_eq!((image.answers, drawn.frames, drawn.partial_images, drawn.plans), (2, 9, 2, true));
    assert_eq!((drawn.size, drawn.quality), (ImageSize::Pixels(1024 * 1536), ImageQuality::High));
    let speech = demand(E::OpenAiSpeech, OTHERS[4].1);
    assert_eq!((speech.characters, speech.states_usage), (8, true));
    assert!(!demand(E::OpenAiSpeech, r#"{"input":"x"}"#).states_usage);
    let sound = demand(E::OpenAiChat, r#"{"modalities":["text","audio"]}"#);
    assert!(sound.audio_out && !demand(E::OpenAiChat, r#"{"modalities":["text"],"audio":null}"#).audio_out);
}

#[test]
fn anthropics_own_fields_are_read() {
    let body = |more: &str| demand(E::AnthropicMessages, &format!(r#"{{"max_tokens":9{more}}}"#));

    let tools = body(
        r#","tools":[{"max_uses":2,"name":"web_fetch","type":"web_fetch_20250910"},{"type":"web_search_20250305","name":"w","max_uses":5},{"name":"own","input_schema":{"max_uses":7}}]"#,
    );
    assert_eq!((tools.web_searches, tools.server_calls), (5, 7));
    assert_eq!(body(r#","cache_control":{"type":"ephemeral"}"#).caches, CacheAsked::Usual);
    let hour = r#","system":[{"type":"text","text":"s","cache_control":{"ttl":"1h","type":"ephemeral"}}]"#;
    assert_eq!(body(hour).caches, CacheAsked::Hour);
    assert_eq!(body(&hour.replace("1h", "2h")).caches, CacheAsked::Other);
    let fast = body(r#","speed":"fast","inference_geo":"us","service_tier":"auto""#);
    assert_eq!((fast.is_fast, fast.region, fast.tier), (true, RegionAsked::Us, TierAsked::Auto));
    assert_eq!(body(r#","inference_geo":"eu""#).region, RegionAsked::Other);
    let edits = |kind: &str| body(&format!(r#","context_management":{{"edits":[{{"type":{kind:?}}}]}}"#));
    assert!(edits("compact_20260112").compacts && !edits("clear_thinking_20251015").compacts);
    assert!(body(r#","compaction":{}"#).compacts && !body(r#","compaction":null"#).compacts);
}

#[test]
fn searches_of_responses_are_bounded_by_the_body() {
    let tool = r#""tools":[{"type":"web_search"}]"#;
    let bounded = demand(E::OpenAiResponses, &format!(r#"{{{tool},"max_tool_calls":3}}"#));
    assert_eq!((bounded.web_searches, bounded.server_calls), (3, 3));

    let mut coming = RequestScan::new(E::OpenAiResponses, None).unwrap();
    coming.feed(format!("{{{tool},").as_bytes()).unwrap();
    assert_eq!(coming.demand().web_searches, 1000, "as long as the bound was not read");
    assert_eq!(demand(E::OpenAiResponses, r#"{"max_tool_calls":3}"#).web_searches, 0);
}

#[test]
fn answers_that_will_not_state_their_usage_are_known() {
    let chat = |more: &str| demand(E::OpenAiChat, &format!(r#"{{"model":"m"{more}}}"#)).states_usage;
    assert!(
        chat("") && chat(r#","stream":false"#) && chat(r#","stream":true,"stream_options":{"include_usage":true}"#)
    );
    for options in
        ["", r#","stream_options":null"#, r#","stream_options":{}"#, r#","stream_options":{"include_usage":null}"#]
    {
        assert!(!chat(&format!(r#","stream":true{options}"#)), "{options}");
    }
    let transcript = |format: &str| {
        let form = form_of(&[("model", None, "whisper-1"), ("response_format", None, format)]);
        multipart(E::OpenAiTranscriptions, &form).unwrap().demand().states_usage
    };
    assert!(transcript("json") && transcript("verbose_json") && transcript("diarized_json"));
    assert!(!transcript("text") && !transcript("srt") && !transcript("vtt"));
    let recording = form_of(&[("model", None, "whisper-1"), ("file", Some("a.mp3"), "12345")]);
    let translation = multipart(E::OpenAiTranslations, &recording).unwrap().demand();
    assert_eq!((translation.states_usage, translation.audio_in, translation.media_bytes), (false, true, 5));
    let session = RequestScan::new(E::OpenAiRealtime, None).unwrap().demand();
    assert!(session.is_media && session.audio_out && session.states_usage);
}

#[test]
fn what_would_hide_whether_usage_is_asked_for_is_refused() {
    for options in [
        r#"{"include_usage":true,"include_usage":true}"#,
        r#"{"include_usage":true,"include_\u0075sage":null}"#,
        r#"{"include_usage":null,"include_usage":true}"#,
        r#"{"Include_Usage":true}"#,
        r#"{"include_usage":"true"}"#,
        r#"{"include_usage":{}}"#,
        r#"[{"include_usage":true}]"#,
        "[]",
        "7",
        "true",
        r#""include_usage""#,
    ] {
        let body = format!(r#"{{"model":"m","stream":true,"stream_options":{options}}}"#);
        for endpoint in [E::OpenAiChat, E::OpenAiCompletions, E::DeepSeekChat] {
            assert!(scanned(endpoint, &body).is_err(), "{options}");
        }
    }
}

fn demand(endpoint: Endpoint, body: &str) -> Demand {
    scanned(endpoint, body).unwrap_or_else(|error| panic!("{error}: {body}")).demand()
}
