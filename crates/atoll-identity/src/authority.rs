//! An authority: a self-signed certificate and the key that signs leaves.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use crate::error::IdentityError;
use crate::leaf::{self, Issued, Leaf};
use crate::peer::{PeerIdentity, certificates_from_pem};
use crate::request::SigningRequest;

/// Life of an authority. Leaves are renewed online; an authority is replaced by a person.
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// How far back an authority's validity starts: a joining machine whose clock is a day
/// behind must still accept it.
const AUTHORITY_BACKDATE: SignedDuration = SignedDuration::from_hours(48);

/// The separate authorities. A certificate of one is worth nothing to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AuthorityKind {
    /// Clients of the Kubernetes API: people and nodes.
    Client,
    /// The API server's own serving certificate.
    Serving,
    /// The kubelet API: nodes' serving certificates, and the API server's client certificate.
    Kubelet,
    /// Store peers.
    Peer,
    /// Clients of the etcd API.
    Etcd,
    /// Workloads in the mesh.
    Mesh,
}

impl AuthorityKind {
    pub const ALL: [Self; 6] =
        [Self::Client, Self::Serving, Self::Kubelet, Self::Peer, Self::Etcd, Self::Mesh];

    /// A short name, fit for a file name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Serving => "serving",
            Self::Kubelet => "kubelet",
            Self::Peer => "peer",
            Self::Etcd => "etcd",
            Self::Mesh => "mesh",
        }
    }
}

/// One authority with its key.
pub struct Authority {
    kind: AuthorityKind,
    certificate_pem: String,
    key_pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority of `cluster`, valid from a little before `now`.
    pub fn create(
        kind: AuthorityKind,
        cluster: &str,
        now: Timestamp,
    ) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|source| IdentityError::MakeKey { source })?;
        let subject = format!("atoll {} authority {cluster}", kind.name());
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, subject.as_str());
        let mut params = CertificateParams::default();
        params.serial_number = Some(leaf::serial()?);
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        leaf::set_validity(&mut params, now - AUTHORITY_BACKDATE, now + AUTHORITY_LIFE)?;
        let certificate =
            params.self_signed(&key).map_err(|source| IdentityError::Sign { subject, source })?;
        Self::load(kind, &certificate.pem(), &key.serialize_pem())
    }

    /// Takes up an authority from its PEM texts, after checking that they belong together.
    pub fn load(
        kind: AuthorityKind,
        certificate_pem: &str,
        key_pem: &str,
    ) -> Result<Self, IdentityError> {
        let owner = format!("the {} authority", kind.name());
        let key = KeyPair::from_pem(key_pem)
            .map_err(|source| IdentityError::ReadKey { owner: owner.clone(), source })?;
        let der = certificates_from_pem(&owner, certificate_pem)?.swap_remove(0);
        check_pair(kind, &owner, &der, &key)?;
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|source| IdentityError::Sign { subject: owner, source })?;
        Ok(Self {
            kind,
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            der,
            issuer,
        })
    }

    /// Whether the clock can be right: outside of the authority's life nobody would accept
    /// anything that it signs.
    pub fn check_clock(&self, now: Timestamp) -> Result<(), IdentityError> {
        let life = PeerIdentity::from_der(&self.der)?;
        if now < life.not_before {
            let authority = self.kind.name();
            return Err(IdentityError::ClockBehind { authority, now, begins: life.not_before });
        }
        if now >= life.not_after {
            let authority = self.kind.name();
            return Err(IdentityError::AuthorityEnded { authority, now, ended: life.not_after });
        }
        Ok(())
    }

    #[must_use]
    pub fn kind(&self) -> AuthorityKind {
        self.kind
    }

    /// The public half; what others trust.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The secret half, to be stored with mode 0600 and shown to nobody.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    #[must_use]
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(crate) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// SHA-256 of the certificate in lower-case hex, as join tokens carry it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.der)
    }

    /// Issues a leaf together with a fresh key.
    pub fn issue(&self, leaf: &Leaf, now: Timestamp) -> Result<Issued, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|source| IdentityError::MakeKey { source })?;
        let mut issued = leaf::sign(&self.issuer, leaf, &key, now)?;
        issued.key_pem = Some(key.serialize_pem());
        Ok(issued)
    }

    /// Issues a leaf for the key of `request`. Names and usages come from `leaf` alone: what
    /// the request asks for was judged by the caller and is not copied.
    pub fn issue_for(
        &self,
        request: &SigningRequest,
        leaf: &Leaf,
        now: Timestamp,
    ) -> Result<Issued, IdentityError> {
        leaf::sign(&self.issuer, leaf, request.public_key(), now)
    }
}

impl fmt::Debug for Authority {
    /// Leaves the key out: a debug line in a log must not hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("kind", &self.kind)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

/// SHA-256 of a certificate in lower-case hex.
#[must_use]
pub fn fingerprint(der: &[u8]) -> String {
    hex(&Sha256::digest(der))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn check_pair(
    kind: AuthorityKind,
    owner: &str,
    der: &CertificateDer<'_>,
    key: &KeyPair,
) -> Result<(), IdentityError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|error| {
        IdentityError::ReadCertificate { owner: owner.to_owned(), problem: error.to_string() }
    })?;
    if !parsed.is_ca() {
        return Err(IdentityError::NotAnAuthority { authority: kind.name() });
    }
    if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
        return Err(IdentityError::KeyMismatch { authority: kind.name() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
