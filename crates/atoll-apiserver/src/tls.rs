//! TLS of this server: the certificate it shows, whom it lets present one, and renewal
//! while connections go on.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use atoll_identity::{
    IdentityError, Issued, certificates_from_pem, private_key_from_pem, renew_at,
};
use jiff::Timestamp;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use tokio_util::sync::CancellationToken;

use crate::config::Clock;
use crate::trust::Trust;

/// The longest sleep before the clock is looked at again: a wall clock may be set while we
/// sleep, and a certificate must be renewed by what it shows.
const LOOK_AGAIN: Duration = Duration::from_secs(15 * 60);
/// After a renewal that failed.
const RETRY: Duration = Duration::from_secs(60);

/// TLS that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("this API server was started without any keys")]
    NoKeys,
    #[error("reading a certificate or key of this server")]
    Pem { source: IdentityError },
    #[error("the key of this server's certificate cannot be used")]
    Key { source: rustls::Error },
    #[error("setting up TLS with the {authority} authority")]
    Authority { authority: &'static str, source: rustls::Error },
    #[error("setting up the check of client certificates")]
    Verifier { source: rustls::server::VerifierBuilderError },
    #[error("setting up TLS versions")]
    Versions { source: rustls::Error },
}

/// A certificate that can be exchanged while connections use it.
#[derive(Debug)]
pub struct ServingCertificate {
    current: ArcSwap<CertifiedKey>,
    renew_at: ArcSwap<Timestamp>,
}

impl ServingCertificate {
    /// The authority goes along in the chain: a joining machine recognises it by its hash.
    pub(crate) fn new(issued: &Issued, authority_pem: &str) -> Result<Self, TlsError> {
        let key = certified(issued, authority_pem)?;
        Ok(Self {
            current: ArcSwap::from_pointee(key),
            renew_at: ArcSwap::from_pointee(due(issued)),
        })
    }

    pub(crate) fn replace(&self, issued: &Issued, authority_pem: &str) -> Result<(), TlsError> {
        self.current.store(Arc::new(certified(issued, authority_pem)?));
        self.renew_at.store(Arc::new(due(issued)));
        Ok(())
    }

    #[must_use]
    pub fn renew_at(&self) -> Timestamp {
        **self.renew_at.load()
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl ResolvesClientCert for ServingCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// How the API is served: HTTP/2 and HTTP/1.1; a client certificate is optional, but one that
/// is shown must be of the client authority.
pub fn server_config(trust: &Trust) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = roots("client", trust.client.certificate_der())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|source| TlsError::Verifier { source })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Versions { source })?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(trust.certificate.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// How this server dials kubelets, showing `certificate`, which [`renew_forever`] keeps fresh.
pub(crate) fn kubelet_client(
    authority: &CertificateDer<'static>,
    certificate: Arc<ServingCertificate>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Versions { source })?
        .with_root_certificates(roots("kubelet", authority)?)
        .with_client_cert_resolver(certificate);
    // Upgraded connections need HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Renews the server's certificates when they are due, until `stop`.
pub async fn renew_forever(trust: Arc<Trust>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    loop {
        let now = clock.now();
        let next = trust.certificate.renew_at().min(trust.kubelet_certificate.renew_at());
        let wait = if next <= now {
            match trust.renew(now) {
                Ok(()) => continue,
                Err(error) => {
                    tracing::error!(%error, "renewing a certificate failed, will retry");
                    RETRY
                }
            }
        } else {
            next.duration_since(now).unsigned_abs().min(LOOK_AGAIN)
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn due(issued: &Issued) -> Timestamp {
    renew_at(issued.not_before, issued.not_after, "kube-apiserver")
}

fn certified(issued: &Issued, authority_pem: &str) -> Result<CertifiedKey, TlsError> {
    const OWNER: &str = "the API server";
    let pem = |source| TlsError::Pem { source };
    let mut chain = certificates_from_pem(OWNER, &issued.certificate_pem).map_err(pem)?;
    chain.extend(certificates_from_pem(OWNER, authority_pem).map_err(pem)?);
    let key =
        private_key_from_pem(OWNER, issued.key_pem.as_deref().unwrap_or_default()).map_err(pem)?;
    let key =
        aws_lc_rs::sign::any_supported_type(&key).map_err(|source| TlsError::Key { source })?;
    Ok(CertifiedKey::new(chain, key))
}

fn roots(
    authority: &'static str,
    certificate: &CertificateDer<'static>,
) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).map_err(|source| TlsError::Authority { authority, source })?;
    Ok(Arc::new(roots))
}
