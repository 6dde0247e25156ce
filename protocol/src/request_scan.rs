//! What routing must know of a JSON request, read from the bytes as they pass.
//!
//! Invariant: a key that routing relies on stands once at the top level, with
//! a value of its type, or the request is refused; no byte is changed.

use crate::ErrorCode;
use crate::json_scan::Event;
use crate::json_scan::JsonError;
use crate::json_scan::JsonScan;
use crate::json_scan::Text;

/// The longest name of a model.
pub const MODEL_BYTES_MAX: u64 = 256;

/// Why a request's body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Not JSON.
    #[error("the body is not valid JSON: {0}")]
    Json(#[from] JsonError),
    /// JSON, but something else than an object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A key twice: vendors differ in which one counts.
    #[error("the key {key:?} stands in the body twice")]
    DuplicateKey {
        /// The key, unescaped.
        key: &'static str,
    },
    /// A value of the wrong type or out of its bounds.
    #[error("{key:?} must be {expected}")]
    BadValue {
        /// The key, unescaped.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

impl ScanError {
    /// The code that the consumer sees.
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::RequestMalformed
    }
}

/// A top-level key that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Model,
    Stream,
}

impl Field {
    const ALL: [Self; 2] = [Self::Model, Self::Stream];

    const fn key(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Stream => "stream",
        }
    }

    const fn expected(self) -> &'static str {
        match self {
            Self::Model => "a string of 1 to 256 visible ASCII characters",
            Self::Stream => "true, false or null",
        }
    }

    const fn bad_value(self) -> ScanError {
        ScanError::BadValue { key: self.key(), expected: self.expected() }
    }
}

/// The scan of one request's body.
#[derive(Debug, Clone, Default)]
pub struct RequestScan {
    json: JsonScan,
    found: Found,
    failed: Option<ScanError>,
}

/// What was read so far.
#[derive(Debug, Clone, Default)]
struct Found {
    /// The field whose value comes next.
    awaited: Option<Field>,
    /// Each at most once, so never longer than [`Field::ALL`].
    seen: Vec<Field>,
    model: Option<String>,
    stream: Option<bool>,
}

impl RequestScan {
    /// A scan at the beginning of a body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next bytes of the body.
    ///
    /// # Errors
    /// When the request must be refused; from then on always.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        let json = &mut self.json;
        let found = &mut self.found;
        scan(&mut self.failed, |visit| json.feed(bytes, |depth, event| visit(found, depth, event)))
    }

    /// Says that the body has ended.
    ///
    /// # Errors
    /// When it is not complete, or was refused before.
    pub fn finish(&mut self) -> Result<(), ScanError> {
        let json = &mut self.json;
        let found = &mut self.found;
        scan(&mut self.failed, |visit| json.finish(|depth, event| visit(found, depth, event)))
    }

    /// The model, as soon as it was read.
    pub fn model(&self) -> Option<&str> {
        self.found.model.as_deref()
    }

    /// Whether a stream is asked for; `None` when the body does not say so
    /// (yet), or says `null`.
    pub fn stream(&self) -> Option<bool> {
        self.found.stream
    }
}

type Visit<'a> = dyn FnMut(&mut Found, u32, Event<'_>) + 'a;

/// Runs the reader with a visitor that keeps the first refusal. What the
/// visitor refused came before what the reader refused.
fn scan(
    failed: &mut Option<ScanError>,
    read: impl FnOnce(&mut Visit<'_>) -> Result<(), JsonError>,
) -> Result<(), ScanError> {
    if let Some(error) = failed {
        return Err(error.clone());
    }
    let mut refusal = Ok(());
    let outcome = read(&mut |found, depth, event| {
        if refusal.is_ok() {
            refusal = found.take(depth, event);
        }
    });
    let result = refusal.and(outcome.map_err(ScanError::from));
    *failed = result.clone().err();
    result
}

impl Found {
    fn take(&mut self, depth: u32, event: Event<'_>) -> Result<(), ScanError> {
        match depth {
            0 => root(event),
            1 => self.member(event),
            _ => Ok(()),
        }
    }

    fn member(&mut self, event: Event<'_>) -> Result<(), ScanError> {
        if let Event::Key(key) = event {
            return self.key(key);
        }
        match self.awaited.take() {
            Some(field) => self.value(field, event),
            None => Ok(()),
        }
    }

    fn key(&mut self, key: Text<'_>) -> Result<(), ScanError> {
        let mut fields = Field::ALL.into_iter();
        self.awaited = fields.find(|field| key.is(field.key()));
        let Some(field) = self.awaited else {
            return Ok(());
        };
        if self.seen.contains(&field) {
            return Err(ScanError::DuplicateKey { key: field.key() });
        }
        self.seen.push(field);
        Ok(())
    }

    fn value(&mut self, field: Field, event: Event<'_>) -> Result<(), ScanError> {
        match (field, event) {
            (Field::Model, Event::String(text)) => {
                let model = model(text).ok_or_else(|| field.bad_value())?;
                self.model = Some(model.to_owned());
            }
            (Field::Stream, Event::Bool(stream)) => self.stream = Some(stream),
            (Field::Stream, Event::Null) => self.stream = None,
            (Field::Model | Field::Stream, _) => return Err(field.bad_value()),
        }
        Ok(())
    }
}

fn root(event: Event<'_>) -> Result<(), ScanError> {
    match event {
        Event::ObjectStart | Event::ObjectEnd => Ok(()),
        Event::ArrayStart
        | Event::ArrayEnd
        | Event::Key(_)
        | Event::String(_)
        | Event::Number(_)
        | Event::Bool(_)
        | Event::Null => Err(ScanError::NotAnObject),
    }
}

fn model(text: Text<'_>) -> Option<&str> {
    let name = text.as_str()?;
    let fits = (1..=MODEL_BYTES_MAX).contains(&text.len);
    let visible = name.bytes().all(|byte| byte.is_ascii_graphic());
    (fits && visible).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn model_and_stream_are_found_wherever_they_stand() {
        let bodies = [
            r#"{"model":"gpt-4o","stream":true}"#,
            r#"{"messages":[{"role":"user","content":"\"model\":\"x\""}],"stream":true,"model":"gpt-4o"}"#,
            r#" {"metadata":{"model":"x","stream":false},"model" : "gpt-4o" , "stream":true } "#,
            r#"{"mod\u0065l":"gpt-\u0034o","\u0073tream":true}"#,
        ];
        for body in bodies {
            let scan = scanned(body).unwrap();
            assert_eq!(scan.model(), Some("gpt-4o"), "{body}");
            assert_eq!(scan.stream(), Some(true), "{body}");
        }
    }

    #[test]
    fn the_model_is_known_before_the_body_ends() {
        let mut scan = RequestScan::new();

        scan.feed(br#"{"model":"gpt-4o","messages":[{"#).unwrap();

        assert_eq!(scan.model(), Some("gpt-4o"));
        assert!(scan.finish().is_err());
    }

    #[test]
    fn absent_and_null_are_none() {
        for body in ["{}", r#"{"stream":null}"#, r#"{"Model":"x","STREAM":true}"#] {
            let scan = scanned(body).unwrap();
            assert_eq!((scan.model(), scan.stream()), (None, None), "{body}");
        }
    }

    #[test]
    fn a_key_that_routing_relies_on_stands_once() {
        let bodies = [
            (r#"{"model":"a","model":"a"}"#, "model"),
            (r#"{"model":"a","mod\u0065l":"b"}"#, "model"),
            (r#"{"\u006D\u006f\u0064\u0065\u006C":"a","model":"b"}"#, "model"),
            (r#"{"stream":null,"stream":null}"#, "stream"),
            (r#"{"stream":true,"x":[1],"strea\u006d":false}"#, "stream"),
        ];
        for (body, key) in bodies {
            assert_eq!(scanned(body).unwrap_err(), ScanError::DuplicateKey { key });
        }
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
            let error = scanned(&format!(r#"{{"model":{value}}}"#)).unwrap_err();
            assert_eq!(error, Field::Model.bad_value(), "{value}");
        }
        for value in ["1", "0", r#""true""#, "[]", "{}", "[true]"] {
            let error = scanned(&format!(r#"{{"stream":{value}}}"#)).unwrap_err();
            assert_eq!(error, Field::Stream.bad_value(), "{value}");
        }
        assert!(scanned(&format!(r#"{{"model":"{}"}}"#, "a".repeat(256))).is_ok());
    }

    #[test]
    fn the_root_is_one_object() {
        for body in ["[]", r#""model""#, "1 ", "null", "true", r#"[{"model":"a"}]"#] {
            assert_eq!(scanned(body).unwrap_err(), ScanError::NotAnObject, "{body}");
        }
        assert_eq!(scanned("1").unwrap_err(), ScanError::NotAnObject);
        for body in ["", " ", "{", r#"{"model":"a"}{}"#, r#"{"model":"a",}"#] {
            let error = scanned(body).unwrap_err();
            assert!(matches!(error, ScanError::Json(_)), "{body}");
            assert_eq!(error.code(), ErrorCode::RequestMalformed);
        }
    }

    #[test]
    fn a_refusal_is_final() {
        let mut scan = RequestScan::new();
        let first = scan.feed(br#"{"model":1,"#).unwrap_err();

        assert_eq!(scan.feed(br#""a":1}"#), Err(first.clone()));
        assert_eq!(scan.finish(), Err(first));
    }

    #[test]
    fn a_refusal_never_repeats_the_body() {
        let error = scanned(r#"{"model":"my secret"}"#).unwrap_err();

        assert!(!format!("{error} {error:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            key in prop_oneof!["model", "stream", "mod\\\\u0065l", "[a-z]{0,8}"],
            value in prop_oneof!["true", "null", "\"[a-z]{0,4}\"", "\\[\\]", "1"],
            cuts in proptest::collection::vec(0_usize..64, 0..6),
        ) {
            let body = format!(r#"{{"model":"gpt","{key}":{value}}}"#);
            let whole = scanned(&body);

            let mut pieces = RequestScan::new();
            let mut at = 0;
            let mut result = Ok(());
            for cut in cuts {
                let next = (at + cut).min(body.len());
                result = result.and_then(|()| pieces.feed(&body.as_bytes()[at..next]));
                at = next;
            }
            result = result.and_then(|()| pieces.feed(&body.as_bytes()[at..]));
            result = result.and_then(|()| pieces.finish());

            prop_assert_eq!(result, whole.as_ref().map(|_| ()).map_err(Clone::clone));
            if let Ok(whole) = whole {
                prop_assert_eq!(pieces.model(), whole.model());
                prop_assert_eq!(pieces.stream(), whole.stream());
            }
        }
    }

    fn scanned(body: &str) -> Result<RequestScan, ScanError> {
        let mut scan = RequestScan::new();
        scan.feed(body.as_bytes())?;
        scan.finish()?;
        Ok(scan)
    }
}
