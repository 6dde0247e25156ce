//! The workspace's files as the rules read them: code, comments and literals told apart.
//!
//! Invariant: a word in a comment or a string never counts as code, and code of tests never
//! counts as shipped.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Folders that hold nothing of ours: build output, history, installed tools.
const SKIPPED: &[&str] = &["target", ".git", ".tools", "node_modules", "__pycache__"];

/// The crates that end up in a released binary.
pub(crate) const SHIPPED_CRATES: &[&str] = &["protocol", "daemon", "hub", "agent"];

/// One Rust file.
pub(crate) struct Source {
    /// Its path within the workspace, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// Its lines without comments and with empty literals.
    pub(crate) code: Vec<String>,
    /// Every string literal, with the number of the line it begins on.
    pub(crate) literals: Vec<(usize, String)>,
    /// Lines from this number on belong to tests.
    tests_from: usize,
}

impl Source {
    /// Reads a file's text.
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let (code, literals) = lex(text);
        let tests_from = if is_test_file(path) { 1 } else { first_test_line(&code) };
        Self { path: path.to_owned(), text: text.to_owned(), code, literals, tests_from }
    }

    /// Whether it is part of a released crate.
    pub(crate) fn is_shipped(&self) -> bool {
        SHIPPED_CRATES.contains(&self.crate_dir()) && self.path.contains("/src/")
    }

    /// The folder of its crate: the first part of the path.
    pub(crate) fn crate_dir(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    /// The room it is in: the folder or file right under `src`.
    pub(crate) fn room(&self) -> &str {
        let after = self.path.split_once("/src/").map_or("", |(_, after)| after);
        let room = after.split('/').next().unwrap_or_default();
        room.strip_suffix(".rs").unwrap_or(room)
    }

    /// Whether a line is test code.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        line >= self.tests_from
    }

    /// Numbered lines of code that are not tests.
    pub(crate) fn shipped_code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.all_code().filter(|(line, _)| !self.is_test(*line))
    }

    /// Numbered lines of code.
    pub(crate) fn all_code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.iter().enumerate().map(|(at, line)| (at + 1, line.as_str()))
    }

    /// Numbered string literals that are not in tests.
    pub(crate) fn shipped_literals(&self) -> impl Iterator<Item = (usize, &str)> {
        let literals = self.literals.iter().map(|(line, text)| (*line, text.as_str()));
        literals.filter(|(line, _)| !self.is_test(*line))
    }
}

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Reads one file of the workspace; an empty text if there is none.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_default()
}

/// Every Rust file of the workspace.
pub(crate) fn sources() -> Vec<Source> {
    let paths = paths().into_iter().filter(|path| path.ends_with(".rs"));
    paths.map(|path| Source::parse(&path, &read(&path))).collect()
}

/// The path of every file of the workspace, sorted.
pub(crate) fn paths() -> Vec<String> {
    let mut found = Vec::new();
    walk(&root(), "", &mut found);
    found.sort();
    found
}

fn walk(dir: &Path, prefix: &str, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let Ok(kind) = entry.file_type() else { continue };
        if SKIPPED.contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() {
            walk(&entry.path(), &format!("{path}/"), found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
}

/// Whether the whole file is test code: it, or a module it is in, is behind `#[cfg(test)]` in its parent.
fn is_test_file(path: &str) -> bool {
    let Some((dir, file)) = path.rsplit_once('/') else { return false };
    let Some(name) = file.strip_suffix(".rs") else { return false };
    let parents = [format!("{dir}/mod.rs"), format!("{dir}.rs"), format!("{dir}/lib.rs"), format!("{dir}/main.rs")];
    let declared = format!("#[cfg(test)]\nmod {name};");
    parents.iter().any(|parent| parent != path && read(parent).contains(&declared))
        || is_test_file(&format!("{dir}.rs"))
}

/// The line of the `#[cfg(test)]` that begins the tests at the end of a file.
fn first_test_line(code: &[String]) -> usize {
    let begins = |at: usize| {
        let module = code[at + 1..].iter().find(|line| !line.starts_with("#["));
        code[at] == "#[cfg(test)]" && module.is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
    };
    (0..code.len()).find(|at| begins(*at)).map_or(usize::MAX, |at| at + 1)
}

/// Splits a text into lines of code and string literals.
fn lex(text: &str) -> (Vec<String>, Vec<(usize, String)>) {
    let mut lexer = Lexer { rest: text, line: 1, code: String::new(), literals: Vec::new() };
    while !lexer.rest.is_empty() {
        lexer.step();
    }
    (lexer.code.lines().map(|line| line.trim_end().to_owned()).collect(), lexer.literals)
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    code: String,
    literals: Vec<(usize, String)>,
}

impl Lexer<'_> {
    fn step(&mut self) {
        let after_name = self.code.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        if self.rest.starts_with("//") {
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.skip(end);
        } else if self.rest.starts_with("/*") {
            let end = self.rest.find("*/").map_or(self.rest.len(), |at| at + 2);
            self.skip(end);
        } else if let Some(hashes) = raw_hashes(self.rest).filter(|_| !after_name) {
            let begin = self.rest.find('"').unwrap_or_default() + 1;
            let close = format!("\"{}", "#".repeat(hashes));
            let length = self.rest[begin..].find(&close).unwrap_or(self.rest.len() - begin);
            self.literal(begin, length, close.len());
        } else if self.rest.starts_with('"') {
            let length = quoted_length(&self.rest[1..]);
            self.literal(1, length, 1);
        } else if let Some(end) = char_length(self.rest) {
            self.code.push_str("' '");
            self.skip(end);
        } else if let Some(next) = self.rest.chars().next() {
            self.code.push(next);
            self.line += usize::from(next == '\n');
            self.rest = &self.rest[next.len_utf8()..];
        }
    }

    /// Takes a literal of `length` bytes between `begin` bytes that open it and `close` that end it.
    fn literal(&mut self, begin: usize, length: usize, close: usize) {
        self.literals.push((self.line, self.rest[begin..begin + length].to_owned()));
        self.code.push_str("\"\"");
        self.skip((begin + length + close).min(self.rest.len()));
    }

    /// Leaves bytes out of the code, but not their line ends.
    fn skip(&mut self, bytes: usize) {
        let ends = self.rest[..bytes].matches('\n').count();
        self.line += ends;
        self.code.push_str(&"\n".repeat(ends));
        self.rest = &self.rest[bytes..];
    }
}

/// How many `#` a raw string that begins here has.
fn raw_hashes(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// Bytes up to the quote that ends a plain string.
fn quoted_length(rest: &str) -> usize {
    let mut escaped = false;
    let end = rest.char_indices().find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(rest.len(), |(at, _)| at)
}

/// Bytes of a character literal that begins here; a lifetime is none.
fn char_length(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('\'')?;
    if let Some(escape) = inner.strip_prefix('\\') {
        let first = escape.chars().next()?.len_utf8();
        return escape[first..].find('\'').map(|at| at + first + 3);
    }
    let first = inner.chars().next()?.len_utf8();
    inner[first..].starts_with('\'').then_some(first + 2)
}

#[cfg(test)]
mod tests {
    use super::Source;

    #[test]
    fn comments_and_literals_are_told_from_code() {
        let text = "let a = \"x // \\\" y\"; // c\nlet b = r#\"p\"q\"#; /* d\n */ let c = '\"'; fn f<'a>() {}\n";

        let source = Source::parse("hub/src/x.rs", text);

        assert_eq!(source.code, ["let a = \"\";", "let b = \"\";", " let c = ' '; fn f<'a>() {}"]);
        assert_eq!(source.literals, [(1, "x // \\\" y".to_owned()), (2, "p\"q".to_owned())]);
    }

    #[test]
    fn tests_at_the_end_of_a_file_are_not_shipped() {
        let source = Source::parse("hub/src/room/x.rs", "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n");

        let shipped: Vec<usize> = source.shipped_code().map(|(line, _)| line).collect();

        assert_eq!((shipped, source.room(), source.crate_dir()), (vec![1], "room", "hub"));
    }
}
