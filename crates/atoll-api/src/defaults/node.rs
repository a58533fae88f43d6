//! Nodes: allocatable is all there is when nothing is said.

use serde_json::{Value, json};

use super::{absent, empty, normalise};
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
    let status = &mut node["status"];
    if status.has("capacity") && !status.has("allocatable") {
        status["allocatable"] = status["capacity"].clone();
    }
    absent(status, "daemonEndpoints", json!({"kubeletEndpoint": {"Port": 0}}));
    empty(status, "nodeInfo");
    for field in MACHINE {
        absent(&mut status["nodeInfo"], field, "");
    }
}
