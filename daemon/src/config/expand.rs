//! `${NAME}` in the values of a file.
//!
//! Invariant: a variable's value is never parsed as YAML; it can become a
//! number or a boolean, but not a key, a list or another variable.

use super::ConfigError;
use super::place_in;
use super::yaml::Content;
use super::yaml::Node;
use std::path::Path;

/// Why values could not be expanded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExpandFault {
    /// Names that are not set, with line and column of their use.
    Missing(Vec<(String, u64, u64)>),
    /// `${` that begins no variable.
    Malformed { line: u64, column: u64 },
}

impl ExpandFault {
    pub(super) fn in_file(self, path: &Path) -> ConfigError {
        match self {
            Self::Missing(uses) => {
                let first = uses.first().map(|(_, line, column)| place_in(path, *line, *column));
                let missing = uses.into_iter().map(|(name, line, _)| (name, line)).collect();
                ConfigError::VariablesMissing { place: first.unwrap_or_default(), missing }
            }
            Self::Malformed { line, column } => ConfigError::Syntax {
                place: place_in(path, line, column),
                message: "`${` begins a variable such as `${NAME}`; write `$${` for the text itself".to_owned(),
            },
        }
    }
}

/// Replaces every `${NAME}` below `node`. A plain value that is nothing but one
/// variable takes the type its text looks like; any other becomes text.
/// `$${` stands for `${`.
pub(super) fn expand(node: &mut Node, env: &dyn Fn(&str) -> Option<String>) -> Result<(), ExpandFault> {
    let mut missing = Vec::new();
    expand_node(node, env, &mut missing)?;

    if missing.is_empty() { Ok(()) } else { Err(ExpandFault::Missing(missing)) }
}

type Missing = Vec<(String, u64, u64)>;

fn expand_node(
    node: &mut Node,
    env: &dyn Fn(&str) -> Option<String>,
    missing: &mut Missing,
) -> Result<(), ExpandFault> {
    let (line, column) = (node.line, node.column);
    match &mut node.content {
        Content::List(items) => items.iter_mut().try_for_each(|item| expand_node(item, env, missing)),
        Content::Map(entries) => entries.iter_mut().try_for_each(|entry| expand_node(&mut entry.value, env, missing)),
        Content::Scalar { text, literal } => {
            if !text.contains("${") {
                return Ok(());
            }
            let parts = split(text).ok_or(ExpandFault::Malformed { line, column })?;
            *literal |= !matches!(parts[..], [Part::Variable(_)]);
            *text = join(&parts, env, |name| missing.push((name.to_owned(), line, column)));
            Ok(())
        }
    }
}

enum Part<'t> {
    Text(&'t str),
    Variable(&'t str),
}

fn split(text: &str) -> Option<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from_mark) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            parts.push(Part::Text(before));
            parts.push(Part::Text("${"));
            rest = &from_mark[2..];
            continue;
        }
        let (name, after) = from_mark[2..].split_once('}')?;
        if !is_name(name) {
            return None;
        }
        if !before.is_empty() {
            parts.push(Part::Text(before));
        }
        parts.push(Part::Variable(name));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    Some(parts)
}

fn is_name(name: &str) -> bool {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');

    starts_well && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn join(parts: &[Part<'_>], env: &dyn Fn(&str) -> Option<String>, mut missing: impl FnMut(&str)) -> String {
    let mut joined = String::new();
    for part in parts {
        match part {
            Part::Text(text) => joined.push_str(text),
            Part::Variable(name) => match env(name) {
                Some(value) => joined.push_str(&value),
                None => missing(name),
            },
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml::parse;

    #[test]
    fn a_value_that_is_one_variable_is_typed_again_and_others_are_text() {
        let cases = [
            ("${PORT}", "9000", false),
            ("\"${PORT}\"", "9000", true),
            ("${HOST}:${PORT}", "hub:9000", true),
            ("1${PORT}", "19000", true),
            ("$${PORT}", "${PORT}", true),
            ("a$${b}${HOST}", "a${b}hub", true),
            ("$PORT and {PORT}", "$PORT and {PORT}", false),
            ("${NESTED}", "${HOST}", false),
        ];
        for (yaml, text, literal) in cases {
            assert_eq!(expanded(yaml), Ok((text.to_owned(), literal)), "{yaml}");
        }
    }

    #[test]
    fn all_missing_names_are_reported_together() {
        let mut root = parse("a: ${ONE}\nb:\n  - x${TWO}\nc: ${HOST}\n").unwrap().unwrap();

        let fault = expand(&mut root, &env).unwrap_err();

        assert_eq!(fault, ExpandFault::Missing(vec![("ONE".to_owned(), 1, 4), ("TWO".to_owned(), 3, 5)]));
    }

    #[test]
    fn a_mark_that_begins_no_variable_is_an_error() {
        for yaml in ["'${'", "'${}'", "'${A B}'", "'${1A}'", "'a ${HOST'"] {
            assert!(matches!(expanded(yaml), Err(ExpandFault::Malformed { line: 1, column: 4 })), "{yaml}");
        }
    }

    #[test]
    fn comments_and_keys_are_never_expanded() {
        let mut root = parse("# ${ABSENT}\n'${ABSENT}': 1 # ${ABSENT}\n").unwrap().unwrap();

        assert_eq!(expand(&mut root, &env), Ok(()));
    }

    fn expanded(value: &str) -> Result<(String, bool), ExpandFault> {
        let mut root = parse(&format!("a: {value}\n")).unwrap().unwrap();
        expand(&mut root, &env)?;
        let Content::Map(entries) = root.content else { panic!("not a mapping") };
        let Some(Content::Scalar { text, literal }) = entries.into_iter().next().map(|entry| entry.value.content)
        else {
            panic!("not a scalar")
        };
        Ok((text, literal))
    }

    fn env(name: &str) -> Option<String> {
        let value = match name {
            "HOST" => "hub",
            "PORT" => "9000",
            "NESTED" => "${HOST}",
            _ => return None,
        };
        Some(value.to_owned())
    }
}
