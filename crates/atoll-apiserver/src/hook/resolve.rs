//! The addresses behind a name or a Service.
//!
//! A Service is followed to its ready pods by this server itself: its address means nothing
//! where no node's rules translate it.

use std::sync::Arc;

use atoll_api::access::Access as _;
use atoll_api::field::quote;
use rand::seq::SliceRandom as _;
use serde_json::Value;

use super::error::SendError;
use super::target::{Place, Target};
use crate::cache::Entry;
use crate::registry::Registry;
use crate::storage;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// `address:port` of everyone who may answer, in the order to try; never empty.
pub(super) async fn addresses(
    registry: &Registry,
    target: &Target,
) -> Result<Vec<String>, SendError> {
    let (host, port) = match &target.place {
        Place::Host { host, port } => (host.clone(), *port),
        Place::Service { namespace, name, port } => {
            match backends(registry, namespace, name, *port)? {
                Backends::Pods(mut addresses) => {
                    addresses.shuffle(&mut rand::rng());
                    return Ok(addresses);
                }
                Backends::Elsewhere(host) => (host, *port),
            }
        }
    };
    if host.parse::<std::net::IpAddr>().is_ok() {
        return Ok(vec![with_port(&host, port)]);
    }
    let unknown =
        |why: String| SendError::Resolve { text: format!("dial tcp: lookup {host}: {why}") };
    let found = tokio::net::lookup_host((host.as_str(), port)).await;
    let found = found.map_err(|_error| unknown("no such host".to_owned()))?;
    let addresses: Vec<String> = found.map(|address| address.to_string()).collect();
    if addresses.is_empty() { Err(unknown("no such host".to_owned())) } else { Ok(addresses) }
}

/// What stands behind a Service.
#[derive(Debug, PartialEq, Eq)]
enum Backends {
    Pods(Vec<String>),
    /// The name that an ExternalName Service gives.
    Elsewhere(String),
}

fn backends(
    registry: &Registry,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<Backends, SendError> {
    let failed = |text: String| SendError::Resolve { text };
    let services = registry.objects("", "services");
    let entry = services.and_then(|cache| cache.get(namespace, name));
    let entry = entry.ok_or_else(|| failed(format!("service {} not found", quote(name))))?;
    let service = parse(&entry).map_err(failed)?;
    let spec = &service["spec"];
    if spec.text("type") == "ExternalName" {
        return Ok(Backends::Elsewhere(spec.text("externalName").to_owned()));
    }
    let found = spec.items("ports").iter().find(|one| one.int("port") == Some(i64::from(port)));
    let found = found.ok_or_else(|| {
        failed(format!("no service port {port} found for service {}", quote(name)))
    })?;
    let slices = registry.objects("discovery.k8s.io", "endpointslices");
    let slices = slices.map(|cache| cache.list(namespace)).unwrap_or_default();
    let mut addresses = Vec::new();
    for slice in slices.iter().filter(|slice| slice.label(SERVICE_LABEL) == Some(name)) {
        ready(&parse(slice).map_err(failed)?, found.text("name"), &mut addresses);
    }
    if addresses.is_empty() {
        return Err(failed(format!("no endpoints available for service {}", quote(name))));
    }
    Ok(Backends::Pods(addresses))
}

/// The ready endpoints of a slice at its port of a name.
fn ready(slice: &Value, port_name: &str, addresses: &mut Vec<String>) {
    if slice.text("addressType") == "FQDN" {
        return;
    }
    let port = slice.items("ports").iter().find(|port| port.text("name") == port_name);
    let port = port.and_then(|port| port.int("port")).and_then(|port| u16::try_from(port).ok());
    let Some(port) = port else { return };
    for endpoint in slice.items("endpoints") {
        // Absent means ready: whoever wrote the slice does not know better.
        if endpoint["conditions"].opt_flag("ready") == Some(false) {
            continue;
        }
        let first = endpoint.items("addresses").first().and_then(Value::as_str);
        addresses.extend(first.map(|address| with_port(address, port)));
    }
}

fn parse(entry: &Arc<Entry>) -> Result<Value, String> {
    storage::parse(&entry.json).map_err(|status| status.to_string())
}

fn with_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_endpoints_of_the_port_are_called() {
        let slice = json!({
            "addressType": "IPv4",
            "ports": [{"name": "other", "port": 1}, {"name": "https", "port": 8443}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "conditions": {}},
            ],
        });
        let mut found = Vec::new();
        ready(&slice, "https", &mut found);
        assert_eq!(found, ["10.0.0.1:8443", "10.0.0.3:8443"]);
    }
}
