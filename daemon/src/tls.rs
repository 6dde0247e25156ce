//! TLS of the tunnel: the hub presents a key of its own, the agent checks its pin.
//!
//! Invariant: a matching pin makes names, dates and authorities irrelevant, and nothing
//! else is ever trusted.

use std::sync::Arc;

use keyhaven_protocol::handshake::ChannelBinding;
use keyhaven_protocol::handshake::EXPORTER_LABEL;
use keyhaven_protocol::pin::Pin;
use rustls::ClientConfig;
use rustls::DigitallySignedStruct;
use rustls::ServerConfig;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::ServerName;
use rustls_pki_types::UnixTime;

/// Why TLS of the tunnel cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The key cannot be used.
    #[error("the tunnel key cannot be used: {0}")]
    Key(#[from] rcgen::Error),
    /// rustls refuses the configuration.
    #[error("TLS cannot be configured: {0}")]
    Config(#[from] rustls::Error),
}

/// The largest record that either side sends. rustls keeps a record until it is whole, and
/// the allocator keeps what rustls had: with the 16 KiB that TLS allows, a link that was busy
/// once stays twice as large.
const RECORD_BYTES_MAX: usize = 8 * 1024;

/// The message of the error that a server with another key causes; the dialling side
/// looks for it to tell a wrong pin from other failures.
pub const PIN_MISMATCH: &str = "the server's key is not pinned";

/// The pin of a private key.
///
/// # Errors
/// When the key cannot be read.
pub fn pin_of_key(key: &PrivatePkcs8KeyDer<'_>) -> Result<Pin, TlsError> {
    let key = rcgen::KeyPair::try_from(key)?;
    Ok(Pin::of_spki(&rcgen::PublicKeyData::subject_public_key_info(&key)))
}

/// The hub's side of the tunnel: TLS 1.3 with this key under a certificate made on the
/// spot, since nobody looks at more than the key.
///
/// # Errors
/// When the key cannot be used.
pub fn tunnel_server(key: &PrivatePkcs8KeyDer<'_>) -> Result<Arc<ServerConfig>, TlsError> {
    let pair = rcgen::KeyPair::try_from(key)?;
    let certificate = rcgen::CertificateParams::new(vec!["keyhaven.invalid".to_owned()])?.self_signed(&pair)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.clone_key()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.max_fragment_size = Some(RECORD_BYTES_MAX);
    // A resumed session would skip the certificate, and with it the pin.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The agent's side of the tunnel: TLS 1.3 with a server that holds one of these keys.
///
/// # Errors
/// When rustls refuses the configuration.
pub fn tunnel_client(pins: Vec<Pin>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = PinVerifier { pins, provider: provider.clone() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.max_fragment_size = Some(RECORD_BYTES_MAX);
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// Keying material of a TLS connection, the same on both sides and on no other connection.
///
/// # Errors
/// When the handshake is not complete.
pub fn channel_binding<Data>(connection: &rustls::ConnectionCommon<Data>) -> Result<ChannelBinding, TlsError> {
    Ok(connection.export_keying_material([0; 32], EXPORTER_LABEL, Some(&[]))?)
}

/// AES-128 first. The usual first choice brings SHA-384 to every hash of a handshake, for which
/// most processors have no instructions, and four more rounds to every block; the key exchange
/// is worth 128 bits with either.
fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider { cipher_suites, ..rustls::crypto::ring::default_provider() })
}

#[derive(Debug)]
struct PinVerifier {
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let bad = rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
        let certificate = webpki::EndEntityCert::try_from(end_entity).map_err(|_| bad)?;
        let pin = Pin::of_spki(certificate.subject_public_key_info().as_ref());
        if self.pins.contains(&pin) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General(PIN_MISMATCH.to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;
    use rustls::ClientConnection;
    use rustls::ServerConnection;

    use super::*;

    #[test]
    fn both_ends_agree_on_what_is_cheapest_and_bind_to_the_same_channel() {
        let (mut hub, mut agent) = ends();

        while hub.is_handshaking() || agent.is_handshaking() {
            let mut flight = Vec::new();
            while agent.wants_write() {
                agent.write_tls(&mut flight).unwrap();
            }
            hub.read_tls(&mut flight.as_slice()).unwrap();
            hub.process_new_packets().unwrap();
            let mut flight = Vec::new();
            while hub.wants_write() {
                hub.write_tls(&mut flight).unwrap();
            }
            agent.read_tls(&mut flight.as_slice()).unwrap();
            agent.process_new_packets().unwrap();
        }

        let suite = hub.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert!(channel_binding(&hub).unwrap() == channel_binding(&agent).unwrap());
    }

    fn ends() -> (ServerConnection, ClientConnection) {
        let key = rcgen::KeyPair::generate().unwrap().serialize_der();
        let key = PrivatePkcs8KeyDer::from(key);
        let pins = vec![pin_of_key(&key).unwrap()];
        let name = ServerName::try_from("keyhaven.invalid").unwrap();
        let agent = ClientConnection::new(tunnel_client(pins).unwrap(), name).unwrap();
        (ServerConnection::new(tunnel_server(&key).unwrap()).unwrap(), agent)
    }
}
