//! The workspace checks itself: who may name whom, what a file looks like, which names are
//! banned, and that the documents say what the code does.
//!
//! Where a document is made from code, `KEYHAVEN_TIDY_WRITE=1 cargo test -p keyhaven-tests --test tidy`
//! writes it anew.
//!
//! Invariant: a finding names the file, the line, and what to do about it.

#![allow(missing_docs, reason = "a test has no readers of its interface")]

mod banned;
mod configuration;
mod documents;
mod edges;
mod generated;
mod repository;
mod rules;
mod shape;
mod source;

/// Fails with every finding, one per line.
fn report(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}\n{}\n", findings.join("\n"));
}
