//! What a request asks the sample vendor for, and the words it gets.
//!
//! Invariant: of the consumer's text at most a short piece is repeated, and only to the consumer.

use serde_json::Value;

/// Characters of the last message that the answer repeats.
const ECHO_CHARS_MAX: usize = 120;

/// A request's body, understood.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// The pieces in which the answer is given.
    pub(super) words: Vec<String>,
    pub(super) input_tokens: usize,
    /// Random; ids in the answer are made of it.
    pub(super) seed: String,
}

/// What a body lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lacking {
    /// It is not a JSON object.
    Json,
    /// A field that is needed is not there, or not of its type.
    Field(&'static str),
}

impl Prompt {
    pub(super) fn read(body: &[u8], title: &str, seed: String) -> Result<Self, Lacking> {
        let json: Value = serde_json::from_slice(body).map_err(|_| Lacking::Json)?;
        let object = json.as_object().ok_or(Lacking::Json)?;
        let model = object.get("model").and_then(Value::as_str).filter(|model| !model.is_empty());
        let model = model.ok_or(Lacking::Field("model"))?.to_owned();
        let messages = object.get("messages").and_then(Value::as_array).filter(|messages| !messages.is_empty());
        let messages = messages.ok_or(Lacking::Field("messages"))?;
        let told = messages.last().map(text_of).unwrap_or_default();
        Ok(Self {
            stream: object.get("stream").and_then(Value::as_bool).unwrap_or(false),
            include_usage: json.pointer("/stream_options/include_usage").and_then(Value::as_bool).unwrap_or(false),
            words: words(&reply(title, &model, &told)),
            // About four characters to a token, as vendors tell people.
            input_tokens: messages.iter().map(|message| 4 + text_of(message).len() / 4).sum(),
            model,
            seed,
        })
    }

    /// All of the answer's text.
    pub(super) fn text(&self) -> String {
        self.words.concat()
    }

    pub(super) fn output_tokens(&self) -> usize {
        self.words.len()
    }
}

fn text_of(message: &Value) -> String {
    match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}

fn reply(title: &str, model: &str, told: &str) -> String {
    let mut echo: String = told.chars().take(ECHO_CHARS_MAX).collect();
    if echo.len() < told.len() {
        echo.push('…');
    }
    format!(
        "Hello from the sample vendor, which stands in for {title} and plays {model}. Your call went through the hub, \
         down the agent's tunnel and out with a key that only the agent's vault holds; these words come back the same \
         way, each as soon as it is said. You said: {echo:?}"
    )
}

/// The words with the space before each, as models give them.
fn words(text: &str) -> Vec<String> {
    let ends = text.match_indices(' ').map(|(at, _)| at).chain([text.len()]);
    let mut begin = 0;
    let words = ends.map(|end| text[std::mem::replace(&mut begin, end)..end].to_owned());
    words.filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_before_their_spaces_and_nothing_is_lost() {
        assert_eq!(words("One two  three"), ["One", " two", " ", " three"]);
        assert_eq!(words("One two").concat(), "One two");
    }

    #[test]
    fn what_was_said_is_found_in_either_form_of_content() {
        for content in [r#""hi there""#, r#"[{"type":"text","text":"hi there"}]"#] {
            let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":{content}}}]}}"#);

            let prompt = Prompt::read(body.as_bytes(), "OpenAI", "0".repeat(24)).unwrap();

            assert!(prompt.text().ends_with(r#"You said: "hi there""#), "{}", prompt.text());
            assert!(!prompt.stream);
        }
    }

    #[test]
    fn what_is_lacking_is_named() {
        let lacking = |body: &str| Prompt::read(body.as_bytes(), "OpenAI", String::new()).err();

        assert_eq!(lacking("no"), Some(Lacking::Json));
        assert_eq!(lacking("[]"), Some(Lacking::Json));
        assert_eq!(lacking("{}"), Some(Lacking::Field("model")));
        assert_eq!(lacking(r#"{"model":"m","messages":[]}"#), Some(Lacking::Field("messages")));
    }
}
