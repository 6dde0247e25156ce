//! What a file looks like: its header, its imports, its name, its length.
//!
//! Invariant: these rules hold for every Rust file of the workspace, tests included.

use super::report;
use super::source::Source;
use super::source::paths;
use super::source::sources;

/// A file past this has a second job to give away.
const LINES_MAX: usize = 600;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "shared", "stuff"];

#[test]
fn every_file_says_its_job_and_its_invariant_first() {
    let mut findings = Vec::new();
    for source in sources() {
        let header: Vec<&str> = source.text.lines().take_while(|line| line.starts_with("//!")).collect();
        if header.is_empty() {
            findings.push(format!("{}:1: begin with `//!` and the file's job in one sentence", source.path));
        } else if !header.iter().any(|line| line.starts_with("//! Invariant: ")) {
            findings.push(format!(
                "{}:{}: say in the header, as `//! Invariant: ...`, what always holds here",
                source.path,
                header.len()
            ));
        }
    }
    report("A stranger opens one file and knows what it does.", &findings);
}

#[test]
fn one_import_per_line_and_no_globs() {
    let mut findings = Vec::new();
    for source in sources() {
        for (line, code) in source.all_code() {
            let Some(path) = imported(code) else { continue };
            if path.contains('{') || !path.ends_with(';') || path.matches(';').count() > 1 {
                findings.push(format!("{}:{line}: write one `use a::b::Name;` per line, without braces", source.path));
            } else if path.ends_with("::*;") && !source.is_test(line) {
                findings.push(format!("{}:{line}: name what is used; `use super::*;` is for tests only", source.path));
            }
        }
    }
    report("Imports can be read and checked line by line.", &findings);
}

#[test]
fn a_module_shows_names_of_its_own_children_only() {
    let mut findings = Vec::new();
    for source in sources() {
        let is_lib = source.path.ends_with("/lib.rs");
        for (line, code) in source.all_code() {
            let is_public =
                code.trim_start().starts_with("pub use ") || code.trim_start().starts_with("pub(crate) use ");
            let Some(path) = imported(code).filter(|_| is_public) else { continue };
            let first = path.split("::").next().unwrap_or_default();
            if !(is_lib || has_child(&source, first)) {
                findings.push(format!("{}:{line}: only lib.rs, and a module for its own children, may re-export; name {path} where it is used", source.path));
            }
        }
    }
    report("A name has one place.", &findings);
}

#[test]
fn no_file_is_named_after_nothing() {
    let named = |path: &String| {
        let name = path.rsplit('/').next().unwrap_or_default();
        let stem = name.split('.').next().unwrap_or_default();
        let folders = path.rsplit('/').skip(1);
        path.ends_with(".rs") && std::iter::once(stem).chain(folders).any(|part| EMPTY_NAMES.contains(&part))
    };
    let findings: Vec<String> = paths()
        .into_iter()
        .filter(named)
        .map(|path| format!("{path}:1: name it after its job, with a word of docs/GLOSSARY.md"))
        .collect();
    report("Names come from the domain.", &findings);
}

#[test]
fn no_file_is_longer_than_it_can_be_read() {
    let mut findings = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            findings.push(format!("{}:{LINES_MAX}: {lines} lines; give its second job a file of its own", source.path));
        }
    }
    report("A file past 600 lines has a second job to give away.", &findings);
}

/// What stands behind `use`, if the line is an import.
fn imported(code: &str) -> Option<&str> {
    let code = code.trim_start();
    let public = code.strip_prefix("pub").and_then(|rest| match rest.strip_prefix('(') {
        Some(scope) => scope.split_once(") ").map(|(_, rest)| rest),
        None => rest.strip_prefix(' '),
    });
    public.unwrap_or(code).strip_prefix("use ")
}

fn has_child(source: &Source, name: &str) -> bool {
    let declared = format!("mod {name};");
    source.all_code().any(|(_, code)| code.ends_with(&declared))
}
