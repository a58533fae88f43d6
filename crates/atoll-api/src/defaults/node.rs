//! Nodes: allocatable is all there is when nothing is said.

use serde_json::{Value, json};

use super::{absent, amounts, empty, normalise, within};
use crate::access::Access as _;

const MACHINE: [&str; 10] = [
    "machineID",
    "systemUUID",
    "bootID",
    "kernelVersion",
    "osImage",
    "containerRuntimeVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "operatingSystem",
    "architecture",
];

pub(crate) fn node(node: &mut Value) {
    normalise(node);
    empty(node, "spec");
    empty(node, "status");
    within(node, "status", status);
}

fn status(status: &mut Value) {
    amounts(status, "capacity");
    amounts(status, "allocatable");
    if status.has("capacity") {
        let capacity = status["capacity"].clone();
        absent(status, "allocatable", capacity);
    }
    absent(status, "daemonEndpoints", json!({"kubeletEndpoint": {"Port": 0}}));
    empty(status, "nodeInfo");
    within(status, "nodeInfo", |machine| {
        for field in MACHINE {
            absent(machine, field, "");
        }
    });
}
