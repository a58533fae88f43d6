//! Which addresses and ports a Service's pods offer, from pods alone.

use crate::pods;
use atoll_informer::Change;
use k8s_openapi::{
    api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;
use std::{collections::BTreeMap, sync::Arc};

/// One pod behind a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Backend {
    pub(super) address: String,
    pub(super) pod: String,
    pub(super) pod_uid: String,
    pub(super) namespace: String,
    pub(super) node: Option<String>,
    pub(super) zone: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
}

/// A port of the Service as these pods offer it. A named target may be another number in
/// another pod, so pods are grouped by the numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) protocol: String,
    pub(super) number: i32,
    pub(super) app_protocol: Option<String>,
}

/// Backends by the ports that they share, in a fixed order.
pub(super) type Backends = BTreeMap<Vec<Port>, Vec<Backend>>;

pub(super) fn backends(
    service: &Service,
    pods: impl Iterator<Item = Arc<Pod>>,
    zones: &BTreeMap<String, Option<String>>,
) -> Backends {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let publish_not_ready = spec.and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let mut groups = Backends::new();
    for pod in pods {
        let Some(backend) = backend(service, &pod, publish_not_ready, zones) else { continue };
        let numbered: Vec<Port> = ports.iter().filter_map(|port| resolve(port, &pod)).collect();
        // A pod that has none of the ports is behind nothing, unless the Service has none.
        if numbered.is_empty() && !ports.is_empty() {
            continue;
        }
        groups.entry(numbered).or_default().push(backend);
    }
    for group in groups.values_mut() {
        group.sort();
    }
    groups
}

fn backend(
    service: &Service,
    pod: &Pod,
    publish_not_ready: bool,
    zones: &BTreeMap<String, Option<String>>,
) -> Option<Backend> {
    let address = pod.status.as_ref()?.pod_ip.clone().filter(|address| !address.is_empty())?;
    if pods::is_finished(pod) {
        return None;
    }
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = pods::is_ready(pod);
    let spec = pod.spec.as_ref();
    let hostname = spec
        .filter(|spec| spec.subdomain.as_deref() == Some(service.name_any().as_str()))
        .and_then(|spec| spec.hostname.clone());
    let node = pods::node_name(pod).map(ToOwned::to_owned);
    Some(Backend {
        address,
        pod: pod.name_any(),
        pod_uid: pod.uid().unwrap_or_default(),
        namespace: pod.namespace().unwrap_or_default(),
        zone: node.as_ref().and_then(|node| zones.get(node).cloned().flatten()),
        node,
        hostname,
        ready: publish_not_ready || (serving && !terminating),
        serving,
        terminating,
    })
}

fn resolve(port: &ServicePort, pod: &Pod) -> Option<Port> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => named_port(pod, name, &protocol)?,
    };
    Some(Port {
        name: port.name.clone().unwrap_or_default(),
        protocol,
        number,
        app_protocol: port.app_protocol.clone(),
    })
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .find(|port| {
            port.name.as_deref() == Some(name)
                && port.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|port| port.container_port)
}

/// Whether a pod's change can change endpoints. Most status updates do not.
pub(super) fn matters(change: &Change<'_, Pod>) -> bool {
    let (Some(old), Some(new)) = (change.old, change.new) else { return true };
    facts(old) != facts(new)
}

fn facts(pod: &Pod) -> impl PartialEq + '_ {
    let status = pod.status.as_ref();
    (
        status.and_then(|status| status.pod_ip.as_deref()),
        (pods::is_ready(pod), pods::is_finished(pod), pods::node_name(pod)),
        pod.metadata.deletion_timestamp.is_some(),
        pod.labels(),
    )
}

pub(super) fn zone(node: &Node) -> Option<String> {
    node.labels().get("topology.kubernetes.io/zone").cloned()
}

pub(super) fn target_ref(backend: &Backend) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        name: Some(backend.pod.clone()),
        namespace: Some(backend.namespace.clone()),
        uid: Some(backend.pod_uid.clone()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(target: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "default" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": target }] },
        }))
        .unwrap()
    }

    fn pod(name: &str, address: &str, more: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": { "name": name, "namespace": "default", "uid": name },
            "spec": { "nodeName": "node-1", "containers": [
                { "name": "c", "ports": [{ "name": "http", "containerPort": 8080 }] },
            ] },
            "status": { "phase": "Running", "podIP": address,
                "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        json_patch_merge(&mut pod, &more);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn json_patch_merge(target: &mut Value, patch: &Value) {
        match (target, patch) {
            (Value::Object(target), Value::Object(patch)) => {
                for (key, value) in patch {
                    json_patch_merge(target.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (target, patch) => *target = patch.clone(),
        }
    }

    fn derive(service: &Service, pods: Vec<Arc<Pod>>) -> Backends {
        backends(service, pods.into_iter(), &BTreeMap::new())
    }

    #[test]
    fn a_named_target_is_looked_up_in_each_pod() {
        let other = json!({ "spec": { "containers": [
            { "name": "c", "ports": [{ "name": "http", "containerPort": 9090 }] },
        ] } });
        let pods = vec![pod("a", "10.0.0.1", json!({})), pod("b", "10.0.0.2", other)];
        let groups = derive(&service(json!("http")), pods);
        let numbers: Vec<i32> = groups.keys().map(|ports| ports[0].number).collect();
        assert_eq!(numbers, [8080, 9090]);
    }

    #[test]
    fn a_terminating_pod_serves_but_is_not_ready() {
        let leaving = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
        let groups = derive(&service(json!(8080)), vec![pod("a", "10.0.0.1", leaving)]);
        let backend = &groups.values().next().unwrap()[0];
        assert!(backend.serving && backend.terminating && !backend.ready);
    }

    #[test]
    fn finished_pods_and_pods_without_address_are_left_out() {
        let finished = json!({ "status": { "phase": "Succeeded" } });
        let pods = vec![pod("a", "10.0.0.1", finished), pod("b", "", json!({}))];
        assert!(derive(&service(json!(8080)), pods).is_empty());
    }

    #[test]
    fn a_status_update_that_changes_no_endpoint_does_not_matter() {
        let (before, after) = (
            pod("a", "10.0.0.1", json!({})),
            pod("a", "10.0.0.1", json!({ "status": { "message": "hello" } })),
        );
        assert!(!matters(&Change { old: Some(&before), new: Some(&after) }));
        let down = pod("a", "10.0.0.1", json!({ "status": { "conditions": [] } }));
        assert!(matters(&Change { old: Some(&before), new: Some(&down) }));
    }
}
