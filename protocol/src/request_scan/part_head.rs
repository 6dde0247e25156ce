//! The headers of one part of a form.
//!
//! Invariant: a part has one name, in plain characters, and its content is the bytes that
//! stand there: no transfer coding, no other charset.

use super::ScanError;
use super::content_type::is_utf8;
use super::params::Params;

/// The longest name of a part.
const NAME_BYTES_MAX: usize = 128;

/// What a part says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartHead {
    /// The field's name, brackets included.
    pub(super) name: String,
    /// Whether it is a file: it has a file's name.
    pub(super) is_file: bool,
}

impl PartHead {
    /// Reads the header lines, without the blank line that ends them.
    ///
    /// # Errors
    /// When they are not headers of a part, or have a second reading.
    pub(super) fn parse(lines: &[u8]) -> Result<Self, ScanError> {
        let text = std::str::from_utf8(lines).map_err(|_| malformed("a part's headers, which are not UTF-8"))?;
        let mut head = None;
        let mut seen: Vec<String> = Vec::new();
        for line in text.split("\r\n") {
            let (name, value) = line.split_once(':').ok_or(malformed("a part's headers"))?;
            let name = name.to_ascii_lowercase();
            if line.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') || seen.contains(&name) {
                return Err(malformed("a part's headers"));
            }
            let value = value.trim_matches([' ', '\t']);
            match name.as_str() {
                "content-disposition" => head = Some(disposition(value)?),
                "content-type" => content_type(value)?,
                "content-length" if value.bytes().all(|byte| byte.is_ascii_digit()) => {}
                "content-transfer-encoding" if is_identity(value) => {}
                _ => return Err(malformed("a part's headers: one of them is not known here")),
            }
            seen.push(name);
        }
        head.ok_or(malformed("a part's headers: `content-disposition` is missing"))
    }
}

fn disposition(value: &str) -> Result<PartHead, ScanError> {
    let wrong = malformed("a part's `content-disposition`: it must be `form-data` with a plain `name`");
    let (kind, params) = value.split_once(';').ok_or(wrong.clone())?;
    let params = Params::parse(params).ok_or(wrong.clone())?;
    let mut name = None;
    let mut is_file = false;
    for (param, value) in params.iter() {
        match param {
            "name" if name.is_none() => name = Some(value),
            // Which of the two names counts does not matter: neither is looked at.
            "filename" | "filename*" => is_file = true,
            _ => return Err(wrong),
        }
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte);
    let name = name.filter(|name| (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain));
    match name {
        Some(name) if kind.trim_end().eq_ignore_ascii_case("form-data") => {
            Ok(PartHead { name: name.to_owned(), is_file })
        }
        _ => Err(wrong),
    }
}

fn content_type(value: &str) -> Result<(), ScanError> {
    let wrong = malformed("a part's `content-type`");
    let (_, params) = value.split_once(';').unwrap_or((value, ""));
    let params = Params::parse(params).ok_or(wrong.clone())?;
    let utf8 = params.iter().all(|(name, value)| name != "charset" || is_utf8(value));
    utf8.then_some(()).ok_or(wrong)
}

fn is_identity(coding: &str) -> bool {
    ["binary", "8bit", "7bit"].iter().any(|name| name.eq_ignore_ascii_case(coding))
}

const fn malformed(what: &'static str) -> ScanError {
    ScanError::Malformed { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_as_clients_write_them_are_read() {
        let cases = [
            ("Content-Disposition: form-data; name=\"model\"", "model", false),
            ("content-disposition:form-data;name=model", "model", false),
            (
                "Content-Disposition: form-data; name=\"file\"; filename=\"a; name=\u{e4}.mp3\"\r\nContent-Type: audio/mpeg",
                "file",
                true,
            ),
            (
                "Content-Type: application/octet-stream\r\nContent-Disposition: form-data; filename=blob; name=\"image[]\"\r\nContent-Length: 12",
                "image[]",
                true,
            ),
            (
                "Content-Disposition: form-data; name=\"file\"; filename*=utf-8''a%22.mp3\r\nContent-Transfer-Encoding: binary",
                "file",
                true,
            ),
            (
                "Content-Disposition: form-data; name=\"prompt\"\r\nContent-Type: text/plain; charset=UTF-8",
                "prompt",
                false,
            ),
        ];
        for (text, name, is_file) in cases {
            let head = PartHead::parse(text.as_bytes());
            assert_eq!(head, Ok(PartHead { name: name.to_owned(), is_file }), "{text}");
        }
    }

    #[test]
    fn heads_with_a_second_reading_are_refused() {
        let long = format!("Content-Disposition: form-data; name=\"{}\"", "a".repeat(NAME_BYTES_MAX + 1));
        for text in [
            "",
            "Content-Type: text/plain",
            "Content-Disposition: attachment; name=\"model\"",
            "Content-Disposition: form-data",
            "Content-Disposition: form-data; name=\"\"",
            "Content-Disposition: form-data; name=\"model\"; name=\"file\"",
            "Content-Disposition: form-data; name*=utf-8''model",
            "Content-Disposition: form-data; name=\"mod\u{e4}l\"",
            "Content-Disposition: form-data; name=\"mo del\"",
            "Content-Disposition: form-data; name=\"file\"; filename=\"a\\\"; name=\"model\"",
            "Content-Disposition: form-data; name=\"file\"; size=1",
            "Content-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"b\"",
            "Content-Disposition: form-data; name=\"model\"\r\n folded: x",
            "Content-Disposition: form-data;\r\n name=\"model\"",
            "Content-Disposition: form-data; name=\"model\"\nX: y",
            "Content-Disposition : form-data; name=\"model\"",
            "Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: base64",
            "Content-Disposition: form-data; name=\"model\"\r\nContent-Type: text/plain; charset=utf-16",
            "Content-Disposition: form-data; name=\"model\"\r\nX-Other: 1",
            "Content-Disposition: form-data; name=\"a\0\"",
            &long,
        ] {
            assert!(PartHead::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(PartHead::parse(b"Content-Disposition: form-data; name=\"\xff\"").is_err());
    }
}
