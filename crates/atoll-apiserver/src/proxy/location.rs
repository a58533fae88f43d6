//! Where a proxied request goes: a pod's port, a ready endpoint of a Service, or a node.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::access::Access as _;
use atoll_api::field::quote;
use atoll_api::kinds;
use rand::seq::SliceRandom as _;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::call::Call;
use crate::hook;
use crate::status::Status;
use crate::storage;
use crate::stream::{self, Io};

/// An address that does not answer within this is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Says of which Service a slice is.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// An address, and how it is spoken to.
#[derive(Debug)]
pub(super) struct Location {
    pub(super) authority: String,
    host: String,
    scheme: Scheme,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    /// As upstream, whoever answers is trusted: the address is one that the cluster gave.
    Https,
    /// With this server's certificate for kubelets.
    Kubelet,
}

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    scheme: Scheme,
    name: &'a str,
    port: &'a str,
}

impl Location {
    pub(super) async fn find(call: &Call) -> Result<Self, Status> {
        let singular = call.row.singular.as_ref();
        let named = Named::parse(call.name()).ok_or_else(|| {
            Status::bad_request(format!("invalid {singular} request {}", quote(call.name())))
        })?;
        match call.row.resource.as_ref() {
            "pods" => Self::of_pod(call, &named).await,
            "services" => Self::of_service(call, &named).await,
            "nodes" => Self::of_node(call, &named),
            _ => Err(Status::no_resource()),
        }
    }

    fn at(scheme: Scheme, host: &str, port: i64) -> Self {
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self { authority, host: host.to_owned(), scheme }
    }

    async fn of_pod(call: &Call, named: &Named<'_>) -> Result<Self, Status> {
        let pod = object(call, named.name).await?;
        let port = match named.port {
            "" => first_port(&pod).unwrap_or(named.default_port()),
            text => number(text)?,
        };
        let address = pod["status"].text("podIP");
        if !may_be_reached(address) {
            return Err(Status::bad_request("address not allowed"));
        }
        Ok(Self::at(named.scheme, address, port))
    }

    async fn of_service(call: &Call, named: &Named<'_>) -> Result<Self, Status> {
        let service = object(call, named.name).await?;
        let ports = service["spec"].items("ports");
        let name = match named.port.parse::<i64>() {
            Ok(number) => {
                let found = ports.iter().find(|port| port.int("port") == Some(number));
                found.map(|port| port.text("name")).ok_or_else(|| {
                    Status::unavailable(format!(
                        "no service port {number} found for service {}",
                        quote(named.name)
                    ))
                })?
            }
            Err(_) => named.port,
        };
        let mut endpoints = endpoints(call, named.name, name)?;
        endpoints.shuffle(&mut rand::rng());
        let (address, port) = endpoints.into_iter().next().ok_or_else(|| {
            let service = quote(call.name());
            Status::unavailable(format!("no endpoints available for service {service}"))
        })?;
        Ok(Self::at(named.scheme, &address, port))
    }

    fn of_node(call: &Call, named: &Named<'_>) -> Result<Self, Status> {
        let (host, kubelet) = stream::kubelet(call, named.name)?;
        if named.port.is_empty() || named.port == kubelet.to_string() {
            return Ok(Self::at(Scheme::Kubelet, &host, kubelet));
        }
        if !may_be_reached(&host) {
            return Err(Status::bad_request("address not allowed"));
        }
        Ok(Self::at(named.scheme, &host, number(named.port)?))
    }

    /// Opens a connection; the error is what upstream says of it.
    pub(super) async fn connect(&self, call: &Call) -> Result<Box<dyn Io>, String> {
        let authority = &self.authority;
        if self.scheme == Scheme::Kubelet {
            let stream = stream::to_kubelet(call, &self.host, authority).await;
            return stream.map(|stream| Box::new(stream) as Box<dyn Io>).map_err(|e| e.to_string());
        }
        let connecting = TcpStream::connect(authority);
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let why = stream::connect_reason(&error);
                return Err(format!("dial tcp {authority}: connect: {why}"));
            }
            Err(_elapsed) => return Err(format!("dial tcp {authority}: i/o timeout")),
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        if self.scheme == Scheme::Http {
            return Ok(Box::new(stream));
        }
        let config = hook::trusting().map_err(|error| error.to_string())?;
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let handshake = TlsConnector::from(Arc::clone(&config)).connect(name, stream);
        match tokio::time::timeout(CONNECT_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(format!("tls: {error}")),
            Err(_elapsed) => Err("net/http: TLS handshake timeout".to_owned()),
        }
    }
}

impl<'a> Named<'a> {
    fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { scheme, name, port })
    }

    fn default_port(&self) -> i64 {
        if self.scheme == Scheme::Https { 443 } else { 80 }
    }
}

async fn object(call: &Call, name: &str) -> Result<Value, Status> {
    let stored = call.core.storage.get(&call.row, call.namespace(), name).await?;
    stored.ok_or_else(|| Status::not_found(&call.row, name))?.object(&call.row)
}

fn number(port: &str) -> Result<i64, Status> {
    let number = port.parse::<u16>().ok().filter(|port| *port != 0).map(i64::from);
    number.ok_or_else(|| Status::bad_request(format!("invalid port {}", quote(port))))
}

/// The first port that any container names.
fn first_port(pod: &Value) -> Option<i64> {
    let mut ports = pod["spec"].items("containers").iter().flat_map(|one| one.items("ports"));
    ports.next().and_then(|port| port.int("containerPort"))
}

/// As upstream: a pod cannot lead this server to itself, or to what only its machine reaches.
fn may_be_reached(address: &str) -> bool {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(own)) => {
            !(own.is_loopback()
                || own.is_unspecified()
                || own.is_multicast()
                || own.is_link_local()
                || own.is_broadcast())
        }
        Ok(IpAddr::V6(own)) => {
            let link_local = own.segments()[0] & 0xffc0 == 0xfe80;
            !(own.is_loopback() || own.is_unspecified() || own.is_multicast() || link_local)
        }
        Err(_) => false,
    }
}

/// Ready endpoints of a Service's port that are pods with that address: nobody leads the
/// server elsewhere by writing an EndpointSlice.
fn endpoints(call: &Call, service: &str, port: &str) -> Result<Vec<(String, i64)>, Status> {
    let registry = &call.core.registry;
    let slices = registry.objects("discovery.k8s.io", "endpointslices");
    let slices = slices.map(|cache| cache.list(call.namespace())).unwrap_or_default();
    let mut found = Vec::new();
    for slice in slices.iter().filter(|slice| slice.label(SERVICE_LABEL) == Some(service)) {
        let slice = storage::parse(&slice.json)?;
        let Some(number) = slice_port(&slice, port) else { continue };
        for endpoint in slice.items("endpoints") {
            let ready = endpoint["conditions"].opt_flag("ready") != Some(false);
            let address = endpoint.items("addresses").first().and_then(Value::as_str);
            if let Some(address) = address.filter(|own| ready && is_pods(call, endpoint, own)) {
                found.push((address.to_owned(), number));
            }
        }
    }
    Ok(found)
}

fn slice_port(slice: &Value, name: &str) -> Option<i64> {
    let port = slice.items("ports").iter().find(|port| port.text("name") == name)?;
    port.int("port")
}

fn is_pods(call: &Call, endpoint: &Value, address: &str) -> bool {
    let target = &endpoint["targetRef"];
    if target.text("kind") != "Pod" {
        return false;
    }
    let pods = kinds::find("", "v1", "pods").and_then(|row| call.core.registry.cache(row));
    let pod = pods.and_then(|cache| cache.get(call.namespace(), target.text("name")));
    let Some(Ok(pod)) = pod.map(|entry| storage::parse(&entry.json)) else { return false };
    let ips = pod["status"].items("podIPs").iter().map(|one| one.text("ip"));
    ips.chain([pod["status"].text("podIP")]).any(|own| own == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_a_scheme_and_a_port() {
        let parsed = |id| Named::parse(id).map(|own| (own.scheme, own.name, own.port));
        assert_eq!(parsed("web"), Some((Scheme::Http, "web", "")));
        assert_eq!(parsed("web:http"), Some((Scheme::Http, "web", "http")));
        assert_eq!(parsed("https:web:443"), Some((Scheme::Https, "web", "443")));
        assert_eq!(parsed(":web:"), Some((Scheme::Http, "web", "")));
        assert_eq!(parsed("ftp:web:21"), None);
        assert_eq!(parsed("a:b:c:d"), None);
        assert_eq!(parsed(":80"), None);
    }

    #[test]
    fn the_server_is_not_led_to_itself() {
        assert!(may_be_reached("10.42.0.5"));
        for address in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "::1", "", "host"] {
            assert!(!may_be_reached(address), "{address}");
        }
    }
}
