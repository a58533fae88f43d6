//! Certificates for an etcd and its clients, as an administrator would make them.

use std::path::{Path, PathBuf};

use atoll_etcd::external::ExternalTls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

/// Files for the server, bytes for its client.
pub(crate) struct Made {
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client: ExternalTls,
    /// Whose CA has signed nothing here.
    pub(crate) stranger: ExternalTls,
}

pub(crate) fn make(dir: &Path) -> Made {
    let authority = authority();
    let server = leaf(&authority);
    let client = leaf(&authority);
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("the folder can be written");
        path
    };
    Made {
        ca: write("ca.pem", &authority.pem()),
        certificate: write("server.pem", &server.0),
        key: write("server.key", &server.1),
        client: ExternalTls {
            ca_pem: authority.pem().into_bytes(),
            identity: Some((client.0.into_bytes(), client.1.into_bytes())),
        },
        stranger: ExternalTls { ca_pem: self::authority().pem().into_bytes(), identity: None },
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("a certificate")
}

fn leaf(authority: &CertifiedIssuer<'static, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())];
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}
