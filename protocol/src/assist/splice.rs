//! The few bytes that make a request ask for usage.
//!
//! Invariant: with them the body is the same JSON, but that `stream_options.include_usage`
//! is `true`; a body that asks already is left alone.

use std::ops::Range;

use crate::request_scan::RequestScan;
use crate::request_scan::UsagePlace;

/// A change of a body: at one offset some bytes go and others come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Splice {
    /// The offset in the body as it came; there is always a byte at it.
    pub at: u64,
    /// How many bytes go.
    pub remove: u64,
    /// The bytes that come.
    pub insert: &'static [u8],
}

/// What must be changed of this body, once all of it was read; `None` when it asks for no
/// stream, asks for usage itself, or is of a form whose answers always state it.
pub fn splice(scan: &RequestScan) -> Option<Splice> {
    if scan.stream() != Some(true) {
        return None;
    }
    Some(match scan.usage_place()? {
        UsagePlace::Absent { end, has_fields: true } => {
            Splice { at: end, remove: 0, insert: b",\"stream_options\":{\"include_usage\":true}" }
        }
        UsagePlace::Absent { end, has_fields: false } => {
            Splice { at: end, remove: 0, insert: b"\"stream_options\":{\"include_usage\":true}" }
        }
        UsagePlace::Null { from, to } => {
            Splice { at: from, remove: to.saturating_sub(from), insert: b"{\"include_usage\":true}" }
        }
        UsagePlace::Within { end, has_members: true } => {
            Splice { at: end, remove: 0, insert: b",\"include_usage\":true" }
        }
        UsagePlace::Within { end, has_members: false } => {
            Splice { at: end, remove: 0, insert: b"\"include_usage\":true" }
        }
        UsagePlace::Said { asked: true, .. } => return None,
        UsagePlace::Said { from, to, asked: false } => {
            Splice { at: from, remove: to.saturating_sub(from), insert: b"true" }
        }
    })
}

impl Splice {
    /// The length of the body with the change, from its length without.
    pub fn length_after(&self, length: u64) -> u64 {
        let insert = u64::try_from(self.insert.len()).unwrap_or(u64::MAX);
        length.saturating_sub(self.remove).saturating_add(insert)
    }

    /// What becomes of the piece of so many bytes that begins at this offset of the body:
    /// its parts before and after the change, and whether [`Self::insert`] comes between.
    pub fn of_piece(&self, offset: u64, len: usize) -> (Range<usize>, bool, Range<usize>) {
        let place = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        let (from, to) = (place(self.at), place(self.at.saturating_add(self.remove)));
        let begins_here = self.at >= offset && from < len;
        (0..from, begins_here, to..len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::endpoint::Endpoint;
    use serde_json::Value;

    /// All that `stream_options` can be: absent, `null`, empty, with other members, said
    /// otherwise, with escaped keys.
    const OPTIONS: &[&str] = &[
        "",
        r#""stream_options":null"#,
        r#""stream_options" : null "#,
        r#""stream_options":{}"#,
        r#""stream_options": { } "#,
        r#""stream_options":{"include_obfuscation":false}"#,
        r#""stream_options":{"include_usage":false}"#,
        r#""stream_options":{"include_usage": null }"#,
        r#""stream_options":{"include_usage":false,"include_obfuscation":true}"#,
        r#""stream_options":{"include_obfuscation":{"include_usage":true},"include_usage":false}"#,
        r#""str\u0065am_options":{"includ\u0065_usage":false}"#,
        r#""str\u0065am_options":{"x":["}",{}]}"#,
    ];

    #[test]
    fn the_body_is_the_same_but_that_it_asks_for_usage() {
        let others = [r#""model":"m""#, r#""messages":[{"role":"user","content":"}]"}]"#, r#""stream":true"#];
        for options in OPTIONS {
            for place in 0..=others.len() {
                for space in ["", " ", "\r\n\t"] {
                    let mut members: Vec<&str> = others.to_vec();
                    if !options.is_empty() {
                        members.insert(place, options);
                    }
                    let body = format!("{space}{{{space}{}{space}}}{space}", members.join(&format!("{space},{space}")));
                    let changed = spliced(Endpoint::OpenAiChat, &body);

                    let mut expected: Value = serde_json::from_str(&body).unwrap();
                    if expected["stream_options"].is_null() {
                        expected["stream_options"] = serde_json::json!({});
                    }
                    expected["stream_options"]["include_usage"] = true.into();
                    assert_eq!(serde_json::from_str::<Value>(&changed).unwrap(), expected, "{body}");
                    assert_eq!(splice(&scanned(Endpoint::OpenAiChat, &changed)), None, "{body}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_changed_where_nothing_need_be() {
        for (endpoint, body) in [
            (Endpoint::OpenAiChat, r#"{"model":"m"}"#),
            (Endpoint::OpenAiChat, r#"{"model":"m","stream":false,"stream_options":{}}"#),
            (Endpoint::OpenAiChat, r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#),
            (Endpoint::OpenAiResponses, r#"{"model":"m","stream":true}"#),
            (Endpoint::AnthropicMessages, r#"{"model":"m","stream":true}"#),
            (Endpoint::OpenAiImages, r#"{"model":"m","stream":true}"#),
        ] {
            assert_eq!(splice(&scanned(endpoint, body)), None, "{body}");
        }
        assert!(splice(&scanned(Endpoint::DeepSeekBetaCompletions, r#"{"model":"m","stream":true}"#)).is_some());
    }

    #[test]
    fn a_body_in_pieces_is_changed_once_and_to_the_stated_length() {
        for options in OPTIONS {
            let comma = if options.is_empty() { "" } else { "," };
            let body = format!(r#"{{"model":"m","stream":true{comma}{options}}}"#);
            let splice = splice(&scanned(Endpoint::OpenAiChat, &body)).unwrap();
            let whole = spliced(Endpoint::OpenAiChat, &body);
            let length = u64::try_from(body.len()).unwrap();
            assert_eq!(splice.length_after(length), u64::try_from(whole.len()).unwrap());
            for size in 1..=body.len() {
                let mut changed = Vec::new();
                for (at, piece) in body.as_bytes().chunks(size).enumerate() {
                    let (before, inserts, after) = splice.of_piece(u64::try_from(at * size).unwrap(), piece.len());
                    changed.extend_from_slice(&piece[before]);
                    changed.extend_from_slice(if inserts { splice.insert } else { b"" });
                    changed.extend_from_slice(&piece[after]);
                }
                assert_eq!(String::from_utf8(changed).unwrap(), whole, "{body} in pieces of {size}");
            }
        }
    }

    #[test]
    fn any_body_that_passes_the_scan_asks_for_usage_afterwards() {
        bolero::check!().with_iterations(5_000).for_each(|bytes: &[u8]| {
            let body = [br#"{"stream":true,"#, bytes, b"}"].concat();
            let mut scan = RequestScan::new(Endpoint::OpenAiChat, None).unwrap();
            if scan.feed(&body).and_then(|()| scan.finish()).is_ok() && splice(&scan).is_some() {
                let text = String::from_utf8(body).unwrap();
                let changed: Value = serde_json::from_str(&spliced(Endpoint::OpenAiChat, &text)).unwrap();
                assert_eq!(changed["stream_options"]["include_usage"], Value::Bool(true));
            }
        });
    }

    fn spliced(endpoint: Endpoint, body: &str) -> String {
        let splice = splice(&scanned(endpoint, body)).unwrap_or_else(|| panic!("{body}"));
        let (before, inserts, after) = splice.of_piece(0, body.len());
        assert!(inserts);
        format!("{}{}{}", &body[before], std::str::from_utf8(splice.insert).unwrap(), &body[after])
    }

    fn scanned(endpoint: Endpoint, body: &str) -> RequestScan {
        let mut scan = RequestScan::new(endpoint, None).unwrap();
        scan.feed(body.as_bytes()).unwrap_or_else(|error| panic!("{error}: {body}"));
        scan.finish().unwrap_or_else(|error| panic!("{error}: {body}"));
        scan
    }
}
