//! What is held, field by field, and the promise: never less than is billed.
//!
//! Invariant: the bounds of usage are stated here once more, on their own.

mod coming;
use super::*;
use crate::provider::endpoint::Endpoint;
use crate::provider::endpoint::Endpoint as E;
use crate::provider::endpoint::Metering;
use crate::provider::policy::field::Bound;
use crate::provider::policy::field::Class;
use crate::request_scan::RequestScan;
use crate::usage::Coding;
use crate::usage::Shape;
use crate::usage::Tap;
use http::HeaderValue;
use proptest::prelude::*;
use std::cmp::Ordering;

/// For each row: where, a body, the same with something added, and what that does to the
/// ceiling.
const ROWS: &[(Endpoint, &str, &str, Ordering)] = &[
    (E::OpenAiChat, CHAT, r#","messages":[{"role":"user","content":"hello"}]"#, Ordering::Greater),
    (
        E::OpenAiChat,
        CHAT,
        r#","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#,
        Ordering::Greater,
    ),
    (E::OpenAiChat, CHAT_FREE, r#","max_tokens":7"#, Ordering::Less),
    (E::OpenAiChat, CHAT_FREE, r#","max_completion_tokens":7"#, Ordering::Less),
    (E::OpenAiChat, CHAT, r#","n":2"#, Ordering::Greater),
    (
        E::OpenAiChat,
        CHAT,
        r#","tools":[{"type":"function","function":{"name":"f","parameters":{"a":1}}}]"#,
        Ordering::Greater,
    ),
    (E::OpenAiChat, CHAT, r#","functions":[{"name":"f","parameters":{"a":1}}]"#, Ordering::Greater),
    (E::OpenAiChat, CHAT, r#","service_tier":"priority""#, Ordering::Greater),
    (E::OpenAiChat, CHAT, r#","service_tier":"auto""#, Ordering::Greater),
    // It may be answered in the usual class all the same.
    (E::OpenAiChat, CHAT, r#","service_tier":"flex""#, Ordering::Equal),
    (E::OpenAiChat, CHAT, r#","service_tier":"default""#, Ordering::Equal),
    (E::OpenAiChat, CHAT, r#","audio":{"voice":"alloy","format":"wav"}"#, Ordering::Greater),
    (E::OpenAiChat, CHAT, r#","modalities":["text","audio"]"#, Ordering::Greater),
    (E::OpenAiChat, CHAT, r#","prediction":{"type":"content","content":"abc"}"#, Ordering::Greater),
    // More of the output, within its bound; the word itself is counted.
    (E::OpenAiChat, CHAT, r#","reasoning_effort":"high""#, Ordering::Greater),
    (
        E::OpenAiChat,
        CHAT,
        r#","response_format":{"type":"json_schema","json_schema":{"name":"s","schema":{}}}"#,
        Ordering::Greater,
    ),
    // OpenAI writes its cache unasked: that is always held.
    (E::OpenAiChat, CHAT, r#","prompt_cache_options":{"ttl":"30m"}"#, Ordering::Equal),
    (E::OpenAiChat, CHAT, r#","prompt_cache_retention":"24h""#, Ordering::Equal),
    (E::DeepSeekChat, CHAT, r#","thinking":{"type":"enabled"}"#, Ordering::Greater),
    (E::OpenAiChat, CHAT, r#","stream":true,"metadata":{"a":"b"},"logit_bias":{"1":1}"#, Ordering::Equal),
    (E::OpenAiCompletions, CHAT, r#","prompt":"hello""#, Ordering::Greater),
    (E::OpenAiCompletions, CHAT, r#","prompt":["a","b"]"#, Ordering::Greater),
    (E::OpenAiCompletions, CHAT, r#","suffix":"hello""#, Ordering::Greater),
    (E::OpenAiCompletions, CHAT, r#","best_of":2"#, Ordering::Greater),
    (E::OpenAiCompletions, CHAT, r#","n":2"#, Ordering::Greater),
    (E::OpenAiResponses, RESPONSE, r#","input":"hello""#, Ordering::Greater),
    (E::OpenAiResponses, RESPONSE, r#","instructions":"hello""#, Ordering::Greater),
    (E::OpenAiResponses, r#"{"model":"m""#, r#","max_output_tokens":7"#, Ordering::Less),
    (E::OpenAiResponses, RESPONSE, r#","max_tool_calls":1,"tools":[{"type":"web_search"}]"#, Ordering::Greater),
    (E::OpenAiResponses, RESPONSE, r#","service_tier":"priority""#, Ordering::Greater),
    (E::OpenAiResponses, RESPONSE, r#","reasoning":{"effort":"high"}"#, Ordering::Greater),
    (E::OpenAiResponses, RESPONSE, r#","text":{"format":{"type":"text"}}"#, Ordering::Greater),
    (E::OpenAiResponses, RESPONSE, r#","context_management":[{"type":"compaction"}]"#, Ordering::Greater),
    (E::OpenAiResponses, RESPONSE, r#","prompt_cache_options":{"ttl":"30m"}"#, Ordering::Equal),
    (E::OpenAiResponses, RESPONSE, r#","prompt_cache_retention":"24h""#, Ordering::Equal),
    (E::OpenAiEmbeddings, r#"{"model":"m""#, r#","input":"hello""#, Ordering::Greater),
    (E::OpenAiEmbeddings, r#"{"model":"m","input":"hello""#, r#","dimensions":1"#, Ordering::Greater),
    (E::OpenAiImages, IMAGE, r#","prompt":"hello""#, Ordering::Greater),
    (E::OpenAiImages, IMAGE, r#","n":2"#, Ordering::Greater),
    (E::OpenAiImages, IMAGE, r#","size":"1024x1024""#, Ordering::Less),
    (E::OpenAiImages, IMAGE, r#","quality":"low""#, Ordering::Less),
    (E::OpenAiImages, IMAGE, r#","quality":"auto""#, Ordering::Equal),
    (E::OpenAiImages, IMAGE, r#","complexity":"high""#, Ordering::Greater),
    (E::OpenAiImages, IMAGE, r#","partial_images":2"#, Ordering::Greater),
    (E::OpenAiImages, IMAGE, r#","frame_count":2"#, Ordering::Greater),
    (E::OpenAiImages, IMAGE, r#","output_format":"gif""#, Ordering::Greater),
    (E::OpenAiImageEdits, IMAGE, r#","images":[{"image_url":"x"}]"#, Ordering::Greater),
    (E::OpenAiImageEdits, IMAGE, r#","mask":{"image_url":"x"}"#, Ordering::Greater),
    (E::OpenAiImageEdits, IMAGE, r#","markup":{"image_url":"x"}"#, Ordering::Greater),
    (E::OpenAiImageEdits, IMAGE, r#","image":{"image_url":"x"}"#, Ordering::Greater),
    (E::OpenAiImageEdits, IMAGE, r#","prompt":"hello""#, Ordering::Greater),
    (E::OpenAiImageEdits, IMAGE, r#","n":2"#, Ordering::Greater),
    (E::OpenAiImageEdits, IMAGE, r#","size":"1024x1024""#, Ordering::Less),
    (E::OpenAiImageEdits, IMAGE, r#","quality":"low""#, Ordering::Less),
    (E::OpenAiImageEdits, IMAGE, r#","complexity":"low""#, Ordering::Greater),
    // Each image is held at high fidelity; the word itself is counted.
    (E::OpenAiImageEdits, IMAGE, r#","input_fidelity":"high""#, Ordering::Greater),
    (E::OpenAiImageEdits, IMAGE, r#","partial_images":2"#, Ordering::Greater),
    (E::OpenAiImageEdits, IMAGE, r#","frame_count":2"#, Ordering::Greater),
    (E::OpenAiSpeech, r#"{"model":"m","stream_format":"sse""#, r#","input":"hello""#, Ordering::Greater),
    (E::OpenAiSpeech, r#"{"model":"m","stream_format":"sse""#, r#","instructions":"hello""#, Ordering::Greater),
    (E::AnthropicMessages, MESSAGE, r#","messages":[{"role":"user","content":"hello"}]"#, Ordering::Greater),
    (
        E::AnthropicMessages,
        MESSAGE,
        r#","messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"x"}}]}]"#,
        Ordering::Greater,
    ),
    (E::AnthropicMessages, MESSAGE, r#","system":"hello""#, Ordering::Greater),
    (E::AnthropicMessages, r#"{"model":"m""#, r#","max_tokens":7"#, Ordering::Less),
    (E::AnthropicMessages, MESSAGE, r#","tools":[{"name":"f","input_schema":{"a":1}}]"#, Ordering::Greater),
    (
        E::AnthropicMessages,
        MESSAGE,
        r#","tools":[{"type":"web_search_20250305","name":"w","max_uses":1}]"#,
        Ordering::Greater,
    ),
    (
        E::AnthropicMessages,
        MESSAGE,
        r#","tools":[{"type":"web_fetch_20250910","name":"w","max_uses":1}]"#,
        Ordering::Greater,
    ),
    (E::AnthropicMessages, MESSAGE, r#","thinking":{"type":"enabled","budget_tokens":1024}"#, Ordering::Greater),
    (E::AnthropicMessages, MESSAGE, r#","output_config":{"effort":"low"}"#, Ordering::Greater),
    (E::AnthropicMessages, MESSAGE, r#","output_format":{"type":"json_schema","schema":{}}"#, Ordering::Greater),
    (
        E::AnthropicMessages,
        MESSAGE,
        r#","context_management":{"edits":[{"type":"compact_20260112"}]}"#,
        Ordering::Greater,
    ),
    (E::AnthropicMessages, MESSAGE, r#","compaction":{}"#, Ordering::Greater),
    (E::AnthropicMessages, MESSAGE, r#","cache_control":{"type":"ephemeral"}"#, Ordering::Greater),
    (E::AnthropicMessages, MESSAGE, r#","service_tier":"auto""#, Ordering::Greater),
    (E::AnthropicMessages, MESSAGE, r#","speed":"fast""#, Ordering::Greater),
    (E::AnthropicMessages, MESSAGE, r#","inference_geo":"us""#, Ordering::Greater),
];

const CHAT: &str = r#"{"model":"m","max_tokens":9"#;
const CHAT_FREE: &str = r#"{"model":"m""#;
const RESPONSE: &str = r#"{"model":"m","max_output_tokens":9"#;
const IMAGE: &str = r#"{"model":"m""#;
const MESSAGE: &str = r#"{"model":"m","max_tokens":9"#;

#[test]
fn each_field_that_costs_changes_what_is_held() {
    for (endpoint, body, more, expected) in ROWS {
        let held = |body: &str| ceiling(*endpoint, body).unwrap_or_else(|error| panic!("{error}: {body}"));
        let (before, after) = (held(&format!("{body}}}")), held(&format!("{body}{more}}}")));
        assert_eq!(after.cmp(&before), *expected, "{endpoint:?} {body}{more}: {before} {after}");
    }
}

#[test]
fn each_field_that_costs_is_in_the_table_above() {
    // Their parts of a form are tried below, and the model chooses the prices.
    let elsewhere = ["model", "file", "known_speaker_references"];
    for endpoint in [
        E::OpenAiChat,
        E::DeepSeekChat,
        E::OpenAiCompletions,
        E::OpenAiResponses,
        E::OpenAiEmbeddings,
        E::OpenAiImages,
        E::OpenAiImageEdits,
        E::OpenAiSpeech,
        E::AnthropicMessages,
    ] {
        let form = crate::provider::policy::form::Form::of(endpoint);
        for field in form.fields() {
            let costs = matches!(field.class, Class::CostBearing(bound) if bound != Bound::Audio);
            let is_tried = ROWS.iter().any(|(row, body, more, _)| {
                let same = crate::provider::policy::form::Form::of(*row) == form;
                same && (more.contains(&format!("{:?}:", field.name)) || body.contains(&format!("{:?}:", field.name)))
            });
            assert!(!costs || is_tried || elsewhere.contains(&field.name), "{endpoint:?} {}", field.name);
        }
    }
}

#[test]
fn a_recording_is_held_by_its_length() {
    let whisper = Sku { context_tokens: None, ..only(&[(Meter::AudioMillis, 100_000_000)]) };
    let held = |bytes: usize| {
        let demand = form_demand(&[("model", false, "whisper-1"), ("file", true, &"x".repeat(bytes))]);
        whisper.ceiling(Form::Transcription, &demand, BodyKnown::Whole).unwrap()
    };

    // 500 bytes a second, and one second begun.
    assert_eq!(held(5_000), NanoUsd(11 * 100_000 + 14));
    assert!(held(500_000) > held(5_000));
}

#[test]
fn answers_that_state_nothing_are_refused_with_what_to_do() {
    let text = form_demand(&[("model", false, "whisper-1"), ("response_format", false, "srt"), ("file", true, "x")]);
    assert!(all().ceiling(Form::Transcription, &text, BodyKnown::Whole).is_ok(), "sold by time");
    let mut by_token = all();
    by_token.rates.retain(|rate| rate.meter != Meter::AudioMillis);
    let refused = by_token.ceiling(Form::Transcription, &text, BodyKnown::Whole).unwrap_err();
    assert!(matches!(refused, QuoteError::NoStatement(fix) if fix.contains("verbose_json")));

    let mut tts = all();
    let sound = demand(E::OpenAiSpeech, r#"{"model":"m","input":"hello"}"#);
    assert!(tts.ceiling(Form::Speech, &sound, BodyKnown::Whole).unwrap() > NanoUsd::ZERO, "sold by the character");
    tts.rates.retain(|rate| rate.meter != Meter::Characters);
    let refused = tts.ceiling(Form::Speech, &sound, BodyKnown::Whole).unwrap_err();
    assert!(matches!(refused, QuoteError::NoStatement(fix) if fix.contains("sse")));

    let per_picture = only(&[(Meter::Input, 1)]);
    let image = demand(E::OpenAiImages, r#"{"model":"dall-e-3","prompt":"x"}"#);
    let refused = per_picture.ceiling(Form::Images, &image, BodyKnown::Whole);
    assert_eq!(refused, Err(QuoteError::NoPrice(Meter::ImageOutput)));
}

#[test]
fn what_has_no_bound_or_no_price_is_refused_and_named() {
    let mut unknown = Sku { context_tokens: None, output_tokens_max: None, ..all() };
    unknown.surcharges = Surcharges::NONE;
    let refused = |endpoint: Endpoint, body: &str| quote(&unknown, endpoint, body).unwrap_err().to_string();

    let image =
        r#"{"max_tokens":9,"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}"#;
    assert!(refused(E::OpenAiChat, image).contains("text only"));
    assert!(refused(E::OpenAiChat, "{}").contains("max_completion_tokens"));
    assert!(refused(E::OpenAiResponses, "{}").contains("max_output_tokens"));
    assert!(refused(E::AnthropicMessages, r#"{"max_tokens":9,"speed":"fast"}"#).contains("speed"));
    assert!(refused(E::AnthropicMessages, r#"{"max_tokens":9,"inference_geo":"us"}"#).contains("inference_geo"));
    let hours = r#"{"max_tokens":9,"cache_control":{"type":"ephemeral","ttl":"12h"}}"#;
    assert!(refused(E::AnthropicMessages, hours).contains("ttl"));
    assert!(refused(E::OpenAiImages, r#"{"quality":"max"}"#).contains("quality"));
    assert!(refused(E::OpenAiImages, r#"{"size":"9999x9999"}"#).contains("3840x2160"));
    assert!(refused(E::OpenAiImages, r#"{"size":"huge"}"#).contains("3840x2160"));
    assert_eq!(
        quote(&all(), E::AnthropicMessages, r#"{"max_tokens":9,"inference_geo":"eu"}"#).unwrap_err().code(),
        ErrorCode::FieldRefused
    );

    let plain = only(&[(Meter::Input, 1), (Meter::CachedInput, 1), (Meter::Output, 1)]);
    let refused = |endpoint: Endpoint, body: &str| quote(&plain, endpoint, body).unwrap_err();
    assert!(refused(E::OpenAiChat, r#"{"service_tier":"priority"}"#).to_string().contains("service_tier"));
    assert!(quote(&plain, E::OpenAiChat, r#"{"service_tier":"auto"}"#).is_ok());
    assert_eq!(refused(E::OpenAiChat, r#"{"modalities":["audio"]}"#), QuoteError::NoPrice(Meter::AudioOutput));
    let sound = r#"{"messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"x"}}]}]}"#;
    assert_eq!(refused(E::OpenAiChat, sound), QuoteError::NoPrice(Meter::AudioInput));
    let hour = r#"{"max_tokens":9,"cache_control":{"type":"ephemeral","ttl":"1h"}}"#;
    assert_eq!(refused(E::AnthropicMessages, hour), QuoteError::NoPrice(Meter::CacheWrite1h));
    let search = r#"{"max_tokens":9,"tools":[{"type":"web_search_20250305","name":"w","max_uses":1}]}"#;
    assert_eq!(refused(E::AnthropicMessages, search), QuoteError::NoPrice(Meter::WebSearch));
}

#[test]
fn what_is_still_to_come_is_held_as_if_it_came() {
    let coming = |declared| BodyKnown::Coming { declared };
    let rest = r#""messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}],"n":1}"#;
    let begun = r#"{"model":"m","max_tokens":9,"#;
    let mut scan = RequestScan::new(E::OpenAiChat, None).unwrap();
    scan.feed(begun.as_bytes()).unwrap();

    let held = all().ceiling(Form::Completions, &scan.demand(), coming(None)).unwrap();
    scan.feed(rest.as_bytes()).unwrap();
    scan.finish().unwrap();
    assert!(all().ceiling(Form::Completions, &scan.demand(), BodyKnown::Whole).unwrap() <= held);

    let speech = Demand::NOTHING;
    let tts = only(&[(Meter::Characters, 1_000_000)]);
    assert_eq!(tts.ceiling(Form::Speech, &speech, coming(None)), Err(QuoteError::NoLength));
    assert_eq!(tts.ceiling(Form::Speech, &speech, coming(Some(50))), Ok(NanoUsd(50_000 + 14)));
    let embedding = only(&[(Meter::Input, 1_000_000)]);
    assert_eq!(embedding.ceiling(Form::Embeddings, &speech, coming(Some(50))), Ok(NanoUsd(50_000 + 14)));
}

#[test]
fn a_ceiling_is_a_number_that_a_person_can_follow() {
    // 1,024 around the prompt; the body and a message; the list, a role and a content; 9 bytes.
    let sku = only(&[(Meter::Input, 2_500_000), (Meter::CachedInput, 1_250_000), (Meter::Output, 10_000_000)]);
    let held = quote(&sku, E::OpenAiChat, r#"{"max_tokens":100,"messages":[{"role":"user","content":"hello"}]}"#);

    let input = 1024 + 2 * 16 + 3 * 4 + 9;
    assert_eq!(held, Ok(NanoUsd(input * 3_750 + 100 * 10_000 + 14)));
}

#[test]
fn no_demand_leads_to_a_panic() {
    bolero::check!().with_type::<[u64; 12]>().for_each(|numbers| {
        let [
            text_bytes,
            structure_tokens,
            characters,
            inputs,
            images,
            media_bytes,
            output,
            predicted_bytes,
            answers,
            server_calls,
            frames,
            flags,
        ] = *numbers;
        let image = ImageDemandOf(frames).get();
        let demand = Demand {
            text_bytes,
            structure_tokens,
            characters,
            inputs,
            images,
            media_bytes,
            predicted_bytes,
            answers,
            server_calls,
            web_searches: server_calls / 2,
            output_tokens: output.is_multiple_of(2).then_some(output),
            is_media: flags & 1 != 0,
            audio_in: flags & 2 != 0,
            audio_out: flags & 4 != 0,
            compacts: flags & 8 != 0,
            is_fast: flags & 16 != 0,
            states_usage: flags & 32 != 0,
            image: Some(image),
            ..Demand::NOTHING
        };
        let body = if flags & 64 == 0 { BodyKnown::Whole } else { BodyKnown::Coming { declared: Some(media_bytes) } };
        for form in FORMS {
            if let Ok(ceiling) = all().ceiling(*form, &demand, body) {
                assert!(ceiling >= NanoUsd::ZERO);
            }
        }
    });
}

struct ImageDemandOf(u64);

impl ImageDemandOf {
    fn get(&self) -> crate::demand::ImageDemand {
        crate::demand::ImageDemand { frames: self.0, partial_images: self.0, ..crate::demand::ImageDemand::ANY }
    }
}

const FORMS: &[Form] = &[
    Form::Completions,
    Form::DeepSeekCompletions,
    Form::Responses,
    Form::Embeddings,
    Form::Images,
    Form::Speech,
    Form::Transcription,
    Form::Realtime,
    Form::Messages,
];

/// What a vendor may state of a call, as shares of what it could be at most.
#[derive(Debug, Clone)]
struct Shares([u64; 8]);

impl Shares {
    /// A part of the whole: the first numbers often are all or nothing.
    fn of(&self, at: usize, whole: u64) -> u64 {
        match self.0[at] % 8 {
            0 => 0,
            1..=3 => whole,
            _ => self.0[at] % (whole + 1),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn no_usage_within_the_request_is_billed_above_its_ceiling(
        sku in any_sku(),
        form in proptest::sample::select(FORMS),
        text_bytes in 0_u64..200_000,
        is_media: bool,
        audio in any::<(bool, bool)>(),
        (output, answers, inputs) in (1_u64..5_000, 1_u64..4, 1_u64..3),
        (searches, fetches, compacts) in (0_u64..4, 0_u64..3, proptest::bool::weighted(0.2)),
        (caches, tier) in (0_usize..3, 0_usize..4),
        (is_fast, is_us) in any::<(bool, bool)>(),
        images in 0_u64..5,
        shares in any::<[u64; 8]>().prop_map(Shares),
        late: bool,
    ) {
        let caches = [CacheAsked::Nothing, CacheAsked::Usual, CacheAsked::Hour][caches];
        let asked = [TierAsked::Standard, TierAsked::Flex, TierAsked::Auto, TierAsked::Priority][tier];
        let demand = Demand {
            text_bytes, inputs, images, answers: answers * inputs, caches, is_fast, compacts,
            characters: text_bytes / 2,
            media_bytes: text_bytes * 3,
            is_media: is_media || audio.0,
            audio_in: audio.0,
            audio_out: audio.1,
            output_tokens: Some(output),
            web_searches: searches,
            server_calls: searches + fetches,
            tier: asked,
            region: if is_us { RegionAsked::Us } else { RegionAsked::Anywhere },
            ..Demand::NOTHING
        };
        let body = if late { BodyKnown::Coming { declared: Some(text_bytes * 3) } } else { BodyKnown::Whole };
        let Ok(ceiling) = sku.ceiling(form, &demand, body) else { return Ok(()) };

        let mut used = used(form, &usage(form, &sku, &demand, &shares));
        if form == Form::Speech && sku.sells(Meter::Characters) {
            used = Meters::default();
            used.set(Meter::Characters, shares.of(0, demand.characters));
        }
        let tiers = tiers(&sku, asked).unwrap();
        for tier in tiers {
            for (is_fast, is_us) in [(false, false), (is_fast, false), (false, is_us), (is_fast, is_us)] {
                let Ok(bill) = sku.bill(Service { tier: *tier, is_fast, is_us }, &used) else { continue };
                prop_assert!(bill.list_nano_usd <= ceiling, "{:?} {ceiling}", bill);
            }
        }
    }
}

/// A statement that a vendor could make of such a call.
fn usage(form: Form, sku: &Sku, demand: &Demand, shares: &Shares) -> String {
    let Demand { text_bytes, inputs, images, answers, server_calls, web_searches, .. } = *demand;
    let window = sku.context_tokens.unwrap_or(u64::MAX);
    let once = if demand.is_media { window * inputs } else { text_bytes.min(window.saturating_mul(inputs)) };
    let output = demand.output_tokens.unwrap() * (1 + u64::from(demand.compacts)) * answers;
    // Each pass reads the prompt, what earlier ones found, and what was written so far.
    let fetched = server_calls - web_searches;
    let mut input = once * (1 + u64::from(demand.compacts));
    for pass in 1..=shares.of(7, server_calls) {
        let all = once + pass.min(fetched) * 131_072 + pass.saturating_sub(fetched) * 32_768 + output;
        input += all.min(window.saturating_mul(inputs));
    }
    let (input, out) = (shares.of(0, input), shares.of(1, output));
    let heard = if demand.audio_in { shares.of(4, input) } else { 0 };
    let spoken = if demand.audio_out { shares.of(5, out) } else { 0 };
    match form {
        Form::Completions => format!(
            r#"{{"prompt_tokens":{input},"completion_tokens":{out},"prompt_tokens_details":{{"cached_tokens":{},"cache_write_tokens":{},"audio_tokens":{heard}}},"completion_tokens_details":{{"audio_tokens":{spoken}}}}}"#,
            shares.of(2, input),
            shares.of(3, input),
        ),
        Form::Responses => format!(
            r#"{{"input_tokens":{input},"output_tokens":{out},"input_tokens_details":{{"cached_tokens":{},"cache_write_tokens":{}}}}}"#,
            shares.of(2, input),
            shares.of(3, input),
        ),
        Form::DeepSeekCompletions => {
            let hit = shares.of(2, input);
            format!(
                r#"{{"prompt_tokens":{input},"completion_tokens":{out},"prompt_cache_hit_tokens":{hit},"prompt_cache_miss_tokens":{}}}"#,
                input - hit
            )
        }
        Form::Messages => {
            let writes = demand.caches > CacheAsked::Nothing || server_calls > 0;
            let written = if writes { shares.of(2, input) } else { 0 };
            let hour = if demand.caches == CacheAsked::Hour { shares.of(3, written) } else { 0 };
            let read = shares.of(4, input - written);
            format!(
                r#"{{"input_tokens":{},"cache_creation_input_tokens":{written},"cache_read_input_tokens":{read},"cache_creation":{{"ephemeral_5m_input_tokens":{},"ephemeral_1h_input_tokens":{hour}}},"output_tokens":{out},"server_tool_use":{{"web_search_requests":{}}}}}"#,
                input - written - read,
                written - hour,
                shares.of(6, web_searches),
            )
        }
        Form::Embeddings => format!(r#"{{"prompt_tokens":{0},"total_tokens":{0}}}"#, shares.of(0, text_bytes)),
        Form::Images => {
            let seen = shares.of(0, images * 7_400);
            let out = shares.of(1, 16_384 * answers);
            format!(
                r#"{{"input_tokens":{},"output_tokens":{out},"input_tokens_details":{{"image_tokens":{seen}}},"output_tokens_details":{{"text_tokens":{}}}}}"#,
                seen + shares.of(2, text_bytes),
                shares.of(3, out),
            )
        }
        Form::Speech => format!(
            r#"{{"input_tokens":{},"output_tokens":{}}}"#,
            shares.of(0, text_bytes),
            shares.of(1, (16 * demand.characters).min(4_096)),
        ),
        Form::Transcription if shares.0[6].is_multiple_of(2) => {
            format!(r#"{{"type":"duration","seconds":{}}}"#, shares.of(0, (demand.media_bytes / 500).min(window / 10)))
        }
        Form::Transcription => format!(
            r#"{{"type":"tokens","input_tokens":{input},"output_tokens":{out},"input_token_details":{{"text_tokens":{}}}}}"#,
            shares.of(2, input),
        ),
        Form::Realtime => {
            let cached = shares.of(2, input);
            format!(
                r#"{{"input_tokens":{input},"output_tokens":{out},"input_token_details":{{"cached_tokens":{cached},"text_tokens":{input}}},"output_token_details":{{"audio_tokens":{spoken}}}}}"#,
            )
        }
    }
}

fn used(form: Form, usage: &str) -> Meters {
    let answer = if form == Form::Realtime {
        format!(r#"{{"type":"response.done","response":{{"usage":{usage}}}}}"#)
    } else {
        format!(r#"{{"usage":{usage}}}"#)
    };
    let mut tap = Tap::new(form, Shape::Json, Some(Coding::Identity));
    tap.feed(answer.as_bytes());
    Meters::of(form, &tap.finish(true).counters).0
}

fn any_sku() -> impl Strategy<Value = Sku> {
    let price = || prop_oneof![0_i64..100, 0_i64..90_000_000];
    let rates = proptest::collection::vec((price(), price(), price(), price(), price(), 0_u8..8), Meter::ALL.len());
    (rates, 1_000_u64..300_000, proptest::option::of((500_000_u32..3_000_000, 900_000_u32..2_000_000))).prop_map(
        |(prices, window, surcharges)| {
            let mut rates = Vec::new();
            for (meter, (standard, long, flex, priority, priority_long, which)) in Meter::ALL.iter().zip(prices) {
                if *meter == Meter::Characters && which & 1 != 0 {
                    continue;
                }
                rates.push(rate(*meter, ServiceTier::Standard, 0, standard));
                if which & 1 != 0 {
                    rates.push(rate(*meter, ServiceTier::Standard, 20_000, long));
                }
                if which & 2 != 0 {
                    rates.push(rate(*meter, ServiceTier::Flex, 0, flex));
                }
                rates.push(rate(*meter, ServiceTier::Priority, 0, priority));
                if which & 4 != 0 {
                    rates.push(rate(*meter, ServiceTier::Priority, 128_000, priority_long));
                }
            }
            let surcharges = surcharges
                .map_or(Surcharges::NONE, |(fast, us)| Surcharges { fast: Some(Ppm(fast)), us: Some(Ppm(us)) });
            Sku {
                context_tokens: Some(window),
                output_tokens_max: Some(4_096),
                abort_tokens_per_second: 1,
                surcharges,
                rates,
            }
        },
    )
}

/// A model with every price.
fn all() -> Sku {
    let mut sku = only(&[]);
    for (number, meter) in (1..).zip(Meter::ALL) {
        sku.rates.push(rate(*meter, ServiceTier::Standard, 0, 1_000_000 * number));
        sku.rates.push(rate(*meter, ServiceTier::Flex, 0, 500_000 * number));
        sku.rates.push(rate(*meter, ServiceTier::Priority, 0, 2_000_000 * number));
    }
    sku.surcharges = Surcharges { fast: Some(Ppm(2_000_000)), us: Some(Ppm(1_100_000)) };
    sku
}

fn only(prices: &[(Meter, i64)]) -> Sku {
    let rates = prices.iter().map(|(meter, price)| rate(*meter, ServiceTier::Standard, 0, *price)).collect();
    Sku {
        context_tokens: Some(128_000),
        output_tokens_max: Some(16_384),
        abort_tokens_per_second: 1,
        surcharges: Surcharges::NONE,
        rates,
    }
}

fn rate(meter: Meter, tier: ServiceTier, above_input_tokens: u64, price: i64) -> Rate {
    Rate { meter, tier, above_input_tokens, pico_usd: crate::money::PicoUsd(price) }
}

fn ceiling(endpoint: Endpoint, body: &str) -> Result<NanoUsd, QuoteError> {
    let mut sku = all();
    // Speech by tokens, as the table tries it.
    sku.rates.retain(|rate| rate.meter != Meter::Characters);
    quote(&sku, endpoint, body)
}

fn quote(sku: &Sku, endpoint: Endpoint, body: &str) -> Result<NanoUsd, QuoteError> {
    let Metering::Metered(form) = endpoint.metering() else { panic!("{endpoint:?} is free") };
    sku.ceiling(form, &demand(endpoint, body), BodyKnown::Whole)
}

fn demand(endpoint: Endpoint, body: &str) -> Demand {
    let mut scan = RequestScan::new(endpoint, None).unwrap();
    scan.feed(body.as_bytes()).unwrap_or_else(|error| panic!("{error}: {body}"));
    scan.finish().unwrap_or_else(|error| panic!("{error}: {body}"));
    scan.demand()
}

fn form_demand(parts: &[(&str, bool, &str)]) -> Demand {
    let mut body = String::new();
    for (name, is_file, content) in parts {
        let file = if *is_file { "; filename=\"a.mp3\"" } else { "" };
        body += &format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{content}\r\n");
    }
    body += "--b--\r\n";
    let content_type = HeaderValue::from_static("multipart/form-data; boundary=b");
    let mut scan = RequestScan::new(E::OpenAiTranscriptions, Some(&content_type)).unwrap();
    scan.feed(body.as_bytes()).unwrap();
    scan.finish().unwrap();
    scan.demand()
}
