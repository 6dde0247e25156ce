//! Tests of the scan: routing, cuts, candidates, forms, memory.
//!
//! Invariant: no cut, and no order of knowing the endpoint, changes a verdict.

use super::*;
use crate::ErrorCode;
use crate::json_scan::DEPTH_MAX;
use proptest::prelude::*;

const CHAT: Endpoint = Endpoint::OpenAiChat;

#[test]
fn model_and_stream_are_found_wherever_they_stand() {
    let bodies = [
        r#"{"model":"gpt-4o","stream":true}"#,
        r#"{"messages":[{"role":"user","content":"\"model\":\"x\""}],"stream":true,"model":"gpt-4o"}"#,
        r#" {"metadata":{"model":"x","stream":false},"model" : "gpt-4o" , "stream":true } "#,
        r#"{"mod\u0065l":"gpt-\u0034o","\u0073tream":true}"#,
    ];
    for body in bodies {
        let scan = scanned(CHAT, body).unwrap();
        assert_eq!(scan.model(), Some("gpt-4o"), "{body}");
        assert_eq!(scan.stream(), Some(true), "{body}");
    }
}

#[test]
fn the_model_is_known_before_the_body_ends() {
    let mut scan = RequestScan::new(CHAT, None).unwrap();

    scan.feed(br#"{"model":"gpt-4o","messages":[{"#).unwrap();

    assert_eq!(scan.model(), Some("gpt-4o"));
    assert!(scan.finish().is_err());
}

#[test]
fn absent_and_null_are_none() {
    for body in ["{}", r#"{"stream":null}"#] {
        let scan = scanned(CHAT, body).unwrap();
        assert_eq!((scan.model(), scan.stream()), (None, None), "{body}");
    }
}

#[test]
fn a_field_stands_once() {
    let bodies = [
        (r#"{"model":"a","model":"a"}"#, "model"),
        (r#"{"model":"a","mod\u0065l":"b"}"#, "model"),
        (r#"{"\u006D\u006f\u0064\u0065\u006C":"a","model":"b"}"#, "model"),
        (r#"{"stream":null,"stream":null}"#, "stream"),
        (r#"{"stream":true,"stop":[1],"strea\u006d":false}"#, "stream"),
        (r#"{"max_tokens":1,"max_tokens":100000}"#, "max_tokens"),
        (r#"{"n":null,"\u006e":9}"#, "n"),
    ];
    for (body, key) in bodies {
        assert_eq!(scanned(CHAT, body).unwrap_err(), ScanError::DuplicateKey { key: key.to_owned() });
    }
    let tool = r#"{"tools":[{"type":"web_search_20250305","name":"w","max_uses":1,"max_uses":900}]}"#;
    let error = scanned(Endpoint::AnthropicMessages, tool).unwrap_err();
    assert_eq!(error, ScanError::DuplicateKey { key: "max_uses".to_owned() });
}

#[test]
fn a_value_of_another_type_or_size_is_refused() {
    let long = "a".repeat(257);
    let models = [
        "1",
        "null",
        "true",
        "{}",
        "[]",
        r#""""#,
        r#""a b""#,
        r#""ä""#,
        r#""a\n""#,
        r#"["gpt-4o"]"#,
        r#"{"model":"x"}"#,
        &format!("{long:?}"),
    ];
    for value in models {
        let error = scanned(CHAT, &format!(r#"{{"model":{value}}}"#)).unwrap_err();
        assert!(matches!(&error, ScanError::BadValue { key, .. } if key == "model"), "{value}: {error}");
    }
    for value in ["1", "0", r#""true""#, "[]", "{}", "[true]"] {
        let error = scanned(CHAT, &format!(r#"{{"stream":{value}}}"#)).unwrap_err();
        assert!(matches!(&error, ScanError::BadValue { key, .. } if key == "stream"), "{value}: {error}");
    }
    for value in ["-1", "1.0", "1e3", "01", "10000001", r#""9""#, "true", "[1]", "{}"] {
        let error = scanned(CHAT, &format!(r#"{{"max_tokens":{value}}}"#)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::RequestMalformed, "{value}");
    }
    assert!(scanned(CHAT, &format!(r#"{{"model":"{}","max_tokens":0,"n":128}}"#, "a".repeat(256))).is_ok());
}

#[test]
fn the_root_is_one_object() {
    for body in ["[]", r#""model""#, "1 ", "null", "true", r#"[{"model":"a"}]"#] {
        assert_eq!(scanned(CHAT, body).unwrap_err(), ScanError::NotAnObject, "{body}");
    }
    assert_eq!(scanned(CHAT, "1").unwrap_err(), ScanError::NotAnObject);
    for body in ["", " ", "{", r#"{"model":"a"}{}"#, r#"{"model":"a",}"#] {
        let error = scanned(CHAT, body).unwrap_err();
        assert!(matches!(error, ScanError::Json(_)), "{body}");
        assert_eq!(error.code(), ErrorCode::RequestMalformed);
    }
}

#[test]
fn a_refusal_is_final() {
    let mut scan = RequestScan::new(CHAT, None).unwrap();
    let first = scan.feed(br#"{"model":1,"#).unwrap_err();

    assert_eq!(scan.feed(br#""n":1}"#), Err(first.clone()));
    assert_eq!(scan.agree(CHAT), Err(first.clone()));
    assert_eq!(scan.finish(), Err(first));
}

#[test]
fn a_refusal_names_the_field_and_never_its_value() {
    for body in [
        r#"{"model":"my secret"}"#,
        r#"{"unknown":"my secret"}"#,
        r#"{"messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"secret"}}]}]}"#,
        r#"{"service_tier":"secret"}"#,
        r#"{"max_tokens":"secret"}"#,
    ] {
        let error = scanned(CHAT, body).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{body}");
    }
    let long = format!(r#"{{"{}":1}}"#, "k".repeat(100_000));
    assert!(scanned(CHAT, &long).unwrap_err().to_string().len() < 200);
}

#[test]
fn candidates_are_judged_apart_and_agreeing_gives_the_verdict_of_the_one() {
    let cases = [
        (r#"{"user_id":"u","model":"deepseek-chat","#, &[Endpoint::DeepSeekChat][..], "user_id"),
        (r#"{"model":"gpt-4o","service_tier":"flex","#, &[Endpoint::OpenAiChat], "service_tier"),
        (r#"{"service_tier":"priority","#, &[Endpoint::OpenAiChat, Endpoint::AzureChat], "service_tier"),
    ];
    for (body, takers, named) in cases {
        let mut scan = RequestScan::for_candidates(&candidates("/v1/chat/completions"), None).unwrap();
        scan.feed(body.as_bytes()).unwrap();

        for endpoint in [Endpoint::OpenAiChat, Endpoint::AzureChat, Endpoint::DeepSeekChat] {
            let agreed = scan.clone().agree(endpoint);
            assert_eq!(agreed.is_ok(), takers.contains(&endpoint), "{endpoint:?} {body}");
            assert!(agreed.map_or_else(|error| error.to_string().contains(named), |()| true));
        }
    }
}

#[test]
fn what_every_candidate_refuses_is_refused_at_once() {
    let mut scan = RequestScan::for_candidates(&candidates("/v1/chat/completions"), None).unwrap();

    let error = scan.feed(br#"{"data_sources":[{"#).unwrap_err();

    assert_eq!(error.code(), ErrorCode::FieldRefused);
    assert_eq!(scan.agree(Endpoint::DeepSeekChat), Err(error));
}

#[test]
fn an_endpoint_that_was_no_candidate_is_not_agreed_on() {
    let mut scan = RequestScan::for_candidates(&candidates("/v1/responses"), None).unwrap();

    assert_eq!(scan.agree(Endpoint::OpenAiChat), Err(ScanError::NotACandidate));
    assert!(RequestScan::for_candidates(&[], None).is_err());
}

#[test]
fn an_endpoint_without_a_body_takes_none() {
    for endpoint in [Endpoint::OpenAiModels, Endpoint::OpenAiRealtime] {
        let mut scan = RequestScan::new(endpoint, None).unwrap();
        assert_eq!(scan.feed(b""), Ok(()));
        assert_eq!(scan.clone().finish(), Ok(()));
        assert_eq!(scan.feed(b" "), Err(ScanError::BodyUnexpected));
    }
}

#[test]
fn a_form_is_read_as_json_is() {
    let form =
        form_of(&[("model", None, "whisper-1"), ("file", Some("a.mp3"), "ID3\r\n--x\r\n"), ("stream", None, "true")]);

    let scan = multipart(Endpoint::OpenAiTranscriptions, &form).unwrap();

    assert_eq!((scan.model(), scan.stream()), (Some("whisper-1"), Some(true)));
}

#[test]
fn what_may_not_stand_in_a_form_is_refused_and_named() {
    let long = "m".repeat(257);
    type PartOf<'a> = (&'a str, Option<&'a str>, &'a str);
    let cases: &[(&[PartOf<'_>], &str)] = &[
        (&[("model", None, "a"), ("model", None, "a")], "model"),
        (&[("model", Some("a.txt"), "a")], "model"),
        (&[("model[]", None, "a")], "model"),
        (&[("model", None, "")], "model"),
        (&[("model", None, &long)], "model"),
        (&[("model", None, "ft:whisper-1:org")], "fine-tuned"),
        (&[("stream", None, "True")], "stream"),
        (&[("stream", None, "true"), ("stream", None, "false")], "stream"),
        (&[("file", None, "file-abc")], "file"),
        (&[("include", Some("a"), "logprobs")], "include"),
        (&[("chunking_strategy[file_id]", None, "x")], "file_id"),
        (&[("Model", None, "a")], "Model"),
        (&[("unknown", None, "a")], "unknown"),
    ];
    for (parts, named) in cases {
        let error = multipart(Endpoint::OpenAiTranscriptions, &form_of(parts)).unwrap_err();
        assert!(error.to_string().contains(named), "{parts:?}: {error}");
    }
    let error = multipart(Endpoint::OpenAiImageEdits, &form_of(&[("n", None, "1000")])).unwrap_err();
    assert!(error.to_string().contains("from 1 to 128"));
    let svg = multipart(Endpoint::OpenAiImageEdits, &form_of(&[("svg[model]", None, "x")])).unwrap_err();
    assert!(svg.to_string().contains("svg"));
}

#[test]
fn memory_is_bounded_whatever_the_body() {
    let deep = format!(r#"{{"messages":{}"#, r#"[{"a":"#.repeat(DEPTH_MAX as usize));
    let wide = format!(r#"{{"messages":[{}]"#, r#"{"k":"v"},"#.repeat(50_000).trim_end_matches(','));
    let long = format!(r#"{{"messages":"{}","#, "x".repeat(1 << 20));
    for body in [deep, wide, long] {
        let mut scan = RequestScan::new(CHAT, None).unwrap();
        let _ = scan.feed(body.as_bytes());
        assert!(bytes_held(&scan) < 16 << 10, "{}", bytes_held(&scan));
    }
    let parts = "--b\r\nContent-Disposition: form-data; name=include\r\n\r\n".to_owned() + &"x".repeat(1 << 20);
    let mut scan = RequestScan::new(Endpoint::OpenAiTranscriptions, Some(&content_type())).unwrap();
    scan.feed(parts.as_bytes()).unwrap();
    assert!(bytes_held(&scan) < 16 << 10);
}

proptest! {
    #[test]
    fn cuts_and_candidates_change_no_verdict(
        members in proptest::collection::vec(member(), 0..6),
        cuts in proptest::collection::vec(0_usize..40, 0..12),
        path in prop_oneof![Just("/v1/chat/completions"), Just("/v1/responses"), Just("/anthropic/v1/messages")],
        agreed_at in 0_usize..12,
    ) {
        let body = format!("{{{}}}", members.join(","));
        for candidate in candidates(path) {
            let whole = scanned(candidate.endpoint, &body).map(|scan| verdict(&scan));

            let mut pieces = RequestScan::for_candidates(&candidates(path), None).unwrap();
            let mut result = Ok(());
            let mut rest = body.as_bytes();
            for (at, cut) in cuts.iter().enumerate() {
                if at == agreed_at { result = result.and_then(|()| pieces.agree(candidate.endpoint)); }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                result = result.and_then(|()| pieces.feed(piece));
                rest = after;
            }
            if agreed_at >= cuts.len() { result = result.and_then(|()| pieces.agree(candidate.endpoint)); }
            result = result.and_then(|()| pieces.feed(rest)).and_then(|()| pieces.finish());

            // Where all candidates refuse, the first one's words may come before agreeing.
            prop_assert_eq!(result.is_ok(), whole.is_ok(), "{}", body);
            if whole.is_ok() { prop_assert_eq!(whole, result.map(|()| verdict(&pieces))); }
        }
    }

    #[test]
    fn any_cut_of_one_endpoints_body_gives_the_same_error(
        members in proptest::collection::vec(member(), 0..6),
        size in 1_usize..20,
        row in 0..Endpoint::ALL.len(),
    ) {
        let endpoint = Endpoint::ALL[row];
        let body = format!("{{{}}}", members.join(","));
        let Ok(start) = RequestScan::new(endpoint, None) else { return Ok(()) };
        let judged = |size: usize| {
            let mut scan = start.clone();
            let fed = body.as_bytes().chunks(size).try_for_each(|piece| scan.feed(piece));
            fed.and_then(|()| scan.finish()).map(|()| verdict(&scan))
        };

        prop_assert_eq!(judged(size), judged(body.len()));
    }
}

#[test]
fn any_bytes_are_judged_without_panic_and_alike_at_any_cut() {
    bolero::check!().with_iterations(3_000).for_each(|input: &[u8]| {
        for (endpoint, content_type) in [
            (CHAT, None),
            (Endpoint::OpenAiResponses, None),
            (Endpoint::AnthropicMessages, None),
            (Endpoint::OpenAiImageEdits, Some(content_type())),
        ] {
            for start in [
                &b""[..],
                br#"{"tools":[{"type":""#,
                br#"{"input":[{"#,
                b"--b\r\nContent-Disposition: form-data; name=",
            ] {
                let body = [start, input].concat();
                let judged = |size: usize| {
                    let mut scan = RequestScan::new(endpoint, content_type.as_ref()).unwrap();
                    let fed = body.chunks(size).try_for_each(|piece| scan.feed(piece));
                    let ended = fed.and_then(|()| scan.finish());
                    assert!(bytes_held(&scan) < 16 << 10);
                    ended.map_err(|error| error.code())
                };
                assert_eq!(judged(1), judged(body.len().max(1)));
            }
        }
    });
}

/// Members that policies care about, right and wrong.
fn member() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("\"auto\"".to_owned()),
        Just("\"flex\"".to_owned()),
        Just("7".to_owned()),
        Just("[]".to_owned()),
        Just(r#"[{"type":"function","function":{"name":"f","parameters":{"file_id":1}}}]"#.to_owned()),
        Just(r#"[{"type":"web_search"},{"name":"g","input_schema":{"type":"x"}}]"#.to_owned()),
        Just(r#"[{"role":"user","content":[{"type":"text","text":"é\u00e9"}]}]"#.to_owned()),
        Just(r#"[{"role":"user","content":[{"type":"image","source":{"type":"file","file_id":"f"}}]}]"#.to_owned()),
        Just(r#"[{"type":"reasoning","id":"r","encrypted_content":"x"},{"id":"m"}]"#.to_owned()),
    ];
    let key = prop_oneof![
        "model",
        "stream",
        "messages",
        "input",
        "tools",
        "max_tokens",
        "max_tool_calls",
        "service_tier",
        "store",
        "n",
        "thinking",
        "user_id",
        "metadata",
        "sto\\\\u0072e",
        "unknown",
        "background",
    ];
    (key, value).prop_map(|(key, value)| format!("\"{key}\":{value}"))
}

fn verdict(scan: &RequestScan) -> (Option<String>, Option<bool>) {
    (scan.model().map(str::to_owned), scan.stream())
}

fn candidates(path: &str) -> Vec<Candidate> {
    crate::provider::route::route(&http::Method::POST, path, &http::HeaderMap::new()).unwrap().candidates
}

pub(super) fn scanned(endpoint: Endpoint, body: &str) -> Result<RequestScan, ScanError> {
    let mut scan = RequestScan::new(endpoint, None)?;
    scan.feed(body.as_bytes())?;
    scan.finish()?;
    Ok(scan)
}

pub(super) fn multipart(endpoint: Endpoint, body: &[u8]) -> Result<RequestScan, ScanError> {
    let mut scan = RequestScan::new(endpoint, Some(&content_type()))?;
    scan.feed(body)?;
    scan.finish()?;
    Ok(scan)
}

fn content_type() -> HeaderValue {
    HeaderValue::from_static("multipart/form-data; boundary=b")
}

pub(super) fn form_of(parts: &[(&str, Option<&str>, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (name, file, content) in parts {
        let file = file.map_or(String::new(), |file| format!("; filename=\"{file}\"\r\nContent-Type: audio/mpeg"));
        body += &format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{content}\r\n");
    }
    (body + "--b--\r\n").into_bytes()
}

fn bytes_held(scan: &RequestScan) -> usize {
    let reader = match &scan.reader {
        Reader::Nothing => 0,
        Reader::Json(json) => size_of_val(&**json),
        Reader::Multipart(form, text) => form.bytes_held() + text.bytes.capacity(),
    };
    size_of_val(scan) + reader + scan.judge.bytes_held()
}
