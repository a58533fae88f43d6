//! Connections to kubelets, proven on both ends.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::call::Call;

/// A node that does not answer within this is as good as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a kubelet was not reached. The texts stand where upstream has Go's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("this server has no certificate for kubelets")]
    NotSetUp,
    #[error("dial tcp {authority}: connect: {}", reason(source))]
    Connect { authority: String, source: std::io::Error },
    #[error("dial tcp {authority}: i/o timeout")]
    Late { authority: String },
    #[error("the name {name:?} cannot stand in a certificate")]
    Name { name: String, source: rustls_pki_types::InvalidDnsNameError },
    #[error("tls: {authority}: {source}")]
    Tls { authority: String, source: std::io::Error },
    #[error("{source}")]
    Http { source: hyper::Error },
}

/// Go's words for the errors that people search for.
pub(crate) fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

/// A connection to the kubelet of `host`, whose certificate has that name.
pub(crate) async fn to_kubelet(
    call: &Call,
    host: &str,
    authority: &str,
) -> Result<TlsStream<TcpStream>, DialError> {
    let config = call.core.config.kubelet_tls.clone().ok_or(DialError::NotSetUp)?;
    let authority = authority.to_owned();
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&authority)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(source)) => return Err(DialError::Connect { authority, source }),
        Err(_) => return Err(DialError::Late { authority }),
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|source| DialError::Name { name: host.to_owned(), source })?;
    let connecting = TlsConnector::from(Arc::clone(&config)).connect(name, stream);
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(DialError::Tls { authority, source }),
        Err(_) => Err(DialError::Late { authority }),
    }
}
