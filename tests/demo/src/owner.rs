//! Asking the owner of a real key for it, and for their word that they may use it so.
//!
//! Invariant: a real key is never taken from an argument or a variable, never shown, and never used
//! without its owner's word.

use std::io::BufRead;
use std::io::IsTerminal;

use anyhow::Context;
use keyhaven_agent::vault::key::Attestation;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::confirm;
use keyhaven_daemon::cli::somebody_answers;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::arguments::RealVendor;
use crate::vendor_keys::RealKey;

/// What the owner agrees to.
const ATTESTATION: &str = "This key is mine to use, and serving calls of others with it is within the vendor's terms.";

/// Longer than any vendor's key.
const KEY_BYTES_MAX: usize = 1024;

/// Asks for both. Where nobody can be asked, the key is the first line of standard input and the
/// word was given on the command line.
///
/// # Errors
/// The owner does not agree, or there is no key.
pub(crate) fn ask(output: Output, vendor: RealVendor, attested: bool) -> anyhow::Result<RealKey> {
    let title = vendor.provider().title();
    let terminal = std::io::stdin().is_terminal();
    output.note(&format!("This demo will call {title} itself, with a key of yours; its calls cost you money."));
    if attested {
        output.note(&format!("attested: {ATTESTATION}"));
    } else if !(somebody_answers() && confirm(&format!("{ATTESTATION}\nDo you confirm this?"))?) {
        return Err(Failure::new(ErrorCode::AttestationMissing, "").into());
    }
    let secret = if terminal {
        let typed = rpassword::prompt_password(format!("{title} key: ")).context("ask for the key")?;
        SecretString::from(Zeroizing::new(typed).trim())
    } else {
        first_line_of(std::io::stdin().lock()).context("read the key from standard input")?
    };
    Ok(RealKey { secret, attestation: Attestation { text: ATTESTATION.to_owned(), at_unix_ms: unix_ms_now() } })
}

fn first_line_of(reader: impl BufRead) -> std::io::Result<SecretString> {
    // Room for all of it from the start: a buffer that grows leaves copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(KEY_BYTES_MAX));
    reader.take(KEY_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    let text = std::str::from_utf8(&line).map_err(|_| std::io::ErrorKind::InvalidData)?;
    Ok(SecretString::from(text.trim()))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn the_key_is_the_first_line_without_the_white_space_around_it() {
        assert_eq!(first_line_of(&b" sk-1 \r\nrest"[..]).unwrap().expose_secret(), "sk-1");
        assert_eq!(first_line_of(&b""[..]).unwrap().expose_secret(), "");
    }
}
