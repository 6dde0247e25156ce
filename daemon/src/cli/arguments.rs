//! The command line itself: parsing it, and what every program's flags have in common.
//!
//! Invariant: who asked for JSON gets JSON, even for a command line that is wrong.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use keyhaven_protocol::ErrorCode;

use crate::cli::Output;
use crate::cli::finish;
use crate::failure::Failure;
use crate::failure::exit_number;

/// This process's command line.
///
/// # Errors
/// The exit code, once help, version or what is wrong have been printed.
pub fn parse<C: clap::Parser>() -> Result<C, ExitCode> {
    let words: Vec<OsString> = std::env::args_os().collect();
    C::try_parse_from(&words).map_err(|error| match failure_for_machines(&error, &words) {
        Some(failure) => finish(Output::new(true), Err(failure.into())),
        None => {
            // The exit code tells the rest to whoever closed the stream.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit_number(ErrorCode::UsageInvalid)))
        }
    })
}

/// Reads one `--set`: a dotted field and its value.
///
/// # Errors
/// What was expected instead, for the person who typed it.
pub fn field_and_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(field, value)| (field.to_owned(), value.to_owned()))
        .ok_or_else(|| "expected FIELD=VALUE".to_owned())
}

/// The settings that `--set` and `--data-dir` make; the latter wins.
///
/// # Errors
/// A path that is not UTF-8.
pub fn settings_of_flags(set: &[(String, String)], data_dir: Option<&Path>) -> Result<Vec<(String, String)>, Failure> {
    let mut settings = set.to_vec();
    if let Some(dir) = data_dir {
        let malformed = || Failure::new(ErrorCode::UsageInvalid, "--data-dir is not valid UTF-8");
        settings.push(("data_dir".to_owned(), dir.to_str().ok_or_else(malformed)?.to_owned()));
    }
    Ok(settings)
}

/// What to tell a program that asked for JSON; `None` where the text is for people.
fn failure_for_machines(error: &clap::Error, words: &[OsString]) -> Option<Failure> {
    let asked = words.iter().skip(1).take_while(|word| *word != "--").any(|word| word == "--json");
    if !(asked && error.use_stderr()) {
        return None;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Some(Failure::new(ErrorCode::UsageInvalid, "a command is missing"));
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let detail: Vec<&str> = first.trim_start_matches("error:").split_whitespace().collect();
    let failure = Failure::new(ErrorCode::UsageInvalid, detail.join(" "));
    let tip = text.lines().find_map(|line| line.trim_start().strip_prefix("tip: "));
    Some(match tip {
        Some(tip) => failure.fix(tip),
        None => failure,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Sample {
        #[arg(long)]
        json: bool,
        #[arg(long)]
        name: String,
    }

    #[test]
    fn a_wrong_call_is_told_to_machines_as_they_asked() {
        let misspelt = told(&["sample", "--json", "--nime", "x"]).unwrap();
        let missing = told(&["sample", "--json"]).unwrap();

        assert_eq!(misspelt.code(), ErrorCode::UsageInvalid);
        assert!(misspelt.to_string().ends_with("unexpected argument '--nime' found"), "{misspelt}");
        assert!(misspelt.to_json().contains("a similar argument exists: '--name'"), "{}", misspelt.to_json());
        let detail = "the following required arguments were not provided: --name <NAME>";
        assert!(missing.to_string().ends_with(detail), "{missing}");
    }

    #[test]
    fn people_and_those_who_ask_for_help_get_text() {
        for words in [&["sample", "--nime"][..], &["sample", "--json", "--help"], &["sample", "--nime", "--", "--json"]]
        {
            assert_eq!(told(words), None, "{words:?}");
        }
    }

    #[test]
    fn the_data_directory_wins_over_what_was_set() {
        let set = vec![field_and_value("data_dir=/a=b").unwrap()];

        let settings = settings_of_flags(&set, Some(Path::new("/c"))).unwrap();

        assert_eq!(settings, [("data_dir", "/a=b"), ("data_dir", "/c")].map(|(f, v)| (f.to_owned(), v.to_owned())));
        assert!(field_and_value("data_dir").is_err());
    }

    fn told(words: &[&str]) -> Option<Failure> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let error = Sample::command().try_get_matches_from(&words).unwrap_err();
        failure_for_machines(&error, &words)
    }
}
