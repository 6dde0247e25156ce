//! The consumers' listener: HTTP/1.1, with TLS when the operator gave a certificate.
//!
//! Invariant: a connection that sends nothing, or sends slowly, is given up in time.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use keyhaven_daemon::link::stage_little;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use tracing::warn;

use super::UserGateway;
use super::connection::Connection;
use super::linger::Lingering;
use super::repoll::Repolled;
use super::watched_stream::WatchedStream;
use super::writes::Watched;

/// A consumer who has sent nothing for so long will not send just when his connection closes,
/// as far as can be foretold: HTTP/1.1 has no word for a close that was not announced.
const QUIET_TIME: Duration = Duration::from_secs(3);

/// The operator's certificate.
#[derive(Clone)]
pub struct ConsumerTls {
    config: Arc<ServerConfig>,
}

/// Why the operator's certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file is no PEM of what it should hold.
    #[error("{file}: {source}")]
    File {
        /// Which one.
        file: String,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not fit each other or rustls.
    #[error("the certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

impl ConsumerTls {
    /// Reads certificate chain and key.
    ///
    /// # Errors
    /// When they cannot be read or do not fit each other.
    pub fn load(certificate_file: &Path, key_file: &Path) -> Result<Self, CertificateError> {
        let in_file = |file: &Path| {
            let file = file.display().to_string();
            move |source| CertificateError::File { file, source }
        };
        let chain = CertificateDer::pem_file_iter(certificate_file).map_err(in_file(certificate_file))?;
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(in_file(certificate_file))?;
        let key = PrivateKeyDer::from_pem_file(key_file).map_err(in_file(key_file))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config) })
    }
}

impl UserGateway {
    /// Accepts consumers until the hub leaves or drains; their calls may finish after that.
    pub fn serve(self: &Arc<Self>, listener: TcpListener, tls: Option<ConsumerTls>) {
        self.tasks.spawn("consumer-listener", accept_loop(self.clone(), listener, tls));
    }

    /// Ready when the hub accepts no consumers any more and the last connection is closed.
    pub async fn last_consumer_gone(&self) {
        self.tasks.leaving().cancelled().await;
        // The semaphore is never closed.
        let _ = self.places.acquire_many(self.config.consumer.connections_max).await;
    }
}

async fn accept_loop(gateway: Arc<UserGateway>, listener: TcpListener, tls: Option<ConsumerTls>) {
    let leaving = gateway.tasks.leaving();
    loop {
        let next = async {
            let place = gateway.places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = leaving.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                // The semaphore is never closed.
                let Ok(place) = place else { return };
                let stream = WatchedStream::new(stream);
                let connection = Connection::new(place, stream.departure(), peer.ip());
                gateway.tasks.spawn("consumer", serve(gateway.clone(), stream, tls.clone(), connection));
            }
            Err(error) => {
                // Out of file descriptors, mostly: accepting again at once would spin.
                warn!(%error, "a consumer could not be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(gateway: Arc<UserGateway>, stream: WatchedStream, tls: Option<ConsumerTls>, connection: Connection) {
    if let Err(error) = stage_little(stream.tcp()) {
        debug!(%error, "a consumer left at once: {error}");
        return;
    }
    let Some(tls) = tls else {
        return serve_http(gateway, stream, connection).await;
    };
    let deadline = gateway.config.consumer.request_idle_timeout();
    match tokio::time::timeout(deadline, TlsAcceptor::from(tls.config).accept(stream)).await {
        Ok(Ok(stream)) => serve_http(gateway, stream, connection).await,
        Ok(Err(error)) => debug!(%error, "a consumer's TLS handshake failed: {error}"),
        Err(_) => debug!("a consumer's TLS handshake took too long"),
    }
}

async fn serve_http<S>(gateway: Arc<UserGateway>, stream: S, connection: Connection)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (leaving, draining) = (gateway.tasks.leaving(), gateway.tasks.draining());
    let stopping = gateway.tasks.stopping();
    let consumer = &gateway.config.consumer;
    let idle = consumer.request_idle_timeout();
    let head_bytes_hard_max = hard_head_bound(consumer.request_head_bytes_max);
    let watched = Watched::new(TokioIo::new(stream), connection.clone(), consumer.response_stall_timeout());
    let io = Lingering::new(watched, connection.clone());
    let enough = left_quiet(leaving, draining, connection.clone());
    let service = service_fn(move |request| {
        let (gateway, call) = (gateway.clone(), connection.begin_call());
        async move { Ok::<_, Infallible>(gateway.answer(request, call).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_buf_size(head_bytes_hard_max)
        .serve_connection(io, service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = Repolled::new(serving.as_mut()) => ended,
        () = enough => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = Repolled::new(serving.as_mut()) => ended,
                () = stopping.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended
        && !is_departure(&error)
    {
        debug!(%error, "a consumer's connection ended: {error}");
    }
}

/// Ready when a connection is to close as soon as no call is on it. A hub that leaves waits
/// for silence: a request that is on its way to this process would have nobody to answer it.
async fn left_quiet(leaving: CancellationToken, draining: CancellationToken, connection: Connection) {
    let left = async {
        leaving.cancelled().await;
        connection.quiet_for(QUIET_TIME).await;
    };
    tokio::select! {
        () = draining.cancelled() => {}
        () = left => {}
    }
}

/// Heads beyond the configured bound get an answer of ours up to this size; beyond it hyper
/// answers 431 by itself and closes.
fn hard_head_bound(request_head_bytes_max: u64) -> usize {
    let twice = usize::try_from(request_head_bytes_max.saturating_mul(2)).unwrap_or(usize::MAX);
    twice.clamp(16 * 1024, 64 * 1024 * 1024)
}

/// A consumer that simply left is nothing to write home about.
fn is_departure(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    error.is_incomplete_message() || source.is_some_and(|source| source.kind() == io::ErrorKind::ConnectionReset)
}
