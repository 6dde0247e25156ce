//! What a person sees of a command: its answer, or its failure with a code, a
//! cause, a place and a fix.
//!
//! Invariant: the answer alone goes to standard output; control characters
//! from elsewhere never reach a terminal.

mod arguments;
mod confirm;
mod settings;

use std::io;
use std::io::Write;
use std::process::ExitCode;

use keyhaven_protocol::ErrorCode;
use serde::Serialize;

use crate::failure::Failure;
use crate::failure::exit_number;
use crate::terminal::printable;
use crate::terminal::stderr_takes_colour;

pub use arguments::field_and_value;
pub use arguments::parse;
pub use arguments::settings_of_flags;
pub use confirm::confirm;
pub use confirm::somebody_answers;
pub use settings::config_checked;
pub use settings::config_shown;

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

    let failure = Failure::within(&error);
    let text = if output.is_json() { failure.to_json() + "\n" } else { failure.to_human(stderr_takes_colour()) };
    // The exit code tells the rest to whoever closed standard error.
    let _ = io::stderr().lock().write_all(text.as_bytes());
    ExitCode::from(exit_number(failure.code()))
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn text_from_elsewhere_cannot_drive_the_terminal() {
        let text = Failure::new(ErrorCode::LinkProtocol, "\x1b]0;owned\x07 and \r gone").to_human(false);

        assert!(!text.contains(['\x1b', '\x07', '\r']));
        assert!(!table(&["name"], vec![vec!["\x1b[2Jagent".to_owned()]]).contains('\x1b'));
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

        assert_eq!(Failure::within(&error).code(), ErrorCode::CodeUnknown);
    }

    #[test]
    fn a_wrong_call_ends_with_the_exit_code_for_usage() {
        #[derive(Debug, clap::Parser)]
        struct Command {}

        let error = Command::command().try_get_matches_from(["command", "--nonsense"]).unwrap_err();

        assert_eq!(error.exit_code(), i32::from(exit_number(ErrorCode::UsageInvalid)));
    }
}
