//! What routing and policy must know of a request's body, read from the bytes as they pass.
//!
//! Invariant: a field that routing relies on stands once at the top level, with
//! a value of its type, or the request is refused; no byte is changed.

mod content_type;
mod multipart;
mod params;
mod part_head;

use content_type::Form;
use content_type::form;
use http::HeaderValue;
use multipart::MultipartScan;
use multipart::PartEvent;

use crate::ErrorCode;
use crate::json_scan::Event;
use crate::json_scan::JsonError;
use crate::json_scan::JsonScan;
use crate::json_scan::Text;
use crate::provider::endpoint::BodyKind;
use crate::provider::endpoint::Endpoint;
use crate::provider::policy::FINE_TUNED;
use crate::provider::policy::is_fine_tuned;
use crate::provider::route::Candidate;

/// The longest name of a model.
pub const MODEL_BYTES_MAX: usize = 256;

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
    /// A model that belongs to the owner's account.
    #[error("{}", FINE_TUNED)]
    FineTuned,
    /// The endpoint does not take a body of this content type.
    #[error("the content type must be {expected}")]
    ContentType {
        /// What it should be.
        expected: &'static str,
    },
    /// A form without one plain boundary.
    #[error("`multipart/form-data` needs one `boundary` of 1 to 70 plain characters, and no other parameter")]
    Boundary,
    /// Something that is not as it must be.
    #[error("malformed: {what}")]
    Malformed {
        /// What.
        what: &'static str,
    },
    /// A body where there must be none.
    #[error("this endpoint takes no body")]
    BodyUnexpected,
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
        match self {
            Self::FineTuned => ErrorCode::FieldRefused,
            Self::ContentType { .. } => ErrorCode::MediaTypeUnsupported,
            Self::Json(_)
            | Self::NotAnObject
            | Self::DuplicateKey { .. }
            | Self::Boundary
            | Self::Malformed { .. }
            | Self::BodyUnexpected
            | Self::BadValue { .. } => ErrorCode::RequestMalformed,
        }
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
#[derive(Debug, Clone)]
pub struct RequestScan {
    reader: Reader,
    found: Found,
    failed: Option<ScanError>,
}

/// How the body is read.
#[derive(Debug, Clone)]
enum Reader {
    Nothing,
    Json(Box<JsonScan>),
    Multipart(MultipartScan, Part),
}

/// The part of a form that is being read.
#[derive(Debug, Clone, Default)]
struct Part {
    field: Option<Field>,
    /// Its content so far, at most one byte beyond [`MODEL_BYTES_MAX`].
    value: Vec<u8>,
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
    /// A scan of a body for this endpoint.
    ///
    /// # Errors
    /// When the endpoint does not take a body of this content type.
    pub fn new(endpoint: Endpoint, content_type: Option<&HeaderValue>) -> Result<Self, ScanError> {
        Self::of(endpoint.body(), content_type)
    }

    /// A scan while several endpoints may still be meant: only the model says which. It
    /// refuses what all of them refuse; call [`Self::agree`] as soon as the one is known.
    ///
    /// # Errors
    /// When the endpoints do not take a body of this content type.
    pub fn for_candidates(candidates: &[Candidate], content_type: Option<&HeaderValue>) -> Result<Self, ScanError> {
        let first = candidates.first().map_or(BodyKind::Empty, |candidate| candidate.endpoint.body());
        Self::of(first, content_type)
    }

    /// Says which of the candidates is meant. From now on the scan judges as one made for
    /// that endpoint alone; what was read before is judged here.
    ///
    /// # Errors
    /// When the endpoint refuses what was read before.
    pub fn agree(&mut self, _endpoint: Endpoint) -> Result<(), ScanError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn of(body: BodyKind, content_type: Option<&HeaderValue>) -> Result<Self, ScanError> {
        let reader = match form(body, content_type)? {
            Form::Nothing => Reader::Nothing,
            Form::Json => Reader::Json(Box::default()),
            Form::Multipart(boundary) => Reader::Multipart(MultipartScan::new(&boundary), Part::default()),
        };
        Ok(Self { reader, found: Found::default(), failed: None })
    }

    /// Reads the next bytes of the body.
    ///
    /// # Errors
    /// When the request must be refused; from then on always.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        let Self { reader, found, failed } = self;
        once(failed, || match reader {
            Reader::Nothing if bytes.is_empty() => Ok(()),
            Reader::Nothing => Err(ScanError::BodyUnexpected),
            Reader::Json(json) => scan(found, |visit| json.feed(bytes, visit)),
            Reader::Multipart(form, part) => form.feed(bytes, |event| found.part(part, event)),
        })
    }

    /// Says that the body has ended.
    ///
    /// # Errors
    /// When it is not complete, or was refused before.
    pub fn finish(&mut self) -> Result<(), ScanError> {
        let Self { reader, found, failed } = self;
        once(failed, || match reader {
            Reader::Nothing => Ok(()),
            Reader::Json(json) => scan(found, |visit| json.finish(visit)),
            Reader::Multipart(form, _) => form.finish(),
        })
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

/// Makes a refusal final.
fn once(failed: &mut Option<ScanError>, read: impl FnOnce() -> Result<(), ScanError>) -> Result<(), ScanError> {
    if let Some(error) = failed {
        return Err(error.clone());
    }
    let result = read();
    *failed = result.clone().err();
    result
}

type Visit<'a> = dyn FnMut(u32, Event<'_>) + 'a;

/// Runs the reader with a visitor that keeps the first refusal. What the
/// visitor refused came before what the reader refused.
fn scan(found: &mut Found, read: impl FnOnce(&mut Visit<'_>) -> Result<(), JsonError>) -> Result<(), ScanError> {
    let mut refusal = Ok(());
    let outcome = read(&mut |depth, event| {
        if refusal.is_ok() {
            refusal = found.take(depth, event);
        }
    });
    refusal.and(outcome.map_err(ScanError::from))
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
        self.awaited = Field::ALL.into_iter().find(|field| key.is(field.key()));
        self.awaited.map_or(Ok(()), |field| self.see(field))
    }

    fn see(&mut self, field: Field) -> Result<(), ScanError> {
        if self.seen.contains(&field) {
            return Err(ScanError::DuplicateKey { key: field.key() });
        }
        self.seen.push(field);
        Ok(())
    }

    fn value(&mut self, field: Field, event: Event<'_>) -> Result<(), ScanError> {
        match (field, event) {
            (Field::Model, Event::String(text)) => {
                let name = text.as_str().ok_or_else(|| field.bad_value())?;
                self.model = Some(model(name)?);
            }
            (Field::Stream, Event::Bool(stream)) => self.stream = Some(stream),
            (Field::Stream, Event::Null) => self.stream = None,
            (Field::Model | Field::Stream, _) => return Err(field.bad_value()),
        }
        Ok(())
    }
}

impl Found {
    fn part(&mut self, part: &mut Part, event: PartEvent<'_>) -> Result<(), ScanError> {
        match event {
            PartEvent::Begin(head) => {
                let base = head.name.split('[').next().unwrap_or_default();
                part.field = Field::ALL.into_iter().find(|field| field.key() == base);
                part.value.clear();
                let Some(field) = part.field else { return Ok(()) };
                if head.is_file || head.name != field.key() {
                    return Err(field.bad_value());
                }
                self.see(field)
            }
            PartEvent::Data(data) => {
                let room = (MODEL_BYTES_MAX + 1).saturating_sub(part.value.len()).min(data.len());
                if part.field.is_some() {
                    part.value.extend_from_slice(data.get(..room).unwrap_or_default());
                }
                Ok(())
            }
            PartEvent::End => part.field.take().map_or(Ok(()), |field| self.text(field, &part.value)),
        }
    }

    fn text(&mut self, field: Field, value: &[u8]) -> Result<(), ScanError> {
        match (field, std::str::from_utf8(value)) {
            (Field::Model, Ok(name)) => self.model = Some(model(name)?),
            (Field::Stream, Ok("true")) => self.stream = Some(true),
            (Field::Stream, Ok("false")) => self.stream = Some(false),
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

fn model(name: &str) -> Result<String, ScanError> {
    let fits = (1..=MODEL_BYTES_MAX).contains(&name.len());
    if !fits || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Field::Model.bad_value());
    }
    if is_fine_tuned(name) { Err(ScanError::FineTuned) } else { Ok(name.to_owned()) }
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
        let mut scan = RequestScan::new(Endpoint::OpenAiChat, None).unwrap();

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
        let mut scan = RequestScan::new(Endpoint::OpenAiChat, None).unwrap();
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

            let mut pieces = RequestScan::new(Endpoint::OpenAiChat, None).unwrap();
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
        let mut scan = RequestScan::new(Endpoint::OpenAiChat, None).unwrap();
        scan.feed(body.as_bytes())?;
        scan.finish()?;
        Ok(scan)
    }
}
