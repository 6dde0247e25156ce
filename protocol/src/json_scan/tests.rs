//! Tests of the JSON reader, most of them against `serde_json`.
//!
//! Invariant: reader and `serde_json` accept the same texts, except that the
//! reader takes numbers beyond `f64` and one more level of nesting.

use super::*;
use proptest::prelude::*;
use serde_json::Map;
use serde_json::Value;

#[test]
fn events_carry_depth_and_unescaped_text() {
    let text = r#"{"a\u0062":[1.5e3,"x\"\ud83d\ude00"],"c":{},"d":null,"e":true}"#;

    let events = events(&[text.as_bytes()]).unwrap();

    let expected = [
        "0 ObjectStart",
        "1 Key ab",
        "1 ArrayStart",
        "2 Number 1.5e3",
        "2 String x\"😀",
        "1 ArrayEnd",
        "1 Key c",
        "1 ObjectStart",
        "1 ObjectEnd",
        "1 Key d",
        "1 Null",
        "1 Key e",
        "1 Bool true",
        "0 ObjectEnd",
    ];
    assert_eq!(events, expected);
}

#[test]
fn every_single_cut_gives_the_same_events() {
    let text = r#" {"k\u00e9y":[-0.5E+7,"aé€😀\ud83d\ude00\\",true,false,null,[],{}]} "#.as_bytes();
    let whole = events(&[text]).unwrap();

    for cut in 0..=text.len() {
        let (before, after) = text.split_at(cut);
        assert_eq!(events(&[before, after]).unwrap(), whole, "cut at {cut}");
    }
    let single: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(events(&single).unwrap(), whole);
}

#[test]
fn what_is_not_strict_json_is_refused() {
    let cases: &[(&[u8], JsonFault)] = &[
        (b"", JsonFault::Unfinished),
        (b"  ", JsonFault::Unfinished),
        (b"{", JsonFault::Unfinished),
        (b"\"a", JsonFault::Unfinished),
        (b"tru", JsonFault::Unfinished),
        (b"\"\\u00", JsonFault::Unfinished),
        (b"\"\xe2\x82", JsonFault::Unfinished),
        (b"\xef\xbb\xbf{}", JsonFault::Unexpected),
        (b"NaN", JsonFault::Unexpected),
        (b"nan", JsonFault::Literal),
        (b"Infinity", JsonFault::Unexpected),
        (b"-Infinity", JsonFault::Number),
        (b"+1", JsonFault::Unexpected),
        (b".5", JsonFault::Unexpected),
        (b"-", JsonFault::Number),
        (b"1.", JsonFault::Number),
        (b"[1.]", JsonFault::Number),
        (b"1e", JsonFault::Number),
        (b"1e+", JsonFault::Number),
        (b"01", JsonFault::Trailing),
        (b"[01]", JsonFault::Unexpected),
        (b"0x1", JsonFault::Trailing),
        (b"truex", JsonFault::Trailing),
        (b"True", JsonFault::Unexpected),
        (b"// c\n{}", JsonFault::Unexpected),
        (b"{}/**/", JsonFault::Trailing),
        (b"[1,]", JsonFault::Unexpected),
        (b"[,1]", JsonFault::Unexpected),
        (b"[1 2]", JsonFault::Unexpected),
        (b"[1}", JsonFault::Unexpected),
        (b"{\"a\":1]", JsonFault::Unexpected),
        (b"{\"a\":1,}", JsonFault::Unexpected),
        (b"{\"a\"}", JsonFault::Unexpected),
        (b"{\"a\" 1}", JsonFault::Unexpected),
        (b"{a:1}", JsonFault::Unexpected),
        (b"{'a':1}", JsonFault::Unexpected),
        (b"{1:1}", JsonFault::Unexpected),
        (b"]", JsonFault::Unexpected),
        (b"{} {}", JsonFault::Trailing),
        (b"1 1", JsonFault::Trailing),
        (b"\x0b1", JsonFault::Unexpected),
        (b"\0", JsonFault::Unexpected),
        (b"{}\0", JsonFault::Trailing),
        (b"\"\n\"", JsonFault::ControlCharacter),
        (b"\"\0\"", JsonFault::ControlCharacter),
        (b"\"\\x\"", JsonFault::Escape),
        (b"\"\\u00g0\"", JsonFault::Escape),
        (b"\"\\U0041\"", JsonFault::Escape),
        (b"\"\\ud800\"", JsonFault::Surrogate),
        (b"\"\\ud800\\n\"", JsonFault::Surrogate),
        (b"\"\\ud800\\ud800\"", JsonFault::Surrogate),
        (b"\"\\ud800\\u0041\"", JsonFault::Surrogate),
        (b"\"\\udc00\"", JsonFault::Surrogate),
        (b"\"\xff\"", JsonFault::Utf8),
        (b"\"\x80\"", JsonFault::Utf8),
        (b"\"\xc0\x80\"", JsonFault::Utf8),
        (b"\"\xed\xa0\x80\"", JsonFault::Utf8),
        (b"\"\xf4\x90\x80\x80\"", JsonFault::Utf8),
        (b"\"\xe2\x82\"", JsonFault::Utf8),
        (b"\"\xe2\x82\\n\"", JsonFault::Utf8),
        (b"\"\xe2\x82\n\"", JsonFault::Utf8),
    ];
    for (text, fault) in cases {
        let shown = String::from_utf8_lossy(text);
        let bytewise: Vec<&[u8]> = text.chunks(1).collect();

        assert_eq!(events(&[text]).unwrap_err(), *fault, "{shown}");
        assert_eq!(events(&bytewise).unwrap_err(), *fault, "{shown} bytewise");
    }
}

#[test]
fn nesting_is_bounded() {
    let levels = usize::try_from(DEPTH_MAX).unwrap();
    let nested = |depth: usize| {
        let mixed = "[{\"a\":".repeat(depth / 2);
        mixed + "1" + &"}]".repeat(depth / 2)
    };

    assert!(events(&[nested(levels).as_bytes()]).is_ok());
    assert_eq!(events(&[nested(levels + 2).as_bytes()]).unwrap_err(), JsonFault::TooDeep);
    assert_eq!(events(&["[".repeat(1_000_000).as_bytes()]).unwrap_err(), JsonFault::TooDeep);
}

#[test]
fn long_text_is_counted_and_only_its_prefix_kept() {
    let long = "é".repeat(1_000_000);
    let text = format!("[\"{long}\",{}]", "7".repeat(300));
    let mut seen = Vec::new();
    let mut scan = JsonScan::new();
    let mut visit = |_, event: Event<'_>| {
        if let Event::String(text) | Event::Number(text) = event {
            seen.push((text.prefix.len(), text.len, text.as_str().is_none()));
        }
    };
    for piece in text.as_bytes().chunks(777) {
        scan.feed(piece, &mut visit).unwrap();
    }
    scan.finish(&mut visit).unwrap();

    assert_eq!(seen, [(256, 2_000_000, true), (256, 300, true)]);
    assert!(size_of::<JsonScan>() <= 512);
}

#[test]
fn a_text_that_fills_the_prefix_is_whole() {
    let text = "a".repeat(TEXT_BYTES_MAX);
    let json = format!("\"{text}\"");
    let mut whole = None;
    let mut scan = JsonScan::new();
    let visit = |_, event: Event<'_>| {
        if let Event::String(text) = event {
            whole = text.as_str().map(str::to_owned);
        }
    };
    scan.feed(json.as_bytes(), visit).unwrap();

    assert_eq!(whole, Some(text));
}

#[test]
fn a_spot_is_where_the_token_stands() {
    let text = r#" {"a" : [1, -2.5e3,"x\u00e9é",true ,null], "b":{}}"#;
    for size in 1..=text.len() {
        let mut seen = Vec::new();
        let mut scan = JsonScan::new();
        for piece in text.as_bytes().chunks(size) {
            scan.feed(piece, |spot, _| seen.push((spot.from, spot.to))).unwrap();
        }
        scan.finish(|_, _| {}).unwrap();

        let at = |(from, to): &(u64, u64)| &text[usize::try_from(*from).unwrap()..usize::try_from(*to).unwrap()];
        let tokens: Vec<&str> = seen.iter().map(at).collect();
        let expected = ["{", "\"a\"", "[", "1", "-2.5e3", "\"x\\u00e9é\"", "true", "null", "]", "\"b\"", "{", "}", "}"];
        assert_eq!(tokens, expected, "pieces of {size}");
    }
    let mut root = Vec::new();
    let mut scan = JsonScan::new();
    scan.feed(b" 12", |_, _| {}).unwrap();
    scan.finish(|spot, _| root.push((spot.from, spot.to))).unwrap();
    assert_eq!(root, [(1, 3)]);
}

#[test]
fn a_verdict_is_final() {
    let mut scan = JsonScan::new();
    let first = scan.feed(b"[1,]", |_, _| {}).unwrap_err();

    assert_eq!(scan.feed(b"1]", |_, _| {}), Err(first));
    assert_eq!(scan.finish(|_, _| {}), Err(first));
    assert_eq!(first.to_string(), "unexpected byte near byte 3");
}

#[test]
fn numbers_beyond_any_type_are_numbers() {
    for text in ["1e999", "-1E-999", "123456789012345678901234567890", "-0"] {
        let numbers = events(&[text.as_bytes()]).unwrap();
        assert_eq!(numbers, [format!("0 Number {text}")]);
    }
}

#[test]
fn any_bytes_get_the_verdict_of_serde_json_at_any_cut() {
    bolero::check!()
        .with_iterations(10_000)
        .with_type::<(Vec<u8>, Vec<u8>)>()
        .for_each(|(bytes, cuts)| agree_with_serde_json(bytes, cuts));
}

#[test]
fn any_json_like_bytes_get_the_verdict_of_serde_json() {
    const ALPHABET: &[u8] = b"{}[]\",:\\u09dDcC8ba/ntfr.eE+- \xc3\xa9";
    bolero::check!().with_iterations(20_000).with_type::<(Vec<u8>, Vec<u8>)>().for_each(|(bytes, cuts)| {
        let picks = bytes.iter().map(|byte| usize::from(*byte));
        let json: Vec<u8> = picks.map(|pick| ALPHABET[pick % ALPHABET.len()]).collect();
        agree_with_serde_json(&json, cuts);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn generated_json_is_read_as_serde_json_reads_it(
        value in any_json(), pretty: bool, escaped: bool, cuts: Vec<u8>,
    ) {
        let text = written(&value, pretty, escaped);
        let expected: Value = serde_json::from_slice(&text).unwrap();

        let mut builder = Builder::default();
        let mut scan = JsonScan::new();
        for piece in cut(&text, &cuts) {
            scan.feed(piece, |_, event| builder.take(event)).unwrap();
        }
        scan.finish(|_, event| builder.take(event)).unwrap();

        prop_assert_eq!(builder.root, Some(expected));
    }

    #[test]
    fn characters_are_counted_at_any_cut(text in "\\PC{0,80}", escaped: bool, cuts: Vec<u8>) {
        let json = written(&Value::from(text.as_str()), false, escaped);
        let mut counted = None;
        let mut scan = JsonScan::new();
        for piece in cut(&json, &cuts) {
            scan.feed(piece, |_, event| if let Event::String(text) = event { counted = Some((text.len, text.chars)); })
                .unwrap();
        }

        prop_assert_eq!(counted, Some((wide(text.len()), wide(text.chars().count()))));
    }

    #[test]
    fn mutated_json_gets_the_verdict_of_serde_json(
        value in any_json(),
        pretty: bool,
        escaped: bool,
        changes in proptest::collection::vec((any::<usize>(), 0_u8..3, interesting_byte()), 1..4),
        cuts: Vec<u8>,
    ) {
        let mut text = written(&value, pretty, escaped);
        for (at, kind, byte) in changes {
            let at = at % text.len().max(1);
            match kind {
                0 if at < text.len() => text[at] = byte,
                1 if at < text.len() => drop(text.remove(at)),
                _ => text.insert(at.min(text.len()), byte),
            }
        }
        agree_with_serde_json(&text, &cuts);
    }
}

fn agree_with_serde_json(text: &[u8], cuts: &[u8]) {
    let ours = events(&cut(text, cuts));
    let whole = events(&[text]);
    assert_eq!(ours, whole, "a cut changed something");

    let theirs = serde_json::from_slice::<Value>(text);
    if let Err(error) = &theirs
        && (error.to_string().starts_with("number out of range") || error.to_string().starts_with("recursion limit"))
    {
        return;
    }
    assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?}: {ours:?}, serde_json: {theirs:?}", String::from_utf8_lossy(text));
}

/// The events as lines, or the fault.
fn events(pieces: &[&[u8]]) -> Result<Vec<String>, JsonFault> {
    let mut lines = Vec::new();
    let mut visit = |spot: Spot, event: Event<'_>| lines.push(line(spot.depth, event));
    let mut scan = JsonScan::new();
    for piece in pieces {
        scan.feed(piece, &mut visit).map_err(|error| error.fault)?;
    }
    scan.finish(&mut visit).map_err(|error| error.fault)?;
    Ok(lines)
}

fn line(depth: u32, event: Event<'_>) -> String {
    let shown = |text: Text<'_>| String::from_utf8_lossy(text.prefix).into_owned();
    match event {
        Event::Key(text) => format!("{depth} Key {}", shown(text)),
        Event::String(text) => format!("{depth} String {}", shown(text)),
        Event::Number(text) => format!("{depth} Number {}", shown(text)),
        Event::Bool(value) => format!("{depth} Bool {value}"),
        Event::ObjectStart | Event::ObjectEnd | Event::ArrayStart | Event::ArrayEnd | Event::Null => {
            format!("{depth} {event:?}")
        }
    }
}

/// Cuts the text after as many bytes as each number says, in turn.
fn cut<'a>(text: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let mut rest = text;
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, after) = rest.split_at(usize::from(*cut % 16).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

/// Builds a value from events, to compare with what `serde_json` builds.
#[derive(Default)]
struct Builder {
    open: Vec<(Value, Option<String>)>,
    key: Option<String>,
    root: Option<Value>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::ObjectStart => self.open.push((Value::Object(Map::new()), self.key.take())),
            Event::ArrayStart => self.open.push((Value::Array(Vec::new()), self.key.take())),
            Event::ObjectEnd | Event::ArrayEnd => {
                let (value, key) = self.open.pop().unwrap();
                self.key = key;
                self.add(value);
            }
            Event::Key(text) => self.key = text.as_str().map(str::to_owned),
            Event::String(text) => self.add(Value::from(text.as_str().unwrap())),
            Event::Number(text) => {
                self.add(serde_json::from_str(text.as_str().unwrap()).unwrap());
            }
            Event::Bool(value) => self.add(Value::from(value)),
            Event::Null => self.add(Value::Null),
        }
    }

    fn add(&mut self, value: Value) {
        let Some((container, _)) = self.open.last_mut() else {
            self.root = Some(value);
            return;
        };
        if let Some(items) = container.as_array_mut() {
            items.push(value);
        } else if let Some(members) = container.as_object_mut() {
            members.insert(self.key.take().unwrap(), value);
        }
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let text = "[ -~\u{e9}\u{20ac}\u{1f600}\u{0}-\u{1f}]{0,40}";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(text, inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn interesting_byte() -> impl Strategy<Value = u8> {
    let likely = b"{}[]\",:\\u0dD8ntf.eE+- \x00\x1f\x7f\x80\xc3\xe2\xed\xf0\xff".to_vec();
    prop_oneof![3 => proptest::sample::select(likely), 1 => any::<u8>()]
}

/// The value as JSON, if asked with every character beyond ASCII as `\u`.
fn written(value: &Value, pretty: bool, escaped: bool) -> Vec<u8> {
    let text =
        if pretty { serde_json::to_string_pretty(value).unwrap() } else { serde_json::to_string(value).unwrap() };
    if !escaped {
        return text.into_bytes();
    }
    let mut ascii = String::new();
    for character in text.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                ascii += &format!("\\u{unit:04X}");
            }
        }
    }
    ascii.into_bytes()
}
