//! A request that is sold while it is still coming: never for less than when all of it is known.
//!
//! Invariant: what chooses (model, bounds, tools, class of service) stands before what is long, as consumers are told to
//! send it; what is long is any text, any images, sounds, objects and marks.

use super::*;

/// What chooses, and where what is long goes behind it.
const HEADS: &[(Endpoint, &str, Rest)] = &[
    (E::OpenAiChat, r#"{"model":"m","max_tokens":9,"n":2,"messages":["#, Rest::Messages),
    (E::OpenAiChat, r#"{"model":"m","service_tier":"auto","modalities":["text","audio"],"messages":["#, Rest::Messages),
    (E::DeepSeekChat, r#"{"model":"m","messages":["#, Rest::Messages),
    (E::OpenAiCompletions, r#"{"model":"m","best_of":3,"prompt":"#, Rest::Text),
    (E::OpenAiResponses, r#"{"model":"m","max_output_tokens":9,"input":["#, Rest::Messages),
    (
        E::OpenAiResponses,
        r#"{"model":"m","tools":[{"type":"web_search"}],"max_tool_calls":2,"input":["#,
        Rest::Messages,
    ),
    (E::AnthropicMessages, r#"{"model":"m","max_tokens":9,"speed":"fast","messages":["#, Rest::Messages),
    (E::AnthropicMessages, r#"{"model":"m","max_tokens":9,"inference_geo":"us","messages":["#, Rest::Messages),
    (E::OpenAiEmbeddings, r#"{"model":"m","input":"#, Rest::Text),
    (E::OpenAiImages, r#"{"model":"m","n":2,"size":"1024x1024","quality":"low","prompt":"#, Rest::Text),
    (E::OpenAiSpeech, r#"{"model":"m","stream_format":"sse","input":"#, Rest::Text),
];

#[derive(Debug, Clone, Copy)]
enum Rest {
    Messages,
    Text,
}

/// One part of a message.
#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Image,
    Sound,
    /// Objects within objects, as tools' schemas are.
    Nested(usize),
    /// Written to Anthropic's cache for so long.
    Cached(&'static str),
}

impl Piece {
    fn json(&self, endpoint: Endpoint) -> String {
        let text = |text: &str| serde_json::json!({"type": "text", "text": text}).to_string();
        match (self, endpoint) {
            (Self::Text(content), _) => text(content),
            (Self::Image, E::AnthropicMessages) => r#"{"type":"image","source":{"type":"url","url":"x"}}"#.to_owned(),
            (Self::Image, _) => r#"{"type":"image_url","image_url":{"url":"x"}}"#.to_owned(),
            (Self::Sound, E::OpenAiChat) => {
                r#"{"type":"input_audio","input_audio":{"data":"UklGRg==","format":"wav"}}"#.to_owned()
            }
            (Self::Cached(ttl), E::AnthropicMessages) => {
                format!(r#"{{"type":"text","text":"x","cache_control":{{"type":"ephemeral","ttl":"{ttl}"}}}}"#)
            }
            (Self::Nested(depth), _) => {
                format!(r#"{{"type":"text","text":"x","more":{}1{}}}"#, r#"{"a":"#.repeat(*depth), "}".repeat(*depth))
            }
            (Self::Sound | Self::Cached(_), _) => text("x"),
        }
    }
}

fn any_piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        4 => "[a-zé🙂\"\\\\\n]{0,200}".prop_map(Piece::Text),
        1 => Just(Piece::Image),
        1 => Just(Piece::Sound),
        1 => (0_usize..12).prop_map(Piece::Nested),
        1 => proptest::sample::select(&["5m", "1h"][..]).prop_map(Piece::Cached),
    ]
}

fn body_of(endpoint: Endpoint, head: &str, rest: Rest, pieces: &[Piece]) -> String {
    match rest {
        Rest::Messages => {
            let messages: Vec<String> = pieces
                .chunks(2)
                .map(|parts| {
                    let parts: Vec<String> = parts.iter().map(|piece| piece.json(endpoint)).collect();
                    format!(r#"{{"role":"user","content":[{}]}}"#, parts.join(","))
                })
                .collect();
            format!("{head}{}]}}", messages.join(","))
        }
        Rest::Text => {
            let text: String = pieces.iter().map(|piece| piece.json(endpoint)).collect();
            format!("{head}{}}}", serde_json::Value::from(text))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_held_for_a_beginning_is_enough_for_the_whole(
        sku in any_sku(),
        by_the_character: bool,
        (endpoint, head, rest) in proptest::sample::select(HEADS),
        pieces in proptest::collection::vec(any_piece(), 1..12),
        at in any::<proptest::sample::Index>(),
        says_length: bool,
    ) {
        let mut sku = sku;
        if !by_the_character {
            sku.rates.retain(|rate| rate.meter != Meter::Characters);
        }
        let body = body_of(endpoint, head, rest, &pieces);
        let Metering::Metered(form) = endpoint.metering() else { panic!("{endpoint:?} is free") };
        let cut = head.len() + at.index(body.len() - head.len());
        let mut scan = RequestScan::new(endpoint, None).unwrap();
        scan.feed(&body.as_bytes()[..cut]).unwrap();
        let declared = says_length.then_some(body.len() as u64);
        let begun = sku.ceiling(form, &scan.demand(), BodyKnown::Coming { declared });
        scan.feed(&body.as_bytes()[cut..]).unwrap();
        scan.finish().unwrap();
        let all_of_it = scan.demand();
        let whole = sku.ceiling(form, &all_of_it, BodyKnown::Whole);
        let known = sku.ceiling(form, &all_of_it, BodyKnown::Coming { declared });

        if let (Ok(begun), Ok(whole)) = (&begun, &whole) {
            prop_assert!(begun >= whole, "{begun} for the beginning, {whole} for all of {body}");
        }
        if let (Ok(known), Ok(whole)) = (&known, &whole) {
            prop_assert!(known >= whole, "{known} as if more came, {whole} for all of {body}");
        }
        // Only what has no bound before its end is refused for coming; nothing is sold that would be refused whole.
        prop_assert!(begun.is_ok() || whole.is_err() || !says_length, "{begun:?}: {body}");
        prop_assert!(begun.is_err() || whole.is_ok(), "{whole:?}: {body}");
    }
}
