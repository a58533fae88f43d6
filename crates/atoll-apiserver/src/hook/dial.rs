//! A connection to one address, with TLS.

use std::sync::Arc;
use std::time::Duration;

use rustls::{CertificateError, Error as TlsError};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::SendError;
use super::target::Target;

/// An address that does not answer within this is not there; upstream's dialer waits as long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that accepts and says nothing.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn connect(
    target: &Target,
    address: &str,
) -> Result<TlsStream<TcpStream>, SendError> {
    let address = address.to_owned();
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(source)) => return Err(SendError::Connect { address, source }),
        Err(_elapsed) => return Err(SendError::ConnectTime { address }),
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let connector = TlsConnector::from(Arc::clone(&target.tls));
    let connecting = connector.connect(target.server_name.clone(), stream);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(SendError::Tls { text: reason(&error, target) }),
        Err(_elapsed) => Err(SendError::Tls { text: "net/http: TLS handshake timeout".to_owned() }),
    }
}

/// Go's words for what is wrong with a certificate.
fn reason(error: &std::io::Error, target: &Target) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) else {
        return match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
            _ => error.to_string(),
        };
    };
    let verify = "tls: failed to verify certificate: x509:";
    match tls {
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => {
            format!("{verify} certificate signed by unknown authority")
        }
        TlsError::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        }) => {
            let name = target.server_name.to_str();
            if presented.is_empty() {
                format!(
                    "{verify} certificate is not valid for any names, but wanted to match {name}"
                )
            } else {
                let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
                format!("{verify} certificate is valid for {}, not {name}", names.join(", "))
            }
        }
        TlsError::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => format!("{verify} certificate has expired or is not yet valid"),
        TlsError::InvalidMessage(_) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        other => format!("tls: {other}"),
    }
}

/// `DnsName("a")` as `a`.
fn bare(presented: &str) -> &str {
    presented.split_once("(\"").map_or(presented, |(_, rest)| rest.trim_end_matches("\")"))
}
