//! Which vendor a model's name belongs to, by the vendors' documented names.
//!
//! Invariant: a name of no documented family belongs to nobody.

use super::Provider;

/// Name beginnings that the vendors document, and whose they are.
const FAMILIES: &[(&str, Provider)] = &[
    ("gpt-", Provider::OpenAi),
    ("chatgpt-", Provider::OpenAi),
    ("codex-", Provider::OpenAi),
    ("computer-use-", Provider::OpenAi),
    ("text-embedding-", Provider::OpenAi),
    ("whisper-", Provider::OpenAi),
    ("tts-", Provider::OpenAi),
    ("dall-e-", Provider::OpenAi),
    ("omni-moderation-", Provider::OpenAi),
    ("claude-", Provider::Anthropic),
    ("deepseek-", Provider::DeepSeek),
];

/// The vendor whose family of models the name belongs to. Fine-tuned models
/// (`ft:...`) belong to an account, not to a family, and so to nobody here.
pub(super) fn family(model: &str) -> Option<Provider> {
    let named = FAMILIES.iter().find(|(start, _)| model.starts_with(start));
    match named {
        Some((_, provider)) => Some(*provider),
        None => is_reasoning_series(model).then_some(Provider::OpenAi),
    }
}

/// `o1`, `o3-mini`, `o4-mini-2025-04-16`: an `o`, a number, then end or dash.
fn is_reasoning_series(model: &str) -> bool {
    let Some(rest) = model.strip_prefix('o') else {
        return false;
    };
    let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    after.len() < rest.len() && (after.is_empty() || after.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_names_lead_to_their_vendor() {
        let openai = [
            "gpt-4o",
            "gpt-image-1",
            "chatgpt-4o-latest",
            "o1",
            "o3-mini",
            "o4-mini-2025-04-16",
            "codex-mini-latest",
            "computer-use-preview",
            "text-embedding-3-small",
            "whisper-1",
            "tts-1-hd",
            "dall-e-3",
            "omni-moderation-latest",
        ];
        for model in openai {
            assert_eq!(family(model), Some(Provider::OpenAi), "{model}");
        }
        assert_eq!(family("claude-sonnet-4-5"), Some(Provider::Anthropic));
        assert_eq!(family("deepseek-chat"), Some(Provider::DeepSeek));
    }

    #[test]
    fn names_that_only_look_alike_belong_to_nobody() {
        for model in ["", "o", "o-1", "o1x", "oracle", "o3.5", "GPT-4o", "my-gpt-4o", "gpt", "ft:gpt-4o:a"] {
            assert_eq!(family(model), None, "{model}");
        }
    }
}
