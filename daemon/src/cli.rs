//! What a person sees of a command: its answer, or its failure with a code, a
//! cause, a place and a fix.
//!
//! Invariant: the answer alone goes to standard output; control characters
//! from elsewhere never reach a terminal.

use crate::config::ConfigError;
use crate::telemetry::TelemetryError;
use keyhaven_protocol::ErrorCode;
use serde::Serialize;
use std::fmt;
use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::process::ExitCode;

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

    fn fix_text(&self) -> &str {
        self.fix.as_deref().unwrap_or(self.code.fix())
    }

    fn to_human(&self, colour: bool) -> String {
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

    fn to_json(&self) -> String {
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

/// Where a command's answer goes, and in which form.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// For machines if `json`, else for people.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether the answer is for machines.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints the command's answer to standard output: `human`'s text, or one
    /// line of JSON with the schema `keyhaven/<schema>/v1` before the fields of
    /// `value`. A value without fields goes under `items`.
    ///
    /// # Errors
    /// Standard output cannot be written, unless its reader merely went away.
    pub fn emit<T: Serialize>(&self, schema: &str, value: &T, human: impl FnOnce() -> String) -> io::Result<()> {
        let mut text = if self.json { with_schema(schema, value)? } else { human() };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        print(text.as_bytes())
    }

    /// Says something beside the answer, to people only.
    pub fn note(&self, line: &str) {
        if !self.json {
            // Nobody can be told that nobody can be told.
            let _ = writeln!(io::stderr().lock(), "{}", printable(line));
        }
    }
}

/// Ends a command: prints its failure, if any, and gives the exit code.
pub fn finish(output: Output, result: Result<(), anyhow::Error>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };

    let failure = failure_in(&error);
    let text = if output.is_json() { failure.to_json() + "\n" } else { failure.to_human(stderr_takes_colour()) };
    // The exit code tells the rest to whoever closed standard error.
    let _ = io::stderr().lock().write_all(text.as_bytes());
    ExitCode::from(exit_number(failure.code))
}

/// The `explain` command: one code, or all of them.
///
/// # Errors
/// A code that does not exist, or an output that cannot be written.
pub fn explain(output: Output, code: Option<&str>) -> anyhow::Result<()> {
    let Some(text) = code else {
        let all: Vec<Explanation> = ErrorCode::ALL.iter().copied().map(Explanation::of).collect();
        output
            .emit("error-codes", &all, || all.iter().map(|one| format!("{}  {}\n", one.code, one.cause)).collect())?;
        return Ok(());
    };

    let code: ErrorCode = text.parse().map_err(|unknown| Failure::new(ErrorCode::CodeUnknown, format!("{unknown}")))?;
    let explanation = Explanation::of(code);
    output.emit("error-code", &explanation, || explanation.to_human())?;
    Ok(())
}

#[derive(Serialize)]
struct Explanation {
    code: String,
    cause: &'static str,
    fix: &'static str,
    retryable: bool,
    exit: u8,
}

impl Explanation {
    fn of(code: ErrorCode) -> Self {
        Self {
            code: code.to_string(),
            cause: code.cause(),
            fix: code.fix(),
            retryable: code.retryable(),
            exit: exit_number(code),
        }
    }

    fn to_human(&self) -> String {
        let retryable = if self.retryable { "yes" } else { "no" };

        format!(
            "{}: {}\n  fix: {}\n  the same may succeed later, unchanged: {retryable}\n  exit code: {}\n",
            self.code, self.cause, self.fix, self.exit
        )
    }
}

/// Rows under headers, in columns without borders.
pub fn table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(headers.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Prints the completion script of command `C` for `shell`.
///
/// # Errors
/// Standard output cannot be written, unless its reader merely went away.
pub fn completions<C: clap::CommandFactory>(shell: clap_complete::Shell) -> io::Result<()> {
    let mut command = C::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&script)
}

/// Whether colour on standard error is welcome: a terminal that shows colours,
/// and a person who did not decline (<https://no-color.org>).
pub(crate) fn stderr_takes_colour() -> bool {
    let declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");

    io::stderr().is_terminal() && !declined && !dumb
}

fn print(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // `... | head -1` has all it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Splices the schema in textually, so that fields keep the order they have in
/// the type.
fn with_schema<T: Serialize>(schema: &str, value: &T) -> io::Result<String> {
    let body = serde_json::to_string(value)?;
    let schema = serde_json::to_string(&format!("keyhaven/{schema}/v1"))?;

    Ok(match body.strip_prefix('{') {
        Some("}") => format!("{{\"schema\":{schema}}}"),
        Some(fields) => format!("{{\"schema\":{schema},{fields}"),
        None => format!("{{\"schema\":{schema},\"items\":{body}}}"),
    })
}

/// The failure inside an error, with what was said around it on the way up.
fn failure_in(error: &anyhow::Error) -> Failure {
    let mut around = Vec::new();
    for cause in error.chain() {
        let known = cause
            .downcast_ref::<Failure>()
            .cloned()
            .or_else(|| cause.downcast_ref::<ConfigError>().map(Failure::from))
            .or_else(|| cause.downcast_ref::<TelemetryError>().map(Failure::from));
        if let Some(mut failure) = known {
            around.push(std::mem::take(&mut failure.detail));
            around.retain(|part| !part.is_empty());
            failure.detail = around.join(": ");
            return failure;
        }
        around.push(cause.to_string());
    }
    Failure::new(ErrorCode::Internal, format!("{error:#}"))
}

impl From<&TelemetryError> for Failure {
    fn from(error: &TelemetryError) -> Self {
        let code = match error {
            TelemetryError::Level { .. } => ErrorCode::ConfigInvalid,
            TelemetryError::AlreadySet => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<TelemetryError> for Failure {
    fn from(error: TelemetryError) -> Self {
        Self::from(&error)
    }
}

fn exit_number(code: ErrorCode) -> u8 {
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

/// Text from elsewhere must not move the cursor, set titles or hide itself.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use clap::CommandFactory;

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
    fn text_from_elsewhere_cannot_drive_the_terminal() {
        let text = Failure::new(ErrorCode::LinkProtocol, "\x1b]0;owned\x07 and \r gone").to_human(false);

        assert!(!text.contains(['\x1b', '\x07', '\r']));
        assert!(!table(&["name"], vec![vec!["\x1b[2Jagent".to_owned()]]).contains('\x1b'));
    }

    #[test]
    fn a_failure_is_found_under_the_context_that_was_put_around_it() {
        let failure = Failure::new(ErrorCode::DataDirUnusable, "disk full").at("/var/lib/keyhaven");
        let error = anyhow::Result::<()>::Err(failure.into()).context("write status.json").unwrap_err();

        let found = failure_in(&error);

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

        let found = failure_in(&error);

        assert_eq!((found.code(), found.detail.as_str()), (ErrorCode::Internal, "outer: root"));
    }

    #[test]
    fn an_answer_carries_its_schema_before_its_fields() {
        #[derive(Serialize)]
        struct Answer {
            zebra: u8,
            ant: u8,
        }
        #[derive(Serialize)]
        struct Nothing {}

        assert_eq!(
            with_schema("agent", &Answer { zebra: 1, ant: 2 }).unwrap(),
            r#"{"schema":"keyhaven/agent/v1","zebra":1,"ant":2}"#
        );
        assert_eq!(with_schema("agents", &[1, 2]).unwrap(), r#"{"schema":"keyhaven/agents/v1","items":[1,2]}"#);
        assert_eq!(with_schema("none", &Nothing {}).unwrap(), r#"{"schema":"keyhaven/none/v1"}"#);
    }

    #[test]
    fn a_table_has_aligned_columns_and_no_trailing_blanks() {
        let text = table(
            &["id", "name"],
            vec![vec!["1".to_owned(), "alpha".to_owned()], vec!["22".to_owned(), "b".to_owned()]],
        );

        assert_eq!(text, "id  name\n1   alpha\n22  b");
    }

    #[test]
    fn every_code_is_explained_and_no_other() {
        for code in ErrorCode::ALL {
            let explanation = Explanation::of(*code);
            assert!((1..=8).contains(&explanation.exit));
            assert!(explanation.to_human().contains(code.fix()));
        }

        let error = explain(Output::new(true), Some("KH-E0000")).unwrap_err();

        assert_eq!(failure_in(&error).code(), ErrorCode::CodeUnknown);
    }

    #[test]
    fn a_wrong_call_ends_with_the_exit_code_for_usage() {
        #[derive(Debug, clap::Parser)]
        struct Command {}

        let error = Command::command().try_get_matches_from(["command", "--nonsense"]).unwrap_err();

        assert_eq!(error.exit_code(), i32::from(exit_number(ErrorCode::UsageInvalid)));
    }
}
