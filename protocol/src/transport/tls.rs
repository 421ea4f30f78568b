//! TLS 1.3 with certificates on both sides; no resumption, no early data, no other version.

use super::error::IdentityError;
use super::identity::{Identity, IdentityPart};
use super::settings::{self, TRANSPORT_VERSION};
use crate::ClusterId;
use quinn::EndpointConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::HashedConnectionIdGenerator;
use ring::hmac::{self, HMAC_SHA256};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

/// Settings of a listening side: it demands a certificate of its own cluster.
pub(super) fn listening(identity: &Identity) -> Result<quinn::ServerConfig, IdentityError> {
    let provider = provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(identity)?, Arc::clone(&provider))
            .build()
            .map_err(|e| IdentityPart::Authority.malformed(e))?;
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| IdentityPart::Certificate.malformed(e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain()?, identity.key()?)
        .map_err(|e| IdentityPart::Key.malformed(e))?;
    tls.alpn_protocols = vec![protocol_name(identity.peer().cluster)];
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    let tls =
        QuicServerConfig::try_from(tls).map_err(|e| IdentityPart::Certificate.malformed(e))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(settings::listening()));
    settings::limit_newcomers(&mut config);
    Ok(config)
}

/// Settings of a connecting side: it presents its certificate and demands one of its cluster.
pub(super) fn connecting(identity: &Identity) -> Result<quinn::ClientConfig, IdentityError> {
    let provider = provider();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(identity)?, Arc::clone(&provider))
            .build()
            .map_err(|e| IdentityPart::Authority.malformed(e))?;
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| IdentityPart::Certificate.malformed(e))?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(identity.chain()?, identity.key()?)
        .map_err(|e| IdentityPart::Key.malformed(e))?;
    tls.alpn_protocols = vec![protocol_name(identity.peer().cluster)];
    tls.resumption = Resumption::disabled();
    tls.enable_early_data = false;
    let tls =
        QuicClientConfig::try_from(tls).map_err(|e| IdentityPart::Certificate.malformed(e))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(settings::connecting()));
    Ok(config)
}

/// Settings of a listening socket. A process that is started again under the same identity
/// recognizes packets of its predecessor's connections and tells their senders at once that
/// these are gone ("stateless reset"); with the library's random keys, peers would wait for
/// their idle timeout.
pub(super) fn listening_endpoint(identity: &Identity) -> Result<EndpointConfig, IdentityError> {
    let secret = hmac::Key::new(HMAC_SHA256, identity.key()?.secret_der());
    let derive = |purpose: &[u8]| hmac::sign(&secret, purpose);
    let reset_key = hmac::Key::new(HMAC_SHA256, derive(b"evoring stateless reset").as_ref());
    let mut id_key = [0u8; 8];
    id_key.copy_from_slice(&derive(b"evoring connection id").as_ref()[..8]);
    let id_key = u64::from_le_bytes(id_key);
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    Ok(config)
}

/// What both sides must offer: a process of another cluster fails before certificates are seen.
fn protocol_name(cluster: ClusterId) -> Vec<u8> {
    format!("evoring/{TRANSPORT_VERSION}/{cluster}").into_bytes()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(identity: &Identity) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut roots = RootCertStore::empty();
    roots
        .add(identity.authority()?)
        .map_err(|e| IdentityPart::Authority.malformed(e))?;
    Ok(Arc::new(roots))
}
