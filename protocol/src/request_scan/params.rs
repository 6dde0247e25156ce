//! Parameters after a `;`, as in `form-data; name="model"`.
//!
//! Invariant: what passes has one reading: no escapes, no names in another case twice,
//! nothing between the parameters.

use crate::provider::websocket::is_token;

/// Names in lower case, and their values without quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Params<'a>(Vec<(String, &'a str)>);

impl<'a> Params<'a> {
    /// Reads `a=b; c="d"`; nothing at all is no parameters.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut found: Vec<(String, &str)> = Vec::new();
        let mut rest = text.trim_matches(is_blank);
        while !rest.is_empty() {
            let (name, after) = rest.split_once('=')?;
            let name = name.to_ascii_lowercase();
            if !is_token(&name) {
                return None;
            }
            let (value, after) = value(after)?;
            found.push((name, value));
            rest = match after.trim_start_matches(is_blank) {
                "" => "",
                more => Some(more.strip_prefix(';')?.trim_start_matches(is_blank)).filter(|next| !next.is_empty())?,
            };
        }
        Some(Self(found))
    }

    /// The value, when this is the only parameter there is.
    pub(super) fn only(&self, name: &str) -> Option<&'a str> {
        match self.0.as_slice() {
            [(only, value)] if only == name => Some(value),
            _ => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

/// A token or a quoted string, and what follows it. Readers differ in what a backslash
/// inside quotes means, so there is none.
fn value(text: &str) -> Option<(&str, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (value, after) = quoted.split_once('"')?;
        return (!value.contains('\\')).then_some((value, after));
    }
    let end = text.find(|c: char| c == ';' || is_blank(c)).unwrap_or(text.len());
    let (value, after) = text.split_at(end);
    is_token(value).then_some((value, after))
}

fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_quoted_values_are_read() {
        let read = Params::parse(" a=b ;C=\"d; e=f\"; g=\"\"").unwrap();

        assert_eq!(read.iter().collect::<Vec<_>>(), [("a", "b"), ("c", "d; e=f"), ("g", "")]);
        assert_eq!(Params::parse("  ").unwrap().iter().count(), 0);
        assert_eq!(Params::parse("a=b").unwrap().only("a"), Some("b"));
        assert_eq!(Params::parse("a=b; c=d").unwrap().only("a"), None);
    }

    #[test]
    fn what_readers_take_in_different_ways_is_refused() {
        for text in [
            "a",
            "a=",
            "=b",
            "a =b",
            "a= b",
            "a=b;",
            "a=b;;c=d",
            "a=b c=d",
            "a=\"b",
            "a=\"b\"c",
            "a=\"b\\\"; c=\"d\"",
            "a=\"\\b\"",
            "a=b\"c\"",
            "ä=b",
        ] {
            assert_eq!(Params::parse(text), None, "{text}");
        }
    }
}
