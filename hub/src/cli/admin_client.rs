//! Asks the running hub, over its admin listener.
//!
//! Invariant: an answer is bounded in time and size, and a hub that does not
//! run is an answer, not an error.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::StatusCode;
use http::header::HOST;
use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::Limited;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use serde_json::Value;
use tokio::net::TcpStream;

const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What the hub at this address says of itself; `None` if none runs there.
///
/// # Errors
/// [`ErrorCode::NotRunning`] if something else, or a hub in trouble, answers.
pub(super) async fn status(admin: SocketAddr) -> Result<Option<Value>, Failure> {
    ask(admin, "/v1/status").await
}

/// Its links alone, with their numbers.
///
/// # Errors
/// As [`status`].
pub(super) async fn links(admin: SocketAddr) -> Result<Option<Value>, Failure> {
    ask(admin, "/v1/links").await
}

async fn ask(admin: SocketAddr, path: &str) -> Result<Option<Value>, Failure> {
    let strange = |detail: String| {
        Failure::new(ErrorCode::NotRunning, detail)
            .at(format!("http://{admin}{path}"))
            .fix("check that admin.listen is this hub's and not another program's")
    };
    let Ok(connected) = tokio::time::timeout(ANSWER_TIME_MAX, TcpStream::connect(admin)).await else {
        return Err(strange("the connection was not accepted in time".to_owned()));
    };
    let Ok(stream) = connected else {
        return Ok(None);
    };
    match tokio::time::timeout(ANSWER_TIME_MAX, get(stream, admin, path)).await {
        Ok(Ok(value)) => Ok(Some(value)),
        Ok(Err(detail)) => Err(strange(detail)),
        Err(_) => Err(strange("no answer in time".to_owned())),
    }
}

async fn get(stream: TcpStream, admin: SocketAddr, path: &str) -> Result<Value, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::get(path)
        .header(HOST, admin.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    // The connection ends when the sender is dropped with the finished answer.
    let answer = async move {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        body.collect().await.map_err(|error| error.to_string())
    };
    let (answer, _connection) = futures_util::future::join(answer, connection).await;
    serde_json::from_slice(&answer?.to_bytes()).map_err(|_| "it did not answer JSON".to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_hub_that_runs_answers_and_one_that_does_not_is_no_error() {
        let body = r#"{"schema":"keyhaven/status/v1","links":[]}"#;
        let (admin, served) =
            answering(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;

        let (answer, ()) = futures_util::future::join(status(admin), served).await;
        let absent = status(admin).await.unwrap();

        assert_eq!(answer.unwrap().unwrap()["links"], serde_json::json!([]));
        assert_eq!(absent, None);
    }

    #[tokio::test]
    async fn something_that_is_no_hub_is_named_as_such() {
        for answer in [
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            "SSH-2.0-OpenSSH_10.0\r\n",
            "",
        ] {
            let (admin, served) = answering(answer).await;

            let (asked, ()) = futures_util::future::join(status(admin), served).await;

            assert_eq!(asked.unwrap_err().code(), ErrorCode::NotRunning, "{answer}");
        }
    }

    /// Answers one connection, then is gone.
    async fn answering(answer: &str) -> (SocketAddr, impl Future<Output = ()> + use<>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = answer.to_owned();
        let served = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            drop(listener);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        (address, served)
    }
}
