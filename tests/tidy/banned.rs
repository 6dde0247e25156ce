//! Names that shipped code may not use, or only in one place.
//!
//! Invariant: where a banned name is allowed, the table says so and why.

use super::report;
use super::source::SHIPPED_CRATES;
use super::source::Source;
use super::source::read;
use super::source::sources;

/// A name that shipped code uses nowhere but in the places named.
struct Ban {
    name: &'static str,
    /// Beginnings of the paths where it is allowed.
    allowed: &'static [&'static str],
    instead: &'static str,
}

const COMMAND_LINES: &[&str] = &["daemon/src/cli", "hub/src/cli/", "agent/src/cli/"];
const READS_ENVIRONMENT: &[&str] = &[
    "daemon/src/config",
    "daemon/src/terminal.rs",
    "hub/src/cli/",
    "hub/src/main.rs",
    "agent/src/cli/",
    "agent/src/main.rs",
];
const TASKS: &[&str] = &["daemon/src/tasks.rs"];
const DATABASE: &[&str] = &["hub/src/store/"];
const INDEX: &[&str] = &["agent/src/ledger/index/"];
const EGRESS: &[&str] = &["agent/src/provider/"];

const IN_SHIPPED_CODE: &[Ban] = &[
    Ban { name: "tokio::spawn(", allowed: TASKS, instead: "a task has an owner and an end: Tasks::spawn" },
    Ban { name: "task::spawn(", allowed: TASKS, instead: "a task has an owner and an end: Tasks::spawn" },
    Ban {
        name: "unbounded_channel",
        allowed: &[],
        instead: "every queue has a bound and says what happens when it is full",
    },
    Ban {
        name: "println!",
        allowed: COMMAND_LINES,
        instead: "answers go through daemon::cli::Output, events through tracing",
    },
    Ban {
        name: "print!",
        allowed: COMMAND_LINES,
        instead: "answers go through daemon::cli::Output, events through tracing",
    },
    Ban {
        name: "danger",
        allowed: &["daemon/src/tls.rs"],
        instead: "who is trusted is decided in daemon/src/tls.rs alone",
    },
    Ban { name: "env::var", allowed: READS_ENVIRONMENT, instead: "configuration is read once, in config.rs" },
    Ban { name: "thread::sleep", allowed: &[], instead: "wait for the event" },
    Ban { name: "sqlx", allowed: DATABASE, instead: "SQL lives in hub/src/store" },
    Ban { name: "rusqlite", allowed: INDEX, instead: "SQL lives in agent/src/ledger/index" },
    Ban { name: "Egress::loopback", allowed: EGRESS, instead: "only tests and the demo construct loopback upstreams" },
];

/// Signs of unfinished work, in code or comments, anywhere.
const UNFINISHED: &[&str] = &["TODO", "FIXME", "XXX", "todo!", "unimplemented!", "#[ignore"];

/// Beginnings of SQL statements.
const STATEMENTS: &[&str] = &[
    "SELECT ",
    "INSERT ",
    "UPDATE ",
    "DELETE FROM ",
    "CREATE TABLE ",
    "ALTER TABLE ",
    "DROP ",
    "PRAGMA ",
    "REPLACE INTO ",
];

/// Features that a shipped crate may have. A test switch is never one: features unify across a
/// workspace build and would leak into released binaries.
const FEATURES: &[(&str, &str)] = &[];

#[test]
fn shipped_code_uses_no_banned_name() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.is_shipped()) {
        let mine = IN_SHIPPED_CODE.iter().filter(|ban| !ban.allowed.iter().any(|place| source.path.starts_with(place)));
        for ban in mine {
            let uses = source.shipped_code().filter(|(_, code)| names(code, ban.name));
            findings.extend(
                uses.map(|(line, _)| format!("{}:{line}: {} is not used here: {}", source.path, ban.name, ban.instead)),
            );
        }
    }
    report("Some names have one place, and some have none.", &findings);
}

#[test]
fn nothing_is_left_for_later() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| !source.path.starts_with("tests/tidy/")) {
        for (at, line) in source.text.lines().enumerate() {
            if let Some(sign) = UNFINISHED.iter().find(|sign| names(line, sign)) {
                findings.push(format!("{}:{}: {sign}: finish it, or leave it out", source.path, at + 1));
            }
        }
    }
    report("What is here is finished; a test is never switched off.", &findings);
}

#[test]
fn sql_lives_in_the_store_and_in_the_ledgers_index_only() {
    let mut findings = Vec::new();
    for source in
        sources().iter().filter(|source| source.is_shipped() && !is_in(source, DATABASE) && !is_in(source, INDEX))
    {
        let statements = source
            .shipped_literals()
            .filter(|(_, text)| STATEMENTS.iter().any(|begin| text.trim_start().starts_with(begin)));
        findings.extend(statements.map(|(line, _)| {
            format!(
                "{}:{line}: move the statement into hub/src/store or agent/src/ledger/index, one function each",
                source.path
            )
        }));
    }
    report("One room of each program speaks SQL.", &findings);
}

#[test]
fn the_released_agent_constructs_the_official_egress_and_no_other() {
    let constructs = |source: &Source| source.is_shipped() && source.crate_dir() == "agent" && !is_in(source, EGRESS);
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| constructs(source)) {
        for (line, code) in source.shipped_code().filter(|(_, code)| code.contains("Egress::official")) {
            if source.path != "agent/src/main.rs" {
                findings.push(format!(
                    "{}:{line}: the egress is handed in by main; found {}",
                    source.path,
                    code.trim()
                ));
            }
        }
    }
    if !read("agent/src/main.rs").contains("Egress::official()") {
        findings.push("agent/src/main.rs:1: the released agent constructs `Egress::official()`".to_owned());
    }
    report("What an agent can reach is decided by its main.", &findings);
}

#[test]
fn shipped_crates_have_no_test_switches() {
    let mut findings = Vec::new();
    for dir in SHIPPED_CRATES {
        let path = format!("{dir}/Cargo.toml");
        let mut in_features = false;
        for (at, line) in read(&path).lines().enumerate() {
            if line.starts_with('[') {
                in_features = line.trim() == "[features]";
            } else if let Some((feature, _)) = line.split_once('=').filter(|_| in_features)
                && !FEATURES.contains(&(*dir, feature.trim()))
            {
                findings.push(format!(
                    "{path}:{}: feature {}: give the library a value in its constructor instead",
                    at + 1,
                    feature.trim()
                ));
            }
        }
    }
    report("Cargo features unify across a workspace build, so none of them may switch tests on.", &findings);
}

/// Whether the text holds the name, not as the end of a longer one.
fn names(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn is_in(source: &Source, places: &[&str]) -> bool {
    places.iter().any(|place| source.path.starts_with(place))
}
