//! Translates Kubernetes' Services, EndpointSlices and Nodes for the network engine and
//! for DNS. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use atoll_dns::{Endpoint as DnsEndpoint, Port as DnsPort, Service as DnsService, Snapshot};
use atoll_network::{Endpoint, Ipv4Net, Peer, Protocol, ServicePort, TrafficPolicy};
use k8s_openapi::api::core::v1::{Namespace, Node, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Services, and slices of endpoints, that somebody else than the node serves, or nobody; by
/// presence of the label, whatever its value.
const NOT_PROXIED: [&str; 2] =
    ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

/// Address and podCIDR of a node; all that its peers need.
#[must_use]
pub fn node_facts(node: &Node) -> Option<(Ipv4Addr, Ipv4Net)> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let mut internal = addresses.iter().filter(|a| a.type_ == "InternalIP");
    let address = internal.find_map(|a| a.address.parse().ok())?;
    let cidr = node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()?;
    Some((address, cidr))
}

#[must_use]
pub fn peers(nodes: &[Arc<Node>], own_name: &str) -> Vec<Peer> {
    let mut peers: Vec<Peer> = nodes
        .iter()
        .filter_map(|node| {
            let name = node.metadata.name.clone().filter(|name| name != own_name)?;
            let (node_address, pod_cidr) = node_facts(node)?;
            Some(Peer { name, node_address, pod_cidr })
        })
        .collect();
    peers.sort();
    peers
}

/// Pod ranges of the nodes that are not heard of any more.
#[must_use]
pub fn dead_ranges(nodes: &[Arc<Node>]) -> Vec<Ipv4Net> {
    let lost = |node: &&Arc<Node>| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "Unknown")
    };
    nodes.iter().filter(lost).filter_map(|node| node_facts(node)).map(|(_, cidr)| cidr).collect()
}

fn key(namespace: Option<&String>, name: &str) -> (String, String) {
    (namespace.cloned().unwrap_or_default(), name.to_owned())
}

type Slices<'a> = BTreeMap<(String, String), Vec<&'a EndpointSlice>>;

fn by_service(slices: &[Arc<EndpointSlice>]) -> Slices<'_> {
    let mut map = Slices::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) {
            map.entry(key(slice.metadata.namespace.as_ref(), service)).or_default().push(slice);
        }
    }
    map
}

fn is_proxied(labels: Option<&BTreeMap<String, String>>) -> bool {
    labels.is_none_or(|labels| !NOT_PROXIED.iter().any(|label| labels.contains_key(*label)))
}

/// Every port of every Service that is the node's to serve, as it is to serve it.
#[must_use]
pub fn service_ports(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    node_name: &str,
) -> Vec<ServicePort> {
    let slices = by_service(slices);
    let mut ports = Vec::new();
    for service in services.iter().filter(|one| is_proxied(one.metadata.labels.as_ref())) {
        let Some(spec) = &service.spec else { continue };
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let own = key(service.metadata.namespace.as_ref(), name);
        let mut of_service = slices.get(&own).cloned().unwrap_or_default();
        of_service.retain(|slice| is_proxied(slice.metadata.labels.as_ref()));
        if spec.type_.as_deref() == Some("ExternalName") || cluster_ips(spec).is_empty() {
            continue;
        }
        for port in spec.ports.iter().flatten() {
            let protocol = protocol(port.protocol.as_deref());
            let port_name = port.name.clone().unwrap_or_default();
            let Ok(number) = u16::try_from(port.port) else { continue };
            ports.push(ServicePort {
                key: format!("{}/{}:{port_name}/{}", own.0, own.1, protocol.number()),
                protocol,
                port: number,
                cluster_addresses: cluster_ips(spec),
                external_addresses: external_ips(service, spec),
                node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0),
                endpoints: endpoints(&of_service, &port_name, protocol, node_name),
                affinity: affinity(spec),
                internal_policy: policy(spec.internal_traffic_policy.as_deref()),
                external_policy: policy(spec.external_traffic_policy.as_deref()),
            });
        }
    }
    ports.sort_by(|a, b| a.key.cmp(&b.key));
    ports
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<Ipv4Addr> {
    let mut all: Vec<&str> = spec.cluster_ips.iter().flatten().map(String::as_str).collect();
    if all.is_empty() {
        all.extend(spec.cluster_ip.as_deref());
    }
    all.into_iter().filter_map(|ip| ip.parse().ok()).collect()
}

fn external_ips(service: &Service, spec: &ServiceSpec) -> Vec<Ipv4Addr> {
    let balancer = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
    let ingress = balancer.flat_map(|b| b.ingress.iter().flatten()).filter_map(|i| i.ip.as_ref());
    let listed = spec.external_ips.iter().flatten().chain(ingress);
    let mut all: Vec<Ipv4Addr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn protocol(name: Option<&str>) -> Protocol {
    match name {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

fn policy(name: Option<&str>) -> TrafficPolicy {
    if name == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// Ready ones; where there are none, those that still serve while they terminate.
fn endpoints(
    slices: &[&EndpointSlice],
    port_name: &str,
    protocol: Protocol,
    node_name: &str,
) -> Vec<Endpoint> {
    let collect = |wanted: fn(&SliceEndpoint) -> bool| {
        let mut found = Vec::new();
        for slice in slices {
            let port = slice.ports.iter().flatten().find(|port| {
                port.name.as_deref().unwrap_or_default() == port_name
                    && self::protocol(port.protocol.as_deref()) == protocol
            });
            let Some(number) = port.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else {
                continue;
            };
            for endpoint in slice.endpoints.iter().flatten().filter(|e| wanted(e)) {
                let local = endpoint.node_name.as_deref() == Some(node_name);
                let addresses = endpoint.addresses.iter().filter_map(|a| a.parse().ok());
                found.extend(addresses.map(|ip: Ipv4Addr| Endpoint {
                    address: SocketAddrV4::new(ip, number),
                    local,
                }));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    };
    let ready = collect(is_ready);
    if ready.is_empty() { collect(is_serving_while_terminating) } else { ready }
}

fn is_ready(endpoint: &SliceEndpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
}

fn is_serving_while_terminating(endpoint: &SliceEndpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    terminating && conditions.and_then(|c| c.serving).unwrap_or(false)
}

/// Everything that cluster DNS answers.
#[must_use]
pub fn snapshot(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    namespaces: &[Arc<Namespace>],
) -> Snapshot {
    let slices = by_service(slices);
    let mut all: Vec<DnsService> = services
        .iter()
        .filter_map(|service| {
            let name = service.metadata.name.as_deref()?;
            let own = key(service.metadata.namespace.as_ref(), name);
            let of_service = slices.get(&own).map(Vec::as_slice).unwrap_or_default();
            dns_service(service.spec.as_ref()?, own, of_service)
        })
        .collect();
    all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut names: Vec<String> =
        namespaces.iter().filter_map(|namespace| namespace.metadata.name.clone()).collect();
    names.sort();
    Snapshot { namespaces: names, services: all, ..Snapshot::default() }
}

fn dns_service(
    spec: &ServiceSpec,
    (namespace, name): (String, String),
    slices: &[&EndpointSlice],
) -> Option<DnsService> {
    let external = spec.type_.as_deref() == Some("ExternalName");
    let addresses: Vec<IpAddr> = cluster_ips(spec).into_iter().map(IpAddr::V4).collect();
    let headless = addresses.is_empty() && !external;
    if headless && spec.cluster_ip.as_deref() != Some("None") {
        // No address yet: it is neither headless nor reachable.
        return None;
    }
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| dns_port(port.name.as_deref(), port.protocol.as_deref(), port.port));
    Some(DnsService {
        namespace,
        name,
        cluster_addresses: addresses,
        external_name: if external { spec.external_name.clone() } else { None },
        ports: ports.collect(),
        endpoints: if headless { dns_endpoints(slices) } else { Vec::new() },
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
    })
}

fn dns_port(name: Option<&str>, protocol_name: Option<&str>, port: i32) -> Option<DnsPort> {
    Some(DnsPort {
        name: name.unwrap_or_default().to_owned(),
        protocol: match protocol(protocol_name) {
            Protocol::Tcp => atoll_dns::Protocol::Tcp,
            Protocol::Udp => atoll_dns::Protocol::Udp,
            Protocol::Sctp => atoll_dns::Protocol::Sctp,
        },
        port: u16::try_from(port).ok()?,
    })
}

fn dns_endpoints(slices: &[&EndpointSlice]) -> Vec<DnsEndpoint> {
    let mut found = Vec::new();
    for slice in slices {
        let ports: Vec<DnsPort> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|p| dns_port(p.name.as_deref(), p.protocol.as_deref(), p.port?))
            .collect();
        for endpoint in slice.endpoints.iter().flatten() {
            for address in endpoint.addresses.iter().filter_map(|a| a.parse().ok()) {
                found.push(DnsEndpoint {
                    address,
                    hostname: endpoint.hostname.clone(),
                    ready: is_ready(endpoint),
                    ports: ports.clone(),
                });
            }
        }
    }
    found.sort_by_key(|endpoint| endpoint.address);
    found
}

#[cfg(test)]
#[path = "translate/tests.rs"]
mod tests;
