//! Nodes: condition, roles, versions.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, name, text};
use crate::access::Access as _;

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

pub(crate) const COLUMNS: &[Column] = &[
    NAME,
    text("Status", "The status of the node"),
    text("Roles", "The roles of the node"),
    AGE,
    text("Version", "Kubelet Version reported by the node."),
    text("Internal-IP", "List of addresses reachable to the node.").wide(),
    text("External-IP", "List of addresses reachable to the node.").wide(),
    text("OS-Image", "OS Image reported by the node.").wide(),
    text("Kernel-Version", "Kernel Version reported by the node.").wide(),
    text("Container-Runtime", "ContainerRuntime Version reported by the node.").wide(),
];

pub(crate) fn row(node: &Value, now: Timestamp) -> Vec<Value> {
    let status = &node["status"];
    let machine = &status["nodeInfo"];
    let or_unknown = |text: &str| json!(if text.is_empty() { "<unknown>" } else { text });
    vec![
        name(node),
        json!(state(node)),
        json!(roles(&node["metadata"]["labels"])),
        age(node, now),
        json!(machine.text("kubeletVersion")),
        json!(address(status, "InternalIP")),
        json!(address(status, "ExternalIP")),
        or_unknown(machine.text("osImage")),
        or_unknown(machine.text("kernelVersion")),
        or_unknown(machine.text("containerRuntimeVersion")),
    ]
}

fn state(node: &Value) -> String {
    let ready = node["status"].items("conditions").iter().rfind(|one| one.text("type") == "Ready");
    let mut words = vec![match ready {
        Some(condition) if condition.text("status") == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if node["spec"].flag("unschedulable") {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(labels: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or("");
        match key.strip_prefix(ROLE_PREFIX) {
            Some(role) if !role.is_empty() => roles.insert(role),
            None if key == ROLE_LABEL && !value.is_empty() => roles.insert(value),
            _ => false,
        };
    }
    if roles.is_empty() {
        return "<none>".to_owned();
    }
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn address<'a>(status: &'a Value, kind: &str) -> &'a str {
    status
        .items("addresses")
        .iter()
        .find(|address| address.text("type") == kind)
        .map_or("<none>", |address| address.text("address"))
}
