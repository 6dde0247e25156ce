//! Requests that reach into the owner's account or cost without a bound: none of these may
//! pass, on any vendor's endpoint.
//!
//! Invariant: the refusal names what has to be left out.

use super::tests::scanned;
use crate::ErrorCode;
use crate::provider::endpoint::Endpoint;
use Endpoint as E;

/// A member of a body, and what the refusal must name.
type Case = (&'static str, &'static str);

const OPENAI_FORMS: &[(&[Endpoint], &[Case])] = &[
    (
        &[E::OpenAiChat, E::AzureChat, E::AzureDeploymentChat, E::DeepSeekChat, E::DeepSeekBetaChat],
        &[
            (r#""store":true"#, "store"),
            (r#""data_sources":[{"type":"azure_search"}]"#, "data_sources"),
            (r#""web_search_options":{}"#, "web_search_options"),
            (r#""model":"ft:gpt-4o:org::id""#, "fine-tuned"),
            (r#""service_tier":"scale""#, "service_tier"),
            (r#""messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"file-1"}}]}]"#, "file_id"),
            (r#""messages":[{"role":"assistant","audio":{"id":"audio_1"}}]"#, "audio"),
            (r#""audio":{"voice":{"id":"voice_1"},"format":"wav"}"#, "voice"),
            (r#""tools":[{"type":"web_search"}]"#, "web_search"),
            (r#""tools":[{"type":"mcp","server_url":"https://example.com"}]"#, "mcp"),
            (r#""tools":[{"function":{"name":"f"}}]"#, "type"),
            (r#""tools":{"type":"file_search"}"#, "file_search"),
            (r#""tools":[[{"type":"file_search"}]]"#, "file_search"),
            (r#""tools":[{"typ\u0065":"file_search"}]"#, "file_search"),
            (r#""moderation":{"model":"gpt-5"}"#, "model"),
            (r#""max_tokens":1,"max_completion_tokens":9"#, "max_completion_tokens"),
            (r#""mo\u0064alities":["text"],"\u0064ata_sources":[]"#, "data_sources"),
            (r#""extra_body":{}"#, "extra_body"),
            (r#""Model":"x""#, "Model"),
            (r#""previous_response_id":"resp_1""#, "previous_response_id"),
        ],
    ),
    (
        &[E::OpenAiResponses, E::AzureResponses, E::AzurePreviewResponses],
        &[
            (r#""background":true"#, "background"),
            (r#""previous_response_id":"resp_1""#, "previous_response_id"),
            (r#""conversation":{"id":"conv_1"}"#, "conversation"),
            (r#""prompt":{"id":"pmpt_1"}"#, "prompt"),
            (r#""access_programs":{"cyber":"daybreak_red"}"#, "access_programs"),
            (r#""service_tier":"ultrafast""#, "service_tier"),
            (r#""prompt_cache_options":{"comparison_response_id":"resp_1"}"#, "comparison_response_id"),
            (r#""input":[{"type":"item_reference","id":"msg_1"}]"#, "item_reference"),
            (r#""input":[{"id":"msg_1"}]"#, "role"),
            (r#""input":[{"id":"msg_1","type":null}]"#, "role"),
            (r#""input":[{"type":"reasoning","id":"rs_1","summary":[]}]"#, "encrypted_content"),
            (r#""input":[{"type":"reasoning","id":"rs_1","encrypted_content":null}]"#, "encrypted_content"),
            (r#""input":[{"type":"image_generation_call","id":"ig_1"}]"#, "image_generation_call"),
            (r#""input":[{"type":"mcp_approval_response","approval_request_id":"m"}]"#, "mcp_approval_response"),
            (r#""input":[{"type":"file_search_call","id":"fs_1"}]"#, "file_search_call"),
            (r#""input":[{"role":"user","content":[{"type":"input_file","file_id":"file-1"}]}]"#, "file_id"),
            (r#""input":[{"role":"user","content":[{"type":"input_image","fil\u0065_id":"file-1"}]}]"#, "file_id"),
            (r#""input":[{"type":"computer_call_output","output":{"type":"x","file_id":"f"}}]"#, "file_id"),
            (r#""input":[{"type":"function_call_output","output":[{"type":"input_file","file_id":"f"}]}]"#, "file_id"),
            (r#""input":[{"type":"shell_call","environment":{"container_id":"c"}}]"#, "container_id"),
            (r#""input":[{"type":"tool_search_output","tools":[{"type":"mcp"}]}]"#, "mcp"),
            (
                r#""input":[{"type":"additional_tools","role":"developer","tools":[{"type":"web_search"}]}]"#,
                "max_tool_calls",
            ),
            (r#""tools":[{"type":"web_search"}]"#, "max_tool_calls"),
            (r#""tools":[{"type":"web_search_preview"}],"max_tool_calls":null"#, "max_tool_calls"),
            (r#""tools":[{"type":"web_search"}],"max_tool_calls":1000000"#, "max_tool_calls"),
            (r#""tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]"#, "file_search"),
            (r#""tools":[{"type":"code_interpreter","container":{"type":"auto"}}]"#, "code_interpreter"),
            (r#""tools":[{"type":"image_generation"}]"#, "image_generation"),
            (r#""tools":[{"type":"mcp","connector_id":"connector_gmail"}]"#, "mcp"),
            (r#""tools":[{"type":"programmatic_tool_calling"}]"#, "programmatic_tool_calling"),
            (r#""tools":[{"type":"shell"}]"#, "environment"),
            (r#""tools":[{"type":"shell","environment":{"type":"container_auto"}}]"#, "container_auto"),
            (r#""tools":[{"type":"shell","environment":{"type":"local","skills":[{"skill_id":"s"}]}}]"#, "skills"),
            (r#""tools":[{"type":"namespace","tools":[{"type":"mcp"}]}]"#, "mcp"),
            (r#""tools":[{"type":"function","name":"f","file_ids":["f"]}]"#, "file_ids"),
            (r#""tools":[{"type":"function","type":"mcp"}]"#, "type"),
            (r#""tools":[{"type":"bing_grounding"}]"#, "bing_grounding"),
            (r#""tools":[{"type":["mcp"]}]"#, "type"),
            (r#""tools":[{"Type":"mcp","type":"function"}]"#, "lower case"),
            (r#""input":[{"role":"user","content":[{"type":"input_file","File_ID":"f"}]}]"#, "File_ID"),
        ],
    ),
    (
        &[E::OpenAiImages, E::AzureImages],
        &[(r#""n":1000"#, "128"), (r#""svg":{"model":"x"}"#, "svg"), (r#""output_format":"svg""#, "output_format")],
    ),
    (
        &[E::OpenAiImageEdits, E::AzureImageEdits],
        &[(r#""images":[{"file_id":"f"}]"#, "file_id"), (r#""mask":{"file_id":"f"}"#, "file_id")],
    ),
    (&[E::OpenAiSpeech, E::AzureSpeech], &[(r#""voice":{"id":"voice_1"}"#, "voice"), (r#""stream":true"#, "stream")]),
    (&[E::OpenAiCompletions, E::DeepSeekBetaCompletions], &[(r#""best_of":1000"#, "best_of"), (r#""n":0"#, "from 1")]),
    (&[E::OpenAiEmbeddings], &[(r#""stream":true"#, "stream"), (r#""model":"FT:x""#, "fine-tuned")]),
];

const MESSAGES: &[Case] = &[
    (r#""container":"container_1""#, "container"),
    (r#""container":{"skills":[{"skill_id":"s"}]}"#, "container"),
    (r#""mcp_servers":[{"url":"https://example.com"}]"#, "mcp_servers"),
    (r#""thread":{"type":"create"}"#, "thread"),
    (r#""diagnostics":{"previous_message_id":"msg_1"}"#, "diagnostics"),
    (r#""fallbacks":"default""#, "fallbacks"),
    (r#""fallback_credit_token":"t""#, "fallback_credit_token"),
    (r#""billing_policy":{"bill_to":"user_profile"}"#, "billing_policy"),
    (r#""service_tier":"priority""#, "service_tier"),
    (r#""speed":"ultra""#, "speed"),
    (r#""messages":[{"role":"user","content":[{"type":"image","source":{"type":"file","file_id":"f"}}]}]"#, "file_id"),
    (r#""messages":[{"role":"user","content":[{"type":"container_upload","file_id":"f"}]}]"#, "container_upload"),
    (
        r#""messages":[{"role":"user","content":[{"type":"tool_result","content":[{"type":"document","source":{"type":"file","file_id":"f"}}]}]}]"#,
        "file_id",
    ),
    (
        r#""messages":[{"role":"user","content":[{"type":"document","source":{"type":"content","content":[{"type":"image","source":{"file_id":"f"}}]}}]}]"#,
        "file_id",
    ),
    (r#""messages":[{"role":"user","content":[{"type":"mcp_tool_use","server_name":"s"}]}]"#, "mcp_tool_use"),
    (
        r#""messages":[{"role":"user","content":[{"type":"tool_addition","tool":{"type":"mcp_toolset"}}]}]"#,
        "tool_addition",
    ),
    (r#""messages":[{"role":"user","content":[{"type":"tool_removal","tool":{"definition":{}}}]}]"#, "tool"),
    (r#""messages":[{"role":"user","content":[{"type":"novel"}]}]"#, "novel"),
    (r#""messages":[{"role":"user","content":[{"text":"x"}]}]"#, "type"),
    (r#""system":[{"type":"image","source":{"type":"file","file_id":"f"}}]"#, "file_id"),
    (r#""tools":[{"type":"web_search_20250305","name":"web_search"}]"#, "max_uses"),
    (r#""tools":[{"type":"web_search_20250305","name":"web_search","max_uses":null}]"#, "max_uses"),
    (r#""tools":[{"type":"web_fetch_20250910","name":"web_fetch","max_uses":100000}]"#, "max_uses"),
    (r#""tools":[{"type":"web_search_20990101","max_uses":1}]"#, "web_search_20990101"),
    (r#""tools":[{"type":"code_execution_20250825","name":"code_execution"}]"#, "code_execution_20250825"),
    (r#""tools":[{"type":"advisor_20260301","model":"claude-opus-4-5","max_uses":1}]"#, "advisor_20260301"),
    (r#""tools":[{"type":"mcp_toolset","mcp_server_name":"s"}]"#, "mcp_toolset"),
    (r#""tools":[{"type":"web_search_20250305","Max_Uses":1}]"#, "Max_Uses"),
    (r#""user_profile_id":"p""#, "user_profile_id"),
    (r#""betas":["x"]"#, "betas"),
];

#[test]
fn openais_forms() {
    for (endpoints, cases) in OPENAI_FORMS {
        for (endpoint, (member, named)) in endpoints.iter().flat_map(|e| cases.iter().map(move |case| (*e, case))) {
            refused(endpoint, member, named);
        }
    }
}

#[test]
fn anthropics_form() {
    for (member, named) in MESSAGES {
        refused(E::AnthropicMessages, member, named);
        refused(E::DeepSeekMessages, member, named);
    }
    for (member, named) in [(r#""max_tokens":1"#, "max_tokens"), (r#""mcp_servers":[]"#, "mcp_servers")] {
        refused(E::AnthropicCountTokens, member, named);
    }
}

#[test]
fn a_field_of_one_vendor_is_unknown_to_another() {
    for (endpoint, member) in [
        (E::OpenAiChat, r#""user_id":"u""#),
        (E::OpenAiChat, r#""thinking":{}"#),
        (E::OpenAiChat, r#""user_security_context":{}"#),
        (E::AzureChat, r#""service_tier":"flex""#),
        (E::DeepSeekChat, r#""service_tier":"priority""#),
    ] {
        let name = member.split('"').nth(1).unwrap();
        refused(endpoint, member, name);
    }
}

/// Each is refused first, last and alone.
fn refused(endpoint: Endpoint, member: &str, named: &str) {
    for body in [format!("{{{member}}}"), format!(r#"{{"user":"u",{member}}}"#), format!(r#"{{{member},"user":"u"}}"#)]
    {
        let Err(error) = scanned(endpoint, &body) else { panic!("{endpoint:?} took {body}") };
        let codes = [ErrorCode::FieldRefused, ErrorCode::RequestMalformed];
        assert!(codes.contains(&error.code()), "{error}");
        if !body.contains("\"user\"") {
            assert!(error.to_string().contains(named), "{endpoint:?} {body}: {error}");
        }
    }
}
