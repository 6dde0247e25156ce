//! What a person is told when something does not work: a code, a cause, a
//! place and a fix.
//!
//! Invariant: a failure holds no secret, and may be printed wherever it ends.

use std::fmt;

use keyhaven_protocol::ErrorCode;
use serde::Serialize;

use crate::terminal::printable;

/// A failure a person sees: which one, what exactly happened, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: ErrorCode,
    detail: String,
    place: Option<String>,
    fix: Option<String>,
}

impl Failure {
    /// A failure of this kind. `detail` says what is particular to this one and
    /// may be empty; it must not hold secrets. What only repeats the code's cause is left out.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        let detail = Some(detail.into()).filter(|detail| detail != code.cause()).unwrap_or_default();
        Self { code, detail, place: None, fix: None }
    }

    /// Says where: a file with line and column, an address, a variable.
    pub fn at(self, place: impl Into<String>) -> Self {
        Self { place: Some(place.into()), ..self }
    }

    /// Replaces the code's fix by one that fits this case better.
    pub fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    /// Which kind of failure it is.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// The failure inside an error, with what was said around it on the way up.
    pub(crate) fn within(error: &anyhow::Error) -> Self {
        let mut around = Vec::new();
        for cause in error.chain() {
            if let Some(failure) = cause.downcast_ref::<Self>() {
                around.push(failure.detail.clone());
                around.retain(|part| !part.is_empty());
                return Self { detail: around.join(": "), ..failure.clone() };
            }
            around.push(cause.to_string());
        }
        Self::new(ErrorCode::Internal, format!("{error:#}"))
    }

    /// For people, in several lines.
    pub(crate) fn to_human(&self, colour: bool) -> String {
        let (on, off) = if colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let detail = printable(&self.detail);
        let colon = if detail.is_empty() { "" } else { ": " };

        let mut text = format!("{on}error[{}]{off}: {}{colon}{detail}\n", self.code, self.code.cause());
        if let Some(place) = &self.place {
            text.push_str(&format!("  where: {}\n", printable(place)));
        }
        text.push_str(&format!("  fix: {}\n", printable(self.fix_text())));
        text
    }

    /// For machines, in one line without its end.
    pub(crate) fn to_json(&self) -> String {
        let report = Report {
            schema: "keyhaven/error/v1",
            code: self.code.to_string(),
            cause: self.code.cause(),
            detail: &self.detail,
            place: self.place.as_deref(),
            fix: self.fix_text(),
            retryable: self.code.retryable(),
        };
        serde_json::to_string(&report).expect("strings and a bool always serialise")
    }

    fn fix_text(&self) -> &str {
        self.fix.as_deref().unwrap_or(self.code.fix())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.code.cause())?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        if let Some(place) = &self.place {
            write!(f, " ({place})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'a str,
    code: String,
    cause: &'a str,
    detail: &'a str,
    #[serde(rename = "where")]
    place: Option<&'a str>,
    fix: &'a str,
    retryable: bool,
}

/// The exit code of a command that ends with this.
pub(crate) fn exit_number(code: ErrorCode) -> u8 {
    use keyhaven_protocol::error_code::Exit;

    match code.exit() {
        Exit::Failure => 1,
        Exit::Usage => 2,
        Exit::Config => 3,
        Exit::Auth => 4,
        Exit::Network => 5,
        Exit::Integrity => 6,
        Exit::Policy => 7,
        Exit::Partial => 8,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;

    use super::*;

    #[test]
    fn a_failure_prints_its_cause_place_and_fix() {
        let failure = Failure::new(ErrorCode::PinMismatch, "saw ab12").at("hub.example:9010").fix("call the operator");

        let text = failure.to_human(false);

        assert_eq!(
            text,
            "error[KH-E1002]: the hub's key is not one of the pinned keys: saw ab12\n  \
             where: hub.example:9010\n  fix: call the operator\n"
        );
    }

    #[test]
    fn a_failure_without_detail_has_the_cause_and_the_fix_of_its_code() {
        let text = Failure::new(ErrorCode::NotJoined, "").to_human(false);

        let code = ErrorCode::NotJoined;
        assert_eq!(text, format!("error[KH-E1025]: {}\n  fix: {}\n", code.cause(), code.fix()));
    }

    #[test]
    fn only_the_word_error_and_its_code_are_coloured() {
        let text = Failure::new(ErrorCode::NotJoined, "").to_human(true);

        assert!(text.starts_with("\x1b[1;31merror[KH-E1025]\x1b[0m: "));
        assert_eq!(text.matches('\x1b').count(), 2);
    }

    #[test]
    fn a_failure_as_json_names_all_its_parts() {
        let json = Failure::new(ErrorCode::HubUnreachable, "timed out").to_json();

        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let code = ErrorCode::HubUnreachable;
        assert_eq!(
            value,
            serde_json::json!({
                "schema": "keyhaven/error/v1", "code": "KH-E1001", "cause": code.cause(), "detail": "timed out",
                "where": null, "fix": code.fix(), "retryable": true,
            })
        );
    }

    #[test]
    fn a_failure_is_found_under_the_context_that_was_put_around_it() {
        let failure = Failure::new(ErrorCode::DataDirUnusable, "disk full").at("/var/lib/keyhaven");
        let error = anyhow::Result::<()>::Err(failure.into()).context("write status.json").unwrap_err();

        let found = Failure::within(&error);

        assert_eq!(found.code(), ErrorCode::DataDirUnusable);
        assert_eq!(
            found.to_string(),
            format!(
                "KH-E5001: {}: write status.json: disk full (/var/lib/keyhaven)",
                ErrorCode::DataDirUnusable.cause()
            )
        );
    }

    #[test]
    fn an_error_that_nobody_named_is_internal_and_keeps_its_causes() {
        let error = anyhow::Error::from(io::Error::other("root")).context("outer");

        let found = Failure::within(&error);

        assert_eq!((found.code(), found.detail.as_str()), (ErrorCode::Internal, "outer: root"));
    }
}
