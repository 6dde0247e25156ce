//! Connections to vendors: TCP, TLS with the host's own name, HTTP/1.1, kept for reuse.
//!
//! Invariant: a connection is reused only after a response that was read to its end.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::Response;
use http::Uri;
use hyper::body::Body;
use hyper::body::Incoming;
use hyper::rt::Read;
use hyper::rt::ReadBufCursor;
use hyper::rt::Write;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::Error;
use hyper_util::client::legacy::connect::Connected;
use hyper_util::client::legacy::connect::Connection;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::egress::Egress;

/// Bytes hyper may buffer of a vendor's head or body on one connection.
const BUFFER_BYTES_MAX: usize = 128 * 1024;

/// Connections kept per host while nobody uses them: as many as calls may be under way by
/// default, since each one that is not kept costs a TLS handshake.
const IDLE_CONNECTIONS_MAX: usize = 1024;

/// For how long.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);

/// An HTTP client for official hosts, or their stand-ins.
pub struct VendorClient<B> {
    client: Client<Connector, B>,
}

impl<B> Clone for VendorClient<B> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone() }
    }
}

impl<B> VendorClient<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A client without connections.
    pub fn new(egress: &Egress, connect_timeout: Duration) -> Self {
        let connector = Connector { egress: egress.clone(), timeout: connect_timeout };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_buf_size(BUFFER_BYTES_MAX)
            .build(connector);
        Self { client }
    }

    /// Sends a request. Dropping the future, or the response's body before its end,
    /// closes the vendor's connection.
    ///
    /// # Errors
    /// When there is no connection or no HTTP response.
    pub async fn send(&self, request: Request<B>) -> Result<Response<Incoming>, Error> {
        self.client.request(request).await
    }
}

/// Makes connections; hyper's pool keeps them.
#[derive(Clone)]
struct Connector {
    egress: Egress,
    timeout: Duration,
}

impl tower_service::Service<Uri> for Connector {
    type Response = VendorStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<VendorStream>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
            tokio::time::timeout(connector.timeout, connector.connect(&host)).await.map_err(late)?
        })
    }
}

impl Connector {
    async fn connect(&self, host: &str) -> io::Result<VendorStream> {
        let no_route = |_| io::Error::new(io::ErrorKind::HostUnreachable, "no stand-in for this host");
        let stream = match self.egress.stand_in(host).map_err(no_route)? {
            Some(address) => TcpStream::connect(address).await?,
            None => TcpStream::connect((host, 443)).await?,
        };
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(self.egress.tls()).connect(name, stream).await?;
        Ok(VendorStream { io: TokioIo::new(stream) })
    }
}

/// A TLS connection that hyper's pool can keep.
struct VendorStream {
    io: TokioIo<TlsStream<TcpStream>>,
}

impl Connection for VendorStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for VendorStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for VendorStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }
}
