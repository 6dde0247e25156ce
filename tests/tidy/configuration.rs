//! The page of the configuration, made from the commented files in `etc/`.
//!
//! Invariant: every field of the code's defaults is on the page, and so is every environment
//! variable that a program reads.

use keyhaven_protocol::ErrorCode;
use serde_json::Value;

use super::generated::check;
use super::generated::code;
use super::generated::table;
use super::report;
use super::source::read;
use super::source::sources;

const PAGE: &str = "docs/CONFIGURATION.md";

#[test]
fn every_field_is_on_the_page_with_its_default() {
    let hub = serde_json::to_value(keyhaven_hub::config::Config::default()).expect("a configuration is JSON");
    let agent = serde_json::to_value(keyhaven_agent::config::Config::default()).expect("a configuration is JSON");
    let mut findings = Vec::new();
    for (name, file, defaults) in [("hub", "etc/hub.yaml", hub), ("agent", "etc/agent.yaml", agent)] {
        let fields = commented(&read(file));
        for leaf in leaves("", &defaults) {
            if !fields.iter().any(|field| field.path == leaf) {
                findings.push(format!("{file}:1: {leaf} is missing; give it a comment with unit and default"));
            }
        }
        check(PAGE, name, &page(&fields), &mut findings);
    }
    report("docs/CONFIGURATION.md is made from etc/*.yaml, and these name every field.", &findings);
}

#[test]
fn every_environment_variable_is_on_the_page() {
    let text = read(PAGE);
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.is_shipped()) {
        for (line, name) in source.shipped_literals().filter(|(_, name)| is_variable(name)) {
            if !text.contains(&code(name)) {
                findings.push(format!("{}:{line}: {name} is not in {PAGE}; say what it does", source.path));
            }
        }
    }
    report("Nothing is read from the environment in secret.", &findings);
}

#[test]
fn the_error_codes_of_the_configuration_are_on_the_page() {
    let text = read(PAGE);
    let wrong = [ErrorCode::ConfigUnreadable, ErrorCode::ConfigInvalid, ErrorCode::ConfigVariableMissing];
    let findings: Vec<String> = wrong
        .iter()
        .filter(|error| !text.contains(&error.to_string()))
        .map(|error| format!("{PAGE}:1: {error} is not named"))
        .collect();
    report("Who misconfigures finds out how.", &findings);
}

/// A field or a section of a commented file.
struct Field {
    path: String,
    /// Empty for a section.
    default: String,
    comment: String,
}

/// The fields of a file of two levels, each with the comment right above it.
fn commented(text: &str) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut section = String::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut shared = String::new();
    for line in text.lines() {
        let inner = line.trim_start();
        if let Some(words) = inner.strip_prefix('#') {
            comment.push(words.trim());
        } else if let Some((name, default)) = inner.split_once(':') {
            let path = if inner.len() == line.len() { name.to_owned() } else { format!("{section}.{name}") };
            let default = default.trim().to_owned();
            if default.is_empty() {
                section.clone_from(&path);
            }
            // Fields that follow each other without a comment share the one above them.
            let own = std::mem::take(&mut comment);
            let words = if own.is_empty() { shared.clone() } else { own.join(" ").trim().to_owned() };
            shared.clone_from(&words);
            fields.push(Field { path, default, comment: words });
        } else {
            comment.clear();
            shared.clear();
        }
    }
    fields
}

fn page(fields: &[Field]) -> String {
    let row = |field: &Field| [code(&field.path), code(&field.default), field.comment.clone()];
    let mut out = String::new();
    let (top, sections): (Vec<&Field>, Vec<&Field>) =
        fields.iter().partition(|field| !field.path.contains('.') && !field.default.is_empty());
    out += &table(["field", "default", "meaning"], top.into_iter().map(row));
    for section in sections.iter().filter(|field| field.default.is_empty()) {
        let inside = format!("{}.", section.path);
        let rows = sections.iter().filter(|field| field.path.starts_with(&inside));
        out += &format!("\n{}: {}\n\n", code(&section.path), section.comment);
        out += &table(["field", "default", "meaning"], rows.map(|field| row(field)));
    }
    out
}

fn leaves(prefix: &str, value: &Value) -> Vec<String> {
    let Value::Object(fields) = value else { return vec![prefix.to_owned()] };
    let dotted = |name: &String| if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
    fields.iter().flat_map(|(name, value)| leaves(&dotted(name), value)).collect()
}

fn is_variable(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    text.strip_prefix("KEYHAVEN_").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(plain))
}
