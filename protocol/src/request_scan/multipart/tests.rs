//! Tests of the form reader, against a reader that has the whole body.
//!
//! Invariant: no cut changes a part or a verdict.

use super::*;
use proptest::prelude::*;

/// Name, whether it is a file, content.
type Part = (String, bool, Vec<u8>);

const BOUNDARY: &str = "-xy";

#[test]
fn parts_are_read_with_their_exact_content() {
    let body = form(&[
        ("model", None, b"whisper-1"),
        ("file", Some("a.mp3"), b"\r\n--\r\n-\n\r\r\n--- -x\0"),
        ("e", None, b""),
    ]);

    let parts = read(&[&body]).unwrap();

    let file = b"\r\n--\r\n-\n\r\r\n--- -x\0".to_vec();
    let expected: [Part; 3] =
        [("model".into(), false, b"whisper-1".into()), ("file".into(), true, file), ("e".into(), false, vec![])];
    assert_eq!(parts, expected);
}

#[test]
fn the_end_may_have_a_line_break_and_nothing_else() {
    let with = |end: &str| read(&[format!("---xy\r\nContent-Disposition: form-data; name=a\r\n\r\nb{end}").as_bytes()]);

    assert!(with("\r\n---xy--").is_ok());
    assert!(with("\r\n---xy--\r\n").is_ok());
    for end in ["", "\r\n---xy", "\r\n---xy-", "\r\n---xy--\r", "\r\n---xy--\n", "\r\n---xy--\r\n\r\n", "\r\n---xy--x"]
    {
        assert!(with(end).is_err(), "{end:?}");
    }
    assert_eq!(read(&[b"---xy--"]), Ok(vec![]));
}

#[test]
fn what_two_readers_take_apart_differently_is_refused() {
    let head = "Content-Disposition: form-data; name=a\r\n\r\n";
    let end = "\r\n---xy--\r\n";
    for body in [
        format!("preamble\r\n---xy\r\n{head}b{end}"),
        format!("\r\n---xy\r\n{head}b{end}"),
        format!("---xy \r\n{head}b{end}"),
        format!("---xy\n{head}b{end}"),
        format!("---xyz\r\n{head}b{end}"),
        format!("---xy\r\n{head}b\n---xy\r\n{head}c{end}"),
        format!("---xy\r\n{head}b\r---xy\r\n{head}c{end}"),
        format!("---xy\r\n{head}---xy\r\n{head}c{end}"),
        format!("---xy\r\n{head}b\r\n---xyz{end}"),
        format!("---xy\r\n\r\nb{end}"),
        format!("---xy\r\nContent-Disposition: form-data; name=a\n\nb{end}"),
        "---xy\r\nContent-Disposition: form-data".to_owned(),
        String::new(),
    ] {
        assert!(read(&[body.as_bytes()]).is_err(), "{body:?}");
    }
}

#[test]
fn an_endless_head_and_endless_parts_are_refused() {
    let endless = format!("---xy\r\nContent-Type: {}", "a".repeat(PART_HEAD_BYTES_MAX));
    let many = vec![("a", None, &b"b"[..]); PARTS_MAX as usize + 1];

    assert!(read(&[endless.as_bytes()]).is_err());
    assert!(read(&[&form(&many[1..])]).is_ok());
    assert!(read(&[&form(&many)]).is_err());
}

#[test]
fn every_single_cut_gives_the_same_parts() {
    let body = form(&[("model", None, b"\r\n---x\r\n--"), ("file", Some("f"), b"\r\r\n---x---xy")]);
    let whole = read(&[&body]);
    assert!(whole.is_ok());

    for cut in 0..=body.len() {
        let (before, after) = body.split_at(cut);
        assert_eq!(read(&[before, after]), whole, "cut at {cut}");
    }
    assert_eq!(read(&body.chunks(1).collect::<Vec<_>>()), whole);
}

proptest! {
    #[test]
    fn a_whole_body_reader_finds_the_same_parts(
        contents in proptest::collection::vec("[\r\n\\-xy ]{0,24}", 0..5),
        cuts in proptest::collection::vec(1_usize..9, 1..40),
    ) {
        let parts: Vec<(&str, Option<&str>, &[u8])> = contents.iter().map(|c| ("a", None, c.as_bytes())).collect();
        let body = form(&parts);
        let mut pieces = Vec::new();
        let mut rest = &body[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }

        let found = read(&pieces);

        prop_assert_eq!(&found, &read(&[&body]));
        // Content with the delimiter in it is either refused, or not content of one part.
        let clean = contents.iter().all(|c| !format!("\r\n{c}").contains("\n---xy") && !c.contains("\r---xy"));
        if clean {
            let found: Vec<Vec<u8>> = found.unwrap().into_iter().map(|part| part.2).collect();
            prop_assert_eq!(found, contents.iter().map(|c| c.as_bytes().to_vec()).collect::<Vec<_>>());
        }
    }
}

#[test]
fn any_bytes_at_any_cut_get_one_verdict() {
    bolero::check!().with_iterations(5_000).for_each(|input: &[u8]| {
        let mut body = b"---xy\r\nContent-Disposition: form-data; name=a\r\n\r\n".to_vec();
        body.extend_from_slice(input);
        for body in [input, &body] {
            let whole = read(&[body]);
            assert_eq!(read(&body.chunks(1).collect::<Vec<_>>()), whole);
            assert_eq!(read(&body.chunks(3).collect::<Vec<_>>()), whole);
        }
    });
}

fn read(pieces: &[&[u8]]) -> Result<Vec<Part>, ScanError> {
    let mut scan = MultipartScan::new(BOUNDARY);
    let mut parts: Vec<Part> = Vec::new();
    let mut open = false;
    for piece in pieces {
        scan.feed(piece, |event| {
            match event {
                PartEvent::Begin(head) => {
                    assert!(!std::mem::replace(&mut open, true));
                    parts.push((head.name.clone(), head.is_file, Vec::new()));
                }
                PartEvent::Data(data) => parts.last_mut().unwrap().2.extend_from_slice(data),
                PartEvent::End => assert!(std::mem::replace(&mut open, false)),
            }
            Ok(())
        })?;
    }
    scan.finish()?;
    Ok(parts)
}

fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        body.extend_from_slice(format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"").as_bytes());
        if let Some(file) = file {
            body.extend_from_slice(format!("; filename=\"{file}\"").as_bytes());
        }
        body.extend_from_slice(b"\r\n\r\n");
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}
