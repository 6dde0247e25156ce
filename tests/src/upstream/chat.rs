//! Chat completions as OpenAI, Azure and DeepSeek give them, plain and streamed.
//!
//! Invariant: a usage chunk only where the vendor would send one.

use super::answer::Answer;
use super::answer::Prompt;
use super::answer::quoted;
use super::vendor::Form;

/// When everything was created.
pub(super) const CREATED: u64 = 1_767_225_600;
/// How OpenAI says in the middle of a stream that it has failed.
pub(super) const STREAM_ERROR: &str = "data: {\"error\":{\"message\":\"The server had an error while processing your \
    request. Sorry about that!\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n";
const FILTER: &str = r#"{"hate":{"filtered":false,"severity":"safe"},"self_harm":{"filtered":false,"severity":"safe"},"sexual":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"safe"}}"#;

pub(super) fn answer(form: Form, prompt: &Prompt) -> Answer {
    if prompt.stream {
        Answer::stream(form, &prompt.seed, stream(form, prompt))
    } else {
        Answer::json(form, 200, &prompt.seed, whole(form, prompt))
    }
}

fn whole(form: Form, prompt: &Prompt) -> String {
    let (message, finish) = match &prompt.tool {
        Some(tool) => (
            format!(
                r#"{{"role":"assistant","content":null,"tool_calls":[{}],"refusal":null,"annotations":[]}}"#,
                tool_call(prompt, tool, &arguments(prompt))
            ),
            "tool_calls",
        ),
        None => (
            format!(r#"{{"role":"assistant","content":{},"refusal":null,"annotations":[]}}"#, quoted(&prompt.text())),
            "stop",
        ),
    };
    let filter = if form == Form::Azure { format!(r#","content_filter_results":{FILTER}"#) } else { String::new() };
    let choice = format!(r#"{{"index":0,"message":{message},"logprobs":null,"finish_reason":"{finish}"{filter}}}"#);
    let prompt_filter = if form == Form::Azure {
        format!(r#","prompt_filter_results":[{{"prompt_index":0,"content_filter_results":{FILTER}}}]"#)
    } else {
        String::new()
    };
    let json = format!(
        r#"{{"id":"{}","object":"chat.completion","created":{CREATED},"model":{},"choices":[{choice}],"usage":{},{}{prompt_filter}}}"#,
        id(form, prompt),
        quoted(&prompt.model),
        usage(form, prompt),
        tail(form)
    );
    match form {
        // DeepSeek keeps the connection alive with empty lines while it thinks.
        Form::DeepSeek => format!("\n\n\n{json}"),
        Form::OpenAi | Form::Azure | Form::Anthropic | Form::DeepSeekAnthropic => {
            format!("{json}\n")
        }
    }
}

fn stream(form: Form, prompt: &Prompt) -> Vec<String> {
    let mut events = Vec::new();
    match form {
        Form::Azure => events.push(event(
            form,
            prompt,
            "",
            &format!(r#","prompt_filter_results":[{{"prompt_index":0,"content_filter_results":{FILTER}}}]"#),
        )),
        Form::DeepSeek => events.extend([": keep-alive\n\n".into(), ": keep-alive\n\n".into()]),
        Form::OpenAi | Form::Anthropic | Form::DeepSeekAnthropic => {}
    }
    let finish = match &prompt.tool {
        Some(tool) => {
            let first = tool_call(prompt, tool, "").replacen('{', r#"{"index":0,"#, 1);
            let role = format!(r#"{{"role":"assistant","content":null,"tool_calls":[{first}]}}"#);
            events.push(delta(form, prompt, &role, None));
            for part in fragments(&arguments(prompt)) {
                let part = quoted(&part);
                let call = format!(r#"{{"tool_calls":[{{"index":0,"function":{{"arguments":{part}}}}}]}}"#);
                events.push(delta(form, prompt, &call, None));
            }
            "tool_calls"
        }
        None => {
            let role = r#"{"role":"assistant","content":"","refusal":null}"#;
            events.push(delta(form, prompt, role, None));
            for word in &prompt.words {
                let content = format!(r#"{{"content":{}}}"#, quoted(word));
                events.push(delta(form, prompt, &content, None));
            }
            "stop"
        }
    };
    if prompt.error_in_stream {
        events.truncate(events.len() / 2);
        events.push(STREAM_ERROR.to_owned());
        return events;
    }
    events.push(delta(form, prompt, "{}", Some(finish)));
    if prompt.include_usage && form != Form::DeepSeek {
        let usage = format!(r#","usage":{}"#, usage(form, prompt));
        events.push(event(form, prompt, "", &usage));
    }
    events.push("data: [DONE]\n\n".into());
    events
}

fn delta(form: Form, prompt: &Prompt, delta: &str, finish: Option<&str>) -> String {
    let filter = match (form, finish) {
        (Form::Azure, None) if delta.contains("\"content\":\"") => {
            format!(r#","content_filter_results":{FILTER}"#)
        }
        (Form::Azure, _) => r#","content_filter_results":{}"#.to_owned(),
        (Form::OpenAi | Form::Anthropic | Form::DeepSeek | Form::DeepSeekAnthropic, _) => String::new(),
    };
    let reason = finish.map_or_else(|| "null".to_owned(), quoted);
    let choice = format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}{filter}}}"#);
    let rest = match (form, finish) {
        // DeepSeek reports usage on the last content chunk, asked or not.
        (Form::DeepSeek, Some(_)) => format!(r#","usage":{}"#, usage(form, prompt)),
        _ if prompt.include_usage => r#","usage":null"#.to_owned(),
        _ => String::new(),
    };
    let noise = match form {
        Form::OpenAi => format!(r#","obfuscation":"{}""#, &prompt.seed[..4 + (delta.len() * 7) % 12]),
        Form::Azure | Form::Anthropic | Form::DeepSeek | Form::DeepSeekAnthropic => String::new(),
    };
    event(form, prompt, &choice, &format!("{rest}{noise}"))
}

fn event(form: Form, prompt: &Prompt, choice: &str, rest: &str) -> String {
    format!(
        "data: {{\"id\":\"{}\",\"object\":\"chat.completion.chunk\",\"created\":{CREATED},\
         \"model\":{},{},\"choices\":[{choice}]{rest}}}\n\n",
        id(form, prompt),
        quoted(&prompt.model),
        tail(form)
    )
}

fn tail(form: Form) -> &'static str {
    match form {
        Form::OpenAi => r#""service_tier":"default","system_fingerprint":"fp_kit0000001""#,
        Form::Azure | Form::DeepSeek | Form::Anthropic | Form::DeepSeekAnthropic => {
            r#""system_fingerprint":"fp_kit0000001""#
        }
    }
}

fn id(form: Form, prompt: &Prompt) -> String {
    match form {
        Form::DeepSeek => prompt.id(""),
        Form::OpenAi | Form::Azure | Form::Anthropic | Form::DeepSeekAnthropic => prompt.id("chatcmpl-"),
    }
}

pub(super) fn usage(form: Form, prompt: &Prompt) -> String {
    let (input, output) = (prompt.input_tokens, prompt.output_tokens());
    let total = input + output;
    let counts = format!(r#""prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{total}"#);
    match form {
        Form::DeepSeek => format!(
            r#"{{{counts},"prompt_tokens_details":{{"cached_tokens":{}}},"completion_tokens_details":{{"reasoning_tokens":0}},"prompt_cache_hit_tokens":{},"prompt_cache_miss_tokens":{}}}"#,
            input / 2,
            input / 2,
            input - input / 2
        ),
        Form::OpenAi | Form::Azure | Form::Anthropic | Form::DeepSeekAnthropic => format!(
            r#"{{{counts},"prompt_tokens_details":{{"cached_tokens":{},"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":5,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}}"#,
            input / 4
        ),
    }
}

fn tool_call(prompt: &Prompt, tool: &str, arguments: &str) -> String {
    format!(
        r#"{{"id":"{}","type":"function","function":{{"name":{},"arguments":{}}}}}"#,
        prompt.id("call_"),
        quoted(tool),
        quoted(arguments)
    )
}

/// What the model calls the tool with.
pub(super) fn arguments(prompt: &Prompt) -> String {
    format!(r#"{{"city":"Zürich","seed":"{}"}}"#, &prompt.seed[..8])
}

/// Small pieces, as vendors stream arguments.
pub(super) fn fragments(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters.chunks(7).map(|piece| piece.iter().collect()).collect()
}
