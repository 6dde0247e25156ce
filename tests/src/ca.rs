//! A certificate authority of our own, with one leaf for every official vendor name.
//!
//! Invariant: made afresh for each test and kept in a private directory, so no real client ever
//! trusts it.

use anyhow::Context;
use anyhow::Result;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::PrivatePkcs8KeyDer;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// The names the leaf certificate carries.
pub const NAMES: [&str; 7] = [
    "api.openai.com",
    "api.anthropic.com",
    "api.deepseek.com",
    "*.openai.azure.com",
    "*.cognitiveservices.azure.com",
    "localhost",
    "127.0.0.1",
];

/// A certificate authority and the leaf it signed.
pub struct TestCa {
    dir: TempDir,
    ca_der: CertificateDer<'static>,
    server: Arc<ServerConfig>,
}

impl TestCa {
    /// Makes the authority, the leaf and their PEM files.
    ///
    /// # Errors
    /// When the temporary directory cannot be written.
    pub fn new() -> Result<Self> {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::new(Vec::<String>::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "Keyhaven test authority");
        let authority_cert = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);

        let leaf_key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(NAMES.map(String::from))?;
        leaf.distinguished_name.push(DnType::CommonName, "Keyhaven test upstream");
        let leaf_cert = leaf.signed_by(&leaf_key, &issuer)?;

        let dir = tempfile::Builder::new()
            .prefix("keyhaven-test-ca-")
            .tempdir()
            .context("make a directory for the test authority")?;
        std::fs::write(dir.path().join("ca.pem"), authority_cert.pem())?;
        std::fs::write(dir.path().join("leaf.pem"), leaf_cert.pem() + &authority_cert.pem())?;
        std::fs::write(dir.path().join("leaf.key"), leaf_key.serialize_pem())?;

        let chain = vec![leaf_cert.der().clone(), authority_cert.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let mut server = ServerConfig::builder_with_provider(ring())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { dir, ca_der: authority_cert.der().clone(), server: Arc::new(server) })
    }

    /// The authority's certificate, as a PEM file.
    #[must_use]
    pub fn ca_pem(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// The leaf's certificate chain, as a PEM file (for nginx and the like).
    #[must_use]
    pub fn leaf_pem(&self) -> PathBuf {
        self.file("leaf.pem")
    }

    /// The leaf's private key, as a PEM file.
    #[must_use]
    pub fn leaf_key(&self) -> PathBuf {
        self.file("leaf.key")
    }

    /// A TLS server with the leaf, speaking `http/1.1` only.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// A TLS client that trusts this authority and nothing else.
    ///
    /// # Errors
    /// Never in practice: the certificate is our own.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca_der.clone())?;
        let mut client = ClientConfig::builder_with_provider(ring())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(client))
    }

    fn file(&self, name: &str) -> PathBuf {
        let dir: &Path = self.dir.path();
        dir.join(name)
    }
}

fn ring() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
