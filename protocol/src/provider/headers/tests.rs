//! Tests of the header lists and of where keys travel.
//!
//! Invariant: every published line is enforced, on both sides.

use super::*;
use crate::provider::Provider;
use crate::provider::native_error::ErrorShape;

const CHAT: Endpoint = Endpoint::OpenAiChat;

#[test]
fn the_published_lists_are_lower_case_unique_and_give_reasons() {
    for list in [REQUEST_DROPPED, RESPONSE_DROPPED, HANDSHAKE_PASSED, SUBPROTOCOLS_DROPPED] {
        let mut seen = HashSet::new();
        for rule in list {
            assert!(seen.insert(rule.name), "{}", rule.name);
            assert!(!rule.reason.is_empty());
            let plain = rule.name.strip_suffix('*').unwrap_or(rule.name);
            assert_eq!(HeaderName::from_bytes(plain.as_bytes()).unwrap(), plain);
        }
    }
}

#[test]
fn every_listed_request_header_is_dropped_on_both_sides() {
    let mut headers = map(&[("content-type", "application/json")]);
    for rule in REQUEST_DROPPED {
        let name = rule.name.replace('*', "anything");
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_static("x"));
    }

    for kept in [request_to_tunnel(CHAT, &headers), request_to_vendor(CHAT, &headers)] {
        assert_eq!(kept, map(&[("content-type", "application/json")]));
    }
}

#[test]
fn every_listed_response_header_is_dropped_and_the_rest_passes() {
    let rest = [
        ("content-type", "text/event-stream"),
        ("content-length", "12"),
        ("x-request-id", "r"),
        ("request-id", "r"),
        ("x-ratelimit-remaining-tokens", "1"),
        ("anthropic-ratelimit-tokens-limit", "1"),
        ("retry-after", "1"),
        ("openai-processing-ms", "1"),
        ("openai-version", "2020-10-01"),
        ("server", "cloudflare"),
    ];
    let mut headers = map(&rest);
    for rule in RESPONSE_DROPPED {
        let name = rule.name.replace('*', "anything");
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_static("x"));
    }

    assert_eq!(response_to_consumer(&headers), map(&rest));
}

#[test]
fn sdk_headers_and_their_duplicates_pass_in_order() {
    let headers = map(&[
        ("anthropic-beta", "b"),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "a"),
        ("user-agent", "OpenAI/Python"),
        ("x-stainless-retry-count", "0"),
        ("anthropic-beta", "b"),
    ]);

    let kept = request_to_tunnel(CHAT, &headers);

    let betas: Vec<&HeaderValue> = kept.get_all("anthropic-beta").into_iter().collect();
    assert_eq!(betas, ["b", "a", "b"]);
    assert_eq!(kept, headers);
}

#[test]
fn bytes_beyond_ascii_in_a_value_pass_unchanged() {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_bytes(b"caf\xc3\xa9 \xff").unwrap();
    headers.append("x-note", value.clone());

    assert_eq!(response_to_consumer(&headers)["x-note"], value);
}

#[test]
fn what_connection_names_is_dropped_both_ways() {
    let headers = map(&[
        ("connection", "close, X-Secret"),
        ("connection", "x-other"),
        ("x-secret", "1"),
        ("x-other", "1"),
        ("x-third", "1"),
    ]);

    assert_eq!(request_to_tunnel(CHAT, &headers), map(&[("x-third", "1")]));
    assert_eq!(response_to_consumer(&headers), map(&[("x-third", "1")]));
}

#[test]
fn accept_encoding_is_narrowed_to_what_metering_reads() {
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &[]),
        (&["gzip, deflate"], &["gzip, deflate"]),
        (&["GZIP;q=0.5,identity"], &["GZIP;q=0.5,identity"]),
        (&["gzip;q=1.0, br;q=0.9, deflate ; q=0.1, *;q=0"], &["gzip;q=1.0, deflate ; q=0.1"]),
        (&["br, zstd"], &["identity"]),
        (&["*"], &["identity"]),
        (&[""], &["identity"]),
        (&["br", "gzip", "deflate, zstd, deflate"], &["gzip", "deflate, deflate"]),
        (&["gzipped"], &["identity"]),
    ];
    for (offered, expected) in cases {
        let lines: Vec<_> = offered.iter().map(|line| ("accept-encoding", *line)).collect();
        let once = request_to_tunnel(CHAT, &map(&lines));
        let values: Vec<&HeaderValue> = once.get_all(ACCEPT_ENCODING).into_iter().collect();

        assert_eq!(values, *expected, "{offered:?}");
        assert_eq!(request_to_vendor(CHAT, &once), once, "narrowing twice is once");
    }
}

#[test]
fn a_key_is_found_in_each_form() {
    for (name, value) in [
        ("authorization", "Bearer kh_sk_1"),
        ("authorization", "bearer  kh_sk_1"),
        ("x-api-key", "kh_sk_1"),
        ("api-key", "kh_sk_1"),
    ] {
        assert_eq!(credential(&map(&[(name, value)])), Ok("kh_sk_1"), "{name}");
    }
}

#[test]
fn the_same_key_twice_is_one_key_and_two_keys_are_none() {
    let same = map(&[("authorization", "Bearer a"), ("x-api-key", "a")]);
    let mixed = map(&[("authorization", "Bearer a"), ("api-key", "b")]);
    let twice = map(&[("x-api-key", "a"), ("x-api-key", "b")]);

    assert_eq!(credential(&same), Ok("a"));
    assert_eq!(credential(&mixed), Err(CredentialError::Conflicting));
    assert_eq!(credential(&twice), Err(CredentialError::Conflicting));
}

#[test]
fn empty_and_foreign_forms_are_passed_over() {
    let empty = map(&[("authorization", "Bearer "), ("api-key", "a")]);
    let basic = map(&[("authorization", "Basic dTpw"), ("x-api-key", "a")]);

    assert_eq!(credential(&empty), Ok("a"));
    assert_eq!(credential(&basic), Ok("a"));
    assert_eq!(credential(&map(&[("authorization", "Bearer")])), Err(CredentialError::Missing));
    assert_eq!(credential(&map(&[])), Err(CredentialError::Missing));
}

#[test]
fn a_key_with_spaces_or_foreign_bytes_is_malformed() {
    let spaced = map(&[("authorization", "Bearer a b")]);
    let mut foreign = HeaderMap::new();
    foreign.insert(X_API_KEY, HeaderValue::from_bytes(b"k\xff").unwrap());

    assert_eq!(credential(&spaced), Err(CredentialError::Malformed));
    assert_eq!(credential(&foreign), Err(CredentialError::Malformed));
}

#[test]
fn a_browsers_key_is_found_among_the_subprotocols_and_taken_out() {
    let headers = map(&[
        ("sec-websocket-protocol", "realtime, openai-insecure-api-key.kh_sk_1"),
        ("sec-websocket-protocol", "openai-beta.realtime-v1, OpenAI-Project.p"),
        ("sec-websocket-key", "k"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ]);
    let passed = map(&[
        ("sec-websocket-key", "k"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "realtime, openai-beta.realtime-v1"),
    ]);
    let only_key = map(&[("sec-websocket-protocol", "openai-insecure-api-key.a")]);

    assert_eq!(credential(&headers), Ok("kh_sk_1"));
    assert_eq!(request_to_tunnel(Endpoint::OpenAiRealtime, &headers), passed);
    assert_eq!(request_to_vendor(Endpoint::AzureRealtime, &passed), passed);
    assert_eq!(request_to_tunnel(CHAT, &headers), HeaderMap::new(), "not on other endpoints");
    assert_eq!(request_to_tunnel(Endpoint::OpenAiRealtime, &only_key), HeaderMap::new());
}

#[test]
fn keys_in_a_header_and_in_a_subprotocol_must_agree() {
    let with = |key| map(&[("api-key", "a"), ("sec-websocket-protocol", key)]);

    assert_eq!(credential(&with("openai-insecure-api-key.a")), Ok("a"));
    assert_eq!(credential(&with("openai-insecure-api-key.b")), Err(CredentialError::Conflicting));
    assert_eq!(credential(&with("openai-insecure-api-key.")), Ok("a"));
}

#[test]
fn each_vendor_gets_its_key_in_its_own_form() {
    for endpoint in Endpoint::ALL {
        let expected = match (endpoint.provider(), endpoint.error_shape()) {
            (Provider::Azure, _) => AuthForm::ApiKey,
            (_, ErrorShape::Anthropic) => AuthForm::XApiKey,
            (Provider::OpenAi | Provider::Anthropic | Provider::DeepSeek, _) => AuthForm::Bearer,
        };
        assert_eq!(endpoint.auth(), expected, "{endpoint:?}");
    }
}

#[test]
fn the_auth_header_is_sensitive_and_needs_header_bytes() {
    let (name, value) = AuthForm::Bearer.header("sk-1").unwrap();

    assert_eq!(name, AUTHORIZATION);
    assert_eq!(value, "Bearer sk-1");
    assert!(value.is_sensitive());
    assert_eq!(format!("{value:?}"), "Sensitive");
    assert!(AuthForm::XApiKey.header("a\nb").is_err());
}

fn map(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}
