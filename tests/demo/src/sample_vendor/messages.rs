//! Messages as Anthropic gives them, plain and streamed; DeepSeek's second form is the same.
//!
//! Invariant: the usage in `message_delta` is cumulative and is the truth.

use super::answer::quoted;
use super::prompt::Prompt;

/// The whole message.
pub(super) fn whole(prompt: &Prompt) -> String {
    let content = format!(r#"{{"type":"text","text":{}}}"#, quoted(&prompt.text()));
    message(prompt, &content, r#""end_turn""#, prompt.output_tokens())
}

/// The message as events.
pub(super) fn stream(prompt: &Prompt) -> Vec<String> {
    let mut events = vec![
        event("message_start", &format!(r#","message":{}"#, message(prompt, "", "null", 1))),
        event("content_block_start", r#","index":0,"content_block":{"type":"text","text":""}"#),
        event("ping", ""),
    ];
    for word in &prompt.words {
        let text = quoted(word);
        events.push(event(
            "content_block_delta",
            &format!(r#","index":0,"delta":{{"type":"text_delta","text":{text}}}"#),
        ));
    }
    events.push(event("content_block_stop", r#","index":0"#));
    let delta = r#"{"stop_reason":"end_turn","stop_sequence":null}"#;
    let (input, output) = (prompt.input_tokens, prompt.output_tokens());
    let usage = format!(
        r#"{{"input_tokens":{input},"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":{output}}}"#
    );
    events.push(event("message_delta", &format!(r#","delta":{delta},"usage":{usage}"#)));
    events.push(event("message_stop", ""));
    events
}

fn event(kind: &str, fields: &str) -> String {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{fields}}}\n\n")
}

fn message(prompt: &Prompt, content: &str, stop_reason: &str, output_tokens: usize) -> String {
    let (seed, model, input) = (&prompt.seed, quoted(&prompt.model), prompt.input_tokens);
    format!(
        r#"{{"id":"msg_{seed}","type":"message","role":"assistant","model":{model},"content":[{content}],"stop_reason":{stop_reason},"stop_sequence":null,"usage":{{"input_tokens":{input},"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}},"output_tokens":{output_tokens},"service_tier":"standard"}}}}"#
    )
}
