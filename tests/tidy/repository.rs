//! The project stands alone: nothing in it leads to one person's machine or one registry.
//!
//! Invariant: every text file of the workspace is read, whatever it is for.

use super::report;
use super::source::paths;
use super::source::read;

/// Where this list itself stands.
const HERE: &str = "tests/tidy/";

/// What a project that stands alone does not name, and why.
const FOREIGN: &[(&str, &str)] = &[
    ("/work/", "a path of one machine"),
    ("/root/", "a path of one machine"),
    ("/Users/", "a path of one machine"),
    ("../shared", "a file outside the project"),
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

#[test]
fn no_line_names_a_machine_or_a_registry() {
    let mut findings = Vec::new();
    for path in paths().iter().filter(|path| !path.starts_with(HERE)) {
        for (at, line) in read(path).lines().enumerate() {
            let named = FOREIGN.iter().filter(|(name, _)| line.contains(name));
            findings.extend(named.map(|(name, why)| format!("{path}:{}: {name}: {why}; leave it out", at + 1)));
        }
    }
    report("Whoever clones the project has all of it.", &findings);
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
