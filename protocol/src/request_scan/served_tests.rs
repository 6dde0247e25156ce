//! Requests as official SDKs write them: all of these must pass.
//!
//! Invariant: what the vendors' own documentation shows for a served feature is served.

use super::tests::form_of;
use super::tests::multipart;
use super::tests::scanned;
use crate::provider::endpoint::Endpoint;
use Endpoint as E;

pub(super) const CHAT: &[&str] = &[
    r#"{"messages":[{"role":"developer","content":"Be brief."},{"role":"user","content":"Hi","name":"ann"}],"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"temperature":0.2,"top_p":0.9,"max_completion_tokens":512,"n":2,"seed":7,"stop":["\n"],"user":"u1","logit_bias":{"50256":-100},"logprobs":true,"top_logprobs":2,"presence_penalty":0,"frequency_penalty":0.1}"#,
    r#"{"messages":[{"role":"user","content":[{"type":"text","text":"What is it?"},{"type":"image_url","image_url":{"url":"https://example.com/a.png","detail":"low"}},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}},{"type":"input_audio","input_audio":{"data":"UklGRg==","format":"wav"}},{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,JVBERi0="}}]}],"model":"gpt-4o"}"#,
    r#"{"messages":[{"role":"user","content":"Weather?"},{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"weather","arguments":"{\"file_id\":\"x\"}"}}]},{"role":"tool","tool_call_id":"call_1","content":"sunny"}],"model":"gpt-4o","tools":[{"type":"function","function":{"name":"weather","description":"d","strict":true,"parameters":{"type":"object","properties":{"file_id":{"type":"string"},"container":{"type":"mcp"}},"required":["file_id"],"additionalProperties":false}}},{"type":"custom","custom":{"name":"sql","format":{"type":"grammar","grammar":{"syntax":"lark","definition":"start: \"x\""}}}}],"tool_choice":{"type":"function","function":{"name":"weather"}},"parallel_tool_calls":false}"#,
    r#"{"messages":[{"role":"user","content":"x"}],"model":"gpt-5","reasoning_effort":"low","verbosity":"low","service_tier":"flex","response_format":{"type":"json_schema","json_schema":{"name":"s","strict":true,"schema":{"type":"object","properties":{"conversation":{"type":"string"},"type":{"type":"unheard-of"}}}}},"metadata":{"file_id":"mine"},"store":false,"prompt_cache_key":"k","prompt_cache_options":{"mode":"explicit","ttl":"30m"},"safety_identifier":"s"}"#,
    r#"{"messages":[{"role":"user","content":"x"}],"model":"gpt-audio","modalities":["text","audio"],"audio":{"voice":"alloy","format":"wav"},"prediction":{"type":"content","content":"x"},"moderation":{"model":"omni-moderation-latest"},"store":null,"max_tokens":null,"n":null}"#,
    r#"{"messages":[],"model":"gpt-4","functions":[{"name":"f","parameters":{"type":"object","properties":{"file_id":{}}}}],"function_call":"auto"}"#,
];

pub(super) const RESPONSES: &[&str] = &[
    r#"{"model":"gpt-5","input":"Hi","instructions":"Be brief.","max_output_tokens":100,"store":true,"stream":true,"stream_options":{"include_obfuscation":false},"service_tier":"priority","truncation":"auto","metadata":{},"user":"u"}"#,
    r#"{"model":"gpt-5","input":[{"role":"user","content":[{"type":"input_text","text":"x"},{"type":"input_image","image_url":"data:image/png;base64,AA==","detail":"auto","file_id":null},{"type":"input_file","filename":"a.pdf","file_data":"data:application/pdf;base64,AA=="},{"type":"input_file","file_url":"https://example.com/a.pdf"}]}],"tools":[{"type":"function","name":"f","strict":true,"parameters":{"type":"object","properties":{"previous_response_id":{"type":"string"}},"required":[],"additionalProperties":false}}],"tool_choice":"auto","parallel_tool_calls":true,"text":{"format":{"type":"json_schema","name":"s","schema":{"type":"object","properties":{"skills":{"type":"array"}}},"strict":true},"verbosity":"low"}}"#,
    r#"{"model":"gpt-5","input":[{"role":"user","content":"x"},{"id":"rs_1","type":"reasoning","summary":[{"type":"summary_text","text":"s"}],"encrypted_content":"gAAAA"},{"id":"fc_1","type":"function_call","call_id":"call_1","name":"f","arguments":"{}","status":"completed"},{"type":"function_call_output","call_id":"call_1","output":"{\"file_id\":1}"},{"id":"msg_1","type":"message","role":"assistant","status":"completed","content":[{"type":"output_text","text":"x","annotations":[],"logprobs":[]}]}],"reasoning":{"effort":"high","summary":"auto"},"include":["reasoning.encrypted_content"],"store":false,"previous_response_id":null,"background":false,"conversation":null,"prompt":null}"#,
    r#"{"model":"gpt-5","input":"news?","tools":[{"type":"web_search","search_context_size":"low","filters":{"allowed_domains":["example.com"]},"user_location":{"type":"approximate","city":"Bern"}}],"max_tool_calls":3}"#,
    r#"{"max_tool_calls":0,"model":"gpt-5","input":[{"type":"additional_tools","role":"developer","tools":[{"type":"web_search_preview"}]}]}"#,
    r#"{"model":"gpt-5","input":"x","tools":[{"type":"custom","name":"c","format":{"type":"text"}},{"type":"local_shell"},{"type":"apply_patch"},{"type":"shell","environment":{"type":"local"}},{"type":"namespace","name":"n","description":"d","tools":[{"type":"function","name":"g","parameters":{"container":1}}]},{"type":"tool_search","execution":"client","parameters":{"type":"object"}},{"type":"computer_use_preview","display_width":1,"display_height":1,"environment":"browser"}]}"#,
];

pub(super) const MESSAGES: &[&str] = &[
    r#"{"max_tokens":1024,"messages":[{"role":"user","content":"Hi"}],"model":"claude-sonnet-4-5","system":"Be brief.","temperature":0.5,"top_k":5,"top_p":0.9,"stop_sequences":["x"],"metadata":{"user_id":"u"},"stream":true,"service_tier":"standard_only"}"#,
    r#"{"max_tokens":1024,"model":"claude-opus-4-5","system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral","ttl":"1h"}}],"messages":[{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA=="}},{"type":"image","source":{"type":"url","url":"https://example.com/a.png"}},{"type":"document","title":"t","citations":{"enabled":true},"source":{"type":"base64","media_type":"application/pdf","data":"AA=="}},{"type":"document","source":{"type":"content","content":[{"type":"text","text":"x"}]}},{"type":"search_result","source":"https://example.com","title":"t","content":[{"type":"text","text":"x"}]}]}]}"#,
    r#"{"max_tokens":4096,"model":"claude-opus-4-5","thinking":{"type":"enabled","budget_tokens":2048},"messages":[{"role":"user","content":"Weather?"},{"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":"s"},{"type":"redacted_thinking","data":"d"},{"type":"text","text":"x","citations":[{"type":"char_location","cited_text":"c","document_index":0,"document_title":null,"file_id":null,"start_char_index":0,"end_char_index":1}]},{"type":"tool_use","id":"toolu_1","name":"w","input":{"file_id":"x","type":"anything","container":{"skills":[]}}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","is_error":false,"content":[{"type":"text","text":"sunny"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA=="}},{"type":"tool_reference","tool_name":"w"}]}]}],"tools":[{"name":"w","description":"d","input_schema":{"type":"object","properties":{"file_id":{"type":"string"}}},"input_examples":[{"file_id":"a"}],"cache_control":{"type":"ephemeral"}},{"type":"custom","name":"v","input_schema":{"type":"object"}}],"tool_choice":{"type":"auto","disable_parallel_tool_use":true}}"#,
    r#"{"max_tokens":1024,"messages":[{"role":"user","content":"x"}],"model":"claude-sonnet-4-5","tools":[{"type":"web_search_20250305","name":"web_search","max_uses":5,"allowed_domains":["example.com"]},{"max_uses":2,"name":"web_fetch","type":"web_fetch_20250910","citations":{"enabled":true}},{"type":"bash_20250124","name":"bash"},{"type":"text_editor_20250728","name":"str_replace_based_edit_tool","max_characters":100},{"type":"computer_20251124","name":"computer","display_width_px":1,"display_height_px":1},{"type":"memory_20250818","name":"memory"},{"type":"tool_search_tool_regex_20251119","name":"tool_search_tool_regex"}],"context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]}}"#,
    r#"{"max_tokens":1024,"messages":[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{"query":"q"}},{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":[{"type":"web_search_result","title":"t","url":"https://example.com","encrypted_content":"e","page_age":null}]}]}],"model":"claude-sonnet-4-5","output_config":{"effort":"low","format":{"type":"json_schema","schema":{"type":"object","properties":{"thread":{"type":"string"}}}}},"container":null,"mcp_servers":null,"inference_geo":"us","speed":"standard","cache_control":{"type":"ephemeral"}}"#,
];

#[test]
fn chat_completions() {
    let azure = [E::AzureChat, E::AzureDeploymentChat];
    for body in CHAT {
        passes(E::OpenAiChat, body);
    }
    for endpoint in azure {
        CHAT.iter().filter(|body| !body.contains("flex")).for_each(|body| passes(endpoint, body));
    }
}

#[test]
fn responses() {
    for body in RESPONSES {
        for endpoint in [E::OpenAiResponses, E::AzureResponses, E::AzurePreviewResponses] {
            passes(endpoint, body);
        }
    }
}

#[test]
fn messages_and_their_tokens() {
    for body in MESSAGES {
        passes(E::AnthropicMessages, body);
        passes(E::DeepSeekMessages, body);
    }
    passes(
        E::AnthropicCountTokens,
        r#"{"messages":[{"role":"user","content":"x"}],"model":"claude-sonnet-4-5","system":"s","thinking":{"type":"disabled"},"tools":[{"name":"w","input_schema":{}}],"tool_choice":{"type":"auto"}}"#,
    );
}

#[test]
fn deepseeks_own() {
    let chat = r#"{"model":"deepseek-chat","messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y","prefix":true,"reasoning_content":"r"}],"thinking":{"type":"enabled"},"reasoning_effort":"high","max_tokens":10,"response_format":{"type":"json_object"},"tools":[{"type":"function","function":{"name":"f","strict":true,"parameters":{}}}],"user_id":"u","stream":true,"stream_options":{"include_usage":true}}"#;
    passes(E::DeepSeekChat, chat);
    passes(E::DeepSeekBetaChat, chat);
    // What OpenAI's form has and DeepSeek ignores passes.
    passes(
        E::DeepSeekChat,
        r#"{"model":"deepseek-chat","messages":[],"seed":1,"parallel_tool_calls":true,"store":false}"#,
    );
    passes(
        E::DeepSeekBetaCompletions,
        r#"{"model":"deepseek-chat","prompt":"def f(","suffix":"return","max_tokens":64,"echo":false,"logprobs":2,"stop":null}"#,
    );
}

#[test]
fn completions_embeddings_images_and_speech() {
    passes(
        E::OpenAiCompletions,
        r#"{"model":"gpt-3.5-turbo-instruct","prompt":["a",[1,2]],"best_of":2,"n":1,"max_tokens":16,"echo":true,"logprobs":5,"suffix":"s","stream":false}"#,
    );
    passes(
        E::AzureEmbeddings,
        r#"{"input":["a","b"],"model":"text-embedding-3-small","encoding_format":"base64","dimensions":256,"user":"u"}"#,
    );
    passes(
        E::OpenAiImages,
        r#"{"prompt":"a cat","model":"gpt-image-1.5","n":2,"size":"1024x1024","quality":"high","background":"transparent","output_format":"png","output_compression":90,"moderation":"low","stream":true,"partial_images":2}"#,
    );
    passes(
        E::OpenAiImages,
        r#"{"prompt":"a cat","model":"dall-e-3","style":"vivid","quality":"hd","response_format":"b64_json","size":"1792x1024"}"#,
    );
    passes(
        E::OpenAiImageEdits,
        r#"{"model":"gpt-image-1.5","prompt":"x","images":[{"image_url":"data:image/png;base64,AA=="}],"mask":{"image_url":"https://example.com/m.png"}}"#,
    );
    passes(
        E::OpenAiSpeech,
        r#"{"input":"Hello","model":"gpt-4o-mini-tts","voice":"alloy","instructions":"calm","response_format":"mp3","speed":1.0,"stream_format":"sse"}"#,
    );
}

#[test]
fn forms_with_files() {
    let edit: &[(&str, Option<&str>, &str)] = &[
        ("prompt", None, "a hat"),
        ("model", None, "gpt-image-1.5"),
        ("n", None, "1"),
        ("size", None, "auto"),
        ("input_fidelity", None, "high"),
        ("image[]", Some("a.png"), "\u{89}PNG\r\n\u{1a}\n--b"),
        ("image[]", Some("b.png"), "x"),
        ("mask", Some("m.png"), "y"),
    ];
    // A delimiter inside a file is refused; only its like may stand there.
    let edit: Vec<_> =
        edit.iter().map(|(name, file, content)| (*name, *file, content.trim_end_matches("--b"))).collect();
    let transcription = [
        ("model", None, "gpt-4o-transcribe-diarize"),
        ("response_format", None, "diarized_json"),
        ("chunking_strategy[type]", None, "server_vad"),
        ("chunking_strategy[threshold]", None, "0.5"),
        ("include[]", None, "logprobs"),
        ("timestamp_granularities[]", None, "word"),
        ("timestamp_granularities[]", None, "segment"),
        ("known_speaker_names[]", None, "ann"),
        ("known_speaker_references[]", None, "data:audio/wav;base64,AA=="),
        ("language", None, "en"),
        ("temperature", None, "0"),
        ("stream", None, "true"),
        ("file", Some("speech \u{e4}.mp3"), "ID3"),
    ];
    let translation = [("file", Some("a.wav"), "RIFF"), ("model", None, "whisper-1"), ("prompt", None, "x")];

    for endpoint in [E::OpenAiImageEdits, E::AzureImageEdits, E::AzureDeploymentImageEdits] {
        assert!(multipart(endpoint, &form_of(&edit)).is_ok(), "{endpoint:?}");
    }
    for endpoint in [E::OpenAiTranscriptions, E::AzureTranscriptions, E::AzureDeploymentTranscriptions] {
        let scan = multipart(endpoint, &form_of(&transcription)).unwrap();
        assert_eq!(scan.model(), Some("gpt-4o-transcribe-diarize"));
    }
    assert!(multipart(E::OpenAiTranslations, &form_of(&translation)).is_ok());
}

fn passes(endpoint: Endpoint, body: &str) {
    let scan = scanned(endpoint, body).unwrap_or_else(|error| panic!("{endpoint:?}: {error}\n{body}"));
    assert!(scan.model().is_some());
}
