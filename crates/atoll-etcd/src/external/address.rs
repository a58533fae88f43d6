//! Where an etcd listens, and the certificates that it wants and shows.

use std::fmt;
use std::sync::Arc;

use http::Uri;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;

use super::OpenError;

/// etcd's own default for clients.
const PORT: u16 = 2379;

/// Certificates as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalTls {
    /// Who signs the etcd's certificates.
    pub ca_pem: Vec<u8>,
    /// Ours and its key, if the etcd asks its clients for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for ExternalTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalTls").field("identity", &self.identity.is_some()).finish()
    }
}

/// One endpoint.
#[derive(Clone)]
pub(super) struct Address {
    /// As it was given, for messages.
    pub(super) text: String,
    pub(super) host: String,
    pub(super) port: u16,
    /// Scheme and authority of every request.
    pub(super) origin: Uri,
    pub(super) tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads all endpoints of one etcd.
pub(super) fn addresses(
    texts: &[String],
    tls: Option<&ExternalTls>,
) -> Result<Vec<Address>, OpenError> {
    if texts.is_empty() {
        return Err(OpenError::NoEndpoint);
    }
    let connector = tls.map(connector).transpose()?;
    texts.iter().map(|text| address(text, connector.as_ref())).collect()
}

fn address(text: &str, connector: Option<&TlsConnector>) -> Result<Address, OpenError> {
    let bad = |reason| OpenError::Endpoint { endpoint: text.to_owned(), reason };
    let uri: Uri = text.parse().map_err(|_invalid| bad("it is not a URL"))?;
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(bad("it begins with neither https:// nor http://")),
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(bad("it has a path; only host and port are wanted"));
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("it has no host"))?;
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(PORT);
    let tls = match (secure, connector) {
        (false, _) => None,
        (true, None) => return Err(OpenError::NoCa { endpoint: text.to_owned() }),
        (true, Some(connector)) => {
            let name = ServerName::try_from(bare.clone())
                .map_err(|_invalid| bad("its host can stand in no certificate"))?;
            Some((connector.clone(), name))
        }
    };
    let scheme = if secure { "https" } else { "http" };
    let origin = format!("{scheme}://{host}:{port}").parse();
    let origin = origin.map_err(|_invalid| bad("it is not a URL"))?;
    Ok(Address { text: text.to_owned(), host: bare, port, origin, tls })
}

fn connector(tls: &ExternalTls) -> Result<TlsConnector, OpenError> {
    let bad = |what, reason: String| OpenError::Certificate { what, reason };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates("CA", &tls.ca_pem)? {
        roots.add(certificate).map_err(|error| bad("CA", error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .map_err(|error| bad("CA", error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate_pem, key_pem)) => {
            let chain = certificates("client", certificate_pem)?;
            let key = PrivateKeyDer::from_pem_slice(key_pem)
                .map_err(|error| bad("client key", error.to_string()))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| bad("client", error.to_string()))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|error| OpenError::Certificate { what, reason: error.to_string() })?;
    if read.is_empty() {
        let reason = "there is no certificate in it".to_owned();
        return Err(OpenError::Certificate { what, reason });
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Address, OpenError> {
        addresses(&[text.to_owned()], None).map(|mut all| all.remove(0))
    }

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_a_port() {
        let plain = read("http://10.0.0.1").unwrap();
        assert_eq!((plain.host.as_str(), plain.port), ("10.0.0.1", 2379));
        assert_eq!(plain.origin, "http://10.0.0.1:2379");
        assert_eq!(read("http://[::1]:23790/").unwrap().host, "::1");
        for wrong in ["10.0.0.1:2379", "ftp://a", "http://a/v3", "http://", "http://a b"] {
            assert!(matches!(read(wrong), Err(OpenError::Endpoint { .. })), "{wrong}");
        }
        assert!(matches!(read("https://a"), Err(OpenError::NoCa { .. })));
        assert!(matches!(addresses(&[], None), Err(OpenError::NoEndpoint)));
    }

    #[test]
    fn what_is_no_certificate_is_named() {
        let tls = ExternalTls { ca_pem: b"nothing".to_vec(), identity: None };
        let refused = addresses(&["https://a".to_owned()], Some(&tls));
        assert!(matches!(refused, Err(OpenError::Certificate { what: "CA", .. })));
    }
}
