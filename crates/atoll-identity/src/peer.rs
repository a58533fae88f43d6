//! Who is at the other end: the names in a verified certificate, and PEM texts taken apart.

use std::net::IpAddr;

use jiff::Timestamp;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;

use crate::error::IdentityError;

/// What a peer's certificate says. It has been verified by TLS before; this only reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    /// Serial number in hex, as audit lines show it.
    pub serial: String,
    /// SHA-256 of the certificate.
    pub fingerprint: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl PeerIdentity {
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let bad = |problem: String| IdentityError::ReadCertificate {
            owner: "the peer".to_owned(),
            problem,
        };
        let (_, parsed) =
            x509_parser::parse_x509_certificate(der).map_err(|error| bad(error.to_string()))?;
        let subject = parsed.subject();
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().ok().map(str::to_owned)
        };
        let (mut uris, mut dns, mut ips) = (Vec::new(), Vec::new(), Vec::new());
        let alternatives =
            parsed.subject_alternative_name().map_err(|error| bad(error.to_string()))?;
        for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => ips.extend(address(bytes)),
                _ => {}
            }
        }
        let instant =
            |seconds: i64| Timestamp::from_second(seconds).map_err(|error| bad(error.to_string()));
        Ok(Self {
            common_name: subject.iter_common_name().find_map(text).unwrap_or_default(),
            organizations: subject.iter_organization().filter_map(text).collect(),
            uris,
            dns,
            ips,
            serial: crate::authority::hex(parsed.raw_serial()),
            fingerprint: crate::authority::fingerprint(der),
            not_before: instant(parsed.validity().not_before.timestamp())?,
            not_after: instant(parsed.validity().not_after.timestamp())?,
        })
    }

    /// Reads the first certificate of a PEM text.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let certificates = certificates_from_pem("the peer", text)?;
        Self::from_der(&certificates[0])
    }
}

/// Four or sixteen bytes, in network order.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// All certificates of a PEM text, in order; at least one.
pub fn certificates_from_pem(
    owner: &str,
    text: &str,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let bad = |problem: String| IdentityError::ReadCertificate { owner: owner.to_owned(), problem };
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("there is no certificate in its PEM text".to_owned()));
    }
    Ok(certificates)
}

/// The private key of a PEM text.
pub fn private_key_from_pem(
    owner: &str,
    text: &str,
) -> Result<PrivateKeyDer<'static>, IdentityError> {
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_pem| IdentityError::NoKey { owner: owner.to_owned() })
}
