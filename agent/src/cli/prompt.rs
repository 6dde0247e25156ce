//! Asking the person at the terminal, if there is one.
//!
//! Invariant: what is secret is read without an echo or from standard input,
//! and nothing is asked where nobody can answer.

use std::io;
use std::io::IsTerminal as _;
use std::io::Read as _;

use secrecy::SecretString;
use zeroize::Zeroizing;

/// Longer than any vendor's key or join token.
const STDIN_BYTES_MAX: u64 = 16 * 1024;

/// Whether a secret can be asked for on the terminal itself, whatever standard input is.
pub(crate) fn can_ask_for_secrets() -> bool {
    io::stdin().is_terminal() || io::stderr().is_terminal()
}

/// Asks without an echo.
pub(crate) fn secret(question: &str) -> io::Result<SecretString> {
    let text = Zeroizing::new(rpassword::prompt_password(question)?);
    Ok(SecretString::from(text.trim()))
}

/// All of standard input, without the white space around it.
pub(crate) fn stdin_to_end() -> io::Result<SecretString> {
    secret_from(io::stdin().lock())
}

/// All that `reader` has, within bounds.
pub(crate) fn secret_from(reader: impl io::Read) -> io::Result<SecretString> {
    // Room for all of it from the start: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(32 * 1024));
    reader.take(STDIN_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() > 16 * 1024 {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(SecretString::from(text.trim()))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_secret_from_a_pipe_loses_the_white_space_around_it_and_has_a_bound() {
        assert_eq!(secret_from(&b" sk-1\r\n"[..]).unwrap().expose_secret(), "sk-1");
        assert!(secret_from(io::repeat(b'a')).is_err());
        assert!(secret_from(&[0xff, 0xfe][..]).is_err());
    }
}
