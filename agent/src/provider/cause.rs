//! What is told of an error of a library's: the innermost cause.
//!
//! Invariant: it holds neither key nor body, since no library of ours puts those in errors.

/// The innermost message: it says what happened, where the outer ones say `client error`.
pub(crate) fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_message_is_told() {
        #[derive(Debug, thiserror::Error)]
        #[error("client error (Connect)")]
        struct Outer(#[source] std::io::Error);

        let told = deepest(&Outer(std::io::ErrorKind::ConnectionRefused.into()));

        assert_eq!(told, "connection refused");
    }
}
