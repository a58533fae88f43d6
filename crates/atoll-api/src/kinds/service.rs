//! Service: a stable address before changing endpoints.
//!
//! Addresses and node ports are allocated by the server in the transaction that stores the
//! object; what must be allocated, and what is given back, is decided here.

use serde_json::{Map, Value, json};

use super::{Hooks, metadata, prepare};
use crate::access::Access as _;
use crate::{columns, defaults};

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(defaults::service::service),
    prepare_create: Some(create),
    prepare_update: Some(update),
    prepare_status_update: Some(prepare::keep_spec),
    selectable_fields,
    selectable_names: &["spec.clusterIP", "spec.type"],
    columns: columns::service::COLUMNS,
    row: columns::service::row,
    ..Hooks::NONE
};

/// Whether the Service wants a cluster address that it does not have yet.
#[must_use]
pub fn needs_cluster_ip(service: &Value) -> bool {
    let spec = &service["spec"];
    matches!(spec.text("type"), "ClusterIP" | "NodePort" | "LoadBalancer")
        && spec.text("clusterIP").is_empty()
        && spec.items("clusterIPs").is_empty()
}

/// A Service without an address of its own.
#[must_use]
pub fn is_headless(service: &Value) -> bool {
    service["spec"].text("clusterIP") == "None"
}

/// Writes an allocated address.
pub fn set_cluster_ip(service: &mut Value, address: &str) {
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    let spec = metadata::child(service, "spec");
    spec.insert("clusterIP".to_owned(), json!(address));
    spec.insert("clusterIPs".to_owned(), json!([address]));
    spec.insert("ipFamilies".to_owned(), json!([family]));
    spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
}

/// The cluster addresses that a Service holds.
#[must_use]
pub fn cluster_ips(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    if spec.text("type") == "ExternalName" || is_headless(service) {
        return Vec::new();
    }
    let listed: Vec<String> =
        spec.items("clusterIPs").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    match spec.text("clusterIP") {
        "" => listed,
        _ if !listed.is_empty() => listed,
        single => vec![single.to_owned()],
    }
}

/// A node port: which of `spec.ports` it belongs to and what it is; zero when it must be
/// allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePort {
    pub index: usize,
    pub protocol: String,
    pub port: i64,
}

/// The node ports of a Service, held or wanted. A port number that is wanted for TCP and for
/// UDP is allocated once for both.
#[must_use]
pub fn node_ports(service: &Value) -> Vec<NodePort> {
    let spec = &service["spec"];
    let wants = match spec.text("type") {
        "NodePort" => true,
        "LoadBalancer" => spec.opt_flag("allocateLoadBalancerNodePorts").unwrap_or(true),
        _ => false,
    };
    let port = |(index, port): (usize, &Value)| NodePort {
        index,
        protocol: port.text("protocol").to_owned(),
        port: port.int("nodePort").unwrap_or(0),
    };
    spec.items("ports")
        .iter()
        .enumerate()
        .map(port)
        .filter(|node_port| wants || node_port.port != 0)
        .collect()
}

/// Whether the Service wants a node port for health checks that it does not have yet.
#[must_use]
pub fn needs_health_check_node_port(service: &Value) -> bool {
    let spec = &service["spec"];
    spec.text("type") == "LoadBalancer"
        && spec.text("externalTrafficPolicy") == "Local"
        && spec.int("healthCheckNodePort").unwrap_or(0) == 0
}

/// Fills in the families of addresses, which depend on the cluster's: one family here.
pub fn default_families(service: &mut Value, cluster_family: &str) {
    let spec = &service["spec"];
    if spec.text("type") == "ExternalName" {
        return;
    }
    let without_selector =
        is_headless(service) && spec.fields("selector").is_none_or(Map::is_empty);
    let (has_families, has_policy) =
        (!spec.items("ipFamilies").is_empty(), spec.has("ipFamilyPolicy"));
    let other = if cluster_family == "IPv4" { "IPv6" } else { "IPv4" };
    let spec = metadata::child(service, "spec");
    if without_selector && !has_policy && !has_families {
        spec.insert("ipFamilyPolicy".to_owned(), json!("RequireDualStack"));
        spec.insert("ipFamilies".to_owned(), json!([cluster_family, other]));
        return;
    }
    if !has_policy {
        spec.insert("ipFamilyPolicy".to_owned(), json!("SingleStack"));
    }
    if !has_families {
        spec.insert("ipFamilies".to_owned(), json!([cluster_family]));
    }
}

fn create(service: &mut Value) {
    prepare::put(service, "status", Some(json!({"loadBalancer": {}})));
    sync_cluster_ips(service);
    drop_fields_of_other_types(service);
}

fn update(new: &mut Value, old: &Value) {
    prepare::keep_status(new, old);
    carry_allocations(new, old);
    sync_cluster_ips(new);
    drop_fields_of_other_types(new);
    if old["spec"].text("type") == "LoadBalancer" && new["spec"].text("type") != "LoadBalancer" {
        prepare::put(new, "status", Some(json!({"loadBalancer": {}})));
    }
}

/// A client that replaces a Service need not repeat what was allocated to it.
fn carry_allocations(new: &mut Value, old: &Value) {
    let (is, was) = (&new["spec"], &old["spec"]);
    let has_address = |spec: &Value| spec.text("type") != "ExternalName";
    let mut carried: Vec<(&str, Value)> = Vec::new();
    if has_address(is) && has_address(was) && !is.has("clusterIP") && !is.has("clusterIPs") {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if was.has(field) && !is.has(field) {
                carried.push((field, was[field].clone()));
            }
        }
    }
    if is.text("type") == was.text("type") && is.int("healthCheckNodePort").unwrap_or(0) == 0 {
        carried.push(("healthCheckNodePort", was["healthCheckNodePort"].clone()));
    }
    let same_type = matches!(is.text("type"), "NodePort" | "LoadBalancer")
        && matches!(was.text("type"), "NodePort" | "LoadBalancer");
    let spec = metadata::child(new, "spec");
    for (field, value) in carried {
        if !value.is_null() {
            spec.insert(field.to_owned(), value);
        }
    }
    if same_type && let Some(Value::Array(ports)) = spec.get_mut("ports") {
        carry_node_ports(ports, old["spec"].items("ports"));
    }
}

fn carry_node_ports(ports: &mut [Value], before: &[Value]) {
    let used: Vec<i64> = ports.iter().filter_map(|port| port.int("nodePort")).collect();
    for port in ports.iter_mut().filter(|port| port.int("nodePort").unwrap_or(0) == 0) {
        let key = |one: &Value| (one.int("port"), one.text("protocol").to_owned());
        let node_port = before
            .iter()
            .find(|one| key(one) == key(port))
            .and_then(|one| one.int("nodePort"))
            .filter(|node_port| !used.contains(node_port));
        if let Some(node_port) = node_port {
            port["nodePort"] = json!(node_port);
        }
    }
}

/// `clusterIP` is the first of `clusterIPs`, whichever of them the client wrote.
fn sync_cluster_ips(service: &mut Value) {
    if service["spec"].text("type") == "ExternalName" {
        return;
    }
    let spec = metadata::child(service, "spec");
    let single = spec.get("clusterIP").and_then(Value::as_str).unwrap_or("").to_owned();
    let first = spec
        .get("clusterIPs")
        .and_then(|list| list.get(0))
        .and_then(Value::as_str)
        .unwrap_or("")
        .to_owned();
    if !single.is_empty() && first.is_empty() {
        spec.insert("clusterIPs".to_owned(), json!([single]));
    } else if single.is_empty() && !first.is_empty() {
        spec.insert("clusterIP".to_owned(), json!(first));
    }
}

fn drop_fields_of_other_types(service: &mut Value) {
    let kind = service["spec"].text("type").to_owned();
    let policy = service["spec"].text("externalTrafficPolicy").to_owned();
    let spec = metadata::child(service, "spec");
    if kind == "ExternalName" {
        let of_addresses = [
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
            "externalTrafficPolicy",
            "healthCheckNodePort",
        ];
        for field in of_addresses {
            spec.remove(field);
        }
    }
    if kind != "LoadBalancer" {
        spec.remove("allocateLoadBalancerNodePorts");
        spec.remove("loadBalancerClass");
    }
    if kind != "LoadBalancer" || policy != "Local" {
        spec.remove("healthCheckNodePort");
    }
    if !matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        && spec.get("externalIPs").is_none_or(|list| list.as_array().is_none_or(Vec::is_empty))
    {
        spec.remove("externalTrafficPolicy");
    }
}

fn selectable_fields(service: &Value) -> Vec<(&'static str, String)> {
    let spec = &service["spec"];
    vec![
        ("spec.clusterIP", spec.text("clusterIP").to_owned()),
        ("spec.type", spec.text("type").to_owned()),
    ]
}
