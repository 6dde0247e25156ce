//! Parts of documents that are made from code.
//!
//! Invariant: nothing outside a part's two markers is ever written.

use std::fs;

use super::source::read;
use super::source::root;

const END: &str = "<!-- end generated -->";

/// Compares a part with what it should be, or writes it when asked to.
pub(crate) fn check(path: &str, name: &str, right: &str, findings: &mut Vec<String>) {
    let begin = format!("<!-- generated: {name} -->\n");
    let text = read(path);
    let Some((before, rest)) = text.split_once(&begin) else {
        findings.push(format!("{path}:1: the marker {} is missing", begin.trim_end()));
        return;
    };
    let Some((found, after)) = rest.split_once(END) else {
        findings.push(format!("{path}:{}: the part has no {END}", before.lines().count() + 1));
        return;
    };
    let right = format!("\n{}\n\n", right.trim());
    if found == right {
        return;
    }
    let line = before.lines().count() + 2;
    if std::env::var_os("KEYHAVEN_TIDY_WRITE").is_some() {
        let written = fs::write(root().join(path), format!("{before}{begin}{right}{END}{after}"));
        findings.extend(written.err().map(|error| format!("{path}: {error}")));
    } else {
        findings.push(format!(
            "{path}:{line}: the part {name} does not say what the code does; write it with \
             `KEYHAVEN_TIDY_WRITE=1 cargo test -p keyhaven-tests --test tidy`. It should be:\n{right}"
        ));
    }
}

/// A table in Markdown.
pub(crate) fn table<const N: usize>(columns: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line = |cells: [String; N]| format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
    let mut out = line(columns.map(str::to_owned));
    out += &format!("|{}\n", "---|".repeat(N));
    rows.into_iter().for_each(|row| out += &line(row));
    out
}

/// Text in code font.
pub(crate) fn code(text: impl std::fmt::Display) -> String {
    format!("`{text}`")
}
