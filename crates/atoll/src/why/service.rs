//! Why a Service answers nobody.

use super::{Cause, Seen, pod};
use k8s_openapi::{
    api::{
        core::v1::{Pod, Service, ServicePort, ServiceSpec},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt as _;
use std::collections::BTreeSet;

pub fn cause(service: &Service, slices: &[EndpointSlice], pods: &[Seen]) -> Option<Cause> {
    let name = service.name_any();
    let endpoints = || slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|one| one.ready) != Some(false)
    });
    if ready.count() > 0 {
        return undeclared(service, pods);
    }
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        return None;
    }
    let selector = spec.and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let selector: Vec<String> =
        selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let selector = selector.join(",");
    if selector.is_empty() {
        return Some(
            Cause::new(
                "without endpoints",
                format!("service {name} has no selector, and nobody has given it endpoints."),
            )
            .remedy("Add spec.selector, or create an EndpointSlice for it."),
        );
    }
    if pods.is_empty() {
        return Some(
            Cause::new(
                "without endpoints",
                format!("service {name} selects pods with {selector}, and there are none."),
            )
            .remedy(
                "Compare spec.selector with the labels of the pods (`atoll get pods -o yaml`).",
            ),
        );
    }
    let troubled = pods.iter().find_map(|(pod, events)| pod::cause(pod, events));
    Some(match troubled {
        Some(cause) => Cause {
            state: "without endpoints".into(),
            sentence: format!(
                "none of the {} pods of service {name} is ready: {}",
                pods.len(),
                cause.sentence
            ),
            remedy: cause.remedy,
        },
        None if pods.iter().all(|(pod, _)| has_no_address(pod)) => without_root(&name),
        None => without_ports(&name, spec),
    })
}

fn without_ports(name: &str, spec: Option<&ServiceSpec>) -> Cause {
    let ports: Vec<String> = spec
        .and_then(|spec| spec.ports.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|port| match &port.target_port {
            Some(IntOrString::String(name)) => Some(name.clone()),
            _ => None,
        })
        .collect();
    Cause::new(
        "without endpoints",
        format!(
            "the pods of service {name} are ready, but none has its target ports ({}).",
            ports.join(", ")
        ),
    )
    .remedy("Name the ports in the pods' containers as the Service's targetPort does.")
}

/// On a node without root a pod shares the loopback of the machine.
fn has_no_address(pod: &Pod) -> bool {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    ip.and_then(|ip| ip.parse::<std::net::IpAddr>().ok()).is_some_and(|ip| ip.is_loopback())
}

fn without_root(name: &str) -> Cause {
    Cause::new(
        "without endpoints",
        format!(
            "the pods of service {name} run on a node without root, where pods and Services \
             have no addresses."
        ),
    )
    .remedy(
        "Reach them with `kubectl port-forward`, or start the cluster with sudo to have \
         Service addresses.",
    )
}

/// A target port that no container declares is no error, since declaring is optional; where
/// containers declare others it is nearly always a slip.
fn undeclared(service: &Service, pods: &[Seen]) -> Option<Cause> {
    let name = service.name_any();
    let declared: BTreeSet<i32> = pods
        .iter()
        .filter_map(|(pod, _)| pod.spec.as_ref())
        .flat_map(|spec| &spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
        .map(|port| port.container_port)
        .collect();
    if declared.is_empty() {
        return None;
    }
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let target = |port: &ServicePort| match &port.target_port {
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(_)) => None,
        None => Some(port.port),
    };
    let wrong = ports.iter().filter_map(target).find(|target| !declared.contains(target))?;
    let declared = declared.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Some(
        Cause::new(
            "doubtful",
            format!(
                "service {name} sends requests to port {wrong} of its pods, but their containers declare only {declared}."
            ),
        )
        .remedy("Set targetPort to the port on which the program listens."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn caused(target: serde_json::Value) -> Option<Cause> {
        let service = serde_json::from_value(json!({
            "metadata": { "name": "web" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": target }] },
        }));
        let slices = serde_json::from_value(json!([{ "addressType": "IPv4", "metadata": {},
            "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": true } }] }]));
        let pod = serde_json::from_value(json!({
            "metadata": { "name": "p" },
            "spec": { "containers": [{ "name": "c", "ports": [{ "containerPort": 8080 }] }] },
        }));
        let slices: Vec<EndpointSlice> = slices.unwrap();
        cause(&service.unwrap(), &slices, &[(pod.unwrap(), Vec::new())])
    }

    #[test]
    fn a_port_that_no_container_declares_is_pointed_out() {
        let cause = caused(json!(9999)).unwrap();
        assert!(cause.sentence.contains("9999") && cause.sentence.contains("8080"));
        assert_eq!(caused(json!(8080)), None);
        assert_eq!(caused(json!("http")), None);
    }

    #[test]
    fn pods_without_root_are_told_from_pods_whose_ports_do_not_fit() {
        let service = serde_json::from_value(json!({"metadata": {"name": "s"}, "spec":
            {"selector": {"a": "b"}, "ports": [{"port": 80, "targetPort": "http"}]}}))
        .unwrap();
        let sentence = |ip: &str| {
            let pod = serde_json::from_value(json!({
                "spec": {"nodeName": "n", "containers": []},
                "status": {"podIP": ip, "phase": "Running",
                    "conditions": [{"type": "Ready", "status": "True"}]},
            }))
            .unwrap();
            cause(&service, &[], &[(pod, Vec::new())]).unwrap().sentence
        };
        assert!(sentence("127.0.0.1").contains("without root"), "{}", sentence("127.0.0.1"));
        assert!(sentence("10.42.0.5").contains("target ports"), "{}", sentence("10.42.0.5"));
    }
}
