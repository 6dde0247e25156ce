//! A strict recording vendor on loopback: all four vendors behind their official names.
//!
//! Invariant: keeps the exact bytes it saw and sent, and refuses what the real vendor refuses.

mod answer;
mod audio;
mod chat;
mod completions;
mod embeddings;
pub mod headers;
mod images;
mod messages;
mod models;
mod multipart;
mod perform;
pub mod play;
mod question;
mod realtime;
pub mod record;
mod refusal;
mod reply;
mod responses;
mod route;
mod server;
pub mod settings;
pub mod steps;
mod strict;
pub mod vendor;
mod websocket;
mod wire;

use crate::ca::TestCa;
use crate::stage;
use crate::stage::Stage;
use anyhow::Context;
use anyhow::Result;
use record::Exchange;
use record::Log;
use server::Shared;
use settings::Keys;
use settings::Settings;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use steps::Steps;
use tokio_rustls::TlsAcceptor;

/// How long [`Upstream::wait_for`] waits.
pub const WAIT_MAX: Duration = Duration::from_secs(20);

/// The running upstream; dropping it closes its ports and every connection.
pub struct Upstream {
    ca: Arc<TestCa>,
    addr: SocketAddr,
    plain_addr: SocketAddr,
    shared: Arc<Shared>,
    _stage: Stage,
}

impl Upstream {
    /// Starts with made-up keys and a certificate authority of its own.
    ///
    /// # Errors
    /// When no loopback port or no thread can be had.
    pub async fn start() -> Result<Self> {
        Self::start_with(Settings::default(), Arc::new(TestCa::new()?))
    }

    /// Starts as told; several upstreams may share an authority.
    ///
    /// # Errors
    /// When no loopback port or no thread can be had.
    pub fn start_with(settings: Settings, ca: Arc<TestCa>) -> Result<Self> {
        let (tls_listener, addr) = stage::listen()?;
        let (plain_listener, plain_addr) = stage::listen()?;
        let shared = Arc::new(Shared {
            log: Arc::new(Log::new(settings.record, settings.keep_bytes_max)),
            keys: settings.keys,
            steps: Steps::default(),
        });
        let tls = TlsAcceptor::from(ca.server_config());
        let (for_tls, for_plain) = (Arc::clone(&shared), Arc::clone(&shared));
        let stage = Stage::open("kit-upstream", move || async move {
            let by_tls =
                stage::accept(tls_listener, move |socket| server::serve_tls(Arc::clone(&for_tls), tls.clone(), socket));
            let by_plain =
                stage::accept(plain_listener, move |socket| server::serve_plain(Arc::clone(&for_plain), socket));
            tokio::join!(by_tls, by_plain);
        })?;
        Ok(Self { ca, addr, plain_addr, shared, _stage: stage })
    }

    /// The TLS port, for every official name.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The plain port, for the same vendors behind `/openai`, `/azure`, `/anthropic`, `/deepseek`.
    #[must_use]
    pub const fn plain_addr(&self) -> SocketAddr {
        self.plain_addr
    }

    /// The authority's certificate file.
    #[must_use]
    pub fn ca_pem(&self) -> PathBuf {
        self.ca.ca_pem()
    }

    /// The authority itself.
    #[must_use]
    pub fn ca(&self) -> Arc<TestCa> {
        Arc::clone(&self.ca)
    }

    /// The keys it accepts.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    /// `official.host=127.0.0.1:port` for every vendor, as `--upstream-map` wants it.
    #[must_use]
    pub fn upstream_map(&self) -> Vec<String> {
        let hosts = [
            "api.openai.com",
            "*.openai.azure.com",
            "*.cognitiveservices.azure.com",
            "api.anthropic.com",
            "api.deepseek.com",
        ];
        hosts.map(|host| format!("{host}={}", self.addr)).to_vec()
    }

    /// The releases of the play `step`.
    #[must_use]
    pub fn steps(&self) -> &Steps {
        &self.shared.steps
    }

    /// Every exchange so far, in order of arrival.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.log.look(<[Exchange]>::to_vec)
    }

    /// The exchanges of one case, in order of arrival.
    #[must_use]
    pub fn exchanges_of(&self, case: &str) -> Vec<Exchange> {
        self.shared.log.look(|exchanges| {
            let same = |exchange: &&Exchange| exchange.case.as_deref() == Some(case);
            exchanges.iter().filter(same).cloned().collect()
        })
    }

    /// Waits until the first exchange of a case is over and returns it. A client may have the
    /// whole answer a moment before the upstream has noted that it sent it.
    ///
    /// # Errors
    /// When there is none within [`WAIT_MAX`].
    pub async fn exchange_of(&self, case: &str) -> Result<Exchange> {
        self.wait_for(|exchange| exchange.case.as_deref() == Some(case) && exchange.over())
            .await
            .with_context(|| format!("case {case:?}"))
    }

    /// Waits until an exchange is as wanted and returns it as it then is.
    ///
    /// # Errors
    /// When there is none within [`WAIT_MAX`].
    pub async fn wait_for(&self, wanted: impl Fn(&Exchange) -> bool) -> Result<Exchange> {
        let mut changes = self.shared.log.changes();
        let found = async {
            loop {
                changes.mark_unchanged();
                let look = |all: &[Exchange]| all.iter().find(|one| wanted(one)).cloned();
                if let Some(exchange) = self.shared.log.look(look) {
                    return Ok(exchange);
                }
                changes.changed().await?;
            }
        };
        tokio::time::timeout(WAIT_MAX, found)
            .await
            .with_context(|| format!("no such exchange came within {WAIT_MAX:?}"))?
    }

    /// Bytes of answers sent so far in one case, without a copy of them.
    #[must_use]
    pub fn sent_bytes_of(&self, case: &str) -> u64 {
        self.shared.log.look(|exchanges| {
            let same = exchanges.iter().filter(|exchange| exchange.case.as_deref() == Some(case));
            same.map(|exchange| exchange.sent.raw_bytes()).sum()
        })
    }

    /// Everything that should never have reached a vendor.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.shared.log.violations()
    }

    /// TLS handshakes that failed.
    #[must_use]
    pub fn handshake_failures(&self) -> Vec<String> {
        self.shared.log.handshake_failures()
    }

    /// How many requests have come, recorded or not.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.shared.log.calls()
    }

    /// How many connections have been made.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.log.connections()
    }

    /// How many of them are open.
    #[must_use]
    pub fn connections_open(&self) -> usize {
        self.shared.log.connections_open()
    }
}
