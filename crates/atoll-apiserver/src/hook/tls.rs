//! Whom to trust at the other end of a call.

use std::sync::{Arc, LazyLock};

use atoll_identity::PeerIdentity;
use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use sha2::{Digest as _, Sha256};

use super::target::{Identity, TargetError};

/// Where systems keep the authorities they trust.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whom to trust.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verify<'a> {
    /// The authorities in a PEM text; those of the system when it is empty.
    Bundle(&'a [u8]),
    Nothing,
}

/// Differs where connections must not be shared.
pub(super) fn key(verify: &Verify<'_>, identity: Option<&Identity>) -> String {
    let who = identity.map_or("", |identity| identity.name);
    match verify {
        Verify::Nothing => format!("any|{who}"),
        Verify::Bundle(bundle) => {
            let digest = Sha256::digest(bundle);
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{digest}|{who}")
        }
    }
}

pub(super) fn config(
    verify: &Verify<'_>,
    identity: Option<&Identity>,
) -> Result<Arc<ClientConfig>, TargetError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Verifier::new(verify, provider.clone())?);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| TargetError::Tls { source })?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.certificate.clone()),
        None => builder.with_no_client_auth(),
    };
    // As upstream: one connection would bind all calls to one pod, and upgrades need it.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// webpki's check, and one case beside it that Go accepts and users make every day: a
/// certificate that signed itself, is marked as an authority, and stands in the bundle.
#[derive(Debug)]
struct Verifier {
    /// `None` trusts whoever answers.
    chain: Option<Arc<WebPkiServerVerifier>>,
    bundle: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(verify: &Verify<'_>, provider: Arc<CryptoProvider>) -> Result<Self, TargetError> {
        let Verify::Bundle(bundle) = verify else {
            return Ok(Self { chain: None, bundle: Vec::new(), provider });
        };
        let bundle = match bundle.is_empty() {
            true => SYSTEM.clone(),
            false => certificates(bundle).ok_or(TargetError::Bundle)?,
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(bundle.iter().cloned());
        if roots.is_empty() {
            return Err(TargetError::Bundle);
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let chain = chain.build().map_err(|_no_roots| TargetError::Bundle)?;
        Ok(Self { chain: Some(chain), bundle, provider })
    }

    fn is_trusted_itself(
        &self,
        end_entity: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<bool, Error> {
        if !self.bundle.iter().any(|own| own.as_ref() == end_entity.as_ref()) {
            return Ok(false);
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
        let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let peer = PeerIdentity::from_der(end_entity).map_err(|_unreadable| bad())?;
        let now =
            i64::try_from(now.as_secs()).ok().and_then(|now| Timestamp::from_second(now).ok());
        let now = now.ok_or_else(bad)?;
        if now < peer.not_before || now > peer.not_after {
            return Err(Error::InvalidCertificate(CertificateError::Expired));
        }
        Ok(true)
    }
}

static SYSTEM: LazyLock<Vec<CertificateDer<'static>>> = LazyLock::new(|| {
    let texts = SYSTEM_ROOTS.iter().filter_map(|path| std::fs::read(path).ok());
    texts.filter_map(|text| certificates(&text)).next().unwrap_or_default()
});

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        let verified =
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(error) if self.is_trusted_itself(end_entity, server_name, now)? => {
                tracing::trace!(%error, "a certificate that is in the bundle itself");
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
