//! Chat completions as OpenAI, Azure and DeepSeek give them, plain and streamed.
//!
//! Invariant: usage stands in a stream only where the vendor would send it.

use keyhaven_daemon::clock::unix_ms_now;

use super::answer::quoted;
use super::desk::Vendor;
use super::prompt::Prompt;

const UNFILTERED: &str = r#"{"hate":{"filtered":false,"severity":"safe"},"self_harm":{"filtered":false,"severity":"safe"},"sexual":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"safe"}}"#;

/// The whole completion.
pub(super) fn whole(vendor: Vendor, prompt: &Prompt) -> String {
    let content = quoted(&prompt.text());
    let message = format!(r#"{{"role":"assistant","content":{content},"refusal":null,"annotations":[]}}"#);
    let (filter, asked) = match vendor {
        Vendor::Azure => (format!(r#","content_filter_results":{UNFILTERED}"#), format!(",{}", prompt_filter())),
        Vendor::OpenAi | Vendor::DeepSeek | Vendor::Anthropic | Vendor::DeepSeekAnthropic => Default::default(),
    };
    let choice = format!(r#"{{"index":0,"message":{message},"logprobs":null,"finish_reason":"stop"{filter}}}"#);
    let (head, usage) = (head(vendor, prompt, "chat.completion"), usage(vendor, prompt));
    // DeepSeek keeps the connection alive with empty lines while it thinks.
    let before = if vendor == Vendor::DeepSeek { "\n\n" } else { "" };
    format!(r#"{before}{{{head},"choices":[{choice}],"usage":{usage}{asked}}}"#)
}

/// The completion as events.
pub(super) fn stream(vendor: Vendor, prompt: &Prompt) -> Vec<String> {
    let mut events = Vec::new();
    match vendor {
        Vendor::Azure => events.push(event(vendor, prompt, "", &format!(",{}", prompt_filter()))),
        Vendor::DeepSeek => events.push(": keep-alive\n\n".to_owned()),
        Vendor::OpenAi | Vendor::Anthropic | Vendor::DeepSeekAnthropic => {}
    }
    events.push(delta(vendor, prompt, r#"{"role":"assistant","content":"","refusal":null}"#, None));
    for word in &prompt.words {
        events.push(delta(vendor, prompt, &format!(r#"{{"content":{}}}"#, quoted(word)), None));
    }
    events.push(delta(vendor, prompt, "{}", Some("stop")));
    if prompt.include_usage && vendor != Vendor::DeepSeek {
        events.push(event(vendor, prompt, "", &format!(r#","usage":{}"#, usage(vendor, prompt))));
    }
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn delta(vendor: Vendor, prompt: &Prompt, delta: &str, finish: Option<&str>) -> String {
    let finish_reason = finish.map_or_else(|| "null".to_owned(), quoted);
    let filter = match vendor {
        Vendor::Azure if finish.is_none() => format!(r#","content_filter_results":{UNFILTERED}"#),
        Vendor::Azure => r#","content_filter_results":{}"#.to_owned(),
        Vendor::OpenAi | Vendor::DeepSeek | Vendor::Anthropic | Vendor::DeepSeekAnthropic => String::new(),
    };
    let choice = format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish_reason}{filter}}}"#);
    let rest = match (vendor, finish) {
        // DeepSeek reports usage on the last chunk of content, asked or not.
        (Vendor::DeepSeek, Some(_)) => format!(r#","usage":{}"#, usage(vendor, prompt)),
        _ if prompt.include_usage => r#","usage":null"#.to_owned(),
        _ => String::new(),
    };
    event(vendor, prompt, &choice, &rest)
}

fn event(vendor: Vendor, prompt: &Prompt, choice: &str, rest: &str) -> String {
    let head = head(vendor, prompt, "chat.completion.chunk");
    format!("data: {{{head},\"choices\":[{choice}]{rest}}}\n\n")
}

fn head(vendor: Vendor, prompt: &Prompt, object: &str) -> String {
    let seed = &prompt.seed;
    let id = match vendor {
        Vendor::DeepSeek => seed.clone(),
        Vendor::OpenAi | Vendor::Azure | Vendor::Anthropic | Vendor::DeepSeekAnthropic => format!("chatcmpl-{seed}"),
    };
    let tier = if vendor == Vendor::OpenAi { r#","service_tier":"default""# } else { "" };
    let (created, model) = (unix_ms_now() / 1000, quoted(&prompt.model));
    format!(
        r#""id":"{id}","object":"{object}","created":{created},"model":{model}{tier},"system_fingerprint":"fp_madeup""#
    )
}

fn usage(vendor: Vendor, prompt: &Prompt) -> String {
    let (input, output) = (prompt.input_tokens, prompt.output_tokens());
    let total = input + output;
    let details = match vendor {
        Vendor::DeepSeek => format!(r#","prompt_cache_hit_tokens":0,"prompt_cache_miss_tokens":{input}"#),
        Vendor::OpenAi | Vendor::Azure | Vendor::Anthropic | Vendor::DeepSeekAnthropic => {
            r#","prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}"#.to_owned()
        }
    };
    format!(r#"{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{total}{details}}}"#)
}

fn prompt_filter() -> String {
    format!(r#""prompt_filter_results":[{{"prompt_index":0,"content_filter_results":{UNFILTERED}}}]"#)
}
