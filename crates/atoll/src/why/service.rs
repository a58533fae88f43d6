//! Why a Service answers nobody.

use super::{Cause, Seen, pod};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::ResourceExt as _;

pub fn cause(service: &Service, slices: &[EndpointSlice], pods: &[Seen]) -> Option<Cause> {
    let name = service.name_any();
    let endpoints = || slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|one| one.ready) != Some(false)
    });
    if ready.count() > 0 {
        return None;
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
        None => {
            let ports: Vec<String> = spec
                .and_then(|spec| spec.ports.as_ref())
                .into_iter()
                .flatten()
                .filter_map(|port| match &port.target_port {
                    Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(
                        name,
                    )) => Some(name.clone()),
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
    })
}
