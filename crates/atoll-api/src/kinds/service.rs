//! Service: a stable address before changing endpoints.
//!
//! Addresses and node ports are allocated by the server in the transaction that stores the
//! object; what must be allocated, and what is given back, is decided here.

use serde_json::{Map, Value, json};

use super::{Hooks, metadata, prepare};
use crate::access::Access as _;
use crate::{columns, defaults, validate};

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(defaults::service::service),
    prepare_create: Some(create),
    prepare_update: Some(update),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::service::create),
    validate_update: Some(validate::service::update),
    validate_status_update: Some(validate::service::status_update),
    warnings: Some(validate::warnings::service),
    selectable_fields,
    selectable_names: &["spec.clusterIP", "spec.type"],
    columns: columns::service::COLUMNS,
    row: columns::service::row,
    create_on_update: true,
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
}

fn update(new: &mut Value, old: &Value) {
    prepare::keep_status(new, old);
    carry_allocations(new, old);
    follow_cluster_ip(new, old);
    sync_cluster_ips(new);
    drop_fields_of_other_types(new, old);
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
        if let (Some(node_port), Value::Object(fields)) = (node_port, port) {
            fields.insert("nodePort".to_owned(), json!(node_port));
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

/// A client that changes only `clusterIP` means `clusterIPs` too.
fn follow_cluster_ip(new: &mut Value, old: &Value) {
    let (is, was) = (&new["spec"], &old["spec"]);
    let changed = is.text("clusterIP") != was.text("clusterIP");
    if !changed || is["clusterIPs"] != was["clusterIPs"] {
        return;
    }
    let mut list = is.items("clusterIPs").to_vec();
    let ip = is.text("clusterIP").to_owned();
    let spec = metadata::child(new, "spec");
    if ip.is_empty() {
        spec.remove("clusterIPs");
    } else if let Some(first) = list.first_mut() {
        *first = json!(ip);
        spec.insert("clusterIPs".to_owned(), list.into());
    }
}

/// What only makes sense for the type that the Service had goes away with it, unless the
/// client asks for it anew; then validation says what is wrong.
fn drop_fields_of_other_types(new: &mut Value, old: &Value) {
    let was = &old["spec"];
    let kind = new["spec"].text("type").to_owned();
    if kind == was.text("type") && kind != "LoadBalancer" {
        return;
    }
    let health = new["spec"].text("externalTrafficPolicy") == "Local" && kind == "LoadBalancer";
    let node_ports = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    let mut unneeded: Vec<&str> = Vec::new();
    if kind == "ExternalName" {
        unneeded.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    }
    if !node_ports {
        unneeded.push("externalTrafficPolicy");
    }
    if !health {
        unneeded.push("healthCheckNodePort");
    }
    if kind != "LoadBalancer" {
        unneeded.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    let spec = metadata::child(new, "spec");
    for field in unneeded {
        if spec.get(field) == was.get(field) {
            spec.remove(field);
        }
    }
    if !node_ports && let Some(Value::Array(ports)) = spec.get_mut("ports") {
        drop_node_ports(ports, was.items("ports"));
    }
}

fn drop_node_ports(ports: &mut [Value], before: &[Value]) {
    for port in ports {
        let kept = before.iter().any(|one| {
            one.int("nodePort") == port.int("nodePort") && one.int("port") == port.int("port")
        });
        if kept && let Value::Object(fields) = port {
            fields.remove("nodePort");
        }
    }
}

fn selectable_fields(service: &Value) -> Vec<(&'static str, String)> {
    let spec = &service["spec"];
    vec![
        ("spec.clusterIP", spec.text("clusterIP").to_owned()),
        ("spec.type", spec.text("type").to_owned()),
    ]
}
