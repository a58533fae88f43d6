//! One HTTP request on a connection of its own, with TLS or without.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::config::RegistryConfig;

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// From the request to the first byte of the answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Where systems keep the authorities they trust.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the name {host} cannot be resolved")]
    Resolve { host: String, source: hickory_resolver::net::NetError },
    #[error("the name {host} has no address in the DNS")]
    NoAddress { host: String },
    #[error("connecting to {address}")]
    Connect { address: SocketAddr, source: std::io::Error },
    #[error("connecting to {address} took longer than {} s", CONNECT_MAX.as_secs())]
    ConnectTime { address: SocketAddr },
    #[error(
        "the TLS handshake with {host} failed (an authority of its own has to be among the \
         system's certificates, and a registry without TLS to be named with --plain-http)"
    )]
    Tls { host: String, source: std::io::Error },
    #[error("{url} is no address of a registry")]
    Url { url: String },
    #[error("the request failed")]
    Http(#[source] hyper::Error),
    #[error("no answer came for {} s", ANSWER_MAX.as_secs())]
    NoAnswer,
    #[error("the answer broke off")]
    Body(#[source] hyper::Error),
    #[error("nothing came for {0} s")]
    Silent(u64),
    #[error("preparing the request")]
    Request(#[source] ::http::Error),
    #[error("setting up name resolution")]
    Resolver(#[source] hickory_resolver::net::NetError),
    #[error("the token service {url} answered {status}")]
    Token { url: String, status: StatusCode },
}

/// An answer whose body is still to come.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    /// Drives the connection; ends with the answer.
    _connection: JoinSet<()>,
}

/// What all requests share.
pub(crate) struct Transport {
    tls: Arc<rustls::ClientConfig>,
    resolver: tokio::sync::OnceCell<hickory_resolver::TokioResolver>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

impl Transport {
    pub(crate) fn new(config: &RegistryConfig) -> Transport {
        Transport { tls: Arc::new(tls_config(config)), resolver: tokio::sync::OnceCell::new() }
    }

    pub(crate) async fn send(&self, request: ::http::request::Builder) -> Result<Answer, Failure> {
        let mut request: Request<Empty<Bytes>> =
            request.body(Empty::new()).map_err(Failure::Request)?;
        let url = request.uri().clone();
        let (host, port, secure) = target(&url)?;
        let authority = url.authority().map_or(String::new(), ToString::to_string);
        let headers = request.headers_mut();
        if let Ok(value) = authority.parse() {
            headers.insert(::http::header::HOST, value);
        }
        headers.insert(
            ::http::header::USER_AGENT,
            ::http::HeaderValue::from_static(concat!("atoll/", env!("CARGO_PKG_VERSION"))),
        );
        let path = url.path_and_query().map_or("/", |p| p.as_str());
        *request.uri_mut() =
            path.parse().map_err(|_invalid| Failure::Url { url: url.to_string() })?;
        let stream = self.connect(&host, port).await?;
        if !secure {
            return exchange(TokioIo::new(stream), request).await;
        }
        let name = ServerName::try_from(host.clone())
            .map_err(|_invalid| Failure::Url { url: url.to_string() })?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        let stream = tokio::time::timeout(CONNECT_MAX, connector.connect(name, stream))
            .await
            .map_err(|_elapsed| Failure::NoAnswer)?
            .map_err(|source| Failure::Tls { host, source })?;
        exchange(TokioIo::new(stream), request).await
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Failure> {
        let mut last = Failure::NoAddress { host: host.to_owned() };
        for address in self.addresses(host).await? {
            let address = SocketAddr::new(address, port);
            match tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(source)) => last = Failure::Connect { address, source },
                Err(_elapsed) => last = Failure::ConnectTime { address },
            }
        }
        Err(last)
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Failure> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        if host == "localhost" {
            return Ok(vec![
                IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
                IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            ]);
        }
        let resolver = self
            .resolver
            .get_or_try_init(|| async {
                hickory_resolver::TokioResolver::builder_tokio().and_then(|b| b.build())
            })
            .await
            .map_err(Failure::Resolver)?;
        let found = resolver.lookup_ip(host).await.map_err(|source| {
            let host = host.to_owned();
            if source.is_no_records_found() {
                Failure::NoAddress { host }
            } else {
                Failure::Resolve { host, source }
            }
        })?;
        Ok(found.iter().collect())
    }
}

fn target(url: &Uri) -> Result<(String, u16, bool), Failure> {
    let secure = url.scheme_str() == Some("https");
    let host = url.host().ok_or_else(|| Failure::Url { url: url.to_string() })?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    Ok((host, port, secure))
}

async fn exchange<I>(io: I, request: Request<Empty<Bytes>>) -> Result<Answer, Failure>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(Failure::Http)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "registry connection");
        }
    });
    let answer = tokio::time::timeout(ANSWER_MAX, sender.send_request(request))
        .await
        .map_err(|_elapsed| Failure::NoAnswer)?
        .map_err(Failure::Http)?;
    let (parts, body) = answer.into_parts();
    Ok(Answer { status: parts.status, headers: parts.headers, body, _connection: tasks })
}

fn tls_config(config: &RegistryConfig) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let system = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists());
    for path in system.into_iter().chain(config.extra_roots.iter().map(|p| p.as_path())) {
        match CertificateDer::pem_file_iter(path) {
            Ok(certificates) => {
                let (_added, ignored) =
                    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
                if ignored > 0 {
                    tracing::debug!(path = %path.display(), ignored, "certificates not usable");
                }
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "authorities not readable");
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::DEFAULT_VERSIONS);
    match versions {
        Ok(builder) => builder.with_root_certificates(roots).with_no_client_auth(),
        // The provider's own versions always fit it.
        Err(_impossible) => {
            rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
        }
    }
}
