//! Connections to vendors: TCP, and TLS with the host's own name.
//!
//! Invariant: what comes out has proved that it is the host that was asked for.

use std::io;
use std::time::Duration;

use keyhaven_daemon::link::stage_little;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::egress::Egress;

/// A connection to a vendor, before any protocol on it.
pub(crate) type VendorStream = TlsStream<TcpStream>;

/// Makes connections.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    egress: Egress,
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(egress: &Egress, timeout: Duration) -> Self {
        Self { egress: egress.clone(), timeout }
    }

    /// # Errors
    /// When there is no connection in time, or its other end is not that host.
    pub(super) async fn connect(&self, host: &str) -> io::Result<VendorStream> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
        tokio::time::timeout(self.timeout, self.connect_at_leisure(host)).await.map_err(late)?
    }

    async fn connect_at_leisure(&self, host: &str) -> io::Result<VendorStream> {
        let no_route = |_| io::Error::new(io::ErrorKind::HostUnreachable, "no stand-in for this host");
        let stream = match self.egress.stand_in(host).map_err(no_route)? {
            Some(address) => TcpStream::connect(address).await?,
            None => TcpStream::connect((host, 443)).await?,
        };
        stage_little(&stream)?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(self.egress.tls()).connect(name, stream).await
    }
}
