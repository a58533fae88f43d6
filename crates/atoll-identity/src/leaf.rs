//! Leaf certificates: what they say, and how they are signed.

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};

use crate::error::IdentityError;

/// How far back a leaf's validity starts, so that a peer whose clock is an hour behind
/// ours accepts it at once. Never more than half of its life, so that short-lived leaves
/// are not due for renewal when they are born.
const BACKDATE_MAX: SignedDuration = SignedDuration::from_hours(2);

/// rcgen keeps one value for each attribute type; the second organization travels under
/// the same object identifier as a custom type.
const ORGANIZATIONS_MAX: usize = 2;
const ORGANIZATION_OID: [u64; 4] = [2, 5, 4, 10];

/// What the holder may do with a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
    /// Store peers and mesh workloads dial and accept with the same certificate.
    ClientAndServer,
}

/// What a leaf says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The user name of an API client.
    pub common_name: String,
    /// The groups of an API client.
    pub organizations: Vec<String>,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub uris: Vec<String>,
    pub usage: Usage,
    /// Measured from the moment of issuing.
    pub life: SignedDuration,
}

impl Leaf {
    /// An API client: `user` in `groups`.
    #[must_use]
    pub fn client(user: &str, groups: &[&str], life: SignedDuration) -> Self {
        Self {
            common_name: user.to_owned(),
            organizations: groups.iter().map(|&group| group.to_owned()).collect(),
            dns: Vec::new(),
            ips: Vec::new(),
            uris: Vec::new(),
            usage: Usage::Client,
            life,
        }
    }

    /// A server known under these names and addresses.
    #[must_use]
    pub fn serving(name: &str, dns: &[&str], ips: &[IpAddr], life: SignedDuration) -> Self {
        Self {
            common_name: name.to_owned(),
            organizations: Vec::new(),
            dns: dns.iter().map(|&name| name.to_owned()).collect(),
            ips: ips.to_vec(),
            uris: Vec::new(),
            usage: Usage::Server,
            life,
        }
    }
}

/// A signed leaf.
#[derive(Clone)]
pub struct Issued {
    pub certificate_pem: String,
    /// Only when the key was made here.
    pub key_pem: Option<String>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

pub(crate) fn sign(
    issuer: &Issuer<'_, KeyPair>,
    leaf: &Leaf,
    key: &impl PublicKeyData,
    now: Timestamp,
) -> Result<Issued, IdentityError> {
    let not_before = now - BACKDATE_MAX.min(leaf.life / 2);
    let not_after = now + leaf.life;
    let mut params = names(leaf)?;
    set_validity(&mut params, not_before, not_after)?;
    params.serial_number = Some(serial()?);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match leaf.usage {
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::ClientAndServer => {
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth]
        }
    };
    params.use_authority_key_identifier_extension = true;
    let certificate = params
        .signed_by(key, issuer)
        .map_err(|source| IdentityError::Sign { subject: leaf.common_name.clone(), source })?;
    Ok(Issued { certificate_pem: certificate.pem(), key_pem: None, not_before, not_after })
}

/// Parameters that hold the leaf's names and nothing else.
pub(crate) fn names(leaf: &Leaf) -> Result<CertificateParams, IdentityError> {
    if leaf.organizations.len() > ORGANIZATIONS_MAX {
        return Err(IdentityError::TooManyOrganizations {
            subject: leaf.common_name.clone(),
            count: leaf.organizations.len(),
            max: ORGANIZATIONS_MAX,
        });
    }
    let mut subject = DistinguishedName::new();
    let types = [DnType::OrganizationName, DnType::CustomDnType(ORGANIZATION_OID.to_vec())];
    for (organization, kind) in leaf.organizations.iter().zip(types) {
        subject.push(kind, organization.as_str());
    }
    subject.push(DnType::CommonName, leaf.common_name.as_str());
    let mut alternatives = Vec::new();
    for name in &leaf.dns {
        alternatives.push(SanType::DnsName(ascii(name)?));
    }
    alternatives.extend(leaf.ips.iter().map(|&ip| SanType::IpAddress(ip)));
    for uri in &leaf.uris {
        alternatives.push(SanType::URI(ascii(uri)?));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.subject_alt_names = alternatives;
    Ok(params)
}

fn ascii(name: &str) -> Result<Ia5String, IdentityError> {
    Ia5String::try_from(name)
        .map_err(|source| IdentityError::BadName { name: name.to_owned(), source })
}

/// Sets the validity, in whole seconds.
pub(crate) fn set_validity(
    params: &mut CertificateParams,
    not_before: Timestamp,
    not_after: Timestamp,
) -> Result<(), IdentityError> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(not_before)?;
    params.not_after = epoch + since_epoch(not_after)?;
    Ok(())
}

fn since_epoch(at: Timestamp) -> Result<Duration, IdentityError> {
    let seconds =
        u64::try_from(at.as_second()).map_err(|_negative| IdentityError::BadTime { at })?;
    Ok(Duration::from_secs(seconds))
}

pub(crate) fn serial() -> Result<SerialNumber, IdentityError> {
    let mut bytes = [0u8; 16];
    random(&mut bytes)?;
    // A serial is a positive integer: the top bit stays clear, and it never starts with zero.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

pub(crate) fn random(bytes: &mut [u8]) -> Result<(), IdentityError> {
    aws_lc_rs::rand::fill(bytes).map_err(|_unspecified| IdentityError::Random)
}
