//! Certificate signing requests: made by nodes, read and checked by the server.

use std::net::IpAddr;

use rcgen::{
    CertificateSigningRequestParams, DnType, DnValue, ExtendedKeyUsagePurpose, KeyPair,
    PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData as _, SanType,
};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::authority::hex;
use crate::error::IdentityError;
use crate::leaf::{self, Leaf};

/// A request whose signature was verified: the sender holds the key. Its names are wishes.
#[derive(Debug)]
pub struct SigningRequest {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
    /// Extended usages that are asked for inside the request itself.
    pub server_auth: bool,
    pub client_auth: bool,
    public_key: PublicKey,
}

impl SigningRequest {
    /// Reads PEM text and verifies the signature with the request's own key.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let der =
            CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).map_err(|_pem| {
                IdentityError::RequestForm { problem: "PEM block type must be CERTIFICATE REQUEST" }
            })?;
        let request = CertificateSigningRequestParams::from_der(&der)
            .map_err(|source| IdentityError::ReadRequest { source })?;
        let (_, parsed) = X509CertificationRequest::from_der(&der)
            .map_err(|_asn1| IdentityError::RequestForm { problem: "not a PKCS #10 request" })?;
        let subject = &parsed.certification_request_info.subject;
        // rcgen keeps one organization only, so the subject is read a second time.
        let organizations = subject
            .iter_organization()
            .filter_map(|value| value.as_str().ok().map(str::to_owned))
            .collect();
        let mut result = Self {
            common_name: common_name(&request),
            organizations,
            dns: Vec::new(),
            ips: Vec::new(),
            emails: Vec::new(),
            uris: Vec::new(),
            server_auth: asks(&request, &ExtendedKeyUsagePurpose::ServerAuth),
            client_auth: asks(&request, &ExtendedKeyUsagePurpose::ClientAuth),
            public_key: request.public_key,
        };
        for name in request.params.subject_alt_names {
            result.add_name(name)?;
        }
        Ok(result)
    }

    pub(crate) fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// SHA-256 of the key in hex, which tells whether a retried request is the same one.
    #[must_use]
    pub fn key_fingerprint(&self) -> String {
        hex(&Sha256::digest(self.public_key.der_bytes()))
    }

    fn add_name(&mut self, name: SanType) -> Result<(), IdentityError> {
        match name {
            SanType::DnsName(name) => self.dns.push(name.as_str().to_owned()),
            SanType::IpAddress(ip) => self.ips.push(ip),
            SanType::Rfc822Name(mail) => self.emails.push(mail.as_str().to_owned()),
            SanType::URI(uri) => self.uris.push(uri.as_str().to_owned()),
            _ => {
                return Err(IdentityError::RequestForm {
                    problem: "a subject alternative name of a kind that is not supported",
                });
            }
        }
        Ok(())
    }
}

/// Makes a request and its key: `(request PEM, key PEM)`. The names are those of `leaf`.
pub fn new_request(leaf: &Leaf) -> Result<(String, String), IdentityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|source| IdentityError::MakeKey { source })?;
    let subject = || leaf.common_name.clone();
    let request = leaf::names(leaf)?
        .serialize_request(&key)
        .map_err(|source| IdentityError::Sign { subject: subject(), source })?;
    let pem = request.pem().map_err(|source| IdentityError::Sign { subject: subject(), source })?;
    Ok((pem, key.serialize_pem()))
}

fn asks(request: &CertificateSigningRequestParams, usage: &ExtendedKeyUsagePurpose) -> bool {
    request.params.extended_key_usages.contains(usage)
}

fn common_name(request: &CertificateSigningRequestParams) -> String {
    match request.params.distinguished_name.get(&DnType::CommonName) {
        Some(DnValue::Utf8String(text)) => text.clone(),
        Some(DnValue::PrintableString(text)) => text.as_str().to_owned(),
        Some(DnValue::Ia5String(text)) => text.as_str().to_owned(),
        Some(DnValue::TeletexString(text)) => text.as_str().to_owned(),
        _ => String::new(),
    }
}
