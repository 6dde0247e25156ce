//! A certificate authority made on the spot, and one certificate with the vendors' official names.
//!
//! Invariant: the authority's key is dropped here, before anything is served; nobody but this
//! process's own agent is ever told to trust it.

use std::sync::Arc;

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::PrivatePkcs8KeyDer;

/// The names that the sample vendor answers to.
pub(super) const NAMES: [&str; 4] = ["api.openai.com", "api.anthropic.com", "api.deepseek.com", "*.openai.azure.com"];

/// What came of the authority: its certificate, and the server it vouches for.
pub(super) struct Vouched {
    pub(super) ca_pem: String,
    pub(super) server: Arc<ServerConfig>,
}

pub(super) fn vouch() -> anyhow::Result<Vouched> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::<String>::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority.distinguished_name.push(DnType::CommonName, "Keyhaven demo authority, trusted by nobody else");
    let certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let leaf_key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(NAMES.map(String::from))?;
    leaf.distinguished_name.push(DnType::CommonName, "Keyhaven demo sample vendor");
    let leaf = leaf.signed_by(&leaf_key, &issuer)?;

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Vouched { ca_pem: certificate.pem(), server: Arc::new(server) })
}
