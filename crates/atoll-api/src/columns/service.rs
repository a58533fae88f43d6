//! Services: addresses and ports.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, label_text, name, text};
use crate::access::Access as _;

pub(crate) const COLUMNS: &[Column] = &[
    NAME,
    text("Type", "type determines how the Service is exposed."),
    text("Cluster-IP", "clusterIP is the IP address of the service."),
    text("External-IP", "externalIPs is a list of IP addresses for which nodes accept traffic."),
    text("Port(s)", "The list of ports that are exposed by this service."),
    AGE,
    text("Selector", "Route service traffic to pods with matching labels.").wide(),
];

pub(crate) fn row(service: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &service["spec"];
    let internal = spec.items("clusterIPs").first().and_then(Value::as_str).unwrap_or("<none>");
    vec![
        name(service),
        json!(spec.text("type")),
        json!(internal),
        json!(external(service)),
        json!(ports(spec.items("ports"))),
        age(service, now),
        json!(label_text(&spec["selector"])),
    ]
}

fn external(service: &Value) -> String {
    let spec = &service["spec"];
    let listed: Vec<&str> = spec.items("externalIPs").iter().filter_map(Value::as_str).collect();
    match spec.text("type") {
        "ClusterIP" | "NodePort" if listed.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => listed.join(","),
        "LoadBalancer" => {
            let balanced: BTreeSet<&str> = service["status"]["loadBalancer"]
                .items("ingress")
                .iter()
                .map(|one| if one.has("ip") { one.text("ip") } else { one.text("hostname") })
                .filter(|address| !address.is_empty())
                .collect();
            let all: Vec<&str> = balanced.into_iter().chain(listed).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => spec.text("externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports(ports: &[Value]) -> String {
    if ports.is_empty() {
        return "<none>".to_owned();
    }
    let text = |port: &Value| {
        let number = port.int("port").unwrap_or(0);
        let protocol = port.text("protocol");
        match port.int("nodePort") {
            Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
            _ => format!("{number}/{protocol}"),
        }
    };
    ports.iter().map(text).collect::<Vec<_>>().join(",")
}
