//! TLS and HTTP/1.1 for the sample vendor.
//!
//! Invariant: a peer that does not finish its handshake or its head is given up in time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use keyhaven_daemon::tasks::Tasks;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tracing::debug;
use tracing::warn;

use super::desk::Desk;

const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Longer than the agent keeps a connection that nobody uses.
const HEAD_TIME_MAX: Duration = Duration::from_secs(90);

pub(super) fn serve(listener: TcpListener, tls: Arc<ServerConfig>, desk: Desk, tasks: &Tasks) {
    let acceptor = TlsAcceptor::from(tls);
    tasks.spawn("sample-vendor", accept_loop(listener, acceptor, desk, tasks.clone()));
}

async fn accept_loop(listener: TcpListener, tls: TlsAcceptor, desk: Desk, tasks: Tasks) {
    let draining = tasks.draining();
    loop {
        let accepted = tokio::select! {
            biased;
            () = draining.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn("sample-vendor-call", connection(stream, tls.clone(), desk.clone(), tasks.clone()));
            }
            Err(error) => {
                // Out of file descriptors, mostly: accepting again at once would spin.
                warn!(%error, "the sample vendor could not accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, desk: Desk, tasks: Tasks) {
    let (draining, stopping) = (tasks.draining(), tasks.stopping());
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIME_MAX, tls.accept(stream)).await else {
        debug!("a TLS handshake with the sample vendor failed");
        return;
    };
    let service = service_fn(move |request| {
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // The peer's leaving is no error of the vendor's: an ABORT looks just so.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = draining.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stopping.cancelled() => {}
    }
}
