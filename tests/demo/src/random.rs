//! Random text, for ids and keys that are made up.
//!
//! Invariant: nothing here protects anything: what it makes opens the sample vendor and no other
//! door.

const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Twice as many hexadecimal digits as `bytes`.
pub(crate) fn hex(bytes: usize) -> String {
    text(bytes * 2, HEX)
}

/// So many characters of base64url.
pub(crate) fn url_safe(characters: usize) -> String {
    text(characters, URL_SAFE)
}

fn text(characters: usize, alphabet: &[u8]) -> String {
    let mut bytes = vec![0u8; characters];
    getrandom::fill(&mut bytes).expect("a machine without random bytes could not have made the TLS keys either");
    // The alphabets' lengths divide 256, so no character is likelier than another.
    bytes.iter().map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()])).collect()
}
