//! Whether a value is what its field takes.
//!
//! Invariant: a value is judged by its kind and, where it is short enough to be kept
//! whole, by its text; nothing else of it is looked at.

use super::error::ScanError;
use crate::json_scan::Event;
use crate::provider::policy::field::Takes;
use crate::provider::policy::field::Why;

/// The longest name of a model.
pub const MODEL_BYTES_MAX: usize = 256;

const MODEL_EXPECTED: &str = "a string of 1 to 256 visible ASCII characters";

/// Why a value does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Misfit {
    /// It should be something else.
    Expected(String),
    /// It is not served.
    Refused(Why),
}

impl Misfit {
    pub(super) fn of(self, name: &str) -> ScanError {
        match self {
            Self::Expected(expected) => ScanError::BadValue { key: name.to_owned(), expected },
            Self::Refused(why) => ScanError::Refused { name: name.to_owned(), why },
        }
    }
}

/// Judges a value in JSON. `null` is as good as absent, but for the model.
pub(super) fn fits(takes: Takes, event: &Event<'_>) -> Result<(), Misfit> {
    let right = match (takes, event) {
        (Takes::Model, Event::String(text)) => text.as_str().is_some_and(is_model),
        (Takes::Model, _) => false,
        (_, Event::Null) | (Takes::Any(_), _) | (Takes::Object(_), Event::ObjectStart) => true,
        (Takes::Nothing(why), _) | (Takes::False(why), Event::Bool(true)) => return Err(Misfit::Refused(why)),
        (Takes::Stream, Event::Bool(_)) | (Takes::False(_), Event::Bool(false)) | (Takes::Text, Event::String(_)) => {
            true
        }
        (Takes::Whole(least, most), Event::Number(text)) => {
            text.as_str().is_some_and(|text| in_range(text, least, most))
        }
        (Takes::OneOf(list), Event::String(text)) => text.as_str().is_some_and(|text| list.contains(&text)),
        (Takes::Stream | Takes::False(_) | Takes::Text | Takes::Whole(..) | Takes::OneOf(_) | Takes::Object(_), _) => {
            false
        }
    };
    if right { Ok(()) } else { Err(Misfit::Expected(expected(takes))) }
}

/// Judges a value in a form, where all is text; `None` is one too long to be kept.
pub(super) fn fits_text(takes: Takes, text: Option<&str>) -> Result<(), Misfit> {
    let is = |test: &dyn Fn(&str) -> bool| text.is_some_and(test);
    let right = match takes {
        Takes::Any(_) | Takes::Text => true,
        Takes::Object(_) => false,
        Takes::Model => is(&is_model),
        Takes::Stream => is(&|text| text == "true" || text == "false"),
        Takes::Whole(least, most) => is(&|text| in_range(text, least, most)),
        Takes::OneOf(list) => is(&|text| list.contains(&text)),
        Takes::False(_) if is(&|text| text == "false") => true,
        Takes::False(why) | Takes::Nothing(why) => return Err(Misfit::Refused(why)),
    };
    if right { Ok(()) } else { Err(Misfit::Expected(expected(takes))) }
}

fn is_model(name: &str) -> bool {
    (1..=MODEL_BYTES_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A whole number, as it is written: no sign, no point, no exponent, no leading zero.
fn in_range(text: &str, least: u64, most: u64) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain && text.parse().is_ok_and(|number: u64| (least..=most).contains(&number))
}

fn expected(takes: Takes) -> String {
    match takes {
        Takes::Model => MODEL_EXPECTED.to_owned(),
        Takes::Stream => "true, false or null".to_owned(),
        Takes::Text => "a string".to_owned(),
        Takes::Whole(least, most) => format!("a whole number from {least} to {most}"),
        Takes::OneOf(list) => format!("one of {}", list.join(", ")),
        Takes::False(_) => "false".to_owned(),
        Takes::Nothing(_) => "left out".to_owned(),
        Takes::Any(_) => "a value".to_owned(),
        Takes::Object(_) => "an object or null".to_owned(),
    }
}
