//! A look at the hub's tunnel listener for `doctor`: is it there, does it hold
//! a pinned key, what time does it think it is. No identity is shown to it.
//!
//! Invariant: nothing is read from a server whose key is not pinned.

use std::io;
use std::time::Duration;

use keyhaven_daemon::tls;
use keyhaven_protocol::pin::Pin;
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const STEP_TIME_MAX: Duration = Duration::from_secs(5);
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// How far a probe got.
#[derive(Debug)]
pub(crate) enum Probed {
    /// No connection.
    Unreachable(String),
    /// Something answers, but with a key that is not pinned.
    NotPinned,
    /// Something answers, but TLS fails for another reason.
    NotTls(String),
    /// A pinned hub, and its clock if it told it.
    Pinned {
        /// The hub's clock, in milliseconds since 1970.
        unix_ms: Option<u64>,
    },
}

/// Dials `address`, checks the pin, and asks for a page that need not exist.
pub(crate) async fn probe(address: &str, pins: Vec<Pin>) -> Probed {
    let tcp = match timeout(STEP_TIME_MAX, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return Probed::Unreachable(error.to_string()),
        Err(_) => return Probed::Unreachable("no answer within 5 seconds".to_owned()),
    };
    let config = match tls::tunnel_client(pins) {
        Ok(config) => config,
        Err(error) => return Probed::NotTls(error.to_string()),
    };
    // The name is neither sent nor checked: the pin is what counts.
    let name = ServerName::try_from("keyhaven.invalid").expect("a constant DNS name");
    let connecting = TlsConnector::from(config).connect(name, tcp);
    let mut stream = match timeout(STEP_TIME_MAX, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if is_pin_mismatch(&error) => return Probed::NotPinned,
        Ok(Err(error)) => return Probed::NotTls(error.to_string()),
        Err(_) => return Probed::NotTls("no TLS answer within 5 seconds".to_owned()),
    };
    let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let head = timeout(STEP_TIME_MAX, async {
        stream.write_all(request.as_bytes()).await?;
        read_head(&mut stream).await
    });
    // A hub that tells no time is a hub all the same.
    let head = head.await.ok().and_then(Result::ok).unwrap_or_default();
    Probed::Pinned { unix_ms: date_in(&head) }
}

fn is_pin_mismatch(error: &io::Error) -> bool {
    error.to_string().contains(tls::PIN_MISMATCH)
}

async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    let mut chunk = [0; 1024];
    while head.len() < HEAD_BYTES_MAX && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            break;
        }
        head.extend_from_slice(&chunk[..read]);
    }
    Ok(head)
}

/// The `date` header of an HTTP response head.
fn date_in(head: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(head).ok()?;
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| value.trim())
    })?;
    let moment = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    u64::try_from(moment.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_its_clock() {
        let head = b"HTTP/1.1 404 Not Found\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 0\r\n\r\n";

        assert_eq!(date_in(head), Some(784_111_777_000));
        assert_eq!(date_in(b"HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(date_in(b"\xff\xfe"), None);
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_unreachable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);

        let probed = probe(&address, vec![Pin::of_spki(b"key")]).await;

        assert!(matches!(probed, Probed::Unreachable(_)), "{probed:?}");
    }

    #[tokio::test]
    async fn a_pinned_hub_tells_its_time_and_an_unpinned_one_is_not_listened_to() {
        use ed25519_dalek::pkcs8::EncodePrivateKey as _;
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).to_pkcs8_der().unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.as_bytes());
        let acceptor = tokio_rustls::TlsAcceptor::from(tls::tunnel_server(&key).unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answer_one = async || {
            let (tcp, _) = listener.accept().await.unwrap();
            // A prober that sees a strange key hangs up.
            let Ok(mut stream) = acceptor.accept(tcp).await else {
                return;
            };
            read_head(&mut stream).await.unwrap();
            let answer = b"HTTP/1.1 404 Not Found\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        };

        let pinned = vec![tls::pin_of_key(&key).unwrap()];
        let (probed, ()) = tokio::join!(probe(&address, pinned), answer_one());
        let (strange, ()) = tokio::join!(probe(&address, vec![Pin::of_spki(b"other")]), answer_one());

        assert!(matches!(probed, Probed::Pinned { unix_ms: Some(784_111_777_000) }), "{probed:?}");
        assert!(matches!(strange, Probed::NotPinned), "{strange:?}");
    }
}
