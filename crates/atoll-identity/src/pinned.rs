//! Trust on a joining machine: the server whose authority the join token names.
//!
//! The server sends its authority after its own certificate; the one with the right hash
//! becomes the only root, and everything else is checked as usual.

use std::error::Error as StdError;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use crate::authority::fingerprint;
use crate::token::{JoinToken, TokenError};

/// Accepts only servers of the cluster for which `token` was made.
#[derive(Debug)]
pub struct PinnedServer {
    token: JoinToken,
    provider: Arc<CryptoProvider>,
}

impl PinnedServer {
    #[must_use]
    pub fn new(token: JoinToken, provider: Arc<CryptoProvider>) -> Self {
        Self { token, provider }
    }

    /// What is wrong with the token, when that is why a connection failed. Errors of TLS
    /// travel inside of others, and print the refusal of a verifier in its raw form.
    #[must_use]
    pub fn refusal(error: &(dyn StdError + 'static)) -> Option<TokenError> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) =
                error.downcast_ref::<Error>()
            {
                return inner.downcast_ref::<TokenError>().cloned();
            }
            next = match error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref()) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }

    fn other_cluster(&self, chain: &[CertificateDer<'_>]) -> Error {
        let found = chain.last().map_or_else(
            || "none, the server sent no authority".to_owned(),
            |authority| fingerprint(authority),
        );
        let error = TokenError::OtherCluster {
            id: self.token.id.clone(),
            expected: self.token.authority_hash.clone(),
            found,
        };
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = intermediates
            .iter()
            .find(|certificate| self.token.pins(certificate))
            .ok_or_else(|| self.other_cluster(intermediates))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let provider = self.provider.clone();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
