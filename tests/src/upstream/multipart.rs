//! Strict reading of `multipart/form-data`, as the vendors' servers do it.
//!
//! Invariant: what is not exactly framed by its boundary is no form.

use crate::http1::sha256;
use serde_json::Value;
use serde_json::json;

/// One field of a form.
#[derive(Debug, Clone)]
pub(super) struct Part<'a> {
    pub(super) name: String,
    /// Present for files.
    pub(super) filename: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) body: &'a [u8],
}

/// A whole form.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    parts: Vec<Part<'a>>,
}

impl<'a> Fields<'a> {
    /// Reads a body by its `content-type`; `None` when it is no form.
    pub(super) fn read(content_type: &str, body: &'a [u8]) -> Option<Self> {
        let rest = content_type.strip_prefix("multipart/form-data")?;
        let boundary = rest.split(';').find_map(|one| one.trim().strip_prefix("boundary="))?.trim_matches('"');
        if boundary.is_empty() || boundary.len() > 70 {
            return None;
        }
        let line = format!("--{boundary}");
        let between = format!("\r\n{line}").into_bytes();
        let mut rest = body.strip_prefix(line.as_bytes())?;
        let mut parts = Vec::new();
        loop {
            if let Some(end) = rest.strip_prefix(b"--") {
                return (end.is_empty() || end == b"\r\n").then_some(Self { parts });
            }
            rest = rest.strip_prefix(b"\r\n")?;
            let end = find(rest, &between)?;
            parts.push(part(&rest[..end])?);
            rest = &rest[end + between.len()..];
        }
    }

    /// The text of the one field of this name.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let mut same = self.parts.iter().filter(|part| part.name == name && part.filename.is_none());
        let only = same.next().filter(|_| same.next().is_none())?;
        String::from_utf8(only.body.to_vec()).ok()
    }

    /// The files under a name, or under the name with `[]`.
    pub(super) fn files(&self, name: &str) -> Vec<&Part<'a>> {
        let of_name = |part: &&Part<'_>| part.filename.is_some() && part.name.trim_end_matches("[]") == name;
        self.parts.iter().filter(of_name).collect()
    }

    /// All that was said, but not with which boundary.
    pub(super) fn canonical(&self) -> Value {
        let each = self
            .parts
            .iter()
            .map(|part| json!([part.name, part.filename, part.content_type, part.body.len(), sha256(part.body)]));
        each.collect()
    }
}

fn part(bytes: &[u8]) -> Option<Part<'_>> {
    let end = find(bytes, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let value = |wanted: &str| {
        head.split("\r\n").find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned())
        })
    };
    let disposition = value("content-disposition")?;
    let attribute = |wanted: &str| {
        let parts = disposition.strip_prefix("form-data")?.split(';').map(str::trim);
        let quoted = |one: &str| one.strip_prefix(wanted)?.strip_prefix("=\"")?.strip_suffix('"').map(str::to_owned);
        parts.into_iter().find_map(quoted)
    };
    Some(Part {
        name: attribute("name")?,
        filename: attribute("filename"),
        content_type: value("content-type"),
        body: &bytes[end + 4..],
    })
}

/// Where the needle begins; large bodies are searched by their needle's first byte.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(step) = hay[from..].iter().position(|byte| *byte == first) {
        let at = from + step;
        if hay[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}
