//! A vendor for tests: TLS on loopback under an official name, and on it whatever bytes the
//! test wants to send.
//!
//! Invariant: it knows no HTTP; what a test does not write is not said.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Egress;

/// The host it stands in for.
pub(crate) const HOST: &str = "api.openai.com";

/// A listening vendor.
pub(crate) struct FakeVendor {
    acceptor: TlsAcceptor,
    listener: TcpListener,
    egress: Egress,
}

/// One connection that an agent made.
pub(crate) struct Guest {
    pub(crate) stream: TlsStream<TcpStream>,
    ahead: Option<u8>,
}

impl FakeVendor {
    pub(crate) async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let signing = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new([HOST.to_owned()]).unwrap().self_signed(&signing).unwrap();
        let egress = egress_to(listener.local_addr().unwrap(), &certificate.pem());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivatePkcs8KeyDer::from(signing.serialize_der()).into();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), listener, egress }
    }

    /// What reaches this vendor and nobody else.
    pub(crate) fn egress(&self) -> Egress {
        self.egress.clone()
    }

    /// The next connection, without TLS yet.
    pub(crate) async fn accept_tcp(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> Guest {
        let tcp = self.accept_tcp().await;
        Guest { stream: self.acceptor.accept(tcp).await.unwrap(), ahead: None }
    }

    /// Answers one request with a status and a body, on a connection of its own.
    pub(crate) async fn answer_one(&self, status: &str, body: &str) {
        let mut guest = self.accept().await;
        guest.read_head().await;
        guest.say(&format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
    }

    /// Nobody listens where the vendor was.
    pub(crate) async fn close(&mut self) {
        let gone = std::mem::replace(&mut self.listener, TcpListener::bind("127.0.0.1:0").await.unwrap());
        drop(gone);
    }
}

impl Guest {
    /// A request's head, with the blank line.
    pub(crate) async fn read_head(&mut self) -> String {
        let mut head: Vec<u8> = self.ahead.take().into_iter().collect();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    pub(crate) async fn read_exact(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.stream.read_exact(&mut read).await.unwrap();
        read
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.say_bytes(text.as_bytes()).await;
    }

    pub(crate) async fn say_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Waits for the first byte of a request; false when the connection is closed instead.
    pub(crate) async fn begins_head(&mut self) -> bool {
        let mut first = [0; 1];
        match self.stream.read(&mut first).await {
            Ok(1) => {
                self.ahead = Some(first[0]);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// A body in chunks, up to its end.
    pub(crate) async fn read_chunks(&mut self) -> String {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.read_line().await, 16).unwrap();
            body.extend_from_slice(&self.read_exact(size).await);
            self.read_line().await;
            if size == 0 {
                return String::from_utf8(body).unwrap();
            }
        }
    }

    async fn read_line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.stream.read_u8().await.unwrap());
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    /// Closes the vendor's end, all of it.
    pub(crate) async fn close(&mut self) {
        // The agent may have closed before.
        let _ = self.stream.shutdown().await;
    }

    /// Reads until the agent closed; everything that still came.
    pub(crate) async fn until_closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // How it closed, with or without a goodbye, is not what is asked.
        let _ = self.stream.read_to_end(&mut rest).await;
        rest
    }
}

fn egress_to(vendor: SocketAddr, ca_pem: &str) -> Egress {
    Egress::loopback(vec![(HOST.to_owned(), vendor)], ca_pem.as_bytes()).unwrap()
}
