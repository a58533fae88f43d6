//! What clients of the etcd API are shown, and what they may have to show.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

/// Asked at each connection, on a thread that may wait for files.
pub type CurrentTls = dyn Fn() -> Arc<ServerConfig> + Send + Sync;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the {what} is not PEM, or PEM of something else")]
    Pem { what: &'static str, source: pem::Error },
    #[error("the {what} has no certificate in it")]
    Empty { what: &'static str },
    #[error("a certificate of the client authority cannot be used")]
    Authority { source: rustls::Error },
    #[error("client certificates cannot be checked with this authority")]
    Verifier { source: rustls::server::VerifierBuilderError },
    #[error("the serving certificate and its key do not fit together, or cannot be used")]
    Certificate { source: rustls::Error },
    #[error("no version of TLS is left")]
    Versions { source: rustls::Error },
}

/// From PEM. With a client authority every client has to show a certificate of it.
pub fn tls_config(
    certificate: &[u8],
    key: &[u8],
    client_authority: Option<&[u8]>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate, "serving certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|source| TlsError::Pem { what: "serving key", source })?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Versions { source })?;
    let builder = match client_authority {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(authority, "client authority")? {
                roots.add(root).map_err(|source| TlsError::Authority { source })?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let verifier = verifier.map_err(|source| TlsError::Verifier { source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|source| TlsError::Certificate { source })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|source| TlsError::Pem { what, source })?;
    if found.is_empty() {
        return Err(TlsError::Empty { what });
    }
    Ok(found)
}
