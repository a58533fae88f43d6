//! Where a server is and whom to trust there, made once of a `clientConfig`.

use std::sync::Arc;
use std::time::Duration;

use atoll_api::access::Access as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use rustls::ClientConfig;
use rustls::client::ResolvesClientCert;
use rustls_pki_types::ServerName;
use serde_json::Value;

use super::tls;

/// Upstream's default for a Service that is called.
const SERVICE_PORT: u16 = 443;

/// A `clientConfig` that cannot be put to use. Validation refuses most of these before.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("webhook configuration must have either service or URL")]
    Nowhere,
    #[error("Unparsable webhook URL: {text}")]
    Url { text: String },
    #[error("the name {name:?} cannot stand in a certificate")]
    Name { name: String },
    #[error("unable to load root certificates: unable to parse bytes as PEM block")]
    Bundle,
    #[error("setting up TLS")]
    Tls { source: rustls::Error },
}

/// Who this server says it is, to servers that want to know.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Tells connections of different identities apart.
    pub name: &'static str,
    pub certificate: Arc<dyn ResolvesClientCert>,
}

/// A server that can be called.
#[derive(Debug, Clone)]
pub struct Target {
    pub(super) place: Place,
    path: String,
    authority: String,
    pub(super) server_name: ServerName<'static>,
    pub(super) tls: Arc<ClientConfig>,
    /// The same for targets that may share connections to one address.
    key: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A name or address.
    Host {
        host: String,
        port: u16,
    },
    Service {
        namespace: String,
        name: String,
        port: u16,
    },
}

impl Target {
    /// Of a `WebhookClientConfig`, of admission or conversion.
    ///
    /// # Errors
    ///
    /// When it names no place, or a bundle without certificates.
    pub fn new(config: &Value) -> Result<Self, TargetError> {
        let bundle = bundle(config)?;
        let trust = tls::Verify::Bundle(&bundle);
        if config.has("service") {
            let service = &config["service"];
            let (place, path) = (Self::service_place(service), service.text("path"));
            return Self::of_service(place, path, trust, None);
        }
        let url = config.text("url");
        if url.is_empty() {
            return Err(TargetError::Nowhere);
        }
        Self::of_url(url, trust)
    }

    /// Of an APIService's spec.
    ///
    /// # Errors
    ///
    /// As [`Target::new`].
    pub fn of_api_service(spec: &Value, identity: Option<&Identity>) -> Result<Self, TargetError> {
        let bundle = bundle(spec)?;
        let verify = match spec.flag("insecureSkipTLSVerify") {
            true => tls::Verify::Nothing,
            false => tls::Verify::Bundle(&bundle),
        };
        if !spec.has("service") {
            return Err(TargetError::Nowhere);
        }
        Self::of_service(Self::service_place(&spec["service"]), "", verify, identity)
    }

    fn service_place(service: &Value) -> Place {
        let port = service.int("port").and_then(|port| u16::try_from(port).ok());
        Place::Service {
            namespace: service.text("namespace").to_owned(),
            name: service.text("name").to_owned(),
            port: port.filter(|port| *port != 0).unwrap_or(SERVICE_PORT),
        }
    }

    fn of_service(
        place: Place,
        path: &str,
        verify: tls::Verify<'_>,
        identity: Option<&Identity>,
    ) -> Result<Self, TargetError> {
        let Place::Service { namespace, name, port } = &place else {
            return Err(TargetError::Nowhere);
        };
        let host = format!("{name}.{namespace}.svc");
        let authority = format!("{host}:{port}");
        let path = if path.is_empty() { "/" } else { path };
        Self::finish(place, &host, authority, path.to_owned(), verify, identity)
    }

    fn of_url(url: &str, verify: tls::Verify<'_>) -> Result<Self, TargetError> {
        let bad = |text: String| TargetError::Url { text };
        let uri: Uri = url.parse().map_err(|error| bad(format!("{error}")))?;
        let host = uri.host().ok_or_else(|| bad(format!("{url:?} names no host")))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(SERVICE_PORT);
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let place = Place::Host { host: host.clone(), port };
        Self::finish(place, &host, authority, path, verify, None)
    }

    fn finish(
        place: Place,
        host: &str,
        authority: String,
        path: String,
        verify: tls::Verify<'_>,
        identity: Option<&Identity>,
    ) -> Result<Self, TargetError> {
        let server_name = ServerName::try_from(host.to_owned())
            .map_err(|_invalid| TargetError::Name { name: host.to_owned() })?;
        let key = format!("{}|{host}", tls::key(&verify, identity));
        let tls = tls::config(&verify, identity)?;
        Ok(Self { place, path, authority, server_name, tls, key })
    }

    /// What stands in the `Host` header.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path with the time that the server has, and the URL as errors show it.
    pub(super) fn with_timeout(&self, timeout: Duration) -> (String, String) {
        let mark = if self.path.contains('?') { '&' } else { '?' };
        let path = format!("{}{mark}timeout={}", self.path, go_duration(timeout));
        let url = format!("https://{}{path}", self.authority);
        (path, url)
    }

    pub(super) fn connection_key(&self, address: &str) -> String {
        format!("{address}|{}", self.key)
    }

    pub(super) fn no_endpoints(&self) -> String {
        match &self.place {
            Place::Service { name, .. } => {
                format!("no endpoints available for service {}", atoll_api::field::quote(name))
            }
            Place::Host { host, .. } => format!("dial tcp: lookup {host}: no such host"),
        }
    }
}

fn bundle(config: &Value) -> Result<Vec<u8>, TargetError> {
    let bundle = STANDARD.decode(config.text("caBundle"));
    bundle.map_err(|_not_base64| TargetError::Bundle)
}

/// A duration of whole seconds as Go prints it: `10s`, `1m30s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return format!("{}ms", duration.as_millis());
    }
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_is_called_by_its_name() {
        let config = json!({"service": {"namespace": "a", "name": "b", "path": "/c"}});
        let target = Target::new(&config).unwrap();
        let (path, url) = target.with_timeout(Duration::from_secs(10));
        assert_eq!(path, "/c?timeout=10s");
        assert_eq!(url, "https://b.a.svc:443/c?timeout=10s");
        let place = Place::Service { namespace: "a".into(), name: "b".into(), port: 443 };
        assert_eq!(target.place, place);
    }

    #[test]
    fn a_url_is_taken_apart() {
        let target = Target::new(&json!({"url": "https://[::1]:8443/x?y=z"})).unwrap();
        assert_eq!(target.place, Place::Host { host: "::1".into(), port: 8443 });
        let (_, url) = target.with_timeout(Duration::from_secs(90));
        assert_eq!(url, "https://[::1]:8443/x?y=z&timeout=1m30s");
        assert!(Target::new(&json!({})).is_err());
        assert!(Target::new(&json!({"url": "https://a", "caBundle": "eA=="})).is_err());
    }
}
