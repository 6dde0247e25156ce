//! The filtered stream against the one that a vendor would have sent unasked.
//!
//! Invariant: both streams of a pair are written by one model of a vendor.

use super::*;
use proptest::prelude::*;

#[test]
fn openais_own_stream_is_as_if_unasked_at_every_cut() {
    let asked = concat!(
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"}}],\"usage\":null,\"obfuscation\":\"aB\"}\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\\"usage\\\":null\"}}],\"usage\":null}\n\n",
        "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1},\"obfuscation\":\"\"}\n\n",
        "data: [DONE]\n\n",
    );
    let unasked = concat!(
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"}}],\"obfuscation\":\"aB\"}\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\\"usage\\\":null\"}}]}\n\n",
        "data: [DONE]\n\n",
    );
    every_cut(asked, unasked);
}

#[test]
fn lines_end_in_any_way_and_comments_stay() {
    for (asked, unasked) in [
        ("data: {\"usage\":null,\"choices\":[1]}\r\n\r\n", "data: {\"choices\":[1]}\r\n\r\n"),
        ("data:{\"choices\":[1] , \"usage\" : null }\r\r", "data:{\"choices\":[1]  }\r\r"),
        ("\u{feff}data: {\"a\":1,\"usage\":null}\n\n", "\u{feff}data: {\"a\":1}\n\n"),
        ("\u{feff}data: {\"choices\":[],\"usage\":{}}\n\ndata: x\n\n", "data: x\n\n"),
        (
            ": keep-alive\n\n: x\r\n\r\ndata: {\"a\":1,\"usage\":null}\n\n",
            ": keep-alive\n\n: x\r\n\r\ndata: {\"a\":1}\n\n",
        ),
        ("data: {\"choices\":[],\"usage\":{}}\r\n\r\ndata: [DONE]\r\n\r\n", "data: [DONE]\r\n\r\n"),
        ("data: {\"choices\":[],\"usage\":{}}\r\rdata: [DONE]\r\r", "data: [DONE]\r\r"),
        ("event: e\ndata: {\"choices\":[],\"usage\":{}}\n: c\n\n", ": c\n"),
        ("data: {\"choices\":[],\ndata: \"usage\":{}}\n\ndata: y\n\n", "data: y\n\n"),
        ("id: 7\ndata: {\"usage\":null}\n\n", "id: 7\ndata: {}\n\n"),
        // Azure's first event has no choices either.
        (
            "data: {\"choices\":[],\"prompt_filter_results\":[],\"usage\":null}\n\n",
            "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n",
        ),
    ] {
        every_cut(asked, unasked);
    }
}

#[test]
fn what_is_not_the_one_thing_that_was_asked_for_stays() {
    for stream in [
        "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":1}}\n\n",
        "data: {\"choices\":[{\"usage\":null}]}\n\n",
        "data: {\"usage\":{\"prompt_tokens\":1}}\n\n",
        "data: {\"usage\":null,\"usage\":null}\n\n",
        "data: {\"usage\":0}\n\n",
        "data: {\"choices\":[],\"usage\":[]}\n\n",
        "data: {\"choices\":[],\"choices\":[],\"usage\":{}}\n\n",
        "data: {\"usage\":null\n\n",
        "data: {\ndata: \"usage\":null}\n\n",
        "database: {\"usage\":null}\n\n",
        ": {\"usage\":null}\n\n",
        "data: [DONE]\n\n",
        "data: {\"error\":{\"message\":\"usage\"}}\n\n",
        "\n\r\n\r\r\n",
        "data",
        "data: {\"choices\":[",
    ] {
        every_cut(stream, stream);
    }
}

#[test]
fn an_end_without_a_blank_line_is_an_end() {
    every_cut("data: {\"a\":1,\"usage\":null}", "data: {\"a\":1}");
    every_cut("data: {\"choices\":[],\"usage\":{}}\n", "");
}

#[test]
fn a_comment_between_events_does_not_wait() {
    let mut filter = AssistFilter::new();
    let mut out = Vec::new();
    filter.feed(b": keep", &mut out);
    assert_eq!(out, b": keep");
    filter.feed(b"-alive\r\n\r", &mut out);
    assert_eq!(out, b": keep-alive\r\n\r");
    filter.feed(b"\ndata: {}\n", &mut out);
    assert_eq!(out, b": keep-alive\r\n\r\n", "an event waits for its end");
    filter.feed(b"\n", &mut out);
    assert_eq!(out, b": keep-alive\r\n\r\ndata: {}\n\n");
}

#[test]
fn a_huge_event_passes_as_it_is_and_the_next_is_filtered() {
    let huge = format!("data: {{\"a\":\"{}\",\"usage\":null}}\n\n", "x".repeat(EVENT_BYTES_MAX));
    let asked = format!("{huge}data: {{\"b\":1,\"usage\":null}}\n\n");
    let expected = format!("{huge}data: {{\"b\":1}}\n\n");
    for size in [1, 7, 4096, asked.len()] {
        let mut filter = AssistFilter::new();
        let mut out = Vec::new();
        for piece in asked.as_bytes().chunks(size) {
            filter.feed(piece, &mut out);
            assert!(filter.held.len() <= EVENT_BYTES_MAX);
        }
        filter.finish(&mut out);
        assert!(out == expected.as_bytes(), "pieces of {size}");
    }
    let fits = format!("data: {{\"a\":\"{}\",\"usage\":null}}\n\n", "x".repeat(EVENT_BYTES_MAX - 100));
    assert!(filtered(&[fits.as_bytes()]) == fits.replace(",\"usage\":null", "").into_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_filtered_stream_is_the_one_that_was_not_asked_for(
        chunks in proptest::collection::vec((chunk(), 0_usize..6), 0..4),
        style in style(),
        comments: bool,
        extra in 0_usize..4,
        done: bool,
        cuts in proptest::collection::vec(0_usize..40, 0..12),
    ) {
        let (asked, unasked) = streams(&chunks, &style, comments, extra, done);
        every_cut(&asked, &unasked);

        let mut rest = asked.as_bytes();
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        prop_assert_eq!(String::from_utf8(filtered(&pieces)).unwrap(), unasked);
    }
}

#[test]
fn any_bytes_without_usage_pass_unchanged_and_any_bytes_alike_at_every_cut() {
    bolero::check!().with_iterations(10_000).with_type::<(Vec<u8>, usize)>().for_each(|(picks, cut)| {
        const WORDS: &[&[u8]] = &[
            b"\n",
            b"\r",
            b"\r\n",
            b"data:",
            b" ",
            b":",
            b"{",
            b"}",
            b"\"usage\"",
            b"null",
            b"\"choices\"",
            b"[]",
            b",",
            b"1",
        ];
        let spoken: Vec<u8> = picks.iter().flat_map(|pick| WORDS[usize::from(*pick) % WORDS.len()]).copied().collect();
        for bytes in [picks, &spoken] {
            let whole = filtered(&[bytes]);
            let (head, tail) = bytes.split_at(cut % (bytes.len() + 1));
            assert_eq!(filtered(&[head, tail]), whole);
            assert_eq!(filtered(&bytes.chunks(1).collect::<Vec<_>>()), whole);
            if memchr::memmem::find(bytes, b"\"usage\"").is_none() {
                assert_eq!(&whole, bytes);
            }
        }
    });
}

/// How a vendor writes.
#[derive(Debug, Clone)]
struct Style {
    line: &'static str,
    data: &'static str,
    /// After a comma, around a colon, inside the braces.
    comma: &'static str,
    colon: &'static str,
    brace: &'static str,
}

fn style() -> impl Strategy<Value = Style> {
    let line = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
    let data = prop_oneof![Just("data: "), Just("data:")];
    let blank = || prop_oneof![Just(""), Just(" "), Just("\t ")];
    (line, data, blank(), prop_oneof![Just(":"), Just(": "), Just(" : ")], blank())
        .prop_map(|(line, data, comma, colon, brace)| Style { line, data, comma, colon, brace })
}

fn chunk() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let member = prop_oneof![
        Just(("id", "\"c\"")),
        Just(("choices", "[{\"delta\":{\"content\":\"\\\"usage\\\":null,\"},\"usage\":null}]")),
        Just(("choices", "[]")),
        Just(("created", "7")),
        Just(("obfuscation", "\"}{\"")),
        Just(("service_tier", "null")),
        Just(("system_fingerprint", "\"é\\u00e9\"")),
    ];
    proptest::collection::vec(member, 1..5)
}

/// The streams that this vendor sends when asked and when not. Each chunk says where its
/// `usage` stands.
fn streams(
    chunks: &[(Vec<(&'static str, &'static str)>, usize)],
    style: &Style,
    comments: bool,
    extra: usize,
    done: bool,
) -> (String, String) {
    let Style { line, data, comma, colon, brace } = style;
    let write = |members: &[(&str, &str)]| {
        let members: Vec<String> = members.iter().map(|(key, value)| format!("\"{key}\"{colon}{value}")).collect();
        format!("{data}{{{brace}{}{brace}}}{line}{line}", members.join(&format!(",{comma}")))
    };
    let (mut asked, mut unasked) = (String::new(), String::new());
    for (members, place) in chunks {
        if comments {
            asked += &format!(": keep-alive{line}{line}");
            unasked += &format!(": keep-alive{line}{line}");
        }
        let mut with = members.clone();
        with.insert((*place).min(members.len()), ("usage", "null"));
        asked += &write(&with);
        unasked += &write(members);
    }
    let mut last = vec![("id", "\"c\""), ("choices", "[]"), ("obfuscation", "\"\"")];
    last.insert(extra, ("usage", "{\"prompt_tokens\":1,\"prompt_tokens_details\":{\"cached_tokens\":0}}"));
    asked += &write(&last);
    if done {
        asked += &format!("{data}[DONE]{line}{line}");
        unasked += &format!("{data}[DONE]{line}{line}");
    }
    (asked, unasked)
}

fn every_cut(asked: &str, unasked: &str) {
    let shown = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    for cut in 0..=asked.len() {
        let (head, tail) = asked.as_bytes().split_at(cut);
        assert_eq!(shown(filtered(&[head, tail])), unasked, "cut at {cut} of {asked:?}");
    }
    assert_eq!(shown(filtered(&asked.as_bytes().chunks(1).collect::<Vec<_>>())), unasked);
}

fn filtered(pieces: &[&[u8]]) -> Vec<u8> {
    let mut filter = AssistFilter::new();
    let mut out = Vec::new();
    for piece in pieces {
        filter.feed(piece, &mut out);
    }
    filter.finish(&mut out);
    out
}
