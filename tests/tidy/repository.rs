//! The project stands alone: nothing in it leads to one person's machine or one registry.
//!
//! Invariant: every text file of the workspace is read, whatever it is for.

use std::fs;
use std::path::Path;

use super::report;
use super::source::paths;
use super::source::read;
use super::source::root;

/// Where this list itself stands.
const HERE: &str = "tests/tidy/";

/// What a project that stands alone does not name, and why.
const FOREIGN: &[(&str, &str)] = &[
    ("/root/", "a path of one machine"),
    ("/Users/", "a path of one machine"),
    ("registry.npmjs", "a registry's host: clients know their registry"),
    ("pypi.org", "a registry's host: clients know their registry"),
    ("pythonhosted", "a registry's host: clients know their registry"),
    ("static.crates.io", "a registry's host: clients know their registry"),
    ("index.crates.io", "a registry's host: clients know their registry"),
    ("index-url", "a registry's address: clients know their registry"),
    ("registry = \"http", "a registry's address: clients know their registry"),
    ("registry=http", "a registry's address: clients know their registry"),
    ("replace-with", "a registry's mirror: clients know their registry"),
];

/// Directories that hold all kinds of things: what stands there beside a checkout says nothing.
const COMMON: &[&str] = &["/", "/home", "/mnt", "/opt", "/srv", "/tmp", "/usr/src", "/var/tmp"];

#[test]
fn no_line_names_a_machine_or_a_registry() {
    let mut findings = Vec::new();
    let beside = beside_the_checkout();
    for path in paths().iter().filter(|path| !path.starts_with(HERE)) {
        for (at, line) in read(path).lines().enumerate() {
            let mut find = |name: &str, why: &str| {
                findings.push(format!("{path}:{}: {name}: {why}; leave it out", at + 1));
            };
            FOREIGN.iter().filter(|(name, _)| line.contains(name)).for_each(|(name, why)| find(name, why));
            beside.iter().filter(|name| line.contains(*name)).for_each(|name| find(name, "a path of this machine"));
            climbing(line, path).for_each(|name| find(name, "a file outside the project"));
        }
    }
    report("Whoever clones the project has all of it.", &findings);
}

/// The checkout's own place on this machine, and what stands beside it.
fn beside_the_checkout() -> Vec<String> {
    let Ok(own) = fs::canonicalize(root()) else { return Vec::new() };
    let common = |dir: &&Path| COMMON.iter().any(|name| Path::new(name) == *dir);
    let parent = own.parent().filter(|parent| !common(parent));
    let siblings = parent.and_then(|parent| fs::read_dir(parent).ok()).into_iter().flatten().flatten();
    let siblings = siblings.map(|entry| entry.path()).filter(|sibling| *sibling != own);
    siblings.chain([own.clone()]).map(|place| place.display().to_string()).collect()
}

/// Relative paths in a line of this file that lead out of the project.
fn climbing<'a>(line: &'a str, path: &str) -> impl Iterator<Item = &'a str> {
    let depth = path.matches('/').count();
    let of_path = |char: char| char.is_ascii_alphanumeric() || "._-/".contains(char);
    let words = line.split(move |char| !of_path(char)).filter(|word| word.starts_with("../"));
    words.filter(move |word| word.split('/').take_while(|step| *step == "..").count() > depth)
}

#[test]
fn a_relative_path_that_leads_out_of_the_project_is_found() {
    let found = |line| climbing(line, "docs/quickstart/owner.md").collect::<Vec<_>>();

    assert_eq!(found("see (../../../other/PAGE.md)"), ["../../../other/PAGE.md"]);
    assert!(found("see [SECURITY.md](../SECURITY.md), ../../README.md and /v1/../x").is_empty());
}

#[test]
fn every_dependency_comes_from_the_same_registry() {
    let mut findings = Vec::new();
    for (at, line) in read("Cargo.lock").lines().enumerate() {
        let from = line.strip_prefix("source = ");
        if from.is_some_and(|from| from != "\"registry+https://github.com/rust-lang/crates.io-index\"") {
            findings.push(format!("Cargo.lock:{}: {line}: only released crates of crates.io are used", at + 1));
        }
    }
    report("Nobody has to trust a repository that a registry does not keep.", &findings);
}
