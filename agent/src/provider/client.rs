//! Connections to vendors, kept while nobody uses them.
//!
//! Invariant: a connection is kept only when it is idle, and looked at again before use.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::Response;
use http_body::Body;
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connection::BodyError;
use super::connection::VendorConnection;
use super::connector::Connector;
use super::egress::Egress;

/// Connections kept per host while nobody uses them: no fewer than calls may be under way by
/// default, since each one that is not kept costs a TLS handshake.
const IDLE_CONNECTIONS_MAX: usize = 1024;

/// For how long.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);

/// Why a vendor gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum VendorError {
    /// No connection: name, TCP or TLS.
    #[error("no connection to the vendor")]
    Connect(#[source] io::Error),
    /// No HTTP answer on a connection.
    #[error("no answer from the vendor")]
    Http(#[source] hyper::Error),
}

/// An HTTP client for official hosts, or their stand-ins.
pub struct VendorClient<B>
where
    B: Body + 'static,
{
    connector: Connector,
    idle: Mutex<Kept<B>>,
    /// A connection was kept.
    kept: Notify,
}

/// What is kept, by host; the last one of each was used last.
type Kept<B> = HashMap<Box<str>, Vec<Idle<B>>>;

struct Idle<B>
where
    B: Body + 'static,
{
    connection: VendorConnection<B>,
    since: Instant,
}

impl<B> VendorClient<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    /// A client without connections.
    pub fn new(egress: &Egress, connect_timeout: Duration) -> Self {
        Self { connector: Connector::new(egress, connect_timeout), idle: Mutex::default(), kept: Notify::new() }
    }

    /// Sends a request and waits for the head of its answer. Dropping the future, or the
    /// connection, closes the vendor's socket.
    ///
    /// # Errors
    /// When there is no connection or no HTTP response.
    pub async fn send(
        &self,
        host: &str,
        mut request: Request<B>,
    ) -> Result<(VendorConnection<B>, Response<Incoming>), VendorError> {
        while let Some(mut connection) = self.take_idle(host) {
            match connection.send(request).await {
                Ok(response) => return Ok((connection, response)),
                // The vendor closed it between the look and the request.
                Err(unanswered) => request = unanswered.unsent.ok_or(VendorError::Http(unanswered.error))?,
            }
        }
        // Connecting is rare and its state large; a call that needs none does not carry it.
        let stream = Box::pin(self.connector.connect(host)).await.map_err(VendorError::Connect)?;
        let mut connection = VendorConnection::new(host, stream).await.map_err(VendorError::Http)?;
        let response = connection.send(request).await.map_err(|unanswered| VendorError::Http(unanswered.error))?;
        Ok((connection, response))
    }

    /// Keeps a connection for the next call, if it can serve one.
    pub fn keep(&self, mut connection: VendorConnection<B>) {
        if !connection.is_idle() {
            return;
        }
        let mut idle = self.lock();
        let since = Instant::now();
        match idle.get_mut(connection.host()) {
            Some(kept) if kept.len() >= IDLE_CONNECTIONS_MAX => {}
            Some(kept) => kept.push(Idle { connection, since }),
            None => {
                idle.insert(connection.host().into(), vec![Idle { connection, since }]);
            }
        }
        drop(idle);
        self.kept.notify_one();
    }

    /// Waits until connections are kept.
    pub async fn has_idle(&self) {
        while self.lock().is_empty() {
            self.kept.notified().await;
        }
    }

    /// Closes what the vendors closed, and what nobody used for long.
    pub fn sweep(&self) {
        let Some(oldest) = Instant::now().checked_sub(IDLE_TIME_MAX) else { return };
        self.lock().retain(|_, kept| {
            kept.retain_mut(|idle| idle.since > oldest && idle.connection.is_idle());
            !kept.is_empty()
        });
    }

    #[cfg(test)]
    pub(crate) fn idle_connections(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    /// The connection that was used last, so that those beyond need grow old.
    fn take_idle(&self, host: &str) -> Option<VendorConnection<B>> {
        loop {
            let mut idle = self.lock().get_mut(host)?.pop()?;
            if idle.since.elapsed() < IDLE_TIME_MAX && idle.connection.is_idle() {
                return Some(idle.connection);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept<B>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
