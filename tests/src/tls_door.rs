//! TLS in front of any port, for clients that speak nothing else.
//!
//! Invariant: behind the TLS every byte passes as it is, and an end passes as an end.

use crate::ca::TestCa;
use crate::stage;
use crate::stage::Stage;
use anyhow::Result;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// The running door; dropping it closes every connection.
pub struct TlsDoor {
    addr: SocketAddr,
    ca: Arc<TestCa>,
    _stage: Stage,
}

impl TlsDoor {
    /// Opens a loopback port with the authority's certificate before `target`.
    ///
    /// # Errors
    /// When no port or no thread can be had.
    pub fn start(ca: &Arc<TestCa>, target: SocketAddr) -> Result<Self> {
        let (listener, addr) = stage::listen()?;
        let tls = TlsAcceptor::from(ca.server_config());
        let stage = Stage::open("kit-tls-door", move || {
            stage::accept(listener, move |client| pass(tls.clone(), client, target))
        })?;
        Ok(Self { addr, ca: Arc::clone(ca), _stage: stage })
    }

    /// `https://localhost:port`: the name in the certificate.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.addr.port())
    }

    /// What a client has to trust.
    #[must_use]
    pub fn ca_pem(&self) -> PathBuf {
        self.ca.ca_pem()
    }
}

async fn pass(tls: TlsAcceptor, client: TcpStream, target: SocketAddr) {
    let Ok(mut client) = tls.accept(client).await else { return };
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let _ = server.set_nodelay(true);
    // A peer that leaves in the middle is what some tests are about.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
