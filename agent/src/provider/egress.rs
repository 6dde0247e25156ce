//! Where an agent may connect to. The released binary constructs [`Egress::official`] and
//! nothing else; a demo or a test constructs a table of loopback stand-ins.
//!
//! Invariant: official names are asked of DNS and proved by TLS with public roots, or
//! they lead to this very machine; there is no third way.

use std::net::SocketAddr;
use std::sync::Arc;

use keyhaven_protocol::frame;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Which upstreams an agent can reach.
#[derive(Debug, Clone)]
pub struct Egress {
    route: Route,
    tls: Arc<ClientConfig>,
}

#[derive(Debug, Clone)]
enum Route {
    Official,
    Loopback(Arc<[(String, SocketAddr)]>),
}

/// Why a loopback table is refused.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// An address beyond this machine.
    #[error("{0} is not a loopback address")]
    NotLoopback(SocketAddr),
    /// The stand-ins' authority cannot be read.
    #[error("the certificate authority cannot be used: {0}")]
    Authority(String),
}

impl Egress {
    /// The vendors' official hosts, proved by public authorities.
    pub fn official() -> Self {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        Self { route: Route::Official, tls: client_config(roots) }
    }

    /// Stand-ins on loopback for official hosts: exact names, or `*.suffix` for any one
    /// label before it; what is not in the table cannot be reached. They are proved by
    /// the authority in `ca_pem`.
    ///
    /// # Errors
    /// For an address that is not loopback, or an authority that cannot be read.
    pub fn loopback(routes: Vec<(String, SocketAddr)>, ca_pem: &[u8]) -> Result<Self, EgressError> {
        if let Some((_, address)) = routes.iter().find(|(_, address)| !address.ip().is_loopback()) {
            return Err(EgressError::NotLoopback(*address));
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            let certificate = certificate.map_err(|error| EgressError::Authority(error.to_string()))?;
            roots.add(certificate).map_err(|error| EgressError::Authority(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(EgressError::Authority("there is none in the file".to_owned()));
        }
        Ok(Self { route: Route::Loopback(routes.into()), tls: client_config(roots) })
    }

    /// What the agent says of itself in the handshake.
    pub fn declared(&self) -> frame::Egress {
        match self.route {
            Route::Official => frame::Egress::Official,
            Route::Loopback(_) => frame::Egress::Loopback,
        }
    }

    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        self.tls.clone()
    }

    /// The stand-in for a host; `None` when DNS is to be asked.
    ///
    /// # Errors
    /// The table knows no such host.
    pub(super) fn stand_in(&self, host: &str) -> Result<Option<SocketAddr>, NoRoute> {
        let Route::Loopback(routes) = &self.route else { return Ok(None) };
        let route = routes.iter().find(|(pattern, _)| matches(pattern, host));
        route.map(|(_, address)| Some(*address)).ok_or(NoRoute)
    }
}

/// A loopback table has no stand-in for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoute;

fn matches(pattern: &str, host: &str) -> bool {
    let Some(suffix) = pattern.strip_prefix('*') else { return pattern == host };
    let label = host.strip_suffix(suffix).unwrap_or("");
    suffix.starts_with('.') && !label.is_empty() && !label.contains('.')
}

fn client_config(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("ring supports TLS 1.2 and 1.3");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_can_stand_in() {
        let there: SocketAddr = "10.0.0.1:443".parse().unwrap();

        let refused = Egress::loopback(vec![("api.openai.com".into(), there)], b"");

        assert!(matches!(refused, Err(EgressError::NotLoopback(address)) if address == there));
    }

    #[test]
    fn a_pattern_stands_for_one_label() {
        assert!(matches("*.openai.azure.com", "acme.openai.azure.com"));
        assert!(!matches("*.openai.azure.com", "a.b.openai.azure.com"));
        assert!(!matches("*.openai.azure.com", ".openai.azure.com"));
        assert!(!matches("*.openai.azure.com", "evilopenai.azure.com"));
        assert!(!matches("*com", "api.openai.com"));
        assert!(matches("api.openai.com", "api.openai.com"));
        assert!(!matches("api.openai.com", "xapi.openai.com"));
    }

    #[test]
    fn official_egress_says_so_and_has_no_stand_ins() {
        let egress = Egress::official();

        assert_eq!(egress.declared(), frame::Egress::Official);
        assert_eq!(egress.stand_in("api.openai.com"), Ok(None));
    }
}
