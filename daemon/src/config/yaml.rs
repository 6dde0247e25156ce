//! A YAML file as a tree that knows where each key and value stands, and
//! whether a value was quoted.
//!
//! Invariant: memory and depth are bounded by the text; there are no aliases
//! that could multiply it.

use super::ConfigError;
use super::place_in;
use serde_saphyr::granit_parser::Event;
use serde_saphyr::granit_parser::Marker;
use serde_saphyr::granit_parser::Parser;
use serde_saphyr::granit_parser::ScalarStyle;
use serde_saphyr::granit_parser::ScanError;
use serde_saphyr::granit_parser::Span;
use serde_saphyr::granit_parser::StrInput;
use serde_saphyr::granit_parser::Tag;
use std::path::Path;

const DEPTH_MAX: usize = 32;

/// A value and where it begins; lines and columns from 1.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) column: u64,
    pub(super) content: Content,
}

impl Node {
    /// Whether nothing stands here, which the parser gives as `~`.
    pub(super) fn is_blank(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, literal: false } if text.is_empty() || text == "~")
    }
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Content {
    /// `literal` text is a string whatever it looks like.
    Scalar {
        text: String,
        literal: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping, where the key stands, and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u64,
    pub(super) column: u64,
    pub(super) value: Node,
}

/// What is wrong with the text, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: u64,
    pub(super) column: u64,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn in_file(self, path: &Path) -> ConfigError {
        ConfigError::Syntax { place: place_in(path, self.line, self.column), message: self.message }
    }

    fn at(marker: &Marker, message: impl Into<String>) -> Self {
        let (line, column) = position(marker);
        Self { line, column, message: message.into() }
    }
}

/// Reads the one document of a text; `None` if there is nothing in it.
pub(super) fn parse(text: &str) -> Result<Option<Node>, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = serde_saphyr::granit_parser::options! { emit_comments: false, disallow_directives: true };
    let mut reader = Reader { events: Parser::new_from_str_with_options(text, options) };

    let mut root: Option<Node> = None;
    loop {
        let (event, span) = reader.next()?;
        if event == Event::StreamEnd {
            return Ok(root.filter(|root| !root.is_blank()));
        }
        if is_frame(&event) {
            continue;
        }
        if root.is_some() {
            return Err(Fault::at(&span.start, "a second document begins here; give one only"));
        }
        root = Some(reader.node(event, span, 0)?);
    }
}

/// What stands around the one value.
fn is_frame(event: &Event<'_>) -> bool {
    matches!(event, Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd | Event::Comment(..))
}

struct Reader<'t> {
    events: Parser<'t, StrInput<'t>>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Fault> {
        match self.events.next_event() {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => Err(unreadable(&error)),
            None => Err(Fault { line: 1, column: 1, message: "the text ends too early".to_owned() }),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::at(&span.start, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let (line, column) = position(&span.start);
        let content = match event {
            Event::Scalar(text, style, _, tag) => {
                let literal = style != ScalarStyle::Plain || is_string_tag(tag.as_deref(), &span)?;
                Content::Scalar { text: text.into_owned(), literal }
            }
            Event::SequenceStart(_, _, tag) => {
                refuse_tag(tag.as_deref(), &span)?;
                Content::List(self.items(depth)?)
            }
            Event::MappingStart(_, _, tag) => {
                refuse_tag(tag.as_deref(), &span)?;
                Content::Map(self.entries(depth)?)
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) | Event::Anchor(..) => {
                return Err(Fault::at(&span.start, "aliases are not supported here; write the value again"));
            }
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd
            | Event::Comment(..)
            | Event::SequenceEnd
            | Event::MappingEnd => return Err(Fault::at(&span.start, "a value is expected here")),
            // The parser may learn new events; none of them is a value we know.
            _ => return Err(Fault::at(&span.start, "this is not supported here")),
        };
        Ok(Node { line, column, content })
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Node>, Fault> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items);
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(entries);
            }
            let Event::Scalar(key, _, _, _) = event else {
                return Err(Fault::at(&span.start, "a key must be plain text"));
            };
            if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                let message = format!("the key `{key}` was given before, on line {}", first.line);
                return Err(Fault::at(&span.start, message));
            }
            let (line, column) = position(&span.start);
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            entries.push(Entry { key: key.into_owned(), line, column, value });
        }
    }
}

fn is_string_tag(tag: Option<&Tag>, span: &Span) -> Result<bool, Fault> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema_tag("str") => Ok(true),
        other => refuse_tag(other, span).map(|()| false),
    }
}

fn refuse_tag(tag: Option<&Tag>, span: &Span) -> Result<(), Fault> {
    match tag {
        None => Ok(()),
        Some(tag) => Err(Fault::at(&span.start, format!("the tag `{}` is not supported here", tag.original()))),
    }
}

fn unreadable(error: &ScanError) -> Fault {
    Fault::at(error.marker(), format!("this is not YAML: {}", error.info()))
}

/// The parser counts columns from 0.
fn position(marker: &Marker) -> (u64, u64) {
    let from_usize = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);

    (from_usize(marker.line()), from_usize(marker.col()).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_know_where_they_stand() {
        let root = parse("# a comment\nlog:\n  level: debug\n").unwrap().unwrap();

        let log = &entries_of(&root)[0];
        let level = &entries_of(&log.value)[0];
        assert_eq!((log.key.as_str(), log.line, log.column), ("log", 2, 1));
        assert_eq!((level.key.as_str(), level.line, level.column), ("level", 3, 3));
        assert_eq!((level.value.line, level.value.column), (3, 10));
    }

    #[test]
    fn quoted_and_block_text_stays_text() {
        let root = parse("a: 1\nb: '1'\nc: \"1\"\nd: |-\n  1\ne: !!str 1\n").unwrap().unwrap();

        let literal: Vec<bool> = entries_of(&root)
            .iter()
            .map(|entry| matches!(entry.value.content, Content::Scalar { literal: true, .. }))
            .collect();
        assert_eq!(literal, [false, true, true, true, true]);
    }

    #[test]
    fn a_text_without_values_is_no_tree() {
        for text in ["", "\n\n", "# only a comment\n", "---\n", "---\n...\n", "\u{feff}# marked\n"] {
            assert!(parse(text).unwrap().is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_long_comment_is_no_obstacle() {
        let text = format!("{}a: 1\n", "# line\n".repeat(1000));

        let root = parse(&text).unwrap().unwrap();

        assert_eq!(entries_of(&root)[0].line, 1001);
    }

    #[test]
    fn a_key_given_twice_names_both_lines() {
        let fault = parse("a: 1\nb: 2\na: 3\n").unwrap_err();

        assert_eq!((fault.line, fault.column), (3, 1));
        assert_eq!(fault.message, "the key `a` was given before, on line 1");
    }

    #[test]
    fn what_could_surprise_is_refused_where_it_stands() {
        let cases = [
            ("a: &x 1\nb: *x\n", 2, "aliases"),
            ("a: !secret x\n", 1, "tag"),
            ("a: 1\n---\nb: 2\n", 3, "second document"),
            ("? [a]\n: 1\n", 1, "plain text"),
            ("a: [1\n", 1, "not YAML"),
            ("a:\n\t b: 1\n", 2, "not YAML"),
        ];
        for (text, line, part) in cases {
            let fault = parse(text).unwrap_err();

            assert!(fault.message.contains(part), "{text:?} gave {fault:?}");
            assert_eq!(fault.line, line, "{text:?} gave {fault:?}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("a: {}1{}", "[".repeat(40), "]".repeat(40));

        assert!(parse(&deep).unwrap_err().message.contains("nested deeper"));
        assert!(parse(&format!("a: {}", "[".repeat(100_000))).is_err());
    }

    fn entries_of(node: &Node) -> &[Entry] {
        let Content::Map(entries) = &node.content else { panic!("not a mapping: {node:?}") };
        entries
    }
}
